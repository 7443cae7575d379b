//! The status document: what a relay says of itself. Times are RFC 3339 in UTC; absent means unknown or none.

use serde::{Deserialize, Serialize};

/// The whole document, as `GET /status` answers it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of the relay.
    pub version: String,
    /// Newest shape of the config document that it reads.
    pub schema: u32,
    /// Its own name in SMTP.
    pub hostname: String,
    /// Generation of the config document that it runs.
    pub config_generation: i64,
    /// Grows with each change: at once with a state, at most every 2 s with numbers. It begins anew with the process.
    pub revision: u64,
    /// When the process started.
    pub started_at: String,
    /// What it knows of the primary.
    pub primary: Primary,
    /// What waits.
    pub queue: Queue,
    /// How fast it leaves.
    pub drain: Drain,
    /// The volume.
    pub spool: Spool,
    /// What became of every accepted recipient.
    pub account: Account,
    /// Open SMTP sessions.
    pub sessions: u64,
    /// The config document that it runs, and the one that it refused.
    pub config: Config,
    /// Who connects.
    pub clients: Clients,
    /// Whether `cordoned` of the config document names it: then it takes no more mail.
    pub cordoned: bool,
    /// Times in which the primary was away, newest first, at most [`OUTAGES_MAX`]. Kept over restarts.
    pub outages: Vec<Outage>,
    /// The certificates for STARTTLS; none where no TLS is offered.
    pub tls: Vec<Certificate>,
    /// What senders are offered on the primary's behalf.
    pub capabilities: Capabilities,
    /// What a person should look at, a sentence each; empty when all is well.
    pub problems: Vec<String>,
}

/// Whether the primary can take mail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PrimaryState {
    /// Not yet asked often enough to tell.
    Unknown,
    /// Answers.
    Up,
    /// Does not.
    Down,
    /// Answers, but with temporary refusals, with what is no SMTP, or slowly.
    Sick,
    /// Whatever it answers, nothing is handed over: a person wants that, or it refuses what no primary should refuse.
    Held,
    /// Away on purpose: it counts as down, without alarm.
    Maintenance,
}

/// What the relay knows of the primary.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Primary {
    /// Whether it can take mail.
    pub state: PrimaryState,
    /// Since when.
    pub since: String,
    /// The last probe or delivery that told something.
    pub last_probe: Option<String>,
    /// What that one found, in words.
    pub reason: String,
    /// `host:port` that answered last.
    pub host: Option<String>,
    /// The address from which the primary sees us, where its reply to EHLO tells.
    pub egress_address: Option<String>,
    /// What it says to mail that passes through and that judges this relay, not the mail; absent if it said no such thing lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judges: Option<Judges>,
}

/// A primary that refuses its own backup. Senders hear 451 meanwhile, so nothing is lost.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judges {
    /// Since when.
    pub since: String,
    /// Its words, the last ones.
    pub reason: String,
}

/// The config document that runs. It is read again when its content changes; one that cannot be used changes nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// XXH3 (128 bits, 32 hex digits) of the file that runs; absent where flags alone say everything.
    pub digest: Option<String>,
    /// Since when it runs.
    pub loaded_at: String,
    /// The newest content of the file, if that was refused; what ran before goes on.
    pub refused: Option<RefusedConfig>,
    /// Keys that a newer program wrote and this one does not know.
    pub ignored_keys: Vec<String>,
}

/// A config document that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedConfig {
    /// XXH3 of that content, as above; absent if the file cannot be read.
    pub digest: Option<String>,
    /// Since when.
    pub since: String,
    /// Key and cure.
    pub reason: String,
}

/// Who connects and says hello, since the start. The primary, and connections that say nothing (health checks), are left out.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Clients {
    /// Sessions that began.
    pub sessions: u64,
    /// Different addresses among them, counted up to [`CLIENT_ADDRESSES_MAX`].
    pub addresses: u64,
    /// Set when many sessions came from this one address (or IPv6 /64) alone: a proxy or load balancer hides who connects.
    pub only: Option<String>,
}

/// Addresses are told apart up to this number: it is one that matters, or many.
pub const CLIENT_ADDRESSES_MAX: usize = 64;

