//! One message's way to the primary while its sender waits, step by step: commands out, answers in. Knows sockets only.
//!
//! What an answer means is for `verdict` to say, and who holds the mail then, for `pass_through`.

use std::time::Duration;

use tokio::time::timeout;

use super::{
    answer::{Answer, Odd},
    content::{Outgoing, WrongLength},
    hop::Hop,
    wire::TalkError,
    xclient::{self, Client},
};

/// How long to wait for the primary. The sender waits meanwhile, whose own patience ends, too (RFC 5321 section 4.5.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// For each answer but the last one, and for each block that goes out.
    pub stall: Duration,
    /// For the answer to the final dot.
    pub final_dot: Duration,
}

/// For the rest of an answer that came before the final dot: it is on its way.
const EARLY_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Refusals on a connection without a message in between. Postfix slows a client down from the 10th on, and sends it away at the 20th
/// (`smtpd_soft_error_limit`, `smtpd_hard_error_limit`): not the sender, but we would pay for addresses that he guesses.
const REFUSALS_MAX: u32 = 8;

/// A connection to the primary with at most one message on it.
pub struct Passage {
    hop: Hop,
    /// Since the last message that was taken.
    refusals: u32,
    limits: Limits,
    /// Whom the primary was told by XCLIENT that it deals with.
    told: Option<Client>,
    stage: Stage,
    outgoing: Outgoing,
    is_bdat: bool,
}

/// How far the message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// There is none.
    Between,
    /// MAIL was said.
    Envelope,
    /// Content goes out, or something has not been answered: the connection can be closed and nothing else.
    Content,
    /// The primary does not want this client: nothing more can be said.
    Over,
}

/// The proof that the primary has taken a message: its 2xx to the final dot. Nobody else can make one.
#[derive(PartialEq, Eq, Debug)]
pub struct PassedOn(Answer);

impl PassedOn {
    /// The primary's words.
    pub fn words(&self) -> String {
        self.0.words()
    }
}

/// Why it does not go on.
#[derive(Debug)]
pub enum Stopped {
    /// The connection was closed before this message, and says nothing of the primary.
    Stale,
    /// It broke, or was silent for too long.
    Broken(TalkError),
}

/// What came of naming the client.
#[derive(PartialEq, Eq, Debug)]
pub enum Named {
    /// The primary judges this client from now on.
    Done,
    /// It does not take XCLIENT, in these words: it judges us.
    NotTaken(String),
    /// It does not want this client. The connection is of no more use.
    Unwanted(Answer),
}

/// What came back to MAIL and the first RCPT.
#[derive(PartialEq, Eq, Debug)]
pub struct Begun {
    /// To MAIL.
    pub mail: Answer,
    /// To RCPT; `None` if MAIL was not taken.
    pub rcpt: Option<Answer>,
}

/// How a content ended.
#[derive(Debug)]
pub enum Ending {
    /// The primary has it.
    Passed(PassedOn),
    /// It has said something else.
    Said(Answer),
    /// It had not all of it when the connection broke: nothing was delivered.
    Broken(TalkError),
    /// It had all of it: it may have it, or not (RFC 1047).
    Unknown(TalkError),
    /// The same, and its answer may still come: see [`Passage::late_answer`].
    Late,
}

impl Passage {
    /// Over a connection that got as far as EHLO.
    pub fn over(hop: Hop, limits: Limits) -> Self {
        Self { hop, refusals: 0, limits, told: None, stage: Stage::Between, outgoing: Outgoing::data(), is_bdat: false }
    }

    /// The connection.
    pub fn hop(&self) -> &Hop {
        &self.hop
    }

    /// Whether the primary judges the client, and not us.
    pub fn speaks_as_client(&self) -> bool {
        self.told.is_some()
    }

    /// Whether another message may go over it.
    pub fn is_usable(&self) -> bool {
        self.stage == Stage::Between && self.hop.takes_another_mail() && !self.is_worn()
    }

    /// Whether so much was refused on it that the primary may lose its patience.
    pub fn is_worn(&self) -> bool {
        self.refusals >= REFUSALS_MAX
    }

    /// Whether this is the end of its patience, which says nothing about the primary or this message.
    pub fn has_lost_patience(&self, answer: &Answer) -> bool {
        self.refusals > 0 && answer.closes() && answer.enhanced().is_none_or(|(subject, _)| subject == 7)
    }

    /// Whether the other side has closed, or said something that nobody asked for.
    pub fn is_stale(&mut self) -> bool {
        self.hop.wire.has_ended()
    }

    /// Whether it can carry mail of this client: a primary takes XCLIENT only once on a connection (Postfix: its own right to say so goes with
    /// its address).
    pub fn is_for(&self, client: &Client) -> bool {
        self.told.as_ref().is_none_or(|told| told == client)
    }

