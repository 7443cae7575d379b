//! Ends what was kept long enough: mail that waited too long is held, mail that was refused for good and nobody wanted expires.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use backupmx_relay_api::config;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    mail::id::MessageId,
    queue::{Queue, age::AgeClock},
    small_file::SmallFile,
    spool::{
        Spool, Stands,
        field::{Change, Fate, HeldReason, State},
        record::Kind,
    },
};

/// How the clock by which mail grows old stood.
pub const CLOCK_FILE: &str = "age-clock.json";
/// Between two looks, at most: a limit of days need not be kept to the second.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// And at least, for limits of seconds.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(200);
/// Messages that are ended at a look; the rest waits for the next one, and the drain is not held up.
const MESSAGES_MAX: usize = 1000;
/// Who does it.
const BY: &str = "backupmx";

/// What it works with.
pub struct Keeper {
    /// Where mail is.
    pub spool: Spool,
    /// What waits.
    pub queue: Arc<Queue>,
    /// How long mail is kept.
    pub retention: config::Retention,
    clock: Mutex<AgeClock>,
    file: SmallFile,
}

impl Keeper {
    /// Goes on by the clock in `file`.
    pub fn new(spool: Spool, queue: Arc<Queue>, retention: config::Retention, file: SmallFile) -> Self {
        let clock = Mutex::new(AgeClock::new(file.read(), Timestamp::now()));
        Self { spool, queue, retention, clock, file }
    }

    /// Looks again and again, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let config::Retention { queue, undeliverable, .. } = &self.retention;
        let interval = (queue.0.min(undeliverable.0) / 10).clamp(LOOK_INTERVAL_MIN, LOOK_INTERVAL_MAX);
        let keeper = Arc::new(self);
        let mut looked_at = Instant::now();
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(interval) => {}
            }
            let now = Instant::now();
            keeper.advance(now - looked_at);
            looked_at = now;
            let keeping = keeper.clone();
            let _ = tokio::task::spawn_blocking(move || keeping.file.write_or_log(|| keeping.clock().now())).await;
            if !stop.is_cancelled() {
                keeper.look().await;
            }
        }
    }

    fn advance(&self, passed: Duration) {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).advance(passed, Timestamp::now());
    }

    fn clock(&self) -> AgeClock {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(&self) {
        let config::Retention { queue, at_expiry, undeliverable } = &self.retention;
        let waited = self.spool.waiting_before(self.clock().ago(queue.0).as_millisecond(), MESSAGES_MAX);
        for id in waited {
            let config::AtExpiry::Hold = at_expiry;
            let words = format!("waited longer than retention.queue ({queue})");
            self.end(id, State::Waiting, Fate::Held, Some(HeldReason::Expired), words).await;
        }
        let reasons = [HeldReason::Undeliverable, HeldReason::Capability];
        let refused =
            self.spool.held_before(&reasons, self.clock().ago(undeliverable.0).as_millisecond(), MESSAGES_MAX);
        for id in refused {
            let words = format!("held longer than retention.undeliverable ({undeliverable})");
            self.end(id, State::Held, Fate::Expired, None, words).await;
        }
    }

    /// What is being handed over at this moment is looked at the next time.
    async fn end(&self, id: MessageId, state: State, fate: Fate, held_as: Option<HeldReason>, words: String) {
        let Some(claimed) = self.queue.claim(id) else { return };
        let Some(Stands { waiting, held, .. }) = self.spool.stands(id) else { return };
        let places = if state == State::Held { held } else { waiting };
        let fates: Vec<_> = places.into_iter().map(|place| (place, fate, words.clone())).collect();
        tracing::warn!(%id, recipients = fates.len(), words, "kept long enough: {fate:?}");
        let kind = if fate == Fate::Held { Kind::Held } else { Kind::Attempt };
        let change = Change { kind, id, at: Timestamp::now(), by: BY.into(), fates, held_as };
        match self.spool.change(change).await {
            Ok(_) if state == State::Waiting => claimed.ended(),
            // Who waits in it waits on.
            Ok(_) => drop(claimed),
            Err(reason) => tracing::error!(%id, ?reason, "record that it was kept long enough; it is tried again"),
        }
    }
}
