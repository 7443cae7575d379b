//! The config document: what a relay does. Written by the operator, or by a person as YAML. Where on the machine
//! it does so (ports, folders, logs) is said by flags, since that cannot change while it runs.
//!
//! Only the shape and the defaults stand here; the relay checks the values (its `config` module).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    SCHEMA,
    quantity::{Bytes, Span},
};

/// The whole document.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Document {
    /// Version of this document's shape.
    pub schema: u32,
    /// The resource's generation that this document was made from; 0 where a person wrote it.
    pub generation: i64,
    /// Domains to accept mail for: `example.org`, or `*.example.org` for all below it. Never inferred from DNS.
    pub domains: Vec<String>,
    /// Our own name: greeting, EHLO, `Received`. It should be the name in the MX record.
    pub hostname: String,
    /// The server that owns the mailboxes.
    pub primary: Primary,
    /// What happens to mail that comes in while the primary answers.
    pub when_primary_up: WhenPrimaryUp,
    /// How patient mail that passes through is.
    #[serde(skip_serializing_if = "PassThrough::is_default")]
    pub pass_through: PassThrough,
    /// What happens to recipients of whom nothing is known.
    pub recipients: Recipients,
    /// Bounds of what senders may ask for.
    pub limits: Limits,
    /// How long mail is kept.
    pub retention: Retention,
    /// Who speaks for clients, on the addresses where proxies connect.
    pub proxy_protocol: ProxyProtocol,
    /// Who may ask for a delivery at once.
    pub etrn: Etrn,
    /// Names of relays that take no more mail (their `--name`, on Kubernetes the pod's): senders hear 421, delivery goes on.
    pub cordoned: Vec<String>,
}

/// The server that owns the mailboxes: where it is, how it is watched, how mail is handed over.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Primary {
    /// Tried in this order; the first that answers a probe gets the mail.
    pub hosts: Vec<Host>,
    /// How the way to it is encrypted.
    pub tls: PrimaryTls,
    /// How it is watched.
    pub probe: Probe,
    /// How mail is handed over.
    pub delivery: Delivery,
    /// What is made of its refusals.
    pub breaker: Breaker,
    /// When it is away on purpose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
}

/// How the way to the primary is encrypted. Who wants more than opportunity says so: without that, a man in the middle can
/// take STARTTLS away.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PrimaryTls {
    /// How much is asked for.
    pub mode: TlsMode,
    /// Name that its certificate must have under `Verify`, and that is asked for by SNI; the host's name if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// PEM file of the authorities to trust under `Verify`; those of the system if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// Under `Opportunistic`: for how long a primary that offered STARTTLS is expected to offer it again. It gets its mail all
    /// the same, and there is an alarm.
    pub remember_starttls: Span,
}

/// See [`PrimaryTls::mode`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum TlsMode {
    /// In clear, whatever the primary offers.
    None,
    /// If the primary offers it, whatever certificate it has; else in clear.
    #[default]
    Opportunistic,
    /// Never in clear, whatever certificate it has.
    Encrypt,
    /// Never in clear, and the certificate must be good and for this name.
    Verify,
}

/// One address of the primary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Host {
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    #[serde(default = "smtp_port")]
    pub port: u16,
    /// Whether it is told by XCLIENT, where mail passes through, whose mail it is to judge. It must list our address for that (Postfix:
    /// `smtpd_authorized_xclient_hosts`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub xclient: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn smtp_port() -> u16 {
    crate::port::SMTP_DELIVERY
}

/// How the primary is watched.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Probe {
    /// Between probes while nothing waits.
    pub interval: Span,
    /// Between probes while mail waits, and until the threshold decides after a first failure.
    pub interval_while_queued: Span,
    /// Longest pause between probes where TCP connects but the server does not get as far as EHLO.
    pub interval_while_refusing_max: Span,
    /// For the TCP connect, so that a fresh SYN leaves at each interval.
    pub connect_timeout: Span,
    /// For each reply above that.
    pub timeout: Span,
    /// Failed probes in a row until the primary counts as down.
    pub failure_threshold: u32,
    /// Good probes in a row until it counts as up.
    pub success_threshold: u32,
    /// How far a probe goes.
    pub depth: Depth,
    /// Whom a probe of depth `Recipient` asks for; `postmaster` of the first domain if absent. No mail is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// A good probe that took longer makes the primary sick; mail goes all the same, at its pace.
    pub slow_after: Span,
    /// A client that connects while the last probe is older than this triggers one: senders that come to us have often just failed
    /// at the primary.
    pub renew_for_client_after: Span,
}

