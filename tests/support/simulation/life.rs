//! One life of the spool, from a start to a crash: rounds of mail, outcomes, people's wishes, time and reading.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use backupmx_relay::{
    mail::{
        address::Address,
        envelope::{Body, Envelope, Flow, Protocol},
        id::MessageId,
    },
    queue::{
        backoff::Backoff,
        scheduler::{Deferral, Lane, Scheduler},
    },
    spool::{
        self, Content, NotKept, ReadError,
        field::{Accepted, Change, Fate, HeldReason, State},
        index::Entry,
        large::{self, Finished, LargeWriter},
        log::Log,
        record::{Kind, RECORD_HEADER_BYTES},
        scrub,
        search::{Cursor, Query, search},
        shared::Shared,
        wish::Wish,
        writer::{Order, Receipt, Writer},
    },
};
use backupmx_relay_api::config::Order as DeliveryOrder;
use tokio::sync::oneshot::{self, Receiver};

use super::{
    World, imitation,
    model::{Heard, Message},
};
use crate::chance::Chance;

/// Connections to the primary: so many messages at most are delivered again after a crash.
pub const CONNECTIONS: usize = 3;
/// Longer content always gets a file of its own: smaller segments than real ones are to hold several messages.
const LARGE_BYTES: usize = 50_000;

/// A running spool.
pub struct Life {
    /// What the writer shares with its readers.
    pub shared: Arc<Shared>,
    writer: Writer,
    scheduler: Scheduler,
    /// The scheduler's clock.
    clock: Instant,
    /// Outcomes that are not told yet: the primary is slow.
    under_way: Vec<Change>,
    /// Outcomes that are not recorded yet: each stops its connection, and is tried again.
    unsettled: Vec<Change>,
    was_on_last_room: bool,
    segments: usize,
}

/// An order that was given, and where its answer comes.
enum Awaited {
    Kept(MessageId, Receiver<Result<Receipt, NotKept>>),
    Changed(Change, Receiver<Result<bool, NotKept>>),
}

impl Life {
    /// After a start.
    pub fn new(shared: Arc<Shared>, log: Log, chance: &mut Chance) -> Self {
        let backoff = Backoff { first: Duration::from_secs(60), longest: Duration::from_secs(1800) };
        let mut scheduler = Scheduler::new(backoff, DeliveryOrder::OldestFirst);
        let waiting: Vec<_> =
            shared.state().index.iter().filter(|(_, entry)| !entry.is_held()).map(|(id, _)| id).collect();
        waiting.into_iter().for_each(|id| {
            scheduler.spooled(id, Flow::default(), Lane::Backlog);
        });
        let segments = shared.state().segments.len();
        let clock = Instant::now() + Duration::from_millis(chance.below(1000));
        let writer = Writer::new(log);
        let (under_way, unsettled) = (Vec::new(), Vec::new());
        Self { shared, writer, scheduler, clock, under_way, unsettled, was_on_last_room: false, segments }
    }

    /// What the start told of damage.
    pub fn told(&self) -> Vec<String> {
        self.shared.damages().told.clone()
    }

    /// Whether what is in memory is on the disk.
    pub fn is_writable(&self) -> bool {
        self.shared.writable.load(Ordering::Relaxed)
    }

    /// Some mail, some outcomes, some wishes of people, all in one batch; then time passes.
    pub fn round(&mut self, world: &mut World) -> Result<(), String> {
        let (mut orders, mut awaited) = (Vec::new(), Vec::new());
        for _ in 0..world.chance.below(6) {
            self.receive(world, &mut orders, &mut awaited);
        }
        self.deliver(world, &mut orders, &mut awaited)?;
        if world.chance.one_in(2) {
            self.person(world, &mut orders, &mut awaited);
        }
        if !orders.is_empty() {
            self.writer.step(orders, world.now);
        }
        for answer in awaited {
            self.answered(world, answer)?;
        }
        self.look(world)?;
        if world.chance.one_in(3) {
            world.pass_time();
            self.clock += Duration::from_secs(world.chance.below(300));
            self.writer.tick(world.now);
        }
        self.count(world);
        world.model.compare_account(&self.shared.state().index).or_else(|what| {
            // Between a crash and the next start the model knows of mail that the index does not, and the reverse.
            if world.disk.is_off() || !self.is_settled(world) { Ok(()) } else { Err(what) }
        })
    }

