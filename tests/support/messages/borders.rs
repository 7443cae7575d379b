//! Lines, line ends and dots at the places where buffers end: in the relay, in its spool, in servers around it.

use super::{LARGE_BYTES, Message, lines, message, with_body};

/// Sizes of buffers, from stdio's to the one beyond which the spool keeps a message in a file of its own.
const BUFFERS_BYTES: [usize; 7] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, LARGE_BYTES];
/// Our trace field goes before the content, which moves every border on the way out by its length, of at most this.
const TRACE_BYTES_MAX: usize = 1000;

pub(super) fn all() -> Vec<Message> {
    let long_lines = BUFFERS_BYTES.iter().flat_map(|bytes| (bytes - 1..=bytes + 1).map(long_line));
    let dots = BUFFERS_BYTES.iter().flat_map(|bytes| (0..3).map(|shift| lone_dots_around(*bytes, shift)));
    let dotted_lines = BUFFERS_BYTES.iter().map(|bytes| line_of_dots_around(*bytes));
    [dotted(), long(), blank()].into_iter().flatten().chain(long_lines).chain(dots).chain(dotted_lines).collect()
}

/// A line that fills a buffer with its end, or lacks a byte, or has one too many; dots that want to be doubled behind it.
fn long_line(bytes: usize) -> Message {
    message(&format!("line_of_{bytes}_and_dots"), format!("{}\r\n.\r\n..\r\n.a\r\n\r\nbody\r\n", "x".repeat(bytes - 2)))
}

/// Nothing but lone dots wherever the border may fall. Three bytes each, so three of these meet it in every way.
fn lone_dots_around(bytes: usize, shift: usize) -> Message {
    let before = "x".repeat(before(bytes) + shift);
    message(
        &format!("lone_dots_around_{bytes}_and_{shift}"),
        format!("{before}\r\n{}", ".\r\n".repeat(2 * TRACE_BYTES_MAX / 3)),
    )
}

/// Dots that are not to be doubled wherever the border may fall.
fn line_of_dots_around(bytes: usize) -> Message {
    let before = "x".repeat(before(bytes));
    message(&format!("line_of_dots_around_{bytes}"), format!("{before}{}\r\n", ".".repeat(2 * TRACE_BYTES_MAX)))
}

fn before(bytes: usize) -> usize {
    bytes - TRACE_BYTES_MAX
}

fn dotted() -> Vec<Message> {
    vec![
        message("a_dot", ".\r\n"),
        message("two_dots", "..\r\n"),
        message("begins_with_a_dot", ".Subject: a dot\r\n\r\n"),
        message("dots_before_each_field", ".Subject: x\r\n..To: y\r\n.\r\n.\r\n"),
        with_body("a_lone_dot_in_the_middle", "before\r\n.\r\nafter\r\n"),
        with_body("a_lone_dot_at_the_end", "before\r\n.\r\n"),
        with_body("two_lone_dots_at_the_end", "before\r\n.\r\n.\r\n"),
        with_body("a_lone_dot_and_an_empty_line", "before\r\n.\r\n\r\n"),
        with_body("looks_like_stuffed_dots", "a\r\n..\r\n...\r\n..b\r\n"),
        with_body("dots_at_the_start_of_lines", ".a\r\n..b\r\n...c\r\n. d\r\n.\te\r\n"),
        with_body("a_dot_and_blanks", "a\r\n. \r\n.\t\r\n. \r\n"),
        with_body("blanks_and_a_dot", "a\r\n .\r\n\t.\r\n  .\r\n"),
        with_body("dots_at_the_end_of_lines", "a.\r\n.b.\r\n..c..\r\n"),
        with_body("from_one_dot_to_300", (1..=300).map(|dots| ".".repeat(dots) + "\r\n").collect::<String>()),
        with_body("nothing_but_dots", ".\r\n".repeat(60_000)),
        with_body("a_long_line_of_dots", [vec![b'.'; 70_000], b"\r\n".to_vec()].concat()),
    ]
}

fn long() -> Vec<Message> {
    let of = |name: &str, bytes: usize| with_body(name, format!("short\r\n{}\r\nshort\r\n", "x".repeat(bytes)));
    vec![
        // RFC 5321 section 4.5.3.1.6: 1000 with the CRLF is the least that a server must take.
        of("line_of_998", 998),
        of("line_of_999", 999),
        of("line_of_1000", 1000),
        // Sendmail broke lines at 990 with "!", Postfix at 998 with CRLF and a blank, Exim refuses above its own limit.
        of("line_of_2048", 2048),
        of("line_of_5000", 5000),
        of("line_of_100_kb", 100_000),
        of("line_of_1_mb", 1_000_000),
        with_body("lines_of_every_length", (0..=1100).map(|bytes| "x".repeat(bytes) + "\r\n").collect::<String>()),
        with_body("line_of_blanks", format!("{}\r\n.{}\r\n", " ".repeat(5000), "\t".repeat(5000))),
    ]
}

fn blank() -> Vec<Message> {
    vec![
        with_body("many_empty_lines", "\r\n".repeat(5000)),
        with_body("empty_lines_before_and_after", "\r\n\r\n\r\nbody\r\n\r\n\r\n"),
        with_body("ends_with_200000_empty_lines", format!("body\r\n{}", "\r\n".repeat(200_000))),
        with_body("nothing_but_blanks", " \r\n\t\r\n \t \r\n"),
        message("nothing_but_empty_lines", "\r\n".repeat(3000)),
        with_body("trailing_blanks", "spaces   \r\ntabs\t\t\r\n both \t \r\n   \r\n\t\r\n"),
        with_body("signature_separator", lines(["text ", "flowed ", "-- ", "Ann"])),
    ]
}
