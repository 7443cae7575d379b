//! Brings the objects of the cluster into the desired state, by server-side apply; the only writer of owned objects.

use jiff::Timestamp;

/// What is there after it.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Digest of the config document in the ConfigMap.
    pub config_digest: String,
    /// Whom that document cordons.
    pub cordoned: Vec<String>,
    /// The StatefulSet of the relays; absent while there is none.
    pub rollout: Option<Rollout>,
    /// Pods of the relays, by ordinal.
    pub pods: Vec<Pod>,
    /// Claims of the relays.
    pub claims: Vec<Claim>,
    /// Where the load balancer takes mail.
    pub addresses: Vec<String>,
    /// What could not be made, a finding each.
    pub findings: Vec<Finding>,
    /// Others that serve one of our domains.
    pub neighbours: Vec<Neighbour>,
}

/// How far the StatefulSet's controller is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rollout {
    /// Pods that it is told to have.
    pub replicas: i32,
    /// Whether its controller has seen the newest of what it is told.
    pub seen: bool,
    /// Pods that are made from the newest template.
    pub updated: i32,
}

/// Another `BackupMx` that serves one of our domains.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Neighbour {
    /// Where it is.
    pub namespace: String,
    /// How it is called.
    pub name: String,
    /// The domain.
    pub domain: String,
}

/// A relay's pod, as far as it matters.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pod {
    pub name: String,
    pub uid: String,
    pub ip: Option<String>,
    pub ready: bool,
    /// Since when `ready` is what it is: the last transition of its condition, or else when the pod was made.
    pub since: Option<Timestamp>,
    pub leaving: bool,
    /// Why it does not run, in the cluster's words: unschedulable, image pull, crash loop.
    pub trouble: Option<String>,
}

/// A relay's claim.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Claim {
    pub name: String,
    /// The pod whose mail is on it.
    pub pod: String,
    pub bound: bool,
    /// `backupmx.io/emptied-at`: its relay was seen cordoned and empty.
    pub emptied_at: Option<String>,
    /// `backupmx.io/kept-because`: it is not deleted with the rest, though no mail waits on it.
    pub kept_because: Option<String>,
    /// Why it is not bound, where the cluster tells.
    pub trouble: Option<String>,
}

/// What stands in the way of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// One of this name is there, and not ours.
    Foreign { kind: &'static str, name: String, owner: Option<String> },
    /// A Secret or StorageClass that the resource names is not there.
    Missing { kind: &'static str, name: String, named_by: &'static str },
    /// The cluster does not know this kind (cert-manager, the Prometheus operator).
    UnknownKind { kind: &'static str },
    /// The API server refused it.
    Refused { kind: &'static str, name: String, words: String },
}
