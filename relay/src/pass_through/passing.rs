//! One message on its way through: who holds it at each step, and what its sender hears. docs/smtp.md has the same as a table.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    PassThrough,
    late::Maybe,
    lease::{Lease, NotLeased},
};
use crate::{
    delivery::{
        answer::Answer,
        breaker::Sign,
        passage::{Begun, Ending, Named, PassedOn, Stopped},
        transaction::{mail_command, rcpt_command},
        verdict::{self, Step, Verdict},
        xclient::Client,
    },
    foreign::shown,
    mail::{
        content::Source,
        envelope::{Envelope, Recipient},
    },
    metrics::Metrics,
};

/// A message from its first recipient on.
pub struct Passing {
    through: Arc<PassThrough>,
    /// Without recipients.
    envelope: Envelope,
    /// What its sender said of its length, with our trace field.
    bytes: Option<u64>,
    client: Client,
    course: Course,
    /// For how long the sender waited for the primary.
    waited: Duration,
}

/// Who holds it.
enum Course {
    /// Nobody, and the primary is being told of it.
    Through(Box<Through>),
    /// Nobody; its sender is slow, so that the primary is told of it once it is whole.
    Aside,
    /// Nobody: each further step hears this.
    Refused(No),
    /// We, once it is whole.
    Ours,
}

/// A message that the primary is being told of.
struct Through {
    lease: Lease,
    /// Recipients that it has taken.
    taken: usize,
    slow_at: Instant,
    waited_before: Duration,
}

/// Why its sender hears no.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum No {
    /// The primary said so, in these words.
    Words(Answer),
    /// The primary does not want it from us.
    JudgesUs,
    /// All connections are in use.
    Busy,
    /// The primary does not say whether its refusals are meant.
    Unclear,
    /// More recipients than the primary takes at a time.
    TooMany,
    /// A recipient that was taken before is not any more.
    Changed,
    /// It needs SMTPUTF8, which the primary no longer offers.
    Lacking,
}

/// Why a message is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The primary is not up, or is held back from mail.
    Away,
    /// No connection to it came about.
    Unreachable,
    /// It told of trouble of its own.
    Trouble,
    /// The connection broke, or was silent.
    Broken,
    /// The same after it had all of the message.
    MaybeDelivered,
}

impl Why {
    /// As a metric's label.
    pub const ALL: [Self; 5] = [Self::Away, Self::Unreachable, Self::Trouble, Self::Broken, Self::MaybeDelivered];

    /// As a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Unreachable => "unreachable",
            Self::Trouble => "trouble",
            Self::Broken => "broken",
            Self::MaybeDelivered => "maybe_delivered",
        }
    }
}

/// What became of a recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AtRecipient {
    /// The primary has taken it.
    Taken,
    /// The message is ours to keep, and what policy said of the recipient holds.
    Ours,
    /// It is not taken.
    No(No),
}

/// What became of all of a content.
pub enum AtEnd {
    /// The primary has it.
    Passed {
        /// The proof.
        proof: PassedOn,
        /// `host:port`.
        next_hop: String,
    },
    /// It is ours to keep; in doubt what the primary may have.
    Ours(Option<Maybe>),
    /// Nobody has it.
    No(No),
}

/// What is to be offered in one go, should it come to that.
pub struct Offer<'a, S> {
    /// Whom the session has taken.
    pub recipients: &'a [Recipient],
    /// Our trace field.
    pub trace: &'a [u8],
    /// The content.
    pub content: S,
    /// How long the content is.
    pub content_bytes: u64,
    /// It came without its last line end, and got one here.
    pub line_end_added: bool,
}

impl Passing {
    /// A message has its first recipient. `envelope`: without recipients. `bytes`: its length with our trace field, if its sender said so.
    pub async fn begin(
        through: Arc<PassThrough>,
        envelope: Envelope,
        bytes: Option<u64>,
        client: Client,
        first: &Recipient,
    ) -> (Self, AtRecipient) {
        let mut passing = Self { through, envelope, bytes, client, course: Course::Aside, waited: Duration::ZERO };
        let at = if passing.through.primary.takes_mail() {
            passing.open(first, true).await
        } else {
            passing.ours(Why::Away);
            AtRecipient::Ours
        };
        (passing, at)
    }

