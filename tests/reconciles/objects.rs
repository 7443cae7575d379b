//! Objects: made, kept as they should be, and left alone where they are not ours.

use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use support::{
    kubernetes::{self, from_json},
    runtime::wait,
    wait::eventually,
};

use crate::scene::{LIMIT, NAME, Scene, condition, spec};

const KINDS: [(&str, &[&str]); 8] = [
    ("StatefulSet", &["mx-relay"]),
    ("Service", &["mx-relays", "mx-smtp"]),
    ("ConfigMap", &["mx-relay"]),
    ("Secret", &["mx-admin"]),
    ("ServiceAccount", &["mx-relay"]),
    ("PodDisruptionBudget", &["mx-relay"]),
    ("NetworkPolicy", &["mx-relay"]),
    ("PersistentVolumeClaim", &["data-mx-relay-0", "data-mx-relay-1"]),
];

#[test]
fn a_resource_becomes_all_its_objects_and_ready_and_then_nothing_is_written_any_more() {
    let scene = Scene::with(json!({}));
    for (kind, names) in KINDS {
        assert_eq!(scene.names(kind), names, "{kind}");
        for name in names {
            let object = scene.object(kind, name).expect("it was listed");
            let metadata = &object["metadata"];
            assert_eq!(
                metadata["ownerReferences"],
                Value::Null,
                "{kind} {name}: it would go before its relay is asked"
            );
            assert_eq!(metadata["labels"]["backupmx.io/name"], NAME, "{kind} {name}");
        }
    }
    let mx = scene.until("both relays are in the status", |mx| {
        mx["status"]["relays"].as_array().is_some_and(|relays| relays.iter().all(|relay| relay["ready"] == true))
            && mx["status"]["replicas"] == 2
    });
    assert_eq!(mx["status"]["observedGeneration"], mx["metadata"]["generation"]);
    for (kind, status) in [("Accepted", "True"), ("Available", "True"), ("Progressing", "False"), ("Degraded", "False")]
    {
        assert_eq!(condition(&mx, kind)["status"], status, "{kind}: {:#}", mx["status"]);
    }
    scene.until_quiet();
    let mark = scene.namespace.mark();
    std::thread::sleep(std::time::Duration::from_secs(10));
    assert_eq!(scene.written_since(mark), []);
}

#[test]
fn what_somebody_changes_or_deletes_is_put_right() {
    let scene = Scene::with(json!({}));
    scene.until_quiet();
    let merge = |kind: &str, name: &str, patch: Value| {
        let patched = wait(scene.objects(kind).patch(name, &PatchParams::default(), &Patch::Merge(patch)));
        patched.unwrap_or_else(|cause| panic!("patch {kind} {name}: {cause}"));
    };
    merge("StatefulSet", "mx-relay", json!({ "spec": { "replicas": 0 } }));
    merge("Service", "mx-smtp", json!({ "spec": { "selector": { "backupmx.io/name": "other" } } }));
    merge("ConfigMap", "mx-relay", json!({ "data": { "relay.yaml": "{}" } }));
    merge("NetworkPolicy", "mx-relay", json!({ "metadata": { "labels": { "app.kubernetes.io/component": "other" } } }));
    for (kind, name) in [("Service", "mx-relays"), ("PodDisruptionBudget", "mx-relay"), ("ServiceAccount", "mx-relay")]
    {
        wait(scene.objects(kind).delete(name, &DeleteParams::default())).expect("admin may delete");
    }
    let is_right = |kind: &str, name: &str, pointer: &str, value: Value| {
        scene.object(kind, name).is_some_and(|object| object.pointer(pointer) == Some(&value))
    };
    let name_of = |kind: &str, name: &str| is_right(kind, name, "/metadata/labels/backupmx.io~1name", json!(NAME));
    eventually(LIMIT, "all is as it was", || {
        is_right("StatefulSet", "mx-relay", "/spec/replicas", json!(2))
            && is_right("Service", "mx-smtp", "/spec/selector/backupmx.io~1name", json!(NAME))
            && scene.object("ConfigMap", "mx-relay").is_some_and(|config| config["data"]["relay.yaml"] != "{}")
            && is_right("NetworkPolicy", "mx-relay", "/metadata/labels/app.kubernetes.io~1component", json!("relay"))
            && name_of("Service", "mx-relays")
            && name_of("PodDisruptionBudget", "mx-relay")
            && name_of("ServiceAccount", "mx-relay")
    });
    scene.until_condition("Ready", "True");
    scene.until_quiet();
}

#[test]
fn a_deleted_admin_token_is_made_anew_and_one_that_is_there_never_changes() {
    let scene = Scene::with(json!({}));
    let token = || scene.object("Secret", "mx-admin").map(|secret| secret["data"]["token"].clone());
    let first = token().expect("it was made");
    scene.patch(NAME, json!({ "spec": { "domains": ["example.org", "example.net"] } }));
    scene.until("it is reconciled", |mx| mx["status"]["observedGeneration"] == mx["metadata"]["generation"]);
    scene.until_quiet();
    assert_eq!(token().as_ref(), Some(&first));
    wait(scene.objects("Secret").delete("mx-admin", &DeleteParams::default())).expect("admin may delete");
    eventually(LIMIT, "another token", || token().is_some_and(|token| token != first && !token.is_null()));
}