/// The last rung of a probe's ladder; each includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub enum Depth {
    /// TCP connects.
    Connect,
    /// Greeting and EHLO.
    Ehlo,
    /// STARTTLS, as far as `tls.mode` asks for it.
    #[default]
    StartTls,
    /// `MAIL FROM:<>` and RCPT.
    Recipient,
}

/// How mail is handed over.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Delivery {
    /// Connections to the primary at a time.
    pub max_connections: u32,
    /// Messages until a connection is closed and another one opened.
    pub max_messages_per_connection: u32,
    /// After a message's first deferral; doubles with each further one.
    pub retry_interval: Span,
    /// Where the doubling ends.
    pub retry_interval_max: Span,
    /// Recipients of one transaction; with more the message goes in several, one at once after the other.
    pub max_recipients_per_transaction: u32,
    /// Which waiting message goes first. Retries and new mail get their turns all the same, and no sender's flood delays the others.
    pub order: Order,
    /// Nothing is handed over while this is set.
    pub hold: bool,
    /// For how long it is remembered how many connections the primary can bear, after it turned one away.
    pub remember_limit: Span,
}

/// See [`Delivery::order`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Order {
    /// What has waited longest.
    #[default]
    OldestFirst,
    /// What came last.
    NewestFirst,
}

/// What is made of refusals that look like the primary's own trouble, and not like the mail's.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Breaker {
    /// While everything is held: between tests whether the primary is mended.
    pub retest_interval: Span,
    /// For so long after a return of the primary, its permanent refusals (5xx) count as temporary once: it may not be whole yet.
    pub return_window: Span,
    /// Then such a message is tried again after this.
    pub second_look_after: Span,
}

/// A time in which the primary is away on purpose: it counts as down, and nobody is alarmed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Maintenance {
    /// RFC 3339; since ever if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// RFC 3339; until it is taken out if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// How long mail is kept. Time counts while the relay runs, so that neither a clock that jumps nor a long stop ends anything.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retention {
    /// Mail that waits.
    pub queue: Span,
    /// What becomes of it then.
    pub at_expiry: AtExpiry,
    /// Mail that the primary refused for good, from then on; it ends as expired.
    pub undeliverable: Span,
}

/// See [`Retention::at_expiry`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum AtExpiry {
    /// It is held for a person to decide.
    #[default]
    Hold,
}

/// What happens to mail that comes in while the primary answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum WhenPrimaryUp {
    /// Ask the primary during the session: its verdict on recipients and content is what senders hear, and nothing is kept unless it
    /// fails.
    #[default]
    PassThrough,
    /// Accept, store, deliver at once.
    Queue,
}

/// How patient mail that passes through is. The sender waits meanwhile.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PassThrough {
    /// For each answer of the primary before the last one, and for each block that it takes; then it fails, and the mail is ours.
    pub stall: Span,
    /// For its answer to the final dot.
    pub final_dot: Span,
    /// A sender that takes longer from its first recipient to its final dot loses its connection to the primary; its message is offered
    /// once it is whole.
    pub slow_after: Span,
    /// For a free connection to the primary; then the sender hears 451.
    pub free_connection: Span,
}

impl PassThrough {
    /// Then it need not be written, and relays that do not know it yet can read the document.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for PassThrough {
    fn default() -> Self {
        Self { stall: seconds(60), final_dot: seconds(240), slow_after: seconds(10), free_connection: seconds(5) }
    }
}

/// What happens to recipients of whom nothing is known.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Recipients {
    /// Recipients in our domains that no list knows.
    pub unknown: UnknownRecipients,
}

/// See [`Recipients::unknown`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum UnknownRecipients {
    /// Take their mail; the primary decides at delivery.
    #[default]
    Accept,
}

