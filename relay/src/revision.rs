//! When the status document's revision grows, from one look at the document to the next. No I/O, no clock.
//!
//! | what changed | the revision grows |
//! |---|---|
//! | a state: all that a person or the operator would act on | at once |
//! | whether mail waits, and whether it leaves | at once; as numbers while it changes again and again, as it does with mail coming and going |
//! | numbers | [`NUMBERS_INTERVAL`] after it last grew |
//! | times that go on by themselves, and a little of the free room | never |

use std::time::{Duration, Instant};

use backupmx_relay_api::status::{
    Account, Breaker, Capabilities, Clients, Drain, DrainState, Judges, Outage, Primary, Queue, Spool, Status,
};

/// Often enough for people who watch numbers, seldom enough for all who are told of each change.
pub const NUMBERS_INTERVAL: Duration = Duration::from_secs(2);
/// For so long mail must have come and gone at most once for its next coming or going to be told at once. Three times the interval of
/// numbers: then both together are told no more often than numbers alone, whatever the rhythm of the mail is.
const CALM: Duration = Duration::from_secs(6);
/// Free room is news once it has changed by this share of itself; on a volume that others use, too, it never stands still.
const FREE_SHARE: u64 = 16;
/// And by this at least: a segment of the log is made and removed as a whole.
const FREE_BYTES_MIN: u64 = 64 << 20;

/// The revision, and the document that it stands for.
#[derive(Default, Debug)]
pub struct Revision {
    number: u64,
    told: Option<Told>,
    flow: Option<Flow>,
    /// When the flow changed: the last three times, oldest first.
    moved_at: [Option<Instant>; 3],
}

/// What those know who know the revision.
#[derive(Debug)]
struct Told {
    at: Instant,
    state: Status,
    flow: Flow,
    numbers: Status,
    free_bytes: u64,
}

/// Whether mail waits and leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Flow {
    state: DrainState,
    is_empty: bool,
}

impl Revision {
    /// Looks at the document as of `now`. Returns the revision: 1 at the first look.
    pub fn look(&mut self, status: &Status, now: Instant) -> u64 {
        let (state, flow, numbers) = (state(status), Flow::of(status), numbers(status));
        let free_bytes = status.spool.free_bytes;
        if self.flow.replace(flow).is_some_and(|before| before != flow) {
            let [_, second, last] = self.moved_at;
            self.moved_at = [second, last, Some(now)];
        }
        let grows = self.told.as_ref().is_none_or(|told| {
            let is_calm = self.moved_at[0].is_none_or(|moved| now.duration_since(moved) >= CALM);
            let is_time = now.duration_since(told.at) >= NUMBERS_INTERVAL;
            state != told.state
                || flow != told.flow && is_calm
                || is_time && (numbers != told.numbers || is_news(told.free_bytes, free_bytes))
        });
        if grows {
            self.number += 1;
            self.told = Some(Told { at: now, state, flow, numbers, free_bytes });
        }
        self.number
    }
}

impl Flow {
    fn of(status: &Status) -> Self {
        Self { state: status.drain.state, is_empty: status.queue.messages == 0 }
    }
}

fn is_news(told_bytes: u64, free_bytes: u64) -> bool {
    told_bytes.abs_diff(free_bytes) >= FREE_BYTES_MIN.max(told_bytes / FREE_SHARE)
}

