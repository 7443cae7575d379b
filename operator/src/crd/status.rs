//! `status`: what is known. Written by the operator alone.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// What is known of it. Written by the operator alone.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupMxStatus {
    /// The generation of the resource that this status speaks of.
    pub observed_generation: Option<i64>,
    /// Ready: mail can be taken and kept, be the primary up or down. Accepted, Available, Progressing, Degraded, PrimaryReachable,
    /// QueueEmpty, Draining, TlsReady and ScaleInBlocked tell the rest; each message names the cure.
    #[schemars(length(max = 30), transform = rules::map(&["type"]))]
    pub conditions: Vec<Condition>,
    /// The primary, as the relays see it.
    pub primary: Option<PrimaryStatus>,
    /// The mail that is kept, of all relays that answer together.
    pub queue: Option<QueueStatus>,
    /// How it is handed over.
    pub drain: Option<DrainStatus>,
    /// Each relay.
    #[schemars(length(max = 100), transform = rules::map(&["pod"]))]
    pub relays: Vec<RelayStatus>,
    /// Relays that are ready, of those that are wanted: 2/2.
    pub relays_ready: Option<String>,
    /// Where senders reach the relays: for the A and AAAA records of spec.hostname.
    #[schemars(length(max = 50))]
    pub addresses: Vec<String>,
    /// From where the primary sees the relays, as far as it tells: for its allow-lists.
    #[schemars(length(max = 50))]
    pub egress_addresses: Vec<String>,
    /// The last outages of the primary, newest first.
    #[schemars(length(max = 20))]
    pub outages: Vec<OutageStatus>,
    /// Relays that are there. For `kubectl scale`.
    pub replicas: i32,
    /// The labels of their pods, as a selector. For `kubectl scale`.
    pub selector: Option<String>,
    /// What a person should know, though nothing is broken.
    #[schemars(length(max = 50))]
    pub warnings: Vec<String>,
}

/// The primary, as the relays see it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PrimaryStatus {
    /// Unknown, Up, Down, Sick, Held or Maintenance. Where relays differ, the worst counts.
    pub state: String,
    /// Since when.
    pub since: Option<String>,
    /// When a relay last looked.
    pub last_probe: Option<String>,
    /// Why, as far as it is not simply up.
    pub reason: String,
}

/// The mail that is kept, of all relays that answer together.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueStatus {
    /// Messages that wait or are held.
    pub messages: i64,
    /// Their size in bytes.
    pub bytes: i64,
    /// When the oldest of them came.
    pub oldest: Option<String>,
    /// Those of them that wait for a person.
    pub held: i64,
}

/// How mail is handed over.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrainStatus {
    /// Idle, Waiting or Draining.
    pub state: String,
    /// Of all relays together, over the last seconds.
    pub messages_per_second: f64,
    /// Connections to the primary that are open now.
    pub connections: i64,
    /// When the queue will be empty, at this pace.
    pub estimated_empty: Option<String>,
}

/// One relay.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = rules::required(&["pod"]))]
pub struct RelayStatus {
    /// Its pod.
    pub pod: String,
    /// Whether it takes mail.
    pub ready: bool,
    /// False while it does not answer the operator; then the numbers are those of its last answer.
    pub answers: bool,
    /// Messages on its volume.
    pub messages: Option<i64>,
    /// The generation of the resource whose configuration it runs.
    pub config_generation: Option<i64>,
    /// Version of its program.
    pub version: Option<String>,
    /// Whether it takes no new mail because it is to go.
    pub cordoned: bool,
    /// What it says a person should look at, cut to a bound.
    #[schemars(length(max = 50))]
    pub problems: Vec<String>,
}

/// A time in which the primary was down.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OutageStatus {
    /// Begin.
    pub from: String,
    /// End; absent while it lasts.
    pub until: Option<String>,
    /// Messages that were kept in it.
    pub messages: i64,
    /// Their size in bytes.
    pub bytes: i64,
    /// When the last of them was handed over; absent until then.
    pub last_delivered: Option<String>,
}
