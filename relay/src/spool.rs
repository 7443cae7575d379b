//! The spool: keeps messages on the volume and finds them again. docs/spool.md is its contract.
//!
//! It knows files and records; it knows nothing of SMTP, of schedules or of the network.

pub mod disk;
pub mod field;
pub mod folder;
pub mod segment;
pub mod record;
pub mod footer;
pub mod index;
pub mod large;
pub mod wish;
pub mod log;
pub mod writer;
pub mod quarantine;
pub mod survey;
pub mod recovery;
pub mod shared;
pub mod search;
pub mod history;
pub mod scrub;
#[cfg(test)]
mod faulty_disk;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    ops::RangeInclusive,
    sync::{Arc, Weak, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use backupmx_relay_api::status::Account;
use jiff::Timestamp;
use tokio::sync::oneshot;
use uuid::Uuid;

use self::{
    disk::Disk,
    field::{Accepted, Change, HeldNote, HeldReason},
    history::Event,
    index::{Entry, Location},
    large::{LargeReader, LargeWriter},
    log::Limits,
    record::{FIELDS_BYTES_MAX, INLINE_CONTENT_BYTES_MAX, Kind},
    search::{Cursor, Hit, Query},
    shared::Shared,
    wish::Wish,
    writer::Order,
};
pub use self::{index::Counts, survey::RecoveryError, wish::NotKept, writer::Receipt};
use crate::mail::{
    content::Source,
    envelope::{Envelope, Flow, Recipient},
    id::MessageId,
};

/// A history is read anew if reclaim removes a segment meanwhile, but not for ever.
const HISTORY_TRIES: u32 = 5;

/// The way to all that the spool does. Clones share it; the writer ends with the last one.
#[derive(Clone)]
pub struct Spool {
    shared: Arc<Shared>,
    // Unbounded, but never longer than there are sessions, connections and what orders change at a time: each has one wish
    // under way.
    orders: mpsc::Sender<Order>,
}

/// Whom the spool tells what it does, besides those who asked for it.
pub struct Watchers {
    /// How long each commit took.
    pub synced: Box<dyn Fn(Duration) + Send>,
    /// How many damaged parts were found that had been synced once.
    pub rot: Box<dyn Fn(u64) + Send>,
}

impl Spool {
    /// Reads what is there, and starts the writer and the scrub. Returns the messages in which somebody waits, oldest first, too.
    ///
    /// Blocks for as long as reading the footers takes, or the segments that have none.
    pub fn open(disk: Arc<dyn Disk>, watchers: Watchers) -> Result<(Self, Vec<(MessageId, Flow)>), RecoveryError> {
        let nonces = Box::new(|| Uuid::new_v4().into_bytes());
        let (shared, log) = recovery::recover(disk, Limits::default(), nonces, Timestamp::now())?;
        let waiting = {
            let state = shared.state();
            let waiting = state.index.iter().filter(|(_, entry)| !entry.is_held());
            waiting.map(|(id, entry)| (id, entry.flow)).collect()
        };
        let (orders, inbox) = mpsc::channel();
        let Watchers { synced, rot } = watchers;
        let found = shared.damages().rot;
        rot(found);
        thread("spool-writer", move || writer::run(log, &inbox, &*synced))?;
        let scrubbed = Arc::downgrade(&shared);
        thread("spool-scrub", move || scrub_until_gone(&scrubbed, found, &*rot))?;
        Ok((Self { shared, orders }, waiting))
    }

    /// Begins a message: its content goes into what this returns.
    pub fn begin(&self, envelope: Envelope, trace: Vec<u8>) -> Incoming {
        let accepted = Accepted { envelope, trace, line_end_added: false, large_bytes: None, standing: None };
        Incoming { spool: self.clone(), accepted, content: Vec::new(), large: None }
    }

    /// Makes what happened to a message durable. True if the message is closed by it.
    pub async fn change(&self, change: Change) -> Result<bool, NotKept> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::Change(Wish::change(change), answer)).map_err(|_| NotKept::Disk)?;
        answered.await.unwrap_or(Err(NotKept::Unknown))
    }

    /// Reads a message that waits; `Ok(None)` if nobody in it does any more.
    pub async fn read(&self, id: MessageId) -> Result<Option<Stored>, ReadError> {
        Ok(self.read_any(id).await?.filter(|stored| !stored.waiting.is_empty()))
    }

    /// Reads a message that waits or is held; `Ok(None)` if it is closed or was never here.
    pub async fn read_any(&self, id: MessageId) -> Result<Option<Stored>, ReadError> {
        let mut tried = None;
        loop {
            let Some((entry, key)) = self.locate(id) else { return Ok(None) };
            let (disk, location) = (self.shared.disk.clone(), entry.location);
            match blocking(move || load(&*disk, &entry, key)).await {
                // Reclaim may have copied it forward and removed where it stood.
                Err(ReadError::Damaged) if tried != Some(location) => tried = Some(location),
                result => return result.map(Some),
            }
        }
    }

    fn locate(&self, id: MessageId) -> Option<(Entry, record::Key)> {
        let state = self.shared.state();
        let entry = state.index.get(id)?.clone();
        let key = state.segments.get(&entry.location.segment)?.key;
        Some((entry, key))
    }

    /// Open messages that the query means, from the oldest segment on.
    ///
    /// Stops at `limit` messages or after `time_max`; then `from` for the next call comes with what was found.
    pub async fn search(
        &self,
        query: Query,
        from: Cursor,
        limit: usize,
        time_max: Duration,
    ) -> Result<(Vec<Hit>, Option<Cursor>), io::Error> {
        let (shared, deadline) = (self.shared.clone(), Instant::now() + time_max);
        blocking(move || Ok(search::search(&shared, &query, from, limit, search::until(deadline)))).await
    }

    /// Each record about a message that the log still holds, in order; none if it knows nothing of it. Reads every footer.
    pub async fn history(&self, id: MessageId) -> Result<Vec<Event>, io::Error> {
        let shared = self.shared.clone();
        let read = move || {
            let mut tries = 0..HISTORY_TRIES;
            loop {
                let segments = shared.state().segments.clone();
                match history::history(&*shared.disk, &segments, id, &mut |_, _| {}) {
                    // Reclaim removed a segment in the meantime; what was open in it stands in a newer one.
                    Err(cause) if cause.kind() == io::ErrorKind::NotFound && tries.next().is_some() => {}
                    result => return result,
                }
            }
        };
        blocking(read).await
    }

    /// Places of a message's recipients that wait.
    pub fn waiting(&self, id: MessageId) -> Vec<u32> {
        self.stands(id).map_or_else(Vec::new, |stands| stands.waiting)
    }

    /// The first message among these ids in which somebody waits. Passes over those that are held.
    pub fn first_waiting(&self, ids: RangeInclusive<MessageId>) -> Option<MessageId> {
        self.shared.state().index.first_waiting(ids)
    }

    /// Open messages that came from then on, in milliseconds since 1970: how many, and bytes of their content, with the least and the
    /// greatest id. Looks at each: for the start.
    pub fn came_since(&self, ms: i64) -> Option<(u64, u64, [MessageId; 2])> {
        self.shared.state().index.from(MessageId::least_at_ms(ms))
    }

    /// How an open message stands; `None` if it is closed or was never here.
    pub fn stands(&self, id: MessageId) -> Option<Stands> {
        let state = self.shared.state();
        let entry = state.index.get(id)?;
        let (waiting, held) = (entry.waiting().collect(), entry.held().collect());
        let waits_since_ms = state.index.waits_since_ms(id);
        Some(Stands { flow: entry.flow, waiting, held, note: state.index.held_note(id), waits_since_ms })
    }

    /// In how many messages somebody is held, by reason. A message in which somebody waits, too, is among them.
    pub fn held_by_reason(&self) -> BTreeMap<HeldReason, u64> {
        let state = self.shared.state();
        HeldReason::ALL.into_iter().map(|reason| (reason, state.index.held_because_of(reason))).collect()
    }

    /// Messages in which somebody has been held for one of these reasons since before then, oldest first.
    pub fn held_before(&self, reasons: &[HeldReason], cutoff_ms: i64, limit: usize) -> Vec<MessageId> {
        let state = self.shared.state();
        let is_meant = |note: &HeldNote| note.since_ms < cutoff_ms && reasons.contains(&note.reason);
        let meant = state.index.held_notes().filter(|(_, note)| is_meant(note));
        meant.map(|(id, _)| id).take(limit).collect()
    }

    /// Messages in which somebody has waited since before then, oldest first. Who was released waits anew.
    pub fn waiting_before(&self, cutoff_ms: i64, limit: usize) -> Vec<MessageId> {
        let state = self.shared.state();
        let old = state.index.iter().take_while(|(id, _)| id.made_at_ms() < cutoff_ms);
        let is_old = |id: MessageId| state.index.waits_since_ms(id) < cutoff_ms;
        old.filter(|(id, entry)| !entry.is_held() && is_old(*id)).map(|(id, _)| id).take(limit).collect()
    }

    /// Leaves the log in good order, before the process ends.
    pub async fn close(&self) {
        let (answer, answered) = oneshot::channel();
        if self.orders.send(Order::Close(answer)).is_ok() {
            let _ = answered.await;
        }
    }

    /// What became of every recipient.
    pub fn account(&self) -> Account {
        self.shared.state().index.account()
    }

    /// So many recipients got a message from the primary itself, which was never ours. Durable within a second or two, with the account.
    pub fn passed(&self, recipients: usize) {
        self.shared.state().index.passed(recipients as u64);
    }

    /// What waits.
    pub fn counts(&self) -> Counts {
        self.shared.state().index.counts()
    }

    /// Bytes that segments and large files take.
    pub fn bytes(&self) -> u64 {
        let state = self.shared.state();
        state.segments.values().map(|segment| segment.length).sum::<u64>() + state.index.large_bytes()
    }

    /// Bytes free on the volume, at most a second old.
    pub fn free_bytes(&self) -> u64 {
        self.shared.free_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that new mail may take: none while what is left is for what becomes of mail.
    pub fn room_bytes(&self) -> u64 {
        if self.is_on_last_room() { 0 } else { self.free_bytes() }
    }

    /// Whether the log stands on its reserve, or on what little else there is.
    pub fn is_on_last_room(&self) -> bool {
        self.shared.on_last_room.load(Ordering::Relaxed)
    }

    /// What was found damaged so far, a sentence each, and how many of those parts had been synced once.
    pub fn damages(&self) -> (Vec<String>, u64) {
        let damages = self.shared.damages();
        (damages.told.clone(), damages.rot)
    }

    /// False while nothing can be made durable.
    pub fn is_writable(&self) -> bool {
        self.shared.writable.load(Ordering::Relaxed)
    }
}

