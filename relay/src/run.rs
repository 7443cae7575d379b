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

use arc_swap::ArcSwap;
use axum::Router;
use jiff::Timestamp;
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::{self, Token},
    config::Config,
    delivery::{Drain, Lately, encryption::Encryption, hop::Caller},
    metrics::Metrics,
    observe::{self, Observe},
    pass_through::PassThrough,
    poll::{self, News},
    primary::Primary,
    queue::{Queue, scheduler::Lane},
    reload::{self, Loaded, Reload, Start, bounds},
    retention::{self, Keeper},
    running::{Refused, Running},
    small_file::SmallFile,
    smtp::{
        certificates::{Certificates, Files},
        clients::Clients,
        connection::Door,
        listener::{self, Entrance, Hall},
        memory::Memory,
        names::Names,
        places::Places,
        promises::Promises,
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
    start: Start,
    certificates: Vec<Files>,
    data: PathBuf,
    token: Token,
    listeners: Listeners,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let Start { source, loaded: Loaded { config, text, origin }, refused } = start;
    let certificates = Arc::new(Certificates::new(certificates)?);
    let caller = caller(&config, text.encryption.clone(), &listeners)?;
    let running = Arc::new(Running::new(config, origin, Timestamp::now()));
    let pages = CancellationToken::new();
    let (parts, door) = assemble(running, certificates.clone(), caller, Arc::new(token), &data, pages.clone())?;
    let config = parts.running.config();
    let serving = Arc::new(AtomicBool::new(true));
    let tasks = TaskTracker::new();
    let hall = Hall { door, places: Places::new(bounds(&config), Instant::now()), names: Names::of_system() };
    let hall = Arc::new(hall);
    log_running(&config, &parts, &listeners)?;
    log_configuration(refused, &parts, &hall);
    let Listeners { smtp, proxied, observe, console } = listeners;
    let cordoned = hall.door.cordoned.subscribe();
    let observed = Observe { parts: parts.clone(), serving: serving.clone(), cordoned };
    let observe_page = tokio::spawn(serve_pages(observe, observe::router(observed), pages.clone()));
    let console_page = tokio::spawn(serve_pages(console, admin::router(parts.clone()), pages.clone()));
    tokio::spawn(poll::watch(parts.clone(), pages.clone()));
    let primary = parts.primary.clone();
    let (watching, probing) = (stop.clone(), primary.clone());
    tasks.spawn(async move { probing.watch(&watching).await });
    tasks.spawn(Arc::new(drain(&parts)).run(stop.clone()));
    tasks.spawn(hall.door.pass_through.clone().run(stop.clone()));
    let clock_file = SmallFile::new(&data, retention::CLOCK_FILE, "the clock by which mail grows old");
    let (spool, queue) = (parts.spool.clone(), parts.queue.clone());
    tasks.spawn(Keeper::new(spool, queue, parts.running.clone(), clock_file).run(stop.clone()));
    tasks.spawn(certificates.watch(stop.clone()));
    tasks.spawn(parts.token.clone().watch(stop.clone()));
    tasks.spawn(Arc::new(Reload::new(source, text, parts.clone(), hall.clone())).watch(stop.clone()));
    let own = smtp.into_iter().map(|listener| Entrance { listener, is_behind_proxies: false });
    let proxied = proxied.into_iter().map(|listener| Entrance { listener, is_behind_proxies: true });
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
    running: Arc<Running>,
    certificates: Arc<Certificates>,
    caller: Caller,
    token: Arc<Token>,
    data: &Path,
    pages: CancellationToken,
) -> Result<(Arc<Parts>, Door), RunError> {
    let config = running.config();
    let metrics = Arc::new(Metrics::new()?);
    let (sync_seconds, quarantined) = (metrics.sync_seconds.clone(), metrics.quarantined.clone());
    let watchers = Watchers {
        synced: Box::new(move |took| sync_seconds.observe(took.as_secs_f64())),
        rot: Box::new(move |parts| quarantined.inc_by(parts)),
    };
    let (spool, waiting) = Spool::open(Arc::new(RealDisk::new(data)), watchers)?;
    let queue = Arc::new(Queue::new(&config.document.primary.delivery, config.document.when_primary_up));
    spool.damages().0.iter().for_each(|damage| tracing::warn!("{damage}"));
    waiting.into_iter().for_each(|(id, flow)| queue.spooled(id, flow, Lane::Backlog));
    let primary = Arc::new(Primary::new(&config, caller, queue.clone(), metrics.clone(), data));
    primary.recount_outage(&spool);
    let clients = Arc::new(Clients::default());
    let pass_through =
        PassThrough::new(primary.clone(), queue.clone(), spool.clone(), metrics.clone(), running.clone());
    let door = Door {
        pass_through,
        rules: ArcSwap::from_pointee(reload::rules(&config)),
        cordoned: watch::Sender::new(false),
        spool: spool.clone(),
        queue: queue.clone(),
        primary: primary.clone(),
        certificates: certificates.clone(),
        memory: Memory::new(reload::memory_bytes(&config), bounds(&config).with_those_leaving()),
        promises: Promises::default(),
        clients: clients.clone(),
        metrics: metrics.clone(),
    };
    let started_at = Timestamp::now();
    let news = News::new(pages);
    let parts = Parts { running, started_at, spool, queue, primary, certificates, token, metrics, clients, news };
    Ok((Arc::new(parts), door))
}

fn caller(config: &Config, encryption: Arc<Encryption>, listeners: &Listeners) -> Result<Caller, RunError> {
    let own = listeners.smtp.iter().chain(&listeners.proxied).map(TcpListener::local_addr);
    let own = own.collect::<Result<_, _>>().map_err(RunError::Address)?;
    Ok(Caller::new(config.document.hostname.clone(), encryption, own))
}

fn drain(parts: &Parts) -> Drain {
    Drain {
        spool: parts.spool.clone(),
        queue: parts.queue.clone(),
        primary: parts.primary.clone(),
        metrics: parts.metrics.clone(),
        running: parts.running.clone(),
        lately: Lately::default(),
    }
}

/// What of the configuration somebody should know from the start on.
fn log_configuration(refused: Option<Refused>, parts: &Parts, hall: &Hall) {
    let config = parts.running.config();
    parts.metrics.config_generation.set(config.document.generation);
    reload::tell_ignored(&parts.running.status().ignored_keys, parts);
    if let Some(refused) = refused {
        parts.running.refuse(&refused, Timestamp::now());
        reload::announce(&refused, parts);
    }
    reload::cordon(config.is_cordoned, hall);
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
        hostname = config.document.hostname,
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
