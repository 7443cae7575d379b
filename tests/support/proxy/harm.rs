//! What harm a proxy does, where in a conversation, and how often.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::lock;

/// What a client wants at one point of the conversation, and what it hears of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// A client has connected, and as its command: the proxy connects to the server.
    Connect,
    /// The server's greeting, a reply without a command.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS and its 220.
    StartTls,
    /// The handshake behind that 220: the client's first TLS record (ClientHello) and the server's first one
    /// (ServerHello). All that follows is handed on as it is.
    Handshake,
    /// XCLIENT.
    Xclient,
    /// XFORWARD.
    Xforward,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA and its 354.
    Data,
    /// A message's content, by DATA or by all of its BDATs: bytes without a reply. See [`Harm::after_bytes`].
    Content,
    /// The final dot and its reply.
    Dot,
    /// One BDAT and its reply. Its command has arrived with its line, and is handed on with the last byte of its chunk.
    Bdat,
    /// RSET.
    Rset,
    /// QUIT.
    Quit,
    /// Any other command: NOOP, VRFY, AUTH and what follows its 334.
    Other,
}

/// Where in a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The command has arrived and is not handed on. The replies to earlier ones were.
    BeforeCommand,
    /// The command was handed on, the replies to earlier ones were too; its own reply is not.
    AfterCommand,
    /// The reply has arrived and is not handed on.
    BeforeReply,
    /// The reply was handed on, and nothing behind it.
    AfterReply,
}

/// What happens there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// So much time passes. Behind a command its reply waits, behind a reply all that follows.
    Delay(Duration),
    /// The connection ends both ways as a server's does that has come to its end: FIN.
    Cut,
    /// The connection ends both ways as it does before a server that has crashed: RST.
    Reset,
    /// Half of the command or reply is handed on, of a BDAT half of its chunk, then the connection is cut.
    Truncate,
    /// The reply is handed on twice.
    Duplicate,
    /// The command or reply is handed on byte by byte, with a little time between them. Of a long one only the
    /// beginning.
    Fragment,
    /// The client hears this reply, without a line's end, in place of the server's. Before a command the server does
    /// not hear that either. 421 ends no connection: cut it at [`Side::AfterReply`].
    Replace(String),
    /// Nothing goes in either direction any more, not even an end, until [`super::Proxy::release`] or the proxy's own
    /// end.
    Hold,
}

/// A fault and where it strikes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Harm {
    step: Step,
    side: Side,
    fault: Fault,
    nth: Option<u64>,
    times_max: u64,
    after_bytes: u64,
}

impl Harm {
    /// Each time that a conversation comes here.
    pub fn at(step: Step, side: Side, fault: Fault) -> Self {
        Self { step, side, fault, nth: None, times_max: u64::MAX, after_bytes: 0 }
    }

    /// Within content, where more follows (see [`Self::after_bytes`]).
    pub fn within_content(fault: Fault) -> Self {
        Self::at(Step::Content, Side::BeforeCommand, fault)
    }

    /// Only where a connection comes to this step for the n-th time, counted from 1: at the second RCPT.
    pub fn nth(self, nth: u64) -> Self {
        Self { nth: Some(nth), ..self }
    }

    /// Only so often, on all connections together.
    pub fn times(self, times_max: u64) -> Self {
        Self { times_max, ..self }
    }

    /// Within content, once so many bytes of it, as they travel, were handed on and there are more. A message that is
    /// not longer is spared.
    pub fn after_bytes(self, after_bytes: u64) -> Self {
        Self { after_bytes, ..self }
    }

    /// Whether there is such a thing: a greeting has no command, only replies are handed on twice, and a proxy that
    /// answers in place of the server must not lead client and server to different views of what is content. To refuse
    /// a message at its dot is up to the server ([`crate::primary::Rule`]): of a refusal by [`Side::BeforeReply`] it
    /// knows nothing.
    pub fn fits(&self) -> bool {
        let is_side_there = match self.step {
            Step::Connect => matches!(self.side, Side::BeforeCommand | Side::AfterCommand),
            Step::Greeting => matches!(self.side, Side::BeforeReply | Side::AfterReply),
            Step::Content => self.side == Side::BeforeCommand,
            _ => true,
        };
        let has_command = self.side == Side::BeforeCommand && self.step != Step::Connect;
        let has_reply = self.side == Side::BeforeReply;
        let is_fault_there = match &self.fault {
            Fault::Delay(_) | Fault::Cut | Fault::Reset | Fault::Hold => true,
            Fault::Fragment => has_reply || has_command,
            Fault::Truncate => has_reply || (has_command && self.step != Step::Content),
            Fault::Duplicate => has_reply,
            Fault::Replace(reply) => {
                let is_plain = !matches!(self.step, Step::Content | Step::Dot | Step::Bdat | Step::Handshake);
                has_reply || (has_command && is_plain && !self.step.goes_on(reply.as_bytes()))
            }
        };
        is_side_there && is_fault_there
    }

