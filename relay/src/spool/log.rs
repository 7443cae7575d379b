//! The log as the writer appends to it: one write and one sync for a whole batch. A function of batch, disk and clock.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    disk::DiskFile,
    field,
    index::{Entry, Location},
    record::{self, Key, Kind, Record},
    segment::{Ending, Header, Previous, RECORDS_START, SEGMENT_BYTES_MAX},
    shared::Shared,
    wish::{NotKept, Wish},
};

/// Folder of the segments.
pub const FOLDER: &str = "log";
/// A segment is closed at this age, so that delivered content leaves a quiet relay's disk too.
const SEGMENT_AGE_MAX: Duration = Duration::from_secs(3600);

/// Room that each batch leaves for the mark behind it: a record with the totals.
const MARK_BYTES_MAX: u64 = 128;

/// Name of a segment's file.
pub fn path(number: u64) -> String {
    format!("{FOLDER}/{number:016}.seg")
}

/// The writer's own state.
pub struct Log {
    shared: Arc<Shared>,
    /// `None` after a failure, until a new one could be made.
    current: Option<Current>,
    /// What the next header says of the segment before it.
    previous: Option<Previous>,
    next_number: u64,
    batch: Vec<u8>,
}

/// The segment that is being written.
struct Current {
    number: u64,
    file: Arc<dyn DiskFile>,
    key: Key,
    made_at: Timestamp,
    /// Everything below is synced; the next batch goes here.
    end: u64,
    /// Up to here a record or the header says so.
    said_synced: u64,
}

/// What became of a commit's two kinds of wishes.
#[derive(Debug)]
pub struct Committed {
    /// For the messages in the batch.
    pub accepted: Result<(), NotKept>,
    /// For the outcomes in the batch.
    pub settled: Result<(), NotKept>,
    /// For each wish, the message that it closed; shorter if nothing was settled.
    pub closed: Vec<Option<Entry>>,
}

impl Committed {
    fn refused(reason: NotKept) -> Self {
        Self { accepted: Err(reason), settled: Err(reason), closed: Vec::new() }
    }
}

impl Log {
    /// Begins a new segment, as each start does; if that fails, each tick tries again, and nothing is taken until then.
    ///
    /// `previous`: what became of the last one. `next_number`: larger than that of any segment on disk.
    pub fn begin(shared: Arc<Shared>, previous: Option<Previous>, next_number: u64, now: Timestamp) -> Self {
        let mut log = Self { shared, current: None, previous, next_number, batch: Vec::new() };
        log.tick(now);
        log
    }

    /// What the log shares with its readers.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Writes and syncs the whole batch, or says of each kind of wish why not.
    pub fn commit(&mut self, wishes: &[Wish], now: Timestamp) -> Committed {
        let wishes: Vec<_> = wishes.iter().collect();
        if let Err(cause) = self.make_room(&wishes, now) {
            return Committed::refused(not_kept(&cause)); // nothing was written
        }
        match self.append(&wishes) {
            Ok(closed) => Committed { accepted: Ok(()), settled: Ok(()), closed },
            Err(cause) => self.abandon(&wishes, &cause, now),
        }
    }

    /// Looks at the volume, says that the last batch is synced, closes an old segment, begins one if there is none,
    /// removes those nobody needs. Called every second, and at the end.
    pub fn tick(&mut self, now: Timestamp) {
        match self.shared.disk.free_bytes() {
            Ok(free_bytes) => self.shared.free_bytes.store(free_bytes, Ordering::Relaxed),
            Err(cause) => tracing::error!(%cause, "ask for free space"),
        }
        if let Err(cause) = self.mark() {
            tracing::error!(%cause, "write segment; a new one is begun");
            self.give_up_segment();
        }
        let old = self.current.as_ref().is_none_or(|current| {
            current.end > RECORDS_START && now.duration_since(current.made_at).unsigned_abs() >= SEGMENT_AGE_MAX
        });
        if old && let Err(cause) = self.begin_segment(now) {
            tracing::error!(%cause, "begin segment; nothing is accepted or delivered until one can be written");
        }
        self.reclaim();
    }

    /// Removes segments from the oldest on, while nobody needs them (docs/spool.md, "Who removes what").
    pub fn reclaim(&mut self) {
        while let Some(oldest) = self.unneeded() {
            // The folder is synced before the next one goes: if this one came back after a crash without the
            // records that close its messages, they would be delivered again.
            let disk = &self.shared.disk;
            if let Err(cause) = disk.remove(&path(oldest)).and_then(|()| disk.sync_folder(FOLDER)) {
                tracing::error!(%cause, segment = oldest, "remove segment");
                return;
            }
            self.shared.state().segments.remove(&oldest);
        }
    }

    fn unneeded(&self) -> Option<u64> {
        let current = self.current.as_ref()?;
        let state = self.shared.state();
        let oldest = *state.segments.keys().next()?;
        (oldest != current.number && !state.index.needs(oldest)).then_some(oldest)
    }

    /// Makes sure that there is a segment and that the batch fits into it.
    fn make_room(&mut self, wishes: &[&Wish], now: Timestamp) -> io::Result<()> {
        let most: usize = wishes.iter().map(|wish| wish.size()).sum();
        let fits = |current: &Current| current.end + most as u64 + MARK_BYTES_MAX <= SEGMENT_BYTES_MAX;
        if self.current.as_ref().is_some_and(fits) { Ok(()) } else { self.begin_segment(now) }
    }

