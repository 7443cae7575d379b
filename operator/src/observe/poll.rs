//! The conversation with one relay: `GET /status` after `GET /status`, over one connection, each answered when there is news. It
//! ends only by being dropped.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use backupmx_relay_api::{path, poll, status::Status};
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::{
    net::TcpStream,
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use super::{Held, Relays};
use crate::{chance, foreign::shown, view::Id};

/// How long a relay keeps a question that has no news.
const WAIT: Duration = Duration::from_secs(25);
/// An answer takes no longer than this beyond [`WAIT`].
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Inside a cluster a connection takes milliseconds, or a packet was lost: its second try comes after one second.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// A status takes 2 to 5 KiB. Whoever sends more than this is no relay.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Read at once. Two thousand connections wait with such a buffer each, so it is small.
const READ_BYTES: usize = 2 << 10;
/// Between two questions to one relay, however fast it changes: four a second are plenty for a status within three seconds.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Between two questions to a relay that answers at once though it has no news, as one would that does not know how to wait.
const PAUSE_WITHOUT_NEWS: Duration = Duration::from_secs(5);
/// After a first failure; doubles with each further one.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// Where the doubling ends.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// Why there is no answer. Words for the status, so they tell what a person can do about it.
#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error("connect to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    #[error("connect to {0}: no answer within {seconds} s; a NetworkPolicy may keep the operator out", seconds = CONNECT_MAX.as_secs())]
    ConnectTooLong(SocketAddr),
    #[error("ask {0}: {1}")]
    Http(SocketAddr, hyper::Error),
    #[error("ask {0}: connection closed")]
    Closed(SocketAddr),
    #[error("ask {0}: no answer in time")]
    TooLong(SocketAddr),
    #[error("ask {0}: answers {1}")]
    Refused(SocketAddr, StatusCode),
    #[error("ask {0}: answer is cut off, or longer than {ANSWER_BYTES_MAX} bytes")]
    Body(SocketAddr),
    #[error("ask {0}: answer is no status of a version that this operator knows ({words})", words = shown(.1.to_string()))]
    Document(SocketAddr, serde_json::Error),
}

impl Silence {
    fn outcome(&self) -> &'static str {
        match self {
            Self::Connect(..) | Self::ConnectTooLong(_) => "unreachable",
            Self::Http(..) | Self::Closed(_) | Self::TooLong(_) | Self::Body(_) => "broken",
            Self::Refused(..) | Self::Document(..) => "unreadable",
        }
    }
}

