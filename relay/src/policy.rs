//! What we take and from whom: small pure checks in order, the first refusal wins. No I/O.

pub mod recipient;
pub mod room;

use crate::mail::address::Address;

/// What the session wants decided.
#[derive(Clone, PartialEq, Debug)]
pub enum Question {
    /// MAIL: may a message begin?
    Sender,
    /// RCPT: do we take mail for this one?
    Recipient(Address),
    /// RCPT with `<Postmaster>` alone, who is heard whatever the domains are (RFC 5321 section 4.5.1).
    Postmaster,
}

/// What the driver found out beforehand.
pub struct Facts<'a> {
    /// The domains of the configuration.
    pub domains: &'a recipient::Domains,
    /// Bytes free on the spool's volume.
    pub free_bytes: u64,
    /// Whether the spool can make anything durable.
    pub is_writable: bool,
}

/// Why not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// We would be an open relay.
    NotOurDomain,
    /// The volume has no room.
    Full,
    /// The volume takes no writes.
    Disk,
}

type Check = fn(&Facts) -> Result<(), Refusal>;
type RecipientCheck = fn(&Address, &Facts) -> Result<(), Refusal>;

const AT_MAIL: &[Check] = &[room::is_writable, room::is_left];
const AT_RCPT: &[RecipientCheck] = &[recipient::domain_is_ours];

/// Goes through the checks.
pub fn decide(question: &Question, facts: &Facts) -> Result<(), Refusal> {
    match question {
        Question::Sender => AT_MAIL.iter().try_for_each(|check| check(facts)),
        Question::Postmaster => Ok(()),
        Question::Recipient(recipient) => AT_RCPT.iter().try_for_each(|check| check(recipient, facts)),
    }
}
