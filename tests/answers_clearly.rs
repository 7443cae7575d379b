//! Whatever a client says, the answer is clear, the next client is served, and nothing is kept that nobody sent.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use backupmx_relay_api::{
    metric,
    status::{Account, PrimaryState},
};
use support::{
    Client, Envelope, HOSTNAME, Primary, Relay, certificate::Certificate, chance::Chance, client::Reply, dialogue,
};

const LIMIT: Duration = Duration::from_secs(30);
/// Small limits, so that they can be exceeded with little.
const SMALL: &str = "limits:\n  messageSize: 64Ki\n  recipients: 100\n";

/// What else the dialogues need: domains of all kinds.
const DOMAINS: &[&str] = &["--domain", "*.shop.example", "--domain", "bücher.example"];
/// What a primary of our days offers.
const MODERN: &[&str] = &["PIPELINING", "SIZE 104857600", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"];

#[test]
fn every_dialogue_is_answered_as_its_file_says() {
    let mut primary = Primary::away();
    primary.offer(MODERN);
    primary.return_now();
    let certificate = Certificate::of(&[HOSTNAME]);
    let relay = Relay::before(primary.address())
        .flags(DOMAINS)
        .flags(&certificate.flags().each_ref().map(String::as_str))
        .config(SMALL)
        .start();
    relay.until(LIMIT, "the primary was seen", |status| status.primary.state == PrimaryState::Up);
    // From here on all mail is only kept.
    primary.go_away();
    play_all("dialogues", &relay, relay.smtp());
}

#[test]
fn dialogues_before_a_primary_was_ever_seen_are_answered_as_their_files_say() {
    let primary = Primary::away();
    let relay = Relay::before(primary.address()).flags(DOMAINS).config(SMALL).start();
    play_all("dialogues/primary_never_seen", &relay, relay.smtp());
}

#[test]
fn dialogues_through_a_proxy_are_answered_as_their_files_say() {
    let primary = Primary::away();
    let config = format!("{SMALL}proxyProtocol:\n  trusted: [127.0.0.0/8]\n");
    let relay = Relay::before(primary.address()).flags(&["--listen-proxy", "127.0.0.1:0"]).config(&config).start();
    play_all("dialogues/proxy", &relay, relay.smtp_proxy());
}

/// Plays all dialogues of a folder. Each 250 to an end of content is a message, and there is no other.
#[track_caller]
fn play_all(folder: &str, relay: &Relay, server: SocketAddr) {
    let files = dialogue::files(folder);
    let played = dialogue::for_all(&files, |file| dialogue::play(file, server));
    let wrong: Vec<_> = played.iter().filter_map(|outcome| outcome.as_ref().err().map(String::as_str)).collect();
    assert!(wrong.is_empty(), "{} of {} dialogues went wrong:\n{}", wrong.len(), files.len(), wrong.join("\n"));

    let kept = played.iter().flatten().flatten().filter(|reply| reply.is("250 2.0.0 Kept as")).count();
    let status = relay.until(LIMIT, "all sessions have ended", |status| status.sessions == 0);
    assert_eq!(status.queue.messages, kept as u64);
    assert!(relay.metrics().contains(&format!("{}{{reason=", metric::MESSAGES_REFUSED_TOTAL)));
}

#[test]
fn ehlo_offers_what_the_relay_can_do_and_no_more() {
    let primary = Primary::away();
    let relay = Relay::before(primary.address()).config(SMALL).start();
    let mut client = Client::connect(relay.smtp()).expect("the relay takes connections");
    let greeting = client.reply().expect("the relay greets");
    assert!(greeting.is(&format!("220 {HOSTNAME} ESMTP")), "{greeting}");
    let hello = client.say("EHLO client.example").expect("the relay answers");
    let mut offered: Vec<_> = hello.lines[1..].iter().map(String::as_str).collect();
    offered.sort_unstable();
    assert_eq!(offered, ["8BITMIME", "CHUNKING", "ENHANCEDSTATUSCODES", "ETRN", "PIPELINING", "SIZE 65536"]);
}

#[test]
fn recipients_beyond_the_limit_are_put_off_and_the_others_get_their_mail() {
    let mut primary = Primary::away();
    let relay = Relay::before(primary.address()).config(SMALL).start();
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let mut say = |line: &str| client.say(line).expect("the relay answers");
    assert!(say("MAIL FROM:<ann@client.example>").is("250"));
    for number in 1..=103 {
        let reply = say(&format!("RCPT TO:<r{number}@example.org>"));
        // RFC 5321 section 4.5.3.1.10.
        let expected = if number <= 100 { "250 2.1.5" } else { "452 4.5.3" };
        assert!(reply.is(expected), "recipient {number}: {reply}");
    }
    assert!(say("DATA").is("354"));
    assert!(say("Subject: x\r\n\r\nbody\r\n.").is("250 2.0.0"));
    assert_eq!(relay.account(), Account { accepted: 100, queued: 100, ..Account::default() });
    primary.return_now();
    relay.until(LIMIT, "all have it", |status| status.account.delivered == 100);
    let recipients: usize = primary.mails().iter().map(|mail| mail.recipients.len()).sum();
    assert_eq!(recipients, 100);
}

#[test]
fn a_client_with_too_many_connections_is_told_so_and_may_come_again() {
    for limits in ["limits:\n  connectionsPerClient: 2\n", "limits:\n  connections: 2\n"] {
        let primary = Primary::away();
        let relay = Relay::before(primary.address()).config(limits).start();
        let first = Client::hello(relay.smtp()).expect("the first one is served");
        let mut second = Client::hello(relay.smtp()).expect("the second one is served");
        let mut third = Client::connect(relay.smtp()).expect("the port is open");
        let reply = third.reply().expect("a refusal says why");
        assert!(reply.is("421 4.7.0"), "{limits}: {reply}");
        assert!(third.is_closed());
        assert!(second.say("NOOP").expect("the second one is still served").is("250"));
        drop(first);
        relay.until(LIMIT, "the first one's place is free", |status| status.sessions == 1);
        Client::hello(relay.smtp()).expect("a place is free again");
    }
}

#[test]
fn a_client_that_stalls_hinders_nobody_and_leaves_nothing() {
    let primary = Primary::away();
    let relay = Relay::before(primary.address()).start();
    let mut stalled = Vec::new();
    // One that says nothing, one within a command, one within the content, one with its end in sight.
    for said in ["", "EHLO cli", "Subject: half a mes", "Subject: whole\r\n\r\nbody\r\n."] {
        let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
        if said.starts_with("Subject") {
            let begun = client.begin(&Envelope::to("stalled"), b"").expect("the relay answers");
            assert_eq!(begun, Ok(()));
        }
        client.raw(said.as_bytes()).expect("the relay reads");
        stalled.push(client);
    }
    for _ in 0..10 {
        let mut client = Client::hello(relay.smtp()).expect("others are served");
        let reply = client.send(&Envelope::to("bob"), b"Subject: x\r\n\r\nbody\r\n").expect("others are served");
        assert!(reply.is("250 2.0.0"), "{reply}");
    }
    relay.until(LIMIT, "the others have gone", |status| status.sessions == 4);
    drop(stalled);
    let status = relay.until(LIMIT, "all sessions have ended", |status| status.sessions == 0);
    assert_eq!(status.account, Account { accepted: 10, queued: 10, ..Account::default() });
}

#[test]
fn noise_does_not_stop_the_relay() {
    let primary = Primary::away();
    let relay = Relay::before(primary.address()).start();
    let mut chance = Chance::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(relay.smtp()).expect("the relay takes connections");
        stream.set_read_timeout(Some(LIMIT)).expect("a socket has a time limit");
        // The relay may have closed already, which is its right.
        let _ = stream.write_all(&noise(&mut chance));
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert!(relay.is_ready());
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let reply: Reply = client.send(&Envelope::to("bob"), b"Subject: x\r\n\r\nbody\r\n").expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
    relay.until(LIMIT, "the one message is there", |status| status.account.queued >= 1);
    relay.account();
}

/// Words that a server knows, and bytes that it does not, in any order.
fn noise(chance: &mut Chance) -> Vec<u8> {
    let words: [&[u8]; 16] = [
        b"EHLO x",
        b"MAIL FROM:<a@b>",
        b"RCPT TO:<bob@example.org>",
        b"DATA",
        b"RSET",
        b"<",
        b">",
        b"\"",
        b"\r\n",
        b"\r\n",
        b"\r\n.\r\n",
        b"\n",
        b"\r",
        b"\0",
        b"SIZE=",
        b" ",
    ];
    let mut bytes = Vec::new();
    for _ in 0..chance.below(60) {
        match chance.below(20) {
            0 => bytes.extend((0..chance.below(3000)).map(|_| (chance.number() >> 32) as u8)),
            _ => bytes.extend_from_slice(words[chance.below(16) as usize]),
        }
    }
    bytes
}
