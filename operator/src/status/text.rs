//! Texts and times of others made fit for a status: escaped, cut, in whole seconds. Pure.

use jiff::{Timestamp, Unit};

/// A condition's message. Kubernetes allows 32768; people read the first lines.
pub const MESSAGE_CHARS_MAX: usize = 1024;
/// One sentence of a relay, and one warning.
pub const SENTENCE_CHARS_MAX: usize = 300;
/// Sentences of one relay.
pub const PROBLEMS_MAX: usize = 10;

const CUT: &str = " [...]";

/// At most `chars_max` characters; what would move a cursor or turn the direction of writing is escaped.
pub fn shown(text: &str, chars_max: usize) -> String {
    let mut shown = String::new();
    let mut left = chars_max.saturating_sub(CUT.len());
    for character in text.chars() {
        let piece: String = match character {
            character if is_harmless(character) => character.into(),
            character => character.escape_default().collect(),
        };
        let Some(rest) = left.checked_sub(piece.chars().count()) else {
            return shown + CUT;
        };
        left = rest;
        shown.push_str(&piece);
    }
    shown
}

fn is_harmless(character: char) -> bool {
    let turns =
        matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    !character.is_control() && !turns
}

/// A relay's time in whole seconds of UTC; none if it is no time.
pub fn time(text: &str) -> Option<Timestamp> {
    text.parse::<Timestamp>().ok().map(seconds)
}

/// Cut to whole seconds, as they stand in a status.
pub fn seconds(time: Timestamp) -> Timestamp {
    time.round(jiff::TimestampRound::new().smallest(Unit::Second).mode(jiff::RoundMode::Floor)).unwrap_or(time)
}

/// The same, written again.
pub fn time_again(text: &str) -> Option<String> {
    time(text).map(|time| time.to_string())
}

/// `1 message`, `2 messages`.
pub fn messages(count: u64) -> String {
    format!("{count} message{}", if count == 1 { "" } else { "s" })
}

/// What a status can hold: its numbers have a sign.
pub fn number(count: u64) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_cut_and_cannot_move_a_cursor() {
        assert_eq!(shown("Grüße\r\n\u{1b}[31m\u{202e}", 100), "Grüße\\r\\n\\u{1b}[31m\\u{202e}");
        assert_eq!(shown(&"x".repeat(1000), 20), format!("{}{CUT}", "x".repeat(14)));
        for length in 0..40 {
            let text: String = std::iter::repeat_n('\u{7}', length).collect();
            assert!(shown(&text, 30).chars().count() <= 30);
        }
    }

    #[test]
    fn times_are_whole_seconds_of_utc() {
        assert_eq!(time_again("2026-11-27T17:00:00.999+01:00").as_deref(), Some("2026-11-27T16:00:00Z"));
        assert_eq!(time_again("yesterday"), None);
    }
}
