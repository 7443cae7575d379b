//! Bytes of one connection: lines, content, replies. Replies to pipelined commands leave together (RFC 2920).

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::TcpStream,
};

use memchr::memmem;

/// Twice what RFC 5321 section 4.5.3.1.4 allows: enough to see what a client did, too little to hang on.
const LINE_BYTES_MAX: u64 = 1024;
/// A message in one or two reads.
const BUFFER_BYTES: usize = 64 * 1024;

pub(super) struct Wire<'a> {
    reader: BufReader<&'a TcpStream>,
    replies: Vec<u8>,
    refusals: u64,
}

impl<'a> Wire<'a> {
    pub(super) fn new(stream: &'a TcpStream) -> Self {
        Self { reader: BufReader::with_capacity(BUFFER_BYTES, stream), replies: Vec::new(), refusals: 0 }
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
        self.reader.get_mut().write_all(&self.replies)?;
        self.replies.clear();
        Ok(())
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
