//! Addresses as they came: every byte kept, so that nothing can be injected at the next hop. No I/O.

use std::{borrow::Cow, fmt, net::IpAddr};

use idna::AsciiDenyList;

/// A mailbox of a reverse-path or forward-path, without the angle brackets (RFC 5321 section 4.1.2).
///
/// Quotes in the local part stay as the sender wrote them, and the local part keeps its case (section 2.4).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    text: Box<str>,
    at: usize,
}

/// The limit of RFC 5321 section 4.5.3.1.1 is 64; longer ones exist (VERP), and the primary decides about them.
pub const LOCAL_PART_BYTES_MAX: usize = 255;
/// RFC 5321 section 4.5.3.1.2.
pub const DOMAIN_BYTES_MAX: usize = 255;

/// Why a text is no address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadAddress {
    /// Does not follow the grammar.
    #[error("syntax")]
    Syntax,
    /// Longer than any that is in use.
    #[error("too long")]
    TooLong,
}

impl Address {
    /// Reads `local@domain`, where the local part may be quoted, the domain may be an address literal, and both may hold
    /// characters outside ASCII (RFC 6531 section 3.3).
    pub fn parse(text: &str) -> Result<Self, BadAddress> {
        if text.chars().any(char::is_control) {
            return Err(BadAddress::Syntax);
        }
        let at = local_part_length(text.as_bytes()).ok_or(BadAddress::Syntax)?;
        let domain = text[at..].strip_prefix('@').ok_or(BadAddress::Syntax)?;
        if at > LOCAL_PART_BYTES_MAX || domain.len() > DOMAIN_BYTES_MAX {
            return Err(BadAddress::TooLong);
        }
        if !is_address_literal(domain) {
            a_labels(domain).ok_or(BadAddress::Syntax)?;
        }
        Ok(Self { text: text.into(), at })
    }

    /// Reads one that was taken before, by whatever grammar was in force then.
    pub fn stored(text: &str) -> Option<Self> {
        let at = local_part_length(text.as_bytes()).filter(|at| text[*at..].starts_with('@'))?;
        if text.chars().any(char::is_control) {
            return None;
        }
        Some(Self { text: text.into(), at })
    }

    /// `postmaster` alone, which belongs to a served domain (RFC 5321 section 4.5.1); its case is kept.
    pub fn postmaster_at(postmaster: &str, domain: &str) -> Self {
        Self { text: format!("{postmaster}@{domain}").into(), at: postmaster.len() }
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands before the `@`, quotes and all.
    pub fn local_part(&self) -> &str {
        &self.text[..self.at]
    }

    /// What stands behind the local part, in the case and in the form in which it came.
    pub fn domain(&self) -> &str {
        &self.text[self.at + 1..]
    }

    /// Whether it may only go where SMTPUTF8 is offered (RFC 6531 section 3.3).
    pub fn needs_smtputf8(&self) -> bool {
        !self.text.is_ascii()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.text)
    }
}

/// Length of the local part at the start of `text`: a quoted string, or atoms and dots.
///
/// Dots may stand anywhere: addresses such as `a..b@` are in use at some providers, and the primary decides about them.
fn local_part_length(text: &[u8]) -> Option<usize> {
    if text.first() == Some(&b'"') {
        return quoted_length(text);
    }
    let length = text.iter().take_while(|byte| is_atext(**byte) || **byte == b'.').count();
    (length > 0).then_some(length)
}

/// Length of the quoted string at the start of `text`, both quotes included.
pub(crate) fn quoted_length(text: &[u8]) -> Option<usize> {
    let mut position = 1;
    loop {
        match text.get(position)? {
            b'"' => return Some(position + 1),
            b'\\' if matches!(text.get(position + 1)?, 32..=126) => position += 2,
            32..=126 | 128.. => position += 1,
            _ => return None,
        }
    }
}

