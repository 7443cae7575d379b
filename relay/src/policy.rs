//! What we take and from whom: small pure checks in order, the first refusal wins. No I/O.

pub mod client;
pub mod loops;
pub mod recipient;
pub mod room;

use crate::mail::{address::Address, header::Trail};

/// What the session wants decided.
#[derive(Clone, PartialEq, Debug)]
pub enum Question {
    /// MAIL: may a message begin?
    Sender {
        /// How long it is to be, if its sender said so.
        size: Option<u64>,
    },
    /// RCPT: do we take mail for this one?
    Recipient(Address),
    /// RCPT with `<Postmaster>` alone, who is heard whatever the domains are (RFC 5321 section 4.5.1).
    Postmaster,
    /// The end of the content: has it been here before?
    Content(Trail),
}

/// What the driver found out beforehand.
pub struct Facts<'a> {
    /// The domains of the configuration.
    pub domains: &'a recipient::Domains,
    /// Bytes free on the spool's volume that nobody was promised.
    pub room_bytes: u64,
    /// Bytes to keep free.
    pub room_bytes_min: u64,
    /// Whether the spool can make anything durable.
    pub is_writable: bool,
    /// Whether the client's address is one of the primary's.
    pub is_from_primary: bool,
}

/// Why not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// We would be an open relay.
    NotOurDomain,
    /// The primary could be one.
    Routed,
    /// So many recipients of so many messages are more than fits into memory.
    Memory,
    /// The volume has no room.
    Full,
    /// The volume takes no writes.
    Disk,
    /// It goes round in circles.
    Loop,
    /// The primary sends back what it got from us.
    SentBack,
}

type SenderCheck = fn(Option<u64>, &Facts) -> Result<(), Refusal>;
type ContentCheck = fn(&Trail, &Facts) -> Result<(), Refusal>;
type RecipientCheck = fn(&Address, &Facts) -> Result<(), Refusal>;

const AT_MAIL: &[SenderCheck] = &[room::is_writable, room::is_left];
const AT_RCPT: &[RecipientCheck] = &[recipient::domain_is_ours, recipient::is_no_route];
const AT_END: &[ContentCheck] = &[loops::is_no_loop, loops::is_not_sent_back];

/// Goes through the checks.
pub fn decide(question: &Question, facts: &Facts) -> Result<(), Refusal> {
    match question {
        Question::Sender { size } => AT_MAIL.iter().try_for_each(|check| check(*size, facts)),
        Question::Content(trail) => AT_END.iter().try_for_each(|check| check(trail, facts)),
        Question::Postmaster => Ok(()),
        Question::Recipient(recipient) => AT_RCPT.iter().try_for_each(|check| check(recipient, facts)),
    }
}
