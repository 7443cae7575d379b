//! Parameters of MAIL and RCPT: each as its RFC has it, once, and none that we do not know. No I/O.

use super::command::BadCommand;
use crate::mail::envelope::{Body, Notify, Ret};

/// Parameters of MAIL.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MailParameters {
    /// `SIZE=`, in bytes (RFC 1870).
    pub size: Option<u64>,
    /// `BODY=` (RFC 6152).
    pub body: Body,
    /// `SMTPUTF8` (RFC 6531).
    pub smtputf8: bool,
    /// `RET=` (RFC 3461).
    pub ret: Option<Ret>,
    /// `ENVID=` (RFC 3461).
    pub envid: Option<Box<str>>,
}

/// Parameters of RCPT.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RcptParameters {
    /// `NOTIFY=` (RFC 3461).
    pub notify: Option<Notify>,
    /// `ORCPT=` (RFC 3461).
    pub orcpt: Option<Box<str>>,
}

/// RFC 3461 section 4.4.
const ENVID_CHARACTERS_MAX: usize = 100;
/// RFC 3461 section 4.2 has 500 characters; outside ASCII, too, what is kept is bytes.
const ORCPT_BYTES_MAX: usize = 500;

const DOUBLED: BadCommand = BadCommand::Arguments("each parameter once");

impl MailParameters {
    /// Reads what stands behind the reverse-path.
    pub fn parse(text: &[u8]) -> Result<Self, BadCommand> {
        let mut parameters = Self::default();
        let mut seen = Seen::default();
        for (keyword, value) in words(text) {
            seen.note(&keyword)?;
            match (keyword.as_slice(), value) {
                (b"SIZE", value) => parameters.size = Some(required(value, size_value, "SIZE=number of bytes")?),
                (b"BODY", Some(value)) => parameters.body = body(value)?,
                (b"BODY", None) => return Err(BadCommand::Arguments("BODY=7BIT or BODY=8BITMIME")),
                (b"SMTPUTF8", None) => parameters.smtputf8 = true,
                (b"SMTPUTF8", Some(_)) => return Err(BadCommand::Arguments("SMTPUTF8, without a value")),
                (b"RET", value) => parameters.ret = Some(required(value, ret, "RET=FULL or RET=HDRS")?),
                (b"ENVID", value) => {
                    parameters.envid = Some(required(value, envid, "ENVID=up to 100 characters of xtext")?)
                }
                _ => return Err(BadCommand::Parameter),
            }
        }
        Ok(parameters)
    }

    /// Whether anything of RFC 3461 was said.
    pub fn is_dsn(&self) -> bool {
        self.ret.is_some() || self.envid.is_some()
    }
}

impl RcptParameters {
    /// Reads what stands behind the forward-path.
    pub fn parse(text: &[u8]) -> Result<Self, BadCommand> {
        let mut parameters = Self::default();
        let mut seen = Seen::default();
        for (keyword, value) in words(text) {
            seen.note(&keyword)?;
            match keyword.as_slice() {
                b"NOTIFY" => {
                    let syntax = "NOTIFY=NEVER, or any of SUCCESS,FAILURE,DELAY";
                    parameters.notify = Some(required(value, notify, syntax)?);
                }
                b"ORCPT" => {
                    let syntax = "ORCPT=type;address, up to 500 characters of xtext";
                    parameters.orcpt = Some(required(value, orcpt, syntax)?);
                }
                _ => return Err(BadCommand::Parameter),
            }
        }
        Ok(parameters)
    }

    /// Whether anything of RFC 3461 was said.
    pub fn is_dsn(&self) -> bool {
        self.notify.is_some() || self.orcpt.is_some()
    }
}

/// Keywords in upper case, and what stands behind their `=`.
fn words(text: &[u8]) -> impl Iterator<Item = (Vec<u8>, Option<&[u8]>)> {
    text.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).map(|word| {
        let mut halves = word.splitn(2, |byte| *byte == b'=');
        let keyword = halves.next().unwrap_or_default();
        (keyword.to_ascii_uppercase(), halves.next())
    })
}

/// Keywords that have come; never more than we know, since an unknown one ends the reading.
#[derive(Default)]
struct Seen(Vec<Vec<u8>>);

