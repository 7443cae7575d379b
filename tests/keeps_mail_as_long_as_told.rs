//! Mail is kept as long as the configuration says, by time that the relay ran: no clock that jumps ends anything.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use backupmx_relay_api::status::{Account, PrimaryState};
use support::{
    Client, Envelope, Primary, Relay,
    primary::{Rule, Stage},
    tools,
};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn mail_that_waited_too_long_is_held_for_a_person_and_not_given_up() {
    let mut primary = Primary::away();
    let mut relay = Relay::before(primary.address()).config("retention: {queue: 2s}\n").start();
    send(&relay, "bob");
    let held = relay.until(LIMIT, "it is held", |status| status.queue.held == 1);
    assert_eq!(held.account, Account { accepted: 1, queued: 1, ..Account::default() });
    relay.kill9();
    relay.start_again();
    primary.return_now();
    relay.until(LIMIT, "the primary is up", |status| status.primary.state == PrimaryState::Up);
    assert_eq!((relay.status().queue.held, primary.count()), (1, 0));
    assert!(relay.log().find("kept long enough: Held").is_none(), "it was held once already");
}

#[test]
fn mail_that_was_refused_for_good_and_that_nobody_wanted_expires() {
    let primary = Primary::start();
    primary.misbehave(Rule::answer(Stage::Rcpt, "550 5.1.1 no such user").about("nobody@"));
    let config = "primary: {breaker: {returnWindow: 0s}}\nretention: {undeliverable: 2s}\n";
    let relay = Relay::before(primary.address()).config(config).start();
    send(&relay, "nobody");
    relay.until(LIMIT, "it is held", |status| status.queue.held == 1);
    let expired = relay.until(LIMIT, "it has expired", |status| status.account.expired == 1);
    assert_eq!(expired.account, Account { accepted: 1, expired: 1, ..Account::default() });
    assert_eq!(expired.queue.messages, 0);
}

#[test]
fn a_clock_that_jumps_a_day_either_way_ends_nothing_and_delays_nothing() {
    for days in ["+1d", "-1d"] {
        let clock = Clock::new();
        let mut primary = Primary::start();
        primary.misbehave(Rule::answer(Stage::Rcpt, "450 4.2.1 later").about("busy@"));
        let config = "primary:
  delivery: {retryInterval: 500ms, retryIntervalMax: 1s}
  probe: {interval: 1s, intervalWhileQueued: 500ms}
retention: {queue: 12h, undeliverable: 12h}
";
        let mut setup = Relay::before(primary.address()).config(config);
        for (name, value) in clock.environment() {
            setup = setup.environment(name, &value);
        }
        let relay = setup.start();
        send(&relay, "busy");
        relay.until(LIMIT, "it was put off", |status| status.queue.messages == 1);
        clock.jump(days);
        primary.go_away();
        relay.until(LIMIT, "the primary is down", |status| status.primary.state == PrimaryState::Down);
        send(&relay, "carol");
        let at_once = Duration::from_secs(10);
        primary.behave();
        primary.return_now();
        let done = relay.until(at_once, "both are delivered", |status| status.account.delivered == 2);
        assert_eq!(done.account, Account { accepted: 2, delivered: 2, ..Account::default() }, "{days}");
        assert!(relay.log().find("kept long enough: Held").is_none(), "{days}");
        let line = relay.log().lines().pop().expect("there is a log");
        println!("{days}: the last line of the log is of {}", line["timestamp"]);
    }
}

/// The machine's clock, as one process sees it.
struct Clock {
    folder: tempfile::TempDir,
}

impl Clock {
    fn new() -> Self {
        let clock = Self { folder: tempfile::tempdir().expect("a temporary folder can be made") };
        clock.jump("+0");
        clock
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("clock")
    }

    /// From now on it says so much more than it is.
    fn jump(&self, offset: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, offset)
            .and_then(|()| fs::rename(&new, self.file()))
            .expect("a temporary folder can be written");
    }

    /// What makes a process see it, by libfaketime. Time that only passes stays as it is, as when a real clock is set.
    fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", tools::faketime_library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", Path::display(&self.file()).to_string()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("FAKETIME_NO_CACHE", "1".into()),
        ]
    }
}

fn send(relay: &Relay, to: &str) {
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let reply = client.send(&Envelope::to(to), b"Subject: x\r\n\r\nbody\r\n").expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
}
