//! Records of the log and their checksum: bytes in, bytes out. The format stands in docs/spool.md. No I/O.

use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

/// Before the fields of each record.
pub const RECORD_HEADER_BYTES: usize = 32;
/// Records start at multiples of this, so that a scan behind damage has few places to look at.
pub const RECORD_ALIGNMENT_BYTES: usize = 8;

/// Longer content gets a file of its own, so that moving live records out of an old segment stays cheap.
pub const INLINE_CONTENT_BYTES_MAX: usize = 256 << 10;
/// 1000 recipients (the configurable limit) of the longest kind, with the longest ORCPT, take just under this; as many
/// fates with words little over half of it.
pub const FIELDS_BYTES_MAX: usize = 1 << 20;

const MAGIC: [u8; 4] = *b"BMXR";
/// The header less the checksum itself.
const CHECKED_HEADER_BYTES: usize = 24;
/// Where the header's own check stands, two bytes.
const HEADER_CHECK_START: usize = 6;

/// What a record says. Numbers are on disk: never reuse one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A message is ours.
    Accepted = 1,
    /// What became of which recipient; others are still open.
    Attempt = 2,
    /// The same, and none is open any more.
    Closed = 3,
    /// How the account stands, and up to where the segment was synced.
    Mark = 4,
    /// Recipients were held, by a person or by age.
    Held = 5,
    /// They are held no longer.
    Released = 6,
    /// The client heard 4xx after all: the message is not ours.
    Withdrawn = 7,
    /// Another relay has it.
    Moved = 8,
    /// Something that this program does not know. Never written.
    Later = 255,
}

impl Kind {
    const KNOWN: [Self; 8] = [
        Self::Accepted,
        Self::Attempt,
        Self::Closed,
        Self::Mark,
        Self::Held,
        Self::Released,
        Self::Withdrawn,
        Self::Moved,
    ];

    /// The kind that this byte stands for; `Later` if only a later program knows.
    pub fn from_byte(byte: u8) -> Self {
        Self::KNOWN.into_iter().find(|known| *known as u8 == byte).unwrap_or(Self::Later)
    }
}

/// The record is a copy of an older one and is in the account already.
pub const FLAG_COPY: u8 = 1;

/// A record as it stands in a segment.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Record<'a> {
    /// What it says.
    pub kind: Kind,
    /// Whether it is a copy made by reclaim.
    pub is_copy: bool,
    /// Up to here its segment was synced when it was written.
    pub synced: u64,
    /// Its tagged fields.
    pub fields: &'a [u8],
    /// Message content behind them.
    pub content: &'a [u8],
}

/// Key of a segment's checksums. Its author cannot know it, so a mail body never passes for a record.
#[derive(Clone, Copy)]
pub struct Key(u64);

impl Key {
    /// From the nonce in a segment's header.
    pub fn from_nonce(nonce: &[u8; 16]) -> Self {
        Self(xxh3_64(nonce))
    }

    /// Seed of other checksums that only this segment's own files pass.
    pub fn seed(self) -> u64 {
        self.0
    }

    /// A short check of the header alone: a scan behind damage must not hash a megabyte for each place at which a mail
    /// body says that a record begins.
    fn header_check(self, offset: u64, header: &[u8]) -> [u8; 2] {
        let mut hashed = [0; 8 + CHECKED_HEADER_BYTES];
        hashed[..8].copy_from_slice(&offset.to_le_bytes());
        hashed[8..].copy_from_slice(&header[..CHECKED_HEADER_BYTES]);
        hashed[8 + HEADER_CHECK_START..8 + HEADER_CHECK_START + 2].fill(0);
        let check = xxh3_64_with_seed(&hashed, self.0).to_le_bytes();
        [check[0], check[1]]
    }

    fn checksum(self, offset: u64, header: &[u8], body: &[u8]) -> u64 {
        let mut hash = Xxh3::with_seed(self.0);
        hash.update(&offset.to_le_bytes());
        hash.update(header);
        hash.update(body);
        hash.digest()
    }
}

/// The most that a record takes: enough of a segment to read any one of them.
pub const RECORD_BYTES_MAX: usize =
    (RECORD_HEADER_BYTES + FIELDS_BYTES_MAX + INLINE_CONTENT_BYTES_MAX).next_multiple_of(RECORD_ALIGNMENT_BYTES);

/// Bytes that a record takes, padding included.
pub fn length(fields: usize, content: usize) -> usize {
    (RECORD_HEADER_BYTES + fields + content).next_multiple_of(RECORD_ALIGNMENT_BYTES)
}

