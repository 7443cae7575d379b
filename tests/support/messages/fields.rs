//! Headers that other servers have completed, sorted, folded anew, cut off, or taken for something else.

use super::{Message, lines, message};
use crate::chance::Chance;

pub(super) fn all() -> Vec<Message> {
    [shapes(), names(), values(), lengths(), traces()].concat()
}

fn shapes() -> Vec<Message> {
    vec![
        message("folded", "Subject: one\r\n two\r\n\tthree\r\n  \t four\r\nTo: a@b,\r\n c@d\r\n\r\nbody\r\n"),
        message("folded_with_blank_lines", "Subject: one\r\n \r\n\t\r\n two\r\n\r\nbody\r\n"),
        message("header_ends_within_a_folded_field", "Subject: one\r\n two\r\n"),
        message("blank_line_in_place_of_the_empty_one", "Subject: x\r\n \t \r\nbody, or a field without its colon\r\n"),
        message(
            "a_line_without_colon",
            "Subject: x\r\nthis ends the header, some say\r\nTo: bob@example.org\r\n\r\nbody\r\n",
        ),
        message("begins_with_a_colon", ": this field has no name\r\nSubject: x\r\n\r\nbody\r\n"),
        message("nothing_but_colons", ":\r\n::\r\n: :\r\n\r\n:\r\n"),
        message("header_twice", "Subject: one\r\n\r\nSubject: two\r\n\r\nbody\r\n"),
        message(
            "fields_that_may_stand_once_only",
            lines([
                "From: ann@client.example",
                "From: eve@client.example",
                "Sender: a@client.example",
                "Sender: b@client.example",
                "Subject: one",
                "Subject: two",
                "Message-ID: <1@client.example>",
                "Message-ID: <2@client.example>",
                "Date: Sun, 22 Nov 2026 12:00:00 +0000",
                "Date: Mon, 23 Nov 2026 12:00:00 +0000",
                "MIME-Version: 1.0",
                "MIME-Version: 1.0",
                "Content-Type: text/plain",
                "Content-Type: text/html",
                "",
                "<p>which one?",
            ]),
        ),
        message("neither_date_nor_sender_nor_id", "Subject: some servers add what is missing\r\n\r\nbody\r\n"),
    ]
}

fn names() -> Vec<Message> {
    let printable: String = (b'!'..=b'~').filter(|byte| *byte != b':').map(char::from).collect();
    vec![
        message(
            "odd_fields",
            "A:\r\nB:b\r\nC :c\r\nD:  d  \r\nE: :\r\nsubject: lower\r\nSUBJECT: upper\r\n\r\nbody\r\n",
        ),
        message("a_name_of_every_character", format!("{printable}: x\r\n\r\nbody\r\n")),
        message(
            "odd_names",
            "X_under_score: 1\r\n-: 2\r\n1: 3\r\n\"Subject\": 4\r\nSubject\t: 5\r\nSub ject: 6\r\n<a@b>: 7\r\n(x): 8\r\n\r\nx\r\n",
        ),
        message(
            "a_name_outside_ascii",
            "Betreff-Grüße: x\r\n\u{41f}\u{438}\u{441}\u{44c}\u{43c}\u{43e}: y\r\n\r\nbody\r\n",
        ),
        message("a_name_of_2000_bytes", format!("X-{}: x\r\n\r\nbody\r\n", "Name".repeat(500))),
        message(
            "names_in_any_case",
            "mImE-vErSiOn: 1.0\r\nCONTENT-type: TEXT/plain\r\nmessage-Id: <A@B>\r\n\r\nbody\r\n",
        ),
        message(
            "private_fields",
            "Return-Path: <x@y>\r\nBcc: secret@z\r\nResent-To: r@z\r\nStatus: RO\r\n\r\nbody\r\n",
        ),
        message(
            "fields_that_mean_a_loop_elsewhere",
            "Delivered-To: bob@example.org\r\nX-Loop: bob@example.org\r\nX-Original-To: bob@example.org\r\n\
             Auto-Submitted: auto-replied\r\nPrecedence: junk\r\nList-Id: <example.org>\r\n\r\nbody\r\n",
        ),
        message(
            "fields_for_other_programs",
            "X-UIDL: 1\r\nX-Mozilla-Status: 8001\r\nX-IMAP: 1 2\r\nX-Spam-Flag: YES\r\nX-MS-Exchange-Organization-SCL: 9\r\n\
             Authentication-Results: example.org; dkim=pass\r\n\r\nbody\r\n",
        ),
    ]
}

