//! SHA-256, by which tests say that two messages are the same.

use sha2::{Digest, Sha256};

/// SHA-256 of a message.
pub type Hash = [u8; 32];

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// XXH3, 128 bits, as relays tell the digest of their config document.
pub fn xxh3(text: &str) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
}

/// Where two messages part, with a few bytes around it; `None` if they are the same.
pub fn difference(expected: &[u8], found: &[u8]) -> Option<String> {
    if sha256(expected) == sha256(found) {
        return None;
    }
    let at = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
    let around = |bytes: &[u8]| bytes[at.saturating_sub(20)..bytes.len().min(at + 40)].escape_ascii().to_string();
    Some(format!(
        "{} bytes became {}, the first difference is at {at}: \"{}\" became \"{}\"",
        expected.len(),
        found.len(),
        around(expected),
        around(found)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_named_with_its_place() {
        assert_eq!(difference(b"abc", b"abc"), None);
        assert!(difference(b"abc", b"abd").unwrap().contains("at 2"));
        assert!(difference(b"abc", b"ab").unwrap().contains("3 bytes became 2"));
    }
}
