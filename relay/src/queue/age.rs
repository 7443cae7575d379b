//! The clock by which mail grows old: no jump of the machine's clock, and no stop, ends what was not tried. No I/O.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Where the machine's clock is ahead, ours follows at so many times its speed.
const FASTEST: f64 = 2.0;
/// Where it is behind, ours goes on so slowly, so that a clock that was wrong before does not stop it for years.
const SLOWEST: f64 = 0.5;

/// A clock that follows the machine's, but never jumps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AgeClock {
    now: Timestamp,
}

impl AgeClock {
    /// Goes on where it stood when the relay stopped, else from the machine's clock.
    pub fn new(stood_at: Option<Timestamp>, machine: Timestamp) -> Self {
        Self { now: stood_at.unwrap_or(machine) }
    }

    /// So much time has passed, by a clock that does not jump, and the machine's says this now.
    pub fn advance(&mut self, passed: Duration, machine: Timestamp) {
        let gap = machine.duration_since(self.now).as_secs_f64();
        let step = gap.clamp(passed.as_secs_f64() * SLOWEST, passed.as_secs_f64() * FASTEST);
        self.now = SignedDuration::try_from_secs_f64(step)
            .ok()
            .and_then(|step| self.now.checked_add(step).ok())
            .unwrap_or(self.now);
    }

    /// What it says.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// What came before this has been kept for longer than `span`.
    pub fn ago(&self, span: Duration) -> Timestamp {
        let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
        self.now.checked_sub(span).unwrap_or(Timestamp::MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY_HOURS: i64 = 24;

    fn time(hours: i64) -> Timestamp {
        Timestamp::from_second(hours * 3600).unwrap()
    }

    /// What ours says after each hour, when the machine's says these.
    fn after(mut clock: AgeClock, machine_hours: impl IntoIterator<Item = i64>) -> f64 {
        machine_hours.into_iter().for_each(|hours| clock.advance(HOUR, time(hours)));
        clock.now().as_second() as f64 / 3600.0
    }

    #[test]
    fn it_goes_with_a_clock_that_is_right() {
        assert_eq!(after(AgeClock::new(None, time(1000)), 1001..=1100), 1100.0);
    }

    #[test]
    fn a_day_too_far_is_made_up_for_within_a_day_and_a_day_too_few_within_two() {
        let ahead = 1001 + DAY_HOURS;
        assert_eq!(after(AgeClock::new(None, time(1000)), ahead..ahead + 1), 1002.0);
        assert_eq!(after(AgeClock::new(None, time(1000)), ahead..ahead + 24), (ahead + 23) as f64);
        let behind = 1001 - DAY_HOURS;
        assert_eq!(after(AgeClock::new(None, time(1000)), behind..behind + 1), 1000.5);
        assert_eq!(after(AgeClock::new(None, time(1000)), behind..behind + 48), (behind + 47) as f64);
    }

    #[test]
    fn a_long_stop_does_not_make_mail_old_at_once() {
        let stopped = AgeClock::new(Some(time(1000)), time(5000));
        assert_eq!(after(stopped, [5001]), 1002.0);
        assert_eq!(stopped.ago(100 * HOUR), time(900));
        assert_eq!(stopped.ago(Duration::MAX), Timestamp::MIN);
    }
}
