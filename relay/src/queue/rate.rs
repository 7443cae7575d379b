//! Messages a second over the last seconds. Time is an argument.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Long enough to be steady, short enough to show that a drain has stopped.
const WINDOW: Duration = Duration::from_secs(5);
/// Counts are summed up by this, so that memory does not grow with speed.
const STEP: Duration = Duration::from_millis(100);

/// Counts events.
#[derive(Clone, Default, Debug)]
pub struct Rate {
    steps: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// One happened.
    pub fn count(&mut self, now: Instant) {
        match self.steps.back_mut() {
            Some((begun, count)) if now.duration_since(*begun) < STEP => *count += 1,
            _ => {
                while self.steps.front().is_some_and(|(begun, _)| now.duration_since(*begun) > WINDOW) {
                    self.steps.pop_front();
                }
                self.steps.push_back((now, 1));
            }
        }
    }

    /// How many a second.
    pub fn per_second(&self, now: Instant) -> f64 {
        let recent = self.steps.iter().filter(|(begun, _)| now.duration_since(*begun) <= WINDOW);
        let count: u64 = recent.map(|(_, count)| count).sum();
        count as f64 / WINDOW.as_secs_f64()
    }

    /// How long so many would take at this rate; `None` while nothing happens.
    pub fn estimated_empty(&self, waiting: usize, now: Instant) -> Option<Duration> {
        let per_second = self.per_second(now);
        (per_second > 0.0).then(|| Duration::from_secs_f64(waiting as f64 / per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows_what_happened_lately() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        for millisecond in 0..1000 {
            rate.count(start + Duration::from_millis(millisecond));
        }
        assert_eq!(rate.per_second(start + Duration::from_secs(1)), 200.0);
        assert_eq!(rate.per_second(start + Duration::from_secs(10)), 0.0);
        rate.count(start + Duration::from_secs(60));
        assert_eq!(rate.steps.len(), 1, "old counts are forgotten");
    }

    #[test]
    fn the_queue_is_empty_when_what_waits_has_gone_at_this_rate_and_never_while_nothing_goes() {
        let (mut rate, now) = (Rate::default(), Instant::now());
        assert_eq!(rate.estimated_empty(1000, now), None);
        (0..50).for_each(|_| rate.count(now));
        assert_eq!(rate.estimated_empty(1000, now), Some(Duration::from_secs(100)));
        assert_eq!(rate.estimated_empty(0, now), Some(Duration::ZERO));
        assert_eq!(rate.estimated_empty(1000, now + Duration::from_secs(60)), None);
    }
}
