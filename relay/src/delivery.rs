//! Mail goes out: takes what is due, hands it to couriers, makes each outcome durable before the next message goes.
//!
//! docs/delivery.md is its contract.

pub mod answer;
pub mod extensions;
pub mod resolve;
mod verifier;
pub mod encryption;
pub mod wire;
pub mod hop;
pub mod xforward;
pub mod xclient;
pub mod content;
pub mod courier;
pub mod transaction;
pub mod verdict;
pub mod passage;
pub mod inquiry;
pub mod breaker;
pub mod second_look;
mod round;
mod retest;
#[cfg(test)]
mod scripted;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    hop::{Hop, OpenError, Patience},
    round::Ended,
    second_look::SecondLooks,
};
use crate::{
    mail::id::MessageId,
    metrics::Metrics,
    primary::Primary,
    queue::{Doing, Place, Queue},
    running::Running,
    spool::Spool,
};

/// A connection without work is kept this long: mail that trickles in need not connect each time.
const IDLE_MAX: Duration = Duration::from_secs(2);
/// For the goodbye.
pub const QUIT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the drain looks for what nobody announces: that the spool can be written again, that a hold has ended.
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
    /// How it is to be done.
    pub running: Arc<Running>,
    /// What has happened lately.
    pub lately: Lately,
}

/// What the connections share of what has happened lately.
#[derive(Default)]
pub struct Lately {
    second_looks: Mutex<SecondLooks>,
    /// Who holds it may ask the primary what its refusals mean; the others wait for the answer.
    asking: tokio::sync::Mutex<()>,
}

impl Drain {
    /// Opens connections as the pace allows, until `stop`; then waits for what is under way. The caller bounds how long.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let connections = TaskTracker::new();
        while !stop.is_cancelled() {
            let changed = self.queue.changed();
            let mut next_look = Instant::now() + LOOK_AGAIN;
            if self.may_send() {
                while let Some(place) = self.queue.may_connect(Instant::now()) {
                    connections.spawn(self.clone().connection(place, stop.clone()));
                }
                next_look = self.queue.next_due(next_look);
            } else if self.spool.is_writable() && self.primary.begins_test() {
                connections.spawn(self.clone().retest(stop.clone()));
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

    /// What cannot be recorded must not be delivered: it would go out again after a restart.
    fn may_send(&self) -> bool {
        self.spool.is_writable() && self.primary.takes_mail()
    }

    /// One connection, from connect to QUIT.
    async fn connection(self: Arc<Self>, mut place: Place, stop: CancellationToken) {
        let opened = tokio::select! {
            () = stop.cancelled() => return,
            opened = self.open() => opened,
        };
        match opened {
            Ok(hop) => self.hand_over(hop, &mut place, &stop).await,
            Err(cause) => self.not_opened(&cause, Some(&place)),
        }
    }

    async fn open(&self) -> Result<Hop, OpenError> {
        let patience = Patience { connect: self.primary.connect_timeout(), reply: GREETING_TIMEOUT };
        self.primary.open(&self.primary.host(), patience).await
    }

    /// Where others are served, it only takes no more of them; else it tells something of the primary.
    fn not_opened(&self, cause: &OpenError, place: Option<&Place>) {
        let now = Instant::now();
        let is_alone = |place: &Place| {
            if cause.turns_away() || cause.is_permanent() { place.turned_away(now) } else { place.not_made(now) }
        };
        if place.is_none_or(is_alone) {
            self.primary.not_opened(cause);
        }
    }

    /// Message after message, until there is none, or the connection is of no more use.
    async fn hand_over(&self, mut hop: Hop, place: &mut Place, stop: &CancellationToken) {
        // A connection from before an outage may be dead without a word: it is not used again.
        let returns = self.primary.returns();
        for _ in 0..hop.messages_max(self.running.delivery().max_messages_per_connection as usize) {
            if !place.stays() || !hop.takes_another_mail() {
                break;
            }
            let Some(id) = self.next(&hop.name, &returns, stop).await else { break };
            place.turn_to(Doing::Working);
            if self.round(&mut hop, id, place, &returns).await != Ended::Usable {
                return;
            }
        }
        hop.quit(QUIT_TIMEOUT).await;
    }

    /// Whether the connection is from before an outage, or mail goes to another host by now.
    fn is_old(&self, next_hop: &str, returns: &watch::Receiver<u64>) -> bool {
        self.primary.is_past(next_hop, returns)
    }

    /// The next due message; waits a little for one.
    async fn next(
        &self,
        next_hop: &str,
        returns: &watch::Receiver<u64>,
        stop: &CancellationToken,
    ) -> Option<MessageId> {
        let patience = Instant::now() + IDLE_MAX;
        loop {
            let changed = self.queue.changed();
            if stop.is_cancelled() || !self.may_send() || self.is_old(next_hop, returns) {
                return None;
            }
            if let Some(taken) = self.queue.take(Instant::now()) {
                return Some(taken);
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
}
