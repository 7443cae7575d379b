//! The start: reads every segment, rebuilds index and account, copies damage aside. Nothing is truncated or repaired.

use std::{collections::BTreeMap, io, sync::Arc};

use jiff::Timestamp;

use super::{
    disk::{Disk, DiskFile},
    field::{Accepted, Attempt},
    index::{Index, Location},
    large,
    log::{self, Log, Shared, State},
    record::{Key, Kind, Record},
    segment::{self, BadHeader, DamageKind, Ending, Header, Previous},
};

/// Where damaged parts are copied.
pub const QUARANTINE: &str = "quarantine";

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// A file cannot be read or made.
    #[error("{step}: {source}")]
    Io {
        /// What was tried.
        step: String,
        /// What the system said.
        source: io::Error,
    },
    /// A segment says that a later program wrote it.
    #[error(
        "segment {number} has format version {version}, and this program reads versions up to {}; use the newer program again",
        segment::FORMAT_VERSION
    )]
    Newer {
        /// Which.
        number: u64,
        /// What it says.
        version: u32,
    },
}

/// What the start found besides the messages.
#[derive(Default)]
pub struct Found {
    /// Damaged parts that were copied aside now, a sentence each.
    pub damages: Vec<String>,
    /// How many of them had been synced once.
    pub rot: u64,
}

/// Rebuilds the state from the disk and begins a new segment.
pub fn recover(disk: Arc<dyn Disk>, now: Timestamp) -> Result<(Arc<Shared>, Log, Found), RecoveryError> {
    for folder in [log::FOLDER, large::FOLDER, large::TEMPORARY_FOLDER, QUARANTINE] {
        disk.make_folder(folder).map_err(at(|| format!("make folder {folder}")))?;
    }
    for name in list(&*disk, large::TEMPORARY_FOLDER)? {
        let _ = disk.remove(&format!("{}/{name}", large::TEMPORARY_FOLDER)); // nobody heard a 250 for it
    }
    let mut recovery =
        Recovery { disk: &*disk, found: Found::default(), index: None, segments: BTreeMap::new(), last: None };
    let headers = recovery.read_headers()?;
    let next_number = headers.keys().next_back().map_or(1, |last| last + 1);
    let said_of: BTreeMap<u64, Previous> = headers
        .values()
        .flatten()
        .filter_map(|header| header.previous)
        .map(|previous| (previous.number, previous))
        .collect();
    for (number, header) in &headers {
        recovery.read_segment(*number, header.as_ref(), said_of.get(number).copied())?;
    }
    recovery.remove_orphans()?;
    let Recovery { found, index, segments, last, .. } = recovery;
    let state = State { index: index.unwrap_or_default(), segments };
    let shared = Arc::new(Shared::new(disk.clone(), state));
    let log = Log::begin(shared.clone(), last, next_number, now).map_err(at(|| "begin segment".into()))?;
    Ok((shared, log, found))
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    found: Found,
    index: Option<Index>,
    segments: BTreeMap<u64, (Key, u64)>,
    last: Option<Previous>,
}