/// How an open message stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stands {
    /// Whose mail it is.
    pub flow: Flow,
    /// Places of the recipients that are to be tried.
    pub waiting: Vec<u32>,
    /// Places of those that are held.
    pub held: Vec<u32>,
    /// Why and since when, if there are any.
    pub note: Option<HeldNote>,
    /// Since when it waits, in milliseconds since 1970: since it came, or was released.
    pub waits_since_ms: i64,
}

/// A message that is coming in. Dropped, it leaves nothing behind.
pub struct Incoming {
    spool: Spool,
    accepted: Accepted,
    content: Vec<u8>,
    large: Option<LargeWriter>,
}

impl Incoming {
    /// The message's id.
    pub fn id(&self) -> MessageId {
        self.accepted.envelope.id
    }

    /// Whom it is for.
    pub fn recipients(&self) -> &[Recipient] {
        &self.accepted.envelope.recipients
    }

    /// Our trace field.
    pub fn trace(&self) -> &[u8] {
        &self.accepted.trace
    }

    /// Where content is appended. Call [`Incoming::spill`] after each read.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.content
    }

    /// The content came without its last line end, and got one.
    pub fn line_end_was_added(&mut self) {
        self.accepted.line_end_added = true;
    }

    /// Moves the buffer to a file of its own once it is larger than a record may be, and from then on in pieces of
    /// `piece_bytes` at least.
    pub async fn spill(&mut self, piece_bytes: usize) -> Result<(), NotKept> {
        let bytes_max = if self.large.is_some() { piece_bytes } else { INLINE_CONTENT_BYTES_MAX };
        if self.content.len() > bytes_max { self.spill_now().await } else { Ok(()) }
    }

    /// Moves the buffer to a file of its own, however small it is.
    pub async fn spill_now(&mut self) -> Result<(), NotKept> {
        let content = std::mem::take(&mut self.content);
        let (large, disk) = (self.large.take(), self.spool.shared.disk.clone());
        let (id, fields) = (self.id(), if large.is_none() { self.fields()? } else { Vec::new() });
        let written = blocking(move || {
            let mut large = large.map_or_else(|| LargeWriter::create(disk, id, &fields), Ok)?;
            large.push(&content).map(|()| (large, content))
        });
        let (large, mut content) = written.await.map_err(|cause| log_write(&cause))?;
        content.clear();
        (self.large, self.content) = (Some(large), content);
        Ok(())
    }

    /// The fields of the record, unless no reader would take one of that size: who asked for it should have refused it.
    fn fields(&self) -> Result<Vec<u8>, NotKept> {
        let fields = self.accepted.encode();
        if fields.len() > FIELDS_BYTES_MAX {
            tracing::error!(id = %self.id(), bytes = fields.len(), "an envelope is too large for a record");
            return Err(NotKept::Disk);
        }
        Ok(fields)
    }

    /// The content so far, once more from its begin.
    pub fn so_far(&self) -> SoFar<'_> {
        let written = self.large.as_ref().map(LargeWriter::written);
        SoFar { written, rest: Some(&self.content) }
    }

    /// How long the content is so far.
    pub fn content_bytes(&self) -> u64 {
        self.large.as_ref().map_or(0, LargeWriter::content_bytes) + self.content.len() as u64
    }

    /// It is not needed. Dropping it does the same, but removes a large file where it holds up sessions.
    pub async fn discard(self) {
        if let Some(large) = self.large {
            let removed = move || {
                drop(large);
                Ok::<_, io::Error>(())
            };
            let _ = blocking(removed).await;
        }
    }

    /// Makes the message durable. Only then is it ours.
    pub async fn keep(mut self) -> Result<Receipt, NotKept> {
        if let Some(mut large) = self.large.take() {
            let rest = std::mem::take(&mut self.content);
            let finished = blocking(move || large.push(&rest).and_then(|()| large.finish())).await;
            self.accepted.large_bytes = Some(finished.map_err(|cause| log_write(&cause))?.release());
        }
        let (answer, answered) = oneshot::channel();
        let (id, is_large) = (self.id(), self.accepted.large_bytes.is_some());
        let (arrival, fields) = (self.accepted.arrival(), self.fields()?);
        let wish = Wish::Accept { arrival, fields, content: self.content, is_copy: false };
        self.spool.orders.send(Order::Keep(wish, answer)).map_err(|_| NotKept::Disk)?;
        let outcome = answered.await.unwrap_or(Err(NotKept::Unknown));
        if is_large && matches!(outcome, Err(NotKept::Full | NotKept::Disk)) {
            // Its client hears no, and on a full disk every byte counts. After `Unknown` a record may refer to it.
            let disk = self.spool.shared.disk.clone();
            let _ = blocking(move || disk.remove(&large::path(id))).await;
        }
        outcome
    }
}

