//! Accepts connections, bounds their number in total and per client, and starts a driver for each.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    connection::{self, Door},
    reply::Reply,
};

/// Pause after a failed accept: out of file descriptors, trying again at once would only burn CPU.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// For the 421 to a client that we cannot serve.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// How many sessions at a time.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// In total.
    pub sessions_max: usize,
    /// Of one IPv4 address or one IPv6 /64.
    pub sessions_per_client_max: usize,
}

/// Accepts until `stop`, then waits for its sessions; the caller bounds how long.
pub async fn run(listener: TcpListener, door: Arc<Door>, bounds: Bounds, stop: CancellationToken) {
    let sessions = TaskTracker::new();
    let clients = Arc::new(Clients::default());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(cause) => {
                tracing::warn!(%cause, "accept connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (door, stop) = (door.clone(), stop.clone());
        match clients.admit(peer.ip(), bounds) {
            Some(place) => sessions.spawn(serve(stream, peer, door, stop, place)),
            None => sessions.spawn(turn_away(stream, peer, door)),
        };
    }
    drop(listener);
    sessions.close();
    sessions.wait().await;
}

async fn serve(stream: TcpStream, peer: SocketAddr, door: Arc<Door>, stop: CancellationToken, place: Place) {
    let _ = stream.set_nodelay(true); // replies are small and written at once; Nagle would only delay them
    door.metrics.sessions.inc();
    door.primary.client_connected();
    connection::serve(stream, peer.ip().to_canonical(), &door, &stop).await;
    door.metrics.sessions.dec();
    drop(place);
}

async fn turn_away(mut stream: TcpStream, peer: SocketAddr, door: Arc<Door>) {
    let reply = Reply::too_many_connections();
    door.metrics.refused.with_label_values(&[reply.refused_for().unwrap_or_default()]).inc();
    tracing::debug!(client = %peer.ip(), "too many connections");
    let mut output = Vec::new();
    reply.write(&mut output);
    let _ = timeout(REFUSAL_TIMEOUT, stream.write_all(&output)).await;
}

/// Sessions by client. As large as there are sessions, since an entry goes with its last one.
#[derive(Default)]
struct Clients {
    sessions: Mutex<HashMap<IpAddr, usize>>,
}

/// One session's place; dropped, it is free again.
struct Place {
    clients: Arc<Clients>,
    network: IpAddr,
}

impl Clients {
    fn admit(self: &Arc<Self>, client: IpAddr, bounds: Bounds) -> Option<Place> {
        let network = network(client);
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = sessions.values().sum();
        let own = sessions.get(&network).copied().unwrap_or_default();
        if total >= bounds.sessions_max || own >= bounds.sessions_per_client_max {
            return None;
        }
        sessions.insert(network, own + 1);
        Some(Place { clients: self.clone(), network })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sessions = self.clients.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = sessions.get_mut(&self.network) {
            *own -= 1;
            if *own == 0 {
                sessions.remove(&self.network);
            }
        }
    }
}

/// What counts as one client: an IPv6 customer has a /64 at least, and could use a new address each time.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_bounded_in_total_and_per_client_and_places_come_back() {
        let clients = Arc::new(Clients::default());
        let bounds = Bounds { sessions_max: 3, sessions_per_client_max: 2 };
        let admit = |client: &str| clients.admit(client.parse().unwrap(), bounds);
        let first = admit("2001:db8::1").unwrap();
        let _second = admit("2001:db8::2").unwrap();
        assert!(admit("2001:db8::3").is_none(), "a third one of one /64");
        let _third = admit("192.0.2.1").unwrap();
        assert!(admit("192.0.2.2").is_none(), "a fourth one in total");
        drop(first);
        assert!(admit("2001:db8::3").is_some());
    }

    #[test]
    fn an_ipv4_client_is_the_same_on_an_ipv6_socket() {
        assert_eq!(network("::ffff:192.0.2.1".parse().unwrap()), network("192.0.2.1".parse().unwrap()));
    }
}
