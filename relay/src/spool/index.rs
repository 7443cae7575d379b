//! What the spool knows in memory: where each open message stands, which recipients are open, and the account. No I/O.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    ops::{Bound, RangeInclusive},
};

use backupmx_relay_api::status::Account;

use super::field::{Arrival, Change, Fate, HeldNote, HeldReason, State};
use crate::mail::{envelope::Flow, id::MessageId};

/// Where a record stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    /// Number of its segment.
    pub segment: u64,
    /// Offset in it; a segment is far shorter than 4 GiB.
    pub offset: u32,
    /// Length with padding.
    pub length: u32,
}

/// A message with a recipient that waits or is held. A million of them fit into 150 MB, so each byte here counts.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// Where its `Accepted` record stands.
    pub location: Location,
    /// Length of the content.
    pub content_bytes: u64,
    /// Whether the content has a file of its own.
    pub is_large: bool,
    /// Attempts that deferred somebody; it stays at its greatest value.
    pub deferrals: u16,
    /// Whose mail it is.
    pub flow: Flow,
    recipients: States,
}

const _: () = assert!(size_of::<Entry>() <= 48, "a tree of a million entries keeps its budget");

/// One state for each recipient, in the envelope's order. Most messages have one recipient and need no allocation.
#[derive(Clone, PartialEq, Debug)]
enum States {
    One([State; 1]),
    Many(Box<[State]>),
}

impl States {
    fn new(states: &[State]) -> Self {
        match *states {
            [one] => Self::One([one]),
            ref many => Self::Many(many.into()),
        }
    }

    fn all(&self) -> &[State] {
        match self {
            Self::One(one) => one,
            Self::Many(many) => many,
        }
    }

    fn all_mut(&mut self) -> &mut [State] {
        match self {
            Self::One(one) => one,
            Self::Many(many) => many,
        }
    }
}

impl Entry {
    /// Places of the recipients that are to be tried.
    pub fn waiting(&self) -> impl Iterator<Item = u32> {
        self.places(|state| state == State::Waiting)
    }

    /// Places of the recipients that are held.
    pub fn held(&self) -> impl Iterator<Item = u32> {
        self.places(|state| state == State::Held)
    }

    /// Places of the recipients that wait or are held.
    pub fn open(&self) -> impl Iterator<Item = u32> {
        self.places(|state| state != State::Ended)
    }

    /// Whether nobody waits any more, though somebody is held.
    pub fn is_held(&self) -> bool {
        !self.states().contains(&State::Waiting)
    }

    /// How each recipient stands, in the envelope's order.
    pub fn states(&self) -> &[State] {
        self.recipients.all()
    }

    fn places(&self, wanted: impl Fn(State) -> bool) -> impl Iterator<Item = u32> {
        (0u32..).zip(self.states()).filter(move |(_, state)| wanted(**state)).map(|(place, _)| place)
    }

    fn open_count(&self) -> u64 {
        self.open().count() as u64
    }

    /// Takes in what happened to recipients that are open; an end is an end. `ended` hears each fate that is one.
    fn settle(&mut self, fates: &[(u32, Fate, String)], mut ended: impl FnMut(Fate)) {
        for (place, fate, _) in fates {
            let open = self.recipients.all_mut().get_mut(*place as usize).filter(|state| **state != State::Ended);
            let Some(state) = open else { continue };
            *state = fate.state_after(*state);
            if *state == State::Ended {
                ended(*fate);
            }
        }
    }
}

/// All open messages, in the order in which they came.
#[derive(Default, PartialEq, Debug)]
pub struct Index {
    entries: BTreeMap<MessageId, Entry>,
    /// Of each message in which somebody is held. Apart from the entries, since most messages never are.
    held_notes: BTreeMap<MessageId, HeldNote>,
    held_by_reason: [u64; HeldReason::ALL.len()],
    /// When those messages were released last that ever were, in milliseconds since 1970: from then on they wait anew.
    released_ms: BTreeMap<MessageId, i64>,
    /// What is open in each segment, and what no longer is.
    segments: BTreeMap<u64, Use>,
    account: Account,
    bytes: u64,
    large_bytes: u64,
    held: u64,
}

