//! Buffers around a client's socket: lines out of it, replies into it, in clear or in TLS.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use memchr::memchr;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// What one read may bring while commands are expected. An idle session holds no more, and there are many of those.
pub const LINE_READ_BYTES: usize = 2048;
/// A client that takes no replies for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// For the handshake: two round trips and some arithmetic, over a bad line.
const TLS_TIMEOUT: Duration = Duration::from_secs(30);
/// For our last word to be taken, and for what a client still says while it is on its way. Its place is not free before.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// What a TLS handshake begins with (RFC 8446 section 5.1), and no command does.
const TLS_HANDSHAKE: u8 = 0x16;

/// Why a conversation cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The client closed.
    #[error("closed by the client")]
    Closed,
    /// It sent nothing, or took nothing, for too long.
    #[error("nothing came for too long")]
    Idle,
    /// The handshake came to nothing.
    #[error("TLS handshake: {0}")]
    Tls(#[source] io::Error),
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A line of the client.
#[derive(Debug, PartialEq)]
pub enum Line {
    /// It ended in CRLF, which is not part of this.
    Whole(Vec<u8>),
    /// It ended in a LF alone.
    BareLf,
    /// It was too long; all of it was thrown away.
    TooLong,
    /// It is none: a TLS handshake begins where a command should.
    Tls,
}

/// A socket with its buffers.
pub struct Wire<S> {
    stream: Stream<S>,
    input: Vec<u8>,
    /// What stands before this in `input` was used.
    used: usize,
    output: Vec<u8>,
    /// The rest of a line that is too long is on its way.
    skipping: bool,
    line_bytes_max: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// `input`: what was read already.
    pub fn new(stream: S, input: Vec<u8>, line_bytes_max: usize) -> Self {
        Self { stream: Stream::Plain(stream), input, used: 0, output: Vec::new(), skipping: false, line_bytes_max }
    }

    /// Where replies are appended. They go out before the next wait for input, so that pipelined
    /// commands are answered with few writes (RFC 2920 section 3.2).
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// The next line, if it has come.
    pub fn line(&mut self) -> Option<Line> {
        let rest = &self.input[self.used..];
        if rest.first() == Some(&TLS_HANDSHAKE) && !self.skipping {
            return Some(Line::Tls);
        }
        let Some(length) = memchr(b'\n', rest) else {
            if rest.len() > self.line_bytes_max {
                self.skipping = true;
                self.used = self.input.len();
            }
            return None;
        };
        let line = match rest[..length].strip_suffix(b"\r") {
            _ if self.skipping || length > self.line_bytes_max => Line::TooLong,
            Some(line) => Line::Whole(line.to_vec()),
            None => Line::BareLf,
        };
        self.used += length + 1;
        self.skipping = false;
        Some(line)
    }

    /// What came and is not used yet.
    pub fn input(&self) -> &[u8] {
        &self.input[self.used..]
    }

    /// Says how much of [`Wire::input`] was used.
    pub fn consume(&mut self, length: usize) {
        self.used += length;
    }

    /// Waits for more input, up to so many bytes of it. May be dropped while it waits, without loss.
    pub async fn fill(&mut self, bytes: usize) -> Result<(), WireError> {
        self.flush().await?;
        self.input.drain(..self.used);
        self.used = 0;
        self.input.shrink_to(bytes);
        self.input.reserve_exact(bytes);
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(WireError::Closed),
            _ => Ok(()),
        }
    }

    /// Sends what was appended to the output. May be dropped while it waits: what was sent is not sent again.
    pub async fn flush(&mut self) -> Result<(), WireError> {
        while !self.output.is_empty() {
            let sent = timeout(WRITE_TIMEOUT, self.stream.write(&self.output)).await.map_err(|_| WireError::Idle)??;
            if sent == 0 {
                return Err(WireError::Closed);
            }
            self.output.drain(..sent);
        }
        self.output.shrink_to(0);
        Ok(timeout(WRITE_TIMEOUT, self.stream.flush()).await.map_err(|_| WireError::Idle)??)
    }

    /// Sends what is left and begins TLS. What came in clear and was not used is thrown away: it was not the client who
    /// said it (RFC 3207 section 6). Returns how much that was.
    pub async fn start_tls(&mut self, acceptor: &TlsAcceptor) -> Result<usize, WireError> {
        let injected = self.input().len();
        (self.input, self.used, self.skipping) = (Vec::new(), 0, false);
        self.flush().await?;
        let Stream::Plain(stream) = std::mem::replace(&mut self.stream, Stream::Gone) else {
            return Err(WireError::Closed); // the session says STARTTLS only once
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "it took too long");
        let accepted = timeout(TLS_TIMEOUT, acceptor.accept(stream)).await.map_err(|_| WireError::Tls(late()))?;
        self.stream = Stream::Tls(Box::new(accepted.map_err(WireError::Tls)?));
        Ok(injected)
    }

    /// IANA's name of the cipher suite, in TLS.
    pub fn cipher(&self) -> Option<String> {
        let Stream::Tls(stream) = &self.stream else { return None };
        let suite = stream.get_ref().1.negotiated_cipher_suite()?.suite();
        Some(suite.as_str()?.replace("TLS13_", "TLS_"))
    }

    /// Sends what is left and closes our side.
    pub async fn close(mut self) {
        let _ = timeout(CLOSE_TIMEOUT, self.end()).await;
    }

    /// The same towards a client that may still be talking: a socket that is closed with words unread takes back what it
    /// said last, and then the client would not know why, and come again.
    pub async fn close_upon(mut self) {
        let mut unheard = [0; 4096];
        let hear_out = async {
            self.end().await?;
            while self.stream.read(&mut unheard).await? > 0 {}
            Ok::<_, WireError>(())
        };
        let _ = timeout(CLOSE_TIMEOUT, hear_out).await;
    }

    async fn end(&mut self) -> Result<(), WireError> {
        self.flush().await?;
        Ok(self.stream.shutdown().await?)
    }
}

