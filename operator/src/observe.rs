//! Asks the relays: one long poll to each, the newest answer held. A silent relay is a finding, not an error.

use std::sync::Arc;

use backupmx_relay_api::status::Status;

/// What the relays say.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// By ordinal, one for each pod of `Applied`.
    pub relays: Vec<Report>,
}

/// What one relay says.
#[derive(Clone, Debug)]
pub struct Report {
    pub pod: String,
    /// Its newest answer, even if it is silent since.
    pub answer: Option<Arc<Status>>,
    /// Why it cannot be asked at present; absent while it answers.
    pub silence: Option<String>,
}