/// Bounds of what senders may ask for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Largest message, advertised as SIZE (RFC 1870), unless the primary takes less.
    pub message_size: Bytes,
    /// Sessions at a time.
    pub connections: u32,
    /// Sessions of one client at a time: an IPv4 address or an IPv6 /64.
    pub connections_per_client: u32,
    /// Recipients of one message (RFC 5321 section 4.5.3.1.8 asks for 100 at least).
    pub recipients: u32,
    /// Mistakes of a client until it is sent away: enough for a confused human, too few for a guessing machine.
    pub errors: u32,
    /// Commands that bring no message nearer, until a client is sent away.
    pub junk_commands: u32,
    /// Longest command line.
    pub command_line: Bytes,
    /// Longest silence of a client (RFC 5321 section 4.5.3.2.7 asks for 5 minutes at least).
    pub idle_timeout: Span,
    /// The same from 80 % of the sessions on, once a message has begun.
    pub busy_timeout: Span,
    /// The same before a message has begun.
    pub busy_timeout_before_mail: Span,
    /// Buffers of all sessions together.
    pub memory: Bytes,
    /// Kept free on the volume: below it no message is begun.
    pub free_space: Bytes,
}

/// Who speaks for clients. A network is an address, or an address with a prefix length: `10.0.0.0/8`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProxyProtocol {
    /// Networks of the proxies.
    pub trusted: Vec<String>,
}

/// Who may say ETRN (RFC 1985).
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Etrn {
    /// Networks, besides the primary's own addresses.
    pub allowed: Vec<String>,
}

impl Default for Document {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            generation: 0,
            domains: Vec::new(),
            hostname: String::new(),
            primary: Primary::default(),
            when_primary_up: WhenPrimaryUp::default(),
            pass_through: PassThrough::default(),
            recipients: Recipients::default(),
            limits: Limits::default(),
            retention: Retention::default(),
            proxy_protocol: ProxyProtocol::default(),
            etrn: Etrn::default(),
            cordoned: Vec::new(),
        }
    }
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            interval: seconds(30),
            interval_while_queued: seconds(2),
            interval_while_refusing_max: seconds(30),
            connect_timeout: seconds(2),
            timeout: seconds(10),
            failure_threshold: 3,
            success_threshold: 1,
            depth: Depth::default(),
            recipient: None,
            slow_after: seconds(5),
            renew_for_client_after: seconds(5),
        }
    }
}

impl Default for PrimaryTls {
    fn default() -> Self {
        Self { mode: TlsMode::default(), server_name: None, ca_file: None, remember_starttls: days(7) }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self { retest_interval: minutes(10), return_window: minutes(30), second_look_after: minutes(15) }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self { queue: days(30), at_expiry: AtExpiry::default(), undeliverable: days(30) }
    }
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            max_connections: 20,
            max_messages_per_connection: 200,
            retry_interval: minutes(1),
            retry_interval_max: minutes(30),
            // RFC 5321 section 4.5.3.1.8: every server takes 100.
            max_recipients_per_transaction: 100,
            order: Order::default(),
            hold: false,
            remember_limit: minutes(10),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_size: Bytes(50 << 20),
            connections: 1000, // as many as a busy hour of a large domain has; each takes some 20 KiB
            connections_per_client: 100, // the largest senders come with some dozens
            recipients: 1000,
            errors: 20,
            junk_commands: 100,
            command_line: Bytes(2 << 10),
            idle_timeout: seconds(300),
            busy_timeout: seconds(60), // docs/adr/0008
            busy_timeout_before_mail: seconds(10),
            memory: Bytes(96 << 20),
            free_space: Bytes(192 << 20),
        }
    }
}

const fn seconds(count: u64) -> Span {
    Span(Duration::from_secs(count))
}

const fn minutes(count: u64) -> Span {
    seconds(60 * count)
}

const fn days(count: u64) -> Span {
    minutes(24 * 60 * count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_names_only_the_necessary_gets_the_defaults() {
        let document: Document = serde_json::from_str(
            r#"{"domains": ["example.org"], "hostname": "mx2.example.org", "primary": {"hosts": [{"host": "mx1.example.org"}]}}"#,
        )
        .unwrap();
        assert_eq!(document.primary.hosts, [Host { host: "mx1.example.org".into(), port: 25, xclient: false }]);
        assert_eq!(document.primary.probe, Probe::default());
        assert_eq!(document.limits.message_size, Bytes(52_428_800));
    }

    #[test]
    fn a_document_survives_being_written_and_read() {
        let document = Document { domains: vec!["*.example.org".into()], ..Document::default() };
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(serde_json::from_str::<Document>(&text).unwrap(), document);
    }

    #[test]
    fn an_unknown_key_is_refused_at_every_level() {
        for text in [r#"{"domain": []}"#, r#"{"primary": {"host": "x"}}"#, r#"{"limits": {"messagesize": "1Mi"}}"#] {
            assert!(serde_json::from_str::<Document>(text).is_err(), "{text} was taken");
        }
    }
}
