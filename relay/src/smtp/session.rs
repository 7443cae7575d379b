//! The SMTP conversation as a state machine: what was said so far, and what follows. No I/O, no clock.

use std::borrow::Cow;

use super::{
    command::{BadCommand, Command, ForwardPath},
    parameter::{MailParameters, RcptParameters},
    reply::Reply,
};
use crate::{
    delivery::passage::PassedOn,
    mail::{
        address::{Address, BadAddress},
        envelope::{Body, Offers, Protocol, Recipient},
        id::MessageId,
    },
    policy::{Question, Refusal},
    spool::{NotKept, Receipt},
};

/// What follows from what was heard.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Say this and listen on.
    Say(Reply),
    /// Ask policy, then call [`Session::decided`].
    Ask(Question),
    /// Say 354, read the content, then call [`Session::kept`] unless the content itself is to be refused.
    Receive(Draft),
    /// Read a part of the content.
    Chunk(Chunk),
    /// Read over this many bytes, then say this: a part of a content that cannot be taken.
    Skip(u64, Reply),
    /// Say this, begin TLS, then call [`Session::encrypted`].
    StartTls(Reply),
    /// Somebody wants the mail for this domain to go now; what to say is the driver's to find out.
    Etrn(String),
    /// Say this and close.
    Close(Reply),
}

/// A message of which the envelope is known.
#[derive(Clone, PartialEq, Debug)]
pub struct Draft {
    /// The client's name.
    pub helo: String,
    /// EHLO or HELO.
    pub protocol: Protocol,
    /// `None` for `<>`.
    pub reverse_path: Option<Address>,
    /// At least one.
    pub recipients: Vec<Recipient>,
    /// What they take of memory.
    pub recipient_bytes: usize,
    /// What was said behind the reverse-path.
    pub parameters: MailParameters,
}

/// A part of a message that comes by BDAT. If it is taken and the last one, call [`Session::kept`]; if it cannot be taken,
/// [`Session::chunk_failed`].
#[derive(Clone, PartialEq, Debug)]
pub struct Chunk {
    /// How long it is.
    pub bytes: u64,
    /// Whether the message ends with it.
    pub is_last: bool,
    /// The message, if it begins with it.
    pub begins: Option<Draft>,
}

/// What a session needs to know of the configuration.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Our name.
    pub hostname: String,
    /// Where `<Postmaster>` belongs: the first domain.
    pub postmaster_domain: String,
    /// Recipients of one message.
    pub recipients_max: usize,
    /// Mistakes of the client until we close.
    pub errors_max: u32,
    /// Commands that bring no message nearer, until we close.
    pub junk_commands_max: u32,
}

/// What one session offers.
#[derive(Clone, Debug)]
pub struct Offer {
    /// SIZE, in bytes.
    pub message_bytes_max: u64,
    /// What must survive the way to the primary.
    pub parameters: Offers,
    /// Whether TLS can begin.
    pub tls: Tls,
    /// ETRN, to who may say it.
    pub etrn: bool,
}

/// Whether TLS can begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tls {
    /// There is no certificate.
    Absent,
    /// There should be one, but it cannot be used.
    Broken,
    /// It can.
    Ready,
    /// It did.
    Active,
}

/// One client's conversation.
pub struct Session<'a> {
    terms: &'a Terms,
    offer: Offer,
    client: Option<(String, Protocol)>,
    transaction: Option<Transaction>,
    /// What policy was asked about.
    asked: Option<Asked>,
    errors: u32,
    junk_commands: u32,
}

struct Transaction {
    reverse_path: Option<Address>,
    parameters: MailParameters,
    recipients: Vec<Recipient>,
    /// What they take of memory.
    recipient_bytes: usize,
    /// A part of its content has come by BDAT.
    is_chunked: bool,
}

/// What the recipients of one message may take of memory: a thousand of a usual length.
const RECIPIENT_BYTES_MAX: usize = 256 << 10;

/// What one more recipient takes of memory, and again while its record is written.
fn memory_of(Recipient { address, notify: _, orcpt }: &Recipient) -> usize {
    let text = address.as_str().len() + orcpt.as_ref().map_or(0, |orcpt| orcpt.len());
    2 * (size_of::<Recipient>() + text)
}

