//! A new config document, token or certificate is obeyed within seconds, without a restart, and no session and no delivery
//! is dropped for it. What cannot be used changes nothing and is told.

use std::{
    cell::Cell,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use backupmx_relay_api::{
    admin, metric, path,
    status::{Config, PrimaryState, RefusedConfig, Status},
};
use support::{
    Client, Envelope, HOSTNAME, Primary, Relay,
    certificate::{Authority, Certificate},
    client::stuffed,
    eventually,
    primary::{Act, Rule, Stage},
    relay::http,
};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_128;

const LIMIT: Duration = Duration::from_secs(30);
/// What the relays of these tests are called.
const NAME: &str = "example-org-relay-0";
const CONTENT: &[u8] = b"Subject: x\r\n\r\nbody\r\n";
const CORDONED: &str = "421 4.3.2 This server takes no mail for now";

#[test]
fn new_domains_hold_for_new_sessions_and_open_ones_go_on_as_they_began() {
    let (primary, mount) = (Primary::away(), Mount::new());
    let relay = mount.start(&document(&primary, "domains: [example.org]"));
    let mut before = Client::hello(relay.smtp()).expect("the relay takes connections");
    mount.publish(&relay, &document(&primary, "generation: 7\ndomains: [example.net]"));
    let [org, net] = ["bob@example.org", "bob@example.net"].map(|to| Envelope::new("ann@client.example", &[to]));
    let mut after = Client::hello(relay.smtp()).expect("the relay takes connections");
    for (client, taken, refused) in [(&mut before, &org, &net), (&mut after, &net, &org)] {
        for (envelope, expected) in [(taken, "250"), (refused, "550")] {
            let reply = client.send(envelope, CONTENT).expect("the session lives");
            assert!(reply.is(expected), "{envelope:?}: {reply}");
        }
    }
    let status = relay.status();
    assert_eq!((status.config_generation, status.sessions), (7, 2));
    assert_eq!(relay.metric(metric::CONFIG_GENERATION), 7.0);
}

#[test]
fn mail_that_waits_goes_to_the_new_primary_at_once() {
    let (old, new, mount) = (Primary::away(), Primary::start(), Mount::new());
    let relay = mount.start(&document(&old, "domains: [example.org]"));
    send(&relay, "bob");
    relay.until(LIMIT, "the old one is away", |status| status.primary.state == PrimaryState::Down);
    mount.publish(&relay, &document(&new, "domains: [example.org]"));
    new.wait_for(1, LIMIT);
    let status = relay.until(LIMIT, "nothing waits", |status| status.queue.messages == 0);
    assert_eq!(status.primary.host, Some(new.address().to_string()));
    assert_eq!((new.violations(), relay.account().delivered), (Vec::new(), 1));
}

#[test]
fn a_delivery_that_is_under_way_ends_where_it_began_and_nothing_comes_twice() {
    let (old, new, mount) = (Primary::start(), Primary::start(), Mount::new());
    old.misbehave(Rule::act(Stage::Content, Act::Slow(Duration::from_secs(4))));
    let relay = mount.start(&document(&old, "domains: [example.org]"));
    send(&relay, "bob");
    eventually(LIMIT, "the old one has a part of it", || old.misbehaved_at(Stage::Content) > 0);
    mount.publish(&relay, &document(&new, "domains: [example.org]"));
    relay.until(LIMIT, "the new one answers", |status| status.primary.host == Some(new.address().to_string()));
    assert_eq!(old.count(), 0, "it is still under way");
    send(&relay, "carol");
    new.wait_for(1, LIMIT);
    old.wait_for(1, LIMIT);
    relay.until(LIMIT, "nothing waits", |status| status.queue.messages == 0);
    assert_eq!((old.count(), new.count(), relay.account().delivered), (1, 1, 2));
    assert_eq!((old.violations(), new.violations()), (Vec::new(), Vec::new()));
}

#[test]
fn mail_passes_through_from_the_document_on_that_says_so_and_is_kept_again_by_the_next() {
    let (primary, mount) = (Primary::start(), Mount::new());
    let queue = document(&primary, "domains: [example.org]");
    let relay = mount.start(&queue);
    relay.until(LIMIT, "the primary is up", |status| status.primary.host.is_some());
    let mut heard = Vec::new();
    for text in [&queue, &queue.replace(": Queue\n", ": PassThrough\n"), &queue] {
        mount.publish(&relay, text);
        let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
        let reply = client.send(&Envelope::to("bob"), CONTENT).expect("the relay answers").to_string();
        heard.push(reply.split(" as ").next().unwrap_or_default().to_owned());
    }
    assert_eq!(heard, ["250 2.0.0 Kept", "250 2.0.0 Passed on", "250 2.0.0 Kept"]);
}

#[test]
fn a_hold_in_the_document_stops_the_drain_and_its_end_lets_it_go_on() {
    let (primary, mount) = (Primary::start(), Mount::new());
    let with = |hold: bool| {
        document(&primary, "domains: [example.org]")
            .replace("primary:", &format!("primary:\n  delivery: {{hold: {hold}}}"))
    };
    let relay = mount.start(&with(false));
    send(&relay, "bob");
    primary.wait_for(1, LIMIT);
    mount.publish(&relay, &with(true));
    assert_eq!(relay.status().drain.hold.map(|hold| hold.by).as_deref(), Some("configuration"));
    send(&relay, "carol");
    assert_eq!(primary.count(), 1);
    mount.publish(&relay, &with(false));
    primary.wait_for(2, LIMIT);
}

#[test]
fn a_document_that_cannot_be_used_changes_nothing_and_is_told_until_it_is_mended() {
    let (primary, mount) = (Primary::away(), Mount::new());
    let good = document(&primary, "generation: 3\ndomains: [example.org]");
    let relay = mount.start(&good);
    let rejected = || relay.metric(metric::CONFIG_REJECTED_TOTAL);
    let bad = document(&primary, "generation: 4\ndomains: [example.net]\nlimits: {connections: 0}");
    for (count, text, reason) in [
        (1.0, bad.as_str(), "limits.connections: is 0"),
        (2.0, "generation: 4\ndomians: [example.net]\n", "domians"),
        (3.0, "just text", "line 1"),
        (4.0, "", "domains: is empty"),
    ] {
        mount.swap(text);
        let status = relay.until(LIMIT, "it is refused", |status| refused(status).digest == Some(digest(text)));
        assert!(refused(&status).reason.contains(reason), "{:?}", status.config);
        assert_eq!((status.config.digest, status.config_generation), (Some(digest(&good)), 3));
        assert!(status.problems.len() == 1 && status.problems[0].contains(reason), "{:?}", status.problems);
        assert_eq!(rejected(), count);
        send(&relay, "bob");
    }
    fs::remove_file(mount.file()).expect("our folder is ours");
    let status = relay.until(LIMIT, "the file is missed", |status| {
        status.config.refused.as_ref().is_some_and(|refused| refused.digest.is_none())
    });
    assert!(refused(&status).reason.contains(&mount.file().display().to_string()), "{:?}", status.config);
    mount.link();
    mount.publish(&relay, &good);
    assert_eq!((relay.status().problems, rejected()), (Vec::new(), 5.0));
    let told: Vec<_> = relay.log().lines();
    let warned =
        told.iter().filter(|line| line["level"] == "WARN" && line["message"].to_string().contains("config document"));
    assert_eq!(warned.count(), 5, "{}", relay.log().whole());
}

#[test]
fn new_limits_hold_for_who_comes_then() {
    let (primary, mount) = (Primary::away(), Mount::new());
    let with = |limits: &str| document(&primary, &format!("domains: [example.org]\nlimits: {{{limits}}}"));
    let relay = mount.start(&with("connectionsPerClient: 1, messageSize: 1Mi"));
    let mut first = Client::hello(relay.smtp()).expect("the relay takes connections");
    assert!(Client::hello(relay.smtp()).is_err(), "a second one of this client");
    mount.publish(&relay, &with("connectionsPerClient: 2, connections: 2, messageSize: 2Mi"));
    let mut second = Client::hello(relay.smtp()).expect("a second one may come now");
    for (client, size) in [(&mut first, "SIZE 1048576"), (&mut second, "SIZE 2097152")] {
        let offered = client.say("EHLO client.example").expect("the session lives").lines;
        assert!(offered.iter().any(|line| line == size), "{offered:?}");
    }
    mount.publish(&relay, &with("connectionsPerClient: 1, connections: 1"));
    for client in [&mut first, &mut second] {
        assert!(client.send(&Envelope::to("bob"), CONTENT).expect("the session lives").is("250"));
    }
}

#[test]
fn a_cordoned_relay_takes_the_message_that_is_coming_in_and_nothing_more_while_delivery_goes_on() {
    let (mut primary, mount) = (Primary::away(), Mount::new());
    let with = |names: &str| document(&primary, &format!("domains: [example.org]\ncordoned: [{names}]"));
    let (open, cordoned) = (with(""), with(NAME));
    let mut relay = mount.start(&open);
    let mut idle = Client::hello(relay.smtp()).expect("the relay takes connections");
    let mut sending = Client::hello(relay.smtp()).expect("the relay takes connections");
    sending.begin(&Envelope::to("bob"), CONTENT).expect("the relay answers").expect("it takes content");
    mount.publish(&relay, &with("example-org-relay-1"));
    assert!(relay.is_ready() && !relay.status().cordoned, "another one is meant");

    mount.publish(&relay, &cordoned);
    assert!(idle.reply().expect("it is told").is(CORDONED) && idle.is_closed());
    for _ in 0..2 {
        let mut newcomer = Client::connect(relay.smtp()).expect("the relay takes connections");
        assert!(newcomer.reply().expect("it is told").is(CORDONED) && newcomer.is_closed());
    }
    let status = relay.until(LIMIT, "only who sends is there", |status| status.sessions == 1);
    assert_eq!((status.cordoned, status.problems), (true, Vec::new()));
    let ready = http::get(relay.observe(), path::READYZ, None);
    assert_eq!((ready.code, &*ready.body), (503, "cordoned\n"));
    sending.raw(&stuffed(CONTENT)).expect("the session lives");
    assert!(sending.reply().expect("it is answered").is("250 2.0.0"));
    assert!(sending.reply().expect("it is told").is(CORDONED) && sending.is_closed());
    relay.until(LIMIT, "nobody is there", |status| status.sessions == 0);

    assert_eq!(relay.terminate(), 0);
    relay.start_again();
    assert!(relay.status().cordoned && !relay.is_ready(), "it stands in the file");
    primary.return_now();
    primary.wait_for(1, LIMIT);
    relay.until(LIMIT, "it is empty", |status| status.queue.messages == 0);

    mount.publish(&relay, &open);
    eventually(LIMIT, "it is ready", || relay.is_ready());
    send(&relay, "carol");
    primary.wait_for(2, LIMIT);
}

#[test]
fn a_restart_while_the_document_is_bad_goes_on_with_the_last_good_one() {
    let (primary, mount) = (Primary::away(), Mount::new());
    mount.swap("domains: [");
    mount.link();
    mount.setup().fail().expect_failure(2, &[&mount.file().display().to_string(), "line 1"]);

    let authority = Authority::new();
    let good = document(&primary, "generation: 5\ndomains: [example.org]")
        .replace("primary:", &format!("primary:\n  tls: {{mode: Verify, caFile: {}}}", authority.file().display()));
    mount.swap(&good);
    let mut relay = mount.setup().start();
    let kept = relay.data().join("config-last-good.json");
    eventually(LIMIT, "a copy is kept", || kept.exists());
    assert_eq!(relay.terminate(), 0);
    mount.swap("domains: [example.net");
    fs::remove_file(authority.file()).expect("it is ours");
    relay.start_again();
    let status = relay.status();
    assert_eq!((status.config_generation, status.config.digest.clone()), (5, Some(digest(&good))));
    assert_eq!(refused(&status).digest, Some(digest("domains: [example.net")));
    assert!(status.problems.iter().any(|problem| problem.contains("config document")), "{:?}", status.problems);
    send(&relay, "bob");
    let new = document(&primary, "generation: 6\ndomains: [example.org]");
    mount.publish(&relay, &new);
    assert_eq!((relay.status().config_generation, relay.status().problems), (6, Vec::new()));
}

#[test]
fn authorities_that_come_after_the_document_that_names_them_are_waited_for() {
    let (primary, mount, authority) = (Primary::start(), Mount::new(), Authority::new());
    primary.offer_tls(&authority.issue(&["127.0.0.1"]));
    let plain = document(&primary, "domains: [example.org]");
    let relay = mount.start(&plain);
    let file = mount.folder.path().join("ca.pem");
    let verify = plain.replace("primary:", &format!("primary:\n  tls: {{mode: Verify, caFile: {}}}", file.display()));
    mount.swap(&verify);
    let status = relay.until(LIMIT, "it is refused", |status| status.config.refused.is_some());
    assert!(refused(&status).reason.starts_with("primary.tls.caFile"), "{:?}", status.config);
    fs::copy(authority.file(), &file).expect("our folder is ours");
    relay.until(LIMIT, "it runs", |status| status.config.digest == Some(digest(&verify)));
    send(&relay, "bob");
    assert!(primary.wait_for(1, LIMIT)[0].encrypted);
}

#[test]
fn keys_of_a_newer_program_are_ignored_and_named() {
    let (primary, mount) = (Primary::away(), Mount::new());
    let relay = mount.start(&document(&primary, "domains: [example.org]"));
    mount.publish(
        &relay,
        &document(&primary, "schema: 99\ngeneration: 8\ndomains: [example.org]\nlimits: {mood: good}"),
    );
    let Status { config: Config { ignored_keys, .. }, config_generation, problems, .. } = relay.status();
    assert_eq!((ignored_keys, config_generation, problems), (vec!["limits.mood".to_owned()], 8, Vec::new()));
    assert_eq!(relay.metric(metric::CONFIG_IGNORED_KEYS), 1.0);
    assert!(relay.log().find("keys of a newer program are ignored").is_some_and(|line| line["level"] == "WARN"));
}

#[test]
fn a_document_that_is_written_in_place_is_obeyed_too() {
    let (primary, folder) = (Primary::away(), TempDir::new().expect("a temporary folder can be made"));
    let file = folder.path().join("relay.yaml");
    let write = |text: &str| fs::write(&file, text).expect("our folder is ours");
    write(&document(&primary, "generation: 1\ndomains: [example.org]"));
    let relay = Relay::bare().flags(&["--config", &file.to_string_lossy()]).start();
    write(&document(&primary, "generation: 2\ndomains: [example.org]"));
    relay.until(LIMIT, "it runs", |status| status.config_generation == 2);
}

#[test]
fn a_new_token_holds_and_the_old_one_no_more() {
    const TOKENS: [&str; 2] = ["a-token-of-this-test-1", "a-token-of-this-test-2"];
    let (primary, folder) = (Primary::away(), TempDir::new().expect("a temporary folder can be made"));
    let file = folder.path().join("token");
    let write = |text: &str| fs::write(&file, text).expect("our folder is ours");
    write(TOKENS[0]);
    let relay = Relay::before(primary.address()).flags(&["--admin-token-file", &file.to_string_lossy()]).start();
    let codes = || TOKENS.map(|token| http::get(relay.console(), admin::STATUS, Some(token)).code);
    assert_eq!(codes(), [200, 401]);
    write(TOKENS[1]);
    eventually(LIMIT, "the new one holds", || codes() == [401, 200]);
    write("short");
    let status = relay.until(LIMIT, "it is told", |status| !status.problems.is_empty());
    assert!(status.problems[0].contains("16 characters"), "{:?}", status.problems);
    fs::remove_file(&file).expect("it is ours");
    relay.until(LIMIT, "it is told", |status| status.problems[0].contains("No such file"));
    assert_eq!(codes(), [401, 200]);
    write(TOKENS[0]);
    eventually(LIMIT, "the first one holds again", || codes() == [200, 401]);
    assert_eq!(relay.status().problems, [""; 0]);
}

#[test]
fn a_certificate_may_come_after_the_start_and_stays_when_its_files_vanish() {
    let (primary, mount, certificate) = (Primary::away(), Mount::new(), Certificate::of(&[HOSTNAME]));
    let folder = mount.folder.path().join("tls");
    let [certificate_file, key_file] =
        ["tls.crt", "tls.key"].map(|name| folder.join(name).to_string_lossy().into_owned());
    let relay =
        Relay::before(primary.address()).flags(&["--tls-cert", &certificate_file, "--tls-key", &key_file]).start();
    assert!(relay.is_ready() && relay.status().problems[0].contains(&certificate_file));
    send(&relay, "bob");
    // As the kubelet mounts a Secret: the folder as a whole, by a symbolic link.
    symlink(certificate.folder(), &folder).expect("our folder is ours");
    relay.until(LIMIT, "it is in use", |status| status.tls.len() == 1 && status.problems.is_empty());
    fs::remove_file(&folder).expect("our folder is ours");
    let status = relay.until(LIMIT, "it is told", |status| !status.problems.is_empty());
    assert_eq!(status.tls.len(), 1, "the last one stays in use");
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    assert!(client.say("STARTTLS").expect("the relay answers").is("220"));
    client.start_tls(HOSTNAME, certificate.trust()).expect("it is good");
}

/// A ConfigMap as the kubelet mounts it: `config.yaml` is a link into `..data`, which is a link that is swapped.
struct Mount {
    folder: TempDir,
    swaps: Cell<u32>,
}

impl Mount {
    fn new() -> Self {
        Self { folder: TempDir::new().expect("a temporary folder can be made"), swaps: Cell::new(0) }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    fn link(&self) {
        symlink(Path::new("..data/config.yaml"), self.file()).expect("our folder is ours");
    }

    /// From one moment to the next it holds this.
    fn swap(&self, text: &str) {
        let (folder, number) = (self.folder.path(), self.swaps.get() + 1);
        let (new, link) = (format!("..2026_{number}"), folder.join("..data_tmp"));
        fs::create_dir(folder.join(&new)).expect("our folder is ours");
        fs::write(folder.join(&new).join("config.yaml"), text).expect("our folder is ours");
        symlink(&new, &link).expect("our folder is ours");
        fs::rename(&link, folder.join("..data")).expect("our folder is ours");
        let _ = fs::remove_dir_all(folder.join(format!("..2026_{}", number - 1))); // the first one has none before it
        self.swaps.set(number);
    }

    fn setup(&self) -> support::relay::Setup {
        Relay::bare().flags(&["--config", &self.file().to_string_lossy(), "--name", NAME])
    }

    /// A relay with this document.
    fn start(&self, text: &str) -> Relay {
        self.swap(text);
        self.link();
        self.setup().start()
    }

    /// Swaps, and waits until the relay runs it.
    #[track_caller]
    fn publish(&self, relay: &Relay, text: &str) {
        self.swap(text);
        relay.until(LIMIT, "it runs", |status| {
            status.config.digest == Some(digest(text)) && status.config.refused.is_none()
        });
    }
}

/// A document for this primary, in which a test need not wait for probes, and all mail goes by the queue. `rest`: its other keys.
fn document(primary: &Primary, rest: &str) -> String {
    format!(
        "{rest}\nwhenPrimaryUp: Queue\nhostname: {HOSTNAME}\nprimary:\n  hosts: [{{host: 127.0.0.1, port: {}}}]\n  \
         probe: {{interval: 300ms, intervalWhileQueued: 300ms, failureThreshold: 2}}\n",
        primary.address().port()
    )
}

/// As status tells it.
fn digest(text: &str) -> String {
    format!("{:032x}", xxh3_128(text.as_bytes()))
}

fn refused(status: &Status) -> RefusedConfig {
    status.config.refused.clone().unwrap_or_default()
}

#[track_caller]
fn send(relay: &Relay, to: &str) {
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let reply = client.send(&Envelope::to(to), CONTENT).expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
}