/// What a segment is still good for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Use {
    /// Open messages of which the `Accepted` record stands in it.
    pub messages: u64,
    /// Bytes of those records.
    pub bytes: u64,
    /// Since when content of a closed message stands in it, in milliseconds since 1970.
    pub closed_since_ms: Option<i64>,
}

impl Index {
    /// Headers and marks say how the account stood when they were written, whatever can be read of what was before.
    pub fn set_totals(&mut self, totals: Account) {
        self.account = Account { queued: self.account.queued, ..totals };
    }

    /// So many recipients were never ours, since the primary took their mail while its sender waited.
    pub fn passed(&mut self, recipients: u64) {
        self.account.accepted += recipients;
        self.account.passed += recipients;
    }

    /// Damage took records along: what is missing from the account is counted as damaged. What is too much in it comes
    /// from a lost outcome, so the message is delivered again, and counts as accepted again.
    pub fn admit_damage(&mut self) {
        let difference = self.account.difference();
        self.account.damaged += difference.max(0).unsigned_abs();
        self.account.accepted += difference.min(0).unsigned_abs();
    }

    /// A message is ours. A copy of one replaces it and is not counted again.
    pub fn accept(&mut self, arrival: &Arrival, content_bytes: u64, location: Location, is_copy: bool) {
        let (recipients, deferrals, note) = match &arrival.standing {
            Some(standing) => (States::new(&standing.states), standing.deferrals, standing.held),
            None => (States::new(&vec![State::Waiting; arrival.recipients]), 0, None),
        };
        let (is_large, flow) = (arrival.large_bytes.is_some(), arrival.flow);
        let entry = Entry { location, content_bytes, is_large, deferrals, flow, recipients };
        if !is_copy {
            self.account.accepted += entry.open_count();
        }
        self.remove(arrival.id);
        if entry.open_count() > 0 {
            self.note(arrival.id, &entry, note);
            self.add(arrival.id, entry);
        }
    }

    /// Takes in a change that the log holds. Of a message that it no longer holds the ends are counted: the totals in
    /// the headers know that it was accepted.
    pub fn replay(&mut self, change: &Change) -> Option<Entry> {
        if !self.entries.contains_key(&change.id) {
            change.fates.iter().for_each(|(_, fate, _)| count(&mut self.account, *fate));
        }
        self.settle(change)
    }

    /// Takes in what happened to a message. What concerns nobody open changes nothing.
    /// Returns the entry if the message is closed by this.
    pub fn settle(&mut self, change: &Change) -> Option<Entry> {
        let note = self.held_notes.get(&change.id).copied();
        let mut entry = self.remove(change.id)?;
        let is_held_by_it = change.fates.iter().any(|(place, fate, _)| {
            *fate == Fate::Held && entry.states().get(*place as usize).is_some_and(|state| *state != State::Ended)
        });
        let account = &mut self.account;
        entry.settle(&change.fates, |fate| count(account, fate));
        let deferred = change.fates.iter().any(|(_, fate, _)| *fate == Fate::Deferred);
        entry.deferrals = entry.deferrals.saturating_add(u16::from(deferred));
        if entry.open_count() == 0 {
            let closed_since_ms = &mut self.segments.entry(entry.location.segment).or_default().closed_since_ms;
            closed_since_ms.get_or_insert(change.at.as_millisecond());
            self.released_ms.remove(&change.id);
            return Some(entry);
        }
        if change.fates.iter().any(|(_, fate, _)| *fate == Fate::Released) {
            self.released_ms.insert(change.id, change.at.as_millisecond());
        }
        let note = if is_held_by_it { Some(noted(note, change)) } else { note };
        self.note(change.id, &entry, note);
        self.add(change.id, entry);
        None
    }

