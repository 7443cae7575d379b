//! A service station: messages come, wait for one of its servers, take their time there, and go. No I/O, no clock.

use std::time::{Duration, Instant};

/// What a primary can bear.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Capacity {
    /// Messages at a time; more wait in the order in which they came.
    pub servers: u32,
    /// For one message.
    pub service: Duration,
    /// By how much of itself the service grows with each message that comes while all servers are busy, as where a disk thrashes:
    /// at 0.1 and five waiting it takes half as long again. At 0 a wait is all that load costs.
    pub congestion: f64,
}

impl Capacity {
    /// What it takes of steady load that does not congest it.
    pub fn messages_per_second(&self) -> f64 {
        f64::from(self.servers) / self.service.as_secs_f64()
    }
}

/// After a return: from a fraction of the capacity to all of it.
pub(super) struct SlowStart {
    pub(super) fraction: f64,
    pub(super) over: Duration,
}

impl SlowStart {
    /// The fraction so long after the return.
    pub(super) fn strength(&self, age: Duration) -> f64 {
        let grown = (age.as_secs_f64() / self.over.as_secs_f64()).min(1.0);
        self.fraction + (1.0 - self.fraction) * grown
    }
}

pub(super) struct Station {
    capacity: Capacity,
    /// When each server is free.
    free_at: Vec<Instant>,
    /// When each message that is inside goes.
    ends: Vec<Instant>,
}

impl Station {
    pub(super) fn new(capacity: Capacity) -> Self {
        Self { capacity, free_at: Vec::new(), ends: Vec::new() }
    }

    /// When a message that comes now goes. `strength`: the fraction of the capacity that there is, above 0.
    pub(super) fn serve(&mut self, now: Instant, strength: f64) -> Instant {
        let Capacity { servers, service, congestion } = self.capacity;
        self.ends.retain(|end| *end > now);
        let waiting = (self.ends.len() + 1).saturating_sub(servers as usize);
        let service = service.mul_f64((1.0 + congestion * waiting as f64) / strength);
        if self.free_at.len() < servers as usize {
            self.free_at.push(now);
        }
        let free_at = self.free_at.iter_mut().min().expect("a station has a server");
        *free_at = now.max(*free_at) + service;
        self.ends.push(*free_at);
        *free_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_finds_all_servers_busy_waits() {
        let mut station = Station::new(Capacity { servers: 2, service: SECOND, congestion: 0.0 });
        let now = Instant::now();
        for seconds in [1, 1, 2, 2, 3] {
            assert_eq!(station.serve(now, 1.0), now + seconds * SECOND);
        }
        assert_eq!(station.serve(now + 10 * SECOND, 1.0), now + 11 * SECOND);
        assert_eq!(station.serve(now + 10 * SECOND, 0.5), now + 12 * SECOND);
    }

    #[test]
    fn a_crowd_makes_a_station_slow_that_congests() {
        let mut station = Station::new(Capacity { servers: 1, service: SECOND, congestion: 0.5 });
        let now = Instant::now();
        for seconds in [1.0, 2.5, 4.5] {
            assert_eq!(station.serve(now, 1.0), now + SECOND.mul_f64(seconds));
        }
        assert_eq!(station.serve(now + 10 * SECOND, 1.0), now + 11 * SECOND);
    }

    #[test]
    fn strength_grows_from_a_fraction_to_all() {
        let slow_start = SlowStart { fraction: 0.2, over: 10 * SECOND };
        for (seconds, strength) in [(0, 0.2), (5, 0.6), (10, 1.0), (100, 1.0)] {
            assert!((slow_start.strength(seconds * SECOND) - strength).abs() < 1e-9, "{seconds}");
        }
    }
}
