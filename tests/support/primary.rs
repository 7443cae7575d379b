//! The primary of most tests: a small SMTP server that keeps exactly what came over the wire, that can go away and
//! come back on the same port, and that misbehaves as a script tells it.

use std::{
    collections::HashMap,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustls::ServerConfig;

use crate::{
    certificate::Certificate,
    netns::Namespace,
    port::{Deaf, Port},
    wait::eventually,
};

mod conversation;
mod draft;
mod ledger;
mod limits;
mod model;
mod offered;
mod script;
#[cfg(test)]
mod tests;
mod wire;

pub use ledger::Ledger;
pub use limits::Limits;
pub use model::{Capacity, Failing, Model, Storm};
pub use script::{Act, Rule, Stage};

/// What a server of our days offers, less what a relay may not use without being asked.
const EXTENSIONS: &[&str] = &["PIPELINING", "SIZE 104857600", "8BITMIME", "ENHANCEDSTATUSCODES"];

/// From the cut of a connection to its end. What was read before is still dealt with.
const CUT_LIMIT: Duration = Duration::from_secs(30);

/// A message that was answered 250, or kept although its sender heard nothing (see [`Act::KeepAndClose`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mail {
    /// The name that the client gave in EHLO.
    pub client: String,
    /// Reverse-path without its brackets.
    pub sender: String,
    /// What followed it: `SIZE=5 BODY=8BITMIME`.
    pub parameters: String,
    /// Forward-paths without their brackets, those that were answered 250.
    pub recipients: Vec<String>,
    /// What followed each of them: `NOTIFY=NEVER`.
    pub recipient_parameters: Vec<String>,
    /// What XFORWARD said of the client's client: `NAME=a.example ADDR=192.0.2.1`.
    pub forwarded: String,
    /// The bytes between the CRLF of DATA and the final dot, the added dots removed; or all that came by BDAT.
    pub content: Vec<u8>,
    /// Whether it came by BDAT.
    pub in_parts: bool,
    /// Whether it came over TLS.
    pub encrypted: bool,
    /// When the last of them was read.
    pub arrived: Instant,
    /// When it was answered.
    pub kept: Instant,
    /// Which connection brought it, counted from 1.
    pub connection: u64,
}

/// The server. Dropping it cuts its connections and closes its port.
pub struct Primary {
    port: Port,
    shared: Arc<Shared>,
    running: Option<Running>,
    deaf: Option<Deaf>,
}

struct Running {
    listener: TcpListener,
    acceptor: JoinHandle<()>,
}

/// What all connections share.
struct Shared {
    mails: Mutex<Vec<Arc<Mail>>>,
    mail_came: Condvar,
    script: script::Script,
    limits: Limits,
    model: Model,
    ledger: Ledger,
    extensions: Mutex<Vec<String>>,
    tls: Mutex<Option<Arc<ServerConfig>>>,
    violations: Mutex<Vec<String>>,
    open: Mutex<HashMap<u64, TcpStream>>,
    connections: AtomicU64,
    open_max: AtomicU64,
}

impl Primary {
    /// A server that listens.
    pub fn start() -> Self {
        let mut primary = Self::away();
        primary.return_now();
        primary
    }

    /// A server whose port is known, but that does not listen yet.
    pub fn away() -> Self {
        Self::at(Port::reserve())
    }

    /// The same on another machine: packets to it can be dropped on their way.
    pub fn away_within(namespace: &Arc<Namespace>) -> Self {
        Self::at(Port::reserve_within(Arc::clone(namespace)))
    }

    fn at(port: Port) -> Self {
        let shared = Shared {
            mails: Mutex::default(),
            mail_came: Condvar::new(),
            script: script::Script::default(),
            limits: Limits::none(),
            model: Model::default(),
            ledger: Ledger::default(),
            extensions: Mutex::new(EXTENSIONS.iter().map(|&name| name.to_owned()).collect()),
            tls: Mutex::default(),
            violations: Mutex::default(),
            open: Mutex::default(),
            connections: AtomicU64::new(0),
            open_max: AtomicU64::new(0),
        };
        Self { port, shared: Arc::new(shared), running: None, deaf: None }
    }

    /// Where it is, listening or not.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Listens again. Returns the moment from which on connections are taken.
    pub fn return_now(&mut self) -> Instant {
        assert!(self.running.is_none(), "a server that listens cannot return");
        let listener = self.deaf.take().map_or_else(|| self.port.listen(), Deaf::hear);
        let returned = Instant::now();
        self.shared.model.returned(returned);
        let (shared, accepting) = (Arc::clone(&self.shared), listener.try_clone().expect("a socket can be cloned"));
        self.running = Some(Running { listener, acceptor: thread::spawn(move || accept(&accepting, &shared)) });
        returned
    }

    /// Goes away as a machine behind a filter does: who connects hears nothing at all, not even a refusal.
    pub fn fall_silent(&mut self) {
        self.go_away();
        self.deaf = Some(self.port.listen_deaf());
    }