impl Transaction {
    fn draft(&self, (helo, protocol): &(String, Protocol)) -> Draft {
        let (reverse_path, recipients) = (self.reverse_path.clone(), self.recipients.clone());
        let recipient_bytes = self.recipient_bytes;
        Draft {
            helo: helo.clone(),
            protocol: *protocol,
            reverse_path,
            recipients,
            recipient_bytes,
            parameters: self.parameters.clone(),
        }
    }
}

enum Asked {
    Mail(Transaction),
    Rcpt(Recipient),
}

impl<'a> Session<'a> {
    /// Before the first command.
    pub fn new(terms: &'a Terms, offer: Offer) -> Self {
        Self { terms, offer, client: None, transaction: None, asked: None, errors: 0, junk_commands: 0 }
    }

    /// TLS has begun: all that was said in clear is forgotten (RFC 3207 section 4.2), but for the mistakes.
    pub fn encrypted(&mut self) {
        (self.client, self.transaction, self.asked) = (None, None, None);
        self.offer.tls = Tls::Active;
    }

    /// What it offers.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// What the recipients take of memory, with the one that policy was asked about.
    pub fn recipient_bytes(&self) -> usize {
        let asked = match &self.asked {
            Some(Asked::Rcpt(recipient)) => memory_of(recipient),
            _ => 0,
        };
        self.transaction.as_ref().map_or(0, |transaction| transaction.recipient_bytes) + asked
    }

    /// Whether the client has named itself.
    pub fn has_said_hello(&self) -> bool {
        self.client.is_some()
    }

    /// Whether a message has begun.
    pub fn is_in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// The first thing that we say.
    pub fn greeting(&self) -> Reply {
        Reply::greeting(&self.terms.hostname)
    }

    /// The one entry: a line was read.
    pub fn hear(&mut self, command: Result<Command, BadCommand>) -> Step {
        let step = match command {
            Ok(command) if self.is_junk_too_much(&command) => Step::Close(Reply::too_much_chatter()),
            Ok(command) => self.obey(command),
            Err(BadCommand::Chunk) => Step::Close(Reply::bad_chunk()),
            Err(BadCommand::Http) => Step::Close(Reply::not_http()),
            Err(bad) => Step::Say(self.complain(bad)),
        };
        self.count_errors(step)
    }

    /// Counts what brings no message nearer.
    fn is_junk_too_much(&mut self, command: &Command) -> bool {
        let is_junk = matches!(
            command,
            Command::Ehlo(_)
                | Command::Helo(_)
                | Command::Rset
                | Command::Noop
                | Command::Vrfy
                | Command::Help
                | Command::Bdat { bytes: 0, is_last: false }
        ) || matches!(command, Command::Etrn(_) if !self.offer.etrn);
        self.junk_commands += u32::from(is_junk);
        (is_junk || matches!(command, Command::Rcpt { .. })) && self.junk_commands >= self.terms.junk_commands_max
    }

    fn complain(&self, bad: BadCommand) -> Reply {
        match bad {
            BadCommand::Unknown => Reply::unknown_command(),
            BadCommand::ControlCharacter => Reply::bad_line("Control character inside a command"),
            BadCommand::Arguments(syntax) => Reply::bad_arguments(syntax),
            BadCommand::Hello(syntax) => Reply::bad_hello(syntax),
            BadCommand::NotUtf8 => Reply::not_utf8(),
            BadCommand::Sender(BadAddress::Syntax | BadAddress::TooLong) => Reply::bad_sender(),
            BadCommand::Recipient(BadAddress::Syntax | BadAddress::TooLong) => Reply::bad_recipient(),
            BadCommand::Parameter => Reply::unknown_parameter(),
            BadCommand::Chunk => Reply::bad_chunk(),
            BadCommand::Http => Reply::not_http(),
        }
    }

    /// A line came that cannot be a command.
    pub fn bad_line(&mut self, what: &'static str) -> Step {
        self.count_errors(Step::Say(Reply::bad_line(what)))
    }

