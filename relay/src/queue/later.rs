//! What is not yet due: found by its time and by its id. No I/O, no clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::scheduler::Spot;
use crate::mail::id::MessageId;

/// When a message becomes due, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wait {
    /// Then, if nothing comes before.
    pub until: Instant,
    /// What may come before.
    pub wakes: Wakes,
    /// There.
    pub spot: Spot,
}

/// What makes a message due before its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wakes {
    /// Only a person.
    Never,
    /// The primary's return.
    AtReturn,
    /// A message that the primary takes after its trouble.
    AtProof,
}

/// All of them.
#[derive(Default, Debug)]
pub struct Later {
    by_id: BTreeMap<MessageId, Wait>,
    by_time: BTreeSet<(Instant, MessageId)>,
}

impl Later {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// When the first of them becomes due.
    pub fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(until, _)| *until)
    }

    /// How one of them waits.
    pub fn get(&self, id: MessageId) -> Option<&Wait> {
        self.by_id.get(&id)
    }

    /// One more.
    pub fn insert(&mut self, id: MessageId, wait: Wait) {
        self.by_id.insert(id, wait);
        self.by_time.insert((wait.until, id));
    }

    /// One less.
    pub fn remove(&mut self, id: MessageId) -> Option<Wait> {
        let wait = self.by_id.remove(&id)?;
        self.by_time.remove(&(wait.until, id));
        Some(wait)
    }

    /// Takes out the first one, if its time has come.
    pub fn pop(&mut self, now: Instant) -> Option<(MessageId, Spot)> {
        let (_, id) = *self.by_time.first().filter(|(until, _)| *until <= now)?;
        self.remove(id).map(|wait| (id, wait.spot))
    }

    /// Takes out all whose wait is like this.
    pub fn take(&mut self, like_this: impl Fn(&Wait) -> bool) -> Vec<(MessageId, Spot)> {
        let mut taken = Vec::new();
        let by_time = &mut self.by_time;
        self.by_id.retain(|id, wait| {
            let goes = like_this(wait);
            if goes {
                by_time.remove(&(wait.until, *id));
                taken.push((*id, wait.spot));
            }
            !goes
        });
        taken
    }
}