/// Pieces in which it is read from memory: what is copied is there twice for the moment.
const SO_FAR_PIECE_BYTES: usize = 32 << 10;

/// The content of a message that is coming in: from its file as far as it is there, then from memory.
pub struct SoFar<'a> {
    written: Option<large::Written>,
    rest: Option<&'a [u8]>,
}

impl Source for SoFar<'_> {
    async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if let Some(mut written) = self.written.take() {
            let (written, piece) = blocking(move || written.next_piece().map(|piece| (written, piece))).await?;
            if let Some(piece) = piece {
                self.written = Some(written);
                return Ok(Some(piece));
            }
        }
        let Some(rest) = self.rest.take().filter(|rest| !rest.is_empty()) else { return Ok(None) };
        let (piece, rest) = rest.split_at(rest.len().min(SO_FAR_PIECE_BYTES));
        self.rest = Some(rest);
        Ok(Some(piece.to_vec()))
    }
}

/// A message as it is read back.
#[derive(Debug)]
pub struct Stored {
    /// Its envelope.
    pub envelope: Envelope,
    /// Our trace field, which goes before the content.
    pub trace: Vec<u8>,
    /// Places of the recipients that are to be tried.
    pub waiting: Vec<u32>,
    /// Length of the content.
    pub content_bytes: u64,
    /// The content came without its last line end, and got one.
    pub line_end_added: bool,
    /// The content.
    pub content: Content,
    /// Attempts so far that deferred somebody.
    pub deferrals: u32,
}

