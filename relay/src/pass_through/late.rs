//! Mail that is ours and that the primary may have, too: what it says later is recorded, and until then the message is not tried again.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{PassThrough, lease::Lease};
use crate::{
    delivery::{passage::Ending, wire::TalkError},
    mail::{envelope::Flow, id::MessageId},
    queue::scheduler::Lane,
    spool::{
        field::{Change, Fate},
        record::Kind,
    },
};

/// With the four minutes before, the ten that RFC 5321 section 4.5.3.2.6 has a client wait for the answer to the final dot.
const LATE_ANSWER_MAX: Duration = Duration::from_secs(360);
/// Until a record that could not be written is tried again; see `delivery/round.rs`.
const RECORD_RETRY: Duration = Duration::from_secs(1);

/// The primary had all of a message and has not said what becomes of it.
pub struct Maybe {
    next_hop: String,
    words: String,
    /// On which it may still say so.
    lease: Option<Lease>,
}

impl Maybe {
    pub(super) fn ended(lease: &Lease, cause: &TalkError) -> Self {
        let next_hop = lease.passage.hop().name.clone();
        Self { next_hop, words: format!("maybe delivered: {cause}"), lease: None }
    }

    pub(super) fn late(lease: Lease) -> Self {
        let next_hop = lease.passage.hop().name.clone();
        Self { next_hop, words: "maybe delivered: no answer in time".into(), lease: Some(lease) }
    }
}

impl PassThrough {
    /// The message is kept. Records what the primary says of it, now or later, and only then lets it go the way of all that waits.
    /// A restart meanwhile forgets this: the message is tried again then.
    pub fn settle(self: &Arc<Self>, maybe: Maybe, id: MessageId, flow: Flow, recipients: u32) {
        let through = self.clone();
        tokio::spawn(async move {
            let Maybe { next_hop, mut words, lease } = maybe;
            let mut fate = Fate::Deferred;
            if let Some(mut lease) = lease {
                match lease.passage.late_answer(LATE_ANSWER_MAX).await {
                    Ending::Passed(proof) => (fate, words) = (Fate::Delivered, proof.words()),
                    // It has not taken it, and the usual attempts tell what comes of that.
                    Ending::Said(answer) => words = answer.words(),
                    Ending::Unknown(cause) => {
                        through.broke(&lease, &cause);
                        words = format!("maybe delivered: {cause}");
                    }
                    Ending::Broken(_) | Ending::Late => {} // not said of an answer
                }
                lease.give_back();
            }
            let reply = crate::foreign::shown(&words);
            tracing::info!(%id, next_hop, reply, is_delivered = fate == Fate::Delivered, "the primary had all of it, and answers late or not at all");
            match fate {
                Fate::Delivered => through.primary.handed_over(id, Timestamp::now()),
                _ => through.metrics.deferred.inc(),
            }
            let fates = (0..recipients).map(|place| (place, fate, words.clone())).collect();
            let change = Change { kind: Kind::Attempt, id, at: Timestamp::now(), by: next_hop, fates, held_as: None };
            if through.record(change).await {
                through.metrics.delivered.inc();
            }
            // A person may have held or deleted it meanwhile.
            if !through.spool.waiting(id).is_empty() {
                through.queue.spooled(id, flow, Lane::New);
            }
        });
    }

    async fn record(&self, change: Change) -> bool {
        loop {
            match self.spool.change(change.clone()).await {
                Ok(closed) => return closed,
                Err(reason) => {
                    tracing::error!(id = %change.id, ?reason, "record what the primary said; tried again");
                    tokio::time::sleep(RECORD_RETRY).await;
                }
            }
        }
    }
}
