//! Buffers around a client's socket: lines out of it, replies into it, each with a time limit.

use std::{io, time::Duration};

use memchr::memchr;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// Longest command line taken. RFC 5321 section 4.5.3.1.4 asks for 512 and room for the parameters of extensions.
pub const LINE_BYTES_MAX: usize = 2048;
/// What one read may bring: several pipelined messages of a usual size.
const READ_BYTES: usize = 32 << 10;
/// A client that takes no replies for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a conversation cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The client closed.
    #[error("closed by the client")]
    Closed,
    /// It sent nothing, or took nothing, for too long.
    #[error("nothing came for too long")]
    Idle,
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
}

/// A socket with its buffers.
pub struct Wire<S> {
    stream: S,
    input: Vec<u8>,
    /// What stands before this in `input` was used.
    used: usize,
    output: Vec<u8>,
    /// The rest of a line that is too long is on its way.
    skipping: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Nothing is read or written yet.
    pub fn new(stream: S) -> Self {
        Self { stream, input: Vec::new(), used: 0, output: Vec::new(), skipping: false }
    }

    /// Where replies are appended. They go out before the next wait for input, so that pipelined
    /// commands are answered with few writes (RFC 2920 section 3.2).
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// The next line. May be dropped while it waits, without loss.
    pub async fn line(&mut self, idle_max: Duration) -> Result<Line, WireError> {
        loop {
            if let Some(line) = self.buffered_line() {
                return Ok(line);
            }
            self.fill(idle_max).await?;
        }
    }

    /// What came and is not used yet; waits until there is something.
    pub async fn input(&mut self, idle_max: Duration) -> Result<&[u8], WireError> {
        while self.used == self.input.len() {
            self.fill(idle_max).await?;
        }
        Ok(&self.input[self.used..])
    }

    /// Says how much of [`Wire::input`] was used.
    pub fn consume(&mut self, length: usize) {
        self.used += length;
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
        Ok(())
    }

    /// Sends what is left and closes our side.
    pub async fn close(mut self) {
        if self.flush().await.is_ok() {
            let _ = timeout(WRITE_TIMEOUT, self.stream.shutdown()).await;
        }
    }

    fn buffered_line(&mut self) -> Option<Line> {
        let rest = &self.input[self.used..];
        let Some(length) = memchr(b'\n', rest) else {
            if rest.len() > LINE_BYTES_MAX {
                self.skipping = true;
                self.used = self.input.len();
            }
            return None;
        };
        let line = match rest[..length].strip_suffix(b"\r") {
            _ if self.skipping || length > LINE_BYTES_MAX => Line::TooLong,
            Some(line) => Line::Whole(line.to_vec()),
            None => Line::BareLf,
        };
        self.used += length + 1;
        self.skipping = false;
        Some(line)
    }

    async fn fill(&mut self, idle_max: Duration) -> Result<(), WireError> {
        self.flush().await?;
        self.input.drain(..self.used);
        self.used = 0;
        self.input.reserve(READ_BYTES);
        match timeout(idle_max, self.stream.read_buf(&mut self.input)).await {
            Err(_) => Err(WireError::Idle),
            Ok(Ok(0)) => Err(WireError::Closed),
            Ok(result) => Ok(result.map(drop)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn lines(sent: &[u8], fragment: usize) -> Vec<Line> {
        let (mut client, server) = tokio::io::duplex(fragment);
        let sent = sent.to_vec();
        tokio::spawn(async move { client.write_all(&sent).await.unwrap() });
        let mut wire = Wire::new(server);
        let mut lines = Vec::new();
        while let Ok(line) = wire.line(SECOND).await {
            lines.push(line);
        }
        lines
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
