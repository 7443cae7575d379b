//! From a `BackupMx` to a checked plan with all defaults filled in; builders see only this. Pure.
//!
//! Bounds were judged by the API server (`crd`), and the relay judges its document once more. What is refused here is what
//! neither a schema nor CEL can read. Resources are taken apart field by field, so that a forgotten one does not compile.

use std::{borrow::Cow, collections::BTreeMap, fmt::Display, str::FromStr};

use backupmx_relay_api::{config::Document, quantity::Bytes};
use k8s_openapi::{
    api::{
        core::v1::{Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint},
        networking::v1::NetworkPolicyEgressRule,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use crate::crd::{self, BackupMx, BackupMxSpec, ExternalTrafficPolicy, SecretKey, ServiceType};

mod document;

/// Where a pod has the authorities of `caSecretRef`.
pub const AUTHORITIES_FOLDER: &str = "/etc/backupmx/primary-ca";
/// Their file in it, whatever the key is called.
pub const AUTHORITIES_FILE: &str = "ca.crt";

/// For some weeks of mail of some thousand mailboxes.
const STORAGE_SIZE: &str = "20Gi";
/// What a relay takes besides the buffers of its sessions: program, index of a hundred thousand messages, connections to the primary.
const OWN_MEMORY: Bytes = Bytes(160 << 20);
const OWN_CPU: &str = "100m";

/// Settings of the operator itself that its objects depend on.
#[derive(Clone, PartialEq, Debug)]
pub struct Defaults {
    /// Image of the relay, unless the resource names another.
    pub relay_image: String,
    /// Namespace of the operator, which may ask the relays.
    pub operator_namespace: String,
}

/// What is wanted, checked once.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// Of the resource; all names of objects begin with it.
    pub name: String,
    /// Of the resource and of all its objects.
    pub namespace: String,
    /// Of the resource; what bears another is not ours.
    pub uid: String,
    /// Of the resource, as the relays report it back.
    pub generation: i64,
    /// What the relays are to do, but for `schema`, `cordoned` and each one's share, which depend on what is observed.
    pub document: Document,
    /// Relays that are wanted.
    pub replicas: i32,
    /// The volume of each.
    pub storage: Storage,
    /// The certificate that senders see.
    pub certificate: Option<Certificate>,
    /// Authorities for the primary's certificate: mounted where the document says.
    pub authorities: Option<SecretKey>,
    /// The address for senders.
    pub service: Service,
    /// What the relays may reach; everything if absent.
    pub egress: Option<Vec<NetworkPolicyEgressRule>>,
    /// What the cluster asks of pods.
    pub pod: Pod,
    /// Labels of the `PodMonitor`; absent if none is wanted.
    pub pod_monitor: Option<BTreeMap<String, String>>,
    /// Of the operator, which may ask the relays.
    pub operator_namespace: String,
}

/// A relay's volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Storage {
    /// A Kubernetes quantity.
    pub size: String,
    /// Absent: the cluster's default. Empty: none.
    pub class: Option<String>,
}

/// A certificate in a Secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// The Secret; it may come later.
    pub secret: String,
    /// Who makes it; a person if absent.
    pub issuer: Option<Issuer>,
}

/// An issuer of cert-manager.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Issuer {
    /// Its name.
    pub name: String,
    /// `Issuer`, `ClusterIssuer`, or another group's.
    pub kind: String,
    /// Its API group.
    pub group: String,
}

/// The Service for senders.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// How they reach it.
    pub type_: ServiceType,
    /// Absent for `ClusterIP`.
    pub external_traffic_policy: Option<ExternalTrafficPolicy>,
    /// For load balancers.
    pub annotations: BTreeMap<String, String>,
    /// Who makes the load balancer.
    pub load_balancer_class: Option<String>,
    /// The cluster chooses if absent.
    pub node_port: Option<i32>,
}

/// What the cluster asks of pods.
#[derive(Clone, PartialEq, Debug)]
pub struct Pod {
    /// Of the relay.
    pub image: String,
    /// As Kubernetes has it if absent.
    pub image_pull_policy: Option<String>,
    /// For the registry.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// CPU and memory.
    pub resources: ResourceRequirements,
    /// Labels of the nodes.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are borne.
    pub tolerations: Vec<Toleration>,
    /// For and against nodes and neighbours.
    pub affinity: Option<Affinity>,
    /// Over zones and nodes, as far as possible, if absent.
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// Who gives way to whom.
    pub priority_class_name: Option<String>,
    /// Besides ours.
    pub annotations: BTreeMap<String, String>,
    /// Besides ours.
    pub labels: BTreeMap<String, String>,
}

/// Why nothing can be made of a resource: `Accepted=False`. The message names the key and the cure.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Of the condition.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Refusal {
    fn value(key: &str, reason: impl Display) -> Self {
        Self { reason: "InvalidSpec", message: format!("spec.{key}: {reason}") }
    }
}

