//! One message's round: transactions until each waiting recipient was tried once, each outcome durable before the next.

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::{
        MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{sync::watch, time::sleep};

use super::{
    Drain,
    breaker::Sign,
    courier::{self, Attempted, Connection, Job, Outcome, Stage},
    hop::Hop,
    inquiry::{self, Inquiry},
};
use crate::{
    chance,
    foreign::shown,
    mail::id::MessageId,
    primary::monitor::Finding,
    queue::{Doing, Place, pace::Answer, scheduler::Deferral},
    spool::{
        ReadError, Stored,
        field::{Change, Fate, HeldReason},
        record::Kind,
    },
};

/// An attempt that takes longer is not what decides how many connections the primary can bear.
const STALL: Duration = Duration::from_secs(10);
/// Until an outcome that could not be recorded is tried again. Until then nothing goes out on its connection.
const SETTLE_RETRY: Duration = Duration::from_secs(1);
/// For each answer to the breaker's question.
pub(super) const INQUIRY_TIMEOUT: Duration = Duration::from_secs(60);

/// What became of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It can take the next message.
    Usable,
    /// It cannot.
    Unusable,
    /// The primary refused, and nothing is made of that: the connection is not used again.
    Void,
}

/// What a 5xx means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refusal {
    /// A verdict on the mail.
    Final,
    /// A verdict on the mail, of a primary that may not be whole yet: it is asked for again after this.
    NotYet(Duration),
    /// A sign that the primary is not whole, or it cannot be told: nothing is made of it.
    Void,
}

/// How far a round has come.
struct Round {
    id: MessageId,
    /// Places of recipients that were tried.
    tried: BTreeSet<u32>,
    /// What is not recorded yet: it is before the next transaction begins, or at the end.
    ended: Vec<(u32, Fate, String)>,
    held_as: Option<HeldReason>,
    /// Deferred ones are recorded at the end, all together: a round is one deferral of the message, whatever it takes.
    deferred: Vec<(u32, Fate, String)>,
    /// Attempts before this one that deferred somebody.
    deferrals: u32,
    /// Somebody was delivered.
    delivered: bool,
    again: Option<Deferral>,
}

impl Round {
    /// Places of recipients for the next transaction.
    fn next(&self, waiting: &[u32], recipients_max: usize) -> Vec<u32> {
        waiting.iter().copied().filter(|place| !self.tried.contains(place)).take(recipients_max).collect()
    }

    /// Of several reasons to wait, the one that ends first counts.
    fn waits(&mut self, deferral: Deferral) {
        self.again = Some(match (self.again, deferral) {
            (None | Some(Deferral::KeepsPlace | Deferral::StepsAside), deferral) => deferral,
            (Some(earlier), Deferral::KeepsPlace | Deferral::StepsAside) => earlier,
            (Some(Deferral::After(earlier)), Deferral::After(later)) => Deferral::After(earlier.min(later)),
            (Some(_), _) => Deferral::Reply,
        });
    }
}

impl Drain {
    /// Tries each waiting recipient of a message once.
    pub(super) async fn round(
        &self,
        hop: &mut Hop,
        id: MessageId,
        place: &mut Place,
        returns: &watch::Receiver<u64>,
    ) -> Ended {
        let mut round = Round {
            id,
            tried: BTreeSet::new(),
            ended: Vec::new(),
            held_as: None,
            deferred: Vec::new(),
            deferrals: 0,
            delivered: false,
            again: None,
        };
        let Some(mut stored) = self.read(id).await else { return Ended::Usable };
        round.deferrals = stored.deferrals;
        let ended = loop {
            let waiting = round.next(
                &stored.waiting,
                hop.recipients_max(self.running.delivery().max_recipients_per_transaction as usize),
            );
            let attempted = self.attempt(hop, &mut stored, &waiting, place).await;
            let Some(attempted) = attempted.filter(|attempted| attempted.connection != Connection::Stale) else {
                // Not tried. Whoever was, need not be again: the round goes on.
                if !round.tried.is_empty() && self.renew(hop).await && self.reread(&mut stored).await {
                    continue;
                }
                round.waits(Deferral::After(Duration::ZERO));
                break Ended::Unusable;
            };
            self.pace(&attempted);
            let refusal = self.refusal(hop, &stored, &attempted).await;
            self.take_in(&mut round, &stored, &attempted, refusal);
            if !self.goes_on(hop, attempted, returns) {
                break Ended::Unusable;
            }
            if refusal == Refusal::Void {
                round.waits(Deferral::KeepsPlace); // what was not tried yet waits with the rest
                break Ended::Void;
            }
            if round.next(&stored.waiting, 1).is_empty() {
                break Ended::Usable;
            }
            // Before the next transaction begins.
            self.record_ends(&hop.name, &mut round).await;
            let may_go_on = hop.takes_another_mail() || self.renew(hop).await;
            if !may_go_on || !self.reread(&mut stored).await {
                round.waits(Deferral::After(Duration::ZERO));
                break Ended::Unusable;
            }
        };
        self.settle(&hop.name, round).await;
        ended
    }

