//! A simulated disk's whole state, and what each operation does to it. No locks, no handles.

use std::{collections::BTreeMap, io, mem, sync::Arc};

use rustix::io::Errno;

use super::{
    faults::{Faults, Lies, hits},
    inode::{BLOCK_BYTES, Inode},
    names::{InodeId, Names, Path},
};
use crate::chance::Chance;

/// More than any test writes.
const CAPACITY_BYTES_DEFAULT: u64 = 1 << 40;
/// So many reads in a row fail by chance.
const FAILED_READS_MAX: u32 = 2;
/// A wrong offset shall be an error, and not take all of the machine's memory.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// All that a disk is.
pub struct State {
    pub names: Names,
    pub inodes: BTreeMap<InodeId, Inode>,
    pub chance: Chance,
    pub faults: Faults,
    pub lies: Lies,
    pub capacity_bytes: u64,
    pub operations: u64,
    /// Reads that failed by chance, in a row.
    pub failed_reads: u32,
    /// Operations until the power fails.
    pub fuse: Option<u64>,
    pub is_off: bool,
    /// Counts crashes and kills: a handle works in the life in which it was opened.
    pub life: u64,
    next_inode: InodeId,
    /// [`Lies::late_sync`]: the file whose sync is not done yet, and how many of its writes it covers.
    owed: Option<(InodeId, usize)>,
    /// [`Lies::torn_rename`]: the last rename, with its new name.
    last_rename: Option<(InodeId, Path)>,
}

impl State {
    /// An empty disk.
    pub fn new(chance: Chance) -> Self {
        Self {
            names: Names::default(),
            inodes: BTreeMap::new(),
            chance,
            faults: Faults::default(),
            lies: Lies::default(),
            capacity_bytes: CAPACITY_BYTES_DEFAULT,
            operations: 0,
            failed_reads: 0,
            fuse: None,
            is_off: false,
            life: 0,
            next_inode: 0,
            owed: None,
            last_rename: None,
        }
    }

    /// Another disk, with all that is seen on this one.
    pub fn snapshot(&self) -> Self {
        let mut copy = Self::new(self.chance.clone());
        copy.capacity_bytes = self.capacity_bytes;
        copy.names.copy_folders(&self.names);
        for (path, inode) in self.files() {
            copy.place(path, inode.copy());
        }
        copy
    }