/// Asks one relay until the task is dropped. `again`: ask now, whatever it is doing.
pub async fn ask_for_ever(
    relays: Arc<Relays>,
    id: Id,
    address: SocketAddr,
    held: watch::Sender<Held>,
    again: Arc<Notify>,
) {
    let mut line = None;
    let mut failures = 0_u32;
    // The next answer is to come at once: a relay that waits could not be told from one that hangs.
    let mut at_once = true;
    let mut is_wanted = false;
    loop {
        let asked_at = Instant::now();
        let was_open = line.is_some();
        let known = held.borrow().answer.clone().filter(|_| !at_once);
        let asked = tokio::select! {
            asked = ask_once(&relays, address, &mut line, known.as_deref()) => asked,
            () = again.notified() => {
                (line, at_once, is_wanted) = (None, true, true);
                continue;
            }
        };
        let pause = match asked {
            Ok(status) => {
                let is_news = is_news(&held.borrow(), &status);
                relays.metrics.poll(if is_news { "news" } else { "no news" });
                failures = 0;
                answered(&held, status);
                if is_news || std::mem::take(&mut is_wanted) {
                    (relays.wake)(&id);
                }
                let had_to_wait = !std::mem::take(&mut at_once);
                let too_soon = had_to_wait && !is_news && asked_at.elapsed() < WAIT / 2;
                if too_soon { PAUSE_WITHOUT_NEWS } else { PAUSE_MIN }
            }
            // A kept connection may have ended with the relay's last restart: that is told only if a new one fails too.
            Err(cause) if was_open => {
                (line, at_once) = (None, !matches!(cause, Silence::Http(..) | Silence::Closed(_)));
                continue;
            }
            Err(silence) => {
                (line, at_once) = (None, true);
                relays.metrics.poll(silence.outcome());
                if is_silent(&held, &silence.to_string()) {
                    (relays.wake)(&id);
                }
                failures = failures.saturating_add(1);
                chance::back_off(failures - 1, BACK_OFF_MIN, BACK_OFF_MAX)
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = again.notified() => (line, at_once, is_wanted) = (None, true, true),
        }
    }
}

fn answered(held: &watch::Sender<Held>, status: Status) {
    held.send_modify(|held| {
        let answers = held.answers + 1;
        *held = Held { answer: Some(Arc::new(status)), answers, silence: None, silent_since: None };
    });
}

/// Keeps why, and returns whether that is news.
fn is_silent(held: &watch::Sender<Held>, words: &str) -> bool {
    held.send_if_modified(|held| {
        let is_news = held.silence.as_deref() != Some(words);
        held.silence = Some(words.to_owned());
        held.silent_since.get_or_insert_with(Timestamp::now);
        is_news
    })
}

fn is_news(held: &Held, status: &Status) -> bool {
    let same = |known: &Arc<Status>| known.revision == status.revision && known.started_at == status.started_at;
    held.silence.is_some() || !held.answer.as_ref().is_some_and(same)
}

/// An open connection, and what drives it.
struct Line {
    send: http1::SendRequest<Empty<Bytes>>,
    driver: Pin<Box<http1::Connection<TokioIo<TcpStream>, Empty<Bytes>>>>,
}

async fn ask_once(
    relays: &Relays,
    address: SocketAddr,
    line: &mut Option<Line>,
    known: Option<&Status>,
) -> Result<Status, Silence> {
    let open = match line {
        Some(open) => open,
        None => line.insert(connect(relays, address).await?),
    };
    let Line { send, driver } = open;
    let limit = if known.is_some() { WAIT + ANSWER_MAX } else { ANSWER_MAX };
    let exchange = std::pin::pin!(timeout(limit, exchange(send, address, known)));
    let answered = match select(exchange, driver.as_mut()).await {
        Either::Left((answered, _)) => answered.map_err(|_| Silence::TooLong(address))?,
        // The driver ends with the connection; what was read before that is the exchange's to tell.
        Either::Right((_, exchange)) => match timeout(Duration::ZERO, exchange).await {
            Ok(Ok(answered)) => answered,
            _ => Err(Silence::Closed(address)),
        },
    };
    let bytes = answered?;
    serde_json::from_slice(&bytes).map_err(|cause| Silence::Document(address, cause))
}

async fn connect(relays: &Relays, address: SocketAddr) -> Result<Line, Silence> {
    // It is never closed; were it, nobody would have to wait.
    let _permit = relays.connecting.acquire().await;
    let stream = match timeout(CONNECT_MAX, TcpStream::connect(address)).await {
        Err(_) => return Err(Silence::ConnectTooLong(address)),
        Ok(connected) => connected.map_err(|cause| Silence::Connect(address, cause))?,
    };
    let handshake = http1::Builder::new().read_buf_exact_size(Some(READ_BYTES)).handshake(TokioIo::new(stream));
    let (send, driver) = handshake.await.map_err(|cause| Silence::Http(address, cause))?;
    Ok(Line { send, driver: Box::pin(driver) })
}

async fn exchange(
    send: &mut http1::SendRequest<Empty<Bytes>>,
    address: SocketAddr,
    known: Option<&Status>,
) -> Result<Bytes, Silence> {
    let broken = |cause| Silence::Http(address, cause);
    send.ready().await.map_err(broken)?;
    let answer = send.send_request(question(address, known)).await.map_err(broken)?;
    if answer.status() != StatusCode::OK {
        return Err(Silence::Refused(address, answer.status()));
    }
    body(answer.into_body()).await.ok_or(Silence::Body(address))
}

fn question(address: SocketAddr, known: Option<&Status>) -> Request<Empty<Bytes>> {
    let mut target = path::STATUS.to_owned();
    if let Some(known) = known {
        let started: String = form_urlencoded::byte_serialize(known.started_at.as_bytes()).collect();
        let (after, started_at, wait) = (poll::AFTER, poll::STARTED_AT, poll::WAIT);
        target += &format!("?{after}={}&{started_at}={started}&{wait}={}s", known.revision, WAIT.as_secs());
    }
    let mut question = Request::new(Empty::new());
    // Nothing in it is foreign that was not escaped above; a target that cannot be said asks for everything at once.
    *question.uri_mut() = target.parse().unwrap_or_else(|_| hyper::Uri::from_static(path::STATUS));
    if let Ok(host) = address.to_string().parse() {
        question.headers_mut().insert(header::HOST, host);
    }
    question
}

async fn body(incoming: Incoming) -> Option<Bytes> {
    Some(Limited::new(incoming, ANSWER_BYTES_MAX).collect().await.ok()?.to_bytes())
}
