//! The writer's thread: loops the log's step over all that waits, and alone answers that something is kept.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::{
    index::Entry,
    large,
    log::{Committed, Log},
    shared::Shared,
    wish::Wish,
};
use crate::mail::id::MessageId;

/// Messages in one commit. 64 busy clients filled 11 to 35, so only a very slow disk reaches this.
const COMMIT_MESSAGES_MAX: usize = 256;
/// Bytes in one commit, but for its last record: what a slow disk (50 MB/s) syncs in a tenth of a second.
const COMMIT_BYTES_MAX: usize = 4 << 20;
/// How often the log looks after itself: [`Log::tick`].
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

/// What the writer is told.
pub enum Order {
    /// To record something.
    Record(Wish),
    /// To leave the log in good order, since the process ends.
    Close(oneshot::Sender<()>),
}

/// Runs until all who could give orders are gone. `synced` is told how long each commit took.
pub fn run(mut log: Log, orders: &Receiver<Order>, synced: impl Fn(Duration)) {
    let _guard = EndWithProcess;
    let mut ticked = Instant::now();
    loop {
        if ticked.elapsed() >= TICK {
            log.tick(Timestamp::now());
            ticked = Instant::now();
        }
        let (wishes, closing) = match next_batch(orders) {
            Ok(batch) => batch,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if !wishes.is_empty() {
            let begun = Instant::now();
            let committed = log.commit(&wishes, Timestamp::now());
            synced(begun.elapsed());
            let closed = committed.closed.iter().any(Option::is_some);
            answer(log.shared(), wishes, committed);
            if closed {
                log.reclaim();
            }
        }
        if let Some(closing) = closing {
            log.tick(Timestamp::now());
            let _ = closing.send(());
        }
    }
}

/// A relay without a writer would take mail at MAIL and keep none: better that somebody starts it anew.
struct EndWithProcess;

impl Drop for EndWithProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::exit(1);
        }
    }
}

/// Waits for one wish and takes what came with it: no timer, batches form while the disk works.
fn next_batch(orders: &Receiver<Order>) -> Result<(Vec<Wish>, Option<oneshot::Sender<()>>), RecvTimeoutError> {
    let (mut wishes, mut bytes) = (Vec::new(), 0);
    let mut next = orders.recv_timeout(TICK)?;
    loop {
        match next {
            Order::Close(answer) => return Ok((wishes, Some(answer))),
            Order::Record(wish) => {
                bytes += wish.size();
                wishes.push(wish);
            }
        }
        if wishes.len() >= COMMIT_MESSAGES_MAX || bytes >= COMMIT_BYTES_MAX {
            return Ok((wishes, None));
        }
        match orders.try_recv() {
            Ok(order) => next = order,
            Err(_) => return Ok((wishes, None)),
        }
    }
}

/// Tells everybody. Who no longer listens has lost its connection; the message is ours all the same.
fn answer(shared: &Shared, wishes: Vec<Wish>, committed: Committed) {
    let mut closed = committed.closed.into_iter();
    for wish in wishes {
        let closed: Option<Entry> = closed.next().flatten();
        match wish {
            Wish::Accept { accepted, answer, .. } => {
                let id = accepted.envelope.id;
                let _ = answer.send(committed.accepted.map(|()| Receipt { id }));
            }
            Wish::Settle { attempt, answer, .. } => {
                if closed.as_ref().is_some_and(|entry| entry.is_large) {
                    // Only after the `Closed` record is durable. What fails here is removed at the next start.
                    let _ = shared.disk.remove(&large::path(attempt.id));
                }
                let _ = answer.send(committed.settled.map(|()| closed.is_some()));
            }
        }
    }
}