    /// A new connection in place of one that takes no more, so that the rest of a message's recipients do not wait.
    async fn renew(&self, hop: &mut Hop) -> bool {
        let Ok(fresh) = self.open().await else { return false };
        tokio::spawn(std::mem::replace(hop, fresh).quit(super::QUIT_TIMEOUT));
        true
    }

    /// The content once more, for the next transaction. False if it cannot be read now; the next round tells why.
    async fn reread(&self, stored: &mut Stored) -> bool {
        let again = self.spool.read_any(stored.envelope.id).await;
        again.ok().flatten().map(|again| stored.content = again.content).is_some()
    }

    /// Reads a message. `None`: nothing is to be sent, and the queue knows.
    async fn read(&self, id: MessageId) -> Option<Stored> {
        match self.spool.read(id).await {
            Ok(Some(stored)) => return Some(stored),
            Ok(None) => self.queue.settled(id, false, Instant::now()),
            Err(ReadError::Damaged) => {
                tracing::error!(%id, "stored bytes are damaged; the message is held");
                self.metrics.quarantined.inc();
                let words = "stored bytes are damaged";
                let fates = self.spool.waiting(id).into_iter().map(|place| (place, Fate::Held, words.into()));
                self.record(&change(id, "", fates.collect(), Some(HeldReason::Damaged))).await;
                self.queue.settled(id, false, Instant::now());
            }
            Err(ReadError::Io(cause)) => {
                tracing::error!(%id, %cause, "read message");
                self.queue.deferred(id, Deferral::Reply, 1, chance::spread(), Instant::now());
            }
        }
        None
    }

    /// Tries one transaction. Where the other side is silent for long, the connection no longer counts for the pace, and the primary is looked
    /// at. `None`: it was away meanwhile, so that the connection may never speak again, and nothing was delivered on it.
    async fn attempt(
        &self,
        hop: &mut Hop,
        stored: &mut Stored,
        waiting: &[u32],
        place: &mut Place,
    ) -> Option<Attempted> {
        let Stored { envelope, trace, content_bytes, content, line_end_added, .. } = stored;
        let is_committed = AtomicBool::new(false);
        let (content_bytes, line_end_added) = (*content_bytes, *line_end_added);
        let job = Job { envelope, trace, waiting, content_bytes, line_end_added, content, is_committed: &is_committed };
        let mut returns = self.primary.returns();
        let mut attempting = pin!(courier::attempt(hop, job));
        let mut stall = pin!(sleep(STALL));
        loop {
            tokio::select! {
                biased;
                attempted = &mut attempting => {
                    place.turn_to(Doing::Working);
                    return Some(attempted);
                }
                Ok(()) = returns.changed() => if !is_committed.load(Ordering::Relaxed) {
                    return None;
                },
                () = &mut stall => {
                    place.turn_to(Doing::Stalled);
                    self.primary.look_if_old();
                    stall.as_mut().reset((Instant::now() + STALL).into());
                }
            }
        }
    }

    /// Tells the pace how the primary bears this.
    fn pace(&self, attempted: &Attempted) {
        let has = |wanted: fn(&Outcome) -> bool| attempted.outcomes.iter().any(|(_, outcome)| wanted(outcome));
        let answer = if attempted.timed_out {
            Answer::TimedOut
        } else if has(|outcome| matches!(outcome, Outcome::Deferred(_))) && attempted.trouble.is_none() {
            Answer::Deferred
        } else if has(|outcome| matches!(outcome, Outcome::Delivered(_))) {
            Answer::Taken
        } else {
            return; // a refusal tells nothing of how much the primary can bear, and a break is told below
        };
        self.queue.answered(attempted.took, answer, Instant::now());
    }

