//! One file's bytes: what is read, what is durable, and the writes in between. No names, no capacity.

use std::{io, sync::Arc};

use rustix::io::Errno;

use crate::chance::Chance;

/// What disks write whole or not at all.
const SECTOR_BYTES: usize = 512;
/// What file systems give out.
pub const BLOCK_BYTES: u64 = 4096;

/// A file without its name.
pub struct Inode {
    // Shared with each other and with snapshots until one is written to: most files are never written again.
    seen: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    pending: Vec<Write>,
    allocated_bytes: u64,
    /// Where a block begins that cannot be read.
    bad_block: Option<u64>,
    /// A failed sync left pages that are read but will never be written.
    has_dropped_pages: bool,
    /// Shared with every open handle.
    pub open: Arc<()>,
}

struct Write {
    offset: usize,
    bytes: Box<[u8]>,
}

impl Inode {
    /// A durable file.
    pub fn holding(bytes: Vec<u8>) -> Self {
        let bytes = Arc::new(bytes);
        let (seen, durable) = (bytes.clone(), bytes);
        Self {
            seen,
            durable,
            pending: Vec::new(),
            allocated_bytes: 0,
            bad_block: None,
            has_dropped_pages: false,
            open: Arc::new(()),
        }
    }

    /// What is read of it now, as a durable file.
    pub fn copy(&self) -> Self {
        let (seen, durable) = (self.seen.clone(), self.seen.clone());
        let open = Arc::new(());
        Self {
            seen,
            durable,
            pending: Vec::new(),
            allocated_bytes: self.allocated_bytes,
            bad_block: self.bad_block,
            has_dropped_pages: false,
            open,
        }
    }

    /// What is read.
    pub fn bytes(&self) -> &[u8] {
        &self.seen
    }

    /// What a crash would leave if nothing pending survived.
    pub fn durable_bytes(&self) -> &[u8] {
        &self.durable
    }

    /// How many writes no sync covered.
    pub fn pending_writes(&self) -> usize {
        self.pending.len()
    }

    /// Fills `into`, or says that the file ends before.
    pub fn read(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let found = start.checked_add(into.len()).and_then(|end| self.seen.get(start..end));
        let found = found.ok_or(io::ErrorKind::UnexpectedEof)?;
        if self.is_bad(start, into.len()) {
            return Err(Errno::IO.into());
        }
        into.copy_from_slice(found);
        Ok(())
    }

    /// Writes to the page cache.
    pub fn write(&mut self, bytes: &[u8], offset: usize) {
        if bytes.is_empty() {
            return;
        }
        self.bad_block = self.bad_block.filter(|_| !self.is_bad(offset, bytes.len())); // another sector takes its place
        put(Arc::make_mut(&mut self.seen), offset, bytes);
        self.pending.push(Write { offset, bytes: bytes.into() });
    }

    /// Room that the file takes on its volume.
    pub fn room_bytes(&self) -> u64 {
        self.room_bytes_with(0)
    }

    /// Room that it would take if its bytes or its allocation reached to `end`.
    pub fn room_bytes_with(&self, end: u64) -> u64 {
        (self.seen.len() as u64).max(self.allocated_bytes).max(end).next_multiple_of(BLOCK_BYTES)
    }

    /// Sets room aside up to `end`.
    pub fn allocate(&mut self, end: u64) {
        self.allocated_bytes = self.allocated_bytes.max(end);
    }

    /// Gives back the room behind the end.
    pub fn trim(&mut self) {
        self.allocated_bytes = 0;
    }

    /// Ends the file at `length`, if it is longer. `is_kept`: a crash does not bring the rest back.
    pub fn end_at(&mut self, length: usize, is_kept: bool) {
        self.trim();
        if self.seen.len() <= length {
            return;
        }
        Arc::make_mut(&mut self.seen).truncate(length);
        if is_kept {
            Arc::make_mut(&mut self.durable).truncate(length);
            self.pending.retain(|write| write.offset < length);
            for write in &mut self.pending {
                let kept = write.bytes.len().min(length - write.offset);
                write.bytes = write.bytes[..kept].into();
            }
        }
    }

    /// Makes the block around `offset` unreadable, until something is written there. False behind the end.
    pub fn lose_block(&mut self, offset: u64) -> bool {
        let start = offset / BLOCK_BYTES * BLOCK_BYTES;
        self.bad_block = (offset < self.seen.len() as u64).then_some(start);
        self.bad_block.is_some()
    }

    /// Whether a part of it cannot be read.
    pub fn has_bad_block(&self) -> bool {
        self.bad_block.is_some()
    }

    /// Whether a write would have to read a bad block first, since it does not cover all of it.
    pub fn is_in_the_way(&self, offset: u64, length: u64) -> bool {
        let is_covered = |bad: u64| offset <= bad && bad + BLOCK_BYTES <= offset + length;
        self.is_bad(offset as usize, length as usize) && !self.bad_block.is_some_and(is_covered)
    }

    fn is_bad(&self, offset: usize, length: usize) -> bool {
        let (start, end) = (offset as u64, (offset + length) as u64);
        self.bad_block.is_some_and(|bad| bad < end && start < bad + BLOCK_BYTES)
    }

