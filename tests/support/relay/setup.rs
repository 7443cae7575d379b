//! How a relay is to be started: flags, config document, environment, user.

use std::{
    env, fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{Process, Relay};
use crate::{
    port::Port,
    program::{self, Ended},
};

/// User and group `nobody` on Debian.
const NOBODY: u32 = 65534;

/// How a relay is to be started.
pub struct Setup {
    flags: Vec<String>,
    config: Option<String>,
    environment: Vec<(String, String)>,
    data: Option<PathBuf>,
    unprivileged: bool,
    apart: bool,
    under: Vec<String>,
    addresses: [(&'static str, String); 3],
    _ports: [Port; 3],
    folder: TempDir,
}

impl Setup {
    pub(super) fn new() -> Self {
        let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
        let at = |place: usize| ports[place].address().to_string();
        Self {
            addresses: [("--listen", at(0)), ("--observe", at(1)), ("--console", at(2))],
            flags: Vec::new(),
            config: None,
            environment: Vec::new(),
            data: None,
            unprivileged: false,
            apart: false,
            under: Vec::new(),
            _ports: ports,
            folder: TempDir::with_prefix("backupmx-").expect("a temporary folder can be made"),
        }
    }

    /// Flags besides the usual ones.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// A config document, as YAML. Domain, primary and hostname come from flags all the same.
    pub fn config(self, yaml: &str) -> Self {
        Self { config: Some(yaml.to_owned()), ..self }
    }

    /// A variable in its environment.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another data folder than its own new one.
    pub fn data(self, folder: &Path) -> Self {
        Self { data: Some(folder.to_owned()), ..self }
    }

    /// Another address than a port of its own for `--listen`, `--observe` or `--console`.
    pub fn address(mut self, flag: &str, address: &str) -> Self {
        let place = self.addresses.iter_mut().find(|(name, _)| *name == flag).expect("it is one of the three");
        place.1 = address.to_owned();
        self
    }

    /// As a user without rights, to whom folders can be closed.
    pub fn unprivileged(self) -> Self {
        Self { unprivileged: true, ..self }
    }

    /// Out of reach of the terminal's Ctrl-C, for who ends the relay by himself.
    pub fn apart(self) -> Self {
        Self { apart: true, ..self }
    }

    /// Under another program, which is started with these words and the relay's own behind them.
    pub fn under(self, words: &[String]) -> Self {
        Self { under: words.to_owned(), ..self }
    }

    /// Starts it.
    ///
    /// # Panics
    /// If it does not come to run.
    #[track_caller]
    pub fn start(self) -> Relay {
        self.try_start().unwrap_or_else(|ended| panic!("the relay did not start: {ended}"))
    }

    /// Starts it; if it ends before it runs, returns how.
    pub fn try_start(self) -> Result<Relay, Ended> {
        let data = self.data.clone().unwrap_or_else(|| self.folder.path().join("data"));
        let process = Process::start(&self, &data)?;
        Ok(Relay { setup: self, data, process })
    }

    /// Starts it, and returns how it failed.
    ///
    /// # Panics
    /// If it runs.
    #[track_caller]
    pub fn fail(self) -> Ended {
        match self.try_start() {
            Err(ended) => ended,
            Ok(_) => panic!("the relay runs"),
        }
    }

    pub(super) fn command(&self, data: &Path) -> Command {
        let mut command = match &*self.under {
            [] => Command::new(self.program()),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(self.program());
                command
            }
        };
        let data = data.to_string_lossy();
        command.args(["--data", &data, "--log-format", "json"]);
        for (flag, address) in &self.addresses {
            command.args([flag, address.as_str()]);
        }
        if let Some(yaml) = &self.config {
            let file = self.folder.path().join("config.yaml");
            fs::write(&file, yaml).expect("a temporary folder can be written");
            command.arg("--config").arg(file);
        }
        command.args(&self.flags).envs(self.environment.iter().cloned());
        if self.apart {
            command.process_group(0);
        }
        if self.unprivileged && rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// The program, where its user may execute it: not everyone may enter the folder that it was built in.
    fn program(&self) -> PathBuf {
        if !self.unprivileged {
            return program();
        }
        let copy = self.folder.path().join("backupmx-relay");
        // By a process of its own: what another thread starts meanwhile would hold our open copy, and a program that
        // somebody may write to cannot be started.
        let copied = Command::new("cp").arg(program()).arg(&copy).status().expect("cp can be started");
        assert!(copied.success(), "a temporary folder can hold the relay");
        fs::set_permissions(self.folder.path(), PermissionsExt::from_mode(0o755)).expect("our folder is ours");
        copy
    }
}

/// The relay that was built together with this program.
pub(super) fn program() -> PathBuf {
    program::ours("backupmx-relay")
}

/// Without what the environment of the tests would tell a relay.
pub(super) fn cleaned(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        let ours = command.get_envs().any(|(set, _)| set == name);
        if !ours && name.to_string_lossy().starts_with("BACKUPMX_") {
            command.env_remove(name);
        }
    }
    command
}
