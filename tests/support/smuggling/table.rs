//! The table of imitations.

use super::Imitation;
use crate::reading::has_end_of_data;

/// Everything that somebody takes for the end of a line.
const LINE_ENDS: [(&str, &[u8]); 8] = [
    ("CRLF", b"\r\n"),
    ("LF", b"\n"),
    ("CR", b"\r"),
    ("LF CR", b"\n\r"),
    ("CR CRLF", b"\r\r\n"),
    ("LF LF", b"\n\n"),
    ("CR CR", b"\r\r"),
    ("CR NUL LF", b"\r\0\n"),
];

/// Something behind the dot or in place of it, on a line of its own.
const LINES: [(&str, &[u8]); 63] = [
    ("two dots", b".."),
    ("three dots", b"..."),
    ("dot, blank", b". "),
    ("dot, two blanks", b".  "),
    ("dot, tab", b".\t"),
    ("dot, NUL", b".\0"),
    ("dot, two NUL", b".\0\0"),
    ("dot, VT", b".\x0b"),
    ("dot, FF", b".\x0c"),
    ("dot, backspace", b".\x08"),
    ("dot, escape", b".\x1b"),
    ("dot, end of file", b".\x1a"),
    ("dot, end of transmission", b".\x04"),
    ("dot, DEL", b".\x7f"),
    ("dot, NEL", b".\x85"),
    ("dot, NEL in UTF-8", b".\xc2\x85"),
    ("dot, no-break space", b".\xa0"),
    ("dot, no-break space in UTF-8", b".\xc2\xa0"),
    ("dot, line separator", b".\xe2\x80\xa8"),
    ("dot, paragraph separator", b".\xe2\x80\xa9"),
    ("dot, zero-width space", b".\xe2\x80\x8b"),
    ("dot, byte order mark", b".\xef\xbb\xbf"),
    ("dot, soft hyphen", b".\xc2\xad"),
    ("dot, telnet's escape", b".\xff"),
    ("dot, letter", b".x"),
    ("dot, backslash", b".\\"),
    ("dot, semicolon", b".;"),
    ("dot, equals sign", b".="),
    ("dot, command", b".QUIT"),
    ("dot, blank, command", b". RSET"),
    ("dot, NUL, dot", b".\0."),
    ("dot, blank, dot", b". ."),
    ("blank, dot", b" ."),
    ("tab, dot", b"\t."),
    ("NUL, dot", b"\0."),
    ("two NUL, dot", b"\0\0."),
    ("NUL, dot, NUL, as UTF-16 has it", b"\0.\0"),
    ("VT, dot", b"\x0b."),
    ("FF, dot", b"\x0c."),
    ("backspace, dot", b"\x08."),
    ("letter, backspace, dot", b"x\x08."),
    ("DEL, dot", b"\x7f."),
    ("escape, dot", b"\x1b."),
    ("NEL, dot", b"\x85."),
    ("NEL in UTF-8, dot", b"\xc2\x85."),
    ("no-break space, dot", b"\xa0."),
    ("no-break space in UTF-8, dot", b"\xc2\xa0."),
    ("zero-width space, dot", b"\xe2\x80\x8b."),
    ("byte order mark, dot", b"\xef\xbb\xbf."),
    ("telnet's escape, dot", b"\xff."),
    ("quoting mark, dot", b">."),
    ("backslash, dot", b"\\."),
    ("dot in quotes", b"\".\""),
    ("dot with bit 8", b"\xae"),
    ("dot in overlong UTF-8", b"\xc0\xae"),
    ("dot in quoted-printable", b"=2E"),
    ("one dot leader", b"\xe2\x80\xa4"),
    ("full-width full stop", b"\xef\xbc\x8e"),
    ("half-width full stop", b"\xef\xbd\xa1"),
    ("ideographic full stop", b"\xe3\x80\x82"),
    ("middle dot", b"\xb7"),
    ("dot with an accent", b".\xcc\x81"),
    ("nothing", b""),
];

