//! The envelope: who sends to whom and how it came, as given in the session, never taken from headers. No I/O.

use std::{fmt, net::IpAddr};

use jiff::Timestamp;
use xxhash_rust::xxh3::xxh3_64;

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
    pub recipients: Vec<Recipient>,
    /// What `BODY=` said (RFC 6152).
    pub body: Body,
    /// `SMTPUTF8` was said: addresses or header fields may be outside ASCII (RFC 6531).
    pub smtputf8: bool,
    /// What `RET=` said (RFC 3461 section 4.3).
    pub ret: Option<Ret>,
    /// What `ENVID=` said, in xtext as it came (RFC 3461 section 4.4).
    pub envid: Option<Box<str>>,
}

/// One `RCPT TO`.
#[derive(Clone, PartialEq, Debug)]
pub struct Recipient {
    /// Whom the message is for.
    pub address: Address,
    /// What `NOTIFY=` said.
    pub notify: Option<Notify>,
    /// What `ORCPT=` said, as it came (RFC 3461 section 4.2).
    pub orcpt: Option<Box<str>>,
}

impl Recipient {
    /// What was said behind the forward-path, less what is not offered: each parameter with a blank before it.
    pub fn parameters(&self, offers: Offers) -> String {
        let notify = self.notify.filter(|_| offers.dsn).map(|notify| format!(" NOTIFY={notify}"));
        let orcpt = self.orcpt.as_ref().filter(|_| offers.dsn).map(|orcpt| format!(" ORCPT={orcpt}"));
        notify.unwrap_or_default() + &orcpt.unwrap_or_default()
    }
}

impl From<Address> for Recipient {
    fn from(address: Address) -> Self {
        Self { address, notify: None, orcpt: None }
    }
}

/// When the sender wants a notice about a recipient (RFC 3461 section 4.1): none of these is `NEVER`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notify {
    /// When it was delivered.
    pub success: bool,
    /// When it could not be delivered.
    pub failure: bool,
    /// When it is late.
    pub delay: bool,
}

impl fmt::Display for Notify {
    /// As `NOTIFY=` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        let wanted: Vec<_> = kinds.into_iter().filter(|(wanted, _)| *wanted).map(|(_, kind)| kind).collect();
        f.write_str(if wanted.is_empty() { "NEVER".into() } else { wanted.join(",") }.as_str())
    }
}

/// How much of the message a notice of failure should return (RFC 3461 section 4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ret {
    /// All of it.
    Full,
    /// Its header.
    Headers,
}

impl fmt::Display for Ret {
    /// As `RET=` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "FULL",
            Self::Headers => "HDRS",
        })
    }
}

/// Which parameters the next hop offers to take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offers {
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3461.
    pub dsn: bool,
}

impl Offers {
    /// As a client that says them all.
    pub const ALL: Self = Self { eight_bit_mime: true, smtputf8: true, dsn: true };
}

/// How the client spoke.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// After HELO.
    Smtp,
    /// After EHLO.
    Esmtp,
    /// After EHLO, in TLS.
    Esmtps,
}

/// Whose mail it is, as far as fairness between senders goes: those with equal numbers share their turns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Flow(pub u32);

impl Flow {
    /// Of a reverse-path as text, without brackets; `None` is the null one.
    pub fn of(reverse_path: Option<&str>) -> Self {
        let domain = reverse_path.map_or("", |path| path.rsplit_once('@').map_or(path, |(_, domain)| domain));
        // Two domains with equal numbers are harmless, so half of a good hash is enough.
        Self(xxh3_64(domain.to_ascii_lowercase().as_bytes()) as u32)
    }
}

impl Envelope {
    /// Whose mail it is.
    pub fn flow(&self) -> Flow {
        Flow::of(self.reverse_path.as_ref().map(Address::as_str))
    }

    /// The word for `with` in `Received:` (RFC 3848, and RFC 6531 section 4.3).
    pub fn with(&self) -> &'static str {
        match (self.protocol, self.smtputf8) {
            (Protocol::Smtp, _) => "SMTP",
            (Protocol::Esmtp, false) => "ESMTP",
            (Protocol::Esmtps, false) => "ESMTPS",
            (Protocol::Esmtp, true) => "UTF8SMTP",
            (Protocol::Esmtps, true) => "UTF8SMTPS",
        }
    }

    /// What was said behind the reverse-path, less what is not offered: each parameter with a blank before it.
    pub fn parameters(&self, offers: Offers) -> String {
        let mut said = String::new();
        // A primary that forgot 8BITMIME gets 8-bit mail as it is: converting would break signatures.
        said += match self.body {
            Body::EightBitMime if offers.eight_bit_mime => " BODY=8BITMIME",
            Body::SevenBit if offers.eight_bit_mime => " BODY=7BIT",
            _ => "",
        };
        if offers.smtputf8 && self.needs_smtputf8() {
            said += " SMTPUTF8";
        }
        if let Some(ret) = self.ret.filter(|_| offers.dsn) {
            said += &format!(" RET={ret}");
        }
        if let Some(envid) = self.envid.as_ref().filter(|_| offers.dsn) {
            said += &format!(" ENVID={envid}");
        }
        said
    }

    /// Whether it may only go where SMTPUTF8 is offered: its sender said so, or an address needs it.
    pub fn needs_smtputf8(&self) -> bool {
        let addresses = self.reverse_path.iter().chain(self.recipients.iter().map(|recipient| &recipient.address));
        self.smtputf8 || addresses.into_iter().any(Address::needs_smtputf8)
    }
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
