//! The contract between a relay and those who configure and ask it: documents, calls, ports, paths, metric names.
//!
//! Depends on serde alone, so that neither side drags the other's libraries along.

pub mod admin;
pub mod config;
pub mod metric;
pub mod quantity;
pub mod status;

/// Version of the documents in this crate. The operator writes only what all running relays know.
///
/// 1: the first. 2: `whenPrimaryUp: PassThrough`, and `xclient` of a host.
pub const SCHEMA: u32 = 2;

/// Default ports of a relay.
pub mod port {
    /// SMTP; a Service maps 25 to it, so that the relay needs no privilege.
    pub const SMTP: u16 = 2525;
    /// Where mail servers take mail (RFC 5321 section 4.5.4.2).
    pub const SMTP_DELIVERY: u16 = 25;
    /// Metrics, status and health; no secrets, inside the cluster only.
    pub const OBSERVE: u16 = 9125;
    /// Admin API and web console; always authenticated.
    pub const CONSOLE: u16 = 8025;
}

/// Paths on the observe port.
pub mod path {
    /// Prometheus text format.
    pub const METRICS: &str = "/metrics";
    /// [`crate::status::Status`] as JSON. With the keys of [`crate::poll`] the answer waits for a change.
    pub const STATUS: &str = "/status";
    /// 200 while the process lives.
    pub const HEALTHZ: &str = "/healthz";
    /// 200 while SMTP answers.
    pub const READYZ: &str = "/readyz";
}

/// Keys of `GET /status?after=17&startedAt=2026-11-27T16:00:00Z&wait=25s`: the answer comes when the revision is no longer this one,
/// when it is of another start, or when the wait is over, whichever is first.
pub mod poll {
    /// The revision that is known.
    pub const AFTER: &str = "after";
    /// The `startedAt` that came with it.
    pub const STARTED_AT: &str = "startedAt";
    /// How long to wait at most, as a duration.
    pub const WAIT: &str = "wait";
    /// Longer waits are cut to this: shorter than what proxies on the way allow.
    pub const WAIT_SECONDS_MAX: u64 = 60;
}
