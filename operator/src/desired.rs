//! Every object of a `BackupMx`, from its plan. Pure: a builder a file, each tested whole.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::core::DynamicObject;

use crate::plan::Plan;

/// All objects that should be there. The admin Secret is not among them: its token is made once and never changed.
#[derive(Clone, Debug)]
pub struct Desired {
    pub service_account: ServiceAccount,
    pub config_map: ConfigMap,
    pub smtp_service: Service,
    pub relays_service: Service,
    pub stateful_set: StatefulSet,
    pub disruption_budget: PodDisruptionBudget,
    pub network_policy: NetworkPolicy,
    /// cert-manager's, where `tls.issuerRef` asks for it.
    pub certificate: Option<DynamicObject>,
    /// The Prometheus operator's, where `monitoring.podMonitor` asks for it.
    pub pod_monitor: Option<DynamicObject>,
}

/// What depends on the relays that run, and not on the resource alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Circumstances {
    /// Newest document shape that all running relays know.
    pub schema: u32,
    /// Pods that are to take no more mail.
    pub cordoned: Vec<String>,
    /// Pods that the StatefulSet is to have: more than the plan wants while leaving ones are not empty.
    pub replicas: i32,
}

/// Builds them all.
pub fn build(_plan: &Plan, _circumstances: &Circumstances) -> Desired {
    unimplemented!()
}

/// The digest under which a relay reports that it runs this document: XXH3, 128 bits, 32 hex digits.
pub fn digest(config: &str) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(config.as_bytes()))
}

/// The Secret with the token of the admin API.
pub fn admin_secret(_plan: &Plan, _token: &str) -> k8s_openapi::api::core::v1::Secret {
    unimplemented!()
}
