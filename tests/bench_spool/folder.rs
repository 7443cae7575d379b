//! Where the benchmark writes: a folder of its own on a real disk, which goes at the end, also after Ctrl-C.

use std::{
    cell::{Cell, RefCell},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use rustix::fs::{Advice, fadvise, statfs, statvfs, syncfs};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

/// `f_type` of file systems that are memory: statfs(2).
const MEMORY_FILE_SYSTEMS: [i64; 2] = [0x0102_1994, 0x8584_58f6];
const GIB: u64 = 1 << 30;
/// Below this, what was put off is removed at once.
const FREE_BYTES_MIN: u64 = 2 * GIB;
/// For the disk to take in that much is free again: some are told of each block (mount option `discard`), after the fact.
const AFTER_REMOVAL: Duration = Duration::from_secs(1);

/// Why nothing can be measured there.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("it is memory (tmpfs), where a sync costs nothing; name one on a real disk with --folder")]
    Memory,
    #[error("{free:.1} GiB are free and {needed} are needed; make room, name another with --folder, or try --quick")]
    NoRoom { free: f64, needed: u64 },
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The benchmark's own folder.
pub struct Folder {
    root: TempDir,
    folders: Cell<u32>,
    put_off: RefCell<Vec<PathBuf>>,
}

impl Folder {
    /// Makes it in `parent`, once that is found to be good for it.
    pub fn make(parent: &Path, needed_gib: u64) -> Result<Self, FolderError> {
        fs::create_dir_all(parent)?;
        let volume = statfs(parent).map_err(io::Error::from)?;
        if MEMORY_FILE_SYSTEMS.contains(&(volume.f_type as i64)) {
            return Err(FolderError::Memory);
        }
        let free_bytes = free_bytes(parent)?;
        if free_bytes < needed_gib * GIB {
            return Err(FolderError::NoRoom { free: free_bytes as f64 / GIB as f64, needed: needed_gib });
        }
        let root = tempfile::Builder::new().prefix("bench-spool-").tempdir_in(parent)?;
        let path = root.path().to_owned();
        thread::spawn(move || remove_on_signal(&path));
        Ok(Self { root, folders: Cell::default(), put_off: RefCell::default() })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// A folder in it that holds nothing.
    pub fn empty(&self) -> PathBuf {
        let number = self.folders.replace(self.folders.get() + 1);
        let path = self.root.path().join(number.to_string());
        fs::create_dir(&path).expect("a folder can be made");
        path
    }

    /// Such a folder is no longer needed; it goes later, since removing many files slows down what is measured next.
    pub fn put_off(&self, path: PathBuf) {
        self.put_off.borrow_mut().push(path);
        if free_bytes(self.path()).expect("the disk tells what is free") < FREE_BYTES_MIN {
            self.clear();
        }
    }

    /// Removes what was put off, and waits until the disk has come to rest.
    pub fn clear(&self) {
        for path in self.put_off.take() {
            fs::remove_dir_all(path).expect("a folder can be removed");
        }
        File::open(self.path()).and_then(|root| Ok(syncfs(root)?)).expect("the disk can be synced");
        thread::sleep(AFTER_REMOVAL);
    }
}

fn free_bytes(path: &Path) -> io::Result<u64> {
    let volume = statvfs(path)?;
    Ok(volume.f_bavail * volume.f_frsize)
}

/// Reads all files below, so that the kernel has them in memory.
pub fn warm(path: &Path) {
    each_file(path, &mut |mut file| io::copy(&mut file, &mut io::sink()).map(drop));
}

/// Has the kernel forget what it holds of all files below. A disk may still remember.
pub fn cool(path: &Path) {
    each_file(path, &mut |file| {
        file.sync_all()?; // what is not on the disk cannot be forgotten
        Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
    });
}

fn each_file(path: &Path, act: &mut impl FnMut(File) -> io::Result<()>) {
    for entry in fs::read_dir(path).expect("a folder can be listed") {
        let path = entry.expect("a folder can be listed").path();
        if path.is_dir() {
            each_file(&path, act);
        } else {
            File::open(&path).and_then(&mut *act).expect("a file can be read");
        }
    }
}

fn remove_on_signal(path: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        let hear = |kind| signal(kind).expect("a signal can be listened for");
        let (mut interrupt, mut terminate) = (hear(SignalKind::interrupt()), hear(SignalKind::terminate()));
        let mut hangup = hear(SignalKind::hangup());
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    });
    // Writers are at work until the process ends, and put files where some were removed.
    let removed = (0..10).any(|_| fs::remove_dir_all(path).is_ok());
    if !removed {
        eprintln!("bench-spool: remove {} yourself", path.display());
    }
    process::exit(130);
}
