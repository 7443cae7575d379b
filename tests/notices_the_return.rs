//! The relay notices by itself that the primary is back, within seconds; told to look, at once.

use std::{
    thread,
    time::{Duration, Instant},
};

use backupmx_relay_api::status::{PrimaryState, Status};
use support::{Client, Envelope, Primary, Relay, chance::Chance, load::Load};

#[path = "notices_the_return/machine.rs"]
mod machine;

/// From the primary's port being open to its first message.
const BY_ITSELF_MAX: Duration = Duration::from_secs(3);
/// From the order to the first message.
const WHEN_TOLD_MAX: Duration = Duration::from_millis(500);
/// Between two probes while mail waits, as it is by default. An outage ends anywhere between two of them.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// So many relays with so many outages each: ten, without the time of ten.
const RELAYS: u64 = 5;
const OUTAGES: usize = 2;
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn mail_leaves_within_three_seconds_of_the_primarys_return() {
    let mut chance = Chance::new();
    let relays: Vec<_> =
        (0..RELAYS).map(|_| chance.number()).map(|seed| thread::spawn(move || outages(seed))).collect();
    expect("from return to first message", &joined(relays), BY_ITSELF_MAX);
}

#[test]
fn a_primary_behind_a_filter_that_drops_connections_is_noticed_as_soon() {
    let mut chance = Chance::new();
    let relays: Vec<_> =
        (0..RELAYS).map(|_| chance.number()).map(|seed| thread::spawn(move || vec![silent_outage(seed)])).collect();
    expect("from return out of silence to first message", &joined(relays), BY_ITSELF_MAX);
}

fn silent_outage(seed: u64) -> Duration {
    let mut chance = Chance::seeded(seed);
    let mut primary = Primary::start();
    let relay = Relay::before(primary.address()).flags(&["--log-level", "debug"]).start();
    outage_with_mail(&mut primary, &relay);
    primary.fall_silent();
    // Not a wait for anything: probes that hear nothing get into their own rhythm, and the return falls anywhere in it.
    thread::sleep(PROBE_INTERVAL + chance.time_below(2 * PROBE_INTERVAL));
    let returned = primary.return_now();
    let delay = first_arrival(&primary).duration_since(returned);
    if delay > BY_ITSELF_MAX {
        eprintln!("--- {delay:?}: the end of the relay's log\n{}---", relay.log().end());
    }
    delay
}

fn joined(relays: Vec<thread::JoinHandle<Vec<Duration>>>) -> Vec<Duration> {
    relays.into_iter().flat_map(|relay| relay.join().expect("each relay did its part")).collect()
}

fn outages(seed: u64) -> Vec<Duration> {
    let mut chance = Chance::seeded(seed);
    let mut primary = Primary::start();
    // Each probe is in that log, which is shown if one of them came too late.
    let relay = Relay::before(primary.address()).flags(&["--log-level", "debug"]).start();
    let outage = |_| {
        outage_with_mail(&mut primary, &relay);
        // Not a wait for anything: it moves the return against the rhythm of the probes.
        thread::sleep(chance.time_below(PROBE_INTERVAL));
        let returned = primary.return_now();
        let delay = first_arrival(&primary).duration_since(returned);
        settle(&primary, &relay);
        if delay > BY_ITSELF_MAX {
            eprintln!("--- {delay:?}: the end of the relay's log\n{}---", relay.log().end());
        }
        delay
    };
    (0..OUTAGES).map(outage).collect()
}

#[test]
fn a_primary_that_went_in_mid_drain_is_not_looked_for_less_often() {
    let mut primary = Primary::away();
    let relay = Relay::before(primary.address()).flags(&["--log-level", "debug"]).start();
    let load = Load { messages: 3000, bytes: 4096, sessions: 16, seed: 5 };
    assert_eq!(load.send(relay.smtp()).accepted.len(), 3000);
    primary.return_now();
    primary.wait_for(200, LIMIT);
    // Every connection that it cuts is a failed delivery, but not a server that lives and refuses.
    primary.go_away();
    relay.until(LIMIT, "the primary is known to be down", |status| status.primary.state == PrimaryState::Down);
    primary.forget();
    assert_ne!(relay.account().queued, 0, "the drain was over before the primary went: send more messages");
    let returned = primary.return_now();
    expect("from return to first message", &[first_arrival(&primary).duration_since(returned)], BY_ITSELF_MAX);
}

#[test]
fn mail_leaves_within_half_a_second_of_a_flush() {
    let mut primary = Primary::start();
    // Probes so rare that none of them can have found it, and one failure is enough to count as down.
    let rarely = "primary:\n  probe:\n    interval: 30s\n    intervalWhileQueued: 30s\n    failureThreshold: 1\n";
    let relay = Relay::before(primary.address()).config(rarely).start();
    let mut delays = Vec::new();
    for _ in 0..10 {
        outage_with_mail(&mut primary, &relay);
        primary.return_now();
        let told = Instant::now();
        assert_eq!(relay.flush(), 3);
        delays.push(first_arrival(&primary).duration_since(told));
        settle(&primary, &relay);
    }
    expect("from flush to first message", &delays, WHEN_TOLD_MAX);
}

#[test]
fn a_flush_while_the_primary_is_away_does_no_harm() {
    let mut primary = Primary::away();
    let relay = Relay::before(primary.address()).start();
    send(&relay, 2);
    for _ in 0..5 {
        assert_eq!(relay.flush(), 2);
    }
    assert_eq!(relay.account().queued, 2);
    primary.return_now();
    primary.wait_for(2, LIMIT);
}

/// The primary goes, mail comes, and the relay has understood that the primary is down.
fn outage_with_mail(primary: &mut Primary, relay: &Relay) {
    primary.go_away();
    primary.forget();
    send(relay, 3);
    let down = |status: &Status| status.primary.state == PrimaryState::Down && status.queue.messages == 3;
    relay.until(LIMIT, "the primary is known to be down, and mail waits", down);
}

fn send(relay: &Relay, messages: usize) {
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    for _ in 0..messages {
        let reply = client.send(&Envelope::to("bob"), b"Subject: x\r\n\r\nbody\r\n").expect("the relay answers");
        assert!(reply.is("250 2.0.0"), "{reply}");
    }
}

fn first_arrival(primary: &Primary) -> Instant {
    primary.wait_for(1, LIMIT)[0].arrived
}

/// All of this outage's mail has left, so that the next one begins like the first.
fn settle(primary: &Primary, relay: &Relay) {
    primary.wait_for(3, LIMIT);
    let up = |status: &Status| status.primary.state == PrimaryState::Up && status.queue.messages == 0;
    relay.until(LIMIT, "the primary is known to be up, and nothing waits", up);
}

fn expect(what: &str, delays: &[Duration], limit: Duration) {
    let seconds: Vec<_> = delays.iter().map(|delay| format!("{:.3}", delay.as_secs_f64())).collect();
    println!("seconds {what}: {}", seconds.join(" "));
    let worst = delays.iter().max().expect("there were outages");
    assert!(*worst <= limit, "{what}: {worst:?}, {limit:?} was promised");
}
