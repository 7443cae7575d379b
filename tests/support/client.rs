//! A blocking SMTP client that says exactly what a test wants it to say, in clear or over TLS, and takes replies apart.

use std::{
    fmt,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;
use rustls::{
    ClientConfig, ClientConnection, StreamOwned,
    pki_types::{CertificateDer, ServerName},
};

/// For any reply. A relay that says nothing for so long is broken.
const REPLY_LIMIT: Duration = Duration::from_secs(60);
/// RFC 5321 section 4.5.3.1.5 allows 512; some room, so that a test sees what came instead of an error.
const REPLY_LINE_BYTES_MAX: u64 = 4096;

/// A server's reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// Its lines, without code and separator.
    pub lines: Vec<String>,
}

impl Reply {
    /// Whether code and first line begin like this: `250 2.0.0`.
    pub fn is(&self, start: &str) -> bool {
        self.to_string().starts_with(start)
    }

    /// The last word of a reply to the final dot: the message's id.
    pub fn message_id(&self) -> &str {
        self.lines[0].rsplit(' ').next().unwrap_or_default()
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.lines.join(" / "))
    }
}

/// From whom, to whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// Reverse-path without its brackets; empty for a notice.
    pub sender: String,
    /// Forward-paths without their brackets.
    pub recipients: Vec<String>,
}

impl Envelope {
    /// An envelope with these addresses.
    pub fn new(sender: &str, recipients: &[&str]) -> Self {
        Self { sender: sender.to_owned(), recipients: recipients.iter().map(|&path| path.to_owned()).collect() }
    }

    /// An envelope to one recipient in the domain of all tests.
    pub fn to(local_part: &str) -> Self {
        Self::new("sender@client.example", &[&format!("{local_part}@{}", crate::DOMAIN)])
    }
}

/// One connection to a server.
pub struct Client {
    stream: BufReader<Wire>,
}

/// What the bytes go over.
enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// A handshake failed half-way: nothing can be said any more.
    Broken,
}

impl Client {
    /// Connects; the greeting is still to be read.
    pub fn connect(to: SocketAddr) -> io::Result<Self> {
        Self::connect_patiently(to, REPLY_LIMIT)
    }

    /// Connects, and waits for each reply no longer than `limit`.
    pub fn connect_patiently(to: SocketAddr, limit: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(Wire::Plain(stream)) })
    }

    /// Connects, hears the greeting and says EHLO. A refusal is an error.
    pub fn hello(to: SocketAddr) -> io::Result<Self> {
        let mut client = Self::connect(to)?;
        let greeting = client.reply()?;
        let hello = if greeting.code == 220 { client.say("EHLO client.example")? } else { greeting };
        if hello.code == 250 { Ok(client) } else { Err(io::Error::other(hello.to_string())) }
    }

    /// Sends one line and hears its reply.
    pub fn say(&mut self, line: &str) -> io::Result<Reply> {
        self.raw(format!("{line}\r\n").as_bytes())?;
        self.reply()
    }

    /// Sends bytes as they are and hears nothing.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)?;
        self.stream.get_mut().flush()
    }

    /// Sends bytes as they are, each in a TCP segment of its own; over TLS in a record of its own, too.
    pub fn fragments(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes.iter().try_for_each(|byte| self.raw(&[*byte]))
    }

    /// Does a TLS handshake; all that follows is encrypted. `name` goes along as SNI. What the server said in clear
    /// and nobody has read yet is an error (RFC 3207 section 6).
    pub fn start_tls(&mut self, name: &str, config: Arc<ClientConfig>) -> io::Result<()> {
        if !self.stream.buffer().is_empty() {
            let rest = self.stream.buffer().escape_ascii();
            return Err(io::Error::other(format!("in clear, before the handshake, came: {rest}")));
        }
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let Wire::Plain(stream) = std::mem::replace(self.stream.get_mut(), Wire::Broken) else {
            return Err(io::Error::other("TLS within TLS, or after a broken handshake"));
        };
        let mut stream = StreamOwned::new(session, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        *self.stream.get_mut() = Wire::Tls(Box::new(stream));
        Ok(())
    }

    /// The server's certificate, if TLS is spoken.
    pub fn certificate(&self) -> Option<CertificateDer<'static>> {
        match self.stream.get_ref() {
            Wire::Tls(stream) => stream.conn.peer_certificates()?.first().cloned().map(CertificateDer::into_owned),
            Wire::Plain(_) | Wire::Broken => None,
        }
    }

    /// Is gone from one moment to the next, as a machine that fails: the server gets RST and no word.
    pub fn vanish(self) -> io::Result<()> {
        let stream = match self.stream.into_inner() {
            Wire::Plain(stream) => stream,
            // Without the rest of TLS, which would take its leave.
            Wire::Tls(stream) => stream.into_parts().1,
            Wire::Broken => return Ok(()),
        };
        Ok(set_socket_linger(&stream, Some(Duration::ZERO))?)
    }

    /// Hears one reply, of as many lines as it has. Anything that is no reply is an error.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let mut lines = Vec::new();
        let mut first_code = None;
        loop {
            let line = self.line()?;
            let (code, last, text) = parse_reply_line(&line)?;
            // RFC 5321 section 4.2.1: all lines of a reply carry the same code.
            if *first_code.get_or_insert(code) != code {
                return Err(malformed(&line));
            }
            lines.push(text);
            if last {
                return Ok(Reply { code, lines });
            }
        }
    }

    /// Sends a message in one go (RFC 2920) and hears what became of it: the reply to the final dot, or, where
    /// it did not come so far, the first one that was no yes.
    pub fn send(&mut self, envelope: &Envelope, content: &[u8]) -> io::Result<Reply> {
        match self.begin(envelope, content)? {
            Ok(()) => {
                self.raw(&stuffed(content))?;
                self.reply()
            }
            Err(refusal) => Ok(refusal),
        }
    }

    /// All of [`Self::send`] up to the reply to DATA. The content decides whether 8BITMIME is asked for.
    pub fn begin(&mut self, envelope: &Envelope, content: &[u8]) -> io::Result<Result<(), Reply>> {
        let body = if content.is_ascii() { "" } else { " BODY=8BITMIME" };
        let mut commands = format!("MAIL FROM:<{}>{body}\r\n", envelope.sender);
        for recipient in &envelope.recipients {
            commands.push_str(&format!("RCPT TO:<{recipient}>\r\n"));
        }
        commands.push_str("DATA\r\n");
        self.raw(commands.as_bytes())?;
        let mut refusal = None;
        for _ in 0..=envelope.recipients.len() {
            let reply = self.reply()?;
            if reply.code / 100 != 2 {
                refusal.get_or_insert(reply);
            }
        }
        let go_on = self.reply()?;
        Ok(if go_on.code == 354 { Ok(()) } else { Err(refusal.unwrap_or(go_on)) })
    }

    /// Whether the server closes the connection, saying nothing more.
    pub fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0; 1]) {
            Ok(count) => count == 0,
            Err(error) => is_end(&error),
        }
    }

    /// Whether the server closes the connection, whatever it says before.
    pub fn is_closed_at_last(&mut self) -> bool {
        match io::copy(&mut self.stream, &mut io::sink()) {
            Ok(_) => true,
            Err(error) => is_end(&error),
        }
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        self.stream.by_ref().take(REPLY_LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(line)
    }
}

