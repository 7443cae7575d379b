//! A small file system of its own, made in a file: a test can fill it up, or let it fail, without harm to anybody.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tempfile::TempDir;

use crate::{
    program::{self, Ended},
    wait::within,
};

/// For mkfs, mount and the like.
const LIMIT: Duration = Duration::from_secs(60);
/// In which the last bytes are taken.
const BLOCK: [u8; 4096] = [0; 4096];

/// A mounted ext4. Dropping it unmounts it.
pub struct Volume {
    folder: TempDir,
    mounted: bool,
}

impl Volume {
    /// Makes one of this size, of which root may not keep a part for itself, and mounts it.
    ///
    /// # Panics
    /// If this is not root, or a tool is missing.
    #[track_caller]
    pub fn new(bytes: u64) -> Self {
        assert!(rustix::process::geteuid().is_root(), "run this test as root, who may mount a volume");
        let folder = TempDir::with_prefix("backupmx-volume-").expect("a temporary folder can be made");
        let mut volume = Self { folder, mounted: false };
        let image = File::create(volume.image()).expect("a temporary folder can be written");
        image.set_len(bytes).expect("a file may have holes");
        fs::create_dir(volume.path()).expect("a temporary folder can be written");
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &text(&volume.image())]).expect_exit(0, &[]);
        volume.mount();
        volume
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("volume")
    }

    /// Takes all room that is left, to the last block.
    pub fn fill(&self) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.filler()).expect("there is a name left");
        loop {
            let free = statvfs(self.path()).expect("a volume can be asked");
            let (free_bytes, length) = (free.f_bavail * free.f_frsize, file.metadata().expect("it is open").len());
            // At once, so that nobody has time to notice; less and less, since extents need blocks themselves.
            let takes = (1..6).any(|part| fallocate(&file, FallocateFlags::empty(), length, free_bytes / part).is_ok());
            if !takes {
                break;
            }
        }
        loop {
            match file.write_all(&BLOCK).and_then(|()| file.sync_data()) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("fill the volume: {error}"),
            }
        }
    }

    /// Gives back what [`Volume::fill`] took.
    pub fn make_room(&self) {
        fs::remove_file(self.filler()).expect("the volume was filled");
    }

    /// Lets it fail as it fails when the disk does: from now on it can only be read.
    pub fn fail(&self) {
        let device = self.device().expect("it is mounted");
        let trigger = Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error");
        fs::write(&trigger, "a test lets it fail").unwrap_or_else(|error| panic!("{}: {error}", trigger.display()));
    }

    /// Unmounts it, has it checked as at a start of the machine, and mounts it again.
    #[track_caller]
    pub fn repair(&mut self) {
        run("umount", &[&text(&self.path())]).expect_exit(0, &[]);
        self.mounted = false;
        let checked = run("fsck.ext4", &["-p", &text(&self.image())]);
        // 1: errors were corrected (fsck(8)).
        assert!(matches!(checked.code, Some(0 | 1)), "{checked}");
        self.mount();
    }

    #[track_caller]
    fn mount(&mut self) {
        let options = "loop,errors=remount-ro";
        run("mount", &["-t", "ext4", "-o", options, &text(&self.image()), &text(&self.path())]).expect_exit(0, &[]);
        self.mounted = true;
    }

    /// `loop0`, by the kernel's table.
    fn device(&self) -> Option<String> {
        let (mounts, path) = (fs::read_to_string("/proc/self/mounts").ok()?, text(&self.path()));
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(&path))?;
        Some(line.split(' ').next()?.strip_prefix("/dev/")?.to_owned())
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if !self.mounted {
            return;
        }
        let path = self.path();
        // A relay that was killed just now may still hold it.
        let umount = |flags: &[&str]| Command::new("umount").args(flags).arg(&path).output();
        let done = within(LIMIT, || umount(&[]).ok().filter(|output| output.status.success()));
        if done.is_none() {
            let _ = umount(&["--lazy"]);
            eprintln!("{} was still in use; it is unmounted when it no longer is", path.display());
        }
    }
}

#[track_caller]
fn run(tool: &str, arguments: &[&str]) -> Ended {
    let mut command = Command::new(tool);
    // Where Debian keeps what only root uses.
    program::run(command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(arguments), LIMIT)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 32 << 20;

    #[test]
    fn a_volume_can_be_full_and_have_room_again() {
        let volume = Volume::new(BYTES);
        let write = |name| fs::write(volume.path().join(name), BLOCK).map_err(|error| error.kind());
        write("before").unwrap();
        volume.fill();
        assert_eq!(write("while").unwrap_err(), ErrorKind::StorageFull);
        volume.make_room();
        write("after").unwrap();
    }

    #[test]
    fn a_volume_can_fail_and_be_repaired() {
        let mut volume = Volume::new(BYTES);
        let file = volume.path().join("file");
        let mut open = File::create(&file).unwrap();
        open.write_all(&BLOCK).and_then(|()| open.sync_all()).unwrap();
        volume.fail();
        assert_eq!(open.write_all(&BLOCK).unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
        drop(open);
        volume.repair();
        assert_eq!(fs::read(&file).unwrap(), BLOCK);
        fs::write(&file, "again").unwrap();
    }
}
