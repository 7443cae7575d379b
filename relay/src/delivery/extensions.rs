//! What the primary offers, from its answer to EHLO. No I/O.

use super::answer::Answer;
use crate::mail::envelope::Offers;

/// All that one EHLO told. After the next one nothing of it holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extensions {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 3030: content by BDAT.
    pub chunking: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 1870: its limit in bytes, 0 if it names none.
    pub size: Option<u64>,
    /// Parameters that it takes.
    pub parameters: Offers,
    /// What it wants to know of our client, for its log (XFORWARD of Postfix).
    pub xforward: Vec<Attribute>,
    /// What we may tell of the client whose mail it is to judge (XCLIENT of Postfix). It offers that only to whom it lists.
    pub xclient: Vec<Attribute>,
    /// What it puts up with on this connection.
    pub limits: Limits,
}

/// What XFORWARD and XCLIENT can tell (Postfix, XFORWARD_README and XCLIENT_README).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attribute {
    /// The client's name in DNS.
    Name,
    /// Its address.
    Addr,
    /// Its port.
    Port,
    /// How it spoke.
    Proto,
    /// What it called itself.
    Helo,
    /// What the message is called here.
    Ident,
    /// Whether the message came from elsewhere.
    Source,
}

impl Attribute {
    /// Those that we tell by XFORWARD, in the order in which Postfix tells them.
    pub const FORWARDED: [Self; 6] = [Self::Name, Self::Addr, Self::Proto, Self::Helo, Self::Ident, Self::Source];
    /// Those that we tell by XCLIENT.
    pub const OF_CLIENT: [Self; 5] = [Self::Name, Self::Addr, Self::Port, Self::Proto, Self::Helo];

    /// The word for it.
    pub fn keyword(self) -> &'static str {
        match self {
            Self::Name => "NAME",
            Self::Addr => "ADDR",
            Self::Port => "PORT",
            Self::Proto => "PROTO",
            Self::Helo => "HELO",
            Self::Ident => "IDENT",
            Self::Source => "SOURCE",
        }
    }
}

/// LIMITS (RFC 9422). What is absent or cannot be read limits nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// RCPTMAX: recipients of one transaction.
    pub recipients_max: Option<u32>,
    /// MAILMAX: transactions of one connection, those that failed included.
    pub mails_max: Option<u32>,
}

impl Extensions {
    /// The first line is the server's name; each other one is a keyword with parameters.
    pub fn of(answer: &Answer) -> Self {
        let find = |keyword: &str| {
            let mut lines = answer.lines.iter().skip(1).map(|line| line.split_whitespace());
            lines.find_map(|mut words| words.next().filter(|word| word.eq_ignore_ascii_case(keyword)).map(|_| words))
        };
        let offers = |keyword: &str| find(keyword).is_some();
        let parameters =
            Offers { eight_bit_mime: offers("8BITMIME"), smtputf8: offers("SMTPUTF8"), dsn: offers("DSN") };
        // A limit that cannot be read is none that we could keep to.
        let size = find("SIZE").map(|mut words| words.next().and_then(|limit| limit.parse().ok()).unwrap_or(0));
        let wanted = |keyword: &str, told: &[Attribute]| -> Vec<Attribute> {
            let words: Vec<_> = find(keyword).into_iter().flatten().collect();
            let is_wanted =
                |attribute: &Attribute| words.iter().any(|word| word.eq_ignore_ascii_case(attribute.keyword()));
            told.iter().copied().filter(is_wanted).collect()
        };
        Self {
            pipelining: offers("PIPELINING"),
            chunking: offers("CHUNKING"),
            starttls: offers("STARTTLS"),
            size,
            parameters,
            xforward: wanted("XFORWARD", &Attribute::FORWARDED),
            xclient: wanted("XCLIENT", &Attribute::OF_CLIENT),
            limits: Limits::of(find("LIMITS").into_iter().flatten()),
        }
    }
}

impl Limits {
    fn of<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let mut limits = Self::default();
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let limit = match name.to_ascii_uppercase().as_str() {
                "RCPTMAX" => &mut limits.recipients_max,
                "MAILMAX" => &mut limits.mails_max,
                _ => continue,
            };
            *limit = limit.or(limit_value(value));
        }
        limits
    }
}

/// One to six digits, the first of which is no zero (RFC 9422 section 4).
fn limit_value(text: &str) -> Option<u32> {
    let is_number = (1..=6).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number && !text.starts_with('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(keywords: &[&str]) -> Extensions {
        let lines = ["PIPELINING"].iter().chain(keywords).map(ToString::to_string).collect();
        Extensions::of(&Answer { code: 250, lines })
    }

    #[test]
    fn extensions_are_found_in_any_case_and_not_in_the_servers_name() {
        let parameters = Offers { eight_bit_mime: true, smtputf8: false, dsn: true };
        let expected = Extensions { chunking: true, size: Some(1000), parameters, ..Extensions::default() };
        assert_eq!(of(&["size 1000", "dsn", "8BITMIME", "Chunking"]), expected);
        for (keyword, size) in [("SIZE", Some(0)), ("SIZE lots", Some(0)), ("SIZE=5", None), ("HELP", None)] {
            assert_eq!(of(&[keyword]).size, size, "{keyword}");
        }
    }

    #[test]
    fn xforward_tells_only_what_is_wanted_and_known() {
        let xforward = of(&["XFORWARD NAME proto PORT IDENT REVERSE"]).xforward;
        assert_eq!(xforward, [Attribute::Name, Attribute::Proto, Attribute::Ident]);
        assert_eq!(of(&["XFORWARD"]).xforward, []);
        let xclient = of(&["XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR"]).xclient;
        assert_eq!(xclient, Attribute::OF_CLIENT);
        assert_eq!(of(&["STARTTLS"]).xforward, []);
    }

    #[test]
    fn limits_are_read_strictly_and_nonsense_is_none() {
        let (some, none) = (Some, None);
        for (keyword, recipients_max, mails_max) in [
            ("LIMITS RCPTMAX=20 MAILMAX=5 RCPTDOMAINMAX=1", some(20), some(5)),
            ("limits rcptmax=1 mailmax=999999", some(1), some(999_999)),
            ("LIMITS RCPTMAX=0 MAILMAX=-1", none, none),
            ("LIMITS RCPTMAX=1000000 MAILMAX=05", none, none),
            ("LIMITS RCPTMAX=+7 MAILMAX=7x", none, none),
            ("LIMITS RCPTMAX MAILMAX=", none, none),
            ("LIMITS RCPTMAX=5 RCPTMAX=9", some(5), none),
            ("LIMITS", none, none),
            ("LIMITS=RCPTMAX=5", none, none),
        ] {
            assert_eq!(of(&[keyword]).limits, Limits { recipients_max, mails_max }, "{keyword}");
        }
    }
}
