//! Whether the primary can take mail, and when to look again. One for a primary, never one a message. No I/O, no clock.

use std::time::{Duration, Instant};

use backupmx_relay_api::{config::Probe, status::PrimaryState};
use jiff::Timestamp;

/// Evidence younger than this is as good as new.
const EVIDENCE_AGE: Duration = Duration::from_secs(1);
/// The same for a primary that counts as away and comes to us: it may have returned since, but may come a hundred times a second.
const PRIMARY_CAME_AGE: Duration = Duration::from_millis(200);
/// Until it is believed again: no more than the 35 probes a minute that a primary should have to bear.
const PRIMARY_CAME_AGAIN: Duration = Duration::from_millis(1750);
/// Intervals are shortened by at most this share, so that several relays do not probe in step.
const JITTER_SHARE: f64 = 0.125;

/// So many returns in a row may fail before the pauses grow: single messages that break each connection are no sick primary.
const RELAPSES_QUICK: u32 = 3;

/// What a probe, or a delivery, found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// A probe reached its last rung.
    Answers {
        /// `host:port`.
        host: String,
        /// How long that took.
        took: Duration,
    },
    /// A delivery was answered as it should be.
    Takes {
        /// `host:port`.
        host: String,
    },
    /// TCP connects, but the server closes, refuses, or says what is no SMTP.
    Refuses {
        /// In words.
        reason: String,
    },
    /// TCP does not connect, or the name does not resolve.
    Unreachable {
        /// In words.
        reason: String,
    },
    /// A delivery broke off, or its connection could not be made.
    Broken {
        /// In words.
        reason: String,
    },
    /// A delivery met temporary trouble of the primary's own (docs/delivery.md).
    Troubled {
        /// In words.
        reason: String,
    },
}

/// A point in time, for reckoning and for showing.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// For reckoning: does not jump.
    pub at: Instant,
    /// For people.
    pub clock: Timestamp,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self { at: Instant::now(), clock: Timestamp::now() }
    }
}

/// What a finding changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// The new state.
    pub state: Option<PrimaryState>,
    /// It answers again, after one failure or many: what waited for that can go.
    pub returned: bool,
    /// It was away, or sick, and is not any more.
    pub came_back: bool,
    /// It has taken a message, after it had failed some.
    pub proved: bool,
}

/// What is known of the primary.
#[derive(Debug)]
pub struct Monitor {
    probe: Probe,
    /// Up, down, sick, or not yet known.
    pub state: PrimaryState,
    /// Since when.
    pub since: Timestamp,
    /// When something was last found out.
    pub found_at: Option<Moment>,
    /// What that was, in words.
    pub reason: String,
    /// `host:port` that answered last.
    pub host: Option<String>,
    probed_at: Option<Instant>,
    answers: u32,
    failures: u32,
    /// Probes in a row that it refused, and returns that did not last, but for the first ones: so often the interval doubles.
    refusals: u32,
    /// Returns in a row after which no delivery went well.
    relapses: u32,
    /// It failed deliveries, and none has gone well since, whatever probes say.
    on_probation: bool,
    is_slow: bool,
    /// When the primary itself came to us last while it counted as away.
    came_at: Option<Instant>,
    probe_at_once: bool,
    /// Drawn with each finding, from `0.0..1.0`.
    spread: f64,
}

impl Monitor {
    /// Nothing is known.
    pub fn new(probe: Probe, now: Timestamp) -> Self {
        Self {
            probe,
            state: PrimaryState::Unknown,
            since: now,
            found_at: None,
            reason: "not probed yet".into(),
            host: None,
            probed_at: None,
            answers: 0,
            failures: 0,
            refusals: 0,
            relapses: 0,
            on_probation: false,
            is_slow: false,
            came_at: None,
            probe_at_once: true,
            spread: 0.0,
        }
    }

    /// It is watched in another way from now on; what is known of it stays.
    pub fn reconfigure(&mut self, probe: Probe) {
        self.probe = probe;
    }

    /// Whether what is known holds for these hosts (`host:port`), too, after it was found of those before. The host that answers
    /// must be among them; while none does, there must be no new one.
    pub fn holds_for(&self, hosts: &[String], before: &[String]) -> bool {
        match &self.host {
            Some(host) if self.takes_mail() => hosts.contains(host),
            Some(_) | None => hosts.iter().all(|host| before.contains(host)),
        }
    }

