//! One look at the primary, from rung to rung.

use std::time::Instant;

use backupmx_relay_api::config::Depth;

use super::{Primary, monitor::Finding};
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
    pub(super) async fn look(&self) -> Look {
        let mut look = Look { finding: Finding::Unreachable { reason: "no host is configured".into() }, error: None };
        for host in &self.settings.hosts {
            let begun = Instant::now();
            let climbed = match self.settings.probe.depth {
                Depth::Connect => self.caller.touch(host, self.patience()).await.map(|_| None),
                Depth::Ehlo => {
                    self.caller.greeted(host, self.patience()).await.inspect(|hop| self.greeted_by(hop)).map(Some)
                }
                Depth::StartTls | Depth::Recipient => self.open(host, self.patience()).await.map(Some),
            };
            match climbed {
                Ok(Some(hop)) => return Look { finding: self.climb(hop, begun).await, error: None },
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
    async fn climb(&self, mut hop: Hop, begun: Instant) -> Finding {
        let mut finding = answers(&hop.name, begun);
        if self.settings.probe.depth == Depth::Recipient {
            let limit = self.patience().reply;
            match inquiry::inquire(&mut hop, self.settings.probe_recipient.as_str(), true, limit).await {
                Inquiry::Well => finding = answers(&hop.name, begun),
                Inquiry::RefusesMail(words) | Inquiry::RefusesPostmaster(words) | Inquiry::Unclear(words) => {
                    finding = Finding::Refuses { reason: format!("probe of {}: {words}", hop.name) };
                }
            }
        }
        // The answer is known; mail must not wait for the goodbye.
        tokio::spawn(hop.quit(self.patience().reply));
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
