//! What an order does to one message: decides by how the message stands, records it, and gives the message back to the queue.

use std::sync::Arc;

use jiff::Timestamp;

use super::ask::Words;
use crate::{
    mail::id::MessageId,
    spool::{
        Stands,
        field::{Change, Fate, HeldReason},
        record::Kind,
    },
    status::Parts,
};

/// What a person wants of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    /// Not to be tried, nor ended, until a person says so.
    Hold,
    /// Whoever is held in it is tried again.
    Release,
    /// It is tried now, unless a person holds it.
    Retry,
    /// The end of it.
    Delete,
}

impl Deed {
    /// For the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Retry => "retry",
            Self::Delete => "delete",
        }
    }
}

/// What became of an order to one message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// So many recipients are now as it wants; 0 if all were before.
    Changed(u64),
    /// The message is not here, or closed.
    Unknown,
    /// It is being handed over.
    Busy,
    /// It could not be recorded.
    NotKept,
}

/// What is to be recorded, and how many recipients the order changes.
#[derive(PartialEq, Eq, Debug)]
struct Plan {
    record: Option<(Kind, Fate, Vec<u32>)>,
    recipients: usize,
}

/// Does it. To be run to its end, in a task of its own: what is recorded must reach the queue.
pub async fn carry_out(parts: Arc<Parts>, id: MessageId, deed: Deed, words: Words) -> Done {
    if parts.spool.stands(id).is_none() {
        return Done::Unknown;
    }
    let Some(claimed) = parts.queue.claim(id) else { return Done::Busy };
    // Only now: until it was claimed, a delivery may have changed how it stands.
    let done = match parts.spool.stands(id) {
        Some(stands) => change(&parts, id, plan(deed, &stands), words).await,
        None => Done::Unknown,
    };
    match parts.spool.stands(id) {
        _ if done == Done::NotKept => drop(claimed), // it is where it was
        Some(stands) if !stands.waiting.is_empty() => claimed.released(stands.flow),
        Some(_) | None => claimed.ended(),
    }
    done
}

async fn change(parts: &Parts, id: MessageId, plan: Plan, words: Words) -> Done {
    let Plan { record, recipients } = plan;
    let Some((kind, fate, places)) = record else { return Done::Changed(recipients as u64) };
    let Words { author, reason } = words;
    let held_as = (fate == Fate::Held).then_some(HeldReason::Person);
    let fates = places.into_iter().map(|place| (place, fate, reason.clone())).collect();
    let change = Change { kind, id, at: Timestamp::now(), by: author, fates, held_as };
    match parts.spool.change(change).await {
        Ok(_) => Done::Changed(recipients as u64),
        Err(reason) => {
            tracing::error!(%id, ?reason, "record a person's order");
            Done::NotKept
        }
    }
}

/// Pure. A person's hold is for the message: also for who is held for another reason, so that neither a retry nor its age ends it.
fn plan(deed: Deed, stands: &Stands) -> Plan {
    let Stands { flow: _, waiting, held, note, waits_since_ms: _ } = stands;
    let reason = note.map(|note| note.reason);
    let nothing = Plan { record: None, recipients: 0 };
    let record = |kind, fate, places: Vec<u32>| Plan { recipients: places.len(), record: Some((kind, fate, places)) };
    let open = || [&waiting[..], &held[..]].concat();
    match deed {
        Deed::Hold if waiting.is_empty() && reason == Some(HeldReason::Person) => nothing,
        Deed::Hold => record(Kind::Held, Fate::Held, open()),
        Deed::Release if held.is_empty() => nothing,
        Deed::Release => record(Kind::Released, Fate::Released, held.clone()),
        Deed::Retry if reason.is_some_and(a_retry_releases) => {
            Plan { recipients: waiting.len() + held.len(), ..record(Kind::Released, Fate::Released, held.clone()) }
        }
        Deed::Retry => Plan { recipients: waiting.len(), ..nothing },
        Deed::Delete => record(Kind::Closed, Fate::Deleted, open()),
    }
}

/// What the primary, or the time it took, has stopped goes again by a retry; what a person has stopped or should look at, does not.
fn a_retry_releases(reason: HeldReason) -> bool {
    match reason {
        HeldReason::Undeliverable | HeldReason::Capability | HeldReason::Expired => true,
        HeldReason::Unknown | HeldReason::Damaged | HeldReason::Recovered | HeldReason::Person => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mail::envelope::Flow, spool::field::HeldNote};

    fn stands(waiting: &[u32], held: &[u32], reason: Option<HeldReason>) -> Stands {
        let note = reason.map(|reason| HeldNote { since_ms: 0, reason });
        Stands { flow: Flow::default(), waiting: waiting.to_vec(), held: held.to_vec(), note, waits_since_ms: 0 }
    }

    #[test]
    fn each_order_changes_whom_it_means_and_nobody_else() {
        let waits = stands(&[0, 2], &[], None);
        let mixed = stands(&[0], &[1], Some(HeldReason::Undeliverable));
        let refused = stands(&[], &[1, 3], Some(HeldReason::Capability));
        let by_a_person = stands(&[], &[0, 1], Some(HeldReason::Person));
        let (held, released, deleted) =
            ((Kind::Held, Fate::Held), (Kind::Released, Fate::Released), (Kind::Closed, Fate::Deleted));
        for (deed, message, record, recipients) in [
            (Deed::Hold, &waits, Some((held, vec![0, 2])), 2),
            (Deed::Hold, &mixed, Some((held, vec![0, 1])), 2),
            (Deed::Hold, &refused, Some((held, vec![1, 3])), 2),
            (Deed::Hold, &by_a_person, None, 0),
            (Deed::Release, &waits, None, 0),
            (Deed::Release, &mixed, Some((released, vec![1])), 1),
            (Deed::Release, &by_a_person, Some((released, vec![0, 1])), 2),
            (Deed::Retry, &waits, None, 2),
            (Deed::Retry, &mixed, Some((released, vec![1])), 2),
            (Deed::Retry, &refused, Some((released, vec![1, 3])), 2),
            (Deed::Retry, &by_a_person, None, 0),
            (Deed::Delete, &mixed, Some((deleted, vec![0, 1])), 2),
        ] {
            let record = record.map(|((kind, fate), places)| (kind, fate, places));
            assert_eq!(plan(deed, message), Plan { record, recipients }, "{deed:?} {message:?}");
        }
    }

    #[test]
    fn what_a_person_should_look_at_is_not_retried() {
        for (reason, goes) in [
            (HeldReason::Unknown, false),
            (HeldReason::Undeliverable, true),
            (HeldReason::Capability, true),
            (HeldReason::Expired, true),
            (HeldReason::Damaged, false),
            (HeldReason::Recovered, false),
            (HeldReason::Person, false),
        ] {
            assert_eq!(plan(Deed::Retry, &stands(&[], &[0], Some(reason))).record.is_some(), goes, "{reason:?}");
        }
    }
}
