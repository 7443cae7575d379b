//! XCLIENT: a primary that lists us judges the client, and not us.

use std::net::SocketAddr;

use backupmx_relay_api::status::PrimaryState;
use support::{Client, Envelope, Primary, Relay, eventually, postfix::Postfix};

use crate::scene::{CONTENT, LIMIT, passed, tells};

/// Whom the relay takes for the client, since a proxy says so.
const CLIENT: &str = "[203.0.113.9]";

/// The relay's config for a primary that is to be told.
fn config(primary: SocketAddr) -> String {
    let port = primary.port();
    let hosts = format!("[{{host: 127.0.0.1, port: {port}, xclient: true}}]");
    format!("primary: {{hosts: {hosts}}}\nproxyProtocol: {{trusted: [127.0.0.1]}}\n")
}

fn relay(postfix: &Postfix) -> Relay {
    let flags = ["--domain", support::DOMAIN, "--hostname", support::HOSTNAME];
    let setup = Relay::bare().flags(&flags).flags(&["--listen-proxy", "127.0.0.1:0"]);
    let relay = setup.config(&config(postfix.address())).start();
    relay.until(LIMIT, "it is up", |status| status.primary.state == PrimaryState::Up);
    relay
}

fn send(relay: &Relay, helo: &str, to: &str) -> String {
    let mut client = Client::connect(relay.smtp_proxy()).expect("it takes sessions");
    client.raw(b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 25\r\n").expect("it is heard");
    client.reply().expect("it greets");
    client.say(&format!("EHLO {helo}")).expect("the session lives");
    client.send(&Envelope::to(to), CONTENT).expect("the session lives").to_string()
}

#[test]
fn postfix_sees_the_client_and_judges_it() {
    // Our own address is trusted for nothing but this; the client comes from another one.
    let postfix = Postfix::prepare_with(&[
        "smtpd_authorized_xclient_hosts = 127.0.0.1",
        "smtpd_helo_restrictions = check_helo_access inline:{ {evil.example = REJECT we know you} }",
        "smtpd_delay_reject = yes",
    ]);
    postfix.start();
    let relay = relay(&postfix);
    let reply = send(&relay, "client.example", "bob");
    assert!(reply.starts_with("250 2.0.0 Passed on"), "{reply}");
    eventually(LIMIT, "it is delivered", || postfix.delivered().len() == 1);
    let mailbox = postfix.mailbox();
    let trace = &mailbox[0].trace;
    assert!(trace.contains("from client.example") && trace.contains(CLIENT), "{trace}");
    // 5.7.1 judges the client now, so it is the client's to hear; another client over the same connection is not judged by it.
    let reply = send(&relay, "evil.example", "bob");
    assert!(reply.starts_with("554 5.7.1") && reply.contains("we know you"), "{reply}");
    let reply = send(&relay, "client.example", "bob");
    assert!(reply.starts_with("250 2.0.0 Passed on"), "{reply}");
    let status = relay.status();
    assert_eq!((status.account, status.primary.judges, status.problems), (passed(2), None, vec![]));
}

#[test]
fn postfix_that_does_not_list_us_gets_its_mail_all_the_same_and_somebody_hears_of_it() {
    let postfix = Postfix::prepare();
    postfix.start();
    let relay = relay(&postfix);
    let reply = send(&relay, "client.example", "bob");
    assert!(reply.starts_with("250 2.0.0 Passed on"), "{reply}");
    let status = relay.status();
    assert!(tells(&status, "does not take XCLIENT"), "{:?}", status.problems);
}

#[test]
fn a_primary_that_offers_xclient_and_refuses_it_gets_its_mail_all_the_same() {
    let primary = Primary::start();
    primary.offer(&["PIPELINING", "8BITMIME", "XCLIENT NAME ADDR HELO"]);
    let flags = ["--domain", support::DOMAIN, "--hostname", support::HOSTNAME, "--listen-proxy", "127.0.0.1:0"];
    let relay = Relay::bare().flags(&flags).config(&config(primary.address())).start();
    relay.until(LIMIT, "it is up", |status| status.primary.state == PrimaryState::Up);
    for _ in 0..2 {
        let reply = send(&relay, "client.example", "bob");
        assert!(reply.starts_with("250 2.0.0 Passed on"), "{reply}");
    }
    let status = relay.status();
    assert!(tells(&status, "does not take XCLIENT"), "{:?}", status.problems);
    assert_eq!((status.account, primary.count()), (passed(2), 2));
}
