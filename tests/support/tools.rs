//! Foreign programs: swaks and Postfix's smtp-source send mail, libfaketime sets clocks.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::program::{self, Ended};

/// For a run of either. Thousands of messages take seconds.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// The folder outside the clone that keeps what was built or fetched once.
pub fn cache() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    cache.expect("HOME or XDG_CACHE_HOME is set").join("backupmx")
}

/// Runs `swaks` with these arguments against a server.
#[track_caller]
pub fn swaks(server: SocketAddr, arguments: &[&str]) -> Ended {
    let (host, port) = (server.ip().to_string(), server.port().to_string());
    let mut command = Command::new("swaks");
    // Its own settings file and environment must not speak for the test.
    command.env_clear().envs(path()).args(["--server", &host, "--port", &port]).args(arguments);
    program::run(&mut command, RUN_LIMIT)
}

/// Runs `smtp-source` with these arguments against a server.
#[track_caller]
pub fn smtp_source(server: SocketAddr, arguments: &[&str]) -> Ended {
    let mut command = Command::new("smtp-source");
    // It lives in /usr/sbin, which only root has in its path.
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(arguments).arg(format!("inet:{server}"));
    program::run(&mut command, RUN_LIMIT)
}

/// What makes a process see another clock, when it is loaded before all else (libfaketime).
#[track_caller]
pub fn faketime_library() -> PathBuf {
    const NAME: &str = "faketime/libfaketimeMT.so.1";
    let folders = fs::read_dir("/usr/lib").expect("every system has it").flatten().map(|entry| entry.path());
    let found = folders.map(|folder| folder.join(NAME)).find(|file| Path::exists(file));
    found.unwrap_or_else(|| panic!("no {NAME} below /usr/lib: install libfaketime (tests/tools/packages.sh does)"))
}

fn path() -> Option<(&'static str, String)> {
    std::env::var("PATH").ok().map(|path| ("PATH", path))
}
