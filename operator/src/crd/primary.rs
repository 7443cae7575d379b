//! `spec.primary`: the server that owns the mailboxes, how it is watched, how mail is handed over.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// The mail server that owns the mailboxes: where it is, how it is watched, how mail is handed over.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Primary {
    /// Where it takes mail. Tried in this order; the first that answers a probe gets the mail. At most 10.
    /// Example: [{host: mx1.example.org, port: 25}].
    #[schemars(length(min = 1, max = 10), transform = rules::map(&["host", "port"]))]
    pub hosts: Vec<Host>,
    /// How the way to it is encrypted.
    #[serde(default)]
    pub tls: PrimaryTls,
    /// How it is watched. The relays' defaults fit nearly everybody.
    #[serde(default)]
    pub probe: Probe,
    /// How mail is handed over.
    #[serde(default)]
    pub delivery: Delivery,
    /// What is made of refusals that look like its own trouble, and not like the mail's.
    #[serde(default)]
    pub breaker: Breaker,
    /// A time in which it is away on purpose: it counts as down, and nobody is alarmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
}

/// One address of the primary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// Host name or IP address, without a port. Not the name that points to the relays themselves.
    #[schemars(transform = rules::host_name_or_address)]
    pub host: String,
    /// TCP port. Default: 25.
    #[serde(default = "smtp_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Whether it is told, by the command XCLIENT, whose mail it judges while mail passes through: then its block lists, SPF, greylisting
    /// and limits see the sender's own client, and not a relay. Only for a server that offers XCLIENT to the relays' addresses (Postfix:
    /// smtpd_authorized_xclient_hosts). Means nothing under whenPrimaryUp: Queue. Default: false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub xclient: bool,
}

fn smtp_port() -> i32 {
    i32::from(backupmx_relay_api::port::SMTP_DELIVERY)
}

fn is_false(value: &bool) -> bool {
    !value
}

/// How the way to the primary is encrypted.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(
    transform = rules::rule(
        "!has(self.caSecretRef) || (has(self.mode) && self.mode == 'Verify')",
        "caSecretRef is looked at only under mode: Verify; set that, or remove caSecretRef"
    ),
    transform = rules::rule(
        "!has(self.serverName) || !has(self.mode) || self.mode != 'None'",
        "serverName means nothing without TLS; remove it, or choose mode Opportunistic, Encrypt or Verify"
    )
)]
pub struct PrimaryTls {
    /// How much is asked for. None: in clear. Opportunistic: encrypted if the primary offers it, whatever its certificate, else
    /// in clear. Encrypt: never in clear, whatever its certificate. Verify: never in clear, and the certificate must be good and
    /// for this name; otherwise mail waits. Default: Opportunistic.
    pub mode: TlsMode,
    /// Name that the primary's certificate must have under Verify, and that is asked for by SNI. Default: the name of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::host_name_or_address)]
    pub server_name: Option<String>,
    /// Authorities to trust under Verify, as PEM in a Secret of this namespace. Default: those that browsers trust. A change is
    /// used without a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKey>,
    /// Under Opportunistic: for how long a primary that offered STARTTLS is expected to offer it again. It gets its mail all the
    /// same, and the status tells. From 0s to 365d. Default: 7d.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("0s", "365d"))]
    pub remember_starttls: Option<String>,
}

/// A key of a Secret in this namespace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// Name of the Secret.
    #[schemars(transform = rules::object_name("Secret"))]
    pub name: String,
    /// Key in it. Default: ca.crt.
    #[serde(default = "ca_key")]
    #[schemars(length(max = 253), transform = rules::rule(
        "self.matches('^[-._a-zA-Z0-9]+$')",
        "write a key of the Secret, such as ca.crt: letters, digits, hyphens, dots and underscores"
    ))]
    pub key: String,
}

fn ca_key() -> String {
    "ca.crt".into()
}

/// See [`PrimaryTls::mode`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// If the primary offers it, whatever certificate it has; else in clear.
    #[default]
    Opportunistic,
    /// In clear, whatever the primary offers.
    None,
    /// Never in clear, whatever certificate it has.
    Encrypt,
    /// Never in clear, and the certificate must be good and for this name.
    Verify,
}

