//! The primary as the relays see it: one state from their views, the worst counts. Pure.

use std::cmp::Reverse;

use backupmx_relay_api::status::{PrimaryState, Status};

use super::{
    conditions::{Reason, Verdict},
    facts::Facts,
    text::{SENTENCE_CHARS_MAX, shown, time, time_again},
};
use crate::crd::PrimaryStatus;

/// Those who do not know yet (a relay that has just started) say nothing against those who do.
fn views<'a>(facts: &Facts<'a>) -> Vec<(&'a str, &'a Status)> {
    let all: Vec<_> = facts.answers().collect();
    let (known, unknown): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(_, answer)| answer.primary.state != PrimaryState::Unknown);
    if known.is_empty() { unknown } else { known }
}

/// For `status.primary`.
pub fn status(facts: &Facts) -> PrimaryStatus {
    let unknown = || PrimaryStatus {
        state: word(PrimaryState::Unknown).into(),
        reason: "no relay answers".into(),
        ..PrimaryStatus::default()
    };
    told_by_relays(facts).unwrap_or_else(unknown)
}

fn told_by_relays(facts: &Facts) -> Option<PrimaryStatus> {
    let views = views(facts);
    let (_, worst) = *views.iter().max_by_key(|(name, answer)| (gravity(answer.primary.state), Reverse(*name)))?;
    let state = worst.primary.state;
    let alike = views.iter().filter(|(_, answer)| answer.primary.state == state);
    let probes = views.iter().filter_map(|(_, answer)| time(answer.primary.last_probe.as_deref()?));
    Some(PrimaryStatus {
        state: word(state).into(),
        since: alike.filter_map(|(_, answer)| time(&answer.primary.since)).min().map(|since| since.to_string()),
        last_probe: probes.max().map(|probe| probe.to_string()),
        reason: shown(&worst.primary.reason, SENTENCE_CHARS_MAX),
    })
}

/// False wherever nothing can be handed over, for whatever reason. That is no fault of ours: `Ready` stays what it is.
pub fn reachable(facts: &Facts) -> Verdict {
    let views = views(facts);
    let Some((_, first)) = views.first() else {
        return Verdict::unknown(Reason::RelaysSilent, "No relay answers, so nobody tells whether the primary does.");
    };
    let mixed = views.iter().any(|(_, answer)| answer.primary.state != first.primary.state);
    let broken = views.iter().find(|(_, answer)| answer.drain.breaker.is_some());
    let told = told(&views, mixed);
    if broken.is_some() {
        return Verdict::no(
            Reason::BreakerOpen,
            format!(
                "{told} It refuses what no primary should refuse, so nothing is sent to it and nothing sent back. Mend it; it is \
                 tested by itself. If the refusals are meant, reset the breaker."
            ),
        );
    }
    if mixed {
        let cure = "If it stays so, look at the way from the nodes of those relays to the primary.";
        return Verdict::no(Reason::Mixed, format!("The relays do not agree. {told} {cure}"));
    }
    match first.primary.state {
        PrimaryState::Unknown => {
            Verdict::unknown(Reason::NotYetKnown, format!("The primary has yet to be asked. {told}"))
        }
        PrimaryState::Up => Verdict::yes(Reason::Up, told),
        PrimaryState::Down => Verdict::no(Reason::Down, format!("{told} Mail is kept until it is back.")),
        PrimaryState::Sick => {
            Verdict::no(Reason::Sick, format!("{told} It lives but is not well; mail is kept until it takes it."))
        }
        PrimaryState::Held => {
            Verdict::no(Reason::Held, format!("{told} Resume the drain, or unset spec.primary.delivery.hold."))
        }
        PrimaryState::Maintenance => Verdict::no(
            Reason::Maintenance,
            format!("{told} Away on purpose, without alarm (spec.primary.maintenance)."),
        ),
    }
}

fn told(views: &[(&str, &Status)], mixed: bool) -> String {
    let view = |(name, answer): &(&str, &Status)| {
        let primary = &answer.primary;
        let reason = shown(&primary.reason, SENTENCE_CHARS_MAX);
        let since = time_again(&primary.since).map(|since| format!(" since {since}")).unwrap_or_default();
        let state = word(primary.state);
        if mixed { format!("{name}: {state}{since} ({reason})") } else { format!("{state}{since}: {reason}") }
    };
    let told: Vec<_> = views.iter().take(if mixed { views.len() } else { 1 }).map(view).collect();
    format!("{}.", told.join("; "))
}

/// The word in `status.primary.state`.
pub fn word(state: PrimaryState) -> &'static str {
    match state {
        PrimaryState::Unknown => "Unknown",
        PrimaryState::Up => "Up",
        PrimaryState::Down => "Down",
        PrimaryState::Sick => "Sick",
        PrimaryState::Held => "Held",
        PrimaryState::Maintenance => "Maintenance",
    }
}

fn gravity(state: PrimaryState) -> u8 {
    match state {
        PrimaryState::Unknown => 0,
        PrimaryState::Up => 1,
        PrimaryState::Maintenance => 2,
        PrimaryState::Held => 3,
        PrimaryState::Sick => 4,
        PrimaryState::Down => 5,
    }
}
