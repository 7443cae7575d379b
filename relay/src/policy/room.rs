//! Whether a message can be kept: asked at MAIL, before anybody sends it. No I/O.

use super::{Facts, Refusal};

/// What is promised to a message whose sender did not say how long it is, and each time that it turns out longer:
/// few messages are.
pub const STEP_BYTES: u64 = 1 << 20;

/// 451: the disk fails.
pub fn is_writable(_: Option<u64>, facts: &Facts) -> Result<(), Refusal> {
    if facts.is_writable { Ok(()) } else { Err(Refusal::Disk) }
}

/// 452: a shortage that can be foreseen must not lose mail (RFC 5321 section 6.1).
pub fn is_left(size: Option<u64>, facts: &Facts) -> Result<(), Refusal> {
    let needed = facts.room_bytes_min.saturating_add(size.unwrap_or(STEP_BYTES));
    if facts.room_bytes >= needed { Ok(()) } else { Err(Refusal::Full) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Question, decide, recipient::Domains};

    #[test]
    fn nothing_is_begun_that_cannot_be_kept() {
        let domains = Domains::default();
        for (size, room_bytes, is_writable, expected) in [
            (Some(500), 1500, true, Ok(())),
            (Some(501), 1500, true, Err(Refusal::Full)),
            (None, 1000 + STEP_BYTES, true, Ok(())),
            (None, 999 + STEP_BYTES, true, Err(Refusal::Full)),
            (Some(u64::MAX), u64::MAX - 1, true, Err(Refusal::Full)),
            (Some(0), 1500, false, Err(Refusal::Disk)),
        ] {
            let facts =
                Facts { domains: &domains, room_bytes, room_bytes_min: 1000, is_writable, is_from_primary: false };
            assert_eq!(decide(&Question::Sender { size }, &facts), expected, "{size:?} in {room_bytes}");
        }
    }
}
