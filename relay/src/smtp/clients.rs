//! Who connects: how many sessions, from how many addresses, and whether all come from one, as behind a proxy that hides them. Time is
//! an argument.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use backupmx_relay_api::status::{self, CLIENT_ADDRESSES_MAX};

use super::places::network;

/// Sessions from one address alone that are no chance: a mail server that is known in DNS hears from several strangers before that.
const ONLY_SESSIONS_MIN: u64 = 20;
/// From the first to the last of them: one sender that empties its queue opens as many connections within seconds.
const ONLY_SPAN_MIN: Duration = Duration::from_secs(30);

/// All sessions since the start, counted.
#[derive(Default, Debug)]
pub struct Clients {
    counted: Mutex<Counted>,
}

#[derive(Default, Debug)]
struct Counted {
    sessions: u64,
    /// IPv4 addresses and IPv6 /64, as far as they are told apart.
    networks: BTreeSet<IpAddr>,
    remote: Remote,
}

/// Where those come from that are not on this machine.
#[derive(Default, Debug)]
enum Remote {
    #[default]
    Nobody,
    One {
        network: IpAddr,
        sessions: u64,
        first: Instant,
        last: Instant,
    },
    Several,
}

impl Clients {
    /// A client has said hello.
    pub fn count(&self, client: IpAddr, now: Instant) {
        let (mut counted, network) = (self.lock(), network(client));
        counted.sessions += 1;
        if counted.networks.len() < CLIENT_ADDRESSES_MAX {
            counted.networks.insert(network);
        }
        if client.to_canonical().is_loopback() {
            return; // a sidecar, or a test by hand
        }
        counted.remote = match std::mem::take(&mut counted.remote) {
            Remote::Nobody => Remote::One { network, sessions: 1, first: now, last: now },
            Remote::One { network: known, sessions, first, .. } if known == network => {
                Remote::One { network, sessions: sessions + 1, first, last: now }
            }
            Remote::One { .. } | Remote::Several => Remote::Several,
        };
    }

    /// For the status document.
    pub fn status(&self) -> status::Clients {
        let counted = self.lock();
        let only = match counted.remote {
            Remote::One { network, sessions, first, last }
                if sessions >= ONLY_SESSIONS_MIN && last.duration_since(first) >= ONLY_SPAN_MIN =>
            {
                Some(words(network))
            }
            Remote::Nobody | Remote::One { .. } | Remote::Several => None,
        };
        status::Clients { sessions: counted.sessions, addresses: counted.networks.len() as u64, only }
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn words(network: IpAddr) -> String {
    match network {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("{address}/64"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known after these clients came, a second apart each.
    fn after(clients: impl IntoIterator<Item = String>) -> status::Clients {
        let (counting, start) = (Clients::default(), Instant::now());
        for (client, second) in clients.into_iter().zip(0..) {
            counting.count(client.parse().unwrap(), start + Duration::from_secs(second));
        }
        counting.status()
    }

    fn times(client: &str, count: usize) -> Vec<String> {
        vec![client.to_owned(); count]
    }

    #[test]
    fn one_address_alone_is_named_once_it_came_often_and_for_a_while() {
        for (clients, addresses, only) in [
            (vec![], 0, None),
            (times("192.0.2.7", 19), 1, None),
            (times("192.0.2.7", 30), 1, None), // within 29 s
            (times("192.0.2.7", 31), 1, Some("192.0.2.7")),
            (times("::ffff:192.0.2.7", 31), 1, Some("192.0.2.7")),
            ([times("192.0.2.7", 100), times("192.0.2.8", 1)].concat(), 2, None),
            ([times("192.0.2.7", 1), times("192.0.2.8", 100)].concat(), 2, None),
            ([times("2001:db8::1", 30), times("2001:db8::2", 1)].concat(), 1, Some("2001:db8::/64")),
            ([times("2001:db8::1", 30), times("2001:db8:0:1::1", 1)].concat(), 2, None),
            (times("127.0.0.1", 100), 1, None),
            (times("::1", 100), 1, None),
            ([times("127.0.0.1", 2), times("192.0.2.7", 31), times("::1", 1)].concat(), 3, Some("192.0.2.7")),
        ] {
            let sessions = clients.len() as u64;
            let expected = status::Clients { sessions, addresses, only: only.map(str::to_owned) };
            assert_eq!(after(clients.clone()), expected, "{clients:?}");
        }
    }

    #[test]
    fn one_sender_that_empties_its_queue_at_once_is_no_proxy() {
        let (counting, start) = (Clients::default(), Instant::now());
        (0..1000).for_each(|_| counting.count("192.0.2.7".parse().unwrap(), start));
        assert_eq!(counting.status().only, None);
        let few = Clients::default();
        (0..ONLY_SESSIONS_MIN - 1).for_each(|hour| {
            few.count("192.0.2.7".parse().unwrap(), start + Duration::from_secs(3600 * hour));
        });
        assert_eq!(few.status().only, None);
    }

    #[test]
    fn memory_is_bounded_and_sessions_are_counted_on() {
        let clients = (0..1000u32).map(|number| IpAddr::from(number.to_be_bytes()).to_string());
        let expected = status::Clients { sessions: 1000, addresses: CLIENT_ADDRESSES_MAX as u64, only: None };
        assert_eq!(after(clients), expected);
    }
}
