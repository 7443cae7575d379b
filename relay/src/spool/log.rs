//! The writer: the only one who appends to the log. One write and one sync for all that waits, then the answers.
//!
//! [`Log::commit`] is a function of batch, disk and clock; the thread in [`run`] only loops it.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    disk::{Disk, DiskFile},
    field::{Accepted, Attempt},
    index::{Entry, Index, Location},
    large,
    record::{self, Key, Kind, Record},
    segment::{Ending, Header, Previous, RECORDS_START, SEGMENT_BYTES_MAX},
};
use crate::mail::id::MessageId;

/// Folder of the segments.
pub const FOLDER: &str = "log";
/// Messages in one commit. 64 busy clients filled 11 to 35, so only a very slow disk reaches this.
const COMMIT_MESSAGES_MAX: usize = 256;
/// Bytes in one commit, but for its last record: what a slow disk (50 MB/s) syncs in a tenth of a second.
const COMMIT_BYTES_MAX: usize = 4 << 20;
/// A segment is closed at this age, so that delivered content leaves a quiet relay's disk too.
const SEGMENT_AGE_MAX: Duration = Duration::from_secs(3600);
/// How often an idle writer looks at the segment's age, and a broken one tries a new segment.
const TICK: Duration = Duration::from_secs(1);

/// Proof that a message is on stable storage. The field is private: only the writer makes one.
#[derive(Debug)]
pub struct Receipt {
    id: MessageId,
}

impl Receipt {
    /// The message that is ours now.
    pub fn id(&self) -> MessageId {
        self.id
    }
}

/// Why a message or an outcome was not kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotKept {
    /// The volume is full; nothing was written, or what was written is void.
    Full,
    /// The disk failed; nothing was written, or what was written is void.
    Disk,
    /// It may or may not be on the disk, so neither yes nor no would be true: only silence is.
    Unknown,
}

/// What someone wants recorded.
pub enum Wish {
    /// A message is to become ours.
    Accept {
        /// Its envelope and trace field.
        accepted: Box<Accepted>,
        /// The same as it is written.
        fields: Vec<u8>,
        /// Its content, unless that stands in a large file.
        content: Vec<u8>,
        /// Who waits for it.
        answer: oneshot::Sender<Result<Receipt, NotKept>>,
    },
    /// An attempt was made.
    Settle {
        /// What came of it.
        attempt: Attempt,
        /// Who waits for it; hears whether the message is closed now.
        answer: oneshot::Sender<Result<bool, NotKept>>,
    },
}

/// What the writer shares with those who read.
pub struct Shared {
    /// The way to files.
    pub disk: Arc<dyn Disk>,
    /// False while no segment can be written.
    pub writable: AtomicBool,
    /// Bytes free on the volume, as the writer found them within the last second.
    pub free_bytes: AtomicU64,
    state: Mutex<State>,
}

/// Index and segments, under one lock: a location is of use only while its segment exists.
pub struct State {
    /// The open messages.
    pub index: Index,
    /// Key and length of each segment on disk, by number.
    pub segments: BTreeMap<u64, (Key, u64)>,
}

impl Shared {
    /// As recovery found it.
    pub fn new(disk: Arc<dyn Disk>, state: State) -> Self {
        let free_bytes = AtomicU64::new(disk.free_bytes().unwrap_or_default());
        Self { disk, writable: AtomicBool::new(true), free_bytes, state: Mutex::new(state) }
    }

    /// Locks index and segments. Held only for look-ups and updates, never over I/O.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Name of a segment's file.
pub fn path(number: u64) -> String {
    format!("{FOLDER}/{number:016}.seg")
}

/// The writer's own state.
pub struct Log {
    shared: Arc<Shared>,
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
}

/// What became of a commit's two kinds of wishes.
#[derive(Debug)]
pub struct Committed {
    accepted: Result<(), NotKept>,
    settled: Result<(), NotKept>,
    /// For each wish, the message that it closed.
    closed: Vec<Option<Entry>>,
}

impl Committed {
    /// For the messages in the batch.
    #[cfg(test)]
    pub fn accepted(&self) -> Result<(), NotKept> {
        self.accepted
    }

    /// For the outcomes in the batch.
    #[cfg(test)]
    pub fn settled(&self) -> Result<(), NotKept> {
        self.settled
    }

    fn refused(reason: NotKept) -> Self {
        Self { accepted: Err(reason), settled: Err(reason), closed: Vec::new() }
    }
}

impl Log {
    /// Begins a new segment, as each start does. `previous`: what became of the last one.
    pub fn begin(
        shared: Arc<Shared>,
        previous: Option<Previous>,
        next_number: u64,
        now: Timestamp,
    ) -> io::Result<Self> {
        let mut log = Self { shared, current: None, previous, next_number, batch: Vec::new() };
        log.begin_segment(now)?;
        Ok(log)
    }