/// The document with its states alone. Each field is named, so that a new one is decided on.
fn state(status: &Status) -> Status {
    let Status {
        version,
        schema,
        hostname,
        config_generation,
        revision: _,
        started_at,
        primary,
        queue: _,
        drain,
        spool,
        account: _,
        sessions: _,
        config,
        clients,
        cordoned,
        outages,
        tls,
        capabilities,
        problems,
    } = status.clone();
    let Primary { state, since, last_probe: _, reason, host, egress_address: _, judges } = primary;
    let judges = judges.map(|Judges { since, reason }| Judges { since, reason: shape(&reason) });
    let Drain { hold, breaker, state: _, messages_per_second: _, connections: _, .. } = drain;
    let Spool { writable, quarantined, bytes: _, free_bytes: _ } = spool;
    let Clients { only, sessions: _, addresses: _ } = clients;
    let breaker = breaker.map(|Breaker { since, reason, next_test: _ }| Breaker {
        since,
        reason: shape(&reason),
        next_test: String::new(),
    });
    Status {
        version,
        schema,
        hostname,
        config_generation,
        revision: 0,
        started_at,
        primary: Primary { state, since, last_probe: None, reason: shape(&reason), host, egress_address: None, judges },
        queue: Queue { messages: 0, bytes: 0, oldest: None, held: 0 },
        drain: Drain {
            state: DrainState::Idle,
            messages_per_second: 0.0,
            connections: 0,
            connections_allowed: 0,
            estimated_empty: None,
            hold,
            breaker,
        },
        spool: Spool { bytes: 0, free_bytes: 0, writable, quarantined },
        account: Account::default(),
        sessions: 0,
        config,
        clients: Clients { only, ..Clients::default() },
        cordoned,
        outages: outages.into_iter().map(|outage| Outage { messages: 0, bytes: 0, ..outage }).collect(),
        tls,
        capabilities: Capabilities { seen_at: None, ..capabilities },
        problems: problems.iter().map(|problem| shape(problem)).collect(),
    }
}

/// The document without what goes on by itself.
fn numbers(status: &Status) -> Status {
    let mut numbers = status.clone();
    numbers.revision = 0;
    numbers.primary.last_probe = None;
    numbers.drain.estimated_empty = None;
    numbers.spool.free_bytes = 0;
    if let Some(breaker) = &mut numbers.drain.breaker {
        breaker.next_test.clear(); // reckoned anew at each look
    }
    numbers
}

