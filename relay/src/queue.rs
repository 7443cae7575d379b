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

use self::{
    backoff::Backoff,
    pace::Pace,
    place::Places,
    rate::Rate,
    scheduler::{Deferral, Scheduler},
};
pub use self::{
    place::{Doing, Place},
    scheduler::{Claim, When},
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
        self.news(Scheduler::flush)
    }

    /// The primary answers again: what waits only because a connection broke is due.
    pub fn primary_returned(&self) {
        self.news(Scheduler::primary_returned);
    }

    fn news<T>(&self, makes_due: impl FnOnce(&mut Scheduler) -> T) -> T {
        let told = {
            let mut core = self.core();
            core.no_connect_before = None;
            makes_due(&mut core.scheduler)
        };
        self.wake();
        told
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

    /// Takes a message out of the queue for a person's order; it comes back as after [`Queue::take`].
    pub fn claim(&self, id: MessageId) -> Claim {
        self.core().scheduler.claim(id)
    }

    /// When it goes.
    pub fn when(&self, id: MessageId) -> When {
        self.core().scheduler.when(id)
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

    /// When the next deferred message becomes due, but no later than this.
    pub fn next_due(&self, latest: Instant) -> Instant {
        self.core().scheduler.next_due().map_or(latest, |due| due.min(latest))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn with_due(messages: usize) -> (Arc<Queue>, Instant) {
        let queue = Arc::new(Queue::new(&Delivery::default()));
        (0..messages).for_each(|_| queue.spooled(MessageId::new()));
        (queue, Instant::now())
    }

    #[test]
    fn a_connection_that_was_refused_is_tried_a_second_later_or_when_there_is_news() {
        let (queue, now) = with_due(5);
        drop(queue.may_connect(now).expect("something is due"));
        assert!(queue.connection_refused(now), "no other connection is at work");
        assert!(queue.may_connect(now + CONNECT_RETRY - Duration::from_millis(1)).is_none());
        assert!(queue.may_connect(now + CONNECT_RETRY).is_some());
        queue.connection_refused(now);
        queue.primary_returned();
        assert!(queue.may_connect(now).is_some());
    }

    #[test]
    fn connections_are_not_opened_for_work_that_others_will_take() {
        let (queue, now) = with_due(2);
        for _ in 0..5 {
            let id = queue.take(now).unwrap();
            queue.settled(id, true, now); // the pace grows
            queue.spooled(MessageId::new());
        }
        let places: Vec<_> = std::iter::from_fn(|| queue.may_connect(now)).collect();
        assert_eq!((places.len(), queue.connections()), (2, 2));
        drop(places);
        assert_eq!(queue.connections(), 0);
    }

    #[test]
    fn a_stalled_connection_gives_its_turn_to_another_but_keeps_its_place() {
        let queue = Arc::new(Queue::new(&Delivery { max_connections: 2, ..Delivery::default() }));
        let now = Instant::now();
        (0..5).for_each(|_| queue.spooled(MessageId::new()));
        let mut places = Vec::new();
        for _ in 0..2 {
            let mut place = queue.may_connect(now).expect("the pace allows one");
            place.turn_to(Doing::Working);
            assert!(queue.may_connect(now).is_none(), "the pace allows one only");
            place.turn_to(Doing::Stalled);
            places.push(place);
        }
        assert!(queue.may_connect(now).is_none(), "the primary's limit holds for all of them");
    }

    #[test]
    fn asking_for_a_connection_makes_due_what_was_deferred_until_now() {
        let (queue, now) = with_due(1);
        let id = queue.take(now).unwrap();
        queue.deferred(id, Deferral::Reply, 1, 0.0, now);
        queue.connection_refused(now + Duration::from_secs(60));
        assert!(queue.may_connect(now + Duration::from_secs(60)).is_none());
        let later = now + Duration::from_secs(3600);
        assert_eq!(queue.next_due(later), later, "else the drain would wake for it again and again");
    }
}
