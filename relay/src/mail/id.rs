//! Message ids: 128 bits that sort by time, written in 26 characters of the ULID alphabet. No I/O.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Names one message in the 250 reply, in `Received:`, in every log line and in the API.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MessageId(u128);

/// Crockford's base 32 without I, L, O and U, so that an id survives being read aloud.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// 26 characters of 5 bits hold 128 bits and two spare ones.
const LENGTH: usize = 26;

impl MessageId {
    /// A new id, later in order than all that this process made before (UUID version 7, RFC 9562 section 5.7).
    pub fn new() -> Self {
        Self(Uuid::now_v7().as_u128())
    }

    /// When it was made, in milliseconds since 1970: its first 48 bits.
    pub fn made_at_ms(self) -> i64 {
        (self.0 >> 80).cast_signed() as i64
    }

    /// The least one that can have been made then or later.
    pub fn least_at_ms(ms: i64) -> Self {
        Self((ms.max(0).unsigned_abs() as u128) << 80)
    }

    /// The bytes as the spool stores them.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The id that [`MessageId::to_bytes`] gave.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl From<MessageId> for String {
    fn from(id: MessageId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for MessageId {
    type Error = BadId;

    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl Default for MessageId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; LENGTH];
        let mut rest = self.0;
        for character in text.iter_mut().rev() {
            *character = ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no message id.
#[derive(Debug, thiserror::Error)]
#[error("not a message id: 26 characters of 0-9 and A-Z without I, L, O, U")]
pub struct BadId;

impl FromStr for MessageId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        // The first character carries the top 3 bits only; a larger one would not fit.
        if text.len() != LENGTH || !matches!(text.as_bytes()[0], b'0'..=b'7') {
            return Err(BadId);
        }
        text.bytes()
            .try_fold(0u128, |sum, byte| {
                let digit = ALPHABET.iter().position(|known| *known == byte).ok_or(BadId)?;
                Ok((sum << 5) | digit as u128)
            })
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_age_as_numbers_and_as_text() {
        let ids: Vec<_> = (0..1000).map(|_| MessageId::new()).collect();
        assert!(ids.is_sorted_by(|earlier, later| earlier < later));
        assert!(ids.is_sorted_by_key(ToString::to_string));
    }

    #[test]
    fn an_id_is_read_back_as_written() {
        for id in [MessageId(0), MessageId(u128::MAX), MessageId::new()] {
            assert_eq!(id.to_string().len(), LENGTH);
            assert_eq!(id.to_string().parse::<MessageId>().unwrap(), id);
            assert_eq!(MessageId::from_bytes(id.to_bytes()), id);
            assert_eq!(MessageId::try_from(String::from(id)).unwrap(), id);
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "0", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "0000000000000000000000000U", "../../etc/passwd0000000000"]
        {
            assert!(text.parse::<MessageId>().is_err(), "{text} was taken");
        }
    }
}
