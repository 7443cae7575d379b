//! Nobody can hide a second message within one: of more than 100 ways to imitate the end of data, however the network
//! cuts them, none makes two messages out of one, and none leaves us towards the primary.
//!
//! What each must lead to says a reader of the test's own, in the plainest reading of RFC 5321 (support/reading.rs).

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use backupmx_relay_api::status::Account;
use support::{
    Client, Primary, Relay, Reply,
    at_once::at_once,
    hash::difference,
    readers,
    reading::{Reading, part_is_faulty, read_data, read_parts},
    smuggling::{self, Attempt, SMUGGLED_TO},
    trace_field,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Sessions at a time. They mostly wait for the disk.
const SESSIONS: usize = 8;
/// The real end, and the one command that is to be heard behind it.
const END_AND_QUIT: &[u8] = b".\r\nQUIT\r\n";

#[test]
fn wherever_the_network_cuts_data_it_ends_at_the_real_end_alone() {
    for Attempt { name, wire, .. } in smuggling::attempts() {
        let sent = [&*wire, END_AND_QUIT].concat();
        let (expected, rest) = read_data(&sent).expect("the real end is there");
        assert_eq!(rest, b"QUIT\r\n", "{name}");
        let expected = Some((expected, rest.to_vec()));
        for cut in 0..=sent.len() {
            let (head, tail) = sent.split_at(cut);
            assert_eq!(readers::data(&[head, tail]), expected, "{name}, cut at {cut}");
        }
        assert_eq!(readers::data(&sent.chunks(1).collect::<Vec<_>>()), expected, "{name}, byte by byte");
    }
}

#[test]
fn wherever_the_network_cuts_parts_their_content_is_read_the_same() {
    for Attempt { name, wire, .. } in smuggling::attempts_by_bdat() {
        let expected = read_parts(&wire);
        for cut in 0..=wire.len() {
            let (head, tail) = wire.split_at(cut);
            assert_eq!(readers::parts(&[head, tail]), expected, "{name}, cut at {cut}");
        }
        assert_eq!(readers::parts(&wire.chunks(1).collect::<Vec<_>>()), expected, "{name}, byte by byte");
    }
}

#[test]
fn what_is_smuggled_into_data_is_neither_obeyed_nor_passed_on() {
    let attempts = [smuggling::attempts(), smuggling::attempts_at_borders()].concat();
    Stage::set().play(&attempts, |stage, recipient, attempt| {
        let mut client = stage.connect();
        let commands = format!("EHLO c\r\nMAIL FROM:<ann@client.example>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n");
        client.raw(&[commands.as_bytes(), &attempt.wire, END_AND_QUIT].concat()).expect("the relay reads");
        let verdict =
            stage.expect(&recipient, &read_data(&[&*attempt.wire, END_AND_QUIT].concat()).expect("it ends").0);
        let before = ["220", "250", "250 2.1.0", "250 2.1.5", "354"];
        expect_replies(&mut client, &[&before[..], &to_the_end(verdict)].concat(), attempt);
    });
}

#[test]
fn what_is_smuggled_into_data_byte_by_byte_is_neither_obeyed_nor_passed_on() {
    Stage::set().play(&smuggling::attempts(), |stage, recipient, attempt| {
        let mut client = stage.connect();
        client
            .raw(format!("EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n").as_bytes())
            .expect("it reads");
        for start in ["220", "250", "250 2.1.0", "250 2.1.5", "354"] {
            let reply = client.reply().expect("the relay answers");
            assert!(reply.is(start), "{}: {reply}", attempt.name);
        }
        let sent = [&*attempt.wire, END_AND_QUIT].concat();
        for byte in sent.chunks(1) {
            if client.raw(byte).is_err() {
                break; // it has closed: a CR or LF alone came some seconds ago
            }
        }
        let verdict = stage.expect(&recipient, &read_data(&sent).expect("it ends").0);
        expect_replies(&mut client, &to_the_end(verdict), attempt);
    });
}

#[test]
fn what_is_smuggled_into_bdat_is_neither_obeyed_nor_passed_on_however_it_is_parted() {
    Stage::set().play(&smuggling::attempts_by_bdat(), |stage, recipient, attempt| {
        let Attempt { wire, at, length, .. } = attempt;
        let (before, rest) = wire.split_at(*at);
        let (imitation, behind) = rest.split_at(*length);
        let in_two = (0..=*length).map(|cut| vec![&wire[..at + cut], &wire[at + cut..]]);
        let apart =
            [vec![before, imitation, behind], [vec![before], imitation.chunks(1).collect(), vec![behind]].concat()];
        // Two sessions, since what refuses too often ends one.
        stage.parted(&format!("a{recipient}"), in_two.collect(), attempt);
        stage.parted(&format!("b{recipient}"), [vec![vec![&wire[..]]], apart.into()].concat(), attempt);
    });
}

#[test]
fn what_is_smuggled_into_bdat_at_the_borders_of_buffers_is_neither_obeyed_nor_passed_on() {
    Stage::set().play(&smuggling::attempts_at_borders(), |stage, recipient, attempt| {
        let (head, tail) = attempt.wire.split_at(attempt.at + attempt.length / 2);
        stage.parted(&recipient, vec![vec![&attempt.wire[..]], vec![head, tail]], attempt);
    });
}

/// The replies from the final dot on: who sent a CR or LF alone by DATA is not heard any more, whatever follows.
fn to_the_end(verdict: &str) -> Vec<&str> {
    if verdict.starts_with("550") { vec![verdict] } else { vec![verdict, "221 2.0.0"] }
}

/// A relay, the primary behind it, and what is to arrive there.
struct Stage {
    relay: Relay,
    primary: Primary,
    /// By recipient.
    kept: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Stage {
    fn set() -> Self {
        let primary = Primary::start();
        Self { relay: Relay::before(primary.address()).start(), primary, kept: Mutex::default() }
    }

    /// Plays each attempt with a recipient of its own, then looks at what arrived.
    fn play(&self, attempts: &[Attempt], session: impl Fn(&Self, String, &Attempt) + Sync) {
        at_once(SESSIONS, attempts, |number, attempt| session(self, format!("m{number}@example.org"), attempt));
        self.expect_arrived();
    }

    fn connect(&self) -> Client {
        Client::connect(self.relay.smtp()).expect("the relay takes connections")
    }

    /// Remembers what is to arrive. Returns how the reply to the content is to begin.
    fn expect(&self, recipient: &str, reading: &Reading) -> &'static str {
        match reading {
            Reading::Content(content) => {
                self.kept.lock().expect("no session has failed").insert(recipient.to_owned(), content.clone());
                "250 2.0.0"
            }
            Reading::BareLineEnd => "550 5.5.2",
        }
    }

    /// Sends the content in each of these partings, a message each, over one session and in one write.
    fn parted(&self, recipient: &str, partings: Vec<Vec<&[u8]>>, attempt: &Attempt) {
        let (mut sent, mut replies) = (b"EHLO c\r\n".to_vec(), vec!["220", "250"]);
        for (number, parts) in partings.iter().enumerate() {
            let recipient = format!("{number}{recipient}");
            sent.extend(format!("MAIL FROM:<>\r\nRCPT TO:<{recipient}>\r\n").bytes());
            replies.extend(["250 2.1.0", "250 2.1.5"]);
            for (place, part) in parts.iter().enumerate() {
                let last = if place + 1 == parts.len() { " LAST" } else { "" };
                sent.extend(format!("BDAT {}{last}\r\n", part.len()).bytes());
                sent.extend_from_slice(part);
            }
            replies.extend(self.expect_parts(&recipient, parts));
        }
        sent.extend(b"QUIT\r\n");
        replies.push("221 2.0.0");
        let mut client = self.connect();
        client.raw(&sent).expect("the relay reads");
        expect_replies(&mut client, &replies, attempt);
    }

    /// How the reply to each part is to begin: a fault is told where it shows, and ends the transaction.
    fn expect_parts(&self, recipient: &str, parts: &[&[u8]]) -> Vec<&'static str> {
        let faulty = (1..parts.len()).find(|count| part_is_faulty(&parts[..*count].concat()));
        match faulty {
            Some(count) => {
                let behind = vec!["503 5.5.1"; parts.len() - count];
                [vec!["250 2.0.0"; count - 1], vec!["550 5.5.2"], behind].concat()
            }
            None => {
                let verdict = self.expect(recipient, &read_parts(&parts.concat()));
                [vec!["250 2.0.0"; parts.len() - 1], vec![verdict]].concat()
            }
        }
    }

    /// Everything that was taken arrives as it was read here, and nothing else does.
    fn expect_arrived(&self) {
        let mut kept = self.kept.lock().expect("no session has failed");
        let taken = kept.len() as u64;
        let done = self.relay.until(LIMIT, "nothing waits", |status| status.queue.messages == 0);
        assert_eq!(done.account, Account { accepted: taken, delivered: taken, ..Account::default() });
        assert_eq!(self.primary.count() as u64, taken);
        for mail in self.primary.mails() {
            let [recipient] = &mail.recipients[..] else { panic!("one recipient became {:?}", mail.recipients) };
            assert_ne!(recipient, SMUGGLED_TO);
            let content = kept.remove(recipient).unwrap_or_else(|| panic!("nothing was taken for {recipient}"));
            let difference = difference(&content, trace_field::split(&mail.content).1);
            assert_eq!(difference, None, "to {recipient}");
        }
        // It complains about each CR or LF alone. A lone dot that was not doubled would have ended a message early.
        assert_eq!(self.primary.violations(), [""; 0]);
    }
}

/// Exactly these replies come, then the connection is closed.
#[track_caller]
fn expect_replies(client: &mut Client, starts: &[&str], attempt: &Attempt) {
    let replies: Vec<Reply> = std::iter::from_fn(|| client.reply().ok()).collect();
    let fit = replies.len() == starts.len() && replies.iter().zip(starts).all(|(reply, start)| reply.is(start));
    let heard: Vec<String> = replies.iter().map(ToString::to_string).collect();
    assert!(fit, "{}: expected {starts:#?}, heard {heard:#?}", attempt.name);
}
