//! One attempt: an envelope and a source of bytes go in, an outcome for each recipient comes out. Knows sockets only.

use std::time::Duration;

use memchr::memmem;

use super::{
    answer::{Answer, Extensions, Odd},
    hop::{Hop, TalkError},
};
use crate::mail::{content::Source, envelope::Envelope};

/// RFC 5321 sections 4.5.3.2.2 and 4.5.3.2.3.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
/// RFC 5321 section 4.5.3.2.4.
const DATA_TIMEOUT: Duration = Duration::from_secs(120);
/// RFC 5321 section 4.5.3.2.6: giving up earlier makes duplicates.
const FINAL_DOT_TIMEOUT: Duration = Duration::from_secs(600);

/// For the rest of an answer that came before the final dot: it is on its way.
const EARLY_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A usual message goes out in one write with its final dot; a large one in pieces of this size at least.
const WRITE_BYTES: usize = 64 << 10;

/// What is to be handed over.
pub struct Job<'a, S> {
    /// Its envelope.
    pub envelope: &'a Envelope,
    /// Our trace field, which goes first.
    pub trace: &'a [u8],
    /// Places of the recipients to try.
    pub waiting: &'a [u32],
    /// Length of the content.
    pub content_bytes: u64,
    /// The content.
    pub content: &'a mut S,
}

/// What became of one recipient: a value, not an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The next hop has it; its own words are the evidence.
    Delivered(String),
    /// Not now. The words are the next hop's, or say how the connection broke.
    Deferred(String),
    /// Never, says the next hop.
    Failed(String),
    /// The stored bytes do not match their checksum.
    Unreadable,
}

/// What an attempt brought.
#[derive(PartialEq, Eq, Debug)]
pub struct Attempted {
    /// For each recipient that was to be tried.
    pub outcomes: Vec<(u32, Outcome)>,
    /// What became of the connection.
    pub connection: Connection,
}

/// What became of a connection.
#[derive(PartialEq, Eq, Debug)]
pub enum Connection {
    /// It can take the next message.
    Usable,
    /// The other side broke it, or says what is no SMTP.
    Broken(String),
    /// The other side had closed it before this message, which was not tried: outcomes are empty.
    Stale,
    /// We gave up in the middle, through no fault of the other side.
    GivenUp,
}

/// Hands one message over, or learns why not.
pub async fn attempt<S: Source>(hop: &mut Hop, job: Job<'_, S>) -> Attempted {
    let places = job.waiting.to_vec();
    if let Some(lack) = lack(&job, &hop.extensions) {
        let outcomes = places.into_iter().map(|place| (place, Outcome::Failed(format!("capability: {lack}"))));
        return Attempted { outcomes: outcomes.collect(), connection: Connection::Usable };
    }
    let mut transaction = Transaction { hop, fates: vec![None; places.len()] };
    let ended = transaction.run(job).await;
    let Transaction { fates, .. } = transaction;
    let (rest, connection) = match ended {
        Ok(outcome) => (outcome, Connection::Usable),
        Err(Broken::Talk(cause)) => (Outcome::Deferred(cause.to_string()), Connection::Broken(cause.to_string())),
        Err(Broken::Content(outcome)) => (outcome, Connection::GivenUp),
        Err(Broken::Stale) => return Attempted { outcomes: Vec::new(), connection: Connection::Stale },
    };
    let outcomes = places.into_iter().zip(fates).map(|(place, fate)| (place, fate.unwrap_or_else(|| rest.clone())));
    hop.is_used = true;
    Attempted { outcomes: outcomes.collect(), connection }
}

struct Transaction<'a> {
    hop: &'a mut Hop,
    /// What is decided already, in the order of the recipients that are tried.
    fates: Vec<Option<Outcome>>,
}

/// The connection must not be used again.
enum Broken {
    Talk(TalkError),
    Content(Outcome),
    Stale,
}

impl From<TalkError> for Broken {
    fn from(cause: TalkError) -> Self {
        Self::Talk(cause)
    }
}

