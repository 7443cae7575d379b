//! How many connections the primary can bear, judged by its answers. No I/O, no clock.
//!
//! | the primary | connections |
//! |---|---|
//! | has just returned, or a connection broke | one, whose first message is the canary |
//! | takes a message | fast growth: one more, so that they double each round; else one more for a round of them |
//! | answers slowly | times 0.85, at least one less |
//! | turns a connection away | as many as it served, less one, and no more for `remember_limit` |
//! | defers over 5 % of a window of attempts, or answers not at all | halved |
//!
//! Growth is fast until the first sign that it was too much: a primary that needs a second for a message meets 20 connections
//! after five seconds, not after twenty, and doubling is slow enough to see the sign. After a break growth is fast up to half of
//! what there was.
//!
//! What began before the last reduction says nothing about it. So one cause reduces once, however many attempts meet it, and
//! a whole round goes by until the next judgement.
//!
//! That no mail goes after three failures in a row is not said here: the primary is not up then.

use std::time::{Duration, Instant};

use super::slowness::Slowness;

/// Attempts of a window at least: among fewer 5 % is less than one.
const WINDOW_ATTEMPTS_MIN: usize = 20;
/// More deferrals of a hundred attempts are more than the usual full mailboxes.
const DEFERRED_PERCENT_MAX: usize = 5;
/// What is left of a hundred connections if the primary answers slowly.
const SLOW_PERCENT: usize = 85;

/// Grows while the primary answers well.
#[derive(Clone, Debug)]
pub struct Pace {
    connections: usize,
    connections_max: usize,
    remember_limit: Duration,
    /// Growth is fast below this.
    fast_until: usize,
    /// Messages taken of this round.
    taken: usize,
    /// The primary turned away what was more than this, and it is remembered so long.
    cap: Option<(usize, Instant)>,
    window: Window,
    slowness: Slowness,
    reduced_at: Option<Instant>,
}

/// How an attempt at a message ended, as far as it tells how much the primary can bear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Its content was taken.
    Taken,
    /// It was deferred by a reply.
    Deferred,
    /// A command waited for its reply until the time limit.
    TimedOut,
}

/// Attempts, and those of them that were deferred.
#[derive(Clone, Copy, Default, Debug)]
struct Window {
    attempts: usize,
    deferred: usize,
}

impl Pace {
    /// One connection, whose first message is the canary.
    pub fn new(connections_max: usize, remember_limit: Duration) -> Self {
        let connections_max = connections_max.max(1);
        Self {
            connections: 1,
            connections_max,
            remember_limit,
            fast_until: connections_max,
            taken: 0,
            cap: None,
            window: Window::default(),
            slowness: Slowness::default(),
            reduced_at: None,
        }
    }

    /// Other bounds from now on. What was found out of the primary stays.
    pub fn reconfigure(&mut self, connections_max: usize, remember_limit: Duration) {
        let connections_max = connections_max.max(1);
        if self.fast_until >= self.connections_max.min(connections_max) {
            self.fast_until = connections_max; // no sign so far that this would be too much
        }
        self.connections = self.connections.min(connections_max);
        (self.connections_max, self.remember_limit) = (connections_max, remember_limit);
    }

    /// How many connections there may be: 1 or more.
    pub fn allowed(&self) -> usize {
        self.connections
    }

    /// An attempt ended now, `took` after it began. `used`: connections that there were. True if there may be more now.
    pub fn answered(&mut self, took: Duration, answer: Answer, used: usize, now: Instant) -> bool {
        if self.is_stale(took, now) {
            return false;
        }
        if answer == Answer::TimedOut || self.window.counts(answer, self.connections) {
            self.reduce(self.connections / 2, now);
            return false;
        }
        if answer == Answer::Deferred {
            return false;
        }
        if self.slowness.answered(took, self.connections, now) {
            self.reduce((self.connections * SLOW_PERCENT / 100).min(self.connections - 1), now);
            return false;
        }
        // What is not in use proves nothing about more.
        used >= self.connections && self.grow(now)
    }

    /// The primary did not take one more connection, `took` after it was begun, while it served so many others.
    pub fn turned_away(&mut self, took: Duration, others_served: usize, now: Instant) {
        if self.is_stale(took, now) {
            return;
        }
        let cap = others_served.saturating_sub(1).max(1);
        self.cap = Some((cap, now + self.remember_limit));
        if self.connections > cap {
            self.reduce(cap, now);
        }
    }

    /// A connection broke, or could not be made while no other was served: a server in trouble must not be met by all of us at once.
    pub fn broke(&mut self, now: Instant) {
        let half = self.connections / 2;
        self.reduce(1, now);
        self.fast_until = half;
    }

    /// The primary is back, and it need not be what it was: all that is kept is how many connections it takes.
    pub fn returned(&mut self, now: Instant) {
        self.reduce(1, now);
        self.fast_until = self.connections_max(now);
        self.slowness = Slowness::default();
    }

