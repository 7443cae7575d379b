//! A disk in memory that does to unsynced data whatever disks and file systems may do, and does it again for the same seed.
//!
//! | done by the program | read, also after a kill | after a crash |
//! |---|---|---|
//! | write | yes | all of it, nothing, any of its 512-byte sectors, or one side of a cut at any byte |
//! | write, then sync | yes | all of it |
//! | write, then a sync that failed | yes | any part, whatever syncs came later |
//! | create, rename, remove | yes | happened or not, each for itself, as long as no file is lost that way |
//! | the same, then sync of a folder in which it was | yes | happened |
//! | allocate | as used room | may be kept |
//! | trim | yes | happened or not |
//!
//! A crash may also keep a length whose bytes are lost: they are zeros. Not simulated: holes that show another file's old
//! bytes, file systems that turn read-only, and hard links.
//!
//! Chance decides in the order of operations, so threads that share a disk must take turns if a run is to be replayed.

mod faults;
mod inode;
mod names;
mod state;
#[cfg(test)]
mod tests;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use backupmx_relay::spool::disk::{Disk, DiskFile};
use rustix::io::Errno;

pub use self::faults::{Faults, Lies};
use self::{
    inode::Inode,
    names::InodeId,
    state::{State, power_is_off},
};
use crate::chance::Chance;

/// The disk. Clones share it.
#[derive(Clone)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
    /// For a mount, the life of the process that made it.
    life: Option<u64>,
}

/// A byte that changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rotten {
    /// The file.
    pub path: String,
    /// Where in it.
    pub offset: u64,
}

/// What [`SimulatedDisk::lose`] took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// All from this offset on.
    Tail(u64),
    /// The file.
    File,
}

impl SimulatedDisk {
    /// An empty disk without folders.
    pub fn new(seed: u64) -> Self {
        Self::holding(State::new(Chance::seeded(seed)))
    }

    fn holding(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)), life: None }
    }

    /// The disk as one process sees it: after the next crash or kill every operation on it fails, as on the files opened
    /// through it. So what is left of a process that died cannot touch what its successor made.
    pub fn mount(&self) -> Arc<dyn Disk> {
        let life = Some(self.lock().life);
        Arc::new(Self { state: self.state.clone(), life })
    }

    /// The power fails and comes back. All that is found then is durable; files opened before are dead.
    pub fn crash(&self) {
        self.lock().crash();
    }

    /// The process dies and the machine does not: all that was written is read, and is as unsynced as before. Files
    /// opened before are dead.
    pub fn kill(&self) {
        self.lock().kill();
    }

    /// Lets `operations` more succeed; the next one is caught by the end of power, with any part of its effect, and all
    /// later ones fail, until a crash or a kill. Each call of `Disk` and `DiskFile` counts, reads too.
    pub fn set_fuse(&self, operations: u64) {
        self.lock().fuse = Some(operations);
    }

    /// True from the end of power to the crash or kill.
    pub fn is_off(&self) -> bool {
        self.lock().is_off
    }

    /// Operations so far, with the one that the end of power caught, without those that came later.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Whether operations may fail.
    pub fn has_faults(&self) -> bool {
        !self.lock().faults.is_none()
    }

    /// Sets which promises are broken from now on.
    pub fn set_lies(&self, lies: Lies) {
        self.lock().lies = lies;
    }

    /// Sets the size of the volume. May be less than what is used.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity_bytes = bytes;
    }

    /// Changes one durable byte of any file. `None` if there is none.
    pub fn rot(&self, chance: &mut Chance) -> Option<Rotten> {
        let found = {
            let state = self.lock();
            let files = || state.files().filter(|(_, inode)| !inode.durable_bytes().is_empty());
            let count = files().count();
            if count == 0 {
                return None;
            }
            let (path, inode) = files().nth(chance.below(count as u64) as usize)?;
            Rotten { path: path.to_string(), offset: chance.below(inode.durable_bytes().len() as u64) }
        };
        let mask = chance.between(1, 256) as u8;
        self.change_byte(&found.path, found.offset, mask).then_some(found)
    }

    /// Changes one durable byte. False if there is none.
    pub fn rot_at(&self, path: &str, offset: u64) -> bool {
        self.change_byte(path, offset, 0xFF)
    }

    /// Makes the block around an offset unreadable until something is written there: a bad sector. False behind the end, and
    /// in a file that has one.
    pub fn lose_block(&self, path: &str, offset: u64) -> bool {
        let mut state = self.lock();
        let Ok(id) = state.names.find(path) else { return false };
        state.inode(id).is_ok_and(|inode| !inode.has_bad_block() && inode.lose_block(offset))
    }

    fn change_byte(&self, path: &str, offset: u64, mask: u8) -> bool {
        let mut state = self.lock();
        let Ok(id) = state.names.find(path) else { return false };
        state.inode(id).is_ok_and(|inode| inode.rot(offset, mask))
    }

    /// Loses a file's tail, or the file, durably. `None` if there is no such file. Meant for the time between two lives.
    pub fn lose(&self, path: &str) -> Option<Loss> {
        let mut state = self.lock();
        let id = state.names.find(path).ok()?;
        let length = state.inode(id).ok()?.bytes().len() as u64;
        if length == 0 || state.chance.one_in(2) {
            state.names.lose(path);
            return Some(Loss::File);
        }
        let kept = state.chance.below(length);
        state.inode(id).ok()?.cut(kept as usize);
        Some(Loss::Tail(kept))
    }

    /// All files, with their lengths, in the order of their paths.
    pub fn files(&self) -> Vec<(String, u64)> {
        self.lock().files().map(|(path, inode)| (path.to_string(), inode.bytes().len() as u64)).collect()
    }

    /// What is read of a file.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let mut state = self.lock();
        let id = state.names.find(path).ok()?;
        state.inode(id).ok().map(|inode| inode.bytes().to_vec())
    }

    /// Puts a file on the disk, durably, in place of what is there. Its folder is made if it is missing.
    pub fn write_raw(&self, path: &str, bytes: &[u8]) {
        let mut state = self.lock();
        if let Some((folder, _)) = path.rsplit_once('/') {
            let _ = state.names.make_folder(folder);
        }
        state.place(path, Inode::holding(bytes.to_vec()));
    }

    /// Another disk with all that is read on this one, durable, without faults, lies and fuse. Neither affects the other.
    pub fn snapshot(&self) -> Self {
        Self::holding(self.lock().snapshot())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One operation of the program. If the power fails in it, it has its effect or not, and is an error.
    fn operate<T>(&self, life: Option<u64>, effect: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.lock();
        if life.is_some_and(|life| life != state.life) {
            return Err(io::Error::other("opened before the crash"));
        }
        state.begin_operation()?;
        if !state.is_off {
            return effect(&mut state);
        }
        if state.chance.one_in(2) {
            let _ = effect(&mut state);
        }
        Err(power_is_off())
    }

    fn handle(&self, life: u64, (inode, open): (InodeId, Arc<()>), is_writable: bool) -> Arc<dyn DiskFile> {
        Arc::new(Handle { disk: self.clone(), life, inode, is_writable, _open: open })
    }
}

