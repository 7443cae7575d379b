//! A relay through which mail passes, before a primary that does as it is told.

use std::time::Duration;

use backupmx_relay_api::status::{Account, PrimaryState, Status};
use support::{Client, Primary, Relay, relay::Setup};

/// For what comes by itself within seconds, on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);
/// A usual message.
pub const CONTENT: &[u8] = b"Subject: x\r\n\r\nbody\r\n.\r\n..dots\r\n";

/// Both, and the primary is known to be up.
pub struct Scene {
    pub primary: Primary,
    pub relay: Relay,
}

impl Scene {
    pub fn new() -> Self {
        Self::with(Primary::start(), |setup| setup)
    }

    pub fn with(primary: Primary, change: impl FnOnce(Setup) -> Setup) -> Self {
        let relay = change(Relay::passing(primary.address())).start();
        let scene = Self { primary, relay };
        scene.until_up();
        scene
    }

    pub fn until_up(&self) {
        self.relay.until(LIMIT, "the primary is known to be up", |status| status.primary.state == PrimaryState::Up);
    }

    /// A session after EHLO.
    pub fn client(&self) -> Client {
        Client::hello(self.relay.smtp()).expect("the relay takes sessions")
    }

    /// Says one line after the other, and what came back to each.
    pub fn says(&self, lines: &[&str]) -> Vec<String> {
        let mut client = self.client();
        lines.iter().map(|line| client.say(line).expect("the session lives").to_string()).collect()
    }

    /// The account once nothing waits any more.
    pub fn settled(&self) -> Account {
        self.relay.until(LIMIT, "nothing waits", |status| status.queue.messages == 0).account
    }

    /// A metric with these labels.
    pub fn metric(&self, series: &str) -> f64 {
        self.relay.metric(series)
    }
}

/// What passed and nothing else.
pub fn passed(recipients: u64) -> Account {
    Account { accepted: recipients, passed: recipients, ..Account::default() }
}

/// Kept, and delivered afterwards.
pub fn delivered(recipients: u64) -> Account {
    Account { accepted: recipients, delivered: recipients, ..Account::default() }
}

/// Whether a problem of the status says this.
pub fn tells(status: &Status, words: &str) -> bool {
    status.problems.iter().any(|problem| problem.contains(words))
}
