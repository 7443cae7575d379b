//! How long a deferred message waits for its next attempt. No clock, no chance of its own.

use std::time::Duration;

/// Bounds of the delay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    /// After the first deferral.
    pub first: Duration,
    /// Where the doubling ends.
    pub longest: Duration,
}

impl Backoff {
    /// Delay before the next attempt at one message.
    ///
    /// `deferrals`: so far, 1 or more. `spread`: drawn by the caller from `0.0..1.0`.
    /// Returns the first delay, doubled with each further deferral up to the longest, plus at most a quarter of that, so
    /// that what was deferred together does not come back together.
    /// Source: RFC 5321 section 4.5.4.1, 30 minutes in general, less where the cause is known; ours is, we probe the primary.
    pub fn delay(&self, deferrals: u32, spread: f64) -> Duration {
        let doublings = deferrals.saturating_sub(1).min(31);
        let delay = self.first.saturating_mul(1 << doublings).min(self.longest);
        delay + delay.mul_f64(spread.clamp(0.0, 1.0) / 4.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_its_bound_and_is_spread_by_a_quarter() {
        let (minute, backoff) =
            (Duration::from_secs(60), Backoff { first: Duration::from_secs(60), longest: Duration::from_secs(1800) });
        for (deferrals, spread, expected) in [
            (1, 0.0, minute),
            (2, 0.0, 2 * minute),
            (5, 0.0, 16 * minute),
            (6, 0.0, 30 * minute),
            (u32::MAX, 0.0, 30 * minute),
            (1, 1.0, Duration::from_secs(75)),
            (0, 0.0, minute),
        ] {
            assert_eq!(backoff.delay(deferrals, spread), expected, "deferral {deferrals}, spread {spread}");
        }
    }
}
