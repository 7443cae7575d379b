//! The process: one leader, an API server that comes and goes, an end that is asked for.

use std::time::{Duration, Instant};

use serde_json::json;
use support::{kubernetes::Kubernetes, wait::eventually};

use crate::scene::{LIMIT, NAME, Scene, spec};

#[test]
fn of_two_operators_one_works_and_the_other_takes_over_when_it_is_killed() {
    let mut scene = Scene::with(json!({}));
    let second = scene.setup.start();
    eventually(LIMIT, "waiting for the lease is being ready", || second.code_of("/readyz") == 200);
    let begun = Instant::now();
    scene.operator.as_mut().expect("it was started").kill9();
    scene.patch(NAME, json!({ "spec": { "domains": ["example.net"] } }));
    let mx =
        scene.until("the second has done it", |mx| mx["status"]["observedGeneration"] == mx["metadata"]["generation"]);
    println!("after a kill the other operator had worked after {:.1?}", begun.elapsed());
    assert_eq!(mx["metadata"]["generation"], mx["status"]["observedGeneration"]);
    assert_eq!(second.metric("backupmx_operator_leader", ""), 1.0);
}

#[test]
fn a_leader_that_is_asked_to_stop_leaves_the_lease_at_once() {
    let mut scene = Scene::with(json!({}));
    let second = scene.setup.start();
    let begun = Instant::now();
    assert_eq!(scene.operator.as_mut().expect("it was started").terminate(), Some(0));
    let stopped = begun.elapsed();
    scene.patch(NAME, json!({ "spec": { "domains": ["example.net"] } }));
    scene.until("the second has done it", |mx| mx["status"]["observedGeneration"] == mx["metadata"]["generation"]);
    println!("stopped after {stopped:.1?}, taken over after {:.1?}", begun.elapsed());
    drop(second);
}

#[test]
fn a_lease_that_somebody_else_took_ends_the_process() {
    let mut scene = Scene::with(json!({}));
    let lease = scene.namespace.kubectl(&["get", "lease", "--namespace", scene.namespace.name(), "-o", "name"]);
    let name = lease.stdout.trim().to_owned();
    let patch = json!({ "spec": {
        "holderIdentity": "somebody else", "leaseDurationSeconds": 600, "renewTime": "2099-01-01T00:00:00.000000Z",
    } });
    let patched = scene.namespace.kubectl(&[
        "patch",
        &name,
        "--namespace",
        scene.namespace.name(),
        "--type=merge",
        "--field-manager=tests",
        "-p",
        &patch.to_string(),
    ]);
    patched.expect_exit(0, &[]);
    assert_eq!(scene.operator.as_mut().expect("it was started").wait_for_end(), Some(1));
}

#[test]
fn an_outage_of_the_api_server_is_lived_through() {
    const OUTAGE: Duration = Duration::from_secs(20);
    // A cluster of its own: the other tests need theirs. It lives as long as the program, like the shared one.
    let cluster: &'static Kubernetes = Box::leak(Box::new(Kubernetes::start()));
    let mut scene = Scene::in_cluster(cluster);
    scene.create(NAME, spec());
    scene.until_condition("Ready", "True");
    cluster.stop_api_server();
    scene.relay(0).set(|status| status.queue.messages = 5);
    std::thread::sleep(OUTAGE);
    let polls = scene.relay(0).requests();
    let begun = Instant::now();
    cluster.start_api_server();
    if !scene.operator.as_mut().expect("it was started").runs() {
        println!("the operator had given up its lease and ended; it is started again, as a Deployment does");
        scene.operator = Some(scene.setup.start());
    }
    scene.until("what was found meanwhile is told", |mx| mx["status"]["queue"]["messages"] == 5);
    println!("told {:.1?} after the API server's return; the relay had been asked {polls} times", begun.elapsed());
    scene.patch(NAME, json!({ "spec": { "domains": ["example.net"] } }));
    scene.until("it is reconciled", |mx| mx["status"]["observedGeneration"] == mx["metadata"]["generation"]);
    scene.until_quiet();
}
