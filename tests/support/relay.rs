//! A relay as its users start it: the program with its flags, its ports, its folder, its signals.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use backupmx_relay_api::{
    admin::{self, Flushed},
    path,
    status::{Account, Status},
};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    DOMAIN, HOSTNAME,
    program::{self, Ended},
    wait::{eventually_some, within},
};

pub mod http;
pub mod log;
pub mod orders;
mod setup;

use log::Log;
use orders::Orders;
pub use setup::Setup;
use setup::{cleaned, program};

/// From start to its being ready, with a spool of the size that tests make. Generous: the machine may be busy.
const START_LIMIT: Duration = Duration::from_secs(60);
/// From SIGTERM to its end, while nothing holds it up.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// A relay. Dropping it kills it; if the test fails, its log is printed.
pub struct Relay {
    setup: Setup,
    data: PathBuf,
    process: Process,
}

impl Relay {
    /// A relay for this primary that keeps all mail, also while the primary is up.
    pub fn before(primary: SocketAddr) -> Setup {
        Self::passing(primary).flags(&["--when-primary-up", "Queue"])
    }

    /// A relay for this primary, with what a user must say and nothing else: mail passes through while the primary is up.
    pub fn passing(primary: SocketAddr) -> Setup {
        let primary = primary.to_string();
        Self::bare().flags(&["--domain", DOMAIN, "--hostname", HOSTNAME, "--primary", &primary])
    }

    /// A relay that was told only where to keep and where to listen.
    pub fn bare() -> Setup {
        Setup::new()
    }

    /// Runs the program with these arguments alone, to its end.
    #[track_caller]
    pub fn run(arguments: &[&str]) -> Ended {
        program::run(Self::command(&[]).args(arguments), START_LIMIT)
    }

