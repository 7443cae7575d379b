//! How room comes back: the oldest segment goes when nobody needs it; what little is open in it is copied forward.
//!
//! Always the oldest: what a record changes was accepted in the same or an earlier segment, and a copy stands in a later one
//! than its original. So no `Closed` goes before the `Accepted` that it ends, and no restart delivers again.

use std::{collections::VecDeque, io};

use jiff::{SignedDuration, Timestamp};

use super::{FOLDER, Log, footer_path, path};
use crate::{
    mail::id::MessageId,
    spool::{
        field::{Accepted, Change, Fate, Standing, State},
        index::Location,
        large, quarantine,
        record::{self, Kind},
        segment::{DamageKind, RECORDS_START},
        shared::Segment,
        wish::Wish,
    },
};

/// Copied at a time: what a slow disk (50 MB/s) reads and writes within a fifth of a second, while senders wait.
const COPY_BYTES_MAX: usize = 4 << 20;
/// A segment of which less is open is copied: it gives back more than three times what the copy takes.
const OPEN_PERCENT_MAX: u64 = 25;
/// A read that failed is tried again only then: a bad sector takes seconds each time, and senders wait for this thread.
const TRIED_AGAIN_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// The oldest segment while its open messages are copied forward.
pub struct Cleaning {
    segment: u64,
    rest: VecDeque<MessageId>,
    /// When something in it could not be read, or what does not check could not be copied aside.
    failed_at: Option<Timestamp>,
}

impl Log {
    /// Removes the oldest segments that nobody needs, and copies forward what keeps the next one.
    pub fn reclaim(&mut self, now: Timestamp) {
        self.remove_unneeded();
        if self.clean(now) {
            self.remove_unneeded();
        }
    }

    /// Removes segments from the oldest on, while nobody needs them (docs/spool.md, "Who removes what").
    pub fn remove_unneeded(&mut self) {
        while let Some(oldest) = self.oldest().filter(|oldest| self.open_in(*oldest) == 0) {
            // The folder is synced before the next one goes: if this one came back after a crash without the
            // records that close its messages, they would be delivered again.
            let disk = &self.shared.disk;
            let _ = disk.remove(&footer_path(oldest));
            // One that is not there was removed, and only its sync has failed.
            let unread = {
                let state = self.shared.state();
                let segment = state.segments.get(&oldest).filter(|_| state.unread.contains_key(&oldest));
                segment.map(|segment| segment.length)
            };
            let gone = match unread {
                Some(length) => quarantine::move_segment(&**disk, oldest, length),
                None => disk.remove(&path(oldest)),
            };
            let removed = match gone {
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            };
            if let Err(cause) = removed.and_then(|()| disk.sync_folder(FOLDER)) {
                tracing::error!(%cause, segment = oldest, "remove segment");
                return;
            }
            let mut state = self.shared.state();
            state.segments.remove(&oldest);
            state.index.forget_segment(oldest);
        }
    }

    /// The oldest segment, unless it is the one that is written. Without a current one nothing is removed or copied.
    fn oldest(&self) -> Option<u64> {
        let current = self.current.as_ref()?.number;
        let state = self.shared.state();
        let oldest = state.segments.keys().next().copied().filter(|oldest| *oldest != current);
        oldest.filter(|oldest| !state.uncopied.contains(oldest))
    }

    fn open_in(&self, segment: u64) -> u64 {
        self.shared.state().index.use_of(segment).messages
    }

    /// Copies a few of the oldest segment's open messages forward, if that is worth it. True if none is left in it.
    fn clean(&mut self, now: Timestamp) -> bool {
        let Some(oldest) = self.oldest().filter(|oldest| self.is_worth_copying(*oldest, now)) else {
            self.cleaning = None;
            return false;
        };
        let begun = self.cleaning.take().filter(|cleaning| cleaning.segment == oldest);
        if begun.as_ref().is_some_and(|cleaning| cleaning.waits(now)) {
            self.cleaning = begun;
            return false;
        }
        let begun = begun.filter(|cleaning| !cleaning.rest.is_empty());
        let mut cleaning = begun.unwrap_or_else(|| self.begin_cleaning(oldest));
        let wishes = self.gather(&mut cleaning, now);
        if !self.commit(&wishes, now).iter().all(Result::is_ok) {
            cleaning.rest.clear(); // it stays where it is, and is found again by the next look
        }
        self.cleaning = Some(cleaning);
        self.open_in(oldest) == 0
    }

    fn begin_cleaning(&self, segment: u64) -> Cleaning {
        let state = self.shared.state();
        let open = state.index.iter().filter(|(_, entry)| entry.location.segment == segment).map(|(id, _)| id);
        Cleaning { segment, rest: open.collect(), failed_at: None }
    }

    fn is_worth_copying(&self, oldest: u64, now: Timestamp) -> bool {
        let state = self.shared.state();
        let Some(Segment { length, .. }) = state.segments.get(&oldest).copied() else { return false };
        let age_max_ms = i64::try_from(self.limits.closed_content_age.as_millis()).unwrap_or(i64::MAX);
        let is_overdue = |since_ms: i64| now.as_millisecond().saturating_sub(since_ms) >= age_max_ms;
        let records_bytes = length.saturating_sub(RECORDS_START);
        let mostly_closed = state.index.use_of(oldest).bytes * 100 < records_bytes * OPEN_PERCENT_MAX;
        let overdue = state.index.closed_since_ms().is_some_and(is_overdue);
        // On the last room half of what is left is for outcomes; but a segment that goes may end the shortage.
        let room_bytes = match &self.current {
            Some(current) if current.is_last_room => current.bytes_max.saturating_sub(current.end) / 2,
            _ => u64::MAX,
        };
        (mostly_closed || overdue) && state.index.use_of(oldest).bytes <= room_bytes
    }

