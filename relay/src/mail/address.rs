//! Addresses as they came: every byte kept, so that nothing can be injected at the next hop. No I/O.

use std::fmt;

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
    /// Characters outside ASCII, which need SMTPUTF8 (RFC 6531).
    #[error("not ASCII")]
    NotAscii,
    /// Longer than any that is in use.
    #[error("too long")]
    TooLong,
}

impl Address {
    /// Reads `local@domain`, where the local part may be quoted and the domain may be an address literal.
    pub fn parse(text: &str) -> Result<Self, BadAddress> {
        if !text.is_ascii() {
            return Err(BadAddress::NotAscii);
        }
        let at = local_part_length(text.as_bytes()).ok_or(BadAddress::Syntax)?;
        let domain = text[at..].strip_prefix('@').ok_or(BadAddress::Syntax)?;
        if at > LOCAL_PART_BYTES_MAX || domain.len() > DOMAIN_BYTES_MAX {
            return Err(BadAddress::TooLong);
        }
        if !is_domain(domain) && !is_address_literal(domain) {
            return Err(BadAddress::Syntax);
        }
        Ok(Self { text: text.into(), at })
    }

    /// `postmaster` alone, which belongs to a served domain (RFC 5321 section 4.5.1); its case is kept.
    pub fn postmaster_at(postmaster: &str, domain: &str) -> Self {
        Self { text: format!("{postmaster}@{domain}").into(), at: postmaster.len() }
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands behind it, in the case in which it came.
    pub fn domain(&self) -> &str {
        &self.text[self.at + 1..]
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
            32..=126 => position += 1,
            _ => return None,
        }
    }
}

fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

/// Letters, digits, hyphens and underscores between dots: what DNS names in mail look like.
pub fn is_domain(text: &str) -> bool {
    (1..=DOMAIN_BYTES_MAX).contains(&text.len())
        && text.split('.').all(|label| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}

/// `[192.0.2.1]` or `[IPv6:2001:db8::1]`, roughly: such a domain is never ours, it only must be harmless.
pub fn is_address_literal(text: &str) -> bool {
    let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inside.is_some_and(|inside| {
        !inside.is_empty() && inside.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:-".contains(&byte))
    })
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
            ("u@xn--bcher-kva.example", "xn--bcher-kva.example"),
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
            ("jürgen@example.org", BadAddress::NotAscii),
            (&long, BadAddress::TooLong),
        ] {
            assert_eq!(Address::parse(text), Err(cause), "{text:?}");
        }
    }
}
