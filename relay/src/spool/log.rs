//! The log as the writer appends to it: one write and one sync for a whole batch. A function of batch, disk and clock.

mod reclaim;
mod space;

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use jiff::Timestamp;

use self::reclaim::Cleaning;
pub use self::space::write_footer;
use super::{
    disk::DiskFile,
    field,
    footer::{self, Line},
    index::{Entry, Location},
    record::{self, Key, Kind, Record},
    segment::{Ending, Previous, RECORDS_START, SEGMENT_BYTES_MAX},
    shared::{Segment, Shared},
    wish::{NotKept, Wish},
};

/// Folder of the segments.
pub const FOLDER: &str = "log";
/// Folder of the file that is turned into a segment when the volume is full.
pub const RESERVE_FOLDER: &str = "reserve";

/// Room that each batch leaves for the mark behind it: a record with the totals.
const MARK_BYTES_MAX: u64 = 128;

/// Name of a segment's file.
pub fn path(number: u64) -> String {
    format!("{FOLDER}/{number:016}.seg")
}

/// Name of its footer's file.
pub fn footer_path(number: u64) -> String {
    format!("{FOLDER}/{number:016}.footer")
}

/// How large and how old things get. Simulations take smaller ones, so that they see more of them end.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A segment is closed before it gets longer.
    pub segment_bytes: u64,
    /// A segment is closed at this age, so that delivered content leaves a quiet relay's disk too.
    pub segment_age: Duration,
    /// The reserve: at some 150 bytes an outcome, what 100,000 deliveries need.
    pub reserve_bytes: u64,
    /// What is asked for once the reserve is used: what 6,000 deliveries need. Less would be made anew too often.
    pub small_segment_bytes: u64,
    /// Content of closed messages is off the disk a day after; four hours are for the copying of what lies before it.
    pub closed_content_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES_MAX,
            segment_age: Duration::from_secs(3600),
            reserve_bytes: 16 << 20,
            small_segment_bytes: 1 << 20,
            closed_content_age: Duration::from_secs(20 * 3600),
        }
    }
}

/// Where the nonces of segments come from: chance is an argument, so that a simulation can be run again.
pub type Nonces = Box<dyn FnMut() -> [u8; 16] + Send>;

/// The writer's own state.
pub struct Log {
    shared: Arc<Shared>,
    limits: Limits,
    nonces: Nonces,
    /// `None` after a failure, until a new one could be made.
    current: Option<Current>,
    /// What the next header says of the segment before it, while there is no current one.
    previous: Option<Previous>,
    next_number: u64,
    has_reserve: bool,
    /// Why there is no segment, as it was logged last: it is tried every second, and told once.
    told: String,
    cleaning: Option<Cleaning>,
    batch: Vec<u8>,
}

/// The segment that is being written.
struct Current {
    number: u64,
    nonce: [u8; 16],
    key: Key,
    file: Arc<dyn DiskFile>,
    made_at: Timestamp,
    /// Everything below is synced; the next batch goes here.
    end: u64,
    /// Up to here a record or the header says so.
    said_synced: u64,
    /// Recipients passed on, as the last record or header says.
    said_passed: u64,
    /// It does not get longer than this.
    bytes_max: u64,
    /// Made of the last room that there is: it takes what became of mail, and no mail.
    is_last_room: bool,
    footer: footer::Builder,
}

/// What became of a wish: of a change, the message that it closed.
pub type Done = Result<Option<Entry>, NotKept>;

impl Log {
    /// Begins a new segment, as each start does; if that fails, each tick tries again, and nothing is taken until then.
    ///
    /// `previous`: what became of the last one. `next_number`: larger than that of any segment on disk.
    pub fn begin(
        shared: Arc<Shared>,
        limits: Limits,
        nonces: Nonces,
        previous: Option<Previous>,
        next_number: u64,
        now: Timestamp,
    ) -> Self {
        let (has_reserve, batch) = (space::reserve_is_there(&*shared.disk, limits), Vec::new());
        let mut log = Self {
            shared,
            limits,
            nonces,
            current: None,
            previous,
            next_number,
            has_reserve,
            told: String::new(),
            cleaning: None,
            batch,
        };
        log.tick(now);
        log
    }

    /// What the log shares with its readers.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Writes and syncs the whole batch, or says of each wish why not.
    pub fn commit(&mut self, wishes: &[Wish], now: Timestamp) -> Vec<Done> {
        let all: Vec<_> = wishes.iter().collect();
        if let Err(cause) = self.make_room(&all, now) {
            tracing::error!(%cause, "begin segment; mail is refused until one can be written");
            return self.save_changes(&all, not_kept(&cause), now); // nothing was written
        }
        match self.append(&all) {
            Ok(closed) => closed.into_iter().map(Ok).collect(),
            Err(cause) => self.abandon(&all, &cause, now),
        }
    }

    /// Looks at the volume, says that the last batch is synced, closes an old segment, begins one if there is none,
    /// leaves the reserve, makes a new one, and removes what nobody needs. Called every second, and at the end.
    pub fn tick(&mut self, now: Timestamp) {
        match self.shared.disk.free_bytes() {
            Ok(free_bytes) => self.shared.free_bytes.store(free_bytes, Ordering::Relaxed),
            Err(cause) => tracing::error!(%cause, "ask for free space"),
        }
        if let Err(cause) = self.mark() {
            tracing::error!(%cause, "write segment; a new one is begun");
            self.give_up_segment();
        }
        if self.is_segment_due(now) {
            self.begin_or_use_last_room(now);
        }
        self.keep_reserve();
        self.reclaim(now);
    }

