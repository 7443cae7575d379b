//! Connections to the primary for mail whose sender waits: opened at the first need, kept for the next message, within the limits that
//! the drain has, too.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backupmx_relay_api::config;
use tokio::{
    sync::watch,
    time::{sleep_until, timeout_at},
};

use super::{PassThrough, lock};
use crate::{
    delivery::{
        QUIT_TIMEOUT,
        hop::OpenError,
        passage::{Limits, Passage},
        xclient::Client,
    },
    queue::{Doing, Place},
};

/// Between two looks for what nobody announces: that a server which refused a connection may be asked again.
const RETRY_LOOK: Duration = Duration::from_millis(250);
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

/// What a turn brings.
enum Found {
    Idle(Box<Idle>),
    Place(Place),
}

impl PassThrough {
    /// A connection, once one is free; a sender that cannot have one soon has a queue of its own, and the next relay may have one.
    /// `fresh`: one that nobody has used before.
    pub(super) async fn lease(self: &Arc<Self>, client: &Client, fresh: bool) -> Result<Lease, NotLeased> {
        let deadline = tokio::time::Instant::now() + self.settings().free_connection.0;
        loop {
            let place = match self.find(client, fresh, deadline).await? {
                Found::Idle(idle) => {
                    let Idle { passage, place, returns, wants_xclient, since: _ } = *idle;
                    return Ok(Lease { passage, wants_xclient, place, returns, through: self.clone() });
                }
                Found::Place(place) => place,
            };
            match self.open(place).await {
                Err(NotLeased::Busy) if tokio::time::Instant::now() < deadline => {}
                opened => return opened,
            }
        }
    }

    /// A connection without work, or a place for a new one. Who comes first is served first: only one looks at a time.
    async fn find(&self, client: &Client, fresh: bool, deadline: tokio::time::Instant) -> Result<Found, NotLeased> {
        let turn = timeout_at(deadline, self.turn.lock()).await;
        loop {
            let changed = self.queue.changed();
            // Nobody need wait for a primary that fails.
            if !self.primary.takes_mail() || self.queue.has_just_failed(Instant::now()) {
                return Err(NotLeased::Fails("it could not be reached a moment ago".into()));
            }
            if turn.is_err() {
                return Err(NotLeased::Busy);
            }
            match self.take_idle(client) {
                Some(idle) if fresh => idle.quit(),
                Some(idle) => return Ok(Found::Idle(Box::new(idle))),
                None => {}
            }
            if let Some(place) = self.queue.may_pass(Instant::now()) {
                return Ok(Found::Place(place));
            }
            if self.queue.is_full_for_passing(Instant::now()) {
                self.close_one_of_others(client);
            }
            let next_look = deadline.min(tokio::time::Instant::now() + RETRY_LOOK);
            tokio::select! {
                () = self.returned.notified() => {}
                () = changed => {}
                () = sleep_until(next_look) => {}
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(NotLeased::Busy);
            }
        }
    }

    async fn open(self: &Arc<Self>, mut place: Place) -> Result<Lease, NotLeased> {
        let (host, returns) = (self.primary.host(), self.primary.returns());
        let hop = match self.primary.open(&host, self.patience()).await {
            Ok(hop) => hop,
            Err(cause) => return Err(self.not_opened(&cause, &place)),
        };
        place.turn_to(Doing::Passing);
        let config::PassThrough { stall, final_dot, .. } = self.settings();
        let limits = Limits { stall: stall.0, final_dot: final_dot.0 };
        let passage = Passage::over(hop, limits);
        Ok(Lease { passage, wants_xclient: host.xclient, place, returns, through: self.clone() })
    }

    /// Where others are served, a connection that is turned away is only one too many; else it tells something of the primary.
    fn not_opened(&self, cause: &OpenError, place: &Place) -> NotLeased {
        let (now, words) = (Instant::now(), cause.to_string());
        let turns_away = cause.turns_away();
        let is_alone = if turns_away || cause.is_permanent() { place.turned_away(now) } else { place.not_made(now) };
        if turns_away && !is_alone {
            return NotLeased::Busy;
        }
        if is_alone {
            self.primary.not_opened(cause);
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

    /// Closes what has waited long enough, or is in the way of the drain.
    pub(super) fn close_idle(&self, all: bool) {
        let all = all || self.queue.drain_has_no_place();
        let is_over = |idle: &mut Idle| all || idle.since.elapsed() >= IDLE_MAX || !idle.is_usable(self);
        let over: Vec<_> = lock(&self.idle).extract_if(.., |idle| is_over(idle)).collect();
        over.into_iter().for_each(Idle::quit);
    }
}

impl Idle {
    fn is_usable(&mut self, through: &PassThrough) -> bool {
        !through.primary.is_past(&self.passage.hop().name, &self.returns) && !self.passage.is_stale()
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
        self.through.primary.is_past(&self.passage.hop().name, &self.returns)
    }

    /// The message is over: the connection is there for the next one, if it can be.
    pub fn give_back(self) {
        let messages_max = self.through.running.delivery().max_messages_per_connection as usize;
        let has_served = self.passage.hop().mails as usize >= self.passage.hop().messages_max(messages_max);
        let is_wanted = !has_served && !self.is_old() && !self.through.queue.drain_has_no_place();
        let stays = is_wanted && self.passage.is_usable();
        let Self { passage, wants_xclient, place, returns, through } = self;
        let idle = Idle { passage, place, returns, wants_xclient, since: Instant::now() };
        if stays {
            lock(&through.idle).push(idle);
            through.returned.notify_one();
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
