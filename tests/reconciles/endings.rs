//! Ends: of a resource and of single relays. No mail goes with them unless somebody has said so.

use kube::api::{DeleteParams, Patch, PatchParams, PropagationPolicy};
use serde_json::{Value, json};
use support::{
    fake_relay::Manner,
    kubernetes::{self, pods::Fate},
    runtime::wait,
    wait::eventually,
};

use crate::scene::{LIMIT, NAME, Scene, merged, spec};

const KINDS: [&str; 8] = [
    "StatefulSet",
    "Service",
    "ConfigMap",
    "Secret",
    "ServiceAccount",
    "PodDisruptionBudget",
    "NetworkPolicy",
    "PersistentVolumeClaim",
];

#[test]
fn a_deletion_waits_for_mail_in_the_background() {
    waits_for_mail(PropagationPolicy::Background);
}

#[test]
fn a_deletion_waits_for_mail_in_the_foreground() {
    waits_for_mail(PropagationPolicy::Foreground);
}

#[test]
fn a_deletion_waits_for_mail_and_leaves_no_orphans() {
    waits_for_mail(PropagationPolicy::Orphan);
}

fn waits_for_mail(policy: PropagationPolicy) {
    let scene = Scene::with(json!({}));
    queue(&scene, 1, 3);
    scene.until("the queue is told", |mx| mx["status"]["queue"]["messages"] == 3);
    scene.delete(NAME, DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() });
    scene.until("both are cordoned, and the count is told", |mx| all_cordoned(mx) && says(mx, "3 messages"));
    scene.until_quiet();
    assert_eq!(scene.names("StatefulSet"), ["mx-relay"]);
    assert_eq!(scene.names("PersistentVolumeClaim").len(), 2);

    queue(&scene, 1, 0);
    scene.until_gone();
    all_gone(&scene);
}

#[test]
fn a_deletion_waits_for_sessions_and_for_who_does_not_answer() {
    let scene = Scene::with(json!({}));
    scene.relay(0).set(|status| status.sessions = 1);
    scene.relay(1).behave(Manner::Silent);
    scene.until_condition("Degraded", "True");
    scene.delete(NAME, DeleteParams::default());
    scene.until("the silent one is named", |mx| says(mx, "mx-relay-1"));
    scene.relay(1).behave(Manner::Well);
    scene.until("the session is named", |mx| says(mx, "mx-relay-0") && says(mx, "session"));
    assert_eq!(scene.names("StatefulSet"), ["mx-relay"]);
    scene.relay(0).set(|status| status.sessions = 0);
    scene.until_gone();
    all_gone(&scene);
}

#[test]
fn a_claim_whose_pod_is_gone_holds_the_deletion_until_somebody_looks() {
    let scene = Scene::with(json!({}));
    // Its node is cut off: the pod cannot come back, and nobody knows what is on its volume.
    scene.relays.let_be("mx-relay-1", Fate::Unschedulable);
    wait(scene.objects("Pod").delete("mx-relay-1", &DeleteParams::default().grace_period(0))).expect("admin may");
    scene.until_condition("Degraded", "True");
    scene.delete(NAME, DeleteParams::default());
    scene.until("it is named", |mx| all_named(mx, &["mx-relay-1"]));
    scene.until_quiet();
    assert!(scene.get(NAME).is_some());
    scene.relays.let_be("mx-relay-1", Fate::Ready(scene.relays.of("mx-relay-1").ip()));
    scene.kubelet.look_again();
    scene.until_gone();
    all_gone(&scene);
}

#[test]
fn what_never_ran_is_deleted_at_once() {
    let scene = Scene::empty();
    for pod in ["mx-relay-0", "mx-relay-1"] {
        scene.relays.let_be(pod, Fate::Unschedulable);
    }
    scene.create(NAME, spec());
    eventually(LIMIT, "its claims", || scene.names("PersistentVolumeClaim").len() == 2);
    scene.delete(NAME, DeleteParams::default());
    scene.until_gone();
    all_gone(&scene);
}

#[test]
fn while_it_is_paused_nothing_is_deleted() {
    let scene = Scene::with(json!({}));
    scene.patch(NAME, json!({ "spec": { "paused": true } }));
    scene.until("it is seen", |mx| mx["status"]["observedGeneration"] == mx["metadata"]["generation"]);
    scene.delete(NAME, DeleteParams::default());
    scene.until_quiet();
    assert_eq!(scene.names("StatefulSet"), ["mx-relay"]);
    scene.patch(NAME, json!({ "spec": { "paused": false } }));
    scene.until_gone();
    all_gone(&scene);
}

#[test]
fn delete_destroys_mail_only_once_that_is_confirmed() {
    let scene = Scene::with(json!({ "deletionPolicy": "Delete" }));
    queue(&scene, 0, 5);
    scene.delete(NAME, DeleteParams::default());
    scene.until("the annotation is named", |mx| says(mx, "backupmx.io/confirm-delete"));
    scene.patch(NAME, json!({ "metadata": { "annotations": { "backupmx.io/confirm-delete": "other" } } }));
    scene.until_quiet();
    assert_eq!(scene.names("PersistentVolumeClaim").len(), 2);
    scene.patch(NAME, json!({ "metadata": { "annotations": { "backupmx.io/confirm-delete": NAME } } }));
    scene.until_gone();
    all_gone(&scene);
}

