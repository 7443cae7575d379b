//! Waiting for a condition, with a limit, and with a name for what did not come.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Between two looks at a condition. Short against everything that is waited for, long against the look itself.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Returns once `condition` holds.
///
/// # Panics
/// After `limit`, saying `what` it waited for.
#[track_caller]
pub fn eventually(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    eventually_some(limit, what, || condition().then_some(()));
}

/// Returns the first value that `look` finds.
///
/// # Panics
/// After `limit`, saying `what` it waited for.
#[track_caller]
pub fn eventually_some<T>(limit: Duration, what: &str, look: impl FnMut() -> Option<T>) -> T {
    match within(limit, look) {
        Some(found) => found,
        None => panic!("waited {limit:?} in vain: {what}"),
    }
}

/// The first value that `look` finds within `limit`. It looks once at least.
pub fn within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(BETWEEN_LOOKS);
    }
}