/// Outages that are remembered.
pub const OUTAGES_MAX: usize = 5;

/// A time in which the primary was away, from the first moment it counted as down until mail could go to it again. A maintenance is none.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outage {
    /// Since when.
    pub from: String,
    /// Until when; absent while it lasts.
    pub until: Option<String>,
    /// Messages taken meanwhile.
    pub messages: u64,
    /// Their content, in bytes.
    pub bytes: u64,
    /// When the last of them was handed over; absent while one of them waits, and where none was handed over. Who is held does not wait.
    pub last_delivered: Option<String>,
}

/// What senders are offered on the primary's behalf: what all its hosts that were seen have in common.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Longest message, in bytes.
    pub size: u64,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// When the primary last said so; absent if it never did.
    pub seen_at: Option<String>,
}

/// A certificate for STARTTLS.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Its first name.
    pub name: String,
    /// Until when it holds.
    pub not_after: String,
}

/// What waits.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Queue {
    /// Messages with a recipient that waits or is held.
    pub messages: u64,
    /// Their content, in bytes.
    pub bytes: u64,
    /// When the oldest of them came in.
    pub oldest: Option<String>,
    /// Messages in which nothing waits any more, but a recipient is held.
    pub held: u64,
}

/// What the drain is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DrainState {
    /// Nothing waits.
    Idle,
    /// Mail waits for the primary, or for its next try.
    Waiting,
    /// Mail is being handed over.
    Draining,
}

/// How fast mail leaves.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// What it is doing.
    pub state: DrainState,
    /// Messages a second, over the last seconds.
    pub messages_per_second: f64,
    /// Connections to the primary.
    pub connections: u64,
    /// Connections that its answers allow at present.
    pub connections_allowed: u64,
    /// When the queue will be empty at this rate; absent while nothing leaves.
    pub estimated_empty: Option<String>,
    /// Who holds it, and why.
    pub hold: Option<Hold>,
    /// Set while the primary refuses what no primary should refuse, and so nothing is sent.
    pub breaker: Option<Breaker>,
}

/// Somebody wants nothing to be handed over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// Since when.
    pub since: String,
    /// Who: a person, `configuration`, or `backupmx`.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// The breaker is open.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Breaker {
    /// Since when.
    pub since: String,
    /// The sign that opened it, with the primary's words.
    pub reason: String,
    /// When it is tested next whether the primary is mended.
    pub next_test: String,
}

/// The volume and the log on it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spool {
    /// Bytes that the spool takes.
    pub bytes: u64,
    /// Bytes free on its volume.
    pub free_bytes: u64,
    /// False while nothing can be made durable: then nothing is accepted.
    pub writable: bool,
    /// Damaged parts found and copied aside since the start.
    pub quarantined: u64,
}

/// What became of every recipient that was answered 250: `accepted` equals the sum of all others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Account {
    /// Taken, by us or by the primary through us.
    pub accepted: u64,
    /// Taken by the primary in the sender's own session.
    pub passed: u64,
    /// Handed over from the queue.
    pub delivered: u64,
    /// Sent back with a notice.
    pub bounced: u64,
    /// Given up after the time that the configuration allows.
    pub expired: u64,
    /// Deleted by a person.
    pub deleted: u64,
    /// Handed to another relay.
    pub moved: u64,
    /// Lost to damage of the volume.
    pub damaged: u64,
    /// Still here.
    pub queued: u64,
}

impl Account {
    /// `accepted` less all that became of it: 0 unless we have a defect.
    pub fn difference(&self) -> i64 {
        let Self { accepted, passed, delivered, bounced, expired, deleted, moved, damaged, queued } = *self;
        let ends = [passed, delivered, bounced, expired, deleted, moved, damaged, queued];
        ends.iter().fold(accepted, |rest, end| rest.wrapping_sub(*end)).cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use super::Account;

    #[test]
    fn the_account_tells_what_is_missing_and_what_is_too_much() {
        let account = Account { accepted: 5, delivered: 3, queued: 2, ..Account::default() };
        assert_eq!(account.difference(), 0);
        assert_eq!(Account { queued: 1, ..account }.difference(), 1);
        assert_eq!(Account { queued: 4, ..account }.difference(), -2);
    }
}
