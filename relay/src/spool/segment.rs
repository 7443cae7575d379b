//! A segment: its header, and the scan that finds its records again and tells rot from tear. No I/O.

use std::ops::Range;

use backupmx_relay_api::status::Account;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    field,
    record::{self, Key, RECORD_ALIGNMENT_BYTES, Record},
};

/// One segment file. Space comes back a segment at a time, so a 1 GiB volume gets it back in sixteenths.
pub const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// Where the first record stands: behind both copies of the header.
pub const RECORDS_START: u64 = SECOND_HEADER_START as u64 + HEADER_BYTES as u64;
/// Version of the format that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"BMXSEG\0\0";
const HEADER_BYTES: usize = 512;
/// In another sector than the first, and in another page.
const SECOND_HEADER_START: usize = 4096;
const TOTALS_START: usize = 96;
const CHECKSUM_START: usize = HEADER_BYTES - 8;

/// What stands at the start of a segment.
#[derive(Clone, PartialEq, Debug)]
pub struct Header {
    /// Its number, from 1.
    pub number: u64,
    /// Random: the key of its checksums.
    pub nonce: [u8; 16],
    /// Milliseconds since 1970.
    pub made_at_ms: i64,
    /// What became of the segment before.
    pub previous: Option<Previous>,
    /// The account before this segment; `queued` is not stored, since the index counts it.
    pub totals: Account,
}

/// What a header says of the segment before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Previous {
    /// Its number.
    pub number: u64,
    /// End of its valid part: what lies behind is void.
    pub end: u64,
    /// How it ended.
    pub ending: Ending,
}

/// How a segment ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// In good order.
    Sealed = 1,
    /// A write or sync failed.
    SyncFailed = 2,
    /// The process died, or the machine.
    Crash = 3,
}

impl Header {
    /// Both copies, as long as [`RECORDS_START`].
    pub fn encode(&self) -> Vec<u8> {
        let Self { number, nonce, made_at_ms, previous, totals } = self;
        let mut header = vec![0; HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &FORMAT_VERSION.to_le_bytes());
        put(12, &(HEADER_BYTES as u32).to_le_bytes());
        put(16, &number.to_le_bytes());
        put(24, nonce);
        put(40, &made_at_ms.to_le_bytes());
        if let Some(Previous { number, end, ending }) = previous {
            put(64, &number.to_le_bytes());
            put(72, &end.to_le_bytes());
            put(88, &(*ending as u32).to_le_bytes());
        }
        put(TOTALS_START, &field::encode_totals(totals));
        let checksum = xxh3_64(&header[..CHECKSUM_START]);
        header[CHECKSUM_START..].copy_from_slice(&checksum.to_le_bytes());
        let mut both = header.clone();
        both.resize(SECOND_HEADER_START, 0);
        both.extend_from_slice(&header);
        both
    }

    /// Reads the header from the start of a segment: the first copy that checks.
    pub fn decode(segment: &[u8]) -> Result<Self, BadHeader> {
        let copies = [0, SECOND_HEADER_START]; // a copy of a newer program says so, whatever became of the other
        let at =
            |start: usize| segment.get(start..start + HEADER_BYTES).ok_or(BadHeader::Damaged).and_then(decode_copy);
        match copies.map(at) {
            [Err(BadHeader::Newer), _] | [_, Err(BadHeader::Newer)] => Err(BadHeader::Newer),
            [first, second] => first.or(second),
        }
    }

    /// Key of the records.
    pub fn key(&self) -> Key {
        Key::from_nonce(&self.nonce)
    }
}

/// Why a file is no segment of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadHeader {
    /// Neither copy checks.
    Damaged,
    /// It checks, but a later program wrote it.
    Newer,
}

fn decode_copy(header: &[u8]) -> Result<Header, BadHeader> {
    let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap_or_default());
    let short = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap_or_default());
    if header[..8] != MAGIC || number(CHECKSUM_START) != xxh3_64(&header[..CHECKSUM_START]) {
        return Err(BadHeader::Damaged);
    }
    // What is encrypted only a later program can read.
    if short(8) > FORMAT_VERSION || header[48..64] != [0; 16] {
        return Err(BadHeader::Newer);
    }
    let ending =
        [Ending::Sealed, Ending::SyncFailed, Ending::Crash].into_iter().find(|known| *known as u32 == short(88));
    let previous = ending.map(|ending| Previous { number: number(64), end: number(72), ending });
    Ok(Header {
        number: number(16),
        nonce: header[24..40].try_into().unwrap_or_default(),
        made_at_ms: number(40).cast_signed(),
        previous,
        totals: field::decode_totals(&header[TOTALS_START..TOTALS_START + field::TOTALS_BYTES])
            .ok_or(BadHeader::Damaged)?,
    })
}

