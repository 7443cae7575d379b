//! Times in which the primary was away: since when, until when, what was taken meanwhile, and when all of that had left. No I/O, no
//! clock.
//!
//! | | |
//! |---|---|
//! | begins | when the primary becomes Down, without a maintenance; a primary that is Sick lives |
//! | lasts | whatever else happens: it answers but refuses (Sick), a maintenance begins, the relay starts anew |
//! | ends | when mail can go to it again: it is Up, or only slow |
//! | its messages | those that were answered 250 between the two |
//! | is over for them | once none of them waits; who was held does not wait, and nobody waits for who is released later |

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use backupmx_relay_api::status::{self, OUTAGES_MAX, PrimaryState};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::mail::id::MessageId;

/// How often counts are written while they change. What a crash takes of them is found again in the spool, as far as it is still there.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// What is kept on the volume: newest first.
pub type Document = Vec<Outage>;

/// One outage.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outage {
    from: Timestamp,
    until: Option<Timestamp>,
    messages: u64,
    bytes: u64,
    /// Least and greatest id of its messages. Between them there may be one whose end of data came later: it counts for nothing, and
    /// is waited for, too.
    ids: Option<(MessageId, MessageId)>,
    /// When the last one so far was handed over.
    handed_over_at: Option<Timestamp>,
    /// None of its messages waits any more.
    has_left: bool,
    /// None before this one waits.
    #[serde(skip)]
    looked_to: Option<MessageId>,
}

/// Messages that are still here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// How many.
    pub messages: u64,
    /// Their content.
    pub bytes: u64,
    /// Least and greatest id.
    pub ids: (MessageId, MessageId),
}

/// How the primary is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// Mail can go to it.
    There,
    /// It is away since then, and nobody meant it to be.
    Away(Timestamp),
    /// Neither.
    Unclear,
}

impl Presence {
    /// What the monitor's findings come to.
    pub fn of(state: PrimaryState, since: Timestamp, takes_mail: bool, is_maintenance: bool) -> Self {
        match state {
            _ if takes_mail => Self::There,
            PrimaryState::Down if !is_maintenance => Self::Away(since),
            _ => Self::Unclear,
        }
    }
}

/// The last outages.
#[derive(Debug)]
pub struct Outages {
    kept: Document,
    /// There is more to write than was written.
    is_changed: bool,
    written_at: Option<Instant>,
}

impl Outages {
    /// As they were kept.
    pub fn new(mut kept: Document) -> Self {
        kept.truncate(OUTAGES_MAX);
        Self { kept, is_changed: false, written_at: None }
    }

    /// What is to be kept.
    pub fn document(&self) -> Document {
        self.kept.clone()
    }

    /// Since when the primary is away, if it is: also if the relay started meanwhile.
    pub fn open_since(&self) -> Option<Timestamp> {
        self.open().map(|outage| outage.from)
    }

    /// The relay has started in the middle of an outage, and these messages came since that began. Those that left before are counted
    /// as far as that was written.
    pub fn resume(&mut self, found: Found) {
        let Some(outage) = self.kept.first_mut().filter(|outage| outage.until.is_none()) else { return };
        outage.messages = outage.messages.max(found.messages);
        outage.bytes = outage.bytes.max(found.bytes);
        outage.widen(found.ids.0);
        outage.widen(found.ids.1);
        self.is_changed = true;
    }

    /// The primary was looked at. True if one begins or ends by that, which is to be written now.
    pub fn looked(&mut self, presence: Presence, now: Timestamp) -> bool {
        match (presence, self.kept.first_mut().filter(|outage| outage.until.is_none())) {
            (Presence::Away(since), None) => {
                self.kept.insert(0, Outage::since(since));
                self.kept.truncate(OUTAGES_MAX);
                true
            }
            (Presence::There, Some(open)) => {
                // A clock that was set back must not make it end before it began.
                open.until = Some(now.max(open.from));
                true
            }
            (Presence::There, None) | (Presence::Away(_), Some(_)) | (Presence::Unclear, _) => false,
        }
    }

    /// A message was answered 250.
    pub fn taken(&mut self, id: MessageId, bytes: u64) {
        let Some(outage) = self.kept.first_mut().filter(|outage| outage.until.is_none()) else { return };
        outage.messages += 1;
        outage.bytes += bytes;
        outage.widen(id);
        self.is_changed = true;
    }

    /// Somebody in a message was delivered.
    pub fn handed_over(&mut self, id: MessageId, at: Timestamp) {
        let meant = |outage: &&mut Outage| outage.ids.is_some_and(|(least, greatest)| (least..=greatest).contains(&id));
        for outage in self.kept.iter_mut().filter(|outage| !outage.has_left).filter(meant) {
            outage.handed_over_at = outage.handed_over_at.max(Some(at)); // several connections report in any order
            self.is_changed = true;
        }
    }

