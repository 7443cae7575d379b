//! What the relays do with mail: limits, retention, their certificate, who may speak for clients.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// See [`super::BackupMxSpec::when_primary_up`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub enum WhenPrimaryUp {
    /// Ask the primary while the sender waits: what it says of recipients and content is what the sender hears.
    #[default]
    PassThrough,
    /// Accept, store, deliver at once.
    Queue,
}

/// What happens to recipients of whom nothing is known.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Recipients {
    /// Recipients in the listed domains that no list knows, wherever the primary is not asked first: while it is away, and under
    /// whenPrimaryUp: Queue. Accept: their mail is taken, and the primary decides at delivery. Default: Accept.
    pub unknown: UnknownRecipients,
}

/// See [`Recipients::unknown`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub enum UnknownRecipients {
    /// Take their mail; the primary decides at delivery.
    #[default]
    Accept,
}

/// Bounds of what senders may ask for, of each relay.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = rules::rule(
    // The relay asks for 52 KiB a session, a tenth more of them since some may be on their way out, and 16 MiB beside.
    "!has(self.memory) && !has(self.connections) || [has(self.memory) ? self.memory : '96Mi'].all(memory, !isQuantity(memory) || !quantity(memory).isInteger() || quantity(memory).asInteger() >= 16777216 + (has(self.connections) ? self.connections : 1000) * 11 / 10 * 53248)",
    "memory is too small for so many connections: each takes 58573 bytes, besides 16Mi; with 1000 connections write 96Mi, with 20000 write 1200Mi"
))]
pub struct Limits {
    /// Largest message, offered as SIZE, unless the primary takes less. From 64Ki to 2Gi. Default: 50Mi.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::bytes("64Ki", "2Gi"))]
    pub message_size: Option<String>,
    /// Sessions at a time. From 1 to 20000; more than 1000 need more memory. Default: 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 20_000))]
    pub connections: Option<i32>,
    /// Sessions of one client at a time: an IPv4 address or an IPv6 /64. From 1 to 20000. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 20_000))]
    pub connections_per_client: Option<i32>,
    /// Recipients of one message. From 100 to 1000. Default: 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 1000))]
    pub recipients: Option<i32>,
    /// Mistakes of a client until it is sent away. From 5 to 1000. Default: 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 5, max = 1000))]
    pub errors: Option<i32>,
    /// Commands that bring no message nearer, until a client is sent away. From 10 to 10000. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 10_000))]
    pub junk_commands: Option<i32>,
    /// Longest command line. From 2Ki to 4Ki. Default: 2Ki.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::bytes("2Ki", "4Ki"))]
    pub command_line: Option<String>,
    /// Longest silence of a client. From 30s to 1h. Default: 5m.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("30s", "1h"))]
    pub idle_timeout: Option<String>,
    /// The same from 80 % of the sessions on, once a message has begun. From 5s to 1h. Default: 1m.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("5s", "1h"))]
    pub busy_timeout: Option<String>,
    /// The same before a message has begun. From 1s to 1h. Default: 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("1s", "1h"))]
    pub busy_timeout_before_mail: Option<String>,
    /// Buffers of all sessions together; the pod asks for so much memory and 160Mi. Up to 64Gi. Default: 96Mi.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::bytes("16Mi", "64Gi"))]
    pub memory: Option<String>,
    /// Kept free on the volume: below it senders hear 452 and try again later. From 192Mi to 1Ti. Default: 192Mi.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::bytes("192Mi", "1Ti"))]
    pub free_space: Option<String>,
}

/// How long mail is kept. Time counts while the relays run, so that neither a clock that jumps nor a long stop ends anything.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Retention {
    /// Mail that waits. From 1s to 3650d. Default: 30d.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("1s", "3650d"))]
    pub queue: Option<String>,
    /// What becomes of it then. Hold: it is held for a person to decide. Default: Hold.
    pub at_expiry: AtExpiry,
    /// Mail that the primary refused for good, from then on; it ends as expired. From 1s to 3650d. Default: 30d.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::span("1s", "3650d"))]
    pub undeliverable: Option<String>,
}

/// See [`Retention::at_expiry`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub enum AtExpiry {
    /// It is held for a person to decide.
    #[default]
    Hold,
}

/// The certificate that senders see: from a Secret of type kubernetes.io/tls in this namespace, or issued into one by cert-manager.
/// Without it, or until it is there, mail is taken in clear. A renewed certificate is used without a restart.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = rules::rule(
    "has(self.secretName) || has(self.issuerRef)",
    "name secretName, a Secret of type kubernetes.io/tls, or issuerRef, who issues one; or remove tls"
))]
pub struct Tls {
    /// Secret with tls.crt and tls.key. With issuerRef it is made, by default as NAME-tls.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::object_name("Secret"))]
    pub secret_name: Option<String>,
    /// Issuer of cert-manager that makes a certificate for spec.hostname.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
}

/// Issuer of cert-manager that makes a certificate for spec.hostname. Needs cert-manager in the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssuerRef {
    /// Its name.
    #[schemars(transform = rules::object_name("issuer"))]
    pub name: String,
    /// Issuer, ClusterIssuer, or what another group calls its own. Default: Issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: Option<String>,
    /// API group of that kind. Default: cert-manager.io.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub group: Option<String>,
}

/// Load balancers that speak the PROXY protocol, v1 or v2, and so hand on the addresses of clients.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyProtocol {
    /// Their networks. As soon as there is one, each connection has to come from one of them, and to begin with a PROXY header.
    /// Example: [10.0.0.0/8].
    #[schemars(length(max = 100), transform = rules::set, transform = rules::each(rules::network))]
    pub trusted: Vec<String>,
}

/// Who may ask for a delivery at once (ETRN, RFC 1985).
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Etrn {
    /// Networks, besides the primary's own addresses. Example: [192.0.2.0/24].
    #[schemars(length(max = 100), transform = rules::set, transform = rules::each(rules::network))]
    pub allowed: Vec<String>,
}
