//! What all measurements keep: messages as a server meets them, from as many writers as wanted.

use std::{
    fmt::Debug,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use backupmx_relay::{
    mail::{
        address::Address,
        envelope::{Body, Envelope, Flow, Protocol},
        id::MessageId,
        trace::{Circumstances, received_field},
    },
    spool::{
        Spool, Watchers,
        disk::{Disk, RealDisk},
        field::{Change, Fate},
        record::Kind,
    },
};
use jiff::Timestamp;
use tokio::{runtime::Runtime, task::JoinSet};

/// Opens a spool as the relay does. Returns the messages that wait, too.
pub fn open(disk: Arc<dyn Disk>) -> (Spool, Vec<(MessageId, Flow)>) {
    let watchers = Watchers { synced: Box::new(|_| {}), rot: Box::new(|_| {}) };
    Spool::open(disk, watchers).expect("a spool can be opened")
}

/// The folder as a spool sees it.
pub fn disk(folder: &Path) -> Arc<dyn Disk> {
    Arc::new(RealDisk::new(folder))
}

/// A runtime like the relay's.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be made")
}

/// A message of which each copy gets an id of its own.
#[derive(Clone)]
pub struct Message {
    content: Arc<[u8]>,
    recipients: Arc<[Address]>,
}

impl Message {
    /// With so much content, for so many.
    pub fn new(content_bytes: usize, recipients: usize) -> Self {
        let line = b"The quick brown fox jumps over the lazy dog, and nobody in this building minds it at all.\r\n";
        let content = line.iter().copied().cycle().take(content_bytes).collect();
        let recipient = |n| address(&format!("first.last{n}@example.org"));
        Self { content, recipients: (0..recipients).map(recipient).collect() }
    }

    /// Our trace field and the content, as they would go into a file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = trace(&self.envelope());
        bytes.extend_from_slice(&self.content);
        bytes
    }

    /// Returns once it is on stable storage.
    pub async fn keep(&self, spool: &Spool) -> MessageId {
        let envelope = self.envelope();
        let trace = trace(&envelope);
        let mut incoming = spool.begin(envelope, trace);
        incoming.buffer().extend_from_slice(&self.content);
        incoming.spill(usize::MAX).await.expect("the spool takes content");
        incoming.keep().await.expect("the spool keeps a message").id()
    }

    fn envelope(&self) -> Envelope {
        Envelope {
            id: MessageId::new(),
            received_at: Timestamp::now(),
            client: [192, 0, 2, 1].into(),
            helo: "mail.example.net".into(),
            protocol: Protocol::Esmtp,
            reverse_path: Some(address("somebody.else@example.net")),
            recipients: self.recipients.iter().cloned().map(Into::into).collect(),
            body: Body::EightBitMime,
            smtputf8: false,
            ret: None,
            envid: None,
        }
    }
}

/// Says that a message's only recipient has it.
pub async fn deliver(spool: &Spool, id: MessageId) {
    let words = "250 2.0.0 Ok: queued as 4ZyXwV1s2tz9Qp".to_owned();
    let fates = vec![(0, Fate::Delivered, words)];
    let change =
        Change { kind: Kind::Attempt, id, at: Timestamp::now(), by: "mx1.example.org:25".into(), fates, held_as: None };
    assert!(spool.change(change).await.expect("the spool records an outcome"), "{id} had one recipient");
}

/// Runs `act` for each number below `count`, as many at a time as there are writers. Collects what it returns.
pub async fn each<T, F>(writers: u64, count: u64, act: impl Fn(u64) -> F + Clone + Send + 'static) -> Vec<T>
where
    T: Debug + Send + 'static,
    F: Future<Output = T> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..writers {
        let (next, act) = (next.clone(), act.clone());
        tasks.spawn(async move {
            let mut done = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return done;
                }
                done.push(act(number).await);
            }
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

fn address(text: &str) -> Address {
    Address::parse(text).expect("it is an address")
}

fn trace(envelope: &Envelope) -> Vec<u8> {
    received_field(envelope, "mx2.example.org", Circumstances::default()).into_bytes()
}