    /// Whether everything that was wanted is known to be so or not.
    fn is_settled(&self, world: &World) -> bool {
        let is_certain = |message: &Message| {
            message.heard != Heard::Nothing && message.recipients.iter().all(|recipient| recipient.may_be.len() == 1)
        };
        world.model.open.values().all(is_certain)
    }

    /// Ends in good order.
    pub fn close(&mut self, world: &World) {
        let (answer, _answered) = oneshot::channel();
        self.writer.step(vec![Order::Close(answer)], world.now);
    }

    /// Everything that waits is delivered, and everything held is released first. False if that took more rounds.
    pub fn drain(&mut self, world: &mut World, rounds_max: usize) -> Result<bool, String> {
        for _ in 0..rounds_max {
            let is_hit = |id: MessageId| world.model.open.get(&id).is_some_and(|message| message.is_hit);
            let stopped: Vec<_> = {
                let state = self.shared.state();
                let is_stopped =
                    |(id, entry): &(MessageId, &Entry)| entry.states().contains(&State::Held) || is_hit(*id);
                let is_held = |entry: &Entry| entry.states().contains(&State::Held);
                state.index.iter().filter(is_stopped).map(|(id, entry)| (id, is_hit(id), is_held(entry))).collect()
            };
            for (id, is_hit, is_held) in stopped {
                if is_hit && self.read(world, id)? != Some(Read::Whole) {
                    // It would be held again, or deferred for ever.
                    self.record_at_once(world, id, Kind::Closed, Fate::Deleted)?;
                } else if is_held {
                    self.record_at_once(world, id, Kind::Released, Fate::Released)?;
                }
            }
            self.clock += Duration::from_secs(3600);
            let (mut orders, mut awaited) = (Vec::new(), Vec::new());
            self.deliver(world, &mut orders, &mut awaited)?;
            self.writer.step(orders, world.now);
            for answer in awaited {
                self.answered(world, answer)?;
            }
            world.pass_time();
            self.writer.tick(world.now);
            if self.shared.state().index.counts().messages == 0 {
                return world.model.compare_account(&self.shared.state().index).map(|()| true);
            }
        }
        Ok(false)
    }

    fn record_at_once(&mut self, world: &mut World, id: MessageId, kind: Kind, fate: Fate) -> Result<(), String> {
        let (mut orders, mut awaited) = (Vec::new(), Vec::new());
        self.want(world, id, kind, |state| (state != State::Ended).then_some(fate), &mut orders, &mut awaited);
        self.writer.step(orders, world.now);
        awaited.into_iter().try_for_each(|answer| self.answered(world, answer))
    }

    /// A sender offers a message.
    fn receive(&mut self, world: &mut World, orders: &mut Vec<Order>, awaited: &mut Vec<Awaited>) {
        world.messages += 1;
        let id = message_id(world);
        let recipients = if world.chance.one_in(5) { world.chance.between(2, 30) } else { 1 } as usize;
        let mut accepted = accepted(world, id, recipients);
        let ahead_bytes: usize = orders.iter().map(size).sum();
        let content = content(world, ahead_bytes + RECORD_HEADER_BYTES + accepted.encode().len());
        // Small ones, too, get a file of their own here, so that there are enough of them.
        let is_large = content.len() > LARGE_BYTES || world.chance.one_in(6);
        world.model.open.insert(id, Message::new(content.clone(), recipients, is_large));
        if is_large {
            match self.write_large(&accepted, &content) {
                Ok(bytes) => accepted.large_bytes = Some(bytes),
                Err(_) if world.disk.is_off() => return,
                Err(_) => return self.refuse(world, id),
            }
        }
        let (answer, answered) = oneshot::channel();
        let (arrival, fields) = (accepted.arrival(), accepted.encode());
        let content = if is_large { Vec::new() } else { content };
        orders.push(Order::Keep(Wish::Accept { arrival, fields, content, is_copy: false }, answer));
        awaited.push(Awaited::Kept(id, answered));
    }

