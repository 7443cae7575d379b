//! Which message goes next, and when. It holds ids and instants, and cannot read mail. No I/O, no clock.
//!
//! | a message is | it leaves by |
//! |---|---|
//! | due, in one of two lanes | `take`: under way; `claim`: under way |
//! | later | its time, `flush`, or, if it keeps its place, `primary_returned`: due; `claim`: under way |
//! | under way, for a delivery | `settled`: unknown; `deferred`: later; `untried`: due |
//! | under way, for a person | `settled`: unknown; `untried`, `released`: due; `unclaimed`: where it was |
//! | unknown: never heard of, ended, or held | `spooled`: due; `claim`: under way |
//!
//! It is in one of these only, and nothing but `take` begins a delivery: so none is delivered while a person decides on it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use backupmx_relay_api::config::Order;

use super::{
    backoff::Backoff,
    later::{Later, Wait, Wakes},
    turns::{self, Group, Turns},
};
use crate::mail::{envelope::Flow, id::MessageId};

/// Of so many turns new mail has one: a drain of hours does not delay it, and it does not stop the drain.
const TURNS: u8 = 4;

/// All messages that wait, and those that a person decides on.
#[derive(Debug)]
pub struct Scheduler {
    backoff: Backoff,
    backlog: Turns,
    new: Turns,
    /// Of [`TURNS`]; new mail has the last one.
    turn: u8,
    /// How often the primary returned: what came before the last time is backlog, wherever it is at that moment.
    returns: u32,
    later: Later,
    under_way: HashMap<MessageId, Origin>,
}

/// Two rows that take turns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// What waited when the primary returned.
    Backlog,
    /// What came since.
    New,
}

/// Why a message waits on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deferral {
    /// The primary said so, for this message.
    Reply,
    /// Nothing is known against the message: it goes when the primary returns, and after the usual delay if that is not heard of.
    KeepsPlace,
    /// The primary failed with it, and not for the first time, so it may be the cause: it lets others go first, and goes once one of
    /// them was taken, or after the usual delay.
    StepsAside,
    /// It gets a second look after exactly this.
    After(Duration),
}

/// When a message is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// As soon as its turn comes.
    Due,
    /// Then; due if that is over.
    At(Instant),
    /// It is being tried, or a person decides on it.
    UnderWay,
}

/// Whether a person may decide on a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// It is being tried, or another person decides on it.
    Busy,
    /// No delivery begins until the claim has ended.
    Taken {
        /// It was due or later; else it is held, or there is none.
        was_waiting: bool,
    },
}

/// Where a message stands when it is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spot {
    group: Group,
    /// What [`Scheduler::returns`] was when it came; 0 for what was found at start.
    returns: u32,
}

/// Where what is under way was before.
#[derive(Clone, Copy, Debug)]
enum Origin {
    Unknown,
    Due(Spot),
    Later(Wait),
}

impl Scheduler {
    /// Nothing waits. `order`: within mail of the same group of senders.
    pub fn new(backoff: Backoff, order: Order) -> Self {
        Self {
            backoff,
            backlog: Turns::new(order),
            new: Turns::new(order),
            turn: 0,
            returns: 1,
            later: Later::default(),
            under_way: HashMap::new(),
        }
    }

    /// From now on. What was deferred keeps the time that it was told.
    pub fn reconfigure(&mut self, backoff: Backoff, order: Order) {
        self.backoff = backoff;
        self.backlog.set_order(order);
        self.new.set_order(order);
    }

    /// A message is ours, or was found at start: it is due. Ignored if it is known. True if nothing else was due.
    pub fn spooled(&mut self, id: MessageId, flow: Flow, lane: Lane) -> bool {
        let spot = self.spot(turns::group(flow), lane);
        let is_due = self.backlog.has(spot.group, id) || self.new.has(spot.group, id);
        if is_due || self.later.get(id).is_some() || self.under_way.contains_key(&id) {
            return false;
        }
        self.make_due(id, spot);
        self.due_already() == 1
    }

