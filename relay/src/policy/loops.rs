//! Whether a message goes round in circles: asked at its end (RFC 5321 section 6.3). No I/O.

use super::{Facts, Refusal};
use crate::mail::header::Trail;

/// `Received` fields until we call it a loop: the least that RFC 5321 section 6.3 allows.
pub const RECEIVED_MAX: u32 = 100;
/// Fields of our own until we do: once is no harm, since lists and forwards may lead a message here twice.
pub const OWN_MAX: u32 = 4;

/// 554: nobody can mend this message.
pub fn is_no_loop(trail: &Trail, _: &Facts) -> Result<(), Refusal> {
    if trail.received >= RECEIVED_MAX || trail.own >= OWN_MAX { Err(Refusal::Loop) } else { Ok(()) }
}

/// 451: the primary sends back what we gave it. Its administrator can mend that.
pub fn is_not_sent_back(trail: &Trail, facts: &Facts) -> Result<(), Refusal> {
    if trail.own > 0 && facts.is_from_primary { Err(Refusal::SentBack) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Question, decide, recipient::Domains};

    #[test]
    fn a_loop_ends_and_mail_that_was_here_once_passes_unless_the_primary_brings_it() {
        let domains = Domains::default();
        for (received, own, is_from_primary, expected) in [
            (99, 0, false, Ok(())),
            (100, 0, false, Err(Refusal::Loop)),
            (9, 3, false, Ok(())),
            (9, 4, false, Err(Refusal::Loop)),
            (9, 0, true, Ok(())),
            (9, 1, true, Err(Refusal::SentBack)),
            (9, 4, true, Err(Refusal::Loop)),
        ] {
            let facts =
                Facts { domains: &domains, room_bytes: 0, room_bytes_min: 0, is_writable: true, is_from_primary };
            let question = Question::Content(Trail { received, own });
            assert_eq!(decide(&question, &facts), expected, "{received}, {own} own, from primary: {is_from_primary}");
        }
    }
}
