//! The example of a mail server with a relay at its side: port 25 answers while the server's container restarts, and while it runs
//! senders hear the server itself, which sees who they are.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    thread,
    time::Duration,
};

use serde_json::Value;
use support::{
    Client, Envelope,
    cluster::{cluster, repository, until},
    load::Load,
    paced, relay,
    server::{self, Delivered},
    wait::{eventually_some, within},
};

use crate::scene::{LIMIT, Scene, ip_of};

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
    // One more mailbox, for all that the load goes to; whom neither names, the server does not know.
    let mailboxes = "inline:{ {postmaster@example.org = postmaster/}, {alice@example.org = alice/} }";
    assert!(example.contains(mailboxes), "the example has other mailboxes");
    let more = format!("{mailboxes}, regexp:{{ {{/^m[0-9]+@example\\.org$$/ all/}} }}");
    cluster().apply(scene.name(), &example.replace(mailboxes, &more));
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
    let smtp = SocketAddr::from((ip, 25));
    scene.sender.until_greeted(smtp);
    until(LIMIT, "the relay has found the server", || Some(status(&scene)), rests);

    let load = Load { messages: 0, bytes: 2048, sessions: 0, seed: 95 };
    let senders = scene.sender.network.enter(|| paced::begin(load, PACE, smtp));
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

    let folder = mailbox(&scene, "all");
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

    senders_hear_the_server_and_it_sees_who_they_are(&scene, smtp);
    // What was kept comes from 127.0.0.1, which the server must not take for a friend.
    let refused = scene.sender.network.enter(|| {
        let mut client = Client::hello(smtp).expect("it takes sessions");
        client.say("MAIL FROM:<ann@client.example>").expect("the session lives");
        client.say("RCPT TO:<bob@elsewhere.example>").expect("the session lives").code
    });
    assert_eq!(refused, 550);
}

fn senders_hear_the_server_and_it_sees_who_they_are(scene: &Scene, smtp: SocketAddr) {
    let account = |status: &Value, what: &str| status["account"][what].as_u64().unwrap_or_default();
    let before = until(LIMIT, "the relay is rid of all mail", || Some(status(scene)), rests);
    let (through, by_queue) = (account(&before, "passed"), account(&before, "delivered"));
    println!("{through} messages went through the relay, {by_queue} by its queue");
    assert!(through > 0 && by_queue > 0, "mail went both ways");

    let (unknown, taken) = scene.sender.network.enter(|| {
        let mut client = Client::hello(smtp).expect("it takes sessions");
        let mut say = |line: &str| client.say(line).expect("the session lives");
        say("MAIL FROM:<sender@client.example>");
        let unknown = say("RCPT TO:<nobody@example.org>");
        say("RSET");
        (unknown, client.send(&Envelope::to("alice"), b"Subject: passes\r\n\r\nbody\r\n").expect("the session lives"))
    });
    // The server's own words.
    assert!(unknown.is("550 5.1.1 <nobody@example.org>: Recipient address rejected: User unknown"), "{unknown}");
    assert_eq!(taken.code, 250, "{taken}");
    let passed = |status: &Value| rests(status) && account(status, "passed") == through + 1;
    let after = until(LIMIT, "what was taken has passed", || Some(status(scene)), passed);
    assert_eq!(account(&after, "accepted"), account(&before, "accepted") + 1, "nothing else was taken");

    // The server saw the sender and not the relay.
    let alices = mailbox(scene, "alice");
    let mail = eventually_some(LIMIT, "it is in the mailbox", || server::maildir(&alices, "X-Original-To: ").pop());
    let seen = format!("from client.example (unknown [{}])", scene.sender.address);
    assert!(mail.trace.contains(&seen), "{seen}: {}", mail.trace);
}

/// What the relay says of itself.
fn status(scene: &Scene) -> Value {
    let pod = scene.get("pod/mail-0");
    let page = scene.node().enter(|| relay::http::get((ip_of(&pod), 9125).into(), "/status", None));
    serde_json::from_str(&page.body).expect("a status is JSON")
}

/// Whether the server takes mail and the relay has none.
fn rests(status: &Value) -> bool {
    status["primary"]["state"] == "Up" && status["queue"]["messages"] == 0
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

/// A mailbox of the server on its volume, seen from outside.
fn mailbox(scene: &Scene, name: &str) -> PathBuf {
    let claim = scene.get("pvc/mail-mail-0");
    let volume = claim["spec"]["volumeName"].as_str().expect("it is bound");
    cluster().file("run/volumes").join(volume).join("boxes").join(name)
}
