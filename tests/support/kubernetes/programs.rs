//! The programs of a cluster: where they are, and how they run and end.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
    thread,
};

use rustix::process::Pid;
use tempfile::TempDir;

use super::LIMIT;
use crate::{program, wait::within};

/// Lines shown when a test fails.
const LINES_SHOWN: usize = 15;

/// Ends the group of processes whose number it is told, and removes the folder, once nobody holds its standard input any more:
/// when the cluster is dropped, and also when the tests end without that, which is what happens to a shared one. A server
/// that is just being killed may still add a file to the folder.
const KEEPER: &str = "trap '' HUP INT TERM
read -r group
while read -r _; do :; done
[ -z \"$group\" ] || kill -s KILL -- \"-$group\"
for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf \"$1\" && exit; sleep 0.2; done";

/// Where the programs are.
///
/// # Panics
/// If they were not built.
#[track_caller]
pub(super) fn folder() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/kubernetes.sh"));
        let ended = program::run(command.arg("--find"), LIMIT);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stdout.trim_end().into()
    });
    &FOLDER
}

/// The processes of one cluster, in a group, and its folder. Dropping it ends and removes them.
pub(super) struct Processes {
    folder: PathBuf,
    keeper: Child,
    /// The first one's process number is the group's.
    group: Option<i32>,
    running: Vec<(&'static str, Child)>,
}

impl Processes {
    /// None yet.
    pub(super) fn prepare() -> Self {
        let folder = TempDir::with_prefix("backupmx-kubernetes-").expect("a temporary folder can be made").keep();
        let mut command = Command::new("sh");
        // In a group of its own, out of reach of the terminal's Ctrl-C.
        command.args(["-c", KEEPER, "keeper"]).arg(&folder).stdin(Stdio::piped()).process_group(0);
        let keeper = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("sh can be started");
        Self { folder, keeper, group: None, running: Vec::new() }
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts a program; what it says goes into its log.
    #[track_caller]
    pub(super) fn start(&mut self, name: &'static str, flags: &[String]) {
        let program = folder().join(name);
        let log = File::options().create(true).append(true).open(self.log(name)).expect("our folder is ours");
        let mut command = Command::new(&program);
        command.args(flags).stdin(Stdio::null()).process_group(self.group.unwrap_or(0));
        command.stdout(log.try_clone().expect("a file can be cloned")).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("start {}: {error}", program.display()));
        if self.group.is_none() {
            let group = Pid::from_child(&child).as_raw_pid();
            let told = self.keeper.stdin.as_mut().map(|pipe| writeln!(pipe, "{group}"));
            assert!(matches!(told, Some(Ok(()))), "the keeper waits for this: {told:?}");
            self.group = Some(group);
        }
        self.running.push((name, child));
    }

    /// Kills one: its clients see their connections cut, and then a port that nobody listens on.
    pub(super) fn kill(&mut self, name: &str) {
        let place = self.running.iter().position(|(running, _)| *running == name).expect("it runs");
        let (_, mut child) = self.running.swap_remove(place);
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Returns once `condition` holds.
    ///
    /// # Panics
    /// When one of them has ended, and after a limit.
    #[track_caller]
    pub(super) fn until(&mut self, what: &str, mut condition: impl FnMut() -> bool) {
        let ended = |(name, child): &mut (&'static str, Child)| {
            let status = child.try_wait().expect("a child can be waited for");
            status.map(|status| format!("{name} has ended: {status}"))
        };
        let outcome = within(LIMIT, || match self.running.iter_mut().find_map(ended) {
            Some(end) => Some(Err(end)),
            None => condition().then_some(Ok(())),
        });
        match outcome {
            Some(Ok(())) => {}
            Some(Err(end)) => panic!("{end}"),
            None => panic!("waited {LIMIT:?} in vain: {what}"),
        }
    }

    /// The numbers of those that run.
    pub(super) fn pids(&self) -> Vec<(&'static str, u32)> {
        self.running.iter().map(|(name, child)| (*name, child.id())).collect()
    }

    /// The log of one.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// What they said last.
    pub(super) fn ends_of_logs(&self) -> String {
        let end = |(name, _): &(&str, Child)| {
            let text = fs::read(self.log(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            let end = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n");
            format!("--- the end of {name}'s log\n{end}\n---\n")
        };
        self.running.iter().map(end).collect()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        if thread::panicking() {
            eprint!("{}", self.ends_of_logs());
        }
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        for (_, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
