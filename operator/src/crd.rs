//! The custom resource `backupmx.io/v1alpha1 BackupMx`: its shape, its limits and defaults, its rules. What one object can
//! tell is judged here, by the API server, before anybody sees it. No I/O.
//!
//! The comments on fields are what `kubectl explain` shows.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

mod cluster;
mod mail;
mod primary;
mod rules;
mod status;

pub use cluster::{
    DeletionPolicy, ExternalTrafficPolicy, Monitoring, NetworkPolicy, Pod, Service, ServiceType, Storage,
};
pub use mail::{
    AtExpiry, Etrn, IssuerRef, Limits, ProxyProtocol, Recipients, Retention, Tls, UnknownRecipients, WhenPrimaryUp,
};
pub use primary::{Breaker, Delivery, Depth, Host, Maintenance, Order, Primary, PrimaryTls, Probe, SecretKey, TlsMode};
pub use status::{BackupMxStatus, DrainStatus, OutageStatus, PrimaryStatus, QueueStatus, RelayStatus};

/// Longest name of a `BackupMx`: the StatefulSet `NAME-relay` marks its pods with its own name and 11 characters, and a label
/// takes 63.
const NAME_LENGTH_MAX: usize = 63 - 11 - "-relay".len();

/// What the relays do for whom, and what they are on the cluster.
#[derive(CustomResource, Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "backupmx.io",
    version = "v1alpha1",
    kind = "BackupMx",
    plural = "backupmxes",
    shortname = "bmx",
    category = "all",
    namespaced,
    status = "BackupMxStatus",
    derive = "PartialEq",
    doc = "Relays that keep an organisation's mail while its mail server is away, and hand it over when it is back.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Domain",
        type_ = "string",
        json_path = ".spec.domains[0]",
        description = "First domain that mail is taken for"
    ),
    printcolumn(
        name = "Primary",
        type_ = "string",
        json_path = ".status.primary.state",
        description = "How the primary is"
    ),
    printcolumn(
        name = "Queue",
        type_ = "integer",
        json_path = ".status.queue.messages",
        description = "Messages that are kept"
    ),
    printcolumn(
        name = "Oldest",
        type_ = "date",
        json_path = ".status.queue.oldest",
        description = "Age of the oldest of them"
    ),
    printcolumn(
        name = "Relays",
        type_ = "string",
        json_path = ".status.relaysReady",
        description = "Relays that are ready, of those wanted"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether mail can be taken and kept"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Held",
        type_ = "integer",
        json_path = ".status.queue.held",
        description = "Messages that wait for a person",
        priority = 1
    ),
    printcolumn(
        name = "Drain",
        type_ = "string",
        json_path = ".status.drain.state",
        description = "Whether mail is being handed over",
        priority = 1
    ),
    printcolumn(
        name = "Hostname",
        type_ = "string",
        json_path = ".spec.hostname",
        description = "Name for the MX record",
        priority = 1
    ),
    printcolumn(
        name = "Address",
        type_ = "string",
        json_path = ".status.addresses[0]",
        description = "For the A or AAAA record of that name",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        description = "What Ready says",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it is ready, or not",
        priority = 1
    )
)]
#[allow(clippy::duplicated_attributes, reason = "columns are alike in their type")]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::rule(
    "!isQuantity(self.storage.size) || [has(self.limits) && has(self.limits.freeSpace) ? self.limits.freeSpace : '192Mi'].all(free, !isQuantity(free) || quantity(self.storage.size).isGreaterThan(quantity(free)))",
    "storage.size has to be more than limits.freeSpace, 192Mi by default, or no mail could be taken: write for instance 20Gi"
))]
pub struct BackupMxSpec {
    /// Domains to take mail for; mail for others is refused. *.example.org means all below it, but not example.org itself. Listed here,
    /// never inferred from DNS. At most 1000. Example: [example.org, "*.example.org"].
    #[schemars(length(min = 1, max = 1000), transform = rules::set, transform = rules::each(rules::mail_domain))]
    pub domains: Vec<String>,
    /// The relays' own name, for the MX record: in the greeting, in EHLO, in Received and in the certificate. Example: mx2.example.org.
    #[schemars(transform = rules::host_name)]
    pub hostname: String,
    /// The mail server that owns the mailboxes: where it is, how it is watched, how mail is handed over.
    pub primary: Primary,
    /// What happens to mail that comes in while the primary answers. PassThrough: the primary is asked while the sender waits, and its
    /// verdict on recipients and content is what the sender hears; nothing is kept here, unless the primary fails in the middle of it.
    /// Queue: mail is accepted, stored, and delivered at once; what the primary then refuses is held here, and its sender never hears of
    /// it. Default: PassThrough.
    #[serde(default)]
    pub when_primary_up: WhenPrimaryUp,
    /// What happens to recipients of whom nothing is known.
    #[serde(default)]
    pub recipients: Recipients,
    /// Bounds of what senders may ask for, of each relay.
    #[serde(default)]
    pub limits: Limits,
    /// How long mail is kept. Time counts while the relays run, so that neither a clock that jumps nor a long stop ends anything.
    #[serde(default)]
    pub retention: Retention,
    /// The certificate that senders see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Load balancers that speak the PROXY protocol, v1 or v2, and so hand on the addresses of clients.
    #[serde(default)]
    pub proxy_protocol: ProxyProtocol,
    /// Who may ask for a delivery at once (ETRN, RFC 1985).
    #[serde(default)]
    pub etrn: Etrn,
    /// Relays, each with a volume of its own. With fewer, those that leave first hand over what they have. From 1 to 20. Default: 2.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 20))]
    pub replicas: i32,
    /// The volume of each relay, on which mail is kept. Neither size nor class can be changed afterwards. It is kept when the relay goes.
    #[serde(default)]
    pub storage: Storage,
    /// How senders reach the relays: the Service NAME-smtp, whose address belongs into DNS.
    #[serde(default)]
    pub service: Service,
    /// Who may talk to the relays, and with whom they may talk.
    #[serde(default)]
    pub network_policy: NetworkPolicy,
    /// What your cluster asks of pods. A change restarts the relays, one after the other; mail stays on their volumes.
    #[serde(default)]
    pub pod: Pod,
    /// Who reads the metrics.
    #[serde(default)]
    pub monitoring: Monitoring,
    /// What happens when this resource is deleted. WaitForEmptyQueue: no new mail is taken, and all is removed once the last message has
    /// gone. Orphan: pods, Services and all else are removed at once, and only the volumes stay, with their mail. Delete: everything is removed, mail included, if the annotation
    /// backupmx.io/confirm-delete names this resource. Default: WaitForEmptyQueue.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// While true the operator changes nothing; relays go on, and the status is kept up. Default: false.
    #[serde(default)]
    pub paused: bool,
}