/// Checks a resource.
pub fn resolve(mx: &BackupMx, defaults: &Defaults) -> Result<Plan, Refusal> {
    let BackupMxSpec {
        domains,
        hostname: _,
        primary,
        when_primary_up: _,
        recipients: _,
        limits: _,
        retention: _,
        tls,
        proxy_protocol: _,
        etrn: _,
        replicas,
        storage,
        service,
        network_policy: crd::NetworkPolicy { egress },
        pod,
        monitoring: crd::Monitoring { pod_monitor, labels },
        deletion_policy: _, // the finalizer's
        paused: _,          // the controller's
    } = &mx.spec;
    check_domains(domains)?;
    let name = mx.metadata.name.clone().unwrap_or_default();
    let generation = mx.metadata.generation.unwrap_or_default();
    let document = document::of(&mx.spec, generation)?;
    Ok(Plan {
        namespace: mx.metadata.namespace.clone().unwrap_or_default(),
        uid: mx.metadata.uid.clone().unwrap_or_default(),
        generation,
        replicas: *replicas,
        storage: storage_of(storage),
        certificate: tls.as_ref().map(|tls| certificate(tls, &name)),
        authorities: primary.tls.ca_secret_ref.clone(),
        service: service_of(service),
        egress: egress.clone(),
        pod: pod_of(pod, &document, defaults),
        pod_monitor: pod_monitor.then(|| labels.clone()),
        operator_namespace: defaults.operator_namespace.clone(),
        document,
        name,
    })
}

fn check_domains(domains: &[String]) -> Result<(), Refusal> {
    match domains.iter().find(|domain| !is_domain(domain.strip_prefix("*.").unwrap_or(domain))) {
        None => Ok(()),
        Some(domain) => {
            let cure = "write example.org, or *.example.org for all below it";
            Err(Refusal::value("domains", format!("{domain:?} is no domain; {cure}")))
        }
    }
}

/// As the relay reads one: A-labels of IDNA (UTS 46), which no rule of the schema can tell.
fn is_domain(name: &str) -> bool {
    let ascii = if name.is_ascii() {
        Cow::Borrowed(name)
    } else {
        match idna::domain_to_ascii_cow(name.as_bytes(), idna::AsciiDenyList::EMPTY) {
            Ok(ascii) => ascii,
            Err(_) => return false,
        }
    };
    let is_label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    ascii.len() <= 255 && ascii.split('.').all(is_label)
}

fn storage_of(storage: &crd::Storage) -> Storage {
    let crd::Storage { size, storage_class_name } = storage;
    Storage { size: size.clone().unwrap_or_else(|| STORAGE_SIZE.into()), class: storage_class_name.clone() }
}

fn certificate(tls: &crd::Tls, name: &str) -> Certificate {
    let crd::Tls { secret_name, issuer_ref } = tls;
    let issuer = issuer_ref.as_ref().map(|crd::IssuerRef { name, kind, group }| Issuer {
        name: name.clone(),
        kind: kind.clone().unwrap_or_else(|| "Issuer".into()),
        group: group.clone().unwrap_or_else(|| "cert-manager.io".into()),
    });
    Certificate { secret: secret_name.clone().unwrap_or_else(|| format!("{name}-tls")), issuer }
}

fn service_of(service: &crd::Service) -> Service {
    let crd::Service { type_, external_traffic_policy, annotations, load_balancer_class, node_port } = service;
    let is_outside = *type_ != ServiceType::ClusterIP;
    Service {
        type_: *type_,
        external_traffic_policy: is_outside.then(|| external_traffic_policy.unwrap_or_default()),
        annotations: annotations.clone(),
        load_balancer_class: load_balancer_class.clone(),
        node_port: *node_port,
    }
}

fn pod_of(pod: &crd::Pod, document: &Document, defaults: &Defaults) -> Pod {
    let crd::Pod {
        image,
        image_pull_policy,
        image_pull_secrets,
        resources,
        node_selector,
        tolerations,
        affinity,
        topology_spread_constraints,
        priority_class_name,
        annotations,
        labels,
    } = pod.clone();
    Pod {
        image: image.unwrap_or_else(|| defaults.relay_image.clone()),
        image_pull_policy,
        image_pull_secrets,
        resources: resources.unwrap_or_else(|| resources_for(document.limits.memory)),
        node_selector,
        tolerations,
        affinity,
        topology_spread_constraints,
        priority_class_name,
        annotations,
        labels,
    }
}

/// Requests alone: a relay that is killed for memory in a storm keeps its mail, but its senders have to come again.
fn resources_for(buffers: Bytes) -> ResourceRequirements {
    let memory = Bytes(buffers.0 + OWN_MEMORY.0).to_string();
    let requests = [("cpu", OWN_CPU.to_owned()), ("memory", memory)];
    ResourceRequirements {
        requests: Some(requests.map(|(what, amount)| (what.into(), Quantity(amount))).into()),
        ..ResourceRequirements::default()
    }
}

/// Reads a text where there is one.
fn read<T: FromStr<Err: Display>>(key: &str, text: Option<&String>, into: &mut T) -> Result<(), Refusal> {
    if let Some(text) = text {
        *into = text.parse().map_err(|cause| Refusal::value(key, cause))?;
    }
    Ok(())
}