    /// The next due message; it is under way until it is settled, deferred or untried.
    pub fn take(&mut self, now: Instant) -> Option<MessageId> {
        self.wake(now);
        let news_turn = self.turn == TURNS - 1;
        let lane = if (news_turn || self.backlog.len() == 0) && self.new.len() > 0 { Lane::New } else { Lane::Backlog };
        let (group, id) = self.lane(lane).pop()?;
        self.turn = (self.turn + 1) % TURNS;
        self.under_way.insert(id, Origin::Due(self.spot(group, lane)));
        Some(id)
    }

    /// How many [`Scheduler::take`] would give.
    pub fn due(&mut self, now: Instant) -> usize {
        self.wake(now);
        self.due_already()
    }

    /// It was under way, and nobody in it waits any more.
    pub fn settled(&mut self, id: MessageId) {
        self.under_way.remove(&id);
    }

    /// It was taken, and somebody in it waits on. `deferrals`: so far, with this one. `spread`: see [`Backoff::delay`].
    pub fn deferred(&mut self, id: MessageId, deferral: Deferral, deferrals: u32, spread: f64, now: Instant) {
        let Some(spot) = self.under_way.remove(&id).and_then(Origin::spot) else { return };
        let (delay, wakes) = match deferral {
            Deferral::Reply => (self.backoff.delay(deferrals, spread), Wakes::Never),
            Deferral::KeepsPlace => (self.backoff.delay(deferrals, spread), Wakes::AtReturn),
            Deferral::StepsAside => (self.backoff.delay(deferrals, spread), Wakes::AtProof),
            Deferral::After(delay) => (delay, Wakes::Never),
        };
        self.later.insert(id, Wait { until: now + delay, wakes, spot });
    }

    /// It was taken, and not tried; or a person who claimed it wants it tried now. What did not wait before does not wait now.
    pub fn untried(&mut self, id: MessageId) {
        if let Some(spot) = self.under_way.remove(&id).and_then(Origin::spot) {
            self.make_due(id, spot);
        }
    }

    /// Asks for a message on behalf of a person, who then says what became of it: [`Scheduler::settled`] if it is held or deleted,
    /// [`Scheduler::untried`] or [`Scheduler::released`] if it is to go, [`Scheduler::unclaimed`] if nothing was done.
    pub fn claim(&mut self, id: MessageId) -> Claim {
        if self.under_way.contains_key(&id) {
            return Claim::Busy;
        }
        let origin = self.take_out(id);
        self.under_way.insert(id, origin);
        Claim::Taken { was_waiting: origin.spot().is_some() }
    }

    /// It was claimed, waits from now on, and is due.
    pub fn released(&mut self, id: MessageId, flow: Flow) {
        if let Some(origin) = self.under_way.remove(&id) {
            let spot = origin.spot().unwrap_or(self.spot(turns::group(flow), Lane::New));
            self.make_due(id, spot);
        }
    }

    /// It was claimed, and nothing was done: it is where it would be without that.
    pub fn unclaimed(&mut self, id: MessageId) {
        match self.under_way.remove(&id) {
            Some(Origin::Due(spot)) => self.make_due(id, spot),
            Some(Origin::Later(wait)) => self.later.insert(id, wait),
            Some(Origin::Unknown) | None => {}
        }
    }

    /// Everything is due. Returns how many messages wait.
    pub fn flush(&mut self) -> usize {
        self.wake_like(|_| true);
        self.waiting()
    }

    /// What waits for nothing but the primary is due, and all that came so far is backlog.
    pub fn primary_returned(&mut self) {
        self.primary_answers();
        self.backlog.take_in(&mut self.new);
        self.returns += 1;
    }

    /// The primary answers again after a failure or two: what waits for nothing but that is due.
    pub fn primary_answers(&mut self) {
        self.wake_like(|wait| wait.wakes == Wakes::AtReturn);
    }

    /// The primary has taken a message after its trouble: what stepped aside is due.
    pub fn primary_proved(&mut self) {
        self.wake_like(|wait| wait.wakes == Wakes::AtProof);
    }

    /// When the next message comes due that is not.
    pub fn next_due(&self) -> Option<Instant> {
        self.later.next()
    }

