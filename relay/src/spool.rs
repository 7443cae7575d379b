//! The spool: keeps messages on the volume and finds them again. docs/spool.md is its contract.
//!
//! It knows files and records; it knows nothing of SMTP, of schedules or of the network.

pub mod disk;
pub mod field;
pub mod folder;
mod segment;
mod record;
mod index;
mod large;
mod wish;
mod log;
mod writer;
mod recovery;
mod shared;
#[cfg(test)]
mod faulty_disk;
#[cfg(test)]
mod tests;

use std::{
    io,
    sync::{Arc, atomic::Ordering, mpsc},
    time::Duration,
};

use backupmx_relay_api::status::Account;
use jiff::Timestamp;
use tokio::sync::oneshot;

use self::{
    disk::Disk,
    field::{Accepted, Attempt},
    index::{Entry, Location},
    large::{LargeReader, LargeWriter},
    record::{INLINE_CONTENT_BYTES_MAX, Kind},
    shared::Shared,
    wish::Wish,
    writer::Order,
};
pub use self::{index::Counts, recovery::RecoveryError, wish::NotKept, writer::Receipt};
use crate::mail::{content::Source, envelope::Envelope, id::MessageId};

/// The way to all that the spool does. Clones share it; the writer ends with the last one.
#[derive(Clone)]
pub struct Spool {
    shared: Arc<Shared>,
    // Unbounded, but never longer than there are sessions and connections: each has one wish under way.
    orders: mpsc::Sender<Order>,
}

/// What the start found.
pub struct Recovered {
    /// Messages in which somebody waits, oldest first.
    pub waiting: Vec<MessageId>,
    /// Damaged parts, a sentence each.
    pub damages: Vec<String>,
    /// How many of them had been synced once.
    pub rot: u64,
}

impl Spool {
    /// Reads what is there and starts the writer. `synced` hears how long each commit took.
    ///
    /// Blocks for as long as reading all segments takes.
    pub fn open(
        disk: Arc<dyn Disk>,
        synced: impl Fn(Duration) + Send + 'static,
    ) -> Result<(Self, Recovered), RecoveryError> {
        let (shared, log, found) = recovery::recover(disk, Timestamp::now())?;
        let waiting = shared.state().index.iter().filter(|(_, entry)| !entry.is_held()).map(|(id, _)| id).collect();
        let (orders, inbox) = mpsc::channel();
        let writer = std::thread::Builder::new().name("spool-writer".into());
        writer
            .spawn(move || writer::run(log, &inbox, synced))
            .map_err(|source| RecoveryError::Io { step: "start writer".into(), source })?;
        Ok((Self { shared, orders }, Recovered { waiting, damages: found.damages, rot: found.rot }))
    }

    /// Begins a message: its content goes into what this returns.
    pub fn begin(&self, envelope: Envelope, trace: Vec<u8>) -> Incoming {
        let accepted = Accepted { envelope, trace, large_bytes: None };
        Incoming { spool: self.clone(), accepted, content: Vec::new(), large: None }
    }

    /// Makes an attempt's outcome durable. True if the message is closed by it.
    pub async fn settle(&self, attempt: Attempt) -> Result<bool, NotKept> {
        let (answer, answered) = oneshot::channel();
        let wish = Wish::Settle { fields: attempt.encode(), attempt, answer };
        self.orders.send(Order::Record(wish)).map_err(|_| NotKept::Disk)?;
        answered.await.unwrap_or(Err(NotKept::Unknown))
    }

    /// Reads a message that waits; `Ok(None)` if nobody in it does any more.
    pub async fn read(&self, id: MessageId) -> Result<Option<Stored>, ReadError> {
        let found = {
            let state = self.shared.state();
            state.index.get(id).and_then(|entry| {
                let (key, _) = state.segments.get(&entry.location.segment)?;
                Some((entry.clone(), *key))
            })
        };
        let Some((entry, key)) = found else { return Ok(None) };
        let disk = self.shared.disk.clone();
        blocking(move || read_record(&*disk, id, &entry, key)).await.map(Some)
    }

