//! While the breaker is open: tests whether the primary is mended, with a question and one message.

use std::{sync::Arc, time::Instant};

use tokio_util::sync::CancellationToken;

use super::{
    Drain, QUIT_TIMEOUT,
    inquiry::{self, Inquiry},
    round::{Ended, INQUIRY_TIMEOUT},
};
use crate::{foreign::shown, queue::Doing};

impl Drain {
    /// Tests once, and tells the end.
    pub(super) async fn retest(self: Arc<Self>, stop: CancellationToken) {
        let is_well = tokio::select! {
            () = stop.cancelled() => false,
            is_mended = self.is_mended() => is_mended,
        };
        self.primary.ends_test(is_well);
    }

    async fn is_mended(&self) -> bool {
        let place = self.queue.may_connect(Instant::now());
        let mut hop = match self.open().await {
            Ok(hop) => hop,
            Err(cause) => {
                self.not_opened(&cause, place.as_ref());
                return false;
            }
        };
        let (postmaster, asks_mail) = self.primary.in_question();
        match inquiry::inquire(&mut hop, &postmaster, asks_mail, INQUIRY_TIMEOUT).await {
            Inquiry::Well => {}
            Inquiry::RefusesMail(words) | Inquiry::RefusesPostmaster(words) | Inquiry::Unclear(words) => {
                tracing::info!(postmaster, words = shown(&words), "the primary is not mended yet");
                return false;
            }
        }
        // Without a message that is due the answer has to do; those that met the breaker go as soon as it is closed.
        let taken = place.and_then(|place| Some((place, self.queue.take(Instant::now())?)));
        let Some((mut place, id)) = taken else { return true };
        place.turn_to(Doing::Working);
        let ended = self.round(&mut hop, id, &mut place).await;
        tokio::spawn(hop.quit(QUIT_TIMEOUT));
        // A refusal that comes with a good answer to the question is a verdict on the mail, and is asked for again when mail goes.
        ended != Ended::Unusable
    }
}
