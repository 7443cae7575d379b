//! The main job, with servers and clients that people use: mail that comes while the primary is away is kept, and
//! delivered when it is back. Postfix is the primary, swaks and smtp-source are the senders.

use std::{collections::BTreeSet, fs, time::Duration};

use backupmx_relay_api::{
    metric,
    status::{Account, DrainState, PrimaryState},
};
use support::{
    Client, Envelope, Relay, eventually,
    hash::difference,
    load::{Comparison, Load},
    postfix::Postfix,
    tools,
};

/// For a drain of some hundred messages into a real Postfix on a busy machine.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);
/// For a state that comes by itself within seconds.
const STATE_LIMIT: Duration = Duration::from_secs(30);

/// What a person might write with an ordinary mail program.
const LETTER: &str = "From: ann@client.example\r\nTo: bob@example.org\r\nSubject: Grüße\r\nMIME-Version: 1.0\r\n\
                      Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
                      Lieber Bob,\r\n.\r\n..wie geht's?\r\n\r\nAnn \r\n";

#[test]
fn mail_that_comes_while_postfix_is_away_is_delivered_when_it_is_back() {
    let postfix = Postfix::prepare();
    let relay = Relay::before(postfix.address()).start();
    relay.until(STATE_LIMIT, "the primary is known to be down", |status| status.primary.state == PrimaryState::Down);

    let letter = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    // swaks ends the last line by itself.
    fs::write(&letter, LETTER.trim_end_matches("\r\n")).expect("a temporary file can be written");
    let data = format!("@{}", letter.path().display());
    for recipient in ["bob@example.org", "Carol.Ann@example.org"] {
        let ended = tools::swaks(relay.smtp(), &["--from", "ann@client.example", "--to", recipient, "--data", &data]);
        assert_eq!(ended.code, Some(0), "{ended}");
    }
    let many = ["-s", "10", "-m", "200", "-l", "4096", "-f", "robot@client.example", "-t", "list@example.org"];
    let ended = tools::smtp_source(relay.smtp(), &many);
    assert_eq!(ended.code, Some(0), "{ended}");

    let waiting = relay.until(STATE_LIMIT, "all of it waits", |status| status.queue.messages == 202);
    assert_eq!(waiting.account, Account { accepted: 202, queued: 202, ..Account::default() });
    assert_eq!((waiting.queue.held, waiting.drain.state), (0, DrainState::Waiting));
    assert_eq!(relay.metric(metric::QUEUE_MESSAGES), 202.0);
    assert_eq!(relay.metric(metric::PRIMARY_UP), 0.0);

    postfix.start();
    eventually(DRAIN_LIMIT, "202 files in the Maildir", || postfix.delivered().len() == 202);
    let done = relay.until(STATE_LIMIT, "nothing waits", |status| status.queue.messages == 0);
    assert_eq!(done.account, Account { accepted: 202, delivered: 202, ..Account::default() });
    assert_eq!((done.primary.state, done.drain.state), (PrimaryState::Up, DrainState::Idle));
    assert_eq!(relay.metric(metric::MESSAGES_DELIVERED_TOTAL), 202.0);
    assert_eq!(relay.metric(metric::ACCOUNT_DIFFERENCE), 0.0);

    let letters: Vec<_> = delivered(&postfix).into_iter().filter(|mail| mail.recipient != "list@example.org").collect();
    assert_eq!(letters.len(), 2);
    for letter in letters {
        assert_eq!(difference(LETTER.as_bytes(), &letter.content), None, "for {}", letter.recipient);
    }
}

#[test]
fn mail_that_comes_while_postfix_runs_is_delivered_at_once() {
    let postfix = Postfix::prepare();
    postfix.start();
    let relay = Relay::before(postfix.address()).start();
    let ended = tools::swaks(relay.smtp(), &["--to", "bob@example.org", "--body", "hello"]);
    assert_eq!(ended.code, Some(0), "{ended}");
    eventually(STATE_LIMIT, "a file in the Maildir", || postfix.delivered().len() == 1);
    relay.until(STATE_LIMIT, "it is accounted for", |status| status.account.delivered == 1);
}

