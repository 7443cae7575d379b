//! Who keeps mail from the primary: a person's hold, and the breaker.

use std::{
    io,
    time::{Duration, Instant},
};

use backupmx_relay_api::status;
use jiff::Timestamp;

use super::{Hindrance, Primary, hold::Order, lock, monitor::Moment};
use crate::{delivery::breaker::Sign, foreign::shown};

impl Primary {
    /// A person holds the drain: nothing more is handed over, what is under way may end. False if a person held it before.
    /// An error says that it does not survive a restart.
    pub async fn hold(&self, by: String, reason: String) -> io::Result<bool> {
        let is_new = lock(&self.hold).order(Order { since: Timestamp::now(), by, reason });
        self.keep_hold().await.map(|()| is_new)
    }

    /// A person wants it to go on. False if nothing was lifted by that. An error as above.
    pub async fn resume(&self) -> io::Result<bool> {
        let was_lifted = lock(&self.hold).resume();
        self.keep_hold().await.map(|()| was_lifted)
    }

    async fn keep_hold(&self) -> io::Result<()> {
        self.queue.wake();
        self.replan.notify_one();
        let (file, hold) = (self.hold_file.clone(), self.hold.clone());
        // What is written is what holds when it is this writer's turn: the last one writes the newest.
        let written = self.writes.spawn_blocking(move || file.write(|| lock(&hold).ordered().cloned()));
        written.await.map_err(io::Error::other)?
    }

    /// Who holds it.
    pub fn held_by(&self) -> Option<status::Hold> {
        lock(&self.hold).by(Instant::now())
    }

    /// It brought what it got from us.
    pub fn sends_back(&self) {
        lock(&self.hold).sent_back(Moment::now());
    }

    /// Whether it did so lately.
    pub fn loops_back(&self) -> bool {
        lock(&self.hold).loops_back(Instant::now())
    }

    /// It said what no primary should say, when it was asked about this `postmaster`.
    pub fn sign(&self, sign: Sign, postmaster: &str, words: &str) {
        if lock(&self.breaker).sign(sign, postmaster, words, Moment::now()) {
            tracing::error!(
                sign = sign.words(),
                words = shown(words),
                "breaker is open: nothing is handed over, nothing sent back"
            );
            self.queue.wake();
        }
    }

    /// Whom a primary that serves our first domain takes mail for.
    pub fn postmaster(&self) -> String {
        format!("postmaster@{}", self.settings().postmaster_domain)
    }

    /// Whom the breaker was opened about, and whether by what was said to MAIL.
    pub fn in_question(&self) -> (String, bool) {
        let in_question = lock(&self.breaker).open().map(|open| (open.postmaster.clone(), open.sign == Sign::Mail));
        in_question.unwrap_or_else(|| (self.postmaster(), true))
    }

    /// It refused a message for this domain. True if it must be asked before that is acted on.
    pub fn refused(&self, domain: &str) -> bool {
        lock(&self.breaker).refused(domain, Instant::now())
    }

    /// It took a message for this domain.
    pub fn took(&self, domain: &str) {
        lock(&self.breaker).taken(domain);
    }

    /// It was asked about this domain, and answers as a primary should.
    pub fn answered_well(&self, domain: &str) {
        lock(&self.breaker).answered_well(domain, Instant::now());
    }

    /// Whether the breaker is open.
    pub fn is_broken(&self) -> bool {
        lock(&self.breaker).open().is_some()
    }

    /// Whether to test now if it is mended; who hears yes does it, and tells the end.
    pub fn begins_test(&self) -> bool {
        let now = Moment::now();
        self.hindrance(now) == Some(Hindrance::Breaker)
            && lock(&self.monitor).takes_mail()
            && lock(&self.breaker).begin_test(now.at)
    }

    /// The test is over.
    pub fn ends_test(&self, is_well: bool) {
        lock(&self.breaker).end_test(is_well, Instant::now());
        if is_well {
            tracing::info!(waiting = self.queue.waiting(), "breaker is closed: the primary is mended");
            self.goes_on(Instant::now());
        }
    }

    /// A person says that the refusals are meant. False if the breaker was closed.
    pub fn reset_breaker(&self) -> bool {
        let was_open = lock(&self.breaker).overrule(Instant::now());
        if was_open {
            self.goes_on(Instant::now());
        }
        was_open
    }

    /// Mail may go again, from now on.
    pub(super) fn goes_on(&self, now: Instant) {
        lock(&self.breaker).returned(now);
        self.forget_null_sender();
        self.queue.primary_returned(now);
    }

    /// For how long a message waits that was refused, if its refusal is not the last word; see [`Breaker::is_after_return`].
    pub fn second_look(&self) -> (bool, Duration) {
        (lock(&self.breaker).is_after_return(Instant::now()), self.settings().second_look_after)
    }

    /// For the status document.
    pub fn breaker(&self) -> Option<status::Breaker> {
        let breaker = lock(&self.breaker);
        let open = breaker.open()?;
        Some(status::Breaker {
            since: open.since.to_string(),
            reason: format!("{}: {}", open.sign.words(), shown(&open.words)),
            next_test: open.next_test_at(Moment::now()).to_string(),
        })
    }
}
