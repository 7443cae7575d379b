//! The start: rebuilds index and account from a survey, copies damage aside, adopts what lost its record, begins a segment.

use std::{
    io,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use jiff::Timestamp;

use super::{
    disk::Disk,
    field::{HeldNote, HeldReason, Standing, State as RecipientState},
    large,
    log::{self, Limits, Log, Nonces},
    quarantine,
    segment::{self, DamageKind},
    shared::{Damages, Shared},
    survey::{self, Damage, Orphan, Reading, RecoveryError, Survey, Watch, at, list, survey},
    wish::Wish,
};
use crate::mail::id::MessageId;

/// What is said of a message that was adopted.
const RECOVERED: &str = "recovered: its file was whole, its record was not";

/// Rebuilds the state from the disk and begins a new segment.
pub fn recover(
    disk: Arc<dyn Disk>,
    limits: Limits,
    nonces: Nonces,
    now: Timestamp,
) -> Result<(Arc<Shared>, Log), RecoveryError> {
    let ours = [log::FOLDER, log::RESERVE_FOLDER, large::FOLDER, large::TEMPORARY_FOLDER, quarantine::FOLDER];
    for folder in ours {
        disk.make_folder(folder).map_err(at(|| format!("make folder {folder}")))?;
    }
    let mut footers = Footers::default();
    let mut survey = survey(&*disk, Reading::Footers, &mut footers)?; // a newer program's folder is refused here, untouched
    for name in list(&*disk, large::TEMPORARY_FOLDER)? {
        let _ = disk.remove(&format!("{}/{name}", large::TEMPORARY_FOLDER)); // nobody heard a 250 for it
    }
    let damages = set_aside(&*disk, &mut survey)?;
    make_sure(&*disk, &survey)?;
    let (is_damaged, orphans) = (survey.is_damaged(), remove_orphans(&*disk, &survey)?);
    give_back_room(&*disk, &survey);
    let Survey { mut state, last, next_number, damages: found, .. } = survey;
    let damaged: Vec<_> = found.iter().map(|damage| damage.segment).collect();
    if is_damaged {
        state.index.admit_damage(); // before the new header states the account
    }
    let shared = Arc::new(Shared::new(disk, state, damages));
    let mut log = Log::begin(shared.clone(), limits, nonces, last, next_number, now);
    if !adopt(&mut log, &orphans, now) {
        // While the damage is there to be found, each start tries to adopt again.
        let mut state = shared.state();
        state.uncopied.extend(damaged);
    }
    if !shared.on_last_room.load(Ordering::Relaxed) {
        footers.write(&*shared.disk); // room is short else, and a footer can wait
    }
    Ok((shared, log))
}

/// A process that died leaves records that only the kernel's memory holds, and what is counted now must last. A sync alone
/// does not do: if one has failed before, the kernel takes those pages for clean. So they are written again, as they are.
fn make_sure(disk: &dyn Disk, survey: &Survey) -> Result<(), RecoveryError> {
    for (number, range) in &survey.unsure {
        let again = || {
            let file = disk.edit(&log::path(*number))?;
            let mut bytes = vec![0; (range.end - range.start) as usize];
            // The zeros that pad the last record may not have reached the disk.
            let there = file.length()?.min(range.end).saturating_sub(range.start) as usize;
            file.read_at(&mut bytes[..there], range.start)?;
            file.write_at(&bytes, range.start)?;
            file.sync()
        };
        again().map_err(at(|| format!("write the end of segment {number} again")))?;
    }
    Ok(())
}

/// Segments that had to be read get a footer, so that the next start is quicker.
#[derive(Default)]
struct Footers {
    rest: Vec<(u64, Vec<u8>)>,
    bytes: usize,
}

/// They wait in memory until the start has room for them. Where none is left of a large log, each start writes so many.
const FOOTERS_BYTES_MAX: usize = 32 << 20;

impl Watch for Footers {
    fn footer(&mut self, number: u64, bytes: Vec<u8>) {
        if self.bytes + bytes.len() <= FOOTERS_BYTES_MAX {
            self.bytes += bytes.len();
            self.rest.push((number, bytes));
        }
    }
}

impl Footers {
    fn write(self, disk: &dyn Disk) {
        for (number, bytes) in self.rest {
            let _ = disk.remove(&log::footer_path(number)); // one that did not check
            log::write_footer(disk, number, &bytes);
        }
    }
}

/// Copies what is damaged aside. A segment without header leaves the log once its copy is whole: its records cannot be
/// read without the nonce.
fn set_aside(disk: &dyn Disk, survey: &mut Survey) -> Result<Damages, RecoveryError> {
    let mut damages = Damages::default();
    for in_segment in survey.damages.chunk_by(|one, other| one.segment == other.segment) {
        let segment = in_segment[0].segment;
        // Each start is to read this segment, and to tell.
        let _ = disk.remove(&log::footer_path(segment));
        let (bytes, bad_blocks) = read_segment(disk, segment)?;
        if survey.state.unread.get(&segment).map_or(&[][..], Vec::as_slice) != bad_blocks {
            // What is read now may be mail: the next start enters it.
            let source = io::Error::other("some blocks could be read only now and then");
            return Err(RecoveryError::Io { step: survey::unreadable(segment), source });
        }
        for Damage { range, kind, .. } in in_segment {
            let part = bytes.get(range.start as usize..(range.end as usize).min(bytes.len())).unwrap_or_default();
            let copied = quarantine::copy(disk, segment, part, range, *kind);
            damages.tell(quarantine::sentence(segment, range, *kind, &copied), *kind == DamageKind::Rot);
            if copied.is_err() {
                survey.state.uncopied.insert(segment);
            }
        }
    }
    for (number, length) in &survey.headerless {
        let ((bytes, bad_blocks), range) = (read_segment(disk, *number)?, 0..*length);
        let is_whole = bad_blocks.is_empty();
        let copied = if is_whole {
            quarantine::copy(disk, *number, &bytes, &range, DamageKind::Rot)
        } else {
            quarantine::move_segment(disk, *number, *length)
        };
        damages.tell(quarantine::sentence(*number, &range, DamageKind::Rot, &copied), true);
        if copied.is_ok() && is_whole {
            disk.remove(&log::path(*number)).map_err(at(|| format!("remove segment {number}")))?;
        }
    }
    for number in &survey.missing {
        let told = format!("segment {number}: it is not there, though a newer one names it; mail in it may be lost");
        damages.tell(told, true);
    }
    quarantine::recall(&survey.quarantined, &mut damages);
    Ok(damages)
}

/// What can be read of a segment, and the blocks that cannot.
fn read_segment(disk: &dyn Disk, number: u64) -> Result<(Vec<u8>, Vec<Range<u64>>), RecoveryError> {
    let mut bytes = Vec::new();
    let file = disk.open(&log::path(number));
    let read = file.and_then(|file| survey::read_around(&*file, segment::SEGMENT_BYTES_MAX, &mut bytes));
    let (_, bad_blocks) = read.map_err(at(|| survey::unreadable(number)))?;
    Ok((bytes, bad_blocks))
}

/// Large files of closed messages go. Those that no record speaks of go, too, unless damage may have taken the record:
/// then they are returned.
fn remove_orphans(disk: &dyn Disk, survey: &Survey) -> Result<Vec<MessageId>, RecoveryError> {
    let mut kept = Vec::new();
    for Orphan { id, is_closed } in &survey.orphans {
        if survey.is_damaged() && !is_closed {
            kept.push(*id);
            continue;
        }
        let path = large::path(*id);
        disk.remove(&path).map_err(at(|| format!("remove {path}")))?;
    }
    Ok(kept)
}

/// A process that died has left the room behind its last segment set aside, or, in what was the reserve, full of zeros: the
/// next segment may need it. Footers of segments that are gone go, too.
fn give_back_room(disk: &dyn Disk, survey: &Survey) {
    let segments = &survey.state.segments;
    for (number, segment) in segments.iter().rev().take(2) {
        // A tear lies behind the valid part, and is no room.
        let damages = survey.damages.iter().filter(|damage| damage.segment == *number);
        let end = damages.map(|damage| damage.range.end).fold(segment.length, u64::max);
        let end = if is_empty_behind(disk, *number, end) { end } else { u64::MAX };
        let _ = disk.trim(&log::path(*number), end); // it is given back with the segment at the latest
    }
    for name in disk.list(log::FOLDER).unwrap_or_default() {
        let number = name.strip_suffix(".footer").and_then(|number| number.parse::<u64>().ok());
        if number.is_some_and(|number| !segments.contains_key(&number)) {
            let _ = disk.remove(&format!("{}/{name}", log::FOLDER));
        }
    }
}

/// Whether a segment holds zeros behind its valid part, and nothing else: what a tear or a failed sync has left is not ours
/// to cut off.
fn is_empty_behind(disk: &dyn Disk, number: u64, end: u64) -> bool {
    let behind = || {
        let file = disk.open(&log::path(number))?;
        let length = file.length()?.min(segment::SEGMENT_BYTES_MAX);
        let mut bytes = vec![0; length.saturating_sub(end) as usize];
        file.read_at(&mut bytes, end).map(|()| bytes)
    };
    behind().is_ok_and(|bytes: Vec<u8>| bytes.iter().all(|byte| *byte == 0))
}

/// Damage may have taken the record of a large message, but the file says all that it said: the message is held until a
/// person decides, since its record may also have told of a delivery. False if one of them must be tried again.
fn adopt(log: &mut Log, orphans: &[MessageId], now: Timestamp) -> bool {
    let mut all_decided = true;
    for id in orphans {
        let became = match adopt_one(log, *id, now) {
            Ok(true) => "damage may have taken its record; it is held, reason recovered".to_owned(),
            Ok(false) => {
                "it is not whole, and no record refers to it, perhaps because of the damage; left as it is".into()
            }
            Err(cause) => {
                all_decided = false;
                format!(
                    "damage may have taken its record, and it could not be held ({cause}); the next start tries again"
                )
            }
        };
        log.shared().damages().tell(format!("{}: {became}", large::path(*id)), false);
    }
    all_decided
}

/// False if the file is not whole.
fn adopt_one(log: &mut Log, id: MessageId, now: Timestamp) -> io::Result<bool> {
    let disk = log.shared().disk.clone();
    let Some(wish) = adoption(&*disk, id, now)? else { return Ok(false) };
    // Its writer may have died before this, and what a record refers to must be found.
    disk.sync_folder(large::FOLDER)?;
    let kept = log.commit(&[wish], now);
    if kept.iter().all(Result::is_ok) { Ok(true) } else { Err(io::Error::other("its record cannot be written")) }
}

/// In the account it is accepted anew: what was accepted before, as far as a header knows of it, counts as damaged.
fn adoption(disk: &dyn Disk, id: MessageId, now: Timestamp) -> io::Result<Option<Wish>> {
    let Some(mut accepted) = large::accepted_of_whole(disk, id)? else { return Ok(None) };
    let states = vec![RecipientState::Held; accepted.envelope.recipients.len()];
    let held = Some(HeldNote { since_ms: now.as_millisecond(), reason: HeldReason::Recovered });
    accepted.standing = Some(Standing { states, deferrals: 0, reason: RECOVERED.into(), held });
    let (arrival, fields) = (accepted.arrival(), accepted.encode());
    Ok(Some(Wish::Accept { arrival, fields, content: Vec::new(), is_copy: false }))
}
