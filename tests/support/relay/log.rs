//! What a relay wrote to stderr, line by line.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::ChildStderr,
    sync::{Arc, Mutex, MutexGuard},
    thread::{self, JoinHandle},
};

use serde_json::Value;

/// Lines shown when a test fails.
const LINES_SHOWN: usize = 40;

/// The log of one process.
pub struct Log {
    lines: Mutex<Vec<String>>,
    reader: Mutex<Option<JoinHandle<()>>>,
}

impl Log {
    /// Collects all that comes, until the process ends.
    pub(crate) fn of(pipe: ChildStderr) -> Arc<Self> {
        let log = Arc::new(Self { lines: Mutex::default(), reader: Mutex::default() });
        let writing = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                writing.lock().push(String::from_utf8_lossy(&line).into_owned());
            }
        });
        *log.reader.lock().expect("nobody else knows this log yet") = Some(reader);
        log
    }

    /// The first line with this message.
    pub fn find(&self, message: &str) -> Option<Value> {
        self.lines().into_iter().find(|line| line["message"] == message)
    }

    /// All lines that are JSON.
    pub fn lines(&self) -> Vec<Value> {
        self.lock().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Lines about orders that people gave.
    pub fn audit(&self) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["audit"] == true).collect()
    }

    /// All of it as it was written, once the process has ended.
    pub(super) fn complete(&self) -> String {
        if let Some(reader) = self.reader.lock().expect("nobody panics with the reader in its hand").take() {
            reader.join().expect("reading a pipe does not panic");
        }
        self.whole()
    }

    /// All of it as it was written.
    pub fn whole(&self) -> String {
        self.lock().iter().map(|line| format!("{line}\n")).collect()
    }

    /// Length of its longest line, in bytes.
    pub fn line_bytes_max(&self) -> usize {
        self.lock().iter().map(String::len).max().unwrap_or_default()
    }

    /// Its last lines.
    pub fn end(&self) -> String {
        let lines = self.lock();
        lines[lines.len().saturating_sub(LINES_SHOWN)..].iter().map(|line| format!("{line}\n")).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().expect("nobody panics with the log in its hand")
    }
}

/// The first address that a log line tells.
pub(crate) fn address(line: &Value, name: &str) -> SocketAddr {
    let text = line[name].as_str().unwrap_or_else(|| panic!("no {name} in {line}"));
    let first = text.split(',').next().unwrap_or_default();
    first.parse().unwrap_or_else(|error| panic!("{name} in {line} is no address: {error}"))
}
