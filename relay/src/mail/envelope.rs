//! The envelope: who sends to whom and how it came, as given in the session, never taken from headers. No I/O.

use std::net::IpAddr;

use jiff::Timestamp;

use super::{address::Address, id::MessageId};

/// All that the session told about a message, but its content.
#[derive(Clone, PartialEq, Debug)]
pub struct Envelope {
    /// Its name here.
    pub id: MessageId,
    /// When its DATA command came.
    pub received_at: Timestamp,
    /// Where the connection came from.
    pub client: IpAddr,
    /// What the client called itself in EHLO or HELO.
    pub helo: String,
    /// How it spoke.
    pub protocol: Protocol,
    /// `MAIL FROM`; `None` is the null reverse-path `<>`.
    pub reverse_path: Option<Address>,
    /// `RCPT TO`, in order. The place in this list names a recipient from here on.
    pub recipients: Vec<Address>,
    /// What `BODY=` said (RFC 6152).
    pub body: Body,
}

/// The word for `with` in `Received:` (RFC 3848).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// After HELO.
    Smtp,
    /// After EHLO.
    Esmtp,
}

/// What the content may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Body {
    /// Nothing was said.
    #[default]
    Unsaid,
    /// `BODY=7BIT`.
    SevenBit,
    /// `BODY=8BITMIME`.
    EightBitMime,
}
