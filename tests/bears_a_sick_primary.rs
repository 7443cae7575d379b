//! A primary that answers, but not as it should: nothing is lost, nothing is sent back, and what it refuses for good
//! is held for a person to see.

use std::time::Duration;

use backupmx_relay_api::status::{Account, DrainState, PrimaryState};
use support::{
    Client, Envelope, Primary, Relay, eventually,
    primary::{Act, Rule, Stage},
    trace_field,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Sick primaries at a time. They mostly wait.
const AT_ONCE: usize = 8;
/// Everything that the relay waits for by itself, short.
const IMPATIENT: &str = "
primary:
  probe: {interval: 1s, intervalWhileQueued: 1s, intervalWhileRefusingMax: 1s, timeout: 1s, failureThreshold: 1}
  delivery: {retryInterval: 1s, retryIntervalMax: 1s}
";
/// Its refusals count at once, as long after its return.
const FINAL: &str = "  breaker: {returnWindow: 0s}\n";
const CONTENT: &[u8] = b"Subject: x\r\n\r\nbody\r\n";

#[test]
fn mail_waits_while_the_primary_is_sick_and_arrives_when_it_is_well() {
    let sicknesses = [
        ("greets with 421", Rule::answer(Stage::Greeting, "421 4.3.2 not now")),
        ("greets with 554", Rule::answer(Stage::Greeting, "554 5.3.2 no service")),
        ("greets with rubbish", Rule::answer(Stage::Greeting, "SSH-2.0-OpenSSH_9.2")),
        ("greets with binary rubbish", Rule::act(Stage::Greeting, Act::Raw(b"\x16\x03\x01\0\xff\r\n".to_vec()))),
        ("greets without end", Rule::act(Stage::Greeting, Act::Raw([b"220-".repeat(50_000), b"x".to_vec()].concat()))),
        ("greets with half a line", Rule::act(Stage::Greeting, Act::Raw(b"220 prim".to_vec()))),
        ("accepts and says nothing", Rule::act(Stage::Greeting, Act::Stall)),
        ("closes in place of a greeting", Rule::close(Stage::Greeting)),
        ("closes at EHLO", Rule::close(Stage::Hello)),
        ("says nothing to EHLO", Rule::act(Stage::Hello, Act::Stall)),
        ("refuses EHLO and HELO", Rule::answer(Stage::Hello, "550 5.7.1 not you")),
        ("puts off EHLO", Rule::answer(Stage::Hello, "451 4.3.0 later")),
        ("closes at MAIL", Rule::close(Stage::Mail)),
        ("puts off MAIL", Rule::answer(Stage::Mail, "451 4.3.0 later")),
        ("says goodbye at MAIL", Rule::answer(Stage::Mail, "421 4.3.2 shutting down")),
        ("answers MAIL with rubbish", Rule::answer(Stage::Mail, "yes")),
        ("answers MAIL with an unknown class", Rule::answer(Stage::Mail, "999 what")),
        ("answers MAIL with two codes", Rule::answer(Stage::Mail, "250-one\r\n550 two")),
        ("closes at RCPT", Rule::close(Stage::Rcpt)),
        ("puts off RCPT", Rule::answer(Stage::Rcpt, "450 4.2.1 mailbox busy")),
        ("has a full disk at RCPT", Rule::answer(Stage::Rcpt, "452 4.3.1 no room")),
        ("answers RCPT with rubbish", Rule::answer(Stage::Rcpt, "250x")),
        ("closes at DATA", Rule::close(Stage::Data)),
        ("puts off DATA", Rule::answer(Stage::Data, "451 4.3.0 later")),
        ("answers DATA with 250", Rule::answer(Stage::Data, "250 2.0.0 misunderstood")),
        ("closes within the content", Rule::close(Stage::Content)),
        ("says goodbye within the content", Rule::answer(Stage::Content, "421 4.3.2 shutting down")),
        ("closes before it answers the final dot", Rule::close(Stage::Dot)),
        ("puts off the content", Rule::answer(Stage::Dot, "451 4.7.1 greylisted")),
        ("says goodbye at the final dot", Rule::answer(Stage::Dot, "421 4.3.2 shutting down")),
        ("answers the final dot with rubbish", Rule::answer(Stage::Dot, "ok")),
        ("answers the final dot with 354", Rule::answer(Stage::Dot, "354 go on")),
    ];
    let mut wrong = Vec::new();
    for group in sicknesses.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let patients: Vec<_> =
                group.iter().map(|(name, rule)| (name, scope.spawn(|| outlast(rule.clone())))).collect();
            wrong.extend(patients.into_iter().filter_map(|(name, patient)| patient.join().is_err().then_some(*name)));
        });
    }
    assert!(wrong.is_empty(), "not borne, see above: a primary that {}", wrong.join("; that "));
}

