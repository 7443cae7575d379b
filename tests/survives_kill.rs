//! What was answered 250 is there after a kill -9, wherever it falls: in the quiet, during intake, during the drain.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use backupmx_relay_api::status::Account;
use support::{
    Primary, Relay,
    chance::Chance,
    eventually, is_soak,
    load::{self, Comparison, Load, Sent},
    trace_field,
};

/// Enough for several segments of the spool.
const MESSAGES: u64 = 10_000;
const MESSAGE_BYTES: usize = 8192;
const SESSIONS: u64 = 64;
/// `primary.delivery.maxConnections` by default.
const CONNECTIONS_MAX: u64 = 20;
/// For all of it on a slow disk.
const LIMIT: Duration = Duration::from_secs(300);

/// Numbers that no two stretches between kills share.
const STRETCH_MESSAGES: u64 = 100_000;
const STRETCH_MAX: Duration = Duration::from_millis(300);
/// A debug build with a small spool runs after a tenth of it; the rest is for busy machines.
const START_MAX: Duration = Duration::from_millis(100);
const IMPATIENT: &str = "primary: {probe: {interval: 1s, intervalWhileQueued: 1s}}";

#[test]
fn ten_thousand_messages_are_there_after_a_kill_and_arrive() {
    let _alone = alone();
    let mut primary = Primary::away();
    let mut relay = Relay::before(primary.address()).start();
    let load = load(&mut Chance::new());

    let begun = Instant::now();
    let sent = load.send(relay.smtp());
    let taken = begun.elapsed();
    assert_eq!(
        sent.accepted.len() as u64,
        MESSAGES,
        "refused: {:?}, broken: {}",
        sent.refused.first(),
        sent.unanswered
    );
    println!("taken: {MESSAGES} messages in {:.2} s, {:.0} a second", taken.as_secs_f64(), rate(MESSAGES, taken));
    relay.kill9();

    let begun = Instant::now();
    relay.start_again();
    eventually(LIMIT, "the relay is ready", || relay.is_ready());
    println!("ready {:.3} s after the start", begun.elapsed().as_secs_f64());
    let status = relay.status();
    assert_eq!(status.queue.messages, MESSAGES);
    assert_eq!(status.account, Account { accepted: MESSAGES, queued: MESSAGES, ..Account::default() });
    assert_eq!((status.spool.quarantined, status.queue.held), (0, 0));

    let returned = primary.return_now();
    let mails = primary.wait_for(MESSAGES as usize, LIMIT);
    let (first, last) = (mails[0].arrived - returned, mails[mails.len() - 1].arrived - returned);
    println!("returned: first message after {:.3} s, last after {:.3} s", first.as_secs_f64(), last.as_secs_f64());
    println!("delivered: {:.0} a second", rate(MESSAGES, last - first));
    relay.until(LIMIT, "nothing waits", |status| status.queue.messages == 0);
    assert_eq!(relay.account(), Account { accepted: MESSAGES, delivered: MESSAGES, ..Account::default() });
    assert_eq!(compare(&load, &sent, &primary), Comparison::default());
}

#[test]
fn a_message_that_heard_250_before_a_kill_in_mid_intake_arrives() {
    let _alone = alone();
    let mut chance = Chance::new();
    for _ in 0..3 {
        let mut primary = Primary::away();
        let mut relay = Relay::before(primary.address()).start();
        let load = load(&mut chance);
        let kill_at = chance.between(500, 5000);
        let sending = load.begin(relay.smtp());
        eventually(LIMIT, "the intake is under way", || sending.accepted() >= kill_at);
        relay.kill9();
        let sent = sending.finish();
        let answered = sent.accepted.len();
        println!("killed after {answered} answers, {} senders heard nothing", sent.unanswered);
        assert!(answered < MESSAGES as usize, "the intake was over before the kill");

        relay.start_again();
        let queued = relay.account().queued;
        let unheard = queued.checked_sub(answered as u64).expect("all that heard 250 are there");
        assert!(unheard <= SESSIONS, "{queued} are there, {answered} heard 250");
        primary.return_now();
        primary.wait_for(queued as usize, LIMIT);
        relay.until(LIMIT, "nothing waits", |status| status.queue.messages == 0);
        let comparison = compare(&load, &sent, &primary);
        assert_eq!(comparison, Comparison { unanswered: unheard, ..Comparison::default() });
    }
}

