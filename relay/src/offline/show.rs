//! `spool show`: all that the log says of one message.

use std::io::{self, Write};

use super::words;
use crate::{
    foreign::shown,
    mail::{
        envelope::{Envelope, Offers},
        id::MessageId,
    },
    spool::{
        field::{Accepted, Change, Fate, State},
        history::{self, Event, Fared, LastWord, What},
        index::Location,
        large,
    },
};

/// Prints it. `is_open`: whether the index holds it. Fails if `out` does, and then only.
pub fn print(id: MessageId, is_open: bool, events: &[Event], out: &mut dyn Write) -> io::Result<()> {
    let (newest, fared) = (history::newest(events), history::fared(events));
    let is_waiting = fared.iter().any(|one| one.state == State::Waiting);
    let state = match (is_open, is_waiting) {
        (true, true) => "waiting",
        (true, false) => "held",
        (false, _) => "closed",
    };
    writeln!(out, "{:14}{id}\n{:14}{state}", "id", "state")?;
    match newest {
        Some((accepted, newest)) => {
            print_envelope(accepted, newest, out)?;
            print_recipients(&accepted.envelope, &fared, out)?;
        }
        None => writeln!(out, "\nIts envelope has left the log with its segment.")?,
    }
    writeln!(out, "\nhistory")?;
    events.iter().try_for_each(|event| print_event(event, newest.map(|(accepted, _)| &accepted.envelope), out))
}

fn print_envelope(accepted: &Accepted, newest: &Event, out: &mut dyn Write) -> io::Result<()> {
    let Accepted { envelope, trace, line_end_added, large_bytes, standing: _ } = accepted;
    let Envelope { id, received_at, client, helo, reverse_path, .. } = envelope;
    let parameters = envelope.parameters(Offers::ALL);
    let content = match large_bytes {
        Some(bytes) => format!("{}, in {}", words::size(*bytes), large::path(*id)),
        None => format!("{}, in its record", words::size(u64::from(newest.content_bytes))),
    };
    for (name, value) in [
        ("received", format!("{received_at:.3}")),
        ("client", client.to_string()),
        ("helo", shown(helo)),
        ("protocol", envelope.with().to_owned()),
        ("reverse-path", words::path(reverse_path.as_ref())),
        ("parameters", if parameters.is_empty() { "none".to_owned() } else { shown(parameters.trim_start()) }),
        ("content", content + if *line_end_added { ", with a last line end that it came without" } else { "" }),
        ("record", at(newest.place)),
    ] {
        writeln!(out, "{name:14}{value}")?;
    }
    writeln!(out, "\ntrace field")?;
    let lines = trace.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.is_empty()).try_for_each(|line| match line.strip_prefix(b"\t") {
        Some(folded) => writeln!(out, "      {}", shown(folded)),
        None => writeln!(out, "  {}", shown(line)),
    })
}

fn print_recipients(envelope: &Envelope, fared: &[Fared], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nrecipients")?;
    for (recipient, Fared { state, last }) in envelope.recipients.iter().zip(fared) {
        let (path, parameters) = (words::path(Some(&recipient.address)), shown(recipient.parameters(Offers::ALL)));
        writeln!(out, "  {:7}  {path}{parameters}", words::state(*state))?;
        if let Some(LastWord { at, by, fate, words: said }) = last {
            writeln!(out, "           {at:.3}  {}{}{}", words::fate(*fate), behind(" by ", by), behind(": ", said))?;
        }
    }
    Ok(())
}

