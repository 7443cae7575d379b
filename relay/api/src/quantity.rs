//! Durations and byte counts as people write them: `30s`, `30d`, `50Mi`. No I/O.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time: whole numbers with `ms`, `s`, `m`, `h` or `d`, for instance `500ms` or `1h30m`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Span(pub Duration);

/// A number of bytes: a whole number, alone or with `Ki`, `Mi`, `Gi`, `Ti` (powers of 1024) or `k`, `M`, `G`, `T`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Bytes(pub u64);

/// A text that is no quantity of the asked kind. Its message says what would be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadQuantity(String);

impl fmt::Display for BadQuantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadQuantity {}

const SPAN_UNITS_MS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const BYTE_UNITS: [(&str, u64); 9] = [
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1000),
    ("", 1),
];

impl FromStr for Span {
    type Err = BadQuantity;

    /// Sums up its parts; zero must be written with a unit too.
    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let refused =
            || BadQuantity(format!("{text:?} is no duration: write for instance 500ms, 30s, 10m, 12h or 30d"));
        let mut rest = text;
        let mut sum_ms: u64 = 0;
        if rest.is_empty() {
            return Err(refused());
        }
        while !rest.is_empty() {
            let (number, behind) = leading_number(rest).ok_or_else(refused)?;
            let unit_length = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
            let (unit, behind) = behind.split_at(unit_length);
            let (_, factor) = SPAN_UNITS_MS.iter().find(|(name, _)| *name == unit).ok_or_else(refused)?;
            let part_ms = number.checked_mul(*factor).ok_or_else(refused)?;
            sum_ms = sum_ms.checked_add(part_ms).ok_or_else(refused)?;
            rest = behind;
        }
        Ok(Self(Duration::from_millis(sum_ms)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest_ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest_ms == 0 {
            return f.write_str("0s");
        }
        for (unit, factor) in SPAN_UNITS_MS {
            if rest_ms >= factor {
                write!(f, "{}{unit}", rest_ms / factor)?;
                rest_ms %= factor;
            }
        }
        Ok(())
    }
}

impl FromStr for Bytes {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let refused =
            || BadQuantity(format!("{text:?} is no number of bytes: write for instance 65536, 64Ki, 50Mi or 20Gi"));
        let (number, unit) = leading_number(text).ok_or_else(refused)?;
        let (_, factor) = BYTE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refused)?;
        number.checked_mul(*factor).map(Self).ok_or_else(refused)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = BYTE_UNITS[..4]
            .iter()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .unwrap_or(&("", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let length = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(length);
    Some((digits.parse().ok()?, rest))
}

/// Both quantities travel as text.
macro_rules! as_text {
    ($($quantity:ty),*) => {$(
        impl Serialize for $quantity {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $quantity {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}
as_text!(Span, Bytes);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them_and_print_the_same() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("1h30m", 5_400_000), ("30d", 2_592_000_000), ("0s", 0)] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0, Duration::from_millis(ms), "{text}");
            assert_eq!(span.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "30", "s", "-1s", "1.5h", "1 s", "1w", "99999999999999999999d", "18446744073709551615d", "ms5"]
        {
            assert!(text.parse::<Span>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn byte_counts_read_as_people_write_them_and_print_the_same() {
        for (text, bytes) in
            [("50Mi", 52_428_800), ("64Ki", 65_536), ("20Gi", 21_474_836_480), ("1000", 1000), ("0", 0)]
        {
            let parsed: Bytes = text.parse().unwrap();
            assert_eq!(parsed.0, bytes, "{text}");
            assert_eq!(parsed.to_string(), text);
        }
        assert_eq!("5M".parse(), Ok(Bytes(5_000_000)));
    }

    #[test]
    fn what_is_no_byte_count_is_refused() {
        for text in ["", "Mi", "-1", "1.5Gi", "1 Mi", "1mi", "1MiB", "99999999999Ti"] {
            assert!(text.parse::<Bytes>().is_err(), "{text:?} was taken");
        }
    }
}