    fn count_errors(&mut self, step: Step) -> Step {
        // Codes 500 to 504, 553 and 555: the client's own mistakes. What policy refuses is not one.
        if matches!(&step, Step::Say(reply) | Step::Skip(_, reply) if matches!(reply.code(), 500..=504 | 553 | 555)) {
            self.errors += 1;
            if self.errors >= self.terms.errors_max {
                return Step::Close(Reply::too_many_errors());
            }
        }
        step
    }

    fn obey(&mut self, command: Command) -> Step {
        match command {
            Command::Ehlo(name) if self.offer.tls == Tls::Active => self.hello(name, Protocol::Esmtps),
            Command::Ehlo(name) => self.hello(name, Protocol::Esmtp),
            Command::Helo(name) => self.hello(name, Protocol::Smtp),
            Command::Mail { reverse_path, parameters } => self.mail(reverse_path, parameters),
            Command::Rcpt { path, parameters } => self.rcpt(path, parameters),
            Command::Data => self.data(),
            Command::Bdat { bytes, is_last } => self.chunk(bytes, is_last),
            Command::Rset => {
                self.transaction = None;
                Step::Say(Reply::ok())
            }
            Command::Noop => Step::Say(Reply::ok()),
            Command::Vrfy => Step::Say(Reply::cannot_verify()),
            Command::Expn => Step::Say(Reply::no_expn()),
            Command::Help => Step::Say(Reply::help()),
            Command::StartTls => self.start_tls(),
            Command::Etrn(domain) => self.etrn(domain),
            Command::Quit => Step::Close(Reply::goodbye()),
        }
    }

    /// EHLO again resets the transaction (RFC 5321 section 4.1.4).
    fn hello(&mut self, name: String, protocol: Protocol) -> Step {
        self.client = Some((name, protocol));
        self.transaction = None;
        let hostname = &self.terms.hostname;
        Step::Say(match protocol {
            Protocol::Esmtp | Protocol::Esmtps => Reply::extensions(hostname, self.extensions()),
            Protocol::Smtp => Reply::hello(hostname),
        })
    }

