//! Postfix in the place of a backup MX: the same domains and limits as a relay of ours.

use crate::{HOSTNAME, certificate::Certificate};

/// What it is to do.
pub struct Backup<'a> {
    /// Domains that it takes mail for, as Postfix writes them: `.shop.example` is all below `shop.example`.
    pub domains: &'a [&'a str],
    /// The longest message, in bytes.
    pub message_bytes_max: u64,
    /// Recipients of one message.
    pub recipients_max: usize,
    /// For STARTTLS.
    pub certificate: &'a Certificate,
}

impl Backup<'_> {
    /// Its part of main.cf. What it takes waits for a primary that never comes.
    pub(super) fn main_cf(&self) -> String {
        let Self { domains, message_bytes_max, recipients_max, certificate } = self;
        let (first, domains) = (domains[0], domains.join(", "));
        let (file, key) = (certificate.file(), certificate.key_file());
        format!(
            "myhostname = {HOSTNAME}
# The domain of a postmaster who comes without one.
myorigin = {first}
relay_domains = {domains}
relay_recipient_maps =
# A domain of ours is that one alone, unless it begins with a dot.
parent_domain_matches_subdomains =
relay_transport = virtual
default_transport = virtual
defer_transports = virtual
message_size_limit = {message_bytes_max}
smtpd_recipient_limit = {recipients_max}
smtpd_helo_required = yes
smtpd_error_sleep_time = 0
smtputf8_enable = yes
# As safe as it can be made against smuggled mail.
smtpd_forbid_bare_newline = reject
smtpd_forbid_bare_newline_exclusions =
smtpd_tls_security_level = may
smtpd_tls_cert_file = {file}
smtpd_tls_key_file = {key}
notify_classes =
",
            file = file.display(),
            key = key.display(),
        )
    }
}
