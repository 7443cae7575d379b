//! What our objects are called, and by what they are found. Pure.

use std::collections::BTreeMap;

use kube::api::ObjectMeta;

use crate::plan::Plan;

/// Annotation of each object: the uid of its `BackupMx`. What bears another, or none, is not ours.
pub const OWNER_UID: &str = "backupmx.io/owner-uid";
/// Label of each object, pod and claim: the name of its `BackupMx`.
pub const NAME: &str = "backupmx.io/name";
/// Field manager, and who manages our objects.
pub const MANAGER: &str = "backupmx-operator";

const COMPONENT: &str = "app.kubernetes.io/component";
const RELAY: &str = "relay";

/// `NAME-relay`: StatefulSet, ConfigMap, ServiceAccount and all other objects of which there is one.
pub fn relay_name(name: &str) -> String {
    format!("{name}-relay")
}

/// `NAME-smtp`: the Service for senders.
pub fn smtp_name(name: &str) -> String {
    format!("{name}-smtp")
}

/// `NAME-relays`: the headless Service, which gives each relay a name in DNS.
pub fn relays_name(name: &str) -> String {
    format!("{name}-relays")
}

/// `NAME-admin`: the Secret with the token of the admin API.
pub fn admin_name(name: &str) -> String {
    format!("{name}-admin")
}

/// By what the pods of a `BackupMx` are selected. It can never change, since a StatefulSet's selector cannot.
pub fn selector(name: &str) -> BTreeMap<String, String> {
    [(COMPONENT, RELAY), (NAME, name)].map(|(key, value)| (key.into(), value.into())).into()
}

/// The same as text, for the scale subresource and for `kubectl get pods --selector`.
pub fn selector_text(name: &str) -> String {
    format!("{COMPONENT}={RELAY},{NAME}={name}")
}

/// Labels of pods and claims. No version among them: a new operator would restart every relay, and claims cannot change.
pub fn lasting(name: &str) -> BTreeMap<String, String> {
    let mut labels = selector(name);
    labels.extend(
        [
            ("app.kubernetes.io/name", "backupmx"),
            ("app.kubernetes.io/instance", name),
            ("app.kubernetes.io/managed-by", MANAGER),
        ]
        .map(|(key, value)| (key.into(), value.into())),
    );
    labels
}

/// Of an object that the operator applies.
pub fn metadata(plan: &Plan, object: String) -> ObjectMeta {
    let mut labels = lasting(&plan.name);
    labels.insert("app.kubernetes.io/version".into(), env!("CARGO_PKG_VERSION").into());
    ObjectMeta {
        name: Some(object),
        namespace: Some(plan.namespace.clone()),
        labels: Some(labels),
        annotations: Some([(OWNER_UID.into(), plan.uid.clone())].into()),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selector_reads_alike_as_a_map_and_as_a_text() {
        let joined: Vec<_> = selector("example").iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(joined.join(","), selector_text("example"));
    }

    #[test]
    fn the_longest_name_still_labels_its_pods() {
        let name = "x".repeat(46);
        // What the StatefulSet controller writes into the label `controller-revision-hash`.
        assert_eq!(format!("{}-{}", relay_name(&name), "5f8d9b7c6d").len(), 63);
    }
}