    /// Takes in a finding. `begun`: when the probe began, so that one leaves at each interval however long it takes.
    pub fn found(&mut self, finding: Finding, spread: f64, begun: Moment) -> Change {
        self.found_at = Some(begun);
        self.spread = spread;
        let (had_failed, was_available) = (self.failures > 0, self.takes_mail());
        let proves = matches!(finding, Finding::Takes { .. }) && (had_failed || self.on_probation);
        let failed_as = self.take_in(finding, begun.at);
        let state = match failed_as {
            None if self.answers < self.probe.success_threshold => self.state,
            None if self.is_slow => PrimaryState::Sick,
            None => PrimaryState::Up,
            Some(failed) if self.failures >= self.probe.failure_threshold => failed,
            Some(_) => self.state,
        };
        let changed = state != self.state;
        if changed {
            (self.state, self.since) = (state, begun.clock);
        }
        let returned = failed_as.is_none() && self.takes_mail() && (had_failed || !was_available);
        let came_back = !was_available && self.takes_mail();
        Change { state: changed.then_some(state), returned, came_back, proved: proves }
    }

    /// Counts, and says what the primary is if this goes on; `None` if all was well.
    fn take_in(&mut self, finding: Finding, now: Instant) -> Option<PrimaryState> {
        let is_probe =
            matches!(finding, Finding::Answers { .. } | Finding::Refuses { .. } | Finding::Unreachable { .. });
        if is_probe {
            self.probed_at = Some(now);
        }
        match finding {
            Finding::Answers { host, took } => {
                self.is_slow = took > self.probe.slow_after.0;
                let slowly = format!(", but after {:.1} s", took.as_secs_f64());
                self.well(host, if self.is_slow { &slowly } else { "" });
                None
            }
            Finding::Takes { host } => {
                self.on_probation = false;
                (self.refusals, self.relapses) = (0, 0);
                let slowly = if self.is_slow { ", though slowly" } else { "" };
                self.well(host, slowly);
                None
            }
            Finding::Refuses { reason } => {
                self.refusals = self.refusals.saturating_add(1);
                Some(self.failed(PrimaryState::Sick, reason))
            }
            Finding::Unreachable { reason } => {
                (self.refusals, self.relapses) = (0, 0);
                Some(self.failed(PrimaryState::Down, reason))
            }
            Finding::Broken { reason } => Some(self.delivery_failed(PrimaryState::Down, reason)),
            Finding::Troubled { reason } => Some(self.delivery_failed(PrimaryState::Sick, reason)),
        }
    }

    fn well(&mut self, host: String, slowly: &str) {
        self.answers = self.answers.saturating_add(1);
        self.failures = 0;
        if !self.on_probation {
            self.refusals = 0;
        }
        self.reason = format!("{host} answers{slowly}");
        self.host = Some(host);
    }

    fn failed(&mut self, becomes: PrimaryState, reason: String) -> PrimaryState {
        (self.answers, self.reason) = (0, reason);
        self.failures = self.failures.saturating_add(1);
        becomes
    }

    /// All connections of a drain break at once when a server goes: that is one failure of many. But one that greets well and fails each
    /// delivery is given less and less of them to fail.
    fn delivery_failed(&mut self, becomes: PrimaryState, reason: String) -> PrimaryState {
        let was_available = self.takes_mail();
        self.failed(becomes, reason);
        if self.on_probation && was_available {
            self.failures = self.failures.max(self.probe.failure_threshold);
            self.relapses = self.relapses.saturating_add(1);
            self.refusals = self.refusals.saturating_add(u32::from(self.relapses > RELAPSES_QUICK));
        }
        self.on_probation |= self.failures >= self.probe.failure_threshold;
        becomes
    }

    /// Whether mail can go to it.
    pub fn takes_mail(&self) -> bool {
        let is_only_slow = self.is_slow && self.failures < self.probe.failure_threshold;
        self.state == PrimaryState::Up || (self.state == PrimaryState::Sick && is_only_slow)
    }

    /// Whether a good answer to a delivery would tell anything. Once the primary is down only a probe brings it up
    /// again: answers that were on their way when it went are no sign of life. While it is up, a drain gives thousands a second.
    pub fn is_news(&self, now: Instant) -> bool {
        self.takes_mail() && (self.failures > 0 || self.on_probation || self.knows_nothing_since(EVIDENCE_AGE, now))
    }

    fn knows_nothing_since(&self, age: Duration, now: Instant) -> bool {
        self.found_at.is_none_or(|found| now.duration_since(found.at) > age)
    }

    /// A probe begins: it answers all who wanted to know until now, and nobody who asks while it is under way.
    pub fn probing(&mut self) {
        self.probe_at_once = false;
    }

