//! The admin API on the console port: always authenticated, errors as problem documents (RFC 9457).
//!
//! `calls` lists what there is: the router and docs/openapi.json are made from it. `order` decides and does what an order
//! says to one message; everything above it is HTTP. Every order leaves one line in the log, whatever becomes of it.

mod ask;
mod audit;
pub mod auth;
mod bulk;
pub mod calls;
mod document;
mod drain;
mod messages;
mod order;
mod problem;
mod story;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{MethodRouter, on},
};
use backupmx_relay_api::{admin::BODY_BYTES_MAX, status::Status};
use tokio::sync::{Semaphore, SemaphorePermit};

pub use self::auth::{TOKEN_FILE, Token};
use self::{
    calls::{CALLS, Call, Operation},
    problem::Problem,
};
use crate::status::Parts;

/// Searches and stories at a time: each may read a segment of 64 MiB into memory.
const READERS_MAX: usize = 4;

/// The description of the calls, as `make generate` writes it.
const DESCRIPTION: &str = include_str!("../../docs/openapi.json");

/// What the calls work with.
struct Admin {
    parts: Arc<Parts>,
    /// Who reads much; the others wait.
    readers: Semaphore,
}

impl Admin {
    /// A turn to read much, once there is one. Held while reading.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed; without a turn, reading would be right all the same.
        self.readers.acquire().await.ok()
    }
}

/// The calls. All of them ask for the token, also for what does not exist.
pub fn router(parts: Arc<Parts>) -> Router {
    let token = parts.token.clone();
    let admin = Arc::new(Admin { parts, readers: Semaphore::new(READERS_MAX) });
    let add = |router: Router<Arc<Admin>>, call: &Call| router.route(call.path, handler(call));
    CALLS
        .iter()
        .fold(Router::new(), add)
        .fallback(async || {
            Problem::new(StatusCode::NOT_FOUND, "There is no such call; /api/v1/openapi.json lists them.")
        })
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "The call exists, but not with this method.")
        })
        .with_state(admin)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(token, auth::authenticate))
}

fn handler(call: &Call) -> MethodRouter<Arc<Admin>> {
    let verb = call.verb.filter();
    match call.operation {
        Operation::Status => on(verb, status),
        Operation::Flush => on(verb, drain::flush),
        Operation::ListMessages => on(verb, messages::list),
        Operation::ShowMessage => on(verb, messages::show),
        Operation::ReadContent => on(verb, messages::content),
        Operation::HoldMessage => on(verb, messages::hold),
        Operation::ReleaseMessage => on(verb, messages::release),
        Operation::RetryMessage => on(verb, messages::retry),
        Operation::DeleteMessage => on(verb, messages::delete),
        Operation::HoldAll => on(verb, bulk::hold),
        Operation::ReleaseAll => on(verb, bulk::release),
        Operation::RetryAll => on(verb, bulk::retry),
        Operation::HoldDrain => on(verb, drain::hold),
        Operation::ResumeDrain => on(verb, drain::resume),
        Operation::ResetBreaker => on(verb, drain::reset_breaker),
        Operation::Describe => on(verb, describe),
    }
}

async fn status(State(admin): State<Arc<Admin>>) -> Json<Status> {
    Json(admin.parts.status())
}

async fn describe() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION).into_response()
}