    fn extensions(&self) -> Vec<Cow<'static, str>> {
        let Offer { message_bytes_max, parameters: Offers { eight_bit_mime, smtputf8, dsn }, tls, etrn } = self.offer;
        let mut offered = vec!["PIPELINING".into(), format!("SIZE {message_bytes_max}").into()];
        for (is_offered, keyword) in [
            (eight_bit_mime, "8BITMIME"),
            (smtputf8, "SMTPUTF8"),
            (true, "ENHANCEDSTATUSCODES"),
            (dsn, "DSN"),
            (true, "CHUNKING"),
            (tls == Tls::Ready, "STARTTLS"),
            (etrn, "ETRN"),
        ] {
            if is_offered {
                offered.push(keyword.into());
            }
        }
        offered
    }

    fn start_tls(&mut self) -> Step {
        match self.offer.tls {
            Tls::Absent => Step::Say(Reply::no_tls()),
            Tls::Broken => Step::Say(Reply::tls_unavailable()),
            Tls::Ready => Step::StartTls(Reply::start_tls()),
            Tls::Active => Step::Say(Reply::tls_active()),
        }
    }

    /// RFC 1985 section 5: not within a transaction.
    fn etrn(&mut self, domain: String) -> Step {
        if self.client.is_none() {
            return Step::Say(Reply::bad_sequence("EHLO or HELO"));
        }
        if self.transaction.is_some() {
            return Step::Say(Reply::bad_sequence("DATA or RSET"));
        }
        if self.offer.etrn { Step::Etrn(domain) } else { Step::Say(Reply::etrn_refused()) }
    }

    fn mail(&mut self, reverse_path: Option<Address>, parameters: MailParameters) -> Step {
        if self.client.is_none() {
            return Step::Say(Reply::bad_sequence("EHLO or HELO"));
        }
        if self.transaction.is_some() {
            return Step::Say(Reply::bad_sequence("DATA or RSET")); // RFC 5321 section 4.1.4: no nested MAIL
        }
        let Offers { eight_bit_mime, smtputf8, dsn } = self.offer.parameters;
        let MailParameters { size, body, smtputf8: wants_smtputf8, .. } = parameters;
        let is_foreign = (wants_smtputf8 && !smtputf8) || (parameters.is_dsn() && !dsn);
        if is_foreign || (body != Body::Unsaid && !eight_bit_mime) {
            return Step::Say(Reply::unknown_parameter());
        }
        if !wants_smtputf8 && reverse_path.as_ref().is_some_and(Address::needs_smtputf8) {
            return Step::Say(Reply::needs_smtputf8(smtputf8));
        }
        if size.is_some_and(|size| size > self.offer.message_bytes_max) {
            return Step::Say(Reply::too_large());
        }
        self.asked = Some(Asked::Mail(Transaction {
            reverse_path,
            parameters,
            recipients: Vec::new(),
            recipient_bytes: 0,
            is_chunked: false,
        }));
        Step::Ask(Question::Sender { size })
    }

    fn rcpt(&mut self, path: ForwardPath, parameters: RcptParameters) -> Step {
        let Some(transaction) = &self.transaction else {
            return Step::Say(Reply::bad_sequence("MAIL"));
        };
        if transaction.is_chunked {
            return Step::Say(Reply::bad_sequence("BDAT LAST or RSET"));
        }
        if parameters.is_dsn() && !self.offer.parameters.dsn {
            return Step::Say(Reply::unknown_parameter());
        }
        if !transaction.parameters.smtputf8 && parameters.orcpt.as_ref().is_some_and(|orcpt| !orcpt.is_ascii()) {
            return Step::Say(Reply::needs_smtputf8(self.offer.parameters.smtputf8)); // RFC 6533 section 3
        }
        if transaction.recipients.len() >= self.terms.recipients_max {
            return Step::Say(Reply::too_many_recipients());
        }
        let (address, question) = match path {
            ForwardPath::Mailbox(address) if address.needs_smtputf8() && !transaction.parameters.smtputf8 => {
                return Step::Say(Reply::needs_smtputf8(self.offer.parameters.smtputf8));
            }
            ForwardPath::Mailbox(address) => (address.clone(), Question::Recipient(address)),
            ForwardPath::Postmaster(name) => {
                (Address::postmaster_at(&name, &self.terms.postmaster_domain), Question::Postmaster)
            }
        };
        let RcptParameters { notify, orcpt } = parameters;
        let recipient = Recipient { address, notify, orcpt };
        if transaction.recipient_bytes + memory_of(&recipient) > RECIPIENT_BYTES_MAX {
            return Step::Say(Reply::too_many_recipients());
        }
        self.asked = Some(Asked::Rcpt(recipient));
        Step::Ask(question)
    }

    /// Policy's answer to the last [`Step::Ask`].
    pub fn decided(&mut self, verdict: Result<(), Refusal>) -> Reply {
        let asked = self.asked.take();
        if let Err(refusal) = verdict {
            // A recipient that is not ours is no mistake, but who names one after the other is looking for an open relay.
            self.junk_commands += u32::from(matches!(refusal, Refusal::NotOurDomain | Refusal::Routed));
            return refuse(refusal);
        }
        match asked {
            Some(Asked::Mail(transaction)) => {
                self.transaction = Some(transaction);
                Reply::sender_ok()
            }
            Some(Asked::Rcpt(recipient)) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.recipient_bytes += memory_of(&recipient);
                    transaction.recipients.push(recipient);
                }
                Reply::recipient_ok()
            }
            None => Reply::local_error(),
        }
    }

    /// The recipient that policy was asked about.
    pub fn asked_recipient(&self) -> Option<&Recipient> {
        match &self.asked {
            Some(Asked::Rcpt(recipient)) => Some(recipient),
            _ => None,
        }
    }

    /// The message that has begun, with the recipients that were taken so far.
    pub fn begun(&self) -> Option<Draft> {
        Some(self.transaction.as_ref()?.draft(self.client.as_ref()?))
    }

    /// The primary does not take the recipient, or we cannot ask it: `reply` says so.
    pub fn not_taken(&mut self, reply: Reply) -> Reply {
        self.asked = None;
        // Who names one unknown recipient after the other guesses addresses.
        self.junk_commands += u32::from(reply.code() / 100 == 5);
        reply
    }

    /// The transaction, if content may come for it; else why not.
    fn ready(&mut self) -> Result<(&(String, Protocol), &mut Transaction), Reply> {
        let client = self.client.as_ref().ok_or(Reply::bad_sequence("EHLO or HELO"))?;
        let transaction = self.transaction.as_mut().ok_or(Reply::bad_sequence("MAIL"))?;
        if transaction.recipients.is_empty() { Err(Reply::no_recipients()) } else { Ok((client, transaction)) }
    }

    fn data(&mut self) -> Step {
        let draft = match self.ready() {
            Err(reply) => return Step::Say(reply),
            // RFC 3030 section 2: no mixing.
            Ok((_, transaction)) if transaction.is_chunked => {
                return Step::Say(Reply::bad_sequence("BDAT LAST or RSET"));
            }
            Ok((client, transaction)) => transaction.draft(client),
        };
        self.transaction = None;
        Step::Receive(draft)
    }

    /// What cannot be taken is read over all the same: its bytes are no commands (RFC 3030 section 2).
    fn chunk(&mut self, bytes: u64, is_last: bool) -> Step {
        let begins = match self.ready() {
            Err(reply) => return Step::Skip(bytes, reply),
            Ok((client, transaction)) => {
                let is_first = !std::mem::replace(&mut transaction.is_chunked, true);
                is_first.then(|| transaction.draft(client))
            }
        };
        if is_last {
            self.transaction = None;
        }
        Step::Chunk(Chunk { bytes, is_last, begins })
    }

    /// A part could not be taken: what comes behind it hears that there is no transaction.
    pub fn chunk_failed(&mut self) {
        self.transaction = None;
    }

    /// Whether a message has come in part.
    pub fn is_chunked(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.is_chunked)
    }

    /// The primary has taken the message. Nothing but this and [`Session::kept`] can say 250 to a final dot.
    pub fn passed(&mut self, passed: &PassedOn, id: MessageId) -> Reply {
        self.junk_commands = 0;
        Reply::passed_on(id, &passed.words())
    }

    /// The content came whole, and the spool was asked to keep it.
    ///
    /// `None`: no reply would be true, so the connection must be closed without one.
    pub fn kept(&mut self, outcome: Result<Receipt, NotKept>) -> Option<Reply> {
        match outcome {
            Ok(receipt) => {
                self.junk_commands = 0;
                Some(Reply::queued_as(receipt.id()))
            }
            Err(NotKept::Full) => Some(Reply::insufficient_storage()),
            Err(NotKept::Disk) => Some(Reply::local_error()),
            Err(NotKept::Unknown) => None,
        }
    }
}

