//! The examples that people start from are taken as they stand, and do what they say.

use std::fs;

use serde_json::Value;
use support::{
    cluster::{cluster, repository, until},
    tools,
};

use crate::scene::{LIMIT, Scene, condition};

const EXAMPLE: &str = "example-org";

#[test]
fn the_example_for_production_runs_three_relays_once_its_class_is_there() {
    let scene = Scene::new("production");
    apply(&scene, "backupmx-production.yaml");
    // The class that it names is one's own to make.
    let class = "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: mail}, provisioner: backupmx.io/test-volumes, \
                 reclaimPolicy: Retain, volumeBindingMode: WaitForFirstConsumer}";
    cluster().apply("default", class);
    let mx = until_example(&scene, "three relays are ready", |mx| {
        condition(mx, "Ready")["status"] == "True"
            && mx["status"]["relays"]
                .as_array()
                .is_some_and(|relays| relays.len() == 3 && relays.iter().all(|relay| relay["ready"] == true))
    });
    assert_eq!(condition(&mx, "Accepted")["status"], "True");
    // One node: three in one place are better than one that does not run.
    let pods = scene.get("pods --selector=backupmx.io/name=example-org");
    let spread = &pods["items"][0]["spec"]["topologySpreadConstraints"];
    assert!(
        spread.as_array().into_iter().flatten().all(|over| over["whenUnsatisfiable"] == "ScheduleAnyway"),
        "{spread}"
    );
}

#[test]
fn the_example_for_node_ports_takes_mail_on_the_node_and_sees_who_sends_it() {
    let scene = Scene::new("nodeport");
    apply(&scene, "backupmx-nodeport.yaml");
    until_example(&scene, "it is ready", |mx| {
        condition(mx, "Ready")["status"] == "True" && condition(mx, "Available")["status"] == "True"
    });
    let swaks = scene.sender.network.enter(|| {
        tools::swaks(
            "10.200.0.1:30025".parse().expect("an address"),
            &["--from", "ann@client.example", "--to", "bob@example.org"],
        )
    });
    assert_eq!(swaks.code, Some(0), "{swaks}");
    until_example(&scene, "the message is told", |mx| mx["status"]["queue"]["messages"] == 1);
    let logs = scene.kubectl("logs --selector=backupmx.io/name=example-org --tail=-1");
    assert!(logs.contains(&scene.sender.address.to_string()), "the sender's own address: {logs}");
}

fn apply(scene: &Scene, file: &str) {
    let text = fs::read_to_string(repository().join("examples").join(file)).expect("it is there");
    let text = text.replace("namespace: mail", &format!("namespace: {}", scene.name()));
    // A small node that many tests share.
    cluster().apply(scene.name(), &text.replace("cpu: 250m", "cpu: 10m"));
}

#[track_caller]
fn until_example(scene: &Scene, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    until(LIMIT, what, || Some(scene.get(&format!("backupmx/{EXAMPLE}"))), holds)
}
