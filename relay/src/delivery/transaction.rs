//! One transaction with the primary, from XFORWARD or MAIL to the verdict on the content. RFC sections stand beside the choices.

use std::{io, sync::atomic::Ordering, time::Duration};

use super::{
    answer::{Answer, Odd},
    content::{Outgoing, WrongLength},
    courier::{Job, Outcome, Stage},
    extensions::Extensions,
    hop::Hop,
    wire::TalkError,
    xforward,
};
use crate::mail::{
    content::Source,
    envelope::{Envelope, Recipient},
};

/// RFC 5321 sections 4.5.3.2.2 and 4.5.3.2.3.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
/// RFC 5321 section 4.5.3.2.4.
const DATA_TIMEOUT: Duration = Duration::from_secs(120);
/// RFC 5321 section 4.5.3.2.6: giving up earlier makes duplicates.
const FINAL_DOT_TIMEOUT: Duration = Duration::from_secs(600);

/// For the rest of an answer that came before the final dot: it is on its way.
const EARLY_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What was said so far.
pub struct Transaction<'a> {
    hop: &'a mut Hop,
    /// What is decided already, in the order of the recipients that are tried.
    fates: Vec<Option<Outcome>>,
    /// Recipients that were taken.
    taken: usize,
    /// What was said to the first one that was too many.
    too_many: Option<Answer>,
    /// What the server said first of its own temporary trouble.
    trouble: Option<String>,
    /// Something was answered: then the connection was not stale.
    is_alive: bool,
}

/// The connection must not be used again.
pub enum Broken {
    /// Before the server had all of the content.
    Talk(TalkError),
    /// Afterwards.
    Complete(TalkError),
    /// With this outcome for all that have no fate of their own.
    Content(Outcome),
    /// It had been closed before.
    Stale,
}

/// What goes out until DATA.
struct Commands {
    xforward: Vec<String>,
    mail: String,
    rcpts: Vec<String>,
}

/// What came back to that.
enum Told {
    MailRefused(Answer),
    /// Each recipient has its answer, and so has DATA if it was said.
    Whole(Option<Answer>),
}

impl<'a> Transaction<'a> {
    /// For so many recipients.
    pub fn new(hop: &'a mut Hop, recipients: usize) -> Self {
        let fates = vec![None; recipients];
        Self { hop, fates, taken: 0, too_many: None, trouble: None, is_alive: false }
    }

    /// Returns what became of all recipients that have no fate of their own.
    pub async fn run<S: Source>(&mut self, job: Job<'_, S>) -> Result<Outcome, Broken> {
        if self.hop.wire.has_spoken_unasked() {
            return Err(self.stale_or(Odd.into())); // a 421 for having waited, most likely
        }
        let commands = commands(&job, &self.hop.extensions);
        let by_bdat = job.line_end_added && self.hop.extensions.chunking;
        self.hop.mails += 1;
        let told = if self.hop.extensions.pipelining {
            self.all_at_once(&commands, !by_bdat).await?
        } else {
            self.one_by_one(&commands).await?
        };
        let data = match told {
            Told::MailRefused(answer) => return Ok(outcome(&answer, Stage::Mail)),
            Told::Whole(Some(data)) => data,
            Told::Whole(None) if self.taken == 0 => return self.reset(nobody_taken()).await,
            // Only now: content cannot be taken back, and nobody might be there for it (RFC 3030 section 2).
            Told::Whole(None) if by_bdat => return self.bdat(job).await,
            Told::Whole(None) => self.ask("DATA\r\n", DATA_TIMEOUT).await?,
        };
        match data.code {
            // The server waits for content though nobody was taken, so it gets none (RFC 2920 section 3.1).
            354 if self.taken == 0 => self.ask(".\r\n", FINAL_DOT_TIMEOUT).await.map(|_| nobody_taken()),
            354 => {
                self.content(Outgoing::data(), job).await?;
                Ok(outcome(&self.verdict().await?, Stage::Content))
            }
            // The transaction may still be open on the other side. Where nobody was taken, each has its own fate already.
            _ if data.is_refusal() => self.reset(outcome(&data, Stage::Content)).await,
            // A 250 here has taken no content, so nothing is delivered.
            _ => Err(Broken::Talk(TalkError::Said(data))),
        }
    }

    /// What each recipient's fate is, as far as it has its own, and the server's trouble.
    pub fn end(mut self) -> (Vec<Option<Outcome>>, Option<String>) {
        if let Some(answer) = self.too_many {
            if self.taken == 0 {
                // It will not be better in the next transaction.
                let untried = self.fates.iter_mut().filter(|fate| **fate == Some(Outcome::Untried));
                untried.for_each(|fate| *fate = Some(Outcome::Deferred(answer.words())));
            } else if answer.enhanced().is_none_or(|code| code == (5, 3)) {
                self.hop.recipients_taken_max = Some(self.taken);
            }
        }
        (self.fates, self.trouble)
    }

