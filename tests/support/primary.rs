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

use crate::{
    port::{Deaf, Port},
    wait::eventually,
};

mod conversation;
mod limits;
mod script;
mod wire;

pub use limits::Limits;
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
    /// The bytes between the CRLF of DATA and the final dot, the added dots removed.
    pub content: Vec<u8>,
    /// When the last of them was read.
    pub arrived: Instant,
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
    extensions: Mutex<Vec<String>>,
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
        let shared = Shared {
            mails: Mutex::default(),
            mail_came: Condvar::new(),
            script: script::Script::default(),
            limits: Limits::none(),
            extensions: Mutex::new(EXTENSIONS.iter().map(|&name| name.to_owned()).collect()),
            violations: Mutex::default(),
            open: Mutex::default(),
            connections: AtomicU64::new(0),
            open_max: AtomicU64::new(0),
        };
        Self { port: Port::reserve(), shared: Arc::new(shared), running: None, deaf: None }
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

    /// All messages so far, in their order.
    pub fn mails(&self) -> Vec<Arc<Mail>> {
        lock(&self.shared.mails).clone()
    }

    /// How many messages it has.
    pub fn count(&self) -> usize {
        lock(&self.shared.mails).len()
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
        self.mail_came.notify_all();
    }

    fn violation(&self, what: String) {
        lock(&self.violations).push(what);
    }

    fn opened(&self, stream: &TcpStream) -> Option<u64> {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let mut open = lock(&self.open);
        open.insert(connection, stream.try_clone().ok()?);
        self.open_max.fetch_max(open.len() as u64, Ordering::Relaxed);
        Some(connection)
    }

    fn closed(&self, connection: u64) {
        lock(&self.open).remove(&connection);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, Envelope, hash::difference, load::Load, messages, tools};

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn what_a_client_sends_is_what_a_primary_keeps() {
        let primary = Primary::start();
        let mut client = Client::hello(primary.address()).unwrap();
        for message in messages::awkward() {
            let reply = client.send(&Envelope::to("bob"), &message.content).unwrap();
            assert_eq!(reply.code, 250, "{}: {reply}", message.name);
            let kept = primary.mails().pop().unwrap();
            assert_eq!(difference(&message.content, &kept.content), None, "{}", message.name);
            assert_eq!(
                (&*kept.sender, &*kept.recipients),
                ("sender@client.example", &["bob@example.org".to_owned()][..])
            );
        }
        assert_eq!(primary.violations(), [""; 0]);
    }

    #[test]
    fn a_primary_that_returns_takes_mail_again_and_still_has_the_old() {
        let mut primary = Primary::start();
        let mut client = Client::hello(primary.address()).unwrap();
        client.send(&Envelope::to("bob"), b"1\r\n").unwrap();
        primary.go_away();
        assert!(client.is_closed());
        assert!(Client::hello(primary.address()).is_err());
        primary.return_now();
        Client::hello(primary.address()).unwrap().send(&Envelope::to("bob"), b"2\r\n").unwrap();
        assert_eq!(
            primary.wait_for(2, LIMIT).iter().map(|mail| &*mail.content).collect::<Vec<_>>(),
            [b"1\r\n", b"2\r\n"]
        );
    }

    #[test]
    fn thousands_of_messages_from_many_sessions_are_all_kept() {
        let primary = Primary::start();
        let load = Load { messages: 5000, bytes: 8192, sessions: 64, seed: 1 };
        let sent = load.send(primary.address());
        assert_eq!(sent.accepted.len(), 5000);
        let mails = primary.mails();
        let arrived = mails.iter().map(|mail| (&*mail.recipients[0], &*mail.content));
        assert_eq!(load.compare(&sent, arrived), crate::load::Comparison::default());
        assert_eq!(primary.connections_open_max(), 64);
    }

    #[test]
    fn strangers_get_their_mail_through_too() {
        let primary = Primary::start();
        let ended = tools::smtp_source(primary.address(), &["-s", "4", "-m", "100", "-t", "bob@example.org"]);
        assert_eq!(ended.code, Some(0), "{ended}");
        let ended = tools::swaks(primary.address(), &["--to", "bob@example.org", "--body", ".dot\\n."]);
        assert_eq!(ended.code, Some(0), "{ended}");
        assert_eq!(primary.count(), 101);
        assert_eq!(primary.violations(), [""; 0]);
    }

    #[test]
    fn a_rule_is_followed_at_its_stage_and_only_as_often_as_it_says() {
        let primary = Primary::start();
        primary.misbehave(Rule::answer(Stage::Rcpt, "450 4.2.1 later").about("bob@").times(1));
        primary.misbehave(Rule::act(Stage::Dot, Act::KeepAndClose).times(1));
        let mut client = Client::hello(primary.address()).unwrap();
        let envelope = Envelope::to("bob");
        assert!(client.send(&envelope, b"").unwrap().is("450 4.2.1"));
        assert!(client.send(&envelope, b"").is_err());
        assert_eq!((primary.count(), primary.misbehaved()), (1, 2));
        assert_eq!(Client::hello(primary.address()).unwrap().send(&envelope, b"").unwrap().code, 250);
    }
}
