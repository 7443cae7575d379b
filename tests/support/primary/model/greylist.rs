//! Greylisting: who comes for the first time comes again, or is no mail server. No I/O, no clock.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::Moment;

pub(super) struct Greylist {
    delay: Duration,
    first_seen: HashMap<(IpAddr, String, String), Instant>,
}

impl Greylist {
    pub(super) fn new(delay: Duration) -> Self {
        Self { delay, first_seen: HashMap::new() }
    }

    /// Whether it is too early. Postmaster is never put off (RFC 5321 section 4.5.1).
    pub(super) fn puts_off(&mut self, moment: &Moment) -> bool {
        if moment.is_about_postmaster() {
            return false;
        }
        let triple = (moment.client, moment.sender.to_owned(), moment.recipient.to_owned());
        let first_seen = self.first_seen.entry(triple).or_insert(moment.now);
        moment.now < *first_seen + self.delay
    }
}