    /// What the message is called here.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// One more recipient.
    pub async fn recipient(&mut self, to: &Recipient) -> AtRecipient {
        if matches!(&self.course, Course::Through(open) if open.lease.passage.is_worn()) {
            self.set_aside();
        }
        match &mut self.course {
            Course::Ours => AtRecipient::Ours,
            Course::Refused(no) => AtRecipient::No(no.clone()),
            // It is asked about this one alone; all of them are offered once the message is whole.
            Course::Aside => self.open(to, false).await,
            Course::Through(open) => {
                let passage = &mut open.lease.passage;
                if open.taken >= passage.hop().recipients_max(usize::MAX) {
                    return AtRecipient::No(No::TooMany);
                }
                match passage.recipient(&rcpt_command(to, &passage.hop().extensions)).await {
                    Ok(answer) if passage.has_lost_patience(&answer) => {
                        self.set_aside();
                        self.open(to, false).await
                    }
                    Ok(answer) => self.recipient_answered(&answer),
                    Err(stopped) => {
                        self.through.stopped(&open.lease, &stopped);
                        self.ours(Why::Broken);
                        AtRecipient::Ours
                    }
                }
            }
        }
    }

    /// When its sender counts as slow; never, if nothing depends on that.
    pub fn slow_at(&self) -> Option<Instant> {
        match &self.course {
            Course::Through(open) => Some(open.slow_at),
            Course::Aside | Course::Refused(_) | Course::Ours => None,
        }
    }

    /// Its sender is slow: the connection is for others from now on.
    pub fn set_aside(&mut self) {
        self.let_go(Course::Aside);
    }

    /// The content is about to come. A reason if it need not.
    pub async fn data(&mut self) -> Option<No> {
        let Course::Through(open) = &mut self.course else { return None };
        let answer = match open.lease.passage.data().await {
            Ok(answer) => answer,
            Err(stopped) => {
                self.through.stopped(&open.lease, &stopped);
                self.ours(Why::Broken);
                return None;
            }
        };
        let as_client = open.lease.passage.speaks_as_client();
        match verdict::of(&answer, Step::Data, as_client) {
            Verdict::Taken => None,
            verdict => {
                self.content_refused(&answer, verdict);
                self.refusal()
            }
        }
    }

    /// A piece of the content, or our trace field before it. `goes_out`: at once, and not with what comes next.
    pub async fn content(&mut self, piece: &[u8], goes_out: bool) {
        let Course::Through(open) = &mut self.course else { return };
        let passage = &mut open.lease.passage;
        // By DATA content has any length.
        let sent = if passage.push(piece).is_ok() && goes_out { passage.send().await } else { Ok(()) };
        let Err(cause) = sent else { return };
        // It did not wait for the end. A no is its verdict; anything else is no answer to what it has not seen.
        match passage.early_answer().await {
            Some(answer) => {
                let verdict = verdict::of(&answer, Step::Content, passage.speaks_as_client());
                self.content_refused(&answer, verdict);
            }
            None => {
                self.through.broke(&open.lease, &cause);
                self.ours(Why::Broken);
            }
        }
    }

    /// All of the content has come, and our copy of it is whole.
    pub async fn end<S: Source>(&mut self, offer: Offer<'_, S>) -> AtEnd {
        match std::mem::replace(&mut self.course, Course::Ours) {
            Course::Ours => AtEnd::Ours(None),
            Course::Refused(no) => AtEnd::No(no),
            Course::Aside => self.offer(offer).await,
            // DATA cannot leave the line end away that was added here.
            Course::Through(open) if offer.line_end_added && open.lease.passage.hop().extensions.chunking => {
                drop(open);
                self.offer(offer).await
            }
            Course::Through(mut open) => {
                let ending = open.lease.passage.complete().await;
                self.ended(ending, open)
            }
        }
    }