impl Transaction<'_> {
    /// Returns what became of all recipients that have no fate of their own.
    async fn run<S: Source>(&mut self, job: Job<'_, S>) -> Result<Outcome, Broken> {
        if self.hop.has_spoken_unasked() {
            return Err(self.stale_or(Odd.into())); // a 421 for having waited, most likely
        }
        let commands = commands(&job, &self.hop.extensions);
        let data = if self.hop.extensions.pipelining {
            self.all_at_once(&commands).await?
        } else {
            self.one_by_one(&commands).await?
        };
        let data = match data {
            Ok(data) => data,
            Err(sender_refused) => return Ok(sender_refused),
        };
        if data.code != 354 {
            return self.no_data(data).await;
        }
        if self.fates.iter().all(Option::is_some) {
            // 354 though nobody was taken: the server waits for content, so it gets none (RFC 2920 section 3.1).
            self.answer_unless_closing(b".\r\n", FINAL_DOT_TIMEOUT).await?;
            return Ok(Outcome::Deferred("no recipient was taken".into()));
        }
        self.content(job).await?;
        let verdict = self.answer(FINAL_DOT_TIMEOUT).await?;
        Ok(outcome(&verdict))
    }

    /// MAIL, each RCPT and DATA in one write (RFC 2920). The inner error: MAIL was refused, which decides for all.
    async fn all_at_once(&mut self, commands: &[String]) -> Result<Result<Answer, Outcome>, Broken> {
        let mail = self.mail(commands.concat().as_bytes()).await?;
        for place in 0..self.fates.len() {
            let rcpt = self.answer(COMMAND_TIMEOUT).await?;
            if mail.is_positive() {
                self.note(place, &rcpt); // else what it says only follows from MAIL's refusal
            }
        }
        let data = self.answer(DATA_TIMEOUT).await?;
        if mail.is_positive() {
            return Ok(Ok(data));
        }
        if data.code == 354 {
            return Err(Broken::Talk(TalkError::Said(data))); // a server that takes content after refusing MAIL
        }
        Ok(Err(outcome(&mail)))
    }

    async fn one_by_one(&mut self, commands: &[String]) -> Result<Result<Answer, Outcome>, Broken> {
        let [mail, rcpts @ .., data] = commands else { return Err(Broken::Talk(TalkError::Closed)) };
        let mail = self.mail(mail.as_bytes()).await?;
        if !mail.is_positive() {
            return Ok(Err(outcome(&mail)));
        }
        for (place, rcpt) in rcpts.iter().enumerate() {
            let rcpt = self.answer_unless_closing(rcpt.as_bytes(), COMMAND_TIMEOUT).await?;
            self.note(place, &rcpt);
        }
        if self.fates.iter().all(Option::is_some) {
            self.answer_unless_closing(b"RSET\r\n", COMMAND_TIMEOUT).await?;
            return Ok(Err(Outcome::Deferred("no recipient was taken".into())));
        }
        Ok(Ok(self.answer_unless_closing(data.as_bytes(), DATA_TIMEOUT).await?))
    }

    /// Sends what starts with MAIL and reads its reply.
    async fn mail(&mut self, commands: &[u8]) -> Result<Answer, Broken> {
        if let Err(cause) = self.hop.send(commands).await {
            return Err(self.stale_or(cause));
        }
        match self.hop.answer(COMMAND_TIMEOUT).await {
            Ok(answer) if answer.closes() => Err(self.stale_or(TalkError::Said(answer))),
            Ok(answer) => Ok(answer),
            Err(cause @ (TalkError::Closed | TalkError::Io(_))) => Err(self.stale_or(cause)),
            Err(cause) => Err(Broken::Talk(cause)),
        }
    }

    /// A connection that served others may have been closed meanwhile, which says nothing about this message. A
    /// fresh one that is closed at MAIL may be closed because of it.
    fn stale_or(&self, cause: TalkError) -> Broken {
        if self.hop.is_used { Broken::Stale } else { Broken::Talk(cause) }
    }

    /// DATA was refused; the transaction may still be open on the other side.
    async fn no_data(&mut self, data: Answer) -> Result<Outcome, Broken> {
        if !data.is_refusal() {
            return Err(Broken::Talk(TalkError::Said(data))); // a 250 here has taken no content, so nothing is delivered
        }
        self.answer_unless_closing(b"RSET\r\n", COMMAND_TIMEOUT).await?;
        // Where nobody was taken, each has its own fate already, and this refusal only follows from that.
        Ok(outcome(&data))
    }

    /// A taken recipient has no fate yet; a refused one has.
    fn note(&mut self, place: usize, rcpt: &Answer) {
        if !rcpt.is_positive() {
            // 552 here means too many recipients, and is to be taken as 452: RFC 5321 section 4.5.3.1.10.
            self.fates[place] = Some(if rcpt.code == 552 { Outcome::Deferred(rcpt.words()) } else { outcome(rcpt) });
        }
    }

    /// Sends the content and, if all of it could be read, the final dot. Without that dot the other side has
    /// nothing (RFC 5321 section 4.1.1.4).
    async fn content<S: Source>(&mut self, job: Job<'_, S>) -> Result<(), Broken> {
        let (mut stuffer, mut output) = (Stuffer::default(), Vec::with_capacity(16 << 10));
        stuffer.push(job.trace, &mut output);
        loop {
            match job.content.next().await {
                Ok(Some(piece)) => {
                    if output.len() >= WRITE_BYTES {
                        self.send_content(&output).await?;
                        output.clear();
                    }
                    stuffer.push(&piece, &mut output);
                }
                Ok(None) => break,
                Err(cause) if cause.kind() == std::io::ErrorKind::InvalidData => {
                    return Err(Broken::Content(Outcome::Unreadable));
                }
                Err(cause) => return Err(Broken::Content(Outcome::Deferred(format!("read spool: {cause}")))),
            }
        }
        stuffer.end(&mut output);
        output.extend_from_slice(b".\r\n");
        self.send_content(&output).await
    }

    /// Sends a part of the content, unless the server has said something before the final dot, which must not pass for
    /// an answer to it.
    async fn send_content(&mut self, content: &[u8]) -> Result<(), Broken> {
        if self.hop.has_spoken_unasked() {
            return Err(self.interrupted(Odd.into()).await);
        }
        match self.hop.send(content).await {
            Ok(()) => Ok(()),
            Err(cause) => Err(self.interrupted(cause).await),
        }
    }

    /// The server did not wait for the end. A no is its verdict; anything else is no answer to what it has not seen.
    async fn interrupted(&mut self, cause: TalkError) -> Broken {
        match self.hop.answer(EARLY_ANSWER_TIMEOUT).await {
            Ok(answer) if answer.is_refusal() && !answer.closes() => Broken::Content(outcome(&answer)),
            _ => Broken::Talk(cause),
        }
    }

    async fn answer(&mut self, limit: Duration) -> Result<Answer, Broken> {
        let answer = self.hop.answer(limit).await?;
        if answer.closes() { Err(Broken::Talk(TalkError::Said(answer))) } else { Ok(answer) }
    }

    async fn answer_unless_closing(&mut self, command: &[u8], limit: Duration) -> Result<Answer, Broken> {
        self.hop.send(command).await?;
        self.answer(limit).await
    }
}