    /// All of it in one write (RFC 2920), DATA too if it is wanted.
    async fn all_at_once(&mut self, commands: &Commands, with_data: bool) -> Result<Told, Broken> {
        let Commands { xforward, mail, rcpts } = commands;
        let data = if with_data { "DATA\r\n" } else { "" };
        self.say(&[&xforward.concat(), mail, &rcpts.concat(), data].concat()).await?;
        for _ in xforward {
            self.xforward_answer().await?;
        }
        let mail = self.mail_answer().await?;
        for place in 0..rcpts.len() {
            let rcpt = self.answer(COMMAND_TIMEOUT).await?;
            if mail.is_positive() {
                self.note(place, rcpt); // else what it says only follows from MAIL's refusal
            }
        }
        let data = if with_data { Some(self.answer(DATA_TIMEOUT).await?) } else { None };
        match data {
            _ if mail.is_positive() => Ok(Told::Whole(data)),
            // A server that takes content after refusing MAIL.
            Some(data) if data.code == 354 => Err(Broken::Talk(TalkError::Said(data))),
            _ => Ok(Told::MailRefused(mail)),
        }
    }

    async fn one_by_one(&mut self, commands: &Commands) -> Result<Told, Broken> {
        let Commands { xforward, mail, rcpts } = commands;
        for command in xforward {
            self.say(command).await?;
            self.xforward_answer().await?;
        }
        self.say(mail).await?;
        let mail = self.mail_answer().await?;
        if !mail.is_positive() {
            return Ok(Told::MailRefused(mail));
        }
        for (place, rcpt) in rcpts.iter().enumerate() {
            let rcpt = self.ask(rcpt, COMMAND_TIMEOUT).await?;
            self.note(place, rcpt);
        }
        Ok(Told::Whole(None))
    }

    /// It is for a log: who does not want it after all is not told again.
    async fn xforward_answer(&mut self) -> Result<(), Broken> {
        if !self.answer(COMMAND_TIMEOUT).await?.is_positive() {
            self.hop.extensions.xforward.clear();
        }
        Ok(())
    }

    async fn mail_answer(&mut self) -> Result<Answer, Broken> {
        let answer = self.answer(COMMAND_TIMEOUT).await?;
        self.hear(&answer, true);
        Ok(answer)
    }

    /// A taken recipient has no fate yet; a refused one has.
    fn note(&mut self, place: usize, rcpt: Answer) {
        if rcpt.is_positive() {
            self.taken += 1;
        } else if rcpt.is_too_many() {
            self.fates[place] = Some(Outcome::Untried);
            self.too_many.get_or_insert(rcpt);
        } else {
            self.fates[place] = Some(outcome(&rcpt, Stage::Recipient));
        }
    }

    async fn bdat<S: Source>(&mut self, job: Job<'_, S>) -> Result<Outcome, Broken> {
        self.content(Outgoing::bdat(job.bytes()), job).await?;
        let verdict = self.verdict().await?;
        let outcome = outcome(&verdict, Stage::Content);
        // What a refused part leaves behind is not defined (RFC 3030 section 2).
        if verdict.is_positive() { Ok(outcome) } else { self.reset(outcome).await }
    }

    /// Ends what may still be open on the other side. If that fails, the outcome is the same.
    async fn reset(&mut self, outcome: Outcome) -> Result<Outcome, Broken> {
        match self.ask("RSET\r\n", COMMAND_TIMEOUT).await {
            Ok(_) => Ok(outcome),
            Err(_) => Err(Broken::Content(outcome)),
        }
    }

    /// Sends the content and, if all of it could be read, its end. Without that the other side has nothing (RFC 5321
    /// section 4.1.1.4).
    async fn content<S: Source>(&mut self, mut outgoing: Outgoing, job: Job<'_, S>) -> Result<(), Broken> {
        let wrong = |_: WrongLength| Broken::Content(Outcome::Unreadable);
        outgoing.push(job.trace).map_err(wrong)?;
        loop {
            match job.content.next().await {
                Ok(Some(content)) => {
                    if let Some(piece) = outgoing.piece() {
                        self.send_content(&piece).await?;
                    }
                    outgoing.push(&content).map_err(wrong)?;
                }
                Ok(None) => break,
                Err(cause) if cause.kind() == io::ErrorKind::InvalidData => {
                    return Err(Broken::Content(Outcome::Unreadable));
                }
                Err(cause) => return Err(Broken::Content(Outcome::Deferred(format!("read spool: {cause}")))),
            }
        }
        let end = outgoing.end().map_err(wrong)?;
        job.is_committed.store(true, Ordering::Relaxed);
        self.send_content(&end).await
    }

