//! How far a relay is on its way out. Pure. In doubt it is not empty.

use std::fmt;

use backupmx_relay_api::status::Status;

use super::{Sighting, World, claim_of};
use crate::{observe::Report, status::text};

/// How far one relay is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Its claim bears the mark, and nothing speaks against it.
    Emptied,
    /// Nothing was ever kept there.
    Vacant,
    /// By its newest answer it is cordoned and empty.
    Empty {
        /// That answer, or the first one that said so.
        sighting: Sighting,
        /// Whether an earlier one said the same.
        again: bool,
        /// The claim that is to bear the mark.
        claim: Option<String>,
        /// Why that claim is not to be deleted, though no mail waits on it.
        keep: Option<String>,
    },
    /// It may not go.
    Waits {
        /// Why.
        obstacle: Obstacle,
        /// Whether its claim bears a mark that is not true.
        marked: bool,
    },
}

impl Standing {
    /// Whether its pod may be removed: nothing is lost, and whoever comes after us can tell.
    pub fn may_go(&self) -> bool {
        match self {
            Self::Emptied | Self::Vacant => true,
            Self::Empty { again, claim, .. } => *again && claim.is_none(),
            Self::Waits { .. } => false,
        }
    }
}

/// Why a relay may not go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// It has not said yet that it takes no more mail.
    Uncordoned,
    /// Senders are still speaking with it.
    Sessions(u64),
    /// Mail waits.
    Mail {
        /// Messages.
        messages: u64,
        /// Among them those that wait for a person.
        held: u64,
    },
    /// Its account does not add up, so that it may keep more than it says.
    Account(i64),
    /// It does not answer.
    Silent(String),
    /// A claim on which there may be mail, and no pod that could tell.
    NoPod(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uncordoned => f.write_str("has not confirmed yet that it takes no more mail"),
            Self::Sessions(sessions) => write!(f, "has {sessions} open sessions"),
            Self::Mail { messages, held: 0 } => write!(f, "keeps {}", text::messages(*messages)),
            Self::Mail { messages, held } => {
                let messages = text::messages(*messages);
                write!(f, "keeps {messages}, {held} of them held until a person releases or deletes them")
            }
            Self::Account(difference) => write!(f, "is off by {difference} recipients in its account (a defect)"),
            Self::Silent(why) => write!(f, "does not answer, so it may keep mail: {why}"),
            Self::NoPod(claim) => write!(f, "has no pod, so nobody knows what is on its volume ({claim})"),
        }
    }
}

/// Where the relay in this pod stands.
pub(super) fn of(world: &World, pod: &str, seen: &[Sighting]) -> Standing {
    let claim = claim_of(world, pod);
    let marked = claim.is_some_and(|claim| claim.emptied_at.is_some());
    let found = world.pods.iter().find(|found| found.name == pod);
    let report = world.reports.iter().find(|report| report.pod == pod);
    let waits = |obstacle| Standing::Waits { obstacle, marked };

    let Some(found) = found else {
        return match claim {
            Some(claim) if claim.bound && !marked => waits(Obstacle::NoPod(claim.name.clone())),
            Some(_) if marked => Standing::Emptied,
            Some(_) | None => Standing::Vacant,
        };
    };
    let answer = report.and_then(|report| report.answer.as_deref());
    let (Some(report), Some(answer)) = (report, answer) else {
        // Never heard. The mark was made by one who had heard it; without a volume it cannot have taken anything.
        let is_cordoned = world.cordoned.iter().any(|cordoned| cordoned == pod);
        return match claim {
            Some(_) if marked => Standing::Emptied,
            Some(claim) if !claim.bound && is_cordoned => Standing::Vacant,
            Some(_) | None => waits(Obstacle::Silent(silence(report))),
        };
    };
    if marked {
        // The answer is newer than the mark. Another digest is no contradiction: a cordoned relay stays so until a document says otherwise.
        let contradiction = waiting(answer).or((!answer.cordoned).then_some(Obstacle::Uncordoned));
        return contradiction.map_or(Standing::Emptied, waits);
    }
    // An old answer cannot show that it is empty, but that it is not.
    if let Some(obstacle) = obstacle(world, answer) {
        return waits(obstacle);
    }
    match &report.silence {
        Some(why) => waits(Obstacle::Silent(why.clone())),
        None => empty(report, answer, &found.uid, claim.map(|claim| claim.name.clone()), seen),
    }
}

fn silence(report: Option<&Report>) -> String {
    report.and_then(|report| report.silence.clone()).unwrap_or_else(|| "it has not been heard yet".into())
}

/// What an answer says against letting the relay go.
fn obstacle(world: &World, answer: &Status) -> Option<Obstacle> {
    let is_cordoned = answer.cordoned && answer.config.digest.as_deref() == Some(world.config_digest);
    waiting(answer).or_else(|| match answer.account.difference() {
        0 if !is_cordoned => Some(Obstacle::Uncordoned),
        0 => (answer.sessions > 0).then_some(Obstacle::Sessions(answer.sessions)),
        difference => Some(Obstacle::Account(difference)),
    })
}

/// Mail that waits. Messages and the account are counted apart: where they disagree, more is the safe side.
fn waiting(answer: &Status) -> Option<Obstacle> {
    let (queue, queued) = (&answer.queue, answer.account.queued);
    (queue.messages > 0 || queue.held > 0 || queued > 0)
        .then(|| Obstacle::Mail { messages: queue.messages.max(queue.held).max(1), held: queue.held })
}

fn empty(report: &Report, answer: &Status, uid: &str, claim: Option<String>, seen: &[Sighting]) -> Standing {
    let now = Sighting {
        pod: report.pod.clone(),
        uid: uid.to_owned(),
        started_at: answer.started_at.clone(),
        answers: report.answers,
    };
    let same = |before: &&Sighting| {
        (&before.pod, &before.uid, &before.started_at) == (&now.pod, &now.uid, &now.started_at)
            && before.answers <= now.answers
    };
    let before = seen.iter().find(same);
    let again = before.is_some_and(|before| before.answers < now.answers);
    Standing::Empty { sighting: before.cloned().unwrap_or(now), again, claim, keep: keep(answer) }
}

/// Damaged parts were copied aside on the volume: a person may still find mail in them.
fn keep(answer: &Status) -> Option<String> {
    let (quarantined, damaged) = (answer.spool.quarantined, answer.account.damaged);
    (quarantined > 0 || damaged > 0)
        .then(|| format!("quarantine: {quarantined} damaged parts, {damaged} recipients lost to damage"))
}
