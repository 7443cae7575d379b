//! The one source of chance: drivers draw here and hand it to the pure parts.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A number from `0.0..1.0`, good enough to spread retries and probes.
pub fn spread() -> f64 {
    // Each `RandomState` has new random keys; 53 bits fill the fraction of an f64.
    let bits = RandomState::new().build_hasher().finish() >> 11;
    bits as f64 / (1u64 << 53) as f64
}
