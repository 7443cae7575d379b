//! A connection to the primary: name, address, greeting, EHLO, and STARTTLS as far as the configuration asks for it.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use backupmx_relay_api::config::{Host, TlsMode};
use rustix::net::sockopt;
use tokio::{net::TcpStream, time::timeout};

use super::{
    encryption::Encryption,
    extensions::Extensions,
    resolve::Resolver,
    wire::{TalkError, Wire},
};

/// For the handshake: two round trips and some arithmetic, over a bad line.
const TLS_TIMEOUT: Duration = Duration::from_secs(30);
/// For the goodbye to a server that is of no use.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Silence until the peer's system is asked whether it still knows the connection, and between such questions.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// With [`KEEPALIVE`], a dead peer that owes us an answer is noticed within 20 s. Bytes on their way to it have the
/// kernel's own limits: TCP_USER_TIMEOUT would cut off a slow server too, whose window is closed.
const KEEPALIVES_UNANSWERED_MAX: u32 = 3;

/// Opens connections, all in the same way.
pub struct Caller {
    hostname: String,
    encryption: Arc<Encryption>,
    resolver: Resolver,
    /// Where we listen for SMTP ourselves.
    own: Vec<SocketAddr>,
}

/// A connection that got as far as EHLO, and TLS if there is to be any.
pub struct Hop {
    pub(super) wire: Wire,
    /// What it offers.
    pub extensions: Extensions,
    /// Whether a message was handed over already: then the server may have closed since without harm.
    pub is_used: bool,
    /// `host:port`.
    pub name: String,
    /// Which of its addresses it is.
    pub address: IpAddr,
    /// From which address it sees us come, if it says so.
    pub seen_from: Option<IpAddr>,
    /// Protocol and cipher suite, in TLS.
    pub tls: Option<String>,
    /// Why it is in clear although it need not be, in words for a person.
    pub lapse: Option<String>,
    /// MAIL commands so far.
    pub mails: u32,
    /// How many recipients it took before it said that there are too many.
    pub(super) recipients_taken_max: Option<usize>,
}

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the TCP connect.
    pub connect: Duration,
    /// For the greeting, and for each answer up to EHLO.
    pub reply: Duration,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The name does not resolve, or TCP does not connect.
    #[error("connect to {name}: {source}")]
    Unreachable {
        /// `host:port`.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is this relay.
    #[error("connect to {name}: that is this relay itself; name the primary in primary.hosts")]
    Ourselves {
        /// `host:port`.
        name: String,
    },
    /// TCP connects, but what is needed does not come about.
    #[error("{step} of {name}: {cause}")]
    Refused {
        /// `host:port`.
        name: String,
        /// How far it came.
        step: Step,
        /// What it said or did.
        cause: TalkError,
    },
}

/// A step after TCP has connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The server speaks first.
    Greeting,
    /// EHLO, and HELO where that is unknown.
    Ehlo,
    /// STARTTLS, and the handshake.
    StartTls,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Greeting => "greeting",
            Self::Ehlo => "EHLO",
            Self::StartTls => "STARTTLS",
        })
    }
}

impl OpenError {
    /// 5xx to what every client says: a sign that the primary is not whole.
    pub fn is_permanent(&self) -> bool {
        self.said_at_the_door().is_some_and(|code| code / 100 == 5)
    }

    /// 5xx before any mail: it does not want us, whatever we bring.
    pub fn judges_us(&self) -> bool {
        matches!(self, Self::Refused { cause: TalkError::Said(answer), .. } if answer.is_permanent())
    }

    /// It has no place for this connection now (421 or another 4xx), which says nothing about others.
    pub fn turns_away(&self) -> bool {
        self.said_at_the_door().is_some_and(|code| code / 100 == 4)
    }

    /// The server is not there at all, or is no other than we.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Ourselves { .. } => true,
            Self::Refused { .. } => false,
        }
    }

    /// `host:port`.
    pub fn name(&self) -> &str {
        match self {
            Self::Unreachable { name, .. } | Self::Ourselves { name } | Self::Refused { name, .. } => name,
        }
    }

    fn said_at_the_door(&self) -> Option<u16> {
        match self {
            Self::Refused { step: Step::Greeting | Step::Ehlo, cause: TalkError::Said(answer), .. } => {
                Some(answer.code)
            }
            Self::Refused { .. } | Self::Unreachable { .. } | Self::Ourselves { .. } => None,
        }
    }
}

impl Caller {
    /// `hostname`: our name in EHLO. `own`: where we listen for SMTP ourselves.
    pub fn new(hostname: String, encryption: Arc<Encryption>, own: Vec<SocketAddr>) -> Self {
        Self { hostname, encryption, resolver: Resolver::of_system(), own }
    }

