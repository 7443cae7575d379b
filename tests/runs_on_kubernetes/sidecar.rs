//! The example of a mail server with a relay at its side: port 25 answers while the server's container restarts.

use std::{fs, net::IpAddr, path::PathBuf, thread, time::Duration};

use serde_json::Value;
use support::{
    cluster::{cluster, repository, until},
    load::Load,
    paced,
    server::{self, Delivered},
    wait::within,
};

use crate::scene::{LIMIT, Scene};

/// Restarts, and messages a second meanwhile.
const RESTARTS: u64 = 20;
const PACE: u32 = 20;
/// The server is at work between two of them.
const BETWEEN_RESTARTS: Duration = Duration::from_secs(1);

#[test]
fn port_25_answers_while_the_server_beside_the_relay_restarts_20_times() {
    let scene = Scene::without_operator("sidecar");
    let example = fs::read_to_string(repository().join("examples/sidecar.yaml")).expect("it is there");
    // A mail server needs some rights that relays do without.
    scene.kubectl(&format!("label --overwrite namespace {} pod-security.kubernetes.io/enforce=baseline", scene.name()));
    // Mailboxes for all that the load goes to.
    let mailboxes = "inline:{ {postmaster@example.org = postmaster/}, {alice@example.org = alice/} }";
    assert!(example.contains(mailboxes), "the example has other mailboxes");
    cluster().apply(scene.name(), &example.replace(mailboxes, "static:all/"));
    let pod = until(
        LIMIT,
        "the pod is ready",
        || Some(scene.get("pod/mail-0")),
        |pod| server_of(pod)["ready"] == true && relay_of(pod)["ready"] == true,
    );
    let address = |service: &Value| service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str()?.parse().ok();
    let service =
        until(LIMIT, "it has an address", || Some(scene.get("service/mail")), |service| address(service).is_some());
    let ip: IpAddr = address(&service).expect("it was there");
    scene.sender.until_greeted((ip, 25).into());

    let load = Load { messages: 0, bytes: 2048, sessions: 0, seed: 95 };
    let senders = scene.sender.network.enter(|| paced::begin(load, PACE, (ip, 25).into()));
    let before = restarts(&pod);
    for restart in 1..=RESTARTS {
        end_server(&scene);
        until(
            LIMIT,
            &format!("restart {restart}"),
            || Some(scene.get("pod/mail-0")),
            |pod| restarts(pod) == before + restart && server_of(pod)["ready"] == true,
        );
        thread::sleep(BETWEEN_RESTARTS);
    }
    let met = senders.stop();
    println!("in {RESTARTS} restarts: {met}");
    assert_eq!(met.unconnected, Vec::<String>::new());
    met.expect_pace(PACE);
    assert_eq!((met.deferred, met.broken, met.sent.unanswered), (0, 0, 0));
    assert_eq!(relay_of(&scene.get("pod/mail-0"))["restartCount"], 0);

    let folder = mailbox(&scene);
    let compare =
        || load.compare(&met.sent, server::maildir(&folder, "X-Original-To: ").iter().map(Delivered::relayed));
    let all = within(LIMIT, || {
        let comparison = compare();
        thread::sleep(Duration::from_secs(1));
        comparison.missing.is_empty().then_some(comparison)
    });
    let comparison = all.unwrap_or_else(|| panic!("{:?}", compare()));
    println!("delivered twice, since the server ended between the message and its reply: {}", comparison.repeated);
    assert_eq!(comparison.altered, Vec::<u64>::new());
    // To the server all mail comes from 127.0.0.1, which it must not take for a friend.
    let refused = scene.sender.network.enter(|| {
        let mut client = support::Client::hello((ip, 25).into()).expect("it takes sessions");
        client.say("MAIL FROM:<ann@client.example>").expect("the session lives");
        client.say("RCPT TO:<bob@elsewhere.example>").expect("the session lives").code
    });
    assert_eq!(refused, 550);
}

fn server_of(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

fn relay_of(pod: &Value) -> &Value {
    &pod["status"]["initContainerStatuses"][0]
}

fn restarts(pod: &Value) -> u64 {
    server_of(pod)["restartCount"].as_u64().unwrap_or_default()
}

/// Kills all that runs in the server's container, and with it the container.
fn end_server(scene: &Scene) {
    let pod = scene.get("pod/mail-0");
    let id = server_of(&pod)["containerID"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    assert!(!id.is_empty(), "{pod:#}");
    // Some may have ended before their turn comes.
    let script =
        format!("for pid in $(grep -l {id} /proc/[0-9]*/cgroup | cut -d / -f 3); do kill -KILL $pid || true; done");
    cluster().in_node(&["sh", "-c", &script]);
}

/// The server's mailbox on its volume, seen from outside.
fn mailbox(scene: &Scene) -> PathBuf {
    let claim = scene.get("pvc/mail-mail-0");
    let volume = claim["spec"]["volumeName"].as_str().expect("it is bound");
    cluster().file("run/volumes").join(volume).join("boxes/all")
}
