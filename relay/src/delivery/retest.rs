//! While the breaker is open: tests whether the primary is mended, with a question and one message.

use std::{sync::Arc, time::Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Drain, QUIT_TIMEOUT,
    hop::Hop,
    inquiry::{self, Inquiry},
    round::{Ended, INQUIRY_TIMEOUT},
};
use crate::{
    foreign::shown,
    queue::{Doing, Place},
};

impl Drain {
    /// Tests once, and tells the end.
    pub(super) async fn retest(self: Arc<Self>, stop: CancellationToken) {
        let place = self.queue.may_connect(Instant::now());
        let returns = self.primary.returns();
        let asked = tokio::select! {
            () = stop.cancelled() => None,
            asked = self.question(place.as_ref()) => asked,
        };
        let is_well = match asked {
            None => false,
            // What is under way has its end recorded, whoever wants to stop.
            Some((hop, is_certain)) => self.try_one(hop, place, &returns).await.unwrap_or(is_certain),
        };
        self.primary.ends_test(is_well);
    }

    /// Asks what opened the breaker. A connection if it shows no sign any more, and whether it has said so: one that puts such
    /// questions off shows by a message whether it is well.
    async fn question(&self, place: Option<&Place>) -> Option<(Hop, bool)> {
        let mut hop = self.open().await.inspect_err(|cause| self.not_opened(cause, place)).ok()?;
        let (postmaster, asks_mail) = self.primary.in_question();
        match inquiry::inquire(&mut hop, &postmaster, asks_mail, INQUIRY_TIMEOUT).await {
            Inquiry::Well => Some((hop, true)),
            Inquiry::Unclear(_) => self.open().await.ok().map(|hop| (hop, false)),
            Inquiry::RefusesMail(words) | Inquiry::RefusesPostmaster(words) => {
                tracing::info!(postmaster, words = shown(&words), "the primary is not mended yet");
                None
            }
        }
    }

    /// Tries one message. `None` if there is none that is due: those that met the breaker go as soon as it is closed.
    async fn try_one(&self, mut hop: Hop, place: Option<Place>, returns: &watch::Receiver<u64>) -> Option<bool> {
        let taken = place.and_then(|place| Some((place, self.queue.take(Instant::now())?)));
        let Some((mut place, id)) = taken else {
            tokio::spawn(hop.quit(QUIT_TIMEOUT));
            return None;
        };
        place.turn_to(Doing::Working);
        let ended = self.round(&mut hop, id, &mut place, returns).await;
        tokio::spawn(hop.quit(QUIT_TIMEOUT));
        // A refusal that comes with a good answer to the question is a verdict on the mail, and is asked about again when mail goes.
        Some(ended != Ended::Unusable)
    }
}
