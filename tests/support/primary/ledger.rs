//! What clients did, counted: connections over time, transactions, attempts at each recipient, deferrals.
//!
//! A question is no mail: what comes from `<>` to postmaster is left out of everything but the connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Instant,
};

use super::lock;

/// The counts since the start, or since the last [`Ledger::forget`].
#[derive(Default)]
pub struct Ledger {
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    /// +1 for each connection that was opened, -1 for each that was closed.
    connections: Vec<(Instant, i64)>,
    transactions: Vec<Instant>,
    /// RCPT commands.
    attempts: Vec<(Instant, String)>,
    deferrals: u64,
}

impl Ledger {
    /// When transactions began: each MAIL that was heard, whatever it was answered.
    pub fn transactions(&self) -> Vec<Instant> {
        lock(&self.pages).transactions.clone()
    }

    /// Transactions that began after this moment.
    pub fn transactions_since(&self, moment: Instant) -> usize {
        lock(&self.pages).transactions.iter().filter(|begun| **begun > moment).count()
    }

    /// How often each recipient was asked for.
    pub fn attempts(&self) -> BTreeMap<String, u64> {
        let mut attempts = BTreeMap::new();
        for (_, recipient) in &lock(&self.pages).attempts {
            *attempts.entry(recipient.clone()).or_default() += 1;
        }
        attempts
    }

    /// Who was asked for after this moment. Where each message has a recipient of its own: the messages that were touched.
    pub fn touched_since(&self, moment: Instant) -> BTreeSet<String> {
        let pages = lock(&self.pages);
        pages.attempts.iter().filter(|(at, _)| *at > moment).map(|(_, recipient)| recipient.clone()).collect()
    }

    /// Replies 4xx to MAIL, RCPT, DATA or the final dot. 421 is about the connection, and not counted.
    pub fn deferrals(&self) -> u64 {
        lock(&self.pages).deferrals
    }

    /// How many connections were open from each of these moments on.
    pub fn connections(&self) -> Vec<(Instant, u64)> {
        let mut changes = lock(&self.pages).connections.clone();
        changes.sort_by_key(|(moment, _)| *moment);
        let mut open = 0;
        let after = |(moment, change): (Instant, i64)| {
            open += change;
            // One that was open when the ledger forgot may close below nothing.
            (moment, u64::try_from(open).unwrap_or(0))
        };
        changes.into_iter().map(after).collect()
    }

    /// Connections that were opened between two moments.
    pub fn opened_between(&self, from: Instant, until: Instant) -> usize {
        let is_within = |(moment, change): &&(Instant, i64)| *change > 0 && *moment > from && *moment <= until;
        lock(&self.pages).connections.iter().filter(is_within).count()
    }

    /// Begins anew.
    pub fn forget(&self) {
        *lock(&self.pages) = Pages::default();
    }

    pub(super) fn opened(&self) {
        lock(&self.pages).connections.push((Instant::now(), 1));
    }

    pub(super) fn closed(&self) {
        lock(&self.pages).connections.push((Instant::now(), -1));
    }

    pub(super) fn begun(&self) {
        lock(&self.pages).transactions.push(Instant::now());
    }

    pub(super) fn attempted(&self, recipient: &str) {
        lock(&self.pages).attempts.push((Instant::now(), recipient.to_owned()));
    }

    pub(super) fn answered(&self, reply: &str) {
        lock(&self.pages).deferrals += u64::from(reply.starts_with('4') && !reply.starts_with("421"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Client, Envelope, Primary, eventually,
        primary::{Rule, Stage},
    };

    #[test]
    fn what_clients_did_is_counted_and_a_question_is_not() {
        let primary = Primary::start();
        primary.misbehave(Rule::answer(Stage::Rcpt, "450 4.2.1 later").about("busy@").times(1));
        let begun = Instant::now();
        let mut client = Client::hello(primary.address()).unwrap();
        for name in ["bob", "busy", "busy", "carol"] {
            client.send(&Envelope::to(name), b"").unwrap();
            client.say("RSET").unwrap();
        }
        for line in ["MAIL FROM:<>", "RCPT TO:<postmaster@example.org>", "RSET"] {
            assert_eq!(client.say(line).unwrap().code, 250);
        }
        client.say("QUIT").unwrap();
        let ledger = primary.ledger();
        assert_eq!((ledger.transactions().len(), ledger.transactions_since(begun)), (4, 4));
        let attempts =
            [("bob", 1), ("busy", 2), ("carol", 1)].map(|(name, times)| (format!("{name}@example.org"), times));
        assert_eq!(ledger.attempts(), attempts.into());
        assert_eq!((ledger.touched_since(begun).len(), ledger.touched_since(Instant::now()).len()), (3, 0));
        assert_eq!((ledger.deferrals(), ledger.opened_between(begun, Instant::now())), (1, 1));
        let open = || ledger.connections().into_iter().map(|(_, open)| open).collect::<Vec<_>>();
        eventually(std::time::Duration::from_secs(30), "the connection is closed", || open() == [1, 0]);
    }
}
