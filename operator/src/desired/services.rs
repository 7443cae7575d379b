//! The two Services: one address for senders, and a name in DNS for each relay. Pure.

use backupmx_relay_api::port;
use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::labels;
use crate::{
    crd::{ExternalTrafficPolicy, ServiceType},
    plan::{self, Plan},
};

/// Names of the relay's ports.
pub mod port_name {
    /// For senders.
    pub const SMTP: &str = "smtp";
    /// Metrics, status, health.
    pub const OBSERVE: &str = "observe";
    /// Admin API.
    pub const CONSOLE: &str = "console";
}

/// `NAME-smtp`, whose address belongs into DNS.
pub fn smtp(plan: &Plan) -> Service {
    let plan::Service { type_, external_traffic_policy, annotations, load_balancer_class, node_port } = &plan.service;
    let mut metadata = labels::metadata(plan, labels::smtp_name(&plan.name));
    metadata.annotations.get_or_insert_default().extend(annotations.clone());
    let port = ServicePort {
        name: Some(port_name::SMTP.into()),
        port: port::SMTP_DELIVERY.into(),
        target_port: Some(IntOrString::String(port_name::SMTP.into())),
        node_port: *node_port,
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    };
    let type_ = match type_ {
        ServiceType::LoadBalancer => "LoadBalancer",
        ServiceType::NodePort => "NodePort",
        ServiceType::ClusterIP => "ClusterIP",
    };
    // Local keeps the client's address, on which limits for a client depend.
    let policy = external_traffic_policy.map(|policy| match policy {
        ExternalTrafficPolicy::Local => "Local",
        ExternalTrafficPolicy::Cluster => "Cluster",
    });
    let spec = ServiceSpec {
        type_: Some(type_.into()),
        external_traffic_policy: policy.map(Into::into),
        load_balancer_class: load_balancer_class.clone(),
        selector: Some(labels::selector(&plan.name)),
        ports: Some(vec![port]),
        ..ServiceSpec::default()
    };
    Service { metadata, spec: Some(spec), ..Service::default() }
}

/// `NAME-relays`: headless, and with those that take no mail, since they are asked too.
pub fn relays(plan: &Plan) -> Service {
    let named = |name: &str, port: u16| ServicePort {
        name: Some(name.into()),
        port: port.into(),
        target_port: Some(IntOrString::String(name.into())),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    };
    let ports =
        [(port_name::SMTP, port::SMTP), (port_name::OBSERVE, port::OBSERVE), (port_name::CONSOLE, port::CONSOLE)];
    let spec = ServiceSpec {
        type_: Some("ClusterIP".into()),
        cluster_ip: Some("None".into()),
        publish_not_ready_addresses: Some(true),
        selector: Some(labels::selector(&plan.name)),
        ports: Some(ports.map(|(name, port)| named(name, port)).into()),
        ..ServiceSpec::default()
    };
    let metadata = labels::metadata(plan, labels::relays_name(&plan.name));
    Service { metadata, spec: Some(spec), ..Service::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::desired::example;

    fn smtp_spec(fields: &str) -> Value {
        serde_json::to_value(smtp(&example::plan(fields)).spec).unwrap()
    }

    #[test]
    fn mail_reaches_an_unprivileged_port_with_the_clients_address_intact() {
        assert_eq!(
            serde_json::to_value(smtp(&example::plan(""))).unwrap(),
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": example::metadata("example-smtp"),
                "spec": {
                    "type": "LoadBalancer",
                    "externalTrafficPolicy": "Local",
                    "selector": { "app.kubernetes.io/component": "relay", "backupmx.io/name": "example" },
                    "ports": [{ "name": "smtp", "port": 25, "targetPort": "smtp", "protocol": "TCP" }],
                },
            })
        );
    }

    #[test]
    fn the_resource_says_how_senders_reach_it() {
        let service = smtp(&example::full_plan());
        assert_eq!(
            serde_json::to_value(service.metadata.annotations).unwrap(),
            json!({ "backupmx.io/owner-uid": example::UID, "example.org/pool": "mail" })
        );
        assert_eq!(
            serde_json::to_value(service.spec).unwrap(),
            json!({
                "type": "LoadBalancer",
                "externalTrafficPolicy": "Cluster",
                "loadBalancerClass": "example.org/balancer",
                "selector": { "app.kubernetes.io/component": "relay", "backupmx.io/name": "example" },
                "ports": [{ "name": "smtp", "port": 25, "targetPort": "smtp", "protocol": "TCP", "nodePort": 30025 }],
            })
        );
        assert_eq!(smtp_spec("service: {type: NodePort}")["externalTrafficPolicy"], "Local");
        assert_eq!(smtp_spec("service: {type: ClusterIP}").get("externalTrafficPolicy"), None);
    }

    #[test]
    fn each_relay_has_a_name_in_dns_even_while_it_takes_no_mail() {
        assert_eq!(
            serde_json::to_value(relays(&example::plan(""))).unwrap(),
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": example::metadata("example-relays"),
                "spec": {
                    "type": "ClusterIP",
                    "clusterIP": "None",
                    "publishNotReadyAddresses": true,
                    "selector": { "app.kubernetes.io/component": "relay", "backupmx.io/name": "example" },
                    "ports": [
                        { "name": "smtp", "port": 2525, "targetPort": "smtp", "protocol": "TCP" },
                        { "name": "observe", "port": 9125, "targetPort": "observe", "protocol": "TCP" },
                        { "name": "console", "port": 8025, "targetPort": "console", "protocol": "TCP" },
                    ],
                },
            })
        );
    }
}