#[test]
fn a_kill_in_mid_drain_loses_nothing_and_repeats_at_most_one_message_a_connection() {
    let _alone = alone();
    const KILLS: u64 = 3;
    let mut chance = Chance::new();
    let mut primary = Primary::away();
    let mut relay = Relay::before(primary.address()).start();
    let load = load(&mut chance);
    let sent = load.send(relay.smtp());
    assert_eq!(sent.accepted.len() as u64, MESSAGES, "refused: {:?}", sent.refused.first());

    primary.return_now();
    for kill in 0..KILLS {
        let kill_at = (kill * MESSAGES / KILLS + chance.between(200, 2000)) as usize;
        primary.wait_for(kill_at, LIMIT);
        relay.kill9();
        // Away, so that the numbers stand still while they are compared.
        primary.go_away();
        let arrived = primary.count();
        println!("killed after {arrived} arrivals, over {} connections at most", primary.connections_open_max());
        relay.start_again();
        let queued = relay.account().queued;
        // What arrived last may not have been recorded, but no more than one message a connection.
        let least = MESSAGES.saturating_sub(arrived as u64);
        let most = least + (kill + 1) * CONNECTIONS_MAX;
        assert!((least..=most).contains(&queued), "{queued} are queued after {arrived} arrivals");
        primary.return_now();
    }
    relay.until(LIMIT, "nothing waits", |status| status.queue.messages == 0);
    let account = relay.account();
    assert_eq!(account, Account { accepted: MESSAGES, delivered: MESSAGES, ..Account::default() });
    let comparison = compare(&load, &sent, &primary);
    println!("repeated by {KILLS} kills: {}", comparison.repeated);
    assert_eq!(comparison, Comparison { repeated: comparison.repeated, ..Comparison::default() });
    let connections = primary.connections_open_max();
    // A probe is one more: mail does not wait for its goodbye.
    assert!(connections <= CONNECTIONS_MAX + 1, "{connections} connections at a time");
    assert!(comparison.repeated <= KILLS * CONNECTIONS_MAX, "{} repeated by {KILLS} kills", comparison.repeated);
}

#[test]
fn however_often_it_is_killed_what_heard_250_arrives() {
    let _alone = alone();
    let kills = if is_soak() { 200 } else { 30 };
    let mut chance = Chance::new();
    let mut primary = Primary::away();
    let mut relay = Relay::before(primary.address()).config(IMPATIENT).start();
    let (mut stretches, mut is_up, mut kills_while_up) = (Vec::new(), false, 0);
    for kill in 0..kills {
        let (first, seed) = (kill * STRETCH_MESSAGES, chance.below(1 << 20));
        let bytes = [600, 4000, 300_000][chance.below(3) as usize];
        let load = Load { messages: STRETCH_MESSAGES, bytes, sessions: 16, seed };
        let (begun, stretch) = (Instant::now(), chance.time_below(STRETCH_MAX));
        let sending = load.begin_from(first, relay.smtp());
        eventually(LIMIT, "the moment of the kill", || begun.elapsed() >= stretch);
        relay.kill9();
        stretches.push((first, load, sending.finish()));
        kills_while_up += u64::from(is_up);
        // While no relay runs: a cut connection may also be the reason why a message comes twice.
        if chance.below(2) == 0 {
            is_up = !is_up;
            if is_up {
                primary.return_now();
            } else {
                primary.go_away();
            }
        }
        if chance.below(4) == 0 {
            relay.start_and_kill9(chance.time_below(START_MAX));
            kills_while_up += u64::from(is_up);
        }
        relay.start_again();
    }
    if !is_up {
        primary.return_now();
    }
    let done = relay.until(LIMIT, "nothing waits", |status| status.queue.messages == 0);
    assert_eq!((done.account.delivered, done.account.difference()), (done.account.accepted, 0), "{:?}", done.account);

    let mails = primary.mails();
    let (mut taken, mut repeated) = (0, 0);
    for (first, load, sent) in &stretches {
        let ours = first..&(first + STRETCH_MESSAGES);
        let arrived = mails.iter().map(|mail| (&*mail.recipients[0], trace_field::split(&mail.content).1));
        let comparison =
            load.compare(sent, arrived.filter(|(recipient, _)| ours.contains(&&load::number_of(recipient))));
        taken += sent.accepted.len();
        repeated += comparison.repeated;
        assert_eq!((&comparison.missing, &comparison.altered), (&vec![], &vec![]), "of {load:?}");
        assert!(comparison.unanswered <= load.sessions, "{} heard nothing, and arrived", comparison.unanswered);
        assert_eq!(sent.refused, []);
    }
    println!("{kills} kills: {taken} messages were taken, {repeated} arrived twice");
    assert!(taken > kills as usize, "only {taken} messages were taken");
    let connections = primary.connections_open_max();
    assert!(
        repeated <= kills_while_up * connections,
        "{repeated} repeated by {kills_while_up} kills, {connections} connections"
    );
    assert_eq!(primary.violations(), [""; 0]);
}

/// One test at a time, so that the times that they print are theirs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // Another test's failure says nothing about this one.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load(chance: &mut Chance) -> Load {
    Load { messages: MESSAGES, bytes: MESSAGE_BYTES, sessions: SESSIONS, seed: chance.below(1 << 20) }
}

fn rate(messages: u64, time: Duration) -> f64 {
    messages as f64 / time.as_secs_f64()
}

fn compare(load: &Load, sent: &Sent, primary: &Primary) -> Comparison {
    let mails = primary.mails();
    assert_eq!(primary.violations(), [""; 0]);
    load.compare(sent, mails.iter().map(|mail| (&*mail.recipients[0], trace_field::split(&mail.content).1)))
}
