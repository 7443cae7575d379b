//! One lane of due messages, in which senders take turns. No I/O, no clock.

use std::collections::BTreeSet;

use backupmx_relay_api::config::Order;

use crate::mail::{envelope::Flow, id::MessageId};

/// A group of senders whose mail stands in one row.
pub type Group = u8;

/// Enough that a flood seldom meets another sender in its group, and few enough to look through at each turn.
const GROUPS: usize = Group::MAX as usize + 1;

/// Due messages by group; the groups take turns (stochastic fair queueing), so a flood delays the others by its own share only.
///
/// A group knows ids alone: a million messages take what their ids take, whoever sent them.
#[derive(Debug)]
pub struct Turns {
    order: Order,
    groups: Vec<BTreeSet<MessageId>>,
    /// Whose turn it is, if it has something.
    next: usize,
    due: usize,
}

/// Where a sender's mail stands.
pub fn group(flow: Flow) -> Group {
    flow.0 as Group // the low bits of a hash are as good as any
}

impl Turns {
    /// Nothing is due. `order`: within a group.
    pub fn new(order: Order) -> Self {
        Self { order, groups: vec![BTreeSet::new(); GROUPS], next: 0, due: 0 }
    }

    /// Within a group, from now on.
    pub fn set_order(&mut self, order: Order) {
        self.order = order;
    }

    /// How much is due.
    pub fn len(&self) -> usize {
        self.due
    }

    /// It is due; once only, however often this is said.
    pub fn insert(&mut self, group: Group, id: MessageId) {
        self.due += usize::from(self.groups[usize::from(group)].insert(id));
    }

    /// Whether it is due, in this group.
    pub fn has(&self, group: Group, id: MessageId) -> bool {
        self.groups[usize::from(group)].contains(&id)
    }

    /// The group in which it is due. Looks into all of them: for what a person asks, not for each delivery.
    pub fn find(&self, id: MessageId) -> Option<Group> {
        (0..=Group::MAX).find(|group| self.has(*group, id))
    }

    /// It is no longer due.
    pub fn remove(&mut self, group: Group, id: MessageId) {
        self.due -= usize::from(self.groups[usize::from(group)].remove(&id));
    }

    /// The first message of the group whose turn it is.
    pub fn pop(&mut self) -> Option<(Group, MessageId)> {
        let mut ahead = (0..GROUPS).map(|step| (self.next + step) % GROUPS);
        let turn = ahead.find(|group| !self.groups[*group].is_empty())?;
        let id = match self.order {
            // Ids sort by age.
            Order::OldestFirst => self.groups[turn].pop_first(),
            Order::NewestFirst => self.groups[turn].pop_last(),
        }?;
        self.next = (turn + 1) % GROUPS;
        self.due -= 1;
        Some((turn as Group, id))
    }

    /// Takes in all that is due in another one.
    pub fn take_in(&mut self, other: &mut Self) {
        for (into, from) in self.groups.iter_mut().zip(&mut other.groups) {
            into.append(from);
        }
        self.due += std::mem::take(&mut other.due);
    }
}
