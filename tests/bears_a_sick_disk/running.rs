//! Single system calls of the running relay fail, one after the other, at each place where they occur.

use std::collections::BTreeSet;

use support::{
    Primary, Relay, eventually, is_soak,
    letters::{LARGE_BYTES, Letters, SMALL_BYTES},
    strace::{Call, Strace},
    wait::within,
};

use crate::{
    faults::{
        Fault, IMPATIENT, LIMIT, SOON, bear, check_arrival, check_refusals, end, errors, is_worth_telling, work_off,
    },
    is_well,
};

/// Where the next segment must be made in place of the one that failed.
const SEGMENT_FAILS: &str = "inject=fdatasync:error=EIO:when=1";
const WATCHED: &str = "trace=openat,pwrite64,fdatasync,fsync,rename,renameat,renameat2,fallocate,ftruncate,unlink";

/// Just not so large that it gets a file of its own.
const INLINE_BYTES: usize = 260_000;
/// So many, and a few bytes, and a segment of 64 MiB is full (docs/spool.md).
const INLINE_PER_SEGMENT: usize = (64 << 20) / INLINE_BYTES - 1;

/// When a call fails.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Moment {
    /// Small messages come in.
    Intake,
    /// Messages come in that get a file of their own.
    LargeIntake,
    /// The segment that was written has failed, and another one is made.
    NextSegment,
    /// The segment that is written is full, and the next one is begun.
    FullSegment,
    /// The primary is back, and what became of mail is recorded.
    Outcomes,
    /// The relay is asked to stop.
    Stop,
}

/// What is tried, and whether it must have happened for the test to say anything.
const TRIED: &[(Moment, &str, bool)] = &[
    (Moment::Intake, "pwrite64", true),
    (Moment::Intake, "fdatasync", true),
    (Moment::LargeIntake, "openat", true),
    (Moment::LargeIntake, "pwrite64", true),
    (Moment::LargeIntake, "fdatasync", true),
    (Moment::LargeIntake, "rename", true),
    (Moment::LargeIntake, "fsync", true),
    (Moment::NextSegment, "openat", true),
    (Moment::NextSegment, "pwrite64", true),
    (Moment::NextSegment, "fsync", true),
    (Moment::NextSegment, "rename", false),
    (Moment::NextSegment, "fallocate", false),
    (Moment::NextSegment, "ftruncate", false),
    (Moment::FullSegment, "openat", true),
    (Moment::FullSegment, "fsync", true),
    (Moment::FullSegment, "rename", false),
    (Moment::FullSegment, "fallocate", false),
    (Moment::FullSegment, "ftruncate", false),
    (Moment::Outcomes, "pwrite64", true),
    (Moment::Outcomes, "fdatasync", true),
    (Moment::Outcomes, "unlink", true),
    (Moment::Stop, "pwrite64", true),
    (Moment::Stop, "fdatasync", true),
    (Moment::Stop, "fsync", false),
    (Moment::Stop, "ftruncate", false),
    (Moment::Stop, "rename", false),
];

/// Only where there is time: to fill a segment takes seconds, and its first writes are like any others.
const TRIED_IN_SOAK: &[(Moment, &str, bool)] =
    &[(Moment::FullSegment, "pwrite64", true), (Moment::FullSegment, "fdatasync", true)];

#[test]
fn a_call_that_fails_while_the_relay_runs_costs_no_mail_and_is_borne_without_a_person() {
    let tried = || TRIED.iter().chain(if is_soak() { TRIED_IN_SOAK } else { &[] });
    let table: Vec<_> = tried().flat_map(|&(moment, call, _)| [(moment, call, false), (moment, call, true)]).collect();
    let counts = work_off(&table, |&(moment, call, lasts), wrong| try_places(moment, call, lasts, wrong));
    let lines = table.iter().zip(counts).filter(|(_, count)| *count > 0);
    let happened: BTreeSet<_> = lines.map(|(&(moment, call, _), _)| (moment, call)).collect();
    for &(moment, call, needed) in tried() {
        assert!(!needed || happened.contains(&(moment, call)), "{moment:?}: there was no {call} to fail");
    }
}

/// Lets the first, the second, the third such call fail, and so on to the last. Returns how many there were.
fn try_places(moment: Moment, call: &'static str, lasts: bool, wrong: &mut Vec<String>) -> usize {
    let (places_max, errors) = match (is_soak(), moment, lasts) {
        (true, _, false) => (30, errors()),
        (true, _, true) => (6, errors()),
        (false, Moment::FullSegment, false) => (1, &errors()[..1]),
        (false, Moment::FullSegment, true) => return 0,
        (false, _, false) => (8, errors()),
        (false, _, true) => (2, errors()),
    };
    let faults = (1..=places_max).flat_map(|at| errors.iter().map(move |error| Fault { call, error, at, lasts }));
    let mut there_is = |fault: &Fault| {
        let name = format!("{moment:?}: {fault}");
        bear(&name, wrong, || try_fault(moment, *fault)) != Some(false)
    };
    faults.take_while(|fault| there_is(fault)).count()
}