/// Two messages; the primary is sick until two attempts have failed, then well.
fn outlast(rule: Rule) {
    let primary = Primary::start();
    primary.misbehave(rule);
    let relay = Relay::before(primary.address()).config(IMPATIENT).start();
    send(&relay, &["bob", "carol"]);
    send(&relay, &["dave"]);
    eventually(LIMIT, "a second attempt or probe", || primary.misbehaved() >= 2);
    let account = relay.account();
    assert_eq!(account, Account { accepted: 3, queued: 3, ..Account::default() });
    assert_eq!((relay.status().queue.held, primary.count()), (0, 0));

    primary.behave();
    let mails = primary.wait_for(2, LIMIT);
    let done = relay.until(LIMIT, "nothing waits", |status| status.queue.messages == 0);
    assert_eq!(done.account, Account { accepted: 3, delivered: 3, ..Account::default() });
    assert_eq!((mails.len(), primary.count()), (2, 2), "nothing comes twice");
    for mail in mails {
        assert_eq!(trace_field::split(&mail.content).1, CONTENT);
    }
}

#[test]
fn what_the_primary_refuses_for_good_is_held_and_not_sent_back() {
    let refusals = [
        ("MAIL", Rule::answer(Stage::Mail, "550 5.7.1 not this sender").about("sender@")),
        ("RCPT", Rule::answer(Stage::Rcpt, "550 5.1.1 no such user").about("nobody")),
        ("DATA", Rule::answer(Stage::Data, "554 5.3.0 no")),
        ("content", Rule::answer(Stage::Dot, "554 5.6.0 looks like spam")),
    ];
    for (what, rule) in refusals {
        let primary = Primary::start();
        primary.misbehave(rule);
        let relay = Relay::before(primary.address()).config(&[IMPATIENT, FINAL].concat()).start();
        send(&relay, &["nobody1", "nobody2"]);
        let held = relay.until(LIMIT, "the message is held", |status| status.queue.held == 1);
        assert_eq!(held.account, Account { accepted: 2, queued: 2, ..Account::default() }, "{what}");
        assert_eq!(held.queue.messages, 1, "{what}");

        // It stays held, although the primary has changed its mind and takes other mail.
        primary.behave();
        send(&relay, &["dave"]);
        let after = relay.until(LIMIT, "other mail is delivered, and nothing waits", |status| {
            status.account.delivered == 1 && status.drain.state == DrainState::Idle
        });
        assert_eq!((after.queue.held, after.queue.messages), (1, 1), "{what}");
        assert_eq!(primary.mails().iter().map(|mail| &mail.recipients[0]).collect::<Vec<_>>(), ["dave@example.org"]);
    }
}

#[test]
fn a_reply_that_nobody_waits_for_is_not_taken_for_a_yes() {
    let primary = Primary::start();
    // In one write with the 354, so it is there before a byte of content has left.
    primary.misbehave(Rule::answer(Stage::Data, "354 go on\r\n250 2.0.0 what was not asked for"));
    primary.misbehave(Rule::answer(Stage::Dot, "554 5.6.0 looks like spam"));
    let relay = Relay::before(primary.address()).config(IMPATIENT).start();
    send(&relay, &["bob"]);
    let tried = relay.until(LIMIT, "an attempt has its outcome", |status| {
        let Account { queued, delivered, .. } = status.account;
        delivered > 0 || status.queue.held > 0 || (queued > 0 && primary.misbehaved_at(Stage::Data) >= 2)
    });
    assert_eq!(tried.account, Account { accepted: 1, queued: 1, ..Account::default() });
    assert_eq!(primary.count(), 0);
}

