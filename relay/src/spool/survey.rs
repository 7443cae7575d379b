//! Reads what is on the disk and changes nothing: the start and the offline tools see the same.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    ops::Range,
};

use super::{
    disk::{Disk, DiskFile},
    field::{self, Arrival, Change},
    footer::{self, Line},
    index::Location,
    large, log, quarantine,
    record::{Kind, Record},
    segment::{self, BadHeader, DamageKind, Ending, FORMAT_VERSION, Header, Previous},
    shared::{Segment, State},
};
use crate::mail::id::MessageId;

/// What kernels read and disks lose at a time.
const BLOCK_BYTES: usize = 4096;
/// A block is bad when it could not be read so many times.
const BLOCK_TRIES: u32 = 3;
/// More in a segment, or more than half of it, are no bad sectors: the disk, or the way to it, is gone, and may come back.
const BAD_BLOCKS_MAX: usize = 16;
/// Stands for bytes that cannot be read. Not zero, which is what space looks like that was never written.
const UNREADABLE: u8 = 0xBD;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// A file cannot be read or made.
    #[error(
        "{step}: {source}; check the volume, and that this user may read and write all files in the folder, then start again; nothing that is kept was removed"
    )]
    Io {
        /// What was tried.
        step: String,
        /// What the system said.
        source: io::Error,
    },
    /// A segment says that a later program wrote it.
    #[error(
        "segment {number} was written by a newer program (this one knows format {FORMAT_VERSION}); use that program again"
    )]
    Newer {
        /// Which.
        number: u64,
    },
}

/// How thoroughly to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading {
    /// Footers where they check, as the start does.
    Footers,
    /// Every record.
    Everything,
}

/// Who follows a survey.
pub trait Watch {
    /// One more segment is read, of so many.
    fn segment(&mut self, _read: usize, _of: usize) {}
    /// A segment without damage and without footer was read; this is what its footer should be.
    fn footer(&mut self, _number: u64, _bytes: Vec<u8>) {}
}

/// Nobody does.
impl Watch for () {}

/// What is on the disk.
#[derive(Default)]
pub struct Survey {
    /// Index and readable segments.
    pub state: State,
    /// What the next header is to say of the last readable segment.
    pub last: Option<Previous>,
    /// Larger than the number of any segment.
    pub next_number: u64,
    /// Parts of readable segments in which no record checks.
    pub damages: Vec<Damage>,
    /// Ends of segments with records of which nothing says that they were synced. They may be in the kernel's memory only.
    pub unsure: Vec<(u64, Range<u64>)>,
    /// Segments of which neither header checks, and their lengths.
    pub headerless: Vec<(u64, u64)>,
    /// Segments that are not there, though an older one is and a newer one names them: segments go from the oldest on.
    pub missing: Vec<u64>,
    /// Files in `large/` that belong to no open message.
    pub orphans: Vec<Orphan>,
    /// Names of the copies in quarantine.
    pub quarantined: Vec<String>,
    /// Records that were read.
    pub records: u64,
}

/// A damaged part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// In which segment.
    pub segment: u64,
    /// Where.
    pub range: Range<u64>,
    /// What it means.
    pub kind: DamageKind,
}

/// A file in `large/` that belongs to no open message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Orphan {
    /// Whose it is.
    pub id: MessageId,
    /// Whether the log says that its message is closed; else no record speaks of it.
    pub is_closed: bool,
}

impl Survey {
    /// Whether records may be missing that were there once.
    pub fn is_damaged(&self) -> bool {
        let has_rot = self.quarantined.iter().any(|name| name.ends_with(".rot"));
        !self.damages.is_empty() || !self.headerless.is_empty() || !self.missing.is_empty() || has_rot
    }

    /// Whether some are missing, as far as this survey has read: a torn end held none that anybody was promised.
    pub fn has_lost_parts(&self) -> bool {
        let has_rot = self.damages.iter().any(|damage| damage.kind == DamageKind::Rot);
        has_rot || !self.headerless.is_empty() || !self.missing.is_empty()
    }
}