    /// When this one is tried; `None` if it does not wait.
    pub fn next_attempt(&self, id: MessageId) -> Option<Next> {
        if self.under_way.contains_key(&id) {
            return Some(Next::UnderWay);
        }
        let later = self.later.get(id).map(|wait| Next::At(wait.until));
        later.or_else(|| self.find_due(id).map(|_| Next::Due))
    }

    /// Messages that are due, later, or being tried; what a person decides on counts if it waited before.
    pub fn waiting(&self) -> usize {
        let under_way = self.under_way.values().filter(|origin| origin.spot().is_some());
        self.due_already() + self.later.len() + under_way.count()
    }

    fn wake(&mut self, now: Instant) {
        while let Some((id, spot)) = self.later.pop(now) {
            self.make_due(id, spot);
        }
    }

    fn wake_like(&mut self, like_this: impl Fn(&Wait) -> bool) {
        for (id, spot) in self.later.take(&like_this) {
            self.make_due(id, spot);
        }
        // What is claimed goes back to where it would be without that.
        for origin in self.under_way.values_mut() {
            if let Origin::Later(wait) = origin
                && like_this(wait)
            {
                *origin = Origin::Due(wait.spot);
            }
        }
    }

    fn make_due(&mut self, id: MessageId, spot: Spot) {
        let lane = if spot.returns == self.returns { Lane::New } else { Lane::Backlog };
        self.lane(lane).insert(spot.group, id);
    }

    fn take_out(&mut self, id: MessageId) -> Origin {
        if let Some(wait) = self.later.remove(id) {
            return Origin::Later(wait);
        }
        let Some((lane, group)) = self.find_due(id) else { return Origin::Unknown };
        self.lane(lane).remove(group, id);
        Origin::Due(self.spot(group, lane))
    }

    fn find_due(&self, id: MessageId) -> Option<(Lane, Group)> {
        let backlog = self.backlog.find(id).map(|group| (Lane::Backlog, group));
        backlog.or_else(|| self.new.find(id).map(|group| (Lane::New, group)))
    }

    fn due_already(&self) -> usize {
        self.backlog.len() + self.new.len()
    }

    fn spot(&self, group: Group, lane: Lane) -> Spot {
        let returns = match lane {
            Lane::Backlog => 0,
            Lane::New => self.returns,
        };
        Spot { group, returns }
    }

    fn lane(&mut self, lane: Lane) -> &mut Turns {
        match lane {
            Lane::Backlog => &mut self.backlog,
            Lane::New => &mut self.new,
        }
    }
}

