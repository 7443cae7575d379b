//! Whether refusals are verdicts on the mail, or signs that the primary is not whole. No I/O, no clock.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use backupmx_relay_api::config;
use jiff::{SignedDuration, Timestamp};

use crate::primary::monitor::Moment;

/// For so long an answer to the breaker's question is good, unless refusals pile up.
const ANSWER_GOOD_FOR: Duration = Duration::from_secs(600);
/// So many refusals in a row, with no message taken between, make the answer old. With the default of 20 connections, at most 24 messages
/// are touched before it is known that the primary is not whole.
const REFUSALS_UNTIL_ASKED_AGAIN: u32 = 5;
/// Domains of which it is known what the primary says. With more of them, below a wildcard, all are asked about anew.
const DOMAINS_MAX: usize = 1000;
/// A sign that a person overruled opens nothing for this time.
const OVERRULED_FOR: Duration = Duration::from_secs(24 * 3600);

/// What no primary should say to a mail server that serves its domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sign {
    /// 5xx at the greeting, or to EHLO and HELO.
    Greeting,
    /// 5xx to `MAIL FROM:<>`, as to the MAIL before.
    Mail,
    /// 5xx to `RCPT TO:<postmaster@...>` of a served domain.
    Postmaster,
}

impl Sign {
    /// In words, for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Greeting => "the primary refuses its backup at the greeting",
            Self::Mail => "the primary refuses every sender, the null one too",
            Self::Postmaster => "the primary refuses postmaster of a domain that it should serve",
        }
    }
}

/// The breaker. Open, nothing is sent.
#[derive(Debug)]
pub struct Breaker {
    config: config::Breaker,
    open: Option<Open>,
    returned_at: Option<Instant>,
    /// By domain, in small letters.
    domains: BTreeMap<String, Domain>,
    overruled: Vec<(Sign, String, Instant)>,
}

/// What is known of one served domain.
#[derive(Clone, Copy, Default, Debug)]
struct Domain {
    asked_at: Option<Instant>,
    refusals: u32,
}

/// Why and since when it is open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Open {
    /// What opened it.
    pub sign: Sign,
    /// Whom it is asked about.
    pub postmaster: String,
    /// The primary's words.
    pub words: String,
    /// Since when.
    pub since: Timestamp,
    /// When it is tested.
    pub next_test: Instant,
    is_testing: bool,
}

impl Open {
    /// When it is tested next, for people.
    pub fn next_test_at(&self, now: Moment) -> Timestamp {
        let until = self.next_test.saturating_duration_since(now.at);
        SignedDuration::try_from(until).ok().and_then(|until| now.clock.checked_add(until).ok()).unwrap_or(now.clock)
    }
}

impl Breaker {
    /// Closed.
    pub fn new(config: config::Breaker) -> Self {
        Self { config, open: None, returned_at: None, domains: BTreeMap::new(), overruled: Vec::new() }
    }

    /// Other intervals from now on. A test that is due sooner by them comes sooner.
    pub fn reconfigure(&mut self, config: config::Breaker, now: Instant) {
        if let Some(open) = &mut self.open {
            open.next_test = open.next_test.min(now + config.retest_interval.0);
        }
        self.config = config;
    }

    /// The primary returned: what it answered before may no longer hold.
    pub fn returned(&mut self, now: Instant) {
        self.returned_at = Some(now);
        self.domains.clear();
    }

    /// The primary took a message for this domain.
    pub fn taken(&mut self, domain: &str) {
        if let Some(known) = self.domains.get_mut(&domain.to_ascii_lowercase()) {
            known.refusals = 0;
        }
    }

    /// The primary refused a message for this domain. True if it must be asked before that is acted on.
    pub fn refused(&mut self, domain: &str, now: Instant) -> bool {
        let known = self.domain(domain);
        known.refusals = known.refusals.saturating_add(1);
        let is_fresh = known.asked_at.is_some_and(|asked| now.duration_since(asked) < ANSWER_GOOD_FOR);
        !is_fresh || known.refusals >= REFUSALS_UNTIL_ASKED_AGAIN
    }

    /// It was asked about this domain, and answers as a primary should.
    pub fn answered_well(&mut self, domain: &str, now: Instant) {
        *self.domain(domain) = Domain { asked_at: Some(now), refusals: 0 };
    }

    fn domain(&mut self, domain: &str) -> &mut Domain {
        if self.domains.len() >= DOMAINS_MAX {
            self.domains.clear();
        }
        self.domains.entry(domain.to_ascii_lowercase()).or_default()
    }

    /// It showed a sign, when it was asked about this `postmaster`. True if that opens the breaker.
    pub fn sign(&mut self, sign: Sign, postmaster: &str, words: &str, now: Moment) -> bool {
        self.overruled.retain(|(.., until)| *until > now.at);
        let is_meant = |(overruled, about, _): &(Sign, String, Instant)| *overruled == sign && *about == postmaster;
        if self.open.is_some() || self.overruled.iter().any(is_meant) {
            return false;
        }
        let next_test = now.at + self.config.retest_interval.0;
        self.open = Some(Open {
            sign,
            postmaster: postmaster.to_owned(),
            words: words.to_owned(),
            since: now.clock,
            next_test,
            is_testing: false,
        });
        true
    }

    /// Why it is open, if it is.
    pub fn open(&self) -> Option<&Open> {
        self.open.as_ref()
    }

    /// A probe went as far as EHLO: if that was the trouble, there is no reason to wait for the next test.
    pub fn greeted(&mut self, now: Instant) {
        if let Some(open) = self.open.as_mut().filter(|open| open.sign == Sign::Greeting) {
            open.next_test = open.next_test.min(now);
        }
    }