    /// A refusal in place of 354 or of STARTTLS's 220 has to keep the command back: the server would wait for what
    /// never comes, and take the next commands for it.
    fn kept_in_step(self) -> Self {
        let leads_astray = matches!(self.step, Step::Data | Step::StartTls)
            && matches!(&self.fault, Fault::Replace(reply) if !self.step.goes_on(reply.as_bytes()));
        if leads_astray { Self { side: Side::BeforeCommand, ..self } } else { self }
    }
}

impl Step {
    /// Of a command, with its line's end or without.
    pub(super) fn of(line: &[u8]) -> Self {
        let verb = line.split(|byte| matches!(byte, b' ' | b':' | b'\r' | b'\n')).next().unwrap_or_default();
        match verb.to_ascii_uppercase().as_slice() {
            b"EHLO" | b"HELO" => Self::Ehlo,
            b"STARTTLS" => Self::StartTls,
            b"XCLIENT" => Self::Xclient,
            b"XFORWARD" => Self::Xforward,
            b"MAIL" => Self::Mail,
            b"RCPT" => Self::Rcpt,
            b"DATA" => Self::Data,
            b"RSET" => Self::Rset,
            b"QUIT" => Self::Quit,
            _ => Self::Other,
        }
    }

    /// Whether, after this reply, no command follows but content or a handshake.
    pub(super) fn goes_on(self, reply: &[u8]) -> bool {
        match self {
            Self::Data => reply.starts_with(b"354"),
            Self::StartTls => reply.starts_with(b"220"),
            _ => false,
        }
    }
}

impl Fault {
    /// Whether nothing can follow it.
    fn is_end(&self) -> bool {
        matches!(self, Self::Cut | Self::Reset | Self::Truncate)
    }
}

/// How often a harm was done.
#[derive(Clone, Default, Debug)]
pub struct Struck(Arc<AtomicU64>);

impl Struck {
    /// So often until now.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All harm that is to be done.
#[derive(Default)]
pub(super) struct Harms {
    harms: Mutex<Vec<(Harm, Struck)>>,
    struck: AtomicU64,
}

impl Harms {
    pub(super) fn add(&self, harm: Harm) -> Struck {
        let struck = Struck::default();
        lock(&self.harms).push((harm.kept_in_step(), struck.clone()));
        struck
    }

    pub(super) fn clear(&self) {
        lock(&self.harms).clear();
    }

    pub(super) fn struck(&self) -> u64 {
        self.struck.load(Ordering::Relaxed)
    }

    /// What strikes here and now, in the order in which it was set, up to the first end.
    pub(super) fn draw(&self, step: Step, side: Side, nth: u64) -> Vec<Fault> {
        let wanted = |harm: &Harm| (harm.step, harm.side) == (step, side);
        self.drawn(nth, wanted).into_iter().map(|(_, fault)| fault).collect()
    }

    /// What strikes within these bytes of content, and before which of them.
    pub(super) fn draw_within(&self, nth: u64, bytes: &Range<u64>) -> Vec<(u64, Fault)> {
        let mut drawn = self.drawn(nth, |harm| harm.step == Step::Content && bytes.contains(&harm.after_bytes));
        drawn.sort_by_key(|(at, _)| *at);
        drawn
    }

    fn drawn(&self, nth: u64, wanted: impl Fn(&Harm) -> bool) -> Vec<(u64, Fault)> {
        let mut drawn = Vec::new();
        for (harm, struck) in &*lock(&self.harms) {
            let is_due = harm.nth.is_none_or(|wanted| wanted == nth) && struck.count() < harm.times_max;
            if !is_due || !wanted(harm) {
                continue;
            }
            struck.0.fetch_add(1, Ordering::Relaxed);
            self.struck.fetch_add(1, Ordering::Relaxed);
            drawn.push((harm.after_bytes, harm.fault.clone()));
            if harm.fault.is_end() {
                break;
            }
        }
        drawn
    }
}
