//! Resources for tests of builders: some lines of YAML, the rest from `tests/operator/taken.yaml`.

use backupmx_relay_api::SCHEMA;
use kube::api::ObjectMeta;
use serde_json::{Value, json};

use super::Circumstances;
use crate::{
    crd::{BackupMx, BackupMxSpec},
    plan::{self, Defaults, Plan, Refusal},
};

pub const UID: &str = "6c1e9bd1-4d0f-4a61-9b7e-0a2a8e1f7c55";
const TAKEN: &str = include_str!("../../../tests/operator/taken.yaml");

/// All resources that the API server takes, with their names.
pub fn resources() -> Vec<(String, BackupMx)> {
    let entries: Vec<Value> = serde_saphyr::from_str(TAKEN).unwrap();
    let entry = |entry: Value| (entry["name"].as_str().unwrap().to_owned(), of_spec(entry["spec"].clone()));
    entries.into_iter().map(entry).collect()
}

/// One of them.
pub fn resource(name: &str) -> BackupMx {
    resources().into_iter().find_map(|(found, mx)| (found == name).then_some(mx)).expect(name)
}

/// The shortest resource with these fields of its spec.
pub fn try_plan(fields: &str) -> Result<Plan, Refusal> {
    let mut spec = serde_json::to_value(resource("the shortest").spec).unwrap();
    let fields: Option<serde_json::Map<String, Value>> =
        if fields.is_empty() { None } else { Some(serde_saphyr::from_str(fields).unwrap()) };
    for (name, value) in fields.unwrap_or_default() {
        spec[name] = value;
    }
    plan::resolve(&of_spec(spec), &defaults())
}

/// The same, where it has to do.
pub fn plan(fields: &str) -> Plan {
    try_plan(fields).unwrap()
}

/// That of the resource that has every field.
pub fn full_plan() -> Plan {
    plan::resolve(&resource("every field"), &defaults()).unwrap()
}

/// Nothing out of the ordinary.
pub fn circumstances(plan: &Plan) -> Circumstances {
    Circumstances { schema: SCHEMA, cordoned: Vec::new(), replicas: plan.replicas }
}

/// The labels of all objects, but for those that have more.
pub fn labels() -> Value {
    json!({
        "app.kubernetes.io/name": "backupmx",
        "app.kubernetes.io/component": "relay",
        "app.kubernetes.io/instance": "example",
        "app.kubernetes.io/managed-by": "backupmx-operator",
        "app.kubernetes.io/version": env!("CARGO_PKG_VERSION"),
        "backupmx.io/name": "example",
    })
}

/// The metadata of an object.
pub fn metadata(name: &str) -> Value {
    json!({ "name": name, "namespace": "mail", "labels": labels(), "annotations": { "backupmx.io/owner-uid": UID } })
}

fn defaults() -> Defaults {
    Defaults {
        relay_image: "registry.example.org/backupmx-relay:1.0.0".into(),
        operator_namespace: "backupmx-system".into(),
    }
}

fn of_spec(spec: Value) -> BackupMx {
    let spec: BackupMxSpec = serde_json::from_value(spec).unwrap();
    let metadata = ObjectMeta {
        name: Some("example".into()),
        namespace: Some("mail".into()),
        uid: Some(UID.into()),
        generation: Some(7),
        ..ObjectMeta::default()
    };
    BackupMx { metadata, spec, status: None }
}
