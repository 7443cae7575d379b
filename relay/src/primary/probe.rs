//! One look at the primary, from rung to rung.

use std::time::Instant;

use backupmx_relay_api::config::Depth;

use super::{Primary, Settings, monitor::Finding};
use crate::delivery::{
    hop::{Hop, OpenError},
    inquiry::{self, Inquiry},
};

/// What a look found, and how the connection could not be made, if it could not.
pub struct Look {
    /// For the monitor.
    pub finding: Finding,
    /// Of the last host that was tried.
    pub error: Option<OpenError>,
}

impl Primary {
    /// Climbs to each host in turn; the first that answers decides.
    pub(super) async fn look(&self, settings: &Settings) -> Look {
        let mut look = Look { finding: Finding::Unreachable { reason: "no host is configured".into() }, error: None };
        let patience = settings.patience();
        for host in &settings.hosts {
            let begun = Instant::now();
            let climbed = match settings.probe.depth {
                Depth::Connect => settings.caller.touch(host, patience).await.map(|_| None),
                Depth::Ehlo => settings.caller.greeted(host, patience).await.map(Some),
                Depth::StartTls | Depth::Recipient => self.open(host, patience).await.map(Some),
            };
            match climbed {
                Ok(Some(hop)) => return Look { finding: self.climb(hop, settings, begun).await, error: None },
                Ok(None) => return Look { finding: answers(&super::name(host), begun), error: None },
                Err(cause) => {
                    self.note(host, &cause);
                    look = failed(cause);
                }
            }
        }
        look
    }

    /// The rungs above EHLO and STARTTLS.
    async fn climb(&self, mut hop: Hop, settings: &Settings, begun: Instant) -> Finding {
        let (mut finding, limit) = (answers(&hop.name, begun), settings.patience().reply);
        if settings.probe.depth == Depth::Recipient {
            match inquiry::inquire(&mut hop, settings.probe_recipient.as_str(), true, limit).await {
                Inquiry::Well => finding = answers(&hop.name, begun),
                Inquiry::RefusesMail(words) | Inquiry::RefusesPostmaster(words) | Inquiry::Unclear(words) => {
                    finding = Finding::Refuses { reason: format!("probe of {}: {words}", hop.name) };
                }
            }
        }
        // The answer is known; mail must not wait for the goodbye.
        tokio::spawn(hop.quit(limit));
        finding
    }
}

fn answers(name: &str, begun: Instant) -> Finding {
    Finding::Answers { host: name.to_owned(), took: begun.elapsed() }
}

fn failed(cause: OpenError) -> Look {
    let reason = cause.to_string();
    let finding = match &cause {
        OpenError::Unreachable { .. } | OpenError::Ourselves { .. } => Finding::Unreachable { reason },
        OpenError::Refused { .. } => Finding::Refuses { reason },
    };
    Look { finding, error: Some(cause) }
}
