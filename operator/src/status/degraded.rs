//! `Degraded`: should a person look, and at what. It never says that no mail is taken, `Ready` does; and a dead primary is
//! nothing that is wrong with us. Pure.

use backupmx_relay_api::{SCHEMA, status::Status};

use super::{
    conditions::{Reason, Verdict},
    facts::{Facts, READY_GRACE, Relay, is_over},
    progress,
    serving::is_full,
    text::{PROBLEMS_MAX, SENTENCE_CHARS_MAX, shown, time},
};
use crate::apply::Finding;

/// The gravest first; the message tells them all.
pub fn degraded(facts: &Facts, progressing: &Verdict) -> Verdict {
    let mut faults: Vec<(Reason, String)> = facts.applied.findings.iter().map(finding).collect();
    faults.extend(facts.relays.iter().filter_map(|relay| rejected(facts, relay)));
    if progress::is_overdue(facts, progressing) {
        let waited = format!("This takes too long: {}", progressing.message);
        faults.push((Reason::ProgressDeadlineExceeded, waited));
    }
    faults.extend(judged(facts));
    for relay in &facts.relays {
        faults.extend(not_ready(facts, relay, progressing.is_yes()));
        faults.extend(silent(relay));
        faults.extend(too_old(relay, progressing.is_yes()));
        faults.extend(relay.fresh().and_then(|answer| troubled(facts, relay.name(), answer)));
    }
    faults.extend(facts.applied.claims.iter().filter_map(|claim| {
        let trouble = claim.trouble.as_ref()?;
        Some((Reason::RelayNotReady, format!("The claim {} is not bound: {trouble}.", claim.name)))
    }));
    let Some((reason, _)) = faults.first() else {
        return Verdict::no(Reason::AsWanted, "Nothing is wrong with the relays.");
    };
    let told: Vec<_> = faults.iter().map(|(_, told)| told.as_str()).collect();
    Verdict::yes(*reason, told.join(" "))
}

/// Whether nothing will change without a person: an object that cannot be made, or progress that does not come. A missing Secret
/// is often about to be made by somebody else.
pub fn stalled(facts: &Facts, progressing: &Verdict) -> Option<Verdict> {
    let blocks = |finding: &&Finding| !matches!(finding, Finding::Missing { .. });
    if let Some((reason, told)) = facts.applied.findings.iter().find(blocks).map(finding) {
        return Some(Verdict::yes(reason, told));
    }
    progress::is_overdue(facts, progressing)
        .then(|| Verdict::yes(Reason::ProgressDeadlineExceeded, progressing.message.clone()))
}

fn finding(finding: &Finding) -> (Reason, String) {
    match finding {
        Finding::Foreign { kind, name, owner } => {
            let owner = owner.as_deref().unwrap_or("somebody else");
            let told = format!(
                "The {kind} {name} is there and belongs to {owner}: remove it, or name this BackupMx otherwise."
            );
            (Reason::ForeignObject, told)
        }
        Finding::Missing { kind, name, named_by } => {
            let told = format!("The {kind} {name}, named by {named_by}, is not there: make it, or correct the name.");
            (Reason::ObjectMissing, told)
        }
        Finding::UnknownKind { kind } => {
            let told = format!(
                "The cluster does not know the kind {kind}: install what brings it, or do without it in the spec."
            );
            (Reason::KindUnknown, told)
        }
        Finding::Refused { kind, name, words } => {
            (Reason::ObjectRefused, format!("The API server refused the {kind} {name}: {}", sentence(words)))
        }
    }
}

fn rejected(facts: &Facts, relay: &Relay) -> Option<(Reason, String)> {
    let reason = relay.rejects(&facts.applied.config_digest)?;
    let told = format!(
        "{} refused the newest settings and goes on with the last good ones: {}",
        relay.name(),
        sentence(reason)
    );
    Some((Reason::ConfigRejected, told))
}

/// The primary takes its own backup for a stranger. Nothing is wrong with a relay, but mail does not come in by any of those that hear
/// it: so it goes before what single relays tell, and once for all. The cure and the primary's words come before what may be cut off.
fn judged(facts: &Facts) -> Option<(Reason, String)> {
    let judged: Vec<_> =
        facts.answers().filter_map(|(name, answer)| Some((name, answer.primary.judges.as_ref()?))).collect();
    let (_, first) = judged.first()?;
    let since = judged.iter().filter_map(|(_, judges)| time(&judges.since)).min();
    let names: Vec<_> = judged.iter().map(|(name, _)| *name).collect();
    let told = format!(
        "The primary refuses its own backup and not the mail, so senders hear 451 and come again: make the primary trust the relays' \
         addresses (docs/trust.md). {}it says: {} (to {}).",
        since.map_or("At present ".into(), |since| format!("Since {since} ")),
        sentence(&first.reason),
        names.join(", ")
    );
    Some((Reason::PrimaryJudgesUs, told))
}