/// What only becomes line ends by somebody's decoding, on both sides of a dot.
const BETWEEN: [(&str, &[u8]); 24] = [
    ("NEL", b"\x85"),
    ("NEL in UTF-8", b"\xc2\x85"),
    ("line separators", b"\xe2\x80\xa8"),
    ("paragraph separators", b"\xe2\x80\xa9"),
    ("VT", b"\x0b"),
    ("FF", b"\x0c"),
    ("file separators", b"\x1c"),
    ("group separators", b"\x1d"),
    ("record separators", b"\x1e"),
    ("EBCDIC's line ends", b"\x15"),
    ("NUL", b"\0"),
    ("CRLF with bit 8", b"\x8d\x8a"),
    ("CRLF in overlong UTF-8", b"\xc0\x8d\xc0\x8a"),
    // Their low bytes are CR and LF, which is what is left where characters are cut to bytes.
    ("U+010D U+010A", b"\xc4\x8d\xc4\x8a"),
    ("U+560D U+560A", b"\xe5\x98\x8d\xe5\x98\x8a"),
    ("CRLF in quoted-printable", b"=0D=0A"),
    ("CRLF in percents", b"%0d%0a"),
    ("CRLF in C", b"\\r\\n"),
    ("CRLF in HTML", b"&#13;&#10;"),
    ("CRLF in carets", b"^M^J"),
    ("CRLF in UTF-7", b"+AA0ACg-"),
    ("soft breaks", b"=\r\n"),
    ("CRLF in UTF-16", b"\0\r\0\n"),
    ("CRLF in UTF-16, the other way", b"\r\0\n\0"),
];

/// Pairs and near misses that the lists above do not make.
const OTHERS: [(&str, &[u8]); 16] = [
    ("CRLF CR . CRLF", b"\r\n\r.\r\n"),
    ("CRLF LF . CRLF", b"\r\n\n.\r\n"),
    ("CRLF . LF CRLF", b"\r\n.\n\r\n"),
    ("CRLF . CR NUL LF NUL", b"\r\n.\r\0\n\0"),
    ("CRLF NUL . LF", b"\r\n\0.\n"),
    ("CRLF NUL . CR", b"\r\n\0.\r"),
    ("CRLF . NUL LF", b"\r\n.\0\n"),
    ("CRLF . NUL CR", b"\r\n.\0\r"),
    ("LF NUL . NUL LF", b"\n\0.\0\n"),
    ("CRLF . CR blank LF", b"\r\n.\r \n"),
    ("CR blank LF . CR blank LF", b"\r \n.\r \n"),
    ("CRLF . CR backspace LF", b"\r\n.\r\x08\n"),
    ("CRLF . CR . CRLF", b"\r\n.\r.\r\n"),
    ("LF . LF . LF", b"\n.\n.\n"),
    ("LF .. LF", b"\n..\n"),
    ("CRLF .. CR", b"\r\n..\r"),
];

/// All of them, each with bytes and name of its own.
pub fn imitations() -> Vec<Imitation> {
    let imitation = |name: String, parts: &[&[u8]]| Imitation { name, bytes: parts.concat() };
    let pairs = LINE_ENDS.iter().flat_map(|(before_name, before)| {
        LINE_ENDS.iter().map(move |(name, end)| imitation(format!("{before_name} . {name}"), &[before, b".", end]))
    });
    let lines = LINES.iter().map(|(name, line)| imitation(format!("CRLF {name} CRLF"), &[b"\r\n", line, b"\r\n"]));
    let between = BETWEEN.iter().map(|(name, end)| imitation(format!("dot between {name}"), &[end, b".", end]));
    let others = OTHERS.iter().map(|(name, bytes)| imitation((*name).to_owned(), &[bytes]));
    // CRLF CRLF is the real end, and so is CR CRLF . CRLF, in which the first CR is content.
    let is_none = |imitation: &Imitation| !has_end_of_data(&[b"x", &*imitation.bytes].concat());
    pairs.chain(lines).chain(between).chain(others).filter(is_none).collect()
}
