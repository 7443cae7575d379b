//! The command line program: reads flags, finds the cluster, becomes leader, runs until a signal.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use backupmx_operator::{
    apply::chain,
    cli::{Cli, Command, Flags, LogFormat},
    crd,
    plan::Defaults,
    run::{self, RunError, Settings},
};
use clap::Parser;
use kube::{Client, Config, config::InferConfigError};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// Two cores are what it may use: one to talk with the API server, one for the relays.
const THREADS: usize = 2;

fn main() -> ExitCode {
    // The whole tree has one TLS provider, and rustls wants to be told which.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider is installed already");
    }
    let Cli { command, flags } = Cli::parse(); // wrong usage ends here, with code 2
    let done = match command {
        Some(Command::Crd) => io::stdout().write_all(crd::yaml().as_bytes()).map_err(Failure::Print),
        None => run(flags),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // The log may be read by a program, and this line is for it too.
            tracing::error!("{}", chain(&failure));
            eprintln!("backupmx-operator: {}", chain(&failure));
            ExitCode::from(failure.code())
        }
    }
}

/// Why the program ends without having been asked to. Each message says what was tried and what would help.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("--relay-image is missing: name the image that the relays' pods run")]
    Image,
    #[error("find the cluster: set KUBECONFIG, or run in a pod with a service account")]
    Cluster(#[source] InferConfigError),
    #[error("set up the client for the API server")]
    Client(#[source] kube::Error),
    #[error("listen on {0}; choose another address with --observe")]
    Listen(std::net::SocketAddr, #[source] io::Error),
    #[error("print the definition")]
    Print(#[source] io::Error),
    #[error("start runtime")]
    Runtime(#[source] io::Error),
    #[error("{0}")]
    Run(#[from] RunError),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Image | Self::Cluster(_) | Self::Client(_) => 2,
            Self::Listen(..) | Self::Print(_) | Self::Runtime(_) | Self::Run(_) => 1,
        }
    }
}

fn run(flags: Flags) -> Result<(), Failure> {
    let relay_image = flags.relay_image.clone().filter(|image| !image.is_empty()).ok_or(Failure::Image)?;
    start_log(&flags);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?;
    let ended = runtime.block_on(async {
        let config = Config::infer().await.map_err(Failure::Cluster)?;
        let lease_namespace = flags.lease_namespace.unwrap_or_else(|| config.default_namespace.clone());
        let settings = Settings {
            defaults: Defaults { relay_image, operator_namespace: lease_namespace.clone() },
            namespace: flags.namespace.filter(|namespace| !namespace.is_empty()),
            lease_namespace,
            lease_name: flags.lease_name,
            // On Kubernetes the pod's name.
            instance: std::env::var("HOSTNAME").unwrap_or_else(|_| "backupmx-operator".into()),
        };
        let client = Client::try_from(config).map_err(Failure::Client)?;
        let listener = TcpListener::bind(flags.observe).await.map_err(|cause| Failure::Listen(flags.observe, cause))?;
        let bound = listener.local_addr().map_err(|cause| Failure::Listen(flags.observe, cause))?;
        tracing::info!(observe = %bound, namespace = settings.namespace, lease = settings.lease_name, "running");
        let stop = CancellationToken::new();
        stop_on_signal(&stop)?;
        Ok(run::run(settings, client, listener, stop).await?)
    });
    // A request that hangs must not hold up the end.
    runtime.shutdown_background();
    ended
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

/// Our own lines at the level that was asked for; those of libraries only where something is wrong.
fn start_log(flags: &Flags) {
    use tracing_subscriber::{filter::LevelFilter, fmt};
    let level = flags.log_level;
    let filter = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("backupmx_operator", level);
    let lines = fmt::layer().with_writer(io::stderr).with_target(false).with_ansi(io::stderr().is_terminal());
    let lines = match flags.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}
