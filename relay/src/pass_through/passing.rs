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

/// So many times an answer's limit all that it takes to ask about one recipient may last, from the connection on.
const ASKING_STALLS_MAX: u32 = 2;
/// When the process ends, the answer to a final dot is waited for so long, within the time that a stop takes (run.rs).
const STOPPING_MAX: Duration = Duration::from_secs(10);

/// A message from its first recipient on.
pub struct Passing {
    through: Arc<PassThrough>,
    /// Without recipients.
    envelope: Envelope,
    /// What its sender said of its length, with our trace field.
    bytes: Option<u64>,
    client: Client,
    course: Course,
    /// Recipients that the primary has taken, at one time or another.
    taken: usize,
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
    /// We, once it is whole, and why.
    Ours(Why),
    /// It is over.
    Over,
}

/// A message that the primary is being told of.
struct Through {
    lease: Lease,
    /// Recipients that it has taken here.
    taken: usize,
    slow_at: Instant,
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
    /// Every one.
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
    /// It is ours to keep, and why; in doubt what the primary may have.
    Ours(Why, Option<Box<Maybe>>),
    /// Nobody has it.
    No(No),
    /// Nobody has it, since our own copy cannot be read.
    Unreadable,
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
        let (course, waited) = (Course::Aside, Duration::ZERO);
        let mut passing = Self { through, envelope, bytes, client, course, taken: 0, waited };
        let at = passing.recipient(first).await;
        (passing, at)
    }

    /// What the message is called here.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// One more recipient.
    pub async fn recipient(&mut self, to: &Recipient) -> AtRecipient {
        let begun = Instant::now();
        // A primary that is slow at each of its steps must not use up the sender's patience.
        let asked = tokio::time::timeout(self.through.settings().stall.0 * ASKING_STALLS_MAX, self.ask(to)).await;
        self.waited += begun.elapsed();
        asked.unwrap_or_else(|_| {
            self.ours(Why::Broken);
            AtRecipient::Ours
        })
    }

    async fn ask(&mut self, to: &Recipient) -> AtRecipient {
        if matches!(&self.course, Course::Through(open) if open.lease.passage.is_worn()) {
            self.set_aside();
        }
        match &mut self.course {
            Course::Ours(_) => AtRecipient::Ours,
            Course::Refused(no) => AtRecipient::No(no.clone()),
            // The first one begins the message. A later one is asked about alone: all of them are offered once the message is whole.
            Course::Aside | Course::Over => {
                let stays = self.taken == 0;
                self.open(to, stays).await
            }
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
                    Ok(answer) => self.recipient_answered(&answer, to),
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
            Course::Aside | Course::Refused(_) | Course::Ours(_) | Course::Over => None,
        }
    }

    /// Whether the next step waits for the primary.
    pub fn asks(&self) -> bool {
        matches!(self.course, Course::Through(_) | Course::Aside)
    }

    /// Its sender is slow: the connection is for others from now on.
    pub fn set_aside(&mut self) {
        self.let_go(Course::Aside);
    }

    /// The content is about to come. A reason if it need not.
    pub async fn data(&mut self) -> Option<No> {
        let Course::Through(open) = &mut self.course else { return None };
        let begun = Instant::now();
        let answer = open.lease.passage.data().await;
        self.waited += begun.elapsed();
        let answer = match answer {
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
                self.content_refused("data", &answer, verdict);
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
                self.content_refused("content", &answer, verdict);
            }
            None => {
                self.through.broke(&open.lease, &cause);
                self.ours(Why::Broken);
            }
        }
    }

    /// All of the content has come, and our copy of it is whole.
    pub async fn end<S: Source>(&mut self, offer: Offer<'_, S>) -> AtEnd {
        let begun = Instant::now();
        let by_bdat = |open: &Through| offer.line_end_added && open.lease.passage.hop().extensions.chunking;
        if matches!(&self.course, Course::Through(open) if by_bdat(open)) {
            self.set_aside(); // DATA cannot leave the line end away that was added here
        }
        if matches!(self.course, Course::Aside) {
            // Its sender waits for this and for the answer to the final dot, which have as long each.
            let limit = self.through.settings().final_dot.0;
            match tokio::time::timeout(limit, self.offer(offer)).await {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(_) => self.ours(Why::Broken),
            }
        }
        match std::mem::replace(&mut self.course, Course::Over) {
            Course::Ours(why) => AtEnd::Ours(why, None),
            Course::Refused(no) => AtEnd::No(no),
            Course::Aside | Course::Over => AtEnd::Ours(Why::Broken, None),
            Course::Through(mut open) => {
                let ending = complete(&self.through, &mut open).await;
                self.waited += begun.elapsed();
                self.ended(ending, open)
            }
        }
    }

    /// The message is over, in whatever state it is.
    pub fn give_up(mut self) {
        self.let_go(Course::Over);
    }

    /// Opens a transaction for a recipient. `stays`: the rest of the message goes on in it.
    async fn open(&mut self, to: &Recipient, stays: bool) -> AtRecipient {
        if !self.through.primary.takes_mail() {
            self.ours(Why::Away);
            return AtRecipient::Ours;
        }
        // A connection that waited for mail may have been closed meanwhile; one that is new was not.
        for fresh in [false, true] {
            let mut open = match self.leased(fresh).await {
                Ok(open) => open,
                Err(at) => return at,
            };
            match self.enter(&mut open, to).await {
                Ok(Some(answer)) => {
                    if self.taken >= open.lease.passage.hop().recipients_max(usize::MAX) {
                        open.lease.give_back_after_reset();
                        return AtRecipient::No(No::TooMany);
                    }
                    self.course = Course::Through(open);
                    let at = self.recipient_answered(&answer, to);
                    if !stays && matches!(self.course, Course::Through(_)) {
                        self.set_aside();
                    }
                    return at;
                }
                Ok(None) => {
                    open.lease.give_back_after_reset();
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
                let slow_at = Instant::now() + self.through.settings().slow_after.0;
                Ok(Box::new(Through { lease, taken: 0, slow_at }))
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
                match verdict::of(&answer, Step::Mail, false) {
                    Verdict::Taken => {}
                    Verdict::InDoubt | Verdict::OnUs => {
                        primary.sign(Sign::Mail, &primary.postmaster(), &refusal.words());
                    }
                    Verdict::OnMail => {
                        self.course = Course::Refused(No::Unclear);
                        return Ok(());
                    }
                    Verdict::Fails => {
                        self.through.troubled(&open.lease, &answer.words());
                        self.ours(Why::Trouble);
                        return Ok(());
                    }
                }
                primary.null_sender_asked(answer.is_positive());
                answer.is_positive()
            }
        };
        self.course = Course::Refused(if is_taken {
            No::Words(refusal)
        } else {
            primary.judges_us(&refusal.words());
            No::JudgesUs
        });
        Ok(())
    }

    fn recipient_answered(&mut self, answer: &Answer, to: &Recipient) -> AtRecipient {
        let Course::Through(open) = &mut self.course else { return AtRecipient::Ours };
        self.through.metrics.verdict("recipient", answer);
        let no = match verdict::of(answer, Step::Recipient, open.lease.passage.speaks_as_client()) {
            Verdict::Taken => {
                open.taken += 1;
                self.taken += 1;
                return AtRecipient::Taken;
            }
            Verdict::Fails => {
                self.through.troubled(&open.lease, &answer.words());
                self.ours(Why::Trouble);
                return AtRecipient::Ours;
            }
            Verdict::OnMail | Verdict::InDoubt => No::Words(answer.clone()),
            Verdict::OnUs => {
                self.through.primary.judges_us(&answer.words());
                No::JudgesUs
            }
        };
        let (id, recipient, reply) = (self.envelope.id, shown(to.address.as_str()), shown(answer.words()));
        tracing::info!(%id, client = %self.envelope.client, recipient, reply, "the primary refuses a recipient");
        if open.taken == 0 {
            self.set_aside(); // who has named nobody yet need not hold a connection
        }
        AtRecipient::No(no)
    }

    /// The content was refused, before it was whole or afterwards.
    fn content_refused(&mut self, step: &str, answer: &Answer, verdict: Verdict) {
        self.through.metrics.verdict(step, answer);
        let (id, reply) = (self.envelope.id, shown(answer.words()));
        let no = match verdict {
            Verdict::OnUs => {
                self.through.primary.judges_us(&answer.words());
                No::JudgesUs
            }
            Verdict::OnMail | Verdict::InDoubt => No::Words(answer.clone()),
            Verdict::Fails | Verdict::Taken => {
                if let Course::Through(open) = &self.course {
                    self.through.troubled(&open.lease, &answer.words());
                }
                return self.ours(Why::Trouble);
            }
        };
        tracing::info!(%id, client = %self.envelope.client, reply, "the primary refuses a message");
        self.let_go(Course::Refused(no));
    }

    fn ended(&mut self, ending: Ending, open: Box<Through>) -> AtEnd {
        match ending {
            Ending::Passed(proof) => {
                let next_hop = open.lease.passage.hop().name.clone();
                self.through.metrics.verdict_of("content", "2xx");
                self.through.primary.delivery_answered(&next_hop);
                self.through.metrics.pass_wait_seconds.observe(self.waited.as_secs_f64());
                open.lease.give_back();
                AtEnd::Passed { proof, next_hop }
            }
            Ending::Said(answer) => {
                let verdict = verdict::of(&answer, Step::Content, open.lease.passage.speaks_as_client());
                self.course = Course::Through(open);
                self.content_refused("content", &answer, verdict);
                self.refusal().map_or(AtEnd::Ours(Why::Trouble, None), AtEnd::No)
            }
            Ending::Broken(cause) => {
                self.through.broke(&open.lease, &cause);
                AtEnd::Ours(Why::Broken, None)
            }
            Ending::Unknown(cause) => {
                self.through.broke(&open.lease, &cause);
                AtEnd::Ours(Why::MaybeDelivered, Some(Box::new(Maybe::ended(&open.lease, &cause))))
            }
            Ending::Late => {
                self.through.troubled(&open.lease, "no answer to the final dot");
                AtEnd::Ours(Why::MaybeDelivered, Some(Box::new(Maybe::late(open.lease))))
            }
        }
    }

    /// All of it in one go, up to its end: its sender was slow, or it can only go by BDAT. A recipient that is refused by now refuses all of it,
    /// since its sender was told that it is taken. `None`: the course says how it goes on.
    async fn offer<S: Source>(&mut self, mut offer: Offer<'_, S>) -> Option<AtEnd> {
        let (first, others) = offer.recipients.split_first()?;
        self.bytes = Some(offer.content_bytes + offer.trace.len() as u64);
        self.taken = 0;
        let mut at = self.open(first, true).await;
        for to in others {
            if at == AtRecipient::Taken {
                at = self.ask(to).await;
            }
        }
        match at {
            AtRecipient::Taken => {}
            AtRecipient::Ours => return None,
            // Each of them is taken, only not all at once: the drain has the patience for that.
            AtRecipient::No(No::TooMany) => return Some(self.kept_for_number()),
            AtRecipient::No(No::Words(answer)) if answer.is_too_many() => return Some(self.kept_for_number()),
            AtRecipient::No(no) => {
                self.let_go(Course::Over);
                return Some(AtEnd::No(if matches!(no, No::Words(_)) { No::Changed } else { no }));
            }
        }
        self.begin_offer(&offer).await;
        self.content(offer.trace, false).await;
        loop {
            match offer.content.next().await {
                Ok(Some(piece)) => self.content(&piece, true).await,
                Ok(None) => return None,
                Err(cause) => {
                    tracing::error!(id = %self.envelope.id, %cause, "read what is coming in");
                    self.let_go(Course::Over); // before its end
                    return Some(AtEnd::Unreadable);
                }
            }
        }
    }

    fn kept_for_number(&mut self) -> AtEnd {
        self.let_go(Course::Over);
        AtEnd::Ours(Why::Trouble, None)
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
            Course::Through(_) | Course::Aside | Course::Ours(_) | Course::Over => None,
        }
    }

    fn refused(&mut self, no: No) -> AtRecipient {
        self.let_go(Course::Refused(no.clone()));
        AtRecipient::No(no)
    }

    /// From now on it is ours.
    fn ours(&mut self, why: Why) {
        self.let_go(Course::Ours(why));
    }

    /// Another course from now on; the connection is for others, or closed if content is on it.
    fn let_go(&mut self, course: Course) {
        if let Course::Through(open) = std::mem::replace(&mut self.course, course) {
            open.lease.give_back_after_reset();
        }
    }
}

/// The end of the content, and what becomes of it. Where the process ends meanwhile, the message is kept rather than cut off with its sender.
async fn complete(through: &PassThrough, open: &mut Through) -> Ending {
    let stopping = async {
        through.stopping.cancelled().await;
        tokio::time::sleep(STOPPING_MAX).await;
    };
    tokio::select! {
        biased;
        ending = open.lease.passage.complete() => ending,
        () = stopping => Ending::Late,
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
