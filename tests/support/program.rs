//! Running a program to its end, with a limit.

use std::{
    env, fmt,
    io::{ErrorKind, Read},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::wait::within;

/// How a program ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said of itself.
    pub stderr: String,
}

impl Ended {
    /// Checks the exit code, and that the first plain line of the relay, after its log if any, names these things.
    /// More lines may show the place in the config file; they start with the excerpt's margin.
    #[track_caller]
    pub fn expect_failure(&self, code: i32, named: &[&str]) {
        self.expect_exit(code, named);
        let plain: Vec<_> = self.stderr.lines().filter(|line| !line.starts_with('{')).collect();
        assert!(plain.first().is_some_and(|first| first.starts_with("backupmx-relay: ")), "{self}");
        let in_margin = |line: &&str| line.is_empty() || line.starts_with(|c: char| c == ' ' || c.is_ascii_digit());
        assert!(plain[1..].iter().all(in_margin), "{self}");
        assert!(named.iter().all(|name| plain[0].contains(name)), "{self}");
    }

    /// Checks the exit code, and that the message names these things.
    #[track_caller]
    pub fn expect_exit(&self, code: i32, named: &[&str]) {
        assert_eq!(self.code, Some(code), "{self}");
        for name in named {
            assert!(self.stderr.contains(name), "{name} is not named: {self}");
        }
        assert!(!self.stderr.contains("panicked"), "{self}");
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {:?}\n--- stdout\n{}\n--- stderr\n{}", self.code, self.stdout, self.stderr)
    }
}

/// One of our programs, where cargo has put it.
///
/// # Panics
/// If it was not built.
#[track_caller]
pub fn ours(name: &str) -> PathBuf {
    let tests = env::current_exe().expect("a program knows where it is");
    let folder = tests.parent().expect("a program is in a folder");
    let folder = if folder.ends_with("deps") { folder.parent().expect("deps is in a folder") } else { folder };
    let program = folder.join(name);
    assert!(program.is_file(), "{} is missing: run `make test`", program.display());
    program
}

/// Runs `command` to its end.
///
/// # Panics
/// If the program is missing, or has not ended after `limit` (then it is killed).
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Ended {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Err(error) if error.kind() == ErrorKind::NotFound => panic!("install {name}: `make test` as root does it"),
        other => other.unwrap_or_else(|error| panic!("start {name}: {error}")),
    };
    let stdout = collect(child.stdout.take().expect("stdout is a pipe"));
    let stderr = collect(child.stderr.take().expect("stderr is a pipe"));
    let status = within(limit, || child.try_wait().expect("a child can be waited for"));
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = |thread: thread::JoinHandle<String>| thread.join().expect("reading a pipe does not panic");
    let ended = Ended { code: status.and_then(|status| status.code()), stdout: text(stdout), stderr: text(stderr) };
    assert!(status.is_some(), "{name} had not ended after {limit:?}: {ended}");
    ended
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is worth showing.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
