//! The NetworkPolicy: who may talk to the relays, and with whom they may talk. Pure.
//!
//! | port | from |
//! |---|---|
//! | 2525, SMTP | anywhere |
//! | 9125, metrics and status, no secrets | every pod of the cluster: a Prometheus may run in any namespace |
//! | 8025, admin API, which asks for the token | the operator's namespace, and the relays of the same `BackupMx` |

use backupmx_relay_api::port;
use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::labels;
use crate::plan::Plan;

/// Kubernetes itself puts it on every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Ways out are free unless the resource says which there are.
pub fn network_policy(plan: &Plan) -> NetworkPolicy {
    let relays = LabelSelector { match_labels: Some(labels::selector(&plan.name)), ..LabelSelector::default() };
    let operator = LabelSelector {
        match_labels: Some([(NAMESPACE_NAME.into(), plan.operator_namespace.clone())].into()),
        ..LabelSelector::default()
    };
    let namespaces =
        |selector| NetworkPolicyPeer { namespace_selector: Some(selector), ..NetworkPolicyPeer::default() };
    let pods = |selector| NetworkPolicyPeer { pod_selector: Some(selector), ..NetworkPolicyPeer::default() };
    let mut policy_types = vec!["Ingress".to_owned()];
    policy_types.extend(plan.egress.as_ref().map(|_| "Egress".to_owned()));
    let spec = NetworkPolicySpec {
        ingress: Some(vec![
            ingress(port::SMTP, None),
            ingress(port::OBSERVE, Some(vec![namespaces(LabelSelector::default())])),
            ingress(port::CONSOLE, Some(vec![namespaces(operator), pods(relays.clone())])),
        ]),
        egress: plan.egress.clone(),
        policy_types: Some(policy_types),
        pod_selector: Some(relays),
    };
    let metadata = labels::metadata(plan, labels::relay_name(&plan.name));
    NetworkPolicy { metadata, spec: Some(spec) }
}

fn ingress(port: u16, from: Option<Vec<NetworkPolicyPeer>>) -> NetworkPolicyIngressRule {
    let port = NetworkPolicyPort {
        port: Some(IntOrString::Int(port.into())),
        protocol: Some("TCP".into()),
        ..NetworkPolicyPort::default()
    };
    NetworkPolicyIngressRule { from, ports: Some(vec![port]) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::desired::example;

    #[test]
    fn mail_comes_from_anywhere_and_orders_from_inside() {
        let relays = json!({
            "matchLabels": { "app.kubernetes.io/component": "relay", "backupmx.io/name": "example" },
        });
        assert_eq!(
            serde_json::to_value(network_policy(&example::plan(""))).unwrap(),
            json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": example::metadata("example-relay"),
                "spec": {
                    "podSelector": relays,
                    "policyTypes": ["Ingress"],
                    "ingress": [
                        { "ports": [{ "port": 2525, "protocol": "TCP" }] },
                        {
                            "from": [{ "namespaceSelector": {} }],
                            "ports": [{ "port": 9125, "protocol": "TCP" }],
                        },
                        {
                            "from": [
                                { "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "backupmx-system" } } },
                                { "podSelector": relays },
                            ],
                            "ports": [{ "port": 8025, "protocol": "TCP" }],
                        },
                    ],
                },
            })
        );
    }

    #[test]
    fn ways_out_are_those_that_the_resource_names() {
        let spec = serde_json::to_value(network_policy(&example::full_plan()).spec).unwrap();
        assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(
            spec["egress"],
            json!([{ "to": [{ "ipBlock": { "cidr": "192.0.2.0/24" } }], "ports": [{ "port": 25, "protocol": "TCP" }] }])
        );
        let spec = serde_json::to_value(network_policy(&example::plan("networkPolicy: {egress: []}")).spec).unwrap();
        assert_eq!((&spec["policyTypes"], &spec["egress"]), (&json!(["Ingress", "Egress"]), &json!([])));
    }
}
