//! A byte rots, or a block can no longer be read: which messages may notice, and no others.

use std::ops::Range;

use backupmx_relay::spool::{
    field::{Arrival, Change},
    record::{Kind, Record},
    segment::{self, Header, RECORDS_START},
};

use super::World;

/// What cannot be read at a time.
const BLOCK_BYTES: u64 = 4096;

/// Changes a byte of any file, or makes a block of it unreadable, and tells the model whom that has hit.
pub fn flip(world: &mut World) {
    let files: Vec<_> = world.disk.files().into_iter().filter(|(_, length)| *length > 0).collect();
    if files.is_empty() {
        return;
    }
    // What the next start reads record by record, in half of the cases.
    let last = files
        .iter()
        .rposition(|(path, length)| path.starts_with("log/") && path.ends_with(".seg") && *length > RECORDS_START);
    let any = world.chance.below(files.len() as u64) as usize;
    let chosen = last.filter(|_| world.chance.one_in(2)).unwrap_or(any);
    let (path, length) = files[chosen].clone();
    let offset = world.chance.below(length);
    let is_block = world.chance.one_in(4);
    // The two copies of a header protect against one bad block, or one change each; more is documented as lost.
    if path.ends_with(".seg") && offset < RECORDS_START && !is_block {
        return;
    }
    let start = offset / BLOCK_BYTES * BLOCK_BYTES;
    let range = if is_block { start..start + BLOCK_BYTES } else { offset..offset + 1 };
    let hit = hit(world, &path, &range);
    let is_changed = if is_block { world.disk.lose_block(&path, offset) } else { world.disk.rot_at(&path, offset) };
    if is_changed {
        world.tell(|| format!("{path} rots at {range:?}, which hits {hit:?}"));
        let count = if is_block { &mut world.counts.bad_blocks } else { &mut world.counts.rotten };
        *count += 1;
        world.model.is_inexact = true;
        for id in hit {
            if let Some(message) = world.model.open.get_mut(&id) {
                message.is_hit = true;
                message.file_may_go |= !path.ends_with(".seg");
            } else {
                world.model.may_come_back(id);
            }
        }
    }
}

/// Messages of which a record or the file stands there.
fn hit(world: &World, path: &str, range: &Range<u64>) -> Vec<backupmx_relay::mail::id::MessageId> {
    if let Some(id) = path.strip_prefix("large/").and_then(|name| name.parse().ok()) {
        return vec![id];
    }
    let Some(bytes) = world.disk.read(path).filter(|_| path.ends_with(".seg")) else { return Vec::new() };
    let Ok(header) = Header::decode(&bytes) else { return Vec::new() };
    let mut hit = Vec::new();
    segment::scan(&bytes, header.key(), None, |at, length, record| {
        if at < range.end && range.start < at + length {
            hit.extend(id_of(&record));
        }
    });
    hit
}

fn id_of(record: &Record) -> Option<backupmx_relay::mail::id::MessageId> {
    match record.kind {
        Kind::Accepted => Arrival::decode(record.fields).map(|arrival| arrival.id),
        Kind::Mark | Kind::Later => None,
        kind => Change::decode(kind, record.fields).map(|change| change.id),
    }
}