    /// A probe was turned away because deliveries take all the places that there are: that is no news of the primary.
    pub fn turned_away(&mut self, begun: Moment) {
        (self.found_at, self.probed_at) = (Some(begun), Some(begun.at));
    }

    /// Somebody wants to know now.
    pub fn probe_at_once(&mut self) {
        self.probe_at_once = true;
    }

    /// A client came. True if that is a reason to probe at once. `is_primary`: it is the primary itself, which therefore lives.
    pub fn client_connected(&mut self, is_primary: bool, now: Instant) -> bool {
        let is_stale = self.knows_nothing_since(self.probe.renew_for_client_after.0, now);
        let came_lately = self.came_at.is_some_and(|at| now.duration_since(at) < PRIMARY_CAME_AGAIN);
        let is_back =
            is_primary && !self.takes_mail() && !came_lately && self.knows_nothing_since(PRIMARY_CAME_AGE, now);
        if is_back {
            self.came_at = Some(now);
        }
        self.probe_at_once |= is_stale || is_back;
        is_stale || is_back
    }

    /// When to probe next. `mail_waits`: for the primary to answer. `is_first`: mail goes to the first of its hosts; else that one is
    /// looked for, however well another does.
    pub fn next_probe(&self, mail_waits: bool, is_first: bool, now: Instant) -> Instant {
        let found_at = self.found_at.map(|found| found.at);
        // Only a probe tells whether it is still slow.
        match if is_first && !self.is_slow { found_at } else { self.probed_at } {
            Some(looked_at) if !self.probe_at_once => {
                let interval = self.interval(mail_waits);
                looked_at + interval - interval.mul_f64(JITTER_SHARE * self.spread)
            }
            _ => now,
        }
    }

