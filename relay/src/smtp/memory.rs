//! What all sessions together may hold in their buffers. No I/O.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// What each session has without asking: a command line and its replies, a small read and what it adds to the content, a
/// few recipients, and TLS. So each comes forward, however much the others take.
pub const OWN_BYTES: usize = (4 << 10) + 2 * NARROW_READ_BYTES + OWN_RECIPIENT_BYTES + TLS_BYTES;
/// The recipients of a usual message; what more take counts.
const OWN_RECIPIENT_BYTES: usize = 4 << 10;
/// What a session may hold of recipients and content, its reads included; beyond it content goes to its file.
pub const SESSION_BYTES_MAX: usize = 320 << 10;
/// What TLS holds: a record on its way in and one on its way out, each of 16 KiB and some.
const TLS_BYTES: usize = 36 << 10;
/// A read while content comes in: several network packets of it.
pub const READ_BYTES: usize = 32 << 10;
/// The same where memory is used up.
pub const NARROW_READ_BYTES: usize = 4 << 10;

/// Large content goes to its file in pieces of this size while there is memory enough: fewer calls, and so faster.
const PIECE_BYTES: usize = 192 << 10;
/// The same while it is scarce, so that more sessions have some.
const SCARCE_PIECE_BYTES: usize = 16 << 10;

/// What recipients that take so much count for.
pub fn beyond_own(recipient_bytes: usize) -> usize {
    recipient_bytes.saturating_sub(OWN_RECIPIENT_BYTES)
}

/// The bytes that sessions hold beyond [`OWN_BYTES`].
#[derive(Debug)]
pub struct Memory {
    used: AtomicUsize,
    bytes_max: AtomicUsize,
}

impl Memory {
    /// `bytes_max`: for all sessions, of which there are `sessions_max` at most, each with its own.
    pub fn new(bytes_max: usize, sessions_max: usize) -> Arc<Self> {
        let memory = Self { used: AtomicUsize::new(0), bytes_max: AtomicUsize::new(0) };
        memory.bound(bytes_max, sessions_max);
        Arc::new(memory)
    }

    /// The same from now on. What is held beyond it comes back as it does anyway; until then nobody gets more.
    pub fn bound(&self, bytes_max: usize, sessions_max: usize) {
        let own = OWN_BYTES.saturating_mul(sessions_max);
        self.bytes_max.store(bytes_max.saturating_sub(own), Ordering::Relaxed);
    }

    /// In which pieces large content is to go to its file.
    pub fn piece_bytes(&self) -> usize {
        let is_scarce = self.used.load(Ordering::Relaxed) > self.bytes_max.load(Ordering::Relaxed) / 2;
        if is_scarce { SCARCE_PIECE_BYTES } else { PIECE_BYTES }
    }

    /// A session's share: nothing yet.
    pub fn share(self: &Arc<Self>) -> Share {
        Share { memory: self.clone(), bytes: 0 }
    }
}

/// What one session holds. Dropped, it is free again.
#[derive(Debug)]
pub struct Share {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Share {
    /// Makes it `bytes` long, if memory is left; shorter it can be made at any time.
    pub fn resize(&mut self, bytes: usize) -> bool {
        if bytes <= self.bytes {
            self.memory.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
            self.bytes = bytes;
            return true;
        }
        let (more, bytes_max) = (bytes - self.bytes, self.memory.bytes_max.load(Ordering::Relaxed));
        let grown = |used: usize| used.checked_add(more).filter(|used| *used <= bytes_max);
        let is_left = self.memory.used.try_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok();
        if is_left {
            self.bytes = bytes;
        }
        is_left
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_exceed_what_there_is_and_come_back() {
        let memory = Memory::new(100 + 2 * OWN_BYTES, 2);
        let (mut first, mut second) = (memory.share(), memory.share());
        assert!(first.resize(60));
        assert!(!second.resize(41));
        assert!(second.resize(40));
        assert!(!first.resize(61));
        assert!(first.resize(10));
        assert!(second.resize(90));
        drop(first);
        assert!(second.resize(100));
        assert!(!Memory::new(100, 2).share().resize(1), "each session's own goes first");
    }

    #[test]
    fn a_new_bound_takes_nothing_from_who_has_it() {
        let memory = Memory::new(100, 0);
        let (mut first, mut second) = (memory.share(), memory.share());
        assert!(first.resize(80));
        memory.bound(50, 0);
        assert!(!second.resize(1) && !first.resize(81));
        assert!(first.resize(40) && second.resize(10) && !second.resize(11));
    }
}
