//! Bodies in encodings that meet line ends, dots and 8-bit bytes in ways of their own.

use super::{Message, any_bytes, lines, message, with_body};

pub(super) fn all() -> Vec<Message> {
    [characters(), transfers()].concat()
}

fn characters() -> Vec<Message> {
    let controls: Vec<u8> = (0..32).chain([127]).filter(|byte| !b"\r\n".contains(byte)).collect();
    let upper: Vec<u8> = (128..=255).collect();
    // No unit of it holds a byte 0D or 0A, since those would be line ends to SMTP.
    let utf16: Vec<u16> = "\u{feff}Gr\u{fc}\u{df}e \u{4f60}\u{597d}\u{2029}.\u{2029}\u{1f642}".encode_utf16().collect();
    let utf16_le: Vec<u8> = utf16.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let utf16_be: Vec<u8> = utf16.iter().flat_map(|unit| unit.to_be_bytes()).collect();
    let in_charset = |name: &str, charset: &str, body: &[u8]| {
        let header = format!("MIME-Version: 1.0\r\nContent-Type: text/plain; charset={charset}\r\n\r\n");
        message(name, [header.as_bytes(), body, b"\r\n"].concat())
    };
    vec![
        with_body("latin1", b"Gr\xfc\xdfe aus K\xf6ln\r\n"),
        with_body("utf8", "Grüße, 你好, 🙂, e\u{301}\r\n"),
        with_body("broken_utf8", b"\xc3\r\n\xff\xfe\xfd \xc0\xaf \xed\xa0\x80\r\n"),
        message("byte_order_mark_first", "\u{feff}Subject: a mark\r\n\r\nbody\r\n"),
        with_body("byte_order_mark_on_each_line", "\u{feff}one\r\n\u{feff}.\r\n\u{feff}\r\n"),
        in_charset("utf16_little_endian", "utf-16", &utf16_le),
        in_charset("utf16_big_endian", "utf-16be", &utf16_be),
        in_charset("utf7", "utf-7", b"Gr+APwA3w-e +AA0ACg-.+AA0ACg- +ACY- +-"),
        // Escapes switch the set within a line; between them every byte is ASCII, dots too.
        in_charset("iso_2022_jp", "iso-2022-jp", b"\x1b$B$3$s\x1b(B\r\n.\x1b$B.!\x1b(B\r\n\x1b$B!#\x1b(J"),
        in_charset("shift_jis", "shift_jis", b"\x95\x5c\x8e\xa6 \x83\x5c\x83\x7c\r\n\x81\x2e\r\n."),
        in_charset("hz", "hz-gb-2312", b"~{<:Ky2;VpJ)HK!#~}~\r\n~~.\r\n.~"),
        in_charset("gb18030", "gb18030", b"\x84\x31\xa4\x37\xc4\xe3\xba\xc3\r\n\x81\x30\x81\x30"),
        // NEL, FS, GS, RS, VT, FF and the separators of Unicode: some languages' line ends, no lines of SMTP.
        with_body(
            "line_ends_of_others",
            "a\u{85}.\u{85}b\x0b.\x0bc\x0c.\x0cd\x1c.\x1d.\x1ee\u{2028}.\u{2028}f\u{2029}.\u{2029}\r\n",
        ),
        with_body("line_ends_in_8_bit", b"a\x8d\x8a.\x8d\x8ab\x85.\x85c\xc0\x8d\xc0\x8a.\xc0\x8d\xc0\x8a\r\n"),
        with_body("written_from_right_to_left", "\u{202e}gpj.exe\u{202c} \u{200f}.\r\n\u{200b}.\r\n\u{ad}\r\n"),
        with_body("nul", b"before\0after\r\n\0\r\n\0\0\0\r\n"),
        with_body("nul_and_dots", b"\0.\r\n.\0\r\n.\0.\r\n\0\r\n..\0\r\n"),
        with_body("nothing_but_nul", [vec![0; 10_000], b"\r\n".to_vec()].concat()),
        with_body("every_control_character", [&controls, &b"\r\n"[..]].concat()),
        with_body(
            "every_control_character_before_a_dot",
            controls.iter().flat_map(|c| [*c, b'.', b'\r', b'\n']).collect::<Vec<_>>(),
        ),
        with_body(
            "every_control_character_behind_a_dot",
            controls.iter().flat_map(|c| [b'.', *c, b'\r', b'\n']).collect::<Vec<_>>(),
        ),
        with_body("every_8_bit_character", [&upper, &b"\r\n"[..]].concat()),
        with_body("every_8_bit_character_on_a_line", upper.iter().flat_map(|c| [*c, b'\r', b'\n']).collect::<Vec<_>>()),
        with_body("telnet_commands", b"\xff\xff\xff\xf4\xff\xfd\x06 \xff\xf9.\xff\xec\r\n\xff\r\n"),
        with_body("end_of_file_marks", "a\x1a\r\nb\r\n\x1a\r\n\x04\r\nc\r\n"),
        with_body("escape_sequences", "\u{1b}[31mred\u{1b}[0m\u{8}\u{7f}\r\n"),
        with_body("struck_over", "_\x08u_\x08n bb\x08b\x0c\r\nform\x0cfeed\r\n"),
        with_body("any_bytes", any_bytes(60_000)),
    ]
}

