//! Addresses of the primary, asked for anew at each connection: a primary that moves is found as soon as DNS knows.

use std::{
    fs::File,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    time::Duration,
};

use backupmx_relay_api::config::Host;
use hickory_resolver::{
    Hosts, TokioResolver,
    config::{ResolveHosts, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
    system_conf::read_system_conf,
};
use tokio::{net::lookup_host, time::timeout};

use crate::mail::address::a_labels;

/// Addresses of one name that are tried: RFC 5321 section 5.1 asks for two at least.
const ADDRESSES_MAX: usize = 4;
/// For all of a look-up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// For one question to one server, so that a second one has its turn within [`LOOKUP_TIMEOUT`].
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);
/// For the other family's answer, once one has addresses: there are servers that never answer to AAAA.
const OTHER_FAMILY_TIMEOUT: Duration = Duration::from_millis(500);
/// Names that this machine has for itself or others, besides DNS.
const HOSTS_FILE: &str = "/etc/hosts";

/// Asks the machine's hosts file, DNS, or the system, whichever a name is for.
#[derive(Clone)]
pub struct Resolver {
    /// Whom to ask. `None`: whom the system's configuration names at that time.
    servers: Option<ResolverConfig>,
}

impl Resolver {
    /// Asks whom the system asks.
    pub fn of_system() -> Self {
        Self { servers: None }
    }

    /// Addresses to try, in this order; at least one. A name with a dot is absolute: search lists, which pods have, must not
    /// invent others (RFC 5321 section 5.1).
    pub async fn addresses(&self, host: &Host) -> io::Result<Vec<SocketAddr>> {
        let Host { host: name, port, xclient: _ } = host;
        if let Some(address) = literal(name) {
            return Ok(vec![SocketAddr::new(address, *port)]);
        }
        let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, "name look-up timed out");
        let found = timeout(LOOKUP_TIMEOUT, self.look_up(name)).await.map_err(timed_out)??;
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(found.into_iter().take(ADDRESSES_MAX).map(|address| SocketAddr::new(address, *port)).collect())
    }

    async fn look_up(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        if !name.contains('.') {
            return by_system(name).await;
        }
        let absolute = format!("{}.", name.strip_suffix('.').unwrap_or(name));
        let ascii = a_labels(absolute.trim_end_matches('.')).map(|labels| format!("{labels}."));
        let parsed = Name::from_ascii(ascii.as_deref().unwrap_or(&absolute)).map_err(io::Error::other)?;
        let named = in_hosts(&hosts().await, &parsed);
        if !named.is_empty() {
            return Ok(named);
        }
        match self.resolver().await {
            Some(resolver) => in_dns(&resolver, &parsed).await,
            None => by_system(&absolute).await,
        }
    }

    /// A new one each time: the system's configuration may be another by now, as where a network comes up late, and nothing
    /// that it remembers could be old. `None` if the system names no servers that can be used.
    async fn resolver(&self) -> Option<TokioResolver> {
        let (config, mut options) = match &self.servers {
            Some(config) => (config.clone(), ResolverOpts::default()),
            None => tokio::task::spawn_blocking(|| quietly(read_system_conf)).await.ok()?.ok()?,
        };
        options.timeout = options.timeout.min(QUESTION_TIMEOUT);
        options.use_hosts_file = ResolveHosts::Never; // it was asked already
        options.cache_size = 0;
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.with_options(options).build().ok()
    }
}

/// The address that a host name is, if it is one: `192.0.2.1`, `2001:db8::1`, or such in brackets.
pub fn literal(name: &str) -> Option<IpAddr> {
    let inside = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    let tagged = inside.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPv6:"));
    inside[tagged.map_or(0, str::len)..].parse().ok()
}

