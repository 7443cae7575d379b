//! Who wants nothing to be handed over, and why. No I/O, no clock.

use std::time::{Duration, Instant};

use backupmx_relay_api::status;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::monitor::Moment;

/// A primary that sent something back does so again within this time, when it tries that message anew; one that did not is mended.
const LOOPS_BACK_FOR: Duration = Duration::from_secs(3600);

/// A person's word, as it is kept on the volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Since when.
    pub since: Timestamp,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// All that holds the drain, besides the breaker.
#[derive(Debug)]
pub struct Hold {
    ordered: Option<Order>,
    /// The configuration says so, since then.
    configured_since: Option<Timestamp>,
    /// When the primary last brought what it got from us, and first did so in a row.
    sent_back: Option<(Instant, Timestamp)>,
}

impl Hold {
    /// As it was when the relay stopped, and as the configuration says.
    pub fn new(ordered: Option<Order>, is_configured: bool, now: Timestamp) -> Self {
        Self { ordered, configured_since: is_configured.then_some(now), sent_back: None }
    }

    /// What the configuration says from now on.
    pub fn configure(&mut self, is_configured: bool, now: Timestamp) {
        self.configured_since = is_configured.then(|| self.configured_since.unwrap_or(now));
    }

    /// It is another primary by now, of which nothing is known.
    pub fn forget_primary(&mut self) {
        self.sent_back = None;
    }

    /// A person holds the drain. False if a person held it before, whose word this one replaces.
    pub fn order(&mut self, order: Order) -> bool {
        self.ordered.replace(order).is_none()
    }

    /// A person wants it to go on. False if nothing was lifted by that; what the configuration holds is not.
    pub fn resume(&mut self) -> bool {
        self.ordered.take().is_some() | self.sent_back.take().is_some()
    }

    /// What is to be kept on the volume.
    pub fn ordered(&self) -> Option<&Order> {
        self.ordered.as_ref()
    }

    /// The primary brought what it got from us: it would come again and again.
    pub fn sent_back(&mut self, now: Moment) {
        let since = if self.loops_back(now.at) { self.sent_back.map(|(_, since)| since) } else { None };
        self.sent_back = Some((now.at, since.unwrap_or(now.clock)));
    }

    /// Whether it did so lately.
    pub fn loops_back(&self, now: Instant) -> bool {
        self.sent_back.is_some_and(|(last, _)| now.duration_since(last) < LOOPS_BACK_FOR)
    }

    /// Who holds it, if anybody does.
    pub fn by(&self, now: Instant) -> Option<status::Hold> {
        let hold = |since: Timestamp, by: &str, reason: &str| {
            Some(status::Hold { since: since.to_string(), by: by.to_owned(), reason: reason.to_owned() })
        };
        match (self, &self.ordered, self.configured_since) {
            (_, Some(Order { since, by, reason }), _) => hold(*since, by, reason),
            (_, None, Some(since)) => hold(since, "configuration", "primary.delivery.hold is set"),
            (Self { sent_back: Some((_, since)), .. }, ..) if self.loops_back(now) => {
                hold(*since, "backupmx", "the primary sends mail back that it got from here")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(hold: &Hold, now: Instant) -> Option<String> {
        hold.by(now).map(|hold| hold.by)
    }

    #[test]
    fn a_persons_word_counts_first_and_only_what_a_person_can_lift_is_lifted() {
        let now = Moment { at: Instant::now(), clock: Timestamp::UNIX_EPOCH };
        let order = Order { since: now.clock, by: "ann".into(), reason: "restore".into() };
        let mut hold = Hold::new(Some(order.clone()), true, now.clock);
        assert_eq!(by(&hold, now.at).as_deref(), Some("ann"));
        assert!(hold.resume());
        assert_eq!(by(&hold, now.at).as_deref(), Some("configuration"));
        assert!(!hold.resume());
        let mut hold = Hold::new(None, false, now.clock);
        assert_eq!(hold.by(now.at), None);
        assert!(hold.order(order.clone()) && !hold.order(order.clone()));
        assert_eq!(hold.ordered(), Some(&order));
        assert!(hold.resume());
        assert_eq!((hold.by(now.at), hold.ordered()), (None, None));
    }

    #[test]
    fn a_primary_that_sends_mail_back_gets_none_for_an_hour_or_until_a_person_says_so() {
        let start = Moment { at: Instant::now(), clock: Timestamp::UNIX_EPOCH };
        let later = Moment { at: start.at + LOOPS_BACK_FOR / 2, clock: Timestamp::from_second(1800).unwrap() };
        let mut hold = Hold::new(None, false, start.clock);
        hold.sent_back(start);
        hold.sent_back(later);
        let since = hold.by(later.at + LOOPS_BACK_FOR / 2).map(|hold| hold.since);
        assert_eq!(since, Some(Timestamp::UNIX_EPOCH.to_string()));
        assert_eq!(hold.by(later.at + LOOPS_BACK_FOR), None);
        hold.sent_back(later);
        hold.resume();
        assert_eq!(hold.by(later.at), None);
    }

    #[test]
    fn the_configuration_may_change_its_mind_and_a_person_is_not_asked_for_that() {
        let now = Moment { at: Instant::now(), clock: Timestamp::UNIX_EPOCH };
        let later = Timestamp::from_second(60).unwrap();
        let mut hold = Hold::new(None, true, now.clock);
        hold.configure(true, later);
        assert_eq!(hold.by(now.at).map(|hold| hold.since), Some(now.clock.to_string()), "it is the same hold");
        hold.sent_back(now);
        hold.configure(false, later);
        assert_eq!(by(&hold, now.at).as_deref(), Some("backupmx"));
        hold.forget_primary();
        assert_eq!(by(&hold, now.at), None);
        hold.order(Order { since: later, by: "ann".into(), reason: "move".into() });
        hold.forget_primary();
        hold.configure(false, later);
        assert_eq!(by(&hold, now.at).as_deref(), Some("ann"));
    }
}
