//! The admin API as people and their scripts use it. Each answer is checked against docs/openapi.json.

use std::net::SocketAddr;

use backupmx_relay_api::admin::{self, BulkChanged, Changed, HeldReason, Messages, Problem, State, Story};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::http::{self, Answer};
use crate::openapi;

/// The description that people have.
pub const DESCRIPTION: &str = include_str!("../../../docs/openapi.json");

/// Who gives orders to one relay.
pub struct Orders {
    relay: SocketAddr,
    token: String,
    description: Value,
}

impl Orders {
    pub(super) fn new(relay: SocketAddr, token: String) -> Self {
        let description = serde_json::from_str(DESCRIPTION).expect("the description is JSON");
        Self { relay, token, description }
    }

    /// Any call with the token. Panics if the answer is not as described.
    #[track_caller]
    pub fn ask(&self, verb: &str, path: &str, body: &str) -> Answer {
        let answer = http::send(verb, self.relay, path, Some(&self.token), body);
        let Answer { code, kind, body } = &answer;
        if let Err(what) = openapi::check(&self.description, &verb.to_lowercase(), path, *code, kind, body) {
            panic!("the answer is not as described: {what}");
        }
        answer
    }

    /// A call that must work.
    #[track_caller]
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        document(&self.ask("GET", path, ""))
    }

    /// An order that must work.
    #[track_caller]
    pub fn post<T: DeserializeOwned>(&self, path: &str, order: &Value) -> T {
        document(&self.ask("POST", path, &order.to_string()))
    }

    /// A call that must not work. Returns what it says.
    #[track_caller]
    pub fn refused(&self, verb: &str, path: &str, body: &str, code: u16) -> String {
        let answer = self.ask(verb, path, body);
        assert_eq!(answer.code, code, "{verb} {path} {body}: {answer:?}");
        let Problem { status, detail, .. } = serde_json::from_str(&answer.body).expect("a problem document");
        assert_eq!(status, code);
        detail
    }

    /// The ids that a list finds, page by page. `parameters`: `query=bob&limit=10`.
    #[track_caller]
    pub fn list(&self, parameters: &str) -> Vec<admin::Message> {
        let (mut all, mut path) = (Vec::new(), format!("{}?{parameters}", admin::MESSAGES));
        loop {
            let Messages { messages, cursor } = self.get(&path);
            all.extend(messages);
            let Some(cursor) = cursor else { return all };
            path = format!("{}?{parameters}&cursor={cursor}", admin::MESSAGES);
        }
    }

    /// The story of a message.
    #[track_caller]
    pub fn story(&self, id: &str) -> Story {
        self.get(&admin::MESSAGE.replace("{id}", id))
    }

    /// An order to one message: `admin::HOLD`, for a reason.
    #[track_caller]
    pub fn one(&self, path: &str, id: &str) -> Changed {
        self.post(&path.replace("{id}", id), &json!({ "reason": "a test wants it", "author": "tester" }))
    }

    /// An order to all that this means, as often as it says that there is more. Returns the sums.
    #[track_caller]
    pub fn all(&self, path: &str, query: &str, state: Option<State>, held_reason: Option<HeldReason>) -> BulkChanged {
        let mut sum = BulkChanged { found: 0, changed: 0, busy: 0, failed: 0, cursor: None };
        loop {
            let order = json!({
                "query": query, "state": state, "heldReason": held_reason, "reason": "a test wants it",
                "author": "tester", "cursor": sum.cursor,
            });
            let BulkChanged { found, changed, busy, failed, cursor } = self.post(path, &order);
            sum.found += found;
            sum.changed += changed;
            sum.busy += busy;
            sum.failed += failed;
            sum.cursor = cursor;
            if sum.cursor.is_none() {
                return sum;
            }
        }
    }

    /// What the primary would get.
    #[track_caller]
    pub fn content(&self, id: &str) -> (Vec<(String, String)>, Vec<u8>) {
        http::download(self.relay, &admin::CONTENT.replace("{id}", id), &self.token)
    }
}

#[track_caller]
fn document<T: DeserializeOwned>(answer: &Answer) -> T {
    assert_eq!(answer.code, 200, "{answer:?}");
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body))
}
