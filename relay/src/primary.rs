//! Watches the primary: one task probes it, deliveries add what they find, everybody else asks here.

pub mod monitor;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use backupmx_relay_api::{
    config::{Host, Probe},
    status::{self, PrimaryState},
};
use jiff::Timestamp;
use tokio::{sync::Notify, time::sleep_until};
use tokio_util::sync::CancellationToken;

use self::monitor::{Finding, Moment, Monitor};
use crate::{
    chance,
    delivery::hop::{Hop, OpenError, Patience},
    foreign::shown,
    metrics::Metrics,
    queue::Queue,
};

/// What is known of the primary, and the way to find out more.
pub struct Primary {
    hosts: Vec<Host>,
    hostname: String,
    patience: Patience,
    monitor: Mutex<Monitor>,
    /// The probing task should look at its plans again.
    replan: Notify,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
}

impl Primary {
    /// Nothing is known yet.
    pub fn new(hosts: Vec<Host>, hostname: String, probe: Probe, queue: Arc<Queue>, metrics: Arc<Metrics>) -> Self {
        let patience = Patience { connect: probe.connect_timeout.0, reply: probe.timeout.0 };
        let monitor = Mutex::new(Monitor::new(probe, Timestamp::now()));
        Self { hosts, hostname, patience, monitor, replan: Notify::new(), queue, metrics }
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
        self.monitor().state == PrimaryState::Up
    }

    /// The host that answered last: where mail goes.
    pub fn host(&self) -> Host {
        let monitor = self.monitor();
        let named =
            |host: &&Host| monitor.host.as_ref().is_some_and(|name| *name == format!("{}:{}", host.host, host.port));
        // The configuration names one host at least (config.rs).
        self.hosts.iter().find(named).unwrap_or(&self.hosts[0]).clone()
    }

    /// For the status document.
    pub fn status(&self) -> status::Primary {
        let monitor = self.monitor();
        status::Primary {
            state: monitor.state,
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
        self.monitor.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