#[test]
fn a_primary_without_room_that_tires_of_our_recipients_gets_all_of_them_later() {
    let primary = Primary::start();
    // What follows a refused MAIL is out of order, and each RCPT is one more mistake (RFC 2920 section 3.1).
    primary.misbehave(Rule::answer(Stage::Mail, "452 4.3.1 no room"));
    primary.limits().refusals(20);
    let relay = Relay::before(primary.address()).config(IMPATIENT).start();
    let names: Vec<_> = (0..25).map(|number| format!("r{number}")).collect();
    send(&relay, &names.iter().map(String::as_str).collect::<Vec<_>>());
    eventually(LIMIT, "a second attempt", || primary.misbehaved() >= 2);
    assert_eq!(relay.account(), Account { accepted: 25, queued: 25, ..Account::default() });
    assert_eq!(relay.status().queue.held, 0);

    primary.behave();
    let done = relay.until(LIMIT, "nothing waits", |status| status.queue.messages == status.queue.held);
    assert_eq!(done.account, Account { accepted: 25, delivered: 25, ..Account::default() });
    assert_eq!(primary.mails().iter().map(|mail| mail.recipients.len()).collect::<Vec<_>>(), [25]);
}

#[test]
fn a_552_to_a_recipient_means_later() {
    let primary = Primary::start();
    // RFC 5321 section 4.5.3.1.10: old servers say 552 where they mean 452, too many recipients.
    primary.misbehave(Rule::answer(Stage::Rcpt, "552 5.5.3 too many recipients").about("carol@"));
    let relay = Relay::before(primary.address()).config(IMPATIENT).start();
    send(&relay, &["bob", "carol"]);
    let some = relay.until(LIMIT, "one has it", |status| status.account.delivered == 1);
    assert_eq!((some.account.queued, some.queue.held), (1, 0));
    primary.behave();
    relay.until(LIMIT, "both have it", |status| status.account.delivered == 2);
}

#[test]
fn a_primary_that_talks_too_much_fills_neither_memory_nor_log() {
    const RECIPIENTS: u64 = 1000;
    const MEMORY_BYTES_MAX: u64 = 200 << 20;
    const LOG_LINE_BYTES_MAX: usize = 8 << 10;
    for code in ["250", "451", "554"] {
        let primary = Primary::start();
        // As long as a reply can be, each line and all together (docs/smtp.md), for each of many recipients.
        let text = "x".repeat(4090);
        let reply = [format!("{code}-{text}\r\n").repeat(127), format!("{code} {text}")].concat();
        primary.misbehave(Rule::answer(Stage::Dot, &reply));
        let relay = Relay::before(primary.address()).config(&["primary:\n", FINAL].concat()).start();
        let names: Vec<_> = (0..RECIPIENTS).map(|number| format!("r{number}")).collect();
        send(&relay, &names.iter().map(String::as_str).collect::<Vec<_>>());
        // In ten transactions.
        let outcomes = || {
            let lines = relay.log().lines();
            let attempts: Vec<_> = lines.iter().filter(|line| line["message"] == "attempt").collect();
            ["delivered", "deferred", "held"]
                .map(|outcome| attempts.iter().filter_map(|attempt| attempt[outcome].as_u64()).sum::<u64>())
        };
        let expected = ["250", "451", "554"].map(|verdict| if verdict == code { RECIPIENTS } else { 0 });
        eventually(LIMIT, "the outcomes of a round", || outcomes() == expected);
        assert_eq!(relay.account().accepted, RECIPIENTS, "{code}");
        let (memory, line) = (relay.memory_bytes_max(), relay.log().line_bytes_max());
        println!("{code}: {} MiB at most, longest log line {line} bytes", memory >> 20);
        assert!(memory < MEMORY_BYTES_MAX, "{code}: {} MiB of memory", memory >> 20);
        assert!(line < LOG_LINE_BYTES_MAX, "{code}: a log line of {line} bytes");
    }
}

#[test]
fn what_is_held_is_still_held_after_a_kill() {
    let primary = Primary::start();
    primary.misbehave(Rule::answer(Stage::Rcpt, "550 5.1.1 no such user").about("bob@"));
    let mut relay = Relay::before(primary.address()).config(&[IMPATIENT, FINAL].concat()).start();
    send(&relay, &["bob"]);
    relay.until(LIMIT, "the message is held", |status| status.queue.held == 1);
    relay.kill9();
    primary.behave();
    relay.start_again();
    relay.until(LIMIT, "the primary is known to be up", |status| status.primary.state == PrimaryState::Up);
    let status = relay.status();
    assert_eq!((status.queue.held, status.account.queued, primary.count()), (1, 1, 0));
}

