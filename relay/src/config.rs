//! The config document, read and checked once. Later code takes only the checked [`Config`] and never looks back.

mod newer;

use std::{
    fmt::Display,
    fs::File,
    io::{self, Read},
    path::Path,
};

use backupmx_relay_api::{
    SCHEMA,
    config::{self, Document, Host},
    quantity::{Bytes, Span},
};
use jiff::Timestamp;
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    foreign::shown,
    mail::address::{Address, is_address_literal, is_domain},
    policy::{client::Networks, recipient::Domains},
    primary::maintenance::Maintenance,
    smtp::memory::OWN_BYTES,
};

/// A document in which everything can be used as it is.
#[derive(Clone, Debug)]
pub struct Config {
    /// What was checked, with all defaults filled in.
    pub document: Document,
    /// The domains, ready for look-up.
    pub domains: Domains,
    /// Proxies that may speak for clients.
    pub proxies: Networks,
    /// Who may say ETRN, besides the primary.
    pub etrn: Networks,
    /// When the primary is away on purpose.
    pub maintenance: Maintenance,
    /// Whom a probe of depth `Recipient` asks for.
    pub probe_recipient: Address,
    /// Whether `cordoned` names this relay; whoever knows its name says so (`cli.rs`).
    pub is_cordoned: bool,
}

/// Why a document cannot be used. Each message names the key and the cure.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read {path}: {cause}; name a file that this user may read")]
    Unreadable {
        /// Which file.
        path: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// It is no YAML of the expected shape. The parser names line and column.
    #[error("{path}: {cause}")]
    Shape {
        /// Which file.
        path: String,
        /// Place and reason.
        cause: String,
    },
    /// A value cannot be used.
    #[error("{key}: {reason}")]
    Value {
        /// The key, with its path in the document.
        key: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

/// A config file is a page of text; what is larger is none.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Keys of a newer program that are told, each cut to a length that can be read.
const IGNORED_KEYS_MAX: usize = 20;

/// What the file holds. Which [`digest`] that has tells one content from another.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    let shown = path.display().to_string();
    let unreadable = |cause| ConfigError::Unreadable { path: shown.clone(), cause };
    let mut bytes = Vec::new();
    // Not by the length that the system states: a device or a pipe has none.
    File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let cause = format!("larger than {FILE_BYTES_MAX} bytes, so it is no config document");
        return Err(ConfigError::Shape { path: shown, cause });
    }
    String::from_utf8(bytes).map_err(|_| unreadable(io::Error::new(io::ErrorKind::InvalidData, "it is no UTF-8 text")))
}

/// By which a content is known in status and log: XXH3, 128 bits, in 32 hex digits.
pub fn digest(text: &str) -> String {
    format!("{:032x}", xxh3_128(text.as_bytes()))
}

/// A document, and the keys in it that a newer program wrote and this one does not know. YAML, of which JSON is a part.
///
/// In a document of our own time an unknown key is a mistake, and an error. `path` is for messages.
pub fn parse(text: &str, path: &Path) -> Result<(Document, Vec<String>), ConfigError> {
    let strictly = match serde_saphyr::from_str(text) {
        Ok(document) => return Ok((document, Vec::new())),
        Err(cause) => shape(path, &cause),
    };
    /// Of a document nothing else is looked at until this is known.
    #[derive(Deserialize)]
    struct Age {
        schema: u32,
    }
    if !serde_saphyr::from_str(text).is_ok_and(|Age { schema }| schema > SCHEMA) {
        return Err(strictly);
    }
    let mut value = serde_saphyr::from_str(text).map_err(|cause| shape(path, &cause))?;
    let ignored = newer::take_out_unknown(&mut value);
    let cause = |cause: serde_json::Error| ConfigError::Shape { path: shown_path(path), cause: cause.to_string() };
    let document = serde_json::from_value(value).map_err(cause)?;
    let told = ignored.into_iter().take(IGNORED_KEYS_MAX).map(shown);
    Ok((document, told.collect()))
}

