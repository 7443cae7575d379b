//! What a client says means the same however the network cuts it: each reply, and each message that comes of it.
//!
//! The conversations are made by chance. `SEED` in the environment replays a run, `CASES` asks for a longer one.

use std::{collections::BTreeMap, env, time::Duration};

use support::{
    Client, Primary, Relay,
    at_once::at_once,
    chance::Chance,
    readers,
    reading::{Reading, read_data, read_parts},
    trace_field,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Contents for the readers alone. Some microseconds each.
const CONTENTS_MIN: u64 = 100_000;
/// Conversations with a relay. Some milliseconds each.
const CONVERSATIONS: u64 = 300;
/// Conversations at a time.
const SESSIONS: usize = 8;
/// Lines that are mistakes, in one conversation. With what refused parts add it stays below 20, where the relay closes.
const NOISE_MAX: u64 = 12;

/// Bounds for the length of pieces: mostly a byte or two, since that is where CRLF and dot are torn apart.
const PIECES_BYTES_MAX: [u64; 4] = [2, 2, 7, 200];

#[test]
fn content_in_any_pieces_is_read_as_the_rfc_says() {
    let (mut chance, mut kept, mut refused) = (Chance::new(), 0, 0);
    for case in 0..cases().unwrap_or_default().max(CONTENTS_MIN) {
        let content = content(&mut chance);
        let wire = [&*content, b"\r\n.\r\n", &*any(&mut chance, 3)].concat();
        let pieces = cut(&mut chance, &wire);
        let expected = read_data(&wire).map(|(reading, rest)| (reading, rest.to_vec()));
        assert_eq!(readers::data(&pieces), expected, "case {case}: {}", shown(&pieces));
        let pieces = cut(&mut chance, &content);
        assert_eq!(readers::parts(&pieces), read_parts(&content), "case {case}, by BDAT: {}", shown(&pieces));
        match expected {
            Some((Reading::Content(_), _)) => kept += 1,
            Some((Reading::BareLineEnd, _)) => refused += 1,
            None => panic!("the end is there"),
        }
    }
    assert!(kept > CONTENTS_MIN / 10 && refused > CONTENTS_MIN / 10, "of one kind there were few: {kept}, {refused}");
}

#[test]
fn conversations_in_any_pieces_are_answered_alike_and_the_same_messages_come_of_them() {
    let primary = Primary::start();
    let relay = Relay::before(primary.address()).start();
    let mut chance = Chance::new();
    let seeds: Vec<u64> = (0..cases().unwrap_or(CONVERSATIONS)).map(|_| chance.number()).collect();
    at_once(SESSIONS, &seeds, |number, seed| {
        let whole = conversation(&mut Chance::seeded(*seed), &format!("whole-{number}"));
        let torn = conversation(&mut Chance::seeded(*seed), &format!("torn-{number}"));
        let pieces = cut(&mut Chance::seeded(*seed), &torn);
        let (expected, heard) = (replies(&relay, &[&whole]), replies(&relay, &pieces));
        // A CR or LF alone in content ends it, too.
        let ends = |last: &String| last.starts_with("221") || last.starts_with("550 5.5.2");
        assert!(expected.last().is_some_and(ends), "conversation {number}: {expected:#?}");
        assert_eq!(heard, expected, "conversation {number}: {}", shown(&pieces));
    });

    let done = relay.until(LIMIT, "nothing waits", |status| status.queue.messages == 0);
    assert_eq!((done.account.accepted, done.account.delivered), (primary.count() as u64, primary.count() as u64));
    assert!(primary.count() > seeds.len() / 2, "few messages came of it");
    assert_eq!(arrived(&primary, "torn-"), arrived(&primary, "whole-"));
    assert_eq!(primary.violations(), [""; 0]);
}

fn cases() -> Option<u64> {
    env::var("CASES").ok().map(|text| text.parse().expect("CASES is a whole number"))
}

/// Contents by the rest of the recipient's name.
fn arrived(primary: &Primary, prefix: &str) -> BTreeMap<String, String> {
    let mails = primary.mails();
    let named = mails.iter().filter_map(|mail| Some((mail.recipients[0].strip_prefix(prefix)?.to_owned(), mail)));
    named.map(|(name, mail)| (name, trace_field::split(&mail.content).1.escape_ascii().to_string())).collect()
}

/// Says these pieces, and hears all replies until the relay closes; ids are left out.
fn replies(relay: &Relay, pieces: &[&[u8]]) -> Vec<String> {
    let mut client = Client::connect(relay.smtp()).expect("the relay takes connections");
    for piece in pieces {
        if client.raw(piece).is_err() {
            break; // it has closed: a CR or LF alone came some seconds ago
        }
    }
    let words = |reply: support::Reply| {
        let text = reply.to_string();
        if reply.is("250 2.0.0 Kept as ") { "250 2.0.0 Kept".to_owned() } else { text }
    };
    std::iter::from_fn(|| client.reply().ok()).map(words).collect()
}

/// A client that knows what it wants, makes mistakes on the way, and says all at once. It goes as far as QUIT.
fn conversation(chance: &mut Chance, name: &str) -> Vec<u8> {
    let (mut said, mut noise_left) = (b"EHLO client.example\r\n".to_vec(), NOISE_MAX);
    for message in 0..chance.between(1, 4) {
        make_noise(chance, &mut noise_left, &mut said);
        if chance.one_in(4) {
            said.extend_from_slice(b"BDAT 14 LAST\r\nRSET\r\nDATA\r\n\r\n"); // read over, since nobody is named yet
        }
        said.extend_from_slice(b"MAIL FROM:<ann@client.example> BODY=8BITMIME\r\n");
        make_noise(chance, &mut noise_left, &mut said);
        said.extend(format!("RCPT TO:<{name}.{message}@example.org>\r\n").bytes());
        make_noise(chance, &mut noise_left, &mut said);
        match chance.below(8) {
            0 => said.extend_from_slice(b"RSET\r\n"),
            1..=3 => say_in_parts(chance, &mut noise_left, &mut said),
            _ => {
                said.extend_from_slice(b"DATA\r\n");
                said.extend(content_with_its_end(chance));
            }
        }
    }
    said.extend_from_slice(b"QUIT\r\n");
    said
}

fn say_in_parts(chance: &mut Chance, noise_left: &mut u64, said: &mut Vec<u8>) {
    let content = content(chance);
    let parts = chance.between(1, 4) as usize;
    for part in 0..parts {
        let piece = &content[content.len() * part / parts..content.len() * (part + 1) / parts];
        let last = if part + 1 == parts { " LAST" } else { "" };
        said.extend(format!("BDAT {}{last}\r\n", piece.len()).bytes());
        said.extend_from_slice(piece);
        if last.is_empty() {
            make_noise(chance, noise_left, said);
        }
    }
}

/// Lines that change nothing.
fn make_noise(chance: &mut Chance, left: &mut u64, said: &mut Vec<u8>) {
    let lines: [&[u8]; 14] = [
        b"NOOP \xff\r\n",
        b"VRFY bob\r\n",
        b"HELP\r\n",
        b"NOOP\n",
        b"\n",
        b"\r\n",
        b".\r\n",
        b"x\rQUIT\r\n",
        b"QUIT\0\r\n",
        b"DATA now\r\n",
        b"RSET all\r\n",
        b"EXPN list\r\n",
        b"RCPT TO:<bob@elsewhere.example>\r\n",
        b"MAIL FROM:<>extra\r\n",
    ];
    for _ in 0..chance.below(3).min(*left) {
        *left -= 1;
        match chance.below(20) {
            0 => said.extend([b'x'].repeat(5000).into_iter().chain(*b"\r\n")),
            1 => said.extend([b"x".as_slice(), &any(chance, 40), b"\r\n"].concat()),
            number => said.extend_from_slice(lines[number as usize % lines.len()]),
        }
    }
}

/// Content for DATA with its end, and nothing behind it.
fn content_with_its_end(chance: &mut Chance) -> Vec<u8> {
    loop {
        let wire = [&*content(chance), b"\r\n.\r\n"].concat();
        if read_data(&wire).is_some_and(|(_, rest)| rest.is_empty()) {
            return wire;
        }
    }
}

/// Mostly line ends and dots. Half of them have no CR and no LF alone.
fn content(chance: &mut Chance) -> Vec<u8> {
    let is_clean = chance.one_in(2);
    let mut content = Vec::new();
    for _ in 0..chance.below(16) {
        match chance.below(12) {
            0 if !is_clean => content.push(b'\r'),
            1 if !is_clean => content.push(b'\n'),
            0..=4 => content.extend_from_slice(b"\r\n"),
            5..=8 => content.push(b'.'),
            9 => content.push(0),
            10 => content.extend(any(chance, 5)),
            _ => content.extend_from_slice(b"QUIT"),
        }
    }
    content
}

/// At most so many bytes of any value but CR and LF.
fn any(chance: &mut Chance, bytes_max: u64) -> Vec<u8> {
    let count = chance.below(bytes_max + 1);
    (0..count)
        .map(|_| (chance.number() >> 32) as u8)
        .map(|byte| if b"\r\n".contains(&byte) { b'.' } else { byte })
        .collect()
}

fn cut<'a>(chance: &mut Chance, mut rest: &'a [u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let bytes_max = PIECES_BYTES_MAX[chance.below(PIECES_BYTES_MAX.len() as u64) as usize];
        let (piece, behind) = rest.split_at(rest.len().min(chance.between(1, bytes_max + 1) as usize));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

fn shown(pieces: &[&[u8]]) -> String {
    pieces.iter().map(|piece| format!("\"{}\"", piece.escape_ascii())).collect::<Vec<_>>().join(" ")
}