/// Bytes above 127 are parts of characters that RFC 6531 section 3.3 allows here.
fn is_atext(byte: u8) -> bool {
    byte >= 128 || byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

/// Letters, digits, hyphens and underscores between dots: what DNS names in mail look like.
pub fn is_domain(text: &str) -> bool {
    (1..=DOMAIN_BYTES_MAX).contains(&text.len())
        && text.split('.').all(|label| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}

/// A domain as it is compared: in A-labels (IDNA, UTS 46) and lower case. `None` if it is no domain.
pub fn a_labels(domain: &str) -> Option<Cow<'_, str>> {
    let ascii = if domain.is_ascii() {
        Cow::Borrowed(domain)
    } else {
        idna::domain_to_ascii_cow(domain.as_bytes(), AsciiDenyList::EMPTY).ok()?
    };
    if !is_domain(&ascii) {
        return None;
    }
    let is_lower = !ascii.bytes().any(|byte| byte.is_ascii_uppercase());
    Some(if is_lower { ascii } else { Cow::Owned(ascii.to_ascii_lowercase()) })
}

/// `[192.0.2.1]`, `[IPv6:2001:db8::1]`, or another kind with its tag (RFC 5321 section 4.1.3).
pub fn is_address_literal(text: &str) -> bool {
    let Some(inside) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else { return false };
    let Some((tag, address)) = inside.split_once(':') else {
        return inside.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4());
    };
    if tag.eq_ignore_ascii_case("IPv6") {
        return address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6());
    }
    let is_tag = tag.starts_with(|first: char| first.is_ascii_alphabetic())
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_tag && !address.is_empty() && address.bytes().all(|byte| matches!(byte, 33..=90 | 94..=126))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_every_byte() {
        for (text, domain) in [
            ("a@example.org", "example.org"),
            ("First.Last+tag@Example.ORG", "Example.ORG"),
            (r#""a b"@example.org"#, "example.org"),
            (r#""a>SIZE=1 \"b@c"@example.org"#, "example.org"),
            ("a..b@example.org", "example.org"),
            ("u%x!y@example.org", "example.org"),
            ("u@[192.0.2.1]", "[192.0.2.1]"),
            ("u@[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
            ("u@[X400:c=de]", "[X400:c=de]"),
            ("u@xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("jürgen@Bücher.example", "Bücher.example"),
            ("\"jürgen k\"@example.org", "example.org"),
        ] {
            let address = Address::parse(text).unwrap_or_else(|cause| panic!("{text}: {cause}"));
            assert_eq!((address.as_str(), address.domain()), (text, domain));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}@example.org", "a".repeat(LOCAL_PART_BYTES_MAX + 1));
        for (text, cause) in [
            ("", BadAddress::Syntax),
            ("a", BadAddress::Syntax),
            ("@example.org", BadAddress::Syntax),
            ("a@", BadAddress::Syntax),
            ("a@b@c", BadAddress::Syntax),
            ("a b@example.org", BadAddress::Syntax),
            ("a<b@example.org", BadAddress::Syntax),
            ("a\r@example.org", BadAddress::Syntax),
            ("\"a\0\"@example.org", BadAddress::Syntax),
            ("\"open@example.org", BadAddress::Syntax),
            ("a@.example.org", BadAddress::Syntax),
            ("a@example..org", BadAddress::Syntax),
            ("a@exa mple.org", BadAddress::Syntax),
            ("a@[192.0.2.1", BadAddress::Syntax),
            ("a@[192.0.2.256]", BadAddress::Syntax),
            ("a@[2001:db8::1]", BadAddress::Syntax),
            ("a@[IPv6:192.0.2.1]", BadAddress::Syntax),
            ("a@[]", BadAddress::Syntax),
            ("a\u{85}b@example.org", BadAddress::Syntax),
            ("a@bü cher.example", BadAddress::Syntax),
            ("a@\u{ad}", BadAddress::Syntax),
            ("a@example.org.", BadAddress::Syntax),
            (&long, BadAddress::TooLong),
        ] {
            assert_eq!(Address::parse(text), Err(cause), "{text:?}");
        }
    }

    #[test]
    fn what_was_taken_by_a_laxer_grammar_is_still_read() {
        for text in ["a@[2001:db8::1]", "a@[192.0.2.256]", "a@example.org.", r#""a b"@x"#] {
            assert_eq!(Address::stored(text).map(|address| address.to_string()).as_deref(), Some(text));
        }
        assert_eq!(Address::stored("a"), None);
        assert_eq!(Address::stored(""), None);
    }

    #[test]
    fn a_domain_is_the_same_in_any_case_and_in_either_form() {
        for domain in [
            "bücher.example",
            "BÜCHER.Example",
            "xn--bcher-kva.example",
            "XN--BCHER-KVA.EXAMPLE",
            "bu\u{308}cher.example",
        ] {
            assert_eq!(a_labels(domain).as_deref(), Some("xn--bcher-kva.example"), "{domain}");
        }
        assert_eq!(a_labels("example.org").as_deref(), Some("example.org"));
    }
}
