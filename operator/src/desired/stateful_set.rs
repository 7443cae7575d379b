//! The StatefulSet: the relays and their volumes. Pure.
//!
//! Its template holds nothing that a running relay learns without a restart: no digest of the config document, no
//! certificate. What is mounted is mounted as a folder, since a single file (`subPath`) is never refreshed.

use std::collections::BTreeMap;

use backupmx_relay_api::{path, port};
use k8s_openapi::{
    api::{
        apps::v1::{
            StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
        },
        core::v1::{
            Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
            KeyToPath, Lifecycle, LifecycleHandler, ObjectFieldSelector, PersistentVolumeClaim,
            PersistentVolumeClaimSpec, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SeccompProfile,
            SecretVolumeSource, SecurityContext, SleepAction, TopologySpreadConstraint, Volume, VolumeMount,
            VolumeResourceRequirements,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{admin_secret, config_map, labels, services::port_name};
use crate::plan::{AUTHORITIES_FILE, AUTHORITIES_FOLDER, Plan, Pod};

/// The claim of each pod is called so, a hyphen, and the pod's name.
pub const CLAIM: &str = "data";

const DATA_FOLDER: &str = "/var/lib/backupmx";
const CONFIG_FOLDER: &str = "/etc/backupmx/relay";
const ADMIN_FOLDER: &str = "/etc/backupmx/admin";
const TLS_FOLDER: &str = "/etc/backupmx/tls";

/// Nobody's number in distroless images; any but 0 would do.
const USER: i64 = 65532;
/// Readable by owner and group: the kubelet gives the files to root and to the `fsGroup`.
const SECRET_MODE: i32 = 0o440;
/// Until every node has heard that the pod is no endpoint any more, and sends no new client to it.
const PRE_STOP_SECONDS: i64 = 5;
/// In these a relay ends its sessions, and 5 s to spare. It never waits for its queue, which is safe on disk.
const STOP_SECONDS: i64 = 20 + 5;
/// A start reads all segments: minutes for a spool of some hundred GiB without footers.
const START_SECONDS: i32 = 15 * 60;

/// With `replicas` relays: more than the plan wants while leaving ones are not empty.
pub fn stateful_set(plan: &Plan, replicas: i32) -> StatefulSet {
    let spec = StatefulSetSpec {
        replicas: Some(replicas),
        service_name: Some(labels::relays_name(&plan.name)),
        // Relays do not need each other: one whose disk is sick keeps no other from starting.
        pod_management_policy: Some("Parallel".into()),
        update_strategy: Some(StatefulSetUpdateStrategy {
            type_: Some("RollingUpdate".into()),
            ..StatefulSetUpdateStrategy::default()
        }),
        persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
            when_deleted: Some("Retain".into()),
            when_scaled: Some("Retain".into()),
        }),
        revision_history_limit: Some(3),
        selector: selector(plan),
        template: template(plan),
        volume_claim_templates: Some(vec![claim(plan)]),
        ..StatefulSetSpec::default()
    };
    let metadata = labels::metadata(plan, labels::relay_name(&plan.name));
    StatefulSet { metadata, spec: Some(spec), ..StatefulSet::default() }
}

fn selector(plan: &Plan) -> LabelSelector {
    LabelSelector { match_labels: Some(labels::selector(&plan.name)), ..LabelSelector::default() }
}

/// Without the uid of the resource: it cannot be changed, and the mail of a resource that is made anew is its own.
fn claim(plan: &Plan) -> PersistentVolumeClaim {
    let requests = [("storage".to_owned(), Quantity(plan.storage.size.clone()))];
    let spec = PersistentVolumeClaimSpec {
        access_modes: Some(vec!["ReadWriteOnce".into()]),
        storage_class_name: plan.storage.class.clone(),
        resources: Some(VolumeResourceRequirements {
            requests: Some(requests.into()),
            ..VolumeResourceRequirements::default()
        }),
        ..PersistentVolumeClaimSpec::default()
    };
    let metadata =
        ObjectMeta { name: Some(CLAIM.into()), labels: Some(labels::lasting(&plan.name)), ..ObjectMeta::default() };
    PersistentVolumeClaim { metadata, spec: Some(spec), ..PersistentVolumeClaim::default() }
}

fn template(plan: &Plan) -> PodTemplateSpec {
    let Pod {
        image: _,             // the container's, as are
        image_pull_policy: _, // these
        resources: _,
        image_pull_secrets,
        node_selector,
        tolerations,
        affinity,
        topology_spread_constraints: _, // see `spread`
        priority_class_name,
        annotations,
        labels,
    } = &plan.pod;
    let spec = PodSpec {
        service_account_name: Some(labels::relay_name(&plan.name)),
        automount_service_account_token: Some(false),
        // Variables such as BACKUPMX_LISTEN are flags of the relay; a Service of that name would set them.
        enable_service_links: Some(false),
        image_pull_secrets: some_list(image_pull_secrets),
        node_selector: some_map(node_selector),
        tolerations: some_list(tolerations),
        affinity: affinity.clone(),
        topology_spread_constraints: some_list(&spread(plan)),
        priority_class_name: priority_class_name.clone(),
        security_context: Some(pod_security()),
        termination_grace_period_seconds: Some(PRE_STOP_SECONDS + STOP_SECONDS),
        containers: vec![container(plan)],
        volumes: Some(mounts(plan).into_iter().map(|(volume, _)| volume).collect()),
        ..PodSpec::default()
    };
    let mut all_labels = labels.clone();
    all_labels.extend(labels::lasting(&plan.name));
    let metadata = ObjectMeta { labels: Some(all_labels), annotations: some_map(annotations), ..ObjectMeta::default() };
    PodTemplateSpec { metadata: Some(metadata), spec: Some(spec) }
}

/// Over zones and nodes, as far as possible, unless the resource says how; a constraint that does not say what is counted
/// counts these relays.
fn spread(plan: &Plan) -> Vec<TopologySpreadConstraint> {
    let over = |key: &str| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.into(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        ..TopologySpreadConstraint::default()
    };
    let usual = || vec![over("topology.kubernetes.io/zone"), over("kubernetes.io/hostname")];
    let mut constraints = plan.pod.topology_spread_constraints.clone().unwrap_or_else(usual);
    for constraint in &mut constraints {
        constraint.label_selector.get_or_insert_with(|| selector(plan));
    }
    constraints
}

/// What the level `restricted` of Pod Security asks for, with [`container_security`].
fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        // Else each start would walk through the whole spool.
        fs_group_change_policy: Some("OnRootMismatch".into()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }),
        ..PodSecurityContext::default()
    }
}

fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        ..SecurityContext::default()
    }
}

fn container(plan: &Plan) -> Container {
    let port = |name: &str, port: u16| ContainerPort {
        name: Some(name.into()),
        container_port: port.into(),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    };
    let pod_name = ObjectFieldSelector { field_path: "metadata.name".into(), ..ObjectFieldSelector::default() };
    let from_pod = EnvVarSource { field_ref: Some(pod_name), ..EnvVarSource::default() };
    let sleep =
        LifecycleHandler { sleep: Some(SleepAction { seconds: PRE_STOP_SECONDS }), ..LifecycleHandler::default() };
    Container {
        name: "relay".into(),
        image: Some(plan.pod.image.clone()),
        image_pull_policy: plan.pod.image_pull_policy.clone(),
        args: Some(arguments(plan)),
        env: Some(vec![EnvVar { name: "POD_NAME".into(), value_from: Some(from_pod), ..EnvVar::default() }]),
        ports: Some(vec![
            port(port_name::SMTP, port::SMTP),
            port(port_name::OBSERVE, port::OBSERVE),
            port(port_name::CONSOLE, port::CONSOLE),
        ]),
        resources: Some(plan.pod.resources.clone()),
        security_context: Some(container_security()),
        startup_probe: Some(probe(path::HEALTHZ, 5, START_SECONDS / 5)),
        // A minute: a busy disk is no reason to lose all sessions.
        liveness_probe: Some(probe(path::HEALTHZ, 10, 6)),
        readiness_probe: Some(probe(path::READYZ, 5, 2)),
        lifecycle: Some(Lifecycle { pre_stop: Some(sleep), ..Lifecycle::default() }),
        volume_mounts: Some(volume_mounts(plan)),
        ..Container::default()
    }
}