    fn write_large(&self, accepted: &Accepted, content: &[u8]) -> std::io::Result<u64> {
        let mut large = LargeWriter::create(self.shared.disk.clone(), accepted.envelope.id, &accepted.encode())?;
        content.chunks(100_000).try_for_each(|piece| large.push(piece))?;
        large.finish().map(Finished::release)
    }

    fn refuse(&self, world: &mut World, id: MessageId) {
        world.counts.refused += 1;
        world.model.heard(id, Heard::No);
        // Most senders try elsewhere or later: for us it is over.
    }

    fn answered(&mut self, world: &mut World, awaited: Awaited) -> Result<(), String> {
        match awaited {
            Awaited::Kept(id, mut answer) => {
                let answer = answer.try_recv();
                world.tell(|| format!("{id} offered: {answer:?}"));
                match answer {
                    Ok(Ok(receipt)) if receipt.id() == id => {
                        world.counts.kept += 1;
                        world.model.heard(id, Heard::Yes);
                        self.scheduler.spooled(id, Flow::default(), Lane::New);
                    }
                    Ok(Ok(receipt)) => return Err(format!("{id} got the receipt of {}", receipt.id())),
                    Ok(Err(cause @ (NotKept::Full | NotKept::Disk))) => {
                        world.counts.full += u64::from(cause == NotKept::Full);
                        self.refuse(world, id);
                        if world.model.open.get(&id).is_some_and(|message| message.is_large) {
                            let _ = self.shared.disk.remove(&large::path(id)); // as `Incoming::keep` does
                        }
                    }
                    Ok(Err(NotKept::Unknown)) | Err(_) => world.counts.unanswered += 1,
                }
                Ok(())
            }
            Awaited::Changed(change, mut answer) => {
                let answer = answer.try_recv().ok();
                world.tell(|| format!("{} {:?} {:?}: {answer:?}", change.id, change.kind, change.fates));
                world.model.changed(&change, answer.as_ref())?;
                match answer {
                    Some(Ok(_)) => self.recorded(world, &change),
                    _ if change.kind == Kind::Attempt => self.unsettled.push(change),
                    _ => {} // a person hears that it did not work
                }
                Ok(())
            }
        }
    }

    /// An outcome or a wish is durable: the scheduler hears of it.
    fn recorded(&mut self, world: &mut World, change: &Change) {
        if let Some(message) = world.model.open.get_mut(&change.id).filter(|_| change.kind == Kind::Attempt) {
            message.is_busy = false;
        }
        let is_busy = world.model.open.get(&change.id).is_some_and(|message| message.is_busy);
        let waits = self.shared.state().index.get(change.id).is_some_and(|entry| !entry.is_held());
        match change.kind {
            Kind::Attempt if waits => {
                self.scheduler.deferred(change.id, Deferral::Reply, 1, 0.5, self.clock);
            }
            Kind::Attempt => self.scheduler.settled(change.id),
            Kind::Released if waits && !is_busy => {
                self.scheduler.spooled(change.id, Flow::default(), Lane::New);
            }
            _ => {}
        }
    }

