//! `Ready` and `Available`: can mail be taken and kept, and can senders reach us. A dead primary is no part of it. Pure.

use super::{
    conditions::{Reason, Verdict},
    facts::{Facts, Relay},
};
use crate::{crd::ServiceType, desired::labels};

/// Why a relay does not take mail, the farthest from it first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Hindrance {
    NotReady(String),
    Silent(String),
    Cordoned,
    NotWritable,
    Full,
}

/// Some relay is ready, answers, and can write what it takes.
pub fn ready(facts: &Facts) -> Verdict {
    let looked: Vec<_> = facts.relays.iter().map(|relay| (relay.name(), hindrance(facts, relay))).collect();
    let able = looked.iter().filter(|(_, hindrance)| hindrance.is_none()).count();
    if able > 0 {
        let wanted = facts.plan.replicas;
        return Verdict::yes(Reason::RelaysReady, format!("{able} of {wanted} relays take mail and keep it."));
    }
    let found = looked.iter().filter_map(|(name, hindrance)| Some((*name, hindrance.as_ref()?)));
    let told: Vec<_> = found.clone().map(|(name, hindrance)| format!("{name} {}", hindrance.words())).collect();
    let told = told.join("; ");
    // The one that is nearest to taking mail says what is to be done.
    match found.map(|(_, hindrance)| hindrance).max() {
        None => Verdict::no(Reason::NoRelayReady, "No relay is there yet: the StatefulSet has made no pod."),
        Some(Hindrance::NotReady(_)) => Verdict::no(
            Reason::NoRelayReady,
            format!("No relay answers senders: {told}. `kubectl describe pod` tells more."),
        ),
        Some(Hindrance::Silent(_)) => Verdict::unknown(
            Reason::RelaysSilent,
            format!(
                "Pods are ready, but no relay tells whether it can keep mail: {told}. The operator must reach port {} of the pods; \
                 look at network policies.",
                backupmx_relay_api::port::OBSERVE
            ),
        ),
        Some(Hindrance::Cordoned) => {
            Verdict::no(Reason::AllCordoned, format!("All relays are on their way out and take no new mail: {told}."))
        }
        Some(Hindrance::NotWritable) => Verdict::no(
            Reason::SpoolNotWritable,
            format!(
                "Senders hear 451, since nothing can be made durable: {told}. Mend the volume; the relay's log names the error."
            ),
        ),
        Some(Hindrance::Full) => Verdict::no(
            Reason::VolumeFull,
            format!(
                "Senders hear 452, since there is no room: {told}. Enlarge the volume, or release or delete held mail."
            ),
        ),
    }
}

/// Some pod answers SMTP, and there is an address for it.
pub fn available(facts: &Facts) -> Verdict {
    let serving = facts.relays.iter().filter(|relay| relay.pod.ready && !relay.pod.leaving).count();
    if serving == 0 {
        return Verdict::no(
            Reason::NoRelayReady,
            "No pod of a relay is ready, so nobody answers senders; `Ready` says why.",
        );
    }
    if !facts.applied.has_service {
        let service = labels::smtp_name(&facts.plan.name);
        let message =
            format!("The Service {service}, by which senders reach relays, is not there; `Degraded` says why.");
        return Verdict::no(Reason::NoService, message);
    }
    let addresses = facts.applied.addresses.join(", ");
    if addresses.is_empty() && facts.mx.spec.service.type_ == ServiceType::LoadBalancer {
        return Verdict::no(
            Reason::NoAddress,
            "The cluster has given the load balancer no address yet. If it has no load balancers, set spec.service.type to NodePort.",
        );
    }
    let at = if addresses.is_empty() { String::new() } else { format!(" at {addresses}") };
    Verdict::yes(Reason::SmtpAnswers, format!("{serving} relays answer SMTP{at}."))
}

fn hindrance(facts: &Facts, relay: &Relay) -> Option<Hindrance> {
    if !relay.pod.ready || relay.pod.leaving {
        return Some(Hindrance::NotReady(relay.pod.trouble.clone().unwrap_or_default()));
    }
    let Some(answer) = relay.fresh() else {
        return Some(Hindrance::Silent(relay.silence.clone().unwrap_or_default()));
    };
    if answer.cordoned {
        return Some(Hindrance::Cordoned);
    }
    if !answer.spool.writable {
        return Some(Hindrance::NotWritable);
    }
    is_full(facts, answer.spool.free_bytes).then_some(Hindrance::Full)
}

/// Whether a relay with so many free bytes answers 452.
pub fn is_full(facts: &Facts, free_bytes: u64) -> bool {
    free_bytes < facts.plan.document.limits.free_space.0
}

impl Hindrance {
    fn words(&self) -> String {
        match self {
            Self::NotReady(trouble) if trouble.is_empty() => "is not ready".into(),
            Self::NotReady(trouble) => format!("is not ready: {trouble}"),
            Self::Silent(why) => format!("does not answer: {why}"),
            Self::Cordoned => "is cordoned".into(),
            Self::NotWritable => "cannot write its spool".into(),
            Self::Full => "has a full volume".into(),
        }
    }
}