impl Read for Wire {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(bytes),
            Self::Tls(stream) => stream.read(bytes),
            Self::Broken => Ok(0),
        }
    }
}

impl Write for Wire {
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

/// Whether this is how the end of a connection looks: RST where something was left unread, and in TLS an end without
/// its close_notify, which mail servers commonly leave out.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof)
}

/// Content as it travels (RFC 5321 section 4.5.2): a dot more on lines that begin with one, and the final dot.
///
/// # Panics
/// If the content ends within a line: DATA cannot carry such a message.
pub fn stuffed(content: &[u8]) -> Vec<u8> {
    assert!(content.is_empty() || content.ends_with(b"\r\n"), "content in DATA ends with a line's end");
    let mut wire = Vec::with_capacity(content.len() + 64);
    let mut copied = 0;
    if content.starts_with(b".") {
        wire.push(b'.');
    }
    for at in memchr::memmem::find_iter(content, b"\r\n.") {
        wire.extend_from_slice(&content[copied..at + 2]);
        wire.push(b'.');
        copied = at + 2;
    }
    wire.extend_from_slice(&content[copied..]);
    wire.extend_from_slice(b".\r\n");
    wire
}

fn parse_reply_line(line: &[u8]) -> io::Result<(u16, bool, String)> {
    let text = line.strip_suffix(b"\r\n").ok_or_else(|| malformed(line))?;
    let (digits, rest) = text.split_at_checked(3).ok_or_else(|| malformed(line))?;
    let code = str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or_else(|| malformed(line))?;
    let (last, words) = match rest.split_first() {
        None => (true, rest),
        Some((b' ', words)) => (true, words),
        Some((b'-', words)) => (false, words),
        Some(_) => return Err(malformed(line)),
    };
    Ok((code, last, String::from_utf8_lossy(words).into_owned()))
}

fn malformed(line: &[u8]) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("no SMTP reply: {}", line.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_doubled_at_the_start_of_lines_only() {
        for (content, wire) in [
            ("", ".\r\n"),
            (".\r\n", "..\r\n.\r\n"),
            ("a.\r\n.b\r\n\r\n..\r\n", "a.\r\n..b\r\n\r\n...\r\n.\r\n"),
            ("a\n.b\r\n", "a\n.b\r\n.\r\n"),
        ] {
            assert_eq!(stuffed(content.as_bytes()), wire.as_bytes(), "{content:?}");
        }
    }
}