impl Seen {
    fn note(&mut self, keyword: &[u8]) -> Result<(), BadCommand> {
        if self.0.iter().any(|seen| seen == keyword) {
            return Err(DOUBLED);
        }
        self.0.push(keyword.to_vec());
        Ok(())
    }
}

fn required<T>(value: Option<&[u8]>, read: impl Fn(&[u8]) -> Option<T>, syntax: &'static str) -> Result<T, BadCommand> {
    value.and_then(read).ok_or(BadCommand::Arguments(syntax))
}

/// At most 20 digits (RFC 1870 section 3); one that does not fit is larger than all limits.
pub fn size_value(digits: &[u8]) -> Option<u64> {
    let fits = !digits.is_empty() && digits.len() <= 20 && digits.iter().all(u8::is_ascii_digit);
    fits.then(|| str::from_utf8(digits).ok()?.parse().ok().or(Some(u64::MAX))).flatten()
}

fn body(value: &[u8]) -> Result<Body, BadCommand> {
    match value.to_ascii_uppercase().as_slice() {
        b"7BIT" => Ok(Body::SevenBit),
        b"8BITMIME" => Ok(Body::EightBitMime),
        _ => Err(BadCommand::Parameter), // BINARYMIME is not offered
    }
}

fn ret(value: &[u8]) -> Option<Ret> {
    match value.to_ascii_uppercase().as_slice() {
        b"FULL" => Some(Ret::Full),
        b"HDRS" => Some(Ret::Headers),
        _ => None,
    }
}

fn envid(value: &[u8]) -> Option<Box<str>> {
    let fits = (1..=ENVID_CHARACTERS_MAX).contains(&value.len()) && is_xtext(value);
    fits.then(|| str::from_utf8(value).ok().map(Into::into)).flatten()
}

fn notify(value: &[u8]) -> Option<Notify> {
    let mut notify = Notify { success: false, failure: false, delay: false };
    if value.eq_ignore_ascii_case(b"NEVER") {
        return Some(notify);
    }
    for kind in value.split(|byte| *byte == b',') {
        let wanted = match kind.to_ascii_uppercase().as_slice() {
            b"SUCCESS" => &mut notify.success,
            b"FAILURE" => &mut notify.failure,
            b"DELAY" => &mut notify.delay,
            _ => return None, // NEVER stands alone (RFC 3461 section 4.1)
        };
        if std::mem::replace(wanted, true) {
            return None;
        }
    }
    Some(notify)
}

/// `rfc822;` with xtext, or `utf-8;` with the forms of RFC 6533 section 3.
fn orcpt(value: &[u8]) -> Option<Box<str>> {
    let text = str::from_utf8(value).ok()?;
    let (kind, address) = text.split_once(';')?;
    let is_atom = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let is_utf8 = kind.eq_ignore_ascii_case("utf-8");
    let is_good = if is_utf8 { is_utf8_address(address) } else { is_xtext(address.as_bytes()) };
    let fits = is_atom && is_good && !address.is_empty() && text.len() <= ORCPT_BYTES_MAX;
    fits.then(|| text.into())
}

/// RFC 3461 section 4: printable characters but `=`, where `+` begins two upper-case digits.
fn is_xtext(text: &[u8]) -> bool {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'A'..=b'F');
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        rest = match (first, behind) {
            (b'+', [high, low, behind @ ..]) if is_digit(high) && is_digit(low) => behind,
            (b'+' | b'=', _) => return false,
            (33..=126, _) => behind,
            _ => return false,
        };
    }
    true
}

/// RFC 6533 section 3: characters outside ASCII as they are or as `\x{…}`; of the others, neither `+` nor `=`.
fn is_utf8_address(text: &str) -> bool {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '\\' => match embedded(rest) {
                Some(behind) => behind,
                None => return false,
            },
            '+' | '=' => return false,
            '!'..='~' => &rest[1..],
            _ if first.is_ascii() || first.is_control() => return false,
            _ => &rest[first.len_utf8()..],
        };
    }
    true
}

