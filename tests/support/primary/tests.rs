use std::time::SystemTime;

use super::*;
use crate::{
    Client, Envelope,
    certificate::{Authority, trust_any},
    hash::difference,
    load::Load,
    messages, tools,
};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn what_a_client_sends_is_what_a_primary_keeps() {
    let primary = Primary::start();
    let mut client = Client::hello(primary.address()).unwrap();
    for message in messages::awkward() {
        let reply = client.send(&Envelope::to("bob"), &message.content).unwrap();
        assert_eq!(reply.code, 250, "{}: {reply}", message.name);
        let kept = primary.mails().pop().unwrap();
        assert_eq!(difference(&message.content, &kept.content), None, "{}", message.name);
        assert_eq!((&*kept.sender, &*kept.recipients), ("sender@client.example", &["bob@example.org".to_owned()][..]));
    }
    assert_eq!(primary.violations(), [""; 0]);
}

#[test]
fn a_primary_that_returns_takes_mail_again_and_still_has_the_old() {
    let mut primary = Primary::start();
    let mut client = Client::hello(primary.address()).unwrap();
    client.send(&Envelope::to("bob"), b"1\r\n").unwrap();
    primary.go_away();
    assert!(client.is_closed());
    assert!(Client::hello(primary.address()).is_err());
    primary.return_now();
    Client::hello(primary.address()).unwrap().send(&Envelope::to("bob"), b"2\r\n").unwrap();
    assert_eq!(primary.wait_for(2, LIMIT).iter().map(|mail| &*mail.content).collect::<Vec<_>>(), [b"1\r\n", b"2\r\n"]);
}

#[test]
fn thousands_of_messages_from_many_sessions_are_all_kept() {
    let primary = Primary::start();
    let load = Load { messages: 5000, bytes: 8192, sessions: 64, seed: 1 };
    let sent = load.send(primary.address());
    assert_eq!(sent.accepted.len(), 5000);
    let mails = primary.mails();
    let arrived = mails.iter().map(|mail| (&*mail.recipients[0], &*mail.content));
    assert_eq!(load.compare(&sent, arrived), crate::load::Comparison::default());
    assert_eq!(primary.connections_open_max(), 64);
}

#[test]
fn strangers_get_their_mail_through_too() {
    let primary = Primary::start();
    let ended = tools::smtp_source(primary.address(), &["-s", "4", "-m", "100", "-t", "bob@example.org"]);
    assert_eq!(ended.code, Some(0), "{ended}");
    let ended = tools::swaks(primary.address(), &["--to", "bob@example.org", "--body", ".dot\\n."]);
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(primary.count(), 101);
    assert_eq!(primary.violations(), [""; 0]);
}

#[test]
fn a_rule_is_followed_at_its_stage_and_only_as_often_as_it_says() {
    let primary = Primary::start();
    primary.misbehave(Rule::answer(Stage::Rcpt, "450 4.2.1 later").about("bob@").times(1));
    primary.misbehave(Rule::act(Stage::Dot, Act::KeepAndClose).times(1));
    let mut client = Client::hello(primary.address()).unwrap();
    let envelope = Envelope::to("bob");
    assert!(client.send(&envelope, b"").unwrap().is("450 4.2.1"));
    assert!(client.send(&envelope, b"").is_err());
    assert_eq!((primary.count(), primary.misbehaved()), (1, 2));
    assert_eq!(Client::hello(primary.address()).unwrap().send(&envelope, b"").unwrap().code, 250);
}

#[test]
fn what_is_over_a_limit_is_put_off() {
    let primary = Primary::start();
    primary.limits().recipients(2);
    primary.limits().messages(1);
    let mut client = Client::hello(primary.address()).unwrap();
    client.say("MAIL FROM:<a@b>").unwrap();
    let replies: Vec<_> = (0..3).map(|number| client.say(&format!("RCPT TO:<m{number}@c>")).unwrap().code).collect();
    assert_eq!(replies, [250, 250, 452]);
    assert!(client.say("DATA").is_ok() && client.say(".").is_ok());
    assert_eq!(primary.mails()[0].recipients, ["m0@c", "m1@c"]);
    assert!(client.say("MAIL FROM:<a@b>").unwrap().is("421"));
    assert!(client.is_closed());
    assert_eq!(primary.ledger().deferrals(), 1);
}

#[test]
fn more_than_the_limits_of_ehlo_allow_is_on_record() {
    let primary = Primary::start();
    primary.offer(&["LIMITS MAILMAX=1 RCPTMAX=1"]);
    let mut client = Client::hello(primary.address()).unwrap();
    for line in ["MAIL FROM:<a@b>", "RCPT TO:<c@d>", "RCPT TO:<e@d>", "RSET", "MAIL FROM:<a@b>"] {
        assert_eq!(client.say(line).unwrap().code, 250);
    }
    let expected = ["more recipients than RCPTMAX allows", "more MAIL commands than MAILMAX allows"];
    assert_eq!(primary.violations(), expected.map(|what| format!("connection 1: {what}")));
}