    /// Reads the next few messages and makes copies of them, which carry how far each has come. What the disk does not
    /// give is told, and stays; those behind it wait, too, so that a tick waits for one bad sector at most.
    fn gather(&self, cleaning: &mut Cleaning, now: Timestamp) -> Vec<Wish> {
        let (mut wishes, mut bytes) = (Vec::new(), 0);
        cleaning.failed_at = None;
        while bytes < COPY_BYTES_MAX {
            let Some(id) = cleaning.rest.pop_front() else { break };
            match self.copy_of(id, cleaning.segment, now) {
                Ok(wish) => {
                    bytes += wish.as_ref().map_or(0, Wish::size);
                    wishes.extend(wish);
                }
                Err(cause) => {
                    cleaning.failed_at = Some(now);
                    self.tell_stays(cleaning.segment, &cause);
                    break;
                }
            }
        }
        wishes
    }

    fn tell_stays(&self, segment: u64, cause: &io::Error) {
        let sentence = format!("segment {segment}: open mail in it cannot be copied forward, so it stays: {cause}");
        if self.shared.damages().tell(sentence, false) {
            tracing::error!(%cause, segment, "copy open mail forward");
        }
    }

    /// `None` if the message is closed by now, or stands elsewhere.
    fn copy_of(&self, id: MessageId, segment: u64, now: Timestamp) -> io::Result<Option<Wish>> {
        let Some((place, segment, standing)) = self.standing(id, segment) else { return Ok(None) };
        let mut record = vec![0; place.length as usize];
        let file = self.shared.disk.open(&path(place.segment))?;
        match file.read_at(&mut record, u64::from(place.offset)) {
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {} // does not check
            result => result?,
        }
        let wish = copy(&record, place, segment, standing);
        wish.or_else(|standing| self.give_up(id, place, &record, standing, now)).map(Some)
    }

    /// Where a message stands and how far it has come; `None` if it is closed by now, or stands elsewhere.
    fn standing(&self, id: MessageId, segment: u64) -> Option<(Location, Segment, Standing)> {
        let state = self.shared.state();
        let entry = state.index.get(id).filter(|entry| entry.location.segment == segment)?;
        let (states, held) = (entry.states().to_vec(), state.index.held_note(id));
        let standing = Standing { states, deferrals: entry.deferrals, reason: String::new(), held };
        Some((entry.location, *state.segments.get(&segment)?, standing))
    }

    /// A record that does not check cannot be copied: what is left of it goes to quarantine. A large message's file
    /// says all that it said; any other message ends. An error is the disk's, which may heal, or find room for
    /// the copy: nothing is decided then.
    fn give_up(
        &self,
        id: MessageId,
        place: Location,
        record: &[u8],
        standing: Standing,
        now: Timestamp,
    ) -> io::Result<Wish> {
        let start = u64::from(place.offset);
        let range = start..start + u64::from(place.length);
        quarantine::set_aside(&self.shared, place.segment, record, range, DamageKind::Rot).copied?;
        let open = (0u32..).zip(&standing.states).filter(|(_, state)| **state != State::Ended);
        let fates = open.map(|(at, _)| (at, Fate::Damaged, String::new())).collect();
        if let Some(mut accepted) = large::accepted_of_whole(&*self.shared.disk, id)?
            && accepted.envelope.recipients.len() == standing.states.len()
        {
            accepted.standing = Some(standing);
            let (arrival, fields) = (accepted.arrival(), accepted.encode());
            return Ok(Wish::Accept { arrival, fields, content: Vec::new(), is_copy: true });
        }
        quarantine::move_large(&*self.shared.disk, id)?; // unless it has none
        let by = "reclaim: the stored record is damaged".to_owned();
        Ok(Wish::change(Change { kind: Kind::Closed, id, at: now, by, fates, held_as: None }))
    }
}

impl Cleaning {
    /// Whether it is too early for another try, after one that failed.
    fn waits(&self, now: Timestamp) -> bool {
        self.failed_at.is_some_and(|failed_at| now.duration_since(failed_at).abs() < TRIED_AGAIN_AFTER)
    }
}

/// The copy of a record; how far the message has come is given back if it does not check.
fn copy(bytes: &[u8], place: Location, segment: Segment, standing: Standing) -> Result<Wish, Standing> {
    let record = record::decode(bytes, u64::from(place.offset), segment.key).map(|(record, _)| record);
    let Some(record) = record.filter(|record| record.kind == Kind::Accepted) else { return Err(standing) };
    let Some(mut accepted) = Accepted::decode(record.fields) else { return Err(standing) };
    // What an earlier copy said of the reason still holds.
    let reason = accepted.standing.take().map_or(String::new(), |earlier| earlier.reason);
    accepted.standing = Some(Standing { reason, ..standing });
    let (arrival, fields) = (accepted.arrival(), accepted.encode());
    Ok(Wish::Accept { arrival, fields, content: record.content.to_vec(), is_copy: true })
}
