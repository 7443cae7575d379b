//! HTTP as Prometheus, the operator and people speak it with a relay.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use ureq::{Agent, Body, RequestBuilder, http::Response};

/// A relay answers from memory.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// What a relay answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// HTTP status code.
    pub code: u16,
    /// Its Content-Type.
    pub kind: String,
    /// Its body.
    pub body: String,
}

/// `GET path`.
#[track_caller]
pub fn get(relay: SocketAddr, path: &str, token: Option<&str>) -> Answer {
    answer(with_token(agent().get(url(relay, path)), token).call())
}

/// `POST path` with an empty body.
#[track_caller]
pub fn post(relay: SocketAddr, path: &str, token: Option<&str>) -> Answer {
    answer(with_token(agent().post(url(relay, path)), token).send_empty())
}

/// `POST path` with a JSON document.
#[track_caller]
pub fn post_json(relay: SocketAddr, path: &str, token: Option<&str>, document: &Value) -> Answer {
    let request = agent().post(url(relay, path)).content_type("application/json");
    answer(with_token(request, token).send(document.to_string()))
}

/// A connection a call: after a kill -9 there is none to be used again.
fn agent() -> Agent {
    let config = Agent::config_builder().timeout_global(Some(ANSWER_LIMIT)).http_status_as_error(false);
    // Calls go to 127.0.0.1; a proxy from the environment must not see them.
    config.proxy(None).build().into()
}

fn url(relay: SocketAddr, path: &str) -> String {
    format!("http://{relay}{path}")
}

fn with_token<B>(request: RequestBuilder<B>, token: Option<&str>) -> RequestBuilder<B> {
    match token {
        Some(token) => request.header("Authorization", format!("Bearer {token}")),
        None => request,
    }
}

#[track_caller]
fn answer(outcome: Result<Response<Body>, ureq::Error>) -> Answer {
    let mut response = outcome.unwrap_or_else(|error| panic!("ask the relay: {error}"));
    let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (code, kind) = (response.status().as_u16(), kind.to_owned());
    let body = response.body_mut().read_to_string().unwrap_or_else(|error| panic!("read the relay's answer: {error}"));
    Answer { code, kind, body }
}