fn two() -> i32 {
    2
}

/// Defaults that the API server writes into the resource, so that people see what they decided without saying so. All others belong to
/// the relay and are told in the descriptions: written into every resource, they could never be improved.
const SHOWN_DEFAULTS: [(&str, &str); 9] = [
    ("spec.whenPrimaryUp", r#""PassThrough""#),
    ("spec.primary.hosts[].port", "25"),
    ("spec.primary.tls.caSecretRef.key", r#""ca.crt""#),
    ("spec.replicas", "2"),
    ("spec.storage", "{}"),
    ("spec.storage.size", r#""20Gi""#),
    ("spec.service", "{}"),
    ("spec.service.type", r#""LoadBalancer""#),
    ("spec.deletionPolicy", r#""WaitForEmptyQueue""#),
];

/// Kubernetes' own types, whose descriptions would make nine tenths of the file; ours say where to read them.
const FOREIGN: [&str; 6] = [
    "spec.networkPolicy.egress",
    "spec.pod.affinity",
    "spec.pod.imagePullSecrets",
    "spec.pod.resources",
    "spec.pod.tolerations",
    "spec.pod.topologySpreadConstraints",
];

/// The definition as the cluster gets it.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = BackupMx::crd();
    for version in &mut crd.spec.versions {
        let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) else {
            continue;
        };
        // What schemars wrote is what Kubernetes reads; the round trip only lets us walk it.
        let mut value = serde_json::to_value(&*schema).expect("a schema is JSON");
        tidy(&mut value, "");
        add_name_rule(&mut value);
        *schema = serde_json::from_value(value).expect("a tidy schema is a schema");
    }
    crd
}

/// The definition as text, for `crds/backupmx.yaml`.
pub fn yaml() -> String {
    let text = serde_saphyr::to_string(&crd()).expect("a definition is YAML");
    format!("# Written by `make generate` from operator/src/crd.rs: change it there.\n{text}")
}

fn add_name_rule(root: &mut Value) {
    let rule = format!(
        "size(self.metadata.name) <= {NAME_LENGTH_MAX} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"
    );
    let message = format!(
        "metadata.name becomes part of the names of Services and pods: write at most {NAME_LENGTH_MAX} lower-case letters, digits and hyphens, a letter first, such as example-org"
    );
    root["x-kubernetes-validations"] = json!([{ "rule": rule, "message": message }]);
}

/// Takes out what the derived schema has too much of, at `path` and below. A field that may be absent need not be nullable: the API
/// server takes `null` as absent then, and no rule meets one.
fn tidy(schema: &mut Value, path: &str) {
    let Value::Object(schema) = schema else { return };
    schema.remove("nullable");
    schema.remove("default");
    if let Some((_, default)) = SHOWN_DEFAULTS.iter().find(|(shown, _)| *shown == path) {
        schema.insert("default".into(), serde_json::from_str(default).expect("defaults are JSON"));
    }
    if FOREIGN.iter().any(|foreign| path.strip_prefix(foreign).is_some_and(|below| !below.is_empty())) {
        schema.remove("description");
    } else if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = description.replace('\n', " ");
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (name, property) in properties {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            tidy(property, &path);
        }
    }
    for (key, below) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(inner) = schema.get_mut(key) {
            tidy(inner, &format!("{path}{below}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    fn schema() -> Value {
        serde_json::to_value(crd()).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    }

    /// Calls `look` with each schema and its path.
    fn walk(schema: &Value, path: &str, look: &mut dyn FnMut(&str, &Map<String, Value>)) {
        let Value::Object(object) = schema else { return };
        look(path, object);
        for (name, property) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
            walk(property, &format!("{path}.{name}"), look);
        }
        for (key, below) in [("items", "[]"), ("additionalProperties", "{}")] {
            if let Some(inner) = object.get(key) {
                walk(inner, &format!("{path}{below}"), look);
            }
        }
    }

    fn is_foreign(path: &str) -> bool {
        FOREIGN.iter().any(|foreign| path.trim_start_matches('.').starts_with(foreign))
    }

    #[test]
    fn the_committed_definition_is_the_one_of_this_code() {
        let committed = include_str!("../../crds/backupmx.yaml");
        assert!(committed == yaml(), "crds/backupmx.yaml is not current: run `make generate` and commit it");
    }

    #[test]
    fn a_definition_is_small_enough_to_be_applied() {
        // `kubectl apply` keeps a copy in an annotation, and those take 256 KiB together.
        assert!(yaml().len() < 150 << 10, "{} bytes", yaml().len());
    }

    #[test]
    fn every_field_is_explained() {
        let mut bare = Vec::new();
        walk(&schema(), "", &mut |path, schema| {
            let is_container = path.ends_with("[]") || path.ends_with("{}");
            let is_standard = ["", ".apiVersion", ".kind", ".metadata"].contains(&path);
            if !is_container && !is_standard && !is_foreign(path) && !schema.contains_key("description") {
                bare.push(path.to_owned());
            }
        });
        assert_eq!(bare, [""; 0], "without a description");
    }

    #[test]
    fn every_text_and_list_of_the_spec_has_a_bound() {
        let mut free = Vec::new();
        walk(&schema(), "", &mut |path, schema| {
            let bound = match schema.get("type").and_then(Value::as_str) {
                Some("string") if !schema.contains_key("enum") => "maxLength",
                Some("array") => "maxItems",
                Some("integer") => "maximum",
                _ => return,
            };
            if path.starts_with(".spec") && !is_foreign(path.trim_end_matches("[]")) && !schema.contains_key(bound) {
                free.push(format!("{path}: {bound}"));
            }
        });
        assert_eq!(free, [""; 0], "without a bound");
    }

    #[test]
    fn what_people_should_see_is_written_into_the_resource_and_nothing_else() {
        let mut defaults = Vec::new();
        walk(&schema(), "", &mut |path, schema| {
            if let Some(default) = schema.get("default") {
                defaults.push((path.trim_start_matches('.').to_owned(), default.to_string()));
            }
        });
        let mut shown = SHOWN_DEFAULTS.map(|(path, value)| (path.to_owned(), value.to_owned()));
        defaults.sort();
        shown.sort();
        assert_eq!(defaults, shown);
    }

    #[test]
    fn what_is_written_into_the_resource_is_also_what_an_absent_field_means() {
        let spec = |text: &str| serde_saphyr::from_str::<BackupMxSpec>(text).unwrap();
        let short = spec("{domains: [a.example], hostname: mx, primary: {hosts: [{host: mx1}]}}");
        assert_eq!(short.replicas, 2);
        assert_eq!((short.primary.hosts[0].port, short.primary.hosts[0].xclient), (25, false));
        assert_eq!(short.service.type_, ServiceType::LoadBalancer);
        assert_eq!(short.deletion_policy, DeletionPolicy::WaitForEmptyQueue);
        assert_eq!(short.when_primary_up, WhenPrimaryUp::PassThrough);
    }
}
