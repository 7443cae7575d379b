//! Content as it goes over the wire: by DATA with its dots doubled, or by BDAT as it is. No I/O.

use memchr::memmem;

/// A usual message goes out in one write with its final dot; a large one in pieces of this size at least.
const WRITE_BYTES: usize = 64 << 10;
/// The line end that the content got here, and one byte: by BDAT the last byte ends the message, so it may go out only when all was
/// read and found good.
const HELD_BACK_BYTES: usize = 3;
const LINE_END: &[u8] = b"\r\n";

/// Content on its way out.
pub struct Outgoing {
    form: Form,
    output: Vec<u8>,
    /// What was pushed.
    bytes: u64,
}

enum Form {
    Data(Stuffer),
    /// How long the content is, with the line end that it got here.
    Bdat(u64),
}

/// The content is not as long as was said: it must not be completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrongLength;

impl Outgoing {
    /// By DATA: for the time after its 354.
    pub fn data() -> Self {
        Self { form: Form::Data(Stuffer::default()), output: Vec::with_capacity(16 << 10), bytes: 0 }
    }

    /// By BDAT, command included (RFC 3030 section 2). `bytes`: with the line end that the content got here, which stays here.
    pub fn bdat(bytes: u64) -> Self {
        let command = format!("BDAT {} LAST\r\n", bytes.saturating_sub(LINE_END.len() as u64));
        Self { form: Form::Bdat(bytes), output: command.into_bytes(), bytes: 0 }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), WrongLength> {
        self.bytes += piece.len() as u64;
        match &mut self.form {
            Form::Data(stuffer) => stuffer.push(piece, &mut self.output),
            // What is too long would be read as commands.
            Form::Bdat(bytes) if self.bytes > *bytes => return Err(WrongLength),
            Form::Bdat(_) => self.output.extend_from_slice(piece),
        }
        Ok(())
    }

    /// What should go out before more is pushed.
    pub fn piece(&mut self) -> Option<Vec<u8>> {
        if self.output.len() < WRITE_BYTES {
            return None;
        }
        let rest = self.output.split_off(self.output.len() - HELD_BACK_BYTES);
        Some(std::mem::replace(&mut self.output, rest))
    }

    /// What may go out by now, however little it is, for content that is still coming in.
    pub fn ready(&self) -> &[u8] {
        let held_back_bytes = match self.form {
            Form::Data(_) => 0, // only the final dot completes it
            Form::Bdat(_) => HELD_BACK_BYTES,
        };
        &self.output[..self.output.len().saturating_sub(held_back_bytes)]
    }

    /// So much of it went out.
    pub fn sent(&mut self, bytes: usize) {
        self.output.drain(..bytes);
    }

    /// The rest, which completes the message.
    pub fn end(mut self) -> Result<Vec<u8>, WrongLength> {
        match self.form {
            Form::Data(stuffer) => {
                stuffer.end(&mut self.output);
                self.output.extend_from_slice(b".\r\n");
            }
            Form::Bdat(bytes) if self.bytes == bytes && bytes > 2 && self.output.ends_with(LINE_END) => {
                self.output.truncate(self.output.len() - LINE_END.len());
            }
            Form::Bdat(_) => return Err(WrongLength),
        }
        Ok(self.output)
    }
}

/// Doubles dots at the starts of lines (RFC 5321 section 4.5.2), however the content is cut.
#[derive(Default)]
struct Stuffer {
    within_line: bool,
    after_cr: bool,
}

impl Stuffer {
    fn push(&mut self, piece: &[u8], output: &mut Vec<u8>) {
        if !self.within_line && piece.first() == Some(&b'.') {
            output.push(b'.');
        }
        let mut copied = 0;
        for line_end in memmem::find_iter(piece, b"\n.") {
            output.extend_from_slice(&piece[copied..=line_end]);
            output.push(b'.');
            copied = line_end + 1;
        }
        output.extend_from_slice(&piece[copied..]);
        if let Some(last) = piece.last() {
            (self.within_line, self.after_cr) = (*last != b'\n', *last == b'\r');
        }
    }

    /// The final dot needs a line of its own.
    fn end(&self, output: &mut Vec<u8>) {
        match (self.within_line, self.after_cr) {
            (false, _) => {}
            (true, false) => output.extend_from_slice(b"\r\n"),
            (true, true) => output.push(b'\n'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(mut outgoing: Outgoing, pieces: &[&[u8]]) -> Result<Vec<u8>, WrongLength> {
        let mut sent = Vec::new();
        for piece in pieces {
            sent.extend(outgoing.piece().unwrap_or_default());
            outgoing.push(piece)?;
        }
        sent.extend(outgoing.end()?);
        Ok(sent)
    }

    #[test]
    fn dots_are_doubled_at_line_starts_however_the_content_is_cut() {
        for (content, expected) in [
            ("", ".\r\n"),
            (".\r\n", "..\r\n.\r\n"),
            ("a\r\n.b\r\n..\r\nc.\r\n", "a\r\n..b\r\n...\r\nc.\r\n.\r\n"),
            ("\r\n.\r\n\r\n", "\r\n..\r\n\r\n.\r\n"),
            ("no line end", "no line end\r\n.\r\n"),
        ] {
            for cut in 0..=content.len() {
                let (head, tail) = content.as_bytes().split_at(cut);
                let sent = sent(Outgoing::data(), &[head, tail]).unwrap();
                assert_eq!(sent, expected.as_bytes(), "{content:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn by_bdat_the_line_end_that_was_added_stays_here_and_dots_are_as_they_were() {
        let content = b"a\r\n.\r\n.b\r\n";
        for cut in 0..=content.len() {
            let (head, tail) = content.split_at(cut);
            let sent = sent(Outgoing::bdat(content.len() as u64), &[head, tail]).unwrap();
            assert_eq!(sent, b"BDAT 8 LAST\r\na\r\n.\r\n.b", "cut at {cut}");
        }
    }

    #[test]
    fn content_of_another_length_is_not_completed() {
        for (said, content) in [(5, &b"abc\r\nx"[..]), (5, b"ab\r\n"), (5, b"abcde"), (2, b"\r\n"), (0, b"")] {
            assert_eq!(sent(Outgoing::bdat(said), &[content]), Err(WrongLength), "{said} {content:?}");
        }
    }

    #[test]
    fn the_last_byte_waits_until_all_was_read() {
        let content = [vec![b'x'; 3 * WRITE_BYTES], b"\r\n".to_vec()].concat();
        let mut outgoing = Outgoing::bdat(content.len() as u64);
        let (head, tail) = content.split_at(3 * WRITE_BYTES);
        outgoing.push(head).unwrap();
        let mut sent = outgoing.piece().unwrap();
        outgoing.push(tail).unwrap();
        sent.extend(outgoing.piece().unwrap_or_default());
        let command = format!("BDAT {} LAST\r\n", 3 * WRITE_BYTES);
        assert!(sent.len() < command.len() + 3 * WRITE_BYTES);
        sent.extend(outgoing.end().unwrap());
        assert_eq!(sent, [command.as_bytes(), &content[..3 * WRITE_BYTES]].concat());
    }
}
