//! The custom resource `backupmx.io/v1alpha1 BackupMx`: its shape, its limits and defaults, its rules. What one object can
//! tell is judged here, by the API server, before anybody sees it.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Relays that keep an organisation's mail while its mail server is away, and hand it over when it is back.
#[derive(CustomResource, Clone, PartialEq, Debug, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "backupmx.io",
    version = "v1alpha1",
    kind = "BackupMx",
    plural = "backupmxes",
    shortname = "bmx",
    namespaced,
    status = "BackupMxStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct BackupMxSpec {
    pub domains: Vec<String>,
    pub hostname: String,
    pub primary: Primary,
    #[serde(default)]
    pub when_primary_up: WhenPrimaryUp,
    #[serde(default)]
    pub recipients: Recipients,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub retention: Retention,
    #[serde(default)]
    pub tls: Option<Tls>,
    #[serde(default)]
    pub proxy_protocol: ProxyProtocol,
    #[serde(default)]
    pub etrn: Etrn,
    #[serde(default = "one")]
    pub replicas: i32,
    #[serde(default)]
    pub storage: Storage,
    #[serde(default)]
    pub service: Service,
    #[serde(default)]
    pub network_policy: NetworkPolicy,
    #[serde(default)]
    pub pod: Pod,
    #[serde(default)]
    pub monitoring: Monitoring,
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    #[serde(default)]
    pub paused: bool,
}

fn one() -> i32 {
    1
}


/// The server that owns the mailboxes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Primary {
    pub hosts: Vec<Host>,
    #[serde(default)]
    pub tls: PrimaryTls,
    #[serde(default)]
    pub probe: Probe,
    #[serde(default)]
    pub delivery: Delivery,
    #[serde(default)]
    pub breaker: Breaker,
    #[serde(default)]
    pub maintenance: Option<Maintenance>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    pub host: String,
    #[serde(default = "smtp_port")]
    pub port: i32,
}

