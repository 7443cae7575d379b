//! Turns what the spool and the queue know into the documents of the contract. No I/O.

use std::time::Instant;

use backupmx_relay_api::admin;
use jiff::Timestamp;

use crate::{
    queue::scheduler::Next,
    spool::{
        field::{Fate, HeldNote, HeldReason, State},
        search::Hit,
    },
};

/// A message in a list.
pub fn message(hit: Hit, when: Option<Next>, now: (Instant, Timestamp)) -> admin::Message {
    let Hit { id, entry, held, received_at, reverse_path, recipients } = hit;
    admin::Message {
        id: id.to_string(),
        state: if entry.is_held() { admin::State::Held } else { admin::State::Waiting },
        received: received_at.to_string(),
        size: entry.content_bytes,
        reverse_path: reverse_path.unwrap_or_default(),
        recipients,
        recipient_count: entry.states().len() as u64,
        open_count: entry.open().count() as u64,
        deferrals: u64::from(entry.deferrals),
        held_since: held.and_then(held_since),
        held_reason: held.map(|note| reason(note.reason)),
        next_attempt: next_attempt(when, now),
    }
}

/// When a message is tried next. `now`: by both clocks.
pub fn next_attempt(when: Option<Next>, (now, clock): (Instant, Timestamp)) -> Option<String> {
    match when {
        Some(Next::Due) => Some(clock.to_string()),
        Some(Next::At(at)) => Some((clock + at.saturating_duration_since(now)).to_string()),
        Some(Next::UnderWay) | None => None,
    }
}

/// Since when somebody is held. A time that no clock can have had is none.
pub fn held_since(note: HeldNote) -> Option<String> {
    Timestamp::from_millisecond(note.since_ms).ok().map(|since| since.to_string())
}

/// How a recipient stands.
pub fn state(state: State) -> admin::State {
    match state {
        State::Waiting => admin::State::Waiting,
        State::Held => admin::State::Held,
        State::Ended => admin::State::Closed,
    }
}

/// Why somebody is held.
pub fn reason(reason: HeldReason) -> admin::HeldReason {
    match reason {
        HeldReason::Unknown => admin::HeldReason::Unknown,
        HeldReason::Undeliverable => admin::HeldReason::Undeliverable,
        HeldReason::Capability => admin::HeldReason::Capability,
        HeldReason::Expired => admin::HeldReason::Expired,
        HeldReason::Damaged => admin::HeldReason::Damaged,
        HeldReason::Recovered => admin::HeldReason::Recovered,
        HeldReason::Person => admin::HeldReason::Person,
    }
}

/// The same the other way round.
pub fn spool_reason(wanted: admin::HeldReason) -> HeldReason {
    match wanted {
        admin::HeldReason::Unknown => HeldReason::Unknown,
        admin::HeldReason::Undeliverable => HeldReason::Undeliverable,
        admin::HeldReason::Capability => HeldReason::Capability,
        admin::HeldReason::Expired => HeldReason::Expired,
        admin::HeldReason::Damaged => HeldReason::Damaged,
        admin::HeldReason::Recovered => HeldReason::Recovered,
        admin::HeldReason::Person => HeldReason::Person,
    }
}

/// What became of a recipient.
pub fn fate(fate: Fate) -> admin::Fate {
    match fate {
        Fate::Delivered => admin::Fate::Delivered,
        Fate::Deferred => admin::Fate::Deferred,
        Fate::Held => admin::Fate::Held,
        Fate::Released => admin::Fate::Released,
        Fate::Bounced => admin::Fate::Bounced,
        Fate::Expired => admin::Fate::Expired,
        Fate::Deleted => admin::Fate::Deleted,
        Fate::Moved => admin::Fate::Moved,
        Fate::Damaged => admin::Fate::Damaged,
        Fate::Withdrawn => admin::Fate::Withdrawn,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_next_attempt_is_told_by_the_clock_on_the_wall() {
        let (now, clock) = (Instant::now(), "2026-11-22T14:00:00Z".parse().unwrap());
        for (when, told) in [
            (Some(Next::Due), Some("2026-11-22T14:00:00Z")),
            (Some(Next::At(now + Duration::from_secs(90))), Some("2026-11-22T14:01:30Z")),
            (Some(Next::UnderWay), None),
            (None, None),
        ] {
            assert_eq!(next_attempt(when, (now, clock)).as_deref(), told, "{when:?}");
        }
    }

    #[test]
    fn a_reason_means_the_same_there_and_back() {
        for known in HeldReason::ALL {
            assert_eq!(spool_reason(reason(known)), known);
        }
    }
}
