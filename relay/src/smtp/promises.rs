//! Room on the volume that was promised to messages which are still coming in. No I/O.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::policy::room::STEP_BYTES;

/// The bytes of all promises. What of a message stands on the volume already counts twice for a while: how much is free is
/// known only as of a second ago, and in a second much can be written.
#[derive(Default, Debug)]
pub struct Promises(Mutex<u64>);

impl Promises {
    /// Makes a promise if `is_left` finds so; it hears how much is promised to others, and nobody else promises meanwhile.
    pub fn make<E>(&self, size: Option<u64>, is_left: impl FnOnce(u64) -> Result<(), E>) -> Result<Promise<'_>, E> {
        let mut promised = self.lock();
        is_left(*promised)?;
        let bytes = size.unwrap_or(STEP_BYTES);
        *promised += bytes;
        Ok(Promise { promises: self, bytes })
    }

    /// What is promised.
    pub fn bytes(&self) -> u64 {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for one message. Dropped, others may have it.
#[derive(Debug)]
pub struct Promise<'a> {
    promises: &'a Promises,
    bytes: u64,
}

impl Promise<'_> {
    /// The message has come to this length. Grows as it must; false if no room is left.
    pub fn covers(&mut self, length: u64, is_left: impl FnOnce(u64) -> bool) -> bool {
        if length <= self.bytes {
            return true;
        }
        let mut promised = self.promises.lock();
        if !is_left(*promised) {
            return false;
        }
        let more = (length - self.bytes).max(STEP_BYTES);
        (self.bytes, *promised) = (self.bytes + more, *promised + more);
        true
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        *self.promises.lock() -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_is_counted_until_it_is_given_up() {
        let promises = Promises::default();
        let nothing = |promised| if promised == 0 { Ok(()) } else { Err(promised) };
        let mut first = promises.make(Some(1000), nothing).unwrap();
        let second = promises.make(None, |promised| if promised == 1000 { Ok(()) } else { Err(promised) }).unwrap();
        assert_eq!(promises.bytes(), 1000 + STEP_BYTES);
        assert!(promises.make(Some(1), nothing).is_err());
        drop(second);
        assert!(first.covers(1000, |_| false), "it was promised");
        assert!(!first.covers(1001, |_| false));
        assert!(first.covers(1001, |promised| promised == 1000));
        assert_eq!(promises.bytes(), 1000 + STEP_BYTES);
        drop(first);
        assert_eq!(promises.bytes(), 0);
    }
}
