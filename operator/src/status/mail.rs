//! What waits, and how fast it leaves: sums over the relays. A silent relay counts with what it said last. Pure.

use backupmx_relay_api::status::DrainState;

use super::{
    conditions::{Reason, Verdict},
    facts::Facts,
    text::{messages, number, time},
};
use crate::{
    crd::{DrainStatus, QueueStatus},
    finalize::{Obstacle, Standing, decide, stray_claims},
};

/// For `status.queue`; as before, or none, until any relay was heard. A relay that was not heard since its pod is a new one counts with
/// the messages that it had: they are on its volume.
pub fn queue(facts: &Facts) -> Option<QueueStatus> {
    if facts.last_answers().next().is_none() {
        return facts.before().and_then(|before| before.queue.clone());
    }
    let sum = |of: fn(&backupmx_relay_api::status::Queue) -> u64| {
        number(facts.last_answers().fold(0, |sum: u64, answer| sum.saturating_add(of(&answer.queue))))
    };
    let oldest = facts.last_answers().filter_map(|answer| time(answer.queue.oldest.as_deref()?)).min();
    let before = facts.before();
    let had = |pod: &str| before?.relays.iter().find(|relay| relay.pod == pod)?.messages;
    let unheard =
        facts.relays.iter().filter(|relay| relay.answer.is_none()).filter_map(|relay| had(relay.name())).sum();
    let oldest = match before.and_then(|before| time(before.queue.as_ref()?.oldest.as_deref()?)) {
        Some(before) if unheard > 0 => Some(oldest.map_or(before, |oldest| oldest.min(before))),
        _ => oldest,
    };
    Some(QueueStatus {
        messages: sum(|queue| queue.messages).saturating_add(unheard),
        bytes: sum(|queue| queue.bytes),
        held: sum(|queue| queue.held),
        oldest: oldest.map(|oldest| oldest.to_string()),
    })
}

/// For `status.drain`, of those who answer.
pub fn drain(facts: &Facts) -> Option<DrainStatus> {
    facts.answers().next()?;
    let drains = || facts.answers().map(|(_, answer)| &answer.drain);
    // Not `sum`: that of none is -0.
    let rate: f64 = drains()
        .map(|drain| drain.messages_per_second)
        .filter(|rate| rate.is_finite() && *rate > 0.0)
        .fold(0.0, |sum, rate| sum + rate);
    let state = drains().map(|drain| drain.state).max_by_key(|state| match state {
        DrainState::Idle => 0,
        DrainState::Waiting => 1,
        DrainState::Draining => 2,
    })?;
    let busy = || drains().filter(|drain| drain.state != DrainState::Idle);
    let ends: Option<Vec<_>> = busy().map(|drain| time(drain.estimated_empty.as_deref()?)).collect();
    Some(DrainStatus {
        state: word(state).into(),
        messages_per_second: (rate * 10.0).round() / 10.0,
        connections: number(drains().fold(0, |sum: u64, drain| sum.saturating_add(drain.connections))),
        // The last relay decides, and where one cannot tell nobody can.
        estimated_empty: ends.and_then(|ends| ends.into_iter().max()).map(|end| end.to_string()),
    })
}