    /// Whether it is to be tested now; who hears yes does it, and tells the end.
    pub fn begin_test(&mut self, now: Instant) -> bool {
        let Some(open) = self.open.as_mut().filter(|open| !open.is_testing && open.next_test <= now) else {
            return false;
        };
        open.is_testing = true;
        true
    }

    /// The test is over. `is_well`: there was no sign, and a message was tried; then the breaker is closed.
    pub fn end_test(&mut self, is_well: bool, now: Instant) {
        if is_well {
            self.open = None;
            return;
        }
        if let Some(open) = &mut self.open {
            open.is_testing = false;
            open.next_test = now + self.config.retest_interval.0;
        }
    }

    /// A person says that these refusals are meant. True if it was open.
    pub fn overrule(&mut self, now: Instant) -> bool {
        let Some(open) = self.open.take() else { return false };
        self.overruled.push((open.sign, open.postmaster, now + OVERRULED_FOR));
        true
    }

    /// Whether the primary returned so lately that its refusals may not be its last word.
    pub fn is_after_return(&self, now: Instant) -> bool {
        self.returned_at.is_some_and(|at| now.duration_since(at) < self.config.return_window.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSTMASTER: &str = "postmaster@example.org";
    const MINUTE: Duration = Duration::from_secs(60);

    fn breaker() -> (Breaker, Moment) {
        (Breaker::new(config::Breaker::default()), Moment { at: Instant::now(), clock: Timestamp::UNIX_EPOCH })
    }

    fn at(now: Moment, later: Duration) -> Moment {
        Moment { at: now.at + later, ..now }
    }

    #[test]
    fn a_sign_opens_it_and_a_test_that_goes_well_closes_it() {
        let (mut breaker, now) = breaker();
        assert!(breaker.sign(Sign::Postmaster, POSTMASTER, "550 no", now));
        assert!(!breaker.sign(Sign::Mail, POSTMASTER, "550 no", now), "it is open already");
        assert_eq!(breaker.open().unwrap().next_test_at(now), Timestamp::from_second(600).unwrap());
        assert!(!breaker.begin_test(now.at + 9 * MINUTE));
        assert!(breaker.begin_test(now.at + 10 * MINUTE));
        assert!(!breaker.begin_test(now.at + 11 * MINUTE), "one test at a time");
        breaker.end_test(false, now.at + 11 * MINUTE);
        assert!(!breaker.begin_test(now.at + 20 * MINUTE) && breaker.begin_test(now.at + 21 * MINUTE));
        breaker.end_test(true, now.at + 21 * MINUTE);
        assert_eq!(breaker.open(), None);
    }

    #[test]
    fn the_primary_is_asked_before_the_first_refusal_and_again_when_they_pile_up() {
        const HERE: &str = "example.org";
        let (mut breaker, now) = breaker();
        breaker.returned(now.at);
        assert!(breaker.refused(HERE, now.at), "nobody has asked yet");
        breaker.answered_well("Example.ORG", now.at);
        assert_eq!([(); 5].map(|()| breaker.refused(HERE, now.at)), [false, false, false, false, true]);
        assert!(breaker.refused("example.net", now.at), "that was about another domain");
        breaker.taken("example.net");
        assert!(breaker.refused(HERE, now.at));
        breaker.taken(HERE);
        assert!(!breaker.refused(HERE, now.at), "a message that was taken says that it is well");
        assert!(breaker.refused(HERE, now.at + 10 * MINUTE), "the answer is old");
        breaker.answered_well(HERE, now.at + 10 * MINUTE);
        breaker.returned(now.at + 11 * MINUTE);
        assert!(breaker.refused(HERE, now.at + 11 * MINUTE), "a return makes it old, too");
        (0..2 * DOMAINS_MAX).for_each(|number| assert!(breaker.refused(&format!("d{number}.example.org"), now.at)));
        assert!(breaker.domains.len() <= DOMAINS_MAX);
    }

    #[test]
    fn a_greeting_that_is_well_again_is_tested_at_once_and_nothing_else_is() {
        for (sign, at_once) in [(Sign::Greeting, true), (Sign::Mail, false), (Sign::Postmaster, false)] {
            let (mut breaker, now) = breaker();
            breaker.sign(sign, POSTMASTER, "", now);
            breaker.greeted(now.at + MINUTE);
            assert_eq!(breaker.begin_test(now.at + MINUTE), at_once, "{sign:?}");
        }
    }

    #[test]
    fn a_person_overrules_that_sign_for_a_day_and_no_other() {
        let (mut breaker, now) = breaker();
        assert!(!breaker.overrule(now.at));
        breaker.sign(Sign::Postmaster, POSTMASTER, "", now);
        assert!(breaker.overrule(now.at));
        assert_eq!(breaker.open(), None);
        assert!(!breaker.sign(Sign::Postmaster, POSTMASTER, "", at(now, 23 * 60 * MINUTE)));
        assert!(breaker.sign(Sign::Postmaster, "postmaster@example.net", "", now), "it was not about that one");
        breaker.end_test(true, now.at);
        assert!(breaker.sign(Sign::Mail, POSTMASTER, "", now));
        breaker.end_test(true, now.at);
        assert!(breaker.sign(Sign::Postmaster, POSTMASTER, "", at(now, 24 * 60 * MINUTE)));
    }

    #[test]
    fn refusals_are_not_the_last_word_for_half_an_hour_after_a_return() {
        let (mut breaker, now) = breaker();
        assert!(!breaker.is_after_return(now.at));
        breaker.returned(now.at);
        assert!(breaker.is_after_return(now.at + 29 * MINUTE));
        assert!(!breaker.is_after_return(now.at + 30 * MINUTE));
    }
}
