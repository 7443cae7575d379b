//! What changes while relays run is in force on all of them without a restart: settings, certificate, token. Sessions go on.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::{Client, Envelope, certificate::Certificate, cluster::cluster, relay::http, wait::within};

use crate::scene::{LIMIT, NAME, Scene, ip_of};

const LETTER: &[u8] = b"Subject: x\r\n\r\nx\r\n";
const RELAYS: usize = 2;

#[test]
fn settings_certificate_and_token_change_on_all_relays_and_no_session_ends() {
    let scene = Scene::new("changes");
    let first = Certificate::of(&[support::HOSTNAME]);
    write_certificate(&scene, "mx2-tls", &first);
    // The primary does not serve the new domain, and is not asked.
    let spec = json!({ "replicas": RELAYS, "tls": { "secretName": "mx2-tls" }, "whenPrimaryUp": "Queue" });
    let scene = scene.with(spec.clone());
    scene.until_condition("TlsReady", "True");
    let before = identities(&scene);
    let relays: Vec<_> = (0..RELAYS).map(|ordinal| address(&scene, ordinal)).collect();
    let mut sessions: Vec<_> = relays.iter().map(|relay| hello(&scene, *relay)).collect();

    // Settings.
    let begun = Instant::now();
    scene.apply(support::resource::merged(spec, json!({ "domains": ["example.org", "example.net"] })));
    for relay in &relays {
        until_soon("the new domain is taken", || send(&scene, *relay, "bob@example.net").starts_with("250"));
    }
    println!("all relays ran the changed settings {:.1?} after kubectl apply", begun.elapsed());
    scene.until_ready();

    // Certificate and token: the kubelet brings them within a minute or two.
    let second = Certificate::of(&[support::HOSTNAME]);
    let (old, new) = (token(&scene), "b".repeat(64));
    let begun = Instant::now();
    write_certificate(&scene, "mx2-tls", &second);
    scene
        .kubectl(&format!("patch secret {NAME}-admin --type=merge --patch {{\"stringData\":{{\"token\":\"{new}\"}}}}"));
    for relay in &relays {
        until_soon("the new certificate is shown", || presents(&scene, *relay, &second));
    }
    println!("all relays showed the renewed certificate {:.1?} after it was written", begun.elapsed());
    for relay in &relays {
        let console = SocketAddr::new(relay.ip(), 8025);
        let code = |token: &str| scene.node().enter(|| http::get(console, "/api/v1/status", Some(token)).code);
        until_soon("the new token is taken", || code(&new) == 200);
        assert_eq!(code(&old), 401);
    }
    println!("all relays took the changed token {:.1?} after it was written", begun.elapsed());

    assert_eq!(identities(&scene), before, "no pod and no container was replaced");
    for session in &mut sessions {
        assert!(session.say("NOOP").expect("the session lives").is("250"));
    }
}

/// As an issuer does it.
pub fn write_certificate(scene: &Scene, secret: &str, certificate: &Certificate) {
    let read = |file: std::path::PathBuf| std::fs::read_to_string(file).expect("a certificate has files");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": secret }, "type": "kubernetes.io/tls",
        "stringData": { "tls.crt": read(certificate.file()), "tls.key": read(certificate.key_file()) },
    });
    cluster().apply(scene.name(), &secret.to_string());
}

fn token(scene: &Scene) -> String {
    let words = format!("get secret {NAME}-admin --output go-template={{{{.data.token|base64decode}}}}");
    scene.kubectl(&words).trim().to_owned()
}

/// Pod and container of each relay.
fn identities(scene: &Scene) -> Vec<(Value, Value, Value)> {
    let of = |ordinal| {
        let pod = scene.get(&format!("pod/{NAME}-relay-{ordinal}"));
        let container = &pod["status"]["containerStatuses"][0];
        (pod["metadata"]["uid"].clone(), container["containerID"].clone(), container["restartCount"].clone())
    };
    (0..RELAYS).map(of).collect()
}

/// Where this relay itself takes mail.
pub fn address(scene: &Scene, ordinal: usize) -> SocketAddr {
    let pod = scene.get(&format!("pod/{NAME}-relay-{ordinal}"));
    (ip_of(&pod), 2525).into()
}

fn hello(scene: &Scene, relay: SocketAddr) -> Client {
    scene.node().enter(|| Client::hello(relay)).expect("it takes sessions")
}

/// The reply to a message, or to the first thing that was no yes.
fn send(scene: &Scene, relay: SocketAddr, recipient: &str) -> String {
    let mut client = hello(scene, relay);
    let reply = client.send(&Envelope::new("ann@client.example", &[recipient]), LETTER);
    reply.map_or_else(|refusal| refusal.to_string(), |reply| reply.to_string())
}

/// Whether it shows this certificate to a sender.
pub fn presents(scene: &Scene, relay: SocketAddr, certificate: &Certificate) -> bool {
    let mut client = hello(scene, relay);
    assert!(client.say("STARTTLS").expect("the session lives").is("220"));
    client.start_tls(support::HOSTNAME, certificate.trust()).is_ok()
}

/// The kubelet may take its sync period, a minute or two, for what the operator does not hurry.
#[track_caller]
fn until_soon(what: &str, mut holds: impl FnMut() -> bool) {
    const BETWEEN: Duration = Duration::from_millis(500);
    let found = within(LIMIT, || {
        let holds = holds();
        std::thread::sleep(BETWEEN);
        holds.then_some(())
    });
    assert!(found.is_some(), "waited {LIMIT:?} in vain: {what}");
}
