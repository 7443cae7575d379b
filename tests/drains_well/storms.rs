//! A primary that refuses everything for good: nothing is sent back, hardly any mail is touched, and it goes when the primary
//! is mended.

use std::{path::Path, process::Command, sync::OnceLock};

use backupmx_relay_api::admin;
use serde_json::json;
use support::{primary::Storm, relay::http};
use tempfile::TempDir;

use super::*;

/// Queued while each storm goes on.
const MESSAGES: u64 = 10_000;
/// Messages that the primary sees until the relay has understood.
const TOUCHED_MAX: usize = 25;
/// Shorter than a hundredth of what it is in the field, so that the storm sees some tests.
const IMPATIENT: &str = "
primary:
  probe: {interval: 1s, intervalWhileQueued: 500ms, intervalWhileRefusingMax: 1s}
  breaker: {retestInterval: 1s, secondLookAfter: 1s}
";

#[test]
fn a_primary_that_refuses_everybody_is_left_alone_until_it_is_mended() {
    let _beside_others = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    let storms = [Storm::Greeting, Storm::Hello, Storm::Mail, Storm::Recipients];
    let queued = queued();
    let wrong: Vec<_> = thread::scope(|scope| {
        let storms = storms.map(|storm| (storm, scope.spawn(move || weather(storm, queued))));
        storms.into_iter().filter_map(|(storm, weather)| weather.join().is_err().then_some(storm)).collect()
    });
    assert!(wrong.is_empty(), "not weathered, see above: {wrong:?}");
}

fn weather(storm: Storm, queued: &Queued) {
    const TESTS: usize = 2;
    let (mut primary, folder) = (Primary::away(), copy_of(queued.folder.path()));
    primary.model().storm(storm);
    let relay = Relay::before(primary.address()).config(IMPATIENT).data(&folder.path().join("data")).start();
    relay.until(LIMIT, "the primary is known to be down", |status| status.primary.state == PrimaryState::Down);
    let returned = primary.return_now();
    let touched = || primary.ledger().touched_since(returned).len();
    let open = relay.until(LIMIT, "the breaker is open", |status| status.drain.breaker.is_some());
    let touched_then = touched();
    println!("{storm:?}: {touched_then} messages were touched until the breaker opened");
    assert!(touched_then <= TOUCHED_MAX, "{storm:?}: {touched_then} messages were touched");
    assert_eq!((open.primary.state, open.account.queued), (PrimaryState::Held, MESSAGES), "{storm:?}");

    // Tests touch one message each at most, and find no reason to go on.
    let begun = Instant::now();
    let first = next_test(&relay);
    eventually(LIMIT, "two more tests", || {
        next_test(&relay) != first && begun.elapsed() > TESTS as u32 * Duration::from_secs(1)
    });
    let status = relay.status();
    assert!(
        touched() <= touched_then + TESTS + 2,
        "{storm:?}: {} messages were touched by tests",
        touched() - touched_then
    );
    assert_eq!((primary.count(), status.account.queued, status.queue.held), (0, MESSAGES, 0), "{storm:?}");
    assert_eq!(relay.account().bounced, 0);

    primary.model().calm();
    let done = relay.until(LIMIT, "all are delivered", |status| status.account.queued == 0);
    assert_eq!((done.drain.breaker, done.primary.state), (None, PrimaryState::Up), "{storm:?}");
    expect_all(&primary, &queued.load, &queued.sent);
}

fn next_test(relay: &Relay) -> Option<String> {
    relay.status().drain.breaker.map(|breaker| breaker.next_test)
}

#[test]
fn verdicts_on_all_mail_hold_it_after_a_second_look_and_one_order_sends_it() {
    let _beside_others = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    const FEW: u64 = 500;
    thread::scope(|scope| {
        for storm in [Storm::RecipientsButPostmaster, Storm::Content] {
            scope.spawn(move || {
                let mut primary = Primary::away();
                primary.model().storm(storm);
                let relay = Relay::before(primary.address()).config(IMPATIENT).start();
                let load = Load { messages: FEW, bytes: 500, sessions: 8, seed: 12 };
                let sent = load.send(relay.smtp());
                primary.return_now();
                let held = relay.until(LIMIT, "all are held", |status| status.queue.held == FEW);
                assert_eq!(held.account, Account { accepted: FEW, queued: FEW, ..Account::default() }, "{storm:?}");
                assert_eq!((held.drain.breaker, held.primary.state), (None, PrimaryState::Up), "{storm:?}");
                let attempts: BTreeSet<_> = primary.ledger().attempts().into_values().collect();
                assert_eq!((primary.count(), attempts), (0, BTreeSet::from([2])), "{storm:?}");

                primary.model().calm();
                let order = json!({"query": "", "state": "held", "reason": "mended"}).to_string();
                let answer = http::send("POST", relay.console(), admin::RETRY_ALL, Some(&relay.token()), &order);
                assert_eq!(answer.code, 200, "{storm:?}: {answer:?}");
                relay.until(LIMIT, "all are delivered", |status| status.account.delivered == FEW);
                expect_all(&primary, &load, &sent);
            });
        }
    });
}

/// Messages in a data folder of a relay that has ended, to be copied.
struct Queued {
    load: Load,
    sent: Sent,
    folder: TempDir,
}

/// Made once: the storms share it.
fn queued() -> &'static Queued {
    static QUEUED: OnceLock<Queued> = OnceLock::new();
    QUEUED.get_or_init(|| {
        let folder = TempDir::with_prefix("backupmx-queued-").expect("a temporary folder can be made");
        let primary = Primary::away();
        let mut relay = Relay::before(primary.address()).data(&folder.path().join("data")).start();
        let load = Load { messages: MESSAGES, bytes: 500, sessions: 32, seed: 11 };
        let sent = load.send(relay.smtp());
        assert_eq!(sent.accepted.len() as u64, MESSAGES);
        assert_eq!(relay.terminate(), 0);
        Queued { load, sent, folder }
    })
}

fn copy_of(folder: &Path) -> TempDir {
    let copy = TempDir::with_prefix("backupmx-storm-").expect("a temporary folder can be made");
    let copied = Command::new("cp").arg("-a").arg(folder.join("data")).arg(copy.path()).status();
    assert!(copied.expect("cp can be started").success(), "a temporary folder can hold a queue");
    copy
}
