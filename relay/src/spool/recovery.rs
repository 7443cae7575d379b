//! The start: reads every segment, rebuilds index and account, copies damage aside. Nothing is truncated or repaired.

use std::{collections::BTreeMap, io, ops::Range, sync::Arc};

use jiff::Timestamp;

use super::{
    disk::{Disk, DiskFile},
    field::{self, Accepted, Attempt},
    index::{Index, Location},
    large,
    log::{self, Log},
    record::{Key, Kind, Record},
    segment::{self, BadHeader, DamageKind, Ending, FORMAT_VERSION, Header, Previous},
    shared::{Shared, State},
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
        "segment {number} was written by a newer program (this one knows format {FORMAT_VERSION}); use that program again"
    )]
    Newer {
        /// Which.
        number: u64,
    },
}

/// What the start found besides the messages.
#[derive(Default)]
pub struct Found {
    /// Damaged parts, a sentence each.
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
    let mut recovery = Recovery {
        disk: &*disk,
        found: Found::default(),
        index: Index::default(),
        segments: BTreeMap::new(),
        last: None,
    };
    let headers = recovery.read_headers()?;
    let next_number = headers.keys().next_back().map_or(1, |last| last + 1);
    let said_of: BTreeMap<u64, Previous> = headers
        .values()
        .flatten()
        .filter_map(|header| header.previous)
        .map(|previous| (previous.number, previous))
        .collect();
    for (number, header) in &headers {
        match header {
            Some(header) => recovery.read_segment(*number, header, said_of.get(number).copied())?,
            None => recovery.set_aside(*number)?,
        }
    }
    recovery.recall_damage()?;
    recovery.remove_orphans()?;
    if !recovery.found.damages.is_empty() {
        recovery.index.admit_damage();
    }
    let Recovery { found, index, segments, last, .. } = recovery;
    let shared = Arc::new(Shared::new(disk.clone(), State { index, segments }));
    let log = Log::begin(shared.clone(), last, next_number, now);
    Ok((shared, log, found))
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    found: Found,
    index: Index,
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
            let start = read(&*file, segment::RECORDS_START).map_err(at(|| format!("read segment {number}")))?;
            let header = match Header::decode(&start) {
                Ok(header) => Some(header),
                Err(BadHeader::Damaged) => None,
                Err(BadHeader::Newer) => return Err(RecoveryError::Newer { number }),
            };
            headers.insert(number, header);
        }
        Ok(headers)
    }

    /// `next`: what the following segment's header says of this one.
    fn read_segment(&mut self, number: u64, header: &Header, next: Option<Previous>) -> Result<(), RecoveryError> {
        let file = self.disk.open(&log::path(number)).map_err(at(|| format!("open segment {number}")))?;
        if next.is_none() {
            // A process that died leaves records that only the kernel's memory holds. What is counted now must last.
            file.sync().map_err(at(|| format!("sync segment {number}")))?;
        }
        let bytes = read(&*file, segment::SEGMENT_BYTES_MAX).map_err(at(|| format!("read segment {number}")))?;
        self.index.set_totals(header.totals);
        let (mut unreadable, mut newer) = (Vec::new(), false);
        let index = &mut self.index;
        let scan = segment::scan(&bytes, header.key(), next, |offset, length, record| {
            newer |= record.kind == Kind::Later;
            if enter(index, Location { segment: number, offset, length }, record).is_none() {
                unreadable.push((offset..offset + length, DamageKind::Rot));
            }
        });
        if newer {
            return Err(RecoveryError::Newer { number });
        }
        self.segments.insert(number, (header.key(), scan.end));
        self.last = Some(Previous { number, end: scan.end, ending: Ending::Crash });
        let damages = scan.damages.into_iter().map(|damage| (damage.range, damage.kind));
        for (range, kind) in damages.chain(unreadable) {
            // A tear between two records of a batch is still there at later starts, which know the segment as synced.
            let known_tear = self.is_known_tear(number, &range);
            self.quarantine(number, &bytes, range, if known_tear { DamageKind::Tear } else { kind });
        }
        Ok(())
    }

    fn is_known_tear(&self, number: u64, range: &Range<u64>) -> bool {
        let name = copy_name(number, range.start, range.end - range.start, DamageKind::Tear);
        self.disk.list(QUARANTINE).is_ok_and(|names| names.contains(&name))
    }

    /// A segment whose header is gone: its records cannot be read without the nonce. A crash leaves such a file
    /// while it is begun, and then nothing is behind the header. It leaves the log only once its copy is whole.
    fn set_aside(&mut self, number: u64) -> Result<(), RecoveryError> {
        let file = self.disk.open(&log::path(number)).map_err(at(|| format!("open segment {number}")))?;
        let bytes = read(&*file, segment::SEGMENT_BYTES_MAX).map_err(at(|| format!("read segment {number}")))?;
        let kind = if bytes.len() as u64 > segment::RECORDS_START { DamageKind::Rot } else { DamageKind::Tear };
        if self.quarantine(number, &bytes, 0..bytes.len() as u64, kind) {
            self.disk.remove(&log::path(number)).map_err(at(|| format!("remove segment {number}")))?;
        }
        Ok(())
    }

    /// Notes a damaged part and copies it aside. True if the copy is whole; without one we go on all the same.
    fn quarantine(&mut self, number: u64, segment: &[u8], range: Range<u64>, kind: DamageKind) -> bool {
        let meaning = match kind {
            DamageKind::Rot => "it had been synced, so mail may be lost",
            DamageKind::Tear => "it is not known to have been synced, so most likely nobody was told that it is kept",
        };
        let part = segment.get(range.start as usize..(range.end as usize).min(segment.len())).unwrap_or_default();
        let name = copy_name(number, range.start, part.len() as u64, kind);
        let copied = self.copy_aside(&name, part);
        let place =
            format!("segment {number}: {} damaged bytes at {}; {meaning}", range.end - range.start, range.start);
        self.found.damages.push(match &copied {
            Ok(()) => format!("{place}; copied to {QUARANTINE}/{name}"),
            Err(cause) => format!("{place}; not copied aside: {cause}"),
        });
        self.found.rot += u64::from(kind == DamageKind::Rot);
        copied.is_ok()
    }

    /// The name tells where the part stood, and exists only once the copy is whole: each start finds the same damage.
    fn copy_aside(&self, name: &str, part: &[u8]) -> io::Result<()> {
        if self.disk.list(QUARANTINE)?.iter().any(|there| there == name) {
            return Ok(());
        }
        let temporary = format!("{}/{name}", large::TEMPORARY_FOLDER);
        let file = self.disk.create(&temporary)?;
        file.write_at(part, 0)?;
        file.sync()?;
        self.disk.rename(&temporary, &format!("{QUARANTINE}/{name}"))?;
        self.disk.sync_folder(QUARANTINE)
    }

    /// Rot of segments that are no longer in the log stays a problem until a person has cleared the copies away.
    fn recall_damage(&mut self) -> Result<(), RecoveryError> {
        for name in list(self.disk, QUARANTINE)?.iter().filter(|name| name.ends_with(".rot")) {
            if !self.found.damages.iter().any(|told| told.ends_with(name)) {
                let number = name.split('-').next().unwrap_or_default().trim_start_matches('0');
                let cure = "look at it, and remove it when nothing in it is missed";
                self.found
                    .damages
                    .push(format!("segment {number}: an earlier start found damage; {cure}: {QUARANTINE}/{name}"));
            }
        }
        Ok(())
    }

    /// Large files that no record refers to: of a message that was closed, or never accepted. After any damage the
    /// record may be what was damaged, so they stay.
    fn remove_orphans(&mut self) -> Result<(), RecoveryError> {
        let damaged = !self.found.damages.is_empty();
        for name in list(self.disk, large::FOLDER)? {
            if name.parse().is_ok_and(|id| self.index.get(id).is_some()) {
                continue;
            }
            let path = format!("{}/{name}", large::FOLDER);
            if damaged {
                self.found
                    .damages
                    .push(format!("{path}: no record refers to it, perhaps because of the damage; left as it is"));
            } else {
                self.disk.remove(&path).map_err(at(|| format!("remove {path}")))?;
            }
        }
        Ok(())
    }
}

/// Names where a part stood, so that each start finds the copy that an earlier one made.
fn copy_name(number: u64, start: u64, length: u64, kind: DamageKind) -> String {
    let suffix = match kind {
        DamageKind::Rot => "rot",
        DamageKind::Tear => "torn",
    };
    format!("{number:016}-{start}-{length}.{suffix}")
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
        Kind::Mark => index.set_totals(field::decode_mark(record.fields)?),
        Kind::Later => {}
    }
    Some(())
}

fn list(disk: &dyn Disk, folder: &str) -> Result<Vec<String>, RecoveryError> {
    disk.list(folder).map_err(at(|| format!("list {folder}")))
}

/// What the file holds, at most `length_max` bytes of it.
fn read(file: &dyn DiskFile, length_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.length()?.min(length_max) as usize];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn at(step: impl FnOnce() -> String) -> impl FnOnce(io::Error) -> RecoveryError {
    move |source| RecoveryError::Io { step: step(), source }
}