    /// Tells the primary whose mail comes. It begins anew with that: greeting, EHLO.
    pub async fn name(&mut self, client: &Client) -> Result<Named, Stopped> {
        let answer = self.first(xclient::command(client, &self.hop.extensions.xclient).as_bytes()).await?;
        match answer.code {
            220 => {}
            // What a server says at its greeting to a client that it does not want (RFC 5321 section 3.1).
            554 | 421 => {
                self.stage = Stage::Over;
                return Ok(Named::Unwanted(answer));
            }
            _ => {
                self.hop.extensions.xclient.clear(); // it is not told so again on this connection
                return Ok(Named::NotTaken(answer.words()));
            }
        }
        let greeted = self.hop.hello(&xclient::helo(client), self.limits.stall).await;
        match greeted {
            Ok(()) => {
                self.told = Some(client.clone());
                Ok(Named::Done)
            }
            Err(TalkError::Said(answer)) => {
                self.stage = Stage::Over;
                Ok(Named::Unwanted(answer))
            }
            Err(cause) => Err(Stopped::Broken(cause)),
        }
    }

    /// MAIL and the first RCPT: in one write, where that may be.
    pub async fn begin(&mut self, mail: &str, rcpt: &str) -> Result<Begun, Stopped> {
        self.hop.mails += 1;
        self.stage = Stage::Envelope;
        let is_pipelined = self.hop.extensions.pipelining;
        let first = if is_pipelined { [mail, rcpt].concat() } else { mail.to_owned() };
        let mail = self.first(first.as_bytes()).await?;
        let is_enough = mail.code == 452 && mail.enhanced() == Some((5, 3));
        if is_enough && self.hop.is_used {
            return Err(Stopped::Stale); // enough messages of this connection (OpenSMTPD: `max-mails`)
        }
        self.hop.is_used = true;
        self.count(&mail);
        let rcpt = match (is_pipelined, mail.is_positive()) {
            (true, true) => Some(self.answer().await?),
            (true, false) if mail.closes() => None,
            (true, false) => {
                self.answer().await?; // it only follows from MAIL's refusal
                None
            }
            (false, true) => Some(self.ask(rcpt).await?),
            (false, false) => None,
        };
        rcpt.iter().for_each(|rcpt| self.count(rcpt));
        Ok(Begun { mail, rcpt })
    }

    fn count(&mut self, answer: &Answer) {
        self.refusals += u32::from(answer.is_refusal() && !answer.closes());
    }

    /// One more RCPT.
    pub async fn recipient(&mut self, rcpt: &str) -> Result<Answer, Stopped> {
        let answer = self.ask(rcpt).await?;
        self.count(&answer);
        Ok(answer)
    }

    /// After a refused MAIL: whether the null sender is refused, too.
    pub async fn null_sender(&mut self) -> Result<Answer, Stopped> {
        self.hop.mails += 1;
        self.ask("MAIL FROM:<>\r\n").await
    }

    /// DATA. After its 354 content may be pushed.
    pub async fn data(&mut self) -> Result<Answer, Stopped> {
        let answer = self.ask("DATA\r\n").await?;
        if answer.code == 354 {
            (self.stage, self.outgoing, self.is_bdat) = (Stage::Content, Outgoing::data(), false);
        }
        Ok(answer)
    }

    /// By BDAT, in place of DATA (RFC 3030); `bytes` as [`Outgoing::bdat`] has it.
    pub fn bdat(&mut self, bytes: u64) {
        (self.stage, self.outgoing, self.is_bdat) = (Stage::Content, Outgoing::bdat(bytes), true);
    }

