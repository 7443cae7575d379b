//! Which transitions of a status become Events: on change only, never per message. Pure.
//!
//! An Event is a matter of two statuses, so after a restart of the operator nothing is told twice and nothing is left out.

use crate::{
    crd::{BackupMxStatus, OutageStatus},
    status::conditions::{Kind as Condition, Reason, find, holds},
};

/// What one Event holds at most; the API server refuses more than 1 KiB.
const NOTE_BYTES_MAX: usize = 1000;

/// Whether a person should look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// All is well.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// How bad it is.
    pub severity: Severity,
    /// Fixed, or a condition's own reason.
    pub reason: String,
    /// What we were about.
    pub action: &'static str,
    /// For people.
    pub note: String,
}

/// What happened between the two. `old` is none for a new resource.
pub fn between(old: Option<&BackupMxStatus>, new: &BackupMxStatus) -> Vec<Event> {
    let nothing = BackupMxStatus::default();
    let old = old.unwrap_or(&nothing);
    let mut events = Vec::new();
    accepted(old, new, &mut events);
    primary(old, new, &mut events);
    mail(old, new, &mut events);
    breaker(old, new, &mut events);
    relays(old, new, &mut events);
    certificate(old, new, &mut events);
    leaving(old, new, &mut events);
    events
}

fn accepted(old: &BackupMxStatus, new: &BackupMxStatus, events: &mut Vec<Event>) {
    let is_refused = |status: &BackupMxStatus| says(status, Condition::Accepted, "False");
    if is_refused(new) && (!is_refused(old) || reason(old, Condition::Accepted) != reason(new, Condition::Accepted)) {
        events.push(warning(reason(new, Condition::Accepted), "Validate", message(new, Condition::Accepted)));
    } else if is_refused(old) && !is_refused(new) {
        events.push(normal("Accepted", "Validate", message(new, Condition::Accepted)));
    }
}

/// The worst view counts, so relays that notice one after the other make one Event.
fn primary(old: &BackupMxStatus, new: &BackupMxStatus, events: &mut Vec<Event>) {
    let state =
        |status: &BackupMxStatus| status.primary.as_ref().map(|primary| primary.state.clone()).unwrap_or_default();
    let is_away = |state: &str| matches!(state, "Down" | "Sick");
    let (was, is) = (state(old), state(new));
    let note = message(new, Condition::PrimaryReachable);
    // A relay that has just started knows nothing yet; the outage that is open does.
    let was_away = is_away(&was) || was == "Unknown" && old.outages.iter().any(|outage| outage.until.is_none());
    if is_away(&is) && !was_away {
        events.push(warning("PrimaryDown", "Probe", note));
    } else if is == "Maintenance" && was != is {
        events.push(normal("PrimaryInMaintenance", "Probe", note));
    } else if is == "Up" && (was_away || was == "Maintenance") {
        events.push(normal("PrimaryUp", "Probe", note));
    }
}

/// While the primary takes mail, a message that waits for a moment is no news. So the first mail is that of an outage, and a drain
/// is what follows one.
fn mail(old: &BackupMxStatus, new: &BackupMxStatus, events: &mut Vec<Event>) {
    let keeps = |status: &BackupMxStatus| {
        says(status, Condition::PrimaryReachable, "False") && says(status, Condition::QueueEmpty, "False")
    };
    let was_known =
        [Condition::PrimaryReachable, Condition::QueueEmpty].iter().all(|kind| !says(old, *kind, "Unknown"));
    if keeps(new) && !keeps(old) && was_known {
        events.push(normal("FirstMailQueued", "Receive", message(new, Condition::QueueEmpty)));
    }
    for outage in &new.outages {
        // A relay that noticed earlier than the others moves the begin of one that is open.
        let is_same =
            |before: &&OutageStatus| before.from == outage.from || before.until.is_none() && before.from > outage.from;
        let before = old.outages.iter().find(is_same);
        let (Some(until), Some(before)) = (&outage.until, before) else { continue };
        let kept =
            format!("{} messages, {} bytes, kept from {} until {until}", outage.messages, outage.bytes, outage.from);
        if drains(outage) && !drains(before) {
            events.push(normal("DrainStarted", "Deliver", format!("The primary is back: {kept}.")));
        } else if is_drained(outage) && !is_drained(before) {
            let last = outage.last_delivered.as_deref().unwrap_or_default();
            events.push(normal("DrainFinished", "Deliver", format!("All is handed over, the last at {last}: {kept}.")));
        }
    }
}