impl Origin {
    fn spot(self) -> Option<Spot> {
        match self {
            Self::Unknown => None,
            Self::Due(spot) => Some(spot),
            Self::Later(wait) => Some(wait.spot),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const MILLISECOND: Duration = Duration::from_millis(1);
    const BACKOFF: Backoff = Backoff { first: MINUTE, longest: Duration::from_secs(1800) };

    fn ids(messages: usize) -> Vec<MessageId> {
        (0..messages).map(|_| MessageId::new()).collect()
    }

    fn scheduler(messages: usize) -> (Scheduler, Vec<MessageId>, Instant) {
        let (mut scheduler, ids) = (Scheduler::new(BACKOFF, Order::OldestFirst), ids(messages));
        for id in ids.iter().rev() {
            scheduler.spooled(*id, Flow(0), Lane::Backlog);
        }
        (scheduler, ids, Instant::now())
    }

    fn all(scheduler: &mut Scheduler, now: Instant) -> Vec<MessageId> {
        std::iter::from_fn(|| scheduler.take(now)).collect()
    }

    #[test]
    fn the_oldest_message_goes_first_and_none_goes_twice() {
        let (mut scheduler, ids, t0) = scheduler(3);
        assert_eq!(all(&mut scheduler, t0), ids);
        assert_eq!(scheduler.waiting(), 3);
        ids.iter().for_each(|id| scheduler.settled(*id));
        assert_eq!(scheduler.waiting(), 0);
    }

    #[test]
    fn the_newest_message_goes_first_where_that_is_wanted() {
        let (mut scheduler, ids) = (Scheduler::new(BACKOFF, Order::NewestFirst), ids(3));
        ids.iter().for_each(|id| _ = scheduler.spooled(*id, Flow(0), Lane::Backlog));
        assert_eq!(all(&mut scheduler, Instant::now()), [ids[2], ids[1], ids[0]]);
    }

    #[test]
    fn a_new_order_and_new_intervals_hold_for_what_is_there_already() {
        let (mut scheduler, ids, t0) = scheduler(3);
        scheduler.reconfigure(Backoff { first: 2 * MINUTE, ..BACKOFF }, Order::NewestFirst);
        assert_eq!(scheduler.take(t0), Some(ids[2]));
        scheduler.deferred(ids[2], Deferral::Reply, 1, 0.0, t0);
        assert_eq!(scheduler.next_attempt(ids[2]), Some(Next::At(t0 + 2 * MINUTE)));
        assert_eq!(all(&mut scheduler, t0), [ids[1], ids[0]]);
    }

    #[test]
    fn a_flood_delays_the_mail_of_another_sender_by_one_message() {
        let (mut scheduler, flood, t0) = scheduler(1000);
        let others = ids(3);
        others.iter().for_each(|id| _ = scheduler.spooled(*id, Flow(7), Lane::Backlog));
        let taken = all(&mut scheduler, t0);
        assert_eq!(taken[..7], [flood[0], others[0], flood[1], others[1], flood[2], others[2], flood[3]]);
        assert_eq!(taken.len(), 1003);
    }

    #[test]
    fn new_mail_gets_every_fourth_turn_and_each_lane_serves_while_the_other_is_empty() {
        let (mut scheduler, backlog, t0) = scheduler(5);
        let new = ids(4);
        new.iter().for_each(|id| _ = scheduler.spooled(*id, Flow(0), Lane::New));
        let expected = [backlog[0], backlog[1], backlog[2], new[0], backlog[3], backlog[4], new[1], new[2], new[3]];
        assert_eq!(all(&mut scheduler, t0), expected);
    }

    #[test]
    fn all_that_came_before_the_primarys_return_is_backlog_wherever_it_was_at_that_moment() {
        let (mut scheduler, before, t0) = (Scheduler::new(BACKOFF, Order::OldestFirst), ids(3), Instant::now());
        before.iter().for_each(|id| _ = scheduler.spooled(*id, Flow(0), Lane::New));
        let (later, under_way) = (scheduler.take(t0).unwrap(), scheduler.take(t0).unwrap());
        scheduler.deferred(later, Deferral::Reply, 1, 0.0, t0);
        scheduler.primary_returned();
        scheduler.untried(under_way);
        scheduler.flush();
        let since = MessageId::new();
        scheduler.spooled(since, Flow(0), Lane::New);
        // Two turns are over: the fourth is the new one's.
        assert_eq!(all(&mut scheduler, t0), [before[0], since, before[1], before[2]]);
    }

    #[test]
    fn new_mail_that_was_deferred_is_still_new() {
        let (mut scheduler, backlog, t0) = scheduler(4);
        let new = MessageId::new();
        scheduler.spooled(new, Flow(0), Lane::New);
        assert_eq!([(); 4].map(|()| scheduler.take(t0).unwrap()), [backlog[0], backlog[1], backlog[2], new]);
        scheduler.deferred(new, Deferral::Reply, 1, 0.0, t0);
        assert_eq!(scheduler.take(t0 + MINUTE), Some(backlog[3]));
        assert_eq!(scheduler.take(t0 + MINUTE), Some(new));
    }

    #[test]
    fn a_message_that_is_known_is_not_scheduled_again() {
        let (mut scheduler, ids, t0) = scheduler(3);
        let again = |scheduler: &mut Scheduler, id| {
            for lane in [Lane::Backlog, Lane::New] {
                assert!(!scheduler.spooled(id, Flow(0), lane));
            }
            assert_eq!(scheduler.waiting(), 3);
        };
        again(&mut scheduler, ids[0]);
        scheduler.take(t0);
        again(&mut scheduler, ids[0]);
        scheduler.deferred(ids[0], Deferral::Reply, 1, 0.0, t0);
        again(&mut scheduler, ids[0]);
        scheduler.claim(ids[1]);
        again(&mut scheduler, ids[1]);
    }

    #[test]
    fn a_deferred_message_is_tried_again_when_its_delay_is_over_and_not_before() {
        for (deferral, delay) in [
            (Deferral::Reply, MINUTE),
            (Deferral::KeepsPlace, MINUTE),
            (Deferral::StepsAside, MINUTE),
            (Deferral::After(15 * MINUTE), 15 * MINUTE), // whatever the spread: somebody was told the time
        ] {
            let (mut scheduler, ids, t0) = scheduler(1);
            scheduler.take(t0);
            let spread = if matches!(deferral, Deferral::After(_)) { 0.9 } else { 0.0 };
            scheduler.deferred(ids[0], deferral, 1, spread, t0);
            assert_eq!(scheduler.next_due(), Some(t0 + delay), "{deferral:?}");
            assert_eq!(scheduler.take(t0 + delay - MILLISECOND), None, "{deferral:?}");
            assert_eq!(scheduler.take(t0 + delay), Some(ids[0]), "{deferral:?}");
        }
    }

    #[test]
    fn the_primarys_return_wakes_what_waited_for_it_and_nothing_else() {
        let (mut scheduler, ids, t0) = scheduler(3);
        for (id, deferral) in ids.iter().zip([Deferral::Reply, Deferral::KeepsPlace, Deferral::After(MINUTE)]) {
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
    fn an_untried_message_keeps_its_place() {
        let (mut scheduler, ids, t0) = scheduler(2);
        let first = scheduler.take(t0).unwrap();
        scheduler.untried(first);
        assert_eq!(scheduler.take(t0), Some(ids[0]));
    }

    #[test]
    fn it_is_told_when_a_message_is_tried_next() {
        let (mut scheduler, ids, t0) = scheduler(3);
        scheduler.take(t0);
        scheduler.take(t0);
        scheduler.deferred(ids[0], Deferral::Reply, 1, 0.0, t0);
        let expected = [Some(Next::At(t0 + MINUTE)), Some(Next::UnderWay), Some(Next::Due)];
        assert_eq!([0, 1, 2].map(|message| scheduler.next_attempt(ids[message])), expected);
        assert_eq!(scheduler.next_attempt(MessageId::new()), None);
    }

    #[test]
    fn no_delivery_begins_while_a_person_decides_and_no_person_decides_during_a_delivery() {
        let (mut scheduler, ids, t0) = scheduler(2);
        scheduler.take(t0);
        assert_eq!(scheduler.claim(ids[0]), Claim::Busy);
        assert_eq!(scheduler.claim(ids[1]), Claim::Taken { was_waiting: true });
        assert_eq!(scheduler.claim(ids[1]), Claim::Busy, "one person at a time");
        assert_eq!(scheduler.take(t0), None);
        scheduler.settled(ids[1]);
        scheduler.settled(ids[0]);
        assert_eq!((scheduler.waiting(), scheduler.next_attempt(ids[1])), (0, None));
    }

    #[test]
    fn a_claim_without_consequence_leaves_a_message_where_it_was() {
        let (mut scheduler, ids, t0) = scheduler(3);
        scheduler.take(t0);
        scheduler.deferred(ids[0], Deferral::Reply, 1, 0.0, t0);
        let held = MessageId::new();
        let now = [ids[0], ids[1], ids[2], held].map(|id| scheduler.next_attempt(id));
        for (id, was_waiting) in [(ids[0], true), (ids[1], true), (ids[2], true), (held, false)] {
            assert_eq!(scheduler.claim(id), Claim::Taken { was_waiting });
            assert_eq!(scheduler.waiting(), 3);
            scheduler.unclaimed(id);
        }
        assert_eq!([ids[0], ids[1], ids[2], held].map(|id| scheduler.next_attempt(id)), now);
    }

    #[test]
    fn a_claimed_message_does_not_miss_the_primarys_return() {
        let (mut scheduler, ids, t0) = scheduler(1);
        scheduler.take(t0);
        scheduler.deferred(ids[0], Deferral::KeepsPlace, 1, 0.0, t0);
        scheduler.claim(ids[0]);
        scheduler.primary_returned();
        scheduler.unclaimed(ids[0]);
        assert_eq!(scheduler.take(t0), Some(ids[0]));
    }

    #[test]
    fn a_retried_message_is_due_at_once_and_one_that_is_held_is_not() {
        let (mut scheduler, ids, t0) = scheduler(1);
        scheduler.take(t0);
        scheduler.deferred(ids[0], Deferral::Reply, 1, 0.0, t0);
        let held = MessageId::new();
        for id in [ids[0], held] {
            scheduler.claim(id);
            scheduler.untried(id);
        }
        assert_eq!(all(&mut scheduler, t0), ids);
    }

    #[test]
    fn a_released_message_is_due_again() {
        let (mut scheduler, _, t0) = scheduler(0);
        let held = MessageId::new();
        assert_eq!(scheduler.claim(held), Claim::Taken { was_waiting: false });
        scheduler.released(held, Flow(3));
        assert_eq!((scheduler.waiting(), scheduler.take(t0)), (1, Some(held)));
    }

    proptest! {
        /// Each message is in one place, whatever happens, and none is forgotten.
        #[test]
        fn no_message_is_lost_or_doubled(events in proptest::collection::vec((0u8..12, 0usize..8), 0..200)) {
            let (mut scheduler, ids, mut now) = (Scheduler::new(BACKOFF, Order::OldestFirst), ids(8), Instant::now());
            let (mut waits, mut tried, mut claimed) = ([false; 8], [false; 8], [false; 8]);
            for (event, message) in events {
                let (id, is_ours) = (ids[message], tried[message] || claimed[message]);
                match event {
                    0 | 1 if !is_ours => {
                        scheduler.spooled(id, Flow(message as u32 / 2), if event == 0 { Lane::New } else { Lane::Backlog });
                        waits[message] = true;
                    }
                    2 | 3 => if let Some(taken) = scheduler.take(now) {
                        let taken = ids.iter().position(|id| *id == taken).unwrap();
                        prop_assert!(waits[taken] && !tried[taken] && !claimed[taken]);
                        tried[taken] = true;
                    },
                    4 if tried[message] => {
                        let deferral = [Deferral::Reply, Deferral::KeepsPlace, Deferral::After(MINUTE)][message % 3];
                        scheduler.deferred(id, deferral, 1, 0.0, now);
                        tried[message] = false;
                    }
                    5 if is_ours => {
                        scheduler.settled(id);
                        (waits[message], tried[message], claimed[message]) = (false, false, false);
                    }
                    6 if is_ours => {
                        scheduler.untried(id);
                        (tried[message], claimed[message]) = (false, false);
                    }
                    7 => {
                        let expected = if is_ours { Claim::Busy } else { Claim::Taken { was_waiting: waits[message] } };
                        prop_assert_eq!(scheduler.claim(id), expected);
                        claimed[message] |= !is_ours;
                    }
                    8 if claimed[message] => {
                        scheduler.unclaimed(id);
                        claimed[message] = false;
                    }
                    9 if claimed[message] => {
                        scheduler.released(id, Flow(message as u32 / 2));
                        (waits[message], claimed[message]) = (true, false);
                    }
                    10 => scheduler.primary_returned(),
                    11 if message == 0 => _ = scheduler.flush(),
                    11 => now += MINUTE / 3,
                    _ => {}
                }
                prop_assert_eq!(scheduler.waiting(), waits.iter().filter(|waits| **waits).count());
            }
            scheduler.flush();
            let rest = all(&mut scheduler, now);
            let expected = (0..8).filter(|message| waits[*message] && !tried[*message] && !claimed[*message]);
            prop_assert_eq!(rest.len(), expected.clone().count());
            prop_assert!(expected.into_iter().all(|message| rest.contains(&ids[message])));
        }
    }
}