/// Takes a number where there is one.
fn count(key: &str, number: Option<i32>, into: &mut u32) -> Result<(), Refusal> {
    if let Some(number) = number {
        *into = number.try_into().map_err(|_| Refusal::value(key, format!("is {number}; write a positive number")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::desired::example::{plan, resource, resources, try_plan};

    #[test]
    fn what_is_not_said_is_defaulted() {
        let plan = plan("");
        assert_eq!(plan.replicas, 2);
        assert_eq!(plan.storage, Storage { size: "20Gi".into(), class: None });
        assert_eq!(plan.service.external_traffic_policy, Some(ExternalTrafficPolicy::Local));
        assert_eq!(plan.pod.image, "registry.example.org/backupmx-relay:1.0.0");
        assert_eq!(
            serde_json::to_value(&plan.pod.resources).unwrap(),
            json!({"requests": {"cpu": "100m", "memory": "256Mi"}})
        );
        assert_eq!((plan.certificate, plan.authorities, plan.egress, plan.pod_monitor), (None, None, None, None));
    }

    #[test]
    fn more_buffers_ask_for_more_memory() {
        let pod = plan("limits: {memory: 192Mi}").pod;
        assert_eq!(pod.resources.requests.unwrap()["memory"], Quantity("352Mi".into()));
    }

    #[test]
    fn a_service_inside_has_no_traffic_policy() {
        assert_eq!(plan("service: {type: ClusterIP}").service.external_traffic_policy, None);
    }

    #[test]
    fn a_certificate_from_an_issuer_goes_into_a_secret_of_our_name() {
        let certificate = plan("tls: {issuerRef: {name: internal}}").certificate.unwrap();
        let issuer = Issuer { name: "internal".into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
        assert_eq!(certificate, Certificate { secret: "example-tls".into(), issuer: Some(issuer) });
    }

    #[test]
    fn every_resource_that_the_api_server_takes_has_a_plan() {
        for (name, mx) in resources() {
            let defaults = Defaults { relay_image: "relay".into(), operator_namespace: "operator".into() };
            let plan = resolve(&mx, &defaults).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
            assert_eq!(plan.document.domains, mx.spec.domains);
        }
    }

    #[test]
    fn what_the_schema_cannot_read_is_refused_with_its_key_and_the_cure() {
        for (text, message) in [
            ("domains: [\"\u{ad}\"]", "spec.domains: \"\\u{ad}\" is no domain; write example.org"),
            ("domains: [bü..example]", "spec.domains: \"bü..example\" is no domain"),
            ("limits: {messageSize: huge}", "spec.limits.messageSize: \"huge\" is no number of bytes"),
            ("limits: {errors: -1}", "spec.limits.errors: is -1; write a positive number"),
            ("retention: {queue: 1w}", "spec.retention.queue: \"1w\" is no duration"),
            (
                "primary: {hosts: [{host: mx1}], maintenance: {from: \"2026-02-30T00:00:00Z\"}}",
                "spec.primary.maintenance.from: \"2026-02-30T00:00:00Z\" is no time; write for instance 2026-12-24T22:00:00Z",
            ),
            (
                "primary: {hosts: [{host: mx1}], probe: {depth: Recipient, recipient: \"postmaster@\u{ad}\"}}",
                "spec.primary.probe.recipient: \"postmaster@\\u{ad}\" is no address; write for instance postmaster@example.org",
            ),
        ] {
            let refusal = try_plan(text).expect_err(text);
            assert!(refusal.message.starts_with(message), "{}", refusal.message);
            assert_eq!(refusal.reason, "InvalidSpec");
        }
    }

    #[test]
    fn the_document_has_all_that_the_resource_says() {
        let said = serde_json::to_value(resource("every field").spec).unwrap();
        let document = serde_json::to_value(&plan_of("every field").document).unwrap();
        for key in ["domains", "hostname", "whenPrimaryUp", "recipients", "retention", "proxyProtocol", "etrn"] {
            assert_eq!(texts(&document[key]), texts(&said[key]), "{key}");
        }
        for key in ["hosts", "probe", "delivery", "breaker", "maintenance"] {
            assert_eq!(texts(&document["primary"][key]), texts(&said["primary"][key]), "{key}");
        }
        assert_eq!(document["limits"], said["limits"]);
        let tls = json!({"mode": "Verify", "serverName": "mail.example.org", "rememberStarttls": "14d", "caFile": "/etc/backupmx/primary-ca/ca.crt"});
        assert_eq!(document["primary"]["tls"], tls);
        assert_eq!(document["generation"], 7);
    }

    fn plan_of(name: &str) -> Plan {
        let defaults = Defaults { relay_image: "relay".into(), operator_namespace: "operator".into() };
        resolve(&resource(name), &defaults).unwrap()
    }

    /// With `336h` as the relay prints it.
    fn texts(value: &Value) -> String {
        value.to_string().replace("336h", "14d")
    }
}
