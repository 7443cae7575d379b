//! When a status is written: a state at once, numbers at most every 10 s, the time of a probe never for its own sake. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::conditions::{Kind, holds};
use crate::{
    apply::hash,
    crd::{BackupMxStatus, PrimaryStatus},
};

/// Between two writes of numbers: a drain changes them all the time, and nobody reads faster.
pub const NUMBERS_INTERVAL: SignedDuration = SignedDuration::from_secs(10);
/// Between any two writes, whatever flaps: far below the 3 s within which a state is to be seen.
pub const WRITES_INTERVAL: SignedDuration = SignedDuration::from_secs(1);

/// What we wrote last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// When.
    pub at: Timestamp,
    /// Hash of what it meant. The status itself would be held a second time, for each resource.
    meant: u64,
}

impl Written {
    /// This status, at this time.
    pub fn new(at: Timestamp, status: &BackupMxStatus) -> Self {
        Self { at, meant: hash(&numbers(status.clone())) }
    }
}

/// Whether to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Publish {
    /// At once.
    Now,
    /// Not before then, and only if it still differs.
    At(Timestamp),
    /// What stands there is right.
    No,
}

/// `found`: what stands there, as far as we have heard. `new`: what should. `written`: our last write; none after a restart.
pub fn publish_due(
    found: Option<&BackupMxStatus>,
    new: &BackupMxStatus,
    written: Option<&Written>,
    now: Timestamp,
) -> Publish {
    let Some(found) = found else {
        return after(written, WRITES_INTERVAL, now);
    };
    let meant = numbers(new.clone());
    if numbers(found.clone()) == meant {
        return Publish::No;
    }
    // We have already said this: we have not heard our own echo yet, or somebody wrote over it. Neither is answered at once, or
    // two who disagree would write as fast as they can.
    if written.is_some_and(|written| written.meant == hash(&meant)) {
        return after(written, NUMBERS_INTERVAL, now);
    }
    let mail_flows = [found, new].iter().all(|status| holds(&status.conditions, Kind::PrimaryReachable));
    let interval = if states(found.clone(), mail_flows) == states(new.clone(), mail_flows) {
        NUMBERS_INTERVAL
    } else {
        WRITES_INTERVAL
    };
    after(written, interval, now)
}

fn after(written: Option<&Written>, interval: SignedDuration, now: Timestamp) -> Publish {
    match written.and_then(|written| written.at.checked_add(interval).ok()) {
        Some(due) if due > now => Publish::At(due),
        Some(_) | None => Publish::Now,
    }
}

/// Without what is never written for its own sake.
fn numbers(mut status: BackupMxStatus) -> BackupMxStatus {
    if let Some(primary) = &mut status.primary {
        primary.last_probe = None;
    }
    for condition in &mut status.conditions {
        // It changes with the status, or when our own last write was not heard yet.
        condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
    }
    status
}

/// Without numbers either. While the primary takes mail, each message makes the queue fuller and empty again (`mail_flows`): those
/// conditions are numbers then.
fn states(status: BackupMxStatus, mail_flows: bool) -> BackupMxStatus {
    let mut status = numbers(status);
    (status.queue, status.drain) = (None, None);
    status.primary = status.primary.map(|primary| PrimaryStatus { reason: String::new(), ..primary });
    for relay in &mut status.relays {
        relay.messages = None;
        relay.problems.iter_mut().for_each(String::clear); // their texts count too: so many are held
    }
    for outage in &mut status.outages {
        (outage.messages, outage.bytes) = (0, 0);
    }
    let flows =
        |condition: &Condition| [Kind::QueueEmpty, Kind::Draining].iter().any(|kind| condition.type_ == kind.word());
    status.conditions.retain(|condition| !(mail_flows && flows(condition)));
    for condition in &mut status.conditions {
        condition.message = String::new();
    }
    status
}
