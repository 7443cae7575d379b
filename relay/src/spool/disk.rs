//! The only way from the spool to files, so that a simulated disk can stand in for the real one.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::FallocateFlags;

/// A folder and what is below it. Paths are relative to it, parts joined by `/`.
pub trait Disk: Send + Sync {
    /// Makes a folder, unless it exists, and makes its entry durable.
    fn make_folder(&self, path: &str) -> io::Result<()>;
    /// Makes a file that must not exist yet, for writing and reading.
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file that exists, for writing and reading.
    fn edit(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading.
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Names of the files in a folder, in any order.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;
    /// Moves a file, replacing what is there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Makes the entries of a folder durable: a synced file is found after a crash only if its name was synced too.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;
    /// Ends a file at `length` bytes, if it is longer, and gives back what was allocated behind. Not made durable.
    fn trim(&self, path: &str, length: u64) -> io::Result<()>;
    /// Bytes that we may still write on this volume.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Fills `into` from `offset`; the file's end before that is `UnexpectedEof`.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()>;
    /// Sets room aside, so that writes below `bytes` find it; the file's length stays. `StorageFull` if there is
    /// not so much, `Unsupported` where the file system cannot promise.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Makes durable what was written, and the length that reading it back needs.
    fn sync(&self) -> io::Result<()>;
    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;
}

/// A folder of this machine.
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// The folder must exist.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

impl Disk for RealDisk {
    fn make_folder(&self, path: &str) -> io::Result<()> {
        // Mail is nobody else's: neither group nor others may look.
        match fs::DirBuilder::new().mode(0o700).create(self.at(path)) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => return Err(cause),
            _ => {} // also one that is there: whoever made it may have died before this
        }
        File::open(&self.root)?.sync_all()
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(self.at(path))?;
        Ok(Arc::new(file))
    }

    fn edit(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(self.at(path))?))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(File::open(self.at(path))?))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        fs::read_dir(self.at(folder))?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.at(path))
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        File::open(self.at(folder))?.sync_all()
    }

    fn trim(&self, path: &str, length: u64) -> io::Result<()> {
        // Also to the length that it has: file systems free what lies allocated behind it.
        let file = OpenOptions::new().write(true).open(self.at(path))?;
        file.set_len(file.metadata()?.len().min(length))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let volume = rustix::fs::statvfs(&self.root)?;
        Ok(volume.f_bavail * volume.f_frsize)
    }
}

impl DiskFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(self, FallocateFlags::KEEP_SIZE, 0, bytes)?)
    }

    fn sync(&self) -> io::Result<()> {
        // fdatasync: times need not be durable, and the length is, as far as reading the data back needs it.
        self.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}