    /// The same as the configuration wants it from now on.
    pub fn reconfigured(&self, hostname: String, encryption: Arc<Encryption>) -> Self {
        Self { hostname, encryption, resolver: self.resolver.clone(), own: self.own.clone() }
    }

    /// What a person should look at: new authorities that cannot be used.
    pub fn problem(&self) -> Option<String> {
        self.encryption.problem()
    }

    /// Connects, and gets as far as the configuration asks for. `expects_starttls`: it was offered there not long ago.
    ///
    /// Where TLS is only an opportunity and does not come about, it goes on in clear on a new connection.
    pub async fn open(&self, host: &Host, patience: Patience, expects_starttls: bool) -> Result<Hop, OpenError> {
        let mut hop = self.greeted(host, patience).await?;
        let lapse = match (self.encryption.mode(), hop.extensions.starttls) {
            (TlsMode::None, _) => return Ok(hop),
            (TlsMode::Opportunistic, false) if !expects_starttls => return Ok(hop),
            (TlsMode::Opportunistic, false) => {
                let _ = hop.wire.send(b"QUIT\r\n").await;
                format!("{} no longer offers STARTTLS", hop.name)
            }
            (TlsMode::Opportunistic, true) => match self.encrypted(hop, host, patience).await {
                Err(cause) if !cause.is_permanent() && !cause.turns_away() => cause.to_string(),
                done => return done,
            },
            (TlsMode::Encrypt | TlsMode::Verify, true) => return self.encrypted(hop, host, patience).await,
            (TlsMode::Encrypt | TlsMode::Verify, false) => {
                hop.wire.quit(QUIT_TIMEOUT).await;
                return Err(OpenError::Refused { name: hop.name, step: Step::StartTls, cause: TalkError::NoTls });
            }
        };
        let in_clear = self.greeted(host, patience).await?;
        Ok(Hop { lapse: Some(lapse), ..in_clear })
    }

    /// Connects, and no more. Returns which of its addresses it is.
    pub async fn touch(&self, host: &Host, patience: Patience) -> Result<IpAddr, OpenError> {
        self.connected(host, patience.connect).await.map(|(_, address)| address)
    }

    /// Up to EHLO, in clear whatever the configuration asks for: to look, not for mail.
    pub async fn greeted(&self, host: &Host, patience: Patience) -> Result<Hop, OpenError> {
        let (stream, address) = self.connected(host, patience.connect).await?;
        let _ = stream.set_nodelay(true); // we write whole batches of commands at once
        notice_dead_peers(&stream);
        let mut hop = Hop::over(Wire::new(stream), name(host), address);
        match hop.wire.answer(patience.reply).await {
            Ok(greeting) if greeting.code == 220 => {}
            Ok(other) => return Err(hop.refused(Step::Greeting, TalkError::Said(other))),
            Err(cause) => return Err(hop.refused(Step::Greeting, cause)),
        }
        match hop.hello(&self.hostname, patience.reply).await {
            Ok(()) => Ok(hop),
            Err(cause) => Err(hop.refused(Step::Ehlo, cause)),
        }
    }

    async fn connected(&self, host: &Host, limit: Duration) -> Result<(TcpStream, IpAddr), OpenError> {
        let unreachable = |source| OpenError::Unreachable { name: name(host), source };
        let addresses = self.resolver.addresses(host).await.map_err(unreachable)?;
        let (stream, ours, theirs) = connect(addresses, limit).await.map_err(unreachable)?;
        if self.own.iter().any(|listener| is_own(*listener, &self.own, ours, theirs)) {
            return Err(OpenError::Ourselves { name: name(host) });
        }
        Ok((stream, theirs.ip().to_canonical()))
    }

    /// STARTTLS, and EHLO again: what was said in clear counts no more (RFC 3207 section 4.2).
    async fn encrypted(&self, mut hop: Hop, host: &Host, patience: Patience) -> Result<Hop, OpenError> {
        match hop.wire.ask(b"STARTTLS\r\n", patience.reply).await {
            Ok(answer) if answer.code == 220 => {}
            Ok(other) => return Err(hop.refused(Step::StartTls, TalkError::Said(other))),
            Err(cause) => return Err(hop.refused(Step::StartTls, cause)),
        }
        let (connector, certified) = (self.encryption.connector().await, self.encryption.name(host, hop.address));
        let (wire, tls) = match hop.wire.start_tls(&connector, certified, patience.reply.min(TLS_TIMEOUT)).await {
            Ok(done) => done,
            Err(cause) => return Err(OpenError::Refused { name: hop.name, step: Step::StartTls, cause }),
        };
        let mut hop = Hop { wire, tls: Some(tls), extensions: Extensions::default(), ..hop };
        match hop.hello(&self.hostname, patience.reply).await {
            Ok(()) => Ok(hop),
            Err(cause) => Err(hop.refused(Step::Ehlo, cause)),
        }
    }
}

