//! Mail goes out: takes what is due, hands it to couriers, makes each outcome durable before the next message goes.

pub mod answer;
pub mod courier;
pub mod hop;

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::time::{sleep_until, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    courier::{Attempted, Connection, Job, Outcome},
    hop::{Hop, Patience},
};
use crate::{
    chance,
    foreign::shown,
    mail::id::MessageId,
    metrics::Metrics,
    primary::{Primary, monitor::Finding},
    queue::{Doing, Place, Queue, scheduler::Deferral},
    spool::{
        ReadError, Spool, Stored,
        field::{Change, Fate, HeldReason},
        record::Kind,
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
/// An attempt that takes longer is not what decides how many connections the primary can bear.
const STALL: Duration = Duration::from_secs(10);
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
            let mut next_look = Instant::now() + LOOK_AGAIN;
            if self.primary.is_up() && self.spool.is_writable() {
                while let Some(place) = self.queue.may_connect(Instant::now()) {
                    connections.spawn(self.clone().connection(place, stop.clone()));
                }
                next_look = self.queue.next_due(next_look);
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = changed => {}
                () = sleep_until(next_look.into()) => {}
            }
        }
        connections.close();
        connections.wait().await;
    }

    /// One connection, from connect to QUIT.
    async fn connection(self: Arc<Self>, mut place: Place, stop: CancellationToken) {
        let patience = Patience { connect: self.connect_timeout, reply: GREETING_TIMEOUT };
        let host = self.primary.host();
        let opened = tokio::select! {
            () = stop.cancelled() => return,
            opened = Hop::open(&host, &self.hostname, patience) => opened,
        };
        match opened {
            Ok(hop) => {
                self.primary.met(&hop);
                self.hand_over(hop, &mut place, &stop).await;
            }
            Err(cause) => {
                // Where others are at work, it only takes no more of them.
                if self.queue.connection_refused(Instant::now()) {
                    self.primary.delivery_found(Finding::Broken { reason: cause.to_string() });
                }
            }
        }
    }

    /// Message after message, until there is none, or the connection is of no more use.
    async fn hand_over(&self, mut hop: Hop, place: &mut Place, stop: &CancellationToken) {
        for _ in 0..self.messages_per_connection_max {
            place.turn_to(Doing::Idle);
            let Some(id) = self.next(stop).await else { break };
            place.turn_to(Doing::Working);
            let Some(mut stored) = self.read(id).await else { continue };
            let attempted = self.attempt(&mut hop, &mut stored, place).await;
            if attempted.connection == Connection::Stale {
                return self.queue.untried(id);
            }
            self.settle(&hop.name, &stored, &attempted).await;
            match attempted.connection {
                Connection::Usable => self.primary.delivery_answered(&hop.name),
                Connection::Broken(reason) => {
                    self.queue.connection_broke();
                    let reason = format!("delivery to {}: {reason}", hop.name);
                    return self.primary.delivery_found(Finding::Broken { reason });
                }
                Connection::Stale | Connection::GivenUp => return,
            }
        }
        hop.quit(QUIT_TIMEOUT).await;
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
            if Instant::now() >= patience {
                return None;
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = changed => {}
                () = sleep_until(self.queue.next_due(patience).into()) => {}
            }
        }
    }

    /// Reads a message. `None`: nothing is to be sent, and the queue knows.
    async fn read(&self, id: MessageId) -> Option<Stored> {
        match self.spool.read(id).await {
            Ok(Some(stored)) => return Some(stored),
            Ok(None) => self.queue.settled(id, false, Instant::now()),
            Err(ReadError::Damaged) => {
                tracing::error!(%id, "stored bytes are damaged; the message is held");
                self.metrics.quarantined.inc();
                let fates = self.spool.waiting(id).into_iter().map(|place| fate(place, &Outcome::Unreadable)).collect();
                self.record(&attempt(id, "", fates, Some(HeldReason::Damaged))).await;
                self.queue.settled(id, false, Instant::now());
            }
            Err(ReadError::Io(cause)) => {
                tracing::error!(%id, %cause, "read message");
                self.queue.deferred(id, Deferral::Reply, 1, chance::spread(), Instant::now());
            }
        }
        None
    }

    /// Tries one message. Where the other side is silent for long, the connection no longer counts for the pace.
    async fn attempt(&self, hop: &mut Hop, stored: &mut Stored, place: &mut Place) -> Attempted {
        let Stored { envelope, trace, waiting, content_bytes, content, .. } = stored;
        let job = Job { envelope, trace, waiting, content_bytes: *content_bytes, content };
        let mut attempting = pin!(courier::attempt(hop, job));
        if let Ok(attempted) = timeout(STALL, &mut attempting).await {
            return attempted;
        }
        place.turn_to(Doing::Stalled);
        attempting.await
    }

    /// Makes the outcome durable, then tells the queue. Until it is durable this connection sends nothing more, so
    /// a crash repeats one message a connection at most.
    async fn settle(&self, next_hop: &str, stored: &Stored, attempted: &Attempted) {
        let id = stored.envelope.id;
        let fates: Vec<_> = attempted.outcomes.iter().map(|(place, outcome)| fate(*place, outcome)).collect();
        let waits_on = fates.iter().any(|(_, fate, _)| *fate == Fate::Deferred);
        let unreadable = attempted.outcomes.iter().any(|(_, outcome)| *outcome == Outcome::Unreadable);
        self.metrics.quarantined.inc_by(u64::from(unreadable));
        let delivered = fates.iter().any(|(_, fate, _)| *fate == Fate::Delivered);
        self.record(&attempt(id, next_hop, fates, held_as(&attempted.outcomes))).await;
        let now = Instant::now();
        if !waits_on {
            return self.queue.settled(id, delivered, now);
        }
        self.metrics.deferred.inc();
        // A message on which connections break again and again may be the cause: it does not go first at each return.
        let first_break = matches!(attempted.connection, Connection::Broken(_)) && stored.deferrals == 0;
        let deferral = if first_break { Deferral::Connection } else { Deferral::Reply };
        self.queue.deferred(id, deferral, stored.deferrals + 1, chance::spread(), now);
    }

    /// Writes an attempt to the spool and the log. Comes back only when it is durable.
    async fn record(&self, attempt: &Change) {
        let id = attempt.id;
        let closed = loop {
            match self.spool.change(attempt.clone()).await {
                Ok(closed) => break closed,
                Err(reason) => {
                    tracing::error!(%id, ?reason, "record outcome; this connection waits until it can be");
                    tokio::time::sleep(SETTLE_RETRY).await;
                }
            }
        };
        let count = |wanted: Fate| attempt.fates.iter().filter(|(_, fate, _)| *fate == wanted).count();
        let (delivered, deferred, held) = (count(Fate::Delivered), count(Fate::Deferred), count(Fate::Held));
        let reply = shown(attempt.fates.first().map_or("", |(_, _, words)| words));
        tracing::info!(%id, next_hop = attempt.by, delivered, deferred, held, reply, "attempt");
        self.metrics.delivered.inc_by(u64::from(closed));
    }
}

