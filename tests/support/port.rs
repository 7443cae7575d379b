//! A port on 127.0.0.1, or in a network namespace, that stays ours while nobody listens on it.
//!
//! A server that comes back must find its port free. The kernel may meanwhile give a closed port to any outgoing
//! connection, even to a probe of that very port, which then talks to itself. A bound socket that never listens
//! prevents both, and connections to it are refused as by a machine whose server is down.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt::set_socket_reuseaddr,
};

use crate::netns::{Namespace, Network};

/// As the standard library has it.
const BACKLOG: i32 = 128;
/// On loopback whoever is answered at all is answered in microseconds.
const ANSWER_LIMIT: Duration = Duration::from_millis(200);
/// Connections that may get into a queue of length 0: ours, and those of a client that was faster.
const WAITING_MAX: usize = 8;

/// A port for servers that bind with `SO_REUSEADDR`, as servers do.
pub struct Port {
    address: SocketAddr,
    within: Option<Network>,
    /// Is removed with the last port in it.
    _namespace: Option<Arc<Namespace>>,
    _reservation: OwnedFd,
}

impl Port {
    /// A port that nobody uses, chosen by the kernel.
    pub fn reserve() -> Self {
        Self::of(bound(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into()), None, None)
    }

    /// The same within a network namespace, at its own address.
    pub fn reserve_within(namespace: Arc<Namespace>) -> Self {
        let address = SocketAddrV4::new(namespace.inside(), 0);
        Self::of(namespace.enter(|| bound(address.into())), Some(namespace.network()), Some(namespace))
    }

    /// This one of this network.
    pub fn reserve_at(address: SocketAddrV4, network: Network) -> Self {
        Self::of(network.enter(|| bound(address.into())), Some(network), None)
    }

    fn of(socket: OwnedFd, within: Option<Network>, namespace: Option<Arc<Namespace>>) -> Self {
        let name = getsockname(&socket).expect("a bound socket has a name");
        let address = name.try_into().expect("an AF_INET socket has an IPv4 name");
        Self { address, within, _namespace: namespace, _reservation: socket }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens on it, until the listener is dropped.
    pub fn listen(&self) -> TcpListener {
        self.enter(|| TcpListener::bind(self.address).expect("a reserved port can be listened on"))
    }

    /// Does `work` in its network.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.within {
            Some(network) => network.enter(work),
            None => work(),
        }
    }

    /// Drops all that comes to it: Linux ignores a SYN while the queue of connections to be accepted is full.
    ///
    /// # Panics
    /// If connections are answered all the same.
    pub fn listen_deaf(&self) -> Deaf {
        let socket = bound(self.address);
        listen(&socket, 0).expect("a reserved port can be listened on");
        let connect = |_| TcpStream::connect_timeout(&self.address, ANSWER_LIMIT).ok();
        let waiting: Vec<_> = (0..WAITING_MAX).map_while(connect).collect();
        assert!(waiting.len() < WAITING_MAX, "a full queue does not keep connections out");
        Deaf { socket, waiting }
    }
}

/// A port that drops all that comes to it, until this is dropped: then it refuses.
pub struct Deaf {
    socket: OwnedFd,
    waiting: Vec<TcpStream>,
}

impl Deaf {
    /// Listens from now on.
    pub fn hear(self) -> TcpListener {
        let Self { socket, waiting } = self;
        drop(waiting);
        listen(&socket, BACKLOG).expect("a listener may listen with a longer queue");
        socket.into()
    }
}

/// Two sockets may share a port as long as both say so and neither listens when the other one binds.
fn bound(address: SocketAddr) -> OwnedFd {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .expect("a process may make sockets");
    set_socket_reuseaddr(&socket, true).expect("a socket can share its port");
    bind(&socket, &address).expect("127.0.0.1 has a port for us");
    socket
}

#[cfg(test)]
mod tests {
    use std::{io::ErrorKind, net::TcpStream};

    use super::*;

    #[test]
    fn a_reserved_port_refuses_until_it_is_listened_on_and_again_after() {
        let port = Port::reserve();
        for _ in 0..3 {
            assert_eq!(TcpStream::connect(port.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            let listener = port.listen();
            let (ours, theirs) = (TcpStream::connect(port.address()).unwrap(), listener.accept().unwrap());
            drop((ours, theirs, listener));
        }
    }

    #[test]
    fn a_deaf_port_answers_nobody_until_it_hears_again() {
        let port = Port::reserve();
        for _ in 0..3 {
            let deaf = port.listen_deaf();
            let unheard = TcpStream::connect_timeout(&port.address(), ANSWER_LIMIT).unwrap_err();
            assert_eq!(unheard.kind(), ErrorKind::TimedOut);
            let listener = deaf.hear();
            TcpStream::connect(port.address()).unwrap();
            drop(listener);
            assert_eq!(TcpStream::connect(port.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    }
}
