//! A primary that is well, or nearly so, gets its mail at once, over as few connections as it wants; one bad message or
//! one broken connection does not hold up the rest.

use std::{
    thread,
    time::{Duration, Instant},
};

use backupmx_relay_api::{
    metric,
    status::{Account, PrimaryState, Status},
};
use support::{
    Client, Envelope, Primary, Relay,
    load::{Comparison, Load},
    primary::{Act, Rule, Stage},
    trace_field,
    wait::within,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Far less than `primary.delivery.retryInterval`, which is a minute by default: who arrives so soon did not wait for it.
const SOON: Duration = Duration::from_secs(5);
const CONTENT: &[u8] = b"Subject: x\r\n\r\nbody\r\n";

#[test]
fn messages_that_break_every_connection_do_not_hold_up_the_others() {
    const TRIES_MAX: u64 = 4;
    const WATCHED: Duration = Duration::from_secs(8);
    let mut primary = Primary::away();
    let poison = ["poison1", "poison2", "poison3"];
    for name in poison {
        primary.misbehave(Rule::close(Stage::Dot).about(name));
    }
    let relay = Relay::before(primary.address()).start();
    send(&relay, poison);
    send(&relay, names(20));
    let returned = primary.return_now();
    let healthy = relay.until(Duration::from_secs(15), "all healthy ones are delivered", delivered(20));
    println!("all healthy ones were delivered {:.1} s after the return", returned.elapsed().as_secs_f64());
    assert_eq!(healthy.account, Account { accepted: 23, delivered: 20, queued: 3, ..Account::default() });

    // Nothing may happen for a while, so there is nothing to wait for but its end.
    let too_often = || poison.into_iter().find(|name| primary.misbehaved_about(name) > TRIES_MAX);
    assert_eq!(
        within(WATCHED.saturating_sub(returned.elapsed()), too_often),
        None,
        "tried more than {TRIES_MAX} times"
    );
    assert!(poison.iter().all(|name| primary.misbehaved_about(name) > 0));
    assert_eq!(relay.status().queue.held, 0);
}

#[test]
fn a_message_whose_last_reply_never_comes_does_not_hold_up_the_others() {
    let mut primary = Primary::away();
    primary.misbehave(Rule::act(Stage::Dot, Act::Stall).about("silent@"));
    let relay = Relay::before(primary.address()).start();
    send(&relay, ["silent"]);
    send(&relay, names(10));
    let returned = primary.return_now();
    let others = relay.until(Duration::from_secs(30), "all others are delivered", delivered(10));
    println!("all others were delivered {:.1} s after the return", returned.elapsed().as_secs_f64());
    assert_eq!(others.account, Account { accepted: 11, delivered: 10, queued: 1, ..Account::default() });
    // Its reply may still come (RFC 5321 section 4.5.3.2.6), so it is not sent again.
    assert_eq!(primary.misbehaved(), 1);
}

#[test]
fn a_message_whose_connection_broke_goes_again_at_once() {
    thread::scope(|scope| {
        for stage in [Stage::Mail, Stage::Rcpt, Stage::Data, Stage::Content, Stage::Dot] {
            scope.spawn(move || {
                let primary = Primary::start();
                primary.misbehave(Rule::close(stage).times(1));
                let relay = Relay::before(primary.address()).start();
                send(&relay, ["bob"]);
                relay.until(SOON, &format!("it is delivered after a break at {stage:?}"), delivered(1));
                assert_eq!((primary.misbehaved(), primary.count()), (1, 1), "{stage:?}");
            });
        }
    });
}

#[test]
fn a_single_message_does_not_open_connections_that_nobody_needs() {
    const WATCHED: Duration = Duration::from_secs(3);
    let mut primary = Primary::away();
    let relay = Relay::before(primary.address()).start();
    // The drain has found out that many connections are welcome.
    let load = Load { messages: 500, bytes: 1024, sessions: 8, seed: 6 };
    assert_eq!(load.send(relay.smtp()).accepted.len(), 500);
    primary.return_now();
    relay.until(LIMIT, "the drain is over", |status| delivered(500)(status) && status.drain.connections == 0);
    primary.forget();

    let before = primary.connections();
    let sent = Instant::now();
    send(&relay, ["bob"]);
    primary.wait_for(1, SOON);
    // One for the message, and a probe or two.
    let opened = || Some(primary.connections() - before).filter(|opened| *opened > 3);
    assert_eq!(within(WATCHED.saturating_sub(sent.elapsed()), opened), None, "so many connections for one message");
    assert_eq!(primary.count(), 1);
}

#[test]
fn a_primary_that_serves_few_connections_gets_all_its_mail_and_counts_as_up() {
    let mut primary = Primary::away();
    primary.limits().connections(5);
    // So slow that many are turned away between one success and the next.
    primary.misbehave(Rule::act(Stage::Dot, Act::Slow(Duration::from_millis(20))));
    let relay = Relay::before(primary.address()).start();
    let load = Load { messages: 500, bytes: 1024, sessions: 8, seed: 7 };
    let sent = load.send(relay.smtp());
    assert_eq!(sent.accepted.len(), 500);
    let returned = primary.return_now();
    let up = until_up(&relay);
    let done = relay.until(LIMIT, "all are delivered", |status| {
        assert_eq!(status.primary.state, PrimaryState::Up, "{}", status.primary.reason);
        delivered(500)(status)
    });
    let (seconds, away) = (returned.elapsed().as_secs_f64(), primary.limits().turned_away());
    println!("all were delivered {seconds:.1} s after the return, {away} connections were turned away");
    assert_eq!(done.primary.since, up.primary.since, "between two looks it was down");
    assert_ne!(away, 0, "the relay never tried more than the primary serves: send more messages");
    let mails = primary.mails();
    let arrived = mails.iter().map(|mail| (&*mail.recipients[0], trace_field::split(&mail.content).1));
    assert_eq!(load.compare(&sent, arrived), Comparison::default());
}

#[test]
fn a_primary_that_ends_connections_between_messages_costs_no_message_its_turn() {
    const A_CONNECTION: u64 = 3;
    let goodbye = "421 4.7.0 enough for one connection";
    let habits = [
        ("says goodbye to the next MAIL", Rule::answer(Stage::Mail, goodbye)),
        ("closes at the next MAIL", Rule::close(Stage::Mail)),
        ("says goodbye after a message", Rule::answer(Stage::Kept, goodbye)),
        ("closes after a message", Rule::close(Stage::Kept)),
    ];
    thread::scope(|scope| {
        for (habit, rule) in habits {
            scope.spawn(move || {
                let mut primary = Primary::away();
                primary.misbehave(rule.after_messages(A_CONNECTION));
                let relay = Relay::before(primary.address()).start();
                send(&relay, names(40));
                primary.return_now();
                let up = until_up(&relay);
                let done = relay.until(SOON, &format!("all are delivered to a primary that {habit}"), delivered(40));
                assert_eq!(relay.metric(metric::MESSAGES_DEFERRED_TOTAL), 0.0, "{habit}");
                assert_eq!((primary.count(), primary.violations()), (40, Vec::new()), "{habit}");
                assert_eq!((done.primary.state, done.primary.since), (PrimaryState::Up, up.primary.since), "{habit}");
            });
        }
    });
}

/// True once so many recipients have their mail.
fn delivered(recipients: u64) -> impl Fn(&Status) -> bool {
    move |status| status.account.delivered == recipients
}

fn until_up(relay: &Relay) -> Status {
    relay.until(LIMIT, "the primary is known to be up", |status| status.primary.state == PrimaryState::Up)
}

fn names(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("m{number}"))
}

/// A message to each of them.
fn send(relay: &Relay, names: impl IntoIterator<Item = impl AsRef<str>>) {
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    for name in names {
        let reply = client.send(&Envelope::to(name.as_ref()), CONTENT).expect("the relay answers");
        assert!(reply.is("250 2.0.0"), "{reply}");
    }
}
