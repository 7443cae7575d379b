//! Puts the status document together: what a relay says of itself on the observe and console ports.

use std::{sync::Arc, time::Instant};

use backupmx_relay_api::{
    SCHEMA,
    status::{Certificate, Drain, DrainState, Queue as QueueStatus, Spool as SpoolStatus, Status},
};
use jiff::Timestamp;

use crate::{
    metrics::Metrics,
    primary::Primary,
    queue::Queue,
    smtp::{
        certificates::{Certificates, Described},
        connection::Limits,
    },
    spool::{Counts, Spool},
};

/// Those who know.
pub struct Parts {
    /// Our name in SMTP.
    pub hostname: String,
    /// Generation of the config document.
    pub config_generation: i64,
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
    /// What a connection is allowed.
    pub limits: Limits,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl Parts {
    /// The document as of now.
    pub fn status(&self) -> Status {
        let counts = self.spool.counts();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema: SCHEMA,
            hostname: self.hostname.clone(),
            config_generation: self.config_generation,
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
            tls: self.certificates.described().into_iter().map(certificate).collect(),
            capabilities: self.primary.capabilities(self.limits.message_bytes_max),
            problems: self.problems(counts),
        }
    }

    fn drain(&self) -> Drain {
        let connections = self.queue.connections() as u64;
        let state = match (self.queue.waiting(), connections) {
            (0, _) => DrainState::Idle,
            (_, 0) => DrainState::Waiting,
            _ => DrainState::Draining,
        };
        Drain {
            state,
            messages_per_second: self.queue.messages_per_second(Instant::now()),
            connections,
            connections_allowed: connections,
            estimated_empty: None,
            hold: self.primary.held(),
            breaker: None,
        }
    }

    fn problems(&self, counts: Counts) -> Vec<String> {
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
        if self.spool.free_bytes() < self.limits.room_bytes_min {
            problems.push("The volume is nearly full, so senders hear 452; make room or enlarge it.".into());
        }
        if counts.held > 0 {
            let held = counts.held;
            problems.push(format!(
                "{held} messages are held: the primary refused a recipient for good, or no longer takes what it offered when they came (capability), or stored bytes are damaged; the log says which."
            ));
        }
        if self.primary.loops_back() {
            problems.push(
                "PrimaryLoopsBack: the primary sends mail back that it got from here, and hears 451; mend its route for this domain.".into(),
            );
        }
        problems.extend(self.certificates.problems(Timestamp::now()));
        let difference = self.spool.account().difference();
        if difference != 0 {
            problems.push(format!("The account is off by {difference} recipients; please report this defect."));
        }
        problems
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
