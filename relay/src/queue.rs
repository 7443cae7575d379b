//! What waits and when it goes: the shared handle around the pure scheduler and pace.

pub mod age;
pub mod backoff;
mod claim;
mod later;
pub mod pace;
mod place;
mod rate;
pub mod scheduler;
#[cfg(test)]
mod simulated;
mod slowness;
mod turns;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use backupmx_relay_api::config::{Delivery, WhenPrimaryUp};
use tokio::sync::{Notify, futures::Notified};

use self::{
    backoff::Backoff,
    pace::{Answer, Pace},
    place::Places,
    rate::Rate,
    scheduler::{Claim, Deferral, Lane, Next, Scheduler},
};
pub use self::{
    claim::Claimed,
    place::{Doing, Place},
};
use crate::mail::{envelope::Flow, id::MessageId};

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
    when_primary_up: WhenPrimaryUp,
    /// See [`Queue::drain_has_no_place`].
    drain_has_no_place: bool,
    /// After a connection that could not be made: not at once again, whatever the pace says, unless there is news.
    no_connect_before: Option<Instant>,
}

impl Queue {
    /// Empty, with the configured intervals and bounds.
    pub fn new(delivery: &Delivery, when_primary_up: WhenPrimaryUp) -> Self {
        let places_max = delivery.max_connections as usize;
        let scheduler = Scheduler::new(backoff(delivery), delivery.order);
        let pace = Pace::new(places_max, delivery.remember_limit.0);
        let core = Core {
            scheduler,
            pace,
            rate: Rate::default(),
            places: Places::default(),
            places_max,
            when_primary_up,
            drain_has_no_place: false,
            no_connect_before: None,
        };
        Self { core: Mutex::new(core), changed: Notify::new() }
    }

    /// Other intervals and bounds from now on. Connections beyond them end after their message.
    /// `is_other_primary`: then what the pace found out of the one before is forgotten.
    pub fn reconfigure(&self, delivery: &Delivery, when_primary_up: WhenPrimaryUp, is_other_primary: bool) {
        let (connections_max, remember_limit) = (delivery.max_connections as usize, delivery.remember_limit.0);
        {
            let mut core = self.core();
            core.scheduler.reconfigure(backoff(delivery), delivery.order);
            core.places_max = connections_max;
            core.when_primary_up = when_primary_up;
            if is_other_primary {
                core.pace = Pace::new(connections_max, remember_limit);
                core.no_connect_before = None;
            } else {
                core.pace.reconfigure(connections_max, remember_limit);
            }
        }
        self.wake();
    }

