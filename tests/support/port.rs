//! A port on 127.0.0.1 that stays ours while nobody listens on it.
//!
//! A server that comes back must find its port free. The kernel may meanwhile give a closed port to any outgoing
//! connection, even to a probe of that very port, which then talks to itself. A bound socket that never listens
//! prevents both, and connections to it are refused as by a machine whose server is down.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener},
    os::fd::OwnedFd,
};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt::set_socket_reuseaddr,
};

/// A port for servers that bind with `SO_REUSEADDR`, as servers do.
pub struct Port {
    address: SocketAddr,
    _reservation: OwnedFd,
}

impl Port {
    /// A port that nobody uses, chosen by the kernel.
    pub fn reserve() -> Self {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .expect("a process may make sockets");
        // Two sockets may share a port as long as both say so and neither listens when the other one binds.
        set_socket_reuseaddr(&socket, true).expect("a socket can share its port");
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).expect("127.0.0.1 has a free port");
        let name = getsockname(&socket).expect("a bound socket has a name");
        Self { address: name.try_into().expect("an AF_INET socket has an IPv4 name"), _reservation: socket }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens on it, until the listener is dropped.
    pub fn listen(&self) -> TcpListener {
        TcpListener::bind(self.address).expect("a reserved port can be listened on")
    }
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
}
