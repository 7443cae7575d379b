//! Postfix, Exim and OpenSMTPD as the primary: what came while they were away reaches them as if its sender had brought it
//! there himself, and their refusals, restarts and greylists cost no mail.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, thread,
    time::Duration,
};

use backupmx_relay_api::status::{Account, PrimaryState};
use support::{
    Client, Envelope, Relay, Reply,
    certificate::Certificate,
    client::stuffed,
    eventually, eventually_some,
    hash::difference,
    load::{Comparison, Load},
    messages::{self, Message},
    postfix::{Greylist, Postfix},
    server::{Delivered, Duties, Kind, Server},
    trace_field,
};

const KINDS: [Kind; 3] = [Kind::Postfix, Kind::Exim, Kind::OpenSmtpd];
/// For a drain of some hundred messages into real servers. OpenSMTPD takes some twenty messages a second, on a busy machine far fewer.
const LIMIT: Duration = Duration::from_secs(300);
/// `primary.delivery.maxConnections` by default.
const CONNECTIONS_MAX: u64 = 20;
const LETTER: &[u8] = b"Subject: x\r\n\r\n.body\r\n";

/// Messages of which the first line is no field. At the very top servers make something else of it than below our field,
/// where they end the header with an empty line.
const ODD_AT_THE_TOP: [&str; 5] =
    ["begins_with_a_space", "begins_with_a_tab", "begins_like_mbox", "begins_like_quoted_mbox", "begins_like_uucp"];

#[test]
fn every_awkward_message_arrives_as_if_its_sender_had_brought_it() {
    for_each(|kind| {
        let mut server = Server::prepare(kind, &Duties::default());
        let relay = Relay::before(server.address()).start();
        let messages: Vec<_> = messages::awkward().into_iter().filter(|message| !is_ours(message)).collect();
        let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
        for (number, message) in messages.iter().enumerate() {
            let reply = client.send(&Envelope::to(&format!("m{number}")), &message.content).expect("the relay answers");
            assert!(reply.is("250 2.0.0"), "{}: {reply}", message.name);
        }
        server.start();
        let brought: Vec<_> =
            messages.iter().enumerate().map(|(number, message)| bring(&server, number, message)).collect();
        let taken = brought.iter().filter(|is_taken| **is_taken).count();
        // What it refuses at the top of a message it may take below our field.
        relay.until(LIMIT, "all that it takes is delivered", |status| status.account.delivered >= taken as u64);
        eventually(LIMIT, "all mail in the mailbox", || server.delivered().len() >= 2 * taken);

        let mut by_recipient = BTreeMap::new();
        for mail in server.delivered() {
            let recipient = mail.recipient.clone();
            assert_eq!(by_recipient.insert(mail.recipient, mail.content), None, "{recipient} has it twice");
        }
        let mut of = |name: String| by_recipient.remove(&format!("{name}@example.org"));
        let mut wrong = Vec::new();
        for (number, message) in messages.iter().enumerate() {
            let (Some(relayed), Some(stored)) = (of(format!("m{number}")), of(format!("d{number}"))) else {
                if brought[number] {
                    wrong.push(format!("{}: missing", message.name));
                }
                continue;
            };
            let (_, relayed) = trace_field::split(&relayed);
            let what = match difference(&stored, relayed) {
                Some(_) if ODD_AT_THE_TOP.contains(&&*message.name) => {
                    difference(without_empty_lines(&message.content), without_empty_lines(relayed))
                }
                // As it was sent is good too: servers complete what stands at the very top.
                Some(what) => difference(&message.content, relayed).map(|_| what),
                None => None,
            };
            wrong.extend(what.map(|what| format!("{}: {what}", message.name)));
        }
        println!("{kind:?}: {taken} of {} messages taken", messages.len());
        assert!(wrong.is_empty(), "{kind:?}: {}", wrong.join("\n"));
    });
}

