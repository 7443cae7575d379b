//! Puts the status document together: what a relay says of itself on the observe and console ports.

use std::{sync::Arc, time::Instant};

use backupmx_relay_api::{
    SCHEMA,
    status::{Certificate, Drain, DrainState, Queue as QueueStatus, Spool as SpoolStatus, Status},
};
use jiff::{SignedDuration, Timestamp};

use crate::{
    admin::Token,
    metrics::Metrics,
    poll::News,
    primary::Primary,
    queue::Queue,
    running::Running,
    smtp::{
        certificates::{Certificates, Described},
        clients::Clients,
    },
    spool::{Counts, Spool, field::HeldReason},
};

/// Those who know.
pub struct Parts {
    /// The configuration.
    pub running: Arc<Running>,
    /// When the process started.
    pub started_at: Timestamp,
    /// Mail on disk.
    pub spool: Spool,
    /// Mail that waits.
    pub queue: Arc<Queue>,
    /// The primary.
    pub primary: Arc<Primary>,
    /// For STARTTLS.
    pub certificates: Arc<Certificates>,
    /// Who may give orders.
    pub token: Arc<Token>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Who came.
    pub clients: Arc<Clients>,
    /// Who waits for a change of this document.
    pub news: News,
}

impl Parts {
    /// The document as of now.
    pub fn status(&self) -> Status {
        let counts = self.spool.counts();
        let config = self.running.config();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema: SCHEMA,
            hostname: config.document.hostname.clone(),
            config_generation: config.document.generation,
            revision: self.news.revision(),
            started_at: self.started_at.to_string(),
            primary: self.primary.status(),
            queue: queue(counts),
            drain: self.drain(),
            spool: SpoolStatus {
                bytes: self.spool.bytes(),
                free_bytes: self.spool.free_bytes(),
                writable: self.spool.is_writable(),
                quarantined: self.metrics.quarantined.get(),
            },
            account: self.spool.account(),
            sessions: self.metrics.sessions.get().try_into().unwrap_or_default(),
            config: self.running.status(),
            clients: self.clients.status(),
            cordoned: config.is_cordoned,
            outages: self.primary.outages(),
            tls: self.certificates.described().into_iter().map(certificate).collect(),
            capabilities: self.primary.capabilities(config.document.limits.message_size.0),
            problems: self.problems(),
        }
    }

    fn drain(&self) -> Drain {
        let connections = self.queue.connections() as u64;
        let state = match (self.queue.waiting(), connections) {
            (0, _) => DrainState::Idle,
            (_, 0) => DrainState::Waiting,
            _ => DrainState::Draining,
        };
        let now = Instant::now();
        let empty_in = self.queue.time_to_empty(now).and_then(|left| SignedDuration::try_from(left).ok());
        let estimated_empty = empty_in.and_then(|left| Timestamp::now().checked_add(left).ok());
        Drain {
            state,
            messages_per_second: self.queue.messages_per_second(now),
            connections,
            connections_allowed: self.queue.connections_allowed() as u64,
            estimated_empty: estimated_empty.map(|at| at.to_string()),
            hold: self.primary.held_by(),
            breaker: self.primary.breaker(),
        }
    }

    fn problems(&self) -> Vec<String> {
        let (mut problems, _) = self.spool.damages();
        if !self.spool.is_writable() {
            problems.push(
                "Nothing can be written to the spool, so no mail is taken or delivered; the log names the error."
                    .into(),
            );
        }
        if self.spool.is_on_last_room() {
            problems.push(
                "No segment could be begun, so the log stands on the last room that there is: outcomes of deliveries are recorded, no mail is taken; make room or enlarge the volume."
                    .into(),
            );
        }
        if self.spool.free_bytes() < self.running.config().document.limits.free_space.0 {
            problems.push("The volume is nearly full, so senders hear 452; make room or enlarge it.".into());
        }
        problems.extend(self.running.problem());
        problems.extend(self.token.problem());
        problems.extend(self.held());
        problems.extend(self.primary.problems());
        problems.extend(self.certificates.problems(Timestamp::now()));
        let difference = self.spool.account().difference();
        if difference != 0 {
            problems.push(format!("The account is off by {difference} recipients; please report this defect."));
        }
        problems
    }
}

impl Parts {
    /// In how many messages somebody is held, and why.
    fn held(&self) -> Option<String> {
        let by_reason = self.spool.held_by_reason();
        let told: Vec<_> = by_reason
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| format!("{count} {} ({})", reason.word(), why(reason)))
            .collect();
        (!told.is_empty()).then(|| {
            format!(
                "Mail is held, in so many messages: {}. The admin API lists it (messages?state=held); release, retry or delete it.",
                told.join(", ")
            )
        })
    }
}

/// Why a message is held, for people.
fn why(reason: HeldReason) -> &'static str {
    match reason {
        HeldReason::Undeliverable => "the primary refused a recipient for good",
        HeldReason::Capability => "the primary no longer takes what it offered when they came",
        HeldReason::Expired => "they waited longer than retention.queue",
        HeldReason::Damaged => "stored bytes are damaged",
        HeldReason::Recovered => "they were found after damage",
        HeldReason::Person => "somebody wants it so",
        HeldReason::Unknown => "the log says why",
    }
}

fn certificate(Described { name, not_after }: Described) -> Certificate {
    Certificate { name, not_after: not_after.to_string() }
}

fn queue(counts: Counts) -> QueueStatus {
    let Counts { messages, bytes, held, oldest_ms } = counts;
    let oldest = oldest_ms.and_then(|oldest| Timestamp::from_millisecond(oldest).ok());
    QueueStatus { messages, bytes, held, oldest: oldest.map(|oldest| oldest.to_string()) }
}
