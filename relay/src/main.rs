//! The command line program: reads flags and config, takes the data folder, binds ports, runs until a signal.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use backupmx_relay::{
    admin::Token,
    cli::{Cli, Command, Flags, LogFormat},
    config::{Config, ConfigError},
    delivery::encryption::Encryption,
    offline,
    reload::{Source, Unusable},
    run::{self, Addresses, Listeners, RunError},
    smtp::certificates::{self, CertificateError},
    spool::folder::{self, FolderError},
};
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let Cli { command, flags } = Cli::parse(); // wrong usage ends here, with code 2
    let done = match &command {
        Some(Command::CheckConfig) => check(&flags).map(|words| println!("{words}")),
        Some(Command::PrintConfig) => flags.config().map_err(Failure::from).and_then(|(config, _)| print(&config)),
        Some(Command::Spool(command)) => match offline::run(command, &flags.data) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE, // what is damaged was told
            Err(cause) => Err(cause.into()),
        },
        None => run(&flags),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("backupmx-relay: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

/// Why the program ends without having been asked to. Each message says what was tried and what would help.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("configuration: {0}")]
    Config(#[from] Unusable),
    #[error("certificate: {0}")]
    Certificate(#[from] CertificateError),
    #[error("data folder {path}: {source}")]
    Folder { path: String, source: FolderError },
    #[error(
        "admin token {path}: {source}; name a readable file with --admin-token-file, or remove it to get a new token"
    )]
    Token { path: String, source: io::Error },
    #[error("print configuration: {0}")]
    Print(String),
    #[error("{0}")]
    Offline(#[from] offline::Error),
    #[error("{0}")]
    Run(#[from] RunError),
    #[error("start runtime: {0}")]
    Runtime(#[source] io::Error),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Certificate(_) => 2,
            Self::Folder { .. } | Self::Token { .. } | Self::Run(RunError::Spool(_)) => 3,
            Self::Offline(cause) => cause.code(),
            Self::Print(_) | Self::Run(_) | Self::Runtime(_) => 1,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(cause: ConfigError) -> Self {
        Self::Config(cause.into())
    }
}

/// What would be run, in words.
fn check(flags: &Flags) -> Result<String, Failure> {
    let (config, ignored_keys) = flags.config()?;
    let mut words = checked(&config);
    Encryption::new(&config.document.primary.tls).map_err(Unusable::from)?;
    if !ignored_keys.is_empty() {
        words += &format!("\nkeys of a newer program are ignored: {}", ignored_keys.join(", "));
    }
    for files in flags.certificates()? {
        let described = certificates::check(&files)?;
        words += &format!("\ncertificate is good: {} until {}", described.name, described.not_after);
    }
    Ok(words)
}

fn checked(config: &Config) -> String {
    let document = &config.document;
    let hosts: Vec<_> = document.primary.hosts.iter().map(|host| format!("{}:{}", host.host, host.port)).collect();
    format!(
        "configuration is good: {} keeps mail for {}, primary {}",
        document.hostname,
        document.domains.join(", "),
        hosts.join(", ")
    )
}

fn print(config: &Config) -> Result<(), Failure> {
    let text = serde_saphyr::to_string(&config.document).map_err(|cause| Failure::Print(cause.to_string()))?;
    io::stdout().write_all(text.as_bytes()).map_err(|cause| Failure::Print(cause.to_string()))
}

fn run(flags: &Flags) -> Result<(), Failure> {
    start_log(flags);
    let (start, certificates) = (Source::new(flags.clone(), &flags.data).start()?, flags.certificates()?);
    let unusable = |source| Failure::Folder { path: flags.data.display().to_string(), source };
    let _lock = folder::take(&flags.data).map_err(unusable)?;
    let data = fs::canonicalize(&flags.data).map_err(|cause| unusable(cause.into()))?;
    let path = flags.token_path();
    let token =
        Token::of(path.clone()).map_err(|source| Failure::Token { path: path.display().to_string(), source })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::Runtime)?;
    raise_file_limit();
    let ended = runtime.block_on(async {
        let (smtp, proxied) = (flags.listen(), flags.listen_proxy.clone());
        let addresses = Addresses { smtp, proxied, observe: flags.observe, console: flags.console };
        let listeners = Listeners::bind(&addresses).await?;
        let stop = CancellationToken::new();
        stop_on_signal(&stop)?;
        Ok(run::run(start, certificates, data, token, listeners, stop).await?)
    });
    // A name look-up that hangs must not hold up the end.
    runtime.shutdown_background();
    ended
}

/// Many systems start programs with 1024 descriptors, of which the default number of sessions alone takes 1000.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(cause) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%cause, "raise the limit of open files");
    }
}

/// SIGTERM from whoever runs us, SIGINT from a terminal.
fn stop_on_signal(stop: &CancellationToken) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Runtime)?;
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

fn start_log(flags: &Flags) {
    let colour = io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(colour)
        .with_max_level(flags.log_level)
        .with_target(false);
    match flags.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
