//! Many numbered messages from many sessions at once, and what became of each of them.
//!
//! Message `n` goes to `m<n>@` the domain of the tests and is made from the seed and `n` alone, so that whatever
//! arrives can be compared with what was sent without keeping either.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::{
    chance::Chance,
    client::{Client, Envelope, Reply},
    hash::{Hash, sha256},
};

/// What to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Messages, numbered from 0.
    pub messages: u64,
    /// Bytes of each, header and all.
    pub bytes: usize,
    /// Sessions at a time.
    pub sessions: u64,
    /// What the messages are made from.
    pub seed: u64,
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Numbers of the messages that were answered 250.
    pub accepted: BTreeSet<u64>,
    /// What the others heard.
    pub refused: Vec<(u64, Reply)>,
    /// Messages that heard nothing, because the connection broke.
    pub unanswered: u64,
}

/// How what arrived compares with what was sent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Comparison {
    /// Accepted and not arrived.
    pub missing: Vec<u64>,
    /// Arrived with other bytes.
    pub altered: Vec<u64>,
    /// Arrivals of a message that had arrived before.
    pub repeated: u64,
    /// Arrived although their senders heard nothing.
    pub unanswered: u64,
}

/// A load that is being sent.
pub struct Sending {
    accepted: Arc<AtomicU64>,
    sessions: Vec<JoinHandle<Sent>>,
}

impl Load {
    /// Sends all of it.
    pub fn send(self, to: SocketAddr) -> Sent {
        self.begin(to).finish()
    }

    /// Begins to send it. A session whose connection breaks ends.
    pub fn begin(self, to: SocketAddr) -> Sending {
        self.begin_from(0, to)
    }

    /// The same, with messages that are numbered from `first`.
    pub fn begin_from(self, first: u64, to: SocketAddr) -> Sending {
        let next = Arc::new(AtomicU64::new(first));
        let accepted = Arc::new(AtomicU64::new(0));
        let session = |_| {
            let (next, accepted) = (Arc::clone(&next), Arc::clone(&accepted));
            thread::spawn(move || self.session(to, &next, first + self.messages, &accepted))
        };
        Sending { sessions: (0..self.sessions).map(session).collect(), accepted }
    }

    fn session(self, to: SocketAddr, next: &AtomicU64, end: u64, accepted: &AtomicU64) -> Sent {
        let mut sent = Sent::default();
        let Ok(mut client) = Client::hello(to) else { return sent };
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= end {
                return sent;
            }
            match client.send(&Envelope::to(&format!("m{number}")), &self.message(number)) {
                Ok(reply) if reply.code == 250 => {
                    sent.accepted.insert(number);
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
                Ok(reply) => sent.refused.push((number, reply)),
                Err(_) => {
                    sent.unanswered += 1;
                    return sent;
                }
            }
        }
    }

    /// Message `number`: a header, and lines that no other message has.
    pub fn message(&self, number: u64) -> Vec<u8> {
        let mut chance = Chance::seeded(self.seed ^ (number << 20));
        let mut content = format!(
            "From: <sender@client.example>\r\nTo: <m{number}@{domain}>\r\nSubject: message {number}\r\n\
             Date: Sun, 22 Nov 2026 12:00:00 +0000\r\nMessage-ID: <{number}.{seed}@client.example>\r\n\r\n",
            domain = crate::DOMAIN,
            seed = self.seed
        )
        .into_bytes();
        while content.len() < self.bytes {
            let line_bytes = (self.bytes - content.len()).min(78).saturating_sub(2);
            // All that can be printed, dots at the start among it.
            content.extend((0..line_bytes).map(|_| b' ' + (chance.number() >> 32) as u8 % 95));
            content.extend_from_slice(b"\r\n");
        }
        content
    }

    /// Compares with messages that arrived: recipient, and content less the relay's own field.
    pub fn compare<'a>(&self, sent: &Sent, arrived: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Comparison {
        let mut comparison = Comparison::default();
        let mut seen: BTreeMap<u64, Hash> = BTreeMap::new();
        for (recipient, content) in arrived {
            let number = number_of(recipient);
            let expected = *seen
                .entry(number)
                .and_modify(|_| comparison.repeated += 1)
                .or_insert_with(|| sha256(&self.message(number)));
            if sha256(content) != expected {
                comparison.altered.push(number);
            }
        }
        comparison.missing = sent.accepted.iter().copied().filter(|number| !seen.contains_key(number)).collect();
        comparison.unanswered = seen.keys().filter(|&number| !sent.accepted.contains(number)).count() as u64;
        comparison
    }
}

impl Sending {
    /// Messages answered 250 so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits until all sessions have ended.
    pub fn finish(self) -> Sent {
        let mut all = Sent::default();
        for session in self.sessions {
            let Sent { accepted, refused, unanswered } = session.join().expect("a session does not panic");
            all.accepted.extend(accepted);
            all.refused.extend(refused);
            all.unanswered += unanswered;
        }
        all
    }
}

/// The number of the message that went to this recipient.
///
/// # Panics
/// If it is none of ours.
pub fn number_of(recipient: &str) -> u64 {
    let number = recipient.strip_prefix('m').and_then(|rest| rest.split('@').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("a message for {recipient} arrived, which nobody sent"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load { messages: 3, bytes: 400, sessions: 1, seed: 1 };

    #[test]
    fn a_message_has_the_size_that_was_asked_for_and_is_the_same_each_time() {
        for bytes in [400, 401, 8192] {
            let load = Load { bytes, ..LOAD };
            assert!(load.message(7).len().abs_diff(bytes) <= 2);
            assert_eq!(load.message(7), load.message(7));
            assert_ne!(load.message(7), load.message(8));
        }
    }

    #[test]
    fn what_is_missing_altered_or_repeated_is_named() {
        let sent = Sent { accepted: [0, 1, 2].into(), ..Sent::default() };
        let (zero, three) = (LOAD.message(0), LOAD.message(3));
        let arrived: [(&str, &[u8]); 4] = [("m0@x", &zero), ("m0@x", &zero), ("m1@x", b"other"), ("m3@x", &three)];
        let expected = Comparison { missing: vec![2], altered: vec![1], repeated: 1, unanswered: 1 };
        assert_eq!(LOAD.compare(&sent, arrived), expected);
    }
}
