//! What senders, the primary and people were told, and so what must be found after each crash.

use std::collections::{BTreeMap, BTreeSet};

use backupmx_relay::{
    mail::id::MessageId,
    spool::{
        NotKept,
        field::{Change, Fate, HeldReason, State},
        index::{Entry, Index},
        shared::Shared,
    },
};
use backupmx_relay_api::status::Account;

use super::Counts;

/// All messages that were ever offered.
#[derive(Default)]
pub struct Model {
    /// Those that may be open.
    pub open: BTreeMap<MessageId, Message>,
    /// The others, and whether each has had a file of its own.
    gone: BTreeMap<MessageId, bool>,
    /// Those of them of which rot has hit a record.
    may_come_back: BTreeSet<MessageId>,
    /// What is known of recipients of messages that are gone.
    ended: Account,
    /// Rot or an adoption: from then on the account must be without difference, its numbers are no longer foretold.
    pub is_inexact: bool,
}

/// One message.
pub struct Message {
    /// As it was sent.
    pub content: Vec<u8>,
    /// Whether it has a file of its own.
    pub is_large: bool,
    /// What its sender heard.
    pub heard: Heard,
    /// In the envelope's order.
    pub recipients: Vec<Recipient>,
    /// Why somebody in it may be held; more than one after a change that nobody confirmed. `None`: nobody may be.
    pub may_be_held_as: BTreeSet<Option<HeldReason>>,
    /// Rot has hit one of its records or its file: whatever is found is as it is, but the content is never altered.
    pub is_hit: bool,
    /// Rot has hit its file, or it had its end before and is back; any other file stays as long as somebody waits.
    pub file_may_go: bool,
    /// A delivery is under way or not yet recorded.
    pub is_busy: bool,
}

/// What a sender heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// 250.
    Yes,
    /// 4xx.
    No,
    /// Nothing: it may be there or not.
    Nothing,
}

/// One recipient.
#[derive(Clone)]
pub struct Recipient {
    /// How it may stand; more than one after an outcome that nobody confirmed. An end is known by its fate.
    pub may_be: Vec<(State, Option<Fate>)>,
    /// How often the primary got the message for it.
    pub deliveries: u64,
    /// It has been delivered, and that is not recorded yet.
    pub is_told: bool,
    /// A crash came between a delivery and its record: one more is no surprise.
    pub may_repeat: bool,
}

impl Message {
    /// Just offered.
    pub fn new(content: Vec<u8>, recipients: usize, is_large: bool) -> Self {
        let waiting =
            Recipient { may_be: vec![(State::Waiting, None)], deliveries: 0, is_told: false, may_repeat: false };
        let recipients = vec![waiting; recipients];
        let (heard, may_be_held_as) = (Heard::Nothing, BTreeSet::from([None]));
        let (is_hit, file_may_go, is_busy) = (false, false, false);
        Self { content, is_large, heard, recipients, may_be_held_as, is_hit, file_may_go, is_busy }
    }

    /// A change was recorded, or may have been; how its recipients may stand is known already.
    fn held_as(&mut self, change: &Change, is_certain: bool) {
        let is_held = |recipient: &Recipient| recipient.may_be.iter().any(|(state, _)| *state == State::Held);
        let holds =
            |(place, fate, _): &(u32, Fate, String)| *fate == Fate::Held && is_held(&self.recipients[*place as usize]);
        let holds = change.fates.iter().any(holds);
        if is_certain && !self.recipients.iter().any(is_held) {
            self.may_be_held_as = BTreeSet::from([None]);
        } else if holds {
            let after = |before: &Option<HeldReason>| match before {
                Some(HeldReason::Person) => *before,
                Some(_) | None => change.held_as,
            };
            let after: Vec<_> = self.may_be_held_as.iter().map(after).collect();
            if is_certain {
                self.may_be_held_as.clear();
            }
            self.may_be_held_as.extend(after);
        }
    }

    /// Whether somebody in it waits, whatever became of changes that nobody confirmed.
    fn surely_waits(&self) -> bool {
        let waits = |recipient: &Recipient| recipient.may_be.iter().all(|(state, _)| *state != State::Ended);
        self.heard == Heard::Yes && self.recipients.iter().any(waits)
    }

    fn ended(&self) -> bool {
        self.recipients.iter().all(|recipient| matches!(recipient.may_be[..], [(State::Ended, _)]))
    }
}

impl Model {
    /// The answer to a sender.
    pub fn heard(&mut self, id: MessageId, heard: Heard) {
        if let Some(message) = self.open.get_mut(&id) {
            message.heard = heard;
        }
    }

