//! Connections to the primary for mail whose sender waits: opened at the first need, kept for the next message, within the limits that
//! the drain has, too.

use std::{sync::Arc, time::Duration};

use backupmx_relay_api::config;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep_until, timeout_at},
};

use super::{PassThrough, QUIT_TIMEOUT, lock};
use crate::{
    delivery::{
        breaker::Sign,
        hop::OpenError,
        passage::{Limits, Passage},
        xclient::Client,
    },
    primary::monitor::Finding,
    queue::{Doing, Place},
};

/// Between two looks for what nobody announces: that a server which refused a connection may be asked again.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// A connection without work is kept this long.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// A connection that one message has for itself. Dropped, it is closed.
pub struct Lease {
    pub passage: Passage,
    /// Whether the primary should be told whose mail it is.
    pub wants_xclient: bool,
    place: Place,
    /// From before an outage it is not used again.
    returns: watch::Receiver<u64>,
    through: Arc<PassThrough>,
    _permit: OwnedSemaphorePermit,
}

/// A connection without work.
pub struct Idle {
    passage: Passage,
    place: Place,
    returns: watch::Receiver<u64>,
    wants_xclient: bool,
    since: Instant,
}

/// Why there is no connection.
pub enum NotLeased {
    /// All are in use.
    Busy,
    /// The primary cannot be reached, or is in trouble.
    Fails(String),
    /// It refuses us.
    JudgesUs(String),
}

impl PassThrough {
    /// A connection, once one is free; a sender that cannot have one soon has a queue of its own, and the next relay may have one. `fresh`: one that nobody has used before.
    pub(super) async fn lease(self: &Arc<Self>, client: &Client, fresh: bool) -> Result<Lease, NotLeased> {
        let deadline = Instant::now() + self.settings().free_connection.0;
        let permit = timeout_at(deadline, self.permits().acquire_owned()).await;
        let Ok(Ok(permit)) = permit else { return Err(NotLeased::Busy) };
        loop {
            let changed = self.queue.changed();
            match self.take_idle(client) {
                Some(idle) if fresh => idle.quit(),
                Some(Idle { passage, place, returns, wants_xclient, since: _ }) => {
                    let through = self.clone();
                    return Ok(Lease { passage, wants_xclient, place, returns, through, _permit: permit });
                }
                None => {}
            }
            if let Some(place) = self.queue.may_pass(std::time::Instant::now()) {
                match self.open(place).await {
                    Ok((passage, place, returns, wants_xclient)) => {
                        let through = self.clone();
                        return Ok(Lease { passage, wants_xclient, place, returns, through, _permit: permit });
                    }
                    Err(NotLeased::Busy) => {}
                    Err(cause) => return Err(cause),
                }
            }
            // Nobody need wait for a primary that fails.
            if !self.primary.takes_mail() || self.queue.has_just_failed(std::time::Instant::now()) {
                return Err(NotLeased::Fails("it could not be reached a moment ago".into()));
            }
            self.close_one_of_others(client);
            let next_look = deadline.min(Instant::now() + LOOK_AGAIN);
            tokio::select! {
                () = changed => {}
                () = sleep_until(next_look) => {}
            }
            if Instant::now() >= deadline {
                return Err(NotLeased::Busy);
            }
        }
    }

    /// All connections but one, which the drain can always have.
    fn permits(&self) -> Arc<Semaphore> {
        let wanted = (self.running.delivery().max_connections as usize).saturating_sub(1).max(1);
        let (number, permits) = &mut *lock(&self.permits);
        if *number != wanted {
            (*number, *permits) = (wanted, Arc::new(Semaphore::new(wanted)));
        }
        permits.clone()
    }

    async fn open(&self, mut place: Place) -> Result<(Passage, Place, watch::Receiver<u64>, bool), NotLeased> {
        let (host, returns) = (self.primary.host(), self.primary.returns());
        match self.primary.open(&host, self.patience()).await {
            Ok(hop) => {
                place.turn_to(Doing::Passing);
                let config::PassThrough { stall, final_dot, .. } = self.settings();
                let limits = Limits { stall: stall.0, final_dot: final_dot.0 };
                Ok((Passage::over(hop, limits), place, returns, host.xclient))
            }
            Err(cause) => Err(self.not_opened(&cause, &place)),
        }
    }