/// Reads the folder.
pub fn survey(disk: &dyn Disk, reading: Reading, watch: &mut dyn Watch) -> Result<Survey, RecoveryError> {
    let large_files = large_files(disk)?;
    let quarantined = list(disk, quarantine::FOLDER)?;
    let headers = read_headers(disk)?;
    let next_number = headers.keys().next_back().map_or(1, |last| last + 1);
    let said_of: BTreeMap<u64, Previous> = headers
        .values()
        .filter_map(|header| header.as_ref().ok()?.previous)
        .map(|previous| (previous.number, previous))
        .collect();
    let oldest = headers.keys().next().copied();
    // One without header was copied or moved aside as a whole, and told.
    let is_set_aside = |number: u64| quarantined.iter().any(|name| name.starts_with(&format!("{number:016}-0-")));
    let is_missing = |number: &u64| {
        oldest.is_some_and(|oldest| oldest < *number) && !headers.contains_key(number) && !is_set_aside(*number)
    };
    let missing: Vec<_> = said_of.keys().copied().filter(is_missing).collect();
    let mut surveyor = Surveyor {
        disk,
        reading,
        large_files,
        closed: HashSet::new(),
        survey: Survey { next_number, quarantined, missing, ..Survey::default() },
        buffer: Vec::new(),
    };
    for (read, (number, header)) in headers.iter().enumerate() {
        watch.segment(read, headers.len());
        match header {
            Ok(header) => surveyor.read_segment(header, said_of.get(number).copied(), watch)?,
            Err(length) => surveyor.survey.headerless.push((*number, *length)),
        }
    }
    let Surveyor { large_files, closed, mut survey, .. } = surveyor;
    let orphans = large_files.into_iter().filter(|id| survey.state.index.get(*id).is_none());
    survey.orphans = orphans.map(|id| Orphan { id, is_closed: closed.contains(&id) }).collect();
    Ok(survey)
}

/// The header of each segment, or the file's length where neither copy checks.
fn read_headers(disk: &dyn Disk) -> Result<BTreeMap<u64, Result<Header, u64>>, RecoveryError> {
    let mut headers = BTreeMap::new();
    for name in list(disk, log::FOLDER)? {
        let Some(number) = name.strip_suffix(".seg").and_then(|number| number.parse().ok()) else { continue };
        let file = disk.open(&log::path(number)).map_err(at(|| format!("open segment {number}")))?;
        let (mut start, step) = (Vec::new(), || unreadable(number));
        read_around(&*file, segment::RECORDS_START, &mut start).map_err(at(step))?;
        let header = match Header::decode(&start) {
            Ok(header) if header.number == number => Ok(header),
            Ok(_) | Err(BadHeader::Damaged) => Err(file.length().map_err(at(step))?),
            Err(BadHeader::Newer) => return Err(RecoveryError::Newer { number }),
        };
        headers.insert(number, header);
    }
    Ok(headers)
}

struct Surveyor<'a> {
    disk: &'a dyn Disk,
    reading: Reading,
    large_files: HashSet<MessageId>,
    /// Those of them whose message the log closes.
    closed: HashSet<MessageId>,
    survey: Survey,
    buffer: Vec<u8>,
}

