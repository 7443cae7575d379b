//! STARTTLS with the certificate that the files hold now, for whoever asks, and never demanded of anybody.

use std::{
    fs,
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

use backupmx_relay_api::metric;
use rustls::ClientConfig;
use support::{
    Client, DOMAIN, Envelope, HOSTNAME, Primary, Relay,
    certificate::{Certificate, trust_any},
    program, trace_field,
    wait::eventually,
};

const LIMIT: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn a_new_certificate_is_used_without_a_restart_and_no_session_ends() {
    let primary = Primary::start();
    let mut certificate = Certificate::of(&[HOSTNAME]);
    let relay = with(&primary, &[&certificate]);
    let old = certificate.der().clone();
    let mut before = encrypted(&relay, HOSTNAME, certificate.trust());
    assert_eq!(before.certificate(), Some(old));
    let mut plain = Client::hello(relay.smtp()).expect("the relay takes connections");

    let expiry = SystemTime::now() + 300 * DAY;
    certificate.renew(&[HOSTNAME, "other.example.org"], expiry);
    eventually(LIMIT, "the new certificate", || {
        encrypted(&relay, HOSTNAME, trust_any()).certificate().as_ref() == Some(certificate.der())
    });
    // Who was there before goes on, in TLS and in clear, and may begin TLS with the new one.
    for client in [&mut before, &mut plain] {
        let reply = client.send(&Envelope::to("bob"), b"Subject: x\r\n\r\nbody\r\n").expect("the session lives");
        assert!(reply.is("250 2.0.0"), "{reply}");
    }
    assert!(plain.say("STARTTLS").expect("the session lives").is("220"));
    plain.start_tls("other.example.org", certificate.trust()).expect("the new certificate has that name");
    let name = format!("{}{{name=\"{HOSTNAME}\"}}", metric::CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS);
    let since_1970 = expiry.duration_since(SystemTime::UNIX_EPOCH).expect("it is later").as_secs() as f64;
    assert!((relay.metric(&name) - since_1970).abs() <= 1.0, "{}", relay.metric(&name));

    let mails = primary.wait_for(2, LIMIT);
    let fields: Vec<_> =
        mails.iter().map(|mail| String::from_utf8_lossy(trace_field::split(&mail.content).0)).collect();
    let over_tls = fields.iter().find(|field| field.contains("with ESMTPS id")).unwrap_or_else(|| panic!("{fields:?}"));
    assert!(over_tls.contains("\r\n\ttls TLS_AES_256_GCM_SHA384;"), "{over_tls}");
    assert_eq!(fields.iter().filter(|field| field.contains("with ESMTP id")).count(), 1);
}

#[test]
fn a_certificate_that_cannot_be_used_is_told_and_the_old_one_stays() {
    let primary = Primary::away();
    let certificate = Certificate::of(&[HOSTNAME]);
    let relay = with(&primary, &[&certificate]);
    let key = std::fs::read(certificate.key_file()).expect("it was written");
    std::fs::write(certificate.key_file(), "no key").expect("it is ours");
    let status = relay.until(LIMIT, "the problem is told", |status| !status.problems.is_empty());
    assert!(status.problems[0].contains("old one still is"), "{:?}", status.problems);
    encrypted(&relay, HOSTNAME, certificate.trust());
    std::fs::write(certificate.key_file(), key).expect("it is ours");
    relay.until(LIMIT, "the problem is gone", |status| status.problems.is_empty());
}

#[test]
fn without_its_certificate_a_relay_takes_mail_and_begins_tls_once_there_is_one() {
    let primary = Primary::away();
    let certificate = Certificate::of(&[HOSTNAME]);
    let text = std::fs::read(certificate.file()).expect("it was written");
    std::fs::remove_file(certificate.file()).expect("it is ours");
    let flags = certificate.flags();
    let flags = flags.each_ref().map(String::as_str);
    let address = primary.address().to_string();
    let checked = Relay::run(
        &[&["check-config", "--domain", DOMAIN, "--primary", &address, "--hostname", HOSTNAME], &flags[..]].concat(),
    );
    assert_eq!(checked.code, Some(2), "{checked}");
    assert!(checked.stderr.contains("certificate: read "), "{checked}");

    let relay = with(&primary, &[&certificate]);
    assert!(relay.status().problems[0].contains("STARTTLS is missing"), "{:?}", relay.status().problems);
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    assert!(client.say("STARTTLS").expect("it answers").is("454 4.7.0"));
    let reply = client.send(&Envelope::to("bob"), b"x\r\n").expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
    std::fs::write(certificate.file(), text).expect("it is ours");
    relay.until(LIMIT, "the certificate is in use", |status| status.tls.len() == 1 && status.problems.is_empty());
    encrypted(&relay, HOSTNAME, certificate.trust());
}

#[test]
fn each_name_gets_its_own_certificate() {
    let primary = Primary::away();
    let certificates = [Certificate::of(&[HOSTNAME]), Certificate::of(&["mail.example.net", "*.example.com"])];
    let relay = with(&primary, &certificates.each_ref());
    for (name, place) in
        [(HOSTNAME, 0), ("mail.example.net", 1), ("a.example.com", 1), ("unknown.example", 0), ("127.0.0.1", 0)]
    {
        let shown = encrypted(&relay, name, trust_any()).certificate();
        assert_eq!(shown.as_ref(), Some(certificates[place].der()), "{name}");
    }
}

#[test]
fn a_certificate_near_its_end_is_a_problem() {
    let primary = Primary::away();
    let certificate = Certificate::until(&[HOSTNAME], SystemTime::now() + 6 * DAY);
    let relay = with(&primary, &[&certificate]);
    let problems = relay.status().problems;
    assert!(problems.len() == 1 && problems[0].contains("renew it"), "{problems:?}");
}

#[test]
fn what_was_injected_behind_starttls_is_never_obeyed() {
    let primary = Primary::away();
    let certificate = Certificate::of(&[HOSTNAME]);
    let relay = with(&primary, &[&certificate]);
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    client.raw(b"STARTTLS\r\nMAIL FROM:<mallory@client.example>\r\n").expect("it reads");
    assert!(client.reply().expect("it answers").is("220 2.0.0"));
    client.start_tls(HOSTNAME, certificate.trust()).expect("the handshake goes through");
    assert!(client.say("RCPT TO:<bob@example.org>").expect("it answers").is("503"));
    assert!(client.say("EHLO client.example").expect("it answers").is("250"));
    assert!(client.say("RCPT TO:<bob@example.org>").expect("it answers").is("503 5.5.1"));
    assert!(relay.log().whole().contains("were thrown away"));
    let injected = format!("{}{{reason=\"injected\"}}", metric::MESSAGES_REFUSED_TOTAL);
    assert_eq!(relay.metric(&injected), 1.0);
}

#[test]
fn what_postfix_sends_with_begins_tls_1_2_and_1_3_and_no_older_one() {
    let primary = Primary::away();
    let certificate = Certificate::of(&[HOSTNAME]);
    let relay = with(&primary, &[&certificate]);
    let destination = format!("[127.0.0.1]:{}", relay.smtp().port());
    // It wants a configuration, and the machine need not have one.
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    fs::write(folder.path().join("main.cf"), "compatibility_level = 3.6\n").expect("our folder is ours");
    for (versions, expected) in
        [("!SSLv3,!TLSv1,!TLSv1.1,!TLSv1.3", "TLSv1.2 with cipher"), ("!SSLv3", "TLSv1.3 with cipher")]
    {
        let mut command = Command::new("/usr/sbin/posttls-finger");
        command.env("MAIL_CONFIG", folder.path());
        let told = program::run(command.args(["-c", "-lencrypt", "-p", versions, &destination]), LIMIT);
        let words = format!("{told}");
        assert!(words.contains("TLS connection established") && words.contains(expected), "{versions}: {words}");
    }
    let mut old = Command::new("/usr/bin/openssl");
    let connect = format!("127.0.0.1:{}", relay.smtp().port());
    old.args(["s_client", "-starttls", "smtp", "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0", "-connect", &connect]);
    let told = program::run(&mut old, LIMIT);
    assert!(told.code != Some(0) && told.stdout.contains("Cipher is (NONE)"), "{told}");
}

#[test]
fn a_handshake_that_fails_is_counted() {
    let primary = Primary::away();
    let certificate = Certificate::of(&[HOSTNAME]);
    let relay = with(&primary, &[&certificate]);
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    assert!(client.say("STARTTLS").expect("it answers").is("220"));
    client.raw(b"EHLO client.example\r\n").expect("it reads");
    assert!(client.is_closed_at_last());
    let failed = format!("{}{{reason=\"tls_handshake\"}}", metric::MESSAGES_REFUSED_TOTAL);
    eventually(LIMIT, "it is counted", || relay.metrics().contains(&format!("{failed} 1")));
}

/// A relay with these certificates.
fn with(primary: &Primary, certificates: &[&Certificate]) -> Relay {
    let flags: Vec<_> = certificates.iter().flat_map(|certificate| certificate.flags()).collect();
    Relay::before(primary.address()).flags(&flags.iter().map(String::as_str).collect::<Vec<_>>()).start()
}

/// A client that has begun TLS and said EHLO.
#[track_caller]
fn encrypted(relay: &Relay, name: &str, config: Arc<ClientConfig>) -> Client {
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let reply = client.say("STARTTLS").expect("the relay answers");
    assert!(reply.is("220 2.0.0"), "{reply}");
    client.start_tls(name, config).unwrap_or_else(|error| panic!("TLS for {name}: {error}"));
    assert!(client.say("EHLO client.example").expect("the relay answers").is("250"));
    client
}
