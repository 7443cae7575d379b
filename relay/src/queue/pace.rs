//! How many connections the drain may have: one until a message went well, then one more with each. No I/O, no clock.

/// Grows while the primary answers well, starts over when a connection fails.
#[derive(Clone, Debug)]
pub struct Pace {
    connections: usize,
    connections_max: usize,
}

impl Pace {
    /// One connection, whose first message is the canary.
    pub fn new(connections_max: usize) -> Self {
        Self { connections: 1, connections_max: connections_max.max(1) }
    }

    /// How many there may be.
    pub fn connections(&self) -> usize {
        self.connections
    }

    /// The primary took a message. True if there may be more connections now.
    pub fn delivered(&mut self) -> bool {
        let grows = self.connections < self.connections_max;
        self.connections += usize::from(grows);
        grows
    }

    /// A connection broke, or could not be made: a server that comes back must not be met by all of us at once.
    pub fn failed(&mut self) {
        self.connections = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_primary_meets_one_connection_and_then_one_more_with_each_success() {
        let mut pace = Pace::new(3);
        let mut seen = vec![pace.connections()];
        for _ in 0..3 {
            pace.delivered();
            seen.push(pace.connections());
        }
        pace.failed();
        seen.push(pace.connections());
        assert_eq!(seen, [1, 2, 3, 3, 1]);
    }
}
