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
    running::Running,
    small_file::SmallFile,
    spool::{
        Spool, Stands,
        field::{Change, Fate, HeldNote, HeldReason, State},
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
/// What expires when nobody wants it.
const REFUSED: [HeldReason; 2] = [HeldReason::Undeliverable, HeldReason::Capability];
/// Who does it.
const BY: &str = "backupmx";

/// What it works with.
pub struct Keeper {
    /// Where mail is.
    pub spool: Spool,
    /// What waits.
    pub queue: Arc<Queue>,
    /// How long mail is kept.
    pub running: Arc<Running>,
    clock: Mutex<AgeClock>,
    file: SmallFile,
}

impl Keeper {
    /// Goes on by the clock in `file`.
    pub fn new(spool: Spool, queue: Arc<Queue>, running: Arc<Running>, file: SmallFile) -> Self {
        let clock = Mutex::new(AgeClock::new(file.read(), Timestamp::now()));
        Self { spool, queue, running, clock, file }
    }

    /// Looks again and again, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let keeper = Arc::new(self);
        let (mut looked_at, mut changes) = (Instant::now(), keeper.running.changes());
        while !stop.is_cancelled() {
            let running = keeper.running.config();
            let config::Retention { queue, undeliverable, .. } = &running.document.retention;
            let interval = (queue.0.min(undeliverable.0) / 10).clamp(LOOK_INTERVAL_MIN, LOOK_INTERVAL_MAX);
            tokio::select! {
                () = stop.cancelled() => {}
                _ = changes.changed() => {}
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
        let running = self.running.config();
        let config::Retention { queue, at_expiry, undeliverable } = &running.document.retention;
        let config::AtExpiry::Hold = at_expiry;
        let cutoff_ms = self.clock().ago(queue.0).as_millisecond();
        for id in self.spool.waiting_before(cutoff_ms, MESSAGES_MAX) {
            let still = |stands: &Stands| stands.waits_since_ms < cutoff_ms;
            let words = format!("waited longer than retention.queue ({queue})");
            self.end(id, State::Waiting, still, words).await;
        }
        let cutoff_ms = self.clock().ago(undeliverable.0).as_millisecond();
        let is_meant = |note: &HeldNote| REFUSED.contains(&note.reason) && note.since_ms < cutoff_ms;
        for id in self.spool.held_before(&REFUSED, cutoff_ms, MESSAGES_MAX) {
            let still = |stands: &Stands| stands.note.as_ref().is_some_and(is_meant);
            let words = format!("held longer than retention.undeliverable ({undeliverable})");
            self.end(id, State::Held, still, words).await;
        }
    }

    /// Holds those who wait, or ends those who are held. `still`: whether that is right by now, since a person may have decided otherwise
    /// meanwhile. What is being handed over at this moment is looked at the next time.
    async fn end(&self, id: MessageId, state: State, still: impl Fn(&Stands) -> bool, words: String) {
        let Some(claimed) = self.queue.claim(id) else { return };
        let Some(stands) = self.spool.stands(id).filter(still) else { return };
        let (kind, fate, held_as, places) = match state {
            State::Waiting => (Kind::Held, Fate::Held, Some(HeldReason::Expired), stands.waiting),
            State::Held | State::Ended => (Kind::Attempt, Fate::Expired, None, stands.held),
        };
        let fates: Vec<_> = places.into_iter().map(|place| (place, fate, words.clone())).collect();
        tracing::warn!(%id, recipients = fates.len(), words, "kept long enough: {fate:?}");
        let change = Change { kind, id, at: Timestamp::now(), by: BY.into(), fates, held_as };
        match self.spool.change(change).await {
            Ok(_) if state == State::Waiting => claimed.ended(),
            // Who waits in it waits on.
            Ok(_) => drop(claimed),
            Err(reason) => tracing::error!(%id, ?reason, "record that it was kept long enough; it is tried again"),
        }
    }
}
