//! Which message goes next, and when. It holds ids and instants, and cannot read mail. No I/O, no clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::backoff::Backoff;
use crate::mail::id::MessageId;

/// All messages that wait, each in one of three places: due, later, or under way.
#[derive(Debug)]
pub struct Scheduler {
    backoff: Backoff,
    /// Ids sort by age: the oldest goes first.
    due: BTreeSet<MessageId>,
    later: BTreeMap<(Instant, MessageId), Deferral>,
    /// The times in `later`, by message.
    later_at: BTreeMap<MessageId, Instant>,
    under_way: BTreeSet<MessageId>,
}

/// Why a message waits on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deferral {
    /// The primary said so, for this message.
    Reply,
    /// The connection broke: nothing is known against the message.
    Connection,
}

/// Whether a person's order may change a message now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// It is being handed over, or another order has it.
    Busy,
    /// It is under way until it is settled, deferred or untried, and no delivery takes it meanwhile.
    Taken {
        /// Whether it was in the queue before; one that is held is not.
        was_waiting: bool,
    },
}

/// When a message goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// As soon as the primary takes it.
    Due,
    /// Not before this.
    At(Instant),
    /// It is being handed over, or somebody's order is being carried out.
    UnderWay,
    /// It is not in the queue.
    Absent,
}

impl Scheduler {
    /// Nothing waits.
    pub fn new(backoff: Backoff) -> Self {
        let (due, later, later_at, under_way) = Default::default();
        Self { backoff, due, later, later_at, under_way }
    }

    /// A message is ours, or was found at start: it is due. True if nothing else was.
    pub fn spooled(&mut self, id: MessageId) -> bool {
        let first = self.due.is_empty();
        self.due.insert(id);
        first
    }

    /// The oldest due message; it is under way until it is settled, deferred or untried.
    pub fn take(&mut self, now: Instant) -> Option<MessageId> {
        self.wake(now);
        let id = self.due.pop_first()?;
        self.under_way.insert(id);
        Some(id)
    }

    /// How many [`Scheduler::take`] would give.
    pub fn due(&mut self, now: Instant) -> usize {
        self.wake(now);
        self.due.len()
    }

    /// Nobody in it waits any more.
    pub fn settled(&mut self, id: MessageId) {
        self.under_way.remove(&id);
    }

    /// Somebody in it waits on. `deferrals`: so far, with this one. `spread`: see [`Backoff::delay`].
    pub fn deferred(&mut self, id: MessageId, deferral: Deferral, deferrals: u32, spread: f64, now: Instant) {
        self.under_way.remove(&id);
        let at = now + self.backoff.delay(deferrals, spread);
        self.later.insert((at, id), deferral);
        self.later_at.insert(id, at);
    }

    /// It was not tried: it keeps its place.
    pub fn untried(&mut self, id: MessageId) {
        self.under_way.remove(&id);
        self.due.insert(id);
    }

    /// Takes a message out of the queue, wherever in it, for an order that changes it.
    pub fn claim(&mut self, id: MessageId) -> Claim {
        if !self.under_way.insert(id) {
            return Claim::Busy;
        }
        let later = self.later_at.remove(&id).and_then(|at| self.later.remove(&(at, id)));
        Claim::Taken { was_waiting: self.due.remove(&id) || later.is_some() }
    }

    /// When it goes.
    pub fn when(&self, id: MessageId) -> When {
        match self.later_at.get(&id) {
            Some(at) => When::At(*at),
            None if self.due.contains(&id) => When::Due,
            None if self.under_way.contains(&id) => When::UnderWay,
            None => When::Absent,
        }
    }

    /// Everything is due. Returns how many messages wait.
    pub fn flush(&mut self) -> usize {
        self.later_at.clear();
        self.due.extend(std::mem::take(&mut self.later).into_keys().map(|(_, id)| id));
        self.waiting()
    }

    /// What waits for nothing but the primary is due.
    pub fn primary_returned(&mut self) {
        let Self { due, later, later_at, .. } = self;
        later.retain(|(_, id), deferral| {
            let stays = *deferral == Deferral::Reply;
            if !stays {
                later_at.remove(id);
                due.insert(*id);
            }
            stays
        });
    }

    /// When the next message comes due that is not.
    pub fn next_due(&self) -> Option<Instant> {
        self.later.first_key_value().map(|((at, _), _)| *at)
    }

    /// Messages in all three places.
    pub fn waiting(&self) -> usize {
        self.due.len() + self.later.len() + self.under_way.len()
    }

