//! Replies of the primary: read strictly, bounded, kept for people. Whatever is odd counts as temporary. No I/O.

use crate::mail::envelope::Offers;

/// One reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The three digits.
    pub code: u16,
    /// Each line without code and CRLF.
    pub lines: Vec<String>,
}

/// Longest line that we read: RFC 5321 section 4.5.3.1.5 says 512, and EHLO keywords may be longer.
pub const LINE_BYTES_MAX: usize = 4096;
/// One reply line (RFC 5321 section 4.5.3.1.5) tells people enough.
const WORDS_CHARS_MAX: usize = 512;
/// Lines of one reply: far more than any EHLO has.
const LINES_MAX: usize = 128;

impl Answer {
    /// 2xx.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 5xx.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// 4xx or 5xx.
    pub fn is_refusal(&self) -> bool {
        matches!(self.code / 100, 4 | 5)
    }

    /// The server closes the connection with this; it says nothing against the message (RFC 5321 section 4.2.1).
    pub fn closes(&self) -> bool {
        self.code == 421
    }

    /// The reply as people read it, cut: it is kept for each recipient.
    pub fn words(&self) -> String {
        let words = format!("{} {}", self.code, self.lines.join(" "));
        words.chars().take(WORDS_CHARS_MAX).collect()
    }
}

/// A reply of which lines are still missing.
#[derive(Default, Debug)]
pub struct PartialAnswer {
    code: Option<u16>,
    lines: Vec<String>,
}

/// Not a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("what the server said is no SMTP reply")]
pub struct Odd;

impl PartialAnswer {
    /// Takes a line, with its line end. Returns the reply once it is whole.
    pub fn line(&mut self, line: &[u8]) -> Result<Option<Answer>, Odd> {
        let line = line.strip_suffix(b"\n").ok_or(Odd)?;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (digits, rest) = line.split_at_checked(3).ok_or(Odd)?;
        let known = matches!(digits, [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9']);
        let code = str::from_utf8(digits).ok().filter(|_| known).and_then(|digits| digits.parse().ok()).ok_or(Odd)?;
        if self.code.is_some_and(|first| first != code) || self.lines.len() >= LINES_MAX {
            return Err(Odd); // lines of one reply must agree (RFC 5321 section 4.2.1)
        }
        self.code = Some(code);
        let (goes_on, text) = match rest {
            [] => (false, rest),
            [b' ', text @ ..] => (false, text),
            [b'-', text @ ..] => (true, text),
            _ => return Err(Odd),
        };
        self.lines.push(String::from_utf8_lossy(text).into_owned());
        Ok((!goes_on).then(|| Answer { code, lines: std::mem::take(&mut self.lines) }))
    }
}

/// What the primary offers, from its answer to EHLO.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extensions {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 1870: its limit in bytes, 0 if it names none.
    pub size: Option<u64>,
    /// Parameters that it takes.
    pub parameters: Offers,
}

impl Extensions {
    /// The first line is the server's name; each other one is a keyword with parameters.
    pub fn of(answer: &Answer) -> Self {
        let find = |keyword: &str| {
            let mut lines = answer.lines.iter().skip(1).map(|line| line.split_whitespace());
            lines.find_map(|mut words| {
                words.next().filter(|word| word.eq_ignore_ascii_case(keyword)).map(|_| words.next())
            })
        };
        let offers = |keyword: &str| find(keyword).is_some();
        let parameters =
            Offers { eight_bit_mime: offers("8BITMIME"), smtputf8: offers("SMTPUTF8"), dsn: offers("DSN") };
        // A limit that cannot be read is none that we could keep to.
        let size = find("SIZE").map(|limit| limit.and_then(|limit| limit.parse().ok()).unwrap_or(0));
        Self { pipelining: offers("PIPELINING"), size, parameters }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Result<Option<Answer>, Odd> {
        let mut partial = PartialAnswer::default();
        lines.iter().try_fold(None, |_, line| partial.line(line.as_bytes()))
    }

    #[test]
    fn replies_of_one_line_and_of_several_are_read() {
        let answer =
            |code, lines: &[&str]| Ok(Some(Answer { code, lines: lines.iter().map(ToString::to_string).collect() }));
        assert_eq!(read(&["250 2.1.5 ok\r\n"]), answer(250, &["2.1.5 ok"]));
        assert_eq!(read(&["250\r\n"]), answer(250, &[""]));
        assert_eq!(
            read(&["250-mx1\r\n", "250-SIZE 1000\r\n", "250 8BITMIME\n"]),
            answer(250, &["mx1", "SIZE 1000", "8BITMIME"])
        );
        assert_eq!(read(&["250-mx1\r\n"]), Ok(None));
    }

    #[test]
    fn what_is_no_reply_is_told() {
        let long: Vec<_> = std::iter::repeat_n("250-x\r\n", LINES_MAX + 1).collect();
        for lines in [
            &["hello\r\n"][..],
            &["25\r\n"],
            &["999 x\r\n"],
            &["000 x\r\n"],
            &["250x\r\n"],
            &["250-a\r\n", "550 b\r\n"],
            &long,
        ] {
            assert_eq!(read(lines), Err(Odd), "{:?}", lines[0]);
        }
    }

    #[test]
    fn extensions_are_found_in_any_case_and_not_in_the_servers_name() {
        let of = |lines: &[&str]| Extensions::of(&read(lines).unwrap().unwrap());
        let parameters = Offers { eight_bit_mime: true, smtputf8: false, dsn: true };
        assert_eq!(
            of(&["250-PIPELINING\r\n", "250-size 1000\r\n", "250-dsn\r\n", "250 8BITMIME\r\n"]),
            Extensions { pipelining: false, size: Some(1000), parameters }
        );
        for (line, size) in [("250 SIZE\r\n", Some(0)), ("250 SIZE lots\r\n", Some(0)), ("250 HELP\r\n", None)] {
            assert_eq!(of(&["250-mx1\r\n", line]).size, size, "{line}");
        }
    }
}
