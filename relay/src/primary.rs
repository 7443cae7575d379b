//! Watches the primary: one task probes it, deliveries add what they find, everybody else asks here.

pub mod mirror;
pub mod monitor;

use std::{
    fs::{self, File},
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use backupmx_relay_api::{
    config::{Host, Probe},
    status::{self, PrimaryState},
};
use jiff::Timestamp;
use tokio::{sync::Notify, time::sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    mirror::Mirror,
    monitor::{Finding, Moment, Monitor},
};
use crate::{
    chance,
    delivery::hop::{Hop, OpenError, Patience},
    foreign::shown,
    mail::envelope::Offers,
    metrics::Metrics,
    queue::Queue,
};

/// In the data folder: what the primary offers, so that a restart while it is away forgets nothing.
const OFFERS_FILE: &str = "primary-offers.json";

/// A primary that sent something back does so again within this time, when it tries that message anew; one that did not is mended.
const LOOPS_BACK_FOR: Duration = Duration::from_secs(3600);

/// What is known of the primary, and the way to find out more.
pub struct Primary {
    hosts: Vec<Host>,
    hostname: String,
    patience: Patience,
    monitor: Mutex<Monitor>,
    mirror: Arc<Mutex<Mirror>>,
    /// Who holds it may write it.
    offers_file: Arc<Mutex<PathBuf>>,
    /// Writes of it that are under way.
    writes: TaskTracker,
    /// Those that the configuration names instead of names.
    addresses: Vec<IpAddr>,
    /// Who holds the drain, and why.
    hold: Mutex<Option<status::Hold>>,
    /// When it last brought what it got from us.
    sent_back_at: Mutex<Option<Instant>>,
    /// The probing task should look at its plans again.
    replan: Notify,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
}

impl Primary {
    /// Nothing is known yet but what `data`, the data folder, still tells of its offers.
    pub fn new(
        hosts: Vec<Host>,
        hostname: String,
        probe: Probe,
        queue: Arc<Queue>,
        metrics: Arc<Metrics>,
        data: &Path,
    ) -> Self {
        let patience = Patience { connect: probe.connect_timeout.0, reply: probe.timeout.0 };
        let monitor = Mutex::new(Monitor::new(probe, Timestamp::now()));
        let offers_file = data.join(OFFERS_FILE);
        let mirror = Mirror::new(hosts.iter().map(name).collect(), remembered(&offers_file));
        let (mirror, offers_file) = (Arc::new(Mutex::new(mirror)), Arc::new(Mutex::new(offers_file)));
        let literals = hosts.iter().filter_map(|host| host.host.trim_matches(['[', ']']).parse().ok());
        let addresses = literals.map(|address: IpAddr| address.to_canonical()).collect();
        let replan = Notify::new();
        Self {
            hosts,
            hostname,
            patience,
            monitor,
            mirror,
            offers_file,
            writes: TaskTracker::new(),
            addresses,
            hold: Mutex::default(),
            sent_back_at: Mutex::default(),
            replan,
            queue,
            metrics,
        }
    }

    /// Probes until `stop`.
    pub async fn watch(&self, stop: &CancellationToken) {
        loop {
            let changed = self.queue.changed();
            let next = self.monitor().next_probe(self.queue.waiting() > 0, Instant::now());
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed => {}
                () = self.replan.notified() => {}
                () = sleep_until(next.into()) => tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.probe_once() => {}
                },
            }
        }
    }

    /// Somebody wants to know now.
    pub fn probe_at_once(&self) {
        self.monitor().probe_at_once();
        self.replan.notify_one();
    }

    /// A client came: senders that come to us have often just failed at the primary.
    pub fn client_connected(&self) {
        if self.monitor().client_connected(Instant::now()) {
            self.replan.notify_one();
        }
    }

    /// Takes in what a delivery found.
    pub fn delivery_found(&self, finding: Finding) {
        self.found(finding, moment());
        self.replan.notify_one();
    }

    /// A connection got as far as EHLO: remembers its address, and what it offers.
    pub fn met(&self, hop: &Hop) {
        if !lock(&self.mirror).note(&hop.name, hop.address, &hop.extensions, Timestamp::now()) {
            return;
        }
        let (file, mirror) = (self.offers_file.clone(), self.mirror.clone());
        self.writes.spawn_blocking(move || {
            // One at a time, each with what is known by then: so the last one writes the newest.
            let file = lock(&file);
            let document = lock(&mirror).document();
            if let Err(cause) = write(&file, &document) {
                tracing::warn!(file = %file.display(), %cause, "write what the primary offers");
            }
        });
    }

    /// Waits until all that was met is on the volume, before the process ends.
    pub async fn close(&self) {
        self.writes.close();
        self.writes.wait().await;
    }

    /// Whether this is an address of the primary, as far as it is known.
    pub fn has_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.addresses.contains(&address) || lock(&self.mirror).knows(address)
    }

    /// A person wants nothing to be handed over. False if somebody held it already; then this one does.
    pub fn hold(&self, author: &str, reason: &str) -> bool {
        let since = Timestamp::now().to_string();
        let hold = status::Hold { since, by: author.to_owned(), reason: reason.to_owned() };
        lock(&self.hold).replace(hold).is_none()
    }

    /// A person wants mail to be handed over again. False if nobody held it.
    pub fn resume(&self, _author: &str) -> bool {
        let held = lock(&self.hold).take().is_some();
        self.queue.wake();
        self.probe_at_once();
        held
    }

    /// Who holds the drain, and why.
    pub fn held(&self) -> Option<status::Hold> {
        lock(&self.hold).clone()
    }

    /// A person says that the primary is whole. False if the breaker was not open.
    pub fn reset_breaker(&self, _author: &str) -> bool {
        false
    }

    /// It brought what it got from us.
    pub fn sends_back(&self) {
        *lock(&self.sent_back_at) = Some(Instant::now());
    }

    /// Whether it did so lately.
    pub fn loops_back(&self) -> bool {
        lock(&self.sent_back_at).is_some_and(|at| at.elapsed() < LOOPS_BACK_FOR)
    }

    /// What senders may be offered: the longest message, at most `message_bytes_max`, and parameters.
    pub fn offers(&self, message_bytes_max: u64) -> (u64, Offers) {
        lock(&self.mirror).offers(message_bytes_max)
    }

    /// The same for the status document.
    pub fn capabilities(&self, message_bytes_max: u64) -> status::Capabilities {
        lock(&self.mirror).capabilities(message_bytes_max)
    }

    async fn probe_once(&self) {
        let begun = moment();
        self.monitor().probing();
        let finding = self.probe().await;
        self.metrics.probe_seconds.observe(begun.at.elapsed().as_secs_f64());
        self.found(finding, begun);
    }

    fn found(&self, finding: Finding, begun: Moment) {
        let (change, reason) = {
            let mut monitor = self.monitor();
            (monitor.found(finding, chance::spread(), begun), shown(&monitor.reason))
        };
        match change.state {
            Some(PrimaryState::Up) => tracing::info!(reason, waiting = self.queue.waiting(), "primary is up"),
            Some(state) => tracing::warn!(reason, waiting = self.queue.waiting(), "primary is {state:?}"),
            None => tracing::debug!(reason, "primary was looked at"),
        }
        if change.returned {
            self.queue.primary_returned();
        }
        self.metrics.primary_up.set(i64::from(self.is_up()));
    }

    /// A delivery got its answers: as good as a probe.
    pub fn delivery_answered(&self, host: &str) {
        let is_news = self.monitor().is_news(Instant::now());
        if is_news {
            self.delivery_found(Finding::Answers { host: host.to_owned() });
        }
    }

    /// Whether mail can go.
    pub fn is_up(&self) -> bool {
        self.held().is_none() && self.monitor().state == PrimaryState::Up
    }

    /// The host that answered last: where mail goes.
    pub fn host(&self) -> Host {
        let monitor = self.monitor();
        let named = |host: &&Host| monitor.host.as_ref().is_some_and(|answered| *answered == name(host));
        // The configuration names one host at least (config.rs).
        self.hosts.iter().find(named).unwrap_or(&self.hosts[0]).clone()
    }

    /// For the status document.
    pub fn status(&self) -> status::Primary {
        let monitor = self.monitor();
        status::Primary {
            state: if self.held().is_some() { PrimaryState::Held } else { monitor.state },
            since: monitor.since.to_string(),
            last_probe: monitor.found_at.map(|found| found.clock.to_string()),
            reason: shown(&monitor.reason),
            host: monitor.host.clone(),
        }
    }

    /// Opens a connection to each host in turn; the first that answers decides.
    async fn probe(&self) -> Finding {
        let mut finding = Finding::Unreachable { reason: "no host is configured".into() };
        for host in &self.hosts {
            match Hop::open(host, &self.hostname, self.patience).await {
                Ok(hop) => {
                    finding = Finding::Answers { host: hop.name.clone() };
                    self.met(&hop);
                    // The answer is known; mail must not wait for the goodbye.
                    tokio::spawn(hop.quit(self.patience.reply));
                    break;
                }
                Err(cause) => finding = finding_of(&cause),
            }
        }
        finding
    }

    fn monitor(&self) -> MutexGuard<'_, Monitor> {
        lock(&self.monitor)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name(host: &Host) -> String {
    format!("{}:{}", host.host, host.port)
}

/// What the file holds; nothing if it cannot be used, since the primary tells it again when it is back.
fn remembered(file: &Path) -> mirror::Document {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return mirror::Document::default(),
        Err(cause) => {
            tracing::warn!(file = %file.display(), %cause, "read what the primary offers");
            return mirror::Document::default();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|cause| {
        tracing::warn!(file = %file.display(), %cause, "what the primary offers cannot be read and is asked again");
        mirror::Document::default()
    })
}

/// Replaces the file as a whole, so that a crash leaves the old one or the new one.
fn write(file: &Path, document: &mirror::Document) -> io::Result<()> {
    let temporary = file.with_extension("new");
    let mut written = File::create(&temporary)?;
    written.write_all(&serde_json::to_vec_pretty(document)?)?;
    written.sync_all()?;
    fs::rename(&temporary, file)?;
    File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
}

fn moment() -> Moment {
    Moment { at: Instant::now(), clock: Timestamp::now() }
}

/// What a failed probe says of the primary.
fn finding_of(cause: &OpenError) -> Finding {
    let reason = cause.to_string();
    match cause {
        OpenError::Unreachable { .. } => Finding::Unreachable { reason },
        OpenError::Refused { .. } => Finding::Refuses { reason },
    }
}
