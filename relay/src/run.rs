//! The program as a library: from a checked config and bound ports to the end of the last session.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::Router;
use jiff::Timestamp;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin,
    config::{self, Config},
    delivery::{Drain, Lately, encryption::EncryptionError, hop::Caller},
    metrics::Metrics,
    observe::{self, Observe},
    poll::{self, News},
    primary::Primary,
    queue::{Queue, scheduler::Lane},
    retention::{self, Keeper},
    small_file::SmallFile,
    smtp::{
        certificates::{Certificates, Files},
        clients::Clients,
        connection::{Door, Limits},
        listener::{self, Entrance, Hall},
        memory::Memory,
        names::Names,
        places::{Bounds, Places},
        promises::Promises,
        session::Terms,
    },
    spool::{RecoveryError, Spool, Watchers, disk::RealDisk},
    status::Parts,
};

/// How long a stop waits for content that is coming in and for deliveries under way. Kubernetes kills after 30 s.
const STOP_MAX: Duration = Duration::from_secs(20);

/// For the last words to the log on disk, and for pages that somebody still reads.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Where the relay should listen.
pub struct Addresses {
    /// SMTP.
    pub smtp: Vec<SocketAddr>,
    /// SMTP behind proxies.
    pub proxied: Vec<SocketAddr>,
    /// Metrics, status, health.
    pub observe: SocketAddr,
    /// Admin API.
    pub console: SocketAddr,
}

/// Where the relay listens; bound before anything is said about running.
pub struct Listeners {
    /// SMTP.
    pub smtp: Vec<TcpListener>,
    /// SMTP behind proxies.
    pub proxied: Vec<TcpListener>,
    /// Metrics, status, health.
    pub observe: TcpListener,
    /// Admin API.
    pub console: TcpListener,
}