/// Only arguments: what is started is the image's entry point.
fn arguments(plan: &Plan) -> Vec<String> {
    // With proxies nobody else may connect: who could would speak for any client.
    let listen = if plan.document.proxy_protocol.trusted.is_empty() { "--listen" } else { "--listen-proxy" };
    let mut arguments = vec![
        format!("--config={CONFIG_FOLDER}/{}", config_map::FILE),
        format!("--data={DATA_FOLDER}"),
        "--name=$(POD_NAME)".into(),
        format!("{listen}=[::]:{}", port::SMTP),
        format!("--observe=[::]:{}", port::OBSERVE),
        format!("--console=[::]:{}", port::CONSOLE),
        format!("--admin-token-file={ADMIN_FOLDER}/{}", admin_secret::FILE),
        "--log-format=json".into(),
    ];
    if plan.certificate.is_some() {
        // They need not be there yet: mail in clear is better than no mail while an issuer works.
        arguments.push(format!("--tls-cert={TLS_FOLDER}/tls.crt"));
        arguments.push(format!("--tls-key={TLS_FOLDER}/tls.key"));
    }
    arguments
}

fn probe(path: &str, period_seconds: i32, failures_max: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String(port_name::OBSERVE.into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures_max),
        ..Probe::default()
    }
}

fn volume_mounts(plan: &Plan) -> Vec<VolumeMount> {
    let data = VolumeMount { name: CLAIM.into(), mount_path: DATA_FOLDER.into(), ..VolumeMount::default() };
    let others = mounts(plan).into_iter().map(|(_, mount)| mount);
    [data].into_iter().chain(others).collect()
}

/// Each volume beside the folder in which the relay has it. The claim's volume is the StatefulSet's.
fn mounts(plan: &Plan) -> Vec<(Volume, VolumeMount)> {
    let config = ConfigMapVolumeSource { name: labels::relay_name(&plan.name), ..ConfigMapVolumeSource::default() };
    let config = Volume { name: "config".into(), config_map: Some(config), ..Volume::default() };
    let admin = secret_volume("admin", &labels::admin_name(&plan.name), false);
    let mut mounts = vec![(config, read_only("config", CONFIG_FOLDER)), (admin, read_only("admin", ADMIN_FOLDER))];
    if let Some(certificate) = &plan.certificate {
        mounts.push((secret_volume("tls", &certificate.secret, true), read_only("tls", TLS_FOLDER)));
    }
    if let Some(authorities) = &plan.authorities {
        let mut volume = secret_volume("primary-ca", &authorities.name, true);
        let item = KeyToPath { key: authorities.key.clone(), path: AUTHORITIES_FILE.into(), ..KeyToPath::default() };
        volume.secret.get_or_insert_default().items = Some(vec![item]);
        mounts.push((volume, read_only("primary-ca", AUTHORITIES_FOLDER)));
    }
    mounts
}

/// An optional one may come later: the pod starts without it, and the kubelet brings it.
fn secret_volume(name: &str, secret: &str, is_optional: bool) -> Volume {
    let source = SecretVolumeSource {
        secret_name: Some(secret.into()),
        default_mode: Some(SECRET_MODE),
        optional: is_optional.then_some(true),
        ..SecretVolumeSource::default()
    };
    Volume { name: name.into(), secret: Some(source), ..Volume::default() }
}

fn read_only(name: &str, folder: &str) -> VolumeMount {
    VolumeMount { name: name.into(), mount_path: folder.into(), read_only: Some(true), ..VolumeMount::default() }
}

