//! A relay as the operator sees one: its observe port, with a status that the test writes. No mail.
//!
//! Thousands fit into one process: each is a listener and a task, on an address of 127.0.0.0/8 of its own.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use backupmx_relay_api::{SCHEMA, path, poll, port, quantity::Span, status::Status};
use jiff::Timestamp;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use crate::{HOSTNAME, runtime::RUNTIME, wait::eventually};

/// From an order to the listener that is there, or gone.
const LIMIT: Duration = Duration::from_secs(30);
/// Longer than any client's.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// More than anybody should read, little enough for a test.
const HUGE_BYTES: usize = 64 << 20;
/// A part of them. Not within a connection, of which there are thousands.
static SPACES: [u8; 1 << 16] = [b' '; 1 << 16];
/// Keys that the first relays did not have.
const NEWER_KEYS: [&str; 5] = ["revision", "config", "clients", "cordoned", "outages"];

/// A relay. Dropping it closes its port and its connections.
pub struct FakeRelay {
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// Relays by the names of their pods. Each starts when it is first asked for.
#[derive(Clone, Default)]
pub struct Fleet(Arc<Mutex<HashMap<String, Arc<FakeRelay>>>>);

/// How it answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// As a relay does.
    Well,
    /// Takes connections and says nothing, like a process that is stopped; what was asked is answered afterwards.
    Silent,
    /// Refuses connections, and has cut those that it had.
    Gone,
    /// As the first relays did: no polls, and fewer keys.
    Old,
    /// With this HTTP status code.
    Failing(u16),
    /// With what is no JSON.
    Garbage,
    /// With a status document behind 64 MiB of white space.
    Huge,
}

struct Shared {
    address: SocketAddr,
    state: watch::Sender<State>,
    is_listening: AtomicBool,
    connections: AtomicU64,
    requests: AtomicU64,
    polls_open: AtomicU64,
    polls_open_max: AtomicU64,
}

struct State {
    status: Status,
    manner: Manner,
}

struct Answer {
    code: u16,
    /// White space before the body.
    padding_bytes: usize,
    body: String,
}

impl FakeRelay {
    /// One that is well and idle, on a free address, at the port that relays have.
    pub fn start() -> Self {
        let free = |_| match bind((free_address(), port::OBSERVE).into()) {
            Ok(listener) => Some(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            Err(error) => panic!("listen: {error}"),
        };
        let listener = (0..100).find_map(free).expect("one of a hundred addresses is free");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            address,
            state: watch::Sender::new(State { status: idle(), manner: Manner::Well }),
            is_listening: AtomicBool::new(true),
            connections: AtomicU64::default(),
            requests: AtomicU64::default(),
            polls_open: AtomicU64::default(),
            polls_open_max: AtomicU64::default(),
        });
        let task = RUNTIME.spawn(run(Arc::clone(&shared), listener)).abort_handle();
        Self { shared, task }
    }

    /// Its address.
    pub fn ip(&self) -> Ipv4Addr {
        match self.shared.address {
            SocketAddr::V4(address) => *address.ip(),
            SocketAddr::V6(_) => unreachable!("it was given an IPv4 address"),
        }
    }

    /// Its status.
    pub fn status(&self) -> Status {
        self.shared.state.borrow().status.clone()
    }

    /// Changes its status: the revision grows, and polls are answered.
    pub fn set(&self, change: impl FnOnce(&mut Status)) {
        self.shared.state.send_modify(|state| {
            change(&mut state.status);
            state.status.revision += 1;
        });
    }

    /// Begins anew, as a process that was started again: with the first revision, and another start.
    pub fn restart(&self) {
        self.shared.state.send_modify(|state| {
            state.status.started_at = Timestamp::now().to_string();
            state.status.revision = 1;
        });
    }

    /// From now on answers like this.
    #[track_caller]
    pub fn behave(&self, manner: Manner) {
        self.shared.state.send_modify(|state| state.manner = manner);
        let is_listening = manner != Manner::Gone;
        eventually(LIMIT, "the listener has changed", || {
            self.shared.is_listening.load(Ordering::Relaxed) == is_listening
        });
    }

    /// Connections that it has taken.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Requests that it has read.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Requests that wait for a change now.
    pub fn polls_open(&self) -> u64 {
        self.shared.polls_open.load(Ordering::Relaxed)
    }

    /// The most that waited at a time.
    pub fn polls_open_max(&self) -> u64 {
        self.shared.polls_open_max.load(Ordering::Relaxed)
    }
}