fn print_event(event: &Event, envelope: Option<&Envelope>, out: &mut dyn Write) -> io::Result<()> {
    const NO_TIME: &str = "";
    let place = at(event.place);
    match &event.what {
        What::Accepted(accepted) => writeln!(out, "  {:.3}  Accepted, {place}", accepted.envelope.received_at),
        What::Copied(accepted) => {
            let reason = accepted.standing.as_ref().map_or("", |standing| &*standing.reason);
            writeln!(out, "  {NO_TIME:24}  Accepted, a copy, {place}{}", behind("; ", reason))
        }
        What::Unreadable(kind) => {
            writeln!(out, "  {NO_TIME:24}  {}, damaged, {place}; see `spool check`", words::kind(*kind))
        }
        What::Changed(change @ Change { kind, id: _, at, by, fates, held_as: _ }) => {
            let holds = fates.iter().any(|(_, fate, _)| *fate == Fate::Held);
            let held_as = if holds { format!(", held: {}", change.held_reason().word()) } else { String::new() };
            writeln!(out, "  {at:.3}  {}{}, {place}{held_as}", words::kind(*kind), behind(" by ", by))?;
            fates.iter().try_for_each(|(which, fate, said)| {
                let address = envelope.and_then(|envelope| envelope.recipients.get(*which as usize));
                // Without its envelope a recipient has its place there for a name.
                let name = address.map_or_else(|| format!("recipient {which}"), |one| words::path(Some(&one.address)));
                writeln!(out, "  {NO_TIME:24}  {name} {}{}", words::fate(*fate), behind(": ", said))
            })
        }
    }
}

fn at(place: Location) -> String {
    format!("segment {} at {}", place.segment, place.offset)
}

/// Foreign words behind ours, if there are any.
fn behind(ours: &str, foreign: &str) -> String {
    if foreign.is_empty() { String::new() } else { format!("{ours}{}", shown(foreign)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::{
        field::{Standing, tests::accepted},
        record::Kind,
    };

    fn page(id: MessageId, is_open: bool, events: &[Event]) -> String {
        let mut page = Vec::new();
        print(id, is_open, events, &mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    fn attempt(id: MessageId, words: &str) -> Event {
        let (at, by) = ("2026-11-22T15:00:00Z".parse().unwrap(), "mx1:25".to_owned());
        let change =
            Change { kind: Kind::Attempt, id, at, by, fates: vec![(1, Fate::Held, words.into())], held_as: None };
        Event {
            place: Location { segment: 2, offset: 4608, length: 80 },
            content_bytes: 0,
            what: What::Changed(change),
        }
    }

    #[test]
    fn all_that_is_known_is_shown_and_foreign_words_are_escaped() {
        let id = MessageId::from_bytes([1; 16]);
        let place = Location { segment: 1, offset: 4608, length: 300 };
        let events = [
            Event { place, content_bytes: 400, what: What::Accepted(Box::new(accepted(id, 2))) },
            attempt(id, "550 no\r\n\x1b[31m"),
        ];
        let expected = r#"id            01040G2081040G2081040G2081
state         waiting
received      2026-11-22T14:53:47.123Z
client        2001:db8::1
helo          mail.example.net
protocol      ESMTP
reverse-path  <"a b"@example.net>
parameters    BODY=8BITMIME
content       400 B, in its record
record        segment 1 at 4608

trace field
  Received: x

recipients
  waiting  <u0@example.org>
  held     <u1@example.org>
           2026-11-22T15:00:00.000Z  held by mx1:25: 550 no\r\n\x1b[31m

history
  2026-11-22T14:53:47.123Z  Accepted, segment 1 at 4608
  2026-11-22T15:00:00.000Z  Attempt by mx1:25, segment 2 at 4608, held: undeliverable
                            <u1@example.org> held: 550 no\r\n\x1b[31m
"#;
        assert_eq!(page(id, true, &events), expected);
    }

    #[test]
    fn what_is_left_of_a_closed_message_is_shown() {
        let id = MessageId::from_bytes([1; 16]);
        let page_without = page(id, false, &[attempt(id, "")]);
        assert!(page_without.contains("state         closed"), "{page_without}");
        assert!(page_without.contains("left the log") && page_without.contains("recipient 1 held\n"), "{page_without}");
        let standing =
            Some(Standing { states: vec![State::Held], deferrals: 0, reason: "recovered".into(), held: None });
        let copy = What::Copied(Box::new(Accepted { standing, large_bytes: Some(300_000), ..accepted(id, 1) }));
        let place = Location { segment: 3, offset: 9000, length: 300 };
        let page = page(id, true, &[Event { place, content_bytes: 0, what: copy }]);
        assert!(page.contains("state         held"), "{page}");
        assert!(page.contains(&format!("293.0 KiB, in large/{id}")), "{page}");
        assert!(page.contains("Accepted, a copy, segment 3 at 9000; recovered\n"), "{page}");
    }
}