    /// Whether these fates would leave nobody open.
    pub fn would_close(&self, change: &Change) -> bool {
        let Some(entry) = self.entries.get(&change.id) else { return true };
        let mut after = entry.clone();
        after.settle(&change.fates, |_| {});
        after.open_count() == 0
    }

    /// The change with those fates only that concern open recipients.
    pub fn news_in<'a>(&self, change: &'a Change) -> Cow<'a, Change> {
        let entry = self.entries.get(&change.id);
        let is_open = |place: u32| {
            entry.and_then(|entry| entry.states().get(place as usize)).is_some_and(|state| *state != State::Ended)
        };
        if change.fates.iter().all(|(place, ..)| is_open(*place)) {
            return Cow::Borrowed(change);
        }
        let fates = change.fates.iter().filter(|(place, ..)| is_open(*place)).cloned().collect();
        Cow::Owned(Change { fates, by: change.by.clone(), ..*change })
    }

    /// An open message.
    pub fn get(&self, id: MessageId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// All open messages, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (MessageId, &Entry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }

    /// Since when it waits, in milliseconds since 1970: since it came, or since somebody released it.
    pub fn waits_since_ms(&self, id: MessageId) -> i64 {
        self.released_ms.get(&id).map_or(id.made_at_ms(), |released_ms| *released_ms)
    }

    /// Why and since when somebody in it is held; `None` if nobody is.
    pub fn held_note(&self, id: MessageId) -> Option<HeldNote> {
        self.held_notes.get(&id).copied()
    }

    /// All messages in which somebody is held, oldest first, with why and since when.
    pub fn held_notes(&self) -> impl Iterator<Item = (MessageId, HeldNote)> {
        self.held_notes.iter().map(|(id, note)| (*id, *note))
    }

    /// In how many messages somebody is held because of this.
    pub fn held_because_of(&self, reason: HeldReason) -> u64 {
        self.held_by_reason[reason as usize]
    }

    /// The first open message behind this one that has a file of its own.
    pub fn next_large(&self, after: Option<MessageId>) -> Option<MessageId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut behind = self.entries.range((from, Bound::Unbounded));
        behind.find(|(_, entry)| entry.is_large).map(|(id, _)| *id)
    }

    /// What is open in this segment.
    pub fn use_of(&self, segment: u64) -> Use {
        self.segments.get(&segment).copied().unwrap_or_default()
    }

    /// Since when content of closed messages stands somewhere in the log.
    pub fn closed_since_ms(&self) -> Option<i64> {
        self.segments.values().filter_map(|used| used.closed_since_ms).min()
    }

    /// A segment is gone.
    pub fn forget_segment(&mut self, segment: u64) {
        self.segments.remove(&segment);
    }

    /// What became of every recipient.
    pub fn account(&self) -> Account {
        self.account
    }

    /// Open messages, bytes of their content, and how many of them are held.
    pub fn counts(&self) -> Counts {
        let oldest_ms = self.entries.first_key_value().map(|(id, _)| id.made_at_ms());
        Counts { messages: self.entries.len() as u64, bytes: self.bytes, held: self.held, oldest_ms }
    }

    /// The first message among these ids in which somebody waits.
    pub fn first_waiting(&self, ids: RangeInclusive<MessageId>) -> Option<MessageId> {
        self.entries.range(ids).find(|(_, entry)| !entry.is_held()).map(|(id, _)| *id)
    }

    /// Open messages from this id on: how many, and bytes of their content, with the least and the greatest id. Looks at each.
    pub fn from(&self, id: MessageId) -> Option<(u64, u64, [MessageId; 2])> {
        let mut behind = self.entries.range(id..);
        let (first, entry) = behind.next()?;
        let alone = (1, entry.content_bytes, [*first, *first]);
        Some(behind.fold(alone, |(messages, bytes, _), (last, entry)| {
            (messages + 1, bytes + entry.content_bytes, [*first, *last])
        }))
    }

    /// Bytes of content in files of their own.
    pub fn large_bytes(&self) -> u64 {
        self.large_bytes
    }

    /// Keeps the note if somebody in the message is held. Goes before `add`, as `remove` takes it away.
    fn note(&mut self, id: MessageId, entry: &Entry, note: Option<HeldNote>) {
        if entry.held().next().is_some() {
            let note = note.unwrap_or(HeldNote { since_ms: id.made_at_ms(), reason: HeldReason::Unknown });
            self.held_by_reason[note.reason as usize] += 1;
            self.held_notes.insert(id, note);
        }
    }

    fn add(&mut self, id: MessageId, entry: Entry) {
        self.account.queued += entry.open_count();
        self.bytes += entry.content_bytes;
        self.large_bytes += if entry.is_large { entry.content_bytes } else { 0 };
        self.held += u64::from(entry.is_held());
        let used = self.segments.entry(entry.location.segment).or_default();
        used.messages += 1;
        used.bytes += u64::from(entry.location.length);
        self.entries.insert(id, entry);
    }

    fn remove(&mut self, id: MessageId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        if let Some(note) = self.held_notes.remove(&id) {
            self.held_by_reason[note.reason as usize] -= 1;
        }
        self.account.queued -= entry.open_count();
        self.bytes -= entry.content_bytes;
        self.large_bytes -= if entry.is_large { entry.content_bytes } else { 0 };
        self.held -= u64::from(entry.is_held());
        if let Some(used) = self.segments.get_mut(&entry.location.segment) {
            used.messages -= 1;
            used.bytes -= u64::from(entry.location.length);
        }
        Some(entry)
    }
}