    /// The message is over, in whatever state it is.
    pub fn give_up(mut self) {
        self.let_go(Course::Ours);
    }

    /// Opens a transaction for a recipient. `stays`: the rest of the message goes on in it.
    async fn open(&mut self, to: &Recipient, stays: bool) -> AtRecipient {
        // A connection that waited for mail may have been closed meanwhile; one that is new was not.
        for fresh in [false, true] {
            let mut open = match self.leased(fresh).await {
                Ok(open) => open,
                Err(at) => return at,
            };
            match self.enter(&mut open, to).await {
                Ok(Some(answer)) => {
                    self.course = Course::Through(open);
                    let at = self.recipient_answered(&answer);
                    if !stays && matches!(self.course, Course::Through(_)) {
                        self.set_aside();
                    }
                    return at;
                }
                Ok(None) => {
                    return match &self.course {
                        Course::Refused(no) => AtRecipient::No(no.clone()),
                        _ => AtRecipient::Ours,
                    };
                }
                Err(Stopped::Stale) => {}
                Err(stopped) => {
                    self.through.stopped(&open.lease, &stopped);
                    break;
                }
            }
        }
        self.ours(Why::Broken);
        AtRecipient::Ours
    }

    async fn leased(&mut self, fresh: bool) -> Result<Box<Through>, AtRecipient> {
        match self.through.lease(&self.client, fresh).await {
            Ok(lease) => {
                let (slow_at, waited_before) =
                    (Instant::now() + self.through.settings().slow_after.0, lease.passage.waited());
                Ok(Box::new(Through { lease, taken: 0, slow_at, waited_before }))
            }
            Err(NotLeased::Busy) => Err(self.refused(No::Busy)),
            Err(NotLeased::JudgesUs(words)) => {
                self.through.primary.judges_us(&words);
                Err(self.refused(No::JudgesUs))
            }
            Err(NotLeased::Fails(words)) => {
                tracing::debug!(id = %self.envelope.id, words = shown(words), "no connection to pass mail through");
                self.ours(Why::Unreachable);
                Err(AtRecipient::Ours)
            }
        }
    }

    /// Names the client, if that is wanted, then MAIL and RCPT. The answer to the latter; `None` if it does not come to that, and the course says
    /// why.
    async fn enter(&mut self, open: &mut Through, to: &Recipient) -> Result<Option<Answer>, Stopped> {
        let Lease { passage, wants_xclient, .. } = &mut open.lease;
        if *wants_xclient && !self.name(passage).await? {
            return Ok(None);
        }
        let extensions = &passage.hop().extensions;
        if self.envelope.needs_smtputf8() && !extensions.parameters.smtputf8 {
            self.course = Course::Refused(No::Lacking);
            return Ok(None);
        }
        let (mail, rcpt) = (mail_command(&self.envelope, self.bytes, extensions), rcpt_command(to, extensions));
        let Begun { mail, rcpt } = passage.begin(&mail, &rcpt).await?;
        self.through.metrics.verdict("mail", &mail);
        match verdict::of(&mail, Step::Mail, passage.speaks_as_client()) {
            Verdict::Taken => return Ok(rcpt),
            Verdict::OnMail => self.course = Course::Refused(No::Words(mail)),
            Verdict::InDoubt | Verdict::OnUs => self.sender_refused(open, mail).await?,
            Verdict::Fails => {
                self.through.troubled(&open.lease, &mail.words());
                self.ours(Why::Trouble);
            }
        }
        Ok(None)
    }