fn outcome(answer: &Answer) -> Outcome {
    if answer.is_positive() {
        Outcome::Delivered(answer.words())
    } else if answer.is_permanent() {
        Outcome::Failed(answer.words())
    } else {
        Outcome::Deferred(answer.words())
    }
}

/// What the message needs and the next hop no longer offers. Nobody may change the message for its sake, and to send it
/// back would punish the sender for what was promised here.
fn lack<S>(job: &Job<'_, S>, extensions: &Extensions) -> Option<String> {
    let bytes = job.bytes();
    match extensions.size {
        _ if job.envelope.needs_smtputf8() && !extensions.parameters.smtputf8 => {
            Some("the primary offers no SMTPUTF8, which this message needs".to_owned())
        }
        Some(limit @ 1..) if bytes > limit => {
            Some(format!("the primary takes messages of {limit} bytes, and this one has {bytes}"))
        }
        _ => None,
    }
}

impl<S> Job<'_, S> {
    /// As it goes over the wire, but for dots.
    fn bytes(&self) -> u64 {
        self.content_bytes + self.trace.len() as u64
    }
}

/// MAIL, a RCPT for each waiting recipient, DATA.
fn commands<S>(job: &Job<'_, S>, extensions: &Extensions) -> Vec<String> {
    let Envelope { reverse_path, recipients, .. } = job.envelope;
    let Extensions { size, parameters: offers, .. } = *extensions;
    let sender = reverse_path.as_ref().map_or("", |path| path.as_str());
    let size = size.map_or_else(String::new, |_| format!(" SIZE={}", job.bytes()));
    let mail = format!("MAIL FROM:<{sender}>{size}{}\r\n", job.envelope.parameters(offers));
    let rcpts = job.waiting.iter().filter_map(|place| recipients.get(*place as usize));
    let rcpts = rcpts.map(|to| format!("RCPT TO:<{}>{}\r\n", to.address, to.parameters(offers)));
    [mail].into_iter().chain(rcpts).chain(["DATA\r\n".to_owned()]).collect()
}

