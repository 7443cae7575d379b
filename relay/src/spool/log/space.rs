//! Where the log finds room: a segment's is promised before it is used, and a reserve is kept for what became of mail.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use jiff::Timestamp;

use super::{Current, Limits, Log, RESERVE_FOLDER, Segment, footer, footer_path, path};
use crate::spool::{
    disk::{Disk, DiskFile},
    large::TEMPORARY_FOLDER,
    segment::{Ending, Header, Previous, RECORDS_START},
};

/// The reserve as it waits.
const RESERVE: &str = "reserve/segment";
/// The reserve is written in pieces of this size.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What a segment is made of.
#[derive(Clone, Copy)]
struct Room {
    bytes_max: u64,
    /// There is no more: it takes what becomes of mail, and no mail.
    is_last: bool,
}

/// Whether the reserve is whole: it comes into its folder only when all of it is written and synced.
pub fn reserve_is_there(disk: &dyn Disk, limits: Limits) -> bool {
    disk.open(RESERVE).and_then(|file| file.length()).is_ok_and(|length| length == limits.reserve_bytes)
}

impl Log {
    /// Begins a segment; if there is no room for one, on the reserve. True if there is one now.
    pub(super) fn begin_or_use_last_room(&mut self, now: Timestamp) -> bool {
        let Err(cause) = self.begin_segment(now) else { return true };
        if self.current.is_none() {
            let is_news = self.told != cause.to_string();
            if is_news {
                tracing::error!(%cause, "begin segment; nothing is accepted until one can be written");
                self.told = cause.to_string();
            }
            match self.begin_on_last_room(now) {
                Err(cause) if is_news => {
                    tracing::error!(%cause, "begin segment on the last room; nothing is delivered until one can be written");
                }
                _ => {}
            }
        }
        self.current.is_some()
    }

    /// Makes the next segment durable, empty as it is, and turns to it. What fails before it has its name leaves the
    /// current one as it was.
    pub(super) fn begin_segment(&mut self, now: Timestamp) -> io::Result<()> {
        self.begin_new(Room { bytes_max: self.limits.segment_bytes, is_last: false }, now)
    }

    fn begin_new(&mut self, room: Room, now: Timestamp) -> io::Result<()> {
        let (number, temporary) = self.next_name();
        let prepared = self.prepare(number, &temporary, room, now);
        if prepared.is_err() {
            // A full disk would collect one file a second.
            let _ = self.shared.disk.remove(&temporary);
        }
        self.turn_to(&temporary, prepared?)
    }

    fn next_name(&mut self) -> (u64, String) {
        let number = self.next_number;
        self.next_number += 1; // also after a failure, whose file may be in the way
        (number, format!("{TEMPORARY_FOLDER}/{number:016}.seg"))
    }

    fn prepare(&mut self, number: u64, temporary: &str, room: Room, now: Timestamp) -> io::Result<Current> {
        let file = self.shared.disk.create(temporary)?;
        match file.allocate(room.bytes_max) {
            // Then it shows when it is written.
            Err(cause) if cause.kind() == io::ErrorKind::Unsupported => {}
            result => result?, // a full volume shows here, before anything depends on the segment
        }
        self.begin_file(number, file, room, now)
    }

    /// Goes on where there is room for what becomes of mail, and none for mail: on the reserve, or, once that is used,
    /// on what little the volume still gives, as after a restart in the middle of that.
    pub(super) fn begin_on_last_room(&mut self, now: Timestamp) -> io::Result<()> {
        let on_reserve = self.has_reserve && {
            let turned = self.turn_reserve_into_segment(now);
            if let Err(cause) = &turned {
                tracing::error!(%cause, "begin segment on the reserve");
            }
            turned.is_ok()
        };
        if !on_reserve {
            self.begin_new(Room { bytes_max: self.limits.small_segment_bytes, is_last: true }, now)?;
        }
        tracing::error!(
            "the log goes on in the last room: what becomes of mail is recorded, no mail is taken until a segment can be written"
        );
        Ok(())
    }

    /// Its room is its own, so this works on a full volume.
    fn turn_reserve_into_segment(&mut self, now: Timestamp) -> io::Result<()> {
        let (number, _) = self.next_name();
        self.has_reserve = false; // used or failed: a file whose sync has failed is not tried again
        let room = Room { bytes_max: self.limits.reserve_bytes, is_last: true };
        let file = self.shared.disk.edit(RESERVE);
        let begun = file.and_then(|file| self.begin_file(number, file, room, now));
        let begun = begun.and_then(|current| self.turn_to(RESERVE, current));
        if begun.is_err() {
            let _ = self.shared.disk.remove(RESERVE);
        }
        begun?;
        // Where a rename is not one step, both names may come back, and the next reserve would be this segment.
        if let Err(cause) = self.shared.disk.sync_folder(RESERVE_FOLDER) {
            tracing::warn!(%cause, "sync folder {RESERVE_FOLDER}");
        }
        Ok(())
    }

