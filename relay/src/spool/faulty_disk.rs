//! A disk for tests: the real one, but for what it is told to fail at.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::disk::{Disk, DiskFile, RealDisk};

/// The real disk, but for what it is told to fail at.
pub struct FaultyDisk {
    pub disk: RealDisk,
    pub faults: Arc<Faults>,
}

#[derive(Default)]
pub struct Faults {
    pub sync: AtomicBool,
    pub create: AtomicBool,
    /// While true, a sync does not come back.
    pub sync_is_held: Mutex<bool>,
    pub released: Condvar,
    pub syncs_under_way: AtomicUsize,
}

struct FaultyFile {
    file: Arc<dyn DiskFile>,
    faults: Arc<Faults>,
}

fn fail(fault: &AtomicBool) -> io::Result<()> {
    if fault.load(Ordering::Relaxed) { Err(io::Error::other("told to fail")) } else { Ok(()) }
}

impl Disk for FaultyDisk {
    fn make_folder(&self, path: &str) -> io::Result<()> {
        self.disk.make_folder(path)
    }
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        fail(&self.faults.create)?;
        Ok(Arc::new(FaultyFile { file: self.disk.create(path)?, faults: self.faults.clone() }))
    }
    fn edit(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        fail(&self.faults.create)?;
        Ok(Arc::new(FaultyFile { file: self.disk.edit(path)?, faults: self.faults.clone() }))
    }
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path)
    }
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.disk.list(folder)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.disk.sync_folder(folder)
    }
    fn trim(&self, path: &str, length: u64) -> io::Result<()> {
        self.disk.trim(path, length)
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

impl DiskFile for FaultyFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(into, offset)
    }
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }
    fn sync(&self) -> io::Result<()> {
        self.faults.syncs_under_way.fetch_add(1, Ordering::Relaxed);
        let mut held = self.faults.sync_is_held.lock().unwrap();
        while *held {
            held = self.faults.released.wait(held).unwrap();
        }
        self.faults.syncs_under_way.fetch_sub(1, Ordering::Relaxed);
        // A sync fails once: what is tried again on another file works.
        if self.faults.sync.swap(false, Ordering::Relaxed) {
            return Err(io::Error::other("told to fail"));
        }
        self.file.sync()
    }
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
}
