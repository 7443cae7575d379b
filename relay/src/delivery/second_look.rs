//! Which messages a primary that had just returned refused, and when they are tried once more. No I/O, no clock.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::mail::id::MessageId;

/// Messages that wait for their second look. Refusals beyond are the last word at once: held mail is not lost, and one order
/// tries all of it again.
const MESSAGES_MAX: usize = 200_000;

/// A look that nobody took by then is forgotten: the message was held, deleted or delivered otherwise meanwhile.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(6 * 3600);

/// Messages that were refused once.
#[derive(Default, Debug)]
pub struct SecondLooks {
    looks: BTreeMap<MessageId, Instant>,
}

impl SecondLooks {
    /// The primary refused it. Returns how long to wait until it is tried again; `None`: this was the second look.
    /// `is_after_return`: whether a first refusal counts as temporary.
    pub fn refused(&mut self, id: MessageId, is_after_return: bool, after: Duration, now: Instant) -> Option<Duration> {
        if self.looks.len() >= MESSAGES_MAX {
            self.looks.retain(|_, look| now < *look + FORGOTTEN_AFTER);
        }
        match self.looks.get(&id).filter(|look| now < **look + FORGOTTEN_AFTER) {
            // Another recipient's deferral brought it here before its time.
            Some(look) if *look > now => Some(*look - now),
            Some(_) => None,
            None if is_after_return && self.looks.len() < MESSAGES_MAX => {
                self.looks.insert(id, now + after);
                Some(after)
            }
            None => None,
        }
    }

    /// Nobody in it waits any more.
    pub fn settled(&mut self, id: MessageId) {
        self.looks.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const AFTER: Duration = Duration::from_secs(900);

    #[test]
    fn a_refusal_after_a_return_is_looked_at_once_more_when_it_is_time_and_others_are_final() {
        let (mut looks, id, now) = (SecondLooks::default(), MessageId::new(), Instant::now());
        let minute = Duration::from_secs(60);
        assert_eq!(looks.refused(id, false, AFTER, now), None);
        assert_eq!(looks.refused(id, true, AFTER, now), Some(AFTER));
        assert_eq!(looks.refused(id, false, AFTER, now + minute), Some(14 * minute), "its time has not come");
        assert_eq!(looks.refused(id, true, AFTER, now + AFTER), None);
        assert_eq!(looks.refused(id, true, AFTER, now + 7 * 3600 * SECOND), Some(AFTER), "much later, too");
        looks.settled(id);
        assert_eq!(looks.refused(id, true, AFTER, now + AFTER), Some(AFTER), "released, it begins anew");
    }
}
