//! What EHLO offered in one session, and what a client may use of it. No I/O.

/// The extensions of one reply to EHLO; none before it, and none after STARTTLS until the second one.
#[derive(Default)]
pub(super) struct Offered(Vec<String>);

impl Offered {
    pub(super) fn new(extensions: Vec<String>) -> Self {
        Self(extensions)
    }

    pub(super) fn has(&self, extension: &str) -> bool {
        self.words_of(extension).is_some()
    }

    /// What is wrong with these parameters: each may be used only where its extension is offered (RFC 5321 section 4.1.1.11).
    pub(super) fn complaints<'a>(&self, parameters: &'a str) -> impl Iterator<Item = String> + use<'a, '_> {
        let is_foreign = |parameter: &&str| !self.has(extension_of(parameter));
        parameters
            .split_whitespace()
            .filter(is_foreign)
            .map(|parameter| format!("{parameter} was used but not offered"))
    }

    /// The same for the attributes of XFORWARD.
    pub(super) fn complaints_xforward<'a>(&self, attributes: &'a str) -> impl Iterator<Item = String> + use<'a, '_> {
        let known =
            |attribute: &str| self.words_of("XFORWARD").is_some_and(|mut words| words.any(|word| word == attribute));
        let is_foreign = move |attribute: &&str| !known(attribute.split('=').next().unwrap_or_default());
        attributes
            .split_whitespace()
            .filter(is_foreign)
            .map(|attribute| format!("XFORWARD {attribute} was not offered"))
    }

    /// The value of a limit (RFC 9422): `RCPTMAX` of `LIMITS RCPTMAX=100 MAILMAX=5`.
    pub(super) fn limit(&self, name: &str) -> Option<u64> {
        let value = |word: &str| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
        self.words_of("LIMITS")?.find_map(value)
    }

    fn words_of(&self, extension: &str) -> Option<impl Iterator<Item = &str>> {
        let of = |line: &str| line.split(' ').next() == Some(extension);
        self.0.iter().find(|line| of(line)).map(|line| line.split(' ').skip(1))
    }
}

fn extension_of(parameter: &str) -> &'static str {
    match parameter.split('=').next().unwrap_or_default() {
        "SIZE" => "SIZE",
        "BODY" => "8BITMIME",
        "SMTPUTF8" => "SMTPUTF8",
        "RET" | "ENVID" | "NOTIFY" | "ORCPT" => "DSN",
        _ => "?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(extensions: &[&str]) -> Offered {
        Offered::new(extensions.iter().map(|&line| line.to_owned()).collect())
    }

    #[test]
    fn only_what_was_offered_may_be_used() {
        let offered = offered(&["SIZE 1000", "DSN", "XFORWARD NAME ADDR"]);
        assert_eq!(offered.complaints("SIZE=5 RET=HDRS").count(), 0);
        assert_eq!(
            offered.complaints("SIZE=5 BODY=8BITMIME").collect::<Vec<_>>(),
            ["BODY=8BITMIME was used but not offered"]
        );
        assert_eq!(offered.complaints("X=1").count(), 1);
        assert_eq!(offered.complaints_xforward("NAME=a ADDR=1.2.3.4").count(), 0);
        assert_eq!(
            offered.complaints_xforward("NAME=a HELO=b").collect::<Vec<_>>(),
            ["XFORWARD HELO=b was not offered"]
        );
        assert_eq!(Offered::default().complaints_xforward("NAME=a").count(), 1);
    }

    #[test]
    fn a_limit_is_read_where_it_is_stated() {
        let stated = offered(&["LIMITS RCPTMAX=100 MAILMAX=5"]);
        assert_eq!(
            (stated.limit("RCPTMAX"), stated.limit("MAILMAX"), stated.limit("RCPTDOMAINMAX")),
            (Some(100), Some(5), None)
        );
        assert_eq!(offered(&["SIZE"]).limit("RCPTMAX"), None);
    }
}