/// What stands behind a `\x{…}` that names a character.
fn embedded(text: &str) -> Option<&str> {
    let (digits, behind) = text.strip_prefix("\\x{")?.split_once('}')?;
    let is_hexadecimal =
        (2..=6).contains(&digits.len()) && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    char::from_u32(u32::from_str_radix(digits, 16).ok()?).filter(|_| is_hexadecimal).map(|_| behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(text: &str) -> Result<MailParameters, BadCommand> {
        MailParameters::parse(text.as_bytes())
    }

    fn rcpt(text: &str) -> Result<RcptParameters, BadCommand> {
        RcptParameters::parse(text.as_bytes())
    }

    #[test]
    fn parameters_are_read_in_any_case_and_order() {
        let expected = MailParameters {
            size: Some(1000),
            body: Body::EightBitMime,
            smtputf8: true,
            ret: Some(Ret::Headers),
            envid: Some("QQ314159+2B".into()),
        };
        assert_eq!(mail("SIZE=1000 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ314159+2B"), Ok(expected.clone()));
        assert_eq!(mail("  envid=QQ314159+2B ret=hdrs  smtputf8 body=8bitmime size=1000 "), Ok(expected));
        let on = |success, failure, delay| Some(Notify { success, failure, delay });
        for (text, notify, orcpt) in [
            ("", None, None),
            ("NOTIFY=NEVER", on(false, false, false), None),
            ("notify=delay,failure", on(false, true, true), None),
            (
                "ORCPT=rfc822;Bob+40x@example.org NOTIFY=SUCCESS",
                on(true, false, false),
                Some("rfc822;Bob+40x@example.org"),
            ),
            ("ORCPT=utf-8;jürgen@example.org", None, Some("utf-8;jürgen@example.org")),
            (r"ORCPT=utf-8;j\x{FC}rgen@example.org", None, Some(r"utf-8;j\x{FC}rgen@example.org")),
        ] {
            assert_eq!(rcpt(text), Ok(RcptParameters { notify, orcpt: orcpt.map(Into::into) }), "{text}");
        }
    }

    #[test]
    fn bad_values_doubled_and_unknown_parameters_are_refused() {
        let (long_envid, long_orcpt) =
            (format!("ENVID={}", "x".repeat(101)), format!("ORCPT=rfc822;{}", "x".repeat(494)));
        for text in [
            "SIZE",
            "SIZE=",
            "SIZE=-1",
            "SIZE=1e3",
            "SIZE=123456789012345678901",
            "BODY",
            "SMTPUTF8=1",
            "RET=",
            "RET=ALL",
            "ENVID=",
            "ENVID=a=b",
            "ENVID=a+",
            "ENVID=a+2b",
            "ENVID=\u{7f}",
            &long_envid,
            "SIZE=1 size=2",
            "RET=FULL RET=FULL",
        ] {
            assert!(matches!(mail(text), Err(BadCommand::Arguments(_))), "{text}: {:?}", mail(text));
        }
        for text in [
            "NOTIFY",
            "NOTIFY=",
            "NOTIFY=NEVER,SUCCESS",
            "NOTIFY=SUCCESS,SUCCESS",
            "NOTIFY=ALWAYS",
            "NOTIFY=SUCCESS,",
            "ORCPT=x",
            "ORCPT=;x",
            "ORCPT=rfc822;",
            "ORCPT=utf-8;a+b@x",
            "ORCPT=utf-8;a=b",
            r"ORCPT=utf-8;a\b",
            r"ORCPT=utf-8;\x{zz}",
            r"ORCPT=utf-8;\x{110000}",
            r"ORCPT=utf-8;\x{FC",
            "ORCPT=rfc822;jürgen@x",
            "ORCPT=rfc822;a=b",
            &long_orcpt,
            "NOTIFY=NEVER NOTIFY=NEVER",
        ] {
            assert!(matches!(rcpt(text), Err(BadCommand::Arguments(_))), "{text}: {:?}", rcpt(text));
        }
        for text in ["FOO", "FOO=1", "NOTIFY=NEVER", "BODY=BINARYMIME", "=", "AUTH=<>"] {
            assert_eq!(mail(text), Err(BadCommand::Parameter), "{text}");
        }
        for text in ["SIZE=1", "BODY=7BIT", "=1"] {
            assert_eq!(rcpt(text), Err(BadCommand::Parameter), "{text}");
        }
    }
}