impl Hop {
    /// Before anything was said.
    pub(super) fn over(wire: Wire, name: String, address: IpAddr) -> Self {
        Self {
            wire,
            extensions: Extensions::default(),
            is_used: false,
            name,
            address,
            seen_from: None,
            tls: None,
            lapse: None,
            mails: 0,
            recipients_taken_max: None,
        }
    }

    pub(super) async fn hello(&mut self, hostname: &str, limit: Duration) -> Result<(), TalkError> {
        let answer = self.wire.ask(format!("EHLO {hostname}\r\n").as_bytes(), limit).await?;
        if answer.is_positive() {
            self.extensions = Extensions::of(&answer);
            self.seen_from = answer.seen_from();
            return Ok(());
        }
        if !answer.is_permanent() {
            return Err(TalkError::Said(answer));
        }
        // RFC 5321 section 3.2: an old server may know HELO only.
        match self.wire.ask(format!("HELO {hostname}\r\n").as_bytes(), limit).await? {
            answer if answer.is_positive() => Ok(()),
            answer => Err(TalkError::Said(answer)),
        }
    }

    fn refused(&self, step: Step, cause: TalkError) -> OpenError {
        OpenError::Refused { name: self.name.clone(), step, cause }
    }

    /// Whether it offers STARTTLS, or did so before TLS began.
    pub fn offers_starttls(&self) -> bool {
        self.tls.is_some() || self.extensions.starttls
    }

    /// Recipients of one transaction: at most `configured`, less if LIMITS says so or the server has shown it; never none.
    pub fn recipients_max(&self, configured: usize) -> usize {
        let told = self.extensions.limits.recipients_max.map(|limit| limit as usize);
        [told, self.recipients_taken_max].into_iter().flatten().fold(configured, usize::min).max(1)
    }

    /// Messages of this connection: at most `configured`, less if LIMITS says so.
    pub fn messages_max(&self, configured: usize) -> usize {
        self.extensions.limits.mails_max.map_or(configured, |limit| configured.min(limit as usize))
    }

    /// Whether LIMITS lets another MAIL through, for a further transaction or a question.
    pub fn takes_another_mail(&self) -> bool {
        self.extensions.limits.mails_max.is_none_or(|limit| self.mails < limit)
    }

    /// Says goodbye; whatever comes back changes nothing.
    pub async fn quit(self, limit: Duration) {
        self.wire.quit(limit).await;
    }
}

fn name(host: &Host) -> String {
    format!("{}:{}", host.host, host.port)
}

/// A primary that lost its power sends no FIN. Without this its connections would count as busy for minutes after
/// its return. Where the system cannot do it, the time limits of each reply remain.
fn notice_dead_peers(stream: &TcpStream) {
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEPALIVE);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEPALIVE);
    let _ = sockopt::set_tcp_keepcnt(stream, KEEPALIVES_UNANSWERED_MAX);
}

/// Tries one address after the other. Returns our address and theirs, too.
async fn connect(addresses: Vec<SocketAddr>, limit: Duration) -> io::Result<(TcpStream, SocketAddr, SocketAddr)> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let (ours, theirs) = (stream.local_addr()?, stream.peer_addr()?);
                return Ok((stream, ours, theirs));
            }
            Ok(Err(cause)) => last = cause,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, "connection timed out"),
        }
    }
    Err(last)
}

/// Whether a connection from `ours` to `theirs` ends at this listener, one of `all`. An address of this machine alone says little: a sidecar's
/// primary has it, too.
fn is_own(listener: SocketAddr, all: &[SocketAddr], ours: SocketAddr, theirs: SocketAddr) -> bool {
    let (peer, local) = (theirs.ip().to_canonical(), ours.ip().to_canonical());
    let is_here = peer == local || peer.is_loopback();
    // [::] takes IPv4 too, unless addresses are named for that (run.rs).
    let takes_family = listener.is_ipv4() == peer.is_ipv4()
        || listener.is_ipv6() && !all.iter().any(|other| other.is_ipv4() && other.port() == listener.port());
    let is_all = listener.ip().is_unspecified() && takes_family;
    is_here && listener.port() == theirs.port() && (is_all || listener.ip().to_canonical() == peer)
}

#[cfg(test)]
mod tests;