/// Why the relay ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A port cannot be bound.
    #[error("listen on {address} for {what}: {source}; stop what uses it, or choose another with {flag}")]
    Bind {
        /// What it is for.
        what: &'static str,
        /// The flag that names it.
        flag: &'static str,
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The spool cannot be read.
    #[error("open spool: {0}")]
    Spool(#[from] RecoveryError),
    /// The TLS library refuses its own defaults.
    #[error("prepare TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// TLS towards the primary cannot be as the configuration wants it.
    #[error("configuration: {0}")]
    Encryption(#[from] EncryptionError),
    /// The metrics contradict each other.
    #[error("register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The runtime cannot say where it listens.
    #[error("ask for local address: {0}")]
    Address(#[source] io::Error),
}

impl Listeners {
    /// Binds all ports.
    pub async fn bind(addresses: &Addresses) -> Result<Self, RunError> {
        let Addresses { smtp, proxied, observe, console } = addresses;
        let bound = |what, flag, address| move |source| RunError::Bind { what, flag, address, source };
        // [::] takes IPv4 too, unless addresses are named for that: both at once do not go together.
        let has_v4 = |port| smtp.iter().chain(proxied).any(|other| other.is_ipv4() && other.port() == port);
        let smtp_sockets = |what, flag, addresses: &[SocketAddr]| -> Result<Vec<_>, RunError> {
            let bind = |&address: &SocketAddr| {
                let v6_only = address.port() != 0 && has_v4(address.port());
                listener::bind(address, v6_only).map_err(bound(what, flag, address))
            };
            addresses.iter().map(bind).collect()
        };
        let page = async |what, flag, address| TcpListener::bind(address).await.map_err(bound(what, flag, address));
        Ok(Self {
            smtp: smtp_sockets("SMTP", "--listen", smtp)?,
            proxied: smtp_sockets("SMTP behind proxies", "--listen-proxy", proxied)?,
            observe: page("metrics and status", "--observe", *observe).await?,
            console: page("the admin API", "--console", *console).await?,
        })
    }
}

/// Runs until `stop` is called and everything has come to its end. The folder must be ours already.
pub async fn run(
    config: Config,
    certificates: Vec<Files>,
    data: PathBuf,
    token: String,
    listeners: Listeners,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let certificates = Arc::new(Certificates::new(certificates)?);
    let caller = caller(&config, &listeners)?;
    let pages = CancellationToken::new();
    let (parts, door) = assemble(&config, certificates.clone(), caller, &data, pages.clone())?;
    let serving = Arc::new(AtomicBool::new(true));
    let tasks = TaskTracker::new();
    log_running(&config, &parts, &listeners)?;
    let Listeners { smtp, proxied, observe, console } = listeners;
    let observed = Observe { parts: parts.clone(), serving: serving.clone() };
    let observe_page = tokio::spawn(serve_pages(observe, observe::router(observed), pages.clone()));
    let console_page = tokio::spawn(serve_pages(console, admin::router(parts.clone(), token), pages.clone()));
    tokio::spawn(poll::watch(parts.clone(), pages.clone()));
    let primary = parts.primary.clone();
    let (watching, probing) = (stop.clone(), primary.clone());
    tasks.spawn(async move { probing.watch(&watching).await });
    tasks.spawn(Arc::new(drain(&config, &parts)).run(stop.clone()));
    let clock_file = SmallFile::new(&data, retention::CLOCK_FILE, "the clock by which mail grows old");
    let (spool, queue) = (parts.spool.clone(), parts.queue.clone());
    tasks.spawn(Keeper::new(spool, queue, config.document.retention.clone(), clock_file).run(stop.clone()));
    tasks.spawn(certificates.watch(stop.clone()));
    let hall = Hall { door, places: Places::new(bounds(&config), Instant::now()), names: Names::of_system() };
    let hall = Arc::new(hall);
    let own = smtp.into_iter().map(|listener| Entrance { listener, proxies: None });
    let proxied = proxied.into_iter().map(|listener| Entrance { listener, proxies: Some(config.proxies.clone()) });
    own.chain(proxied).for_each(|entrance| {
        tasks.spawn(listener::run(entrance, hall.clone(), stop.clone()));
    });
    tasks.close();

    stop.cancelled().await;
    serving.store(false, Ordering::Relaxed);
    tracing::info!(sessions = parts.metrics.sessions.get(), "stopping");
    if timeout(STOP_MAX, tasks.wait()).await.is_err() {
        tracing::warn!("sessions or deliveries were cut off; their senders try again");
    }
    let _ = timeout(CLOSE_MAX, async { tokio::join!(parts.spool.close(), parts.primary.close()) }).await;
    pages.cancel();
    let _ = timeout(CLOSE_MAX, async { tokio::join!(observe_page, console_page) }).await;
    tracing::info!(waiting = parts.spool.counts().messages, "stopped");
    Ok(())
}

/// Opens the spool and connects everything that does not listen.
fn assemble(
    config: &Config,
    certificates: Arc<Certificates>,
    caller: Caller,
    data: &Path,
    pages: CancellationToken,
) -> Result<(Arc<Parts>, Door), RunError> {
    let document = &config.document;
    let metrics = Arc::new(Metrics::new()?);
    let (sync_seconds, quarantined) = (metrics.sync_seconds.clone(), metrics.quarantined.clone());
    let watchers = Watchers {
        synced: Box::new(move |took| sync_seconds.observe(took.as_secs_f64())),
        rot: Box::new(move |parts| quarantined.inc_by(parts)),
    };
    let (spool, waiting) = Spool::open(Arc::new(RealDisk::new(data)), watchers)?;
    let queue = Arc::new(Queue::new(&document.primary.delivery));
    spool.damages().0.iter().for_each(|damage| tracing::warn!("{damage}"));
    waiting.into_iter().for_each(|(id, flow)| queue.spooled(id, flow, Lane::Backlog));
    let primary = Arc::new(Primary::new(config, caller, queue.clone(), metrics.clone(), data));
    primary.recount_outage(&spool);
    let (limits, clients) = (limits(config), Arc::new(Clients::default()));
    let door = Door {
        terms: terms(config),
        limits,
        domains: config.domains.clone(),
        etrn: config.etrn.clone(),
        spool: spool.clone(),
        queue: queue.clone(),
        primary: primary.clone(),
        certificates: certificates.clone(),
        memory: memory(config),
        promises: Promises::default(),
        clients: clients.clone(),
        metrics: metrics.clone(),
    };
    let parts = Parts {
        hostname: document.hostname.clone(),
        config_generation: document.generation,
        started_at: Timestamp::now(),
        spool,
        queue,
        primary,
        certificates,
        limits,
        metrics,
        clients,
        news: News::new(pages),
    };
    Ok((Arc::new(parts), door))
}

fn terms(config: &Config) -> Terms {
    let document = &config.document;
    Terms {
        hostname: document.hostname.clone(),
        postmaster_domain: config::postmaster_domain(&document.domains).to_owned(),
        recipients_max: document.limits.recipients as usize,
        errors_max: document.limits.errors,
        junk_commands_max: document.limits.junk_commands,
    }
}

fn limits(config: &Config) -> Limits {
    let limits = &config.document.limits;
    Limits {
        message_bytes_max: limits.message_size.0,
        line_bytes_max: limits.command_line.0 as usize, // config.rs bounds it
        room_bytes_min: limits.free_space.0,
        idle: limits.idle_timeout.0,
        busy: limits.busy_timeout.0,
        busy_before_mail: limits.busy_timeout_before_mail.0,
    }
}

fn memory(config: &Config) -> Arc<Memory> {
    let limits = &config.document.limits;
    let sessions_max = bounds(config).with_those_leaving();
    Memory::new(usize::try_from(limits.memory.0).unwrap_or(usize::MAX), sessions_max)
}

fn bounds(config: &Config) -> Bounds {
    let limits = &config.document.limits;
    Bounds {
        sessions_max: limits.connections as usize,
        sessions_per_client_max: limits.connections_per_client as usize,
    }
}

fn caller(config: &Config, listeners: &Listeners) -> Result<Caller, RunError> {
    let own = listeners.smtp.iter().chain(&listeners.proxied).map(TcpListener::local_addr);
    let own = own.collect::<Result<_, _>>().map_err(RunError::Address)?;
    let document = &config.document;
    Ok(Caller::new(document.hostname.clone(), &document.primary.tls, own)?)
}

fn drain(config: &Config, parts: &Parts) -> Drain {
    let primary = &config.document.primary;
    Drain {
        spool: parts.spool.clone(),
        queue: parts.queue.clone(),
        primary: parts.primary.clone(),
        metrics: parts.metrics.clone(),
        messages_per_connection_max: primary.delivery.max_messages_per_connection as usize,
        recipients_max: primary.delivery.max_recipients_per_transaction as usize,
        lately: Lately::default(),
    }
}

fn log_running(config: &Config, parts: &Parts, listeners: &Listeners) -> Result<(), RunError> {
    let address = |listener: &TcpListener| listener.local_addr().map_err(RunError::Address);
    let addresses = |listeners: &[TcpListener]| -> Result<String, RunError> {
        let texts = listeners.iter().map(|listener| Ok(address(listener)?.to_string()));
        Ok(texts.collect::<Result<Vec<_>, RunError>>()?.join(","))
    };
    tracing::info!(
        smtp = addresses(&listeners.smtp)?,
        smtp_proxy = (!listeners.proxied.is_empty()).then(|| addresses(&listeners.proxied)).transpose()?,
        observe = %address(&listeners.observe)?,
        console = %address(&listeners.console)?,
        hostname = parts.hostname,
        domains = config.document.domains.join(","),
        waiting = parts.spool.counts().messages,
        "running"
    );
    Ok(())
}

async fn serve_pages(listener: TcpListener, router: Router, stop: CancellationToken) {
    let router = router.into_make_service_with_connect_info::<SocketAddr>();
    if let Err(cause) = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%cause, "serve pages");
    }
}
