//! The admin API on the console port: paths, orders, answers, problems. `Authorization: Bearer TOKEN` goes with each call.
//!
//! Times are RFC 3339 in UTC; absent means unknown or none. Keys that an order does not know are refused.

use serde::{Deserialize, Serialize};

/// `GET`: the status document, as on the observe port.
pub const STATUS: &str = "/api/v1/status";
/// `POST`: probe the primary now and try all that waits. Answers [`Flushed`].
pub const FLUSH: &str = "/api/v1/flush";
/// `GET`: open messages. Answers [`Messages`].
pub const MESSAGES: &str = "/api/v1/messages";
/// `GET`: all that is known of a message, as [`Story`]. `DELETE`: the end of it; `confirm` repeats the id. Answers [`Changed`].
pub const MESSAGE: &str = "/api/v1/messages/{id}";
/// `GET`: what the primary would get, trace field and content, as `message/rfc822`.
pub const CONTENT: &str = "/api/v1/messages/{id}/content";
/// `POST` [`HoldOrder`]: it is not tried until a person releases it. Answers [`Changed`].
pub const HOLD: &str = "/api/v1/messages/{id}/hold";
/// `POST` [`Order`]: whoever is held in it is tried again. Answers [`Changed`].
pub const RELEASE: &str = "/api/v1/messages/{id}/release";
/// `POST` [`Order`]: what waits in it is due now; so is what is held because the primary could not take it, or not in time,
/// but not what a person holds. Answers [`Changed`].
pub const RETRY: &str = "/api/v1/messages/{id}/retry";
/// `POST` [`BulkOrder`]: [`HOLD`] for all that it means. Answers [`BulkChanged`].
pub const HOLD_ALL: &str = "/api/v1/messages/hold";
/// `POST` [`BulkOrder`]: [`RELEASE`] for all that it means. Answers [`BulkChanged`].
pub const RELEASE_ALL: &str = "/api/v1/messages/release";
/// `POST` [`BulkOrder`]: [`RETRY`] for all that it means. Answers [`BulkChanged`].
pub const RETRY_ALL: &str = "/api/v1/messages/retry";
/// `POST` [`HoldOrder`]: nothing is handed over until somebody resumes, over restarts too. Answers [`DrainHold`].
pub const DRAIN_HOLD: &str = "/api/v1/drain/hold";
/// `POST` [`Order`]: ends that. Answers [`DrainHold`].
pub const DRAIN_RESUME: &str = "/api/v1/drain/resume";
/// `POST` [`Order`]: closes the breaker by a person's word. Answers [`BreakerReset`].
pub const BREAKER_RESET: &str = "/api/v1/breaker/reset";
/// `GET`: the description of these calls, OpenAPI 3.1.
pub const OPENAPI: &str = "/api/v1/openapi.json";

/// The longest body of an order, in bytes.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// Messages in an answer to [`MESSAGES`], unless `limit` says another number.
pub const LIMIT_DEFAULT: usize = 100;
/// The largest `limit`.
pub const LIMIT_MAX: usize = 1000;
/// The longest `reason`, in characters.
pub const REASON_CHARS_MAX: usize = 500;
/// The longest `author`, in characters.
pub const AUTHOR_CHARS_MAX: usize = 100;
/// Who gave an order that names nobody.
pub const AUTHOR_DEFAULT: &str = "admin";
/// Recipients that a list shows of a message.
pub const RECIPIENTS_SHOWN_MAX: usize = 10;
/// Events that a story tells.
pub const EVENTS_SHOWN_MAX: usize = 100;

/// Answer to [`FLUSH`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flushed {
    /// Messages that the order found waiting; they go as soon as the primary answers.
    pub messages: u64,
}

/// How a message or a recipient stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Of a message, somebody in it is to be tried.
    Waiting,
    /// Of a message, nobody in it waits, and somebody is held.
    Held,
    /// Of a message, everybody has an end.
    Closed,
}

