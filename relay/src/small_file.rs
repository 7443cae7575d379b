//! Small documents in the data folder that survive a restart, beside the spool: replaced as a whole, so that a crash leaves the
//! old one or the new one.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Serialize, de::DeserializeOwned};

/// One such document. Clones share it.
#[derive(Clone, Debug)]
pub struct SmallFile {
    path: PathBuf,
    /// What it holds, for the log.
    what: &'static str,
    /// Who holds it may write.
    writing: Arc<Mutex<()>>,
}

/// A larger one is none of ours. The largest is a config document of 1 MiB, quoted.
const BYTES_MAX: u64 = 4 << 20;

impl SmallFile {
    /// In this folder, with this name.
    pub fn new(folder: &Path, name: &str, what: &'static str) -> Self {
        Self { path: folder.join(name), what, writing: Arc::default() }
    }

    /// What it holds; nothing if it is not there or cannot be used, which the log tells.
    pub fn read<T: DeserializeOwned>(&self) -> Option<T> {
        let Self { path, what, .. } = self;
        let text = match fs::metadata(path).and_then(|found| within_bounds(found.len())).and_then(|()| fs::read(path)) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return None,
            Err(cause) => {
                tracing::warn!(file = %path.display(), %cause, "read {what}");
                return None;
            }
        };
        let read = serde_json::from_slice(&text);
        read.inspect_err(|cause| tracing::warn!(file = %path.display(), %cause, "{what} cannot be read")).ok()
    }

    /// Replaces it by what `document` gives once it is this writer's turn, so that the last one writes the newest. Blocks.
    pub fn write<T: Serialize>(&self, document: impl FnOnce() -> T) -> io::Result<()> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (path, temporary) = (&self.path, self.path.with_extension("new"));
        let mut written = File::create(&temporary)?;
        written.write_all(&serde_json::to_vec_pretty(&document())?)?;
        written.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    /// The same; who cannot do without it is told by the log.
    pub fn write_or_log<T: Serialize>(&self, document: impl FnOnce() -> T) {
        if let Err(cause) = self.write(document) {
            tracing::warn!(file = %self.path.display(), %cause, "write {}", self.what);
        }
    }
}

fn within_bounds(bytes: u64) -> io::Result<()> {
    if bytes <= BYTES_MAX { Ok(()) } else { Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is far too large")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_cannot_be_read_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = SmallFile::new(folder.path(), "x.json", "a number");
        assert_eq!(file.read::<u32>(), None);
        file.write(|| 4711).unwrap();
        assert_eq!(file.read(), Some(4711));
        for rubbish in [b"{".as_slice(), b"\"text\"", &[b' '; 5 << 20]] {
            fs::write(folder.path().join("x.json"), rubbish).unwrap();
            assert_eq!(file.read::<u32>(), None);
        }
    }
}
