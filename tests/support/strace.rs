//! strace on a relay: its system calls in their order, and faults put into them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::wait::{eventually, eventually_some};

/// For strace to take hold of a process or to let go of it.
const LIMIT: Duration = Duration::from_secs(30);
/// How much of a string is shown: more than the tests' small messages have in one commit.
const STRING_BYTES_MAX: &str = "262144";

/// Characters of a call's arguments that a failing test shows: enough for two paths.
const ARGUMENTS_SHOWN: usize = 150;

/// A process that is watched. When this is dropped, strace lets go of it.
pub struct Strace {
    folder: TempDir,
    words: Vec<String>,
    attached: Option<Child>,
}

/// A system call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// Which thread made it.
    pub thread: u32,
    /// Its name: `fdatasync`.
    pub name: String,
    /// Its arguments as strace shows them; a descriptor is followed by what it stands for: `14</data/log/1.seg>`.
    pub arguments: String,
    /// What it returned: `0`, `-1 EIO (Input/output error) (INJECTED)`. Empty if it did not return.
    pub result: String,
    /// Where it began in the order of all that happened.
    pub begun: usize,
    /// Where it ended there; never, if it did not return.
    pub ended: usize,
}

impl Strace {
    /// For a relay that is started by these [`Strace::words`] (see [`crate::relay::Setup::under`]).
    /// `options`: what strace is told besides: `["-e", "inject=fdatasync:error=EIO:when=2"]`.
    pub fn around(options: &[&str]) -> Self {
        let folder = TempDir::with_prefix("backupmx-strace-").expect("a temporary folder can be made");
        // As a grandchild, so that the relay stays our child, and signals and exit codes are its own.
        let mut words = vec!["strace".to_owned(), "-D".to_owned()];
        words.extend(common(&trace_file(&folder), options));
        Self { folder, words, attached: None }
    }

    /// Takes hold of a process that runs.
    ///
    /// # Panics
    /// If there is no strace, or it may not.
    #[track_caller]
    pub fn attach(pid: u32, options: &[&str]) -> Self {
        let folder = TempDir::with_prefix("backupmx-strace-").expect("a temporary folder can be made");
        let said = folder.path().join("said");
        let stderr = fs::File::create(&said).expect("a temporary folder can be written");
        let mut command = Command::new("strace");
        command.args(common(&trace_file(&folder), options)).args(["-p", &pid.to_string()]);
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn();
        let mut child = started.unwrap_or_else(|error| panic!("install strace: `make test` as root does it: {error}"));
        eventually(LIMIT, "strace has taken hold", || {
            let said = fs::read_to_string(&said).unwrap_or_default();
            let ended = child.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "run this test as root, who may watch other processes: {said}");
            said.contains("attached")
        });
        Self { folder, words: Vec::new(), attached: Some(child) }
    }

    /// The words that go before the program's own.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// What was seen until now. The last calls may be missing.
    pub fn calls_so_far(&self) -> Vec<Call> {
        // Missing until strace has started.
        parse(&String::from_utf8_lossy(&fs::read(trace_file(&self.folder)).unwrap_or_default()))
    }

    /// Lets go of the process, so that it runs on without faults, and returns all that was seen.
    #[track_caller]
    pub fn detach(self, pid: u32) -> Vec<Call> {
        if let Some(strace) = tracer(pid) {
            // Fails if it has ended just now, which is what is wanted.
            let _ = kill_process(strace, Signal::TERM);
            eventually(LIMIT, "strace has let go", || !runs(strace));
        }
        self.finish()
    }

    /// What was seen of a process that has ended, or that is no longer watched.
    pub fn finish(mut self) -> Vec<Call> {
        if let Some(strace) = &mut self.attached {
            strace.wait().expect("a child can be waited for");
        }
        self.calls_so_far()
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let Some(strace) = &mut self.attached else { return };
        if strace.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = kill_process(Pid::from_child(strace), Signal::TERM);
            let _ = strace.wait();
        }
    }
}

impl Call {
    /// What its first descriptor stands for.
    pub fn path(&self) -> Option<&str> {
        let rest = self.arguments.split_once('<')?.1;
        let digits_only = self.arguments.split_once('<')?.0.bytes().all(|byte| byte.is_ascii_digit());
        digits_only.then(|| rest.split_once('>').map(|(path, _)| path)).flatten()
    }

    /// Whether it succeeded, and with which number.
    pub fn number(&self) -> Option<i64> {
        let end = self.result.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(self.result.len());
        self.result[..end].parse().ok()
    }

