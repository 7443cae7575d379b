//! A primary that is back gets its mail as fast as it can bear, in the order in which it came, and whatever it puts off or
//! refuses has the consequence that it should.
//!
//! Minutes are a hundred times shorter here: the relay is configured so, and so are the primaries.

use std::{
    collections::BTreeSet,
    sync::{PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};

use backupmx_relay_api::{
    metric,
    status::{Account, PrimaryState},
};
use support::{
    Client, Envelope, Primary, Relay,
    chance::Chance,
    load::{Comparison, Load, Sent, number_of},
    primary::{Capacity, Failing, Rule, Stage},
    trace_field,
    wait::eventually,
};

#[path = "drains_well/storms.rs"]
mod storms;

const LIMIT: Duration = Duration::from_secs(60);
/// What is a minute in the field.
const MINUTE: Duration = Duration::from_millis(600);
/// All that is minutes by default.
const SHORT: &str = "
primary:
  delivery: {retryInterval: 600ms, retryIntervalMax: 18s, rememberLimit: 6s}
  breaker: {retestInterval: 6s, returnWindow: 18s, secondLookAfter: 9s}
";
/// A rate is measured alone: what others do on this machine at the same time is not the primary's pace.
static ALONE: RwLock<()> = RwLock::new(());
/// `primary.delivery.maxConnections` by default.
const CONNECTIONS_MAX: u64 = 20;

#[test]
fn nine_tenths_of_what_a_primary_can_bear_are_used_and_nearly_nothing_is_deferred() {
    let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
    const HUNDRED: Capacity = Capacity { servers: 4, service: Duration::from_millis(40), congestion: 0.0 };
    type Shape = (&'static str, Capacity, fn(&Primary));
    let shapes: [Shape; 4] = [
        ("has a capacity", HUNDRED, |_| {}),
        ("serves few connections", HUNDRED, |primary| primary.limits().connections(8)),
        (
            "answers ever more slowly",
            Capacity { servers: 8, service: Duration::from_millis(80), congestion: 0.01 },
            |primary| primary.model().latency(Duration::from_millis(5)),
        ),
        ("is weak at first", HUNDRED, |primary| primary.model().slow_start(0.2, Duration::from_secs(2))),
    ];
    let seed = Chance::new().number();
    let wrong: Vec<_> = thread::scope(|scope| {
        let drains =
            shapes.map(|(name, capacity, shape)| (name, scope.spawn(move || drain(name, capacity, shape, seed))));
        drains.into_iter().filter_map(|(name, drain)| drain.join().is_err().then_some(name)).collect()
    });
    assert!(wrong.is_empty(), "see above: a primary that {}", wrong.join("; that "));
}

fn drain(name: &str, capacity: Capacity, shape: fn(&Primary), seed: u64) {
    const MESSAGES: u64 = 900;
    let mut primary = Primary::away();
    primary.model().capacity(capacity);
    shape(&primary);
    let relay = Relay::before(primary.address()).config(SHORT).start();
    let load = Load { messages: MESSAGES, bytes: 1024, sessions: 8, seed };
    let sent = load.send(relay.smtp());
    assert_eq!(sent.accepted.len() as u64, MESSAGES);
    primary.return_now();
    relay.until(LIMIT, "all are delivered", |status| status.account.delivered == MESSAGES);
    let (rate, possible) = (primary.steady_rate(), capacity.messages_per_second());
    let (deferred, connections) = (relay.metric(metric::MESSAGES_DEFERRED_TOTAL), primary.connections_open_max());
    println!(
        "a primary that {name}: {rate:.0} of {possible:.0} messages a second, {deferred} deferred, {connections} connections at most, \
         {} turned away",
        primary.limits().turned_away()
    );
    expect_all(&primary, &load, &sent);
    assert!(rate >= 0.9 * possible, "{name}: {rate:.1} of {possible} messages a second");
    let attempts = primary.ledger().transactions().len() as f64;
    assert!(deferred <= 0.02 * attempts, "{name}: {deferred} of {attempts} attempts were deferred");
    assert!(primary.ledger().deferrals() as f64 <= 0.02 * attempts);
}

#[test]
fn who_is_greylisted_gets_through_soon_after_the_delay_and_without_asking_too_often() {
    let _beside_others = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    const RECIPIENTS: u64 = 30;
    const EXTRA_ATTEMPTS_MAX: u64 = 4;
    // 60, 300 and 600 s in the field.
    let delays = [MINUTE, 5 * MINUTE, 10 * MINUTE];
    thread::scope(|scope| {
        for delay in delays {
            scope.spawn(move || {
                let mut primary = Primary::away();
                primary.model().greylist(delay);
                let relay = Relay::before(primary.address()).config(SHORT).start();
                send(&relay, (0..RECIPIENTS).map(|number| format!("m{number}")));
                let returned = primary.return_now();
                relay.until(LIMIT, "all are delivered", |status| status.account.delivered == RECIPIENTS);
                let mails = primary.mails();
                let last = mails.iter().map(|mail| mail.arrived - returned).max().expect("mail came");
                let attempts_max = primary.ledger().attempts().into_values().max().expect("mail came");
                println!("greylisted for {delay:?}: the last came after {last:?}, {attempts_max} attempts at most");
                // The probe that notices the return is not a hundred times faster.
                let noticed = Duration::from_secs(3);
                assert!(last <= 3 * delay + MINUTE + noticed, "greylisted for {delay:?}: the last came after {last:?}");
                assert!(attempts_max <= 1 + EXTRA_ATTEMPTS_MAX, "greylisted for {delay:?}: {attempts_max} attempts");
            });
        }
    });
}

#[test]
fn a_primary_that_relapses_is_left_alone_and_no_message_loses_its_place() {
    let _beside_others = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    const MESSAGES: u64 = 400;
    const BEFORE: u64 = 100;
    const LASTS: Duration = Duration::from_secs(5);
    let relapses = [Failing::TurnsAway, Failing::PutsOff, Failing::Cuts];
    let wrong: Vec<_> = thread::scope(|scope| {
        let relapses = relapses.map(|how| (how, scope.spawn(move || outlast(how, MESSAGES, BEFORE, LASTS))));
        relapses.into_iter().filter_map(|(how, relapse)| relapse.join().is_err().then_some(how)).collect()
    });
    assert!(wrong.is_empty(), "not borne, see above: {wrong:?}");
}

fn outlast(how: Failing, messages: u64, before: u64, lasts: Duration) {
    /// While it fails: one canary for each probe that finds it well, at 0, 2 and 4 s; and two failures before the third.
    const CANARIES_MAX: usize = 3 + 2;
    let mut primary = Primary::away();
    primary.model().capacity(Capacity { servers: 4, service: Duration::from_millis(10), congestion: 0.0 });
    primary.model().relapse(how, before, lasts);
    // Deferrals wait a minute, as by default: who lost its place would come far too late.
    let relay = Relay::before(primary.address()).start();
    send(&relay, (0..messages).map(|number| format!("m{number}")));
    primary.return_now();
    eventually(LIMIT, "the relapse", || primary.model().relapsed().is_some());
    let began = primary.model().relapsed().expect("it has begun");
    relay.until(lasts + Duration::from_secs(15), "all are delivered", |status| status.account.delivered == messages);

    let begun = primary.ledger().transactions().into_iter().filter(|at| *at > began && *at < began + lasts).count();
    let open = primary.ledger().connections().into_iter().take_while(|(at, _)| *at <= began).last();
    let (_, in_flight) = open.expect("mail came by a connection");
    println!("{how:?}: {begun} transactions began while it failed, {in_flight} connections were open at its beginning");
    assert!(begun <= in_flight as usize + CANARIES_MAX, "{how:?}: {begun} transactions, {in_flight} connections");

    let mails = primary.mails();
    assert_eq!(mails.len() as u64, messages, "{how:?}: nothing comes twice");
    let displaced = |(place, mail): (usize, &std::sync::Arc<support::primary::Mail>)| {
        number_of(&mail.recipients[0]).abs_diff(place as u64)
    };
    let displaced_max = mails.iter().enumerate().map(displaced).max().expect("mail came");
    assert!(displaced_max <= 2 * CONNECTIONS_MAX, "{how:?}: a message came {displaced_max} places from its own");
    assert_eq!(primary.violations(), [""; 0]);
}

#[test]
fn a_thousand_recipients_go_in_portions_at_once_and_each_has_its_own_fate() {
    let _beside_others = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    /// Far less than the first deferral costs.
    const AT_ONCE: Duration = Duration::from_secs(5);
    type Shape = (&'static str, u32, fn(&Primary));
    // And how many recipients the relay would send.
    let shapes: [Shape; 3] = [
        ("takes 100", 100, |_| {}),
        ("says so in EHLO", 1000, |primary| primary.offer(&["PIPELINING", "LIMITS RCPTMAX=100"])),
        ("puts off the rest", 1000, |_| {}),
    ];
    for (name, recipients_max, shape) in shapes {
        // A verdict counts at once: the primary is not new.
        let config = format!(
            "primary: {{breaker: {{returnWindow: 1ms}}, delivery: {{maxRecipientsPerTransaction: {recipients_max}}}}}"
        );
        let primary = Primary::start();
        primary.limits().recipients(100);
        shape(&primary);
        primary.misbehave(Rule::answer(Stage::Rcpt, "450 4.2.1 mailbox busy").about("busy"));
        primary.misbehave(Rule::answer(Stage::Rcpt, "550 5.1.1 no such user").about("nobody"));
        let relay = Relay::before(primary.address()).config(&config).start();
        relay.until(LIMIT, "the primary is known to be up", |status| status.primary.state == PrimaryState::Up);
        // A tenth busy, a tenth unknown, all over the list.
        let kind = |number: u32| match number % 10 {
            3 => "busy",
            7 => "nobody",
            _ => "m",
        };
        let names: Vec<_> = (0..1000).map(|number| format!("{}{number}@example.org", kind(number))).collect();
        let envelope = Envelope { sender: "sender@client.example".to_owned(), recipients: names.clone() };
        let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
        let sent = Instant::now();
        assert!(client.send(&envelope, b"Subject: x\r\n\r\nbody\r\n").expect("the relay answers").is("250 2.0.0"));
        let done = relay.until(AT_ONCE, "800 have it", |status| status.account.delivered == 800);
        println!("a primary that {name}: {:?}, {} transactions", sent.elapsed(), primary.ledger().transactions().len());
        assert_eq!(done.account, Account { accepted: 1000, delivered: 800, queued: 200, ..Account::default() });
        assert_eq!((done.queue.messages, done.queue.held), (1, 0), "{name}");
        let mails = primary.mails();
        let reached: Vec<_> = mails.iter().flat_map(|mail| mail.recipients.clone()).collect();
        let expected: BTreeSet<_> = names.into_iter().filter(|name| name.starts_with('m')).collect();
        assert_eq!((reached.len(), reached.into_iter().collect()), (800, expected), "{name}");
        assert!(primary.ledger().transactions().len() <= 10, "{name}");
        assert!(mails.iter().all(|mail| mail.recipients.len() <= 100));
        assert_eq!(primary.violations(), [""; 0], "{name}");

        // Busy mailboxes are asked again, unknown users are held for a person.
        primary.behave();
        relay.flush();
        let rest = relay.until(AT_ONCE, "900 have it", |status| status.account.delivered == 900);
        assert_eq!((rest.queue.messages, rest.queue.held, rest.account.queued), (1, 1, 100), "{name}");
    }
}

/// A message to each of them, one after the other.
fn send(relay: &Relay, names: impl IntoIterator<Item = String>) {
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    for name in names {
        let reply = client.send(&Envelope::to(&name), b"Subject: x\r\n\r\nbody\r\n").expect("the relay answers");
        assert!(reply.is("250 2.0.0"), "{reply}");
    }
}

/// Each message once, unaltered.
fn expect_all(primary: &Primary, load: &Load, sent: &Sent) {
    let mails = primary.mails();
    let arrived = mails.iter().map(|mail| (&*mail.recipients[0], trace_field::split(&mail.content).1));
    assert_eq!(load.compare(sent, arrived), Comparison::default());
    assert_eq!(primary.violations(), [""; 0]);
}