#[test]
fn a_message_to_several_recipients_reaches_each_of_them_once() {
    let postfix = Postfix::prepare();
    let relay = Relay::before(postfix.address()).start();
    let recipients = ["bob@example.org", "carol@example.org", "Dave.O'Neil+x@example.org", "\"e f\"@example.org"];
    let envelope = Envelope::new("", &recipients);
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let reply = client.send(&envelope, LETTER.as_bytes()).expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
    assert_eq!(relay.account(), Account { accepted: 4, queued: 4, ..Account::default() });

    postfix.start();
    eventually(DRAIN_LIMIT, "4 files in the Maildir", || postfix.delivered().len() == 4);
    let done = relay.until(STATE_LIMIT, "nothing waits", |status| status.queue.messages == 0);
    assert_eq!(done.account, Account { accepted: 4, delivered: 4, ..Account::default() });
    let reached: BTreeSet<_> = delivered(&postfix).into_iter().map(|mail| mail.recipient).collect();
    assert_eq!(reached, recipients.iter().map(|&recipient| recipient.to_owned()).collect());
}

#[test]
fn postfix_may_be_restarted_in_mid_drain() {
    let postfix = Postfix::prepare();
    let relay = Relay::before(postfix.address()).start();
    let load = Load { messages: 1500, bytes: 4096, sessions: 16, seed: 11 };
    let sent = load.send(relay.smtp());
    assert_eq!((sent.accepted.len(), sent.refused.len()), (1500, 0), "{:?}", sent.refused.first());

    postfix.start();
    eventually(DRAIN_LIMIT, "the drain is under way", || relay.status().account.delivered >= 50);
    postfix.stop();
    let left = relay.account().queued;
    println!("Postfix stopped with {left} messages still in the relay's queue");
    assert_ne!(left, 0, "the drain was over before Postfix stopped: send more messages");
    postfix.start();

    let done = relay.until(DRAIN_LIMIT, "nothing waits", |status| status.queue.messages == 0);
    assert_eq!(done.account, Account { accepted: 1500, delivered: 1500, ..Account::default() });
    // Postfix may have kept a message without our hearing so: then it came twice, and the files alone say little.
    let compare = || {
        let mails = delivered(&postfix);
        load.compare(&sent, mails.iter().map(|mail| (&*mail.recipient, &*mail.content)))
    };
    let is_all_there = || postfix.delivered().len() >= 1500 && compare().missing.is_empty();
    eventually(DRAIN_LIMIT, "every message is in the Maildir", is_all_there);
    let comparison = compare();
    println!("repeated: {}", comparison.repeated);
    assert_eq!(comparison, Comparison { repeated: comparison.repeated, ..Comparison::default() });
    assert!(comparison.repeated <= 20, "{} repeated, of 20 connections", comparison.repeated);
}

/// One file of a Maildir.
struct Delivered {
    recipient: String,
    /// What follows the relay's own field, with the line ends that it travelled with.
    content: Vec<u8>,
}

fn delivered(postfix: &Postfix) -> Vec<Delivered> {
    postfix.delivered().iter().map(|file| taken_apart(&fs::read(file).expect("root reads a Maildir"))).collect()
}

/// Postfix puts its own fields on top, and writes LF for CRLF.
fn taken_apart(file: &[u8]) -> Delivered {
    let text = String::from_utf8(file.to_vec()).expect("these tests send UTF-8").replace('\n', "\r\n");
    let original = text.lines().find_map(|line| line.strip_prefix("X-Original-To: ")).expect("Postfix notes it");
    let ours = text.match_indices("Received: ").map(|(at, _)| at).find(|&at| is_ours(&text[at..]));
    let ours = ours.expect("the relay's field is there");
    let (_, content) = support::trace_field::split(&text.as_bytes()[ours..]);
    Delivered { recipient: original.to_owned(), content: content.to_vec() }
}

fn is_ours(text: &str) -> bool {
    text.split(';').next().is_some_and(|field| field.contains("(BackupMx)") && field.matches("Received: ").count() == 1)
}
