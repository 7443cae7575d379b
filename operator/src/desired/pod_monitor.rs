//! The Prometheus operator's PodMonitor, where it is wished for. Pure.

use backupmx_relay_api::path;
use kube::{api::TypeMeta, core::DynamicObject};
use serde_json::json;

use super::{labels, services::port_name};
use crate::plan::Plan;

/// `namespace` and `pod` come with scraping; `backupmx`, by which dashboards and alerts tell one resource from another, from here.
pub fn pod_monitor(plan: &Plan) -> Option<DynamicObject> {
    let mut metadata = labels::metadata(plan, labels::relay_name(&plan.name));
    metadata.labels.get_or_insert_default().extend(plan.pod_monitor.clone()?);
    Some(DynamicObject {
        types: Some(TypeMeta { api_version: "monitoring.coreos.com/v1".into(), kind: "PodMonitor".into() }),
        metadata,
        data: json!({
            "spec": {
                "selector": { "matchLabels": labels::selector(&plan.name) },
                "podMetricsEndpoints": [{
                    "port": port_name::OBSERVE,
                    "path": path::METRICS,
                    "relabelings": [{
                        "sourceLabels": ["__meta_kubernetes_pod_label_backupmx_io_name"],
                        "targetLabel": "backupmx",
                    }],
                }],
            },
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::example;

    #[test]
    fn prometheus_finds_the_relays_and_tells_them_apart() {
        let mut metadata = example::metadata("example-relay");
        metadata["labels"]["release"] = json!("prometheus");
        assert_eq!(
            serde_json::to_value(pod_monitor(&example::full_plan())).unwrap(),
            json!({
                "apiVersion": "monitoring.coreos.com/v1",
                "kind": "PodMonitor",
                "metadata": metadata,
                "spec": {
                    "selector": {
                        "matchLabels": { "app.kubernetes.io/component": "relay", "backupmx.io/name": "example" },
                    },
                    "podMetricsEndpoints": [{
                        "port": "observe",
                        "path": "/metrics",
                        "relabelings": [{
                            "sourceLabels": ["__meta_kubernetes_pod_label_backupmx_io_name"],
                            "targetLabel": "backupmx",
                        }],
                    }],
                },
            })
        );
        assert!(pod_monitor(&example::plan("")).is_none());
    }
}