fn shape(path: &Path, cause: &serde_saphyr::Error) -> ConfigError {
    let cause = cause.to_string();
    ConfigError::Shape { path: shown_path(path), cause: cause.strip_prefix("error: ").unwrap_or(&cause).to_owned() }
}

fn shown_path(path: &Path) -> String {
    path.display().to_string()
}

/// Checks every value.
pub fn check(document: Document) -> Result<Config, ConfigError> {
    check_names(&document)?;
    check_probe(&document)?;
    check_delivery(&document)?;
    check_refusals_and_retention(&document)?;
    check_pass_through(&document)?;
    check_limits(&document)?;
    let maintenance = maintenance(document.primary.maintenance.as_ref())?;
    let networks = |key, texts: &[String]| {
        Networks::new(texts).map_err(|text| ConfigError::Value {
            key,
            reason: format!("{text:?} is no network; write for instance 10.0.0.0/8 or 192.0.2.1"),
        })
    };
    let proxies = networks("proxyProtocol.trusted", &document.proxy_protocol.trusted)?;
    let etrn = networks("etrn.allowed", &document.etrn.allowed)?;
    let domains = Domains::new(&document.domains).map_err(|name| ConfigError::Value {
        key: "domains",
        reason: format!("{name:?} is no domain; write example.org, or *.example.org for all below it"),
    })?;
    let probe_recipient = probe_recipient(&document)?;
    Ok(Config { document, domains, proxies, etrn, maintenance, probe_recipient, is_cordoned: false })
}

fn check_names(document: &Document) -> Result<(), ConfigError> {
    let Document { domains, hostname, primary, .. } = document;
    let refuse = |key, reason: String| Err(ConfigError::Value { key, reason });
    if domains.is_empty() {
        return refuse("domains", "is empty; list the domains to take mail for (--domain example.org)".into());
    }
    if primary.hosts.is_empty() {
        return refuse(
            "primary.hosts",
            "is empty; name the server that owns the mailboxes (--primary mx1.example.org:25)".into(),
        );
    }
    if !is_domain(hostname) {
        return refuse(
            "hostname",
            format!("{hostname:?} is no host name; write the name in our MX record (--hostname mx2.example.org)"),
        );
    }
    if let Some(Host { host, port, .. }) = primary.hosts.iter().find(|host| !is_host(&host.host) || host.port == 0) {
        return refuse(
            "primary.hosts",
            format!("{host:?} with port {port} is no host; write for instance mx1.example.org and 25"),
        );
    }
    Ok(())
}

fn check_probe(document: &Document) -> Result<(), ConfigError> {
    let probe = &document.primary.probe;
    within("primary.probe.interval", probe.interval, "100ms", "1h")?;
    within("primary.probe.intervalWhileQueued", probe.interval_while_queued, "100ms", "1h")?;
    within("primary.probe.intervalWhileRefusingMax", probe.interval_while_refusing_max, "100ms", "1h")?;
    within("primary.probe.connectTimeout", probe.connect_timeout, "50ms", "1m")?;
    within("primary.probe.timeout", probe.timeout, "100ms", "5m")?;
    between("primary.probe.failureThreshold", probe.failure_threshold, 1, 100)?;
    between("primary.probe.successThreshold", probe.success_threshold, 1, 100)?;
    within("primary.probe.slowAfter", probe.slow_after, "100ms", "5m")?;
    within("primary.probe.renewForClientAfter", probe.renew_for_client_after, "100ms", "1h")
}

/// Where `<Postmaster>` alone belongs: the first domain that is one, and else the one above the first wildcard.
pub fn postmaster_domain(domains: &[String]) -> &str {
    let exact = domains.iter().find(|domain| !domain.starts_with("*."));
    exact.or(domains.first()).map_or("", |domain| domain.trim_start_matches("*."))
}

fn probe_recipient(document: &Document) -> Result<Address, ConfigError> {
    let postmaster = || format!("postmaster@{}", postmaster_domain(&document.domains));
    let text = document.primary.probe.recipient.clone().unwrap_or_else(postmaster);
    Address::parse(&text).map_err(|_| ConfigError::Value {
        key: "primary.probe.recipient",
        reason: format!("{text:?} is no address; write for instance postmaster@example.org"),
    })
}