fn attempt(id: MessageId, next_hop: &str, fates: Vec<(u32, Fate, String)>, held_as: Option<HeldReason>) -> Change {
    Change { kind: Kind::Attempt, id, at: Timestamp::now(), by: next_hop.to_owned(), fates, held_as }
}

/// Why an attempt holds recipients, if it does.
fn held_as(outcomes: &[(u32, Outcome)]) -> Option<HeldReason> {
    let mut reasons = outcomes.iter().filter_map(|(_, outcome)| match outcome {
        Outcome::Delivered(_) | Outcome::Deferred(_) => None,
        Outcome::Failed(words) if words.starts_with("capability: ") => Some(HeldReason::Capability),
        Outcome::Failed(_) => Some(HeldReason::Undeliverable),
        Outcome::Unreadable => Some(HeldReason::Damaged),
    });
    reasons.next_back()
}

fn fate(place: u32, outcome: &Outcome) -> (u32, Fate, String) {
    match outcome {
        Outcome::Delivered(words) => (place, Fate::Delivered, words.clone()),
        Outcome::Deferred(words) => (place, Fate::Deferred, words.clone()),
        Outcome::Failed(words) => (place, Fate::Held, words.clone()),
        Outcome::Unreadable => (place, Fate::Held, "stored bytes are damaged".into()),
    }
}
