//! The relay knows which host takes mail, whether it is to go there, and how well the way is encrypted; and it says so.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use backupmx_relay_api::status::{PrimaryState, Status};
use jiff::{SignedDuration, Timestamp};
use support::{
    Client, Envelope, Primary, Relay,
    certificate::{Authority, Certificate},
    port::Port,
    primary::{Act, Rule, Stage},
};

const LIMIT: Duration = Duration::from_secs(30);
/// Probes often enough that a test need not wait for them.
const ATTENTIVE: &str = "primary:
  probe: {interval: 300ms, intervalWhileQueued: 300ms, intervalWhileRefusingMax: 300ms, failureThreshold: 2}
";

#[test]
fn mail_goes_to_the_first_host_that_answers_and_back_to_the_first_of_all_once_that_does() {
    let (mut first, second) = (Primary::start(), Primary::start());
    let relay =
        Relay::before(first.address()).flags(&["--primary", &second.address().to_string()]).config(ATTENTIVE).start();
    send(&relay, "one");
    first.wait_for(1, LIMIT);
    first.go_away();
    send(&relay, "two");
    second.wait_for(1, LIMIT);
    let host = relay.status().primary.host;
    assert_eq!(host, Some(second.address().to_string()));
    first.return_now();
    // Mail that goes well to the second is no reason not to look for the first.
    relay.until(LIMIT, "the first is in use again", |status| {
        send(&relay, "more");
        status.primary.host == Some(first.address().to_string())
    });
    let before = first.count();
    send(&relay, "three");
    first.wait_for(before + 1, LIMIT);
    relay.until(LIMIT, "nothing waits", |status| status.queue.messages == 0);
    assert_eq!((first.violations(), second.violations()), (Vec::new(), Vec::new()));
}

#[test]
fn during_its_maintenance_the_primary_is_left_alone_and_nobody_is_alarmed() {
    let primary = Primary::start();
    let until = Timestamp::now() + SignedDuration::from_secs(4);
    let config = format!("{ATTENTIVE}  maintenance: {{until: '{until}'}}\n");
    let relay = Relay::before(primary.address()).config(&config).start();
    send(&relay, "bob");
    let status = relay.until(LIMIT, "it was looked at", |status| status.primary.last_probe.is_some());
    assert_eq!(status.primary.state, PrimaryState::Maintenance);
    assert!(status.primary.reason.contains(&until.to_string()), "{}", status.primary.reason);
    assert_eq!(status.problems, [""; 0]);
    primary.wait_for(1, LIMIT);
    assert!(Timestamp::now() >= until, "mail went during the maintenance");
    assert_eq!(relay.status().primary.state, PrimaryState::Up);
    assert!(relay.log().lines().iter().all(|line| line["level"] == "INFO"), "{}", relay.log().whole());
}

#[test]
fn a_next_hop_that_is_the_relay_itself_gets_nothing_and_is_named() {
    let port = Port::reserve();
    let own = port.address().to_string();
    let relay = Relay::before(port.address()).address("--listen", &own).config(ATTENTIVE).start();
    send(&relay, "bob");
    let status = relay.until(LIMIT, "the mistake is told", |status| !status.problems.is_empty());
    assert!(status.problems[0].contains(&own) && status.problems[0].contains("primary.hosts"), "{:?}", status.problems);
    relay.until(LIMIT, "it counts as down", |status| status.primary.state == PrimaryState::Down);
    assert_eq!((relay.account().queued, relay.account().accepted), (1, 1));
}

#[test]
fn a_name_without_an_address_is_told_and_mail_waits() {
    let nowhere = ["--primary", "mx1.nowhere.invalid:25"];
    let relay = Relay::bare()
        .flags(&["--domain", "example.org", "--hostname", "mx2.example.org"])
        .flags(&nowhere)
        .config(ATTENTIVE)
        .start();
    send(&relay, "bob");
    let status = relay.until(LIMIT, "it counts as down", |status| status.primary.state == PrimaryState::Down);
    assert!(status.primary.reason.contains("mx1.nowhere.invalid:25"), "{}", status.primary.reason);
    assert_eq!(relay.account().queued, 1);
}