#[test]
fn content_comes_by_bdat_and_xforward_is_on_record_for_one_transaction() {
    let primary = Primary::start();
    primary.offer(&["CHUNKING", "XFORWARD NAME ADDR"]);
    let mut client = Client::hello(primary.address()).unwrap();
    let transaction = "XFORWARD NAME=c ADDR=192.0.2.1\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";
    client.raw(format!("{transaction}BDAT 5\r\n.\r\nabBDAT 1 LAST\r\nc").as_bytes()).unwrap();
    for _ in 0..5 {
        assert_eq!(client.reply().unwrap().code, 250);
    }
    client.raw(b"BDAT 3 LAST\r\nabc").unwrap();
    assert_eq!(client.reply().unwrap().code, 503);
    client.send(&Envelope::to("bob"), b"").unwrap();
    let mails = primary.mails();
    let seen: Vec<_> = mails.iter().map(|mail| (&*mail.content, mail.in_parts, &*mail.forwarded)).collect();
    assert_eq!(seen, [(&b".\r\nabc"[..], true, "NAME=c ADDR=192.0.2.1"), (b"", false, "")]);
    assert_eq!(primary.violations(), [""; 0]);
    primary.offer(&[]);
    let mut client = Client::hello(primary.address()).unwrap();
    client.raw(format!("{transaction}BDAT 0 LAST\r\n").as_bytes()).unwrap();
    eventually(LIMIT, "a message", || primary.count() == 3);
    assert_eq!(primary.violations().len(), 3);
}

#[test]
fn starttls_encrypts_and_all_is_forgotten() {
    let authority = Authority::new();
    let certificate = authority.issue(&["primary.example.org"]);
    let primary = Primary::start();
    primary.offer_tls(&certificate);
    let mut client = Client::connect(primary.address()).unwrap();
    client.reply().unwrap();
    let offered = client.say("EHLO a").unwrap();
    assert_eq!(offered.lines.last().unwrap(), "STARTTLS");
    assert_eq!(client.say("STARTTLS").unwrap().code, 220);
    client.start_tls("primary.example.org", authority.trust()).unwrap();
    assert!(!client.say("EHLO a").unwrap().lines.contains(&"STARTTLS".to_owned()));
    client.send(&Envelope::to("bob"), b"1\r\n").unwrap();
    // Neither a second handshake nor MAIL before the second EHLO is proper.
    assert_eq!(client.say("STARTTLS").unwrap().code, 502);
    primary.offer_no_tls();
    let mut client = Client::hello(primary.address()).unwrap();
    client.send(&Envelope::to("bob"), b"2\r\n").unwrap();
    assert_eq!(primary.mails().iter().map(|mail| mail.encrypted).collect::<Vec<_>>(), [true, false]);
    assert_eq!(primary.violations(), ["connection 1: STARTTLS was used but not offered"]);
}

#[test]
fn a_certificate_may_be_good_old_of_an_unknown_authority_or_for_another_name() {
    let authority = Authority::new();
    let yesterday = SystemTime::now() - Duration::from_secs(24 * 3600);
    let (name, other) = ("primary.example.org", "other.example");
    for (certificate, is_good) in [
        (authority.issue(&[name]), true),
        (authority.issue(&[other]), false),
        (authority.issue_until(&[name], yesterday), false),
        (Certificate::of(&[name]), false),
    ] {
        let primary = Primary::start();
        primary.offer_tls(&certificate);
        for (trust, expected) in [(authority.trust(), is_good), (trust_any(), true)] {
            let mut client = Client::hello(primary.address()).unwrap();
            client.say("STARTTLS").unwrap();
            assert_eq!(client.start_tls(name, trust).is_ok(), expected);
        }
    }
}

#[test]
fn a_handshake_may_be_refused_broken_or_preceded_by_what_does_not_belong_there() {
    let certificate = Certificate::of(&["primary.example.org"]);
    for (rule, expected) in [
        (Rule::answer(Stage::StartTls, "454 4.7.0 not now"), "454 4.7.0 not now"),
        (Rule::close(Stage::Handshake), "unexpected end of file"),
        (
            Rule::act(Stage::Handshake, Act::Raw(b"no TLS\r\n".to_vec())),
            "received corrupt message of type InvalidContentType",
        ),
        (
            Rule::answer(Stage::StartTls, "220 go on\r\n250 injected"),
            "in clear, before the handshake, came: 250 injected\\r\\n",
        ),
    ] {
        let primary = Primary::start();
        primary.offer_tls(&certificate);
        primary.misbehave(rule.clone());
        let mut client = Client::hello(primary.address()).unwrap();
        let reply = client.say("STARTTLS").unwrap();
        let told = match reply.code {
            220 => client.start_tls("primary.example.org", trust_any()).unwrap_err().to_string(),
            _ => reply.to_string(),
        };
        assert_eq!(told, expected, "{rule:?}");
    }
}

#[test]
fn replies_may_be_huge_mixed_or_come_a_byte_at_a_time() {
    let primary = Primary::start();
    primary.misbehave(
        Rule::act(Stage::Hello, Act::Raw([b"250-X\r\n".repeat(1_500_000), b"250 Y\r\n".to_vec()].concat())).times(1),
    );
    assert!(Client::hello(primary.address()).is_ok());
    primary.misbehave(Rule::answer(Stage::Mail, "250-one\r\n550 two").times(1));
    let mut client = Client::hello(primary.address()).unwrap();
    assert!(client.say("MAIL FROM:<a@b>").is_err());
    primary.misbehave(Rule::act(Stage::Mail, Act::Trickle(Duration::from_millis(10))).times(1));
    let begun = Instant::now();
    assert_eq!(
        Client::hello(primary.address()).unwrap().say("MAIL FROM:<a@b>").unwrap().to_string(),
        "250 2.1.0 go on"
    );
    assert!(begun.elapsed() >= Duration::from_millis(10 * "250 2.1.0 go on".len() as u64));
}