    /// The answer to somebody who wanted a change recorded; `None` if there was none.
    pub fn changed(&mut self, change: &Change, answer: Option<&Result<bool, NotKept>>) -> Result<(), String> {
        let Some(message) = self.open.get_mut(&change.id) else { return Ok(()) };
        for (place, fate, _) in &change.fates {
            let recipient = &mut message.recipients[*place as usize];
            if recipient.may_be.iter().all(|(state, _)| *state == State::Ended) {
                continue; // an end is an end, whatever a delivery that was under way tells later
            }
            let becomes = |before: State| match fate {
                Fate::Deferred if before == State::Held => (State::Held, None), // a person's word goes first
                Fate::Deferred | Fate::Released => (State::Waiting, None),
                Fate::Held => (State::Held, None),
                _ => (State::Ended, Some(*fate)),
            };
            let mut after: Vec<_> = recipient.may_be.iter().map(|(before, _)| becomes(*before)).collect();
            after.dedup();
            match answer {
                Some(Ok(_)) => {
                    recipient.may_be = after;
                    recipient.is_told &= *fate != Fate::Delivered;
                }
                Some(Err(NotKept::Full | NotKept::Disk)) => {}
                Some(Err(NotKept::Unknown)) | None => {
                    for becomes in after {
                        if !recipient.may_be.contains(&becomes) {
                            recipient.may_be.push(becomes);
                        }
                    }
                }
            }
        }
        match answer {
            Some(Ok(_)) => message.held_as(change, true),
            Some(Err(NotKept::Full | NotKept::Disk)) => {}
            Some(Err(NotKept::Unknown)) | None => message.held_as(change, false),
        }
        if let Some(Ok(closed)) = answer
            && *closed != message.ended()
            && !message.is_hit
        {
            return Err(format!("{}: closed is {closed}, and all its recipients ended is {}", change.id, !closed));
        }
        self.let_go(change.id);
        Ok(())
    }

    /// Rot has hit a record of a message that had its end: it may be found again.
    pub fn may_come_back(&mut self, id: MessageId) {
        self.may_come_back.insert(id);
    }

    /// What was under way when the power failed is under way no longer. Panics if that was more than one a connection.
    pub fn unsettled_at_crash(&mut self, connections: usize) {
        let busy: Vec<_> = self.open.values_mut().filter(|message| message.is_busy).collect();
        assert!(busy.len() <= connections, "{} outcomes are not recorded, on {connections} connections", busy.len());
        for message in busy {
            message.is_busy = false;
            for recipient in &mut message.recipients {
                recipient.may_repeat |= std::mem::take(&mut recipient.is_told);
            }
        }
    }

    /// A large message of which only the record has rotted keeps its file, and is held: nothing of it is lost.
    pub fn compare_files(
        &self,
        index: &Index,
        is_there: impl Fn(MessageId) -> bool,
        is_left: impl Fn(MessageId) -> bool,
    ) -> Result<(), String> {
        let needs_file = |message: &Message| message.is_large && !message.file_may_go && message.surely_waits();
        for (id, message) in self.open.iter().filter(|(_, message)| needs_file(message)) {
            if !is_there(*id) {
                let is_hit = message.is_hit;
                return Err(format!("{id} waits (hit: {is_hit}), and its file is gone, though nothing has hit it"));
            }
            if index.get(*id).is_none() && !is_left(*id) {
                return Err(format!("{id} waits, its file is whole, and the start neither held it nor said so"));
            }
        }
        Ok(())
    }

    /// After a start: each message is as its sender, the primary and people were told, each recipient accounted for.
    /// `may_have_adopted`: this start, or one that was cut off before it, may have found damage.
    pub fn compare(&mut self, shared: &Shared, may_have_adopted: bool, counts: &mut Counts) -> Result<(), String> {
        let state = shared.state();
        let index = &state.index;
        for (id, entry) in index.iter() {
            self.expect(id, entry, may_have_adopted, counts)?;
            self.expect_reason(id, entry, index)?;
        }
        let ids: Vec<_> = self.open.keys().copied().collect();
        for id in ids {
            self.settle(id, index.get(id))?;
        }
        self.compare_account(index)
    }

    /// Something is in the index: it must be known.
    fn expect(
        &mut self,
        id: MessageId,
        entry: &Entry,
        may_have_adopted: bool,
        counts: &mut Counts,
    ) -> Result<(), String> {
        // A file without a record, found after damage, is held: it was refused, or it had its end.
        let may_be_adopted = |is_large: bool| is_large && may_have_adopted && entry.is_held();
        if let Some(is_large) = self.gone.get(&id) {
            if !may_be_adopted(*is_large) && !self.may_come_back.contains(&id) {
                return Err(format!("{id} is back, though it had its end or was refused: {entry:?}"));
            }
            let recipients = entry.states().iter().map(|state| Recipient {
                may_be: vec![(*state, None)],
                deliveries: 0,
                is_told: false,
                may_repeat: true,
            });
            let mut message = Message::new(Vec::new(), 0, *is_large);
            (message.recipients, message.heard) = (recipients.collect(), Heard::Yes);
            (message.is_hit, message.file_may_go) = (true, true);
            self.open.insert(id, message);
            self.gone.remove(&id);
            self.is_inexact = true;
            counts.adopted += 1;
            return Ok(());
        }
        let message = self.open.get_mut(&id).ok_or(format!("{id} is in the index, and nobody sent it"))?;
        let as_foretold = |(place, state): (usize, &State)| {
            message.recipients.get(place).is_some_and(|recipient| recipient.may_be.iter().any(|(may, _)| may == state))
        };
        let fits = entry.states().iter().enumerate().all(as_foretold);
        if message.heard == Heard::Nothing && !fits && may_be_adopted(message.is_large) {
            message.is_hit = true;
            self.is_inexact = true;
            counts.adopted += 1;
        }
        if message.heard == Heard::No && !message.is_hit {
            if !may_be_adopted(message.is_large) {
                return Err(format!("{id} heard 4xx, and is there: {entry:?}"));
            }
            message.is_hit = true;
            self.is_inexact = true;
            counts.adopted += 1;
        }
        Ok(())
    }

