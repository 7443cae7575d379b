//! Reads message content: only CRLF.CRLF ends it, dots are unstuffed, a CR or LF alone is a fault. No I/O.
//!
//! What others would take for an end of data must neither end a message here nor leave us (CVE-2023-51764 and its kin).

use memchr::{memchr2, memchr2_iter};

/// Takes content as the network cuts it.
pub struct DataReader {
    state: State,
    intake: Intake,
}

/// Why content cannot be kept. Reading goes on to its end all the same, so that the reply comes where it belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A CR without LF or a LF without CR (RFC 5321 section 2.3.8).
    BareLineEnd,
    /// More than we offered.
    TooLarge,
}

#[derive(Clone, Copy)]
enum State {
    /// Behind CRLF. The CRLF of the DATA line counts: RFC 5321 section 4.1.1.4.
    LineStart,
    /// Within a line.
    Text,
    /// Behind a CR that is not yet in the content.
    Cr,
    /// Behind a dot at the start of a line, which is not in the content.
    Dot,
    /// Behind such a dot and a CR.
    DotCr,
}

impl DataReader {
    /// `content_bytes_max`: longest content, after unstuffing.
    pub fn new(content_bytes_max: u64) -> Self {
        Self { state: State::LineStart, intake: Intake::new(content_bytes_max) }
    }

    /// Takes from `input` and appends to `content`. Returns how much it took, and whether the end was in it.
    pub fn feed(&mut self, input: &[u8], content: &mut Vec<u8>) -> (usize, bool) {
        let mut position = 0;
        while position < input.len() {
            let byte = input[position];
            match (self.state, byte) {
                (State::DotCr, b'\n') => return (position + 1, true),
                (State::Cr, b'\n') => self.step(b"\r\n", State::LineStart, content),
                (State::Cr | State::DotCr, _) => {
                    // The CR stood alone; what this byte means is decided as if within a line.
                    self.intake.refuse(Fault::BareLineEnd);
                    self.step(b"\r", State::Text, content);
                    continue;
                }
                (State::LineStart, b'.') => self.state = State::Dot,
                (State::Dot, b'\r') => self.state = State::DotCr,
                (State::LineStart | State::Text, b'\r') => self.state = State::Cr,
                (State::LineStart | State::Text | State::Dot, b'\n') => {
                    self.intake.refuse(Fault::BareLineEnd);
                    self.step(b"\n", State::Text, content);
                }
                (State::LineStart | State::Text | State::Dot, _) => {
                    let rest = &input[position..];
                    let length = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                    self.step(&rest[..length], State::Text, content);
                    position += length;
                    continue;
                }
            }
            position += 1;
        }
        (position, false)
    }

    /// Why the content that was read cannot be kept, if so.
    pub fn fault(&self) -> Option<Fault> {
        self.intake.fault
    }

    /// Bytes read so far, after unstuffing, whether kept or not.
    pub fn content_bytes(&self) -> u64 {
        self.intake.bytes
    }

    fn step(&mut self, bytes: &[u8], state: State, content: &mut Vec<u8>) {
        self.state = state;
        self.intake.take(bytes, content);
    }
}

/// Takes content that comes by BDAT, in parts of a declared length: nothing in it is an end, and its lines obey the same rule.
pub struct ChunkReader {
    /// The byte before the next one.
    last: Option<u8>,
    intake: Intake,
}

impl ChunkReader {
    /// `content_bytes_max`: longest content.
    pub fn new(content_bytes_max: u64) -> Self {
        Self { last: None, intake: Intake::new(content_bytes_max) }
    }

    /// Takes all of `input`, and appends it to `content` unless the content is faulty.
    pub fn feed(&mut self, input: &[u8], content: &mut Vec<u8>) {
        let Some((first, last)) = input.first().zip(input.last()) else { return };
        let is_torn = |at: usize| at > 0 && at < input.len() && is_bare(Some(input[at - 1]), input[at]);
        let mut ends = memchr2_iter(b'\r', b'\n', input);
        if is_bare(self.last, *first) || ends.any(|at| is_torn(at) || is_torn(at + 1)) {
            self.intake.refuse(Fault::BareLineEnd);
        }
        self.last = Some(*last);
        self.intake.take(input, content);
    }