    fn is_segment_due(&self, now: Timestamp) -> bool {
        let age_max = self.limits.segment_age;
        let is_full = !self.shared.writable.load(Ordering::Relaxed);
        is_full
            || self.current.as_ref().is_none_or(|current| {
                let is_old = now.duration_since(current.made_at).unsigned_abs() >= age_max;
                current.is_last_room || (current.end > RECORDS_START && is_old)
            })
    }

    /// Makes sure that there is a segment and that the batch fits into it.
    fn make_room(&mut self, wishes: &[&Wish], now: Timestamp) -> io::Result<()> {
        match &self.current {
            Some(current) if current.is_last_room && wishes.iter().any(|wish| wish.is_mail()) => {
                Err(io::Error::new(io::ErrorKind::StorageFull, "the log stands on the last room"))
            }
            Some(current) if current.fits(wishes) => Ok(()),
            _ => self.begin_segment(now),
        }
    }

    /// There is no room for all: what became of mail is recorded where there still is some, mail is refused.
    fn save_changes(&mut self, wishes: &[&Wish], reason: NotKept, now: Timestamp) -> Vec<Done> {
        let changes: Vec<_> = wishes.iter().copied().filter(|wish| wish.is_change()).collect();
        let all_refused = |changes: NotKept| -> Vec<Done> {
            wishes.iter().map(|wish| Err(if wish.is_change() { changes } else { reason })).collect()
        };
        if changes.is_empty() {
            return all_refused(reason);
        }
        let has_room = self.current.as_ref().is_some_and(|current| current.fits(&changes));
        if !has_room && let Err(cause) = self.begin_on_last_room(now) {
            tracing::error!(%cause, "record what became of mail; nothing is delivered until that works");
            self.shared.writable.store(false, Ordering::Relaxed);
            return all_refused(reason);
        }
        match self.append(&changes) {
            Ok(closed) => spread(wishes, closed, reason),
            Err(cause) => {
                tracing::error!(%cause, "write segment; a new one is begun");
                self.give_up_segment();
                all_refused(NotKept::Unknown) // mail was not among what was written, so no is true for it
            }
        }
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
            let (kind, fields, content, is_copy) = enter.record();
            let record = Record { kind, is_copy, synced: current.end, fields, content };
            record::append(&mut self.batch, current.end, current.key, &record);
            places.push((current.end + start as u64, (self.batch.len() - start) as u64));
        }
        current.write(&self.batch)?;
        let mut state = self.shared.state();
        if let Some(segment) = state.segments.get_mut(&current.number) {
            segment.length = current.end;
        }
        let enter = |(enter, (offset, length)): (super::wish::Enter, (u64, u64))| {
            let (kind, fields, content, is_copy) = enter.record();
            let line = Line::of(&Record { kind, is_copy, synced: 0, fields, content }, offset, length);
            current.footer.push(&line);
            let place = Location { segment: current.number, offset: line.offset, length: line.length };
            enter.into_index(&mut state.index, place)
        };
        Ok(entering.into_iter().zip(places).map(enter).collect())
    }

    /// Says that the last batch is synced, where no later record does, and how the account stands: damage in that
    /// batch is then told as what it is, and what it took is known. Mail that passed through stands nowhere else.
    fn mark(&mut self) -> io::Result<()> {
        let account = self.shared.state().index.account();
        let Some(current) = &mut self.current else { return Ok(()) };
        // The next segment's header tells it as well, should there be no room for it here.
        let has_room = current.end + 2 * MARK_BYTES_MAX <= current.bytes_max;
        let has_passed = current.said_passed != account.passed && has_room;
        if current.said_synced >= current.end && !has_passed {
            return Ok(());
        }
        current.said_passed = account.passed;
        self.batch.clear();
        let fields = field::encode_mark(&account);
        let mark = Record { kind: Kind::Mark, is_copy: false, synced: current.end, fields: &fields, content: &[] };
        record::append(&mut self.batch, current.end, current.key, &mark);
        current.write(&self.batch)?;
        current.said_synced = current.end; // nobody needs the mark itself
        Ok(())
    }

    /// After a failed write or sync that file is never synced again: the kernel may have dropped its pages.
    ///
    /// The next segment's header makes void what was written, and takes the outcomes; only then is "no" the truth.
    fn abandon(&mut self, wishes: &[&Wish], cause: &io::Error, now: Timestamp) -> Vec<Done> {
        tracing::error!(%cause, "write segment; a new one is begun");
        self.give_up_segment();
        if !self.begin_or_use_last_room(now) {
            return wishes.iter().map(|_| Err(NotKept::Unknown)).collect();
        }
        self.save_changes(wishes, not_kept(cause), now)
    }

    fn give_up_segment(&mut self) {
        if let Some(Current { number, end, .. }) = self.current.take() {
            // Zeros of what was the reserve, and what nobody was promised: the next one may need the room.
            let _ = self.shared.disk.trim(&path(number), end);
            self.previous = Some(Previous { number, end, ending: Ending::SyncFailed });
        }
        self.shared.writable.store(false, Ordering::Relaxed);
    }
}

/// Gives changes what became of them, and everything else its reason.
fn spread(wishes: &[&Wish], closed: Vec<Option<Entry>>, reason: NotKept) -> Vec<Done> {
    let mut closed = closed.into_iter();
    wishes.iter().map(|wish| if wish.is_change() { Ok(closed.next().flatten()) } else { Err(reason) }).collect()
}

impl Current {
    fn fits(&self, wishes: &[&Wish]) -> bool {
        let most: usize = wishes.iter().map(|wish| wish.size()).sum();
        self.end + most as u64 + MARK_BYTES_MAX <= self.bytes_max
    }

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
