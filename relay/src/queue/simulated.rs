//! The pace against a model of a primary, in simulated time: what it makes of the whole, rather than of one answer.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use super::pace::{Answer, Pace};

const CONNECTIONS_MAX: usize = 20;
const REMEMBER_LIMIT: Duration = Duration::from_secs(600);
/// Until a connection is as far as EHLO, or turned away.
const GREETING: Duration = Duration::from_millis(5);
/// As `maxMessagesPerConnection`.
const MESSAGES_PER_CONNECTION_MAX: usize = 200;

/// What the primary can bear.
#[derive(Clone, Copy, Debug)]
struct Server {
    /// Messages a second at most, however many connections there are.
    capacity: u32,
    /// One message takes this if nothing else is there.
    base: Duration,
    /// More connections than these are turned away.
    connections_max: usize,
}

/// Something happens to a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    Greeted { begun: Duration },
    Answered { begun: Duration, messages: usize },
}

/// A drain that always has work.
struct Drain {
    server: Server,
    pace: Pace,
    start: Instant,
    now: Duration,
    events: BinaryHeap<Reverse<(Duration, Event)>>,
    connecting: usize,
    served: usize,
    chance: u64,
    seen: Seen,
}

/// What is counted.
#[derive(Clone, Copy, Default, Debug)]
struct Seen {
    taken: usize,
    begun: usize,
    turned_away: usize,
    /// At the end.
    allowed: usize,
}

impl Drain {
    fn new(server: Server, seed: u64) -> Self {
        Self {
            server,
            pace: Pace::new(CONNECTIONS_MAX, REMEMBER_LIMIT),
            start: Instant::now(),
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            connecting: 0,
            served: 0,
            chance: seed,
            seen: Seen::default(),
        }
    }

    /// What is seen from `warm` on, until `end`.
    fn run(mut self, warm: Duration, end: Duration) -> Seen {
        let mut before = Seen::default();
        self.connect();
        while let Some(Reverse((at, event))) = self.events.pop().filter(|Reverse((at, _))| *at < end) {
            if self.now < warm && at >= warm {
                before = self.seen;
            }
            self.now = at;
            match event {
                Event::Greeted { begun } => self.greeted(begun),
                Event::Answered { begun, messages } => self.answered(begun, messages),
            }
            self.connect();
        }
        let Seen { taken, begun, turned_away, .. } = self.seen;
        Seen {
            taken: taken - before.taken,
            begun: begun - before.begun,
            turned_away: turned_away - before.turned_away,
            allowed: self.pace.allowed(),
        }
    }

    fn connect(&mut self) {
        while self.connecting + self.served < self.pace.allowed() {
            self.connecting += 1;
            self.seen.begun += 1;
            self.events.push(Reverse((self.now + GREETING, Event::Greeted { begun: self.now })));
        }
    }

    fn greeted(&mut self, begun: Duration) {
        self.connecting -= 1;
        if self.served < self.server.connections_max {
            self.served += 1;
            return self.hand_over(0);
        }
        self.seen.turned_away += 1;
        self.pace.turned_away(self.now - begun, self.served, self.start + self.now);
    }

    fn hand_over(&mut self, messages: usize) {
        let row = Duration::from_secs(self.served as u64) / self.server.capacity;
        // Messages differ: a fifth shorter to a fifth longer (xorshift).
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let takes = self.server.base.max(row) * (80 + (self.chance % 41) as u32) / 100;
        self.events.push(Reverse((self.now + takes, Event::Answered { begun: self.now, messages })));
    }

    fn answered(&mut self, begun: Duration, messages: usize) {
        let used = self.connecting + self.served;
        self.seen.taken += 1;
        self.pace.answered(self.now - begun, Answer::Taken, used, self.start + self.now);
        let messages = messages + 1;
        if messages < MESSAGES_PER_CONNECTION_MAX && used <= self.pace.allowed() {
            return self.hand_over(messages);
        }
        self.served -= 1;
    }
}

#[test]
fn a_primary_gets_at_least_nine_tenths_of_what_it_can_take_and_few_connections_that_it_turns_away() {
    let free = usize::MAX;
    for (capacity, base_ms, connections_max) in [
        (10, 1, free),    // one connection is enough
        (50, 20, free),   // the same, at the edge
        (100, 50, free),  // five
        (100, 120, free), // twelve
        (500, 20, free),  // ten
        (900, 20, free),  // nearly all
        (5, 1000, free),  // five slow ones
        (100, 50, 8),     // more than it needs, fewer than ours
        (400, 10, 10),    // four of ten
        (40, 100, 6),
        (20, 50, 3),
    ] {
        let server = Server { capacity, base: Duration::from_millis(base_ms), connections_max };
        for seed in 1..=2 {
            let (warm, end) = (Duration::from_secs(60), Duration::from_secs(1500));
            let seen = Drain::new(server, seed).run(warm, end);
            let best = f64::from(capacity) * (end - warm).as_secs_f64();
            let (share, away) = (seen.taken as f64 / best, seen.turned_away as f64 / seen.begun as f64);
            assert!(share >= 0.9, "{server:?}, seed {seed}: {share:.3} of its capacity, {seen:?}");
            assert!(away <= 0.02, "{server:?}, seed {seed}: {away:.3} turned away, {seen:?}");
        }
    }
}

#[test]
fn a_returned_primary_is_at_full_speed_within_seconds() {
    // 1.5 s a message, as with a scanner of content in between: twelve connections make 8 messages a second.
    let server = Server { capacity: 8, base: Duration::from_millis(1500), connections_max: usize::MAX };
    for seed in 1..=20 {
        let seen = Drain::new(server, seed).run(Duration::from_secs(10), Duration::from_secs(70));
        assert!(seen.taken >= 8 * 60 * 9 / 10, "seed {seed}: {seen:?}");
    }
}

#[test]
fn a_primary_does_not_meet_many_more_connections_than_it_can_use() {
    // Those it can use, and twice as many before it is slow; the first round of answers begins with fewer than it ends with.
    for (capacity, base_ms, useful, met_max) in [(100, 50, 5, 14), (20, 150, 3, 11), (5, 1000, 5, 14), (50, 20, 1, 10)]
    {
        let server = Server { capacity, base: Duration::from_millis(base_ms), connections_max: usize::MAX };
        for seed in 1..=20 {
            let seen = Drain::new(server, seed).run(Duration::ZERO, Duration::from_secs(500));
            assert!((useful..=met_max).contains(&seen.allowed), "{server:?}, seed {seed}: {seen:?}");
        }
    }
}