/// Why somebody in a message is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HeldReason {
    /// The primary refused it for good.
    Undeliverable,
    /// It needs what the primary no longer offers.
    Capability,
    /// It waited as long as the configuration allows.
    Expired,
    /// Its stored bytes are damaged.
    Damaged,
    /// Its record was lost and made anew from its file; it may have had its end before.
    Recovered,
    /// A person wants it so.
    Person,
    /// An older relay held it and did not note why, or a newer one for a reason that this one does not know.
    Unknown,
}

/// Open messages, from the oldest on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Messages {
    /// What was found; there may be more behind the cursor even if this is empty, since a search has little time.
    pub messages: Vec<Message>,
    /// Where the next call goes on; absent at the end. A message may be met again behind it, none is missed.
    pub cursor: Option<String>,
}

/// An open message in a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Its id.
    pub id: String,
    /// Waiting or held.
    pub state: State,
    /// When it came.
    pub received: String,
    /// Length of its content, in bytes.
    pub size: u64,
    /// Its reverse-path; empty for the null one.
    pub reverse_path: String,
    /// Up to ten of its recipients, those first that were searched for.
    pub recipients: Vec<String>,
    /// How many recipients it has.
    pub recipient_count: u64,
    /// How many of them have no end yet.
    pub open_count: u64,
    /// Attempts that deferred somebody.
    pub deferrals: u64,
    /// When somebody in it was last held, if somebody is.
    pub held_since: Option<String>,
    /// Why.
    pub held_reason: Option<HeldReason>,
    /// When it is tried next; what is due goes as soon as the primary takes it. Absent if nobody in it waits, and while it
    /// is being handed over.
    pub next_attempt: Option<String>,
}

/// All that is known of a message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Story {
    /// Its id.
    pub id: String,
    /// How it stands. A closed one is known for as long as the log happens to hold it.
    pub state: State,
    /// How it came; absent once that has left the log.
    pub arrival: Option<Arrival>,
    /// Its recipients, in the order in which they were named; empty if `arrival` is absent.
    pub recipients: Vec<Recipient>,
    /// Attempts that deferred somebody.
    pub deferrals: u64,
    /// When somebody in it was last held, if somebody is.
    pub held_since: Option<String>,
    /// Why.
    pub held_reason: Option<HeldReason>,
    /// When it is tried next; see `Message`.
    pub next_attempt: Option<String>,
    /// What happened to it, in order: the newest hundred.
    pub events: Vec<Event>,
    /// Older events that are left out.
    pub events_left_out: u64,
}

/// How a message came: what its client said, never what its header says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arrival {
    /// When.
    pub received: String,
    /// Address of the client.
    pub client: String,
    /// What it called itself in EHLO or HELO.
    pub helo: String,
    /// The word in our trace field: `SMTP`, `ESMTP`, `ESMTPS`, `UTF8SMTP`, `UTF8SMTPS`.
    pub protocol: String,
    /// Whether it came over TLS.
    pub tls: bool,
    /// Its reverse-path; empty for the null one.
    pub reverse_path: String,
    /// What was said behind the reverse-path: `BODY=8BITMIME`.
    pub parameters: String,
    /// Our trace field, unfolded.
    pub trace: String,
    /// Length of its content, in bytes.
    pub size: u64,
    /// The content came without a last line end, and got one.
    pub line_end_added: bool,
}

/// A recipient of a message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recipient {
    /// Its address.
    pub address: String,
    /// What was said behind it: `NOTIFY=NEVER`.
    pub parameters: String,
    /// How it stands.
    pub state: State,
    /// What was said of it last; absent if nothing was, or if that has left the log.
    pub last: Option<Said>,
}

/// What was said of a recipient.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    /// When.
    pub at: String,
    /// `host:port` of the primary, or who wanted it.
    pub by: String,
    /// What it meant.
    pub fate: Fate,
    /// The primary's words, or the person's reason; control characters are escaped, what is long is cut.
    pub words: String,
}