/// A part of a segment in which no record checks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Where.
    pub range: Range<u64>,
    /// What it means.
    pub kind: DamageKind,
}

/// What a damaged part means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DamageKind {
    /// It had been synced: mail may be lost.
    Rot,
    /// It had not: nobody heard a 250 for it.
    Tear,
}

/// What a scan found, apart from the records.
#[derive(PartialEq, Eq, Debug)]
pub struct Scan {
    /// Behind the last record.
    pub end: u64,
    /// Everything below was synced: a record or the next header says so.
    pub synced: u64,
    /// Parts in which no record checks.
    pub damages: Vec<Damage>,
}

/// Hands each record of a segment to `each`, with its offset and its length, and goes on behind damage.
///
/// `next` is what the following segment's header says of this one.
pub fn scan(segment: &[u8], key: Key, next: Option<Previous>, mut each: impl FnMut(u64, u64, Record)) -> Scan {
    let end = next.map_or(segment.len() as u64, |next| next.end);
    let bytes = &segment[..segment.len().min(end as usize)];
    let (mut position, mut last_end) = (RECORDS_START as usize, RECORDS_START);
    // Whoever wrote the next header had synced this segment before, up to the end that it states.
    let mut synced = next.map_or(RECORDS_START, |next| next.end);
    let mut gaps = Vec::new();
    while position < bytes.len() {
        if let Some((record, length)) = record::decode(&bytes[position..], position as u64, key) {
            synced = synced.max(record.synced);
            each(position as u64, length as u64, record);
            position += length;
            last_end = position as u64;
        } else if position as u64 >= synced && bytes[position..].iter().all(|byte| *byte == 0) {
            break; // space that was allocated and never written
        } else {
            let next = next_record(bytes, position + RECORD_ALIGNMENT_BYTES, key);
            let next = next.unwrap_or_else(|| damage_end(bytes, synced));
            gaps.push(position as u64..next as u64);
            position = next;
        }
    }
    if next.is_some() && (bytes.len() as u64) < end {
        gaps.push(bytes.len() as u64..end); // the file lost its tail
    }
    let kind = |gap: &Range<u64>| if gap.start < synced { DamageKind::Rot } else { DamageKind::Tear };
    let damages = gaps.into_iter().map(|gap| Damage { kind: kind(&gap), range: gap }).collect();
    Scan { end: last_end, synced, damages }
}

/// Where damage ends behind which there is no record: zeros that were never synced are no part of it.
fn damage_end(bytes: &[u8], synced: u64) -> usize {
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    written.next_multiple_of(RECORD_ALIGNMENT_BYTES).max(synced as usize).min(bytes.len())
}