    /// Writes and syncs the whole batch, or says of each kind of wish why not.
    pub fn commit(&mut self, wishes: &[Wish], now: Timestamp) -> Committed {
        if let Err(cause) = self.make_room(wishes, now) {
            return Committed::refused(not_kept(&cause)); // nothing was written
        }
        match self.append(wishes) {
            Ok(closed) => Committed { accepted: Ok(()), settled: Ok(()), closed },
            Err(cause) => self.abandon(wishes, &cause, now),
        }
    }

    /// Looks at the volume, closes a segment that is old, begins one if there is none, removes those nobody needs.
    pub fn tick(&mut self, now: Timestamp) {
        match self.shared.disk.free_bytes() {
            Ok(free_bytes) => self.shared.free_bytes.store(free_bytes, Ordering::Relaxed),
            Err(cause) => tracing::error!(%cause, "ask for free space"),
        }
        let old = self.current.as_ref().is_none_or(|current| {
            current.end > RECORDS_START && now.duration_since(current.made_at).unsigned_abs() >= SEGMENT_AGE_MAX
        });
        if old && let Err(cause) = self.begin_segment(now) {
            tracing::error!(%cause, "begin segment");
        }
        if let Err(cause) = self.reclaim() {
            tracing::error!(%cause, "reclaim segment");
        }
    }

    /// Makes sure that there is a segment and that the batch fits into it.
    fn make_room(&mut self, wishes: &[Wish], now: Timestamp) -> io::Result<()> {
        let most: usize = wishes.iter().map(Wish::size).sum();
        let fits = |current: &Current| current.end + most as u64 <= SEGMENT_BYTES_MAX;
        if self.current.as_ref().is_some_and(fits) { Ok(()) } else { self.begin_segment(now) }
    }

    /// Makes the next segment durable, empty as it is, and turns to it.
    fn begin_segment(&mut self, now: Timestamp) -> io::Result<()> {
        if let Some(Current { number, end, .. }) = self.current {
            self.previous = Some(Previous { number, end, synced: end, ending: Ending::Sealed });
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
        Ok(Current { number, file, key: header.key(), made_at: now, end: RECORDS_START })
    }

    /// One write, one sync, then the index: the commit instant is the return of `sync`.
    fn append(&mut self, wishes: &[Wish]) -> io::Result<Vec<Option<Entry>>> {
        let Some(current) = &mut self.current else { return Err(io::Error::other("no segment")) };
        let records: Vec<_> = {
            let state = self.shared.state();
            wishes.iter().map(|wish| wish.record(&state.index)).collect()
        };
        self.batch.clear();
        let mut entering = Vec::with_capacity(wishes.len());
        for entry in &records {
            let start = self.batch.len();
            let (kind, fields, content) = match entry {
                Enter::Message { fields, content, .. } => (Kind::Accepted, *fields, *content),
                Enter::Fates { kind, fields, .. } => (*kind, fields.as_slice(), &[][..]),
            };
            let record = Record { kind, is_copy: false, synced: current.end, fields, content };
            record::append(&mut self.batch, current.end, current.key, &record);
            let length = (self.batch.len() - start) as u64;
            entering.push(Location { segment: current.number, offset: current.end + start as u64, length });
        }
        current.file.write_at(&self.batch, current.end)?;
        current.file.sync()?;
        current.end += self.batch.len() as u64;
        self.shared.writable.store(true, Ordering::Relaxed);
        let mut state = self.shared.state();
        if let Some((_, length)) = state.segments.get_mut(&current.number) {
            *length = current.end;
        }
        Ok(records.into_iter().zip(entering).map(|(entry, place)| entry.into_index(&mut state.index, place)).collect())
    }

    /// After a failed write or sync that file is never synced again: the kernel may have dropped its pages.
    ///
    /// The next segment's header makes void what was written, and takes the outcomes; only then is "no" the truth.
    fn abandon(&mut self, wishes: &[Wish], cause: &io::Error, now: Timestamp) -> Committed {
        tracing::error!(%cause, "write segment; a new one is begun");
        self.give_up_segment();
        match self.begin_segment(now).and_then(|()| self.append_outcomes(wishes)) {
            Ok(closed) => Committed { accepted: Err(not_kept(cause)), settled: Ok(()), closed },
            Err(cause) => {
                tracing::error!(%cause, "begin segment; nothing is accepted or delivered until one can be written");
                self.give_up_segment();
                Committed::refused(NotKept::Unknown)
            }
        }
    }

    fn append_outcomes(&mut self, wishes: &[Wish]) -> io::Result<Vec<Option<Entry>>> {
        let outcome = |wish: &Wish| matches!(wish, Wish::Settle { .. });
        wishes
            .iter()
            .map(
                |wish| {
                    if outcome(wish) { Ok(self.append(std::slice::from_ref(wish))?.pop().flatten()) } else { Ok(None) }
                },
            )
            .collect()
    }

    fn give_up_segment(&mut self) {
        if let Some(Current { number, end, .. }) = self.current.take() {
            self.previous = Some(Previous { number, end, synced: end, ending: Ending::SyncFailed });
        }
        self.shared.writable.store(false, Ordering::Relaxed);
    }

    /// Removes segments from the oldest on, while nobody needs them (docs/spool.md, "Who removes what").
    fn reclaim(&mut self) -> io::Result<()> {
        loop {
            let oldest = {
                let state = self.shared.state();
                let Some(oldest) = state.segments.keys().next().copied() else { return Ok(()) };
                let in_use = self.current.as_ref().is_none_or(|current| current.number == oldest);
                if in_use || state.index.needs(oldest) {
                    return Ok(());
                }
                oldest
            };
            self.shared.disk.remove(&path(oldest))?;
            // Before the next one goes: if this one came back after a crash without the records that
            // close its messages, they would be delivered again.
            self.shared.disk.sync_folder(FOLDER)?;
            self.shared.state().segments.remove(&oldest);
        }
    }
}

/// What a wish writes, and enters into the index when that is durable.
enum Enter<'a> {
    Message { accepted: &'a Accepted, fields: &'a [u8], content: &'a [u8] },
    Fates { kind: Kind, attempt: Attempt, fields: Vec<u8> },
}

impl Wish {
    /// Bytes that its record takes at most.
    fn size(&self) -> usize {
        match self {
            Self::Accept { fields, content, .. } => record::length(fields.len(), content.len()),
            Self::Settle { attempt, .. } => record::length(attempt.encode().len(), 0),
        }
    }

