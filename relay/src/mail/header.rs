//! Reads along a message's header as it comes in, and counts where it has been. It changes nothing. No I/O.

use memchr::memchr;

use super::trace;

/// Where a message has been, by its `Received` fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Trail {
    /// How many there are.
    pub received: u32,
    /// How many are ours.
    pub own: u32,
}

/// Reads content in pieces, up to the empty line behind the header.
pub struct HeaderReader {
    /// How our own fields say who wrote them.
    mark: Vec<u8>,
    state: State,
    /// The start of the line, or of the `Received` field, that is read.
    text: Vec<u8>,
    trail: Trail,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the first bytes of a line: what they begin is not known yet.
    LineStart,
    /// In a `Received` field, which may go on in the next line.
    Received,
    /// At the start of a line behind such a field.
    Folding,
    /// In a line of no interest.
    Other,
    /// Behind the header.
    Body,
}

const NAME: &[u8] = b"received:";
/// The part of a field in which our mark must stand: ours has it within 600 bytes, however long the client's names are.
const FIELD_BYTES_MAX: usize = 2048;

impl HeaderReader {
    /// `hostname`: our own.
    pub fn new(hostname: &str) -> Self {
        let mark = trace::mark(hostname).to_ascii_lowercase().into_bytes();
        Self { mark, state: State::LineStart, text: Vec::new(), trail: Trail::default() }
    }

    /// What was found so far; a field that is open counts.
    pub fn trail(&self) -> Trail {
        let mut trail = self.trail;
        if matches!(self.state, State::Received | State::Folding) {
            trail.own += u32::from(self.is_own());
        }
        trail
    }

    /// Takes the next piece, of whatever length.
    pub fn feed(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while let Some(first) = rest.first() {
            rest = match self.state {
                State::Body => return,
                State::Other => match memchr(b'\n', rest) {
                    Some(end) => self.begin_line(&rest[end + 1..]),
                    None => return,
                },
                State::LineStart => self.line_start(*first, rest),
                State::Received => self.received(rest),
                State::Folding => {
                    if matches!(first, b' ' | b'\t') {
                        self.state = State::Received;
                    } else {
                        self.end_field();
                    }
                    rest
                }
            };
        }
    }

    fn begin_line<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        self.state = State::LineStart;
        self.text.clear();
        rest
    }

    fn line_start<'a>(&mut self, first: u8, rest: &'a [u8]) -> &'a [u8] {
        let place = self.text.len();
        if place == 0 && matches!(first, b'\r' | b'\n') {
            self.state = State::Body;
        } else if first.to_ascii_lowercase() != NAME[place] {
            self.state = State::Other;
            return rest; // it may be the end of the line
        } else {
            self.text.push(first);
            if self.text.len() == NAME.len() {
                self.trail.received += 1;
                self.state = State::Received;
                self.text.clear();
            }
        }
        &rest[1..]
    }

    fn received<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let end = memchr(b'\n', rest);
        let line = &rest[..end.unwrap_or(rest.len())];
        for byte in line {
            // Others may fold a field anew: any run of blanks is one.
            let byte = if byte.is_ascii_whitespace() { b' ' } else { byte.to_ascii_lowercase() };
            if self.text.len() < FIELD_BYTES_MAX && !(byte == b' ' && self.text.last() == Some(&b' ')) {
                self.text.push(byte);
            }
        }
        match end {
            Some(end) => {
                self.state = State::Folding;
                &rest[end + 1..]
            }
            None => &[],
        }
    }

    fn end_field(&mut self) {
        self.trail.own += u32::from(self.is_own());
        self.begin_line(&[]);
    }

    fn is_own(&self) -> bool {
        memchr::memmem::find(&self.text, &self.mark).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(pieces: &[&[u8]]) -> Trail {
        let mut reader = HeaderReader::new("mx2.example.org");
        pieces.iter().for_each(|piece| reader.feed(piece));
        reader.trail()
    }

    #[test]
    fn received_fields_of_the_header_are_counted_however_it_is_cut() {
        const OWN: &str = "Received: from a ([192.0.2.1])\r\n\tby MX2.example.org (BackupMx) with ESMTP id 01\r\n\tfor <b@c>; today\r\n";
        for (content, received, own) in [
            (String::new(), 0, 0),
            ("Received:".into(), 1, 0),
            ("RECEIVED: x\r\nreceived:y\r\nReceived : z\r\nReceivedX: w\r\n\r\n".into(), 2, 0),
            (format!("{OWN}Subject: x\r\n\r\n{OWN}"), 1, 1),
            (format!("Subject: x\r\n Received: folded\r\n{OWN}{OWN}"), 2, 2),
            (format!("\r\n{OWN}"), 0, 0), // the header is empty
            (OWN.trim_end().to_owned(), 1, 1),
            (OWN.replace(' ', "\r\n  "), 1, 1), // folded anew on its way
            ("Received: by xmx2.example.org (BackupMx) with\r\n\r\n".into(), 1, 0),
            ("Received: by mx2.example.org (Postfix)\r\nX: by mx2.example.org (BackupMx) with\r\n\r\n".into(), 1, 0),
            (format!("Received: {} by mx2.example.org (BackupMx) with", "x".repeat(5000)), 1, 0),
        ] {
            let bytes = content.as_bytes();
            for cut in 0..=bytes.len() {
                let (head, tail) = bytes.split_at(cut);
                assert_eq!(trail(&[head, tail]), Trail { received, own }, "{content:?} cut at {cut}");
            }
        }
    }
}
