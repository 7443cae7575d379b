//! The last outages of the primary, from what each relay saw of them. Pure.

use backupmx_relay_api::status::{OUTAGES_MAX, Outage};
use jiff::Timestamp;

use super::{
    facts::Facts,
    text::{number, time},
};
use crate::crd::OutageStatus;

#[derive(Clone, Debug)]
struct Seen {
    from: Timestamp,
    until: Option<Timestamp>,
    messages: u64,
    bytes: u64,
    last_delivered: Option<Timestamp>,
    /// Whether one of the relays still waits for what it took.
    waits: bool,
}

/// The newest first. What overlaps is one: relays notice the same outage at slightly different moments.
pub fn merged(facts: &Facts) -> Vec<OutageStatus> {
    if facts.last_answers().next().is_none() {
        return facts.before().map(|before| before.outages.clone()).unwrap_or_default();
    }
    let mut seen: Vec<_> = facts.last_answers().flat_map(|answer| &answer.outages).filter_map(read).collect();
    seen.sort_by_key(|outage| outage.from);
    let mut merged: Vec<Seen> = Vec::new();
    for outage in seen {
        match merged.last_mut() {
            Some(last) if last.until.is_none_or(|until| outage.from <= until) => join(last, &outage),
            Some(_) | None => merged.push(outage),
        }
    }
    merged.into_iter().rev().take(OUTAGES_MAX).map(written).collect()
}

fn read(outage: &Outage) -> Option<Seen> {
    let last_delivered = outage.last_delivered.as_deref().and_then(time);
    Some(Seen {
        from: time(&outage.from)?,
        until: outage.until.as_deref().and_then(time),
        messages: outage.messages,
        bytes: outage.bytes,
        last_delivered,
        waits: outage.messages > 0 && last_delivered.is_none(),
    })
}

fn join(one: &mut Seen, other: &Seen) {
    one.until = one.until.zip(other.until).map(|(one, other)| one.max(other));
    one.messages = one.messages.saturating_add(other.messages);
    one.bytes = one.bytes.saturating_add(other.bytes);
    one.last_delivered = one.last_delivered.max(other.last_delivered);
    one.waits |= other.waits;
}

fn written(outage: Seen) -> OutageStatus {
    let Seen { from, until, messages, bytes, last_delivered, waits } = outage;
    OutageStatus {
        from: from.to_string(),
        until: until.map(|until| until.to_string()),
        messages: number(messages),
        bytes: number(bytes),
        last_delivered: last_delivered.filter(|_| !waits).map(|last| last.to_string()),
    }
}
