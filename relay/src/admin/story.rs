//! Tells the story of one message from the records that the log holds of it. No I/O.

use std::time::Instant;

use backupmx_relay_api::admin::{self, EVENTS_SHOWN_MAX, EventKind, FateOf, Recipient, Said, Story};
use jiff::Timestamp;

use super::document;
use crate::{
    foreign::shown,
    mail::{
        envelope::{Envelope, Offers, Protocol},
        id::MessageId,
    },
    queue::scheduler::Next,
    spool::{
        Stands,
        field::{Accepted, Change, Fate},
        history::{self, Event, Fared, LastWord, What},
        record::Kind,
    },
};

/// The story. `stands`: as the index has it, `None` if the message is closed. `events`: one at least.
pub fn tell(
    id: MessageId,
    events: &[Event],
    stands: Option<&Stands>,
    when: Option<Next>,
    now: (Instant, Timestamp),
) -> Story {
    let (newest, fared) = (history::newest(events), history::fared(events));
    let note = stands.and_then(|stands| stands.note);
    let state = match stands {
        Some(stands) if stands.waiting.is_empty() => admin::State::Held,
        Some(_) => admin::State::Waiting,
        None => admin::State::Closed,
    };
    let envelope = newest.map(|(accepted, _)| &accepted.envelope);
    let left_out = events.len().saturating_sub(EVENTS_SHOWN_MAX);
    Story {
        id: id.to_string(),
        state,
        arrival: newest.map(|(accepted, event)| arrival(accepted, event)),
        recipients: envelope.map_or_else(Vec::new, |envelope| recipients(envelope, fared)),
        deferrals: deferrals(events),
        held_since: note.and_then(document::held_since),
        held_reason: note.map(|note| document::reason(note.reason)),
        next_attempt: document::next_attempt(when, now),
        events: events[left_out..].iter().map(|one| event(one, envelope)).collect(),
        events_left_out: left_out as u64,
    }
}

fn arrival(accepted: &Accepted, event: &Event) -> admin::Arrival {
    let Accepted { envelope, trace, line_end_added, large_bytes, standing: _ } = accepted;
    admin::Arrival {
        received: envelope.received_at.to_string(),
        client: envelope.client.to_string(),
        helo: shown(&envelope.helo),
        protocol: envelope.with().to_owned(),
        tls: envelope.protocol == Protocol::Esmtps,
        reverse_path: envelope.reverse_path.as_ref().map_or_else(String::new, |path| path.as_str().to_owned()),
        parameters: envelope.parameters(Offers::ALL).trim_start().to_owned(),
        trace: String::from_utf8_lossy(trace).replace("\r\n\t", " ").trim_end().to_owned(),
        size: large_bytes.unwrap_or(u64::from(event.content_bytes)),
        line_end_added: *line_end_added,
    }
}

fn recipients(envelope: &Envelope, fared: Vec<Fared>) -> Vec<Recipient> {
    let told = envelope.recipients.iter().zip(fared).map(|(recipient, Fared { state, last })| Recipient {
        address: recipient.address.as_str().to_owned(),
        parameters: recipient.parameters(Offers::ALL).trim_start().to_owned(),
        state: document::state(state),
        last: last.map(said),
    });
    told.collect()
}

fn said(LastWord { at, by, fate, words }: LastWord) -> Said {
    Said { at: at.to_string(), by: shown(by), fate: document::fate(fate), words: shown(words) }
}

/// Attempts that deferred somebody: what the newest copy says, and those behind it.
fn deferrals(events: &[Event]) -> u64 {
    events.iter().fold(0, |deferrals, event| match &event.what {
        What::Accepted(accepted) | What::Copied(accepted) => {
            accepted.standing.as_ref().map_or(0, |standing| u64::from(standing.deferrals))
        }
        What::Changed(change) => deferrals + u64::from(change.fates.iter().any(|(_, fate, _)| *fate == Fate::Deferred)),
        What::Unreadable(_) => deferrals,
    })
}

fn event(event: &Event, envelope: Option<&Envelope>) -> admin::Event {
    let plain = |at: Option<Timestamp>, kind| {
        let (at, by, held_reason) = (at.map(|at| at.to_string()), None, None);
        admin::Event { at, kind, by, held_reason, fates: Vec::new() }
    };
    match &event.what {
        What::Accepted(accepted) => plain(Some(accepted.envelope.received_at), EventKind::Accepted),
        What::Copied(_) => plain(None, EventKind::Copied),
        What::Unreadable(_) => plain(None, EventKind::Unreadable),
        What::Changed(change) => {
            let Change { kind, id: _, at, by, fates, held_as: _ } = change;
            let holds = fates.iter().any(|(_, fate, _)| *fate == Fate::Held);
            admin::Event {
                at: Some(at.to_string()),
                kind: kind_of(*kind),
                by: Some(shown(by)),
                held_reason: holds.then(|| document::reason(change.held_reason())),
                fates: fates.iter().map(|fate| fate_of(fate, envelope)).collect(),
            }
        }
    }
}

