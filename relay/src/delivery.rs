//! Mail goes out: takes what is due, hands it to couriers, makes each outcome durable before the next message goes.

pub mod answer;
pub mod courier;
pub mod hop;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::time::sleep_until;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    courier::{Attempted, Job, Outcome},
    hop::{Hop, Patience},
};
use crate::{
    chance,
    foreign::shown,
    mail::id::MessageId,
    metrics::Metrics,
    primary::{Primary, monitor::Finding},
    queue::{Queue, scheduler::Deferral},
    spool::{
        ReadError, Spool, Stored,
        field::{Attempt, Fate},
    },
};

/// A connection without work is kept this long: mail that trickles in need not connect each time.
const IDLE_MAX: Duration = Duration::from_secs(2);
/// For the goodbye.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Until an outcome that could not be recorded is tried again. Until then nothing goes out on its connection.
const SETTLE_RETRY: Duration = Duration::from_secs(1);
/// How often the drain looks for what nobody announces: that the spool can be written again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// RFC 5321 sections 4.5.3.2.1 and 4.5.3.2.2: for the greeting and EHLO of a delivery.
const GREETING_TIMEOUT: Duration = Duration::from_secs(300);

/// What the drain works with.
pub struct Drain {
    /// Where mail is.
    pub spool: Spool,
    /// What is due.
    pub queue: Arc<Queue>,
    /// Where it goes.
    pub primary: Arc<Primary>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Our name in EHLO.
    pub hostname: String,
    /// For the TCP connect.
    pub connect_timeout: Duration,
    /// Until a connection is closed and another one opened.
    pub messages_per_connection_max: usize,
}

impl Drain {
    /// Opens connections as the pace allows, until `stop`; then waits for what is under way. The caller bounds how long.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let connections = TaskTracker::new();
        while !stop.is_cancelled() {
            let changed = self.queue.changed();
            while self.primary.is_up() && self.spool.is_writable() && self.queue.may_connect(Instant::now()) {
                connections.spawn(self.clone().connection(stop.clone()));
            }
            let look_again = Instant::now() + LOOK_AGAIN;
            let next_due = self.queue.next_due().map_or(look_again, |due| due.min(look_again));
            tokio::select! {
                () = stop.cancelled() => {}
                () = changed => {}
                () = sleep_until(next_due.into()) => {}
            }
        }
        connections.close();
        connections.wait().await;
    }

    /// One connection, from connect to QUIT.
    async fn connection(self: Arc<Self>, stop: CancellationToken) {
        let patience = Patience { connect: self.connect_timeout, reply: GREETING_TIMEOUT };
        let host = self.primary.host();
        let opened = tokio::select! {
            () = stop.cancelled() => return self.queue.disconnected(false),
            opened = Hop::open(&host, &self.hostname, patience) => opened,
        };
        let failed = match opened {
            Ok(hop) => self.hand_over(hop, &stop).await.is_err(),
            Err(cause) => {
                self.primary.found(Finding::Broken { reason: cause.to_string() });
                true
            }
        };
        self.queue.disconnected(failed);
        self.queue.wake();
    }

    /// Message after message. An error: the connection broke.
    async fn hand_over(&self, mut hop: Hop, stop: &CancellationToken) -> Result<(), ()> {
        for _ in 0..self.messages_per_connection_max {
            let Some(id) = self.next(stop).await else { break };
            let Some(mut stored) = self.read(id).await else { continue };
            let attempted = self.attempt(&mut hop, &mut stored).await;
            self.settle(&hop.name, &stored, &attempted).await;
            if let Some(reason) = attempted.broken {
                self.primary.found(Finding::Broken { reason: format!("delivery to {}: {reason}", hop.name) });
                return Err(());
            }
            self.primary.delivery_answered(&hop.name);
        }
        hop.quit(QUIT_TIMEOUT).await;
        Ok(())
    }

    /// The next due message; waits a little for one.
    async fn next(&self, stop: &CancellationToken) -> Option<MessageId> {
        let patience = Instant::now() + IDLE_MAX;
        loop {
            let changed = self.queue.changed();
            // What cannot be recorded must not be delivered: it would go out again after a restart.
            if stop.is_cancelled() || !self.spool.is_writable() {
                return None;
            }
            if let Some(id) = self.queue.take(Instant::now()) {
                return Some(id);
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = changed => {}
                () = sleep_until(patience.into()) => return None,
            }
        }
    }

    /// Reads a message. `None`: nothing is to be sent, and the queue knows.
    async fn read(&self, id: MessageId) -> Option<Stored> {
        match self.spool.read(id).await {
            Ok(Some(stored)) => Some(stored),
            Ok(None) => {
                self.queue.settled(id, false, Instant::now());
                None
            }
            Err(ReadError::Damaged) => {
                // It stays where it is and in the account; a person decides.
                tracing::error!(%id, "stored bytes are damaged; the message is held");
                self.metrics.quarantined.inc();
                self.queue.settled(id, false, Instant::now());
                None
            }
            Err(ReadError::Io(cause)) => {
                tracing::error!(%id, %cause, "read message");
                self.queue.deferred(id, Deferral::Reply, 1, chance::spread(), Instant::now());
                None
            }
        }
    }

    async fn attempt(&self, hop: &mut Hop, stored: &mut Stored) -> Attempted {
        let Stored { envelope, trace, waiting, content_bytes, content, .. } = stored;
        courier::attempt(hop, Job { envelope, trace, waiting, content_bytes: *content_bytes, content }).await
    }

    /// Makes the outcome durable, then tells the queue. Until it is durable this connection sends nothing more, so
    /// a crash repeats one message a connection at most.
    async fn settle(&self, next_hop: &str, stored: &Stored, attempted: &Attempted) {
        let id = stored.envelope.id;
        let fates: Vec<_> = attempted.outcomes.iter().map(|(place, outcome)| fate(*place, outcome)).collect();
        let attempt = Attempt { id, at: Timestamp::now(), next_hop: next_hop.to_owned(), fates };
        let count = |wanted: Fate| attempt.fates.iter().filter(|(_, fate, _)| *fate == wanted).count();
        let (delivered, deferred, held) = (count(Fate::Delivered), count(Fate::Deferred), count(Fate::Held));
        let closed = loop {
            match self.spool.settle(attempt.clone()).await {
                Ok(closed) => break closed,
                Err(reason) => {
                    tracing::error!(%id, ?reason, "record outcome; this connection waits until it can be");
                    tokio::time::sleep(SETTLE_RETRY).await;
                }
            }
        };
        let reply = shown(attempt.fates.first().map_or("", |(_, _, words)| words));
        tracing::info!(%id, next_hop, delivered, deferred, held, reply, "attempt");
        self.metrics.delivered.inc_by(u64::from(closed));
        let now = Instant::now();
        if deferred == 0 {
            self.queue.settled(id, delivered > 0, now);
        } else {
            self.metrics.deferred.inc();
            let deferral = if attempted.broken.is_some() { Deferral::Connection } else { Deferral::Reply };
            self.queue.deferred(id, deferral, stored.deferrals + 1, chance::spread(), now);
        }
    }
}

fn fate(place: u32, outcome: &Outcome) -> (u32, Fate, String) {
    match outcome {
        Outcome::Delivered(words) => (place, Fate::Delivered, words.clone()),
        Outcome::Deferred(words) => (place, Fate::Deferred, words.clone()),
        Outcome::Failed(words) => (place, Fate::Held, words.clone()),
        Outcome::Unreadable => (place, Fate::Held, "stored bytes are damaged".into()),
    }
}