/// After a change that held somebody. The last one counts, but nothing takes the place of a person's: what that one holds
/// is the message, whatever an attempt that was under way says of a recipient.
fn noted(before: Option<HeldNote>, change: &Change) -> HeldNote {
    let now = HeldNote { since_ms: change.at.as_millisecond(), reason: change.held_reason() };
    match before {
        Some(before) if before.reason == HeldReason::Person && now.reason != HeldReason::Person => before,
        _ => now,
    }
}

fn count(account: &mut Account, fate: Fate) {
    match fate {
        Fate::Delivered => account.delivered += 1,
        Fate::Bounced => account.bounced += 1,
        Fate::Expired => account.expired += 1,
        Fate::Deleted => account.deleted += 1,
        Fate::Moved => account.moved += 1,
        Fate::Damaged => account.damaged += 1,
        // Never ours, as its sender sees it. Totals of a damaged log may not know of it.
        Fate::Withdrawn => account.accepted = account.accepted.saturating_sub(1),
        Fate::Deferred | Fate::Held | Fate::Released => {} // no ends
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
    use crate::spool::{
        field::{self, Standing},
        record::Kind,
    };

    const HERE: Location = Location { segment: 3, offset: 4608, length: 100 };

    fn attempt(id: MessageId, fates: &[(u32, Fate)]) -> Change {
        let fates = fates.iter().map(|(place, fate)| (*place, *fate, String::new())).collect();
        let (at, by) = (jiff::Timestamp::UNIX_EPOCH, String::new());
        Change { kind: Kind::Attempt, id, at, by, fates, held_as: Some(HeldReason::Undeliverable) }
    }

    fn hold(id: MessageId, place: u32, reason: HeldReason, at_ms: i64) -> Change {
        let at = jiff::Timestamp::from_millisecond(at_ms).unwrap();
        Change { kind: Kind::Held, at, held_as: Some(reason), ..attempt(id, &[(place, Fate::Held)]) }
    }

    fn arrival(id: MessageId, recipients: usize) -> Arrival {
        Arrival::decode(&field::tests::accepted(id, recipients).encode()).unwrap()
    }

    fn with_message(recipients: usize) -> (Index, MessageId) {
        let (mut index, id) = (Index::default(), MessageId::new());
        index.accept(&arrival(id, recipients), 1000, HERE, false);
        (index, id)
    }

    #[test]
    fn who_is_held_does_not_wait_and_what_came_before_is_not_counted() {
        let (mut index, first) = with_message(1);
        let (held, last) = (MessageId::new(), MessageId::new());
        [held, last].iter().for_each(|id| index.accept(&arrival(*id, 1), 500, HERE, false));
        index.settle(&hold(held, 0, HeldReason::Person, 1));
        assert_eq!(index.first_waiting(first..=last), Some(first));
        assert_eq!(index.first_waiting(held..=last), Some(last));
        assert_eq!(index.first_waiting(held..=held), None);
        assert_eq!(index.from(first), Some((3, 2000, [first, last])));
        assert_eq!(index.from(held), Some((2, 1000, [held, last])));
        assert_eq!(index.from(MessageId::new()), None);
        assert_eq!(index.from(MessageId::least_at_ms(first.made_at_ms())), index.from(first));
    }

    #[test]
    fn each_recipient_has_its_own_fate_and_the_account_stays_exact() {
        let (mut index, id) = with_message(4);
        let mixed = attempt(id, &[(0, Fate::Delivered), (1, Fate::Deferred), (2, Fate::Held)]);
        assert!(!index.would_close(&mixed));
        assert_eq!(index.settle(&mixed), None);
        assert_eq!(index.get(id).unwrap().waiting().collect::<Vec<_>>(), [1, 3]);
        let Account { accepted, delivered, queued, .. } = index.account();
        assert_eq!((accepted, delivered, queued), (4, 1, 3));
        assert_eq!(index.account().difference(), 0);
    }

    #[test]
    fn a_message_closes_with_its_last_recipient_and_frees_its_segment() {
        let (mut index, id) = with_message(2);
        assert_eq!(index.use_of(3), Use { messages: 1, bytes: 100, closed_since_ms: None });
        let last = attempt(id, &[(0, Fate::Delivered), (1, Fate::Delivered)]);
        assert!(index.would_close(&last));
        assert!(index.settle(&last).is_some());
        assert_eq!(index.use_of(3), Use { messages: 0, bytes: 0, closed_since_ms: Some(0) });
        assert_eq!(index.closed_since_ms(), Some(0));
        assert_eq!(index.counts(), Counts::default());
        assert_eq!(index.account().difference(), 0);
    }

    #[test]
    fn held_mail_is_queued_but_not_tried() {
        let (mut index, id) = with_message(1);
        index.settle(&attempt(id, &[(0, Fate::Held)]));
        let counts = index.counts();
        assert_eq!((counts.messages, counts.held, index.account().queued), (1, 1, 1));
        assert_eq!(index.get(id).unwrap().waiting().count(), 0);
    }

    #[test]
    fn a_hold_that_came_during_an_attempt_outlives_its_end() {
        let (mut index, id) = with_message(1);
        index.settle(&hold(id, 0, HeldReason::Person, 5));
        index.settle(&attempt(id, &[(0, Fate::Deferred)]));
        assert!(index.get(id).unwrap().is_held());
        index.settle(&attempt(id, &[(0, Fate::Held)]));
        assert_eq!(index.held_note(id), Some(HeldNote { since_ms: 5, reason: HeldReason::Person }));
    }

    #[test]
    fn why_a_message_is_held_is_what_was_said_last_until_nobody_in_it_is() {
        let (mut index, id) = with_message(3);
        assert_eq!(index.held_note(id), None);
        for (at_ms, reason) in [(1, HeldReason::Undeliverable), (2, HeldReason::Expired), (3, HeldReason::Person)] {
            index.settle(&hold(id, 0, reason, at_ms));
            assert_eq!(index.held_note(id), Some(HeldNote { since_ms: at_ms, reason }));
            let counts = HeldReason::ALL.map(|one| index.held_because_of(one));
            assert_eq!(counts, HeldReason::ALL.map(|one| u64::from(one == reason)));
        }
        index.settle(&hold(id, 1, HeldReason::Capability, 4));
        index.settle(&attempt(id, &[(0, Fate::Delivered)]));
        assert_eq!(index.held_note(id), Some(HeldNote { since_ms: 3, reason: HeldReason::Person }));
        index.settle(&attempt(id, &[(1, Fate::Released)]));
        assert_eq!((index.held_note(id), index.held_notes().count()), (None, 0));
        index.settle(&hold(id, 0, HeldReason::Person, 5));
        assert_eq!(index.held_note(id), None, "its first recipient has its end");
    }

    #[test]
    fn of_two_copies_of_a_message_the_later_counts_once() {
        let (mut index, id) = with_message(2);
        let there = Location { segment: 9, ..HERE };
        index.accept(&arrival(id, 2), 1000, there, true);
        assert_eq!(index.get(id).unwrap().location, there);
        assert_eq!((index.account().accepted, index.account().queued, index.counts().bytes), (2, 2, 1000));
        assert_eq!(index.use_of(3), Use::default(), "what was copied forward is no content of a closed message");
    }

    #[test]
    fn a_copy_brings_along_how_far_its_message_has_come() {
        let (mut index, id) = with_message(3);
        index.settle(&attempt(id, &[(0, Fate::Delivered), (1, Fate::Held), (2, Fate::Deferred)]));
        let entry = index.get(id).unwrap().clone();
        let (states, held) = (entry.states().to_vec(), index.held_note(id));
        let standing = Standing { states, deferrals: entry.deferrals, reason: String::new(), held };
        let mut restarted = Index::default();
        restarted.set_totals(index.account());
        restarted.accept(&Arrival { standing: Some(standing), ..arrival(id, 3) }, 1000, HERE, true);
        assert_eq!(restarted.get(id), Some(&entry));
        assert_eq!((restarted.held_note(id), held.is_some()), (held, true));
        assert_eq!(restarted.account(), index.account());
    }

    #[test]
    fn each_end_has_its_own_place_in_the_account() {
        let ends = [Fate::Delivered, Fate::Bounced, Fate::Expired, Fate::Deleted, Fate::Moved, Fate::Damaged];
        let (mut index, id) = with_message(ends.len() + 1);
        index.settle(&attempt(id, &(0..).zip(ends).collect::<Vec<_>>()));
        index.settle(&attempt(id, &[(6, Fate::Withdrawn)]));
        let one_each = Account {
            accepted: 6,
            delivered: 1,
            bounced: 1,
            expired: 1,
            deleted: 1,
            moved: 1,
            damaged: 1,
            ..Account::default()
        };
        assert_eq!(index.account(), one_each);
        assert!(index.get(id).is_none());
    }

    #[test]
    fn a_message_with_one_recipient_fits_its_budget() {
        // A tree that grows at its end leaves its leaves 6 of 11 full: 11 keys and entries for 6 messages.
        let bytes_per_message = 11 * (size_of::<MessageId>() + size_of::<Entry>()) / 6;
        assert!(bytes_per_message <= 130, "{bytes_per_message} bytes");
    }

    #[test]
    fn an_outcome_that_comes_twice_is_news_once() {
        let (mut index, id) = with_message(2);
        let delivered = attempt(id, &[(0, Fate::Delivered), (1, Fate::Deferred)]);
        assert_eq!(*index.news_in(&delivered), delivered);
        index.settle(&delivered);
        assert_eq!(*index.news_in(&delivered), attempt(id, &[(1, Fate::Deferred)]));
    }

    #[test]
    fn a_fate_for_a_place_that_does_not_exist_harms_nothing() {
        let (mut index, id) = with_message(1);
        index.settle(&attempt(id, &[(7, Fate::Held)]));
        assert_eq!(index.get(id).unwrap().waiting().count(), 1);
    }
}