    /// Where others are served, a connection that is turned away is only one too many; else it tells something of the primary.
    fn not_opened(&self, cause: &OpenError, place: &Place) -> NotLeased {
        let (now, words) = (std::time::Instant::now(), cause.to_string());
        let turns_away = cause.turns_away();
        let is_alone = if turns_away || cause.is_permanent() { place.turned_away(now) } else { place.not_made(now) };
        if turns_away && !is_alone {
            return NotLeased::Busy;
        }
        if is_alone && self.primary.is_named(cause.name()) {
            let reason = words.clone();
            if cause.is_permanent() {
                self.primary.sign(Sign::Greeting, &self.primary.postmaster(), &reason);
            }
            self.primary.delivery_found(if turns_away {
                Finding::Troubled { reason }
            } else {
                Finding::Broken { reason }
            });
        }
        if cause.judges_us() { NotLeased::JudgesUs(words) } else { NotLeased::Fails(words) }
    }

    fn take_idle(&self, client: &Client) -> Option<Idle> {
        loop {
            let mut idle = {
                let mut all = lock(&self.idle);
                let newest = all.iter().rposition(|idle| idle.passage.is_for(client))?;
                all.remove(newest)
            };
            if idle.is_usable(self) {
                return Some(idle);
            }
            idle.quit();
        }
    }

    /// There is no place for one more connection: one that can carry other clients' mail only gives way.
    fn close_one_of_others(&self, client: &Client) {
        let mut all = lock(&self.idle);
        let oldest = all.iter().position(|idle| !idle.passage.is_for(client));
        let closed = oldest.map(|oldest| all.remove(oldest));
        drop(all);
        closed.into_iter().for_each(Idle::quit);
    }

    pub(super) fn close_idle(&self, all: bool) {
        let is_over = |idle: &mut Idle| all || idle.since.elapsed() >= IDLE_MAX || !idle.is_usable(self);
        let over: Vec<_> = lock(&self.idle).extract_if(.., |idle| is_over(idle)).collect();
        over.into_iter().for_each(Idle::quit);
    }
}

impl Idle {
    fn is_usable(&mut self, through: &PassThrough) -> bool {
        !is_old(through, &self.returns, &self.passage) && !self.passage.is_stale()
    }

    /// Its place is free when the goodbye is said.
    fn quit(self) {
        let Self { passage, place, .. } = self;
        tokio::spawn(async move {
            passage.quit(QUIT_TIMEOUT).await;
            drop(place);
        });
    }
}

impl Lease {
    /// Whether it is from before an outage, or mail goes to another host by now.
    pub fn is_old(&self) -> bool {
        is_old(&self.through, &self.returns, &self.passage)
    }

    /// The message is over: the connection is there for the next one, if it can be.
    pub fn give_back(self) {
        let messages_max = self.through.running.delivery().max_messages_per_connection as usize;
        let is_worn = self.passage.hop().mails as usize >= self.passage.hop().messages_max(messages_max);
        let stays = self.passage.is_usable() && !is_worn && !self.is_old();
        let Self { passage, wants_xclient, place, returns, through, _permit } = self;
        let idle = Idle { passage, place, returns, wants_xclient, since: Instant::now() };
        if stays {
            lock(&through.idle).push(idle); // before the permit is free: who gets that finds this
        } else {
            idle.quit();
        }
    }

    /// The message is over before its content.
    pub fn give_back_after_reset(mut self) {
        tokio::spawn(async move {
            self.passage.reset().await;
            self.give_back();
        });
    }
}

fn is_old(through: &PassThrough, returns: &watch::Receiver<u64>, passage: &Passage) -> bool {
    returns.has_changed().unwrap_or(true) || !through.primary.is_host(&passage.hop().name)
}
