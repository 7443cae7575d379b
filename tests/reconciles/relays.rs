//! What relays say, and what they do not, stands in the status: soon, and in words.

use std::time::{Duration, Instant};

use backupmx_relay_api::status::{Breaker, DrainState, Outage, PrimaryState, RefusedConfig};
use jiff::Timestamp;
use serde_json::json;
use support::{fake_relay::Manner, kubernetes::pods::Fate, wait::eventually};

use crate::scene::{LIMIT, NAME, Scene, condition};

#[test]
fn what_a_relay_finds_stands_in_the_status_within_three_seconds() {
    const CHANGES: usize = 100;
    let scene = Scene::with(json!({}));
    let mut took: Vec<Duration> = Vec::new();
    for change in 0..CHANGES {
        let (state, words) = match change % 2 {
            0 => (PrimaryState::Down, format!("connect to mx1.example.org:25: connection refused ({change})")),
            _ => (PrimaryState::Up, format!("mx1.example.org:25 answers ({change})")),
        };
        let begun = Instant::now();
        for ordinal in 0..2 {
            scene.relay(ordinal).set(|status| {
                status.primary.state = state;
                status.primary.reason = words.clone();
                status.primary.since = Timestamp::now().to_string();
            });
        }
        scene.until("the change is told", |mx| {
            mx["status"]["primary"]["state"] == json!(state)
                && mx["status"]["primary"]["reason"].to_string().contains(&words)
        });
        took.push(begun.elapsed());
    }
    took.sort();
    let (median, p95) = (took[CHANGES / 2], took[CHANGES * 95 / 100]);
    println!(
        "a change stood in the status after {median:.2?} (median), {p95:.2?} (95 of 100), {:.2?} (worst)",
        took[CHANGES - 1]
    );
    assert!(p95 <= Duration::from_secs(3), "{p95:?}");
}

#[test]
fn a_dead_primary_is_told_and_makes_nothing_unready() {
    let scene = Scene::with(json!({}));
    for ordinal in 0..2 {
        scene.relay(ordinal).set(|status| {
            status.primary.state = PrimaryState::Down;
            status.primary.reason = "connect to mx1.example.org:25: connection refused".into();
            status.queue.messages = 600 + ordinal as u64;
            status.queue.bytes = 1000;
            status.queue.oldest = Some("2026-11-27T10:00:00Z".into());
            status.drain.state = DrainState::Waiting;
            status.outages =
                vec![Outage { from: "2026-11-27T09:59:00Z".into(), messages: 600, bytes: 1000, ..Outage::default() }];
        });
    }
    let message = scene.until_condition("PrimaryReachable", "False");
    assert!(message.contains("connection refused"), "{message}");
    let mx = scene.until("the sums are told", |mx| {
        mx["status"]["queue"]["messages"] == 1201 && mx["status"]["outages"][0]["messages"] == 1200
    });
    assert_eq!(mx["status"]["queue"]["bytes"], 2000);
    assert_eq!(mx["status"]["outages"].as_array().map(Vec::len), Some(1), "two relays saw one outage");
    for (kind, status) in [("Ready", "True"), ("Degraded", "False"), ("QueueEmpty", "False"), ("Available", "True")] {
        assert_eq!(condition(&mx, kind)["status"], status, "{kind}");
    }
}

#[test]
fn each_finding_about_a_relay_is_told_with_its_name_and_goes_away_with_its_cause() {
    type Change = fn(&Scene);
    let findings: [(&str, Change, Change, &str); 5] = [
        (
            "silent",
            |scene| scene.relay(1).behave(Manner::Silent),
            |scene| scene.relay(1).behave(Manner::Well),
            "mx-relay-1",
        ),
        (
            "gone",
            |scene| scene.relay(1).behave(Manner::Gone),
            |scene| scene.relay(1).behave(Manner::Well),
            "mx-relay-1",
        ),
        (
            "garbage",
            |scene| scene.relay(1).behave(Manner::Garbage),
            |scene| scene.relay(1).behave(Manner::Well),
            "mx-relay-1",
        ),
        (
            "unwritable",
            |scene| {
                scene.relay(1).set(|status| {
                    status.spool.writable = false;
                    status.problems = vec!["Nothing can be written to the spool.".into()];
                });
            },
            |scene| {
                scene.relay(1).set(|status| {
                    status.spool.writable = true;
                    status.problems.clear();
                });
            },
            "mx-relay-1",
        ),
        (
            "refuses its config",
            |scene| {
                scene.relay(1).set(|status| {
                    status.config.refused = Some(RefusedConfig {
                        digest: None,
                        since: "2026-11-27T10:00:00Z".into(),
                        reason: "domains: is empty".into(),
                    });
                });
            },
            |scene| scene.relay(1).set(|status| status.config.refused = None),
            "domains: is empty",
        ),
    ];
    let scene = Scene::with(json!({}));
    for (what, happens, ends, word) in findings {
        println!("a relay is {what}");
        happens(&scene);
        let message = scene.until_condition("Degraded", "True");
        assert!(message.contains(word), "{what}: {message}");
        assert_eq!(
            condition(&scene.get(NAME).unwrap_or_default(), "Ready")["status"],
            "True",
            "{what}: the other one takes mail"
        );
        ends(&scene);
        scene.until_condition("Degraded", "False");
    }
}

