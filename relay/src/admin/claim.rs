//! A message in the hands of a person's order: no delivery takes it meanwhile. The one place where orders meet the queue.

use std::{sync::Arc, time::Instant};

use crate::{
    mail::id::MessageId,
    queue::{Claim, Queue},
    spool::Stands,
};

/// A message that no delivery takes. Who has it must give it back, or it would never go again.
#[must_use]
pub struct Claimed {
    queue: Arc<Queue>,
    id: MessageId,
}

/// `None` if it is being handed over, or another order has it.
pub fn claim(queue: &Arc<Queue>, id: MessageId) -> Option<Claimed> {
    match queue.claim(id) {
        Claim::Busy => None,
        Claim::Taken { was_waiting: _ } => Some(Claimed { queue: queue.clone(), id }),
    }
}

impl Claimed {
    /// Gives it back to the queue, due at once, if somebody in it waits. `stands`: by now, `None` if it is closed.
    pub fn give_back(self, stands: Option<&Stands>) {
        let Self { queue, id } = self;
        if stands.is_some_and(|stands| !stands.waiting.is_empty()) {
            queue.untried(id);
            queue.wake();
        } else {
            queue.settled(id, false, Instant::now());
        }
    }
}
