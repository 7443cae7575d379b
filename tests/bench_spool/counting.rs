//! A disk that counts what is written to it, and passes everything on.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use backupmx_relay::spool::disk::{Disk, DiskFile};

/// What was counted so far.
#[derive(Default)]
pub struct Count {
    /// Bytes passed to writes, but for the next.
    pub bytes: AtomicU64,
    /// Bytes written to files that are made once and not for a message: the reserve.
    pub reserve_bytes: AtomicU64,
    /// Calls that wrote.
    pub writes: AtomicU64,
    /// Syncs of files and folders.
    pub syncs: AtomicU64,
}

/// The disk behind it does the work.
pub struct CountingDisk {
    pub disk: Arc<dyn Disk>,
    pub count: Arc<Count>,
}

struct CountingFile {
    file: Arc<dyn DiskFile>,
    count: Arc<Count>,
    is_reserve: bool,
}

impl CountingDisk {
    fn counting(&self, path: &str, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(CountingFile { file, count: self.count.clone(), is_reserve: path.contains("reserve") })
    }
}

impl Disk for CountingDisk {
    fn make_folder(&self, path: &str) -> io::Result<()> {
        self.disk.make_folder(path)
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.counting(path, self.disk.create(path)?))
    }

    fn edit(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.counting(path, self.disk.edit(path)?))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.counting(path, self.disk.open(path)?))
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
        self.count.syncs.fetch_add(1, Relaxed);
        self.disk.sync_folder(folder)
    }

    fn trim(&self, path: &str, length: u64) -> io::Result<()> {
        self.disk.trim(path, length)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

impl DiskFile for CountingFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let Count { bytes: others, reserve_bytes, writes, .. } = &*self.count;
        let counter = if self.is_reserve { reserve_bytes } else { others };
        counter.fetch_add(bytes.len() as u64, Relaxed);
        writes.fetch_add(1, Relaxed);
        self.file.write_at(bytes, offset)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(into, offset)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.count.syncs.fetch_add(1, Relaxed);
        self.file.sync()
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
}
