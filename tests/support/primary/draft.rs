//! A transaction under way, and the commands that make it. No I/O.

/// From MAIL to the end of the content.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) sender: String,
    pub(super) parameters: String,
    pub(super) recipients: Vec<String>,
    pub(super) recipient_parameters: Vec<String>,
    /// What came by BDAT so far; `None` before the first part.
    pub(super) parts: Option<Vec<u8>>,
}

/// Address and parameters of a command that begins with `start`.
pub(super) fn path<'a>(command: &'a str, start: &str) -> Option<(&'a str, &'a str)> {
    let (head, rest) = command.split_at_checked(start.len())?;
    if !head.eq_ignore_ascii_case(start) {
        return None;
    }
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some((&rest[..at], rest[at + 1..].trim_start())),
            _ => {}
        }
    }
    None
}

/// Length of the part that follows `BDAT 5 LAST`, and whether it is the last one (RFC 3030 section 2).
pub(super) fn part(command: &str) -> Option<(usize, bool)> {
    let mut words = command.split(' ').skip(1);
    let bytes = words.next()?.parse().ok()?;
    match (words.next(), words.next()) {
        (None, _) => Some((bytes, false)),
        (Some(last), None) if last.eq_ignore_ascii_case("LAST") => Some((bytes, true)),
        (Some(_), _) => None,
    }
}

pub(super) fn has_bare_line_end(content: &[u8]) -> bool {
    memchr::memchr2_iter(b'\r', b'\n', content).any(|at| match content[at] {
        b'\r' => content.get(at + 1) != Some(&b'\n'),
        _ => at == 0 || content[at - 1] != b'\r',
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_ends_at_the_first_bracket_outside_of_quotes() {
        assert_eq!(path("MAIL FROM:<a@b> SIZE=1", "MAIL FROM:<"), Some(("a@b", "SIZE=1")));
        assert_eq!(path(r#"RCPT TO:<"a>\" b"@c>"#, "RCPT TO:<"), Some((r#""a>\" b"@c"#, "")));
        assert_eq!(path("MAIL FROM:<>", "MAIL FROM:<"), Some(("", "")));
        assert_eq!(path("MAIL FROM: <a@b>", "MAIL FROM:<"), None);
    }

    #[test]
    fn a_part_has_a_length_and_may_be_the_last() {
        for (command, expected) in [
            ("BDAT 5", Some((5, false))),
            ("BDAT 0 LAST", Some((0, true))),
            ("bdat 7 last", Some((7, true))),
            ("BDAT", None),
            ("BDAT x", None),
            ("BDAT 5 FIRST", None),
            ("BDAT 5 LAST x", None),
        ] {
            assert_eq!(part(command), expected, "{command}");
        }
    }

    #[test]
    fn a_bare_line_end_is_seen() {
        for (content, bare) in [("a\r\n\r\n", false), ("\na", true), ("a\rb", true), ("a\r\r\n", true), ("a\r", true)] {
            assert_eq!(has_bare_line_end(content.as_bytes()), bare, "{content:?}");
        }
    }
}