#[test]
fn it_is_not_ready_while_no_relay_can_take_mail() {
    let scene = Scene::with(json!({}));
    for ordinal in 0..2 {
        scene.relay(ordinal).set(|status| status.spool.writable = false);
    }
    scene.until_condition("Ready", "False");
    scene.relay(0).set(|status| status.spool.writable = true);
    scene.until_condition("Ready", "True");
}

#[test]
fn pods_are_nudged_until_each_relay_runs_the_new_document() {
    let scene = Scene::with(json!({}));
    scene.until_quiet();
    let nudges = || -> Vec<String> {
        let pod = |ordinal| scene.object("Pod", &format!("mx-relay-{ordinal}")).unwrap_or_default();
        (0..2).map(|ordinal| pod(ordinal)["metadata"]["annotations"]["backupmx.io/config-digest"].to_string()).collect()
    };
    let uids = || -> Vec<String> {
        let pod = |ordinal| scene.object("Pod", &format!("mx-relay-{ordinal}")).unwrap_or_default();
        (0..2).map(|ordinal| pod(ordinal)["metadata"]["uid"].to_string()).collect()
    };
    let (before, first) = (uids(), nudges());
    scene.relays.hold_mounts(true);
    scene.patch(NAME, json!({ "spec": { "domains": ["example.org", "example.net"] } }));
    let message = scene.until_condition("Progressing", "True");
    assert!(message.contains("mx-relay-0"), "{message}");
    eventually(LIMIT, "the pods are nudged", || nudges() != first);
    let second = nudges();
    eventually(LIMIT, "they are nudged again", || nudges() != second);
    scene.relays.hold_mounts(false);
    scene.until_condition("Progressing", "False");
    scene.until_quiet();
    assert_eq!(uids(), before, "no pod was started anew for it");
}

#[test]
fn an_older_relay_gets_the_document_that_it_knows_or_is_named() {
    let scene = Scene::with(json!({}));
    scene.relay(1).set(|status| {
        status.schema = 0;
        status.version = "0.0.1".into();
    });
    let message = scene.until_condition("Degraded", "True");
    assert!(message.contains("mx-relay-1"), "{message}");
    scene.relay(1).set(|status| status.schema = backupmx_relay_api::SCHEMA);
    scene.until_condition("Degraded", "False");
}

#[test]
fn an_answer_of_64_mib_is_not_read_and_costs_no_memory() {
    let scene = Scene::with(json!({}));
    scene.relay(1).behave(Manner::Huge);
    scene.until_condition("Degraded", "True");
    let status = std::fs::read_to_string(format!("/proc/{}/status", scene.operator().pid())).expect("it runs");
    let peak_kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
        .expect("Linux tells it");
    assert!(peak_kib < 150 << 10, "{peak_kib} KiB");
}

#[test]
fn hidden_clients_and_the_address_that_the_primary_sees_are_told() {
    let scene = Scene::with(json!({}));
    for ordinal in 0..2 {
        scene.relay(ordinal).set(|status| {
            status.primary.egress_address = Some("203.0.113.9".into());
            status.clients.only = Some("10.0.0.1".into());
            (status.clients.sessions, status.clients.addresses) = (100, 1);
        });
    }
    scene.until("both are told", |mx| {
        mx["status"]["egressAddresses"] == json!(["203.0.113.9"])
            && mx["status"]["warnings"].to_string().contains("10.0.0.1")
    });
}

#[test]
fn transitions_become_events_once() {
    let scene = Scene::with(json!({}));
    let tell = |state: PrimaryState| {
        for ordinal in 0..2 {
            scene.relay(ordinal).set(|status| status.primary.state = state);
        }
        scene.until("it is told", |mx| mx["status"]["primary"]["state"] == json!(state));
    };
    tell(PrimaryState::Down);
    scene.relay(0).set(|status| {
        status.drain.breaker = Some(Breaker {
            since: "2026-11-27T10:00:00Z".into(),
            reason: "550 no such domain".into(),
            next_test: "2026-11-27T10:10:00Z".into(),
        });
    });
    tell(PrimaryState::Up);
    let events = || -> Vec<String> {
        let list = scene.namespace.kubectl(&[
            "get",
            "events.events.k8s.io",
            "--namespace",
            scene.namespace.name(),
            "-o",
            "jsonpath={range .items[*]}{.regarding.kind} {.reason}{'\\n'}{end}",
        ]);
        list.stdout.lines().filter_map(|line| Some(line.strip_prefix("BackupMx ")?.to_owned())).collect()
    };
    eventually(LIMIT, "the events", || {
        let events = events();
        ["PrimaryDown", "PrimaryUp", "BreakerOpen"].iter().all(|wanted| events.iter().any(|event| event == wanted))
    });
    let downs = events().iter().filter(|event| *event == "PrimaryDown").count();
    assert_eq!(downs, 1, "{:?}", events());
}

#[test]
fn a_pod_that_cannot_start_is_named_with_the_clusters_own_word() {
    let scene = Scene::empty();
    scene.relays.let_be("mx-relay-1", Fate::Waiting("ImagePullBackOff"));
    scene.create(NAME, crate::scene::spec());
    scene.until_condition("Ready", "True");
    scene.until("the reason is told", |mx| mx["status"]["conditions"].to_string().contains("ImagePullBackOff"));
}
