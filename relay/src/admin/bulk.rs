//! Orders to all messages that a search finds: page after page, for as long as a person waits, then a cursor to go on from.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    body::Bytes,
    extract::{ConnectInfo, State, rejection::BytesRejection},
};
use backupmx_relay_api::admin::{BulkChanged, BulkOrder, Order};
use tokio::task::JoinSet;

use super::{
    Admin, ask,
    ask::Words,
    audit::{self, About},
    messages::unreadable,
    order::{Deed, Done, carry_out},
    problem::Problem,
};
use crate::{
    foreign::shown,
    spool::search::{Cursor, Hit, Query},
};

/// After this an order ends with the page that it is at.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Changed at a time: as many as one commit takes (docs/spool.md), so that a disk's slowness is shared.
const PAGE_MESSAGES: usize = 256;

pub async fn hold(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<BulkChanged>, Problem> {
    ordered(&admin, peer, Deed::Hold, ask::body(body)?).await
}

pub async fn release(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<BulkChanged>, Problem> {
    ordered(&admin, peer, Deed::Release, ask::body(body)?).await
}

pub async fn retry(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<BulkChanged>, Problem> {
    ordered(&admin, peer, Deed::Retry, ask::body(body)?).await
}

async fn ordered(
    admin: &Arc<Admin>,
    peer: SocketAddr,
    deed: Deed,
    order: BulkOrder,
) -> Result<Json<BulkChanged>, Problem> {
    let BulkOrder { query, state, held_reason, reason, author, cursor } = order;
    let words = Words::of(Order { reason, author })?;
    let words = if deed == Deed::Hold { words.with_reason()? } else { words };
    let (from, query) = (ask::cursor(cursor.as_deref())?, ask::query(query, state, held_reason)?);
    let about = described(&query);
    let (admin, action) = (admin.clone(), format!("{}-all", deed.name()));
    // To its end even if nobody waits for the answer any more: what was changed is noted.
    let work = async move {
        let done = run(&admin, deed, &words, query, from).await;
        let told = |done: &BulkChanged| {
            let BulkChanged { found, changed, busy, failed, cursor } = done;
            let rest = if cursor.is_some() { ", more to come" } else { "" };
            format!("changed {changed} of {found}, busy {busy}, failed {failed}{rest}")
        };
        audit::noted(&action, Some(About::Query(&about)), &words, peer, done, told)
    };
    tokio::spawn(work).await.unwrap_or_else(|_| Err(Problem::not_kept())).map(Json)
}

async fn run(admin: &Admin, deed: Deed, words: &Words, query: Query, from: Cursor) -> Result<BulkChanged, Problem> {
    let _turn = admin.turn().await;
    let deadline = Instant::now() + TIME_MAX;
    let mut done = BulkChanged { found: 0, changed: 0, busy: 0, failed: 0, cursor: None };
    let mut next = Some(from);
    while let Some(from) = next.filter(|_| Instant::now() < deadline) {
        let left = deadline.saturating_duration_since(Instant::now());
        let searched = admin.parts.spool.search(query.clone(), from, PAGE_MESSAGES, left).await;
        match searched.map_err(|cause| unreadable("search the spool", &cause)) {
            Ok((hits, rest)) => {
                page(admin, deed, words, hits, &mut done).await;
                next = rest;
            }
            // What was done is told, with where to go on.
            Err(_) if done.found > 0 => break,
            Err(problem) => return Err(problem),
        }
    }
    if deed == Deed::Retry {
        admin.parts.primary.probe_at_once();
    }
    Ok(BulkChanged { cursor: next.map(|cursor| cursor.to_string()), ..done })
}

/// All of a page at once: they share their commits.
async fn page(admin: &Admin, deed: Deed, words: &Words, hits: Vec<Hit>, done: &mut BulkChanged) {
    done.found += hits.len() as u64;
    let mut under_way: JoinSet<_> =
        hits.into_iter().map(|hit| carry_out(admin.parts.clone(), hit.id, deed, words.clone())).collect();
    while let Some(outcome) = under_way.join_next().await {
        match outcome.unwrap_or(Done::NotKept) {
            Done::Changed(recipients) => done.changed += u64::from(recipients > 0),
            Done::Unknown => {} // it had its end since it was found
            Done::Busy => done.busy += 1,
            Done::NotKept => done.failed += 1,
        }
    }
}

/// What was searched for, in a line of the log.
fn described(query: &Query) -> String {
    let Query { part, is_held, reason } = query;
    let state = is_held.map_or("any state", |is_held| if is_held { "held" } else { "waiting" });
    let reason = reason.map_or_else(String::new, |reason| format!(", {}", reason.word()));
    format!("'{}', {state}{reason}", shown(part))
}
