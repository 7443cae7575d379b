//! Nothing ends while it keeps mail: deletion, fewer relays, and an operator that is away.

use std::{thread, time::Duration};

use serde_json::json;
use support::{
    Client,
    load::{Load, Sent},
};

use crate::{
    changes::address,
    scene::{LIMIT, NAME, Scene, condition},
};

/// Of ten connections each. By chance alone all would go to one relay once in 2^190.
const ROUNDS_MAX: u64 = 20;

#[test]
fn a_deletion_waits_until_the_mail_is_handed_over() {
    let scene = Scene::away("deletion").with(json!({}));
    let load = Load { messages: 10, bytes: 4096, sessions: 2, seed: 90 };
    let sent = scene.send(load);
    assert_eq!(sent.accepted.len(), 10, "{sent:?}");
    scene.kubectl(&format!("delete backupmx {NAME} --wait=false"));
    let message = scene.until_condition("Progressing", "Deleting");
    scene.until("it says what holds it", |mx| {
        condition(mx, "Progressing")["message"].as_str().is_some_and(|words| words.contains("10"))
    });
    println!("{message}");
    // An order that was never fulfilled is one that is given again.
    scene.kubectl(&format!("delete backupmx {NAME} --wait=false"));
    assert_eq!(scene.relay_status(0)["account"]["queued"], 10);
    scene.primary.start();
    scene.kubectl(&format!("wait --for=delete backupmx/{NAME} --timeout={}s", LIMIT.as_secs()));
    scene.until_delivered(&load, &sent);
    for kind in ["pods", "pvc", "statefulsets", "services"] {
        let left = scene.get(&format!("{kind} --selector=backupmx.io/name={NAME}"));
        assert!(left["items"].as_array().is_none_or(Vec::is_empty), "{kind}: {left:#}");
    }
}

#[test]
fn a_relay_that_should_leave_stays_while_it_keeps_mail() {
    let scene = Scene::away("scale-in").with(json!({ "replicas": 2 }));
    // The Service spreads connections, once the node's rules know both relays.
    let load = Load { messages: 10, bytes: 2048, sessions: 10, seed: 91 };
    let to = scene.smtp();
    let mut sent = Sent::default();
    let queued = |ordinal| scene.relay_status(ordinal)["account"]["queued"].as_u64().unwrap_or_default();
    for first in (0..).step_by(10) {
        assert!(first < ROUNDS_MAX * 10, "all connections go to one of two relays");
        let round = scene.sender.network.enter(|| load.begin_from(first, to).finish());
        assert_eq!(round.accepted.len(), 10, "{round:?}");
        sent.accepted.extend(round.accepted);
        if queued(0) > 0 && queued(1) > 0 {
            break;
        }
    }
    let leaving = queued(1);
    scene.kubectl(&format!("scale backupmx {NAME} --replicas=1"));
    let message = scene.until_condition("ScaleInBlocked", "MailWaiting");
    println!("{message}");
    assert!(message.contains(&leaving.to_string()), "{message}");
    assert_eq!(scene.get("statefulset/mx-relay")["spec"]["replicas"], 2);
    // It takes no more, and goes on to deliver.
    scene.until("it is cordoned", |mx| mx["status"]["relays"][1]["cordoned"] == true);
    let leaving = address(&scene, 1);
    let refusal = scene.node().enter(|| Client::hello(leaving).err().map(|refusal| refusal.to_string()));
    assert!(refusal.as_ref().is_some_and(|words| words.starts_with("421")), "{refusal:?}");
    scene.primary.start();
    scene.until("one is left", |mx| {
        mx["status"]["replicas"] == 1 && condition(mx, "ScaleInBlocked")["status"] == "False"
    });
    scene.until_delivered(&load, &sent);
    let emptied = scene.get("pvc/data-mx-relay-1");
    assert!(emptied["metadata"]["annotations"]["backupmx.io/emptied-at"].is_string(), "{emptied:#}");
}

#[test]
fn relays_go_on_while_the_operator_is_away_and_the_status_catches_up() {
    let scene = Scene::away("operator").with(json!({}));
    scene.kubectl("scale deployment --all --replicas=0");
    scene.kubectl("wait --for=delete pod --selector=app.kubernetes.io/component=operator --timeout=60s");
    let load = Load { messages: 10, bytes: 4096, sessions: 2, seed: 92 };
    let sent = scene.send(load);
    assert_eq!(sent.accepted.len(), 10, "{sent:?}");
    thread::sleep(Duration::from_secs(30));
    assert_eq!(scene.mx()["status"]["queue"]["messages"], 0, "nobody writes it meanwhile");
    scene.primary.start();
    scene.until_delivered(&load, &sent);
    scene.primary.stop();
    let later = Load { messages: 3, ..load };
    let to = scene.smtp();
    let waiting = scene.sender.network.enter(|| later.begin_from(10, to).finish());
    assert_eq!(waiting.accepted.len(), 3, "{waiting:?}");
    thread::sleep(Duration::from_secs(30));
    scene.kubectl("scale deployment --all --replicas=1");
    scene.until("it tells what came meanwhile", |mx| mx["status"]["queue"]["messages"] == 3);
    scene.primary.start();
    scene.until_condition("QueueEmpty", "True");
}