fn next_record(bytes: &[u8], from: usize, key: Key) -> Option<usize> {
    (from..bytes.len())
        .step_by(RECORD_ALIGNMENT_BYTES)
        .find(|position| record::decode(&bytes[*position..], *position as u64, key).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::record::Kind;

    fn header() -> Header {
        let previous = Previous { number: 6, end: 9000, ending: Ending::Crash };
        let totals = Account {
            accepted: 1,
            passed: 2,
            delivered: 3,
            bounced: 4,
            expired: 5,
            deleted: 6,
            moved: 7,
            damaged: 8,
            queued: 0,
        };
        Header {
            number: 7,
            nonce: *b"0123456789abcdef",
            made_at_ms: 1_700_000_000_000,
            previous: Some(previous),
            totals,
        }
    }

    /// A segment with a batch for each item: that many records of 40 bytes.
    fn segment(batches: &[usize]) -> Vec<u8> {
        let mut bytes = header().encode();
        for count in batches {
            let (start, mut batch) = (bytes.len() as u64, Vec::new());
            for _ in 0..*count {
                let record =
                    Record { kind: Kind::Attempt, is_copy: false, synced: start, fields: b"8 bytes.", content: b"" };
                record::append(&mut batch, start, header().key(), &record);
            }
            bytes.extend(batch);
        }
        bytes
    }

    fn offsets(segment: &[u8], next: Option<Previous>) -> (Vec<u64>, Scan) {
        let mut offsets = Vec::new();
        let scan = scan(segment, header().key(), next, |offset, _, _| offsets.push(offset));
        (offsets, scan)
    }

    #[test]
    fn a_header_is_read_back_from_either_copy() {
        for damaged in [None, Some(30), Some(SECOND_HEADER_START + 30)] {
            let mut bytes = header().encode();
            assert_eq!(bytes.len() as u64, RECORDS_START);
            if let Some(at) = damaged {
                bytes[at] ^= 1;
            }
            assert_eq!(Header::decode(&bytes), Ok(header()), "damaged at {damaged:?}");
        }
        assert_eq!(Header::decode(b"short"), Err(BadHeader::Damaged));
    }

    #[test]
    fn a_segment_of_a_newer_program_is_told_from_a_damaged_one() {
        let mut bytes = header().encode();
        bytes[8] = 2;
        let checksum = xxh3_64(&bytes[..CHECKSUM_START]);
        bytes[CHECKSUM_START..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        bytes.truncate(SECOND_HEADER_START);
        assert_eq!(Header::decode(&bytes), Err(BadHeader::Newer));
    }

    #[test]
    fn a_scan_finds_all_records_and_stops_at_zeros() {
        let mut bytes = segment(&[2, 1]);
        bytes.resize(bytes.len() + 100_000, 0);
        let (offsets, scan) = offsets(&bytes, None);
        assert_eq!(offsets, [4608, 4648, 4688]);
        assert_eq!(scan, Scan { end: 4728, synced: 4688, damages: vec![] });
    }

    #[test]
    fn zeros_where_records_were_synced_are_rot_and_not_free_space() {
        let mut bytes = segment(&[1, 1, 1]);
        bytes[4648..].fill(0);
        let next = Previous { number: 7, end: 4728, ending: Ending::Crash };
        let (found, scan) = offsets(&bytes, Some(next));
        assert_eq!(found, [4608]);
        assert_eq!(scan.damages, [Damage { range: 4648..4728, kind: DamageKind::Rot }]);
        assert_eq!(offsets(&bytes, None).1.damages, [], "a crash may leave unsynced space empty");
    }

    #[test]
    fn damage_below_a_synced_offset_is_rot_and_the_scan_goes_on_behind_it() {
        let mut bytes = segment(&[2, 1]);
        bytes[4650] ^= 1;
        let (offsets, scan) = offsets(&bytes, None);
        assert_eq!(offsets, [4608, 4688]);
        assert_eq!(scan.damages, [Damage { range: 4648..4688, kind: DamageKind::Rot }]);
    }

    #[test]
    fn damage_above_it_is_a_tear_even_before_a_whole_record() {
        for (flipped, found, range) in [(4650, vec![4608, 4688], 4648..4688), (4690, vec![4608, 4648], 4688..4728)] {
            let mut bytes = segment(&[3]);
            bytes[flipped] ^= 1;
            let (offsets, scan) = offsets(&bytes, None);
            assert_eq!(offsets, found);
            assert_eq!(scan.damages, [Damage { range, kind: DamageKind::Tear }]);
        }
    }

    #[test]
    fn the_next_header_makes_void_what_lies_behind_a_failed_sync() {
        let bytes = segment(&[1, 1]);
        let next = Previous { number: 7, end: 4648, ending: Ending::SyncFailed };
        let (offsets, scan) = offsets(&bytes, Some(next));
        assert_eq!(offsets, [4608]);
        assert_eq!(scan.damages, []);
    }

    #[test]
    fn a_sealed_segment_that_lost_its_tail_is_rotten() {
        let bytes = segment(&[1, 1]);
        let next = Previous { number: 7, end: 4688, ending: Ending::Sealed };
        let (offsets, scan) = offsets(&bytes[..4648], Some(next));
        assert_eq!(offsets, [4608]);
        assert_eq!(scan.damages, [Damage { range: 4648..4688, kind: DamageKind::Rot }]);
    }

    #[test]
    fn a_record_inside_a_mail_body_is_not_taken_for_one() {
        let mut imitation = Vec::new();
        let forged = Record { kind: Kind::Closed, is_copy: false, synced: 1 << 40, fields: b"", content: b"" };
        record::append(&mut imitation, 4640, Key::from_nonce(&[0; 16]), &forged);
        let mut bytes = header().encode();
        let mut batch = Vec::new();
        let carrier =
            Record { kind: Kind::Accepted, is_copy: false, synced: RECORDS_START, fields: b"", content: &imitation };
        record::append(&mut batch, RECORDS_START, header().key(), &carrier);
        batch[4] ^= 1; // the carrier is damaged, so the scan looks inside it
        bytes.extend(batch);
        let (offsets, _) = offsets(&bytes, None);
        assert!(offsets.is_empty(), "found at {offsets:?}");
    }
}
