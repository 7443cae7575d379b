//! What each connection to the primary is doing, counted, and counted back however it ends.

use std::{
    sync::{Arc, MutexGuard},
    time::{Duration, Instant},
};

use super::{Core, Queue};

/// A server that refuses connections is not asked more often than this.
pub(super) const CONNECT_RETRY: Duration = Duration::from_secs(1);

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
    /// It says goodbye, since there are more than the pace allows.
    Leaving,
    /// It is not yet as far as EHLO, and is to carry mail whose sender waits.
    Opening,
    /// It carries such mail, or waits for some.
    Passing,
}

/// How many connections are doing what.
#[derive(Default, Debug)]
pub struct Places {
    pub connecting: usize,
    pub working: usize,
    pub idle: usize,
    pub stalled: usize,
    pub leaving: usize,
    pub opening: usize,
    pub passing: usize,
}

impl Places {
    /// All of them.
    pub fn all(&self) -> usize {
        self.draining() + self.opening + self.passing
    }

    /// Those that the drain has made.
    pub fn draining(&self) -> usize {
        self.paced() + self.stalled + self.leaving
    }

    /// Those that count for the pace.
    ///
    /// One that got no answer for a while is not the primary's pace; a few of them must not stop the drain. That holds for
    /// the canary too: one message that a scanner chews on for ten minutes must not stop it for as long.
    pub fn paced(&self) -> usize {
        self.connecting + self.working + self.idle
    }

    /// Those that the primary has taken.
    pub fn served(&self) -> usize {
        self.all() - self.connecting - self.opening
    }

    fn turn(&mut self, from: &mut Doing, to: Doing) {
        *self.count(*from) -= 1;
        *self.count(to) += 1;
        *from = to;
    }

    fn count(&mut self, doing: Doing) -> &mut usize {
        match doing {
            Doing::Connecting => &mut self.connecting,
            Doing::Working => &mut self.working,
            Doing::Idle => &mut self.idle,
            Doing::Stalled => &mut self.stalled,
            Doing::Leaving => &mut self.leaving,
            Doing::Opening => &mut self.opening,
            Doing::Passing => &mut self.passing,
        }
    }
}

/// One connection's place. Dropped, it is free again.
pub struct Place {
    queue: Arc<Queue>,
    doing: Doing,
    begun: Instant,
}

impl Place {
    pub(super) fn take(queue: Arc<Queue>, doing: Doing, begun: Instant) -> Self {
        *queue.core().places.count(doing) += 1;
        Self { queue, doing, begun }
    }

    /// From now on it does this.
    pub fn turn_to(&mut self, doing: Doing) {
        self.queue.core().places.turn(&mut self.doing, doing);
        if doing == Doing::Stalled {
            self.queue.wake(); // another one may take its turn
        }
    }

    /// It is idle. False if there are more than the pace allows: then this one is to end, and counts for the pace no more.
    ///
    /// Asked between messages, so that a pace that was reduced holds for connections that are there already.
    pub fn stays(&mut self) -> bool {
        let mut core = self.queue.core();
        core.places.turn(&mut self.doing, Doing::Idle);
        let stays = core.places.paced() <= core.pace.allowed();
        if !stays {
            core.places.turn(&mut self.doing, Doing::Leaving);
        }
        stays
    }

    /// The primary sent the connection away: not at once again.
    ///
    /// True if no other one is served, so that this tells something of the primary; else it tells how many it takes.
    pub fn turned_away(&self, now: Instant) -> bool {
        let mut core = self.queue.core();
        let others_served = self.others_served(&core.places);
        if others_served > 0 {
            core.pace.turned_away(now.saturating_duration_since(self.begun), others_served, now);
        }
        self.not_again_at_once(core, others_served, now)
    }

    /// The connection could not be made: not at once again. True as above; else it may have been its own bad luck.
    pub fn not_made(&self, now: Instant) -> bool {
        let core = self.queue.core();
        let others_served = self.others_served(&core.places);
        self.not_again_at_once(core, others_served, now)
    }

    fn others_served(&self, places: &Places) -> usize {
        places.served() - usize::from(!matches!(self.doing, Doing::Connecting | Doing::Opening))
    }

    fn not_again_at_once(&self, mut core: MutexGuard<'_, Core>, others_served: usize, now: Instant) -> bool {
        if others_served == 0 {
            core.pace.broke(now);
        }
        core.no_connect_before = Some(now + CONNECT_RETRY);
        others_served == 0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.queue.core().places.count(self.doing) -= 1;
        self.queue.wake();
    }
}