    /// The connections to the primary hand over what is due; outcomes that could not be recorded come first.
    fn deliver(
        &mut self,
        world: &mut World,
        orders: &mut Vec<Order>,
        awaited: &mut Vec<Awaited>,
    ) -> Result<(), String> {
        let retried = std::mem::take(&mut self.unsettled);
        let (told, under_way) =
            std::mem::take(&mut self.under_way).into_iter().partition::<Vec<_>, _>(|_| world.chance.one_in(2));
        self.under_way = under_way;
        let free = CONNECTIONS.saturating_sub(retried.len() + told.len() + self.under_way.len());
        for change in retried.into_iter().chain(told) {
            order(change, orders, awaited);
        }
        if !self.is_writable() {
            return Ok(()); // what cannot be recorded is not delivered
        }
        for _ in 0..free {
            let Some(id) = self.scheduler.take(self.clock) else { break };
            if world.model.open.get(&id).is_some_and(|message| message.is_busy) {
                continue; // released by a person while it waited for its time: its delivery is under way
            }
            match self.attempt(world, id)? {
                Some(change) if world.chance.one_in(4) => self.under_way.push(change),
                Some(change) => order(change, orders, awaited),
                None => self.scheduler.settled(id),
            }
        }
        Ok(())
    }

    /// One message goes to the primary. `None` if nobody in it waits.
    fn attempt(&mut self, world: &mut World, id: MessageId) -> Result<Option<Change>, String> {
        let entry = self.shared.state().index.get(id).filter(|entry| !entry.is_held()).cloned();
        let Some(entry) = entry else { return Ok(None) };
        let read = self.read(world, id)?;
        if read.is_none() && world.disk.is_off() {
            return Ok(None);
        }
        let Some(message) = world.model.open.get_mut(&id) else {
            return Err(format!("{id} is to be delivered, and had its end"));
        };
        if message.heard == Heard::No && !message.is_hit {
            return Err(format!("{id} heard 4xx, and is to be delivered"));
        }
        message.is_busy = true;
        let mut fates = Vec::new();
        for place in entry.waiting() {
            let fate = match (read, world.chance.below(8)) {
                (None, _) => Fate::Deferred, // it cannot be read at present
                (Some(Read::Damaged), _) => Fate::Held,
                (Some(Read::Whole), 0) => Fate::Deferred,
                (Some(Read::Whole), 1) => Fate::Held,
                (Some(Read::Whole), _) => Fate::Delivered,
            };
            if fate == Fate::Delivered {
                let recipient = &mut message.recipients[place as usize];
                recipient.deliveries += 1;
                recipient.is_told = true;
                world.counts.delivered += 1;
                if recipient.deliveries > 1 {
                    if !recipient.may_repeat && !message.is_hit {
                        return Err(format!("{id} is delivered again to recipient {place}, for no reason"));
                    }
                    recipient.may_repeat = false;
                    world.counts.repeated += 1;
                }
            }
            fates.push((place, fate, "words".to_owned()));
        }
        let held_as = match read {
            Some(Read::Damaged) => HeldReason::Damaged,
            Some(Read::Whole) | None if world.chance.one_in(2) => HeldReason::Undeliverable,
            Some(Read::Whole) | None => HeldReason::Capability,
        };
        let held_as = Some(held_as).filter(|_| fates.iter().any(|(_, fate, _)| *fate == Fate::Held));
        Ok(Some(Change { kind: Kind::Attempt, id, at: world.now, by: "mx1:25".into(), fates, held_as }))
    }

    /// Reads a message as a delivery does and compares it with what was sent. `None`: the disk says no.
    fn read(&self, world: &World, id: MessageId) -> Result<Option<Read>, String> {
        let (entry, key) = {
            let state = self.shared.state();
            let Some(entry) = state.index.get(id).cloned() else { return Ok(None) };
            let Some(segment) = state.segments.get(&entry.location.segment) else {
                return Err(format!("{id} stands in a segment that is gone: {entry:?}"));
            };
            (entry, segment.key)
        };
        let message = world.model.open.get(&id).ok_or(format!("{id} is in the index, and had its end"))?;
        let read = spool::load(&*self.shared.disk, &entry, key).and_then(|stored| whole(stored.content));
        match read {
            Ok(content) if content == message.content || message.content.is_empty() && message.is_hit => {
                Ok(Some(Read::Whole))
            }
            Ok(_) => Err(format!("{id}: its content is altered")),
            Err(ReadError::Damaged) if message.is_hit => Ok(Some(Read::Damaged)),
            Err(ReadError::Damaged) => Err(format!("{id}: its bytes are damaged, and nothing has hit them: {entry:?}")),
            Err(ReadError::Io(_)) => Ok(None),
        }
    }

