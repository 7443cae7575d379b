//! Finds open messages by address. Addresses are not in memory: a search reads the segments' footers, oldest first.

use std::time::Instant;

use super::{
    disk::Disk,
    field,
    footer::{self, Line},
    index::{Entry, Location},
    log,
    record::Kind,
    segment::{self, Header},
    shared::Shared,
    survey,
};
use crate::mail::id::MessageId;

/// One answer holds at most so many messages, so that it stays small whatever is asked.
pub const FOUND_MAX: usize = 1000;

/// Where a search goes on: behind this offset of this segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Cursor {
    segment: u64,
    offset: u32,
}

/// An open message that was found.
#[derive(Clone, PartialEq, Debug)]
pub struct Hit {
    /// Which.
    pub id: MessageId,
    /// How it stands.
    pub entry: Entry,
    /// Its reverse-path, unless that is null, and its recipients.
    pub addresses: Vec<String>,
}

/// Open messages of which an address contains `part`, in whatever case of letters; all if `part` is empty.
///
/// `more`: asked before each message whether there is time for it. Returns where to go on, if this was not all. Blocks.
pub fn search(
    shared: &Shared,
    part: &str,
    from: Cursor,
    limit: usize,
    more: impl Fn() -> bool,
) -> (Vec<Hit>, Option<Cursor>) {
    let part = part.to_lowercase();
    let segments: Vec<_> = shared.state().segments.range(from.segment..).map(|(number, at)| (*number, *at)).collect();
    let (mut found, mut stopped, mut looked) = (Vec::new(), None, false);
    for (segment, at) in segments {
        let mut look = |line: &Line| {
            let here = Cursor { segment, offset: line.offset };
            if stopped.is_some() || line.kind != Kind::Accepted || here < from {
                return;
            }
            // Each call gets one further at least, however long it took to read so far.
            if found.len() >= limit.min(FOUND_MAX) || (looked && !more()) {
                stopped = Some(here);
                return;
            }
            looked = true;
            found.extend(hit(shared, segment, line, &part));
        };
        each_line(&*shared.disk, segment, at.length, &mut look);
        if stopped.is_some() {
            break;
        }
    }
    (found, stopped)
}

/// As long as this instant is not past.
pub fn until(deadline: Instant) -> impl Fn() -> bool {
    move || Instant::now() < deadline
}

fn hit(shared: &Shared, segment: u64, line: &Line, part: &str) -> Option<Hit> {
    let contains = |address: &str| address.to_lowercase().contains(part);
    if !part.is_empty() && !field::addresses(line.fields).any(contains) {
        return None;
    }
    let id = field::Arrival::decode(line.fields)?.id;
    let place = Location { segment, offset: line.offset, length: line.length };
    let state = shared.state();
    let entry = state.index.get(id).filter(|entry| entry.location == place)?.clone();
    Some(Hit { id, entry, addresses: field::addresses(line.fields).map(str::to_owned).collect() })
}

/// Hands on the lines of a segment's footer, or what they would be. `end`: of its valid part. A segment that cannot be read has none: a search is no proof.
pub fn each_line(disk: &dyn Disk, number: u64, end: u64, each: &mut dyn FnMut(&Line)) {
    let (mut bytes, mut start) = (Vec::new(), Vec::new());
    let Ok(file) = disk.open(&log::path(number)) else { return };
    let header =
        survey::read_around(&*file, segment::RECORDS_START, &mut start).ok().and_then(|_| Header::decode(&start).ok());
    let Some(header) = header else { return };
    let footer = disk.open(&log::footer_path(number));
    if let Ok(length) = footer.and_then(|file| survey::read(&*file, segment::SEGMENT_BYTES_MAX, &mut bytes))
        && let Some(lines) = footer::read(&bytes[..length], &header, end)
    {
        return lines.for_each(|line| each(&line));
    }
    if let Ok((length, _)) = survey::read_around(&*file, end, &mut bytes) {
        segment::scan(&bytes[..length], header.key(), None, |offset, length, record| {
            each(&Line::of(&record, offset, length));
        });
    }
}