/// Borders of buffers are tested in keeps_bytes. One `Received` field more, ours, makes a hundred, which is a loop (RFC 5321
/// section 6.3).
fn is_ours(message: &Message) -> bool {
    let name = &message.name;
    name.contains("_and_dots") || name.contains("dots_around") || name == "received_99_times"
}

/// Brings a message to the server itself. Returns whether it is taken.
fn bring(server: &Server, number: usize, message: &Message) -> bool {
    let mut client = Client::hello(server.address()).expect("the server takes connections");
    let Ok(reply) = one_by_one(&mut client, &format!("d{number}@example.org"), &message.content) else {
        println!("the server closes the connection: {}", message.name);
        return false;
    };
    assert_ne!(reply.code / 100, 4, "{}: {reply}", message.name);
    if reply.code != 250 {
        println!("refused by the server itself: {}: {reply}", message.name);
    }
    reply.code == 250
}

fn without_empty_lines(mut content: &[u8]) -> &[u8] {
    while let Some(rest) = content.strip_prefix(b"\r\n") {
        content = rest;
    }
    while let Some(rest) = content.strip_suffix(b"\r\n") {
        content = rest;
    }
    content
}

/// Sends a message a command at a time: OpenSMTPD knows no PIPELINING.
fn one_by_one(client: &mut Client, recipient: &str, content: &[u8]) -> io::Result<Reply> {
    let body = if content.is_ascii() { "" } else { " BODY=8BITMIME" };
    for command in [format!("MAIL FROM:<sender@client.example>{body}"), format!("RCPT TO:<{recipient}>"), "DATA".into()]
    {
        let reply = client.say(&command)?;
        if !matches!(reply.code, 250 | 354) {
            return Ok(reply);
        }
    }
    client.raw(&stuffed(content))?;
    client.reply()
}

#[test]
fn mail_goes_over_tls_and_in_clear_where_the_handshake_fails() {
    let certificate = Certificate::of(&["primary.example.org"]);
    for_each(|kind| {
        let mut server = Server::prepare(kind, &Duties { certificate: Some(&certificate), ..Duties::default() });
        // OpenSMTPD's TLS is broken (see `Duties`): a good example of what opportunity is for.
        let mode = if kind == Kind::OpenSmtpd { "Opportunistic" } else { "Encrypt" };
        let relay = Relay::before(server.address()).config(&format!("primary: {{tls: {{mode: {mode}}}}}")).start();
        let load = Load { messages: 50, bytes: 2000, sessions: 4, seed: 3 };
        let sent = load.send(relay.smtp());
        server.start();
        let mails = all_delivered(&server, &relay, 50);
        assert_eq!(load.compare(&sent, mails.iter().map(Delivered::relayed)), Comparison::default(), "{kind:?}");
        let encrypted = mails.iter().filter(|mail| mail.is_encrypted()).count();
        assert_eq!(encrypted, if kind == Kind::OpenSmtpd { 0 } else { 50 }, "{kind:?}: {}", mails[0].trace);
    });
}

#[test]
fn a_recipient_whom_the_server_does_not_know_is_held_and_the_others_get_their_mail() {
    for_each(|kind| {
        let mut server = Server::prepare(kind, &Duties { users: &["bob", "carol", "postmaster"], certificate: None });
        // The primary is not new, so its word counts at once.
        let relay = Relay::before(server.address()).config("primary: {breaker: {returnWindow: 1ms}}").start();
        let recipients = ["bob@example.org", "nobody@example.org", "carol@example.org"];
        let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
        let reply = client.send(&Envelope::new("ann@client.example", &recipients), LETTER).expect("the relay answers");
        assert!(reply.is("250 2.0.0"), "{reply}");
        server.start();
        let held = relay.until(LIMIT, "one is held", |status| status.queue.held == 1);
        assert_eq!(held.account, Account { accepted: 3, delivered: 2, queued: 1, ..Account::default() }, "{kind:?}");
        assert_eq!((held.primary.state, held.drain.breaker), (PrimaryState::Up, None), "{kind:?}");
        eventually(LIMIT, "both have it", || server.delivered().len() == 2);
        let mut reached: Vec<_> = server.delivered().into_iter().map(|mail| mail.recipient).collect();
        reached.sort();
        assert_eq!(reached, ["bob@example.org", "carol@example.org"], "{kind:?}");
    });
}