fn maintenance(window: Option<&config::Maintenance>) -> Result<Maintenance, ConfigError> {
    let Some(config::Maintenance { from, until }) = window else { return Ok(Maintenance::default()) };
    let time = |key, text: &Option<String>| -> Result<Option<Timestamp>, ConfigError> {
        let parsed = text.as_deref().map(str::parse).transpose();
        parsed.map_err(|_| ConfigError::Value {
            key,
            reason: format!("{text:?} is no time; write for instance 2026-12-24T22:00:00Z"),
        })
    };
    let (from, until) = (time("primary.maintenance.from", from)?, time("primary.maintenance.until", until)?);
    if from.zip(until).is_some_and(|(from, until)| from >= until) {
        let reason = "is not after primary.maintenance.from; write a later time".into();
        return Err(ConfigError::Value { key: "primary.maintenance.until", reason });
    }
    Ok(Maintenance::between(from, until))
}

fn check_delivery(document: &Document) -> Result<(), ConfigError> {
    let delivery = &document.primary.delivery;
    between("primary.delivery.maxConnections", delivery.max_connections, 1, 1000)?;
    between("primary.delivery.maxMessagesPerConnection", delivery.max_messages_per_connection, 1, 1_000_000)?;
    within("primary.delivery.retryInterval", delivery.retry_interval, "100ms", "1d")?;
    within("primary.delivery.retryIntervalMax", delivery.retry_interval_max, "100ms", "1d")?;
    between("primary.delivery.maxRecipientsPerTransaction", delivery.max_recipients_per_transaction, 1, 1000)?;
    within("primary.delivery.rememberLimit", delivery.remember_limit, "1s", "1d")
}

fn check_refusals_and_retention(document: &Document) -> Result<(), ConfigError> {
    let Document { primary, retention, .. } = document;
    within("primary.tls.rememberStarttls", primary.tls.remember_starttls, "0s", "365d")?;
    if let Some(name) = primary.tls.server_name.as_ref().filter(|name| !is_host(name)) {
        let reason = format!("{name:?} is no host name; write the name in the primary's certificate");
        return Err(ConfigError::Value { key: "primary.tls.serverName", reason });
    }
    within("primary.breaker.retestInterval", primary.breaker.retest_interval, "1s", "1d")?;
    // Zero: each refusal is the last word.
    within("primary.breaker.returnWindow", primary.breaker.return_window, "0s", "7d")?;
    within("primary.breaker.secondLookAfter", primary.breaker.second_look_after, "100ms", "1d")?;
    within("retention.queue", retention.queue, "1s", "3650d")?;
    within("retention.undeliverable", retention.undeliverable, "1s", "3650d")
}

fn check_pass_through(document: &Document) -> Result<(), ConfigError> {
    let patience = &document.pass_through;
    // Senders wait 5 minutes for RCPT and 2 for DATA (RFC 5321 section 4.5.3.2), 10 for the final dot.
    within("passThrough.stall", patience.stall, "100ms", "100s")?;
    within("passThrough.finalDot", patience.final_dot, "100ms", "9m")?;
    within("passThrough.slowAfter", patience.slow_after, "100ms", "1h")?;
    within("passThrough.freeConnection", patience.free_connection, "0s", "60s")
}