    /// Makes the first `writes` pending ones durable; the length too, once that is all of them.
    pub fn sync(&mut self, writes: usize) {
        let is_all = writes >= self.pending.len();
        if is_all && self.durable.is_empty() && !self.has_dropped_pages {
            // Saves a large file's first sync from copying all of it.
            self.durable = self.seen.clone();
            self.pending.clear();
            return;
        }
        let grows = is_all && self.durable.len() < self.seen.len();
        if self.pending.is_empty() && !grows {
            return;
        }
        let durable = Arc::make_mut(&mut self.durable);
        for write in self.pending.drain(..writes.min(self.pending.len())) {
            put(durable, write.offset, &write.bytes);
        }
        if grows {
            durable.resize(self.seen.len(), 0);
        }
    }

    /// A sync that fails: what did not reach the disk is marked clean, as Linux does, and no later sync writes it.
    pub fn fail_sync(&mut self, chance: &mut Chance) {
        let durable = Arc::make_mut(&mut self.durable);
        for write in self.pending.drain(..) {
            put_some(durable, &write, chance);
        }
        self.has_dropped_pages = true;
    }

    /// The power fails and comes back.
    pub fn crash(&mut self, chance: &mut Chance) {
        if !self.pending.is_empty() {
            match chance.below(4) {
                0 => self.pending.clear(),
                1 => self.sync(usize::MAX),
                _ => self.keep_some(chance),
            }
        }
        self.seen = self.durable.clone();
        self.has_dropped_pages = false;
        if self.allocated_bytes > 0 && chance.one_in(2) {
            self.trim();
        }
    }

    fn keep_some(&mut self, chance: &mut Chance) {
        let durable = Arc::make_mut(&mut self.durable);
        // In the order written: any order among those that overlap gives each sector one of them or what was there
        // before, and so does this one, since each loses sectors by itself.
        for write in &self.pending {
            put_some(durable, write, chance);
        }
        if chance.one_in(8) {
            // File systems that keep length and blocks apart may remember a length whose bytes never came.
            let write = &self.pending[chance.below(self.pending.len() as u64) as usize];
            let length = durable.len().max(write.offset + write.bytes.len());
            durable.resize(length, 0);
        }
        self.pending.clear();
    }

    /// Changes one durable byte, and what is read of it unless the page cache holds something newer. False behind the end.
    pub fn rot(&mut self, offset: u64, mask: u8) -> bool {
        let Some(at) = usize::try_from(offset).ok().filter(|at| *at < self.durable.len()) else { return false };
        let is_newer = self.pending.iter().any(|write| (write.offset..write.offset + write.bytes.len()).contains(&at));
        let is_same = self.seen.get(at) == self.durable.get(at);
        Arc::make_mut(&mut self.durable)[at] ^= mask;
        if is_same && !is_newer {
            Arc::make_mut(&mut self.seen)[at] ^= mask;
        }
        true
    }

    /// Cuts the file, for everybody and for good.
    pub fn cut(&mut self, length: usize) {
        Arc::make_mut(&mut self.durable).truncate(length);
        Arc::make_mut(&mut self.seen).truncate(length);
        self.pending.retain(|write| write.offset + write.bytes.len() <= length);
        self.trim();
    }

    /// Leaves only a part of the durable bytes: the front, or all with a hole of zeros at the end.
    pub fn tear(&mut self, chance: &mut Chance) {
        let Some(kept) = (!self.durable.is_empty()).then(|| chance.below(self.durable.len() as u64) as usize) else {
            return;
        };
        let durable = Arc::make_mut(&mut self.durable);
        if chance.one_in(2) {
            durable.truncate(kept);
        } else {
            durable[kept..].fill(0);
        }
        self.seen = self.durable.clone();
    }
}

/// What a write leaves if it may be interrupted: all, nothing, one side of a cut, or any of its sectors.
fn put_some(into: &mut Vec<u8>, write: &Write, chance: &mut Chance) {
    match chance.below(8) {
        0 | 1 => {}
        2 | 3 => put(into, write.offset, &write.bytes),
        4 => {
            let cut = chance.below(write.bytes.len() as u64 + 1) as usize;
            let (front, back) = write.bytes.split_at(cut);
            if chance.one_in(2) { put(into, write.offset, front) } else { put(into, write.offset + cut, back) }
        }
        _ => put_sectors(into, write, chance),
    }
}

fn put_sectors(into: &mut Vec<u8>, write: &Write, chance: &mut Chance) {
    let density = chance.below(3); // a quarter of them, half, three quarters: long runs of either kind do occur
    let (mut position, mut bits, mut bits_left) = (0, 0, 0);
    while position < write.bytes.len() {
        if bits_left == 0 {
            let number = chance.number();
            bits = match density {
                0 => number & chance.number(),
                1 => number,
                _ => number | chance.number(),
            };
            bits_left = 48; // the upper ones, which are the better ones
        }
        // Sectors are the disk's, so they are counted from the file's start, and not from the write's.
        let sector_end = (write.offset + position + 1).next_multiple_of(SECTOR_BYTES) - write.offset;
        let end = sector_end.min(write.bytes.len());
        if bits >> 63 == 1 {
            put(into, write.offset + position, &write.bytes[position..end]);
        }
        (position, bits, bits_left) = (end, bits << 1, bits_left - 1);
    }
}

/// Writes into a file that grows as needed, with zeros where nothing was written.
fn put(into: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    if into.len() <= offset {
        into.resize(offset, 0);
        into.extend_from_slice(bytes);
        return;
    }
    let end = offset + bytes.len();
    if into.len() < end {
        into.resize(end, 0);
    }
    into[offset..end].copy_from_slice(bytes);
}
