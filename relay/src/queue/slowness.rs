//! Whether the primary answers more slowly than it could. No I/O, no clock.
//!
//! Known limit: while it never gets fewer connections than it can bear, what counts as its best gets worse with each
//! [`BEST_FOR`]: in a drain of hours the primary may meet as many as are configured, all of them in its row.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Fewer answers tell too little: one long message among them would count as much as the server.
const ROUND_ANSWERS_MIN: usize = 10;
/// A server's best is forgotten after this, since its mail and its other work change.
const BEST_FOR: Duration = Duration::from_secs(600);
/// The best is kept by this, so that memory does not grow with speed.
const STEP: Duration = Duration::from_secs(60);
/// Longer than this many times the best is slow..
const SLOW_FACTOR: u32 = 2;
/// ..if it is also longer by this: the scheduling of a machine in a rack makes 1 ms into 5, and means nothing.
const SLOW_BY: Duration = Duration::from_millis(20);

/// Compares each round of answers with the best of late.
#[derive(Clone, Default, Debug)]
pub struct Slowness {
    round: Vec<Duration>,
    best: VecDeque<(Instant, Duration)>,
}

impl Slowness {
    /// A message was taken after this time. True if a round ends with it that was slow.
    pub fn answered(&mut self, took: Duration, connections: usize, now: Instant) -> bool {
        self.round.push(took);
        if self.round.len() < connections.max(ROUND_ANSWERS_MIN) {
            return false;
        }
        let typical = median(&mut self.round);
        self.restart();
        let best = self.best(now);
        self.remember(typical, now);
        best.is_some_and(|best| typical > best.saturating_mul(SLOW_FACTOR) && typical > best.saturating_add(SLOW_BY))
    }

    /// The round so far was measured under other conditions than what comes.
    pub fn restart(&mut self) {
        self.round.clear();
    }

    fn best(&mut self, now: Instant) -> Option<Duration> {
        while self.best.front().is_some_and(|(begun, _)| now.saturating_duration_since(*begun) > BEST_FOR) {
            self.best.pop_front();
        }
        self.best.iter().map(|(_, best)| *best).min()
    }

    fn remember(&mut self, typical: Duration, now: Instant) {
        match self.best.back_mut() {
            Some((begun, best)) if now.saturating_duration_since(*begun) < STEP => *best = typical.min(*best),
            _ => self.best.push_back((now, typical)),
        }
    }
}

/// Not the mean: one message of 50 MB among twenty letters says nothing of the server.
fn median(round: &mut [Duration]) -> Duration {
    let middle = round.len() / 2;
    *round.select_nth_unstable(middle).1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the round is slow that comes after one of 10 answers of `best_ms`.
    fn is_slow(best_ms: u64, then_ms: &[u64], after: Duration) -> bool {
        let (mut slowness, now) = (Slowness::default(), Instant::now());
        let answered = |slowness: &mut Slowness, ms, now| slowness.answered(Duration::from_millis(ms), 1, now);
        (0..10).for_each(|_| assert!(!answered(&mut slowness, best_ms, now), "there is nothing to compare it with"));
        let ends = then_ms.iter().map(|ms| answered(&mut slowness, *ms, now + after)).collect::<Vec<_>>();
        ends.last().copied().unwrap_or_default()
    }

    #[test]
    fn a_round_over_twice_the_best_of_ten_minutes_and_20_ms_more_is_slow() {
        let minute = Duration::from_secs(60);
        for (best_ms, then_ms, after, slow) in [
            (100, [200; 10].as_slice(), minute, false),
            (100, &[201; 10], minute, true),
            (5, &[25; 10], minute, false), // twenty more, and not over
            (5, &[26; 10], minute, true),
            (100, &[201; 9], minute, false), // not yet a round
            (100, &[100, 100, 100, 100, 100, 100, 9000, 9000, 9000, 9000], minute, false), // a few long messages
            (100, &[201; 10], 10 * minute, true),
            (100, &[201; 10], 11 * minute, false), // the best is forgotten
        ] {
            assert_eq!(is_slow(best_ms, then_ms, after), slow, "{best_ms} ms, then {then_ms:?} after {after:?}");
        }
    }

    #[test]
    fn memory_does_not_grow_with_the_length_of_a_drain() {
        let (mut slowness, start) = (Slowness::default(), Instant::now());
        for second in 0..36_000 {
            slowness.answered(Duration::from_millis(second), 1, start + Duration::from_secs(second));
        }
        assert!(slowness.best.len() <= 11 && slowness.round.len() < 10);
    }
}