    /// Writes and syncs the header: a name in `log/` always stands for a segment that has one.
    fn begin_file(&mut self, number: u64, file: Arc<dyn DiskFile>, room: Room, now: Timestamp) -> io::Result<Current> {
        let nonce = (self.nonces)();
        let header = Header {
            number,
            nonce,
            made_at_ms: now.as_millisecond(),
            previous: self.previous_of_next(),
            totals: self.shared.state().index.account(),
        };
        file.write_at(&header.encode(), 0)?;
        file.sync()?;
        Ok(Current {
            number,
            nonce,
            key: header.key(),
            file,
            made_at: now,
            end: RECORDS_START,
            said_synced: RECORDS_START,
            said_passed: header.totals.passed,
            bytes_max: room.bytes_max,
            is_last_room: room.is_last,
            footer: footer::Builder::new(),
        })
    }

    fn previous_of_next(&self) -> Option<Previous> {
        let sealed = |current: &Current| Previous { number: current.number, end: current.end, ending: Ending::Sealed };
        self.current.as_ref().map(sealed).or(self.previous)
    }

    /// Gives the new segment its name. From the attempt on, its header may be found after a crash, and what it says of
    /// the end of the segment before must stay true: that one is left for good first.
    fn turn_to(&mut self, from: &str, next: Current) -> io::Result<()> {
        self.previous = self.previous_of_next();
        let before = self.current.take();
        let name = path(next.number);
        // The name before the first record: what is synced later must be found.
        let named = self.shared.disk.rename(from, &name).and_then(|()| self.shared.disk.sync_folder(super::FOLDER));
        if named.is_err() {
            let _ = self.shared.disk.remove(&name);
            let _ = self.shared.disk.remove(from);
        }
        self.shared.writable.store(named.is_ok(), Ordering::Relaxed);
        named?;
        self.told.clear();
        self.shared.on_last_room.store(next.is_last_room, Ordering::Relaxed);
        let segment = Segment { key: next.key, length: next.end };
        self.shared.state().segments.insert(next.number, segment);
        self.current = Some(next);
        if let Some(before) = before {
            self.seal(before);
        }
        Ok(())
    }

    /// Gives back the room that a segment did not need, and writes its footer. Nothing depends on either.
    fn seal(&self, Current { number, nonce, end, footer, .. }: Current) {
        if let Err(cause) = self.shared.disk.trim(&path(number), end) {
            tracing::warn!(%cause, segment = number, "give back room behind segment");
        }
        write_footer(&*self.shared.disk, number, &footer.finish(number, nonce, end));
    }

    /// Makes the reserve, if there is none and room for it.
    pub(super) fn keep_reserve(&mut self) {
        let on_last_room = self.current.as_ref().is_none_or(|current| current.is_last_room);
        // Not from the last room that there is: mail that is coming in needs it more.
        let has_room = self.shared.free_bytes.load(Ordering::Relaxed) >= 2 * self.limits.reserve_bytes;
        if self.has_reserve || on_last_room || !has_room {
            return;
        }
        let temporary = format!("{TEMPORARY_FOLDER}/reserve");
        match self.make_reserve(&temporary) {
            Ok(()) => self.has_reserve = true,
            Err(cause) => {
                tracing::warn!(%cause, "make reserve; a full volume may stop deliveries");
                let _ = self.shared.disk.remove(&temporary);
            }
        }
    }

    /// Every block of it is written, so that using it needs no more room, whatever the file system promises.
    fn make_reserve(&self, temporary: &str) -> io::Result<()> {
        let _ = self.shared.disk.remove(temporary);
        let file = self.shared.disk.create(temporary)?;
        let mut offset = 0;
        while offset < self.limits.reserve_bytes {
            let piece = &ZEROS[..(self.limits.reserve_bytes - offset).min(ZEROS.len() as u64) as usize];
            file.write_at(piece, offset)?;
            offset += piece.len() as u64;
        }
        file.sync()?;
        self.shared.disk.rename(temporary, RESERVE)?;
        self.shared.disk.sync_folder(RESERVE_FOLDER)
    }
}

/// Writes a footer. It is not synced: one that a crash tears does not check, and the segment is read instead.
pub fn write_footer(disk: &dyn Disk, number: u64, bytes: &[u8]) {
    let path = footer_path(number);
    let written = disk.create(&path).and_then(|file| file.write_at(bytes, 0));
    if let Err(cause) = written {
        tracing::warn!(%cause, segment = number, "write footer; the next start reads the segment instead");
        let _ = disk.remove(&path);
    }
}
