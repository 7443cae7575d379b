//! What the log says of one message: each record about it, and how its recipients have fared. Changes nothing.

use std::{collections::BTreeMap, io};

use jiff::Timestamp;

use super::{
    disk::Disk,
    field::{self, Accepted, Change, Fate, State},
    footer::Line,
    index::Location,
    log,
    record::{self, Kind},
    search,
    shared::Segment,
};
use crate::mail::id::MessageId;

/// A record about the message.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// Where it stands.
    pub place: Location,
    /// Length of the content behind its fields.
    pub content_bytes: u32,
    /// What it says.
    pub what: What,
}

/// What a record about a message says.
#[derive(Clone, PartialEq, Debug)]
pub enum What {
    /// It is ours.
    Accepted(Box<Accepted>),
    /// Reclaim copied it forward, or a start adopted its file; the record says how far it had come.
    Copied(Box<Accepted>),
    /// Something happened to its recipients.
    Changed(Change),
    /// A record of this kind is damaged.
    Unreadable(Kind),
}

/// How one recipient stands.
#[derive(Clone, PartialEq, Debug)]
pub struct Fared {
    /// Waiting, held or ended.
    pub state: State,
    /// The last that was said of it, if the log still holds that.
    pub last: Option<LastWord>,
}

/// What was said last of a recipient.
#[derive(Clone, PartialEq, Debug)]
pub struct LastWord {
    /// When.
    pub at: Timestamp,
    /// Who or what said it.
    pub by: String,
    /// What it meant.
    pub fate: Fate,
    /// The words; they may be empty.
    pub words: String,
}

/// Each record about message `id`, in the order in which they were written; none if the log does not know it.
///
/// Reads footers, and those segments whole that have none. `read` hears how many segments are read, of how many. An error
/// says that a segment cannot be opened. Blocks.
pub fn history(
    disk: &dyn Disk,
    segments: &BTreeMap<u64, Segment>,
    id: MessageId,
    read: &mut dyn FnMut(usize, usize),
) -> io::Result<Vec<Event>> {
    let mut events = Vec::new();
    for (done, (number, segment)) in segments.iter().enumerate() {
        read(done, segments.len());
        let mut found = Vec::new();
        search::each_line(disk, *number, segment.length, &mut |line: &Line| {
            if field::id(line.fields) == Some(id) {
                let Line { kind, offset, length, content_bytes, .. } = *line;
                found.push((Location { segment: *number, offset, length }, content_bytes, kind));
            }
        });
        if found.is_empty() {
            continue;
        }
        let file = disk.open(&log::path(*number))?;
        for (place, content_bytes, kind) in found {
            let mut bytes = vec![0; place.length as usize];
            let read = file.read_at(&mut bytes, u64::from(place.offset));
            let what = read.ok().and_then(|()| what(&bytes, place, *segment)).unwrap_or(What::Unreadable(kind));
            events.push(Event { place, content_bytes, what });
        }
    }
    Ok(events)
}

fn what(bytes: &[u8], place: Location, segment: Segment) -> Option<What> {
    let (record, _) = record::decode(bytes, u64::from(place.offset), segment.key)?;
    match record.kind {
        Kind::Accepted => {
            let accepted = Box::new(Accepted::decode(record.fields)?);
            // One that was adopted counts as accepted anew, and is held from the first.
            let is_copy = record.is_copy || accepted.standing.is_some();
            Some(if is_copy { What::Copied(accepted) } else { What::Accepted(accepted) })
        }
        kind => Change::decode(kind, record.fields).map(What::Changed),
    }
}

/// The newest record that holds the envelope.
pub fn newest(events: &[Event]) -> Option<(&Accepted, &Event)> {
    events.iter().rev().find_map(|event| match &event.what {
        What::Accepted(accepted) | What::Copied(accepted) => Some((&**accepted, event)),
        What::Changed(_) | What::Unreadable(_) => None,
    })
}

/// How each recipient stands, in the envelope's order, as the index has it; none if the log no longer holds the envelope.
pub fn fared(events: &[Event]) -> Vec<Fared> {
    let mut all: Vec<Fared> = Vec::new();
    for event in events {
        match &event.what {
            What::Accepted(accepted) | What::Copied(accepted) => {
                let waiting = || vec![State::Waiting; accepted.envelope.recipients.len()];
                let states = accepted.standing.as_ref().map_or_else(waiting, |standing| standing.states.clone());
                all.resize(states.len(), Fared { state: State::Waiting, last: None });
                all.iter_mut().zip(states).for_each(|(fared, state)| fared.state = state);
            }
            What::Changed(change) => take_in(&mut all, change),
            What::Unreadable(_) => {}
        }
    }
    all
}

/// An end is an end.
fn take_in(all: &mut [Fared], change: &Change) {
    for (place, fate, words) in &change.fates {
        let open = all.get_mut(*place as usize).filter(|fared| fared.state != State::Ended);
        let Some(fared) = open else { continue };
        fared.state = fate.state_after(fared.state);
        let (at, by, words) = (change.at, change.by.clone(), words.clone());
        fared.last = Some(LastWord { at, by, fate: *fate, words });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::field::Standing;

    const HERE: Location = Location { segment: 1, offset: 4608, length: 100 };

    fn event(what: What) -> Event {
        Event { place: HERE, content_bytes: 0, what }
    }

    fn changed(id: MessageId, fates: &[(u32, Fate, &str)]) -> Event {
        let fates = fates.iter().map(|(place, fate, words)| (*place, *fate, (*words).to_owned())).collect();
        let (at, by) = (Timestamp::UNIX_EPOCH, "mx1:25".to_owned());
        event(What::Changed(Change { kind: Kind::Attempt, id, at, by, fates, held_as: None }))
    }

    #[test]
    fn each_recipient_stands_as_the_last_record_says_and_an_end_is_an_end() {
        let id = MessageId::new();
        let events = [
            event(What::Accepted(Box::new(field::tests::accepted(id, 3)))),
            changed(id, &[(0, Fate::Deferred, "450"), (1, Fate::Delivered, "250"), (9, Fate::Held, "no such place")]),
            event(What::Unreadable(Kind::Attempt)),
            changed(id, &[(0, Fate::Held, "550"), (1, Fate::Held, "too late")]),
            changed(id, &[(0, Fate::Deferred, "450 held is held")]),
        ];
        let fared = fared(&events);
        assert_eq!(fared.iter().map(|one| one.state).collect::<Vec<_>>(), [State::Held, State::Ended, State::Waiting]);
        let words: Vec<_> = fared.iter().map(|one| one.last.as_ref().map(|last| &*last.words)).collect();
        assert_eq!(words, [Some("450 held is held"), Some("250"), None]);
    }

    #[test]
    fn a_copy_says_how_far_its_message_had_come_when_what_was_before_is_gone() {
        let id = MessageId::new();
        let states = vec![State::Ended, State::Waiting];
        let standing = Some(Standing { states, deferrals: 1, reason: String::new(), held: None });
        let copy = Box::new(Accepted { standing, ..field::tests::accepted(id, 2) });
        let place = Location { segment: 7, ..HERE };
        let events = [
            Event { place, content_bytes: 0, what: What::Copied(copy.clone()) },
            changed(id, &[(1, Fate::Delivered, "250")]),
        ];
        assert_eq!(newest(&events), Some((&*copy, &events[0])));
        assert!(fared(&events).iter().all(|one| one.state == State::Ended));
        assert_eq!(newest(&events[1..]), None);
        assert!(fared(&events[1..]).is_empty());
    }
}