    /// The program, behind words that go before it, such as those of strace; for who runs it in a way of his own.
    pub fn command(before: &[&str]) -> Command {
        let mut command = match before {
            [] => Command::new(program()),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program());
                command
            }
        };
        cleaned(&mut command);
        command
    }

    /// Where it takes mail.
    pub fn smtp(&self) -> SocketAddr {
        self.process.smtp
    }

    /// Where it takes mail that comes through a proxy, if it was told `--listen-proxy`.
    #[track_caller]
    pub fn smtp_proxy(&self) -> SocketAddr {
        let line = self.log().find("running").expect("a relay that was started has said that it runs");
        log::address(&line, "smtp_proxy")
    }

    /// Where it tells metrics and status.
    pub fn observe(&self) -> SocketAddr {
        self.process.observe
    }

    /// Where it takes orders.
    pub fn console(&self) -> SocketAddr {
        self.process.console
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its log so far.
    pub fn log(&self) -> &Log {
        &self.process.log
    }

    /// What it says of itself.
    #[track_caller]
    pub fn status(&self) -> Status {
        let answer = http::get(self.observe(), path::STATUS, None);
        assert_eq!(answer.code, 200, "{answer:?}");
        serde_json::from_str(&answer.body)
            .unwrap_or_else(|error| panic!("no status document: {error}: {}", answer.body))
    }

    /// Its status, once `holds` is true of it.
    ///
    /// # Panics
    /// After `limit`, with the status that it had instead.
    #[track_caller]
    pub fn until(&self, limit: Duration, what: &str, mut holds: impl FnMut(&Status) -> bool) -> Status {
        within(limit, || Some(self.status()).filter(&mut holds))
            .unwrap_or_else(|| panic!("waited {limit:?} in vain: {what}; the status is {:#?}", self.status()))
    }

    /// What became of every recipient. Checked: nothing is missing.
    #[track_caller]
    pub fn account(&self) -> Account {
        let account = self.status().account;
        assert_eq!(account.difference(), 0, "{account:?}");
        account
    }

    /// All its metrics, in Prometheus' text format.
    #[track_caller]
    pub fn metrics(&self) -> String {
        let answer = http::get(self.observe(), path::METRICS, None);
        assert_eq!(answer.code, 200, "{answer:?}");
        answer.body
    }

    /// The value of one metric without labels.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.metrics();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no metric {name} in:\n{text}"))
    }

    /// Whether it says that it can take mail.
    #[track_caller]
    pub fn is_ready(&self) -> bool {
        http::get(self.observe(), path::READYZ, None).code == 200
    }

    /// The token for its admin API.
    pub fn token(&self) -> String {
        let file = self.data.join("admin-token");
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("read {}: {error}", file.display()));
        text.trim_end().to_owned()
    }

    /// Orders it to try all that waits. Returns how many messages that is.
    #[track_caller]
    pub fn flush(&self) -> u64 {
        let answer = http::post(self.console(), admin::FLUSH, Some(&self.token()));
        assert_eq!(answer.code, 200, "{answer:?}");
        let Flushed { messages } = serde_json::from_str(&answer.body).expect("flush answers with its document");
        messages
    }

    /// Orders to it.
    pub fn orders(&self) -> Orders {
        Orders::new(self.console(), self.token())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// The most memory that its process has had at a time.
    pub fn memory_bytes_max(&self) -> u64 {
        let file = format!("/proc/{}/status", self.pid());
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("read {file}: {error}"));
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let peak_kib: Option<u64> = peak.and_then(|kib| kib.parse().ok());
        1024 * peak_kib.unwrap_or_else(|| panic!("no VmHWM in {text}"))
    }

    /// Sends SIGTERM and waits for the end. Returns the exit code.
    #[track_caller]
    pub fn terminate(&mut self) -> i32 {
        self.ask_to_stop();
        self.wait_for_end()
    }

    /// Sends SIGTERM.
    pub fn ask_to_stop(&self) {
        kill_process(Pid::from_child(&self.process.child), Signal::TERM).expect("the relay runs");
    }

    /// Waits until it has ended. Returns the exit code.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> i32 {
        let child = &mut self.process.child;
        let status =
            eventually_some(STOP_LIMIT, "the relay's end", || child.try_wait().expect("a child can be waited for"));
        status.code().unwrap_or_else(|| panic!("the relay was ended by a signal: {status}"))
    }

    /// Ends it as a power cut ends a program: SIGKILL.
    pub fn kill9(&mut self) {
        self.process.child.kill().expect("the relay runs");
        self.process.child.wait().expect("a child can be waited for");
    }

    /// Starts it again after its end, only to end it as [`Relay::kill9`] does at this age, wherever it is by then.
    pub fn start_and_kill9(&mut self, age: Duration) {
        let mut child = Process::spawn(&self.setup, &self.data);
        let _log = Log::of(child.stderr.take().expect("stderr is a pipe"));
        let ended = within(age, || child.try_wait().expect("a child can be waited for"));
        assert!(ended.is_none(), "the relay ended by itself: {ended:?}");
        child.kill().expect("the relay runs");
        child.wait().expect("a child can be waited for");
    }

    /// Starts it again after its end: same folder, same ports.
    #[track_caller]
    pub fn start_again(&mut self) {
        let again = Process::start(&self.setup, &self.data);
        self.process = again.unwrap_or_else(|ended| panic!("the relay did not start again: {ended}"));
    }
}

struct Process {
    child: Child,
    log: Arc<Log>,
    smtp: SocketAddr,
    observe: SocketAddr,
    console: SocketAddr,
}

impl Process {
    fn spawn(setup: &Setup, data: &Path) -> Child {
        let mut command = setup.command(data);
        let command = cleaned(&mut command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"))
    }

    fn start(setup: &Setup, data: &Path) -> Result<Self, Ended> {
        let mut child = Self::spawn(setup, data);
        let log = Log::of(child.stderr.take().expect("stderr is a pipe"));
        let running = within(START_LIMIT, || {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                return Some(Err(status));
            }
            log.find("running").map(Ok)
        });
        match running {
            Some(Ok(line)) => {
                let address = |name: &str| log::address(&line, name);
                let (smtp, observe, console) = (address("smtp"), address("observe"), address("console"));
                Ok(Self { child, log, smtp, observe, console })
            }
            Some(Err(status)) => Err(Ended { code: status.code(), stdout: String::new(), stderr: log.complete() }),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("after {START_LIMIT:?} the relay did not say that it runs:\n{}", log.whole());
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the end of the relay's log\n{}---", self.log.end());
        }
    }
}
