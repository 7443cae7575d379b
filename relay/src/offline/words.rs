//! How the tools word things: sizes, states, fates, addresses. No I/O.

use crate::{
    mail::{
        address::Address,
        envelope::{Body, Protocol},
    },
    spool::{
        field::{Fate, State},
        record::Kind,
    },
};

/// `512 B`, `1.5 KiB`, `12.0 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut number, mut unit) = (bytes as f64 / 1024.0, 0);
    // What would be rounded to 1024.0 is 1.0 of the next unit.
    while number >= 1023.95 && unit + 1 < UNITS.len() {
        (number, unit) = (number / 1024.0, unit + 1);
    }
    format!("{number:.1} {}", UNITS[unit])
}

/// In its brackets. An [`Address`] holds printable ASCII alone, so it can be shown as it is.
pub fn path(path: Option<&Address>) -> String {
    path.map_or_else(|| "<>".to_owned(), |path| format!("<{path}>"))
}

/// How a recipient stands.
pub fn state(state: State) -> &'static str {
    match state {
        State::Waiting => "waiting",
        State::Held => "held",
        State::Ended => "ended",
    }
}

/// What became of a recipient.
pub fn fate(fate: Fate) -> &'static str {
    match fate {
        Fate::Delivered => "delivered",
        Fate::Deferred => "deferred",
        Fate::Held => "held",
        Fate::Released => "released",
        Fate::Bounced => "bounced",
        Fate::Expired => "expired",
        Fate::Deleted => "deleted",
        Fate::Moved => "moved",
        Fate::Damaged => "damaged",
        Fate::Withdrawn => "withdrawn",
    }
}

/// The names of docs/spool.md.
pub fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Accepted => "Accepted",
        Kind::Attempt => "Attempt",
        Kind::Closed => "Closed",
        Kind::Mark => "Mark",
        Kind::Held => "Held",
        Kind::Released => "Released",
        Kind::Withdrawn => "Withdrawn",
        Kind::Moved => "Moved",
        Kind::Later => "of a newer program",
    }
}

/// As in `Received:`.
pub fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Smtp => "SMTP",
        Protocol::Esmtp => "ESMTP",
    }
}

/// What stood behind `BODY=`, if anything did.
pub fn body(body: Body) -> Option<&'static str> {
    match body {
        Body::Unsaid => None,
        Body::SevenBit => Some("7BIT"),
        Body::EightBitMime => Some("8BITMIME"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_never_1024_of_anything() {
        for (bytes, words) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (12 << 30, "12.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(size(bytes), words, "{bytes}");
        }
    }
}
