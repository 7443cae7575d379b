//! Asks the relays: one long poll to each, the newest answer held. A silent relay is a finding, not an error.

use std::sync::Arc;

use backupmx_relay_api::status::Status;
use jiff::Timestamp;

/// What the relays say.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// By ordinal, one for each pod of `Applied`.
    pub relays: Vec<Report>,
}

/// What one relay says.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub pod: String,
    /// Its newest answer, even if it is silent since.
    pub answer: Option<Arc<Status>>,
    /// How many times this pod has answered; grows with each answer, also with one that says nothing new.
    pub answers: u64,
    /// Why it cannot be asked at present; absent while it answers.
    pub silence: Option<String>,
    /// Since when; absent while it answers.
    pub silent_since: Option<Timestamp>,
}
