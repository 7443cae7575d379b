//! Attempts to make two messages out of one: imitations of the end of data, each with a second message behind it.
//!
//! Two servers that disagree about where content ends let a stranger send mail in the name of the first one's users.
//! What some server has taken for the end:
//!
//! | imitation | by whom |
//! |---|---|
//! | `LF . LF`, `LF . CR LF` | Postfix (CVE-2023-51764), Sendmail (CVE-2023-51765), Exim (CVE-2023-51766), aiosmtpd (CVE-2024-27305) |
//! | `CR . CR`, `CR . CR LF` | Cisco Secure Email, which makes line ends of all CR and LF |
//! | `CR LF . CR`, `CR LF . LF` | readers of lines that end in any of the three |
//! | `CR LF NUL . CR LF` | readers of text that ends in NUL, or that drop it |
//! | `CR LF . CR CR LF`, `CR CR LF . CR CR LF` | Exchange Online, GMX and others let it out; who drops the doubled CR takes it |
//!
//! The rest are what line ends, dots and blanks are to other programs: text functions of languages, charsets, terminals.

mod table;

pub use table::imitations;

/// Whom a smuggled message is for. Nothing ever arrives there.
pub const SMUGGLED_TO: &str = "smuggled@example.org";
/// What follows an imitation: to a server that takes it for the end, commands.
const SMUGGLED: &str = "MAIL FROM:<eve@client.example>\r\nRCPT TO:<smuggled@example.org>\r\nDATA\r\n\
                        From: ceo@example.org\r\nSubject: smuggled\r\n\r\nA message of its own.\r\n";
/// Sizes of buffers: of the readers of others, of the relay's reader, of the primary's, of the spool's pieces.
const BUFFERS_BYTES: [usize; 4] = [4 << 10, 32 << 10, 64 << 10, 256 << 10];

/// What looks like the end of data to somebody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imitation {
    /// Its bytes in words.
    pub name: String,
    /// Its bytes. The real end is not among them, nor do they become one where they are put.
    pub bytes: Vec<u8>,
}

/// One message with a second one within.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// Which imitation, and where it stands.
    pub name: String,
    /// What goes behind the command line of DATA, with CRLF at its end; the real end is still to follow.
    pub wire: Vec<u8>,
    /// Where in it the imitation begins.
    pub at: usize,
    /// How long that is.
    pub length: usize,
}

/// Each imitation in a body, in a header, and as the first thing of all.
pub fn attempts() -> Vec<Attempt> {
    let places = [("in the body", "Subject: x\r\n\r\nfirst"), ("in the header", "Subject: x"), ("at once", "")];
    let attempt = |imitation: &Imitation| places.map(|(place, before)| attempt(imitation, place, before.into()));
    imitations().iter().flat_map(attempt).collect()
}

/// What comes by BDAT: each imitation in a body and as the first thing of all, and real ends, which are none there.
pub fn attempts_by_bdat() -> Vec<Attempt> {
    let real = [("real end", "\r\n.\r\n"), ("real end behind CR", "\r\r\n.\r\n"), ("real end twice", "\r\n.\r\n.\r\n")];
    let real = real.map(|(name, bytes)| Imitation { name: name.to_owned(), bytes: bytes.into() });
    let places = [("in the body", "Subject: x\r\n\r\nfirst"), ("at once", "")];
    let attempt = |imitation: Imitation| places.map(|(place, before)| attempt(&imitation, place, before.into()));
    imitations().into_iter().chain(real).flat_map(attempt).collect()
}

/// The imitations of which servers are known that fell for them, where buffers of all sizes end. The border falls
/// into their middle.
pub fn attempts_at_borders() -> Vec<Attempt> {
    let behind = |imitation: &Imitation, buffer_bytes: usize| {
        let before = vec![b'x'; buffer_bytes - imitation.bytes.len() / 2];
        attempt(imitation, &format!("around byte {buffer_bytes}"), before)
    };
    let attempts = |imitation| BUFFERS_BYTES.map(|buffer_bytes| behind(imitation, buffer_bytes));
    imitations().iter().filter(|imitation| is_known(&imitation.bytes)).flat_map(attempts).collect()
}

fn attempt(imitation: &Imitation, place: &str, before: Vec<u8>) -> Attempt {
    let Imitation { name, bytes } = imitation;
    // At the start the CRLF of the command line counts (RFC 5321 section 4.1.1.4).
    let bytes = if before.is_empty() { bytes.strip_prefix(b"\r\n").unwrap_or(bytes) } else { bytes };
    let wire = [&*before, bytes, SMUGGLED.as_bytes()].concat();
    Attempt { name: format!("{name} {place}"), wire, at: before.len(), length: bytes.len() }
}

/// Whether it is one of the table above.
fn is_known(bytes: &[u8]) -> bool {
    let known: [&[u8]; 12] = [
        b"\n.\n",
        b"\n.\r\n",
        b"\r.\r",
        b"\r.\r\n",
        b"\r\n.\r",
        b"\r\n.\n",
        b"\r\n\0.\r\n",
        b"\r\n.\0\r\n",
        b"\r\n.\r\r\n",
        b"\r\r\n.\r\r\n",
        b"\r\n..\r\n",
        b"\r\n. \r\n",
    ];
    known.contains(&bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::reading::has_end_of_data;

    #[test]
    fn there_are_100_imitations_and_none_is_the_real_end() {
        assert!(SMUGGLED.contains(SMUGGLED_TO));
        let all = imitations();
        assert!(all.len() >= 100, "{}", all.len());
        assert_eq!(all.iter().map(|imitation| &imitation.bytes).collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(all.iter().map(|imitation| &imitation.name).collect::<BTreeSet<_>>().len(), all.len());
        for Attempt { name, wire, .. } in attempts().into_iter().chain(attempts_at_borders()) {
            assert!(!has_end_of_data(&wire) && wire.ends_with(b"\r\n"), "{name}");
        }
    }

    #[test]
    fn those_that_are_known_stand_at_each_border() {
        assert_eq!(attempts_at_borders().len(), 12 * BUFFERS_BYTES.len());
    }
}
