//! Tells who asks for the status when it has changed: looks at the document again and again, and lets polls wait for its revision.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backupmx_relay_api::{poll, quantity::Span};
use jiff::Timestamp;
use tokio::{
    sync::{Semaphore, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{foreign::shown, revision::Revision, status::Parts};

/// Between two looks. A person cannot tell the difference to none, and a look costs some microseconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Polls that wait at a time: two operators while they change over, a person, and room for those whose connection broke unnoticed. More
/// are a mistake, and each holds a connection.
pub const POLLS_MAX: usize = 32;

/// The revision, for all who wait for the next one.
pub struct News {
    revision: watch::Sender<u64>,
    places: Semaphore,
    stop: CancellationToken,
}

impl News {
    /// Before the first look. `stop`: from then on nobody waits.
    pub fn new(stop: CancellationToken) -> Self {
        Self { revision: watch::Sender::new(0), places: Semaphore::new(POLLS_MAX), stop }
    }

    /// The revision at the last look.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Comes back when there is something to tell: another revision than the one that is known, or the end of the wait, or of the process.
    pub async fn wait(&self, wanted: &Wanted, started_at: Timestamp) -> Result<(), TooMany> {
        let Wanted { after, started_at: known_start, wait } = *wanted;
        if self.revision() != after || known_start.is_some_and(|known| known != started_at) {
            return Ok(());
        }
        let _place = self.places.try_acquire().map_err(|_| TooMany)?;
        let mut revision = self.revision.subscribe();
        let grown = async { revision.wait_for(|revision| *revision != after).await.is_ok() };
        tokio::select! {
            _ = timeout(wait, grown) => {}
            () = self.stop.cancelled() => {}
        }
        Ok(())
    }
}

/// So many wait already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{POLLS_MAX} polls wait already; end one, or ask without {}.", poll::AFTER)]
pub struct TooMany;

/// What a poll waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    after: u64,
    started_at: Option<Timestamp>,
    wait: Duration,
}

/// Keys that cannot be understood. Says what to write.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadKeys(String);

impl Wanted {
    /// What stands behind the path. `None`: nothing is waited for.
    pub fn parse(query: Option<&str>) -> Result<Option<Self>, BadKeys> {
        let [mut after, mut started_at, mut wait] = [None, None, None];
        for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let place = match &*key {
                poll::AFTER => &mut after,
                poll::STARTED_AT => &mut started_at,
                poll::WAIT => &mut wait,
                _ => return Err(BadKeys(format!("There is no key {}; {EXAMPLE}", shown(&*key)))),
            };
            if place.replace(value.into_owned()).is_some() {
                return Err(BadKeys(format!("{key} stands twice; {EXAMPLE}")));
            }
        }
        let (after, wait) = match (after, wait) {
            (None, None) if started_at.is_none() => return Ok(None),
            (Some(after), Some(wait)) => (after, wait),
            _ => return Err(BadKeys(format!("{} and {} go together; {EXAMPLE}", poll::AFTER, poll::WAIT))),
        };
        let started_at = started_at.map(|text| text.parse().map_err(|_| bad(poll::STARTED_AT, &text)));
        let Span(wait) = wait.parse().map_err(|_| bad(poll::WAIT, &wait))?;
        Ok(Some(Self {
            after: after.parse().map_err(|_| bad(poll::AFTER, &after))?,
            started_at: started_at.transpose()?,
            wait: wait.min(Duration::from_secs(poll::WAIT_SECONDS_MAX)),
        }))
    }
}

/// Shows how it is done.
const EXAMPLE: &str = "write for instance after=17&startedAt=2026-11-27T16:00:00Z&wait=25s, with the revision and the startedAt of the last answer.";

fn bad(key: &str, value: &str) -> BadKeys {
    BadKeys(format!("{} is no value for {key}; {EXAMPLE}", shown(value)))
}

