//! All calls of the admin API: what the router serves, and what docs/openapi.json says of it. No I/O.

use axum::routing::MethodFilter;
use backupmx_relay_api::admin::{
    BREAKER_RESET, CONTENT, DRAIN_HOLD, DRAIN_RESUME, FLUSH, HOLD, HOLD_ALL, MESSAGE, MESSAGES, OPENAPI, RELEASE,
    RELEASE_ALL, RETRY, RETRY_ALL, STATUS,
};

/// One call.
pub struct Call {
    /// Its method.
    pub verb: Verb,
    /// Its path; `{id}` in it stands for a message's id.
    pub path: &'static str,
    /// Who answers it.
    pub operation: Operation,
    /// What it does, for a person who looks for it.
    pub does: &'static str,
    /// What may stand behind the path.
    pub parameters: &'static [Parameter],
    /// What goes with it.
    pub body: Body,
    /// What comes back with 200.
    pub answer: Answer,
    /// Which problems it may have, besides 401 for a wrong token.
    pub problems: &'static [u16],
}

/// A method.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Changes nothing.
    Get,
    /// Gives an order.
    Post,
    /// Ends something.
    Delete,
}

impl Verb {
    pub(super) fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
            Self::Delete => MethodFilter::DELETE,
        }
    }
}

/// A call's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is described where it stands in the list")]
pub enum Operation {
    Status,
    Flush,
    ListMessages,
    ShowMessage,
    ReadContent,
    HoldMessage,
    ReleaseMessage,
    RetryMessage,
    DeleteMessage,
    HoldAll,
    ReleaseAll,
    RetryAll,
    HoldDrain,
    ResumeDrain,
    ResetBreaker,
    Describe,
}

/// A parameter behind the path.
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub says: &'static str,
    /// What it may hold.
    pub shape: Shape,
    /// Whether it must be there.
    pub is_required: bool,
}

/// What a parameter may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Any text.
    Text,
    /// A number within the bounds of `limit`.
    Limit,
    /// A value of this enumeration of the contract.
    OneOf(&'static str),
}

