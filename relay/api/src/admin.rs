//! The admin API on the console port: paths, answers, problems. `Authorization: Bearer TOKEN` goes with each call.

use serde::{Deserialize, Serialize};

/// `GET`: the status document, as on the observe port.
pub const STATUS: &str = "/api/v1/status";
/// `POST`: probe the primary now and try all that waits. Answers [`Flushed`].
pub const FLUSH: &str = "/api/v1/flush";

/// Answer to [`FLUSH`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flushed {
    /// Messages that the order found waiting; they go as soon as the primary answers.
    pub messages: u64,
}

/// What went wrong, as RFC 9457 wants it told (`application/problem+json`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// Kind of the problem; `about:blank` says that the status code tells all.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// HTTP status code.
    pub status: u16,
    /// What a person can do about it.
    pub detail: String,
}