    fn wake(&mut self, now: Instant) {
        while let Some(first) = self.later.first_entry() {
            let (at, id) = *first.key();
            if at > now {
                return;
            }
            first.remove();
            self.later_at.remove(&id);
            self.due.insert(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const MILLISECOND: Duration = Duration::from_millis(1);

    fn scheduler(messages: usize) -> (Scheduler, Vec<MessageId>, Instant) {
        let mut scheduler = Scheduler::new(Backoff { first: MINUTE, longest: 30 * MINUTE });
        let ids: Vec<_> = (0..messages).map(|_| MessageId::new()).collect();
        for id in ids.iter().rev() {
            scheduler.spooled(*id);
        }
        (scheduler, ids, Instant::now())
    }

    #[test]
    fn the_oldest_message_goes_first_and_none_goes_twice() {
        let (mut scheduler, ids, t0) = scheduler(3);
        let taken: Vec<_> = std::iter::from_fn(|| scheduler.take(t0)).collect();
        assert_eq!(taken, ids);
        assert_eq!(scheduler.waiting(), 3);
        ids.iter().for_each(|id| scheduler.settled(*id));
        assert_eq!(scheduler.waiting(), 0);
    }

    #[test]
    fn a_deferred_message_is_tried_again_when_its_delay_is_over_and_not_before() {
        let (mut scheduler, ids, t0) = scheduler(1);
        scheduler.take(t0);
        scheduler.deferred(ids[0], Deferral::Reply, 1, 0.0, t0);
        assert_eq!(scheduler.next_due(), Some(t0 + MINUTE));
        assert_eq!(scheduler.take(t0 + MINUTE - MILLISECOND), None);
        assert_eq!(scheduler.take(t0 + MINUTE), Some(ids[0]));
    }

    #[test]
    fn the_primarys_return_wakes_what_waited_for_it_and_nothing_else() {
        let (mut scheduler, ids, t0) = scheduler(2);
        for (id, deferral) in ids.iter().zip([Deferral::Reply, Deferral::Connection]) {
            scheduler.take(t0);
            scheduler.deferred(*id, deferral, 1, 0.0, t0);
        }
        scheduler.primary_returned();
        assert_eq!((scheduler.take(t0), scheduler.take(t0)), (Some(ids[1]), None));
    }

    #[test]
    fn a_flush_makes_everything_due_but_what_is_under_way() {
        let (mut scheduler, ids, t0) = scheduler(2);
        scheduler.take(t0);
        scheduler.take(t0);
        scheduler.deferred(ids[1], Deferral::Reply, 9, 0.0, t0);
        assert_eq!(scheduler.flush(), 2);
        assert_eq!((scheduler.take(t0), scheduler.take(t0)), (Some(ids[1]), None));
    }

    #[test]
    fn what_is_claimed_is_taken_by_nobody_else_and_comes_back_from_wherever_it_was() {
        let (mut scheduler, ids, t0) = scheduler(3);
        scheduler.take(t0);
        scheduler.deferred(ids[0], Deferral::Reply, 1, 0.0, t0);
        scheduler.take(t0);
        let held = MessageId::new();
        assert_eq!(
            ids.iter().map(|id| scheduler.when(*id)).collect::<Vec<_>>(),
            [When::At(t0 + MINUTE), When::UnderWay, When::Due]
        );
        assert_eq!(scheduler.claim(ids[0]), Claim::Taken { was_waiting: true });
        assert_eq!(scheduler.claim(ids[1]), Claim::Busy);
        assert_eq!(scheduler.claim(ids[2]), Claim::Taken { was_waiting: true });
        assert_eq!((scheduler.when(held), scheduler.claim(held)), (When::Absent, Claim::Taken { was_waiting: false }));
        assert_eq!(scheduler.claim(held), Claim::Busy);
        assert_eq!((scheduler.flush(), scheduler.take(t0 + MINUTE), scheduler.next_due()), (4, None, None));
        scheduler.untried(ids[0]);
        scheduler.settled(ids[2]);
        scheduler.untried(held);
        assert_eq!((scheduler.take(t0), scheduler.take(t0), scheduler.take(t0)), (Some(ids[0]), Some(held), None));
    }

    #[test]
    fn an_untried_message_keeps_its_place() {
        let (mut scheduler, ids, t0) = scheduler(2);
        let first = scheduler.take(t0).unwrap();
        scheduler.untried(first);
        assert_eq!(scheduler.take(t0), Some(ids[0]));
    }
}
