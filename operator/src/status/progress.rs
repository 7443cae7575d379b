//! `Progressing`: is what is wanted what runs, and what is waited for. Pure.

use super::{
    conditions::{Kind, Reason, Verdict, find},
    facts::{Facts, PROGRESS_DEADLINE, Relay, is_over},
};
use crate::finalize::decide;

/// The first thing that is waited for.
pub fn progressing(facts: &Facts) -> Verdict {
    let waits = |reason, message: String| Verdict::yes(reason, message);
    if facts.world.end.is_some() && facts.mx.spec.paused {
        let message = "spec.paused is true, so nothing is cordoned or removed: set it to false.";
        return waits(Reason::Deleting, message.into());
    }
    if facts.world.end.is_some() {
        let wait = decide(&facts.world, &[]).wait;
        return waits(Reason::Deleting, wait.map_or("Everything is being removed.".into(), |wait| wait.message));
    }
    if facts.mx.spec.paused {
        return Verdict::no(Reason::Paused, "spec.paused is true: the operator changes nothing until it is false.");
    }
    let wanted = facts.plan.replicas;
    let Some(rollout) = &facts.applied.rollout else {
        return waits(Reason::ObjectsPending, "The StatefulSet of the relays is not there yet.".into());
    };
    if !rollout.seen {
        return waits(Reason::RollingOut, "The StatefulSet's controller has not seen the newest template yet.".into());
    }
    if rollout.updated < rollout.replicas.min(wanted) {
        let (updated, replicas) = (rollout.updated, rollout.replicas);
        return waits(Reason::RollingOut, format!("{updated} of {replicas} pods are made from the newest template."));
    }
    let there = facts.wanted().count() as i64;
    let unheard = named(facts.wanted().filter(|relay| relay.answer.is_none()));
    if there < i64::from(wanted) || !unheard.is_empty() {
        let unheard = if unheard.is_empty() { String::new() } else { format!(" Not heard yet: {unheard}.") };
        return waits(Reason::RelaysStarting, format!("{there} of {wanted} pods are there.{unheard}"));
    }
    // For as long as a start takes; after that `Degraded` tells of it.
    let starting = named(facts.wanted().filter(|relay| relay.is_starting(facts.now)));
    if !starting.is_empty() {
        return waits(Reason::RelaysStarting, format!("All pods are there. Not ready yet: {starting}."));
    }
    let digest = &facts.applied.config_digest;
    let behind = named(facts.wanted().filter(|relay| !relay.runs(digest) && relay.rejects(digest).is_none()));
    if !behind.is_empty() {
        let message =
            format!("These relays do not run the newest settings yet: {behind}. They take them without a restart.");
        return waits(Reason::ConfigPending, message);
    }
    if !facts.leaving.is_empty() {
        let names: Vec<_> = facts.leaving.iter().map(|(pod, _)| pod.as_str()).collect();
        return waits(Reason::ScalingIn, format!("To leave as soon as they are empty: {}.", names.join(", ")));
    }
    let unready = named(facts.wanted().filter(|relay| !relay.pod.ready));
    let unready = if unready.is_empty() { String::new() } else { format!(" Not ready, see `Degraded`: {unready}.") };
    Verdict::no(Reason::Complete, format!("{wanted} relays are made as wanted.{unready}"))
}

/// Whether it has lasted too long. What waits for mail to go may take days.
pub fn is_overdue(facts: &Facts, progressing: &Verdict) -> bool {
    let waits_for_mail = [Reason::Deleting, Reason::ScalingIn].map(Reason::word).contains(&progressing.reason);
    let before = facts.before().and_then(|before| find(&before.conditions, Kind::Progressing));
    let began = before.filter(|before| before.status == progressing.holds.word());
    progressing.is_yes()
        && !waits_for_mail
        && began.is_some_and(|began| is_over(began.last_transition_time.0, PROGRESS_DEADLINE, facts.now))
}

fn named<'a, 'f: 'a>(relays: impl Iterator<Item = &'a Relay<'f>>) -> String {
    relays.map(|relay| relay.name()).collect::<Vec<_>>().join(", ")
}