    /// Whether it failed because it was told to.
    pub fn is_injected(&self) -> bool {
        self.result.ends_with("(INJECTED)")
    }

    /// The call for a message: what it would write is cut.
    pub fn shown(&self) -> String {
        let arguments: String = self.arguments.chars().take(ARGUMENTS_SHOWN).collect();
        format!("{}({arguments}) = {}", self.name, self.result)
    }

    /// Whether all of it was over before `other` began.
    pub fn is_before(&self, other: &Self) -> bool {
        self.ended < other.begun
    }
}

/// Calls as strace wrote them. Lines that are no calls (signals, ends) only take their place in the order.
pub fn parse(trace: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    for (place, line) in trace.lines().enumerate() {
        let Some((thread, event)) = line.split_once(' ') else { continue };
        let Ok(thread) = thread.parse() else { continue };
        let event = event.trim_start();
        if let Some(resumed) = event.strip_prefix("<... ") {
            let Some((_, rest)) = resumed.split_once(" resumed>") else { continue };
            let waiting = calls.iter_mut().rev().find(|call| call.thread == thread && call.ended == usize::MAX);
            let (Some(call), Some((arguments, result))) = (waiting, split_result(rest)) else { continue };
            call.arguments.push_str(arguments);
            (call.result, call.ended) = (result.to_owned(), place);
        } else if let Some((name, rest)) = event.split_once('(').filter(|(name, _)| is_name(name)) {
            let (arguments, result, ended) = match (rest.strip_suffix(" <unfinished ...>"), split_result(rest)) {
                (Some(arguments), _) => (arguments, "", usize::MAX),
                (None, Some((arguments, result))) => (arguments, result, place),
                (None, None) => continue,
            };
            let (name, arguments, result) = (name.to_owned(), arguments.to_owned(), result.to_owned());
            calls.push(Call { thread, name, arguments, result, begun: place, ended });
        }
    }
    calls
}

fn split_result(rest: &str) -> Option<(&str, &str)> {
    // The last one: arguments may contain anything.
    rest.rfind(") = ").map(|at| (&rest[..at], &rest[at + ") = ".len()..]))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn common(trace: &Path, options: &[&str]) -> Vec<String> {
    let trace = trace.to_string_lossy();
    // All threads; descriptors with their names; no columns; it lets go at SIGTERM, which with -o it would not.
    let common = ["-f", "-y", "-a", "1", "-I", "2", "-s", STRING_BYTES_MAX, "-o", &trace];
    common.iter().chain(options).map(|&word| word.to_owned()).collect()
}

fn trace_file(folder: &TempDir) -> PathBuf {
    folder.path().join("trace")
}

/// Who watches a process; `None` also if it has ended.
fn tracer(pid: u32) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
    Pid::from_raw(tracer.trim().parse().ok()?)
}

/// Whether a process has not ended yet. A grandchild's end may never be asked for.
fn runs(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains("zombie"))
}

/// The first call in which `wanted` is seen, which must come soon.
#[track_caller]
pub fn eventually_seen(strace: &Strace, what: &str, wanted: impl Fn(&Call) -> bool) -> Call {
    eventually_some(LIMIT, what, || strace.calls_so_far().into_iter().find(&wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_put_together_in_their_order() {
        let trace = "\
7  openat(AT_FDCWD</tmp>, \"/d/1.seg\", O_RDWR|O_CREAT, 0600) = 14</d/1.seg>
7  fdatasync(14</d/1.seg> <unfinished ...>
8  sendto(9<socket:[5]>, \"250 a) = b\\r\\n\", 12, MSG_NOSIGNAL, NULL, 0) = 12
7  <... fdatasync resumed>) = -1 EIO (Input/output error) (INJECTED)
7  --- SIGTERM {si_signo=SIGTERM} ---
8  fsync(3</d> <unfinished ...>
8  +++ killed by SIGKILL +++
";
        let calls = parse(trace);
        let shown: Vec<_> = calls.iter().map(|call| (&*call.name, call.path(), call.number(), call.begun)).collect();
        let expected = [
            ("openat", None, Some(14), 0),
            ("fdatasync", Some("/d/1.seg"), Some(-1), 1),
            ("sendto", Some("socket:[5]"), Some(12), 2),
            ("fsync", Some("/d"), None, 5),
        ];
        assert_eq!(shown, expected);
        assert!(calls[1].is_injected() && !calls[1].is_before(&calls[2]) && calls[1].is_before(&calls[3]));
        assert_eq!(calls[3].ended, usize::MAX);
    }
}
