//! One person's word over one message: no delivery of it begins meanwhile, and it goes back to where it was unless told otherwise.

use std::sync::Arc;

use super::Queue;
use crate::mail::{envelope::Flow, id::MessageId};

/// A message on which a person decides. Dropped, it is where it was: also if the call is cut off, no message gets stuck.
///
/// What was decided is durable first, and then said here: so a delivery that begins in between reads it from the spool.
pub struct Claimed {
    queue: Arc<Queue>,
    id: MessageId,
    was_waiting: bool,
    is_decided: bool,
}

impl Claimed {
    pub(super) fn new(queue: Arc<Queue>, id: MessageId, was_waiting: bool) -> Self {
        Self { queue, id, was_waiting, is_decided: false }
    }

    /// It was due or later; else it is held, or there is none.
    pub fn was_waiting(&self) -> bool {
        self.was_waiting
    }

    /// It is held from now on, or deleted.
    pub fn ended(mut self) {
        self.is_decided = true;
        self.queue.core().scheduler.settled(self.id);
    }

    /// It is tried now, if it waited.
    pub fn retried(mut self) {
        self.is_decided = true;
        self.queue.news(|scheduler| scheduler.untried(self.id));
    }

    /// It waits again, and is due. `flow`: whose mail it is.
    pub fn released(mut self, flow: Flow) {
        self.is_decided = true;
        self.queue.news(|scheduler| scheduler.released(self.id, flow));
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if !self.is_decided {
            self.queue.core().scheduler.unclaimed(self.id);
            self.queue.wake(); // somebody may have looked for work meanwhile
        }
    }
}