    /// Tells the primary whose mail it is. False if that ends it, and the course says how.
    async fn name(&mut self, passage: &mut crate::delivery::passage::Passage) -> Result<bool, Stopped> {
        if passage.speaks_as_client() {
            return Ok(true); // it was chosen for this client
        }
        let (host, primary) = (passage.hop().name.clone(), &self.through.primary);
        if passage.hop().extensions.xclient.is_empty() {
            primary.xclient_taken(&host, Some("it does not offer it to this relay"));
            return Ok(true);
        }
        match passage.name(&self.client).await? {
            Named::Done => primary.xclient_taken(&host, None),
            Named::NotTaken(words) => primary.xclient_taken(&host, Some(&words)),
            Named::Unwanted(answer) => {
                match verdict::of(&answer, Step::Mail, true) {
                    Verdict::Fails => self.ours(Why::Trouble),
                    _ => self.course = Course::Refused(No::Words(answer)),
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// MAIL was refused for good. Where the null sender is refused, too, that is no verdict on the sender.
    async fn sender_refused(&mut self, open: &mut Through, refusal: Answer) -> Result<(), Stopped> {
        let primary = &self.through.primary;
        let is_taken = match primary.takes_null_sender() {
            Some(is_taken) => is_taken,
            None => {
                let answer = open.lease.passage.null_sender().await?;
                if !answer.is_positive() && !answer.is_permanent() {
                    self.course = Course::Refused(No::Unclear);
                    return Ok(());
                }
                primary.null_sender_asked(answer.is_positive());
                answer.is_positive()
            }
        };
        self.course = Course::Refused(if is_taken {
            No::Words(refusal)
        } else {
            primary.sign(Sign::Mail, &primary.postmaster(), &refusal.words());
            primary.judges_us(&refusal.words());
            No::JudgesUs
        });
        Ok(())
    }

    fn recipient_answered(&mut self, answer: &Answer) -> AtRecipient {
        let Course::Through(open) = &mut self.course else { return AtRecipient::Ours };
        let primary = &self.through.primary;
        self.through.metrics.verdict("recipient", answer);
        match verdict::of(answer, Step::Recipient, open.lease.passage.speaks_as_client()) {
            Verdict::Taken => {
                open.taken += 1;
                AtRecipient::Taken
            }
            Verdict::OnMail | Verdict::InDoubt => AtRecipient::No(No::Words(answer.clone())),
            Verdict::OnUs => {
                primary.judges_us(&answer.words());
                AtRecipient::No(No::JudgesUs)
            }
            Verdict::Fails => {
                self.through.troubled(&open.lease, &answer.words());
                self.ours(Why::Trouble);
                AtRecipient::Ours
            }
        }
    }

    /// The content was refused, before it was whole or afterwards.
    fn content_refused(&mut self, answer: &Answer, verdict: Verdict) {
        self.through.metrics.verdict("content", answer);
        match verdict {
            Verdict::OnUs => {
                self.through.primary.judges_us(&answer.words());
                self.let_go(Course::Refused(No::JudgesUs));
            }
            Verdict::Fails | Verdict::Taken => {
                if let Course::Through(open) = &self.course {
                    self.through.troubled(&open.lease, &answer.words());
                }
                self.ours(Why::Trouble);
            }
            Verdict::OnMail | Verdict::InDoubt => self.let_go(Course::Refused(No::Words(answer.clone()))),
        }
    }

    fn ended(&mut self, ending: Ending, open: Box<Through>) -> AtEnd {
        match ending {
            Ending::Passed(proof) => {
                let next_hop = open.lease.passage.hop().name.clone();
                self.through.metrics.verdict_of("content", "2xx");
                self.through.primary.delivery_answered(&next_hop);
                self.waited += open.waited();
                self.through.metrics.pass_wait_seconds.observe(self.waited.as_secs_f64());
                open.lease.give_back();
                AtEnd::Passed { proof, next_hop }
            }
            Ending::Said(answer) => {
                let verdict = verdict::of(&answer, Step::Content, open.lease.passage.speaks_as_client());
                self.course = Course::Through(open);
                self.content_refused(&answer, verdict);
                self.refusal().map_or(AtEnd::Ours(None), AtEnd::No)
            }
            Ending::Broken(cause) => {
                self.through.broke(&open.lease, &cause);
                self.ours(Why::Broken);
                AtEnd::Ours(None)
            }
            Ending::Unknown(cause) => {
                self.through.broke(&open.lease, &cause);
                self.ours(Why::MaybeDelivered);
                AtEnd::Ours(Some(Maybe::ended(&open.lease, &cause)))
            }
            Ending::Late => {
                self.ours(Why::MaybeDelivered);
                AtEnd::Ours(Some(Maybe::late(open.lease)))
            }
        }
    }

    /// All of it in one go: its sender was slow, or it can only go by BDAT. A recipient that is refused by now refuses all of it, since its
    /// sender was told that it is taken.
    async fn offer<S: Source>(&mut self, mut offer: Offer<'_, S>) -> AtEnd {
        let Some((first, others)) = offer.recipients.split_first() else { return AtEnd::No(No::Changed) };
        self.bytes = Some(offer.content_bytes + offer.trace.len() as u64);
        let mut at = if self.through.primary.takes_mail() {
            self.open(first, true).await
        } else {
            self.ours(Why::Away);
            AtRecipient::Ours
        };
        for to in others {
            if at == AtRecipient::Taken {
                at = self.recipient(to).await;
            }
        }
        match at {
            AtRecipient::Taken => {}
            AtRecipient::Ours => return AtEnd::Ours(None),
            AtRecipient::No(no) => {
                self.let_go(Course::Ours);
                return AtEnd::No(if matches!(no, No::Words(_) | No::TooMany) { No::Changed } else { no });
            }
        }
        self.begin_offer(&offer).await;
        self.content(offer.trace, false).await;
        loop {
            match offer.content.next().await {
                Ok(Some(piece)) => self.content(&piece, true).await,
                Ok(None) => break,
                Err(cause) => {
                    tracing::error!(id = %self.envelope.id, %cause, "read what is coming in");
                    return AtEnd::Ours(None); // dropped before its end; the spool tells what it can keep
                }
            }
        }
        match std::mem::replace(&mut self.course, Course::Ours) {
            Course::Through(mut open) => {
                let ending = open.lease.passage.complete().await;
                self.ended(ending, open)
            }
            Course::Refused(no) => AtEnd::No(no),
            Course::Aside | Course::Ours => AtEnd::Ours(None),
        }
    }

    async fn begin_offer<S>(&mut self, offer: &Offer<'_, S>) {
        let bytes = offer.content_bytes + offer.trace.len() as u64;
        match &mut self.course {
            Course::Through(open) if offer.line_end_added && open.lease.passage.hop().extensions.chunking => {
                open.lease.passage.bdat(bytes);
            }
            _ => drop(self.data().await), // a refusal stands in the course
        }
    }

    fn refusal(&self) -> Option<No> {
        match &self.course {
            Course::Refused(no) => Some(no.clone()),
            Course::Through(_) | Course::Aside | Course::Ours => None,
        }
    }

    fn refused(&mut self, no: No) -> AtRecipient {
        self.let_go(Course::Refused(no.clone()));
        AtRecipient::No(no)
    }

    /// From now on it is ours.
    fn ours(&mut self, why: Why) {
        self.through.metrics.pass_kept.with_label_values(&[why.label()]).inc();
        self.let_go(Course::Ours);
    }

    /// Another course from now on; the connection is for others, or closed if content is on it.
    fn let_go(&mut self, course: Course) {
        if let Course::Through(open) = std::mem::replace(&mut self.course, course) {
            self.waited += open.waited();
            open.lease.give_back_after_reset();
        }
    }
}

impl Through {
    fn waited(&self) -> Duration {
        self.lease.passage.waited() - self.waited_before
    }
}

impl Metrics {
    fn verdict(&self, step: &str, answer: &Answer) {
        let class = match answer.code / 100 {
            2 => "2xx",
            4 => "4xx",
            5 => "5xx",
            _ => "odd",
        };
        self.verdict_of(step, class);
    }

    fn verdict_of(&self, step: &str, class: &str) {
        self.pass_verdicts.with_label_values(&[step, class]).inc();
    }
}
