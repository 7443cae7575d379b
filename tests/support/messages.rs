//! Awkward messages: each has once been altered, refused or cut by some mail server. All may be sent with DATA.

use crate::chance::Chance;

mod borders;
mod encodings;
mod fields;
mod imitations;
mod mime;

/// Above it the spool keeps a message in a file of its own.
const LARGE_BYTES: usize = 256 * 1024;

/// A message, and what is awkward about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// What is awkward about it.
    pub name: String,
    /// Its content, with CRLF at the end of each line.
    pub content: Vec<u8>,
}

/// All of them, the same each time.
pub fn awkward() -> Vec<Message> {
    let groups = [little(), sizes(), mime::all(), fields::all(), encodings::all(), imitations::all(), borders::all()];
    groups.concat()
}

fn message(name: &str, content: impl Into<Vec<u8>>) -> Message {
    Message { name: name.to_owned(), content: content.into() }
}

/// An ordinary header before this body.
fn with_body(name: &str, body: impl AsRef<[u8]>) -> Message {
    let mut content = format!(
        "From: Ann <ann@client.example>\r\nTo: bob@example.org\r\nSubject: {name}\r\n\
         Date: Sun, 22 Nov 2026 12:00:00 +0000\r\nMessage-ID: <{name}@client.example>\r\n\r\n"
    )
    .into_bytes();
    content.extend_from_slice(body.as_ref());
    message(name, content)
}

/// Each of these with CRLF behind it.
fn lines<const N: usize>(lines: [&str; N]) -> String {
    lines.iter().flat_map(|line| [line, "\r\n"]).collect()
}

fn little() -> Vec<Message> {
    vec![
        message("empty", ""),
        message("an_empty_line", "\r\n"),
        message("two_empty_lines", "\r\n\r\n"),
        message("header_only", "Subject: no empty line follows\r\n"),
        message("header_and_empty_line", "Subject: no body follows\r\n\r\n"),
        message("no_header", "This is no header field\r\nand neither is this.\r\n"),
        message("empty_line_first", "\r\nSubject: this is body\r\n\r\nand so is this\r\n"),
        message("begins_with_a_space", " looks like the rest of the field above: it is not\r\n\r\nbody\r\n"),
        message("begins_with_a_tab", "\tthe same; with a tab 1\r\n"),
        with_body("body_of_one_byte", "x\r\n"),
        with_body("no_body", ""),
    ]
}

fn sizes() -> Vec<Message> {
    let sized = |name: &str, bytes: usize| {
        let mut sized = with_body(name, "");
        let lines = "Seventy-eight characters make a line, and a line makes a large message so.\r\n".bytes().cycle();
        sized.content.extend(lines.take(bytes - sized.content.len() - 2));
        // The cut may have left a CR, which would be a bare one.
        if let Some(last) = sized.content.last_mut().filter(|last| **last == b'\r') {
            *last = b'x';
        }
        sized.content.extend_from_slice(b"\r\n");
        sized
    };
    vec![
        sized("300_kb", 300_000),
        sized("less_than_256_kib_by_our_field", LARGE_BYTES - 150),
        sized("256_kib_less_1", LARGE_BYTES - 1),
        sized("256_kib", LARGE_BYTES),
        sized("256_kib_and_1", LARGE_BYTES + 1),
        sized("4_mib", 4 << 20),
    ]
}

/// Bytes of every value, in lines of every length; CR and LF only as the end of a line.
fn any_bytes(count: usize) -> Vec<u8> {
    let mut chance = Chance::seeded(7);
    let mut bytes = Vec::with_capacity(count + 2);
    while bytes.len() < count {
        let byte = (chance.number() >> 32) as u8;
        match byte {
            b'\r' | b'\n' => bytes.extend_from_slice(b"\r\n"),
            other => bytes.push(other),
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_message_may_be_sent_with_data_and_has_a_name_of_its_own() {
        let all = awkward();
        for Message { name, content } in &all {
            assert!(content.is_empty() || content.ends_with(b"\r\n"), "{name} ends within a line");
            let text = content.windows(2).filter(|pair| pair == b"\r\n").count();
            let marks = content.iter().filter(|byte| b"\r\n".contains(byte)).count();
            assert_eq!(marks, 2 * text, "{name} has a bare CR or LF");
        }
        assert_eq!(all.iter().map(|message| &message.name).collect::<BTreeSet<_>>().len(), all.len());
        assert!(all.len() >= 240, "{}", all.len());
    }

    #[test]
    fn no_header_looks_like_a_loop() {
        for Message { name, content } in awkward() {
            let header = memchr::memmem::find(&content, b"\r\n\r\n").map_or(&*content, |end| &content[..end + 2]);
            let header = if content.starts_with(b"\r\n") { &[] } else { header };
            let text = String::from_utf8_lossy(header).to_ascii_lowercase();
            let is_received = |line: &&str| line.split(':').next().is_some_and(|field| field.trim_end() == "received");
            let received = text.split("\r\n").filter(is_received).count();
            // RFC 5321 section 6.3: 100 are a loop, and so is what has passed here before.
            assert!(received < 100 && !text.contains(crate::HOSTNAME), "{name}: {received}");
        }
    }

    #[test]
    fn the_sizes_around_the_border_are_exact() {
        for (name, bytes) in
            [("256_kib_less_1", LARGE_BYTES - 1), ("256_kib", LARGE_BYTES), ("256_kib_and_1", LARGE_BYTES + 1)]
        {
            let found = sizes().into_iter().find(|message| message.name == name).unwrap();
            assert_eq!(found.content.len(), bytes);
        }
    }
}
