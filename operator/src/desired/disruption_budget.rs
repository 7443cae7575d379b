//! The PodDisruptionBudget: one relay at a time may be evicted. Pure.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::labels;
use crate::plan::Plan;

/// It never keeps a node from being emptied: with one relay that one may go, and one that is broken may always go.
pub fn disruption_budget(plan: &Plan) -> PodDisruptionBudget {
    let spec = PodDisruptionBudgetSpec {
        max_unavailable: Some(IntOrString::Int(1)),
        selector: Some(LabelSelector { match_labels: Some(labels::selector(&plan.name)), ..LabelSelector::default() }),
        unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
        ..PodDisruptionBudgetSpec::default()
    };
    let metadata = labels::metadata(plan, labels::relay_name(&plan.name));
    PodDisruptionBudget { metadata, spec: Some(spec), ..PodDisruptionBudget::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::desired::example;

    #[test]
    fn one_relay_at_a_time_may_be_evicted() {
        assert_eq!(
            serde_json::to_value(disruption_budget(&example::plan(""))).unwrap(),
            json!({
                "apiVersion": "policy/v1",
                "kind": "PodDisruptionBudget",
                "metadata": example::metadata("example-relay"),
                "spec": {
                    "maxUnavailable": 1,
                    "selector": {
                        "matchLabels": { "app.kubernetes.io/component": "relay", "backupmx.io/name": "example" },
                    },
                    "unhealthyPodEvictionPolicy": "AlwaysAllow",
                },
            })
        );
    }
}
