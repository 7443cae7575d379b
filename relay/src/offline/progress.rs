//! Tells on standard error how far a long run has come: a line that rewrites itself on a terminal, else a line now and then.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// Between two lines in a file or a pipe.
const BETWEEN_LINES: Duration = Duration::from_secs(5);
/// Between two changes of the line on a terminal: faster than anybody reads.
const BETWEEN_CHANGES: Duration = Duration::from_millis(100);

/// How far a run has come, for people.
pub struct Progress {
    out: Box<dyn Write>,
    is_terminal: bool,
    told_at: Instant,
    is_shown: bool,
}

impl Progress {
    /// To standard error.
    pub fn on_stderr() -> Self {
        Self::new(Box::new(io::stderr()), io::stderr().is_terminal(), Instant::now())
    }

    fn new(out: Box<dyn Write>, is_terminal: bool, now: Instant) -> Self {
        Self { out, is_terminal, told_at: now, is_shown: false }
    }

    /// So many of so many are done. Said only if nothing was said for a while, so call it as often as you like.
    pub fn told(&mut self, what: &str, done: usize, of: usize) {
        self.told_at(what, done, of, Instant::now());
    }

    fn told_at(&mut self, what: &str, done: usize, of: usize, now: Instant) {
        let between = if self.is_terminal { BETWEEN_CHANGES } else { BETWEEN_LINES };
        if now.duration_since(self.told_at) < between {
            return;
        }
        self.told_at = now;
        let line = format!("read {done} of {of} {what}");
        // Nobody may be there to hear it; that is no reason to stop.
        if self.is_terminal {
            self.is_shown = true;
            let _ = write!(self.out, "\r{line}\x1b[K").and_then(|()| self.out.flush());
        } else {
            let _ = writeln!(self.out, "{line}");
        }
    }

    /// Says something that stays.
    pub fn say(&mut self, line: &str) {
        self.end();
        let _ = writeln!(self.out, "{line}");
    }

    /// Takes the line off the terminal, before anything else is written there.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            let _ = write!(self.out, "\r\x1b[K").and_then(|()| self.out.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written if a segment takes a second.
    fn written(is_terminal: bool) -> String {
        let (page, begun) = (Page::default(), Instant::now());
        let mut progress = Progress::new(Box::new(page.clone()), is_terminal, begun);
        for done in 0..12 {
            progress.told_at("segments", done, 312, begun + Duration::from_secs(done as u64));
        }
        progress.say("done");
        drop(progress);
        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn in_a_file_there_is_a_line_every_5_seconds() {
        assert_eq!(written(false), "read 5 of 312 segments\nread 10 of 312 segments\ndone\n");
    }

    #[test]
    fn on_a_terminal_one_line_changes_and_leaves_nothing_behind() {
        let written = written(true);
        assert!(written.starts_with("\rread 1 of 312 segments\x1b[K\rread 2 of 312"), "{written:?}");
        assert!(written.ends_with("read 11 of 312 segments\x1b[K\r\x1b[Kdone\n"), "{written:?}");
    }
}
