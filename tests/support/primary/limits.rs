//! What a primary does not put up with: too many connections at a time, too many mistakes or messages on one, too many
//! recipients of one message.

use std::sync::atomic::{AtomicU64, Ordering};

/// Its limits; none at first.
pub struct Limits {
    connections_max: AtomicU64,
    refusals_max: AtomicU64,
    recipients_max: AtomicU64,
    messages_max: AtomicU64,
    serving: AtomicU64,
    turned_away: AtomicU64,
}

/// A connection that is served. Dropping it makes room for another one.
pub(super) struct Place<'a>(&'a Limits);

impl Limits {
    pub(super) fn none() -> Self {
        let [connections_max, refusals_max, recipients_max, messages_max] = [u64::MAX; 4].map(AtomicU64::new);
        let [serving, turned_away] = [0; 2].map(AtomicU64::new);
        Self { connections_max, refusals_max, recipients_max, messages_max, serving, turned_away }
    }

    /// Serves so many connections at a time; the next one hears 421.
    pub fn connections(&self, max: u64) {
        self.connections_max.store(max, Ordering::Relaxed);
    }

    /// Says no so often on one connection, then closes it.
    pub fn refusals(&self, max: u64) {
        self.refusals_max.store(max, Ordering::Relaxed);
    }

    /// Takes so many recipients of one transaction; the next one hears 452 4.5.3.
    pub fn recipients(&self, max: u64) {
        self.recipients_max.store(max, Ordering::Relaxed);
    }

    /// Takes so many messages on one connection; the next MAIL hears 421.
    pub fn messages(&self, max: u64) {
        self.messages_max.store(max, Ordering::Relaxed);
    }

    /// How many connections heard 421 because there were too many.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    pub(super) fn refusals_max(&self) -> u64 {
        self.refusals_max.load(Ordering::Relaxed)
    }

    pub(super) fn recipients_max(&self) -> u64 {
        self.recipients_max.load(Ordering::Relaxed)
    }

    pub(super) fn messages_max(&self) -> u64 {
        self.messages_max.load(Ordering::Relaxed)
    }

    /// `None`: there are too many.
    pub(super) fn take_place(&self) -> Option<Place<'_>> {
        let max = self.connections_max.load(Ordering::Relaxed);
        let taken = self
            .serving
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |serving| (serving < max).then_some(serving + 1));
        if taken.is_err() {
            self.turned_away.fetch_add(1, Ordering::Relaxed);
        }
        taken.is_ok().then_some(Place(self))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Ordering::Relaxed);
    }
}
