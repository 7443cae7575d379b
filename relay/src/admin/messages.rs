//! Calls about messages: the list, the story and the content of one, and orders to one.

use std::{net::SocketAddr, sync::Arc, time::Duration, time::Instant};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{
        ConnectInfo, Path, RawQuery, State,
        rejection::{BytesRejection, PathRejection},
    },
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use backupmx_relay_api::admin::{Changed, HeldReason, Messages, Order, State as Stands, Story};
use futures_util::stream;
use jiff::Timestamp;

use super::{
    Admin, ask,
    ask::Words,
    audit::{self, About},
    document,
    order::{Deed, Done, carry_out},
    problem::Problem,
    story,
};
use crate::{
    mail::{content::Source, id::MessageId},
    spool::{ReadError, Stored},
};

/// A list is for a person who waits for it.
const SEARCH_TIME_MAX: Duration = Duration::from_secs(2);

type Named = Result<Path<String>, PathRejection>;
type Given = Result<Bytes, BytesRejection>;

pub async fn list(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Result<Json<Messages>, Problem> {
    let known = ["query", "state", "heldReason", "limit", "cursor"];
    let [part, state, reason, limit, cursor] = ask::parameters(query.as_deref(), known)?;
    let state: Option<Stands> = ask::one_of("state", state, "waiting or held")?;
    let wants = "undeliverable, capability, expired, damaged, recovered, person or unknown";
    let reason: Option<HeldReason> = ask::one_of("heldReason", reason, wants)?;
    let (limit, from) = (ask::limit(limit)?, ask::cursor(cursor.as_deref())?);
    let query = ask::query(part.unwrap_or_default(), state, reason)?;
    let _turn = admin.turn().await;
    let searched = admin.parts.spool.search(query, from, limit, SEARCH_TIME_MAX).await;
    let (hits, rest) = searched.map_err(|cause| unreadable("search the spool", &cause))?;
    let now = (Instant::now(), Timestamp::now());
    let messages = hits.into_iter().map(|hit| {
        let when = admin.parts.queue.next_attempt(hit.id);
        document::message(hit, when, now)
    });
    Ok(Json(Messages { messages: messages.collect(), cursor: rest.map(|cursor| cursor.to_string()) }))
}

pub async fn show(State(admin): State<Arc<Admin>>, id: Named) -> Result<Json<Story>, Problem> {
    let id = ask::id(id)?;
    let _turn = admin.turn().await;
    let history = admin.parts.spool.history(id).await;
    let events = history.map_err(|cause| unreadable("read the history of a message", &cause))?;
    if events.is_empty() {
        return Err(Problem::unknown(id));
    }
    let (stands, when) = (admin.parts.spool.stands(id), admin.parts.queue.next_attempt(id));
    Ok(Json(story::tell(id, &events, stands.as_ref(), when, (Instant::now(), Timestamp::now()))))
}

pub async fn content(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    id: Named,
) -> Result<Response, Problem> {
    let id = ask::id(id)?;
    let read = match admin.parts.spool.read_any(id).await {
        Ok(Some(stored)) => Ok(stored),
        Ok(None) => Err(Problem::unknown(id)),
        Err(ReadError::Damaged) => {
            let detail = "Its stored bytes are damaged; `backupmx-relay spool check` on a stopped relay tells more.";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail))
        }
        Err(ReadError::Io(cause)) => Err(unreadable("read a message", &cause)),
    };
    // Who has read other people's mail is as good to know as who has deleted it.
    let nobody = Words::of(Order::default())?;
    let told = |stored: &Stored| format!("read {} bytes", stored.content_bytes);
    let stored = audit::noted("content", Some(About::Message(id)), &nobody, peer, read, told)?;
    let length = stored.trace.len() as u64 + stored.content_bytes;
    let headers = [
        (header::CONTENT_TYPE, "message/rfc822".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        // It is foreign: to be saved, never to be shown in the place where the token is known.
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{id}.eml\"")),
    ];
    Ok((headers, streamed(stored)).into_response())
}

/// Piece by piece, as it is read. An error on the way breaks the connection off, so that nobody takes a part for the whole.
fn streamed(stored: Stored) -> Body {
    let Stored { trace, content, .. } = stored;
    let pieces = stream::try_unfold((Some(trace), content), async |(trace, mut content)| {
        let piece = match trace {
            Some(trace) => Some(trace),
            None => content.next().await?,
        };
        Ok::<_, std::io::Error>(piece.map(|piece| (Bytes::from(piece), (None, content))))
    });
    Body::from_stream(pieces)
}

pub async fn hold(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    id: Named,
    body: Given,
) -> Result<Json<Changed>, Problem> {
    ordered(&admin, peer, ask::id(id)?, Deed::Hold, Words::of_hold(ask::body(body)?)?).await
}

pub async fn release(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    id: Named,
    body: Given,
) -> Result<Json<Changed>, Problem> {
    ordered(&admin, peer, ask::id(id)?, Deed::Release, Words::of(ask::body_if_any(body)?)?).await
}

pub async fn retry(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    id: Named,
    body: Given,
) -> Result<Json<Changed>, Problem> {
    ordered(&admin, peer, ask::id(id)?, Deed::Retry, Words::of(ask::body_if_any(body)?)?).await
}

pub async fn delete(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    id: Named,
    RawQuery(query): RawQuery,
) -> Result<Json<Changed>, Problem> {
    let id = ask::id(id)?;
    let [confirm, reason, author] = ask::parameters(query.as_deref(), ["confirm", "reason", "author"])?;
    if confirm.is_none_or(|confirm| confirm != id.to_string()) {
        let detail = format!("Deleted is deleted: confirm by the parameter confirm={id}.");
        return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, detail));
    }
    ordered(&admin, peer, id, Deed::Delete, Words::of(Order { reason, author })?).await
}

async fn ordered(
    admin: &Admin,
    peer: SocketAddr,
    id: MessageId,
    deed: Deed,
    words: Words,
) -> Result<Json<Changed>, Problem> {
    let parts = admin.parts.clone();
    // To its end even if nobody waits for the answer any more: what is claimed is given back, and what was changed is noted.
    let work = async move {
        let done = match carry_out(parts.clone(), id, deed, words.clone()).await {
            Done::Changed(recipients) => Ok(Changed { id: id.to_string(), recipients }),
            Done::Unknown => Err(Problem::unknown(id)),
            Done::Busy => Err(Problem::busy(id)),
            Done::NotKept => Err(Problem::not_kept()),
        };
        if deed == Deed::Retry && done.is_ok() {
            parts.primary.probe_at_once();
        }
        let told = |changed: &Changed| format!("changed {} recipients", changed.recipients);
        audit::noted(deed.name(), Some(About::Message(id)), &words, peer, done, told)
    };
    tokio::spawn(work).await.unwrap_or_else(|_| Err(Problem::not_kept())).map(Json)
}

/// The disk says no; it may say yes later.
pub fn unreadable(step: &str, cause: &std::io::Error) -> Problem {
    tracing::error!(%cause, "{step}");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "The volume could not be read; the log says why. Ask again.")
}
