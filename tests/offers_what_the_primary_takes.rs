//! What must survive the way to the primary is offered only if the primary takes it, and arrives as it was said.

use std::{fs, time::Duration};

use backupmx_relay_api::status::{Account, PrimaryState};
use support::{Client, Primary, Relay, client::Reply};

const LIMIT: Duration = Duration::from_secs(30);
const MODERN: &[&str] = &["PIPELINING", "SIZE 10000000", "8BITMIME", "SMTPUTF8", "DSN"];

#[test]
fn what_the_primary_offers_is_offered_also_while_it_is_away_and_after_a_restart() {
    let mut primary = Primary::away();
    let mut relay = Relay::before(primary.address()).start();
    let never_seen = ["8BITMIME", "CHUNKING", "ENHANCEDSTATUSCODES", "ETRN", "PIPELINING", "SIZE 52428800"];
    assert_eq!(offered(&relay), never_seen);
    primary.offer(MODERN);
    primary.return_now();
    relay.until(LIMIT, "the primary was seen", |status| status.capabilities.seen_at.is_some());
    let seen = ["8BITMIME", "CHUNKING", "DSN", "ENHANCEDSTATUSCODES", "ETRN", "PIPELINING", "SIZE 9995904", "SMTPUTF8"];
    assert_eq!(offered(&relay), seen);
    primary.go_away();
    assert_eq!(relay.terminate(), 0);
    relay.start_again();
    assert_eq!(offered(&relay), seen);
    let capabilities = relay.status().capabilities;
    assert!(capabilities.smtputf8 && capabilities.dsn && capabilities.size == 9_995_904, "{capabilities:?}");

    primary.offer(&["SIZE 1000000"]);
    primary.return_now();
    relay.until(LIMIT, "it was seen again", |status| !status.capabilities.dsn);
    assert_eq!(offered(&relay), ["CHUNKING", "ENHANCEDSTATUSCODES", "ETRN", "PIPELINING", "SIZE 995904"]);
}

#[test]
fn a_file_of_offers_that_cannot_be_read_is_asked_for_again() {
    let primary = Primary::away();
    let mut relay = Relay::before(primary.address()).start();
    relay.terminate();
    fs::write(relay.data().join("primary-offers.json"), "{\"mx1").expect("our folder is ours");
    relay.start_again();
    assert!(relay.log().whole().contains("what the primary offers cannot be read"));
    assert!(relay.is_ready());
}

#[test]
fn parameters_and_addresses_arrive_as_they_were_said() {
    let (mut primary, relay) = modern_and_away();
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    send(
        &mut client,
        "<jürgen@bücher.example> SMTPUTF8 BODY=8BITMIME RET=HDRS ENVID=QQ+2B1",
        &[
            "<\"müller k\"@example.org> NOTIFY=DELAY,SUCCESS ORCPT=utf-8;müller@example.org",
            "<bob@example.org> NOTIFY=never",
            "<@a.example:carol@example.org> ORCPT=rfc822;Carol+2Bx@Example.ORG",
        ],
    );
    send(&mut client, "<ann@client.example> RET=full", &["<postmaster>"]);
    primary.return_now();
    let mails = primary.wait_for(2, LIMIT);
    let first = mails.iter().find(|mail| mail.recipients.len() == 3).expect("the first one");
    assert_eq!(first.sender, "jürgen@bücher.example");
    let size = first.content.len();
    assert_eq!(first.parameters, format!("SIZE={size} BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+2B1"));
    assert_eq!(first.recipients, ["\"müller k\"@example.org", "bob@example.org", "carol@example.org"]);
    let expected =
        ["NOTIFY=SUCCESS,DELAY ORCPT=utf-8;müller@example.org", "NOTIFY=NEVER", "ORCPT=rfc822;Carol+2Bx@Example.ORG"];
    assert_eq!(first.recipient_parameters, expected);
    let field = String::from_utf8_lossy(&first.content);
    assert!(field.contains("with UTF8SMTP id "), "{field}");
    let second = mails.iter().find(|mail| mail.recipients.len() == 1).expect("the second one");
    assert_eq!(second.parameters, format!("SIZE={} RET=FULL", second.content.len()));
    assert_eq!(second.recipients, ["postmaster@example.org"]);
    assert_eq!(primary.violations(), [""; 0]);
}