    /// The last part has come. A content without a last line end gets one, since DATA towards the primary cannot go without.
    /// True if it did.
    pub fn finish(&mut self, content: &mut Vec<u8>) -> bool {
        if self.last == Some(b'\r') {
            self.intake.refuse(Fault::BareLineEnd);
        }
        let lacks_end = self.last.is_some_and(|last| last != b'\n') && self.fault().is_none();
        if lacks_end {
            content.extend_from_slice(b"\r\n");
        }
        lacks_end
    }

    /// As [`DataReader::fault`].
    pub fn fault(&self) -> Option<Fault> {
        self.intake.fault
    }

    /// As [`DataReader::content_bytes`].
    pub fn content_bytes(&self) -> u64 {
        self.intake.bytes
    }
}

/// A LF belongs behind a CR, and nothing else does.
fn is_bare(before: Option<u8>, byte: u8) -> bool {
    (before == Some(b'\r')) != (byte == b'\n')
}

/// Content as it is counted and kept, until something is wrong with it.
struct Intake {
    bytes: u64,
    bytes_max: u64,
    fault: Option<Fault>,
}

impl Intake {
    fn new(bytes_max: u64) -> Self {
        Self { bytes: 0, bytes_max, fault: None }
    }

    /// A CR or LF alone is told before all else: where such a content ends is in doubt (docs/adr/0010).
    fn refuse(&mut self, fault: Fault) {
        if self.fault != Some(Fault::BareLineEnd) {
            self.fault = Some(fault);
        }
    }

    fn take(&mut self, bytes: &[u8], content: &mut Vec<u8>) {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.bytes_max {
            self.refuse(Fault::TooLarge);
        }
        if self.fault.is_none() {
            content.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, PartialEq, Debug)]
    enum End {
        Whole(Vec<u8>),
        Faulty(Fault),
        Open,
    }

    /// What reading `pieces` one after the other gives, and how many bytes were left over.
    fn read(pieces: &[&[u8]], content_bytes_max: u64) -> (End, usize) {
        let (mut reader, mut content) = (DataReader::new(content_bytes_max), Vec::new());
        for (place, piece) in pieces.iter().enumerate() {
            let (taken, ended) = reader.feed(piece, &mut content);
            if ended {
                let left = piece.len() - taken + pieces[place + 1..].iter().map(|piece| piece.len()).sum::<usize>();
                return (reader.fault().map_or(End::Whole(content), End::Faulty), left);
            }
            assert_eq!(taken, piece.len());
        }
        (End::Open, 0)
    }

