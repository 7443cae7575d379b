//! A proxy between an SMTP client and a server that knows at which step each byte stands, and does harm there as told.
//!
//! It stands between a sender and the relay, or between the relay and its primary. It hands on commands and replies
//! whole, and content as it comes; what it does not understand it hands on too. Which line is a reply to which command
//! it knows by counting, as clients do (RFC 2920), so a server that says more than it was asked leads it astray as it
//! does them.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

mod backward;
mod connection;
mod forward;
mod harm;
mod reader;
#[cfg(test)]
mod tests;

use connection::{Connection, End};
use harm::Harms;

pub use harm::{Fault, Harm, Side, Step, Struck};

/// A step of a conversation that was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exchange {
    /// Which connection, counted from 1.
    pub connection: u64,
    /// Which step.
    pub step: Step,
    /// The n-th of its kind on this connection, counted from 1.
    pub nth: u64,
    /// The first line that the client was told, or was to be told where that failed. Empty for a handshake.
    pub reply: String,
}

/// The proxy. Dropping it cuts its connections and closes its port.
pub struct Proxy {
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<Vec<JoinHandle<()>>>>,
}

/// What all connections share.
struct Shared {
    server: SocketAddr,
    harms: Harms,
    /// Bytes a second, from client to server; 0 if as fast as they come.
    speed: AtomicU64,
    connections: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    exchanges: Mutex<Vec<Exchange>>,
}

impl Proxy {
    /// A proxy that takes connections from now on, each of which it makes to this server too. If the server takes none,
    /// the client's is reset: it cannot be refused any more.
    pub fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("127.0.0.1 has a port for us");
        let address = listener.local_addr().expect("a bound socket has a name");
        let shared = Arc::new(Shared {
            server,
            harms: Harms::default(),
            speed: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: Mutex::default(),
            exchanges: Mutex::default(),
        });
        let (accepting, sharing) = (listener.try_clone().expect("a socket can be cloned"), Arc::clone(&shared));
        let acceptor = Some(thread::spawn(move || accept(&accepting, &sharing)));
        Self { address, listener, shared, acceptor }
    }

    /// Where it takes connections.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, does this harm too. Where several strike, they do in the order in which they were set, up to the
    /// first that ends the connection. Returns what counts how often it was done.
    ///
    /// # Panics
    /// If there is no such harm (see [`Harm::fits`]).
    #[track_caller]
    pub fn harm(&self, harm: Harm) -> Struck {
        assert!(harm.fits(), "there is no such harm: {harm:?}");
        self.shared.harms.add(harm)
    }

    /// Does no harm any more. What is held stays held.
    pub fn heal(&self) {
        self.shared.harms.clear();
    }

    /// Lets all connections that are held go on.
    pub fn release(&self) {
        lock(&self.shared.open).values().for_each(|connection| connection.release());
    }

    /// How often harm was done, of any kind.
    pub fn struck(&self) -> u64 {
        self.shared.harms.struck()
    }

    /// From now on, hands on so many bytes a second from client to server, on each connection; as fast as they come if
    /// `None`.
    pub fn slow_down(&self, bytes_per_second: Option<u64>) {
        let speed = bytes_per_second.map_or(0, |speed| speed.max(1));
        self.shared.speed.store(speed, Ordering::Relaxed);
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Connections that have not ended on both sides.
    pub fn connections_open(&self) -> usize {
        lock(&self.shared.open).len()
    }

    /// All that was answered until now, on one connection in the order of the replies.
    pub fn exchanges(&self) -> Vec<Exchange> {
        lock(&self.shared.exchanges).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Wakes the thread that waits in accept; nothing else does.
        rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).expect("a listener can be shut");
        let Some(acceptor) = self.acceptor.take() else { return };
        let connections = acceptor.join().expect("the accepting thread does not panic");
        lock(&self.shared.open).values().for_each(|connection| connection.end(End::Stop));
        for connection in connections {
            // One that has panicked said so, and a panic here would hide it if the test panics too.
            let _ = connection.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) -> Vec<JoinHandle<()>> {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while let Ok((client, _)) = listener.accept() {
        threads.retain(|thread| !thread.is_finished());
        threads.push(take(client, shared));
    }
    threads
}

/// Serves a client in a thread of its own.
fn take(client: TcpStream, shared: &Arc<Shared>) -> JoinHandle<()> {
    let number = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
    let connection = Arc::new(Connection::new(number, client));
    lock(&shared.open).insert(number, Arc::clone(&connection));
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        connection.serve(&shared);
        lock(&shared.open).remove(&number);
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no connection panics with the lock in its hand")
}
