//! Pods come and go as they do in a cluster: killed, crashed, evicted, replaced under load. What was answered 250 stays.

use std::{thread, time::Duration};

use serde_json::{Value, json};
use support::{
    cluster::{cluster, until},
    load::{Load, Sent},
    paced,
};

use crate::scene::{LIMIT, NAME, Scene};

/// Messages a second.
const PACE: u32 = 50;

#[test]
fn mail_outlives_a_crash_of_its_container_a_deletion_of_its_pod_and_an_eviction() {
    let scene = Scene::away("pods").with(json!({}));
    let load = Load { messages: 20, bytes: 4096, sessions: 4, seed: 80 };
    let mut sent = Sent::default();
    for (first, how) in [(0, "crash"), (20, "deletion"), (40, "eviction")] {
        let to = scene.smtp();
        let round = scene.sender.network.enter(|| load.begin_from(first, to).finish());
        assert_eq!(round.accepted.len(), 20, "before the {how}: {round:?}");
        sent.accepted.extend(round.accepted);
        let before = relay(&scene);
        strike(&scene, how);
        until(
            LIMIT,
            &format!("it is back after its {how}"),
            || Some(relay(&scene)),
            |pod| is_another(pod, &before) && is_ready(pod),
        );
        scene.until("and keeps what it had", |mx| mx["status"]["queue"]["messages"] == sent.accepted.len());
    }
    scene.primary.start();
    let comparison = scene.until_delivered(&load, &sent);
    assert_eq!((comparison.repeated, comparison.unanswered), (0, 0));
    scene.until_condition("QueueEmpty", "True");
}

#[test]
fn a_change_of_the_pods_template_under_load_refuses_nobody_and_loses_nothing() {
    // Whoever hears no hears it from a relay, and not from a primary that cannot keep this pace.
    let queue = "Queue";
    let scene = Scene::new("rolling").with(json!({ "replicas": 2, "whenPrimaryUp": queue }));
    let before = uids(&scene);
    let load = Load { messages: 0, bytes: 2048, sessions: 0, seed: 81 };
    let to = scene.smtp();
    let senders = scene.sender.network.enter(|| paced::begin(load, PACE, to));
    thread::sleep(Duration::from_secs(2));
    let pod = json!({ "annotations": { "example.org/reason": "a new template" } });
    scene.apply(json!({ "replicas": 2, "whenPrimaryUp": queue, "pod": pod }));
    until(
        LIMIT,
        "both pods are new",
        || Some(json!(uids(&scene))),
        |now| {
            let now = now.as_array().map(Vec::as_slice).unwrap_or_default();
            now.len() == 2 && now.iter().all(|uid| !before.contains(uid))
        },
    );
    scene.until_ready();
    thread::sleep(Duration::from_secs(2));
    let met = senders.stop();
    println!("while both pods were replaced: {met}");
    assert_eq!(met.unconnected, Vec::<String>::new(), "the Service has always a relay behind it");
    assert_eq!(met.sent.unanswered, 0);
    met.expect_pace(PACE);
    scene.until_delivered(&load, &met.sent);
}

fn strike(scene: &Scene, how: &str) {
    match how {
        "crash" => {
            // The first process of a container hears no other signal from outside.
            let ended = cluster().in_node(&["kill", "-KILL", &pid_of(&relay(scene))]);
            assert_eq!(ended.code, Some(0), "{ended}");
        }
        "deletion" => drop(scene.kubectl(&format!("delete pod {NAME}-relay-0 --wait=false"))),
        "eviction" => {
            let eviction = json!({
                "apiVersion": "policy/v1", "kind": "Eviction",
                "metadata": { "name": format!("{NAME}-relay-0"), "namespace": scene.name() },
            });
            let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
            std::fs::write(file.path(), eviction.to_string()).expect("a temporary file can be written");
            let path = format!("/api/v1/namespaces/{}/pods/{NAME}-relay-0/eviction", scene.name());
            cluster().kubectl(&format!("create --raw {path} --filename {}", file.path().display()));
        }
        other => panic!("{other} is unknown"),
    }
}

fn relay(scene: &Scene) -> Value {
    scene.get(&format!("pod/{NAME}-relay-0"))
}

/// Another pod, or the same with a new container.
fn is_another(pod: &Value, before: &Value) -> bool {
    let identity =
        |pod: &Value| (pod["metadata"]["uid"].clone(), pod["status"]["containerStatuses"][0]["containerID"].clone());
    !pod["status"]["containerStatuses"][0]["containerID"].is_null() && identity(pod) != identity(before)
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["ready"] == true && pod["metadata"]["deletionTimestamp"].is_null()
}

fn uids(scene: &Scene) -> Vec<Value> {
    let pods = scene.get(&format!("pods --selector=backupmx.io/name={NAME}"));
    pods["items"].as_array().into_iter().flatten().map(|pod| pod["metadata"]["uid"].clone()).collect()
}

/// The number of the relay's process in this pod, as the node counts.
pub fn pid_of(pod: &Value) -> String {
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
    let id = id.rsplit('/').next().unwrap_or_default();
    assert!(!id.is_empty(), "no container in {pod:#}");
    let find = format!(
        "for pid in $(pgrep -x backupmx-relay); do if grep -q {id} /proc/$pid/cgroup; then echo $pid; fi; done"
    );
    let pid = cluster().in_node(&["sh", "-c", &find]).stdout.trim().to_owned();
    assert!(!pid.is_empty(), "no relay in container {id}");
    pid
}
