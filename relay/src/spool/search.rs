//! Finds open messages by address, state and reason. Addresses are not in memory: a search reads the segments' footers,
//! oldest first.

use std::{fmt, str::FromStr, time::Instant};

use jiff::Timestamp;

use super::{
    disk::Disk,
    field::{self, HeldNote, HeldReason},
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
/// And of each so many recipients: a mailing has a hundred.
pub const RECIPIENTS_FOUND_MAX: usize = 10;

/// What is looked for; the default is every open message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Query {
    /// An address contains it, in whatever case of letters.
    pub part: String,
    /// Whether nobody in it waits.
    pub is_held: Option<bool>,
    /// Somebody in it is held because of this.
    pub reason: Option<HeldReason>,
}

/// Where a search goes on: behind this offset of this segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Cursor {
    segment: u64,
    offset: u32,
}

/// The text of a cursor begins with it, so that another shape can be told from this one.
const CURSOR_VERSION: &str = "1";
/// Segment and offset in hexadecimal digits.
const CURSOR_DIGITS: usize = 16 + 8;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{CURSOR_VERSION}{:016x}{:08x}", self.segment, self.offset)
    }
}

/// A text that no search gave.
#[derive(Debug, thiserror::Error)]
#[error("not a cursor that a search of this version gave")]
pub struct BadCursor;

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let digits = text.strip_prefix(CURSOR_VERSION).ok_or(BadCursor)?;
        // What is parsed below would take a sign, too.
        if digits.len() != CURSOR_DIGITS || !digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(BadCursor);
        }
        let (segment, offset) = digits.split_at(16);
        let segment = u64::from_str_radix(segment, 16).map_err(|_| BadCursor)?;
        Ok(Self { segment, offset: u32::from_str_radix(offset, 16).map_err(|_| BadCursor)? })
    }
}

/// An open message that was found.
#[derive(Clone, PartialEq, Debug)]
pub struct Hit {
    /// Which.
    pub id: MessageId,
    /// How it stands.
    pub entry: Entry,
    /// Why and since when somebody in it is held.
    pub held: Option<HeldNote>,
    /// When it came.
    pub received_at: Timestamp,
    /// Its reverse-path, unless that is null.
    pub reverse_path: Option<String>,
    /// Some of its recipients, those first that were looked for.
    pub recipients: Vec<String>,
}

/// Open messages that the query means.
///
/// `more`: asked before each message whether there is time for it. Returns where to go on, if this was not all. Blocks.
pub fn search(
    shared: &Shared,
    query: &Query,
    from: Cursor,
    limit: usize,
    more: impl Fn() -> bool,
) -> (Vec<Hit>, Option<Cursor>) {
    let query = Query { part: query.part.to_lowercase(), ..query.clone() };
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
            found.extend(hit(shared, segment, line, &query));
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

fn hit(shared: &Shared, segment: u64, line: &Line, query: &Query) -> Option<Hit> {
    let place = Location { segment, offset: line.offset, length: line.length };
    let id = field::id(line.fields)?;
    let (entry, held) = {
        let state = shared.state();
        let entry = state.index.get(id).filter(|entry| entry.location == place)?;
        let held = state.index.held_note(id);
        let is_meant = query.is_held.is_none_or(|is_held| is_held == entry.is_held())
            && query.reason.is_none_or(|reason| held.is_some_and(|held| held.reason == reason));
        if !is_meant {
            return None;
        }
        (entry.clone(), held)
    };
    let contains = |address: &str| address.to_lowercase().contains(&query.part);
    let reverse_path = field::reverse_path(line.fields);
    let (mut recipients, others): (Vec<_>, Vec<_>) =
        field::recipients(line.fields).partition(|address| query.part.is_empty() || contains(address));
    if recipients.is_empty() && !reverse_path.is_some_and(contains) {
        return None;
    }
    recipients.extend(others);
    let recipients = recipients.into_iter().take(RECIPIENTS_FOUND_MAX).map(str::to_owned).collect();
    let received_at = field::at(line.fields)?;
    Some(Hit { id, entry, held, received_at, reverse_path: reverse_path.map(str::to_owned), recipients })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_nothing_else_is_one() {
        for cursor in
            [Cursor::default(), Cursor { segment: u64::MAX, offset: u32::MAX }, Cursor { segment: 7, offset: 4608 }]
        {
            assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        }
        let good = Cursor { segment: 10, offset: 4608 }.to_string();
        let (upper, longer, newer) = (good.to_uppercase(), format!("{good}0"), good.replacen('1', "2", 1));
        let signed = good.replacen("10", "1+", 1);
        for text in ["", "1", "0", &good[1..], &good[..24], &upper, &longer, &newer, &signed, "1€€€€€€€€"]
        {
            assert!(text.parse::<Cursor>().is_err(), "{text:?} was taken");
        }
    }
}
