//! Accepts connections, hears what a proxy has to say of them, bounds their number, and starts a driver for each.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    connection::{self, Door, Visitor},
    names::{ClientName, Names},
    places::Places,
    proxy::{self, HEADER_BYTES_MAX, Header},
    reply::Reply,
};

/// Pause after a failed accept: out of file descriptors, trying again at once would only burn CPU.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// For the 421 to a client that we cannot serve.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections that wait to be accepted: as many as a busy second brings.
const BACKLOG: u32 = 1024;
/// For the header of a proxy, which sends it at once.
const PROXY_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of proxies whose header has not come. They have no place yet, so they need a bound of their own.
const PROXIED_WAITING_MAX: usize = 1000;

/// One way in.
pub struct Entrance {
    /// Where.
    pub listener: TcpListener,
    /// Whether proxies speak for the clients here, and none come by themselves.
    pub is_behind_proxies: bool,
}

/// What all entrances share.
pub struct Hall {
    /// Whom sessions are held with.
    pub door: Door,
    /// How many there are.
    pub places: Arc<Places>,
    /// What DNS calls clients, if it can be asked.
    pub names: Option<Names>,
}

/// Binds an address. One of IPv6 takes IPv4 too, unless `v6_only`.
pub fn bind(address: SocketAddr, v6_only: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?; // a restart must not wait for connections of the process before
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, v6_only)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts until `stop`, then waits for its sessions; the caller bounds how long.
pub async fn run(entrance: Entrance, hall: Arc<Hall>, stop: CancellationToken) {
    let Entrance { listener, is_behind_proxies } = entrance;
    let sessions = TaskTracker::new();
    let waiting = Arc::new(Semaphore::new(PROXIED_WAITING_MAX));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok((stream, peer)) => (stream, SocketAddr::new(peer.ip().to_canonical(), peer.port())),
            Err(cause) => {
                tracing::warn!(%cause, "accept connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true); // replies are small and written at once; Nagle would only delay them
        let (hall, stop) = (hall.clone(), stop.clone());
        if !is_behind_proxies {
            sessions.spawn(async move {
                hall.welcome(stream, Guest::Client(peer.ip(), Some(peer.port())), Vec::new(), &stop).await
            });
            continue;
        }
        let is_trusted = hall.door.rules.load().proxies.contain(peer.ip());
        let place = waiting.clone().try_acquire_owned().ok().filter(|_| is_trusted);
        let Some(place) = place else {
            hall.turn_away_proxy(peer.ip(), "it is not in proxyProtocol.trusted, or too many connections wait");
            continue;
        };
        sessions.spawn(async move {
            let mut stream = stream;
            let heard = tokio::select! {
                () = stop.cancelled() => return,
                heard = header(&mut stream) => heard,
            };
            drop(place);
            match heard {
                Some((Some(client), said)) => hall.welcome(stream, Guest::Client(client, None), said, &stop).await,
                Some((None, said)) => hall.welcome(stream, Guest::Proxy(peer.ip()), said, &stop).await,
                None => hall.turn_away_proxy(peer.ip(), "it sent no PROXY header"),
            }
        });
    }
    drop(listener);
    sessions.close();
    sessions.wait().await;
}

/// Whom the proxy speaks for, `None` for itself, and what came behind the header.
async fn header(stream: &mut TcpStream) -> Option<(Option<IpAddr>, Vec<u8>)> {
    let mut input = Vec::new();
    let reading = async {
        loop {
            match proxy::read(&input) {
                Header::Complete { length, client } => return Some((client, length)),
                Header::Incomplete if input.len() < HEADER_BYTES_MAX => {}
                Header::Incomplete | Header::Bad => return None,
            }
            input.reserve_exact(256);
            if stream.read_buf(&mut input).await.ok()? == 0 {
                return None;
            }
        }
    };
    let (client, length) = timeout(PROXY_TIMEOUT, reading).await.ok()??;
    Some((client, input.split_off(length)))
}

/// Who comes.
#[derive(Clone, Copy)]
enum Guest {
    /// Somebody with mail, and from which port, if that is known.
    Client(IpAddr, Option<u16>),
    /// A proxy that speaks for itself, to see whether we live: no sign that senders fail at the primary.
    Proxy(IpAddr),
}

impl Hall {
    async fn welcome(&self, stream: TcpStream, guest: Guest, said: Vec<u8>, stop: &CancellationToken) {
        let (client, port, is_client) = match guest {
            Guest::Client(client, port) => (client.to_canonical(), port, true),
            Guest::Proxy(proxy) => (proxy.to_canonical(), None, false),
        };
        if *self.door.cordoned.borrow() {
            if is_client {
                self.door.primary.client_connected(client); // delivery goes on
            }
            return self.turn_away(stream, client, &Reply::cordoned()).await;
        }
        let Some(place) = self.places.admit(client, std::time::Instant::now()) else {
            return self.turn_away(stream, client, &Reply::too_many_connections()).await;
        };
        self.door.metrics.sessions.inc();
        let names = self.names.as_ref().filter(|_| is_client);
        let name = names.map_or_else(ClientName::none, |names| names.look_up(client));
        if is_client {
            self.door.primary.client_connected(client);
        }
        let visitor = Visitor { address: client, port, name, said, place, is_client };
        connection::serve(stream, visitor, &self.door, stop).await;
        self.door.metrics.sessions.dec();
    }

    async fn turn_away(&self, mut stream: TcpStream, client: IpAddr, reply: &Reply) {
        let reason = reply.refused_for().unwrap_or_default();
        self.count(reason);
        tracing::debug!(%client, reason, "connection turned away");
        let mut output = Vec::new();
        reply.write(&mut output);
        let _ = timeout(REFUSAL_TIMEOUT, stream.write_all(&output)).await;
    }

    /// Without a word: who does not speak the protocol is no client, and may be anybody.
    fn turn_away_proxy(&self, peer: IpAddr, why: &str) {
        self.count("proxy");
        tracing::debug!(%peer, why, "connection without a proxy's header closed");
    }

    fn count(&self, reason: &str) {
        self.door.metrics.refused.with_label_values(&[reason]).inc();
    }
}