impl Disk for SimulatedDisk {
    fn make_folder(&self, path: &str) -> io::Result<()> {
        self.operate(self.life, |state| state.names.make_folder(path))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let (life, created) = self.operate(self.life, |state| Ok((state.life, state.create(path)?)))?;
        Ok(self.handle(life, created, true))
    }

    fn edit(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let (life, opened) = self.operate(self.life, |state| Ok((state.life, state.open(path)?)))?;
        Ok(self.handle(life, opened, true))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let (life, opened) = self.operate(self.life, |state| Ok((state.life, state.open(path)?)))?;
        Ok(self.handle(life, opened, false))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.operate(self.life, |state| state.names.list(folder))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.operate(self.life, |state| state.rename(from, to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.operate(self.life, |state| state.remove(path))
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.operate(self.life, |state| state.sync_folder(folder))
    }

    fn trim(&self, path: &str, length: u64) -> io::Result<()> {
        self.operate(self.life, |state| {
            let (id, is_kept) = (state.names.find(path)?, state.chance.one_in(2));
            state.inode(id).map(|inode| inode.end_at(length as usize, is_kept))
        })
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.operate(self.life, |state| Ok(state.free_bytes()))
    }
}

struct Handle {
    disk: SimulatedDisk,
    life: u64,
    inode: InodeId,
    is_writable: bool,
    /// Keeps a removed file readable.
    _open: Arc<()>,
}

impl Handle {
    fn operate<T>(&self, effect: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.disk.operate(Some(self.life), effect)
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.is_writable { Ok(()) } else { Err(Errno::BADF.into()) }
    }
}

impl DiskFile for Handle {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check_writable()?;
        self.operate(|state| state.write(self.inode, bytes, offset))
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.operate(|state| state.read(self.inode, into, offset))
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.check_writable()?;
        self.operate(|state| state.allocate(self.inode, bytes))
    }

    fn sync(&self) -> io::Result<()> {
        self.operate(|state| state.sync(self.inode))
    }

    fn length(&self) -> io::Result<u64> {
        self.operate(|state| Ok(state.inode(self.inode)?.bytes().len() as u64))
    }
}
