//! What a cluster can refuse or lack: `kubectl get backupmx` and its conditions tell it in a sentence, and nobody tries without pause.

use std::{thread, time::Duration};

use serde_json::{Value, json};
use support::{
    cluster::{cluster, until},
    relay::http,
};

use crate::scene::{LIMIT, Scene, condition, ip_of, merged};

/// While nothing changes the operator looks again from time to time, not all the time.
const RECONCILES_IN_QUIET_MAX: f64 = 30.0;
const QUIET: Duration = Duration::from_secs(10);

#[test]
fn what_the_cluster_cannot_do_is_told_in_a_sentence_and_tried_with_patience() {
    let scene = Scene::new("trouble");
    // What is asked for; the condition that tells; what its message names.
    let troubles = [
        (
            "class",
            json!({ "storage": { "size": "1Gi", "storageClassName": "no-such-class" } }),
            ("Degraded", "RelayNotReady"),
            "no-such-class",
        ),
        (
            "image",
            json!({ "pod": { "image": "localhost/no-such-image:1" } }),
            ("Ready", "NoRelayReady"),
            "localhost/no-such-image:1",
        ),
        (
            "secret",
            json!({ "tls": { "secretName": "no-such-secret" } }),
            ("TlsReady", "SecretMissing"),
            "no-such-secret",
        ),
        (
            "balancer",
            json!({ "service": { "type": "LoadBalancer", "loadBalancerClass": "example.org/none" } }),
            ("Available", "NoAddress"),
            "NodePort",
        ),
        (
            "room",
            json!({ "pod": { "resources": { "requests": { "cpu": "10000" } } } }),
            ("Ready", "NoRelayReady"),
            "Insufficient cpu",
        ),
    ];
    for (name, changes, _, _) in &troubles {
        let spec = merged(merged(scene.spec(), json!({ "domains": [format!("{name}.example.org")] })), changes.clone());
        let mx = json!({ "apiVersion": "backupmx.io/v1alpha1", "kind": "BackupMx", "metadata": { "name": name }, "spec": spec });
        cluster().apply(scene.name(), &mx.to_string());
    }
    for (name, _, (kind, reason), word) in &troubles {
        let is_told = |mx: &Value| {
            let condition = condition(mx, kind);
            condition["reason"] == *reason && condition["message"].as_str().is_some_and(|words| words.contains(word))
        };
        let mx = until(
            LIMIT,
            &format!("{name}: {kind}={reason} with {word}"),
            || cluster().get(scene.name(), &format!("backupmx/{name}")),
            is_told,
        );
        println!("{name}: {}", condition(&mx, kind)["message"]);
        let described = scene.kubectl(&format!("describe backupmx {name}"));
        assert!(described.contains(word), "{described}");
        let line = scene.kubectl(&format!("get backupmx {name} --output wide"));
        if *kind == "Ready" {
            assert!(line.contains(word), "{line}");
        }
    }
    // Mail is taken without a certificate, and without an address for the world.
    for name in ["secret", "balancer"] {
        until(
            LIMIT,
            name,
            || cluster().get(scene.name(), &format!("backupmx/{name}")),
            |mx| condition(mx, "Ready")["status"] == "True",
        );
    }
    let before = reconciles(&scene);
    thread::sleep(QUIET);
    let done = reconciles(&scene) - before;
    println!("{done} reconciles of five troubled resources in {QUIET:?}");
    assert!(done <= RECONCILES_IN_QUIET_MAX, "{done}");
    let pods = scene.get("pods");
    let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default();
    assert!(pods["items"].as_array().into_iter().flatten().all(|pod| restarts(pod) == 0), "nothing crashed: {pods:#}");
}

fn reconciles(scene: &Scene) -> f64 {
    let pods = scene.get("pods --selector=app.kubernetes.io/component=operator");
    let ip = ip_of(&pods["items"][0]);
    let page = scene.node().enter(|| http::get((ip, 9126).into(), "/metrics", None)).body;
    let of_it = |line: &&str| line.starts_with("backupmx_operator_reconciles_total");
    page.lines().filter(of_it).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
