//! Many clients, idle ones, hasty ones, far ones and looping ones: each gets its due, and none another one's.

use std::{
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use backupmx_relay_api::{
    admin, metric,
    status::{Account, PrimaryState},
};
use support::{
    Client, Envelope, HOSTNAME, Primary, Relay,
    certificate::{Certificate, trust_any},
    client::Reply,
    port::Port,
    primary::{Rule, Stage},
    relay::http,
    trace_field,
    wait::eventually,
};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn when_all_places_are_taken_the_one_that_was_idle_longest_gives_way() {
    let primary = Primary::away();
    let relay = Relay::before(primary.address()).config("limits: {connections: 3}\n").start();
    let mut in_transaction = Client::hello(relay.smtp()).expect("the relay takes connections");
    assert!(in_transaction.say("MAIL FROM:<ann@client.example>").expect("it answers").is("250"));
    let mut idle = Client::hello(relay.smtp()).expect("the relay takes connections");
    let mut busy = Client::hello(relay.smtp()).expect("the relay takes connections");
    assert!(refused(relay.smtp()).is("421 4.7.0"), "nobody has been idle for 5 s");
    thread::sleep(Duration::from_millis(5500)); // no condition: it is the time that counts
    assert!(busy.say("NOOP").expect("it answers").is("250"));
    let mut newcomer = Client::hello(relay.smtp()).expect("a newcomer is served");
    let told = idle.reply().expect("the idle one is told");
    assert!(told.is("421 4.4.2") && idle.is_closed(), "{told}");
    for client in [&mut in_transaction, &mut busy, &mut newcomer] {
        assert!(client.say("NOOP").expect("all others are served").is("250"));
    }
}

#[test]
fn who_is_idle_amid_a_message_gives_way_too_and_nothing_of_it_is_kept() {
    let primary = Primary::away();
    let relay = Relay::before(primary.address()).config("limits: {connections: 1}\n").start();
    let mut slow = amid_a_message(relay.smtp());
    slow.raw(b"Subject: half a mes").expect("the relay reads");
    thread::sleep(Duration::from_millis(5500)); // no condition: it is the time that counts
    let mut newcomer = Client::hello(relay.smtp()).expect("a newcomer is served");
    assert!(slow.reply().expect("the idle one is told").is("421 4.4.2"));
    let reply = newcomer.send(&Envelope::to("bob"), b"x\r\n").expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
    assert_eq!(relay.account(), Account { accepted: 1, queued: 1, ..Account::default() });
}

#[test]
fn who_vanishes_amid_a_message_is_counted() {
    let primary = Primary::away();
    let relay = Relay::before(primary.address()).start();
    amid_a_message(relay.smtp()).vanish().expect("a connection can be reset");
    let counted = format!("{}{{reason=\"vanished\"}} 1", metric::MESSAGES_REFUSED_TOTAL);
    eventually(LIMIT, "it is counted", || relay.metrics().contains(&counted));
}

#[test]
fn patience_is_short_while_places_are_scarce() {
    let primary = Primary::away();
    let limits = "limits: {connections: 5, busyTimeout: 1m, busyTimeoutBeforeMail: 1s}\n";
    let relay = Relay::before(primary.address()).config(limits).start();
    let mut clients: Vec<_> = (0..3).map(|_| Client::hello(relay.smtp()).expect("it is served")).collect();
    let mut sending = Client::hello(relay.smtp()).expect("it is served"); // the fourth of five: 80 %
    assert!(sending.say("MAIL FROM:<ann@client.example>").expect("it answers").is("250"));
    // Those who were there before are told first; then places are not scarce any more.
    eventually(LIMIT, "a silent one is told", || relay.status().sessions <= 3);
    assert!(sending.say("NOOP").expect("a transaction has more time").is("250"));
    let told = clients.iter_mut().filter_map(|client| client.say("NOOP").ok()).filter(|reply| reply.is("421 4.4.2"));
    assert!(told.count() >= 1);
}

#[test]
fn it_listens_wherever_it_is_told_to_on_both_families() {
    let primary = Primary::away();
    let second = Port::reserve();
    let port = second.address().port();
    let (v4, v6) = (format!("127.0.0.1:{port}"), format!("[::1]:{port}"));
    let relay = Relay::before(primary.address()).address("--listen", &v4).flags(&["--listen", &v6]).start();
    for address in [v4, v6] {
        let address: SocketAddr = address.parse().expect("it is an address");
        let mut client = Client::hello(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        let reply = client.send(&Envelope::to("bob"), b"x\r\n").expect("the relay answers");
        assert!(reply.is("250 2.0.0"), "{address}: {reply}");
    }
    assert_eq!(relay.account().queued, 2);
}

#[test]
fn who_is_no_trusted_proxy_or_sends_no_header_is_closed_without_a_word_and_counted() {
    let primary = Primary::away();
    for trusted in ["10.0.0.0/8", "127.0.0.1"] {
        let config = format!("proxyProtocol: {{trusted: [{trusted}]}}\n");
        let relay = Relay::before(primary.address()).flags(&["--listen-proxy", "127.0.0.1:0"]).config(&config).start();
        let mut client = Client::connect(relay.smtp_proxy()).expect("the port is open");
        if trusted == "10.0.0.0/8" {
            // It may be gone before it has heard anything.
            let _ = client.raw(b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n");
        }
        assert!(client.is_closed(), "{trusted}");
        let counted = format!("{}{{reason=\"proxy\"}} 1", metric::MESSAGES_REFUSED_TOTAL);
        eventually(LIMIT, "it is counted", || relay.metrics().contains(&counted));
        // Whoever comes by himself is served at the other address.
        Client::hello(relay.smtp()).expect("the relay takes connections");
    }
}

#[test]
fn behind_a_proxy_the_client_is_whom_the_header_names() {
    let primary = Primary::start();
    let config = "proxyProtocol: {trusted: [127.0.0.1]}\nlimits: {connectionsPerClient: 1}\n";
    let relay = Relay::before(primary.address()).flags(&["--listen-proxy", "127.0.0.1:0"]).config(config).start();
    let come_from = |address: &str| {
        let mut client = Client::connect(relay.smtp_proxy()).expect("the port is open");
        client.raw(format!("PROXY TCP4 {address} 198.51.100.1 40000 25\r\n").as_bytes()).expect("it reads");
        (client.reply().expect("it greets, or says why not"), client)
    };
    let (greeting, mut first) = come_from("192.0.2.7");
    assert!(greeting.is("220"), "{greeting}");
    assert!(come_from("192.0.2.7").0.is("421 4.7.0"), "places are those of the client, not of the proxy");
    assert!(come_from("192.0.2.8").0.is("220"));
    assert!(first.say("EHLO client.example").expect("it answers").is("250"));
    let reply = first.send(&Envelope::to("bob"), b"x\r\n").expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
    let mails = primary.wait_for(1, LIMIT);
    let field = String::from_utf8_lossy(trace_field::split(&mails[0].content).0).into_owned();
    assert!(field.contains("[192.0.2.7])"), "{field}");
}

#[test]
fn the_trace_field_tells_what_dns_calls_the_client() {
    let primary = Primary::start();
    let relay = Relay::before(primary.address()).start();
    // The file of hosts has a name for this address. The first mail may be faster than the look-up.
    eventually(LIMIT, "a mail with the client's name", || {
        let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
        let reply = client.send(&Envelope::to("bob"), b"x\r\n").expect("the relay answers");
        assert!(reply.is("250 2.0.0"), "{reply}");
        let has_name = |content: &[u8]| {
            let field = String::from_utf8_lossy(trace_field::split(content).0).into_owned();
            let inside = field.split(['(', ')']).nth(1).unwrap_or_default().to_owned();
            inside.ends_with(" [127.0.0.1]")
        };
        primary.mails().iter().any(|mail| has_name(&mail.content))
    });
}

#[test]
fn mail_that_the_primary_sends_back_stays_with_the_primary_and_is_told() {
    let primary = Primary::start();
    let relay = Relay::before(primary.address()).start();
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let reply = client.send(&Envelope::to("bob"), b"Subject: x\r\n\r\nbody\r\n").expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
    let content = primary.wait_for(1, LIMIT)[0].content.clone();
    // The test's client has the primary's address, 127.0.0.1.
    let folded_anew = String::from_utf8_lossy(&content).replace("\r\n\t", "\r\n   ").into_bytes();
    for sent_back in [content.clone(), [b"X-Filter: passed\r\n", &content[..]].concat(), folded_anew] {
        let reply = client.send(&Envelope::to("bob"), &sent_back).expect("the relay answers");
        assert!(reply.is("451 4.4.6"), "{reply}");
    }
    let status = relay.status();
    assert!(status.problems.iter().any(|problem| problem.starts_with("PrimaryLoopsBack")), "{:?}", status.problems);
    // In the body it is only quoted.
    let quoted = [b"Subject: returned\r\n\r\n", &content[..]].concat();
    let reply = client.send(&Envelope::to("bob"), &quoted).expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
    // Nothing more goes there until a person says so: it would come back again.
    assert_eq!(relay.status().primary.state, PrimaryState::Held);
    let answer = http::send("POST", relay.console(), admin::DRAIN_RESUME, Some(&relay.token()), "{}");
    assert_eq!(answer.code, 200, "{answer:?}");
    primary.wait_for(2, LIMIT);
    let expected = Account { accepted: 2, delivered: 2, ..Account::default() };
    relay.until(LIMIT, "the others are delivered", |status| status.account == expected);
}

#[test]
fn mail_from_elsewhere_may_come_again_three_times_and_loops_end() {
    // Nobody there: so the client's address is not the primary's.
    let relay = Relay::before("127.0.0.2:9".parse().expect("it is an address")).start();
    let own = format!("Received: from a ([192.0.2.1])\r\n\tby {HOSTNAME} (BackupMx) with ESMTP id 01;\r\n\tnow\r\n");
    let other = "Received: by elsewhere.example; now\r\n";
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    for (content, expected) in [
        (own.repeat(3), "250 2.0.0"),
        (own.repeat(4), "554 5.4.6"),
        (other.repeat(99), "250 2.0.0"),
        (other.repeat(100), "554 5.4.6"),
        (format!("Subject: x\r\n\r\n{}", other.repeat(200)), "250 2.0.0"),
    ] {
        let reply = client.send(&Envelope::to("bob"), content.as_bytes()).expect("the relay answers");
        assert!(reply.is(expected), "{reply}");
    }
}

#[test]
fn etrn_sends_what_waits_and_is_for_the_primary_and_the_listed() {
    let hour = "primary:\n  probe: {interval: 1h, intervalWhileQueued: 1h}\n  breaker: {returnWindow: 0s}\n";
    let mut primary = Primary::away();
    let relay = Relay::before(primary.address()).config(hour).start();
    relay.until(LIMIT, "the first probe has failed", |status| status.primary.last_probe.is_some());
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    assert!(client.say("ETRN example.org").expect("it answers").is("251 2.0.0"));
    let reply = client.send(&Envelope::to("bob"), b"x\r\n").expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
    primary.return_now();
    assert!(client.say("ETRN @example.org").expect("it answers").is("250 2.0.0"));
    primary.wait_for(1, LIMIT);
    // What is held waits for a person, and not for the primary.
    primary.misbehave(Rule::answer(Stage::Rcpt, "550 5.1.1 nobody").about("nobody@"));
    let reply = client.send(&Envelope::to("nobody"), b"x\r\n").expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
    relay.until(LIMIT, "it is held", |status| status.queue.held == 1);
    assert!(client.say("ETRN example.org").expect("it answers").is("251 2.0.0"));

    for (allowed, expected) in [("[]", "459 4.7.1"), ("[127.0.0.0/8]", "251 2.0.0")] {
        let config = format!("etrn: {{allowed: {allowed}}}\n");
        let relay = Relay::before("127.0.0.2:9".parse().expect("it is an address")).config(&config).start();
        let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
        let reply = client.say("ETRN example.org").expect("it answers");
        assert!(reply.is(expected), "{allowed}: {reply}");
    }
}

const MIB: u64 = 1 << 20;

#[test]
fn five_thousand_idle_sessions_take_less_than_100_mib() {
    let primary = Primary::away();
    let limits = "limits: {connections: 5000, connectionsPerClient: 5000, memory: 300Mi}\n";
    let relay = Relay::before(primary.address()).config(limits).start();
    let idle: Vec<_> = (0..5000).map(|_| TcpStream::connect(relay.smtp()).expect("it is served")).collect();
    relay.until(LIMIT, "all are served", |status| status.sessions == 5000);
    let memory_bytes = relay.memory_bytes_max();
    println!("5000 idle sessions: at most {} MiB", memory_bytes / MIB);
    assert!(memory_bytes < 100 * MIB, "{} MiB", memory_bytes / MIB);
    drop(idle);
}

#[test]
fn a_thousand_sessions_amid_messages_of_100_mb_take_less_than_256_mib() {
    let primary = Primary::away();
    let certificate = Certificate::of(&[HOSTNAME]);
    let flags = certificate.flags();
    let limits = "limits: {messageSize: 100Mi, connectionsPerClient: 1000}\n";
    let relay = Relay::before(primary.address()).config(limits).flags(&flags.each_ref().map(String::as_str)).start();
    let smtp = relay.smtp();
    let clients: Vec<_> = (0..20).map(|_| thread::spawn(move || fifty_amid_large_messages(smtp))).collect();
    let clients: Vec<_> = clients.into_iter().flat_map(|thread| thread.join().expect("it sends")).collect();
    assert_eq!((clients.len(), relay.status().sessions), (1000, 1000));
    let memory_bytes = relay.memory_bytes_max();
    println!("1000 sessions amid large messages: at most {} MiB", memory_bytes / MIB);
    assert!(memory_bytes < 256 * MIB, "{} MiB", memory_bytes / MIB);
    // And one of them comes to its end.
    let mut last = clients.into_iter().next().expect("there are a thousand");
    last.raw(b".\r\n").expect("the relay reads");
    assert!(last.reply().expect("it answers").is("250 2.0.0"));
}

/// Every fifth of them in TLS. Each has sent more than a session may hold, in turns, so that all grow at the same time.
fn fifty_amid_large_messages(smtp: SocketAddr) -> Vec<Client> {
    let client = |n: u32| if n.is_multiple_of(5) { amid_a_message_in_tls(smtp) } else { amid_a_message(smtp) };
    let mut clients: Vec<_> = (0..50).map(client).collect();
    let piece = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n".repeat(1024);
    for _ in 0..10 {
        clients.iter_mut().for_each(|client| client.raw(piece.as_bytes()).expect("the relay reads"));
    }
    clients
}

fn amid_a_message(smtp: SocketAddr) -> Client {
    let mut client = Client::hello(smtp).expect("the relay takes connections");
    assert_eq!(client.begin(&Envelope::to("bob"), b"").expect("the relay answers"), Ok(()));
    client
}

fn amid_a_message_in_tls(smtp: SocketAddr) -> Client {
    let mut client = Client::hello(smtp).expect("the relay takes connections");
    assert!(client.say("STARTTLS").expect("the relay answers").is("220"));
    client.start_tls(HOSTNAME, trust_any()).expect("the handshake goes through");
    assert!(client.say("EHLO client.example").expect("the relay answers").is("250"));
    assert_eq!(client.begin(&Envelope::to("bob"), b"").expect("the relay answers"), Ok(()));
    client
}

fn refused(smtp: SocketAddr) -> Reply {
    let mut client = Client::connect(smtp).expect("the port is open");
    client.reply().expect("a refusal says why")
}
