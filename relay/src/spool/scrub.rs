//! Reads everything on the volume once a day, slowly, so that rot is found while there is still another copy somewhere.

use std::{io, time::Duration};

use super::{
    disk::DiskFile,
    large::{self, LargeReader},
    log, quarantine,
    record::{self, RECORD_BYTES_MAX},
    segment::{self, RECORDS_START},
    shared::{Segment, Shared},
    survey,
};
use crate::mail::id::MessageId;

/// From the start of one round to that of the next.
pub const ROUND: Duration = Duration::from_secs(24 * 3600);
/// A round is over early enough for the next one to begin in time.
const ROUND_MAX_SECONDS: u64 = 20 * 3600;
/// Small spools are read faster than they need to be: damage that a start did not see is told within minutes.
const BYTES_PER_SECOND_MIN: u64 = 8 << 20;
/// Read at a time; each holds at least one whole record.
const WINDOW_BYTES: usize = 4 << 20;
const _: () = assert!(WINDOW_BYTES > RECORD_BYTES_MAX, "a window holds the longest record");

/// Bytes to read each second so that a round over `total_bytes` ends in time.
pub fn pace(total_bytes: u64) -> u64 {
    (total_bytes / ROUND_MAX_SECONDS).max(BYTES_PER_SECOND_MIN)
}

/// How far a round has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the log, behind this offset of this segment.
    Log(u64, u64),
    /// At the large files behind this message's.
    Large(Option<MessageId>),
}

/// Where each round begins.
pub const BEGIN: Place = Place::Log(0, 0);

/// Reads one piece of the spool. Returns how many bytes that were, and where to go on; `None` ends the round.
///
/// What is found damaged is told and copied aside. Blocks.
pub fn step(shared: &Shared, place: Place) -> (u64, Option<Place>) {
    match place {
        Place::Log(number, offset) => {
            let next = shared.state().segments.range(number..).next().map(|(number, segment)| (*number, *segment));
            let Some((found, segment)) = next else { return (0, Some(Place::Large(None))) };
            let offset = if found == number { offset.max(RECORDS_START) } else { RECORDS_START };
            let (read, end) = read_window(shared, found, segment, offset);
            (read, Some(end.map_or(Place::Log(found + 1, 0), |end| Place::Log(found, end))))
        }
        Place::Large(after) => {
            let next = shared.state().index.next_large(after);
            let Some(id) = next else { return (0, None) };
            (read_large(shared, id), Some(Place::Large(Some(id))))
        }
    }
}

/// Checks the records from `offset` on. Returns how much was read, and where the next window begins unless this was all.
fn read_window(shared: &Shared, number: u64, segment: Segment, offset: u64) -> (u64, Option<u64>) {
    let length = (segment.length.saturating_sub(offset)).min(WINDOW_BYTES as u64) as usize;
    let mut bytes = vec![0; length];
    let Ok(file) = shared.disk.open(&log::path(number)) else { return (0, None) }; // reclaimed meanwhile
    match file.read_at(&mut bytes, offset) {
        Ok(()) => {}
        Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
            look_closely(shared, number, segment, &*file);
            return (length as u64, None);
        }
        Err(cause) => {
            let told = format!("segment {number}: a part of it cannot be read: {cause}");
            if shared.damages().tell(told, false) {
                tracing::error!(%cause, segment = number, "read segment");
            }
            look_closely(shared, number, segment, &*file);
            return (length as u64, None);
        }
    }
    let is_last = offset + length as u64 >= segment.length;
    let mut position = 0;
    while position < length {
        match record::decode(&bytes[position..], offset + position as u64, segment.key) {
            Some((_, taken)) => position += taken,
            None if !is_last && length - position < RECORD_BYTES_MAX => break, // it may go on in the next window
            None => {
                look_closely(shared, number, segment, &*file);
                return (length as u64, None);
            }
        }
    }
    (length as u64, (!is_last).then_some(offset + position as u64))
}

/// Something in this segment does not check: finds out what, and makes the next start look for itself.
fn look_closely(shared: &Shared, number: u64, segment: Segment, file: &dyn DiskFile) {
    let mut bytes = Vec::new();
    let Ok((length, bad_blocks)) = survey::read_around(file, segment.length, &mut bytes) else { return };
    let sealed = segment::Previous { number, end: segment.length, ending: segment::Ending::Sealed };
    // Without the names a tear would be told as rot; the next round looks again.
    let Ok(known) = shared.disk.list(quarantine::FOLDER) else { return };
    for segment::Damage { range, kind } in
        segment::scan(&bytes[..length], segment.key, Some(sealed), |_, _, _| {}).damages
    {
        if known.contains(&quarantine::name(number, &range, segment::DamageKind::Tear)) {
            continue; // a start found it, and nobody was told that it is kept
        }
        if survey::overlaps(&bad_blocks, &range) {
            continue; // there is nothing to be copied, and the footer knows what stands there
        }
        let part = bytes.get(range.start as usize..(range.end as usize).min(length)).unwrap_or_default();
        if quarantine::set_aside(shared, number, part, range, kind).is_news {
            let _ = shared.disk.remove(&log::footer_path(number));
        }
    }
}

/// Returns how many bytes were read.
fn read_large(shared: &Shared, id: MessageId) -> u64 {
    let mut read = 0;
    let checked = LargeReader::open(&*shared.disk, id).and_then(|mut reader| {
        while let Some(piece) = reader.next_piece()? {
            read += piece.len() as u64;
        }
        Ok(())
    });
    if let Err(cause) = checked
        && shared.state().index.get(id).is_some()
    {
        let (is_rot, path) = (large::is_damage(&cause), large::path(id));
        let becomes = if is_rot { "its message is held when it is tried" } else { "it may heal: nothing is done" };
        if shared.damages().tell(format!("{path}: {cause}; {becomes}"), is_rot) {
            tracing::error!(%id, %cause, "a large message cannot be read");
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_over_a_large_spool_ends_within_a_day() {
        for total_bytes in [0, 1 << 30, 1 << 40, 1 << 44] {
            assert!(total_bytes / pace(total_bytes) < ROUND.as_secs(), "{total_bytes} bytes");
        }
    }
}