#[test]
fn a_server_may_be_restarted_in_mid_drain() {
    const MESSAGES: u64 = 800;
    for_each(|kind| {
        let mut server = Server::prepare(kind, &Duties::default());
        // A server that stops may put a message off: that one need not cost the test a minute.
        let relay = Relay::before(server.address()).config("primary: {delivery: {retryInterval: 1s}}").start();
        let load = Load { messages: MESSAGES, bytes: 2000, sessions: 8, seed: 4 };
        let sent = load.send(relay.smtp());
        assert_eq!(sent.accepted.len() as u64, MESSAGES);
        server.start();
        eventually(LIMIT, "the drain is under way", || relay.status().account.delivered >= 30);
        server.stop();
        let left = relay.account().queued;
        assert_ne!(left, 0, "{kind:?}: the drain was over before it stopped: send more messages");
        server.start();
        let mails = all_delivered(&server, &relay, MESSAGES);
        let comparison = load.compare(&sent, mails.iter().map(Delivered::relayed));
        println!("{kind:?}: stopped with {left} left, {} repeated", comparison.repeated);
        assert_eq!(comparison, Comparison { repeated: comparison.repeated, ..Comparison::default() }, "{kind:?}");
        assert!(comparison.repeated <= CONNECTIONS_MAX, "{kind:?}: {} repeated", comparison.repeated);
    });
}

#[test]
fn a_postfix_that_greylists_gets_its_mail_when_the_delay_is_over() {
    const MESSAGES: u64 = 30;
    let greylist = Greylist::start(Duration::from_secs(2));
    let server = Postfix::prepare_with_policy(greylist.address());
    let retries = "primary: {delivery: {retryInterval: 500ms, retryIntervalMax: 15s}}";
    let relay = Relay::before(server.address()).config(retries).start();
    let load = Load { messages: MESSAGES, bytes: 2000, sessions: 4, seed: 5 };
    let sent = load.send(relay.smtp());
    server.start();
    let mails = all_delivered(&Server::Postfix(server), &relay, MESSAGES);
    assert_eq!(load.compare(&sent, mails.iter().map(Delivered::relayed)), Comparison::default());
    // At once, and after 0.5, 1.5 and 3.5 s, less or more.
    let asked = greylist.asked();
    assert!((2 * MESSAGES..=5 * MESSAGES).contains(&asked), "asked {asked} times for {MESSAGES} recipients");
}

/// Does it with all servers at once: mostly they wait.
fn for_each(work: impl Fn(Kind) + Sync) {
    let wrong: Vec<_> = thread::scope(|scope| {
        let work = &work;
        let works = KINDS.map(|kind| (kind, scope.spawn(move || work(kind))));
        works.into_iter().filter_map(|(kind, work)| work.join().is_err().then_some(kind)).collect()
    });
    assert!(wrong.is_empty(), "see above: {wrong:?}");
}

/// What is in the mailboxes, once that is all.
fn all_delivered(server: &Server, relay: &Relay, messages: u64) -> Vec<Delivered> {
    let done = relay.until(LIMIT, "nothing waits", |status| status.queue.messages == 0);
    assert_eq!(done.account, Account { accepted: messages, delivered: messages, ..Account::default() });
    // A server may have kept a message without our hearing so: then it came twice, and another one may still be under way.
    eventually_some(LIMIT, "all mail in the mailbox", || {
        let mails = server.delivered();
        let recipients: BTreeSet<_> = mails.iter().map(|mail| &mail.recipient).collect();
        let are_all = recipients.len() as u64 >= messages;
        are_all.then_some(mails)
    })
}