    /// Somebody holds, releases or ends a message.
    fn person(&mut self, world: &mut World, orders: &mut Vec<Order>, awaited: &mut Vec<Awaited>) {
        let ids: Vec<_> = self.shared.state().index.iter().map(|(id, _)| id).collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[world.chance.below(ids.len() as u64) as usize];
        // A delivery of it may be under way, or its outcome stand in the same batch.
        if !world.model.open.contains_key(&id) {
            return;
        }
        let (kind, fate) = match world.chance.below(12) {
            0..4 => (Kind::Held, Fate::Held),
            4..8 => (Kind::Released, Fate::Released),
            8 => (Kind::Closed, Fate::Deleted),
            9 => (Kind::Closed, if world.chance.one_in(2) { Fate::Expired } else { Fate::Bounced }),
            10 => (Kind::Moved, Fate::Moved),
            _ => (Kind::Withdrawn, Fate::Withdrawn),
        };
        let wanted = |state: State| match (fate.state_after(state), state) {
            (_, State::Ended) | (State::Waiting, State::Waiting) => None,
            _ => Some(fate),
        };
        self.want(world, id, kind, wanted, orders, awaited);
    }

    fn want(
        &self,
        world: &mut World,
        id: MessageId,
        kind: Kind,
        fate: impl Fn(State) -> Option<Fate>,
        orders: &mut Vec<Order>,
        awaited: &mut Vec<Awaited>,
    ) {
        let Some(entry) = self.shared.state().index.get(id).cloned() else { return };
        let places = (0..).zip(entry.states());
        let fates: Vec<_> = places.filter_map(|(place, state)| Some((place, fate(*state)?, String::new()))).collect();
        if !fates.is_empty() {
            // By age, or by a person.
            let reason = if world.chance.one_in(2) { HeldReason::Expired } else { HeldReason::Person };
            let held_as = (kind == Kind::Held).then_some(reason);
            order(Change { kind, id, at: world.now, by: "a person".into(), fates, held_as }, orders, awaited);
        }
    }

    /// Reading alters nothing: a scrub, a search, a message.
    fn look(&self, world: &mut World) -> Result<(), String> {
        if world.chance.one_in(8) {
            let mut place = Some(scrub::BEGIN);
            while let Some(at) = place.filter(|_| !world.disk.is_off()) {
                (_, place) = scrub::step(&self.shared, at);
            }
            let told = self.told();
            if !world.rots
                && world.uncopied.is_empty()
                && let Some(rot) = told.iter().find(|told| told.contains("it had been synced"))
            {
                return Err(format!("the scrub found rot that nobody made: {rot}"));
            }
        }
        if world.chance.one_in(8) && !world.disk.is_off() {
            self.find_all(world)?;
        }
        Ok(())
    }

    /// A search for everything finds what is open, in pieces of any size.
    fn find_all(&self, world: &mut World) -> Result<(), String> {
        let (mut found, mut from) = (Vec::new(), Some(Cursor::default()));
        let all = Query::default();
        while let Some(at) = from {
            let limit = world.chance.between(1, 50) as usize;
            let (hits, next) = search(&self.shared, &all, at, limit, || true);
            found.extend(hits.into_iter().map(|hit| hit.id));
            from = next;
        }
        let can_be_read = !world.model.is_inexact && !world.disk.is_off() && !world.disk.has_faults();
        found.sort();
        let state = self.shared.state();
        if can_be_read && !found.iter().copied().eq(state.index.iter().map(|(id, _)| id)) {
            return Err(format!("a search found {}, and {} are open", found.len(), state.index.counts().messages));
        }
        Ok(())
    }