/// Content on the volume, in pieces.
pub enum Content {
    /// It was read with its record.
    Inline(Option<Vec<u8>>),
    /// It stands in a file of its own.
    Large(Option<Box<LargeReader>>),
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("content") // mail never goes to a log
    }
}

impl Content {
    /// The next piece, as [`Source::next`] gives it. Blocks.
    pub fn next_piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Inline(content) => Ok(content.take().filter(|content| !content.is_empty())),
            Self::Large(reader) => reader.as_mut().map_or(Ok(None), |reader| reader.next_piece()),
        }
    }
}

impl Source for Content {
    async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Inline(content) => content.next().await,
            Self::Large(reader) => {
                let Some(mut taken) = reader.take() else { return Ok(None) };
                let (taken, piece) = blocking(move || taken.next_piece().map(|piece| (taken, piece))).await?;
                *reader = Some(taken);
                Ok(piece)
            }
        }
    }
}

/// Why a message cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Its bytes do not match their checksum, or are gone.
    #[error("stored bytes are damaged")]
    Damaged,
    /// The disk says no; it may say yes later.
    #[error("read spool: {0}")]
    Io(#[from] io::Error),
}

/// The `Accepted` record that stands there, and the message's content. Blocks.
pub fn read_accepted(disk: &dyn Disk, place: Location, key: record::Key) -> Result<(Accepted, Content), ReadError> {
    let (mut bytes, offset) = (vec![0; place.length as usize], u64::from(place.offset));
    disk.open(&log::path(place.segment)).and_then(|file| file.read_at(&mut bytes, offset)).map_err(damaged)?;
    let (record, _) = record::decode(&bytes, offset, key).ok_or(ReadError::Damaged)?;
    let accepted = (record.kind == Kind::Accepted).then(|| Accepted::decode(record.fields)).flatten();
    let accepted = accepted.ok_or(ReadError::Damaged)?;
    let content = match accepted.large_bytes {
        Some(large_bytes) => {
            let reader = LargeReader::open(disk, accepted.envelope.id).map_err(damaged)?;
            let whole = reader.rest_bytes() == large_bytes;
            Content::Large(Some(whole.then(|| Box::new(reader)).ok_or(ReadError::Damaged)?))
        }
        None => Content::Inline(Some(record.content.to_vec())),
    };
    Ok((accepted, content))
}