    /// Goes away as a server does: the port is closed, all connections are cut. On return nothing more can arrive.
    pub fn go_away(&mut self) {
        self.deaf = None;
        let Some(Running { listener, acceptor }) = self.running.take() else { return };
        // Wakes the thread that waits in accept; nothing else does.
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).expect("a listener can be shut");
        acceptor.join().expect("the accepting thread does not panic");
        drop(listener);
        for stream in lock(&self.shared.open).values() {
            // Fails where the client was faster, which is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
        eventually(CUT_LIMIT, "the end of all connections", || lock(&self.shared.open).is_empty());
    }

    /// From now on, does what `rule` says; earlier rules go first.
    pub fn misbehave(&self, rule: Rule) {
        self.shared.script.add(rule);
    }

    /// Forgets all rules, and how often they were followed.
    pub fn behave(&self) {
        self.shared.script.clear();
    }

    /// How often rules were followed since they were made.
    pub fn misbehaved(&self) -> u64 {
        self.shared.script.followed()
    }

    /// How often rules about `text` were followed (see [`Rule::about`]).
    pub fn misbehaved_about(&self, text: &str) -> u64 {
        self.shared.script.followed_about(text)
    }

    /// How often rules for this stage were followed.
    pub fn misbehaved_at(&self, stage: Stage) -> u64 {
        self.shared.script.followed_at(stage)
    }

    /// What it does not put up with.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Offers these extensions in place of the usual ones.
    pub fn offer(&self, extensions: &[&str]) {
        *lock(&self.shared.extensions) = extensions.iter().map(|&name| name.to_owned()).collect();
    }

    /// Offers STARTTLS besides, with this certificate.
    pub fn offer_tls(&self, certificate: &Certificate) {
        *lock(&self.shared.tls) = Some(certificate.server());
    }

    /// Offers STARTTLS no more, from the next EHLO on.
    pub fn offer_no_tls(&self) {
        *lock(&self.shared.tls) = None;
    }

    /// What it can bear, and how it fails.
    pub fn model(&self) -> &Model {
        &self.shared.model
    }

    /// What clients did, counted.
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// All messages so far, in their order.
    pub fn mails(&self) -> Vec<Arc<Mail>> {
        lock(&self.shared.mails).clone()
    }

    /// How many messages it has.
    pub fn count(&self) -> usize {
        lock(&self.shared.mails).len()
    }

    /// Messages that were kept between two moments, a second.
    pub fn rate_between(&self, from: Instant, until: Instant) -> f64 {
        let kept = lock(&self.shared.mails).iter().filter(|mail| mail.kept > from && mail.kept <= until).count();
        kept as f64 / (until - from).as_secs_f64()
    }

    /// Messages a second, without the first fifth, in which a client finds its pace, and the last tenth, in which it has
    /// too few.
    pub fn steady_rate(&self) -> f64 {
        let mut moments: Vec<_> = lock(&self.shared.mails).iter().map(|mail| mail.kept).collect();
        moments.sort();
        self.rate_between(moments[moments.len() / 5], moments[moments.len() * 9 / 10])
    }

    /// Forgets all messages.
    pub fn forget(&self) {
        lock(&self.shared.mails).clear();
    }

    /// Returns all messages once there are `count` at least.
    ///
    /// # Panics
    /// After `limit`.
    #[track_caller]
    pub fn wait_for(&self, count: usize, limit: Duration) -> Vec<Arc<Mail>> {
        let (mails, outcome) = self
            .shared
            .mail_came
            .wait_timeout_while(lock(&self.shared.mails), limit, |mails| mails.len() < count)
            .expect("no connection panics while it keeps a message");
        let have = mails.len();
        assert!(!outcome.timed_out(), "waited {limit:?} for {count} messages, {have} came to the primary");
        mails.clone()
    }

    /// What clients did against the protocol, a sentence each.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.shared.violations).clone()
    }

    /// Connections that were open at one time, at most.
    pub fn connections_open_max(&self) -> u64 {
        self.shared.open_max.load(Ordering::Relaxed)
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        self.go_away();
    }
}

impl Shared {
    fn keep(&self, mail: Mail) {
        lock(&self.mails).push(Arc::new(mail));
        self.model.kept(Instant::now());
        self.mail_came.notify_all();
    }

    fn violation(&self, what: String) {
        lock(&self.violations).push(what);
    }

    fn opened(&self, stream: &TcpStream) -> Option<u64> {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        self.ledger.opened();
        let mut open = lock(&self.open);
        open.insert(connection, stream.try_clone().ok()?);
        self.open_max.fetch_max(open.len() as u64, Ordering::Relaxed);
        Some(connection)
    }

    /// Takes the connection off the list, once: with its QUIT, or with its end.
    fn closed(&self, connection: u64) {
        if lock(&self.open).remove(&connection).is_some() {
            self.ledger.closed();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept() {
        let Some(connection) = shared.opened(&stream) else { continue };
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            // An error is the end of a connection, however it came; what the client did is on record.
            let _ = conversation::hold(&stream, connection, &shared);
            let _ = stream.shutdown(Shutdown::Both);
            shared.closed(connection);
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no connection panics with the lock in its hand")
}