    /// Why somebody is held is as foretold, and known just while somebody is.
    fn expect_reason(&mut self, id: MessageId, entry: &Entry, index: &Index) -> Result<(), String> {
        let reason = index.held_note(id).map(|note| note.reason);
        if reason.is_some() != entry.held().next().is_some() {
            return Err(format!("{id} is held as {reason:?}, and stands so: {entry:?}"));
        }
        let Some(message) = self.open.get_mut(&id) else { return Ok(()) };
        if reason.is_some() && !message.is_hit && !message.may_be_held_as.contains(&reason) {
            return Err(format!("{id} is held as {reason:?}, but may be {:?}", message.may_be_held_as));
        }
        message.may_be_held_as = BTreeSet::from([reason]);
        Ok(())
    }

    /// Of what may be, this is.
    fn settle(&mut self, id: MessageId, entry: Option<&Entry>) -> Result<(), String> {
        let Some(message) = self.open.get_mut(&id) else { return Ok(()) };
        let states = entry.map(Entry::states);
        if states.is_none() && (message.heard != Heard::Yes || message.is_hit) {
            self.end(id);
            return Ok(());
        }
        message.heard = Heard::Yes;
        for (place, recipient) in message.recipients.iter_mut().enumerate() {
            let is = states.map_or(State::Ended, |states| states[place]);
            let (possible, before) =
                (recipient.may_be.iter().copied().filter(|(may, _)| *may == is), &recipient.may_be);
            let possible: Vec<_> = possible.collect();
            if possible.is_empty() && !message.is_hit {
                return Err(format!(
                    "{id} recipient {place} is {is:?} (in the index: {}), but may be {before:?}",
                    entry.is_some()
                ));
            }
            recipient.may_be = if possible.is_empty() { vec![(is, None)] } else { possible };
        }
        self.let_go(id);
        Ok(())
    }

    /// Once all of a message's recipients have their end, only the sums are kept.
    fn let_go(&mut self, id: MessageId) {
        let Some(message) = self.open.get(&id).filter(|message| message.heard == Heard::Yes && message.ended()) else {
            return;
        };
        for recipient in &message.recipients {
            self.ended.accepted += 1;
            match recipient.may_be[0].1 {
                Some(Fate::Delivered) => self.ended.delivered += 1,
                Some(Fate::Bounced) => self.ended.bounced += 1,
                Some(Fate::Expired) => self.ended.expired += 1,
                Some(Fate::Deleted) => self.ended.deleted += 1,
                Some(Fate::Moved) => self.ended.moved += 1,
                Some(Fate::Withdrawn) => self.ended.accepted -= 1,
                _ => {}
            }
        }
        self.end(id);
    }

    fn end(&mut self, id: MessageId) {
        let Some(message) = self.open.remove(&id) else { return };
        self.gone.insert(id, message.is_large);
        if message.is_hit {
            // A start that trusts a footer does not see the rot that a later one finds, which then misses an outcome.
            self.may_come_back(id);
        }
    }

    /// By recipient, the spool's account is ours.
    pub fn compare_account(&self, index: &Index) -> Result<(), String> {
        let account = index.account();
        if account.difference() != 0 {
            return Err(format!("the account is off by {}: {account:?}", account.difference()));
        }
        if self.is_inexact {
            return Ok(());
        }
        let mut ours = self.ended;
        for recipient in
            self.open.values().filter(|message| message.heard == Heard::Yes).flat_map(|message| &message.recipients)
        {
            ours.accepted += 1;
            match recipient.may_be[0] {
                (State::Ended, Some(Fate::Delivered)) => ours.delivered += 1,
                (State::Ended, Some(Fate::Bounced)) => ours.bounced += 1,
                (State::Ended, Some(Fate::Expired)) => ours.expired += 1,
                (State::Ended, Some(Fate::Deleted)) => ours.deleted += 1,
                (State::Ended, Some(Fate::Moved)) => ours.moved += 1,
                (State::Ended, Some(Fate::Withdrawn)) => ours.accepted -= 1,
                (State::Ended, _) => {}
                (State::Waiting | State::Held, _) => ours.queued += 1,
            }
        }
        if account != ours {
            return Err(format!("the account is {account:?}, and should be {ours:?}"));
        }
        Ok(())
    }
}
