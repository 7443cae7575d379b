//! The observe port: health, readiness and metrics. Inside the cluster only; no secrets, and nothing can be changed here.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::{metrics::Metrics, observe::Relays};

/// How far the process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// The API server has not answered yet.
    Starting,
    /// Another one acts, and this one is ready to take over.
    StandingBy,
    /// It leads, and is reading what there is.
    Reading,
    /// It leads and acts.
    Acting,
    /// It was told to stop.
    Stopping,
}

/// What the pages are made from.
#[derive(Clone)]
pub struct Health {
    phase: Arc<AtomicU8>,
    metrics: Metrics,
    relays: Arc<Relays>,
}

impl Health {
    /// Starting.
    pub fn new(metrics: Metrics, relays: Arc<Relays>) -> Self {
        Self { phase: Arc::new(AtomicU8::new(Phase::Starting as u8)), metrics, relays }
    }

    /// How far the process is now.
    pub fn is(&self, phase: Phase) {
        self.metrics.leads(matches!(phase, Phase::Reading | Phase::Acting));
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// The pages.
    pub fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .with_state(self)
    }
}

/// A second operator that waits for its turn is ready too: a Deployment would never be complete otherwise.
async fn ready(State(health): State<Health>) -> (StatusCode, &'static str) {
    let phase = health.phase.load(Ordering::Relaxed);
    for (known, code, words) in [
        (Phase::Starting, StatusCode::SERVICE_UNAVAILABLE, "the API server has not answered yet\n"),
        (Phase::StandingBy, StatusCode::OK, "ok, another operator leads\n"),
        (Phase::Reading, StatusCode::SERVICE_UNAVAILABLE, "reading what is in the cluster\n"),
        (Phase::Acting, StatusCode::OK, "ok\n"),
    ] {
        if phase == known as u8 {
            return (code, words);
        }
    }
    (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
}

async fn metrics(State(health): State<Health>) -> Response {
    health.metrics.relays(health.relays.count());
    match health.metrics.page() {
        Ok(page) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], page).into_response(),
        Err(cause) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{cause}\n")).into_response(),
    }
}