fn drains(outage: &OutageStatus) -> bool {
    outage.until.is_some() && outage.messages > 0 && outage.last_delivered.is_none()
}

fn is_drained(outage: &OutageStatus) -> bool {
    outage.until.is_some() && outage.last_delivered.is_some()
}

fn breaker(old: &BackupMxStatus, new: &BackupMxStatus, events: &mut Vec<Event>) {
    let is_open = |status: &BackupMxStatus| reason(status, Condition::PrimaryReachable) == Reason::BreakerOpen.word();
    let note = message(new, Condition::PrimaryReachable);
    match (is_open(old), is_open(new)) {
        (false, true) => events.push(warning("BreakerOpen", "Deliver", note)),
        // Who does not answer has not closed it.
        (true, false) if !says(new, Condition::PrimaryReachable, "Unknown") => {
            events.push(normal("BreakerClosed", "Deliver", note));
        }
        (true, false) | (false, false) | (true, true) => {}
    }
}

fn relays(old: &BackupMxStatus, new: &BackupMxStatus, events: &mut Vec<Event>) {
    for relay in &new.relays {
        let Some(before) = old.relays.iter().find(|before| before.pod == relay.pod) else { continue };
        if relay.ready && before.answers && !relay.answers {
            let note = format!("{} takes mail but does not answer the operator.", relay.pod);
            events.push(warning(Reason::RelaySilent.word(), "Ask", &note));
        }
    }
    let (was, is) = (holds(&old.conditions, Condition::Degraded), holds(&new.conditions, Condition::Degraded));
    let why = reason(new, Condition::Degraded);
    let told_already = [Reason::RelaySilent.word(), reason(old, Condition::Degraded)].contains(&why);
    if is && !told_already {
        events.push(warning(why, "Look", message(new, Condition::Degraded)));
    } else if was && says(new, Condition::Degraded, "False") {
        events.push(normal("Recovered", "Look", message(new, Condition::Degraded)));
    }
}

fn certificate(old: &BackupMxStatus, new: &BackupMxStatus, events: &mut Vec<Event>) {
    let ends = [Reason::CertificateExpiring, Reason::CertificateExpired, Reason::SecretMissing].map(Reason::word);
    let (was, is) = (reason(old, Condition::TlsReady), reason(new, Condition::TlsReady));
    if was != is && ends.contains(&is) {
        events.push(warning(is, "CheckCertificate", message(new, Condition::TlsReady)));
    }
}

fn leaving(old: &BackupMxStatus, new: &BackupMxStatus, events: &mut Vec<Event>) {
    let is_blocked = |status: &BackupMxStatus| holds(&status.conditions, Condition::ScaleInBlocked);
    if is_blocked(new) && !is_blocked(old) {
        events.push(warning("ScaleInBlocked", "ScaleIn", message(new, Condition::ScaleInBlocked)));
    }
    let is_leaving = |status: &BackupMxStatus| reason(status, Condition::Progressing) == Reason::Deleting.word();
    if is_leaving(new) && !is_leaving(old) {
        events.push(normal("Deleting", "Delete", message(new, Condition::Progressing)));
    }
}

fn says(status: &BackupMxStatus, kind: Condition, word: &str) -> bool {
    find(&status.conditions, kind).is_some_and(|condition| condition.status == word)
}

fn reason(status: &BackupMxStatus, kind: Condition) -> &str {
    find(&status.conditions, kind).map_or("", |condition| &condition.reason)
}

fn message(status: &BackupMxStatus, kind: Condition) -> &str {
    find(&status.conditions, kind).map_or("", |condition| &condition.message)
}

fn normal(reason: &str, action: &'static str, note: impl AsRef<str>) -> Event {
    event(Severity::Normal, reason, action, note.as_ref())
}

fn warning(reason: &str, action: &'static str, note: impl AsRef<str>) -> Event {
    event(Severity::Warning, reason, action, note.as_ref())
}

fn event(severity: Severity, reason: &str, action: &'static str, note: &str) -> Event {
    let end = note.floor_char_boundary(NOTE_BYTES_MAX);
    Event { severity, reason: reason.into(), action, note: note[..end].into() }
}

#[cfg(test)]
mod tests;
