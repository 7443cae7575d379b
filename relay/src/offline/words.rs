//! How the tools word things: sizes, states, fates, addresses. No I/O.

use crate::{
    mail::address::Address,
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

/// In its brackets. What an [`Address`] holds of ASCII is printable; of the rest, letters and digits are shown as they are.
pub fn path(path: Option<&Address>) -> String {
    let harmless = |c: char| c.is_ascii() || c.is_alphanumeric();
    let shown = |c: char| if harmless(c) { c.to_string() } else { c.escape_unicode().to_string() };
    format!("<{}>", path.map_or("", Address::as_str).chars().map(shown).collect::<String>())
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

    #[test]
    fn an_address_cannot_turn_the_page_around() {
        let address = Address::parse("jürgen\u{202e}gro@example.org").unwrap();
        assert_eq!(path(Some(&address)), "<jürgen\\u{202e}gro@example.org>");
        assert_eq!(path(None), "<>");
    }
}
