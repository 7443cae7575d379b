//! What sessions, deliveries and reclaim want recorded, and what that does to the index once it is durable. No I/O.

use std::borrow::Cow;

use super::{
    field::{Arrival, Change},
    index::{Entry, Index, Location},
    record::{self, Kind},
};
use crate::mail::id::MessageId;

/// Why a message or an outcome was not kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotKept {
    /// The volume is full; nothing was written, or what was written is void.
    Full,
    /// The disk failed; nothing was written, or what was written is void.
    Disk,
    /// It may or may not be on the disk, so neither yes nor no would be true: only silence is.
    Unknown,
}

/// What someone wants recorded.
pub enum Wish {
    /// A message is to become ours, or ours is to stand elsewhere in the log.
    Accept {
        /// What the index needs of it.
        arrival: Arrival,
        /// Its envelope and trace field, as they are written.
        fields: Vec<u8>,
        /// Its content, unless that stands in a large file.
        content: Vec<u8>,
        /// Whether it is in the account already.
        is_copy: bool,
    },
    /// Something happened to recipients.
    Change {
        /// What.
        change: Change,
        /// The same as it is written.
        fields: Vec<u8>,
    },
}

/// What a wish writes, and enters into the index when that is durable.
pub enum Enter<'a> {
    /// A message.
    Message {
        /// What the index needs of it.
        arrival: &'a Arrival,
        /// Its envelope and trace field, as they are written.
        fields: &'a [u8],
        /// Its content.
        content: &'a [u8],
        /// Whether it is in the account already.
        is_copy: bool,
    },
    /// What happened to recipients.
    Fates {
        /// The kind that is written.
        kind: Kind,
        /// Those fates that are news.
        change: Cow<'a, Change>,
        /// The same as it is written.
        fields: Cow<'a, [u8]>,
    },
}

impl Wish {
    /// To record a change.
    pub fn change(change: Change) -> Self {
        Self::Change { fields: change.encode(), change }
    }

    /// Whose.
    pub fn id(&self) -> MessageId {
        match self {
            Self::Accept { arrival, .. } => arrival.id,
            Self::Change { change, .. } => change.id,
        }
    }

    /// Bytes that its record takes at most.
    pub fn size(&self) -> usize {
        match self {
            Self::Accept { fields, content, .. } => record::length(fields.len(), content.len()),
            Self::Change { fields, .. } => record::length(fields.len(), 0),
        }
    }

    /// Whether somebody brings it now. What is here already may use the last room, if it is moved or adopted there.
    pub fn is_mail(&self) -> bool {
        matches!(self, Self::Accept { arrival, is_copy, .. } if !is_copy && arrival.standing.is_none())
    }

    /// Whether it records what became of mail: such wishes are saved from a failed segment, and get the last room.
    pub fn is_change(&self) -> bool {
        matches!(self, Self::Change { .. })
    }

    /// What it writes.
    pub fn enter(&self, index: &Index) -> Enter<'_> {
        match self {
            Self::Accept { arrival, fields, content, is_copy } => {
                Enter::Message { arrival, fields, content, is_copy: *is_copy }
            }
            Self::Change { change, fields } => {
                // An outcome can come twice, when the first answer was `Unknown`. It must not count twice.
                let change = index.news_in(change);
                let closes = change.kind == Kind::Attempt && index.would_close(&change);
                let kind = if closes { Kind::Closed } else { change.kind };
                let fields = match &change {
                    Cow::Borrowed(_) => Cow::Borrowed(fields.as_slice()),
                    Cow::Owned(news) => Cow::Owned(news.encode()),
                };
                Enter::Fates { kind, change, fields }
            }
        }
    }
}

impl Enter<'_> {
    /// Kind, fields and content of the record, and whether it is a copy.
    pub fn record(&self) -> (Kind, &[u8], &[u8], bool) {
        match self {
            Self::Message { fields, content, is_copy, .. } => (Kind::Accepted, fields, content, *is_copy),
            Self::Fates { kind, fields, .. } => (*kind, fields, &[], false),
        }
    }

    /// The record is durable. Returns the message that it closed.
    pub fn into_index(self, index: &mut Index, place: Location) -> Option<Entry> {
        match self {
            Self::Message { arrival, content, is_copy, .. } => {
                index.accept(arrival, arrival.large_bytes.unwrap_or(content.len() as u64), place, is_copy);
                None
            }
            Self::Fates { change, .. } => index.settle(&change),
        }
    }
}
