//! Messages of which each has a name of its own, what their senders heard, and whether the primary got what it ought to.

use std::{collections::BTreeMap, io, net::SocketAddr};

use crate::{
    client::{Client, Envelope, Reply},
    hash::difference,
    primary::Primary,
    trace_field,
};

/// Above it the spool keeps a message in a file of its own.
pub const LARGE_BYTES: usize = 300_000;
/// Far below it.
pub const SMALL_BYTES: usize = 1000;

/// What the sender of a message heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// 250, with this id.
    Yes(String),
    /// Another reply.
    No(Reply),
    /// No reply: the connection broke.
    Nothing,
}

/// Messages and what their senders heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Letters {
    name: String,
    sent: Vec<(usize, Heard)>,
}

impl Letters {
    /// None yet. `name`: what the names of all of them begin with.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), sent: Vec::new() }
    }

    /// Sends the next one over a session of its own.
    pub fn send(&mut self, to: SocketAddr, bytes: usize) -> &Heard {
        let name = self.name_of(self.sent.len());
        let sending = || -> io::Result<Reply> {
            let mut client = Client::hello(to)?;
            client.send(&Envelope::to(&name), &content(&name, bytes))
        };
        let heard = match sending() {
            Ok(reply) if reply.code == 250 => Heard::Yes(reply.message_id().to_owned()),
            Ok(reply) => Heard::No(reply),
            Err(_) => Heard::Nothing,
        };
        self.sent.push((bytes, heard));
        &self.sent[self.sent.len() - 1].1
    }

    /// Whether the next one hears 250.
    pub fn is_taken(&mut self, to: SocketAddr, bytes: usize) -> bool {
        matches!(self.send(to, bytes), Heard::Yes(_))
    }

    /// What each sender heard, in their order.
    pub fn heard(&self) -> impl Iterator<Item = &Heard> {
        self.sent.iter().map(|(_, heard)| heard)
    }

    /// How many heard 250.
    pub fn taken(&self) -> u64 {
        self.heard().filter(|heard| matches!(heard, Heard::Yes(_))).count() as u64
    }

    /// The replies that were no 250.
    pub fn refusals(&self) -> impl Iterator<Item = &Reply> {
        self.heard().filter_map(|heard| match heard {
            Heard::No(reply) => Some(reply),
            Heard::Yes(_) | Heard::Nothing => None,
        })
    }

    /// What is wrong with what arrived at the primary: what heard 250 must be there once and unaltered, what heard
    /// another reply must not, what heard nothing may. `repeats_max`: how many may have come twice.
    pub fn complaints(&self, primary: &Primary, repeats_max: usize) -> Vec<String> {
        let mails = primary.mails();
        let mut arrived: BTreeMap<&str, Vec<&[u8]>> = BTreeMap::new();
        for mail in &mails {
            let name = mail.recipients[0].split('@').next().unwrap_or_default();
            arrived.entry(name).or_default().push(&mail.content);
        }
        let (mut complaints, mut repeats) = (primary.violations(), 0);
        for (place, (bytes, heard)) in self.sent.iter().enumerate() {
            let name = self.name_of(place);
            let copies = arrived.remove(&*name).unwrap_or_default();
            let content = content(&name, *bytes);
            let altered = copies.iter().map(|copy| trace_field::split(copy).1).filter(|copy| *copy != content);
            complaints.extend(altered.filter_map(|copy| Some(format!("{name}: {}", difference(&content, copy)?))));
            repeats += copies.len().saturating_sub(1);
            match heard {
                Heard::Yes(id) if copies.is_empty() => {
                    complaints.push(format!("{name} is lost: it heard 250, id {id}"))
                }
                Heard::No(reply) if !copies.is_empty() => complaints.push(format!("{name} arrived, and heard {reply}")),
                Heard::Yes(_) | Heard::No(_) | Heard::Nothing => {}
            }
        }
        if repeats > repeats_max {
            complaints.push(format!("{repeats} came again"));
        }
        let ours = arrived.keys().filter(|name| name.starts_with(&self.name));
        complaints.extend(ours.map(|name| format!("{name} arrived, which nobody sent")));
        complaints
    }

    fn name_of(&self, place: usize) -> String {
        format!("{}{place}", self.name)
    }
}

/// A message that no other one resembles.
fn content(name: &str, bytes: usize) -> Vec<u8> {
    let mut content = format!("From: <sender@client.example>\r\nSubject: {name}\r\n\r\n").into_bytes();
    let line = format!("{name}: the quick brown fox jumps over the lazy dog\r\n");
    content.extend_from_slice(line.repeat(bytes / line.len() + 1).as_bytes());
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_or_came_although_it_was_refused_is_complained_about() {
        let primary = Primary::start();
        let mut letters = Letters::new("a");
        assert!(letters.is_taken(primary.address(), SMALL_BYTES) && letters.is_taken(primary.address(), LARGE_BYTES));
        // The scripted primary keeps what it gets, less the field that a relay puts on top of it.
        let mut client = Client::hello(primary.address()).unwrap();
        primary.forget();
        let field = b"Received: from c\r\n\tby b (BackupMx) with ESMTP id X; Sun, 22 Nov 2026\r\n";
        for name in ["a0", "a0", "a2"] {
            let relayed = [field, &*content(name, SMALL_BYTES)].concat();
            client.send(&Envelope::to(name), &relayed).unwrap();
        }
        letters.sent.push((SMALL_BYTES, Heard::No(Reply { code: 451, lines: vec!["4.3.0 no".into()] })));
        let complaints = letters.complaints(&primary, 0);
        assert!(complaints[0].starts_with("a1 is lost"), "{complaints:?}");
        assert_eq!(complaints[1..], ["a2 arrived, and heard 451 4.3.0 no", "1 came again"]);
        assert_eq!((letters.taken(), letters.refusals().count()), (2, 1));
    }
}
