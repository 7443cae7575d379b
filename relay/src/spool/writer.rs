//! The writer: commits all that waits, and alone answers that something is kept. Its thread only loops its steps.

use std::{
    collections::HashSet,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::{
    large,
    log::{Done, Log},
    wish::{NotKept, Wish},
};
use crate::mail::id::MessageId;

/// Messages in one commit. 64 busy clients filled 11 to 35, so only a very slow disk reaches this.
const COMMIT_MESSAGES_MAX: usize = 256;
/// Bytes in one commit, but for its last record: where a fast disk (1 GB/s) was quickest, and what a slow one (50 MB/s) syncs in
/// a fiftieth of a second. Longer writes leave the processor's cache before they are copied on: 4 MiB took half as much again.
const COMMIT_BYTES_MAX: usize = 1 << 20;
/// How often the log looks after itself: [`Writer::tick`].
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
    /// To make a message ours.
    Keep(Wish, oneshot::Sender<Result<Receipt, NotKept>>),
    /// To record what happened to one; answered with whether it is closed by that.
    Change(Wish, oneshot::Sender<Result<bool, NotKept>>),
    /// To leave the log in good order, since the process ends.
    Close(oneshot::Sender<()>),
}

impl Order {
    fn wish(&self) -> Option<&Wish> {
        match self {
            Self::Keep(wish, _) | Self::Change(wish, _) => Some(wish),
            Self::Close(_) => None,
        }
    }
}

/// The log and the answers. The thread only loops its steps, so a simulation runs the same code.
pub struct Writer {
    log: Log,
}

/// Who waits for an answer.
enum Answer {
    Keep(oneshot::Sender<Result<Receipt, NotKept>>),
    Change(oneshot::Sender<Result<bool, NotKept>>),
}

impl Writer {
    /// Writes to this log.
    pub fn new(log: Log) -> Self {
        Self { log }
    }

    /// Records all that is wanted, and answers everybody: in one commit, unless two want something of the same message.
    pub fn step(&mut self, mut orders: Vec<Order>, now: Timestamp) {
        while !orders.is_empty() {
            let rest = orders.split_off(first_repeated(&orders));
            self.commit(std::mem::replace(&mut orders, rest), now);
        }
    }

    fn commit(&mut self, orders: Vec<Order>, now: Timestamp) {
        let (mut wishes, mut answers, mut closing) = (Vec::new(), Vec::new(), None);
        for order in orders {
            match order {
                Order::Keep(wish, answer) => {
                    wishes.push(wish);
                    answers.push(Answer::Keep(answer));
                }
                Order::Change(wish, answer) => {
                    wishes.push(wish);
                    answers.push(Answer::Change(answer));
                }
                Order::Close(answer) => closing = Some(answer),
            }
        }
        if !wishes.is_empty() {
            let done = self.log.commit(&wishes, now);
            let closed = done.iter().any(|done| matches!(done, Ok(Some(_))));
            for ((wish, answer), done) in wishes.iter().zip(answers).zip(done) {
                self.answer(wish.id(), answer, done);
            }
            if closed {
                self.log.remove_unneeded();
            }
        }
        if let Some(closing) = closing {
            self.log.tick(now);
            let _ = closing.send(());
        }
    }

    /// What is to be done every second, with mail or without.
    pub fn tick(&mut self, now: Timestamp) {
        self.log.tick(now);
    }

    /// Who no longer listens has lost its connection; what is recorded is recorded all the same.
    fn answer(&self, id: MessageId, answer: Answer, done: Done) {
        if done.as_ref().is_ok_and(|closed| closed.as_ref().is_some_and(|entry| entry.is_large)) {
            // Only after the record that closes it is durable. What fails here is removed at the next start.
            let _ = self.log.shared().disk.remove(&large::path(id));
        }
        match answer {
            Answer::Keep(answer) => {
                let _ = answer.send(done.map(|_| Receipt { id }));
            }
            Answer::Change(answer) => {
                let _ = answer.send(done.map(|closed| closed.is_some()));
            }
        }
    }
}

/// Where a second order concerns the same message. What is news in it shows only when the first is in the index: else an
/// outcome and a deletion of the same recipient would both be written, and both be counted at the next start.
fn first_repeated(orders: &[Order]) -> usize {
    let mut seen = HashSet::new();
    let is_repeated = |order: &Order| order.wish().is_some_and(|wish| !seen.insert(wish.id()));
    orders.iter().position(is_repeated).unwrap_or(orders.len())
}

/// Runs until all who could give orders are gone. `synced` is told how long each commit took.
pub fn run(log: Log, orders: &Receiver<Order>, synced: &dyn Fn(Duration)) {
    let _guard = EndWithProcess;
    let (mut writer, mut ticked) = (Writer::new(log), Instant::now());
    loop {
        if ticked.elapsed() >= TICK {
            writer.tick(Timestamp::now());
            ticked = Instant::now();
        }
        match next_batch(orders) {
            Ok(batch) => {
                let begun = Instant::now();
                writer.step(batch, Timestamp::now());
                synced(begun.elapsed());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
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

/// Waits for one order and takes what came with it: no timer, batches form while the disk works.
fn next_batch(orders: &Receiver<Order>) -> Result<Vec<Order>, RecvTimeoutError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    let mut next = orders.recv_timeout(TICK)?;
    loop {
        bytes += next.wish().map_or(0, Wish::size);
        let is_last = matches!(next, Order::Close(_));
        batch.push(next);
        if is_last || batch.len() >= COMMIT_MESSAGES_MAX || bytes >= COMMIT_BYTES_MAX {
            return Ok(batch);
        }
        match orders.try_recv() {
            Ok(order) => next = order,
            Err(_) => return Ok(batch),
        }
    }
}