    #[test]
    fn only_crlf_dot_crlf_ends_the_data() {
        let whole = |content: &str| End::Whole(content.into());
        let bare = End::Faulty(Fault::BareLineEnd);
        for (sent, expected) in [
            (".\r\n", whole("")), // the CRLF of the DATA line counts: RFC 5321 section 4.1.1.4
            ("a\r\n.\r\n", whole("a\r\n")),
            ("..\r\n.\r\n", whole(".\r\n")), // the added dot goes, on the first line too: section 4.5.2
            ("a\r\n..b\r\n.\r\n", whole("a\r\n.b\r\n")),
            (".a\r\n.\r\n", whole("a\r\n")), // a dot that should have been doubled: the rule says to drop it
            ("a.\r\n.\r\n", whole("a.\r\n")),
            ("\r\n\r\n.\r\n", whole("\r\n\r\n")),
            ("a\0\x7f\r\n.\r\n", whole("a\0\x7f\r\n")),
            ("a\n.\n", End::Open),
            ("a\n.\r\n", End::Open), // a dot behind a bare LF is within a line
            ("a\n.\r\n.\r\n", bare.clone()),
            ("a\r\n.\n\r\n.\r\n", bare.clone()),
            ("a\r\n.\r\r\n\r\n.\r\n", bare.clone()),
            ("a\r.\r\r\n.\r\n", bare.clone()),
            ("a\rb\r\n.\r\n", bare.clone()),
            ("\n.\r\n.\r\n", bare.clone()),
            (".\r.\r\n.\r\n", bare.clone()),
            ("a\r\n\r.\r\n.\r\n", bare.clone()),
            ("a\r\r\n.\r\n", bare),
        ] {
            for cut in 0..=sent.len() {
                let (head, tail) = sent.as_bytes().split_at(cut); // the network may cut anywhere
                assert_eq!(read(&[head, tail], 1000), (expected.clone(), 0), "{sent:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_follows_the_end_is_left_for_the_next_command() {
        assert_eq!(read(&[b"a\r\n.\r\nQUIT\r\n"], 1000), (End::Whole(b"a\r\n".to_vec()), 6));
    }

    #[test]
    fn content_of_the_limit_passes_and_one_byte_more_does_not() {
        assert_eq!(read(&[b"12345678\r\n.\r\n"], 10).0, End::Whole(b"12345678\r\n".to_vec()));
        assert_eq!(read(&[b"123456789\r\n.\r\n"], 10).0, End::Faulty(Fault::TooLarge));
        assert_eq!(read(&[b"123456789\r\n\n.\r\n.\r\n"], 10).0, End::Faulty(Fault::BareLineEnd));
        assert_eq!(read(&[b"1\n23456789\r\n.\r\n"], 10).0, End::Faulty(Fault::BareLineEnd));
    }

    /// What reading a content in `pieces` by BDAT gives.
    fn read_chunks(pieces: &[&[u8]], content_bytes_max: u64) -> End {
        let (mut reader, mut content) = (ChunkReader::new(content_bytes_max), Vec::new());
        pieces.iter().for_each(|piece| reader.feed(piece, &mut content));
        reader.finish(&mut content);
        reader.fault().map_or(End::Whole(content), End::Faulty)
    }

    #[test]
    fn chunked_content_obeys_the_same_line_ends_and_nothing_in_it_is_an_end() {
        let whole = |content: &str| End::Whole(content.into());
        let bare = End::Faulty(Fault::BareLineEnd);
        for (sent, expected) in [
            ("", whole("")),
            ("a\r\n", whole("a\r\n")),
            ("a\r\n.\r\n.b\r\n", whole("a\r\n.\r\n.b\r\n")), // dots are dots here
            ("a", whole("a\r\n")),                           // DATA could not carry it on otherwise
            ("a\r\n\r\n", whole("a\r\n\r\n")),
            ("a\0\x7f\r\n", whole("a\0\x7f\r\n")),
            ("\n", bare.clone()),
            ("a\n", bare.clone()),
            ("a\r", bare.clone()),
            ("a\rb\r\n", bare.clone()),
            ("a\r\r\n", bare.clone()),
            ("a\r\n\n", bare.clone()),
            ("\r\n\r", bare),
        ] {
            for cut in 0..=sent.len() {
                let (head, tail) = sent.as_bytes().split_at(cut);
                assert_eq!(read_chunks(&[head, b"", tail], 1000), expected, "{sent:?} cut at {cut}");
            }
        }
        assert_eq!(read_chunks(&[b"12345678\r\n"], 10), whole("12345678\r\n"));
        assert_eq!(read_chunks(&[b"12345678", b"9\r\n"], 10), End::Faulty(Fault::TooLarge));
    }

    proptest! {
        #[test]
        fn chunks_of_any_length_give_the_same(sent in "[.\r\na]{0,40}", cuts in proptest::collection::vec(0usize..41, 0..4)) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(sent.len())).chain([0, sent.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|pair| &sent.as_bytes()[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read_chunks(&pieces, 1000), read_chunks(&[sent.as_bytes()], 1000));
        }

        #[test]
        fn fragmentation_changes_nothing(sent in "[.\r\na]{0,40}", cuts in proptest::collection::vec(0usize..41, 0..4)) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(sent.len())).chain([0, sent.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|pair| &sent.as_bytes()[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&pieces, 1000), read(&[sent.as_bytes()], 1000));
        }

        #[test]
        fn stuffed_lines_come_back_as_they_were(lines in proptest::collection::vec("[.ab]{0,5}", 0..6)) {
            let content: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let stuffed: String = lines.iter().map(|line| if line.starts_with('.') { format!(".{line}\r\n") } else { format!("{line}\r\n") }).collect();
            prop_assert_eq!(read(&[stuffed.as_bytes(), b".\r\n"], 1000).0, End::Whole(content.into_bytes()));
        }
    }
}