#[test]
fn a_primary_that_returns_with_less_gets_what_it_can_take_and_the_rest_is_held() {
    let (mut primary, relay) = modern_and_away();
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    send(&mut client, "<ann@client.example> RET=HDRS", &["<bob@example.org> NOTIFY=NEVER"]);
    send(&mut client, "<jürgen@client.example> SMTPUTF8", &["<carol@example.org>"]);
    let content = format!("Subject: long\r\n\r\n{}", "0123456789\r\n".repeat(1000));
    let long = [content.as_bytes(), b".\r\n"].concat();
    send_content(&mut client, "<ann@client.example>", &["<dave@example.org>"], &long);
    primary.offer(&["SIZE 10000"]);
    primary.return_now();
    let status = relay.until(LIMIT, "all have been tried", |status| status.queue.held == 2);
    assert_eq!(status.account, Account { accepted: 3, delivered: 1, queued: 2, ..Account::default() });
    let mails = primary.mails();
    assert_eq!((mails.len(), mails[0].recipient_parameters.join("")), (1, String::new()));
    let log = relay.log().whole();
    assert!(log.contains("capability: the primary offers no SMTPUTF8"), "{log}");
    assert!(log.contains("capability: the primary takes messages of 10000 bytes"), "{log}");
    assert!(status.problems.iter().any(|problem| problem.contains("capability")), "{:?}", status.problems);
    assert_eq!((primary.violations(), status.primary.state), (Vec::new(), PrimaryState::Up));
}

#[test]
fn the_longest_recipients_are_put_off_where_they_are_too_many_and_those_taken_arrive() {
    let (mut primary, relay) = modern_and_away();
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    assert!(client.say("MAIL FROM:<ann@client.example> SMTPUTF8").expect("it answers").is("250"));
    let (long, orcpt) = ("a".repeat(250), "\u{1f642}".repeat(120));
    let mut taken = 0;
    for number in 0..1000 {
        let command = format!("RCPT TO:<{number}{long}@example.org> NOTIFY=NEVER ORCPT=utf-8;{orcpt}");
        let reply = client.say(&command).expect("it answers");
        assert!(reply.is("250") || reply.is("452 4.5.3"), "{number}: {reply}");
        taken += usize::from(reply.is("250"));
    }
    assert!((100..1000).contains(&taken), "{taken} recipients");
    assert!(client.say("DATA").expect("it answers").is("354"));
    client.raw(b"x\r\n.\r\n").expect("the relay reads");
    assert!(client.reply().expect("it answers").is("250 2.0.0"));
    primary.return_now();
    let done = relay.until(LIMIT, "all have it", |status| status.queue.messages == 0);
    assert_eq!(done.account, Account { accepted: taken as u64, delivered: taken as u64, ..Account::default() });
    assert!(primary.mails()[0].recipient_parameters[0].ends_with(&orcpt));
}

/// A primary that offers all there is and has gone away, and a relay that has seen it.
fn modern_and_away() -> (Primary, Relay) {
    let mut primary = Primary::start();
    primary.offer(MODERN);
    let relay = Relay::before(primary.address()).start();
    relay.until(LIMIT, "the primary was seen", |status| status.capabilities.dsn);
    primary.go_away();
    (primary, relay)
}

fn offered(relay: &Relay) -> Vec<String> {
    let mut client = Client::connect(relay.smtp()).expect("the relay takes connections");
    client.reply().expect("the relay greets");
    let hello = client.say("EHLO client.example").expect("the relay answers");
    let mut offered = hello.lines[1..].to_vec();
    offered.sort_unstable();
    offered
}

#[track_caller]
fn send(client: &mut Client, mail: &str, rcpts: &[&str]) {
    send_content(client, mail, rcpts, "Subject: Grüße\r\n\r\nbody\r\n.\r\n".as_bytes());
}

#[track_caller]
fn send_content(client: &mut Client, mail: &str, rcpts: &[&str], content: &[u8]) {
    let mut say = |line: &str| -> Reply { client.say(line).expect("the relay answers") };
    let reply = say(&format!("MAIL FROM:{mail}"));
    assert!(reply.is("250"), "{reply}");
    for rcpt in rcpts {
        let reply = say(&format!("RCPT TO:{rcpt}"));
        assert!(reply.is("250"), "{rcpt}: {reply}");
    }
    assert!(say("DATA").is("354"));
    client.raw(content).expect("the relay reads");
    let reply = client.reply().expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
}
