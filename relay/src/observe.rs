//! The observe port: metrics, status and health for whoever is inside. No secrets, and nothing can be changed here.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use backupmx_relay_api::{path, status::Status};
use tokio::sync::watch;

use crate::status::Parts;

/// What the pages are made from.
#[derive(Clone)]
pub struct Observe {
    /// Those who know.
    pub parts: Arc<Parts>,
    /// Whether SMTP is served: from the start until we stop.
    pub serving: Arc<AtomicBool>,
    /// Whether no more mail is taken.
    pub cordoned: watch::Receiver<bool>,
}

/// The pages.
pub fn router(observe: Observe) -> Router {
    Router::new()
        .route(path::METRICS, get(metrics))
        .route(path::STATUS, get(status))
        .route(path::HEALTHZ, get(async || "ok\n"))
        .route(path::READYZ, get(ready))
        .with_state(observe)
}

async fn metrics(State(observe): State<Observe>) -> Response {
    match observe.parts.metrics.page(&observe.parts) {
        Ok(page) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], page).into_response(),
        Err(cause) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{cause}\n")).into_response(),
    }
}

async fn status(State(observe): State<Observe>) -> Json<Status> {
    Json(observe.parts.status())
}

/// A full disk or a dead primary is no reason to take us out of service: then we answer 452, or do our job.
async fn ready(State(observe): State<Observe>) -> (StatusCode, &'static str) {
    match (observe.serving.load(Ordering::Relaxed), *observe.cordoned.borrow()) {
        (true, false) => (StatusCode::OK, "ok\n"),
        (true, true) => (StatusCode::SERVICE_UNAVAILABLE, "cordoned\n"),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "not serving SMTP\n"),
    }
}