    fn interval(&self, mail_waits: bool) -> Duration {
        let Probe { interval, interval_while_queued, interval_while_refusing_max, .. } = &self.probe;
        let is_decided = matches!(self.state, PrimaryState::Down | PrimaryState::Sick);
        let undecided = self.failures > 0 && !is_decided;
        let urgent = undecided || (mail_waits && !self.takes_mail());
        if !urgent {
            return interval.0;
        }
        // A server that lives but refuses is starting, or sick: it is asked less and less often.
        let doublings = self.refusals.saturating_sub(1).min(16);
        let backed_off = interval_while_queued.0.saturating_mul(1 << doublings);
        backed_off.min(interval_while_refusing_max.0).max(interval_while_queued.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn refuses() -> Finding {
        Finding::Refuses { reason: "421".into() }
    }

    fn broken() -> Finding {
        Finding::Broken { reason: "closed".into() }
    }

    fn unreachable() -> Finding {
        Finding::Unreachable { reason: "connection refused".into() }
    }

    fn answers() -> Finding {
        Finding::Answers { host: "mx1:25".into(), took: SECOND }
    }

    fn takes() -> Finding {
        Finding::Takes { host: "mx1:25".into() }
    }

    fn troubled() -> Finding {
        Finding::Troubled { reason: "451 4.3.0".into() }
    }

    fn slowly() -> Finding {
        Finding::Answers { host: "mx1:25".into(), took: 6 * SECOND }
    }

    /// Feeds findings a second apart, and returns the state and the seconds until the next probe.
    fn after(findings: &[Finding], mail_waits: bool) -> (PrimaryState, f64) {
        let start = Instant::now();
        let mut monitor = Monitor::new(Probe::default(), Timestamp::UNIX_EPOCH);
        let mut now = start;
        for finding in findings {
            now += SECOND;
            monitor.probing();
            monitor.found(finding.clone(), 0.0, Moment { at: now, clock: Timestamp::UNIX_EPOCH });
        }
        (monitor.state, monitor.next_probe(mail_waits, true, now).duration_since(now).as_secs_f64())
    }

    #[test]
    fn what_is_known_holds_while_the_host_that_answers_stays_or_none_is_new() {
        let names = |hosts: &[&str]| hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let begun = Moment { at: Instant::now(), clock: Timestamp::UNIX_EPOCH };
        let before = names(&["mx1:25", "mx3:25"]);
        let (mut up, mut down) =
            (Monitor::new(Probe::default(), begun.clock), Monitor::new(Probe::default(), begun.clock));
        up.found(Finding::Answers { host: "mx1:25".into(), took: Duration::ZERO }, 0.0, begun);
        (0..3).for_each(|_| _ = down.found(Finding::Unreachable { reason: "gone".into() }, 0.0, begun));
        for (hosts, holds_up, holds_down) in [
            (names(&["mx1:25", "mx3:25"]), true, true),
            (names(&["mx9:25", "mx1:25"]), true, false),
            (names(&["mx1:25"]), true, true),
            (names(&["mx3:25"]), false, true),
            (names(&["mx9:25"]), false, false),
        ] {
            let holds = [&up, &down].map(|monitor| monitor.holds_for(&hosts, &before));
            assert_eq!(holds, [holds_up, holds_down], "{hosts:?}");
        }
    }

    #[test]
    fn states_change_at_their_thresholds() {
        for (findings, state) in [
            (vec![], PrimaryState::Unknown),
            (vec![answers()], PrimaryState::Up),
            (vec![unreachable(); 2], PrimaryState::Unknown),
            (vec![unreachable(); 3], PrimaryState::Down),
            (vec![answers(), refuses(), unreachable()], PrimaryState::Up),
            (vec![answers(), refuses(), refuses(), unreachable()], PrimaryState::Down),
            (vec![answers(), refuses(), unreachable(), refuses()], PrimaryState::Sick),
            (vec![answers(), broken(), broken(), broken()], PrimaryState::Down),
            (vec![answers(), troubled(), troubled(), troubled()], PrimaryState::Sick),
            (vec![answers(), troubled(), troubled(), takes(), troubled()], PrimaryState::Up),
            (vec![slowly()], PrimaryState::Sick),
            (vec![slowly(), answers()], PrimaryState::Up),
            (vec![unreachable(), unreachable(), unreachable(), answers()], PrimaryState::Up),
        ] {
            assert_eq!(after(&findings, false).0, state, "{findings:?}");
        }
    }

    #[test]
    fn probes_are_rare_in_quiet_times_and_frequent_while_it_matters() {
        for (findings, mail_waits, seconds) in [
            (vec![], false, 0.0),
            (vec![answers()], false, 30.0),
            (vec![answers()], true, 30.0), // what waits then waits for its own time
            (vec![answers(), unreachable()], false, 2.0), // until the threshold decides
            (vec![unreachable(); 3], false, 30.0),
            (vec![unreachable(); 3], true, 2.0),
            (vec![unreachable(); 99], true, 2.0),
            (vec![refuses(); 3], true, 8.0),
            (vec![refuses(); 99], true, 30.0),
            (vec![broken(); 20], true, 2.0), // a drain that broke is no reason to look less often
        ] {
            assert_eq!(after(&findings, mail_waits).1, seconds, "{findings:?}, mail waits: {mail_waits}");
        }
    }

    #[test]
    fn a_primary_that_greets_well_and_fails_each_delivery_is_tried_less_and_less_often() {
        let relapses: Vec<_> = std::iter::repeat_n([answers(), troubled()], 6).flatten().collect();
        let sick = [vec![answers()], vec![troubled(); 3]].concat();
        for (more, state, seconds) in [
            (&relapses[..0], PrimaryState::Sick, 2.0),
            (&relapses[..1], PrimaryState::Up, 30.0),
            (&relapses[..2], PrimaryState::Sick, 2.0), // one is enough now
            (&relapses[..8], PrimaryState::Sick, 2.0),
            (&relapses[..10], PrimaryState::Sick, 4.0),
            (&relapses[..], PrimaryState::Sick, 8.0),
        ] {
            assert_eq!(after(&[&sick, more].concat(), true), (state, seconds), "{more:?}");
        }
        let now = Moment { at: Instant::now(), clock: Timestamp::UNIX_EPOCH };
        let mut monitor = Monitor::new(Probe::default(), Timestamp::UNIX_EPOCH);
        let mut proved = |finding| monitor.found(finding, 0.0, now).proved;
        assert!(!sick.iter().cloned().any(&mut proved));
        assert_eq!([answers(), takes(), takes()].map(&mut proved), [false, true, false]);
        let mended = [&sick[..], &[answers(), takes(), troubled()]].concat();
        assert_eq!(after(&mended, true).0, PrimaryState::Up, "a message taken ends the probation");
    }

    #[test]
    fn a_slow_primary_is_sick_and_gets_its_mail_all_the_same() {
        let now = Moment { at: Instant::now(), clock: Timestamp::UNIX_EPOCH };
        let mut monitor = Monitor::new(Probe::default(), Timestamp::UNIX_EPOCH);
        assert!(monitor.found(slowly(), 0.0, now).returned);
        assert!(monitor.takes_mail() && monitor.reason.ends_with("but after 6.0 s"), "{}", monitor.reason);
        for _ in 0..3 {
            monitor.found(refuses(), 0.0, now);
        }
        assert!(!monitor.takes_mail());
    }

    #[test]
    fn the_first_host_is_looked_for_however_well_another_does() {
        let now = Moment { at: Instant::now(), clock: Timestamp::UNIX_EPOCH };
        let later = Moment { at: now.at + 20 * SECOND, ..now };
        let mut monitor = Monitor::new(Probe::default(), Timestamp::UNIX_EPOCH);
        monitor.probing();
        monitor.found(answers(), 0.0, now);
        monitor.found(takes(), 0.0, later);
        assert_eq!(monitor.next_probe(true, true, later.at), later.at + 30 * SECOND);
        assert_eq!(monitor.next_probe(true, false, later.at), now.at + 30 * SECOND);
    }

    #[test]
    fn who_asks_while_a_probe_is_under_way_gets_another_one() {
        let now = Moment { at: Instant::now(), clock: Timestamp::UNIX_EPOCH };
        let mut monitor = Monitor::new(Probe::default(), Timestamp::UNIX_EPOCH);
        monitor.probing();
        monitor.probe_at_once();
        monitor.found(unreachable(), 0.0, now);
        assert_eq!(monitor.next_probe(true, true, now.at), now.at);
    }

    #[test]
    fn late_answers_do_not_bring_a_primary_up_that_went_down() {
        let now = Moment { at: Instant::now(), clock: Timestamp::UNIX_EPOCH };
        let mut monitor = Monitor::new(Probe::default(), Timestamp::UNIX_EPOCH);
        monitor.found(answers(), 0.0, now);
        monitor.found(broken(), 0.0, now);
        assert!(monitor.is_news(now.at), "while it is up, an answer takes the failure back");
        monitor.found(broken(), 0.0, now);
        monitor.found(broken(), 0.0, now);
        assert!(!monitor.is_news(now.at));
    }

    #[test]
    fn a_good_answer_after_any_failure_is_a_return_and_the_next_one_is_not() {
        let now = Moment { at: Instant::now(), clock: Timestamp::UNIX_EPOCH };
        let mut monitor = Monitor::new(Probe::default(), Timestamp::UNIX_EPOCH);
        let mut returned = |finding| monitor.found(finding, 0.0, now).returned;
        assert_eq!(
            [answers(), answers(), broken(), answers(), answers()].map(&mut returned),
            [true, false, false, true, false]
        );
    }

    #[test]
    fn jitter_shortens_an_interval_by_an_eighth_at_most() {
        let now = Moment { at: Instant::now(), clock: Timestamp::UNIX_EPOCH };
        let mut monitor = Monitor::new(Probe::default(), Timestamp::UNIX_EPOCH);
        monitor.probing();
        monitor.found(unreachable(), 1.0, now);
        assert_eq!(monitor.next_probe(true, true, now.at), now.at + Duration::from_millis(1750));
    }

    #[test]
    fn a_primary_that_is_away_and_comes_to_us_is_looked_at_again() {
        let now = Moment { at: Instant::now(), clock: Timestamp::UNIX_EPOCH };
        let mut monitor = Monitor::new(Probe::default(), Timestamp::UNIX_EPOCH);
        monitor.found(answers(), 0.0, now);
        assert!(!monitor.client_connected(true, now.at + SECOND), "it is known to be up");
        for _ in 0..3 {
            monitor.found(unreachable(), 0.0, now);
        }
        assert!(!monitor.client_connected(true, now.at + SECOND / 10));
        assert!(!monitor.client_connected(false, now.at + SECOND / 2));
        assert!(monitor.client_connected(true, now.at + SECOND / 2));
        assert!(!monitor.client_connected(true, now.at + SECOND), "it may come a hundred times a second");
        assert!(monitor.client_connected(true, now.at + 3 * SECOND));
    }

    #[test]
    fn a_client_renews_a_probe_that_is_older_than_five_seconds() {
        let now = Moment { at: Instant::now(), clock: Timestamp::UNIX_EPOCH };
        let mut monitor = Monitor::new(Probe::default(), Timestamp::UNIX_EPOCH);
        monitor.probing();
        monitor.found(answers(), 0.0, now);
        assert!(!monitor.client_connected(false, now.at + 5 * SECOND));
        assert_eq!(monitor.next_probe(false, true, now.at), now.at + 30 * SECOND);
        assert!(monitor.client_connected(false, now.at + 6 * SECOND));
        assert_eq!(monitor.next_probe(false, true, now.at + 6 * SECOND), now.at + 6 * SECOND);
    }
}
