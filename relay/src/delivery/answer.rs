//! Replies of the primary: read strictly, bounded, kept for people. Whatever is odd counts as temporary. No I/O.

use std::net::{IpAddr, Ipv6Addr};

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

    /// 4xx.
    pub fn is_temporary(&self) -> bool {
        self.code / 100 == 4
    }

    /// 4xx or 5xx.
    pub fn is_refusal(&self) -> bool {
        matches!(self.code / 100, 4 | 5)
    }

    /// The server closes the connection with this; it says nothing against the message (RFC 5321 section 4.2.1).
    pub fn closes(&self) -> bool {
        self.code == 421
    }

    /// Subject and detail of the enhanced status code, if it begins with one that agrees with the reply (RFC 2034 section 4).
    pub fn enhanced(&self) -> Option<(u16, u16)> {
        let mut parts = self.lines.first()?.split(' ').next()?.split('.');
        let mut number = || parts.next().filter(|part| (1..=3).contains(&part.len())).and_then(digits);
        let (class, subject, detail) = (number()?, number()?, number()?);
        (class == self.code / 100 && parts.next().is_none()).then_some((subject, detail))
    }

    /// Whether it tells of the server's own temporary trouble, and not of the mail's: 421, or 4.3.x (RFC 3463 section 3.4), or
    /// 4xx to MAIL that says nothing else.
    pub fn is_trouble(&self, is_to_mail: bool) -> bool {
        let is_own = self.enhanced().map_or(is_to_mail, |(subject, _)| subject == 3);
        self.closes() || self.is_temporary() && is_own
    }

    /// As an answer to RCPT: this one is too many, at least for now. 552 says so, too: RFC 5321 section 4.5.3.1.10.
    pub fn is_too_many(&self) -> bool {
        self.code == 552 || self.code == 452 && matches!(self.enhanced(), None | Some((5, 3)))
    }

    /// As an answer to EHLO: the address from which the server sees us come. Many greet us with it, in brackets behind their own name
    /// (`mx1.example.org Hello mx2.example.org [203.0.113.9]`). Two different ones leave open which is meant.
    pub fn seen_from(&self) -> Option<IpAddr> {
        // RFC 5321 section 4.1.1.1: its own domain comes first, which may be an address, too.
        let (_, greeting) = self.lines.first()?.split_once(' ')?;
        let in_brackets = greeting.split('[').skip(1).filter_map(|rest| rest.split_once(']')).map(|(inside, _)| inside);
        let mut addresses = in_brackets.filter_map(literal);
        let first = addresses.next()?;
        let is_clear = addresses.all(|other| other == first) && !first.is_unspecified() && !first.is_multicast();
        is_clear.then_some(first)
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

/// RFC 5321 section 4.1.3; some servers leave out the tag of IPv6.
fn literal(text: &str) -> Option<IpAddr> {
    const TAG: &str = "IPv6:";
    let tagged = text.split_at_checked(TAG.len()).filter(|(tag, _)| tag.eq_ignore_ascii_case(TAG));
    let address = match tagged {
        Some((_, address)) => address.parse().ok().map(|address: Ipv6Addr| address.into()),
        None => text.parse().ok(),
    };
    address.map(|address: IpAddr| address.to_canonical())
}

fn digits(text: &str) -> Option<u16> {
    // `parse` alone would take a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
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
    fn the_greeting_of_ehlo_tells_where_we_come_from_if_there_is_one_address_in_it() {
        for (line, address) in [
            ("mx1.example.org Hello mx2.example.org [203.0.113.9]", Some("203.0.113.9")), // Exim
            ("mx1.example.org Hello mx2.example.org [203.0.113.9], pleased to meet you", Some("203.0.113.9")), // sendmail, OpenSMTPD
            ("mx1.example.org Hello [203.0.113.9]", Some("203.0.113.9")), // Exchange
            ("mx1.example.org Hello mx2.example.org [IPv6:2001:db8::9]", Some("2001:db8::9")),
            ("mx1.example.org Hello mx2.example.org [ipv6:2001:db8::9]", Some("2001:db8::9")),
            ("mx1.example.org Hello mx2.example.org [2001:db8::9]", Some("2001:db8::9")),
            ("mx1.example.org Hello mx2.example.org [IPv6:::ffff:203.0.113.9]", Some("203.0.113.9")),
            ("[192.0.2.1] Hello mx2.example.org [203.0.113.9]", Some("203.0.113.9")),
            ("mx1.example.org Hello [203.0.113.9] ([203.0.113.9])", Some("203.0.113.9")),
            ("mx1.example.org Hello [10.0.0.9] ([203.0.113.9])", None),
            ("[192.0.2.1]", None),
            ("mx1.example.org", None), // Postfix
            ("mx1.example.org at your service, 203.0.113.9", None),
            ("mx1.example.org Hello [0.0.0.0]", None),
            ("mx1.example.org Hello [IPv6:::]", None),
            ("mx1.example.org Hello [224.0.0.1]", None),
            ("mx1.example.org Hello [203.0.113.9:4711]", None),
            ("mx1.example.org Hello [203.0.113.009]", None),
            ("mx1.example.org Hello [IPv6:203.0.113.9]", None),
            ("mx1.example.org Hello [IPv6:fe80::1%eth0]", None),
            ("mx1.example.org Hello [ 203.0.113.9 ]", None),
            ("mx1.example.org Hello [203.0.113.9", None),
            ("mx1.example.org Hello [[203.0.113.9]]", Some("203.0.113.9")),
            ("mx1.example.org Hello [x] [203.0.113.9]", Some("203.0.113.9")),
            ("", None),
        ] {
            let answer = read(&[&format!("250-{line}\r\n"), "250-Hello [198.51.100.1]\r\n", "250 SIZE 1000\r\n"]);
            let expected = address.map(|text| text.parse().unwrap());
            assert_eq!(answer.unwrap().unwrap().seen_from(), expected, "{line}");
        }
    }

    #[test]
    fn a_reply_tells_whose_trouble_it_is() {
        // (reply, enhanced, trouble at RCPT, trouble at MAIL, too many)
        for (line, enhanced, at_rcpt, at_mail, too_many) in [
            ("450 4.2.1 later", Some((2, 1)), false, false, false),
            ("450 later", None, false, true, false),
            ("451 4.3.0 later", Some((3, 0)), true, true, false),
            ("452 4.3.1 full", Some((3, 1)), true, true, false),
            ("452 4.5.3 many", Some((5, 3)), false, false, true),
            ("452 many", None, false, true, true),
            ("421 4.7.0 go", Some((7, 0)), true, true, false),
            ("552 5.2.2 full", Some((2, 2)), false, false, true),
            ("550 4.3.0 no", None, false, false, false),
            ("550 5.3.0 no", Some((3, 0)), false, false, false),
            ("451 4.3 x", None, false, true, false),
            ("451 4.3.0.1 x", None, false, true, false),
            ("451 4.+3.1 x", None, false, true, false),
            ("451 4.3.1234 x", None, false, true, false),
            ("250 2.3.0 ok", Some((3, 0)), false, false, false),
        ] {
            let answer = read(&[&format!("{line}\r\n")]).unwrap().unwrap();
            let found = (answer.enhanced(), answer.is_trouble(false), answer.is_trouble(true), answer.is_too_many());
            assert_eq!(found, (enhanced, at_rcpt, at_mail, too_many), "{line}");
        }
    }
}