/// Looks until `stop`.
pub async fn watch(parts: Arc<Parts>, stop: CancellationToken) {
    let mut revision = Revision::default();
    let mut looks = interval(LOOK_INTERVAL);
    // After a pause of the machine one look is as good as many.
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => {}
        }
        parts.primary.look_at_outages(&parts.spool);
        let number = revision.look(&parts.status(), Instant::now());
        parts.news.revision.send_if_modified(|known| std::mem::replace(known, number) != number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = "2026-11-27T16:00:00Z";

    fn wanted(after: u64, started_at: Option<&str>, wait: Duration) -> Wanted {
        Wanted { after, started_at: started_at.map(|text| text.parse().unwrap()), wait }
    }

    #[test]
    fn keys_are_read_and_long_waits_cut() {
        let seconds = Duration::from_secs;
        for (query, expected) in [
            ("", None),
            ("after=0&wait=0s", Some(wanted(0, None, seconds(0)))),
            ("after=17&startedAt=2026-11-27T16:00:00Z&wait=25s", Some(wanted(17, Some(START), seconds(25)))),
            ("wait=500ms&after=17", Some(wanted(17, None, Duration::from_millis(500)))),
            (
                "after=17&startedAt=2026-11-27T17%3A00%3A00%2B01%3A00&wait=9h",
                Some(wanted(17, Some(START), seconds(60))),
            ),
        ] {
            assert_eq!(Wanted::parse(Some(query)), Ok(expected), "{query}");
        }
        assert_eq!(Wanted::parse(None), Ok(None));
    }

    #[test]
    fn keys_that_cannot_be_read_are_named_with_what_to_write() {
        for (query, named) in [
            ("after=17", "after and wait go together"),
            ("wait=25s", "after and wait go together"),
            ("startedAt=2026-11-27T16:00:00Z", "after and wait go together"),
            ("after=-1&wait=25s", "-1 is no value for after"),
            ("after=&wait=25s", "no value for after"),
            ("after=99999999999999999999&wait=25s", "no value for after"),
            ("after=17&wait=25", "25 is no value for wait"),
            ("after=17&wait=soon", "soon is no value for wait"),
            ("after=17&wait=25s&startedAt=yesterday", "yesterday is no value for startedAt"),
            ("after=17&after=18&wait=25s", "after stands twice"),
            ("After=17&wait=25s", "no key After"),
            ("after=17&wait=%0d%0a", r"\r\n is no value for wait"),
        ] {
            let words = Wanted::parse(Some(query)).unwrap_err().to_string();
            assert!(words.contains(named) && words.contains("after=17&startedAt="), "{query}: {words}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_ends_with_the_next_revision_with_its_wait_or_with_the_process() {
        let (stop, start) = (CancellationToken::new(), START.parse().unwrap());
        let news = News::new(stop.clone());
        news.revision.send_replace(17);
        let begun = tokio::time::Instant::now();
        for known in [wanted(16, None, WAIT), wanted(18, None, WAIT), wanted(17, Some("2026-11-27T15:00:00Z"), WAIT)] {
            assert_eq!(news.wait(&known, start).await, Ok(()));
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let known = wanted(17, Some(START), WAIT);
        assert_eq!(news.wait(&known, start).await, Ok(()));
        assert_eq!(begun.elapsed(), WAIT);
        let later = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            news.revision.send_replace(18);
        };
        let (told, ()) = tokio::join!(news.wait(&known, start), later);
        assert_eq!((told, begun.elapsed()), (Ok(()), WAIT + Duration::from_secs(1)));
        stop.cancel();
        assert_eq!(news.wait(&wanted(18, None, WAIT), start).await, Ok(()));
        assert_eq!(begun.elapsed(), WAIT + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_wait_and_no_more_and_whoever_goes_leaves_a_place() {
        let (news, start) = (News::new(CancellationToken::new()), START.parse().unwrap());
        let known = wanted(0, None, WAIT);
        let mut waiting: Vec<_> = (0..POLLS_MAX).map(|_| Box::pin(news.wait(&known, start))).collect();
        for poll in &mut waiting {
            assert!(timeout(Duration::ZERO, poll).await.is_err(), "it waits");
        }
        assert_eq!(news.wait(&known, start).await, Err(TooMany));
        assert_eq!(news.wait(&wanted(9, None, WAIT), start).await, Ok(()), "who need not wait needs no place");
        drop(waiting.pop());
        assert!(timeout(Duration::ZERO, news.wait(&known, start)).await.is_err(), "it waits");
    }

    const WAIT: Duration = Duration::from_secs(25);
}
