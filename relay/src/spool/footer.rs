//! A sealed segment's footer: what the index needs of each record, and the addresses, in a file beside it. No I/O.
//!
//! It speeds the start and serves searches. It proves nothing: where it is missing or does not check, the segment is read.

use xxhash_rust::xxh3::Xxh3;

use super::{
    field,
    record::{FLAG_COPY, Key, Kind, Record},
    segment::Header,
};

const MAGIC: [u8; 8] = *b"BMXFOOT\0";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 20;

/// One record, as a footer holds it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Line<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Whether it is a copy made by reclaim.
    pub is_copy: bool,
    /// Offset in the segment.
    pub offset: u32,
    /// Length with padding.
    pub length: u32,
    /// Length of the content behind its fields.
    pub content_bytes: u32,
    /// Its fields, or those that [`field::for_footer`] keeps.
    pub fields: &'a [u8],
}

impl<'a> Line<'a> {
    /// What stands at `offset`.
    pub fn of(record: &Record<'a>, offset: u64, length: u64) -> Self {
        let Record { kind, is_copy, synced: _, fields, content } = *record;
        // A segment is far shorter than 4 GiB.
        Self {
            kind,
            is_copy,
            offset: offset as u32,
            length: length as u32,
            content_bytes: content.len() as u32,
            fields,
        }
    }
}

/// A footer that grows with its segment. It is shorter than the segment itself: its lines are parts of records.
pub struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    /// No record yet.
    pub fn new() -> Self {
        Self { bytes: vec![0; HEADER_BYTES] }
    }

    /// Notes a record. Marks say nothing that the next segment's header does not.
    pub fn push(&mut self, line: &Line) {
        let Line { kind, is_copy, offset, length, content_bytes, fields } = *line;
        if kind == Kind::Mark {
            return;
        }
        let kept = field::for_footer(kind, fields);
        self.bytes.extend_from_slice(&[kind as u8, if is_copy { FLAG_COPY } else { 0 }, 0, 0]);
        for number in [offset, length, content_bytes, kept.len() as u32] {
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
        self.bytes.extend_from_slice(&kept);
    }

    /// The file of a segment with this header, of which the valid part ends at `end`.
    pub fn finish(mut self, number: u64, nonce: [u8; 16], end: u64) -> Vec<u8> {
        let mut put = |at: usize, part: &[u8]| self.bytes[at..at + part.len()].copy_from_slice(part);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(16, &number.to_le_bytes());
        put(24, &nonce);
        put(40, &end.to_le_bytes());
        let checksum = checksum(&self.bytes, Key::from_nonce(&nonce));
        self.bytes[HEADER_BYTES - 8..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        self.bytes
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

fn checksum(bytes: &[u8], key: Key) -> u64 {
    let mut hash = Xxh3::with_seed(key.seed());
    hash.update(&bytes[..HEADER_BYTES - 8]);
    hash.update(&bytes[HEADER_BYTES..]);
    hash.digest()
}

/// The lines of a footer; `None` if it does not check, or speaks of another segment or of another end.
pub fn read<'a>(bytes: &'a [u8], header: &Header, end: u64) -> Option<Lines<'a>> {
    let (head, lines) = bytes.split_at_checked(HEADER_BYTES)?;
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap_or_default());
    let fits = head[..8] == MAGIC
        && head[8..12] == VERSION.to_le_bytes()
        && number(16) == header.number
        && head[24..40] == header.nonce
        && number(40) == end
        && number(HEADER_BYTES - 8) == checksum(bytes, header.key());
    fits.then_some(Lines(lines))
}

/// Steps through a footer that checks.
pub struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        let (entry, rest) = self.0.split_at_checked(ENTRY_BYTES)?;
        let number = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
        let (fields, rest) = rest.split_at_checked(number(16) as usize)?;
        self.0 = rest;
        Some(Line {
            kind: Kind::from_byte(entry[0]),
            is_copy: entry[1] & FLAG_COPY != 0,
            offset: number(4),
            length: number(8),
            content_bytes: number(12),
            fields,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::id::MessageId;

    #[test]
    fn a_footer_is_read_back_and_any_flipped_bit_makes_it_void() {
        let header = Header {
            number: 7,
            nonce: *b"0123456789abcdef",
            made_at_ms: 0,
            previous: None,
            totals: Default::default(),
        };
        let fields = field::tests::accepted(MessageId::new(), 2).encode();
        let line = Line {
            kind: Kind::Accepted,
            is_copy: true,
            offset: 4608,
            length: 900,
            content_bytes: 400,
            fields: &fields,
        };
        let mut builder = Builder::new();
        builder.push(&line);
        builder.push(&Line { kind: Kind::Mark, ..line });
        let bytes = builder.finish(7, header.nonce, 9000);
        let lines: Vec<_> = read(&bytes, &header, 9000).unwrap().collect();
        assert_eq!(lines, [Line { fields: &field::for_footer(Kind::Accepted, &fields), ..line }]);
        assert!(read(&bytes, &header, 9008).is_none(), "the segment goes on behind it");
        assert!(read(&bytes, &Header { number: 8, ..header.clone() }, 9000).is_none());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged, &header, 9000).is_none(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length], &header, 9000).is_none(), "cut at {length}");
        }
    }
}
