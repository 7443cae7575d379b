//! The status of a `BackupMx`, from what was found. Pure: no cluster, no clock.
//!
//! Each condition has its own small function that looks at the same [`facts`]; docs/conditions.md is the contract.

use backupmx_relay_api::status::OUTAGES_MAX;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::{
    apply::Applied,
    crd::{BackupMx, BackupMxStatus, RelayStatus},
    desired::labels::selector_text,
    observe::Observed,
    plan::{Plan, Refusal},
};

pub mod conditions;
mod facts;
mod serving;
mod progress;
mod degraded;
mod primary;
mod mail;
mod tls;
mod outages;
mod warnings;
mod publish;
pub(crate) mod text;

pub use facts::{PROGRESS_DEADLINE, READY_GRACE, SILENCE_GRACE};
pub use publish::{NUMBERS_INTERVAL, Publish, WRITES_INTERVAL, Written, publish_due};

use conditions::{Kind, Reason, Verdict, find, written};
use facts::{Facts, Relay};

/// Addresses that are told; a relay has one or two.
const ADDRESSES_MAX: usize = 16;

/// What stands in the status now.
pub fn derive(mx: &BackupMx, plan: &Plan, applied: &Applied, observed: &Observed, now: Timestamp) -> BackupMxStatus {
    let facts = Facts::new(mx, plan, applied, observed, now);
    BackupMxStatus {
        observed_generation: mx.metadata.generation,
        conditions: judged(&facts),
        primary: Some(primary::status(&facts)),
        queue: mail::queue(&facts),
        drain: mail::drain(&facts),
        relays: facts.relays.iter().map(|one| relay(&facts, one)).collect(),
        relays_ready: Some(relays_ready(&facts)),
        addresses: applied.addresses.iter().take(ADDRESSES_MAX).cloned().collect(),
        egress_addresses: egress_addresses(&facts),
        outages: outages::merged(&facts),
        replicas: i32::try_from(applied.pods.len()).unwrap_or(i32::MAX),
        selector: Some(selector_text(&plan.name)),
        warnings: warnings::warnings(&facts),
    }
}

/// As `kubectl get statefulset` shows it.
fn relays_ready(facts: &Facts) -> String {
    let ready = facts.relays.iter().filter(|relay| relay.pod.ready && !relay.pod.leaving && !relay.leaves).count();
    format!("{ready}/{}", facts.plan.replicas)
}

/// The status of a resource that cannot be used. What was known of its relays stays: they go on with what they have.
pub fn refused(mx: &BackupMx, refusal: &Refusal, now: Timestamp) -> BackupMxStatus {
    let now = text::seconds(now);
    let before = mx.status.clone().unwrap_or_default();
    let refused = |holds| Verdict { holds, reason: refusal.reason, message: refusal.message.clone() };
    let unheard = "The resource cannot be used as it is; `Accepted` says why.";
    let new = Kind::ALL.iter().filter_map(|kind| {
        let verdict = match kind {
            Kind::Accepted => refused(conditions::Holds::No),
            Kind::Stalled => refused(conditions::Holds::Yes),
            Kind::Ready => {
                Verdict::no(Reason::NotAccepted, format!("{unheard} Relays that run go on with their last settings."))
            }
            Kind::Progressing => Verdict::no(Reason::NotAccepted, unheard),
            Kind::Reconciling => return None,
            Kind::Available
            | Kind::Degraded
            | Kind::PrimaryReachable
            | Kind::QueueEmpty
            | Kind::Draining
            | Kind::TlsReady
            | Kind::ScaleInBlocked => match find(&before.conditions, *kind) {
                Some(known) => return Some(known.clone()),
                None => Verdict::unknown(Reason::NotAccepted, unheard),
            },
        };
        Some(written(*kind, verdict, &before.conditions, mx.metadata.generation, now))
    });
    BackupMxStatus { observed_generation: mx.metadata.generation, conditions: new.collect(), ..before.clone() }
}

