//! The operator as its users start it: the program with its flags, its rights, its log, its signals.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    program::{self, Ended},
    relay::{
        http,
        log::{self, Log},
    },
    wait::{eventually_some, within},
};

/// From the start to the first words. Generous: the machine may be busy.
const START_LIMIT: Duration = Duration::from_secs(60);
/// From SIGTERM, or from what makes it end, to the end.
const END_LIMIT: Duration = Duration::from_secs(60);

/// How an operator is to be started.
#[derive(Clone, Debug)]
pub struct Setup {
    kubeconfig: PathBuf,
    flags: Vec<String>,
}

/// An operator. Dropping it kills it; if the test fails, its log is printed.
pub struct Operator {
    child: Child,
    log: Arc<Log>,
}

impl Setup {
    /// An operator with the rights of this kubeconfig.
    pub fn new(kubeconfig: PathBuf) -> Self {
        Self { kubeconfig, flags: Vec::new() }
    }

    /// Flags besides those that every test needs.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// Starts it, and waits until it says that it runs. It may not be leader by then.
    #[track_caller]
    pub fn start(&self) -> Operator {
        let mut command = self.command();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let log = Log::of(child.stderr.take().expect("stderr is a pipe"));
        let operator = Operator { child, log };
        eventually_some(START_LIMIT, "the operator runs", || operator.log.find("running"));
        operator
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program::ours("backupmx-operator"));
        command.env_clear().env("KUBECONFIG", &self.kubeconfig).env("RUST_BACKTRACE", "1");
        command.args(["--observe", "127.0.0.1:0", "--log-format", "json", "--log-level", "debug"]).args(&self.flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }
}

impl Operator {
    /// Runs the program with these arguments alone, to its end.
    #[track_caller]
    pub fn run(arguments: &[&str]) -> Ended {
        let mut command = Command::new(program::ours("backupmx-operator"));
        program::run(command.env_clear().args(arguments), START_LIMIT)
    }

    /// Where it tells health and metrics.
    #[track_caller]
    pub fn observe(&self) -> SocketAddr {
        let line = self.log.find("running").expect("an operator that was started has said that it runs");
        log::address(&line, "observe")
    }

    /// The HTTP status code of a page.
    #[track_caller]
    pub fn code_of(&self, path: &str) -> u16 {
        http::get(self.observe(), path, None).code
    }

    /// The sum of a metric over all samples whose labels contain `label`.
    #[track_caller]
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let page = http::get(self.observe(), "/metrics", None).body;
        let of_it = |line: &&str| line.split(['{', ' ']).next() == Some(name) && line.contains(label);
        page.lines().filter(of_it).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Its log so far.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Sends SIGTERM and waits for the end. Returns the exit code.
    #[track_caller]
    pub fn terminate(&mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("the operator runs");
        self.wait_for_end()
    }

    /// Waits until it has ended. Returns the exit code; none if a signal ended it.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> Option<i32> {
        let child = &mut self.child;
        let ended = within(END_LIMIT, || child.try_wait().expect("a child can be waited for"));
        ended.unwrap_or_else(|| panic!("the operator had not ended after {END_LIMIT:?}")).code()
    }

    /// SIGKILL: it can say nothing to anybody.
    pub fn kill9(&mut self) {
        self.child.kill().expect("the operator runs");
        self.child.wait().expect("a child can be waited for");
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // Both fail if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the end of the operator's log\n{}---", self.log.end());
        }
    }
}