fn fate_of((place, fate, words): &(u32, Fate, String), envelope: Option<&Envelope>) -> FateOf {
    let recipient = envelope.and_then(|envelope| envelope.recipients.get(*place as usize));
    let recipient = recipient.map_or_else(String::new, |recipient| recipient.address.as_str().to_owned());
    FateOf { recipient, place: u64::from(*place), fate: document::fate(*fate), words: shown(words) }
}

/// Of a change. Marks are of no message, and what a newer program wrote stops the start.
fn kind_of(kind: Kind) -> EventKind {
    match kind {
        Kind::Accepted => EventKind::Accepted,
        Kind::Attempt => EventKind::Attempt,
        Kind::Closed => EventKind::Closed,
        Kind::Held => EventKind::Held,
        Kind::Released => EventKind::Released,
        Kind::Withdrawn => EventKind::Withdrawn,
        Kind::Moved => EventKind::Moved,
        Kind::Mark | Kind::Later => EventKind::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::{
        field::{HeldReason, State, tests::accepted},
        index::Location,
    };

    const PLACE: Location = Location { segment: 1, offset: 4608, length: 100 };

    fn attempt(id: MessageId, fate: Fate, words: &str) -> Event {
        let (at, by) = ("2026-11-22T15:00:00Z".parse().unwrap(), "mx1:25".to_owned());
        let fates = vec![(1, fate, words.to_owned())];
        let held_as = Some(HeldReason::Undeliverable);
        let what = What::Changed(Change { kind: Kind::Attempt, id, at, by, fates, held_as });
        Event { place: PLACE, content_bytes: 0, what }
    }

    fn told(id: MessageId, events: &[Event], stands: Option<&Stands>) -> Story {
        tell(id, events, stands, None, (Instant::now(), Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn a_story_has_a_beginning_and_foreign_words_are_escaped() {
        let id = MessageId::new();
        let mut arrived = accepted(id, 2);
        arrived.trace = b"Received: from x\r\n\tby y;\r\n\tdate\r\n".to_vec();
        let arrived = Event { place: PLACE, content_bytes: 400, what: What::Accepted(Box::new(arrived)) };
        let events = [arrived, attempt(id, Fate::Deferred, "450 later"), attempt(id, Fate::Held, "550 no\r\n\x1b[31m")];
        let (waiting, held) = (vec![0], vec![1]);
        let stands = Stands { flow: Default::default(), waiting, held, note: None, waits_since_ms: 0 };
        let story = told(id, &events, Some(&stands));
        let arrival = story.arrival.unwrap();
        assert_eq!(
            (&*arrival.client, &*arrival.protocol, arrival.tls, arrival.size),
            ("2001:db8::1", "ESMTP", false, 400)
        );
        assert_eq!((&*arrival.trace, &*arrival.parameters), ("Received: from x by y; date", "BODY=8BITMIME"));
        assert_eq!((story.state, story.deferrals, story.recipients.len()), (admin::State::Waiting, 1, 2));
        let last = story.recipients[1].last.as_ref().unwrap();
        assert_eq!((&*last.by, last.fate, &*last.words), ("mx1:25", admin::Fate::Held, r"550 no\r\n\x1b[31m"));
        assert_eq!(story.recipients[1].state, document::state(State::Held));
        assert_eq!(
            story.events.iter().map(|event| event.kind).collect::<Vec<_>>(),
            [EventKind::Accepted, EventKind::Attempt, EventKind::Attempt]
        );
        assert_eq!(story.events[1].held_reason, None);
        assert_eq!(story.events[2].held_reason, Some(admin::HeldReason::Undeliverable));
        assert_eq!(story.events[2].fates[0].recipient, "u1@example.org");
    }

    #[test]
    fn what_is_left_of_a_closed_message_is_told_and_a_long_story_is_cut_at_its_beginning() {
        let id = MessageId::new();
        let events: Vec<_> = (0..EVENTS_SHOWN_MAX + 5).map(|n| attempt(id, Fate::Deferred, &n.to_string())).collect();
        let story = told(id, &events, None);
        assert_eq!((story.state, story.arrival, story.recipients.len()), (admin::State::Closed, None, 0));
        assert_eq!((story.events.len(), story.events_left_out), (EVENTS_SHOWN_MAX, 5));
        let FateOf { recipient, place, words, .. } = &story.events[0].fates[0];
        assert_eq!((&**recipient, *place, &**words), ("", 1, "5"));
    }
}
