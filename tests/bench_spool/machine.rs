//! On what it was measured: figures without that mean nothing later.

use std::{fs, path::Path, thread};

use jiff::Timestamp;

/// Date, processors, memory, kernel, file system, and how busy others keep it, in a line.
pub fn line(folder: &Path) -> String {
    let date = Timestamp::now().strftime("%Y-%m-%d");
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let memory_gib = number_of("/proc/meminfo", "MemTotal:") as f64 / f64::from(1 << 20);
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let file_system = file_system(folder).unwrap_or_else(|| "unknown file system".into());
    let load = load_average().unwrap_or_else(|| "unknown".into());
    format!(
        "Measured {date}: {processors} processors, {memory_gib:.0} GiB of memory, Linux {kernel}, {file_system}. Load average before: {load}."
    )
}

/// The number behind a word in one of the kernel's tables; those of memory are in KiB.
pub fn number_of(table: &str, word: &str) -> u64 {
    let text = fs::read_to_string(table).expect("the kernel tells");
    let line = text.lines().find_map(|line| line.strip_prefix(word)).expect("the kernel tells");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("it is a number")
}

/// Of the last minute: others who are at work make all figures worse.
fn load_average() -> Option<String> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next().map(str::to_owned)
}

fn file_system(folder: &Path) -> Option<String> {
    let folder = fs::canonicalize(folder).ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (device, at, kind) = (words.next()?, words.next()?, words.next()?);
        folder.starts_with(at).then(|| (at.len(), format!("{kind} on {device}")))
    });
    mounts.max_by_key(|(length, _)| *length).map(|(_, text)| text)
}