/// A sentence without the words that hold digits: how many, how long, and the marks that servers put into their replies.
fn shape(words: &str) -> String {
    let kept: Vec<_> = words.split(' ').filter(|word| !word.contains(|c: char| c.is_ascii_digit())).collect();
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use backupmx_relay_api::status::{Certificate, Config, Hold, PrimaryState, RefusedConfig};

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);
    /// How often the driver looks.
    const LOOK: Duration = Duration::from_millis(200);

    fn quiet() -> Status {
        Status {
            version: "1".into(),
            schema: 1,
            hostname: "mx2.example.org".into(),
            config_generation: 1,
            revision: 0,
            started_at: "2026-11-27T12:00:00Z".into(),
            primary: Primary {
                state: PrimaryState::Up,
                since: "2026-11-27T12:00:00Z".into(),
                last_probe: None,
                reason: "mx1:25 answers".into(),
                host: Some("mx1:25".into()),
                egress_address: None,
                judges: None,
            },
            queue: Queue { messages: 0, bytes: 0, oldest: None, held: 0 },
            drain: Drain {
                state: DrainState::Idle,
                messages_per_second: 0.0,
                connections: 0,
                connections_allowed: 1,
                estimated_empty: None,
                hold: None,
                breaker: None,
            },
            spool: Spool { bytes: 1 << 20, free_bytes: 10 << 30, writable: true, quarantined: 0 },
            account: Account::default(),
            sessions: 0,
            config: Config::default(),
            clients: Clients::default(),
            cordoned: false,
            outages: vec![Outage { from: "2026-11-26T12:00:00Z".into(), ..Outage::default() }],
            tls: vec![Certificate { name: "mx2.example.org".into(), not_after: "2026-12-27T12:00:00Z".into() }],
            capabilities: Capabilities {
                size: 1,
                eight_bit_mime: true,
                smtputf8: false,
                dsn: false,
                seen_at: Some("2026-11-27T12:00:00Z".into()),
            },
            problems: vec!["Mail is held, in so many messages: 3 undeliverable.".into()],
        }
    }

    /// A change by its name.
    type Named = (&'static str, fn(&mut Status));

    fn hold() -> Option<Hold> {
        Some(Hold { since: "x".into(), by: "ann".into(), reason: "restore".into() })
    }

    fn open(next_test: &str) -> Option<Breaker> {
        Some(Breaker { since: "x".into(), reason: "550 no".into(), next_test: next_test.into() })
    }

    const STATES: &[Named] = &[
        ("hostname", |status| status.hostname.push('x')),
        ("config generation", |status| status.config_generation = 2),
        ("start", |status| status.started_at.push('x')),
        ("primary", |status| status.primary.state = PrimaryState::Down),
        ("since", |status| status.primary.since.push('x')),
        ("reason", |status| status.primary.reason = "connect to mx1:25: connection refused".into()),
        ("host", |status| status.primary.host = Some("mx3:25".into())),
        ("hold", |status| status.drain.hold = hold()),
        ("breaker", |status| status.drain.breaker = open("soon")),
        ("writable", |status| status.spool.writable = false),
        ("quarantined", |status| status.spool.quarantined = 1),
        ("config", |status| status.config.digest = Some("x".into())),
        ("refused config", |status| status.config.refused = Some(RefusedConfig::default())),
        ("sole client", |status| status.clients.only = Some("192.0.2.7".into())),
        ("cordoned", |status| status.cordoned = true),
        ("outage began", |status| status.outages.insert(0, Outage::default())),
        ("outage ended", |status| status.outages[0].until = Some("x".into())),
        ("all of an outage delivered", |status| status.outages[0].last_delivered = Some("x".into())),
        ("certificate", |status| status.tls[0].not_after.push('x')),
        ("no certificate", |status| status.tls.clear()),
        ("capabilities", |status| status.capabilities.dsn = true),
        ("another problem", |status| status.problems.push("The volume is nearly full.".into())),
        ("no problem", |status| status.problems.clear()),
        ("another reason to hold", |status| status.problems[0] = "Mail is held: 3 damaged.".into()),
    ];
    const FLOWS: &[Named] = &[
        ("first mail", |status| status.queue.messages = 1),
        ("mail waits", |status| status.drain.state = DrainState::Waiting),
        ("mail leaves", |status| status.drain.state = DrainState::Draining),
    ];
    const NUMBERS: &[Named] = &[
        ("held", |status| status.queue.held = 1),
        ("queue bytes", |status| status.queue.bytes = 1),
        ("oldest", |status| status.queue.oldest = Some("x".into())),
        ("rate", |status| status.drain.messages_per_second = 1.0),
        ("connections", |status| status.drain.connections = 1),
        ("allowed", |status| status.drain.connections_allowed = 2),
        ("spool", |status| status.spool.bytes += 1),
        ("much free room", |status| status.spool.free_bytes -= 1 << 30),
        ("account", |status| status.account.accepted += 1),
        ("sessions", |status| status.sessions = 1),
        ("clients", |status| status.clients.sessions = 1),
        ("addresses", |status| status.clients.addresses = 1),
        ("egress address", |status| status.primary.egress_address = Some("192.0.2.1".into())),
        ("messages of an outage", |status| status.outages[0].messages = 1),
        ("seen again", |status| status.capabilities.seen_at = None),
        ("how long it took", |status| status.primary.reason = "mx1:2525 answers".into()),
        ("how many are held", |status| status.problems[0] = status.problems[0].replace('3', "4")),
    ];
    const NEVER: &[Named] = &[
        ("nothing", |_| {}),
        ("probe", |status| status.primary.last_probe = Some("x".into())),
        ("estimate", |status| status.drain.estimated_empty = Some("x".into())),
        ("a little free room", |status| status.spool.free_bytes -= 300 << 20),
        ("revision", |status| status.revision = 7),
    ];

    /// After how long the revision grows if this changes right after it grew; `None` if it does not within a minute.
    fn after(change: fn(&mut Status)) -> Option<Duration> {
        let (mut revision, mut status, start) = (Revision::default(), quiet(), Instant::now());
        assert_eq!(revision.look(&status, start), 1);
        change(&mut status);
        (1..600).map(|ms| 100 * ms * MS).find(|passed| revision.look(&status, start + *passed) > 1)
    }

    #[test]
    fn it_grows_at_once_with_states_later_with_numbers_and_never_with_what_goes_on_by_itself() {
        let cases = [(STATES, Some(100 * MS)), (FLOWS, Some(100 * MS)), (NUMBERS, Some(2 * SECOND)), (NEVER, None)];
        for (changes, expected) in cases {
            for (name, change) in changes {
                assert_eq!(after(*change), expected, "{name}");
            }
        }
    }

    #[test]
    fn the_time_of_the_next_test_is_no_news() {
        let (mut revision, mut status, start) = (Revision::default(), quiet(), Instant::now());
        for seconds in 0..600 {
            status.drain.breaker = open(&format!("in {seconds}"));
            assert_eq!(revision.look(&status, start + seconds * SECOND), 1);
        }
    }

    /// Looks every [`LOOK`] for this long, at what `change` makes of the document. Returns when it grew.
    fn growth(during: Duration, mut change: impl FnMut(&mut Status, u32)) -> Vec<Duration> {
        let (mut revision, mut status, start) = (Revision::default(), quiet(), Instant::now());
        let looks = (during.as_millis() / LOOK.as_millis()) as u32;
        let mut before = revision.look(&status, start);
        let grew = |look: u32| {
            change(&mut status, look);
            let number = revision.look(&status, start + look * LOOK);
            (std::mem::replace(&mut before, number) != number).then_some(look * LOOK)
        };
        (1..=looks).filter_map(grew).collect()
    }

    #[test]
    fn mail_that_only_comes_makes_it_grow_at_once_and_then_every_two_seconds() {
        let times = growth(60 * SECOND, |status, look| status.queue.messages = u64::from(look));
        assert_eq!(times[0], LOOK);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == NUMBERS_INTERVAL), "{times:?}");
        assert_eq!(times.len(), 30);
    }

    #[test]
    fn mail_that_comes_and_goes_makes_it_grow_no_more_often() {
        for rhythm in 2..=60 {
            for stays in 1..rhythm {
                let times = growth(600 * SECOND, |status, look| {
                    let waits = look >= rhythm && look % rhythm < stays;
                    status.queue.messages = u64::from(waits);
                    status.drain.state = if waits { DrainState::Draining } else { DrainState::Idle };
                    status.account.accepted += u64::from(look % rhythm == 0);
                });
                let said = format!("every {rhythm} looks for {stays}: {} times in 600 s", times.len());
                assert!(times.len() <= 302, "{said}");
                assert_eq!(times[0], rhythm * LOOK, "{said}: the first one is told at once");
                assert_eq!(times[1], (rhythm + stays) * LOOK, "{said}: and that it went");
            }
        }
    }

    #[test]
    fn a_state_is_told_at_once_in_the_middle_of_the_mail() {
        let down = 100;
        let times = growth(60 * SECOND, |status, look| {
            status.queue.messages = u64::from(look % 2);
            status.account.accepted += 1;
            if look == down {
                status.primary.state = PrimaryState::Down;
            }
        });
        assert!(times.contains(&(down * LOOK)), "{times:?}");
    }

    #[test]
    fn what_changed_is_told_at_last_whatever_the_order() {
        for seed in 0..200 {
            let (mut chance, mut revision, mut now) = (Chance(seed), Revision::default(), Instant::now());
            revision.look(&quiet(), now);
            for _ in 0..50 {
                let all = [STATES, FLOWS, NUMBERS].concat();
                let (name, change) = all[chance.below(all.len())];
                let mut status = quiet();
                change(&mut status);
                now += MS * chance.below(5000) as u32;
                let at_once = revision.look(&status, now);
                let later = revision.look(&status, now + NUMBERS_INTERVAL);
                assert_eq!(
                    revision.look(&status, now + 10 * SECOND),
                    later,
                    "seed {seed}, {name}: all is told by then"
                );
                assert!(later - at_once <= 1, "seed {seed}, {name}");
                now += 10 * SECOND;
            }
        }
    }

    /// A generator that is good enough to mix things up (Knuth's MMIX).
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % bound
        }
    }
}
