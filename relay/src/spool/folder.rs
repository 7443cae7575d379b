//! The data folder: made, recognised and locked before anything in it is read.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use super::segment::FORMAT_VERSION;

/// Names the program and the format; holds the lock.
pub const MARKER: &str = "backupmx-spool";
/// A few bytes tell; a foreign file of that name may be of any size and kind.
const MARKER_BYTES_MAX: u64 = 64;

/// Why a folder cannot be used. Each message ends with the cure.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be made, read or written.
    #[error("{0}; make it a folder that this user may read and write, or name another with --data")]
    Unusable(#[from] io::Error),
    /// Something else lives there.
    #[error("it holds files, but no {MARKER}, so it is not ours; name an empty or new folder with --data")]
    Foreign,
    /// A later program wrote it.
    #[error(
        "its format is version {0}, and this program knows versions up to {FORMAT_VERSION}; use the newer program again"
    )]
    Newer(u32),
    /// Another relay runs on it.
    #[error("another backupmx-relay is using it; stop that one, or name another folder with --data")]
    InUse,
}

/// Why a folder cannot be looked into. Each message ends with the cure.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// Nothing is there, or no folder.
    #[error("there is no such folder; name the data folder of a relay with --data")]
    Missing,
    /// It cannot be read.
    #[error("{0}; look as the user of its relay, or as root")]
    Unreadable(#[from] io::Error),
    /// It is not ours.
    #[error("it holds no {MARKER} of ours, so no relay keeps mail in it; name the data folder of a relay with --data")]
    Foreign,
    /// A later program wrote it.
    #[error(
        "its format is version {0}, and this program knows versions up to {FORMAT_VERSION}; use the newer program to look"
    )]
    Newer(u32),
    /// A relay runs on it.
    #[error("a relay is running on it; stop that relay, or ask its admin API")]
    InUse,
}

/// The folder, locked. The kernel drops the lock with the process, however it ends.
#[derive(Debug)]
pub struct Lock {
    _marker: File,
}

/// Makes the folder if it is missing, checks that it is ours, and locks it. Nothing foreign is touched.
pub fn take(folder: &Path) -> Result<Lock, FolderError> {
    make(folder)?;
    let path = folder.join(MARKER);
    if !path.exists() && has_files(folder)? {
        return Err(FolderError::Foreign);
    }
    let mut marker = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
    match marker.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(FolderError::InUse),
        Err(TryLockError::Error(cause)) => return Err(cause.into()),
    }
    let mut text = String::new();
    (&mut marker).take(MARKER_BYTES_MAX).read_to_string(&mut text).map_err(not_text)?;
    if text.is_empty() {
        marker.write_all(format!("{MARKER} {FORMAT_VERSION}\n").as_bytes())?;
        marker.sync_all()?;
        File::open(folder)?.sync_all()?;
        return Ok(Lock { _marker: marker });
    }
    match version(&text) {
        None => Err(FolderError::Foreign),
        Some(version) if version > FORMAT_VERSION => Err(FolderError::Newer(version)),
        Some(_) => Ok(Lock { _marker: marker }),
    }
}

/// Bytes that are no text are another program's; all else is the disk's word.
fn not_text(cause: io::Error) -> FolderError {
    if cause.kind() == io::ErrorKind::InvalidData { FolderError::Foreign } else { cause.into() }
}

/// Locks a folder that is there, to read it: no relay starts on it meanwhile, while others may look, too. Nothing in it is
/// changed, so it may be mounted read-only.
pub fn look(folder: &Path) -> Result<Lock, LookError> {
    if !folder.is_dir() {
        // What may not be looked at is told from what is missing.
        return match fs::metadata(folder) {
            Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => Err(cause.into()),
            _ => Err(LookError::Missing),
        };
    }
    let path = folder.join(MARKER);
    match fs::metadata(&path) {
        Ok(marker) if marker.is_file() => {} // a pipe would keep us waiting
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause.into()),
        _ => return Err(LookError::Foreign),
    }
    let mut marker = File::open(&path)?;
    match marker.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(LookError::InUse),
        Err(TryLockError::Error(cause)) => return Err(cause.into()),
    }
    match read_version(&mut marker) {
        None => Err(LookError::Foreign),
        Some(version) if version > FORMAT_VERSION => Err(LookError::Newer(version)),
        Some(_) => Ok(Lock { _marker: marker }),
    }
}

/// Makes the folder and those above it that are missing, each with a durable entry in the one above: the
/// best synced file is lost if the way to it is.
fn make(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make(above)?;
    fs::DirBuilder::new().mode(0o700).create(folder)?;
    File::open(above)?.sync_all()
}

fn read_version(marker: &mut File) -> Option<u32> {
    let mut text = String::new();
    marker.take(MARKER_BYTES_MAX).read_to_string(&mut text).ok()?;
    version(&text)
}

fn version(text: &str) -> Option<u32> {
    text.strip_prefix(MARKER)?.trim().parse().ok()
}

/// A new file system has `lost+found`, which counts as empty.
fn has_files(folder: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        if entry?.file_name() != "lost+found" {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_folder_is_made_and_used_again() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");
        drop(take(&folder).unwrap());
        assert_eq!(fs::read_to_string(folder.join(MARKER)).unwrap(), "backupmx-spool 1\n");
        take(&folder).unwrap();
    }

    #[test]
    fn a_folder_in_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _lock = take(folder.path()).unwrap();
        assert!(matches!(take(folder.path()), Err(FolderError::InUse)));
    }

    #[test]
    fn a_foreign_folder_and_a_newer_one_are_refused_and_left_as_they_are() {
        for (name, text, newer) in
            [("letter.txt", "hello", false), (MARKER, "something else", false), (MARKER, "backupmx-spool 9\n", true)]
        {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(name), text).unwrap();
            let refused = take(folder.path()).unwrap_err();
            assert_eq!(matches!(refused, FolderError::Newer(9)), newer, "{refused}");
            assert_eq!(matches!(refused, FolderError::Foreign), !newer, "{refused}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
            assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), text);
        }
    }

    #[test]
    fn several_may_look_and_no_relay_starts_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let running = take(folder.path()).unwrap();
        assert!(matches!(look(folder.path()), Err(LookError::InUse)));
        drop(running);
        let _first = look(folder.path()).unwrap();
        look(folder.path()).unwrap();
        assert!(matches!(take(folder.path()), Err(FolderError::InUse)));
    }

    #[test]
    fn a_look_makes_nothing_and_says_what_is_wrong() {
        let parent = tempfile::tempdir().unwrap();
        assert!(matches!(look(&parent.path().join("missing")), Err(LookError::Missing)));
        assert!(matches!(look(parent.path()), Err(LookError::Foreign)));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        for (text, newer) in [("", false), ("something else", false), ("backupmx-spool 9\n", true)] {
            fs::write(parent.path().join(MARKER), text).unwrap();
            let refused = look(parent.path()).unwrap_err();
            assert_eq!(matches!(refused, LookError::Newer(9)), newer, "{refused}");
            assert_eq!(matches!(refused, LookError::Foreign), !newer, "{refused}");
            assert_eq!(fs::read_to_string(parent.path().join(MARKER)).unwrap(), text);
        }
        assert!(matches!(look(&parent.path().join(MARKER)), Err(LookError::Missing)));
    }

    #[test]
    fn the_lost_and_found_of_a_new_volume_is_not_foreign() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("lost+found")).unwrap();
        take(folder.path()).unwrap();
    }
}