#[test]
fn an_object_of_somebody_else_is_left_alone_and_named() {
    let scene = Scene::empty();
    let foreign = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "mx-smtp", "labels": { "whose": "somebody-else" } },
        "spec": { "ports": [{ "port": 80 }], "selector": { "app": "web" } },
    });
    wait(scene.objects("Service").create(&PostParams::default(), &from_json(foreign))).expect("admin may create");
    let before = scene.object("Service", "mx-smtp");
    scene.create(NAME, spec());
    let message = scene.until_condition("Degraded", "True");
    assert!(message.contains("Service") && message.contains("mx-smtp"), "{message}");
    scene.until_quiet();
    assert_eq!(scene.object("Service", "mx-smtp"), before);

    wait(scene.objects("Service").delete("mx-smtp", &DeleteParams::default())).expect("admin may delete");
    scene.until_condition("Degraded", "False");
    assert!(scene.names("Service").contains(&"mx-smtp".to_owned()));
}

#[test]
fn a_secret_that_is_not_there_is_named_until_it_is() {
    let scene = Scene::empty();
    let tls = json!({ "mode": "Verify", "caSecretRef": { "name": "primary-ca" } });
    scene.create(NAME, crate::scene::merged(spec(), json!({ "primary": { "tls": tls } })));
    let message = scene.until_condition("Degraded", "True");
    assert!(message.contains("primary-ca"), "{message}");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "primary-ca" }, "stringData": { "ca.crt": "x" },
    });
    wait(scene.objects("Secret").create(&PostParams::default(), &from_json(secret))).expect("admin may create");
    scene.until_condition("Degraded", "False");
}

#[test]
fn two_resources_for_one_domain_are_both_told() {
    let scene = Scene::with(json!({}));
    scene.create("other", crate::scene::merged(spec(), json!({ "domains": ["EXAMPLE.org", "example.net"] })));
    let warns = |name: &str, of: &str| {
        let mx = scene.get(name).unwrap_or_default();
        let warnings = mx["status"]["warnings"].as_array().cloned().unwrap_or_default();
        warnings.iter().any(|warning| {
            let words = warning.as_str().unwrap_or_default();
            words.contains("example.org") && words.contains(of)
        })
    };
    eventually(LIMIT, "a warning on both", || warns(NAME, "other") && warns("other", NAME));
}

#[test]
fn while_it_is_paused_nothing_is_touched_and_the_status_goes_on() {
    let scene = Scene::with(json!({}));
    scene.patch(NAME, json!({ "spec": { "paused": true, "replicas": 3 } }));
    scene.until("it is seen", |mx| mx["status"]["observedGeneration"] == mx["metadata"]["generation"]);
    wait(scene.objects("Service").delete("mx-smtp", &DeleteParams::default())).expect("admin may delete");
    scene.relay(0).set(|status| status.queue.messages = 7);
    scene.until("the queue is told", |mx| mx["status"]["queue"]["messages"] == 7);
    assert_eq!(scene.object("Service", "mx-smtp"), None);
    assert_eq!(scene.object("StatefulSet", "mx-relay").expect("it stays")["spec"]["replicas"], 2);
    scene.patch(NAME, json!({ "spec": { "paused": false } }));
    eventually(LIMIT, "it is made again", || scene.object("Service", "mx-smtp").is_some());
    scene.until("three relays", |mx| mx["status"]["replicas"] == 3);
}

#[test]
fn a_status_that_somebody_else_wrote_is_put_right() {
    let scene = Scene::with(json!({}));
    let wrong = json!({ "status": {
        "queue": { "messages": 99 },
        "conditions": [{ "type": "Ready", "status": "False", "reason": "Nonsense", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }],
    } });
    let patched = wait(scene.resources().patch_status(NAME, &PatchParams::default(), &Patch::Merge(wrong)));
    patched.expect("admin may write it");
    scene.until("it is right again", |mx| {
        mx["status"]["queue"]["messages"] == 0 && condition(mx, "Ready")["status"] == "True"
    });
    scene.until_quiet();
}

#[test]
fn the_definition_may_be_applied_again_with_objects_in_place() {
    let scene = Scene::with(json!({}));
    let before = scene.get(NAME).expect("it is there");
    crate::scene::apply_definition(kubernetes::shared());
    scene.patch(NAME, json!({ "spec": { "domains": ["example.net"] } }));
    let after = scene.until("it is reconciled", |mx| {
        mx["metadata"]["generation"] != before["metadata"]["generation"]
            && mx["status"]["observedGeneration"] == mx["metadata"]["generation"]
    });
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
}

#[test]
fn kubectl_shows_what_matters_in_columns_and_explains_every_field() {
    let scene = Scene::with(json!({}));
    scene.until("replicas are told", |mx| mx["status"]["replicas"] == 2);
    let shown = scene.namespace.kubectl(&["get", "bmx", "--namespace", scene.namespace.name()]);
    shown.expect_exit(0, &[]);
    let mut lines = shown.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let heading = lines.next().unwrap_or_default();
    assert_eq!(heading, ["NAME", "DOMAIN", "PRIMARY", "QUEUE", "OLDEST", "RELAYS", "READY", "AGE"], "{shown}");
    let explained = scene.namespace.kubectl(&["explain", "backupmx.spec", "--recursive=false"]);
    explained.expect_exit(0, &[]);
    for field in spec().as_object().expect("it is one").keys() {
        assert!(explained.stdout.contains(field), "{field}: {explained}");
    }
    let scaled =
        scene.namespace.kubectl(&["scale", "bmx", NAME, "--replicas=3", "--namespace", scene.namespace.name()]);
    scaled.expect_exit(0, &[]);
    scene.until("three relays", |mx| mx["status"]["replicas"] == 3);
}
