//! One line on standard error that tells a waiting person what is being measured.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// On a terminal the line is written over; elsewhere, a log, there is one now and then.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// The line. It goes when this is dropped.
pub struct Progress {
    in_place: bool,
    shown: Option<Instant>,
}

impl Progress {
    /// Shows nothing yet.
    pub fn new() -> Self {
        Self { in_place: io::stderr().is_terminal(), shown: None }
    }

    /// Shows what is going on, unless it was told just now in a place where lines stay.
    pub fn show(&mut self, what: &str) {
        if self.in_place {
            eprint!("\r\x1b[K{what}");
            let _ = io::stderr().flush(); // a terminal that is gone is no reason to stop
        } else if self.shown.is_none_or(|shown| shown.elapsed() >= BETWEEN_LINES) {
            eprintln!("{what}");
            self.shown = Some(Instant::now());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.in_place {
            eprint!("\r\x1b[K");
        }
    }
}