/// How the primary is watched. Each relay watches it by itself.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = rules::rule(
    "!has(self.recipient) || (has(self.depth) && self.depth == 'Recipient')",
    "recipient is asked for only by probes of depth: Recipient; set that, or remove recipient"
))]
pub struct Probe {
    /// Between probes while nothing waits. From 100ms to 1h. Default: 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("100ms", "1h"))]
    pub interval: Option<String>,
    /// Between probes while mail waits, and until the threshold decides after a first failure. From 100ms to 1h. Default: 2s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("100ms", "1h"))]
    pub interval_while_queued: Option<String>,
    /// Longest pause between probes where TCP connects but the server does not get as far as EHLO. From 100ms to 1h. Default: 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("100ms", "1h"))]
    pub interval_while_refusing_max: Option<String>,
    /// How long a probe's TCP connect may take. From 50ms to 1m. Default: 2s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("50ms", "1m"))]
    pub connect_timeout: Option<String>,
    /// How long each reply to a probe may take. From 100ms to 5m. Default: 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("100ms", "5m"))]
    pub timeout: Option<String>,
    /// Failed probes in a row until the primary counts as down. Default: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub failure_threshold: Option<i32>,
    /// Good probes in a row until it counts as up. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub success_threshold: Option<i32>,
    /// How far a probe goes. Default: StartTls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<Depth>,
    /// Whom a probe of depth Recipient asks for; no mail is sent. Default: postmaster of the first domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::mail_address)]
    pub recipient: Option<String>,
    /// A good probe that took longer makes the primary Sick; mail goes all the same, at its pace. From 100ms to 5m. Default: 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("100ms", "5m"))]
    pub slow_after: Option<String>,
    /// A client that connects while the last probe is older than this triggers one: senders that come to a backup have often just
    /// failed at the primary. From 100ms to 1h. Default: 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("100ms", "1h"))]
    pub renew_for_client_after: Option<String>,
}

/// How far a probe goes; each step includes those before it. Connect: TCP connects. Ehlo: greeting and EHLO. StartTls: STARTTLS, as
/// far as tls.mode asks for it. Recipient: MAIL and RCPT, without mail. Default: StartTls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub enum Depth {
    /// STARTTLS, as far as `tls.mode` asks for it.
    #[default]
    StartTls,
    /// TCP connects.
    Connect,
    /// Greeting and EHLO.
    Ehlo,
    /// `MAIL FROM:<>` and RCPT.
    Recipient,
}

/// How mail is handed over.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Delivery {
    /// Connections to the primary at a time, of all relays together; each gets its share, and at least one. Mail that passes through and
    /// mail that was kept share them. From 1 to 1000. Default: 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_connections: Option<i32>,
    /// Messages until a connection is closed and another one opened. Default: 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_messages_per_connection: Option<i32>,
    /// Recipients of one transaction; a message with more goes in several, one at once after the other. From 1 to 1000. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_recipients_per_transaction: Option<i32>,
    /// Which waiting message goes first. Default: OldestFirst.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// Nothing is handed over while this is true; mail is taken and kept all the same. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<bool>,
    /// After a message's first deferral; doubles with each further one. From 100ms to 1d. Default: 1m.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("100ms", "1d"))]
    pub retry_interval: Option<String>,
    /// Where that doubling ends. From 100ms to 1d. Default: 30m.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("100ms", "1d"))]
    pub retry_interval_max: Option<String>,
    /// For how long it is remembered how many connections the primary can bear, after it turned one away. From 1s to 1d. Default: 10m.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("1s", "1d"))]
    pub remember_limit: Option<String>,
}

/// Which waiting message goes first: OldestFirst or NewestFirst. Retries and new mail get their turns all the same, and no sender's
/// flood delays the others. Default: OldestFirst.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub enum Order {
    /// What has waited longest.
    #[default]
    OldestFirst,
    /// What came last.
    NewestFirst,
}

/// What is made of refusals that look like the primary's own trouble, and not like the mail's: everything is held, nothing sent back.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Breaker {
    /// While everything is held: between tests whether the primary is mended. From 1s to 1d. Default: 10m.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("1s", "1d"))]
    pub retest_interval: Option<String>,
    /// For so long after a return of the primary, its permanent refusals count as temporary once: it may not be whole yet. From 0s
    /// (each refusal is the last word) to 7d. Default: 30m.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("0s", "7d"))]
    pub return_window: Option<String>,
    /// Then such a message is tried again after this. From 100ms to 1d. Default: 15m.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("100ms", "1d"))]
    pub second_look_after: Option<String>,
}

/// A time in which the primary is away on purpose: it counts as down, mail is kept, and nobody is alarmed.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = rules::in_order("from", "until"))]
pub struct Maintenance {
    /// Begin, as RFC 3339 writes it: 2026-12-24T22:00:00Z. Default: since ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::time)]
    pub from: Option<String>,
    /// End, likewise. Default: until it is taken out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::time)]
    pub until: Option<String>,
}
