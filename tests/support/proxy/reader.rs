//! Where commands, content and replies end in what goes over the wire. No I/O.

use super::harm::Step;

/// Of a line, or a reply, whose end has not come. More of it is handed on as it is: a client or server may want to know
/// how much the other one bears.
const UNENDED_BYTES_MAX: usize = 256 * 1024;
const FINAL_DOT: &[u8] = b".\r\n";
/// Type, version and length of a TLS record (RFC 8446 section 5.1).
const RECORD_HEADER_BYTES: usize = 5;

/// The next that a client has sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    /// A whole command.
    Command(Step, Vec<u8>),
    /// The line of a BDAT, whose chunk follows: its length, and whether it is the last.
    Bdat(Vec<u8>, u64, bool),
    /// Some bytes of content, or of a chunk.
    Content(Vec<u8>),
    /// The chunk is over.
    ChunkEnd,
    /// The final dot, with its line's end.
    Dot,
    /// The first TLS record.
    Handshake(Vec<u8>),
    /// Nobody's business.
    Opaque(Vec<u8>),
}

enum Mode {
    Commands,
    Content(Behind),
    Chunk(u64),
    Handshake,
    Opaque,
}

/// What the next byte of content stands behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// The CRLF of DATA counts: RFC 5321 section 4.1.1.4.
    LineEnd,
    Cr,
    Other,
}

/// What a client sends.
pub(super) struct Commands {
    mode: Mode,
    bytes: Vec<u8>,
}

impl Commands {
    pub(super) fn new() -> Self {
        Self { mode: Mode::Commands, bytes: Vec::new() }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// DATA was answered 354.
    pub(super) fn expect_content(&mut self) {
        self.mode = Mode::Content(Behind::LineEnd);
    }

    /// STARTTLS was answered 220.
    pub(super) fn expect_handshake(&mut self) {
        self.mode = Mode::Handshake;
    }

    /// What has come of something whose end has not.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// The next piece, if it has come. After DATA and STARTTLS what comes next depends on their reply.
    pub(super) fn next(&mut self) -> Option<Piece> {
        match self.mode {
            Mode::Commands => self.command(),
            Mode::Content(behind) => self.content(behind),
            Mode::Chunk(0) => {
                self.mode = Mode::Commands;
                Some(Piece::ChunkEnd)
            }
            Mode::Chunk(left) => {
                let bytes = self.take(usize::try_from(left).unwrap_or(usize::MAX).min(self.bytes.len()))?;
                self.mode = Mode::Chunk(left - bytes.len() as u64);
                Some(Piece::Content(bytes))
            }
            Mode::Handshake => {
                let record = record(&self.bytes)?;
                self.mode = Mode::Opaque;
                self.take(record).map(Piece::Handshake)
            }
            Mode::Opaque => self.take(self.bytes.len()).map(Piece::Opaque),
        }
    }

    fn command(&mut self) -> Option<Piece> {
        let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') else {
            let is_too_long = self.bytes.len() > UNENDED_BYTES_MAX;
            return is_too_long.then(|| Piece::Opaque(self.rest()));
        };
        let line = self.take(end + 1)?;
        Some(match chunk(&line) {
            Some((length, is_last)) => {
                self.mode = Mode::Chunk(length);
                Piece::Bdat(line, length, is_last)
            }
            None => Piece::Command(Step::of(&line), line),
        })
    }

    /// Content up to what may be the final dot, or that. Nothing else ends it, neither LF.CRLF nor CRLF.LF.
    fn content(&mut self, mut behind: Behind) -> Option<Piece> {
        let mut at = 0;
        while let Some(byte) = self.bytes.get(at) {
            let rest = &self.bytes[at..];
            if behind == Behind::LineEnd && at == 0 && rest.starts_with(FINAL_DOT) {
                self.mode = Mode::Commands;
                self.bytes.drain(..FINAL_DOT.len());
                return Some(Piece::Dot);
            }
            if behind == Behind::LineEnd && (rest.starts_with(FINAL_DOT) || FINAL_DOT.starts_with(rest)) {
                break;
            }
            behind = match (behind, byte) {
                (_, b'\r') => Behind::Cr,
                (Behind::Cr, b'\n') => Behind::LineEnd,
                _ => Behind::Other,
            };
            at += 1;
        }
        self.mode = Mode::Content(behind);
        self.take(at).map(Piece::Content)
    }

    fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        (count > 0).then(|| self.bytes.drain(..count).collect())
    }
}

/// What a server sends.
pub(super) struct Replies {
    bytes: Vec<u8>,
    /// Where the line begins that has not ended.
    line: usize,
    in_handshake: bool,
}

impl Replies {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), line: 0, in_handshake: false }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// STARTTLS was answered 220.
    pub(super) fn expect_handshake(&mut self) {
        self.in_handshake = true;
    }

    /// What has come of a reply whose end has not.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        self.line = 0;
        std::mem::take(&mut self.bytes)
    }

    /// The next reply, with all its lines, if it has come; in TLS the next record. What is neither counts as a reply, a
    /// line each.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        if self.in_handshake {
            let record = record(&self.bytes)?;
            return Some(self.bytes.drain(..record).collect());
        }
        while let Some(length) = self.bytes[self.line..].iter().position(|byte| *byte == b'\n') {
            let line = &self.bytes[self.line..=self.line + length];
            self.line += length + 1;
            let is_last = !(line.get(..3).is_some_and(|code| code.iter().all(u8::is_ascii_digit)) && line[3] == b'-');
            if is_last {
                let end = std::mem::take(&mut self.line);
                return Some(self.bytes.drain(..end).collect());
            }
        }
        None
    }

    /// The part of a reply that is too long to wait for its end.
    pub(super) fn overflow(&mut self) -> Option<Vec<u8>> {
        (self.bytes.len() > UNENDED_BYTES_MAX).then(|| self.rest())
    }
}