fn check_limits(document: &Document) -> Result<(), ConfigError> {
    let limits = &document.limits;
    // RFC 5321 section 4.5.3.1.7 asks for 64 KiB at least.
    between("limits.messageSize", limits.message_size, Bytes(64 << 10), Bytes(2 << 30))?;
    // Each takes some 20 KiB even if it does nothing, and memory is asked for each (below).
    between("limits.connections", limits.connections, 1, 20_000)?;
    between("limits.connectionsPerClient", limits.connections_per_client, 1, 20_000)?;
    // RFC 5321 section 4.5.3.1.8 asks for 100 at least; a record's fields hold 1000 (spool/record.rs).
    between("limits.recipients", limits.recipients, 100, 1000)?;
    // A sender's software may make a mistake with each of a hundred recipients; nobody needs a thousand.
    between("limits.errors", limits.errors, 5, 1000)?;
    between("limits.junkCommands", limits.junk_commands, 10, 10_000)?;
    // With all parameters that are offered, RCPT may have 1.6 KiB (RFC 3461 sections 4.1 and 4.2).
    between("limits.commandLine", limits.command_line, Bytes(2 << 10), Bytes(4 << 10))?;
    // RFC 5321 section 4.5.3.2.7 asks for 5 minutes; below half a minute slow lines are cut off.
    within("limits.idleTimeout", limits.idle_timeout, "30s", "1h")?;
    // In the rush less is fair, but a lost packet is repeated only after a second, and again after two more.
    within("limits.busyTimeout", limits.busy_timeout, "5s", "1h")?;
    within("limits.busyTimeoutBeforeMail", limits.busy_timeout_before_mail, "1s", "1h")?;
    // What the log needs to go on: a segment that is begun, its successor, and what is coming in at the moment.
    between("limits.freeSpace", limits.free_space, Bytes(192 << 20), Bytes(1 << 40))?;
    // What each session needs to come forward at all, and some for the larger ones.
    // A tenth more of them may still be on their way out (smtp/places.rs).
    let memory_min = Bytes((16 << 20) + u64::from(limits.connections) * 11 / 10 * OWN_BYTES as u64);
    between("limits.memory", limits.memory, memory_min, Bytes(64 << 30))
}

fn is_host(name: &str) -> bool {
    is_domain(name.strip_suffix('.').unwrap_or(name))
        || name.parse::<std::net::IpAddr>().is_ok()
        || is_address_literal(name)
}

fn between<T: PartialOrd + Display>(key: &'static str, value: T, least: T, most: T) -> Result<(), ConfigError> {
    if value >= least && value <= most {
        return Ok(());
    }
    Err(ConfigError::Value { key, reason: format!("is {value}; write a value from {least} to {most}") })
}