#[test]
fn orphan_leaves_the_claims_with_their_mail_and_a_new_resource_of_that_name_finds_it() {
    let scene = Scene::with(json!({ "deletionPolicy": "Orphan" }));
    queue(&scene, 0, 5);
    let claims = || -> Vec<Value> {
        let of =
            |name: String| scene.object("PersistentVolumeClaim", &name).map(|claim| claim["metadata"]["uid"].clone());
        ["data-mx-relay-0", "data-mx-relay-1"].into_iter().filter_map(|name| of(name.to_owned())).collect()
    };
    let before = claims();
    scene.delete(NAME, DeleteParams::default());
    scene.until_gone();
    eventually(LIMIT, "all but the claims are gone", || {
        KINDS.iter().all(|kind| *kind == "PersistentVolumeClaim" || scene.names(kind).is_empty())
    });
    assert_eq!((before.len(), claims()), (2, before));

    scene.create(NAME, spec());
    scene.until("the mail is told again", |mx| mx["status"]["queue"]["messages"] == 5);
}

#[test]
fn a_namespace_that_is_deleted_is_not_held_up_by_what_it_took_itself() {
    // It takes pods and claims at once and asks nobody: docs/operations.md says so. Then nothing is left to wait for.
    let home = kubernetes::shared().namespace();
    let scene = Scene::from(&home);
    scene.create(NAME, spec());
    scene.until_condition("Ready", "True");
    queue(&scene, 0, 2);
    let deleted = scene.namespace.kubectl(&["delete", "namespace", scene.namespace.name(), "--wait=false"]);
    deleted.expect_exit(0, &[]);
    scene.until_gone();
}

#[test]
fn scale_in_waits_until_the_leaving_relay_is_empty_and_keeps_its_claim() {
    let scene = Scene::with(json!({}));
    queue(&scene, 1, 4);
    scene.patch(NAME, json!({ "spec": { "replicas": 1 } }));
    let message = scene.until_condition("ScaleInBlocked", "True");
    assert!(message.contains("mx-relay-1") && message.contains("4 messages"), "{message}");
    let mx = scene.until("it alone is cordoned", |mx| {
        mx["status"]["relays"][1]["cordoned"] == true && mx["status"]["relays"][0]["cordoned"] == false
    });
    assert_eq!(mx["status"]["replicas"], 2);
    scene.until_quiet();
    queue(&scene, 1, 0);
    eventually(LIMIT, "its pod is gone", || scene.object("Pod", "mx-relay-1").is_none());
    scene.until_condition("ScaleInBlocked", "False");
    let claim = scene.object("PersistentVolumeClaim", "data-mx-relay-1").expect("it is kept");
    assert!(claim["metadata"]["annotations"]["backupmx.io/emptied-at"].is_string(), "{claim:#}");

    scene.patch(NAME, json!({ "spec": { "replicas": 2 } }));
    scene.until("it is back", |mx| mx["status"]["replicas"] == 2 && mx["status"]["relays"][1]["cordoned"] == false);
    let claim = scene.object("PersistentVolumeClaim", "data-mx-relay-1").expect("it is used again");
    assert_eq!(claim["metadata"]["annotations"]["backupmx.io/emptied-at"], Value::Null);
}

#[test]
fn a_scale_in_that_is_called_off_lets_the_relay_take_mail_again() {
    let scene = Scene::with(json!({}));
    queue(&scene, 1, 4);
    scene.patch(NAME, json!({ "spec": { "replicas": 1 } }));
    scene.until_condition("ScaleInBlocked", "True");
    scene.until("it is cordoned", |mx| mx["status"]["relays"][1]["cordoned"] == true);
    scene.patch(NAME, json!({ "spec": { "replicas": 2 } }));
    scene.until_condition("ScaleInBlocked", "False");
    scene.until("it takes mail", |mx| mx["status"]["relays"][1]["cordoned"] == false);
}

#[test]
fn the_one_command_of_the_manual_lets_go_when_the_operator_is_gone() {
    let mut scene = Scene::with(json!({}));
    scene.operator = None;
    scene.delete(NAME, DeleteParams::default());
    assert!(scene.get(NAME).is_some(), "the finalizer holds it");
    let patch = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    wait(scene.resources().patch(NAME, &PatchParams::default(), &patch)).expect("admin may");
    scene.until_gone();
    assert_eq!(scene.names("StatefulSet"), ["mx-relay"], "relays go on, and their mail is theirs");
    // An operator that comes later does not touch what no resource owns.
    scene.operator = Some(scene.setup.start());
    scene.until_quiet();
    assert_eq!(scene.names("StatefulSet"), ["mx-relay"]);
    let again = merged(spec(), json!({}));
    scene.create(NAME, again);
    scene.until("it is seen", |mx| mx["status"]["observedGeneration"] == 1);
}

fn queue(scene: &Scene, ordinal: usize, messages: u64) {
    scene.relay(ordinal).set(|status| {
        status.queue.messages = messages;
        status.account.queued = messages;
        status.account.delivered = status.account.accepted.max(messages) - messages;
        status.account.accepted = status.account.delivered + messages;
    });
}

fn all_cordoned(mx: &Value) -> bool {
    let relays = mx["status"]["relays"].as_array();
    relays.is_some_and(|relays| relays.len() == 2 && relays.iter().all(|relay| relay["cordoned"] == true))
}

/// Whether a condition says these words.
fn says(mx: &Value, words: &str) -> bool {
    let conditions = mx["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["message"].as_str().is_some_and(|message| message.contains(words)))
}

fn all_named(mx: &Value, names: &[&str]) -> bool {
    mx["metadata"]["deletionTimestamp"].is_string() && names.iter().all(|name| says(mx, name))
}

fn all_gone(scene: &Scene) {
    for kind in KINDS {
        eventually(LIMIT, kind, || scene.names(kind).is_empty());
    }
}