    /// Looks whether the messages of outages that have ended still wait. `first_waiting`: the first one among these ids that does. It
    /// is asked once a look for each, and never for what it has passed. True if there is something to be written now.
    pub fn look(&mut self, first_waiting: impl Fn(RangeInclusive<MessageId>) -> Option<MessageId>) -> bool {
        let mut is_news = false;
        for outage in self.kept.iter_mut().filter(|outage| outage.until.is_some() && !outage.has_left) {
            let Some((least, greatest)) = outage.ids else { continue };
            outage.looked_to = first_waiting(outage.looked_to.unwrap_or(least)..=greatest);
            outage.has_left = outage.looked_to.is_none();
            is_news |= outage.has_left;
        }
        is_news
    }

    /// Whether counts have changed and have not been written for a while. If so, they are about to be.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let is_due =
            self.is_changed && self.written_at.is_none_or(|written| now.duration_since(written) >= WRITE_INTERVAL);
        if is_due {
            (self.is_changed, self.written_at) = (false, Some(now));
        }
        is_due
    }

    /// Whether counts have changed that were not written yet.
    pub fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// For the status document.
    pub fn status(&self) -> Vec<status::Outage> {
        self.kept.iter().map(Outage::status).collect()
    }

    fn open(&self) -> Option<&Outage> {
        self.kept.first().filter(|outage| outage.until.is_none())
    }
}

impl Outage {
    fn since(from: Timestamp) -> Self {
        let (until, ids, handed_over_at, looked_to) = (None, None, None, None);
        Self { from, until, messages: 0, bytes: 0, ids, handed_over_at, has_left: false, looked_to }
    }

    fn widen(&mut self, id: MessageId) {
        let (least, greatest) = self.ids.unwrap_or((id, id));
        self.ids = Some((least.min(id), greatest.max(id)));
    }

