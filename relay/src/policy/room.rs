//! Whether a message can be kept: asked at MAIL, before anybody sends it. No I/O.

use super::{Facts, Refusal};

/// Below this we take nothing more: a segment that is begun, its successor, and what is coming in at the moment.
pub const FREE_BYTES_MIN: u64 = 192 << 20;

/// 451: the disk fails.
pub fn is_writable(facts: &Facts) -> Result<(), Refusal> {
    if facts.is_writable { Ok(()) } else { Err(Refusal::Disk) }
}

/// 452: a shortage that can be foreseen must not lose mail (RFC 5321 section 6.1).
pub fn is_left(facts: &Facts) -> Result<(), Refusal> {
    if facts.free_bytes >= FREE_BYTES_MIN { Ok(()) } else { Err(Refusal::Full) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Question, decide, recipient::Domains};

    #[test]
    fn nothing_is_begun_that_cannot_be_kept() {
        let domains = Domains::default();
        for (free_bytes, is_writable, expected) in [
            (FREE_BYTES_MIN, true, Ok(())),
            (FREE_BYTES_MIN - 1, true, Err(Refusal::Full)),
            (FREE_BYTES_MIN, false, Err(Refusal::Disk)),
        ] {
            assert_eq!(decide(&Question::Sender, &Facts { domains: &domains, free_bytes, is_writable }), expected);
        }
    }
}