#[test]
fn each_recipient_has_its_own_fate() {
    let primary = Primary::start();
    primary.misbehave(Rule::answer(Stage::Rcpt, "450 4.2.1 mailbox busy").about("busy@"));
    primary.misbehave(Rule::answer(Stage::Rcpt, "550 5.1.1 no such user").about("nobody@"));
    let relay = Relay::before(primary.address()).config(&[IMPATIENT, FINAL].concat()).start();
    send(&relay, &["bob", "busy", "nobody", "carol"]);
    let some = relay.until(LIMIT, "two have it", |status| status.account.delivered == 2);
    assert_eq!(some.account, Account { accepted: 4, delivered: 2, queued: 2, ..Account::default() });
    // A recipient still waits, so the message as a whole is not held.
    assert_eq!((some.queue.messages, some.queue.held), (1, 0));

    primary.behave();
    let most = relay.until(LIMIT, "three have it", |status| status.account.delivered == 3);
    assert_eq!(most.account, Account { accepted: 4, delivered: 3, queued: 1, ..Account::default() });
    assert_eq!((most.queue.messages, most.queue.held), (1, 1));
    let mails = primary.mails();
    let recipients: Vec<_> = mails.iter().map(|mail| mail.recipients.clone()).collect();
    assert_eq!(recipients, [vec!["bob@example.org", "carol@example.org"], vec!["busy@example.org"]]);
    assert_eq!(mails[0].content, mails[1].content);
}

#[test]
fn one_refused_recipient_does_not_hold_up_the_mail_of_others() {
    let primary = Primary::start();
    primary.misbehave(Rule::answer(Stage::Rcpt, "450 4.2.1 mailbox busy").about("busy@"));
    let relay = Relay::before(primary.address()).config(IMPATIENT).start();
    for _ in 0..20 {
        send(&relay, &["busy"]);
        send(&relay, &["bob"]);
    }
    relay.until(LIMIT, "all but the deferred are delivered", |status| status.account.delivered == 20);
    assert_eq!(relay.account(), Account { accepted: 40, delivered: 20, queued: 20, ..Account::default() });
    primary.behave();
    relay.until(LIMIT, "all are delivered", |status| status.account.delivered == 40);
}

#[test]
fn a_message_whose_last_reply_was_lost_may_come_twice_but_counts_once() {
    let primary = Primary::start();
    primary.misbehave(Rule::act(Stage::Dot, Act::KeepAndClose).times(1));
    let relay = Relay::before(primary.address()).config(IMPATIENT).start();
    send(&relay, &["bob"]);
    let done = relay.until(LIMIT, "it is delivered", |status| status.account.delivered == 1);
    assert_eq!(done.account, Account { accepted: 1, delivered: 1, ..Account::default() });
    let mails = primary.mails();
    assert_eq!(mails.len(), 2);
    assert_eq!(mails[0].content, mails[1].content);
}

#[test]
fn a_primary_that_stalls_within_a_delivery_and_is_restarted_gets_the_mail() {
    for stage in [Stage::Mail, Stage::Rcpt, Stage::Data, Stage::Content, Stage::Dot] {
        let mut primary = Primary::start();
        primary.misbehave(Rule::act(stage, Act::Stall));
        let relay = Relay::before(primary.address()).config(IMPATIENT).start();
        send(&relay, &["bob"]);
        eventually(LIMIT, "the stall", || primary.misbehaved() >= 1);
        assert_eq!(relay.account(), Account { accepted: 1, queued: 1, ..Account::default() }, "{stage:?}");
        primary.go_away();
        primary.behave();
        primary.return_now();
        primary.wait_for(1, LIMIT);
        relay.until(LIMIT, "it is delivered", |status| status.account.delivered == 1);
    }
}

#[test]
fn a_primary_that_can_do_less_than_we_offered_gets_the_mail_all_the_same() {
    let mut primary = Primary::away();
    let relay = Relay::before(primary.address()).start();
    let content = "Subject: Grüße\r\n\r\nbody\r\n".as_bytes();
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let reply = client.send(&Envelope::to("bob"), content).expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
    primary.offer(&[]);
    primary.return_now();
    let mails = primary.wait_for(1, LIMIT);
    assert_eq!(trace_field::split(&mails[0].content).1, content);
    // No parameter may be used that was not offered.
    assert_eq!((&*mails[0].parameters, primary.violations()), ("", Vec::new()));
}

fn send(relay: &Relay, recipients: &[&str]) {
    let recipients: Vec<_> = recipients.iter().map(|name| format!("{name}@example.org")).collect();
    let envelope = Envelope { sender: "sender@client.example".to_owned(), recipients };
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let reply = client.send(&envelope, CONTENT).expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
}
