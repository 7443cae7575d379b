//! What the relays are on the cluster: volumes, Services, pods, and what becomes of them.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    core::v1::{Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint},
    networking::v1::NetworkPolicyEgressRule,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// The volume of each relay, on which mail is kept. Neither can be changed afterwards. It is kept when the relay goes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = rules::rule(
    "self == oldSelf",
    "storage cannot be changed: put the old values back, or make a second BackupMx with other storage and delete this one once it is empty"
))]
pub struct Storage {
    /// Room on each volume. Default: 20Gi.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::quantity)]
    pub size: Option<String>,
    /// Class of the volumes; an empty text means volumes that were made by hand. Default: the cluster's default class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
}

/// How senders reach the relays: the Service NAME-smtp, whose address belongs into DNS.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(
    transform = rules::rule(
        "!has(self.externalTrafficPolicy) || self.type != 'ClusterIP'",
        "externalTrafficPolicy means nothing for type ClusterIP; remove it, or choose LoadBalancer or NodePort"
    ),
    transform = rules::rule(
        "!has(self.loadBalancerClass) || self.type == 'LoadBalancer'",
        "loadBalancerClass is for type LoadBalancer only; remove it, or choose that type"
    ),
    transform = rules::rule(
        "!has(self.nodePort) || self.type != 'ClusterIP'",
        "nodePort means nothing for type ClusterIP; remove it, or choose NodePort or LoadBalancer"
    ),
    transform = rules::rule(
        "self.type != 'LoadBalancer' || oldSelf.type != 'LoadBalancer' || (has(self.loadBalancerClass) ? self.loadBalancerClass : '') == (has(oldSelf.loadBalancerClass) ? oldSelf.loadBalancerClass : '')",
        "loadBalancerClass cannot be changed while type is LoadBalancer: set type: ClusterIP first, then both"
    )
)]
pub struct Service {
    /// LoadBalancer: an address from outside. NodePort: a port on each node, for a load balancer of your own. ClusterIP: inside only.
    /// Default: LoadBalancer.
    #[serde(rename = "type")]
    pub type_: ServiceType,
    /// Local or Cluster; not for ClusterIP. Default: Local.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<ExternalTrafficPolicy>,
    /// Annotations of the Service, by which load balancers are told what they should do.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(transform = rules::entries_max(50, 4096), transform = rules::not_ours)]
    pub annotations: BTreeMap<String, String>,
    /// Who makes the load balancer, where there are several. Only for LoadBalancer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub load_balancer_class: Option<String>,
    /// Port on each node, out of the cluster's range. Not for ClusterIP. Default: the cluster chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<i32>,
}

/// How senders reach the relays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// An address from outside.
    #[default]
    LoadBalancer,
    /// A port on each node.
    NodePort,
    /// Inside the cluster only.
    ClusterIP,
}

/// Local: the relays see the addresses of clients, on which limits for a client depend. Cluster: each node takes mail, but all clients seem
/// to come from nodes. Not for ClusterIP. Default: Local.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub enum ExternalTrafficPolicy {
    /// Only nodes with a relay take mail, and the client's address survives.
    #[default]
    Local,
    /// Each node takes mail, and the client's address is lost.
    Cluster,
}

/// Who may talk to the relays, and with whom they may talk. SMTP is open to everybody, metrics to the cluster, the admin API to the
/// operator and the relays.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicy {
    /// Rules of a NetworkPolicy for what the relays may reach: the primary and DNS are needed. An empty list forbids everything. Default: no
    /// restriction. `kubectl explain networkpolicy.spec.egress` tells the fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 50))]
    pub egress: Option<Vec<NetworkPolicyEgressRule>>,
}

/// What your cluster asks of pods. A change restarts the relays, one after the other; mail stays on their volumes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    /// Image of the relay. Default: the one that belongs to the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), transform = rules::rule(
        "self.matches(r'^[^\\s]+$')",
        "write the name of an image without blanks, such as registry.example.org/backupmx-relay:0.1.0"
    ))]
    pub image: Option<String>,
    /// Always, IfNotPresent or Never. Default: as Kubernetes has it, IfNotPresent unless the tag is latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::one_of(&["Always", "IfNotPresent", "Never"]))]
    pub image_pull_policy: Option<String>,
    /// Secrets for the registry, in this namespace. Example: [{name: registry}].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// CPU and memory, requested and at most. Default: 100m CPU and limits.memory plus 160Mi are requested, without an upper limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels of the nodes that may run relays.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(transform = rules::entries_max(50, 63))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that do not keep relays away. `kubectl explain pod.spec.tolerations` tells the fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub tolerations: Vec<Toleration>,
    /// Affinity of the pods. `kubectl explain pod.spec.affinity` tells the fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How relays are spread. Default: over zones and nodes, as far as possible. An empty list means not at all.
    /// `kubectl explain pod.spec.topologySpreadConstraints` tells the fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10))]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// PriorityClass of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::object_name("PriorityClass"))]
    pub priority_class_name: Option<String>,
    /// Annotations of the pods, besides the operator's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(transform = rules::entries_max(50, 4096), transform = rules::not_ours)]
    pub annotations: BTreeMap<String, String>,
    /// Labels of the pods, besides the operator's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(transform = rules::entries_max(50, 63), transform = rules::not_ours)]
    pub labels: BTreeMap<String, String>,
}

/// Who reads the metrics.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Monitoring {
    /// Whether a PodMonitor is made, by which the Prometheus operator finds the relays. Default: false.
    pub pod_monitor: bool,
    /// Labels of the PodMonitor, by which a Prometheus chooses it. Example: {release: kube-prometheus-stack}.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(transform = rules::entries_max(50, 63), transform = rules::not_ours)]
    pub labels: BTreeMap<String, String>,
}

/// See [`super::BackupMxSpec::deletion_policy`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// No new mail is taken, and all is removed once the last message has gone.
    #[default]
    WaitForEmptyQueue,
    /// All but the volumes is removed at once; the mail stays on them.
    Orphan,
    /// Everything is removed, mail included.
    Delete,
}
