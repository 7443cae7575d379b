//! What sessions and deliveries want recorded, and what that does to the index once it is durable. No I/O.

use std::borrow::Cow;

use tokio::sync::oneshot;

use super::{
    field::{Accepted, Attempt},
    index::{Entry, Index, Location},
    record::{self, Kind},
    writer::Receipt,
};

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
    /// A message is to become ours.
    Accept {
        /// Its envelope and trace field.
        accepted: Box<Accepted>,
        /// The same as it is written.
        fields: Vec<u8>,
        /// Its content, unless that stands in a large file.
        content: Vec<u8>,
        /// Who waits for it.
        answer: oneshot::Sender<Result<Receipt, NotKept>>,
    },
    /// An attempt was made.
    Settle {
        /// What came of it.
        attempt: Attempt,
        /// The same as it is written.
        fields: Vec<u8>,
        /// Who waits for it; hears whether the message is closed now.
        answer: oneshot::Sender<Result<bool, NotKept>>,
    },
}

/// What a wish writes, and enters into the index when that is durable.
pub enum Enter<'a> {
    /// A message that is ours now.
    Message {
        /// Its envelope and trace field.
        accepted: &'a Accepted,
        /// The same as it is written.
        fields: &'a [u8],
        /// Its content.
        content: &'a [u8],
    },
    /// What became of recipients.
    Fates {
        /// Whether somebody is open afterwards.
        kind: Kind,
        /// Those fates that are news.
        attempt: Cow<'a, Attempt>,
        /// The same as it is written.
        fields: Cow<'a, [u8]>,
    },
}

impl Wish {
    /// Bytes that its record takes at most.
    pub fn size(&self) -> usize {
        match self {
            Self::Accept { fields, content, .. } => record::length(fields.len(), content.len()),
            Self::Settle { fields, .. } => record::length(fields.len(), 0),
        }
    }

    /// Whether it records what became of mail: such wishes are saved from a segment whose sync failed.
    pub fn is_outcome(&self) -> bool {
        matches!(self, Self::Settle { .. })
    }

    /// What it writes.
    pub fn enter(&self, index: &Index) -> Enter<'_> {
        match self {
            Self::Accept { accepted, fields, content, .. } => Enter::Message { accepted, fields, content },
            Self::Settle { attempt, fields, .. } => {
                // An outcome can come twice, when the first answer was `Unknown`. It must not count twice.
                let attempt = index.news_in(attempt);
                let kind = if index.would_close(&attempt) { Kind::Closed } else { Kind::Attempt };
                let fields = match &attempt {
                    Cow::Borrowed(_) => Cow::Borrowed(fields.as_slice()),
                    Cow::Owned(news) => Cow::Owned(news.encode()),
                };
                Enter::Fates { kind, attempt, fields }
            }
        }
    }
}

impl Enter<'_> {
    /// Kind, fields and content of the record.
    pub fn record(&self) -> (Kind, &[u8], &[u8]) {
        match self {
            Self::Message { fields, content, .. } => (Kind::Accepted, fields, content),
            Self::Fates { kind, fields, .. } => (*kind, fields, &[]),
        }
    }

    /// The record is durable. Returns the message that it closed.
    pub fn into_index(self, index: &mut Index, place: Location) -> Option<Entry> {
        match self {
            Self::Message { accepted, content, .. } => {
                index.accept(accepted, accepted.large_bytes.unwrap_or(content.len() as u64), place, false);
                None
            }
            Self::Fates { attempt, .. } => index.settle(&attempt, false),
        }
    }
}
