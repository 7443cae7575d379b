//! What the spool knows in memory: where each open message stands, which recipients are open, and the account. No I/O.

use std::{borrow::Cow, collections::BTreeMap};

use backupmx_relay_api::status::Account;

use super::field::{Accepted, Attempt, Fate};
use crate::mail::id::MessageId;

/// Where a record stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    /// Number of its segment.
    pub segment: u64,
    /// Offset in it.
    pub offset: u64,
    /// Length with padding.
    pub length: u64,
}

/// A message with a recipient that waits or is held.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// Where its `Accepted` record stands.
    pub location: Location,
    /// Milliseconds since 1970.
    pub received_at_ms: i64,
    /// Length of the content.
    pub content_bytes: u64,
    /// Whether the content has a file of its own.
    pub is_large: bool,
    /// Attempts that deferred somebody.
    pub deferrals: u32,
    /// One for each recipient, in the envelope's order.
    recipients: Box<[State]>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Waiting,
    Held,
    Ended,
}

impl Entry {
    /// Places of the recipients that are to be tried.
    pub fn waiting(&self) -> impl Iterator<Item = u32> {
        (0u32..).zip(&self.recipients).filter(|(_, state)| **state == State::Waiting).map(|(place, _)| place)
    }

    /// Whether nobody waits any more, though somebody is held.
    pub fn is_held(&self) -> bool {
        !self.recipients.contains(&State::Waiting)
    }

    fn open(&self) -> u64 {
        self.recipients.iter().filter(|state| **state != State::Ended).count() as u64
    }

    fn settle(&mut self, fates: &[(u32, Fate, String)]) {
        for (place, fate, _) in fates {
            if let Some(state) = self.recipients.get_mut(*place as usize) {
                *state = match fate {
                    Fate::Delivered => State::Ended,
                    Fate::Deferred => State::Waiting,
                    Fate::Held => State::Held,
                };
            }
        }
    }
}

/// All open messages, in the order in which they came.
#[derive(Default)]
pub struct Index {
    entries: BTreeMap<MessageId, Entry>,
    /// Open messages by the segment that holds their `Accepted` record.
    live: BTreeMap<u64, u64>,
    account: Account,
    bytes: u64,
    large_bytes: u64,
    held: u64,
}

impl Index {
    /// Headers and marks say how the account stood when they were written, whatever can be read of what was before.
    pub fn set_totals(&mut self, totals: Account) {
        self.account = Account { queued: self.account.queued, ..totals };
    }

    /// Damage took records along: what is missing from the account is counted as damaged. What is too much in it comes
    /// from a lost outcome, so the message is delivered again, and counts as accepted again.
    pub fn admit_damage(&mut self) {
        let difference = self.account.difference();
        self.account.damaged += difference.max(0).unsigned_abs();
        self.account.accepted += difference.min(0).unsigned_abs();
    }

    /// A message is ours. A copy of one replaces it and is not counted again.
    pub fn accept(&mut self, accepted: &Accepted, content_bytes: u64, location: Location, is_copy: bool) {
        let recipients = vec![State::Waiting; accepted.envelope.recipients.len()].into();
        let entry = Entry {
            location,
            received_at_ms: accepted.envelope.received_at.as_millisecond(),
            content_bytes,
            is_large: accepted.large_bytes.is_some(),
            deferrals: 0,
            recipients,
        };
        if !is_copy {
            self.account.accepted += entry.open();
        }
        self.remove(accepted.envelope.id);
        self.add(accepted.envelope.id, entry);
    }

    /// Takes in what an attempt brought. Fates of messages that are no longer known only count.
    /// Returns the entry if the message is closed by this.
    pub fn settle(&mut self, attempt: &Attempt, is_copy: bool) -> Option<Entry> {
        if !is_copy {
            self.account.delivered +=
                attempt.fates.iter().filter(|(_, fate, _)| *fate == Fate::Delivered).count() as u64;
        }
        let mut entry = self.remove(attempt.id)?;
        entry.settle(&attempt.fates);
        entry.deferrals += u32::from(attempt.fates.iter().any(|(_, fate, _)| *fate == Fate::Deferred));
        if entry.open() == 0 {
            return Some(entry);
        }
        self.add(attempt.id, entry);
        None
    }

    /// Whether these fates would leave nobody open.
    pub fn would_close(&self, attempt: &Attempt) -> bool {
        let Some(entry) = self.entries.get(&attempt.id) else { return true };
        let mut after = entry.clone();
        after.settle(&attempt.fates);
        after.open() == 0
    }

