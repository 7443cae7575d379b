//! The socket of one conversation with the primary: bytes out, replies in, each with a time limit, in clear or in TLS.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use memchr::memchr;
use rustls::{ProtocolVersion, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::answer::{Answer, LINE_BYTES_MAX, Odd, PartialAnswer};

/// A server that takes nothing for this long is stuck (RFC 5321 section 4.5.3.2.5, data block).
const WRITE_TIMEOUT: Duration = Duration::from_secs(180);

/// TCP, or TLS over it.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// A socket with what came from it and is not used yet.
pub struct Wire {
    stream: Box<dyn Socket>,
    input: Vec<u8>,
    /// How long the server has let us wait for its replies so far.
    pub waited: Duration,
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
    /// The handshake came to nothing.
    #[error("TLS handshake: {0}")]
    Tls(#[source] io::Error),
    /// It does not offer what may not be done without.
    #[error("it offers no STARTTLS, and primary.tls.mode asks for it")]
    NoTls,
    /// The connection broke.
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for TalkError {
    fn from(cause: io::Error) -> Self {
        // What rustls says of a server that closes without a word of TLS about it.
        if cause.kind() == io::ErrorKind::UnexpectedEof { Self::Closed } else { Self::Io(cause) }
    }
}

impl Wire {
    /// In clear.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self { stream: Box::new(stream), input: Vec::new(), waited: Duration::ZERO }
    }

    /// Sends one command and reads its reply.
    pub async fn ask(&mut self, command: &[u8], limit: Duration) -> Result<Answer, TalkError> {
        self.send(command).await?;
        self.answer(limit).await
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), TalkError> {
        let sending = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        Ok(timeout(WRITE_TIMEOUT, sending).await.map_err(|_| TalkError::Silent(WRITE_TIMEOUT))??)
    }

    /// Reads one reply; `limit` is for all of it, so that a byte now and then does not keep us.
    pub async fn answer(&mut self, limit: Duration) -> Result<Answer, TalkError> {
        let begun = Instant::now();
        let answer = timeout(limit, self.whole_answer()).await.map_err(|_| TalkError::Silent(limit));
        self.waited += begun.elapsed();
        answer?
    }

    /// Whether the server has said something that nobody asked for, as far as it has arrived.
    pub fn has_spoken_unasked(&mut self) -> bool {
        let _ = self.take_what_came();
        !self.input.is_empty()
    }

    /// The same, or whether it has closed.
    pub fn has_ended(&mut self) -> bool {
        let end = self.take_what_came().is_some_and(|came| came.is_none_or(|bytes| bytes == 0));
        end || !self.input.is_empty()
    }

    /// How many bytes came, if the connection has anything to tell by now; `Some(None)`: that it broke.
    fn take_what_came(&mut self) -> Option<Option<usize>> {
        let mut piece = [0; LINE_BYTES_MAX];
        let mut piece = ReadBuf::new(&mut piece);
        // Nobody is to be woken: whoever waits for an answer asks again.
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(&mut self.stream).poll_read(&mut context, &mut piece) {
            Poll::Pending => None,
            Poll::Ready(read) => {
                self.input.extend_from_slice(piece.filled());
                Some(read.ok().map(|()| piece.filled().len()))
            }
        }
    }

    /// Begins TLS. What came in clear and was not used is thrown away: whoever said it was not in TLS (RFC 3207 section 6).
    /// Returns protocol and cipher suite in words, too.
    pub async fn start_tls(
        self,
        connector: &TlsConnector,
        name: ServerName<'static>,
        limit: Duration,
    ) -> Result<(Self, String), TalkError> {
        let Self { stream, input: _, waited } = self;
        let connected = timeout(limit, connector.connect(name, stream)).await.map_err(|_| TalkError::Silent(limit))?;
        let stream = connected.map_err(TalkError::Tls)?;
        let described = describe(&stream);
        Ok((Self { stream: Box::new(stream), input: Vec::new(), waited }, described))
    }

    /// Says goodbye; whatever comes back changes nothing.
    pub async fn quit(mut self, limit: Duration) {
        let farewell = async {
            let _ = self.ask(b"QUIT\r\n", limit).await;
            self.stream.shutdown().await
        };
        let _ = timeout(limit, farewell).await;
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

fn describe<S>(stream: &TlsStream<S>) -> String {
    let (_, session) = stream.get_ref();
    let protocol = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS", // rustls has no others
    };
    let suite = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    // IANA's name has no version in it.
    suite.map_or(protocol.to_owned(), |suite| format!("{protocol}, {}", suite.replace("TLS13_", "TLS_")))
}