    fn count(&mut self, world: &mut World) {
        let segments = self.shared.state().segments.keys().next_back().copied().unwrap_or_default() as usize;
        world.counts.segments += segments.saturating_sub(self.segments) as u64;
        self.segments = segments;
        let on_last_room = self.shared.on_last_room.load(Ordering::Relaxed);
        world.counts.on_last_room += u64::from(on_last_room && !self.was_on_last_room);
        self.was_on_last_room = on_last_room;
    }
}

/// What a read showed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Whole,
    Damaged,
}

fn size(order: &Order) -> usize {
    match order {
        Order::Keep(wish, _) | Order::Change(wish, _) => wish.size(),
        Order::Close(_) => 0,
    }
}

fn order(change: Change, orders: &mut Vec<Order>, awaited: &mut Vec<Awaited>) {
    let (answer, answered) = oneshot::channel();
    orders.push(Order::Change(Wish::change(change.clone()), answer));
    awaited.push(Awaited::Changed(change, answered));
}

fn whole(content: Content) -> Result<Vec<u8>, ReadError> {
    let mut reader = match content {
        Content::Inline(content) => return Ok(content.unwrap_or_default()),
        Content::Large(reader) => reader.ok_or(ReadError::Damaged)?,
    };
    let mut whole = Vec::new();
    loop {
        match reader.next_piece() {
            Ok(Some(piece)) => whole.extend(piece),
            Ok(None) => return Ok(whole),
            Err(cause) if cause.kind() == std::io::ErrorKind::InvalidData => return Err(ReadError::Damaged),
            Err(cause) => return Err(ReadError::Io(cause)),
        }
    }
}

/// Ids sort by time, as real ones do.
fn message_id(world: &World) -> MessageId {
    let ms = u128::from(world.now.as_millisecond().unsigned_abs());
    MessageId::from_bytes(((ms << 80) | u128::from(world.messages)).to_be_bytes())
}

fn accepted(world: &mut World, id: MessageId, recipients: usize) -> Accepted {
    let address = |text: String| Address::parse(&text).expect("an address");
    let envelope = Envelope {
        id,
        received_at: world.now,
        client: "192.0.2.1".parse().expect("an address"),
        helo: "mail.example.net".into(),
        protocol: Protocol::Esmtp,
        reverse_path: (!world.chance.one_in(8)).then(|| address(format!("s{}@example.net", world.messages))),
        recipients: (0..recipients).map(|n| address(format!("u{n}@example.org")).into()).collect(),
        body: Body::Unsaid,
        smtputf8: false,
        ret: None,
        envid: None,
    };
    Accepted {
        envelope,
        trace: b"Received: by mx2\r\n".to_vec(),
        line_end_added: false,
        large_bytes: None,
        standing: None,
    }
}

/// Of any length up to 10 MB, mostly short. Some imitate what stands on the disk.
fn content(world: &mut World, ahead_bytes: usize) -> Vec<u8> {
    let chance = &mut world.chance;
    let length = match chance.below(2000) {
        0 => chance.below(10 << 20),
        1..20 => chance.below(300 << 10),
        20..400 => chance.below(20 << 10),
        400..600 => 0,
        _ => chance.below(1000),
    } as usize;
    let mut content = vec![b'x'; length];
    let mark = chance.number().to_le_bytes();
    if (600..LARGE_BYTES).contains(&length) && chance.one_in(2) {
        imitation::write(world, &mut content[mark.len()..], ahead_bytes + mark.len());
    }
    content.iter_mut().zip(mark).for_each(|(byte, mark)| *byte = mark);
    content
}
