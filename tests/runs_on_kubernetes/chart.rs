//! The chart in other ways than the quick start's: one namespace without rights elsewhere, two operators, an upgrade.

use std::{path::Path, process::Command, time::Duration};

use serde_json::{Value, json};
use support::{
    cluster::{cluster, repository, until},
    load::Load,
    program,
};
use tempfile::TempDir;

use crate::scene::{LIMIT, NAME, Scene};

#[test]
fn an_upgrade_from_the_chart_before_this_one_keeps_relays_and_mail_and_two_operators_take_turns() {
    let old = chart_before_this_one();
    let scene = Scene::installed_from("upgrade", old.path()).with(json!({}));
    scene.primary.stop();
    let load = Load { messages: 5, bytes: 2048, sessions: 1, seed: 97 };
    let sent = scene.send(load);
    assert_eq!(sent.accepted.len(), 5, "{sent:?}");
    scene.until("it keeps the mail", |mx| mx["status"]["queue"]["messages"] == 5);

    let name = scene.name();
    cluster().helm(&format!(
        "upgrade backupmx CHART --namespace {name} --reset-then-reuse-values --set replicaCount=2 --set image.tag= --set relay.image.tag= --wait"
    ));
    let manifest = cluster().helm(&format!("get manifest backupmx --namespace {name}"));
    assert!(!manifest.contains("kind: ClusterRole"), "an operator of one namespace has rights there only");
    assert_eq!(scene.relay_status(0)["account"]["queued"], 5);

    // The leader's node is lost, so to say: the other one goes on.
    let leader = leader(&scene).as_str().unwrap_or_default().to_owned();
    let pods = scene.get("pods --selector=app.kubernetes.io/component=operator");
    let names = pods["items"].as_array().into_iter().flatten().filter_map(|pod| pod["metadata"]["name"].as_str());
    let pod = names
        .clone()
        .find(|pod| leader.starts_with(pod))
        .unwrap_or_else(|| panic!("{leader} is none of {:?}", names.collect::<Vec<_>>()));
    scene.kubectl(&format!("delete pod {pod} --grace-period=0 --force"));
    until(
        LIMIT,
        "another one leads",
        || Some(self::leader(&scene)),
        |now| now.as_str().is_some_and(|now| !now.is_empty() && now != leader),
    );
    scene.primary.start();
    scene.until_condition("QueueEmpty", "True");
    scene.until_delivered(&load, &sent);

    cluster().helm(&format!("uninstall backupmx --namespace {name} --wait"));
    assert_eq!(
        scene.get(&format!("pod/{NAME}-relay-0"))["status"]["containerStatuses"][0]["ready"],
        true,
        "relays go on"
    );
}

fn leader(scene: &Scene) -> Value {
    scene.get("leases")["items"][0]["spec"]["holderIdentity"].clone()
}

/// The chart as the last commit but this one that touched it has it; this one's, while it is the first.
fn chart_before_this_one() -> TempDir {
    let git = |words: &str| {
        let mut command = Command::new("git");
        command.arg("-C").arg(repository()).args(words.split(' '));
        let ended = program::run(&mut command, Duration::from_secs(30));
        assert_eq!(ended.code, Some(0), "git {words}: {ended}");
        ended.stdout
    };
    assert_eq!(
        git("rev-parse --is-shallow-repository").trim(),
        "false",
        "a whole clone is needed: git fetch --unshallow"
    );
    let commits = git("log --format=%H --max-count=2 -- charts/backupmx");
    let commit = commits.lines().last().expect("the chart is committed").to_owned();
    let folder = TempDir::with_prefix("backupmx-chart-").expect("a temporary folder can be made");
    let archive = folder.path().join("chart.tar");
    git(&format!("archive --output={} {commit}:charts/backupmx", archive.display()));
    let unpacked = program::run(
        Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(folder.path()),
        Duration::from_secs(30),
    );
    assert_eq!(unpacked.code, Some(0), "{unpacked}");
    std::fs::remove_file(&archive).expect("our folder is ours");
    assert!(Path::exists(&folder.path().join("Chart.yaml")));
    folder
}
