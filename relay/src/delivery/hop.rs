//! A connection to the primary: opened up to EHLO, lines in and out of it, each with a time limit.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use backupmx_relay_api::config::Host;
use memchr::memchr;
use rustix::net::sockopt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::answer::{Answer, Extensions, LINE_BYTES_MAX, Odd, PartialAnswer};

/// Addresses of one name that are tried: RFC 5321 section 5.1 asks for two at least.
const ADDRESSES_MAX: usize = 4;
/// For the name look-up, which has no time limit of its own.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that takes nothing for this long is stuck (RFC 5321 section 4.5.3.2.5, data block).
const WRITE_TIMEOUT: Duration = Duration::from_secs(180);

/// Silence until the peer's system is asked whether it still knows the connection, and between such questions.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// With [`KEEPALIVE`], a dead peer that owes us an answer is noticed within 20 s. Bytes on their way to it have the
/// kernel's own limits: TCP_USER_TIMEOUT would cut off a slow server too, whose window is closed.
const KEEPALIVES_UNANSWERED_MAX: u32 = 3;

/// A connection that got as far as EHLO.
pub struct Hop {
    stream: TcpStream,
    input: Vec<u8>,
    /// What it offers.
    pub extensions: Extensions,
    /// Whether a message was handed over already: then the server may have closed since without harm.
    pub is_used: bool,
    /// `host:port`.
    pub name: String,
    /// Which of its addresses it is.
    pub address: IpAddr,
}

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the TCP connect.
    pub connect: Duration,
    /// For the greeting, and for the answer to EHLO.
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
    /// TCP connects, but no SMTP comes about.
    #[error("{step} of {name}: {cause}")]
    Refused {
        /// `host:port`.
        name: String,
        /// Greeting or EHLO.
        step: &'static str,
        /// What it said or did.
        cause: TalkError,
    },
}

/// Why a conversation ended early.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    /// It said no.
    #[error("{}", .0.words())]
    Said(Answer),
    /// It closed.
    #[error("the server closed the connection")]
    Closed,
    /// It said nothing for too long.
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// It said what is no SMTP.
    #[error(transparent)]
    Odd(#[from] Odd),
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Hop {
    /// Connects, reads the greeting, and says EHLO, or HELO to a server that does not know it.
    pub async fn open(host: &Host, hostname: &str, patience: Patience) -> Result<Self, OpenError> {
        let name = format!("{}:{}", host.host, host.port);
        let unreachable = |source| OpenError::Unreachable { name: name.clone(), source };
        let stream = connect(host, patience.connect).await.map_err(unreachable)?;
        let address = stream.peer_addr().map_err(unreachable)?.ip().to_canonical();
        let _ = stream.set_nodelay(true); // we write whole batches of commands at once
        notice_dead_peers(&stream);
        let mut hop =
            Self { stream, input: Vec::new(), extensions: Extensions::default(), is_used: false, name, address };
        let refused = |hop: &Self, step, cause| OpenError::Refused { name: hop.name.clone(), step, cause };
        match hop.answer(patience.reply).await {
            Ok(greeting) if greeting.code == 220 => {}
            Ok(other) => return Err(refused(&hop, "greeting", TalkError::Said(other))),
            Err(cause) => return Err(refused(&hop, "greeting", cause)),
        }
        match hop.hello(hostname, patience.reply).await {
            Ok(()) => Ok(hop),
            Err(cause) => Err(refused(&hop, "EHLO", cause)),
        }
    }

    async fn hello(&mut self, hostname: &str, limit: Duration) -> Result<(), TalkError> {
        let answer = self.ask(format!("EHLO {hostname}\r\n").as_bytes(), limit).await?;
        if answer.is_positive() {
            self.extensions = Extensions::of(&answer);
            return Ok(());
        }
        if !answer.is_permanent() {
            return Err(TalkError::Said(answer));
        }
        // RFC 5321 section 3.2: an old server may know HELO only.
        match self.ask(format!("HELO {hostname}\r\n").as_bytes(), limit).await? {
            answer if answer.is_positive() => Ok(()),
            answer => Err(TalkError::Said(answer)),
        }
    }

    /// Sends one command and reads its reply.
    pub async fn ask(&mut self, command: &[u8], limit: Duration) -> Result<Answer, TalkError> {
        self.send(command).await?;
        self.answer(limit).await
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), TalkError> {
        let written = timeout(WRITE_TIMEOUT, self.stream.write_all(bytes)).await;
        Ok(written.map_err(|_| TalkError::Silent(WRITE_TIMEOUT))??)
    }

    /// Reads one reply; `limit` is for all of it, so that a byte now and then does not keep us.
    pub async fn answer(&mut self, limit: Duration) -> Result<Answer, TalkError> {
        timeout(limit, self.whole_answer()).await.map_err(|_| TalkError::Silent(limit))?
    }

    /// Whether the server has said something that nobody asked for, as far as it has arrived.
    pub fn has_spoken_unasked(&mut self) -> bool {
        let _ = self.stream.try_read_buf(&mut self.input);
        !self.input.is_empty()
    }

    /// Says goodbye; whatever comes back changes nothing.
    pub async fn quit(mut self, limit: Duration) {
        let _ = timeout(limit, self.ask(b"QUIT\r\n", limit)).await;
    }

    async fn whole_answer(&mut self) -> Result<Answer, TalkError> {
        let mut partial = PartialAnswer::default();
        loop {
            while let Some(length) = memchr(b'\n', &self.input) {
                if length > LINE_BYTES_MAX {
                    return Err(Odd.into());
                }
                let line: Vec<u8> = self.input.drain(..=length).collect();
                if let Some(answer) = partial.line(&line)? {
                    return Ok(answer);
                }
            }
            if self.input.len() > LINE_BYTES_MAX {
                return Err(Odd.into());
            }
            self.input.reserve(LINE_BYTES_MAX);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(TalkError::Closed);
            }
        }
    }
}

/// A primary that lost its power sends no FIN. Without this its connections would count as busy for minutes after
/// its return. Where the system cannot do it, the time limits of each reply remain.
fn notice_dead_peers(stream: &TcpStream) {
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEPALIVE);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEPALIVE);
    let _ = sockopt::set_tcp_keepcnt(stream, KEEPALIVES_UNANSWERED_MAX);
}

async fn connect(host: &Host, limit: Duration) -> io::Result<TcpStream> {
    let timed_out = |what: &str| io::Error::new(io::ErrorKind::TimedOut, what.to_owned());
    let addresses = timeout(LOOKUP_TIMEOUT, resolve(host)).await.map_err(|_| timed_out("name look-up timed out"))??;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses.into_iter().take(ADDRESSES_MAX) {
        match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(cause)) => last = cause,
            Err(_) => last = timed_out("connection timed out"),
        }
    }
    Err(last)
}

/// A name with a dot is absolute: search lists, which pods have, must not invent others (RFC 5321 section 5.1).
async fn resolve(host: &Host) -> io::Result<Vec<SocketAddr>> {
    let Host { host: name, port } = host;
    if let Ok(address) = name.trim_matches(['[', ']']).parse() {
        return Ok(vec![SocketAddr::new(address, *port)]);
    }
    let absolute = if name.contains('.') && !name.ends_with('.') { format!("{name}.") } else { name.clone() };
    Ok(lookup_host((absolute.as_str(), *port)).await?.collect())
}
