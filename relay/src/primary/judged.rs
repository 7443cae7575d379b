//! What it says to mail that passes through and that is not about the mail: that it does not want us to bring it.

use std::time::{Duration, Instant};

use backupmx_relay_api::status;
use jiff::Timestamp;

use super::{Primary, lock, monitor::Moment};
use crate::foreign::shown;

/// A refusal of this kind counts for so long: what is mended is forgotten, and what comes with every other message stays.
const COUNTS_FOR: Duration = Duration::from_secs(3600);
/// Whether it refuses the null sender is asked once in this time.
const NULL_SENDER_KNOWN_FOR: Duration = Duration::from_secs(600);

/// What is known of that.
#[derive(Debug, Default)]
pub struct Judged {
    last: Option<(Moment, Timestamp, String)>,
    null_sender: Option<(Instant, bool)>,
}

impl Judged {
    fn judges(&mut self, words: &str, now: Moment) -> bool {
        let since = self.holds(now.at).map(|(_, since, _)| *since);
        self.last = Some((now, since.unwrap_or(now.clock), words.to_owned()));
        since.is_none()
    }

    fn holds(&self, now: Instant) -> Option<&(Moment, Timestamp, String)> {
        self.last.as_ref().filter(|(last, ..)| now.duration_since(last.at) < COUNTS_FOR)
    }

    fn null_sender(&self, now: Instant) -> Option<bool> {
        self.null_sender.filter(|(asked, _)| now.duration_since(*asked) < NULL_SENDER_KNOWN_FOR).map(|(_, taken)| taken)
    }
}

impl Primary {
    /// It refused what a message needs, in words that judge us.
    pub fn judges_us(&self, words: &str) {
        self.metrics.pass_judged.inc();
        if lock(&self.judged).judges(words, Moment::now()) {
            tracing::error!(
                words = shown(words),
                "the primary refuses its backup, so senders hear 451: it has to trust this relay's address"
            );
        }
    }

    /// What it said last of this kind.
    pub fn judges(&self) -> Option<status::Judges> {
        let judged = lock(&self.judged);
        let (_, since, words) = judged.holds(Instant::now())?;
        Some(status::Judges { since: since.to_string(), reason: shown(words) })
    }

    /// It is mended, or a person says so: it is asked anew.
    pub(super) fn forget_null_sender(&self) {
        lock(&self.judged).null_sender = None;
    }

    /// Whether it takes the null sender, if it was asked lately.
    pub fn takes_null_sender(&self) -> Option<bool> {
        lock(&self.judged).null_sender(Instant::now())
    }

    /// It was asked.
    pub fn null_sender_asked(&self, is_taken: bool) {
        lock(&self.judged).null_sender = Some((Instant::now(), is_taken));
    }

    /// It does not take XCLIENT though the configuration says so, or does again.
    pub fn xclient_taken(&self, named: &str, refusal: Option<&str>) {
        let mut unheard = lock(&self.xclient_refused);
        match refusal {
            None if unheard.is_empty() => {}
            None => drop(unheard.remove(named)),
            Some(_) if unheard.contains_key(named) => {}
            Some(words) => {
                tracing::warn!(host = named, words = shown(words), "the primary does not take XCLIENT");
                let problem = format!(
                    "{named} does not take XCLIENT ({}), so it judges this relay and not its clients. List the relay's address there (Postfix: smtpd_authorized_xclient_hosts), or take xclient from its entry in primary.hosts.",
                    shown(words)
                );
                unheard.insert(named.to_owned(), problem);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_counts_for_an_hour_and_its_beginning_is_kept() {
        let (mut judged, at) = (Judged::default(), Instant::now());
        let now = |seconds: u64| {
            let clock = Timestamp::from_second(seconds.cast_signed()).unwrap();
            Moment { at: at + Duration::from_secs(seconds), clock }
        };
        assert!(judged.judges("554 5.7.1 blocked", now(0)));
        assert!(!judged.judges("550 5.7.23 SPF", now(3000)));
        let (_, since, words) = judged.holds(now(6599).at).unwrap();
        assert_eq!((*since, words.as_str()), (Timestamp::UNIX_EPOCH, "550 5.7.23 SPF"));
        assert!(judged.holds(now(6600).at).is_none());
        assert!(judged.judges("554 5.7.1 blocked", now(6600)));
    }

    #[test]
    fn the_null_sender_is_asked_about_every_ten_minutes() {
        let (mut judged, at) = (Judged::default(), Instant::now());
        assert_eq!(judged.null_sender(at), None);
        judged.null_sender = Some((at, false));
        assert_eq!(judged.null_sender(at + NULL_SENDER_KNOWN_FOR - Duration::from_secs(1)), Some(false));
        assert_eq!(judged.null_sender(at + NULL_SENDER_KNOWN_FOR), None);
    }
}
