//! A mail server that `tests/tools/servers.sh` has unpacked, run as if it were installed: in a mount namespace of its own it
//! finds its users and folders where it was built to look for them. The machine itself has neither.

use std::{
    fs::{self, File},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{tools, wait::within};

/// From SIGTERM to the end of a server.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Shown when a test fails.
const LOG_LINES_SHOWN: usize = 40;

/// What such a server needs.
pub(crate) struct Apart<'a> {
    /// Its folder, which takes its files.
    pub(crate) folder: &'a Path,
    /// Its users, each with a group of the same name and number.
    pub(crate) users: &'a [(&'a str, u32)],
    /// Shell commands that put things where it looks for them; `$folder` is its folder, `$package` what was unpacked.
    pub(crate) places: &'a str,
    /// The Debian package.
    pub(crate) package: &'a str,
    /// Where the program is then.
    pub(crate) program: &'a str,
    /// Its arguments.
    pub(crate) arguments: &'a [&'a str],
}

/// It runs. Dropping it ends it and all that it has started.
pub(crate) struct Running {
    child: Child,
}

impl Apart<'_> {
    /// # Panics
    /// If the tests do not run as root, or the server is not there.
    pub(crate) fn start(&self) -> Running {
        assert!(rustix::process::geteuid().is_root(), "only root makes mount namespaces: run `make test` as root");
        let package = unpacked(self.package);
        self.write_users("passwd", |name, id| format!("{name}:x:{id}:{id}::/nonexistent:/bin/sh\n"));
        self.write_users("group", |name, id| format!("{name}:x:{id}:\n"));
        let script = format!(
            "set -e\nfolder=$1 package=$2\nshift 2\n\
             mount --bind \"$folder/passwd\" /etc/passwd\nmount --bind \"$folder/group\" /etc/group\n\
             {}\nexec \"{}\" \"$@\"\n",
            self.places, self.program
        );
        let log = File::options().create(true).append(true).open(self.folder.join("log")).expect("our folder is ours");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, "sh"]).arg(self.folder).arg(package);
        command.args(self.arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a file can be cloned")).stderr(log).process_group(0);
        let child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Running { child }
    }

    fn write_users(&self, name: &str, line: impl Fn(&str, u32) -> String) {
        let mut text = fs::read_to_string(Path::new("/etc").join(name)).expect("a machine has users");
        text.extend(self.users.iter().map(|(name, id)| line(name, *id)));
        fs::write(self.folder.join(name), text).expect("our folder is ours");
    }
}

impl Running {
    /// Stops it, as its administrator would, and cuts what is left of it.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // What it has started is in its group, and the group is ours.
        let group = Pid::from_child(&self.child);
        let _ = kill_process_group(group, Signal::TERM);
        let ended = within(STOP_LIMIT, || self.child.try_wait().expect("a child can be waited for"));
        let _ = kill_process_group(group, Signal::KILL);
        if ended.is_none() {
            let _ = self.child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Shows the end of a log, for a test that fails.
pub(crate) fn show_end(name: &str, log: &str) {
    let lines: Vec<_> = log.lines().collect();
    let end = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
    eprintln!("--- the end of {name}'s log\n{end}\n---");
}

/// A file that others may not read, for a server that reads it as this user.
pub(crate) fn give(from: &Path, to: &Path, user: u32) {
    fs::copy(from, to).expect("our folder is ours");
    fs::set_permissions(to, PermissionsExt::from_mode(0o600)).expect("our folder is ours");
    std::os::unix::fs::chown(to, Some(user), Some(user)).expect("root may give files away");
}

fn unpacked(package: &str) -> PathBuf {
    let folder = tools::cache().join("servers").join(package);
    assert!(folder.is_dir(), "{} is missing: `make test` as root fetches it", folder.display());
    fs::canonicalize(&folder).expect("a folder has a path")
}