fn some_list<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn some_map(map: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then(|| map.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::desired::example;

    fn built(plan: &Plan) -> Value {
        serde_json::to_value(stateful_set(plan, plan.replicas)).unwrap()
    }

    fn relays() -> Value {
        json!({ "matchLabels": { "app.kubernetes.io/component": "relay", "backupmx.io/name": "example" } })
    }

    fn lasting_labels() -> Value {
        let mut labels = example::labels();
        labels.as_object_mut().unwrap().remove("app.kubernetes.io/version");
        labels
    }

    fn usual_container() -> Value {
        json!({
            "name": "relay",
            "image": "registry.example.org/backupmx-relay:1.0.0",
            "args": [
                "--config=/etc/backupmx/relay/relay.yaml",
                "--data=/var/lib/backupmx",
                "--name=$(POD_NAME)",
                "--listen=[::]:2525",
                "--observe=[::]:9125",
                "--console=[::]:8025",
                "--admin-token-file=/etc/backupmx/admin/token",
                "--log-format=json",
            ],
            "env": [{
                "name": "POD_NAME",
                "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } },
            }],
            "ports": [
                { "name": "smtp", "containerPort": 2525, "protocol": "TCP" },
                { "name": "observe", "containerPort": 9125, "protocol": "TCP" },
                { "name": "console", "containerPort": 8025, "protocol": "TCP" },
            ],
            "resources": { "requests": { "cpu": "100m", "memory": "256Mi" } },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            },
            "startupProbe": {
                "httpGet": { "path": "/healthz", "port": "observe" },
                "periodSeconds": 5,
                "timeoutSeconds": 5,
                "failureThreshold": 180,
            },
            "livenessProbe": {
                "httpGet": { "path": "/healthz", "port": "observe" },
                "periodSeconds": 10,
                "timeoutSeconds": 5,
                "failureThreshold": 6,
            },
            "readinessProbe": {
                "httpGet": { "path": "/readyz", "port": "observe" },
                "periodSeconds": 5,
                "timeoutSeconds": 5,
                "failureThreshold": 2,
            },
            "lifecycle": { "preStop": { "sleep": { "seconds": 5 } } },
            "volumeMounts": [
                { "name": "data", "mountPath": "/var/lib/backupmx" },
                { "name": "config", "mountPath": "/etc/backupmx/relay", "readOnly": true },
                { "name": "admin", "mountPath": "/etc/backupmx/admin", "readOnly": true },
            ],
        })
    }

    #[test]
    fn the_shortest_resource_becomes_two_relays_with_a_volume_each() {
        assert_eq!(
            built(&example::plan("")),
            json!({
                "apiVersion": "apps/v1",
                "kind": "StatefulSet",
                "metadata": example::metadata("example-relay"),
                "spec": {
                    "replicas": 2,
                    "serviceName": "example-relays",
                    "podManagementPolicy": "Parallel",
                    "updateStrategy": { "type": "RollingUpdate" },
                    "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Retain", "whenScaled": "Retain" },
                    "revisionHistoryLimit": 3,
                    "selector": relays(),
                    "template": {
                        "metadata": { "labels": lasting_labels() },
                        "spec": {
                            "serviceAccountName": "example-relay",
                            "automountServiceAccountToken": false,
                            "enableServiceLinks": false,
                            "topologySpreadConstraints": [
                                {
                                    "maxSkew": 1,
                                    "topologyKey": "topology.kubernetes.io/zone",
                                    "whenUnsatisfiable": "ScheduleAnyway",
                                    "labelSelector": relays(),
                                },
                                {
                                    "maxSkew": 1,
                                    "topologyKey": "kubernetes.io/hostname",
                                    "whenUnsatisfiable": "ScheduleAnyway",
                                    "labelSelector": relays(),
                                },
                            ],
                            "securityContext": {
                                "runAsNonRoot": true,
                                "runAsUser": 65532,
                                "runAsGroup": 65532,
                                "fsGroup": 65532,
                                "fsGroupChangePolicy": "OnRootMismatch",
                                "seccompProfile": { "type": "RuntimeDefault" },
                            },
                            "terminationGracePeriodSeconds": 30,
                            "containers": [usual_container()],
                            "volumes": [
                                { "name": "config", "configMap": { "name": "example-relay" } },
                                { "name": "admin", "secret": { "secretName": "example-admin", "defaultMode": 0o440 } },
                            ],
                        },
                    },
                    "volumeClaimTemplates": [{
                        "apiVersion": "v1",
                        "kind": "PersistentVolumeClaim",
                        "metadata": { "name": "data", "labels": lasting_labels() },
                        "spec": {
                            "accessModes": ["ReadWriteOnce"],
                            "resources": { "requests": { "storage": "20Gi" } },
                        },
                    }],
                },
            })
        );
    }

    #[test]
    fn pods_are_as_the_resource_asks() {
        let template = &built(&example::full_plan())["spec"]["template"];
        let mut labels = lasting_labels();
        labels["example.org/cost-centre"] = json!("mail");
        assert_eq!(
            template["metadata"],
            json!({ "labels": labels, "annotations": { "example.org/team": "postmaster" } })
        );
        let mut spec = template["spec"].clone();
        let container = spec["containers"][0].take();
        for key in ["securityContext", "containers", "serviceAccountName", "terminationGracePeriodSeconds"] {
            spec.as_object_mut().unwrap().remove(key);
        }
        assert_eq!(
            spec,
            json!({
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "imagePullSecrets": [{ "name": "registry" }],
                "nodeSelector": { "kubernetes.io/arch": "amd64" },
                "tolerations": [{ "key": "dedicated", "operator": "Equal", "value": "mail", "effect": "NoSchedule" }],
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [{
                                "matchExpressions": [{ "key": "disk", "operator": "In", "values": ["ssd"] }],
                            }],
                        },
                    },
                },
                "topologySpreadConstraints": [{
                    "maxSkew": 1,
                    "topologyKey": "topology.kubernetes.io/zone",
                    "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": relays(),
                }],
                "priorityClassName": "mail",
                "volumes": [
                    { "name": "config", "configMap": { "name": "example-relay" } },
                    { "name": "admin", "secret": { "secretName": "example-admin", "defaultMode": 0o440 } },
                    { "name": "tls", "secret": { "secretName": "mx2-tls", "defaultMode": 0o440, "optional": true } },
                    {
                        "name": "primary-ca",
                        "secret": {
                            "secretName": "primary-ca",
                            "defaultMode": 0o440,
                            "optional": true,
                            "items": [{ "key": "root.pem", "path": "ca.crt" }],
                        },
                    },
                ],
            })
        );
        assert_eq!(container["image"], "registry.example.org/backupmx-relay:1.2.3");
        assert_eq!(container["imagePullPolicy"], "Always");
        assert_eq!(
            container["resources"],
            json!({ "requests": { "cpu": "200m", "memory": "1Gi" }, "limits": { "memory": "2Gi" } })
        );
    }

    #[test]
    fn a_certificate_may_come_later_and_proxies_have_the_door_to_themselves() {
        let container = &built(&example::full_plan())["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(
            container["args"],
            json!([
                "--config=/etc/backupmx/relay/relay.yaml",
                "--data=/var/lib/backupmx",
                "--name=$(POD_NAME)",
                "--listen-proxy=[::]:2525",
                "--observe=[::]:9125",
                "--console=[::]:8025",
                "--admin-token-file=/etc/backupmx/admin/token",
                "--log-format=json",
                "--tls-cert=/etc/backupmx/tls/tls.crt",
                "--tls-key=/etc/backupmx/tls/tls.key",
            ])
        );
        let folders: Vec<_> = container["volumeMounts"].as_array().unwrap().iter().map(|m| &m["mountPath"]).collect();
        assert_eq!(
            folders,
            [
                "/var/lib/backupmx",
                "/etc/backupmx/relay",
                "/etc/backupmx/admin",
                "/etc/backupmx/tls",
                "/etc/backupmx/primary-ca",
            ]
        );
    }

    #[test]
    fn volumes_are_of_the_size_and_class_that_were_asked_for() {
        let spec = |plan: &Plan| built(plan)["spec"]["volumeClaimTemplates"][0]["spec"].clone();
        assert_eq!(
            spec(&example::full_plan()),
            json!({
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "fast",
                "resources": { "requests": { "storage": "100Gi" } },
            })
        );
        // None at all, which is not the same as the cluster's default.
        let by_hand = example::plan("storage: {size: 1Gi, storageClassName: \"\"}");
        assert_eq!(spec(&by_hand)["storageClassName"], "");
    }

    #[test]
    fn what_a_running_relay_learns_by_itself_restarts_nothing() {
        let template = |fields| built(&example::plan(fields))["spec"]["template"].clone();
        let before = template("tls: {secretName: mx2-tls}");
        assert_eq!(before, template("{tls: {secretName: mx2-tls}, domains: [example.net], retention: {queue: 1d}}"));
        assert_eq!(before, template("{tls: {secretName: mx2-tls}, replicas: 5, etrn: {allowed: [192.0.2.1]}}"));
    }

    #[test]
    fn who_leaves_is_kept_until_it_is_empty() {
        let plan = example::plan("replicas: 1");
        assert_eq!(stateful_set(&plan, 3).spec.unwrap().replicas, Some(3));
    }
}