/// When the status may change though nobody tells anything new: a grace ends. To be looked at again then.
pub fn look_again(
    status: &BackupMxStatus,
    applied: &Applied,
    observed: &Observed,
    now: Timestamp,
) -> Option<Timestamp> {
    let silences = observed.relays.iter().filter_map(|report| report.silent_since?.checked_add(SILENCE_GRACE).ok());
    let unready = applied.pods.iter().filter(|pod| !pod.ready);
    let unready = unready.filter_map(|pod| pod.since?.checked_add(READY_GRACE).ok());
    let progressing = find(&status.conditions, Kind::Progressing)
        .filter(|_| conditions::holds(&status.conditions, Kind::Progressing));
    let deadline = progressing.and_then(|since| since.last_transition_time.0.checked_add(PROGRESS_DEADLINE).ok());
    silences.chain(unready).chain(deadline).filter(|at| *at > now).min()
}

fn judged(facts: &Facts) -> Vec<Condition> {
    let progressing = progress::progressing(facts);
    let stalled = degraded::stalled(facts, &progressing);
    let before = facts.before().map_or(&[][..], |before| &before.conditions);
    let verdict = |kind: &Kind| {
        Some(match kind {
            Kind::Ready => serving::ready(facts),
            Kind::Accepted => Verdict::yes(Reason::Valid, "The resource can be used."),
            Kind::Available => serving::available(facts),
            Kind::Progressing => progressing.clone(),
            Kind::Degraded => degraded::degraded(facts, &progressing),
            Kind::PrimaryReachable => primary::reachable(facts),
            Kind::QueueEmpty => mail::queue_empty(facts),
            Kind::Draining => mail::draining(facts),
            Kind::TlsReady => tls::ready(facts),
            Kind::ScaleInBlocked => mail::scale_in_blocked(facts),
            Kind::Reconciling if progressing.is_yes() && stalled.is_none() => progressing.clone(),
            Kind::Reconciling => return None,
            Kind::Stalled => return stalled.clone(),
        })
    };
    let judged = Kind::ALL.iter().filter_map(|kind| Some((*kind, verdict(kind)?)));
    // Only what is written has whole seconds: a grace that ends within one must not be asked for too early, and then forgotten.
    let at = text::seconds(facts.now);
    judged.map(|(kind, verdict)| written(kind, verdict, before, facts.mx.metadata.generation, at)).collect()
}

/// A relay that was not heard since the operator started keeps its number from before.
fn relay(facts: &Facts, relay: &Relay) -> RelayStatus {
    let answer = relay.answer;
    let before = facts.before().and_then(|before| before.relays.iter().find(|before| before.pod == relay.pod.name));
    let problems = answer.map_or(&[][..], |answer| &answer.problems).iter().take(text::PROBLEMS_MAX);
    RelayStatus {
        pod: relay.pod.name.clone(),
        ready: relay.pod.ready && !relay.pod.leaving,
        answers: relay.silence.is_none(),
        messages: answer
            .map(|answer| text::number(answer.queue.messages))
            .or(before.and_then(|before| before.messages)),
        config_generation: answer.map(|answer| answer.config_generation),
        version: answer.map(|answer| text::shown(&answer.version, 64)),
        cordoned: answer.is_some_and(|answer| answer.cordoned),
        problems: problems.map(|problem| text::shown(problem, text::SENTENCE_CHARS_MAX)).collect(),
    }
}

fn egress_addresses(facts: &Facts) -> Vec<String> {
    let told = facts.last_answers().filter_map(|answer| answer.primary.egress_address.as_deref());
    let mut addresses: Vec<_> = told.map(|address| text::shown(address, 64)).collect();
    addresses.sort();
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    addresses
}

const _: () = assert!(OUTAGES_MAX == 5, "the contract of the status says: the last five");

#[cfg(test)]
pub(crate) mod situations;
#[cfg(test)]
mod tests;