    /// A message is ours and due. `flow`: whose it is. `lane`: [`Lane::Backlog`] if it was found at start.
    pub fn spooled(&self, id: MessageId, flow: Flow, lane: Lane) {
        // Who is busy takes it anyway, and who waits for the primary need not hear of each message.
        if self.core().scheduler.spooled(id, flow, lane) {
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

    /// The primary answers again: what waits only for it is due, all that came so far is backlog, and one message goes first.
    pub fn primary_returned(&self, now: Instant) {
        self.core().pace.returned(now);
        self.news(Scheduler::primary_returned);
    }

    /// The primary answers again after a failure or two: what waits only for that is due.
    pub fn primary_answers(&self) {
        self.news(Scheduler::primary_answers);
    }

    /// Connections that the primary has taken.
    pub fn connections_served(&self) -> usize {
        self.core().places.served()
    }

    /// The primary has taken a message after its trouble.
    pub fn primary_proved(&self) {
        self.news(Scheduler::primary_proved);
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

    /// Asks for a message on behalf of a person. `None` if it is being tried, or another person decides on it.
    pub fn claim(self: &Arc<Self>, id: MessageId) -> Option<Claimed> {
        match self.core().scheduler.claim(id) {
            Claim::Busy => None,
            Claim::Taken { was_waiting } => Some(Claimed::new(self.clone(), id, was_waiting)),
        }
    }

    /// When a message is tried; `None` if it does not wait.
    pub fn next_attempt(&self, id: MessageId) -> Option<Next> {
        self.core().scheduler.next_attempt(id)
    }

    /// A place for one more connection, if more is due than those without work will take, and the pace allows it.
    pub fn may_connect(self: &Arc<Self>, now: Instant) -> Option<Place> {
        let mut core = self.core();
        // Asked in any case: it is what makes due what was deferred until now.
        let due = core.scheduler.due(now);
        let has_work = due > core.places.connecting + core.places.idle;
        if core.no_connect_before.is_some_and(|before| now < before) {
            return None;
        }
        let Limits { all, drain, .. } = core.limits(now);
        let is_room = core.places.all() < all && core.places.draining() < drain;
        core.drain_has_no_place = has_work && !is_room && core.places.draining() == 0;
        let may = has_work && core.places.paced() < core.pace.allowed() && is_room;
        drop(core);
        may.then(|| Place::take(self.clone(), Doing::Connecting, now))
    }

    /// A place for a connection that is to carry mail whose sender waits.
    pub fn may_pass(self: &Arc<Self>, now: Instant) -> Option<Place> {
        let core = self.core();
        let is_too_soon = core.no_connect_before.is_some_and(|before| now < before);
        let may = !is_too_soon && !core.is_full_for_passing(now);
        drop(core);
        may.then(|| Place::take(self.clone(), Doing::Opening, now))
    }

    /// Whether there are as many connections as there may be for such mail.
    pub fn is_full_for_passing(&self, now: Instant) -> bool {
        self.core().is_full_for_passing(now)
    }

    /// Whether something is due that cannot go, because all connections are those of mail whose senders wait.
    pub fn drain_has_no_place(&self) -> bool {
        self.core().drain_has_no_place
    }

    /// Whether a connection could not be made a moment ago, and no other one is served.
    pub fn has_just_failed(&self, now: Instant) -> bool {
        let core = self.core();
        core.no_connect_before.is_some_and(|before| now < before) && core.places.served() == 0
    }

    /// An attempt ended now, `took` after it began. Said before its outcome is recorded: the disk's time is not the primary's.
    pub fn answered(&self, took: Duration, answer: Answer, now: Instant) {
        let mut core = self.core();
        let used = core.places.paced();
        if core.pace.answered(took, answer, used, now) {
            self.changed.notify_waiters();
        }
    }

    /// A connection broke.
    pub fn broke(&self, now: Instant) {
        self.core().pace.broke(now);
    }

    /// When the next deferred message becomes due, but no later than this.
    pub fn next_due(&self, latest: Instant) -> Instant {
        self.core().scheduler.next_due().map_or(latest, |due| due.min(latest))
    }

    /// Messages that wait or are being tried; held ones are not among them.
    pub fn waiting(&self) -> usize {
        self.core().scheduler.waiting()
    }

    /// Connections to the primary over which the queue goes.
    pub fn connections(&self) -> usize {
        self.core().places.draining()
    }

    /// Connections that the primary's answers allow.
    pub fn connections_allowed(&self) -> usize {
        self.core().pace.allowed()
    }

    /// Messages a second, over the last seconds.
    pub fn messages_per_second(&self, now: Instant) -> f64 {
        self.core().rate.per_second(now)
    }

    /// Until nothing waits, at this rate; `None` while nothing leaves.
    pub fn time_to_empty(&self, now: Instant) -> Option<Duration> {
        let core = self.core();
        core.rate.estimated_empty(core.scheduler.waiting(), now)
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many connections there may be.
struct Limits {
    /// Of both kinds.
    all: usize,
    /// For the drain: it leaves a quarter, and one of two or three.
    drain: usize,
    /// For mail whose sender waits: one is left to the drain, unless there is only one.
    passing: usize,
}

impl Core {
    /// As the configuration has it, and what the primary has shown.
    fn limits(&self, now: Instant) -> Limits {
        let all = self.places_max.min(self.pace.connections_max(now));
        let left = match self.when_primary_up {
            WhenPrimaryUp::PassThrough if all > 1 => (all / 4).max(1),
            WhenPrimaryUp::PassThrough | WhenPrimaryUp::Queue => 0,
        };
        Limits { all, drain: all - left, passing: all.saturating_sub(1).max(1) }
    }

    fn is_full_for_passing(&self, now: Instant) -> bool {
        let Limits { all, passing, .. } = self.limits(now);
        self.places.all() >= all || self.places.opening + self.places.passing >= passing
    }
}

fn backoff(delivery: &Delivery) -> Backoff {
    Backoff { first: delivery.retry_interval.0, longest: delivery.retry_interval_max.0 }
}

#[cfg(test)]
mod tests {
    use super::{place::CONNECT_RETRY, *};

    const MS: Duration = Duration::from_millis(1);

    fn with_due(messages: usize, max_connections: u32) -> (Arc<Queue>, Instant) {
        let queue = Arc::new(Queue::new(&Delivery { max_connections, ..Delivery::default() }, WhenPrimaryUp::Queue));
        (0..messages).for_each(|_| spool(&queue));
        (queue, Instant::now())
    }

    fn spool(queue: &Queue) {
        queue.spooled(MessageId::new(), Flow::default(), Lane::New);
    }

    /// As many as may be, each one with work, after the primary took enough messages.
    fn working(queue: &Arc<Queue>, connections: usize, now: Instant) -> Vec<Place> {
        let mut places = Vec::new();
        while places.len() < connections {
            let mut place = queue.may_connect(now).expect("something is due");
            assert!(queue.take(now).is_some());
            place.turn_to(Doing::Working);
            places.push(place);
            if places.len() < connections {
                queue.answered(MS, Answer::Taken, now);
            }
        }
        places
    }

    #[test]
    fn a_connection_that_was_refused_is_tried_a_second_later_or_when_there_is_news() {
        let (queue, now) = with_due(5, 20);
        let place = queue.may_connect(now).expect("something is due");
        assert!(place.turned_away(now), "no other connection is served");
        drop(place);
        assert!(queue.may_connect(now + CONNECT_RETRY - MS).is_none());
        let place = queue.may_connect(now + CONNECT_RETRY).expect("the second is over");
        place.turned_away(now + CONNECT_RETRY);
        drop(place);
        queue.primary_returned(now + CONNECT_RETRY);
        assert!(queue.may_connect(now + CONNECT_RETRY).is_some());
    }

    #[test]
    fn a_connection_turned_away_while_others_are_served_tells_how_many_the_primary_takes() {
        let (queue, now) = with_due(20, 20);
        let _places = working(&queue, 4, now);
        queue.answered(MS, Answer::Taken, now);
        let one_more = queue.may_connect(now).expect("the pace allows five");
        assert!(!one_more.turned_away(now), "the primary is well");
        assert_eq!(queue.connections_allowed(), 3);
    }

    #[test]
    fn connections_are_not_opened_for_work_that_others_will_take() {
        let (queue, now) = with_due(5, 20);
        let mut places = working(&queue, 3, now); // two are due
        places.iter_mut().for_each(|place| place.turn_to(Doing::Idle));
        queue.answered(MS, Answer::Taken, now);
        assert!(queue.may_connect(now).is_none());
        (0..2).for_each(|_| spool(&queue));
        places.extend(queue.may_connect(now));
        assert!(queue.may_connect(now).is_none());
        assert_eq!((places.len(), queue.connections()), (4, 4));
        drop(places);
        assert_eq!(queue.connections(), 0);
    }

    #[test]
    fn one_connection_only_is_there_until_the_canary_is_taken() {
        let (queue, now) = with_due(100, 20);
        let mut place = queue.may_connect(now).expect("the canary's");
        for doing in [Doing::Connecting, Doing::Idle, Doing::Working] {
            place.turn_to(doing);
            assert!(queue.may_connect(now).is_none(), "{doing:?}");
        }
        queue.answered(MS, Answer::Taken, now);
        assert!(queue.may_connect(now).is_some());
    }

    #[test]
    fn connections_beyond_a_reduced_pace_end_after_their_message() {
        let (queue, now) = with_due(20, 20);
        let mut places = working(&queue, 4, now);
        queue.broke(now);
        let stay: Vec<_> = places.iter_mut().map(Place::stays).collect();
        assert_eq!(stay, [false, false, false, true]);
        assert_eq!(queue.connections(), 4, "they are still saying goodbye");
        assert!(queue.may_connect(now).is_none());
    }

    #[test]
    fn a_stalled_connection_gives_its_turn_to_another_but_keeps_its_place() {
        let (queue, now) = with_due(5, 2);
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
    fn mail_that_passes_through_shares_the_connections_and_the_drain_leaves_it_a_quarter() {
        let (queue, now) = with_due(100, 8);
        queue.reconfigure(&Delivery { max_connections: 8, ..Delivery::default() }, WhenPrimaryUp::PassThrough, false);
        let drain = working(&queue, 6, now);
        queue.answered(MS, Answer::Taken, now);
        assert!(queue.may_connect(now).is_none(), "two are left");
        let passing: Vec<_> = std::iter::from_fn(|| queue.may_pass(now)).collect();
        assert_eq!((passing.len(), queue.connections()), (2, 6));
        drop(drain);
        let more: Vec<_> = std::iter::from_fn(|| queue.may_pass(now)).collect();
        assert_eq!(more.len(), 5, "the drain can always have one");
        let last = queue.may_connect(now);
        assert!(last.is_some() && queue.may_connect(now).is_none() && queue.may_pass(now).is_none());
    }

    #[test]
    fn of_two_connections_each_kind_has_one_and_a_single_one_serves_both_by_turns() {
        for (connections, drains, passes) in [(1, 1, 1), (2, 1, 1), (3, 2, 2)] {
            let (queue, now) = with_due(9, connections);
            let delivery = Delivery { max_connections: connections, ..Delivery::default() };
            queue.reconfigure(&delivery, WhenPrimaryUp::PassThrough, false);
            let passing: Vec<_> = std::iter::from_fn(|| queue.may_pass(now)).collect();
            assert_eq!(passing.len(), passes);
            assert_eq!(queue.may_connect(now).is_some(), connections > 1);
            assert_eq!(queue.drain_has_no_place(), connections == 1);
            drop(passing);
            let drain = working(&queue, drains, now);
            queue.answered(MS, Answer::Taken, now);
            assert!(queue.may_connect(now).is_none() && !queue.drain_has_no_place());
            assert_eq!(queue.may_pass(now).is_some(), connections > 1);
            drop(drain);
        }
    }

    #[test]
    fn mail_that_passes_through_keeps_to_what_the_primary_was_found_to_take() {
        let (queue, now) = with_due(20, 20);
        let _drain = working(&queue, 3, now);
        let mut passing = queue.may_pass(now).expect("there is room");
        passing.turn_to(Doing::Passing);
        let one_more = queue.may_pass(now).expect("nothing is known against it");
        assert!(!one_more.turned_away(now), "four are served");
        drop(one_more);
        let later = now + 2 * CONNECT_RETRY;
        assert!(
            queue.may_pass(later).is_none() && queue.may_connect(later).is_none(),
            "it takes three, and there are four"
        );
    }

    #[test]
    fn asking_for_a_connection_makes_due_what_was_deferred_until_now() {
        let (queue, now) = with_due(1, 20);
        let (place, id) = (queue.may_connect(now).unwrap(), queue.take(now).unwrap());
        queue.deferred(id, Deferral::Reply, 1, 0.0, now);
        place.turned_away(now + Duration::from_secs(60));
        drop(place);
        assert!(queue.may_connect(now + Duration::from_secs(60)).is_none());
        let later = now + Duration::from_secs(3600);
        assert_eq!(queue.next_due(later), later, "else the drain would wake for it again and again");
    }

    #[test]
    fn a_claim_that_is_cut_off_leaves_the_message_due() {
        let (queue, now) = with_due(1, 20);
        let id = queue.take(now).unwrap();
        assert!(queue.claim(id).is_none(), "it is being tried");
        queue.untried(id);
        let claimed = queue.claim(id).expect("nobody has it");
        assert!(claimed.was_waiting() && queue.take(now).is_none());
        drop(claimed);
        assert_eq!(queue.take(now), Some(id));
    }

    #[test]
    fn what_a_person_decided_holds() {
        let (queue, now) = with_due(2, 20);
        let (tried, id) = (queue.take(now).unwrap(), queue.take(now).unwrap());
        queue.untried(id);
        queue.claim(id).unwrap().ended();
        assert_eq!((queue.next_attempt(id), queue.take(now)), (None, None));
        queue.claim(id).unwrap().retried();
        assert_eq!(queue.next_attempt(id), None, "it is held, and a retry does not release it");
        queue.claim(id).unwrap().released(Flow::default());
        assert_eq!(queue.next_attempt(id), Some(Next::Due));
        queue.deferred(tried, Deferral::Reply, 1, 0.0, now);
        queue.claim(tried).unwrap().retried();
        assert_eq!(queue.next_attempt(tried), Some(Next::Due));
    }
}
