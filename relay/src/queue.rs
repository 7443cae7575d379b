//! What waits and when it goes: the shared handle around the pure scheduler and pace.

pub mod backoff;
pub mod pace;
mod place;
pub mod rate;
pub mod scheduler;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use backupmx_relay_api::config::Delivery;
use tokio::sync::{Notify, futures::Notified};

pub use self::place::{Doing, Place};
use self::{
    backoff::Backoff,
    pace::Pace,
    place::Places,
    rate::Rate,
    scheduler::{Deferral, Scheduler},
};
use crate::mail::id::MessageId;

/// The queue as sessions, the drain and status share it.
pub struct Queue {
    core: Mutex<Core>,
    changed: Notify,
}

struct Core {
    scheduler: Scheduler,
    pace: Pace,
    rate: Rate,
    places: Places,
    places_max: usize,
    /// After a connection that could not be made: not at once again, whatever the pace says, unless there is news.
    no_connect_before: Option<Instant>,
}

/// A server that refuses connections is not asked more often than this.
const CONNECT_RETRY: Duration = Duration::from_secs(1);

impl Queue {
    /// Empty, with the configured intervals and bounds.
    pub fn new(delivery: &Delivery) -> Self {
        let backoff = Backoff { first: delivery.retry_interval.0, longest: delivery.retry_interval_max.0 };
        let places_max = delivery.max_connections as usize;
        let (scheduler, pace) = (Scheduler::new(backoff), Pace::new(places_max));
        let core = Core {
            scheduler,
            pace,
            rate: Rate::default(),
            places: Places::default(),
            places_max,
            no_connect_before: None,
        };
        Self { core: Mutex::new(core), changed: Notify::new() }
    }

    /// A message is ours and due.
    pub fn spooled(&self, id: MessageId) {
        // Who is busy takes it anyway, and who waits for the primary need not hear of each message.
        if self.core().scheduler.spooled(id) {
            self.changed.notify_waiters();
        }
    }

    /// Messages that the start found, with all that wait for the first probe.
    pub fn recovered(&self, ids: impl Iterator<Item = MessageId>) {
        ids.for_each(|id| self.spooled(id));
    }

    /// Something changed that decides about connections.
    pub fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// Resolves when something is due that may not have been before. Make it before you look at the queue.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Everything that waits is due now. Returns how much that is.
    pub fn flush(&self) -> usize {
        let waiting = {
            let mut core = self.core();
            core.no_connect_before = None;
            core.scheduler.flush()
        };
        self.changed.notify_waiters();
        waiting
    }

    /// The primary answers again: what waits only because a connection broke is due.
    pub fn primary_returned(&self) {
        {
            let mut core = self.core();
            core.no_connect_before = None;
            core.scheduler.primary_returned();
        }
        self.changed.notify_waiters();
    }

    /// The next message to try. It comes back by [`Queue::settled`], [`Queue::deferred`] or [`Queue::untried`].
    pub fn take(&self, now: Instant) -> Option<MessageId> {
        self.core().scheduler.take(now)
    }

    /// Nobody in it waits any more. `delivered`: somebody was delivered.
    pub fn settled(&self, id: MessageId, delivered: bool, now: Instant) {
        let mut core = self.core();
        core.scheduler.settled(id);
        if delivered {
            core.rate.count(now);
            if core.pace.delivered() {
                self.changed.notify_waiters();
            }
        }
    }

    /// Somebody in it waits on. `deferrals`: so far, with this one. `spread`: drawn from `0.0..1.0`.
    pub fn deferred(&self, id: MessageId, deferral: Deferral, deferrals: u32, spread: f64, now: Instant) {
        self.core().scheduler.deferred(id, deferral, deferrals, spread, now);
    }

    /// It was taken, and not tried.
    pub fn untried(&self, id: MessageId) {
        self.core().scheduler.untried(id);
    }

    /// A place for one more connection, if more is due than those without work will take, and the pace allows it.
    pub fn may_connect(self: &Arc<Self>, now: Instant) -> Option<Place> {
        let mut core = self.core();
        let Core { scheduler, pace, places, places_max, no_connect_before, .. } = &mut *core;
        // Asked in any case: it is what makes due what was deferred until now.
        let has_work = scheduler.due(now) > places.connecting + places.idle;
        if no_connect_before.is_some_and(|before| now < before) {
            return None;
        }
        // One that got no answer for a while is not the primary's pace; a few of them must not stop the drain.
        let may = has_work && places.all() - places.stalled < pace.connections() && places.all() < *places_max;
        drop(core);
        may.then(|| Place::take(self.clone()))
    }

    /// A connection broke.
    pub fn connection_broke(&self) {
        self.core().pace.failed();
    }

    /// A connection could not be made. True if no other one is at work, so that this tells something of the primary.
    pub fn connection_refused(&self, now: Instant) -> bool {
        let mut core = self.core();
        core.pace.failed();
        core.no_connect_before = Some(now + CONNECT_RETRY);
        core.places.working + core.places.idle == 0
    }

    /// When the next deferred message becomes due.
    pub fn next_due(&self) -> Option<Instant> {
        self.core().scheduler.next_due()
    }

    /// Messages that wait or are being tried; held ones are not among them.
    pub fn waiting(&self) -> usize {
        self.core().scheduler.waiting()
    }

    /// Connections to the primary.
    pub fn connections(&self) -> usize {
        self.core().places.all()
    }

    /// Messages a second, over the last seconds.
    pub fn messages_per_second(&self, now: Instant) -> f64 {
        self.core().rate.per_second(now)
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