fn values() -> Vec<Message> {
    let every_8_bit: Vec<u8> = (128..=255).collect();
    vec![
        message("empty_values", "Subject:\r\nTo: \r\nCc:\t\r\nX-Folded:\r\n \r\nX-Last:\r\n\r\nbody\r\n"),
        message("blanks_behind_values", "Subject: x   \r\nTo: bob@example.org\t\r\nX: \t x \t \r\n\r\nbody\r\n"),
        message("nul_in_a_field", "Subject: before\0after\r\nX\0: y\r\n\r\nbody\r\n"),
        message("header_in_latin1", b"Subject: Gr\xfc\xdfe\r\nFrom: J\xf6rg <j@client.example>\r\n\r\nbody\r\n"),
        message("header_in_utf8", "Subject: Grüße\r\nFrom: 李 <l@client.example>\r\n\r\nbody\r\n"),
        message(
            "every_8_bit_character_in_a_field",
            [b"Subject: ".as_slice(), &every_8_bit, b"\r\n\r\nbody\r\n"].concat(),
        ),
        message(
            "broken_encoded_words",
            "Subject: =?utf-8?Q?Gr=C3?= =?utf-8?Q?=BC=C3=9Fe?=\r\nX: =?utf-8?B?!!!?= =?x-none?Q?a?= =??Q??= =?utf-8?Q?a b?=\r\n\
             Y: =?utf-8?q?_=\r\n =41?=\r\n\r\nbody\r\n",
        ),
        message(
            "odd_addresses",
            "From: (a (nested) comment) \"q\\\"uoted\" <a@b> (tail)\r\nTo: undisclosed-recipients:;\r\nCc: ;\r\n\
             Bcc: <@x,@y:z@w>, a@[192.0.2.1], \"\"@b, a.@b, <>\r\nReply-To: a@b c@d\r\n\r\nbody\r\n",
        ),
        message(
            "odd_dates",
            "Date: Thu, 1 Jan 70 00:00 GMT\r\nResent-Date: (none)\r\nDate: Sat, 31 Dec 9999 23:59:60 +1400\r\n\
             Date: 2026-11-22T12:00:00Z\r\n\r\nbody\r\n",
        ),
        message(
            "odd_message_ids",
            "Message-ID: <>\r\nIn-Reply-To: <a b@c> no brackets <x@y\r\nReferences:\r\n <1@a>\r\n\t<2@b>\r\n\r\nbody\r\n",
        ),
        message("content_length", "Content-Length: 1\r\nLines: 99\r\n\r\nlonger than it says\r\n"),
        message(
            "looks_like_code_for_a_log",
            "Subject: ${jndi:ldap://client.example/a} %s%n%x $(id) `id`\r\nX: ';--\r\nY: <script>\r\n\r\n{{7*7}}\r\n",
        ),
    ]
}

fn lengths() -> Vec<Message> {
    let numbered = |count: usize, line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<String>();
    let many = numbered(2000, &|number| format!("X-Field-{number}: value\r\n"));
    // Over Postfix' header_size_limit of 102400, beyond which it takes the rest for body.
    let header_of_200_kb = numbered(3000, &|number| format!("X-Field-{number}: {}\r\n", "x".repeat(50)));
    let recipients = numbered(3000, &|number| format!(",\r\n\tRecipient {number} <r{number}@example.org>"));
    let references = numbered(1000, &|number| format!("\r\n <{number}@client.example>"));
    vec![
        message("long_header_field", format!("Subject: {}\r\n\r\nbody\r\n", "x".repeat(20_000))),
        message("field_of_100_kb", format!("References: {}\r\n\r\nbody\r\n", "<x@y> ".repeat(17_000))),
        message("folded_field_of_1000_lines", format!("References:{references}\r\n\r\nbody\r\n")),
        message("field_folded_by_blank_lines", format!("Subject: x\r\n{}\r\nbody\r\n", " \r\n".repeat(1000))),
        message("many_fields", format!("{many}\r\nbody\r\n")),
        message("header_of_200_kb", format!("{header_of_200_kb}\r\nbody\r\n")),
        message("to_thousands", format!("To: a@example.org{recipients}\r\nSubject: x\r\n\r\nbody\r\n")),
        message("field_of_any_bytes", [b"X: ".to_vec(), no_line_ends(5000), b"\r\n\r\nbody\r\n".to_vec()].concat()),
    ]
}

/// A server refuses what has 100 `Received` fields as a loop; what only looks like them must not be counted.
fn traces() -> Vec<Message> {
    let received = "Received: by a.example; Sun, 22 Nov 2026 11:00:00 +0000\r\n";
    let alike = "X-Received: by a.example; x\r\nReceived-SPF: pass\r\nReceivedX: y\r\nReceive: z\r\n";
    vec![
        message(
            "received_before",
            "Received: from a.example ([192.0.2.1])\r\n\tby b.example (Postfix) with ESMTPS id 1\r\n\tfor <x@y>; \
             Sun, 22 Nov 2026 11:00:00 +0000\r\nReceived: by a.example; Sun, 22 Nov 2026 10:00:00 +0000\r\n\
             Subject: came far\r\n\r\nbody\r\n",
        ),
        message(
            "odd_received_fields",
            "Received:\r\nreceived: x\r\nRECEIVED:;\r\nReceived: (qmail 1 invoked by uid 0); 22 Nov 2026 12:00:00 -0000\r\n\
             Received: from [1.2.3.4:5] by x with http; id=\"\r\n\r\nbody\r\n",
        ),
        message("received_99_times", format!("{}Subject: one less than a loop\r\n\r\nbody\r\n", received.repeat(99))),
        message("received_only_in_the_body", format!("Subject: x\r\n\r\n{}", received.repeat(5000))),
        message("received_only_behind_an_empty_line", format!("\r\n{}", received.repeat(200))),
        message("received_in_names_of_others", format!("{}\r\nbody\r\n", alike.repeat(100))),
        message(
            "received_in_a_folded_field",
            format!("Subject: x\r\n{}\r\nbody\r\n", format!(" {received}").repeat(200)),
        ),
        message(
            "received_in_a_message_within",
            format!("Content-Type: message/rfc822\r\n\r\n{}Subject: inner\r\n\r\nbody\r\n", received.repeat(200)),
        ),
    ]
}

/// Bytes of every value but CR and LF, which would end the line.
fn no_line_ends(count: usize) -> Vec<u8> {
    let mut chance = Chance::seeded(11);
    let mut byte = || (chance.number() >> 32) as u8;
    (0..count).map(|_| Some(byte()).filter(|byte| !b"\r\n".contains(byte)).unwrap_or(b'x')).collect()
}
