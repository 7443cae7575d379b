//! Another machine, as far as the network goes: a namespace with one wire to this one, that can swallow what comes over it.
//! Needs root and `ip`; nothing of it is left when it is dropped.

use std::{
    fs::File,
    net::Ipv4Addr,
    os::fd::AsFd,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::program;

const IP_LIMIT: Duration = Duration::from_secs(30);
/// 198.18.0.0/15 is for tests of networks (RFC 2544); each wire takes four addresses of it.
const WIRES_MAX: u32 = 1 << 15;
/// The ends of a wire; no two wires meet.
const OUR_MAC: &str = "02:00:00:00:00:01";
const ITS_MAC: &str = "02:00:00:00:00:02";

/// A network that is there already.
#[derive(Clone, Debug)]
pub struct Network {
    file: PathBuf,
}

impl Network {
    /// The one that this file stands for, for instance `/proc/7/ns/net`.
    pub fn of(file: PathBuf) -> Self {
        Self { file }
    }

    /// Does `work` there: what it opens stays there, and so does what it starts.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        // A thread of its own, since it cannot be sure to get back.
        let work = || {
            let file = self.file.display();
            let namespace = File::open(&self.file).unwrap_or_else(|error| panic!("open {file}: {error}"));
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root enters namespaces");
            work()
        };
        thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// The namespace. Dropping it removes it.
pub struct Namespace {
    name: String,
    /// Our end of the wire.
    device: String,
    outside: Ipv4Addr,
    inside: Ipv4Addr,
}

impl Namespace {
    /// A new one.
    ///
    /// # Panics
    /// If the tests do not run as root, or `ip` is not installed.
    #[allow(clippy::new_without_default, reason = "each is another machine: there is no usual one")]
    pub fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        assert!(rustix::process::geteuid().is_root(), "only root makes network namespaces: run `make test` as root");
        let (process, number) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        // Processes that run at the same time are hardly ever apart by a multiple of so many.
        let wire = process.wrapping_mul(64).wrapping_add(number) % WIRES_MAX;
        let address = |host: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + 4 * wire + host);
        let (name, device) = (format!("backupmx-{process}-{number}"), format!("bm{process}n{number}"));
        let namespace = Self { name, device, outside: address(1), inside: address(2) };
        let Self { name, device, outside, inside } = &namespace;
        for words in [
            format!("netns add {name}"),
            format!("link add {device} address {OUR_MAC} type veth peer name wire address {ITS_MAC} netns {name}"),
            format!("address add {outside}/30 dev {device}"),
            format!("link set {device} up"),
            format!("-n {name} address add {inside}/30 dev wire"),
            format!("-n {name} link set wire up"),
            format!("-n {name} link set lo up"),
            // While packets are dropped ARP is not answered either, and who has asked in vain waits before it asks again.
            format!("neighbour replace {inside} lladdr {ITS_MAC} dev {device} nud permanent"),
            format!("-n {name} neighbour replace {outside} lladdr {OUR_MAC} dev wire nud permanent"),
        ] {
            let ended = ip(&words);
            assert_eq!(ended.code, Some(0), "ip {words}: {ended}");
        }
        namespace
    }

    /// Its address.
    pub fn inside(&self) -> Ipv4Addr {
        self.inside
    }

    /// Ours, as seen from there.
    pub fn outside(&self) -> Ipv4Addr {
        self.outside
    }

    /// Does `work` there: what it opens stays there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.network().enter(work)
    }

    /// It, as a network.
    pub fn network(&self) -> Network {
        Network::of(format!("/run/netns/{}", self.name).into())
    }

    /// Swallows all that comes from us, and answers nothing.
    #[track_caller]
    pub fn drop_packets(&self) {
        self.route("add");
    }

    /// Takes packets again.
    #[track_caller]
    pub fn pass_packets(&self) {
        self.route("del");
    }

    /// A sender that there is no way back to is not heard: Linux drops such packets as they come in.
    #[track_caller]
    fn route(&self, order: &str) {
        let words = format!("-n {} route {order} blackhole {}/32", self.name, self.outside);
        let ended = ip(&words);
        assert_eq!(ended.code, Some(0), "ip {words}: {ended}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The namespace itself goes when the last socket in it is closed, the wire at once.
        ip(&format!("link del {}", self.device));
        ip(&format!("netns del {}", self.name));
    }
}

fn ip(words: &str) -> program::Ended {
    let mut command = Command::new("ip");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(words.split(' '));
    program::run(&mut command, IP_LIMIT)
}

#[cfg(test)]
mod tests {
    use std::{
        io::ErrorKind,
        net::{SocketAddr, TcpStream},
        sync::Arc,
    };

    use super::*;
    use crate::port::Port;

    #[test]
    fn a_machine_refuses_is_silent_and_answers() {
        let namespace = Arc::new(Namespace::new());
        let port = Port::reserve_within(Arc::clone(&namespace));
        let connect = || TcpStream::connect_timeout(&port.address(), Duration::from_millis(300));
        for _ in 0..2 {
            assert_eq!(connect().unwrap_err().kind(), ErrorKind::ConnectionRefused);
            let listener = port.listen();
            drop((connect().unwrap(), listener.accept().unwrap()));
            namespace.drop_packets();
            assert_eq!(connect().unwrap_err().kind(), ErrorKind::TimedOut);
            namespace.pass_packets();
            assert!(connect().is_ok());
        }
    }

    #[test]
    fn what_comes_from_there_has_its_address_and_nothing_is_left_of_it() {
        let namespace = Namespace::new();
        let listener = std::net::TcpListener::bind((namespace.outside(), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let _there = namespace.enter(|| TcpStream::connect(address).unwrap());
        let (_, SocketAddr::V4(from)) = listener.accept().unwrap() else { panic!("it has an IPv4 address") };
        assert_eq!(*from.ip(), namespace.inside());
        let (name, device) = (namespace.name.clone(), namespace.device.clone());
        drop(namespace);
        assert!(!ip("netns list").stdout.contains(&name) && !ip("link show").stdout.contains(&format!("{device}@")));
    }
}