    /// The attempt with those fates only that concern open recipients.
    pub fn news_in<'a>(&self, attempt: &'a Attempt) -> Cow<'a, Attempt> {
        let entry = self.entries.get(&attempt.id);
        let is_open = |place: u32| {
            entry.and_then(|entry| entry.recipients.get(place as usize)).is_some_and(|state| *state != State::Ended)
        };
        if attempt.fates.iter().all(|(place, ..)| is_open(*place)) {
            return Cow::Borrowed(attempt);
        }
        let fates = attempt.fates.iter().filter(|(place, ..)| is_open(*place)).cloned().collect();
        Cow::Owned(Attempt { fates, next_hop: attempt.next_hop.clone(), ..*attempt })
    }

    /// An open message.
    pub fn get(&self, id: MessageId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// All open messages, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (MessageId, &Entry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }

    /// Whether a message is open whose `Accepted` stands in this segment.
    pub fn needs(&self, segment: u64) -> bool {
        self.live.contains_key(&segment)
    }

    /// What became of every recipient.
    pub fn account(&self) -> Account {
        self.account
    }

    /// Open messages, bytes of their content, and how many of them are held.
    pub fn counts(&self) -> Counts {
        let oldest_ms = self.entries.first_key_value().map(|(_, entry)| entry.received_at_ms);
        Counts { messages: self.entries.len() as u64, bytes: self.bytes, held: self.held, oldest_ms }
    }

    /// Bytes of content in files of their own.
    pub fn large_bytes(&self) -> u64 {
        self.large_bytes
    }

    fn add(&mut self, id: MessageId, entry: Entry) {
        self.account.queued += entry.open();
        self.bytes += entry.content_bytes;
        self.large_bytes += if entry.is_large { entry.content_bytes } else { 0 };
        self.held += u64::from(entry.is_held());
        *self.live.entry(entry.location.segment).or_default() += 1;
        self.entries.insert(id, entry);
    }

    fn remove(&mut self, id: MessageId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.account.queued -= entry.open();
        self.bytes -= entry.content_bytes;
        self.large_bytes -= if entry.is_large { entry.content_bytes } else { 0 };
        self.held -= u64::from(entry.is_held());
        if let Some(live) = self.live.get_mut(&entry.location.segment) {
            *live -= 1;
            if *live == 0 {
                self.live.remove(&entry.location.segment);
            }
        }
        Some(entry)
    }
}

/// See [`Index::counts`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Messages with a recipient that waits or is held.
    pub messages: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Those in which nobody waits any more.
    pub held: u64,
    /// When the oldest came in, in milliseconds since 1970.
    pub oldest_ms: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::field;

    const HERE: Location = Location { segment: 3, offset: 4608, length: 100 };

    fn attempt(id: MessageId, fates: &[(u32, Fate)]) -> Attempt {
        let fates = fates.iter().map(|(place, fate)| (*place, *fate, String::new())).collect();
        Attempt { id, at: jiff::Timestamp::UNIX_EPOCH, next_hop: String::new(), fates }
    }

    fn with_message(recipients: usize) -> (Index, MessageId) {
        let (mut index, id) = (Index::default(), MessageId::new());
        index.accept(&field::tests::accepted(id, recipients), 1000, HERE, false);
        (index, id)
    }

    #[test]
    fn each_recipient_has_its_own_fate_and_the_account_stays_exact() {
        let (mut index, id) = with_message(4);
        let mixed = attempt(id, &[(0, Fate::Delivered), (1, Fate::Deferred), (2, Fate::Held)]);
        assert!(!index.would_close(&mixed));
        assert_eq!(index.settle(&mixed, false), None);
        assert_eq!(index.get(id).unwrap().waiting().collect::<Vec<_>>(), [1, 3]);
        let Account { accepted, delivered, queued, .. } = index.account();
        assert_eq!((accepted, delivered, queued), (4, 1, 3));
        assert_eq!(index.account().difference(), 0);
    }

    #[test]
    fn a_message_closes_with_its_last_recipient_and_frees_its_segment() {
        let (mut index, id) = with_message(2);
        assert!(index.needs(3));
        let last = attempt(id, &[(0, Fate::Delivered), (1, Fate::Delivered)]);
        assert!(index.would_close(&last));
        assert!(index.settle(&last, false).is_some());
        assert!(!index.needs(3));
        assert_eq!(index.counts(), Counts::default());
        assert_eq!(index.account().difference(), 0);
    }

    #[test]
    fn held_mail_is_queued_but_not_tried() {
        let (mut index, id) = with_message(1);
        index.settle(&attempt(id, &[(0, Fate::Held)]), false);
        let counts = index.counts();
        assert_eq!((counts.messages, counts.held, index.account().queued), (1, 1, 1));
        assert_eq!(index.get(id).unwrap().waiting().count(), 0);
    }

    #[test]
    fn of_two_copies_of_a_message_the_later_counts_once() {
        let (mut index, id) = with_message(2);
        let there = Location { segment: 9, ..HERE };
        index.accept(&field::tests::accepted(id, 2), 1000, there, true);
        assert_eq!(index.get(id).unwrap().location, there);
        assert_eq!((index.account().accepted, index.account().queued, index.counts().bytes), (2, 2, 1000));
        assert!(!index.needs(3));
    }

    #[test]
    fn an_outcome_that_comes_twice_is_news_once() {
        let (mut index, id) = with_message(2);
        let delivered = attempt(id, &[(0, Fate::Delivered), (1, Fate::Deferred)]);
        assert_eq!(*index.news_in(&delivered), delivered);
        index.settle(&delivered, false);
        assert_eq!(*index.news_in(&delivered), attempt(id, &[(1, Fate::Deferred)]));
    }

    #[test]
    fn a_fate_for_a_place_that_does_not_exist_harms_nothing() {
        let (mut index, id) = with_message(1);
        index.settle(&attempt(id, &[(7, Fate::Held)]), false);
        assert_eq!(index.get(id).unwrap().waiting().count(), 1);
    }
}