impl Recovery<'_> {
    /// The header of each segment; `None` where neither copy checks.
    fn read_headers(&self) -> Result<BTreeMap<u64, Option<Header>>, RecoveryError> {
        let mut headers = BTreeMap::new();
        for name in list(self.disk, log::FOLDER)? {
            let Some(number) = name.strip_suffix(".seg").and_then(|number| number.parse().ok()) else { continue };
            let file = self.disk.open(&log::path(number)).map_err(at(|| format!("open segment {number}")))?;
            let start = read(&*file, 0, segment::RECORDS_START).map_err(at(|| format!("read segment {number}")))?;
            let header = match Header::decode(&start) {
                Ok(header) => Some(header),
                Err(BadHeader::Damaged) => None,
                Err(BadHeader::Newer(version)) => return Err(RecoveryError::Newer { number, version }),
            };
            headers.insert(number, header);
        }
        Ok(headers)
    }

    fn read_segment(
        &mut self,
        number: u64,
        header: Option<&Header>,
        next: Option<Previous>,
    ) -> Result<(), RecoveryError> {
        let path = log::path(number);
        let file = self.disk.open(&path).map_err(at(|| format!("open segment {number}")))?;
        let bytes = read(&*file, 0, segment::SEGMENT_BYTES_MAX).map_err(at(|| format!("read segment {number}")))?;
        let Some(header) = header else {
            // Its records cannot be read without the nonce. A crash leaves such a file while it is begun, and
            // then nothing is behind the header; it is moved aside either way.
            let kind = if bytes.len() as u64 > segment::RECORDS_START { DamageKind::Rot } else { DamageKind::Tear };
            self.quarantine(number, 0, &bytes, kind)?;
            return self.disk.remove(&path).map_err(at(|| format!("remove segment {number}")));
        };
        let index = self.index.get_or_insert_with(|| Index::new(header.totals));
        let mut unreadable = Vec::new();
        let scan = segment::scan(&bytes, header.key(), next, |offset, length, record| {
            if enter(index, Location { segment: number, offset, length }, record).is_none() {
                unreadable.push(offset..offset + length);
            }
        });
        self.segments.insert(number, (header.key(), scan.end));
        self.last = Some(Previous { number, end: scan.end, synced: scan.synced, ending: Ending::Crash });
        let damages = scan.damages.into_iter().map(|damage| (damage.range, damage.kind));
        for (range, kind) in damages.chain(unreadable.into_iter().map(|range| (range, DamageKind::Rot))) {
            let part = bytes.get(range.start as usize..(range.end as usize).min(bytes.len())).unwrap_or_default();
            self.quarantine(number, range.start, part, kind)?;
        }
        Ok(())
    }

    /// Copies a part aside, once: the name tells where it stood.
    fn quarantine(&mut self, number: u64, offset: u64, part: &[u8], kind: DamageKind) -> Result<(), RecoveryError> {
        let (suffix, meaning) = match kind {
            DamageKind::Rot => ("rot", "had been synced, so mail may be lost"),
            DamageKind::Tear => ("torn", "had not been synced, so nobody was told that it is kept"),
        };
        let name = format!("{QUARANTINE}/{number:016}-{offset}-{}.{suffix}", part.len());
        let file = match self.disk.create(&name) {
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            file => file.map_err(at(|| format!("make {name}")))?,
        };
        file.write_at(part, 0).and_then(|()| file.sync()).map_err(at(|| format!("write {name}")))?;
        self.disk.sync_folder(QUARANTINE).map_err(at(|| "sync quarantine".into()))?;
        let length = part.len();
        self.found
            .damages
            .push(format!("segment {number}: {length} damaged bytes at {offset}, which {meaning}; copied to {name}"));
        self.found.rot += u64::from(kind == DamageKind::Rot);
        Ok(())
    }

    /// Large files that no record refers to: of a message that was closed, or never accepted.
    fn remove_orphans(&mut self) -> Result<(), RecoveryError> {
        for name in list(self.disk, large::FOLDER)? {
            let known = |id| self.index.as_ref().is_some_and(|index| index.get(id).is_some());
            if name.parse().is_ok_and(known) {
                continue;
            }
            if self.found.rot > 0 {
                self.found.damages.push(format!(
                    "large/{name}: no record refers to it, perhaps because of the damage; left as it is"
                ));
            } else {
                let path = format!("{}/{name}", large::FOLDER);
                self.disk.remove(&path).map_err(at(|| format!("remove {path}")))?;
            }
        }
        Ok(())
    }
}

/// `None`: the record checks, but its fields are not as we write them.
fn enter(index: &mut Index, place: Location, record: Record) -> Option<()> {
    match record.kind {
        Kind::Accepted => {
            let accepted = Accepted::decode(record.fields)?;
            let content_bytes = accepted.large_bytes.unwrap_or(record.content.len() as u64);
            index.accept(&accepted, content_bytes, place, record.is_copy);
        }
        Kind::Attempt | Kind::Closed => {
            index.settle(&Attempt::decode(record.fields)?, record.is_copy);
        }
    }
    Some(())
}

fn list(disk: &dyn Disk, folder: &str) -> Result<Vec<String>, RecoveryError> {
    disk.list(folder).map_err(at(|| format!("list {folder}")))
}

/// What the file holds from `offset` on, at most `length_max` bytes.
fn read(file: &dyn DiskFile, offset: u64, length_max: u64) -> io::Result<Vec<u8>> {
    let length = file.length()?.saturating_sub(offset).min(length_max);
    let mut bytes = vec![0; length as usize];
    file.read_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn at(step: impl FnOnce() -> String) -> impl FnOnce(io::Error) -> RecoveryError {
    move |source| RecoveryError::Io { step: step(), source }
}
