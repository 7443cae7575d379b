//! Random numbers: for back-off, and for tokens.

use std::time::Duration;

/// How long to wait before the next try: `min` doubling with each of the `failures` so far, at most `max`; less up to half of that,
/// so that what failed together is not tried together.
pub fn back_off(failures: u32, min: Duration, max: Duration) -> Duration {
    spread(min.saturating_mul(1 << failures.min(16)).min(max))
}

/// Between a half and the whole of it.
pub fn spread(whole: Duration) -> Duration {
    whole.mul_f64(0.5 + f64::from(number()) / f64::from(u32::MAX) / 2.0)
}

/// Half of a whole range is enough for back-off; without a source of chance all wait the same.
fn number() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX)
}

/// 256 bits from the system's source, as hex digits.
pub fn token() -> Result<String, getrandom::Error> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A few letters that tell two processes apart which have the same name.
pub fn suffix() -> String {
    format!("{:08x}", number())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_doubles_to_its_bound_and_is_spread() {
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(60));
        for (failures, whole) in [(0, 1), (1, 2), (5, 32), (6, 60), (u32::MAX, 60)] {
            let waited = back_off(failures, min, max);
            let whole = Duration::from_secs(whole);
            assert!(waited >= whole / 2 && waited <= whole, "{failures} failures: {waited:?}");
        }
    }

    #[test]
    fn a_token_is_long_and_never_the_same() {
        let (one, other) = (token().unwrap(), token().unwrap());
        assert_eq!((one.len(), one == other), (64, false));
    }
}
