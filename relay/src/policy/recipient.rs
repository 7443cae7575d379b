//! Whose mail we take: the listed domains, and nobody else's. No I/O.

use std::collections::HashSet;

use super::{Facts, Refusal};
use crate::mail::address::{Address, a_labels};

/// The domains of the configuration, in A-labels and lower case.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Domains {
    exact: HashSet<String>,
    /// What stands behind `*.`.
    below: HashSet<String>,
}

impl Domains {
    /// `example.org`, or `*.example.org` for all below it but not `example.org` itself. The name of a bad one comes back.
    pub fn new(names: &[String]) -> Result<Self, String> {
        let mut domains = Self::default();
        for name in names {
            let (set, domain) = match name.strip_prefix("*.") {
                Some(domain) => (&mut domains.below, domain),
                None => (&mut domains.exact, name.as_str()),
            };
            set.insert(a_labels(domain).ok_or(name)?.into_owned());
        }
        Ok(domains)
    }

    /// Whether mail for this domain is ours to take.
    pub fn contain(&self, domain: &str) -> bool {
        let Some(domain) = a_labels(domain) else { return false };
        let mut parents = domain.match_indices('.').map(|(dot, _)| &domain[dot + 1..]);
        self.exact.contains(&*domain) || parents.any(|parent| self.below.contains(parent))
    }
}

/// 550: a primary that trusts us, and reads `%`, `!` or a second `@` as a route, would be an open relay through us.
///
/// Only what looks like a route is one: with a host behind `%` or `@`, or before `!`. Such a primary may look through
/// quotes, as we do here.
pub fn is_no_route(recipient: &Address, _: &Facts) -> Result<(), Refusal> {
    let local_part = unquoted(recipient.local_part());
    let mut rest = local_part.as_str();
    while let Some(place) = rest.find(['%', '@', '!']) {
        let (before, behind) = (&rest[..place], &rest[place + 1..]);
        let host = if rest[place..].starts_with('!') { before } else { leading_host(behind) };
        if is_host(host) {
            return Err(Refusal::Routed);
        }
        rest = behind;
    }
    Ok(())
}

/// Without quotes, backslashes and blanks.
fn unquoted(local_part: &str) -> String {
    local_part.chars().filter(|c| !matches!(c, '"' | '\\' | ' ')).collect()
}

/// What a host could be at the start of a text: its brackets, or as far as its name goes.
fn leading_host(text: &str) -> &str {
    let is_inside = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.starts_with('[') { text } else { text.split(|c| !is_inside(c)).next().unwrap_or_default() }
}

fn is_host(text: &str) -> bool {
    text.starts_with('[') || a_labels(text.trim_matches('.')).is_some()
}

/// 550: never an open relay.
pub fn domain_is_ours(recipient: &Address, facts: &Facts) -> Result<(), Refusal> {
    if facts.domains.contain(recipient.domain()) { Ok(()) } else { Err(Refusal::NotOurDomain) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_domains_are_ours_in_any_case_and_no_others() {
        let domains = Domains::new(&["example.org".into(), "*.Shop.Example".into(), "bücher.example".into()]).unwrap();
        for (domain, ours) in [
            ("example.org", true),
            ("EXAMPLE.Org", true),
            ("www.example.org", false),
            ("xexample.org", false),
            ("a.shop.example", true),
            ("a.b.shop.example", true),
            ("shop.example", false),
            ("ashop.example", false),
            ("Bücher.example", true),
            ("xn--BCHER-kva.example", true),
            ("bucher.example", false),
            ("ａ.shop.example", true), // full width, which IDNA takes for `a`
            ("example", false),
            ("[192.0.2.1]", false),
        ] {
            assert_eq!(domains.contain(domain), ours, "{domain}");
        }
    }

    #[test]
    fn what_a_primary_could_take_for_a_route_is_refused() {
        let domains = Domains::new(&["example.org".into()]).unwrap();
        let facts =
            Facts { domains: &domains, room_bytes: 0, room_bytes_min: 0, is_writable: true, is_from_primary: false };
        for (local_part, routed) in [
            ("bob", false),
            ("bob%elsewhere.example", true),
            ("bob%host", true),
            ("elsewhere.example!bob", true),
            ("a!b!bob", true),
            (r#""bob@elsewhere.example""#, true),
            (r#""bob%elsewhere.example""#, true),
            ("100%", false),
            ("50%&more", false),
            ("!", false),
            ("o'neil!x", false),
            (r#""a + b""#, false),
            (r#""a @ b""#, true),
            ("bob%elsewhere.example.", true),
            ("bob%elsewhere.example%", true),
            ("elsewhere.example.!bob", true),
            (r#""bob@elsewhere\.example""#, true),
            (r#""bob\@elsewhere.example""#, true),
            (r#""bob@[192.0.2.9]""#, true),
            (r#""bob%[192.0.2.9]""#, true),
            (r#""@elsewhere.example:bob""#, true),
            (r#""<bob@elsewhere.example>""#, true),
            (r#""bob%elsewhere.example(x)""#, true),
            (r#""bob@\"elsewhere.example\"""#, true),
            ("bob%elsewhere.example/x", true),
            ("%", false),
            ("o'neil!#$%&*/?^`{|}~", false),
        ] {
            let recipient = Address::parse(&format!("{local_part}@example.org")).unwrap();
            assert_eq!(is_no_route(&recipient, &facts).is_err(), routed, "{local_part}");
        }
    }

    #[test]
    fn a_name_that_is_no_domain_is_told() {
        for name in ["", "*", "*.", "a b", "a@b", "*.*.example.org", "example.org."] {
            assert_eq!(Domains::new(&[name.into()]), Err(name.to_owned()));
        }
    }
}
