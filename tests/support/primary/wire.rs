//! Bytes of one connection, in clear or over TLS: lines, content, replies. Replies to pipelined commands leave together
//! (RFC 2920).

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::TcpStream,
    sync::Arc,
    thread,
    time::Duration,
};

use memchr::memmem;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Twice what RFC 5321 section 4.5.3.1.4 allows: enough to see what a client did, too little to hang on.
const LINE_BYTES_MAX: u64 = 1024;
/// A message in one or two reads.
const BUFFER_BYTES: usize = 64 * 1024;

pub(super) struct Wire<'a> {
    reader: BufReader<Line<'a>>,
    replies: Vec<u8>,
    refusals: u64,
    /// Between two bytes of a reply.
    pause: Option<Duration>,
}

/// What the bytes go over.
enum Line<'a> {
    Plain(&'a TcpStream),
    Tls(Box<StreamOwned<ServerConnection, &'a TcpStream>>),
    /// A handshake failed half-way: nothing can be said any more.
    Broken,
}

impl<'a> Wire<'a> {
    pub(super) fn new(stream: &'a TcpStream) -> Self {
        let reader = BufReader::with_capacity(BUFFER_BYTES, Line::Plain(stream));
        Self { reader, replies: Vec::new(), refusals: 0, pause: None }
    }

    /// Does a TLS handshake; all that follows is encrypted. What came in clear before it is forgotten (RFC 3207 section 4.2).
    pub(super) fn start_tls(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        let Line::Plain(stream) = std::mem::replace(self.reader.get_mut(), Line::Broken) else {
            return Err(io::Error::other("TLS within TLS, or after a broken handshake"));
        };
        let session = ServerConnection::new(config).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(session, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        self.reader = BufReader::with_capacity(BUFFER_BYTES, Line::Tls(Box::new(stream)));
        Ok(())
    }

    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self.reader.get_ref(), Line::Tls(_))
    }

    /// From now on, replies leave a byte at a time, with this pause behind each.
    pub(super) fn trickle(&mut self, pause: Duration) {
        self.pause = Some(pause);
    }

    /// The next command, with its line's end.
    pub(super) fn line(&mut self) -> io::Result<Vec<u8>> {
        if !self.reader.buffer().contains(&b'\n') {
            self.flush()?;
        }
        let mut line = Vec::new();
        self.reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.ends_with(b"\n") { Ok(line) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    /// Says one reply, at the latest when the next command must be waited for.
    pub(super) fn say(&mut self, reply: &str) {
        self.refusals += u64::from(reply.starts_with(['4', '5']));
        self.replies.extend_from_slice(reply.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
    }

    /// How often it said no.
    pub(super) fn refusals(&self) -> u64 {
        self.refusals
    }

    /// Says bytes as they are, at once.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.replies.extend_from_slice(bytes);
        self.flush()
    }

    /// Sends what was said.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let line = self.reader.get_mut();
        match self.pause {
            None => line.write_all(&self.replies)?,
            Some(pause) => self.replies.iter().try_for_each(|byte| {
                line.write_all(&[*byte])?;
                line.flush()?;
                thread::sleep(pause);
                io::Result::Ok(())
            })?,
        }
        self.replies.clear();
        line.flush()
    }

    /// Whether the client has said more than was read.
    pub(super) fn has_more(&self) -> bool {
        !self.reader.buffer().is_empty()
    }

    /// Waits until the client says more.
    pub(super) fn wait_for_more(&mut self) -> io::Result<()> {
        if self.reader.fill_buf()?.is_empty() { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Reads on, and drops it, until the client or [`super::Primary::go_away`] ends the connection.
    pub(super) fn stall(&mut self) -> io::Result<()> {
        self.flush()?;
        io::copy(&mut self.reader, &mut io::sink())?;
        Err(ErrorKind::UnexpectedEof.into())
    }

    /// So many bytes, as they are.
    pub(super) fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader.by_ref().take(count as u64).read_to_end(&mut bytes)?;
        if bytes.len() == count { Ok(bytes) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    /// The content up to CRLF.CRLF, the added dots removed (RFC 5321 section 4.5.2).
    pub(super) fn content(&mut self) -> io::Result<Vec<u8>> {
        // The CRLF of DATA counts: RFC 5321 section 4.1.1.4.
        let mut wire = b"\r\n".to_vec();
        loop {
            let look_from = wire.len().saturating_sub(4);
            let chunk = self.reader.fill_buf()?;
            if chunk.is_empty() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let chunk_bytes = chunk.len();
            wire.extend_from_slice(chunk);
            let Some(at) = memmem::find(&wire[look_from..], b"\r\n.\r\n") else {
                self.reader.consume(chunk_bytes);
                continue;
            };
            let end = look_from + at + b"\r\n.\r\n".len();
            self.reader.consume(chunk_bytes - (wire.len() - end));
            wire.truncate(end - b".\r\n".len());
            return Ok(unstuffed(&wire));
        }
    }
}

impl Read for Line<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(bytes),
            Self::Tls(stream) => stream.read(bytes),
            Self::Broken => Ok(0),
        }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
            Self::Broken => Err(ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
            Self::Broken => Ok(()),
        }
    }
}

/// `wire` begins with the CRLF before the content, which goes too.
fn unstuffed(wire: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(wire.len());
    let mut copied = 2;
    for at in memmem::find_iter(wire, b"\r\n.") {
        content.extend_from_slice(&wire[copied..at + 2]);
        copied = at + 3;
    }
    content.extend_from_slice(&wire[copied..]);
    content
}

#[cfg(test)]
mod tests {
    use super::unstuffed;

    #[test]
    fn one_dot_goes_from_each_line_that_begins_with_one() {
        for (wire, content) in [
            ("\r\n", ""),
            ("\r\n..\r\n", ".\r\n"),
            ("\r\n...a\r\n..\r\n..b\r\n", "..a\r\n.\r\n.b\r\n"),
            ("\r\na..\r\n\r\n...\r\n", "a..\r\n\r\n..\r\n"),
        ] {
            assert_eq!(unstuffed(wire.as_bytes()), content.as_bytes(), "{wire:?}");
        }
    }
}
