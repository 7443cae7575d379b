//! Mail that imitates records: its sender knows the format, all that stands on the disk, and where the mail will stand.
//!
//! All but the nonces, that is. A scan looks inside it only where the record that carries it is damaged, as by a crash.

use backupmx_relay::{
    mail::{
        address::Address,
        envelope::{Body, Envelope, Protocol},
        id::MessageId,
    },
    spool::{
        field::{Accepted, Arrival, Change, Fate},
        record::{self, Key, Kind, RECORD_ALIGNMENT_BYTES, Record},
        segment::{self, Header, RECORDS_START},
    },
};

use super::World;

/// Shorter than what disks write whole or not at all, so that it survives.
const SHORT_BYTES_MAX: u64 = 512;

/// Fills a mail's content with imitations. `ahead_bytes`: what is written to the log before it in its batch.
pub fn write(world: &mut World, content: &mut [u8], ahead_bytes: usize) {
    let segments: Vec<_> = world.disk.files().into_iter().filter(|(path, _)| path.ends_with(".seg")).collect();
    let Some((last, end)) = segments.last() else { return };
    let at = *end as usize + ahead_bytes;
    let start = at.next_multiple_of(RECORD_ALIGNMENT_BYTES);
    let Some(content) = content.get_mut(start - at..) else { return };
    let any = &segments[world.chance.below(segments.len() as u64) as usize].0;
    let imitation = match world.chance.below(4) {
        0 => copied(world, any),
        1 => repeated(world, last),
        _ => forged(world, content.len(), start as u64),
    };
    // Often enough that a part which survives alone holds a whole one.
    content.iter_mut().zip(imitation.into_iter().cycle()).for_each(|(byte, imitated)| *byte = imitated);
}

/// Records of a segment, from anywhere on.
fn copied(world: &mut World, path: &str) -> Vec<u8> {
    let bytes = world.disk.read(path).unwrap_or_default();
    let records = bytes.get(RECORDS_START as usize..).unwrap_or_default();
    let from = world.chance.below((records.len() / RECORD_ALIGNMENT_BYTES) as u64 + 1) as usize;
    records[from * RECORD_ALIGNMENT_BYTES..].to_vec()
}

/// One short message of a segment, one that had its end if there is such: entered again, it would be back.
fn repeated(world: &mut World, path: &str) -> Vec<u8> {
    let bytes = world.disk.read(path).unwrap_or_default();
    let Ok(header) = Header::decode(&bytes) else { return Vec::new() };
    let (mut gone, mut open) = (Vec::new(), Vec::new());
    segment::scan(&bytes, header.key(), None, |at, length, record| {
        let arrival = Arrival::decode(record.fields).filter(|_| record.kind == Kind::Accepted);
        if let Some(Arrival { id, .. }) = arrival.filter(|_| length <= SHORT_BYTES_MAX) {
            let found = if world.model.open.contains_key(&id) { &mut open } else { &mut gone };
            found.push(at as usize..(at + length) as usize);
        }
    });
    let short = if gone.is_empty() { open } else { gone };
    let chosen = world.chance.below(short.len().max(1) as u64) as usize;
    short.get(chosen).map_or(Vec::new(), |range| bytes[range.clone()].to_vec())
}

/// Records that were never written, as they would be if the nonce did not matter.
fn forged(world: &mut World, length: usize, at: u64) -> Vec<u8> {
    let mut batch = Vec::new();
    while batch.len() < length {
        let open = world.model.open.len() as u64;
        let victim = world.model.open.keys().nth(world.chance.below(open.max(1)) as usize).copied();
        let (kind, fields) = match victim.filter(|_| world.chance.one_in(2)) {
            Some(id) => (Kind::Closed, ended(world, id).encode()),
            None => (Kind::Accepted, unsent(world).encode()),
        };
        let forged = Record { kind, is_copy: false, synced: 0, fields: &fields, content: b"forged" };
        record::append(&mut batch, at, Key::from_nonce(&[0; 16]), &forged);
    }
    batch
}

fn ended(world: &World, id: MessageId) -> Change {
    let fates = vec![(0, Fate::Deleted, String::new())];
    Change { kind: Kind::Closed, id, at: world.now, by: "nobody".into(), fates, held_as: None }
}

fn unsent(world: &World) -> Accepted {
    let envelope = Envelope {
        id: MessageId::from_bytes([0x77; 16]),
        received_at: world.now,
        client: "192.0.2.2".parse().expect("an address"),
        helo: "mail.example.com".into(),
        protocol: Protocol::Esmtp,
        reverse_path: None,
        recipients: vec![Address::parse("u0@example.org").expect("an address").into()],
        body: Body::Unsaid,
        smtputf8: false,
        ret: None,
        envid: None,
    };
    Accepted { envelope, trace: Vec::new(), line_end_added: false, large_bytes: None, standing: None }
}