fn smtp_port() -> i32 {
    25
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PrimaryTls {
    pub mode: TlsMode,
    pub server_name: Option<String>,
    pub ca_secret_ref: Option<SecretKey>,
    pub remember_starttls: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    pub name: String,
    #[serde(default = "ca_key")]
    pub key: String,
}

fn ca_key() -> String {
    "ca.crt".into()
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Probe {
    pub interval: Option<String>,
    pub interval_while_queued: Option<String>,
    pub interval_while_refusing_max: Option<String>,
    pub connect_timeout: Option<String>,
    pub timeout: Option<String>,
    pub failure_threshold: Option<i32>,
    pub success_threshold: Option<i32>,
    pub depth: Option<Depth>,
    pub recipient: Option<String>,
    pub slow_after: Option<String>,
    pub renew_for_client_after: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Delivery {
    pub max_connections: Option<i32>,
    pub max_messages_per_connection: Option<i32>,
    pub max_recipients_per_transaction: Option<i32>,
    pub order: Option<Order>,
    pub hold: Option<bool>,
    pub retry_interval: Option<String>,
    pub retry_interval_max: Option<String>,
    pub remember_limit: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Breaker {
    pub retest_interval: Option<String>,
    pub return_window: Option<String>,
    pub second_look_after: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Maintenance {
    pub from: Option<String>,
    pub until: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Recipients {
    pub unknown: UnknownRecipients,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    pub message_size: Option<String>,
    pub connections: Option<i32>,
    pub connections_per_client: Option<i32>,
    pub recipients: Option<i32>,
    pub errors: Option<i32>,
    pub junk_commands: Option<i32>,
    pub command_line: Option<String>,
    pub idle_timeout: Option<String>,
    pub busy_timeout: Option<String>,
    pub busy_timeout_before_mail: Option<String>,
    pub memory: Option<String>,
    pub free_space: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Retention {
    pub queue: Option<String>,
    pub at_expiry: AtExpiry,
    pub undeliverable: Option<String>,
}

/// The certificate that senders see: from a Secret of type `kubernetes.io/tls`, or issued into one by cert-manager.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Tls {
    pub secret_name: Option<String>,
    pub issuer_ref: Option<IssuerRef>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssuerRef {
    pub name: String,
    #[serde(default)]
    pub kind: Option<String>,
    #[serde(default)]
    pub group: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyProtocol {
    pub trusted: Vec<String>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Etrn {
    pub allowed: Vec<String>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Storage {
    pub size: Option<String>,
    pub storage_class_name: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    #[serde(rename = "type")]
    pub type_: ServiceType,
    pub external_traffic_policy: Option<ExternalTrafficPolicy>,
    pub annotations: BTreeMap<String, String>,
    pub load_balancer_class: Option<String>,
    pub node_port: Option<i32>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicy {
    pub egress: Option<Vec<k8s_openapi::api::networking::v1::NetworkPolicyEgressRule>>,
}

/// What a cluster asks of pods.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    pub image: Option<String>,
    pub image_pull_policy: Option<String>,
    pub image_pull_secrets: Vec<LocalObjectReference>,
    pub resources: Option<ResourceRequirements>,
    pub node_selector: BTreeMap<String, String>,
    pub tolerations: Vec<Toleration>,
    pub affinity: Option<Affinity>,
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    pub priority_class_name: Option<String>,
    pub annotations: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Monitoring {
    pub pod_monitor: bool,
}

/// See [`PrimaryTls::mode`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub enum TlsMode {
    #[default]
    Opportunistic,
    None,
    Encrypt,
    Verify,
}

/// The last rung of a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Depth {
    #[default]
    StartTls,
    Connect,
    Ehlo,
    Recipient,
}

/// Which waiting message goes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Order {
    #[default]
    OldestFirst,
    NewestFirst,
}

/// What happens to mail that comes in while the primary answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub enum WhenPrimaryUp {
    #[default]
    Queue,
}

/// What happens to recipients of whom nothing is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub enum UnknownRecipients {
    #[default]
    Accept,
}

/// What becomes of mail that waited too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub enum AtExpiry {
    #[default]
    Hold,
}

/// How senders reach the relays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub enum ServiceType {
    #[default]
    LoadBalancer,
    NodePort,
    ClusterIP,
}

/// Whether the client address survives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub enum ExternalTrafficPolicy {
    #[default]
    Local,
    Cluster,
}

/// What happens to the mail that is still here when the resource is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub enum DeletionPolicy {
    #[default]
    WaitForEmptyQueue,
    Orphan,
    Delete,
}

/// What is known of it. Written by the operator alone.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupMxStatus {
    pub observed_generation: Option<i64>,
    pub conditions: Vec<Condition>,
    pub primary: Option<PrimaryStatus>,
    pub queue: Option<QueueStatus>,
    pub drain: Option<DrainStatus>,
    pub relays: Vec<RelayStatus>,
    /// Where senders reach the relays: for the A and AAAA records of `spec.hostname`.
    pub addresses: Vec<String>,
    /// From where the primary sees the relays, as far as it tells.
    pub egress_addresses: Vec<String>,
    pub outages: Vec<OutageStatus>,
    pub replicas: i32,
    pub selector: Option<String>,
    /// What a person should know, though nothing is broken.
    pub warnings: Vec<String>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PrimaryStatus {
    /// Unknown, Up, Down, Sick, Held or Maintenance, as most relays see it; `Mixed` would hide which, so the worst counts.
    pub state: String,
    pub since: Option<String>,
    pub last_probe: Option<String>,
    pub reason: String,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueStatus {
    pub messages: i64,
    pub bytes: i64,
    pub oldest: Option<String>,
    pub held: i64,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrainStatus {
    /// Idle, Waiting or Draining.
    pub state: String,
    pub messages_per_second: f64,
    pub connections: i64,
    pub estimated_empty: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RelayStatus {
    pub pod: String,
    pub ready: bool,
    /// False while it does not answer the operator; then the numbers are those of its last answer.
    pub answers: bool,
    pub messages: Option<i64>,
    pub config_generation: Option<i64>,
    pub version: Option<String>,
    pub cordoned: bool,
    /// What it says a person should look at, cut to a bound.
    pub problems: Vec<String>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OutageStatus {
    pub from: String,
    pub until: Option<String>,
    pub messages: i64,
    pub bytes: i64,
    pub last_delivered: Option<String>,
}