    /// Sends a part of the content, unless the server has said something before its end, which must not pass for
    /// an answer to it.
    async fn send_content(&mut self, content: &[u8]) -> Result<(), Broken> {
        if self.hop.wire.has_spoken_unasked() {
            return Err(self.interrupted(Odd.into()).await);
        }
        match self.hop.wire.send(content).await {
            Ok(()) => Ok(()),
            Err(cause) => Err(self.interrupted(cause).await),
        }
    }

    /// The server did not wait for the end. A no is its verdict; anything else is no answer to what it has not seen.
    async fn interrupted(&mut self, cause: TalkError) -> Broken {
        match self.hop.wire.answer(EARLY_ANSWER_TIMEOUT).await {
            Ok(answer) => {
                self.hear(&answer, false);
                if answer.closes() {
                    Broken::Talk(TalkError::Said(answer))
                } else if answer.is_refusal() {
                    Broken::Content(outcome(&answer, Stage::Content))
                } else {
                    Broken::Talk(cause)
                }
            }
            Err(_) => Broken::Talk(cause),
        }
    }

    /// The answer to all of the content. Where none comes, the server may have taken it.
    async fn verdict(&mut self) -> Result<Answer, Broken> {
        let answer = self.hop.wire.answer(FINAL_DOT_TIMEOUT).await.map_err(Broken::Complete)?;
        self.hear(&answer, false);
        if answer.closes() { Err(Broken::Talk(TalkError::Said(answer))) } else { Ok(answer) }
    }

    async fn ask(&mut self, command: &str, limit: Duration) -> Result<Answer, Broken> {
        self.say(command).await?;
        self.answer(limit).await
    }

    async fn say(&mut self, commands: &str) -> Result<(), Broken> {
        self.hop.wire.send(commands.as_bytes()).await.map_err(|cause| self.broken(cause))
    }

    async fn answer(&mut self, limit: Duration) -> Result<Answer, Broken> {
        let answer = self.hop.wire.answer(limit).await.map_err(|cause| self.broken(cause))?;
        if answer.closes() && !self.is_alive && self.hop.is_used {
            return Err(Broken::Stale);
        }
        self.is_alive = true;
        self.hear(&answer, false);
        if answer.closes() { Err(Broken::Talk(TalkError::Said(answer))) } else { Ok(answer) }
    }

    fn hear(&mut self, answer: &Answer, is_to_mail: bool) {
        if self.trouble.is_none() && answer.is_trouble(is_to_mail) {
            self.trouble = Some(answer.words());
        }
    }

    fn broken(&self, cause: TalkError) -> Broken {
        match cause {
            TalkError::Closed | TalkError::Io(_) if !self.is_alive => self.stale_or(cause),
            other => Broken::Talk(other),
        }
    }

    /// A connection that served others may have been closed meanwhile, which says nothing about this message. A
    /// fresh one that is closed at MAIL may be closed because of it.
    fn stale_or(&self, cause: TalkError) -> Broken {
        if self.hop.is_used { Broken::Stale } else { Broken::Talk(cause) }
    }
}

fn outcome(answer: &Answer, stage: Stage) -> Outcome {
    if answer.is_positive() {
        Outcome::Delivered(answer.words())
    } else if answer.is_permanent() {
        Outcome::Refused { stage, words: answer.words() }
    } else {
        Outcome::Deferred(answer.words())
    }
}

/// For no one: each recipient has its own fate.
fn nobody_taken() -> Outcome {
    Outcome::Deferred("no recipient was taken".into())
}

fn commands<S>(job: &Job<'_, S>, extensions: &Extensions) -> Commands {
    let rcpts = job.waiting.iter().filter_map(|place| job.envelope.recipients.get(*place as usize));
    Commands {
        xforward: xforward::commands(job.envelope, &extensions.xforward),
        mail: mail_command(job.envelope, Some(job.bytes()), extensions),
        rcpts: rcpts.map(|to| rcpt_command(to, extensions)).collect(),
    }
}

/// MAIL with what the next hop takes of its parameters. `bytes`: how long the message is, if that is known.
pub fn mail_command(envelope: &Envelope, bytes: Option<u64>, extensions: &Extensions) -> String {
    let sender = envelope.reverse_path.as_ref().map_or("", |path| path.as_str());
    let size = extensions.size.and(bytes).map_or_else(String::new, |bytes| format!(" SIZE={bytes}"));
    format!("MAIL FROM:<{sender}>{size}{}\r\n", envelope.parameters(extensions.parameters))
}

/// RCPT with what the next hop takes of its parameters.
pub fn rcpt_command(to: &Recipient, extensions: &Extensions) -> String {
    format!("RCPT TO:<{}>{}\r\n", to.address, to.parameters(extensions.parameters))
}
