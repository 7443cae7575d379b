//! Every object of a `BackupMx`, from its plan. Pure: a builder a file, each tested whole.
//!
//! No object has an ownerReference: a foreground deletion would remove it before our finalizer has spoken. Each says whose
//! it is by `backupmx.io/owner-uid`, and is found by its labels.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::core::DynamicObject;

use crate::plan::Plan;

pub mod labels;
pub mod service_account;
pub mod config_map;
pub mod admin_secret;
pub mod services;
pub mod stateful_set;
pub mod disruption_budget;
pub mod network_policy;
pub mod certificate;
pub mod pod_monitor;

#[cfg(test)]
pub(crate) mod example;

pub use admin_secret::admin_secret;

/// All objects that should be there. The admin Secret is not among them: its token is made once and never changed.
#[derive(Clone, Debug)]
pub struct Desired {
    /// Of the relays, without a token.
    pub service_account: ServiceAccount,
    /// With the config document.
    pub config_map: ConfigMap,
    /// The address for senders.
    pub smtp_service: Service,
    /// The names of the single relays.
    pub relays_service: Service,
    /// The relays and their volumes.
    pub stateful_set: StatefulSet,
    /// One relay at a time may be evicted.
    pub disruption_budget: PodDisruptionBudget,
    /// Who may talk to the relays.
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
pub fn build(plan: &Plan, circumstances: &Circumstances) -> Desired {
    Desired {
        service_account: service_account::service_account(plan),
        config_map: config_map::config_map(plan, circumstances),
        smtp_service: services::smtp(plan),
        relays_service: services::relays(plan),
        stateful_set: stateful_set::stateful_set(plan, circumstances.replicas),
        disruption_budget: disruption_budget::disruption_budget(plan),
        network_policy: network_policy::network_policy(plan),
        certificate: certificate::certificate(plan),
        pod_monitor: pod_monitor::pod_monitor(plan),
    }
}

/// The digest under which a relay reports that it runs this document: XXH3, 128 bits, 32 hex digits.
pub fn digest(config: &str) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(config.as_bytes()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Kind and name of each object, and whether it says whose it is.
    fn objects(desired: Desired) -> Vec<String> {
        let Desired {
            service_account,
            config_map,
            smtp_service,
            relays_service,
            stateful_set,
            disruption_budget,
            network_policy,
            certificate,
            pod_monitor,
        } = desired;
        let json = |object: Result<Value, serde_json::Error>| object.unwrap();
        let mut objects = vec![
            json(serde_json::to_value(service_account)),
            json(serde_json::to_value(config_map)),
            json(serde_json::to_value(smtp_service)),
            json(serde_json::to_value(relays_service)),
            json(serde_json::to_value(stateful_set)),
            json(serde_json::to_value(disruption_budget)),
            json(serde_json::to_value(network_policy)),
        ];
        objects.extend(certificate.map(|object| json(serde_json::to_value(object))));
        objects.extend(pod_monitor.map(|object| json(serde_json::to_value(object))));
        let told = |object: &Value| {
            let metadata = &object["metadata"];
            assert_eq!(metadata["namespace"], "mail", "{object}");
            assert_eq!(metadata["annotations"]["backupmx.io/owner-uid"], example::UID, "{object}");
            assert_eq!(metadata["labels"]["backupmx.io/name"], "example", "{object}");
            assert_eq!(metadata.get("ownerReferences"), None, "{object}");
            format!("{} {}", object["kind"].as_str().unwrap(), metadata["name"].as_str().unwrap())
        };
        objects.iter().map(told).collect()
    }

    #[test]
    fn the_shortest_resource_becomes_seven_objects_that_say_whose_they_are() {
        let plan = example::plan("");
        assert_eq!(
            objects(build(&plan, &example::circumstances(&plan))),
            [
                "ServiceAccount example-relay",
                "ConfigMap example-relay",
                "Service example-smtp",
                "Service example-relays",
                "StatefulSet example-relay",
                "PodDisruptionBudget example-relay",
                "NetworkPolicy example-relay",
            ]
        );
    }

    #[test]
    fn the_fullest_resource_has_a_certificate_and_a_pod_monitor_too() {
        let plan = example::full_plan();
        let objects = objects(build(&plan, &example::circumstances(&plan)));
        assert_eq!(objects[7..], ["Certificate example-relay", "PodMonitor example-relay"]);
    }

    #[test]
    fn equal_documents_have_equal_digests() {
        assert_eq!(digest(""), "99aa06d3014798d86001c324468d497f"); // XXH3's own test vector
        assert_ne!(digest("a"), digest("b"));
    }
}
