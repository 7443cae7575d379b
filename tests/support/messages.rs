//! Awkward messages: each has once been altered, refused or cut by some mail server. All may be sent with DATA.

use crate::chance::Chance;

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
    [little(), dots(), lines(), bytes(), headers(), signed(), imitations(), sizes()].concat()
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

fn dots() -> Vec<Message> {
    vec![
        message("a_dot", ".\r\n"),
        message("two_dots", "..\r\n"),
        message("begins_with_a_dot", ".Subject: a dot\r\n\r\n"),
        with_body("a_lone_dot_in_the_middle", "before\r\n.\r\nafter\r\n"),
        with_body("a_lone_dot_at_the_end", "before\r\n.\r\n"),
        with_body("looks_like_stuffed_dots", "a\r\n..\r\n...\r\n..b\r\n"),
        with_body("dots_at_the_start_of_lines", ".a\r\n..b\r\n...c\r\n. d\r\n.\te\r\n"),
        with_body("a_dot_and_blanks", "a\r\n. \r\n.\t\r\n. \r\n"),
        with_body("dots_at_the_end_of_lines", "a.\r\n.b.\r\n..c..\r\n"),
        // Three bytes, so that CRLF and dot meet the end of every buffer in every way.
        with_body("nothing_but_dots", ".\r\n".repeat(60_000)),
        with_body("a_long_line_of_dots", [vec![b'.'; 70_000], b"\r\n".to_vec()].concat()),
    ]
}

fn lines() -> Vec<Message> {
    let long = |name: &str, bytes: usize| with_body(name, format!("short\r\n{}\r\nshort\r\n", "x".repeat(bytes)));
    vec![
        // RFC 5321 section 4.5.3.1.6: 1000 with the CRLF is the least that a server must take.
        long("line_of_998", 998),
        long("line_of_999", 999),
        long("line_of_5000", 5000),
        long("line_of_100_kb", 100_000),
        with_body("many_empty_lines", "\r\n".repeat(5000)),
        with_body("empty_lines_before_and_after", "\r\n\r\n\r\nbody\r\n\r\n\r\n"),
        with_body("trailing_blanks", "spaces   \r\ntabs\t\t\r\n both \t \r\n   \r\n\t\r\n"),
        with_body("signature_separator", "text \r\nflowed \r\n-- \r\nAnn\r\n"),
        message("long_header_field", format!("Subject: {}\r\n\r\nbody\r\n", "x".repeat(20_000))),
    ]
}

fn bytes() -> Vec<Message> {
    let controls: Vec<u8> = (0..32).chain([127]).filter(|byte| !b"\r\n".contains(byte)).collect();
    let upper: Vec<u8> = (128..=255).collect();
    vec![
        with_body("latin1", b"Gr\xfc\xdfe aus K\xf6ln\r\n"),
        with_body("utf8", "Grüße, 你好, 🙂, e\u{301}\r\n"),
        with_body("broken_utf8", b"\xc3\r\n\xff\xfe\xfd \xc0\xaf \xed\xa0\x80\r\n"),
        message("byte_order_mark_first", "\u{feff}Subject: a mark\r\n\r\nbody\r\n"),
        message("header_in_latin1", b"Subject: Gr\xfc\xdfe\r\nFrom: J\xf6rg <j@client.example>\r\n\r\nbody\r\n"),
        message("header_in_utf8", "Subject: Grüße\r\nFrom: 李 <l@client.example>\r\n\r\nbody\r\n"),
        with_body("nul", b"before\0after\r\n\0\r\n\0\0\0\r\n"),
        with_body("every_control_character", [&controls, &b"\r\n"[..]].concat()),
        with_body("every_8_bit_character", [&upper, &b"\r\n"[..]].concat()),
        with_body("escape_sequences", "\u{1b}[31mred\u{1b}[0m\u{8}\u{7f}\r\n"),
        with_body("any_bytes", any_bytes(60_000)),
    ]
}