impl Surveyor<'_> {
    /// `next`: what the following segment's header says of this one.
    fn read_segment(
        &mut self,
        header: &Header,
        next: Option<Previous>,
        watch: &mut dyn Watch,
    ) -> Result<(), RecoveryError> {
        let number = header.number;
        let file = self.disk.open(&log::path(number)).map_err(at(|| format!("open segment {number}")))?;
        self.survey.state.index.set_totals(header.totals);
        let end = match next {
            Some(next) if self.reading != Reading::Everything && self.read_footer(header, &*file, next.end)? => {
                next.end
            }
            _ => self.read_records(header, &*file, next, watch)?,
        };
        self.survey.state.segments.insert(number, Segment { key: header.key(), length: end });
        self.survey.last = Some(Previous { number, end, ending: Ending::Crash });
        Ok(())
    }

    /// True if the footer checks; then it is as good as the records, since it was made of them.
    fn read_footer(&mut self, header: &Header, file: &dyn DiskFile, end: u64) -> Result<bool, RecoveryError> {
        let number = header.number;
        let length = file.length().map_err(at(|| format!("read segment {number}")))?;
        let found = self.disk.open(&log::footer_path(number));
        let Ok(footer) = found.and_then(|file| read(&*file, segment::SEGMENT_BYTES_MAX, &mut self.buffer)) else {
            return Ok(false);
        };
        let bytes = std::mem::take(&mut self.buffer);
        let lines = footer::read(&bytes[..footer], header, end).filter(|_| length >= end);
        let checks = lines.is_some();
        for line in lines.into_iter().flatten() {
            if line.kind == Kind::Later {
                return Err(RecoveryError::Newer { number });
            }
            let _ = self.enter(number, &line); // it was decoded when it was written
        }
        self.buffer = bytes;
        Ok(checks)
    }

    /// Returns the end of the last record.
    fn read_records(
        &mut self,
        header: &Header,
        file: &dyn DiskFile,
        next: Option<Previous>,
        watch: &mut dyn Watch,
    ) -> Result<u64, RecoveryError> {
        let number = header.number;
        let mut bytes = std::mem::take(&mut self.buffer);
        let (length, bad_blocks) =
            read_around(file, segment::SEGMENT_BYTES_MAX, &mut bytes).map_err(at(|| unreadable(number)))?;
        let (mut unreadable, mut newer, mut footer) = (Vec::new(), false, footer::Builder::new());
        let scan = segment::scan(&bytes[..length], header.key(), next, |offset, length, record| {
            newer |= record.kind == Kind::Later;
            if let Some(totals) = mark(&record) {
                self.survey.state.index.set_totals(totals);
            }
            let line = Line::of(&record, offset, length);
            footer.push(&line);
            if self.enter(number, &line).is_none() {
                unreadable.push((offset..offset + length, DamageKind::Rot));
            }
        });
        self.buffer = bytes;
        if newer {
            return Err(RecoveryError::Newer { number });
        }
        let unsure = around(scan.synced..scan.end, &bad_blocks);
        self.survey.unsure.extend(unsure.into_iter().map(|range| (number, range)));
        let is_bad = |range: &Range<u64>| overlaps(&bad_blocks, range);
        // A power cut tears what is written, and mostly leaves it readable. What cannot be read may be read again some day,
        // so it belongs to what the next header calls valid.
        let kind = |damage: &segment::Damage| if is_bad(&damage.range) { DamageKind::Rot } else { damage.kind };
        let bad_ends = scan.damages.iter().map(|damage| damage.range.clone()).filter(is_bad).map(|range| range.end);
        let end = bad_ends.fold(scan.end, u64::max);
        if !bad_blocks.is_empty() {
            self.survey.state.unread.insert(number, bad_blocks.clone());
        }
        let damages = scan.damages.iter().map(|damage| (damage.range.clone(), kind(damage)));
        let damages: Vec<_> = damages.chain(unreadable).map(|(range, kind)| self.known(number, range, kind)).collect();
        if damages.is_empty() {
            watch.footer(number, footer.finish(number, header.nonce, scan.end));
        }
        self.survey.damages.extend(damages);
        Ok(end)
    }

    /// A tear between two records of a batch is still there at later starts, which know the segment as synced.
    fn known(&self, segment: u64, range: Range<u64>, kind: DamageKind) -> Damage {
        let as_tear = quarantine::name(segment, &range, DamageKind::Tear);
        let kind = if self.survey.quarantined.contains(&as_tear) { DamageKind::Tear } else { kind };
        Damage { segment, range, kind }
    }

    /// `None`: the record checks, but its fields are not as we write them.
    fn enter(&mut self, segment: u64, line: &Line) -> Option<()> {
        self.survey.records += 1;
        let Line { kind, is_copy, offset, length, content_bytes, fields } = *line;
        let index = &mut self.survey.state.index;
        match kind {
            Kind::Accepted => {
                let arrival = Arrival::decode(fields)?;
                let content_bytes = arrival.large_bytes.unwrap_or(u64::from(content_bytes));
                self.closed.remove(&arrival.id);
                index.accept(&arrival, content_bytes, Location { segment, offset, length }, is_copy);
            }
            Kind::Attempt | Kind::Closed | Kind::Held | Kind::Released | Kind::Withdrawn | Kind::Moved => {
                let change = Change::decode(kind, fields)?;
                if index.replay(&change).is_some_and(|entry| entry.is_large) || kind == Kind::Closed {
                    self.note_closed(change.id);
                }
            }
            Kind::Mark | Kind::Later => {}
        }
        Some(())
    }

    fn note_closed(&mut self, id: MessageId) {
        if self.large_files.contains(&id) {
            self.closed.insert(id);
        }
    }
}

fn mark(record: &Record) -> Option<backupmx_relay_api::status::Account> {
    (record.kind == Kind::Mark).then(|| field::decode_mark(record.fields)).flatten()
}

