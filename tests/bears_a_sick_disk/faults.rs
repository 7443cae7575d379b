//! One system call of the relay that is to fail, and a table of them worked off, some at a time.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use backupmx_relay_api::status::PrimaryState;
use support::{Primary, Relay, is_soak, letters::Letters, strace::Call};

pub const LIMIT: Duration = Duration::from_secs(60);
/// More than the relay waits until it looks again, or tries again, by itself.
pub const SOON: Duration = Duration::from_secs(10);
pub const IMPATIENT: &str = "primary: {probe: {interval: 1s, intervalWhileQueued: 1s}}";
/// Relays at a time. They mostly wait for their next look at the disk.
const AT_ONCE: usize = 8;

/// A call that is to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// `fdatasync`.
    pub call: &'static str,
    /// `EIO`.
    pub error: &'static str,
    /// Which one, counted from 1 in each thread.
    pub at: usize,
    /// Whether all that follow fail, too, until strace lets go.
    pub lasts: bool,
}

impl Fault {
    /// What strace is told.
    pub fn inject(&self) -> String {
        let Self { call, error, at, lasts } = self;
        // Whichever of them the machine's C library uses.
        let calls = if *call == "rename" { "rename,renameat,renameat2" } else { call };
        format!("inject={calls}:error={error}:when={at}{}", if *lasts { "+" } else { "" })
    }

    /// Whether the call failed because of it.
    pub fn hit(&self, call: &Call) -> bool {
        call.name.starts_with(self.call) && call.is_injected()
    }

    /// Whether the power fails while it lasts: what was said must be true without what the relay does afterwards.
    pub fn ends_in_a_kill(&self) -> bool {
        self.lasts && self.at.is_multiple_of(2)
    }

    /// The system's words for it.
    pub fn words(&self) -> &'static str {
        match self.error {
            "ENOSPC" => "No space left on device",
            "EROFS" => "Read-only file system",
            "EDQUOT" => "Disk quota exceeded",
            _ => "Input/output error",
        }
    }

    /// Whether an ERROR line tells of it, and of more than that a message was not kept.
    pub fn is_told(&self, relay: &Relay) -> bool {
        let lines = relay.log().lines();
        lines.iter().any(|line| line["level"] == "ERROR" && line.to_string().contains(self.words()))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, error, at, lasts } = self;
        write!(f, "{call} {at}{} is {error}", if *lasts { " and all that follow" } else { "" })
    }
}

/// Which errors are tried at a place.
pub fn errors() -> &'static [&'static str] {
    if is_soak() { &["EIO", "ENOSPC", "EROFS", "EDQUOT"] } else { &["EIO", "ENOSPC"] }
}

/// Whether the log must tell of it. What is removed too late, or not given back, or would only have made a start
/// quicker, harms nobody.
pub fn is_worth_telling(call: &Call) -> bool {
    let Call { name, arguments, .. } = call;
    let is_comfort = matches!(&**name, "unlink" | "ftruncate") || arguments.contains(".footer");
    // Small documents that are written anew a minute later, or with the primary's next change, and their folder.
    let is_small =
        ["age-clock", "primary-offers", "outages.json", "/data>"].iter().any(|name| arguments.contains(name));
    let is_comfort = is_comfort || is_small;
    // Only to give room back is a segment opened for writing alone.
    !is_comfort && !arguments.contains("O_WRONLY") && !arguments.contains("\"/proc/")
}

/// Nobody hears a no for good, or one that says anything else than that we cannot now.
#[track_caller]
pub fn check_refusals(letters: &Letters) {
    for refusal in letters.refusals() {
        assert!(refusal.is("451 4.3.0 ") || refusal.is("452 4.3.1 "), "{refusal}");
    }
}

/// Ends it, in turn by a signal and by a power cut.
pub fn end(relay: &mut Relay, fault: Fault) {
    if fault.at.is_multiple_of(2) {
        assert_eq!(relay.terminate(), 0, "{}", relay.log().end());
    } else {
        relay.kill9();
    }
}

/// Waits until a relay without faults has delivered all. Nothing may be missing, and no more than this have come twice.
pub fn check_arrival(relay: &Relay, primary: &Primary, letters: &Letters, repeats_max: usize) {
    let done = relay.until(LIMIT, "all has arrived", |status| {
        status.queue.messages == 0 && status.primary.state == PrimaryState::Up
    });
    assert_eq!(letters.complaints(primary, repeats_max), [""; 0]);
    assert_eq!((done.account.delivered, done.account.difference()), (done.account.accepted, 0), "{:?}", done.account);
}

/// Works off the table, some lines at a time; `work` says how many faults it has tried, or what was not borne.
/// Returns for each line how many faults there were.
///
/// # Panics
/// At the end, naming all that was not borne.
pub fn work_off<T: Sync>(table: &[T], work: impl Fn(&T, &mut Vec<String>) -> usize + Sync) -> Vec<usize> {
    let (begun, next) = (Instant::now(), AtomicUsize::new(0));
    let (tried, wrong) = (Mutex::new(vec![0; table.len()]), Mutex::new(Vec::new()));
    let worker = || {
        while let Some((place, line)) = table.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
            let mut wrongs = Vec::new();
            let count = work(line, &mut wrongs);
            tried.lock().unwrap_or_else(PoisonError::into_inner)[place] = count;
            wrong.lock().unwrap_or_else(PoisonError::into_inner).extend(wrongs);
        }
    };
    thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(worker))));
    let (tried, wrong) = (tried.into_inner().expect("no worker panics"), wrong.into_inner().expect("no worker panics"));
    println!("{} faults in {:.1} s", tried.iter().sum::<usize>(), begun.elapsed().as_secs_f64());
    assert!(wrong.is_empty(), "not borne, see above:\n{}", wrong.join("\n"));
    tried
}

/// Runs one case. `None`: it failed, and is noted with what it said.
pub fn bear<R>(name: &str, wrong: &mut Vec<String>, case: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(case))
        .inspect_err(|said| {
            let said = said.downcast_ref::<String>().map(String::as_str).or(said.downcast_ref::<&str>().copied());
            wrong.push(format!("{name}: {}", said.unwrap_or_default()));
        })
        .ok()
}
