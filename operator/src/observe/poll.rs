//! The conversation with one relay: `GET /status` after `GET /status`, over one connection, each answered when there is news. It
//! ends only by being dropped.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use backupmx_relay_api::{path, poll, status::Status};
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
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
    Connect(SocketAddr, io::Error),
    #[error("connect to {0}: no answer within {seconds} s; a NetworkPolicy may keep the operator out", seconds = CONNECT_MAX.as_secs())]
    ConnectTooLong(SocketAddr),
    #[error("ask {0}: {1}")]
    Http(SocketAddr, hyper::Error),
    #[error("ask {0}: {1}")]
    Lost(SocketAddr, io::Error),
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
            Self::Http(..) | Self::Lost(..) | Self::TooLong(_) | Self::Body(_) => "broken",
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
                (line, at_once) = (None, !matches!(cause, Silence::Http(..) | Silence::Lost(..)));
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

fn answered(held: &watch::Sender<Held>, status: Arc<Status>) {
    held.send_modify(|held| {
        let answers = held.answers + 1;
        *held = Held { answer: Some(status), answers, silence: None, silent_since: None };
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

async fn ask_once(
    relays: &Relays,
    address: SocketAddr,
    line: &mut Option<TcpStream>,
    known: Option<&Status>,
) -> Result<Arc<Status>, Silence> {
    let stream = match line {
        Some(open) => open,
        None => line.insert(connect(relays, address).await?),
    };
    let limit = if known.is_some() { WAIT + ANSWER_MAX } else { ANSWER_MAX };
    let answered = timeout(limit, exchange(stream, address, known)).await;
    answered.map_err(|_| Silence::TooLong(address))?
}

async fn connect(relays: &Relays, address: SocketAddr) -> Result<TcpStream, Silence> {
    // It is never closed; were it, nobody would have to wait.
    let _permit = relays.connecting.acquire().await;
    match timeout(CONNECT_MAX, TcpStream::connect(address)).await {
        Err(_) => Err(Silence::ConnectTooLong(address)),
        Ok(connected) => connected.map_err(|cause| Silence::Connect(address, cause)),
    }
}

/// A relay has no news most of the time. Meanwhile nothing is held but the socket: a client of hyper's keeps 19 KB of buffers, and
/// there are two thousand.
async fn exchange(stream: &mut TcpStream, address: SocketAddr, known: Option<&Status>) -> Result<Arc<Status>, Silence> {
    let lost = |cause| Silence::Lost(address, cause);
    stream.write_all(question(address, known).as_bytes()).await.map_err(lost)?;
    stream.peek(&mut [0]).await.map_err(lost)?; // returns with the first byte of the answer, or the end
    let bytes = Box::pin(answer(stream, address)).await?;
    serde_json::from_slice(&bytes).map(Arc::new).map_err(|cause| Silence::Document(address, cause))
}

/// Nothing in it is foreign that is not escaped.
fn question(address: SocketAddr, known: Option<&Status>) -> String {
    let mut target = path::STATUS.to_owned();
    if let Some(known) = known {
        let started: String = form_urlencoded::byte_serialize(known.started_at.as_bytes()).collect();
        let (after, started_at, wait) = (poll::AFTER, poll::STARTED_AT, poll::WAIT);
        target += &format!("?{after}={}&{started_at}={started}&{wait}={}s", known.revision, WAIT.as_secs());
    }
    format!("GET {target} HTTP/1.1\r\nhost: {address}\r\n\r\n")
}

/// Reads the answer that has begun to come: what a relay may write is hyper's to know.
async fn answer(stream: &mut TcpStream, address: SocketAddr) -> Result<Bytes, Silence> {
    let broken = |cause| Silence::Http(address, cause);
    let (mut send, driver) =
        http1::handshake(TokioIo::new(Answering { stream, is_asked: false })).await.map_err(broken)?;
    let answered = pin!(async {
        let answer = send.send_request(Request::new(Empty::<Bytes>::new())).await.map_err(broken)?;
        if answer.status() != StatusCode::OK {
            return Err(Silence::Refused(address, answer.status()));
        }
        body(answer.into_body()).await.ok_or(Silence::Body(address))
    });
    match select(answered, driver).await {
        Either::Left((answered, _)) => answered,
        // The driver ends with the connection, and is gone; what was read before that is still to be told.
        Either::Right((_, answered)) => answered.await,
    }
}

async fn body(incoming: Incoming) -> Option<Bytes> {
    Some(Limited::new(incoming, ANSWER_BYTES_MAX).collect().await.ok()?.to_bytes())
}

/// A connection on which the question was asked already. hyper, which takes no answer without a question, asks it of nobody.
struct Answering<'a> {
    stream: &'a mut TcpStream,
    is_asked: bool,
}

impl AsyncRead for Answering<'_> {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.is_asked {
            task.waker().wake_by_ref(); // it will be in a moment
            return Poll::Pending;
        }
        Pin::new(&mut *self.stream).poll_read(task, into)
    }
}

impl AsyncWrite for Answering<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, question: &[u8]) -> Poll<io::Result<usize>> {
        self.is_asked = true;
        Poll::Ready(Ok(question.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