/// Doubles dots at the starts of lines (RFC 5321 section 4.5.2), however the content is cut.
#[derive(Default)]
struct Stuffer {
    within_line: bool,
    after_cr: bool,
}

impl Stuffer {
    fn push(&mut self, piece: &[u8], output: &mut Vec<u8>) {
        if !self.within_line && piece.first() == Some(&b'.') {
            output.push(b'.');
        }
        let mut copied = 0;
        for line_end in memmem::find_iter(piece, b"\n.") {
            output.extend_from_slice(&piece[copied..=line_end]);
            output.push(b'.');
            copied = line_end + 1;
        }
        output.extend_from_slice(&piece[copied..]);
        if let Some(last) = piece.last() {
            (self.within_line, self.after_cr) = (*last != b'\n', *last == b'\r');
        }
    }

    /// The final dot needs a line of its own.
    fn end(&self, output: &mut Vec<u8>) {
        match (self.within_line, self.after_cr) {
            (false, _) => {}
            (true, false) => output.extend_from_slice(b"\r\n"),
            (true, true) => output.push(b'\n'),
        }
    }
}

#[cfg(test)]
mod tests {
    use backupmx_relay_api::config::Host;
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::TcpListener,
    };

    use super::*;
    use crate::{delivery::hop::Patience, mail::id::MessageId};

    fn stuffed(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut stuffer, mut output) = (Stuffer::default(), Vec::new());
        pieces.iter().for_each(|piece| stuffer.push(piece, &mut output));
        stuffer.end(&mut output);
        output
    }

    /// Hands a message to a server that says these replies, each in one write after a command, and the
    /// last one instead of waiting for the content.
    async fn attempt_with(replies: &'static [&'static str]) -> Attempted {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            for (place, reply) in replies.iter().enumerate() {
                let mut line = String::new();
                if place > 0 {
                    stream.read_line(&mut line).await.unwrap();
                }
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        });
        let host = Host { host: "127.0.0.1".into(), port };
        let patience = Patience { connect: COMMAND_TIMEOUT, reply: COMMAND_TIMEOUT };
        let mut hop = Hop::open(&host, "mx2.example.org", patience).await.unwrap();
        let envelope = crate::spool::field::tests::accepted(MessageId::new(), 1).envelope;
        let mut content = Some(b"x\r\n".repeat(1000));
        let job = Job { envelope: &envelope, trace: b"", waiting: &[0], content_bytes: 0, content: &mut content };
        let attempted = attempt(&mut hop, job).await;
        drop(hop);
        server.await.unwrap();
        attempted
    }

    #[tokio::test]
    async fn only_a_no_is_taken_before_the_final_dot() {
        const YES: &str = "250 ok\r\n";
        let no = attempt_with(&["220 hi\r\n", YES, YES, YES, "354 go\r\n552 too large\r\n"]).await;
        assert_eq!(no.outcomes, [(0, Outcome::Failed("552 too large".into()))]);
        assert_eq!(no.connection, Connection::GivenUp);
        let yes = attempt_with(&["220 hi\r\n", YES, YES, YES, "354 go\r\n250 thanks\r\n"]).await;
        assert!(matches!(yes.outcomes[..], [(0, Outcome::Deferred(_))]), "{yes:?}");
        assert!(matches!(yes.connection, Connection::Broken(_)));
    }

    #[test]
    fn dots_are_doubled_at_line_starts_however_the_content_is_cut() {
        for (content, expected) in [
            ("", ""),
            (".\r\n", "..\r\n"),
            ("a\r\n.b\r\n..\r\nc.\r\n", "a\r\n..b\r\n...\r\nc.\r\n"),
            ("\r\n.\r\n\r\n", "\r\n..\r\n\r\n"),
            ("no line end", "no line end\r\n"),
        ] {
            for cut in 0..=content.len() {
                let (head, tail) = content.as_bytes().split_at(cut);
                assert_eq!(stuffed(&[head, tail]), expected.as_bytes(), "{content:?} cut at {cut}");
            }
        }
    }
}
