//! Chance that can be replayed: a small generator whose seed is printed.

use std::{
    env,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Pseudo-random numbers (xorshift64*): good enough to vary a test, far from good enough for secrets.
#[derive(Clone)]
pub struct Chance {
    state: u64,
}

impl Chance {
    /// Takes the seed from the environment (`SEED`) or from the clock, and prints how to replay the run.
    pub fn new() -> Self {
        let seed = match env::var("SEED") {
            Ok(text) => text.parse().expect("SEED is a whole number"),
            // Few enough digits to be typed again.
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |age| u64::from(age.subsec_micros())),
        };
        println!("chance: replay this run with SEED={seed}");
        Self::seeded(seed)
    }

    /// The same numbers for the same seed.
    pub fn seeded(seed: u64) -> Self {
        // Spread small seeds over all bits; the state must not be zero.
        Self { state: seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1 }
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number from `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The upper bits are the better ones.
        (self.number() >> 11) % bound
    }

    /// A number from `low..high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low)
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// A length of time shorter than `bound`.
    pub fn time_below(&mut self, bound: Duration) -> Duration {
        let bound_us = u64::try_from(bound.as_micros()).expect("a test waits less than an age");
        Duration::from_micros(self.below(bound_us))
    }
}

impl Default for Chance {
    fn default() -> Self {
        Self::new()
    }
}