/// Reads a message from where the index says that it stands. Blocks.
pub fn load(disk: &dyn Disk, entry: &Entry, key: record::Key) -> Result<Stored, ReadError> {
    let (Accepted { envelope, trace, line_end_added, large_bytes: _, standing: _ }, content) =
        read_accepted(disk, entry.location, key)?;
    Ok(Stored {
        envelope,
        trace,
        waiting: entry.waiting().collect(),
        content_bytes: entry.content_bytes,
        line_end_added,
        content,
        deferrals: u32::from(entry.deferrals),
    })
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), RecoveryError> {
    let spawned = std::thread::Builder::new().name(name.into()).spawn(work);
    spawned.map(|_| ()).map_err(|source| RecoveryError::Io { step: format!("start thread {name}"), source })
}

/// Round after round, in short sleeps, until the spool is closed.
fn scrub_until_gone(shared: &Weak<Shared>, mut told: u64, rot: &dyn Fn(u64)) {
    const SLICE: Duration = Duration::from_millis(250);
    let (mut place, mut begun) = (Some(scrub::BEGIN), Instant::now());
    let mut ahead = 0.0_f64; // bytes read beyond what the pace allows
    while let Some(shared) = shared.upgrade() {
        if let Some(at) = place.filter(|_| ahead <= 0.0) {
            let (read, next) = scrub::step(&shared, at);
            (place, ahead) = (next, ahead + read as f64);
        } else if place.is_none() && begun.elapsed() >= scrub::ROUND {
            (place, begun) = (Some(scrub::BEGIN), Instant::now());
        } else {
            let total_bytes = {
                let state = shared.state();
                state.segments.values().map(|segment| segment.length).sum::<u64>() + state.index.large_bytes()
            };
            let now_known = shared.damages().rot;
            rot(now_known - told);
            told = now_known;
            drop(shared); // it is not held while nothing is done
            std::thread::sleep(SLICE);
            ahead = (ahead - scrub::pace(total_bytes) as f64 * SLICE.as_secs_f64()).max(0.0);
        }
    }
}

fn damaged(cause: io::Error) -> ReadError {
    if large::is_damage(&cause) { ReadError::Damaged } else { ReadError::Io(cause) }
}

fn log_write(cause: &io::Error) -> NotKept {
    tracing::error!(%cause, "write large message");
    log::not_kept(cause)
}

/// Runs what waits for the disk where it does not hold up the sessions.
async fn blocking<T: Send + 'static, E: From<io::Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(cause) => Err(io::Error::other(cause).into()),
    }
}