#[test]
fn a_primary_that_turns_its_backup_away_for_now_is_sick_and_one_that_is_slow_gets_its_mail() {
    let primary = Primary::start();
    primary.misbehave(Rule::answer(Stage::Greeting, "421 4.3.2 try later"));
    let relay = Relay::before(primary.address()).config(ATTENTIVE).start();
    let sick = relay.until(LIMIT, "it is sick", |status| status.primary.state == PrimaryState::Sick);
    assert!(sick.primary.reason.contains("421 4.3.2 try later"), "{}", sick.primary.reason);
    primary.behave();
    relay.until(LIMIT, "it is up", |status| status.primary.state == PrimaryState::Up);

    primary.misbehave(Rule::act(Stage::Greeting, Act::Slow(Duration::from_millis(400))));
    let config = ATTENTIVE.replace("failureThreshold: 2", "failureThreshold: 2, slowAfter: 200ms");
    let relay = Relay::before(primary.address()).config(&config).start();
    let slow = relay.until(LIMIT, "it is sick", |status| status.primary.state == PrimaryState::Sick);
    assert!(slow.primary.reason.contains("but after 0."), "{}", slow.primary.reason);
    send(&relay, "bob");
    primary.wait_for(1, LIMIT);
}

#[test]
fn a_probe_may_go_as_far_as_a_recipient() {
    let primary = Primary::start();
    primary.misbehave(Rule::answer(Stage::Rcpt, "450 4.2.1 not now").about("canary@example.org"));
    let config = ATTENTIVE
        .replace("failureThreshold: 2", "failureThreshold: 2, depth: Recipient, recipient: canary@example.org");
    let relay = Relay::before(primary.address()).config(&config).start();
    let sick = relay.until(LIMIT, "it is sick", |status| status.primary.state == PrimaryState::Sick);
    assert!(sick.primary.reason.contains("450 4.2.1 not now"), "{}", sick.primary.reason);
    send(&relay, "bob");
    primary.behave();
    primary.wait_for(1, LIMIT);
    assert_eq!(primary.violations(), [""; 0]);
}

#[test]
fn a_primary_that_sends_mail_back_gets_no_more_until_a_person_says_so() {
    let mut primary = Primary::start();
    let relay = Relay::before(primary.address()).config(ATTENTIVE).start();
    send(&relay, "bob");
    let came = primary.wait_for(1, LIMIT)[0].content.clone();
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let reply = client.send(&Envelope::to("bob"), &came).expect("the relay answers");
    assert!(reply.is("451 4.4.6"), "{reply}");
    let held = relay.until(LIMIT, "the drain is held", |status| status.primary.state == PrimaryState::Held);
    assert_eq!(held.drain.hold.map(|hold| hold.by).as_deref(), Some("backupmx"));
    assert!(held.problems.iter().any(|problem| problem.starts_with("PrimaryLoopsBack")), "{:?}", held.problems);
    primary.forget();
    send(&relay, "bob");
    primary.go_away(); // what may have been under way is over, and nothing came
    assert_eq!((primary.count(), relay.status().queue.messages), (0, 1));
}