    fn record(&self, index: &Index) -> Enter<'_> {
        match self {
            Self::Accept { accepted, fields, content, .. } => Enter::Message { accepted, fields, content },
            Self::Settle { attempt, .. } => {
                // An outcome can come twice, when the first answer was `Unknown`. It must not count twice.
                let attempt = index.news_in(attempt);
                let kind = if index.would_close(&attempt) { Kind::Closed } else { Kind::Attempt };
                let fields = attempt.encode();
                Enter::Fates { kind, attempt, fields }
            }
        }
    }
}

impl Enter<'_> {
    /// Returns the message that this closes.
    fn into_index(self, index: &mut Index, place: Location) -> Option<Entry> {
        match self {
            Self::Message { accepted, content, .. } => {
                index.accept(accepted, accepted.large_bytes.unwrap_or(content.len() as u64), place, false);
                None
            }
            Self::Fates { attempt, .. } => index.settle(&attempt, false),
        }
    }
}

/// What the system's words mean for a sender.
pub fn not_kept(cause: &io::Error) -> NotKept {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => NotKept::Full,
        _ => NotKept::Disk,
    }
}

/// The writer's thread: ends when all who could send wishes are gone. `synced` is told how long each commit took.
pub fn run(mut log: Log, inbox: &Receiver<Wish>, synced: impl Fn(Duration)) {
    let mut ticked = Instant::now();
    loop {
        if ticked.elapsed() >= TICK {
            log.tick(Timestamp::now());
            ticked = Instant::now();
        }
        let wishes = match next_batch(inbox) {
            Ok(wishes) => wishes,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let begun = Instant::now();
        let committed = log.commit(&wishes, Timestamp::now());
        synced(begun.elapsed());
        let closed = committed.closed.iter().any(Option::is_some);
        answer(&log.shared, wishes, committed);
        if closed && let Err(cause) = log.reclaim() {
            tracing::error!(%cause, "reclaim segment");
        }
    }
}

/// Waits for one wish and takes what came with it: no timer, batches form while the disk works.
fn next_batch(inbox: &Receiver<Wish>) -> Result<Vec<Wish>, RecvTimeoutError> {
    let first = inbox.recv_timeout(TICK)?;
    let mut bytes = first.size();
    let mut wishes = vec![first];
    while wishes.len() < COMMIT_MESSAGES_MAX && bytes < COMMIT_BYTES_MAX {
        let Ok(next) = inbox.try_recv() else { break };
        bytes += next.size();
        wishes.push(next);
    }
    Ok(wishes)
}

/// Tells everybody. Who no longer listens has lost its connection; the message is ours all the same.
fn answer(shared: &Shared, wishes: Vec<Wish>, committed: Committed) {
    let mut closed = committed.closed.into_iter();
    for wish in wishes {
        let closed = closed.next().flatten();
        match wish {
            Wish::Accept { accepted, answer, .. } => {
                let id = accepted.envelope.id;
                let _ = answer.send(committed.accepted.map(|()| Receipt { id }));
            }
            Wish::Settle { attempt, answer } => {
                if closed.as_ref().is_some_and(|entry| entry.is_large) {
                    // Only after the `Closed` record is durable. What fails here is removed at the next start.
                    let _ = shared.disk.remove(&large::path(attempt.id));
                }
                let _ = answer.send(committed.settled.map(|()| closed.is_some()));
            }
        }
    }
}