/// Certain only if each relay says so: what cannot be asked may hold mail.
pub fn queue_empty(facts: &Facts) -> Verdict {
    let queued = facts.last_answers().fold(0u64, |sum, answer| {
        // Messages and recipients are counted apart; whichever is left means mail.
        sum.saturating_add(answer.queue.messages.max(u64::from(answer.account.queued > 0)))
    });
    let held = facts.last_answers().fold(0u64, |sum, answer| sum.saturating_add(answer.queue.held));
    let silent = facts.silent().map(|silent| format!(" Of {silent} as last heard: no answer now."));
    let remark = silent.clone().unwrap_or_default();
    if queued > 0 && held >= queued {
        let told = format!("{} held until a person releases or deletes them (admin API).{remark}", messages(held));
        return Verdict::no(Reason::MailHeld, told);
    }
    if queued > 0 {
        let held = if held > 0 { format!(", {held} of them held") } else { String::new() };
        return Verdict::no(Reason::MailWaiting, format!("{} here{held}.{remark}", messages(queued)));
    }
    if let Some(silent) = facts.silent() {
        let told = format!("What is in the relays that do not answer is not known: {silent}.");
        return Verdict::unknown(Reason::RelaysSilent, told);
    }
    let strays: Vec<_> = stray_claims(&facts.world).into_iter().map(|claim| claim.name.as_str()).collect();
    if !strays.is_empty() {
        let cure = "raise spec.replicas until a relay serves them, or export their mail";
        let told = format!("No relay serves these claims, which may hold mail: {}; {cure}.", strays.join(", "));
        return Verdict::unknown(Reason::ClaimUnknown, told);
    }
    if facts.relays.is_empty() {
        return Verdict::unknown(Reason::NoRelayReady, "No relay is there to be asked.");
    }
    Verdict::yes(Reason::Empty, "All mail is handed over.")
}

/// Is mail leaving; if not, why.
pub fn draining(facts: &Facts) -> Verdict {
    let Some(drain) = drain(facts) else {
        return Verdict::unknown(Reason::RelaysSilent, "No relay answers.");
    };
    if drain.state == word(DrainState::Draining) {
        let end = drain.estimated_empty.map(|end| format!(", empty at about {end}")).unwrap_or_default();
        let (rate, connections) = (drain.messages_per_second, drain.connections);
        let told = format!("{rate} messages a second over {connections} connections{end}.");
        return Verdict::yes(Reason::HandingOver, told);
    }
    let drains = || facts.answers().map(|(_, answer)| &answer.drain);
    if drains().any(|drain| drain.breaker.is_some()) {
        return Verdict::no(
            Reason::BreakerOpen,
            "Nothing is sent while the breaker is open; `PrimaryReachable` says why.",
        );
    }
    if let Some(hold) = drains().find_map(|drain| drain.hold.as_ref()) {
        let told =
            format!("Held by {}: {}. Resume the drain, or unset spec.primary.delivery.hold.", hold.by, hold.reason);
        return Verdict::no(Reason::Held, told);
    }
    if drain.state == word(DrainState::Waiting) {
        return Verdict::no(Reason::Waiting, "Mail waits for the primary, or for its next try.");
    }
    Verdict::no(Reason::Idle, "Nothing waits to be handed over.")
}

/// Relays that should leave and cannot. A moment of being asked is no hindrance.
pub fn scale_in_blocked(facts: &Facts) -> Verdict {
    if facts.world.end.is_some() || facts.leaving.is_empty() {
        return Verdict::no(Reason::NotBlocked, "No relay is to leave by a scale-in.");
    }
    let hindrance = |(_, standing): &(String, Standing)| match standing {
        Standing::Waits { obstacle, .. } => match obstacle {
            Obstacle::Mail { .. } => Some(Reason::MailWaiting),
            Obstacle::Silent(_) => Some(Reason::RelaysSilent),
            Obstacle::NoPod(_) => Some(Reason::ClaimUnknown),
            Obstacle::Account(_) => Some(Reason::AccountDifference),
            Obstacle::Uncordoned | Obstacle::Sessions(_) => None,
        },
        Standing::Empty { .. } | Standing::Emptied | Standing::Vacant => None,
    };
    let hindrance = facts.leaving.iter().find_map(hindrance);
    match (hindrance, decide(&facts.world, &[]).wait) {
        (Some(reason), Some(wait)) => Verdict::yes(reason, wait.message),
        (Some(_) | None, _) => {
            Verdict::no(Reason::NotBlocked, "The relays that are to leave are empty, or will be in a moment.")
        }
    }
}

fn word(state: DrainState) -> &'static str {
    match state {
        DrainState::Idle => "Idle",
        DrainState::Waiting => "Waiting",
        DrainState::Draining => "Draining",
    }
}