    /// What the refusals among the outcomes mean. One connection at a time asks; the others wait for what it hears.
    async fn refusal(&self, hop: &mut Hop, stored: &Stored, attempted: &Attempted) -> Refusal {
        let refused = attempted.outcomes.iter().find_map(|(place, outcome)| match outcome {
            Outcome::Refused { stage, .. } => Some((*place, *stage)),
            _ => None,
        });
        let Some((place, stage)) = refused else { return Refusal::Final };
        if !self.primary.is_named(&hop.name) {
            return Refusal::Void; // it is the primary no longer: another one decides
        }
        let _turn = self.lately.asking.lock().await;
        if self.primary.is_broken() {
            return Refusal::Void;
        }
        let domain = stored.envelope.recipients.get(place as usize).map_or("", |to| to.address.domain());
        if self.primary.refused(domain) {
            let is_usable = attempted.connection == Connection::Usable && hop.takes_another_mail();
            if !self.ask(is_usable.then_some(hop), domain, stage == Stage::Mail).await {
                return Refusal::Void;
            }
        }
        let (is_after_return, after) = self.primary.second_look();
        let mut looks = lock(&self.lately.second_looks);
        let look = looks.refused(stored.envelope.id, is_after_return, after, Instant::now());
        look.map_or(Refusal::Final, Refusal::NotYet)
    }

    /// Asks what no primary should refuse; on a connection of its own, if this one is of no more use. False if it shows a sign, or does not say.
    async fn ask(&self, hop: Option<&mut Hop>, domain: &str, asks_mail: bool) -> bool {
        let postmaster = &format!("postmaster@{domain}");
        let mut inquiry = Inquiry::Unclear("no connection to ask on".into());
        if let Some(hop) = hop {
            inquiry = inquiry::inquire(hop, postmaster, asks_mail, INQUIRY_TIMEOUT).await;
        }
        if matches!(inquiry, Inquiry::Unclear(_))
            && let Ok(mut fresh) = self.open().await
        {
            inquiry = inquiry::inquire(&mut fresh, postmaster, asks_mail, INQUIRY_TIMEOUT).await;
            tokio::spawn(fresh.quit(super::QUIT_TIMEOUT));
        }
        match inquiry {
            Inquiry::Well => {
                self.primary.answered_well(domain);
                true
            }
            Inquiry::RefusesMail(words) => {
                self.primary.sign(Sign::Mail, postmaster, &words);
                !self.primary.is_broken() // a person may have overruled it
            }
            Inquiry::RefusesPostmaster(words) => {
                self.primary.sign(Sign::Postmaster, postmaster, &words);
                !self.primary.is_broken()
            }
            Inquiry::Unclear(words) => {
                tracing::warn!(words = shown(words), "the primary refuses mail, and does not say whether it is well");
                false
            }
        }
    }

