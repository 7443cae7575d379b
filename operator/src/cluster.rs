//! What matters of pods, claims and Services, out of all that the API server tells of them. Pure.

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{ContainerStatus, PersistentVolumeClaim, Pod, Service},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    apply::{self, Rollout},
    finalize::{EMPTIED_AT, KEPT_BECAUSE},
    foreign::shown,
    view::Live,
};

/// A relay's pod.
pub fn pod(pod: &Pod) -> apply::Pod {
    let status = pod.status.as_ref();
    let conditions = || status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions().find(|condition| condition.type_ == "Ready");
    let since = ready.and_then(|condition| condition.last_transition_time.as_ref());
    let unschedulable = conditions()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .map(|condition| {
            let reason = condition.reason.as_deref().unwrap_or("Unschedulable");
            told(reason, condition.message.as_deref())
        });
    let containers = status.into_iter().flat_map(|status| status.container_statuses.iter().flatten());
    let over =
        status.and_then(|status| status.phase.as_deref()).is_some_and(|phase| matches!(phase, "Failed" | "Succeeded"));
    apply::Pod {
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        // What has ended has no address, though its status goes on naming one.
        ip: status.and_then(|status| status.pod_ip.clone()).filter(|ip| !ip.is_empty() && !over),
        ready: ready.is_some_and(|condition| condition.status == "True"),
        since: since.or(pod.metadata.creation_timestamp.as_ref()).map(|time| time.0),
        leaving: pod.metadata.deletion_timestamp.is_some(),
        trouble: unschedulable.or_else(|| containers.filter_map(container_trouble).next()),
    }
}

/// What keeps a container from running. One that is just being started is no trouble.
fn container_trouble(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    (!matches!(reason, "ContainerCreating" | "PodInitializing")).then(|| told(reason, waiting.message.as_deref()))
}

/// Without the period at its end: it becomes part of a sentence.
fn told(reason: &str, message: Option<&str>) -> String {
    match message.map(|message| message.trim_end_matches(['.', ' '])) {
        Some(message) if !message.is_empty() => format!("{}: {}", shown(reason), shown(message)),
        _ => shown(reason),
    }
}

/// A relay's claim. StatefulSets name them `<template>-<pod>`.
pub fn claim(claim: &PersistentVolumeClaim) -> apply::Claim {
    let name = claim.metadata.name.clone().unwrap_or_default();
    let status = claim.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let trouble = conditions
        .filter_map(|condition| Some(told(condition.reason.as_deref()?, condition.message.as_deref())))
        .next()
        .or_else(|| (phase == "Lost").then(|| "Lost: its volume is gone".to_owned()));
    let annotation = |name| claim.metadata.annotations.as_ref().and_then(|all| all.get(name)).cloned();
    apply::Claim {
        pod: name.split_once('-').map_or_else(String::new, |(_, pod)| pod.to_owned()),
        bound: claim.spec.as_ref().is_some_and(|spec| spec.volume_name.is_some()) || phase == "Bound",
        emptied_at: annotation(EMPTIED_AT),
        kept_because: annotation(KEPT_BECAUSE),
        trouble,
        name,
    }
}

/// A Service. It has no generation, so its spec stands for it: the address that a load balancer writes into the status is nothing
/// to put right.
pub fn service(service: &Service) -> Live {
    let meta = ObjectMeta { generation: Some(apply::hash(&service.spec).cast_signed()), ..service.metadata.clone() };
    Live { addresses: addresses(service), ..Live::from_meta(&meta) }
}

/// Where a load balancer takes a Service's traffic; names where it has no addresses.
fn addresses(service: &Service) -> Box<[String]> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    ingress.filter_map(|ingress| ingress.ip.clone().or_else(|| ingress.hostname.clone())).collect()
}

/// The StatefulSet of the relays.
pub fn stateful_set(set: &StatefulSet) -> Live {
    let status = set.status.as_ref();
    let observed = status.and_then(|status| status.observed_generation);
    let rollout = Rollout {
        replicas: set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
        seen: observed.is_some() && observed >= set.metadata.generation,
        updated: status.and_then(|status| status.updated_replicas).unwrap_or(0),
    };
    Live { rollout: Some(rollout), ..Live::from_meta(&set.metadata) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn seen(status: Value) -> apply::Pod {
        let metadata = json!({"name": "a-relay-0", "uid": "u"});
        pod(&from_value(json!({"metadata": metadata, "status": status})).unwrap())
    }

    #[test]
    fn a_pod_tells_whether_it_runs_and_why_not() {
        let plain = apply::Pod { name: "a-relay-0".into(), uid: "u".into(), ..apply::Pod::default() };
        assert_eq!(seen(json!({})), plain);
        let ready =
            json!({"podIP": "10.0.0.1", "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        assert_eq!(seen(ready), apply::Pod { ip: Some("10.0.0.1".into()), ready: true, ..plain.clone() });
        assert_eq!(seen(json!({"podIP": "10.0.0.1", "phase": "Failed"})), plain, "its address may be another's by now");
        for (status, trouble) in [
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes\n"}]}),
                Some(r"Unschedulable: 0/3 nodes\n"),
            ),
            (json!({"containerStatuses": [container("CrashLoopBackOff")]}), Some("CrashLoopBackOff")),
            (json!({"containerStatuses": [container("ContainerCreating")]}), None),
        ] {
            assert_eq!(seen(status).trouble.as_deref(), trouble);
        }
    }

    fn container(reason: &str) -> Value {
        json!({"name": "relay", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}}})
    }

    #[test]
    fn a_claim_knows_its_pod_and_whether_there_can_be_mail_on_it() {
        let text = json!({
            "metadata": {"name": "spool-a-b-relay-0", "annotations": {EMPTIED_AT: "2026-11-27T16:00:00Z"}},
            "spec": {"volumeName": "pv"}, "status": {"phase": "Lost"},
        });
        let seen = claim(&from_value(text).unwrap());
        assert_eq!((seen.pod.as_str(), seen.bound), ("a-b-relay-0", true));
        assert_eq!(seen.emptied_at.as_deref(), Some("2026-11-27T16:00:00Z"));
        assert_eq!(seen.trouble.as_deref(), Some("Lost: its volume is gone"));
        assert!(!claim(&from_value(json!({"metadata": {"name": "spool-a-relay-0"}})).unwrap()).bound);
    }

    #[test]
    fn a_load_balancer_has_addresses_or_a_name() {
        let text = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.example"}]}}});
        let service: Service = from_value(text).unwrap();
        assert_eq!(*addresses(&service), ["192.0.2.1".to_owned(), "lb.example".to_owned()]);
    }

    #[test]
    fn a_services_stamp_changes_with_its_spec_and_not_with_its_status() {
        let stamp = |port: i32, address: &str, version: &str| {
            let text = json!({
                "metadata": {"uid": "u", "resourceVersion": version},
                "spec": {"ports": [{"port": port}]},
                "status": {"loadBalancer": {"ingress": [{"ip": address}]}},
            });
            service(&from_value(text).unwrap()).stamp
        };
        assert_eq!(stamp(25, "192.0.2.1", "1"), stamp(25, "192.0.2.2", "2"));
        assert_ne!(stamp(25, "192.0.2.1", "1"), stamp(26, "192.0.2.1", "1"));
    }
}
