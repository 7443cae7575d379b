//! The contract with the real relay: the operator's document reaches it without a restart, and what it finds stands in the status.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    time::{Duration, Instant},
};

use kube::api::DeleteParams;
use serde_json::json;
use support::{
    Client, Envelope, Primary, Relay,
    kubernetes::pods::Fate,
    primary::{Act, Rule, Stage},
    wait::eventually,
};
use tempfile::TempDir;

use crate::scene::{LIMIT, NAME, Scene, merged, spec};

const LETTER: &[u8] = b"Subject: x\r\n\r\nx\r\n";

/// A resource with one relay, and that is the real program.
struct Real {
    scene: Scene,
    relay: Relay,
    primary: Primary,
    mount: TempDir,
}

impl Real {
    #[track_caller]
    fn start(primary: Primary) -> Self {
        let scene = Scene::empty();
        let ip = support::fake_relay::free_address();
        scene.relays.let_be("mx-relay-0", Fate::Ready(ip));
        let mount = TempDir::with_prefix("backupmx-mount-").expect("a temporary folder can be made");
        scene.relays.mount_into(mount.path());
        let host = json!([{ "host": primary.address().ip().to_string(), "port": primary.address().port() }]);
        scene.create(NAME, merged(spec(), json!({ "replicas": 1, "primary": { "hosts": host } })));
        let config = mount.path().join("relay.yaml");
        eventually(LIMIT, "the document is mounted", || config.is_file());
        let relay = relay(ip, config);
        scene.until_condition("Ready", "True");
        Self { scene, relay, primary, mount }
    }

    /// Sends a message. Returns the reply to the first thing that was no yes, or to the final dot.
    fn send(&self, recipient: &str) -> String {
        let envelope = Envelope::new("ann@example.com", &[recipient]);
        let reply = Client::hello(self.relay.smtp()).and_then(|mut client| client.send(&envelope, LETTER));
        reply.map_or_else(|refusal| refusal.to_string(), |reply| reply.to_string())
    }
}

fn relay(ip: Ipv4Addr, config: PathBuf) -> Relay {
    let config = config.to_string_lossy().into_owned();
    let at = |port: u16| format!("{ip}:{port}");
    Relay::bare()
        .address("--listen", &at(2525))
        .address("--observe", &at(9125))
        .address("--console", &at(8025))
        .flags(&["--config", &config, "--name", "mx-relay-0"])
        .start()
}

#[test]
fn a_primary_that_refuses_connections_in_quiet_times_is_told_within_40_seconds() {
    is_told("refuses", Duration::from_secs(40), |primary| primary.go_away());
}

#[test]
fn a_primary_that_vanishes_in_quiet_times_is_told_within_45_seconds() {
    is_told("vanishes", Duration::from_secs(45), |primary| primary.fall_silent());
}

#[test]
fn a_primary_that_accepts_and_hangs_in_quiet_times_is_told_within_75_seconds() {
    is_told("hangs", Duration::from_secs(75), |primary| primary.misbehave(Rule::act(Stage::Greeting, Act::Stall)));
}

#[test]
fn a_change_reaches_a_running_relay_and_its_mail_holds_the_deletion() {
    let mut real = Real::start(Primary::away());
    let (process, started_at) = (real.relay.pid(), real.relay.status().started_at);
    let mut open = Client::hello(real.relay.smtp()).expect("it takes sessions");
    assert!(real.send("bob@example.net").contains("550"), "a domain that is not ours");
    real.scene.patch(NAME, json!({ "spec": { "domains": ["example.org", "example.net"] } }));
    eventually(LIMIT, "the other domain is ours", || real.send("bob@example.net").contains("250 2"));
    assert!(open.say("NOOP").expect("the session lives").is("250"));
    assert!(open.say("QUIT").expect("the session lives").is("221"));
    real.scene.until_condition("Progressing", "False");
    let queued = real.relay.status().queue.messages;
    real.scene.until("the queue is told", |mx| mx["status"]["queue"]["messages"] == queued);

    real.scene.delete(NAME, DeleteParams::default());
    eventually(LIMIT, "it takes no more mail", || real.send("bob@example.org").contains("421"));
    let queued = real.relay.status().queue.messages;
    real.scene.until("it waits for the mail", |mx| {
        mx["status"]["relays"][0]["cordoned"] == true && mx["status"]["queue"]["messages"] == queued
    });
    assert!(!real.relay.is_ready());
    assert_eq!((real.relay.pid(), real.relay.status().started_at), (process, started_at), "it was never started anew");
    real.primary.return_now();
    real.scene.until_gone();
    real.primary.wait_for(queued as usize, LIMIT);
}

#[test]
fn a_document_that_the_relay_refuses_is_told_and_the_last_good_one_goes_on() {
    let real = Real::start(Primary::start());
    let file = real.mount.path().join("relay.yaml");
    real.scene.relays.hold_mounts(true);
    std::fs::write(&file, "domains: []").expect("our folder is ours");
    let message = real.scene.until_condition("Degraded", "True");
    assert!(message.contains("domains"), "{message}");
    assert!(real.send("bob@example.org").contains("250 2"), "the last good document goes on");
    real.scene.relays.hold_mounts(false);
    real.scene.until_condition("Degraded", "False");
}

/// All times are the defaults: this is what a user sees.
#[track_caller]
fn is_told(how: &str, within: Duration, go: fn(&mut Primary)) {
    let mut real = Real::start(Primary::start());
    real.scene.until_condition("PrimaryReachable", "True");
    let begun = Instant::now();
    go(&mut real.primary);
    real.scene.until_condition("PrimaryReachable", "False");
    let took = begun.elapsed();
    println!("a primary that {how} was told after {:.1} s", took.as_secs_f64());
    assert!(took <= within, "{took:?}");
}