fn within(key: &'static str, value: Span, least: &str, most: &str) -> Result<(), ConfigError> {
    let bound = |text: &str| text.parse().unwrap_or(value); // the bounds are our own texts
    between(key, value, bound(least), bound(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
domains: [example.org, '*.example.org']
hostname: mx2.example.org
primary:
  hosts: [{host: mx1.example.org}]
";

    fn checked(text: &str) -> Result<Config, ConfigError> {
        let cause = |cause: serde_saphyr::Error| ConfigError::Shape { path: "test".into(), cause: cause.to_string() };
        check(serde_saphyr::from_str(text).map_err(cause)?)
    }

    #[test]
    fn the_shortest_document_gets_defaults_and_passes() {
        let config = checked(GOOD).unwrap();
        assert!(config.domains.contain("sub.example.org"));
        assert_eq!(config.document.primary.hosts[0].port, 25);
        assert_eq!(config.document.primary.probe.interval_while_queued.to_string(), "2s");
    }

    #[test]
    fn a_bad_value_is_refused_with_its_key() {
        for (from, to, key) in [
            ("[example.org, '*.example.org']", "[]", "domains"),
            ("example.org,", "'a b',", "domains"),
            ("hostname: mx2.example.org", "hostname: 'mx 2'", "hostname"),
            ("hostname: mx2.example.org", "hostname: ''", "hostname"),
            ("[{host: mx1.example.org}]", "[]", "primary.hosts"),
            ("[{host: mx1.example.org}]", "[{host: 'mx1 x'}]", "primary.hosts"),
            ("{host: mx1.example.org}", "{host: mx1.example.org, port: 0}", "primary.hosts"),
            ("primary:", "limits: {recipients: 99}\nprimary:", "limits.recipients"),
            ("primary:", "limits: {messageSize: 1Ki}\nprimary:", "limits.messageSize"),
            ("primary:", "limits: {connections: 20000}\nprimary:", "limits.memory"),
            ("primary:", "limits: {idleTimeout: 0s}\nprimary:", "limits.idleTimeout"),
            ("primary:", "limits: {freeSpace: 1Mi}\nprimary:", "limits.freeSpace"),
            ("primary:", "proxyProtocol: {trusted: [10.0.0.0/33]}\nprimary:", "proxyProtocol.trusted"),
            ("primary:", "etrn: {allowed: [mx1.example.org]}\nprimary:", "etrn.allowed"),
            ("primary:", "primary:\n  probe: {interval: 1ms}", "primary.probe.interval"),
            ("primary:", "primary:\n  delivery: {maxConnections: 0}", "primary.delivery.maxConnections"),
            ("primary:", "primary:\n  probe: {recipient: 'a b'}", "primary.probe.recipient"),
            ("primary:", "primary:\n  tls: {mode: Verify, serverName: 'mx 1'}", "primary.tls.serverName"),
            ("primary:", "primary:\n  breaker: {retestInterval: 0s}", "primary.breaker.retestInterval"),
            ("primary:", "primary:\n  maintenance: {from: tomorrow}", "primary.maintenance.from"),
            (
                "primary:",
                "primary:\n  maintenance: {from: 2026-12-24T22:00:00Z, until: 2026-12-24T22:00:00Z}",
                "primary.maintenance.until",
            ),
            ("primary:", "passThrough: {stall: 5m}\nprimary:", "passThrough.stall"),
            ("primary:", "retention: {queue: 0s}\nprimary:", "retention.queue"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            match checked(&GOOD.replacen(from, to, 1)) {
                Err(ConfigError::Value { key: found, .. }) => assert_eq!(found, key, "{to}"),
                other => panic!("{to}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_line_and_column() {
        let refused = checked(&GOOD.replace("hostname", "hostnaem")).unwrap_err().to_string();
        assert!(refused.contains("hostnaem"), "{refused}");
        assert!(refused.contains("line 3") && refused.contains("column 1"), "{refused}");
    }

    #[test]
    fn a_key_of_a_newer_program_is_ignored_and_named_and_a_mistake_in_ours_is_not() {
        let parsed = |text: &str| parse(text, Path::new("relay.yaml"));
        let newer =
            format!("schema: 3\nblessed: true\nlimits: {{messageSize: 1Mi, mood: {{good: 1}}}}\n{}", &GOOD[1..]);
        let hosts = "[{host: mx1.example.org, priority: 1, xclient: true}]\npassThrough: {stall: 3s, zeal: 1}";
        let newer = newer.replace("[{host: mx1.example.org}]", hosts);
        let (document, ignored) = parsed(&newer).unwrap();
        assert_eq!(ignored, ["blessed", "limits.mood", "passThrough.zeal", "primary.hosts[0].priority"]);
        assert!(document.primary.hosts[0].xclient && document.pass_through.stall.to_string() == "3s");
        assert_eq!((document.limits.message_size, document.schema), (Bytes(1 << 20), 3));
        assert_eq!(check(document).unwrap().document.primary.hosts[0].host, "mx1.example.org");
        let ours = parsed(&newer.replace("schema: 3", "schema: 2")).unwrap_err().to_string();
        assert!(ours.contains("blessed") && ours.contains("line 2"), "{ours}");
        assert!(
            parsed(&format!("{newer}whenPrimaryUp: Sometimes\n")).is_err(),
            "a value that is not known cannot be obeyed"
        );
        assert_eq!(parsed(GOOD).unwrap().1, [""; 0]);
        let many: String = (0..100).map(|number| format!("new{number}: 1\n")).collect();
        assert_eq!(parsed(&format!("schema: 3\n{many}{GOOD}")).unwrap().1.len(), IGNORED_KEYS_MAX);
    }

    #[test]
    fn a_content_is_known_by_its_digest() {
        assert_eq!(digest(""), "99aa06d3014798d86001c324468d497f"); // XXH3 of nothing, as its authors print it
        assert_ne!(digest(GOOD), digest(&GOOD[1..]));
    }
}
