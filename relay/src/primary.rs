//! What is known of the primary, and whether mail may go to it: one task probes it, deliveries add what they find, everybody
//! else asks here.

mod gate;
pub mod hold;
mod judged;
pub mod maintenance;
pub mod mirror;
pub mod monitor;
mod news;
pub mod outage;
mod probe;
mod reconfigure;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};
use backupmx_relay_api::{
    config::{self, Depth, Host},
    status::{self, PrimaryState},
};
use jiff::Timestamp;
use tokio::{
    sync::{Notify, watch},
    time::sleep_until,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    hold::{Hold, Order},
    judged::Judged,
    maintenance::Maintenance,
    mirror::Mirror,
    monitor::{Finding, Moment, Monitor},
    outage::Outages,
    probe::Look,
};
use crate::{
    chance,
    config::{Config, postmaster_domain},
    delivery::{
        breaker::{Breaker, Sign},
        hop::{Caller, Hop, OpenError, Patience},
        resolve,
    },
    foreign::shown,
    mail::{address::Address, envelope::Offers},
    metrics::Metrics,
    queue::Queue,
    small_file::SmallFile,
};

/// What the primary offers, so that a restart while it is away forgets nothing.
const OFFERS_FILE: &str = "primary-offers.json";
/// Who holds the drain: a restart must not hand over what a person wants kept back.
const HOLD_FILE: &str = "drain-hold.json";
/// When it was away.
const OUTAGES_FILE: &str = "outages.json";
/// How often plans are looked at again, for what nobody announces: the end of a maintenance.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What is known of the primary, and the way to find out more.
pub struct Primary {
    settings: ArcSwap<Settings>,
    monitor: Mutex<Monitor>,
    breaker: Mutex<Breaker>,
    hold: Arc<Mutex<Hold>>,
    hold_file: SmallFile,
    mirror: Arc<Mutex<Mirror>>,
    offers_file: SmallFile,
    outages: Arc<Mutex<Outages>>,
    outages_file: SmallFile,
    /// Which host (`host:port`) said last from which address it sees us come, and what it said.
    seen_from: Mutex<Option<(String, Option<IpAddr>)>>,
    /// Writes of these files that are under way.
    writes: TaskTracker,
    /// What a person should hear of a host, by its name: it is ourselves, or its encryption has lapsed.
    alarms: Mutex<BTreeMap<String, String>>,
    /// The same for a host that should take XCLIENT and does not.
    xclient_refused: Mutex<BTreeMap<String, String>>,
    judged: Mutex<Judged>,
    /// How often it has come back after having been away.
    returns: watch::Sender<u64>,
    /// The probing task should look at its plans again.
    replan: Notify,
    /// The hosts are others now: a probe that is under way tells nothing any more.
    moved: Notify,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
}

/// What the configuration says of it.
struct Settings {
    caller: Caller,
    hosts: Vec<Host>,
    probe: config::Probe,
    probe_recipient: Address,
    postmaster_domain: String,
    maintenance: Maintenance,
    remember_starttls: Duration,
    second_look_after: Duration,
    /// Those that are named in place of names.
    addresses: Vec<IpAddr>,
}

/// Why no mail goes.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Hindrance {
    Maintenance,
    Hold(status::Hold),
    Breaker,
    Away,
}

impl Primary {
    /// Nothing is known yet but what `data`, the data folder, still tells of its offers, and of who holds the drain.
    pub fn new(config: &Config, caller: Caller, queue: Arc<Queue>, metrics: Arc<Metrics>, data: &Path) -> Self {
        let primary = &config.document.primary;
        let (offers_file, hold_file) = (
            SmallFile::new(data, OFFERS_FILE, "what the primary offers"),
            SmallFile::new(data, HOLD_FILE, "who holds the drain"),
        );
        let outages_file = SmallFile::new(data, OUTAGES_FILE, "when the primary was away");
        let settings = Settings::of(config, caller);
        let mirror = Mirror::new(settings.names(), offers_file.read().unwrap_or_default());
        let ordered: Option<Option<Order>> = hold_file.read();
        Self {
            settings: ArcSwap::from_pointee(settings),
            monitor: Mutex::new(Monitor::new(primary.probe.clone(), Timestamp::now())),
            breaker: Mutex::new(Breaker::new(primary.breaker.clone())),
            hold: Arc::new(Mutex::new(Hold::new(ordered.flatten(), primary.delivery.hold, Timestamp::now()))),
            hold_file,
            mirror: Arc::new(Mutex::new(mirror)),
            offers_file,
            outages: Arc::new(Mutex::new(Outages::new(outages_file.read().unwrap_or_default()))),
            outages_file,
            seen_from: Mutex::default(),
            writes: TaskTracker::new(),
            alarms: Mutex::default(),
            xclient_refused: Mutex::default(),
            judged: Mutex::default(),
            returns: watch::Sender::new(0),
            replan: Notify::new(),
            moved: Notify::new(),
            queue,
            metrics,
        }
    }

    fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Probes until `stop`.
    pub async fn watch(&self, stop: &CancellationToken) {
        loop {
            let changed = self.queue.changed();
            let (now, next) = (Instant::now(), self.next_probe());
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed => {}
                () = self.replan.notified() => {}
                () = sleep_until((now + LOOK_AGAIN).into()), if next > now + LOOK_AGAIN => {}
                () = sleep_until(next.into()) => tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.moved.notified() => {}
                    () = self.probe_once() => {}
                },
            }
        }
    }

    fn next_probe(&self) -> Instant {
        let now = Moment::now();
        let is_wanted = !matches!(self.hindrance(now), Some(Hindrance::Maintenance | Hindrance::Hold(_)));
        let monitor = lock(&self.monitor);
        let is_first = monitor.host.as_ref().is_none_or(|host| *host == name(&self.settings().hosts[0]));
        monitor.next_probe(is_wanted && self.queue.waiting() > 0, is_first, now.at)
    }

    async fn probe_once(&self) {
        let begun = Moment::now();
        lock(&self.monitor).probing();
        let settings = self.settings.load_full();
        let Look { finding, error } = self.look(&settings).await;
        self.metrics.probe_seconds.observe(begun.at.elapsed().as_secs_f64());
        match &error {
            // Our own deliveries take all the places that there are.
            Some(cause) if cause.turns_away() && self.queue.connections_served() > 0 => {
                return lock(&self.monitor).turned_away(begun);
            }
            Some(cause) if cause.is_permanent() => self.sign(Sign::Greeting, &self.postmaster(), &cause.to_string()),
            Some(_) => {}
            None if settings.probe.depth == Depth::Connect => {}
            None => lock(&self.breaker).greeted(Instant::now()),
        }
        self.found(finding, begun, &settings);
    }

    /// Opens a connection, and remembers what was met.
    pub async fn open(&self, host: &Host, patience: Patience) -> Result<Hop, OpenError> {
        let (named, settings) = (name(host), self.settings.load_full());
        let expects_starttls =
            lock(&self.mirror).expects_starttls(&named, settings.remember_starttls, Timestamp::now());
        let opened = settings.caller.open(host, patience, expects_starttls).await;
        if !self.is_named(&named) {
            return opened; // nothing is remembered of it
        }
        let mut alarms = lock(&self.alarms);
        match &opened {
            Ok(Hop { lapse: Some(lapse), .. }) => {
                if alarms.insert(named, format!("Mail goes to {}:{} in clear: {lapse}", host.host, host.port)).is_none()
                {
                    tracing::error!(host = host.host, port = host.port, lapse = shown(lapse), "mail goes in clear");
                }
            }
            Ok(_) => drop(alarms.remove(&named)),
            Err(_) => {}
        }
        drop(alarms);
        if let Err(cause) = &opened {
            self.note(host, cause);
        }
        if let Ok(hop) = &opened {
            self.met(hop);
        }
        opened
    }

    /// What a person has to mend.
    fn note(&self, host: &Host, cause: &OpenError) {
        if matches!(cause, OpenError::Ourselves { .. }) && self.is_named(cause.name()) {
            lock(&self.alarms).insert(name(host), format!("Nothing is handed over: {cause}; correct primary.hosts."));
        }
    }

    fn met(&self, hop: &Hop) {
        self.greeted_by(hop);
        if !lock(&self.mirror).note(&hop.name, hop.address, &hop.extensions, hop.offers_starttls(), Timestamp::now()) {
            return;
        }
        self.keep_offers();
    }

    fn keep_offers(&self) {
        let (file, mirror) = (self.offers_file.clone(), self.mirror.clone());
        self.writes.spawn_blocking(move || file.write_or_log(|| lock(&mirror).document()));
    }

    /// Waits until all that was met is on the volume, before the process ends.
    pub async fn close(&self) {
        self.write_last_outages();
        self.writes.close();
        self.writes.wait().await;
    }

    /// Somebody wants to know now.
    pub fn probe_at_once(&self) {
        lock(&self.monitor).probe_at_once();
        self.replan.notify_one();
    }

    /// A delivery hears nothing for a while: it is looked at, unless something was found lately.
    pub fn look_if_old(&self) {
        if lock(&self.monitor).client_connected(false, Instant::now()) {
            self.replan.notify_one();
        }
    }

    /// A client came: senders that come to us have often just failed at the primary, and the primary itself lives.
    pub fn client_connected(&self, client: IpAddr) {
        let is_primary = self.has_address(client);
        let mut monitor = lock(&self.monitor);
        if monitor.client_connected(is_primary, Instant::now()) {
            self.replan.notify_one();
        }
    }

    /// Takes in what a delivery found.
    pub fn delivery_found(&self, finding: Finding) {
        self.found(finding, Moment::now(), &self.settings.load_full());
        self.replan.notify_one();
    }

    /// A delivery got its answers: as good as a probe.
    pub fn delivery_answered(&self, host: &str) {
        let is_news = lock(&self.monitor).is_news(Instant::now());
        // What a host answers late from which mail was moved away tells nothing of the one where it goes now.
        if is_news && self.is_host(host) {
            self.delivery_found(Finding::Takes { host: host.to_owned() });
        }
    }

    /// `by`: the settings by which it was found. Of other hosts it tells nothing.
    fn found(&self, finding: Finding, begun: Moment, by: &Settings) {
        let (change, reason, takes_mail) = {
            let mut monitor = lock(&self.monitor);
            if by.names() != self.settings().names() {
                return;
            }
            let change = monitor.found(finding, chance::spread(), begun);
            (change, shown(&monitor.reason), monitor.takes_mail())
        };
        let is_alarming = !self.settings().maintenance.is_at(begun.clock);
        match change.state {
            Some(PrimaryState::Up) => tracing::info!(reason, waiting = self.queue.waiting(), "primary is up"),
            Some(state) if is_alarming => {
                tracing::warn!(reason, waiting = self.queue.waiting(), "primary is {state:?}");
            }
            Some(state) => tracing::info!(reason, "primary is {state:?}, in its maintenance"),
            None => tracing::debug!(reason, "primary was looked at"),
        }
        self.note_presence();
        if change.came_back {
            self.returns.send_modify(|returns| *returns += 1);
            self.goes_on(begun.at);
        } else if change.returned {
            self.queue.primary_answers();
        }
        if change.proved {
            self.queue.primary_proved();
        }
        self.metrics.primary_up.set(i64::from(takes_mail));
    }

    /// For the TCP connect of a delivery.
    pub fn connect_timeout(&self) -> Duration {
        self.settings().probe.connect_timeout.0
    }

    /// Whether mail can go.
    pub fn takes_mail(&self) -> bool {
        self.hindrance(Moment::now()).is_none()
    }

    fn hindrance(&self, now: Moment) -> Option<Hindrance> {
        if self.settings().maintenance.is_at(now.clock) {
            return Some(Hindrance::Maintenance);
        }
        if let Some(hold) = lock(&self.hold).by(now.at) {
            return Some(Hindrance::Hold(hold));
        }
        if lock(&self.breaker).open().is_some() {
            return Some(Hindrance::Breaker);
        }
        (!lock(&self.monitor).takes_mail()).then_some(Hindrance::Away)
    }

    /// A connection to it was not made, and no other one is served.
    pub fn not_opened(&self, cause: &OpenError) {
        if !self.is_named(cause.name()) {
            return;
        }
        let reason = cause.to_string();
        if cause.is_permanent() {
            self.sign(Sign::Greeting, &self.postmaster(), &reason);
        }
        self.delivery_found(if cause.turns_away() { Finding::Troubled { reason } } else { Finding::Broken { reason } });
    }

    /// Whether a connection to this one (`host:port`) is from before an outage (`returns`: as of when it was made), or mail goes to another
    /// host by now.
    pub fn is_past(&self, named: &str, returns: &watch::Receiver<u64>) -> bool {
        returns.has_changed().unwrap_or(true) || !self.is_host(named)
    }

    /// Tells of each return, from now on.
    pub fn returns(&self) -> watch::Receiver<u64> {
        self.returns.subscribe()
    }

    /// The host that answered last: where mail goes.
    pub fn host(&self) -> Host {
        let monitor = lock(&self.monitor);
        let named = |host: &&Host| monitor.host.as_ref().is_some_and(|answered| *answered == name(host));
        // The configuration names one host at least (config.rs).
        let hosts = &self.settings().hosts;
        hosts.iter().find(named).unwrap_or(&hosts[0]).clone()
    }

    /// Whether mail still goes to this one (`host:port`).
    pub fn is_host(&self, named: &str) -> bool {
        name(&self.host()) == named
    }

    /// Whether the configuration names this one (`host:port`).
    pub fn is_named(&self, named: &str) -> bool {
        self.settings().hosts.iter().any(|host| name(host) == named)
    }

    /// Whether this is an address of the primary, as far as it is known.
    pub fn has_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.settings().addresses.contains(&address) || lock(&self.mirror).knows(address)
    }

    /// What senders may be offered: the longest message, at most `message_bytes_max`, and parameters.
    pub fn offers(&self, message_bytes_max: u64) -> (u64, Offers) {
        lock(&self.mirror).offers(message_bytes_max)
    }

    /// The same for the status document.
    pub fn capabilities(&self, message_bytes_max: u64) -> status::Capabilities {
        lock(&self.mirror).capabilities(message_bytes_max)
    }

    /// For the status document.
    pub fn status(&self) -> status::Primary {
        let now = Moment::now();
        let hindrance = self.hindrance(now);
        let open = self.breaker();
        let monitor = lock(&self.monitor);
        let (state, since, reason) = match hindrance {
            Some(Hindrance::Maintenance) => {
                (PrimaryState::Maintenance, monitor.since.to_string(), self.settings().maintenance.words())
            }
            Some(Hindrance::Hold(status::Hold { since, by, reason })) => {
                (PrimaryState::Held, since, format!("held by {by}: {reason}"))
            }
            Some(Hindrance::Breaker) | Some(Hindrance::Away) | None => match open {
                Some(status::Breaker { since, reason, .. }) => (PrimaryState::Held, since, reason),
                None => (monitor.state, monitor.since.to_string(), shown(&monitor.reason)),
            },
        };
        let egress_address = monitor.host.as_deref().and_then(|host| self.egress_address(host));
        let last_probe = monitor.found_at.map(|found| found.clock.to_string());
        let judges = self.judges();
        status::Primary { state, since, last_probe, reason, host: monitor.host.clone(), egress_address, judges }
    }

    /// What a person should look at, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<_> = lock(&self.alarms).values().map(shown).collect();
        problems.extend(lock(&self.xclient_refused).values().cloned());
        problems.extend(self.settings().caller.problem().map(shown));
        if let Some(status::Judges { reason, .. }) = self.judges() {
            problems.push(format!(
                "PrimaryJudgesUs: the primary refuses mail because this relay brings it ({reason}), so senders hear 451. Let it trust the relay's address (docs/trust.md)."
            ));
        }
        if self.loops_back() {
            problems.push(
                "PrimaryLoopsBack: the primary sends mail back that it got from here, and hears 451; nothing more is handed over for an hour. Mend its route for this domain, then resume the drain.".into(),
            );
        }
        if let Some(open) = lock(&self.breaker).open() {
            problems.push(format!(
                "The breaker is open, so nothing is handed over and nothing sent back: {} ({}). It is tested by itself; if the refusals are meant, reset it.",
                open.sign.words(),
                shown(&open.words)
            ));
        }
        problems
    }
}

impl Settings {
    fn of(config: &Config, caller: Caller) -> Self {
        let primary = &config.document.primary;
        let literals = primary.hosts.iter().filter_map(|host| resolve::literal(&host.host));
        Self {
            caller,
            hosts: primary.hosts.clone(),
            probe: primary.probe.clone(),
            probe_recipient: config.probe_recipient.clone(),
            postmaster_domain: postmaster_domain(&config.document.domains).to_owned(),
            maintenance: config.maintenance,
            remember_starttls: primary.tls.remember_starttls.0,
            second_look_after: primary.breaker.second_look_after.0,
            addresses: literals.map(|address| address.to_canonical()).collect(),
        }
    }

    /// `host:port` of each host.
    fn names(&self) -> Vec<String> {
        self.hosts.iter().map(name).collect()
    }

    /// What the configuration bounds for the connect and each reply of a probe.
    fn patience(&self) -> Patience {
        Patience { connect: self.probe.connect_timeout.0, reply: self.probe.timeout.0 }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name(host: &Host) -> String {
    format!("{}:{}", host.host, host.port)
}
