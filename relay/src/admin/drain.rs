//! Orders to the drain as a whole: flush, hold, resume, and the breaker.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{ConnectInfo, State, rejection::BytesRejection},
    http::StatusCode,
};
use backupmx_relay_api::admin::{BreakerReset, DrainHold, Flushed, Order};

use super::{Admin, ask, ask::Words, audit, problem::Problem};

pub async fn flush(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
) -> Result<Json<Flushed>, Problem> {
    let messages = admin.parts.queue.flush() as u64;
    admin.parts.primary.probe_at_once();
    let result = format!("{messages} messages are due");
    audit::note("flush", None, &Words::of(Order::default())?, peer, &result);
    Ok(Json(Flushed { messages }))
}

pub async fn hold(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<DrainHold>, Problem> {
    let words = Words::of_hold(ask::body(body)?)?;
    let changed =
        admin.parts.primary.hold(words.author.clone(), words.reason.clone()).await.map_err(|cause| kept(&cause))?;
    audit::note("drain-hold", None, &words, peer, if changed { "held" } else { "it was held already" });
    Ok(Json(DrainHold { changed, hold: admin.parts.primary.held_by() }))
}

pub async fn resume(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<DrainHold>, Problem> {
    let words = Words::of(ask::body_if_any(body)?)?;
    let changed = admin.parts.primary.resume().await.map_err(|cause| kept(&cause))?;
    audit::note("drain-resume", None, &words, peer, if changed { "resumed" } else { "it was not held" });
    Ok(Json(DrainHold { changed, hold: admin.parts.primary.held_by() }))
}

pub async fn reset_breaker(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<BreakerReset>, Problem> {
    let words = Words::of(ask::body_if_any(body)?)?;
    let was_open = admin.parts.primary.reset_breaker();
    audit::note("breaker-reset", None, &words, peer, if was_open { "closed" } else { "it was not open" });
    Ok(Json(BreakerReset { was_open }))
}

/// It counts, but not beyond a restart.
fn kept(cause: &io::Error) -> Problem {
    tracing::error!(%cause, "write who holds the drain; it does not survive a restart");
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "It counts from now on, but could not be written, so a restart forgets it; the log names the error. Order it again.",
    )
}
