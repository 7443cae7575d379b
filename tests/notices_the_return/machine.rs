//! The primary is a machine of its own, behind a network that drops all packets to it while it is away.

use std::sync::Arc;

use support::netns::Namespace;

use super::*;

/// RFC 5321 has no number; two a second would be a nuisance, and 35 a minute are one each 1.75 s.
const PROBES_A_MINUTE_MAX: f64 = 35.0;
/// Probes so rare that none of them can have found the return, and one failure is enough to count as down.
const RARELY: &str = "primary: {probe: {interval: 30s, intervalWhileQueued: 30s, failureThreshold: 1}}";

/// A primary on a machine of its own, and a relay that it can reach.
struct Scene {
    primary: Primary,
    relay: Relay,
    machine: Arc<Namespace>,
}

impl Scene {
    fn set(config: &str) -> Self {
        let machine = Arc::new(Namespace::new());
        let mut primary = Primary::away_within(&machine);
        primary.return_now();
        let listen = format!("{}:0", machine.outside());
        let relay = Relay::before(primary.address()).address("--listen", &listen).config(config);
        let relay = relay.flags(&["--log-level", "debug"]).start();
        relay.until(LIMIT, "the primary is known to be up", |status| status.primary.state == PrimaryState::Up);
        Self { primary, relay, machine }
    }

    /// Nothing reaches the primary any more, mail comes, and the relay has understood.
    fn begin_outage(&self) {
        self.primary.forget();
        self.machine.drop_packets();
        send(&self.relay, 3);
        self.wait_for_outage(3);
    }

    /// The same, but mail comes when the relay has understood. So no attempt is under way, which would hear nothing until its own
    /// packets are repeated, whatever anybody tells the relay.
    fn begin_outage_without_attempt(&self) {
        self.primary.forget();
        self.machine.drop_packets();
        self.relay.flush();
        self.wait_for_outage(0);
        send(&self.relay, 3);
        self.wait_for_outage(3);
    }

    fn wait_for_outage(&self, messages: u64) {
        let down = |status: &Status| status.primary.state == PrimaryState::Down && status.queue.messages == messages;
        self.relay.until(LIMIT, "the primary is known to be down, and mail waits", down);
    }

    fn end_outage(&self) -> Instant {
        self.machine.pass_packets();
        Instant::now()
    }
}

#[test]
fn the_end_of_an_outage_by_dropped_packets_is_noticed_as_soon() {
    let mut chance = Chance::new();
    let relays = (0..RELAYS).map(|_| chance.number());
    let relays = relays.map(|seed| thread::spawn(move || dropped_outages(seed))).collect();
    expect("from passing packets to first message", &joined(relays), BY_ITSELF_MAX);
}

fn dropped_outages(seed: u64) -> Vec<Duration> {
    let mut chance = Chance::seeded(seed);
    let scene = Scene::set("");
    let outage = |_| {
        scene.begin_outage();
        // Not a wait for anything: it moves the return against the rhythm of the probes.
        thread::sleep(chance.time_below(2 * PROBE_INTERVAL));
        let returned = scene.end_outage();
        let delay = first_arrival(&scene.primary).duration_since(returned);
        settle(&scene.primary, &scene.relay);
        if delay > BY_ITSELF_MAX {
            eprintln!("--- {delay:?}: the end of the relay's log\n{}---", scene.relay.log().end());
        }
        delay
    };
    (0..OUTAGES).map(outage).collect()
}

#[test]
fn a_sign_of_life_ends_an_outage_at_once() {
    let scene = Scene::set(RARELY);
    let relay = scene.relay.smtp();
    let knock = || drop(scene.machine.enter(|| Client::hello(relay).expect("the relay takes connections")));
    let flush = || assert_eq!(scene.relay.flush(), 3);
    let triggers: [(&str, &dyn Fn()); 2] = [("from a flush", &flush), ("from a connection out of the primary", &knock)];
    for (what, trigger) in triggers {
        let mut delays = Vec::new();
        for _ in 0..3 {
            scene.begin_outage_without_attempt();
            scene.end_outage();
            let told = Instant::now();
            trigger();
            delays.push(first_arrival(&scene.primary).duration_since(told));
            settle(&scene.primary, &scene.relay);
        }
        expect(&format!("{what} to the first message"), &delays, WHEN_TOLD_MAX);
    }
}

#[test]
fn a_primary_that_is_away_is_not_asked_too_often() {
    /// Enough for some probes; the promise is about any minute.
    const WATCHED: Duration = Duration::from_secs(12);
    const COUNT: &str = "backupmx_primary_probe_duration_seconds_count";
    let outages: [fn(&mut Scene); 2] = [|scene| scene.machine.drop_packets(), |scene| scene.primary.go_away()];
    thread::scope(|scope| {
        for begin in outages {
            scope.spawn(move || {
                let mut scene = Scene::set("");
                begin(&mut scene);
                send(&scene.relay, 1);
                let down = |status: &Status| status.primary.state == PrimaryState::Down;
                scene.relay.until(LIMIT, "the primary is known to be down", down);
                let before = scene.relay.metric(COUNT);
                // Not a wait for anything: probes are counted meanwhile.
                thread::sleep(WATCHED);
                let probes = scene.relay.metric(COUNT) - before;
                println!("{probes} probes in {WATCHED:?}");
                // One may have been under way.
                assert!(probes <= 1.0 + PROBES_A_MINUTE_MAX * WATCHED.as_secs_f64() / 60.0, "{probes} probes");
                assert!(probes >= 3.0, "{probes} probes");
            });
        }
    });
}