/// A socket, in clear or in TLS.
enum Stream<S> {
    Plain(S),
    Tls(Box<TlsStream<S>>),
    /// Between the two, or for ever after a handshake that failed.
    Gone,
}

fn gone<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, into),
            Self::Gone => gone(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Gone => gone(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
            Self::Gone => gone(),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Gone => gone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(sent: &[u8], fragment: usize) -> Vec<Line> {
        let (mut client, server) = tokio::io::duplex(fragment);
        let sent = sent.to_vec();
        tokio::spawn(async move { client.write_all(&sent).await.unwrap() });
        let mut wire = Wire::new(server, Vec::new(), 2048);
        let mut lines = Vec::new();
        loop {
            match wire.line() {
                Some(line) => lines.push(line),
                None if wire.fill(LINE_READ_BYTES).await.is_err() => return lines,
                None => assert!(wire.input.capacity() <= 2 * 2048 + LINE_READ_BYTES),
            }
        }
    }

    #[tokio::test]
    async fn lines_end_in_crlf_however_they_are_cut() {
        for fragment in [1, 2, 3, 1000] {
            let found = lines(b"NOOP\r\nbare\nA\rB\r\nunfinished", fragment).await;
            assert_eq!(
                found,
                [Line::Whole(b"NOOP".to_vec()), Line::BareLf, Line::Whole(b"A\rB".to_vec())],
                "by {fragment}"
            );
        }
    }

    #[tokio::test]
    async fn a_line_too_long_is_thrown_away_whole_and_takes_no_memory() {
        let mut sent = vec![b'x'; 10_000_000];
        sent.extend(b"\r\nNOOP\r\n");
        assert_eq!(lines(&sent, 4096).await, [Line::TooLong, Line::Whole(b"NOOP".to_vec())]);
    }
}