async fn by_system(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok(lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
}

/// What cannot be read has no names.
async fn hosts() -> Hosts {
    let read = || {
        let mut hosts = Hosts::default();
        let _ = File::open(HOSTS_FILE).and_then(|file| quietly(|| hosts.read_hosts_conf(file)));
        hosts
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

/// The library tells of each line that it does not know, and it reads the same lines at each look-up.
fn quietly<T>(read: impl FnOnce() -> T) -> T {
    tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), read)
}

fn in_hosts(hosts: &Hosts, name: &Name) -> Vec<IpAddr> {
    let of = |kind| {
        let found = hosts.lookup_static_host(&Query::query(name.clone(), kind));
        found.iter().flat_map(|found| found.answers()).filter_map(|record| record.data.ip_addr()).collect()
    };
    in_turns(of(RecordType::AAAA), of(RecordType::A))
}

async fn in_dns(resolver: &TokioResolver, name: &Name) -> io::Result<Vec<IpAddr>> {
    let (v6, v4) = both(of_kind(resolver, name, RecordType::AAAA), of_kind(resolver, name, RecordType::A)).await;
    match (v6, v4) {
        (Ok(v6), Ok(v4)) => Ok(in_turns(v6, v4)),
        (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.is_empty() => Ok(found),
        (Err(cause), _) | (_, Err(cause)) => Err(cause),
    }
}

/// Waits for both, but for the second one not long if the first one has something.
async fn both(
    one: impl Future<Output = io::Result<Vec<IpAddr>>>,
    other: impl Future<Output = io::Result<Vec<IpAddr>>>,
) -> (io::Result<Vec<IpAddr>>, io::Result<Vec<IpAddr>>) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let patience = |found: &io::Result<Vec<IpAddr>>| match found {
        Ok(found) if !found.is_empty() => OTHER_FAMILY_TIMEOUT,
        _ => LOOKUP_TIMEOUT,
    };
    tokio::select! {
        found = &mut one => {
            let second = timeout(patience(&found), other).await;
            (found, second.unwrap_or_else(|_| Ok(Vec::new())))
        }
        found = &mut other => {
            let second = timeout(patience(&found), one).await;
            (second.unwrap_or_else(|_| Ok(Vec::new())), found)
        }
    }
}

async fn of_kind(resolver: &TokioResolver, name: &Name, kind: RecordType) -> io::Result<Vec<IpAddr>> {
    match resolver.lookup(name.clone(), kind).await {
        // Behind aliases (CNAME) too, which stand among the answers.
        Ok(found) => Ok(found.answers().iter().filter_map(|record| record.data.ip_addr()).collect()),
        Err(cause) if NetError::is_no_records_found(&cause) => Ok(Vec::new()),
        Err(cause) => Err(io::Error::other(format!("ask DNS: {cause}"))),
    }
}

/// IPv6 first (RFC 6724), and then by turns, so that a network in which one family is broken costs one attempt
/// (RFC 8305 section 4).
fn in_turns(v6: Vec<IpAddr>, v4: Vec<IpAddr>) -> Vec<IpAddr> {
    let turns = v6.len().max(v4.len());
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    (0..turns).flat_map(|_| [v6.next(), v4.next()]).flatten().collect()
}

#[cfg(test)]
pub(super) mod tests {
    use hickory_resolver::{
        config::{ConnectionConfig, NameServerConfig},
        proto::{
            op::{Message, MessageType, OpCode, ResponseCode},
            rr::{RData, Record},
        },
    };
    use tokio::net::UdpSocket;

    use super::*;

    /// Answers to questions for a name and a kind; `None` to say nothing at all.
    type Zone = fn(&str, RecordType) -> Option<(ResponseCode, Vec<IpAddr>)>;

    /// A resolver that asks a server of our own.
    pub async fn asking(zone: Zone) -> Resolver {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut connection = ConnectionConfig::udp();
        connection.port = socket.local_addr().unwrap().port();
        let server = NameServerConfig::new([127, 0, 0, 1].into(), true, vec![connection]);
        tokio::spawn(async move {
            let mut packet = [0; 1024];
            while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                if let Some(reply) = reply(&Message::from_vec(&packet[..length]).unwrap(), zone) {
                    socket.send_to(&reply, from).await.unwrap();
                }
            }
        });
        Resolver { servers: Some(ResolverConfig::from_name_servers(vec![server])) }
    }

    fn reply(question: &Message, zone: Zone) -> Option<Vec<u8>> {
        let query = question.queries[0].clone();
        let (code, addresses) = zone(&query.name().to_ascii(), query.query_type())?;
        let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
        reply.metadata.response_code = code;
        reply.add_query(query.clone());
        for address in addresses {
            reply.add_answer(Record::from_rdata(query.name().clone(), 60, RData::from(address)));
        }
        Some(reply.to_vec().unwrap())
    }

    fn host(name: &str) -> Host {
        Host { host: name.into(), port: 25, xclient: false }
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn names_with_a_dot_are_absolute_and_families_take_turns() {
        let resolver = asking(|name, kind| {
            assert_eq!(name, "mx1.example.org.", "no search list may add to it");
            Some(match kind {
                RecordType::A => (ResponseCode::NoError, ips(&["192.0.2.1", "192.0.2.2", "192.0.2.3"])),
                _ => (ResponseCode::NoError, ips(&["2001:db8::1", "2001:db8::2"])),
            })
        });
        let resolver = resolver.await;
        for name in ["mx1.example.org", "mx1.example.org.", "MX1.Example.ORG"] {
            let found = resolver.addresses(&host(name)).await.unwrap();
            let found: Vec<_> = found.iter().map(SocketAddr::ip).collect();
            assert_eq!(found, ips(&["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"]), "{name}");
        }
    }

    #[tokio::test]
    async fn one_family_is_enough_even_if_the_other_gets_no_answer() {
        let resolver = asking(|_, kind| (kind == RecordType::A).then(|| (ResponseCode::NoError, ips(&["192.0.2.1"]))));
        let (resolver, begun) = (resolver.await, std::time::Instant::now());
        assert_eq!(resolver.addresses(&host("a.example")).await.unwrap(), ["192.0.2.1:25".parse().unwrap()]);
        assert!(begun.elapsed() < QUESTION_TIMEOUT, "{:?}", begun.elapsed());
        let resolver = asking(|_, kind| {
            let code = if kind == RecordType::A { ResponseCode::NoError } else { ResponseCode::ServFail };
            Some((code, if kind == RecordType::A { ips(&["192.0.2.1"]) } else { Vec::new() }))
        });
        assert_eq!(resolver.await.addresses(&host("a.example")).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_name_without_addresses_and_a_dns_in_trouble_are_errors_in_time() {
        let none = asking(|_, _| Some((ResponseCode::NXDomain, Vec::new()))).await;
        assert_eq!(none.addresses(&host("a.example")).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        let broken = asking(|_, _| Some((ResponseCode::ServFail, Vec::new()))).await;
        assert!(broken.addresses(&host("a.example")).await.unwrap_err().to_string().contains("DNS"));
        let (silent, begun) = (asking(|_, _| None).await, std::time::Instant::now());
        silent.addresses(&host("a.example")).await.unwrap_err();
        assert!(begun.elapsed() < LOOKUP_TIMEOUT + Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    #[test]
    fn the_hosts_file_is_asked_for_names_with_dots() {
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf(&b"192.0.2.7 mail.example mail # ours\n2001:db8::7\tmail.example\n"[..]).unwrap();
        let of = |name| in_hosts(&hosts, &Name::from_ascii(name).unwrap());
        assert_eq!(of("mail.example."), ips(&["2001:db8::7", "192.0.2.7"]));
        assert_eq!(of("mail.example.org."), ips(&[]));
    }

    #[test]
    fn literals_need_no_look_up() {
        for (text, address) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("[192.0.2.1]", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[IPv6:2001:db8::1]", Some("2001:db8::1")),
            ("mx1.example.org", None),
            ("bücher.example", None),
            ("[192.0.2.1", None),
        ] {
            assert_eq!(literal(text), address.map(|address| address.parse().unwrap()), "{text}");
        }
    }

    #[tokio::test]
    async fn the_systems_own_names_are_found() {
        let found = Resolver::of_system().addresses(&host("localhost")).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
    }
}