/// While pods are being replaced some are not ready; with trouble of its own one will not become so.
fn not_ready(facts: &Facts, relay: &Relay, progressing: bool) -> Option<(Reason, String)> {
    let pod = relay.pod;
    let lasts = pod.since.is_none_or(|since| is_over(since, READY_GRACE, facts.now));
    let expected = relay.leaves || pod.leaving || (progressing && pod.trouble.is_none());
    if pod.ready || !lasts || expected {
        return None;
    }
    let trouble = pod.trouble.as_deref().unwrap_or("`kubectl describe pod` tells more");
    let claim = facts.applied.claims.iter().find(|claim| claim.pod == pod.name && !claim.bound);
    let unbound = claim.map(|claim| {
        let class = facts
            .plan
            .storage
            .class
            .as_deref()
            .map_or("of the default class".into(), |class| format!("of the StorageClass {class}"));
        format!(" Its claim {}, {class}, has no volume.", claim.name)
    });
    let told = format!("The pod {} is not ready: {}.{}", pod.name, sentence(trouble), unbound.unwrap_or_default());
    Some((Reason::RelayNotReady, told))
}

/// Where the pod is not ready, that says enough.
fn silent(relay: &Relay) -> Option<(Reason, String)> {
    let why = relay.silence.as_ref().filter(|_| relay.pod.ready && !relay.pod.leaving)?;
    let told = format!("{} takes mail but does not answer the operator: {}", relay.name(), sentence(why));
    Some((Reason::RelaySilent, told))
}

fn too_old(relay: &Relay, progressing: bool) -> Option<(Reason, String)> {
    let answer = relay.fresh().filter(|_| !progressing)?;
    let (version, schema) = (sentence(&answer.version), answer.schema);
    let name = relay.name();
    let told = if schema < SCHEMA {
        format!(
            "{name} is version {version} and reads settings of shape {schema}, not {SCHEMA}, so some have no effect."
        )
    } else {
        let ignored = answer.config.ignored_keys.iter().take(PROBLEMS_MAX).cloned().collect::<Vec<_>>().join(", ");
        (!ignored.is_empty())
            .then(|| format!("{name} is version {version} and does not know these settings: {}.", sentence(&ignored)))?
    };
    Some((Reason::RelayTooOld, format!("{told} Use a newer image in spec.pod.image.")))
}

/// What a relay says is wrong, in its own words, or in ours where it has none.
fn troubled(facts: &Facts, name: &str, answer: &Status) -> Option<(Reason, String)> {
    let difference = answer.account.difference();
    let (reason, ours) = if !answer.spool.writable {
        (Reason::SpoolNotWritable, "nothing can be written to the spool")
    } else if is_full(facts, answer.spool.free_bytes) {
        (Reason::VolumeFull, "the volume has no room for more mail; enlarge it")
    } else if difference != 0 {
        (Reason::AccountDifference, "the account does not add up; please report this defect")
    } else if answer.spool.quarantined > 0 {
        (
            Reason::DamageFound,
            "damage was found on the volume and copied aside; `backupmx-relay spool check` tells more",
        )
    } else {
        (Reason::RelayHasProblems, "")
    };
    // What `judged` has told for all of them; where a relay runs alone, this sentence of its own is all that there is.
    let is_told = |problem: &String| {
        answer.primary.judges.is_some() && problem.starts_with(&format!("{}: ", Reason::PrimaryJudgesUs.word()))
    };
    let problems = answer.problems.iter().filter(|problem| !is_told(problem));
    let theirs: Vec<_> = problems.take(PROBLEMS_MAX).map(|problem| sentence(problem)).collect();
    let told = if theirs.is_empty() { ours.to_owned() } else { theirs.join(" ") };
    (!told.is_empty()).then(|| (reason, format!("{name} says: {told}")))
}

fn sentence(text: &str) -> String {
    shown(text, SENTENCE_CHARS_MAX)
}