impl Drop for FakeRelay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fleet {
    /// All that there are, with their pods.
    pub fn all(&self) -> Vec<(String, Arc<FakeRelay>)> {
        let relays = self.0.lock().expect("nobody panics with the fleet in his hand");
        relays.iter().map(|(pod, relay)| (pod.clone(), Arc::clone(relay))).collect()
    }

    /// The relay of this pod.
    pub fn relay(&self, pod: &str) -> Arc<FakeRelay> {
        let mut relays = self.0.lock().expect("nobody panics with the fleet in his hand");
        Arc::clone(relays.entry(pod.to_owned()).or_insert_with(|| Arc::new(FakeRelay::start())))
    }
}

/// Allows this process as many open files as it may have at all: each relay is one, each connection two.
pub fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("a process may go up to its limit");
}

/// An address of this machine that nobody else uses. The process number decides where they begin, so that tests that run at the
/// same time seldom meet.
pub fn free_address() -> Ipv4Addr {
    const BLOCK: u32 = 1 << 18;
    static TAKEN: AtomicU32 = AtomicU32::new(1);
    // Not the first block, which has 127.0.0.1 in it.
    let block = 1 + std::process::id() % 63;
    let offset = block * BLOCK + TAKEN.fetch_add(1, Ordering::Relaxed) % BLOCK;
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 0, 0)) + offset)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let _runtime = RUNTIME.enter();
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Listens whenever it is not gone. Whoever ends this ends its connections.
async fn run(shared: Arc<Shared>, first: TcpListener) {
    let (mut state, mut listener) = (shared.state.subscribe(), Some(first));
    loop {
        let listening = match listener.take() {
            Some(listener) => listener,
            None => bind(shared.address).expect("nobody else wants this address"),
        };
        shared.is_listening.store(true, Ordering::Relaxed);
        let gone = state.wait_for(|state| state.manner == Manner::Gone);
        tokio::select! {
            () = accept(&shared, &listening) => {}
            _ = gone => {}
        }
        drop(listening);
        shared.is_listening.store(false, Ordering::Relaxed);
        let _ = state.wait_for(|state| state.manner != Manner::Gone).await;
    }
}

async fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(shared);
        // A client may leave at any time.
        connections.spawn(async move { hold(&shared, stream).await.ok() });
        while connections.try_join_next().is_some() {}
    }
}

/// One request after the other, until the client leaves.
async fn hold(shared: &Shared, stream: TcpStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(target) = request(&mut stream).await? {
        shared.requests.fetch_add(1, Ordering::Relaxed);
        let Answer { code, padding_bytes, body } = tokio::select! {
            answer = answer(shared, &target) => answer,
            () = leave(&mut stream) => return Ok(()),
        };
        let length = padding_bytes + body.len();
        let head = format!("HTTP/1.1 {code} \r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        for _ in 0..padding_bytes / SPACES.len() {
            stream.write_all(&SPACES).await?;
        }
        stream.write_all(body.as_bytes()).await?;
    }
    Ok(())
}

/// Returns when the client has left.
async fn leave(stream: &mut BufReader<TcpStream>) {
    if stream.fill_buf().await.is_ok_and(|early| !early.is_empty()) {
        // Its next request is here already.
        std::future::pending::<()>().await;
    }
}