    /// Makes the next segment durable, empty as it is, and turns to it.
    ///
    /// The one before is left for good first: a new header that is not wanted may survive, and what it says of the
    /// end of the segment before must stay true.
    fn begin_segment(&mut self, now: Timestamp) -> io::Result<()> {
        if let Some(Current { number, end, .. }) = self.current.take() {
            self.previous = Some(Previous { number, end, ending: Ending::Sealed });
        }
        let number = self.next_number;
        self.next_number += 1; // also after a failure, whose file may be in the way
        let made = self.make_segment(number, now);
        if made.is_err() {
            // A full disk would collect one file a second.
            let _ = self.shared.disk.remove(&path(number));
        }
        self.shared.writable.store(made.is_ok(), Ordering::Relaxed);
        let current = made?;
        self.shared.state().segments.insert(number, (current.key, current.end));
        self.current = Some(current);
        Ok(())
    }

    fn make_segment(&self, number: u64, now: Timestamp) -> io::Result<Current> {
        let header = Header {
            number,
            nonce: *Uuid::new_v4().as_bytes(),
            made_at_ms: now.as_millisecond(),
            previous: self.previous,
            totals: self.shared.state().index.account(),
        };
        let file = self.shared.disk.create(&path(number))?;
        file.write_at(&header.encode(), 0)?;
        // Header and name before the first record: what is synced later must be found and readable.
        file.sync()?;
        self.shared.disk.sync_folder(FOLDER)?;
        let end = RECORDS_START;
        Ok(Current { number, file, key: header.key(), made_at: now, end, said_synced: end })
    }

    /// One write, one sync, then the index: the commit instant is the return of `sync`.
    fn append(&mut self, wishes: &[&Wish]) -> io::Result<Vec<Option<Entry>>> {
        let Some(current) = &mut self.current else { return Err(io::Error::other("no segment")) };
        let entering: Vec<_> = {
            let state = self.shared.state();
            wishes.iter().map(|wish| wish.enter(&state.index)).collect()
        };
        self.batch.clear();
        let mut places = Vec::with_capacity(wishes.len());
        for enter in &entering {
            let start = self.batch.len();
            let (kind, fields, content) = enter.record();
            let record = Record { kind, is_copy: false, synced: current.end, fields, content };
            record::append(&mut self.batch, current.end, current.key, &record);
            let length = (self.batch.len() - start) as u64;
            places.push(Location { segment: current.number, offset: current.end + start as u64, length });
        }
        current.write(&self.batch)?;
        let mut state = self.shared.state();
        if let Some((_, length)) = state.segments.get_mut(&current.number) {
            *length = current.end;
        }
        Ok(entering.into_iter().zip(places).map(|(enter, place)| enter.into_index(&mut state.index, place)).collect())
    }

    /// Says that the last batch is synced, where no later record does, and how the account stands: damage in that
    /// batch is then told as what it is, and what it took is known.
    fn mark(&mut self) -> io::Result<()> {
        let Some(current) = self.current.as_mut().filter(|current| current.said_synced < current.end) else {
            return Ok(());
        };
        self.batch.clear();
        let fields = field::encode_mark(&self.shared.state().index.account());
        let mark = Record { kind: Kind::Mark, is_copy: false, synced: current.end, fields: &fields, content: &[] };
        record::append(&mut self.batch, current.end, current.key, &mark);
        current.write(&self.batch)?;
        current.said_synced = current.end; // nobody needs the mark itself
        Ok(())
    }

    /// After a failed write or sync that file is never synced again: the kernel may have dropped its pages.
    ///
    /// The next segment's header makes void what was written, and takes the outcomes; only then is "no" the truth.
    fn abandon(&mut self, wishes: &[&Wish], cause: &io::Error, now: Timestamp) -> Committed {
        tracing::error!(%cause, "write segment; a new one is begun");
        self.give_up_segment();
        let outcomes: Vec<_> = wishes.iter().copied().filter(|wish| wish.is_outcome()).collect();
        match self.begin_segment(now).and_then(|()| self.append(&outcomes)) {
            Ok(closed) => {
                let mut closed = closed.into_iter();
                let closed = wishes.iter().map(|wish| wish.is_outcome().then(|| closed.next().flatten()).flatten());
                Committed { accepted: Err(not_kept(cause)), settled: Ok(()), closed: closed.collect() }
            }
            Err(cause) => {
                tracing::error!(%cause, "begin segment; nothing is accepted or delivered until one can be written");
                self.give_up_segment();
                Committed::refused(NotKept::Unknown)
            }
        }
    }

    fn give_up_segment(&mut self) {
        if let Some(Current { number, end, .. }) = self.current.take() {
            self.previous = Some(Previous { number, end, ending: Ending::SyncFailed });
        }
        self.shared.writable.store(false, Ordering::Relaxed);
    }
}

impl Current {
    /// Appends bytes and syncs them.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.file.write_at(bytes, self.end)?;
        self.file.sync()?;
        self.said_synced = self.end;
        self.end += bytes.len() as u64;
        Ok(())
    }
}

/// What the system's words mean for a sender.
pub fn not_kept(cause: &io::Error) -> NotKept {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => NotKept::Full,
        _ => NotKept::Disk,
    }
}
