//! What RFC 5321 says of content, in the plainest way: all of it at once, no states, no speed. Shares no code with the
//! relay.

use memchr::memmem;

/// What a message's content is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reading {
    /// To be kept, like this.
    Content(Vec<u8>),
    /// A CR or LF stands alone: to be refused (RFC 5321 section 2.3.8).
    BareLineEnd,
}

/// Reads what follows the command line of DATA: the content, and what stands behind its end. `None` if it has no end.
pub fn read_data(wire: &[u8]) -> Option<(Reading, &[u8])> {
    // The CRLF of the command line counts: RFC 5321 section 4.1.1.4.
    let lines = [b"\r\n", wire].concat();
    let end = memmem::find(&lines, b"\r\n.\r\n")?;
    let rest = &wire[end + 3..];
    let stuffed = &lines[..end + 2];
    if has_bare_line_end(stuffed) {
        return Some((Reading::BareLineEnd, rest));
    }
    // Of each line that begins with a dot, that dot goes: section 4.5.2.
    let mut content = Vec::new();
    let mut from = 2;
    while from < stuffed.len() {
        let line_end = from + memmem::find(&stuffed[from..], b"\r\n").unwrap_or_default() + 2;
        let line = &stuffed[from..line_end];
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        from = line_end;
    }
    Some((Reading::Content(content), rest))
}

/// Whether the real end of data is in it, the CRLF of the command line before it counted.
pub fn has_end_of_data(wire: &[u8]) -> bool {
    read_data(wire).is_some()
}

/// Reads content that came by BDAT, all parts of it.
pub fn read_parts(content: &[u8]) -> Reading {
    if has_bare_line_end(content) {
        return Reading::BareLineEnd;
    }
    // DATA towards the primary cannot carry a last line without its end (docs/smtp.md).
    let end: &[u8] = if content.is_empty() || content.ends_with(b"\r\n") { b"" } else { b"\r\n" };
    Reading::Content([content, end].concat())
}

/// Whether a fault shows in these parts, of which they are not the last: whether a CR at their end stands alone is not
/// known yet.
pub fn part_is_faulty(content: &[u8]) -> bool {
    has_bare_line_end(content.strip_suffix(b"\r").unwrap_or(content))
}

fn has_bare_line_end(content: &[u8]) -> bool {
    let line_ends = memmem::find_iter(content, b"\r\n").count();
    let count = |wanted: u8| content.iter().filter(|byte| **byte == wanted).count();
    count(b'\r') != line_ends || count(b'\n') != line_ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_goes_to_the_first_real_end_and_loses_one_dot_of_each_line() {
        let content = |text: &str| Reading::Content(text.into());
        for (wire, reading, rest) in [
            (".\r\n", content(""), ""),
            ("a\r\n.\r\nQUIT\r\n", content("a\r\n"), "QUIT\r\n"),
            ("..\r\n.a\r\n...\r\n.\r\n.\r\n", content(".\r\na\r\n..\r\n"), ".\r\n"),
            ("a\n.\n\r\n.\r\n", Reading::BareLineEnd, ""),
            ("a\r\r\n.\r\n", Reading::BareLineEnd, ""),
            ("\r\n.\r\n", content("\r\n"), ""),
        ] {
            assert_eq!(read_data(wire.as_bytes()), Some((reading, rest.as_bytes())), "{wire:?}");
        }
        for wire in ["", "a", ".\r", "a.\r\n", "\n.\r\n", "\r\n..\r\n", ".\n", ".\r.\r\n"] {
            assert_eq!(read_data(wire.as_bytes()), None, "{wire:?}");
        }
    }

    #[test]
    fn parts_are_read_as_they_are_and_a_cr_may_wait_for_its_lf() {
        assert_eq!(read_parts(b"a\r\n.\r\n..b"), Reading::Content(b"a\r\n.\r\n..b\r\n".to_vec()));
        assert_eq!(read_parts(b"a\r\n\r"), Reading::BareLineEnd);
        for (parts, is_faulty) in [("a\r", false), ("a\r\n\r", false), ("a\r\r", true), ("a\n", true), ("\rb", true)] {
            assert_eq!(part_is_faulty(parts.as_bytes()), is_faulty, "{parts:?}");
        }
    }
}