/// What goes with a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// Nothing.
    None,
    /// This document of the contract.
    Needed(&'static str),
    /// The same, or nothing.
    Possible(&'static str),
}

/// What a call answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// This document of the contract.
    Document(&'static str),
    /// A message.
    Mail,
    /// An OpenAPI document.
    Description,
}

const QUERY: Parameter = Parameter {
    name: "query",
    says: "An address contains it, in whatever case of letters.",
    shape: Shape::Text,
    is_required: false,
};
const STATE: Parameter = Parameter {
    name: "state",
    says: "Only messages that stand so: waiting or held.",
    shape: Shape::OneOf("State"),
    is_required: false,
};
const HELD_REASON: Parameter = Parameter {
    name: "heldReason",
    says: "Only messages in which somebody is held because of this.",
    shape: Shape::OneOf("HeldReason"),
    is_required: false,
};
const LIMIT: Parameter = Parameter {
    name: "limit",
    says: "How many messages the answer holds at most.",
    shape: Shape::Limit,
    is_required: false,
};
const CURSOR: Parameter = Parameter {
    name: "cursor",
    says: "Where to go on: what the answer before gave.",
    shape: Shape::Text,
    is_required: false,
};
const CONFIRM: Parameter =
    Parameter { name: "confirm", says: "The id once more.", shape: Shape::Text, is_required: true };
const REASON: Parameter = Parameter {
    name: "reason",
    says: "Why: up to 500 characters on one line.",
    shape: Shape::Text,
    is_required: false,
};
const AUTHOR: Parameter = Parameter {
    name: "author",
    says: "Who wants it so: up to 100 characters; admin if absent.",
    shape: Shape::Text,
    is_required: false,
};

const ORDER: Body = Body::Possible("Order");
const HOLD_ORDER: Body = Body::Needed("HoldOrder");
const BULK_ORDER: Body = Body::Needed("BulkOrder");
/// Of an order to one message.
const ONE: &[u16] = &[400, 404, 409, 413, 422, 503];
/// Of an order to all that it means.
const ALL: &[u16] = &[400, 413, 422, 503];
/// Of an order to the drain.
const DRAIN: &[u16] = &[400, 413, 422];

/// Every call.
pub const CALLS: &[Call] = &[
    get(
        STATUS,
        Operation::Status,
        "The status document, as on the observe port.",
        &[],
        Answer::Document("Status"),
        &[],
    ),
    get(
        MESSAGES,
        Operation::ListMessages,
        "Open messages, from the oldest on. A search has two seconds; what it did not come to is behind the cursor.",
        &[STATE, HELD_REASON, QUERY, LIMIT, CURSOR],
        Answer::Document("Messages"),
        &[400, 503],
    ),
    get(
        MESSAGE,
        Operation::ShowMessage,
        "All that is known of a message: how it came, how each recipient stands, what happened.",
        &[],
        Answer::Document("Story"),
        &[400, 404, 503],
    ),
    get(
        CONTENT,
        Operation::ReadContent,
        "What the primary would get: our trace field, then the content as it came, to the byte. Noted in the log.",
        &[],
        Answer::Mail,
        &[400, 404, 500, 503],
    ),
    post(
        HOLD,
        Operation::HoldMessage,
        "Holds a message: it is neither tried nor ended until a person says so. Nor is what was held for another reason.",
        HOLD_ORDER,
        Answer::Document("Changed"),
        ONE,
    ),
    post(
        RELEASE,
        Operation::ReleaseMessage,
        "Whoever is held in a message is tried again, now.",
        ORDER,
        Answer::Document("Changed"),
        ONE,
    ),
    post(
        RETRY,
        Operation::RetryMessage,
        "What waits in a message is due now. What is held as undeliverable, capability or expired is released; a person's hold stays.",
        ORDER,
        Answer::Document("Changed"),
        ONE,
    ),
    Call {
        verb: Verb::Delete,
        path: MESSAGE,
        operation: Operation::DeleteMessage,
        does: "Deletes a message for all its open recipients. Nobody is told, and nothing brings it back.",
        parameters: &[CONFIRM, REASON, AUTHOR],
        body: Body::None,
        answer: Answer::Document("Changed"),
        problems: &[400, 404, 409, 422, 428, 503],
    },
    post(
        HOLD_ALL,
        Operation::HoldAll,
        "Holds all messages that the order means, as far as it comes in some seconds.",
        BULK_ORDER,
        Answer::Document("BulkChanged"),
        ALL,
    ),
    post(
        RELEASE_ALL,
        Operation::ReleaseAll,
        "Releases all messages that the order means, as far as it comes in some seconds.",
        BULK_ORDER,
        Answer::Document("BulkChanged"),
        ALL,
    ),
    post(
        RETRY_ALL,
        Operation::RetryAll,
        "Retries all messages that the order means, as far as it comes in some seconds: after the primary is mended, this delivers what it refused.",
        BULK_ORDER,
        Answer::Document("BulkChanged"),
        ALL,
    ),
    post(
        FLUSH,
        Operation::Flush,
        "Probes the primary and tries all that waits, now.",
        Body::None,
        Answer::Document("Flushed"),
        &[],
    ),
    post(
        DRAIN_HOLD,
        Operation::HoldDrain,
        "Nothing is handed over until somebody resumes the drain. Mail is taken all the same.",
        HOLD_ORDER,
        Answer::Document("DrainHold"),
        DRAIN,
    ),
    post(
        DRAIN_RESUME,
        Operation::ResumeDrain,
        "Mail is handed over again.",
        ORDER,
        Answer::Document("DrainHold"),
        DRAIN,
    ),
    post(
        BREAKER_RESET,
        Operation::ResetBreaker,
        "Closes the breaker: the primary is whole, a person says.",
        ORDER,
        Answer::Document("BreakerReset"),
        DRAIN,
    ),
    get(OPENAPI, Operation::Describe, "This description.", &[], Answer::Description, &[]),
];

const fn get(
    path: &'static str,
    operation: Operation,
    does: &'static str,
    parameters: &'static [Parameter],
    answer: Answer,
    problems: &'static [u16],
) -> Call {
    Call { verb: Verb::Get, path, operation, does, parameters, body: Body::None, answer, problems }
}

const fn post(
    path: &'static str,
    operation: Operation,
    does: &'static str,
    body: Body,
    answer: Answer,
    problems: &'static [u16],
) -> Call {
    Call { verb: Verb::Post, path, operation, does, parameters: &[], body, answer, problems }
}