/// Ids of the files in `large/`. What has another name is not ours, and is let be.
fn large_files(disk: &dyn Disk) -> Result<HashSet<MessageId>, RecoveryError> {
    Ok(list(disk, large::FOLDER)?.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Names in a folder.
pub fn list(disk: &dyn Disk, folder: &str) -> Result<Vec<String>, RecoveryError> {
    disk.list(folder).map_err(at(|| format!("list {folder}")))
}

/// Reads the start of a file, at most `length_max` bytes of it, into a buffer that grows and is used again.
pub fn read(file: &dyn DiskFile, length_max: u64, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let length = make_space(file, length_max, buffer)?;
    file.read_at(&mut buffer[..length], 0)?;
    Ok(length)
}

fn make_space(file: &dyn DiskFile, length_max: u64, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let length = file.length()?.min(length_max) as usize;
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
    Ok(length)
}

/// Like [`read`], around bad sectors: where the disk gives nothing, the buffer holds what is no record, and the blocks are
/// returned. An error if that is too much for bad sectors.
pub fn read_around(file: &dyn DiskFile, length_max: u64, buffer: &mut Vec<u8>) -> io::Result<(usize, Vec<Range<u64>>)> {
    let length = make_space(file, length_max, buffer)?;
    match file.read_at(&mut buffer[..length], 0) {
        Ok(()) => return Ok((length, Vec::new())),
        Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => return Err(cause),
        Err(_) => {}
    }
    let mut bad_blocks: Vec<Range<u64>> = Vec::new();
    for start in (0..length).step_by(BLOCK_BYTES) {
        let block = &mut buffer[start..length.min(start + BLOCK_BYTES)];
        let range = start as u64..(start + block.len()) as u64;
        let Err(cause) = read_patiently(file, block, start as u64) else { continue };
        block.fill(UNREADABLE);
        bad_blocks.push(range);
        if bad_blocks.len() > BAD_BLOCKS_MAX || 2 * bad_blocks.len() > length.div_ceil(BLOCK_BYTES) {
            return Err(cause);
        }
    }
    Ok((length, bad_blocks))
}

fn read_patiently(file: &dyn DiskFile, into: &mut [u8], offset: u64) -> io::Result<()> {
    let mut tried = file.read_at(into, offset);
    for _ in 1..BLOCK_TRIES {
        if tried.is_ok() {
            break;
        }
        tried = file.read_at(into, offset);
    }
    tried
}

/// Whether a range touches one of the blocks.
pub fn overlaps(blocks: &[Range<u64>], range: &Range<u64>) -> bool {
    blocks.iter().any(|block| block.start < range.end && range.start < block.end)
}

/// What of a range lies outside the blocks, which are in order.
fn around(range: Range<u64>, bad_blocks: &[Range<u64>]) -> Vec<Range<u64>> {
    let (mut parts, mut start) = (Vec::new(), range.start);
    for bad in bad_blocks {
        parts.push(start..bad.start.min(range.end));
        start = start.max(bad.end);
    }
    parts.push(start..range.end);
    parts.retain(|part| part.start < part.end);
    parts
}

/// The step, and what helps where a disk stays as it is.
pub fn unreadable(number: u64) -> String {
    format!("read {} (where that never works again, move this file away)", log::path(number))
}

/// Names the step that failed.
pub fn at(step: impl FnOnce() -> String) -> impl FnOnce(io::Error) -> RecoveryError {
    move |source| RecoveryError::Io { step: step(), source }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    /// A file of ones, parts of which cannot be read.
    struct Sick {
        length: usize,
        bad: Vec<Range<u64>>,
    }

    impl DiskFile for Sick {
        fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
            let end = offset + into.len() as u64;
            if self.bad.iter().any(|bad| bad.start < end && offset < bad.end) {
                return Err(io::Error::from_raw_os_error(5));
            }
            into.fill(1);
            Ok(())
        }
        fn length(&self) -> io::Result<u64> {
            Ok(self.length as u64)
        }
        fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn allocate(&self, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn sync(&self) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[test]
    fn a_bad_sector_costs_its_block_and_no_more() {
        let bad = Range { start: 9000, end: 9512 };
        let file = Sick { length: 20_000, bad: vec![bad] };
        let mut bytes = Vec::new();
        let (length, bad_blocks) = read_around(&file, 1 << 20, &mut bytes).unwrap();
        assert_eq!((length, bad_blocks.len(), bad_blocks[0].clone()), (20_000, 1, 8192..12_288));
        let expected = |at: usize| if (8192..12_288).contains(&at) { UNREADABLE } else { 1 };
        assert!(bytes[..length].iter().enumerate().all(|(at, byte)| *byte == expected(at)));
    }

    #[test]
    fn a_file_of_which_half_is_gone_is_an_error_since_the_disk_may_come_back() {
        let bad = Range { start: 0, end: 5000 };
        let file = Sick { length: 3 * 4096, bad: vec![bad] };
        assert!(read_around(&file, 1 << 20, &mut Vec::new()).is_err());
    }

    #[test]
    fn what_is_around_bad_blocks_is_in_order_and_never_empty() {
        let parts = |range, bad: &[(u64, u64)]| {
            let bad: Vec<_> = bad.iter().map(|(start, end)| *start..*end).collect();
            around(range, &bad).into_iter().map(|part| (part.start, part.end)).collect::<Vec<_>>()
        };
        assert_eq!(parts(10..100, &[]), [(10, 100)]);
        assert_eq!(parts(10..100, &[(0, 20), (30, 40), (90, 120)]), [(20, 30), (40, 90)]);
        assert_eq!(parts(10..20, &[(0, 30)]), []);
        assert_eq!(parts(50..60, &[(0, 10), (70, 80)]), [(50, 60)]);
    }
}