/// The target of the next request; `None` if there is none. What follows the head is not looked at: no client sends a body.
async fn request(stream: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let head = String::from_utf8_lossy(&head);
    Ok(head.split(' ').nth(1).map(str::to_owned))
}

async fn answer(shared: &Shared, target: &str) -> Answer {
    let mut state = shared.state.subscribe();
    let manner = state.wait_for(|state| state.manner != Manner::Silent).await.expect("we hold the sender").manner;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let plain = |code| (code, String::new());
    let (code, body) = match (path, manner) {
        (_, Manner::Failing(code)) => plain(code),
        (_, Manner::Garbage) => (200, "<html>no relay lives here".to_owned()),
        (path::STATUS, Manner::Old) => (200, old(&shared.state.borrow().status)),
        (path::STATUS, _) => (200, poll(shared, query).await),
        (path::HEALTHZ, _) => plain(200),
        (path::READYZ, _) => plain(if shared.state.borrow().status.cordoned { 503 } else { 200 }),
        _ => plain(404),
    };
    Answer { code, padding_bytes: if manner == Manner::Huge { HUGE_BYTES } else { 0 }, body }
}

/// The status document, once it is another one than the client knows, or the client has waited long enough.
async fn poll(shared: &Shared, query: &str) -> String {
    let value = |name: &str| form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, v)| v);
    let known: Option<u64> = value(poll::AFTER).and_then(|revision| revision.parse().ok());
    let start = value(poll::STARTED_AT);
    let wait = value(poll::WAIT).and_then(|wait| wait.parse::<Span>().ok()).map_or(Duration::ZERO, |span| span.0);
    let wait = wait.min(Duration::from_secs(poll::WAIT_SECONDS_MAX));
    let is_known = |status: &Status| {
        known == Some(status.revision) && start.as_deref().is_none_or(|start| start == status.started_at)
    };
    let mut state = shared.state.subscribe();
    if !wait.is_zero() && is_known(&shared.state.borrow().status) {
        let _open = Open::count(shared);
        let _ = timeout(wait, state.wait_for(|state| !is_known(&state.status))).await;
    }
    serde_json::to_string(&shared.state.borrow().status).expect("a status is JSON")
}

/// A poll that is open, until it is answered or its client has left.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn count(shared: &'a Shared) -> Self {
        let open = 1 + shared.polls_open.fetch_add(1, Ordering::Relaxed);
        shared.polls_open_max.fetch_max(open, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.polls_open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn old(status: &Status) -> String {
    let mut document = serde_json::to_value(status).expect("a status is JSON");
    document["schema"] = 0.into();
    for key in NEWER_KEYS {
        document.as_object_mut().expect("a status is an object").remove(key);
    }
    document.to_string()
}

/// A relay to whose primary all is well, and through which no mail has come yet.
fn idle() -> Status {
    let now = Timestamp::now().to_string();
    let document: Value = json!({
        "version": "0.1.0", "schema": SCHEMA, "hostname": HOSTNAME, "configGeneration": 1, "revision": 1,
        "startedAt": now, "cordoned": false, "sessions": 0, "outages": [], "tls": [], "problems": [],
        "primary": { "state": "Up", "since": now, "lastProbe": now, "reason": "answers", "host": "127.0.0.1:25" },
        "queue": { "messages": 0, "bytes": 0, "held": 0 },
        "drain": { "state": "Idle", "messagesPerSecond": 0.0, "connections": 0, "connectionsAllowed": 20 },
        "spool": { "bytes": 0, "freeBytes": 1_u64 << 30, "writable": true, "quarantined": 0 },
        "account": {},
        "config": { "loadedAt": now, "ignoredKeys": [] },
        "clients": { "sessions": 0, "addresses": 0 },
        "capabilities": { "size": 52_428_800, "eightBitMime": true, "smtputf8": true, "dsn": true },
    });
    serde_json::from_value(document).expect("it has all keys that a status must have")
}

#[cfg(test)]
mod tests;
