//! Damaged parts: told, counted, and copied aside before anything else happens to them.

use std::{io, ops::Range};

use super::{
    disk::Disk,
    large, log,
    segment::DamageKind,
    shared::{Damages, Shared},
};
use crate::{foreign::shown, mail::id::MessageId};

/// Where damaged parts are copied. What lies here is a person's.
pub const FOLDER: &str = "quarantine";

/// A damaged part of a segment that is in use was noted.
pub struct SetAside {
    /// It was not told before.
    pub is_news: bool,
    /// Whether there is a copy.
    pub copied: io::Result<()>,
}

/// Notes a damaged part of a segment that is in use, and copies it aside.
pub fn set_aside(shared: &Shared, number: u64, part: &[u8], range: Range<u64>, kind: DamageKind) -> SetAside {
    let copied = copy(&*shared.disk, number, part, &range, kind);
    let sentence = sentence(number, &range, kind, &copied);
    let is_news = shared.damages().tell(sentence.clone(), kind == DamageKind::Rot);
    if is_news {
        tracing::error!("{sentence}");
    }
    SetAside { is_news, copied }
}

/// A sentence for people, with where the copy is.
pub fn sentence(number: u64, range: &Range<u64>, kind: DamageKind, copied: &io::Result<()>) -> String {
    let (place, name) = (describe(number, range, kind), name(number, range, kind));
    match copied {
        Ok(()) => format!("{place}; copied to {FOLDER}/{name}"),
        Err(cause) => format!("{place}; not copied aside: {cause}"),
    }
}

/// What is damaged, and what that means.
pub fn describe(number: u64, range: &Range<u64>, kind: DamageKind) -> String {
    let meaning = match kind {
        DamageKind::Rot => "it had been synced, so mail may be lost",
        DamageKind::Tear => "it is not known to have been synced, so most likely nobody was told that it is kept",
    };
    format!("segment {number}: {} damaged bytes at {}; {meaning}", range.end - range.start, range.start)
}

/// Names where a part stood, so that each start finds the copy that an earlier one made.
pub fn name(number: u64, range: &Range<u64>, kind: DamageKind) -> String {
    let suffix = match kind {
        DamageKind::Rot => "rot",
        DamageKind::Tear => "torn",
    };
    format!("{number:016}-{}-{}.{suffix}", range.start, range.end - range.start)
}

/// Rot that earlier starts found stays a problem until a person has cleared the copies away. `names`: what lies in
/// quarantine.
pub fn recall(names: &[String], damages: &mut Damages) {
    for name in names.iter().filter(|name| name.ends_with(".rot")) {
        if !damages.told.iter().any(|told| told.ends_with(name)) {
            let number = name.split('-').next().unwrap_or_default().trim_start_matches('0');
            let cure = "look at it, and remove it when nothing in it is missed";
            let (number, name) = (shown(number), shown(name)); // the folder is a person's
            damages.tell(format!("segment {number}: damage was found earlier; {cure}: {FOLDER}/{name}"), false);
        }
    }
}

/// Copies a damaged part aside, unless it was done before: each start finds the same damage, and the name exists only once
/// the copy is whole. `part`: what could be read of it, at most as long as `range`.
pub fn copy(disk: &dyn Disk, number: u64, part: &[u8], range: &Range<u64>, kind: DamageKind) -> io::Result<()> {
    let name = name(number, range, kind);
    if disk.list(FOLDER)?.contains(&name) {
        return disk.sync_folder(FOLDER); // who made it may have died before this
    }
    let temporary = format!("{}/{name}", large::TEMPORARY_FOLDER);
    let _ = disk.remove(&temporary); // what an attempt that failed has left
    let written = disk.create(&temporary).and_then(|file| file.write_at(part, 0).and_then(|()| file.sync()));
    if let Err(cause) = written {
        let _ = disk.remove(&temporary); // on a full volume somebody needs that room
        return Err(cause);
    }
    take_in(disk, &temporary, &name)
}

fn take_in(disk: &dyn Disk, from: &str, name: &str) -> io::Result<()> {
    disk.rename(from, &format!("{FOLDER}/{name}"))?;
    disk.sync_folder(FOLDER)
}

/// Moves the file of a message aside that ends as damaged: much of it may be whole.
pub fn move_large(disk: &dyn Disk, id: MessageId) -> io::Result<()> {
    match take_in(disk, &large::path(id), &format!("{id}.large")) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Moves a whole segment aside that could not be read in full: what lies in its bad blocks may be read some day. Its name
/// is that of a copy of all of it.
pub fn move_segment(disk: &dyn Disk, number: u64, length: u64) -> io::Result<()> {
    take_in(disk, &log::path(number), &name(number, &(0..length), DamageKind::Rot))
}