/// What became of a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fate {
    /// The primary has it.
    Delivered,
    /// It is tried again.
    Deferred,
    /// It is held.
    Held,
    /// It is held no longer.
    Released,
    /// Its sender was told that it could not be delivered.
    Bounced,
    /// It was kept as long as it should be.
    Expired,
    /// A person deleted it.
    Deleted,
    /// Another relay has it.
    Moved,
    /// Its bytes are gone.
    Damaged,
    /// Its client heard 4xx after all, and sends again.
    Withdrawn,
}

/// A record about a message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When; absent for a copy, and where the record cannot be read.
    pub at: Option<String>,
    /// What happened.
    pub kind: EventKind,
    /// `host:port` of the primary, or who wanted it.
    pub by: Option<String>,
    /// Why those that it holds are held.
    pub held_reason: Option<HeldReason>,
    /// What became of whom by it.
    pub fates: Vec<FateOf>,
}

/// What happened to a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EventKind {
    /// It is ours.
    Accepted,
    /// Its record was copied to a newer part of the log.
    Copied,
    /// It was tried.
    Attempt,
    /// It was tried, or somebody wanted its end, and nobody in it is open any more.
    Closed,
    /// It is held.
    Held,
    /// It is held no longer.
    Released,
    /// Its client heard 4xx after all.
    Withdrawn,
    /// Another relay has it.
    Moved,
    /// The record is damaged.
    Unreadable,
}

/// What became of a recipient by an event.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FateOf {
    /// Its address; empty if `arrival` has left the log.
    pub recipient: String,
    /// Its place among the recipients, from 0.
    pub place: u64,
    /// What became of it.
    pub fate: Fate,
    /// The primary's words, or the person's reason; control characters are escaped, what is long is cut.
    pub words: String,
}

/// To hold. All of these orders and their authors are noted in the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HoldOrder {
    /// Why: up to 500 characters on one line.
    pub reason: String,
    /// Who wants it so: up to 100 characters; `admin` if absent.
    #[serde(default)]
    pub author: Option<String>,
}

/// To release, retry, resume or reset. No body is as good as an empty one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Order {
    /// Why: up to 500 characters on one line.
    #[serde(default)]
    pub reason: Option<String>,
    /// Who wants it so: up to 100 characters; `admin` if absent.
    #[serde(default)]
    pub author: Option<String>,
}

/// An order for all messages that it means.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BulkOrder {
    /// An address contains it, in whatever case of letters. Empty means every message, and must be said.
    pub query: String,
    /// They stand so: waiting or held.
    #[serde(default)]
    pub state: Option<State>,
    /// Somebody in them is held because of this.
    #[serde(default)]
    pub held_reason: Option<HeldReason>,
    /// Why: up to 500 characters on one line; must be said to hold.
    #[serde(default)]
    pub reason: Option<String>,
    /// Who wants it so: up to 100 characters; `admin` if absent.
    #[serde(default)]
    pub author: Option<String>,
    /// Where to go on: what the answer before gave. From the start if absent.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// What an order did to one message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    /// Its id.
    pub id: String,
    /// Recipients of which it changed something: whether they are held, or when they are tried. 0 if all was so before.
    pub recipients: u64,
}

/// What an order did to all messages that it means.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BulkChanged {
    /// Messages that it found.
    pub found: u64,
    /// Those in which it changed something.
    pub changed: u64,
    /// Those that were being handed over at that moment, and are as they were: ask again.
    pub busy: u64,
    /// Those of which the change could not be recorded; the log says why.
    pub failed: u64,
    /// Set if there was no time for all: say it in the next order.
    pub cursor: Option<String>,
}

/// Whether somebody holds the drain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainHold {
    /// Whether anything changed.
    pub changed: bool,
    /// Who holds it, and why; absent if nobody does.
    pub hold: Option<crate::status::Hold>,
}

/// Answer to [`BREAKER_RESET`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerReset {
    /// Whether it was open.
    pub was_open: bool,
}

/// What went wrong, as RFC 9457 wants it told (`application/problem+json`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// Kind of the problem; `about:blank` says that the status code tells all.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// HTTP status code.
    pub status: u16,
    /// What a person can do about it.
    pub detail: String,
}