    /// Places of a message's recipients that wait.
    pub fn waiting(&self, id: MessageId) -> Vec<u32> {
        self.shared.state().index.get(id).map_or_else(Vec::new, |entry| entry.waiting().collect())
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

    /// What waits.
    pub fn counts(&self) -> Counts {
        self.shared.state().index.counts()
    }

    /// Bytes that segments and large files take.
    pub fn bytes(&self) -> u64 {
        let state = self.shared.state();
        state.segments.values().map(|(_, length)| length).sum::<u64>() + state.index.large_bytes()
    }

    /// Bytes free on the volume, at most a second old.
    pub fn free_bytes(&self) -> u64 {
        self.shared.free_bytes.load(Ordering::Relaxed)
    }

    /// False while nothing can be made durable.
    pub fn is_writable(&self) -> bool {
        self.shared.writable.load(Ordering::Relaxed)
    }
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

    /// Where content is appended. Call [`Incoming::spill`] after each piece.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.content
    }

    /// Moves the buffer to a file of its own once it is larger than a record may be.
    pub async fn spill(&mut self) -> Result<(), NotKept> {
        if self.content.len() <= INLINE_CONTENT_BYTES_MAX {
            return Ok(());
        }
        let content = std::mem::take(&mut self.content);
        let (large, disk) = (self.large.take(), self.spool.shared.disk.clone());
        let (id, fields) = (self.id(), if large.is_none() { self.accepted.encode() } else { Vec::new() });
        let written = blocking(move || {
            let mut large = large.map_or_else(|| LargeWriter::create(disk, id, &fields), Ok)?;
            large.push(&content).map(|()| (large, content))
        });
        let (large, mut content) = written.await.map_err(|cause| log_write(&cause))?;
        content.clear();
        (self.large, self.content) = (Some(large), content);
        Ok(())
    }

    /// Makes the message durable. Only then is it ours.
    pub async fn keep(mut self) -> Result<Receipt, NotKept> {
        if let Some(mut large) = self.large.take() {
            let rest = std::mem::take(&mut self.content);
            let finished = blocking(move || large.push(&rest).and_then(|()| large.finish())).await;
            self.accepted.large_bytes = Some(finished.map_err(|cause| log_write(&cause))?);
        }
        let (answer, answered) = oneshot::channel();
        let fields = self.accepted.encode();
        let (id, is_large) = (self.id(), self.accepted.large_bytes.is_some());
        let wish = Wish::Accept { accepted: Box::new(self.accepted), fields, content: self.content, answer };
        self.spool.orders.send(Order::Record(wish)).map_err(|_| NotKept::Disk)?;
        let outcome = answered.await.unwrap_or(Err(NotKept::Unknown));
        if is_large && matches!(outcome, Err(NotKept::Full | NotKept::Disk)) {
            // Its client hears no, and on a full disk every byte counts. After `Unknown` a record may refer to it.
            let disk = self.spool.shared.disk.clone();
            let _ = blocking(move || disk.remove(&large::path(id))).await;
        }
        outcome
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

fn read_record(disk: &dyn Disk, id: MessageId, entry: &Entry, key: record::Key) -> Result<Stored, ReadError> {
    let Location { segment, offset, length } = entry.location;
    let mut bytes = vec![0; length as usize];
    disk.open(&log::path(segment)).and_then(|file| file.read_at(&mut bytes, offset)).map_err(damaged)?;
    let (record, _) = record::decode(&bytes, offset, key).ok_or(ReadError::Damaged)?;
    let accepted = (record.kind == Kind::Accepted).then(|| Accepted::decode(record.fields)).flatten();
    let Accepted { envelope, trace, large_bytes } = accepted.ok_or(ReadError::Damaged)?;
    let content = match large_bytes {
        Some(_) => Content::Large(Some(Box::new(LargeReader::open(disk, id).map_err(damaged)?))),
        None => Content::Inline(Some(record.content.to_vec())),
    };
    Ok(Stored {
        envelope,
        trace,
        waiting: entry.waiting().collect(),
        content_bytes: entry.content_bytes,
        content,
        deferrals: entry.deferrals,
    })
}

/// What is missing or does not fit will not heal; all else may.
fn damaged(cause: io::Error) -> ReadError {
    match cause.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound => ReadError::Damaged,
        _ => ReadError::Io(cause),
    }
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