    fn grow(&mut self, now: Instant) -> bool {
        self.taken += 1;
        let is_enough = self.connections < self.fast_until || self.taken >= self.connections;
        let grows = is_enough && self.connections < self.connections_max(now);
        if grows {
            self.connections += 1;
        }
        if is_enough {
            self.taken = 0;
        }
        grows
    }

    fn reduce(&mut self, connections: usize, now: Instant) {
        self.connections = connections.max(1);
        self.fast_until = self.connections;
        self.taken = 0;
        self.window = Window::default();
        self.slowness.restart();
        self.reduced_at = Some(now);
    }

    /// How many connections the primary takes at most, as far as it is known.
    pub fn connections_max(&self, now: Instant) -> usize {
        let remembered = self.cap.filter(|(_, until)| now < *until);
        remembered.map_or(self.connections_max, |(cap, _)| cap.min(self.connections_max))
    }

    fn is_stale(&self, took: Duration, now: Instant) -> bool {
        self.reduced_at.is_some_and(|at| now.saturating_duration_since(at) < took)
    }
}

impl Window {
    /// True if a window ends with this attempt in which too many were deferred.
    fn counts(&mut self, answer: Answer, connections: usize) -> bool {
        self.attempts += 1;
        self.deferred += usize::from(answer == Answer::Deferred);
        if self.attempts < connections.max(WINDOW_ATTEMPTS_MIN) {
            return false;
        }
        let Self { attempts, deferred } = std::mem::take(self);
        deferred * 100 > attempts * DEFERRED_PERCENT_MAX
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(600);
    const MS: Duration = Duration::from_millis(1);

    /// A pace that is used to the full, on a clock of its own.
    struct Run {
        pace: Pace,
        now: Instant,
    }

    impl Run {
        fn at(connections: usize) -> Self {
            let mut run = Self { pace: Pace::new(connections, LIMIT), now: Instant::now() };
            run.answers(connections - 1, Answer::Taken, MS);
            assert_eq!(run.pace.allowed(), connections);
            (run.pace.window, run.pace.slowness) = Default::default();
            run
        }

        /// So many attempts one after the other.
        fn answers(&mut self, answers: usize, answer: Answer, took: Duration) {
            for _ in 0..answers {
                self.now += took;
                self.pace.answered(took, answer, self.pace.allowed(), self.now);
            }
        }
    }

    #[test]
    fn a_returned_primary_meets_one_connection_and_then_twice_as_many_each_round() {
        let mut run = Run::at(20);
        run.pace.returned(run.now);
        let rounds: Vec<_> = (0..6)
            .map(|_| {
                let allowed = run.pace.allowed();
                run.answers(allowed, Answer::Taken, MS);
                allowed
            })
            .collect();
        assert_eq!(rounds, [1, 2, 4, 8, 16, 20]);
    }

    #[test]
    fn after_a_break_growth_is_fast_to_half_of_what_there_was_and_then_one_a_round() {
        let mut run = Run::at(16);
        run.pace.broke(run.now);
        assert_eq!(run.pace.allowed(), 1);
        run.answers(7, Answer::Taken, MS);
        assert_eq!(run.pace.allowed(), 8);
        run.answers(7, Answer::Taken, MS);
        assert_eq!(run.pace.allowed(), 8);
        run.answers(1, Answer::Taken, MS);
        assert_eq!(run.pace.allowed(), 9);
    }

    #[test]
    fn new_bounds_hold_at_once_and_leave_what_is_known() {
        let mut run = Run::at(16);
        run.pace.reconfigure(4, LIMIT);
        assert_eq!(run.pace.allowed(), 4);
        run.answers(20, Answer::Taken, MS);
        assert_eq!(run.pace.allowed(), 4);
        run.pace.reconfigure(8, LIMIT);
        run.answers(4, Answer::Taken, MS);
        assert_eq!(run.pace.allowed(), 8, "growth is fast as before");
        run.pace.turned_away(MS, 4, run.now + 2 * MS);
        run.pace.reconfigure(20, LIMIT);
        run.answers(40, Answer::Taken, MS);
        assert_eq!(run.pace.allowed(), 3, "what the primary takes at most is remembered");
    }

    #[test]
    fn the_canary_stays_alone_until_it_is_taken() {
        let (mut pace, now) = (Pace::new(20, LIMIT), Instant::now());
        assert!(!pace.answered(MS, Answer::Deferred, 1, now));
        assert_eq!(pace.allowed(), 1);
        assert!(pace.answered(MS, Answer::Taken, 1, now));
        assert_eq!(pace.allowed(), 2);
    }

    #[test]
    fn connections_that_are_not_used_prove_nothing_about_more() {
        let mut run = Run::at(4);
        run.pace = Pace { connections_max: 20, fast_until: 20, ..run.pace };
        assert!(!run.pace.answered(MS, Answer::Taken, 3, run.now));
        assert!(run.pace.answered(MS, Answer::Taken, 4, run.now));
    }

    #[test]
    fn what_began_before_a_break_is_no_canary() {
        let mut run = Run::at(8);
        run.pace.broke(run.now);
        run.now += MS;
        assert!(!run.pace.answered(2 * MS, Answer::Taken, 8, run.now), "it began 1 ms before the break");
        assert!(run.pace.answered(MS, Answer::Taken, 8, run.now));
    }

    #[test]
    fn what_the_primary_turned_away_is_remembered_for_a_time_and_then_tried_one_at_a_time() {
        let mut run = Run::at(20);
        run.pace.turned_away(MS, 12, run.now);
        let until = run.now + LIMIT;
        run.answers(500, Answer::Taken, MS);
        assert_eq!(run.pace.allowed(), 11);
        run.pace.returned(run.now);
        run.answers(10 + 44 * 11, Answer::Taken, MS); // whole rounds
        assert_eq!(run.pace.allowed(), 11, "its return does not make it forgotten");
        run.now = until;
        run.answers(11, Answer::Taken, MS);
        assert_eq!(run.pace.allowed(), 12);
        run.answers(11, Answer::Taken, MS);
        assert_eq!(run.pace.allowed(), 12);
    }

    #[test]
    fn connections_turned_away_together_are_one_sign() {
        let mut run = Run::at(20);
        run.pace.turned_away(3 * MS, 12, run.now);
        run.now += MS;
        run.pace.turned_away(3 * MS, 9, run.now); // some have left by now
        assert_eq!(run.pace.allowed(), 11);
    }

    #[test]
    fn a_connection_turned_away_beside_one_leaves_that_one() {
        let mut run = Run::at(2);
        run.pace.turned_away(MS, 1, run.now);
        assert_eq!(run.pace.allowed(), 1);
    }

    #[test]
    fn over_5_percent_deferred_of_20_attempts_halves_the_connections_and_begins_anew() {
        for (deferred, expected) in [(1, 16), (2, 8), (20, 8)] {
            let mut run = Run::at(16);
            run.answers(deferred, Answer::Deferred, MS);
            run.answers(20 - deferred, Answer::Taken, Duration::ZERO);
            assert_eq!(run.pace.allowed(), expected, "{deferred} of 20");
        }
        let mut run = Run::at(1);
        run.answers(100, Answer::Deferred, MS);
        assert_eq!(run.pace.allowed(), 1, "there is always one");
    }

    #[test]
    fn silence_halves_the_connections_once_however_many_meet_it() {
        let mut run = Run::at(16);
        run.now += 10 * MS;
        for _ in 0..16 {
            run.now += MS;
            run.pace.answered(Duration::from_secs(300), Answer::TimedOut, 16, run.now);
        }
        assert_eq!(run.pace.allowed(), 8);
    }

    #[test]
    fn slow_answers_take_15_percent_and_a_whole_round_goes_by_before_more() {
        let mut run = Run::at(20);
        run.answers(40, Answer::Taken, 50 * MS);
        run.answers(20, Answer::Taken, 120 * MS);
        assert_eq!(run.pace.allowed(), 17);
        // Those that were under way at that moment.
        for _ in 0..20 {
            run.now += MS;
            run.pace.answered(120 * MS, Answer::Taken, 20, run.now);
        }
        assert_eq!(run.pace.allowed(), 17);
        run.answers(17, Answer::Taken, 120 * MS);
        assert_eq!(run.pace.allowed(), 14);
    }

    proptest! {
        /// Whatever happens, in whatever order.
        #[test]
        fn there_is_always_one_connection_and_never_more_than_the_configuration_or_the_primary_allows(
            connections_max in 1usize..30,
            events in proptest::collection::vec((0u8..8, 0u64..500, 0usize..40), 0..400),
        ) {
            let (mut pace, mut now) = (Pace::new(connections_max, LIMIT), Instant::now());
            let (mut cap, mut cap_until) = (usize::MAX, now);
            for (event, ms, used) in events {
                let took = Duration::from_millis(ms);
                match event {
                    0 => pace.broke(now),
                    1 => pace.returned(now),
                    2 => {
                        pace.turned_away(Duration::ZERO, used, now);
                        (cap, cap_until) = (used.saturating_sub(1).max(1), now + LIMIT);
                    }
                    3 => now += took * 1000,
                    4 => _ = pace.answered(took, Answer::TimedOut, used, now),
                    5 => (0..20).for_each(|_| _ = pace.answered(took, Answer::Deferred, used, now)),
                    _ => (0..20).for_each(|_| {
                        let before = pace.allowed();
                        let grows = pace.answered(took, Answer::Taken, used.max(before), now);
                        assert_eq!(grows, pace.allowed() > before);
                    }),
                }
                prop_assert!((1..=connections_max).contains(&pace.allowed()));
                prop_assert!(now >= cap_until || pace.allowed() <= cap);
            }
        }
    }
}