    /// Counts an operation. An error if the power is off; it may go off in this very operation.
    pub fn begin_operation(&mut self) -> io::Result<()> {
        if self.is_off {
            return Err(power_is_off());
        }
        self.operations += 1;
        match &mut self.fuse {
            Some(0) => self.is_off = true,
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    /// The power fails and comes back.
    pub fn crash(&mut self) {
        let renames: Vec<_> = if self.lies.torn_rename {
            self.names.pending_renames().chain(self.last_rename.take()).collect()
        } else {
            Vec::new()
        };
        self.names.crash(&mut self.chance);
        let before = mem::take(&mut self.inodes);
        let reachable = self.names.reachable();
        self.inodes = before.into_iter().filter(|(id, _)| reachable.contains(id)).collect();
        for inode in self.inodes.values_mut() {
            inode.crash(&mut self.chance);
        }
        for (id, path) in renames {
            if self.names.find(&path).ok() == Some(id)
                && self.chance.one_in(2)
                && let Some(inode) = self.inodes.get_mut(&id)
            {
                inode.tear(&mut self.chance);
            }
        }
        self.begin_life();
    }

    /// The process dies; the kernel and its page cache live on.
    pub fn kill(&mut self) {
        self.begin_life();
        self.sweep();
    }

    fn begin_life(&mut self) {
        self.life += 1;
        (self.fuse, self.is_off, self.owed) = (None, false, None);
    }

    /// Makes a file and returns it, with what its handles share.
    pub fn create(&mut self, path: &str) -> io::Result<(InodeId, Arc<()>)> {
        self.may_fail(|faults| faults.create_fails)?;
        let id = self.next_inode;
        self.names.create(path, id)?;
        Ok((id, self.add(Inode::holding(Vec::new()))))
    }

    /// Finds a file and returns it, with what its handles share.
    pub fn open(&mut self, path: &str) -> io::Result<(InodeId, Arc<()>)> {
        self.may_fail(|faults| faults.open_fails)?;
        let id = self.names.find(path)?;
        Ok((id, self.inode(id)?.open.clone()))
    }

    /// Puts a file on the disk, durably.
    pub fn place(&mut self, path: &str, inode: Inode) {
        self.names.place(path, self.next_inode);
        self.add(inode);
    }

    fn add(&mut self, inode: Inode) -> Arc<()> {
        let open = inode.open.clone();
        self.inodes.insert(self.next_inode, inode);
        self.next_inode += 1;
        open
    }

    /// Renames a file.
    pub fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.may_fail(|faults| faults.rename_fails)?;
        self.names.rename(from, to)?;
        if self.lies.torn_rename {
            self.last_rename = Some((self.names.find(to)?, to.into()));
        }
        Ok(())
    }

    /// Removes a file.
    pub fn remove(&mut self, path: &str) -> io::Result<()> {
        self.may_fail(|faults| faults.remove_fails)?;
        self.names.remove(path)
    }

    /// Makes a folder's entries durable.
    pub fn sync_folder(&mut self, folder: &str) -> io::Result<()> {
        self.may_fail(|faults| faults.sync_folder_fails)?;
        // Cut short, it leaves the changes to the crash, which may keep all of them.
        if self.is_off || self.lies.no_folder_sync {
            return Ok(());
        }
        self.names.sync_folder(folder)?;
        if self.inodes.len() > 2 * self.names.count() + 16 {
            self.sweep(); // seldom enough to cost nothing
        }
        Ok(())
    }

    /// Writes, or a part of it: what is written stays, whatever the result.
    pub fn write(&mut self, id: InodeId, bytes: &[u8], offset: u64) -> io::Result<()> {
        if offset.saturating_add(bytes.len() as u64) > FILE_BYTES_MAX {
            return Err(Errno::FBIG.into());
        }
        let (mut length, mut result) = (bytes.len() as u64, Ok(()));
        if self.is_off {
            length = self.chance.below(length + 1);
        }
        if let Err(cause) = self.may_fail(|faults| faults.write_fails) {
            (length, result) = (self.chance.below(length + 1), Err(cause));
        }
        let inode = self.inode(id)?;
        if inode.is_in_the_way(offset, length) {
            return Err(Errno::IO.into());
        }
        let room_bytes = inode.room_bytes();
        if inode.room_bytes_with(offset + length) > room_bytes {
            let fits = (room_bytes + self.free_bytes()).saturating_sub(offset);
            if length > fits {
                (length, result) = (self.chance.below(fits + 1), Err(Errno::NOSPC.into()));
            }
        }
        self.inode(id)?.write(&bytes[..length as usize], offset as usize);
        result
    }

    /// Reads.
    pub fn read(&mut self, id: InodeId, into: &mut [u8], offset: u64) -> io::Result<()> {
        if self.failed_reads < FAILED_READS_MAX
            && let Err(cause) = self.may_fail(|faults| faults.read_fails)
        {
            self.failed_reads += 1;
            return Err(cause);
        }
        self.failed_reads = 0;
        self.inode(id)?.read(into, offset)
    }

    /// Sets room aside.
    pub fn allocate(&mut self, id: InodeId, bytes: u64) -> io::Result<()> {
        if self.faults.allocate_unsupported {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if bytes > FILE_BYTES_MAX {
            return Err(Errno::FBIG.into());
        }
        let inode = self.inode(id)?;
        if inode.room_bytes_with(bytes) - inode.room_bytes() > self.free_bytes() {
            return Err(Errno::NOSPC.into());
        }
        self.inode(id)?.allocate(bytes);
        Ok(())
    }

    /// Makes a file's bytes durable.
    pub fn sync(&mut self, id: InodeId) -> io::Result<()> {
        // Cut short, it leaves the writes to the crash, which may keep all of them.
        if self.is_off || self.lies.no_data_sync {
            return Ok(());
        }
        if let Err(cause) = self.may_fail(|faults| faults.sync_fails) {
            if let Some(inode) = self.inodes.get_mut(&id) {
                inode.fail_sync(&mut self.chance);
            }
            return Err(cause);
        }
        if self.lies.late_sync {
            if let Some((id, writes)) = self.owed.take()
                && let Some(inode) = self.inodes.get_mut(&id)
            {
                inode.sync(writes);
            }
            self.owed = Some((id, self.inode(id)?.pending_writes()));
            return Ok(());
        }
        self.inode(id)?.sync(usize::MAX);
        Ok(())
    }

    /// What may still be written, in whole blocks.
    pub fn free_bytes(&self) -> u64 {
        let used_bytes: u64 = self.files().map(|(_, inode)| inode.room_bytes()).sum();
        // A crash can bring back more than there is room for.
        self.capacity_bytes.saturating_sub(used_bytes) / BLOCK_BYTES * BLOCK_BYTES
    }

    /// All files that are seen.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &Inode)> {
        self.names.files().filter_map(|(path, id)| Some((path, self.inodes.get(&id)?)))
    }

    /// A file, which may have lost its name. Gone once no handle is left either.
    pub fn inode(&mut self, id: InodeId) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&id).ok_or_else(|| Errno::BADF.into())
    }

    /// Forgets files that neither a handle, nor a name, nor a crash leads to.
    fn sweep(&mut self) {
        let reachable = self.names.reachable();
        self.inodes.retain(|id, inode| reachable.contains(id) || Arc::strong_count(&inode.open) > 1);
    }

    fn may_fail(&mut self, rate: impl Fn(&Faults) -> u32) -> io::Result<()> {
        if hits(rate(&self.faults), &mut self.chance) { Err(Errno::IO.into()) } else { Ok(()) }
    }
}

/// What every operation answers without power.
pub fn power_is_off() -> io::Error {
    io::Error::other("power is off")
}