/// What is asked for, what the primary shows, and how mail goes: in TLS, in clear, or not at all.
#[test]
fn mail_goes_as_well_encrypted_as_it_is_asked_for_or_not_at_all() {
    const GOOD: &str = "127.0.0.1";
    let authority = Authority::new();
    let soon = SystemTime::now() + Duration::from_secs(3600);
    let past = SystemTime::now() - Duration::from_secs(3600);
    let (good, wrong, old) = (
        authority.issue_until(&[GOOD], soon),
        authority.issue_until(&["mx9.example.org"], soon),
        authority.issue_until(&[GOOD], past),
    );
    let own = Certificate::until(&[GOOD], soon);
    let verify = format!("{{mode: Verify, caFile: {}}}", authority.file().display());
    let named = format!("{{mode: Verify, caFile: {}, serverName: mx9.example.org}}", authority.file().display());
    let (encrypt, opportunistic, none) =
        ("{mode: Encrypt}".to_owned(), "{mode: Opportunistic}".to_owned(), "{mode: None}".to_owned());
    for (tls, shows, way) in [
        (&none, Some(&good), Some("in clear")),
        (&opportunistic, None, Some("in clear")),
        (&opportunistic, Some(&own), Some("in TLS")),
        (&opportunistic, Some(&old), Some("in TLS")),
        (&encrypt, Some(&old), Some("in TLS")),
        (&encrypt, Some(&own), Some("in TLS")),
        (&encrypt, None, None),
        (&verify, Some(&good), Some("in TLS")),
        (&verify, Some(&own), None),
        (&verify, Some(&old), None),
        (&verify, Some(&wrong), None),
        (&verify, None, None),
        (&named, Some(&wrong), Some("in TLS")),
    ] {
        let primary = Primary::start();
        if let Some(certificate) = shows {
            primary.offer_tls(certificate);
        }
        let relay = Relay::before(primary.address()).config(&format!("{ATTENTIVE}  tls: {tls}\n")).start();
        send(&relay, "bob");
        let shown = shows.map(Certificate::file);
        match way {
            Some(way) => {
                let is_encrypted = primary.wait_for(1, LIMIT)[0].encrypted;
                assert_eq!(if is_encrypted { "in TLS" } else { "in clear" }, way, "{tls} before {shown:?}");
            }
            None => {
                let sick = relay.until(LIMIT, "it is sick", |status| status.primary.state == PrimaryState::Sick);
                assert!(sick.primary.reason.contains("TLS"), "{tls} before {shown:?}: {}", sick.primary.reason);
                assert_eq!((primary.count(), relay.account().queued), (0, 1), "{tls} before {shown:?}");
                // Mended, it gets its mail without a person.
                primary.offer_tls(&good);
                if tls == &verify || tls == &encrypt {
                    assert!(primary.wait_for(1, LIMIT)[0].encrypted, "{tls}");
                }
            }
        }
        assert_eq!(primary.violations(), [""; 0], "{tls} before {shown:?}");
    }
}

#[test]
fn a_primary_that_stops_to_offer_starttls_gets_its_mail_in_clear_and_somebody_hears_of_it() {
    let authority = Authority::new();
    let primary = Primary::start();
    primary.offer_tls(&authority.issue(&["127.0.0.1"]));
    let mut relay = Relay::before(primary.address()).config(ATTENTIVE).start();
    send(&relay, "bob");
    assert!(primary.wait_for(1, LIMIT)[0].encrypted);
    assert_eq!(relay.status().problems, [""; 0]);
    primary.offer_no_tls();
    relay.terminate();
    relay.start_again(); // it is remembered
    send(&relay, "carol");
    assert!(!primary.wait_for(2, LIMIT)[1].encrypted);
    let is_told = |status: &Status| status.problems.iter().any(|problem| problem.contains("in clear"));
    relay.until(LIMIT, "it is a problem", is_told);
    primary.offer_tls(&authority.issue(&["127.0.0.1"]));
    relay.until(LIMIT, "it is no problem any more", |status| !is_told(status));
}

#[test]
fn a_ca_file_that_cannot_be_read_is_named_at_the_start_with_its_cure() {
    let missing = PathBuf::from("/nonexistent/ca.pem");
    assert!(!fs::exists(&missing).unwrap_or(false));
    let tls = format!("primary:\n  tls: {{mode: Verify, caFile: {}}}\n", missing.display());
    let ended = Relay::before(Primary::away().address()).config(&tls).fail();
    ended.expect_failure(2, &["primary.tls.caFile", "/nonexistent/ca.pem"]);
}

fn send(relay: &Relay, to: &str) {
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let reply = client.send(&Envelope::to(to), b"Subject: x\r\n\r\nbody\r\n").expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
}