/// What the client hears when policy says no.
pub fn refuse(refusal: Refusal) -> Reply {
    match refusal {
        Refusal::NotOurDomain => Reply::not_our_domain(),
        Refusal::Routed => Reply::routed(),
        Refusal::Memory => Reply::insufficient_memory(),
        Refusal::Full => Reply::insufficient_storage(),
        Refusal::Disk => Reply::local_error(),
        Refusal::Loop => Reply::routing_loop(),
        Refusal::SentBack => Reply::sent_back(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a dialogue: each line with the code of its reply. Recipients at `example.org` are ours; `full` says that the disk is.
    fn play(full: bool, dialogue: &[(&str, &str)]) {
        let terms = Terms {
            hostname: "mx2.example.org".into(),
            postmaster_domain: "example.org".into(),
            recipients_max: 2,
            errors_max: 20,
            junk_commands_max: 5,
        };
        let offer = Offer { message_bytes_max: 1000, parameters: Offers::ALL, tls: Tls::Ready, etrn: true };
        let mut session = Session::new(&terms, offer);
        for (place, (line, expected)) in dialogue.iter().enumerate() {
            let said = match session.hear(Command::parse(line.as_bytes())) {
                Step::Say(reply) => text(&reply),
                Step::Close(reply) => text(&reply) + " (closed)",
                Step::Receive(draft) => format!("354 for {:?}", addresses(&draft)),
                Step::Chunk(Chunk { bytes, is_last, begins }) => {
                    let to = begins.as_ref().map_or_else(Vec::new, addresses);
                    format!("chunk of {bytes}, last {is_last}, begins {to:?}")
                }
                Step::Skip(bytes, reply) => format!("{} (over {bytes})", text(&reply)),
                Step::StartTls(reply) => {
                    session.encrypted();
                    text(&reply)
                }
                Step::Etrn(domain) => format!("etrn {domain}"),
                Step::Ask(Question::Sender { .. }) if full => text(&session.decided(Err(Refusal::Full))),
                Step::Ask(Question::Recipient(address)) if !address.domain().eq_ignore_ascii_case("example.org") => {
                    text(&session.decided(Err(Refusal::NotOurDomain)))
                }
                Step::Ask(_) => text(&session.decided(Ok(()))),
            };
            assert!(said.starts_with(expected), "line {place}, {line}: got {said}, expected {expected}");
        }
    }

    fn addresses(draft: &Draft) -> Vec<&Address> {
        draft.recipients.iter().map(|recipient| &recipient.address).collect()
    }

    fn text(reply: &Reply) -> String {
        let mut output = Vec::new();
        reply.write(&mut output);
        String::from_utf8(output).unwrap().trim_end().to_owned()
    }

    #[test]
    fn a_message_is_taken_step_by_step() {
        play(
            false,
            &[
                ("EHLO client", "250-mx2.example.org"),
                ("MAIL FROM:<a@b.example>", "250 2.1.0"),
                ("RCPT TO:<x@example.org>", "250 2.1.5"),
                ("RCPT TO:<postmaster>", "250 2.1.5"),
                ("DATA", "354 for [<x@example.org>, <postmaster@example.org>]"),
                ("MAIL FROM:<>", "250 2.1.0"), // the next message needs no EHLO
                ("QUIT", "221 2.0.0 Bye (closed)"),
            ],
        );
    }

    #[test]
    fn commands_out_of_order_are_refused_and_change_nothing() {
        play(
            false,
            &[
                ("MAIL FROM:<a@b.example>", "503 5.5.1"),
                ("RCPT TO:<x@example.org>", "503 5.5.1"),
                ("DATA", "503 5.5.1"),
                ("HELO client", "250 mx2.example.org"),
                ("DATA", "503 5.5.1"),
                ("MAIL FROM:<a@b.example>", "250"),
                ("MAIL FROM:<c@b.example>", "503 5.5.1"),
                ("DATA", "554 5.5.1"),
                ("RCPT TO:<x@example.org>", "250"),
                ("DATA", "354"),
            ],
        );
    }

    #[test]
    fn a_message_comes_in_parts_and_what_is_no_part_of_one_is_read_over() {
        play(
            false,
            &[
                ("BDAT 7", "503 5.5.1 Bad sequence of commands: send EHLO or HELO first (over 7)"),
                ("EHLO client", "250"),
                ("BDAT 7", "503 5.5.1 Bad sequence of commands: send MAIL first (over 7)"),
                ("MAIL FROM:<a@b.example>", "250"),
                ("BDAT 7 LAST", "554 5.5.1 No valid recipients (over 7)"),
                ("RCPT TO:<x@example.org>", "250"),
                ("BDAT 7", "chunk of 7, last false, begins [<x@example.org>]"),
                ("RCPT TO:<y@example.org>", "503"),
                ("MAIL FROM:<>", "503"),
                ("DATA", "503"),
                ("NOOP", "250"),
                ("BDAT 0 LAST", "chunk of 0, last true, begins []"),
                ("BDAT 1", "503"),
                ("MAIL FROM:<>", "250"),
                ("RCPT TO:<x@example.org>", "250"),
                ("BDAT 3", "chunk of 3"),
                ("RSET", "250"),
                ("BDAT 3 LAST", "503"),
                ("BDAT three", "501 5.5.4 Syntax: BDAT bytes [LAST]; closing"),
            ],
        );
    }

    #[test]
    fn rset_and_a_second_ehlo_forget_the_transaction() {
        for forgetting in ["RSET", "EHLO client", "HELO client"] {
            play(
                false,
                &[
                    ("EHLO client", "250"),
                    ("MAIL FROM:<a@b.example>", "250"),
                    ("RCPT TO:<x@example.org>", "250"),
                    (forgetting, "250"),
                    ("RCPT TO:<x@example.org>", "503"),
                ],
            );
        }
    }

    #[test]
    fn refusals_keep_what_was_taken_before() {
        play(
            false,
            &[
                ("EHLO client", "250"),
                ("MAIL FROM:<a@b.example> SIZE=1001", "552 5.3.4"),
                ("MAIL FROM:<a@b.example> SIZE=1000", "250"),
                ("RCPT TO:<x@elsewhere.example>", "550 5.7.1"),
                ("RCPT TO:<x@example.org>", "250"),
                ("RCPT TO:<broken", "501 5.1.3"),
                ("RCPT TO:<y@example.org>", "250"),
                ("RCPT TO:<z@example.org>", "452 4.5.3"),
                ("NOOP", "250 2.0.0"),
                ("VRFY x", "252 2.5.0"),
                ("DATA", "354 for [<x@example.org>, <y@example.org>]"),
            ],
        );
    }

    #[test]
    fn a_full_disk_is_told_at_mail_and_is_not_the_senders_fault() {
        play(
            true,
            &[("EHLO client", "250"), ("MAIL FROM:<a@b.example>", "452 4.3.1"), ("RCPT TO:<x@example.org>", "503")],
        );
    }

    #[test]
    fn bad_input_gets_a_reply_that_names_the_cure() {
        play(
            false,
            &[
                ("EHLO client", "250"),
                ("XYZZY", "500 5.5.1 Unknown command"),
                ("MAIL FROM:a@b.example", "501 5.1.7 Bad sender address: write MAIL FROM:<local@domain>"),
                ("MAIL FROM:<a@b.example> BY=1", "555 5.5.4"),
                ("MAIL FROM:<ä@b.example>", "553 5.6.7 Addresses outside ASCII need the parameter"),
                ("MAIL FROM:<ä@b.example> SMTPUTF8", "250"),
                ("DATA x", "501 5.5.4 Syntax: DATA"),
            ],
        );
    }

    #[test]
    fn a_client_that_only_errs_is_sent_away() {
        let mut dialogue = vec![("NONSENSE", "500"); 19];
        dialogue.push(("NONSENSE", "421 4.7.0 Too many errors; closing (closed)"));
        play(false, &dialogue);
    }

    #[test]
    fn a_client_that_only_talks_is_sent_away() {
        let mut dialogue = vec![("EHLO client", "250"); 3];
        dialogue.extend([("NOOP", "250"), ("HELP", "421 4.7.0 Too many commands without")]);
        play(false, &dialogue);
    }

    #[test]
    fn a_client_that_names_one_foreign_recipient_after_the_other_is_sent_away() {
        let mut dialogue = vec![("EHLO client", "250"), ("MAIL FROM:<>", "250"), ("RCPT TO:<a@example.org>", "250")];
        dialogue.extend([("RCPT TO:<a@elsewhere.example>", "550"); 4]);
        dialogue.extend([("RCPT TO:<a@example.org>", "421 4.7.0")]);
        play(false, &dialogue);
    }

    #[test]
    fn after_tls_has_begun_nothing_is_known_of_what_was_said_in_clear() {
        play(
            false,
            &[
                ("STARTTLS", "220 2.0.0"),
                ("MAIL FROM:<>", "503"),
                (
                    "EHLO client",
                    "250-mx2.example.org\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n250-CHUNKING\r\n250 ETRN",
                ),
                ("STARTTLS", "503 5.5.1 TLS is active already"),
                ("MAIL FROM:<>", "250"),
                ("ETRN example.org", "503"),
                ("RSET", "250"),
                ("ETRN example.org", "etrn example.org"),
            ],
        );
    }
}
