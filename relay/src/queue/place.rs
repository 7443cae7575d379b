//! What each connection to the primary is doing, counted, and counted back however it ends.

use std::sync::Arc;

use super::Queue;

/// What a connection is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doing {
    /// It is not yet as far as EHLO.
    Connecting,
    /// It hands a message over.
    Working,
    /// It waits for a message.
    Idle,
    /// It hands a message over, and got no answer for a while.
    Stalled,
}

/// How many connections are doing what.
#[derive(Default, Debug)]
pub struct Places {
    pub connecting: usize,
    pub working: usize,
    pub idle: usize,
    pub stalled: usize,
}

impl Places {
    /// All of them.
    pub fn all(&self) -> usize {
        let Self { connecting, working, idle, stalled } = *self;
        connecting + working + idle + stalled
    }

    fn count(&mut self, doing: Doing) -> &mut usize {
        match doing {
            Doing::Connecting => &mut self.connecting,
            Doing::Working => &mut self.working,
            Doing::Idle => &mut self.idle,
            Doing::Stalled => &mut self.stalled,
        }
    }
}

/// One connection's place. Dropped, it is free again.
pub struct Place {
    queue: Arc<Queue>,
    doing: Doing,
}

impl Place {
    pub(super) fn take(queue: Arc<Queue>) -> Self {
        let doing = Doing::Connecting;
        *queue.core().places.count(doing) += 1;
        Self { queue, doing }
    }

    /// From now on it does this.
    pub fn turn_to(&mut self, doing: Doing) {
        {
            let mut core = self.queue.core();
            *core.places.count(self.doing) -= 1;
            *core.places.count(doing) += 1;
        }
        self.doing = doing;
        if doing == Doing::Stalled {
            self.queue.wake(); // another one may take its turn
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.queue.core().places.count(self.doing) -= 1;
        self.queue.wake();
    }
}