fn headers() -> Vec<Message> {
    let many: String = (0..2000).map(|number| format!("X-Field-{number}: value\r\n")).collect();
    vec![
        message("folded", "Subject: one\r\n two\r\n\tthree\r\n  \t four\r\nTo: a@b,\r\n c@d\r\n\r\nbody\r\n"),
        message("folded_with_blank_lines", "Subject: one\r\n \r\n\t\r\n two\r\n\r\nbody\r\n"),
        message(
            "odd_fields",
            "A:\r\nB:b\r\nC :c\r\nD:  d  \r\nE: :\r\nsubject: lower\r\nSUBJECT: upper\r\n\r\nbody\r\n",
        ),
        message("many_fields", format!("{many}\r\nbody\r\n")),
        message(
            "private_fields",
            "Return-Path: <x@y>\r\nBcc: secret@z\r\nResent-To: r@z\r\nStatus: RO\r\n\r\nbody\r\n",
        ),
        message("content_length", "Content-Length: 1\r\nLines: 99\r\n\r\nlonger than it says\r\n"),
        message(
            "received_before",
            "Received: from a.example ([192.0.2.1])\r\n\tby b.example (Postfix) with ESMTPS id 1\r\n\tfor <x@y>; \
             Sun, 22 Nov 2026 11:00:00 +0000\r\nReceived: by a.example; Sun, 22 Nov 2026 10:00:00 +0000\r\n\
             Subject: came far\r\n\r\nbody\r\n",
        ),
    ]
}

fn signed() -> Vec<Message> {
    vec![
        message(
            "multipart_signed",
            "MIME-Version: 1.0\r\nContent-Type: multipart/signed; micalg=\"pgp-sha256\";\r\n \
             protocol=\"application/pgp-signature\"; boundary=\"=-b\"\r\n\r\nPreamble \r\n--=-b\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
             signed text, trailing blanks count:  \t\r\n.\r\nGrüße\r\n\r\n--=-b\r\n\
             Content-Type: application/pgp-signature\r\n\r\n-----BEGIN PGP SIGNATURE-----\r\n\r\niQEzBAEB\r\n=abcd\r\n\
             -----END PGP SIGNATURE-----\r\n--=-b--\r\nEpilogue\r\n",
        ),
        message(
            "dkim_signed",
            "DKIM-Signature: v=1; a=rsa-sha256; c=simple/simple; d=client.example; s=s1;\r\n\th=From:To:Subject;\r\n\t \
             bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=;\r\n\tb=dzdVyOfAKCdLXdJOc9G2q8LoXSlEniSbav+yuU4zGeer\r\n\t \
             uruD00lszZVoG4ZHRNiYzR\r\nFrom:  Ann  <ann@client.example> \r\nTo: bob@example.org\r\nSubject:  two  blanks\t\r\n\
             \r\nsimple canonicalization forgives nothing \r\n\r\n\r\n",
        ),
        message(
            "nested_message",
            "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: message/rfc822\r\n\r\n\
             Received: by inner.example; Sun, 22 Nov 2026 09:00:00 +0000\r\nSubject: inner\r\n\r\n.inner body\r\n--x--\r\n",
        ),
    ]
}

fn imitations() -> Vec<Message> {
    vec![
        with_body(
            "looks_like_commands",
            "QUIT\r\nRSET\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nfake\r\n.\r\nQUIT\r\n",
        ),
        with_body("looks_like_replies", "250 2.0.0 ok\r\n354 go on\r\n421 4.3.2 closing\r\n"),
        with_body(
            "looks_like_mbox",
            "From ann@client.example Sun Nov 22 12:00:00 2026\r\nFrom here on\r\n>From there\r\n",
        ),
        message("begins_like_mbox", "From ann@client.example Sun Nov 22 12:00:00 2026\r\nSubject: x\r\n\r\nbody\r\n"),
        message(
            "carries_a_field_like_ours",
            "Received: from a ([1.2.3.4]) by elsewhere.example (BackupMx) with ESMTP id 0;\r\n Sun, 22 Nov 2026 \
             12:00:00 +0000\r\nSubject: another relay was here\r\n\r\nbody\r\n",
        ),
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
    let base64 = "QmFja3VwTXgga2VlcHMgbWFpbCB3aGlsZSBhIHByaW1hcnkgc2VydmVyIGlzIGF3YXkuLi4=\r\n";
    vec![
        with_body("base64_of_1_mb", base64.repeat(1_000_000 / base64.len())),
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
        assert!(all.len() >= 30, "{}", all.len());
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