/// The length of a BDAT's chunk, and whether it is the last (RFC 3030 section 2).
fn chunk(line: &[u8]) -> Option<(u64, bool)> {
    let text = str::from_utf8(line).ok()?;
    let mut words = text.split_ascii_whitespace();
    words.next().filter(|verb| verb.eq_ignore_ascii_case("BDAT"))?;
    let length = words.next()?.parse().ok()?;
    Some((length, words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"))))
}

/// The length of a TLS record, once all of it has come. All bytes if that is none.
fn record(bytes: &[u8]) -> Option<usize> {
    // Content types: RFC 8446 appendix B.1.
    if !(0x14..=0x17).contains(bytes.first()?) {
        return Some(bytes.len());
    }
    let header = bytes.get(..RECORD_HEADER_BYTES)?;
    let length = RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([header[3], header[4]]));
    (bytes.len() >= length).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of these bytes, so many at a time, where DATA and STARTTLS are answered yes. Content is put together
    /// again.
    fn pieces(wire: &[u8], at_a_time: usize) -> Vec<Piece> {
        let (mut commands, mut pieces) = (Commands::new(), Vec::new());
        for bytes in wire.chunks(at_a_time) {
            commands.feed(bytes);
            while let Some(piece) = commands.next() {
                match &piece {
                    Piece::Command(Step::Data, _) => commands.expect_content(),
                    Piece::Command(Step::StartTls, _) => commands.expect_handshake(),
                    _ => {}
                }
                match (pieces.last_mut(), piece) {
                    (Some(Piece::Content(all)), Piece::Content(more)) => all.extend(more),
                    (Some(Piece::Opaque(all)), Piece::Opaque(more)) => all.extend(more),
                    (_, piece) => pieces.push(piece),
                }
            }
        }
        assert_eq!(commands.rest(), b"", "something is left");
        pieces
    }

    fn command(step: Step, line: &str) -> Piece {
        Piece::Command(step, line.as_bytes().to_vec())
    }

    fn content(bytes: &str) -> Piece {
        Piece::Content(bytes.as_bytes().to_vec())
    }

    #[test]
    fn commands_are_told_apart_however_they_are_cut() {
        let lines = "EHLO a|helo a|XCLIENT A=1|xforward A=1|MAIL FROM:<>|RCPT TO:<b>|rcpt to:<DATA>|RSET|NOOP|QUIT|";
        let wire = lines.replace('|', "\r\n");
        let steps = [
            Step::Ehlo,
            Step::Ehlo,
            Step::Xclient,
            Step::Xforward,
            Step::Mail,
            Step::Rcpt,
            Step::Rcpt,
            Step::Rset,
            Step::Other,
            Step::Quit,
        ];
        let lines = wire.split_inclusive('\n');
        let expected: Vec<_> = steps.into_iter().zip(lines).map(|(step, line)| command(step, line)).collect();
        for at_a_time in 1..=wire.len() {
            assert_eq!(pieces(wire.as_bytes(), at_a_time), expected, "{at_a_time} at a time");
        }
    }

    #[test]
    fn only_a_dot_alone_between_two_crlf_ends_content() {
        let lookalikes = [
            "",
            "a\r\n",
            "..\r\n",
            "..\r\n..\r\n...\r\n",
            "a\n.\r\nQUIT\r\n",
            "a\r.\r\nQUIT\r\n",
            ".\nQUIT\r\n",
            ".\rQUIT\r\n",
            ".\r\r\nQUIT\r\n",
            "a\r\n.\n\r\n",
            "a\r\r\n.x\r\n",
            "a.\r\n\r\n",
        ];
        for text in lookalikes {
            let wire = format!("DATA\r\n{text}.\r\nQUIT\r\n");
            let mut expected =
                vec![command(Step::Data, "DATA\r\n"), content(text), Piece::Dot, command(Step::Quit, "QUIT\r\n")];
            expected.retain(|piece| *piece != content(""));
            for at_a_time in 1..=wire.len() {
                assert_eq!(pieces(wire.as_bytes(), at_a_time), expected, "{text:?}, {at_a_time} at a time");
            }
        }
    }

    #[test]
    fn chunks_are_as_long_as_they_say_whatever_is_in_them() {
        let (first, second) = ("DATA\r\n.\r\nBDAT 9\r\nQUIT\r\n", "RSET\r\n.\r\n");
        let wire = format!("BDAT {}\r\n{first}bdat 9 last\r\n{second}BDAT 0 LAST\r\nRSET\r\n", first.len());
        let bdat = |line: &str, length, is_last| Piece::Bdat(format!("{line}\r\n").into_bytes(), length, is_last);
        let expected = [
            bdat("BDAT 23", 23, false),
            content(first),
            Piece::ChunkEnd,
            bdat("bdat 9 last", 9, true),
            content(second),
            Piece::ChunkEnd,
            bdat("BDAT 0 LAST", 0, true),
            Piece::ChunkEnd,
            command(Step::Rset, "RSET\r\n"),
        ];
        for at_a_time in 1..=wire.len() {
            assert_eq!(pieces(wire.as_bytes(), at_a_time), expected, "{at_a_time} at a time");
        }
    }

    #[test]
    fn after_starttls_comes_a_record_and_then_nobodys_business() {
        let wire = b"STARTTLS\r\n\x16\x03\x01\x00\x03abc\x17\x03\x03\x00\x01zQUIT\r\n";
        let expected = [
            command(Step::StartTls, "STARTTLS\r\n"),
            Piece::Handshake(b"\x16\x03\x01\x00\x03abc".to_vec()),
            Piece::Opaque(b"\x17\x03\x03\x00\x01zQUIT\r\n".to_vec()),
        ];
        for at_a_time in 1..=wire.len() {
            assert_eq!(pieces(wire, at_a_time), expected, "{at_a_time} at a time");
        }
    }

    #[test]
    fn a_reply_has_all_its_lines() {
        let expected =
            ["220 hi\r\n", "250-a\r\n250-b c\r\n250 d\r\n", "250\r\n", "250-x\r\n550 two\r\n", "SSH-2.0\r\n", "yes\n"];
        let wire = expected.concat();
        for at_a_time in 1..=wire.len() {
            let (mut replies, mut found) = (Replies::new(), Vec::new());
            for bytes in wire.as_bytes().chunks(at_a_time) {
                replies.feed(bytes);
                found.extend(std::iter::from_fn(|| replies.next()));
            }
            assert_eq!(found, expected.map(str::as_bytes), "{at_a_time} at a time");
        }
    }
}
