//! While the primary is up, its verdict is ours: mail goes to it while its sender waits. Who holds the mail at each step is decided in
//! `pass_through/passing.rs`; this is the way to the primary that all of it shares. docs/smtp.md has the table.

mod late;
mod lease;
mod passing;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backupmx_relay_api::config;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use self::lease::Idle;
pub use self::{
    late::Maybe,
    passing::{AtEnd, AtRecipient, No, Offer, Passing, Why},
};
use crate::{
    delivery::{hop::Patience, passage::Stopped, wire::TalkError},
    metrics::Metrics,
    primary::{Primary, monitor::Finding},
    queue::Queue,
    running::Running,
    spool::Spool,
};

/// How often connections without work are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What sessions share.
pub struct PassThrough {
    primary: Arc<Primary>,
    queue: Arc<Queue>,
    spool: Spool,
    metrics: Arc<Metrics>,
    running: Arc<Running>,
    idle: Mutex<Vec<Idle>>,
    /// Who holds it looks for a connection; the others wait, in the order in which they came.
    turn: tokio::sync::Mutex<()>,
    /// A connection has come back.
    returned: Notify,
    /// The process ends.
    stopping: CancellationToken,
}

impl PassThrough {
    /// Nothing is open yet.
    pub fn new(
        primary: Arc<Primary>,
        queue: Arc<Queue>,
        spool: Spool,
        metrics: Arc<Metrics>,
        running: Arc<Running>,
    ) -> Arc<Self> {
        Arc::new(Self {
            primary,
            queue,
            spool,
            metrics,
            running,
            idle: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            returned: Notify::new(),
            stopping: CancellationToken::new(),
        })
    }

    /// Closes connections that are no longer needed, until `stop`; then all of them.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            self.close_idle(stop.is_cancelled());
        }
        self.stopping.cancel();
    }

    fn patience(&self) -> Patience {
        Patience { connect: self.primary.connect_timeout(), reply: self.settings().stall.0 }
    }

    fn settings(&self) -> config::PassThrough {
        self.running.config().document.pass_through
    }

    /// What a failure tells of the primary.
    fn found(&self, lease: &lease::Lease, finding: impl FnOnce(String) -> Finding, words: &str) {
        // How a connection ends that is from before an outage, or to another host, tells nothing of the primary as it is now.
        if !lease.is_old() {
            self.queue.broke(Instant::now().into_std());
            let name = &lease.passage.hop().name;
            self.primary.delivery_found(finding(format!("mail that passes to {name}: {words}")));
        }
    }

    fn troubled(&self, lease: &lease::Lease, words: &str) {
        self.found(lease, |reason| Finding::Troubled { reason }, words);
    }

    fn broke(&self, lease: &lease::Lease, cause: &TalkError) {
        self.found(lease, |reason| Finding::Broken { reason }, &cause.to_string());
    }

    fn stopped(&self, lease: &lease::Lease, stopped: &Stopped) {
        if let Stopped::Broken(cause) = stopped {
            self.broke(lease, cause);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