fn transfers() -> Vec<Message> {
    let base64 = "QmFja3VwTXgga2VlcHMgbWFpbCB3aGlsZSBhIHByaW1hcnkgc2VydmVyIGlzIGF3YXkuLi4=";
    let encoded = |name: &str, encoding: &str, body: &str| {
        message(name, format!("MIME-Version: 1.0\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n{body}"))
    };
    // The length of a line of uuencode is its first character: 14 bytes make a line that begins with a dot.
    let uuencode = lines([
        "begin 644 file",
        "M0F%C:W5P37@@:V5E<',@;6%I;\"!W:&EL92!A('!R:6UA<GD@<V5R=F5R(&ES",
        ".86)C9&5F9VAI:FML;6X ",
        "`",
        "end",
    ]);
    vec![
        encoded("base64_of_1_mb", "base64", &format!("{base64}\r\n").repeat(1_000_000 / (base64.len() + 2))),
        encoded("base64_of_100_kb_on_one_line", "base64", &format!("{}\r\n", &base64[..72].repeat(100_000 / 72))),
        encoded("base64_with_odd_lines", "base64", "QQ\r\n==QUI=\r\n\r\n QUJD\t\r\n!QUJD-_\r\n.QUJD\r\n=\r\n"),
        encoded(
            "soft_breaks",
            "quoted-printable",
            "a=\r\n.=\r\n.\r\n=\r\n=\r\n.=20\r\n=2E\r\nb = \r\nc=\t\r\n=0D=0A.=0D=0A\r\nGr=c3=BC=C3\r\n=\r\n",
        ),
        encoded(
            "quoted_printable_gone_wrong",
            "quoted-printable",
            &format!("=\r\n=G1 =1 == =\r\nblanks at the end \t\r\nGrüße\r\n{}=\r\nx=\r\n", "=3D".repeat(400)),
        ),
        with_body("uuencode", &uuencode),
        with_body("yenc", b"=ybegin line=128 size=8 name=x\r\n..=J=M\xd3\xff=}=@\x80\r\n.=n\r\n=yend size=8\r\n"),
        with_body("binhex", "(This file must be converted with BinHex 4.0)\r\n\r\n:$f*TEQKPH#jdCA0d,R0TG!\"\r\n:\r\n"),
        with_body(
            "diff",
            "--- a\r\n+++ b\r\n@@ -1,2 +1,2 @@\r\n-.\r\n+..\r\n \r\n \t \r\n\\ No newline at end of file\r\n-- \r\n2.0\r\n",
        ),
        with_body("troff", ".TH X 1\r\n.\\\" remark\r\n'\\\" another\r\n.\r\n..\r\n.ds x \r\n"),
    ]
}
