//! Whether the primary can take mail, and when to look again. One for a primary, never one a message. No I/O, no clock.

use std::time::{Duration, Instant};

use backupmx_relay_api::{config::Probe, status::PrimaryState};
use jiff::Timestamp;

/// A probe older than this is renewed when a client connects: senders that come to us have often just failed there.
const CLIENT_PROBE_AGE: Duration = Duration::from_secs(5);
/// Evidence younger than this is as good as new.
const EVIDENCE_AGE: Duration = Duration::from_secs(1);
/// Intervals are shortened by at most this share, so that several relays do not probe in step.
const JITTER_SHARE: f64 = 0.125;

/// What a probe, or a delivery, found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// It got as far as EHLO.
    Answers {
        /// `host:port`.
        host: String,
    },
    /// TCP connects, but the server closes, refuses, or says what is no SMTP.
    Refuses {
        /// In words.
        reason: String,
    },
    /// A delivery broke off, or its connection could not be made.
    Broken {
        /// In words.
        reason: String,
    },
    /// TCP does not connect, or the name does not resolve.
    Unreachable {
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

/// What a finding changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// The new state.
    pub state: Option<PrimaryState>,
    /// It answers again, after one failure or many: what waited for that can go.
    pub returned: bool,
}

/// What is known of the primary.
#[derive(Debug)]
pub struct Monitor {
    probe: Probe,
    /// Up, down, or not yet known.
    pub state: PrimaryState,
    /// Since when.
    pub since: Timestamp,
    /// When something was last found out.
    pub found_at: Option<Moment>,
    /// What that was, in words.
    pub reason: String,
    /// `host:port` that answered last.
    pub host: Option<String>,
    answers: u32,
    failures: u32,
    refusals: u32,
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
            answers: 0,
            failures: 0,
            refusals: 0,
            probe_at_once: true,
            spread: 0.0,
        }
    }

    /// Takes in a finding. `begun`: when the probe began, so that one leaves at each interval however long it takes.
    pub fn found(&mut self, finding: Finding, spread: f64, begun: Moment) -> Change {
        self.found_at = Some(begun);
        self.spread = spread;
        let had_failed = self.failures > 0;
        let refused = matches!(finding, Finding::Refuses { .. });
        match finding {
            Finding::Answers { host } => {
                self.answers = self.answers.saturating_add(1);
                (self.failures, self.refusals) = (0, 0);
                self.reason = format!("{host} answers");
                self.host = Some(host);
            }
            Finding::Refuses { reason } | Finding::Unreachable { reason } | Finding::Broken { reason } => {
                self.answers = 0;
                self.failures = self.failures.saturating_add(1);
                // Only probes count here: all connections of a drain break at once when a server goes.
                self.refusals = if refused { self.refusals.saturating_add(1) } else { 0 };
                self.reason = reason;
            }
        }
        let state = if self.answers >= self.probe.success_threshold {
            PrimaryState::Up
        } else if self.failures >= self.probe.failure_threshold {
            PrimaryState::Down
        } else {
            self.state
        };
        let changed = state != self.state;
        if changed {
            (self.state, self.since) = (state, begun.clock);
        }
        let answers = self.answers > 0 && state == PrimaryState::Up;
        Change { state: changed.then_some(state), returned: answers && (changed || had_failed) }
    }

    /// Whether a good answer to a delivery would tell anything. Once the primary is down only a probe brings it up
    /// again: answers that were on their way when it went are no sign of life. While it is up, a drain gives thousands a second.
    pub fn is_news(&self, now: Instant) -> bool {
        self.state == PrimaryState::Up && (self.failures > 0 || self.knows_nothing_since(EVIDENCE_AGE, now))
    }

    fn knows_nothing_since(&self, age: Duration, now: Instant) -> bool {
        self.found_at.is_none_or(|found| now.duration_since(found.at) > age)
    }

    /// A probe begins: it answers all who wanted to know until now, and nobody who asks while it is under way.
    pub fn probing(&mut self) {
        self.probe_at_once = false;
    }

    /// Somebody wants to know now.
    pub fn probe_at_once(&mut self) {
        self.probe_at_once = true;
    }

    /// A client came. True if that is a reason to probe at once.
    pub fn client_connected(&mut self, now: Instant) -> bool {
        let stale = self.knows_nothing_since(CLIENT_PROBE_AGE, now);
        self.probe_at_once |= stale;
        stale
    }

    /// When to probe next. `mail_waits`: for the primary to answer.
    pub fn next_probe(&self, mail_waits: bool, now: Instant) -> Instant {
        match self.found_at {
            Some(found) if !self.probe_at_once => {
                let interval = self.interval(mail_waits);
                found.at + interval - interval.mul_f64(JITTER_SHARE * self.spread)
            }
            _ => now,
        }
    }

    fn interval(&self, mail_waits: bool) -> Duration {
        let Probe { interval, interval_while_queued, interval_while_refusing_max, .. } = &self.probe;
        let undecided = self.failures > 0 && self.state != PrimaryState::Down;
        let urgent = undecided || (mail_waits && self.state != PrimaryState::Up);
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
        Finding::Answers { host: "mx1:25".into() }
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
        (monitor.state, monitor.next_probe(mail_waits, now).duration_since(now).as_secs_f64())
    }

    #[test]
    fn states_change_at_their_thresholds() {
        for (findings, state) in [
            (vec![], PrimaryState::Unknown),
            (vec![answers()], PrimaryState::Up),
            (vec![unreachable(); 2], PrimaryState::Unknown),
            (vec![unreachable(); 3], PrimaryState::Down),
            (vec![answers(), refuses(), unreachable()], PrimaryState::Up),
            (vec![answers(), refuses(), unreachable(), refuses()], PrimaryState::Down),
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
    fn who_asks_while_a_probe_is_under_way_gets_another_one() {
        let now = Moment { at: Instant::now(), clock: Timestamp::UNIX_EPOCH };
        let mut monitor = Monitor::new(Probe::default(), Timestamp::UNIX_EPOCH);
        monitor.probing();
        monitor.probe_at_once();
        monitor.found(unreachable(), 0.0, now);
        assert_eq!(monitor.next_probe(true, now.at), now.at);
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
        assert_eq!(monitor.next_probe(true, now.at), now.at + Duration::from_millis(1750));
    }

    #[test]
    fn a_client_renews_a_probe_that_is_older_than_five_seconds() {
        let now = Moment { at: Instant::now(), clock: Timestamp::UNIX_EPOCH };
        let mut monitor = Monitor::new(Probe::default(), Timestamp::UNIX_EPOCH);
        monitor.probing();
        monitor.found(answers(), 0.0, now);
        assert!(!monitor.client_connected(now.at + 5 * SECOND));
        assert_eq!(monitor.next_probe(false, now.at), now.at + 30 * SECOND);
        assert!(monitor.client_connected(now.at + 6 * SECOND));
        assert_eq!(monitor.next_probe(false, now.at + 6 * SECOND), now.at + 6 * SECOND);
    }
}