    /// Takes the next piece of content.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), WrongLength> {
        self.outgoing.push(piece)
    }

    /// Sends what was pushed. The primary may have said something meanwhile: see [`Passage::early_answer`].
    pub async fn send(&mut self) -> Result<(), TalkError> {
        if self.hop.wire.has_ended() {
            return Err(Odd.into());
        }
        let ready = self.outgoing.ready();
        let bytes = ready.len();
        let stall = self.limits.stall;
        timeout(stall, self.hop.wire.send(ready)).await.map_err(|_| TalkError::Silent(stall))??;
        self.outgoing.sent(bytes);
        Ok(())
    }

    /// What the primary said before the content had ended, if it is a refusal; anything else is no answer to what it has not seen.
    pub async fn early_answer(&mut self) -> Option<Answer> {
        self.hop.wire.answer(EARLY_ANSWER_TIMEOUT).await.ok().filter(Answer::is_refusal)
    }

    /// Sends the end of the content, and hears what the primary makes of it.
    pub async fn complete(&mut self) -> Ending {
        if self.hop.wire.has_ended() {
            return match self.early_answer().await {
                Some(answer) => Ending::Said(answer),
                None => Ending::Broken(Odd.into()),
            };
        }
        let Ok(end) = std::mem::replace(&mut self.outgoing, Outgoing::data()).end() else {
            return Ending::Broken(Odd.into()); // no more than a guard: who pushed knew the length
        };
        match timeout(self.limits.stall, self.hop.wire.send(&end)).await {
            Ok(Ok(())) => {}
            // How much of it has arrived is not known.
            Ok(Err(cause)) => return Ending::Unknown(cause),
            Err(_) => return Ending::Unknown(TalkError::Silent(self.limits.stall)),
        }
        match self.hop.wire.answer(self.limits.final_dot).await {
            Ok(answer) => self.ended(answer),
            Err(TalkError::Silent(_)) => Ending::Late,
            Err(cause) => Ending::Unknown(cause),
        }
    }

    /// The answer to the final dot, after [`Ending::Late`].
    pub async fn late_answer(&mut self, limit: Duration) -> Ending {
        match self.hop.wire.answer(limit).await {
            Ok(answer) => self.ended(answer),
            Err(cause) => Ending::Unknown(cause),
        }
    }

    fn ended(&mut self, answer: Answer) -> Ending {
        if answer.closes() {
            return Ending::Said(answer);
        }
        if answer.is_positive() {
            (self.stage, self.refusals) = (Stage::Between, 0);
            return Ending::Passed(PassedOn(answer));
        }
        if !answer.is_refusal() {
            return Ending::Unknown(Odd.into()); // the real answer may be on its way
        }
        // What a refused part leaves behind is not defined (RFC 3030 section 2).
        self.stage = if self.is_bdat { Stage::Envelope } else { Stage::Between };
        Ending::Said(answer)
    }

    /// Ends an envelope without content. What cannot be ended is not usable.
    pub async fn reset(&mut self) {
        if self.stage == Stage::Envelope && self.ask("RSET\r\n").await.is_ok_and(|answer| answer.is_positive()) {
            self.stage = Stage::Between;
        }
    }

    /// Says goodbye, unless content is under way: then only closing keeps it from being taken for whole.
    pub async fn quit(self, limit: Duration) {
        if self.stage != Stage::Content {
            self.hop.quit(limit).await;
        }
    }

    /// What is said first for a message: on a connection that served others it may find the other side gone.
    async fn first(&mut self, commands: &[u8]) -> Result<Answer, Stopped> {
        let is_used = self.hop.is_used;
        if self.hop.wire.has_ended() {
            return Err(if is_used { Stopped::Stale } else { Stopped::Broken(Odd.into()) });
        }
        let said = match self.hop.wire.send(commands).await {
            Ok(()) => self.hop.wire.answer(self.limits.stall).await,
            Err(cause) => Err(cause),
        };
        match said {
            Ok(answer) if answer.closes() && is_used => Err(Stopped::Stale),
            Ok(answer) => Ok(answer),
            Err(TalkError::Closed | TalkError::Io(_)) if is_used => Err(Stopped::Stale),
            Err(cause) => Err(Stopped::Broken(cause)),
        }
    }

    async fn ask(&mut self, command: &str) -> Result<Answer, Stopped> {
        if self.hop.wire.has_ended() {
            return Err(Stopped::Broken(Odd.into())); // what came before the question is no answer to it
        }
        self.hop.wire.send(command.as_bytes()).await.map_err(Stopped::Broken)?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Answer, Stopped> {
        // Until it is there, and if it never comes or nobody waits for it any more, the next answer would not be the next question's.
        let stage = std::mem::replace(&mut self.stage, Stage::Content);
        let answer = self.hop.wire.answer(self.limits.stall).await.map_err(Stopped::Broken)?;
        self.stage = stage;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::scripted::{Act, hop_in_memory};

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_owes_an_answer_is_not_used_again_however_late_that_comes() {
        let says = |text: &str| Act::Say(text.to_owned());
        let (ok, late) = (says("250 ok\r\n"), says("250 late\r\n250 reset\r\n"));
        let hop = hop_in_memory(vec![Act::Line, ok.clone(), Act::Line, ok, Act::Line, Act::Line, late]);
        let second = Duration::from_secs(1);
        let mut passage = Passage::over(hop, Limits { stall: second, final_dot: second });
        let begun = passage.begin("MAIL FROM:<>\r\n", "RCPT TO:<a@example.org>\r\n").await.unwrap();
        assert!(begun.rcpt.is_some_and(|rcpt| rcpt.is_positive()));
        assert!(matches!(passage.recipient("RCPT TO:<b@example.org>\r\n").await, Err(Stopped::Broken(_))));
        passage.reset().await;
        assert!(!passage.is_usable());
    }
}
