//! When the primary is away on purpose. No I/O, no clock.

use jiff::Timestamp;

/// A window of time; by default there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Maintenance(Option<Window>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Window {
    from: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Maintenance {
    /// From then, else ever since; until then, else for ever.
    pub fn between(from: Option<Timestamp>, until: Option<Timestamp>) -> Self {
        Self(Some(Window { from, until }))
    }

    /// Whether it is the time for it. `until` itself is not.
    pub fn is_at(self, now: Timestamp) -> bool {
        self.0.is_some_and(|Window { from, until }| {
            from.is_none_or(|from| from <= now) && until.is_none_or(|until| now < until)
        })
    }

    /// In words, for people.
    pub fn words(self) -> String {
        match self.0.and_then(|window| window.until) {
            Some(until) => format!("maintenance until {until}"),
            None => "maintenance until primary.maintenance is taken out of the configuration".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_between_its_times_and_an_open_end_has_none() {
        let time = |second| Timestamp::from_second(second).ok();
        for (window, at) in [
            (Maintenance::default(), [false, false, false]),
            (Maintenance::between(time(10), time(20)), [false, true, false]),
            (Maintenance::between(None, time(20)), [true, true, false]),
            (Maintenance::between(time(10), None), [false, true, true]),
            (Maintenance::between(None, None), [true, true, true]),
        ] {
            assert_eq!([9, 19, 20].map(|second| window.is_at(time(second).unwrap())), at, "{window:?}");
        }
    }
}