/// Appends a record to `batch`, which will be written at `batch_offset` of its segment.
pub fn append(batch: &mut Vec<u8>, batch_offset: u64, key: Key, record: &Record) {
    let start = batch.len();
    let Record { kind, is_copy, synced, fields, content } = *record;
    batch.extend_from_slice(&MAGIC);
    batch.extend_from_slice(&[kind as u8, if is_copy { FLAG_COPY } else { 0 }, 0, 0]);
    // Both are bounded far below 4 GiB: by the command limits and by INLINE_CONTENT_BYTES_MAX.
    batch.extend_from_slice(&u32::try_from(fields.len()).unwrap_or(u32::MAX).to_le_bytes());
    batch.extend_from_slice(&u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes());
    batch.extend_from_slice(&synced.to_le_bytes());
    batch.extend_from_slice(&[0; 8]);
    batch.extend_from_slice(fields);
    batch.extend_from_slice(content);
    let offset = batch_offset + start as u64;
    let check = key.header_check(offset, &batch[start..start + RECORD_HEADER_BYTES]);
    batch[start + HEADER_CHECK_START..start + HEADER_CHECK_START + 2].copy_from_slice(&check);
    let (header, body) = batch[start..].split_at(RECORD_HEADER_BYTES);
    let checksum = key.checksum(offset, &header[..CHECKED_HEADER_BYTES], body);
    batch[start + CHECKED_HEADER_BYTES..start + RECORD_HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    batch.resize(start + length(fields.len(), content.len()), 0);
}

/// The record at the start of `bytes`, which stand at `offset` of their segment, and its length with padding.
/// `None` if there is none that checks.
pub fn decode(bytes: &[u8], offset: u64, key: Key) -> Option<(Record<'_>, usize)> {
    let (header, rest) = bytes.split_at_checked(RECORD_HEADER_BYTES)?;
    if header[..4] != MAGIC {
        return None;
    }
    if header[HEADER_CHECK_START..HEADER_CHECK_START + 2] != key.header_check(offset, header) {
        return None;
    }
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
    let (fields_length, content_length) = (number(8), number(12));
    if fields_length > FIELDS_BYTES_MAX || content_length > INLINE_CONTENT_BYTES_MAX {
        return None; // bounds what a record may take, whatever its header says
    }
    // The padding counts: of a record that a crash cut in it, nobody could read the length that it takes.
    let body =
        &rest.get(..length(fields_length, content_length) - RECORD_HEADER_BYTES)?[..fields_length + content_length];
    let synced = u64::from_le_bytes(header[16..24].try_into().ok()?);
    let checksum = u64::from_le_bytes(header[24..32].try_into().ok()?);
    if key.checksum(offset, &header[..CHECKED_HEADER_BYTES], body) != checksum {
        return None;
    }
    let kind = Kind::from_byte(header[4]);
    let (fields, content) = body.split_at(fields_length);
    let record = Record { kind, is_copy: header[5] & FLAG_COPY != 0, synced, fields, content };
    Some((record, length(fields_length, content_length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: [u8; 16] = *b"a nonce of 16 by";

    fn record<'a>(fields: &'a [u8], content: &'a [u8]) -> Record<'a> {
        Record { kind: Kind::Accepted, is_copy: false, synced: 4608, fields, content }
    }

    #[test]
    fn records_are_read_back_where_they_were_written_and_nowhere_else() {
        let key = Key::from_nonce(&NONCE);
        let mut batch = Vec::new();
        append(&mut batch, 4608, key, &record(b"fields", b"content"));
        append(&mut batch, 4608, key, &Record { kind: Kind::Closed, is_copy: true, ..record(b"", b"") });
        let (first, first_length) = decode(&batch, 4608, key).unwrap();
        assert_eq!(first, record(b"fields", b"content"));
        assert_eq!(first_length, 48);
        let (second, _) = decode(&batch[48..], 4656, key).unwrap();
        assert_eq!((second.kind, second.is_copy), (Kind::Closed, true));
        assert_eq!(decode(&batch, 4616, key), None, "taken at another offset");
        assert_eq!(decode(&batch, 4608, Key::from_nonce(&[0; 16])), None, "taken in another segment");
    }

    #[test]
    fn a_flipped_bit_is_noticed_wherever_it_is() {
        let key = Key::from_nonce(&NONCE);
        let mut batch = Vec::new();
        append(&mut batch, 0, key, &record(b"fields", b"content"));
        let meaningful = RECORD_HEADER_BYTES + b"fieldscontent".len();
        for bit in 0..meaningful * 8 {
            let mut damaged = batch.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&damaged, 0, key), None, "bit {bit}");
        }
    }

    #[test]
    fn cut_records_are_told_and_never_panic() {
        let key = Key::from_nonce(&NONCE);
        let mut batch = Vec::new();
        append(&mut batch, 0, key, &record(b"fields", b"content"));
        for length in 0..batch.len() {
            assert_eq!(decode(&batch[..length], 0, key), None, "cut at {length}");
        }
    }
}