/// Returns whether the call occurred.
fn try_fault(moment: Moment, fault: Fault) -> bool {
    let mut primary = Primary::away();
    let mut relay = Relay::before(primary.address()).config(IMPATIENT).start();
    let mut letters = Letters::new("m");
    for bytes in [SMALL_BYTES, LARGE_BYTES, SMALL_BYTES] {
        assert!(letters.is_taken(relay.smtp(), bytes), "{letters:?}");
    }
    if moment == Moment::FullSegment {
        while (letters.taken() as usize) < INLINE_PER_SEGMENT {
            assert!(letters.is_taken(relay.smtp(), INLINE_BYTES), "{letters:?}");
        }
    }
    let inject = fault.inject();
    let mut options = vec!["-e", WATCHED, "-e", &inject];
    if moment == Moment::NextSegment {
        options.extend(["-e", SEGMENT_FAILS]);
    }
    let strace = Strace::attach(relay.pid(), &options);
    let calls = match moment {
        Moment::Intake | Moment::NextSegment => take(&mut relay, &mut letters, &[SMALL_BYTES; 4], strace, fault),
        Moment::FullSegment => take(&mut relay, &mut letters, &[INLINE_BYTES; 4], strace, fault),
        Moment::LargeIntake => take(&mut relay, &mut letters, &[LARGE_BYTES, SMALL_BYTES, LARGE_BYTES], strace, fault),
        Moment::Outcomes => drain(&mut relay, &mut primary, strace, fault),
        Moment::Stop => {
            assert_eq!(relay.terminate(), 0, "{}", relay.log().end());
            strace.finish()
        }
    };
    let hits: Vec<_> = calls.iter().filter(|call| fault.hit(call)).collect();
    if hits.is_empty() {
        return false;
    }
    check_refusals(&letters);
    check_syncs(&calls);
    let killed = fault.ends_in_a_kill();
    if !killed && hits.iter().any(|call| is_worth_telling(call)) {
        let told = within(SOON, || fault.is_told(&relay).then_some(()));
        assert!(told.is_some(), "no ERROR line tells of {}", hits[0].shown());
    }
    if moment != Moment::Stop && !killed {
        eventually(SOON, "mail is taken again", || letters.is_taken(relay.smtp(), SMALL_BYTES));
        relay.until(SOON, "nothing is wrong", is_well);
        if moment == Moment::Outcomes {
            // A message that is under way when the power fails may come twice.
            relay.until(SOON, "nothing waits", |status| status.queue.messages == 0);
        }
        end(&mut relay, fault);
    }
    primary.go_away();
    primary.return_now();
    relay.start_again();
    // What the primary took while nothing could be recorded comes again, one message a connection at most.
    let repeats_max = if killed && moment == Moment::Outcomes { letters.taken() as usize } else { 0 };
    check_arrival(&relay, &primary, &letters, repeats_max);
    let status = relay.status();
    // What is torn by a power cut is told.
    assert!(is_well(&status) || (killed && status.spool.quarantined == 0), "{:?}", status.problems);
    true
}

/// A file whose sync has failed is never synced again: the kernel may have dropped what it held, and would say yes.
#[track_caller]
fn check_syncs(calls: &[Call]) {
    let syncs = || calls.iter().filter(|call| call.name == "fdatasync");
    for failed in syncs().filter(|call| call.is_injected()) {
        let again = syncs().find(|call| failed.is_before(call) && call.path() == failed.path());
        assert!(again.is_none(), "synced again after {}", failed.shown());
    }
}

/// Messages come in while the call fails.
fn take(relay: &mut Relay, letters: &mut Letters, sizes: &[usize], strace: Strace, fault: Fault) -> Vec<Call> {
    for bytes in sizes {
        letters.send(relay.smtp(), *bytes);
    }
    // No segment can be written while these fail.
    let stuck = fault.lasts && sizes[0] == SMALL_BYTES && matches!(fault.call, "pwrite64" | "fdatasync" | "fsync");
    if stuck && strace.calls_so_far().iter().any(|call| fault.hit(call)) {
        relay.until(SOON, "it is told", |status| !status.spool.writable && !status.problems.is_empty());
    }
    let_go(relay, strace, fault)
}

/// The primary comes back while the call fails.
fn drain(relay: &mut Relay, primary: &mut Primary, strace: Strace, fault: Fault) -> Vec<Call> {
    primary.return_now();
    let is_over = || relay.status().queue.messages == 0;
    eventually(LIMIT, "all is delivered, or nothing can be recorded", || {
        is_over() || (fault.lasts && strace.calls_so_far().iter().any(|call| fault.hit(call)))
    });
    let calls = let_go(relay, strace, fault);
    if !fault.ends_in_a_kill() {
        relay.until(SOON, "nothing waits", |status| status.queue.messages == 0);
    }
    calls
}

/// The end of the fault, or of the relay while it lasts.
fn let_go(relay: &mut Relay, strace: Strace, fault: Fault) -> Vec<Call> {
    if fault.ends_in_a_kill() {
        relay.kill9();
        return strace.finish();
    }
    strace.detach(relay.pid())
}
