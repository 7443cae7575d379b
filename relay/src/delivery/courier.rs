//! One attempt: an envelope and a source of bytes go in, an outcome for each recipient comes out. Knows sockets only.
//!
//! | the server | the recipients that have no fate of their own |
//! |---|---|
//! | says 2xx to the final dot, or to the last BDAT | Delivered |
//! | says 4xx, or what is no reply | Deferred |
//! | says 5xx | Refused |
//! | breaks, or is silent, before it has all of the content | Deferred |
//! | the same after that | MaybeDelivered |

use std::{sync::atomic::AtomicBool, time::Duration};

use super::{
    extensions::Extensions,
    hop::Hop,
    transaction::{Broken, Transaction},
    wire::TalkError,
};
use crate::mail::{content::Source, envelope::Envelope};

/// What is to be handed over in one transaction.
pub struct Job<'a, S> {
    /// Its envelope.
    pub envelope: &'a Envelope,
    /// Our trace field, which goes first.
    pub trace: &'a [u8],
    /// Places of the recipients to try, no more than [`Hop::recipients_max`] says.
    pub waiting: &'a [u32],
    /// Length of the content.
    pub content_bytes: u64,
    /// The content came without its last line end, and got one here.
    pub line_end_added: bool,
    /// The content.
    pub content: &'a mut S,
    /// Set before the end of the content goes out: until then the attempt may be dropped, and nothing was delivered.
    pub is_committed: &'a AtomicBool,
}

/// What became of one recipient: a value, not an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The next hop has it; its own words are the evidence.
    Delivered(String),
    /// Not now. The words are the next hop's, or say how the connection broke.
    Deferred(String),
    /// The next hop had all of it when the connection broke: it may have it, and may get it again (RFC 1047). The words say so.
    MaybeDelivered(String),
    /// Never, says the next hop.
    Refused {
        /// To what.
        stage: Stage,
        /// In these words.
        words: String,
    },
    /// The message needs what the next hop does not offer; in words for a person.
    Lacking(String),
    /// There were too many recipients for one transaction: it should go in the next one, at once.
    Untried,
    /// The stored bytes do not match their checksum.
    Unreadable,
}

/// What was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// MAIL.
    Mail,
    /// RCPT.
    Recipient,
    /// DATA, or what came by it.
    Content,
}

/// What an attempt brought.
#[derive(PartialEq, Eq, Debug)]
pub struct Attempted {
    /// For each recipient that was to be tried.
    pub outcomes: Vec<(u32, Outcome)>,
    /// What became of the connection.
    pub connection: Connection,
    /// How long the server let us wait for its replies. The time in which content went out is not in it.
    pub took: Duration,
    /// The server told of temporary trouble of its own, in these words.
    pub trouble: Option<String>,
    /// It was silent, or took nothing, for as long as RFC 5321 has us wait.
    pub timed_out: bool,
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
    let (places, waited_before) = (job.waiting.to_vec(), hop.wire.waited);
    if let Some(lack) = lack(&job, &hop.extensions) {
        let outcomes = places.into_iter().map(|place| (place, Outcome::Lacking(lack.clone()))).collect();
        return Attempted { outcomes, ..Attempted::nothing(Connection::Usable) };
    }
    let mut transaction = Transaction::new(hop, places.len());
    let ended = transaction.run(job).await;
    let (fates, trouble) = transaction.end();
    hop.is_used = true;
    let timed_out = matches!(ended, Err(Broken::Talk(TalkError::Silent(_)) | Broken::Complete(TalkError::Silent(_))));
    let (rest, connection) = match ended {
        Ok(outcome) => (outcome, Connection::Usable),
        Err(Broken::Talk(cause)) => (Outcome::Deferred(cause.to_string()), Connection::Broken(cause.to_string())),
        Err(Broken::Complete(cause)) => {
            (Outcome::MaybeDelivered(format!("maybe delivered: {cause}")), Connection::Broken(cause.to_string()))
        }
        Err(Broken::Content(outcome)) => (outcome, Connection::GivenUp),
        Err(Broken::Stale) => return Attempted::nothing(Connection::Stale),
    };
    let outcomes = places.into_iter().zip(fates).map(|(place, fate)| (place, fate.unwrap_or_else(|| rest.clone())));
    let took = hop.wire.waited - waited_before;
    Attempted { outcomes: outcomes.collect(), connection, took, trouble, timed_out }
}

impl Attempted {
    fn nothing(connection: Connection) -> Self {
        Self { outcomes: Vec::new(), connection, took: Duration::ZERO, trouble: None, timed_out: false }
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
    pub(super) fn bytes(&self) -> u64 {
        self.content_bytes + self.trace.len() as u64
    }
}

#[cfg(test)]
pub(super) mod tests;