    fn status(&self) -> status::Outage {
        let last_delivered = self.handed_over_at.filter(|_| self.has_left);
        status::Outage {
            from: self.from.to_string(),
            until: self.until.map(|until| until.to_string()),
            messages: self.messages,
            bytes: self.bytes,
            last_delivered: last_delivered.map(|at| at.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn time(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn text(seconds: i64) -> Option<String> {
        Some(time(seconds).to_string())
    }

    fn away(seconds: i64) -> Presence {
        Presence::Away(time(seconds))
    }

    fn ids(count: usize) -> Vec<MessageId> {
        (0..count).map(|_| MessageId::new()).collect()
    }

    /// What happens at a look while these wait.
    fn look(outages: &mut Outages, waiting: &BTreeSet<MessageId>) -> bool {
        outages.look(|range| waiting.range(range).next().copied())
    }

    /// What a restart makes of them.
    fn restarted(outages: &Outages) -> Outages {
        let text = serde_json::to_vec(&outages.document()).unwrap();
        Outages::new(serde_json::from_slice(&text).unwrap())
    }

    #[test]
    fn only_who_is_away_and_should_not_be_begins_an_outage_and_only_who_takes_mail_ends_it() {
        use PrimaryState::{Down, Sick, Unknown, Up};
        let (there, away, unclear) = (Presence::There, away(7), Presence::Unclear);
        for (state, takes_mail, is_maintenance, presence) in [
            (Unknown, false, false, unclear),
            (Up, true, false, there),
            (Up, true, true, there),
            (Down, false, false, away),
            (Down, false, true, unclear),
            (Sick, false, false, unclear),
            (Sick, true, false, there), // only slow
        ] {
            let found = Presence::of(state, time(7), takes_mail, is_maintenance);
            assert_eq!(found, presence, "{state:?}, takes mail: {takes_mail}, maintenance: {is_maintenance}");
        }
        let mut outages = Outages::new(Document::new());
        for (second, presence, is_news) in [
            (0, unclear, false),
            (1, there, false),
            (7, away, true),
            (8, away, false),
            (9, unclear, false),
            (10, there, true),
            (11, there, false),
        ] {
            assert_eq!(outages.looked(presence, time(second)), is_news, "at {second}");
        }
        let only = status::Outage { from: time(7).to_string(), until: text(10), ..status::Outage::default() };
        assert_eq!(outages.status(), [only]);
    }

    #[test]
    fn what_is_taken_meanwhile_is_counted_over_restarts_and_nothing_else() {
        let mut outages = Outages::new(Document::new());
        outages.taken(MessageId::new(), 1);
        outages.looked(away(10), time(11));
        let ids = ids(4);
        outages.taken(ids[0], 100);
        outages.taken(ids[1], 200);
        let before = outages.document();
        // The third one was taken when the process died, and nobody had written that.
        outages.taken(ids[2], 400);
        let mut outages = Outages::new(before);
        assert_eq!(outages.open_since(), Some(time(10)));
        outages.resume(Found { messages: 3, bytes: 700, ids: (ids[0], ids[2]) });
        assert!(!outages.looked(away(99), time(100)), "it goes on");
        // The first one was deleted, and another restart came.
        let mut outages = restarted(&outages);
        outages.resume(Found { messages: 2, bytes: 600, ids: (ids[1], ids[2]) });
        outages.taken(ids[3], 800);
        outages.looked(Presence::There, time(200));
        outages.taken(MessageId::new(), 1600);
        outages.resume(Found { messages: 9, bytes: 9, ids: (ids[0], ids[0]) });
        let [outage] = &outages.status()[..] else { panic!("there was one") };
        assert_eq!((outage.messages, outage.bytes), (4, 1500));
        assert_eq!((&outage.from, &outage.until), (&time(10).to_string(), &text(200)));
        assert_eq!(outages.open_since(), None);
    }

    #[test]
    fn the_last_delivery_is_told_once_none_of_its_messages_waits() {
        let mut outages = Outages::new(Document::new());
        let ids = ids(6);
        let mut waiting: BTreeSet<_> = ids.iter().copied().collect();
        outages.looked(away(10), time(10));
        ids[1..5].iter().for_each(|id| outages.taken(*id, 1));
        assert!(!look(&mut outages, &waiting));
        outages.looked(Presence::There, time(20));
        for (second, place) in [(21, 1), (22, 4), (23, 2)] {
            outages.handed_over(ids[place], time(second));
            waiting.remove(&ids[place]);
            assert!(!look(&mut outages, &waiting));
            assert_eq!(outages.status()[0].last_delivered, None);
        }
        outages.handed_over(ids[5], time(24)); // it came after the end
        let mut outages = restarted(&outages);
        // Somebody holds the last one: it is not waited for.
        waiting.remove(&ids[3]);
        assert!(look(&mut outages, &waiting) && !look(&mut outages, &waiting));
        assert_eq!(outages.status()[0].last_delivered, text(23));
        waiting.insert(ids[3]);
        outages.handed_over(ids[3], time(99));
        assert!(!look(&mut outages, &waiting));
        assert_eq!(outages.status()[0].last_delivered, text(23), "what is released later changes nothing");
    }

    #[test]
    fn an_outage_without_mail_or_of_which_all_was_deleted_has_no_last_delivery() {
        let mut outages = Outages::new(Document::new());
        outages.looked(away(10), time(10));
        outages.looked(Presence::There, time(20));
        assert!(!look(&mut outages, &BTreeSet::new()));
        outages.looked(away(30), time(30));
        outages.taken(MessageId::new(), 1);
        outages.looked(Presence::There, time(40));
        assert!(look(&mut outages, &BTreeSet::new()));
        assert!(outages.status().iter().all(|outage| outage.last_delivered.is_none()));
    }

    #[test]
    fn messages_are_passed_once_however_often_one_looks() {
        let mut outages = Outages::new(Document::new());
        let ids = ids(1000);
        outages.looked(away(10), time(10));
        ids.iter().for_each(|id| outages.taken(*id, 1));
        outages.looked(Presence::There, time(20));
        let last = BTreeSet::from([ids[999]]);
        assert!(!look(&mut outages, &last));
        let asked = std::cell::Cell::new(None);
        outages.look(|range| {
            asked.set(Some(*range.start()));
            last.range(range).next().copied()
        });
        assert_eq!(asked.get(), Some(ids[999]));
    }

    #[test]
    fn the_last_five_are_kept_newest_first() {
        let mut outages = Outages::new(Document::new());
        for second in 0..7 {
            outages.looked(away(10 * second), time(10 * second));
            outages.looked(Presence::There, time(10 * second + 1));
        }
        let from: Vec<_> = outages.status().into_iter().map(|outage| outage.from).collect();
        assert_eq!(from, [60, 50, 40, 30, 20].map(|second| time(second).to_string()));
        assert_eq!(restarted(&outages).status(), outages.status());
    }

    #[test]
    fn counts_are_written_now_and_then_while_they_change() {
        let (mut outages, start) = (Outages::new(Document::new()), Instant::now());
        assert!(!outages.is_due(start));
        outages.looked(away(10), time(10));
        outages.taken(MessageId::new(), 1);
        assert!(outages.is_due(start) && !outages.is_due(start + WRITE_INTERVAL));
        outages.taken(MessageId::new(), 1);
        assert!(!outages.is_due(start + WRITE_INTERVAL / 2) && outages.is_due(start + WRITE_INTERVAL));
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_outage_end_before_it_began() {
        let mut outages = Outages::new(Document::new());
        outages.looked(away(100), time(100));
        outages.looked(Presence::There, time(50));
        assert_eq!(outages.status()[0].until, text(100));
    }
}