    /// What the outcomes mean for the recipients, and for when the message goes again.
    fn take_in(&self, round: &mut Round, stored: &Stored, attempted: &Attempted, refusal: Refusal) {
        let is_troubled = attempted.trouble.is_some() || matches!(attempted.connection, Connection::Broken(_));
        // Nothing is known against a message with which the primary failed once; one with which it fails again and again is the cause.
        let troubled = match round.deferrals {
            0 => Deferral::KeepsPlace,
            1 => Deferral::StepsAside,
            _ => Deferral::Reply,
        };
        for (place, outcome) in &attempted.outcomes {
            if *outcome != Outcome::Untried {
                round.tried.insert(*place);
            }
            let (fate, words) = match outcome {
                Outcome::Untried => continue,
                Outcome::Delivered(words) => (Fate::Delivered, words.clone()),
                Outcome::Deferred(words) | Outcome::MaybeDelivered(words) => {
                    round.waits(if is_troubled { troubled } else { Deferral::Reply });
                    (Fate::Deferred, words.clone())
                }
                Outcome::Refused { words, .. } => match refusal {
                    Refusal::Final => {
                        round.held_as = Some(HeldReason::Undeliverable);
                        (Fate::Held, words.clone())
                    }
                    Refusal::NotYet(after) => {
                        round.waits(Deferral::After(after));
                        (Fate::Deferred, words.clone())
                    }
                    Refusal::Void => {
                        round.waits(Deferral::KeepsPlace);
                        (Fate::Deferred, words.clone())
                    }
                },
                Outcome::Lacking(words) => {
                    round.held_as = Some(HeldReason::Capability);
                    (Fate::Held, format!("capability: {words}"))
                }
                Outcome::Unreadable => {
                    self.metrics.quarantined.inc();
                    round.held_as = Some(HeldReason::Damaged);
                    (Fate::Held, "stored bytes are damaged".into())
                }
            };
            if fate == Fate::Deferred { &mut round.deferred } else { &mut round.ended }.push((*place, fate, words));
        }
        let delivered = attempted.outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Delivered(_)));
        for to in delivered.filter_map(|(place, _)| stored.envelope.recipients.get(*place as usize)) {
            round.delivered = true;
            self.primary.took(to.address.domain());
        }
    }

    /// Makes durable who has an end by now.
    async fn record_ends(&self, next_hop: &str, round: &mut Round) {
        if !round.ended.is_empty() {
            let ended = std::mem::take(&mut round.ended);
            self.record(&change(round.id, next_hop, ended, round.held_as.take())).await;
        }
    }

    /// Tells what the transaction showed of the primary. False if the connection is of no more use.
    fn goes_on(&self, hop: &Hop, attempted: Attempted, returns: &watch::Receiver<u64>) -> bool {
        let reason = |words: &str| format!("delivery to {}: {words}", hop.name);
        let finding = match (&attempted.connection, &attempted.trouble) {
            (Connection::Broken(words), _) => Finding::Broken { reason: reason(words) },
            (_, Some(words)) => Finding::Troubled { reason: reason(words) },
            (Connection::Usable, None) => {
                self.primary.delivery_answered(&hop.name);
                return true;
            }
            (Connection::Stale | Connection::GivenUp, None) => return false,
        };
        // How a connection ends that is from before an outage, or to another host, tells nothing of the primary as it is now.
        if !self.is_old(&hop.name, returns) {
            if !attempted.timed_out {
                self.queue.broke(Instant::now()); // what took too long has halved the pace already
            }
            self.primary.delivery_found(finding);
        }
        attempted.connection == Connection::Usable && self.primary.takes_mail()
    }

    /// The round is over: what is not yet durable becomes so, in one record, and the queue learns when the message goes again.
    async fn settle(&self, next_hop: &str, round: Round) {
        let Round { id, tried: _, mut ended, held_as, mut deferred, deferrals, delivered, again } = round;
        if !deferred.is_empty() {
            self.metrics.deferred.inc();
        }
        ended.append(&mut deferred);
        if !ended.is_empty() {
            ended.sort_by_key(|(place, ..)| *place);
            self.record(&change(id, next_hop, ended, held_as)).await;
        }
        let now = Instant::now();
        match again {
            Some(deferral) => self.queue.deferred(id, deferral, deferrals + 1, chance::spread(), now),
            None => {
                lock(&self.lately.second_looks).settled(id);
                self.queue.settled(id, delivered, now);
            }
        }
    }

    /// Writes an attempt to the spool and the log. Comes back only when it is durable: until then this connection sends nothing more, so
    /// a crash repeats one message a connection at most.
    async fn record(&self, attempt: &Change) {
        let id = attempt.id;
        let closed = loop {
            match self.spool.change(attempt.clone()).await {
                Ok(closed) => break closed,
                Err(reason) => {
                    tracing::error!(%id, ?reason, "record outcome; this connection waits until it can be");
                    tokio::time::sleep(SETTLE_RETRY).await;
                }
            }
        };
        let count = |wanted: Fate| attempt.fates.iter().filter(|(_, fate, _)| *fate == wanted).count();
        let (delivered, deferred, held) = (count(Fate::Delivered), count(Fate::Deferred), count(Fate::Held));
        let reply = shown(attempt.fates.first().map_or("", |(_, _, words)| words));
        tracing::info!(%id, next_hop = attempt.by, delivered, deferred, held, reply, "attempt");
        self.metrics.delivered.inc_by(u64::from(closed));
    }
}

fn change(id: MessageId, by: &str, fates: Vec<(u32, Fate, String)>, held_as: Option<HeldReason>) -> Change {
    Change { kind: Kind::Attempt, id, at: Timestamp::now(), by: by.to_owned(), fates, held_as }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
