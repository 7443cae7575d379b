//! SMTP dialogues as files: what a client says, and how each reply must begin.
//!
//! | line begins with | means |
//! |---|---|
//! | `#` | a remark |
//! | `C: ` | the client says this line; CRLF is added |
//! | `R: ` | the client sends these bytes as they are; `\r \n \0 \\ \xHH`, and `\{1000*text}` for text so often |
//! | `S: ` | one reply must come, of one line or more, and its first line begins like this |
//! | `X:` | the server closes the connection, saying nothing more |

use std::{fs, io, net::SocketAddr, path::Path};

use crate::client::Client;

/// Plays the dialogue in `file` against a server, on a connection of its own. An error names file, line and difference.
pub fn play(file: &Path, server: SocketAddr) -> Result<(), String> {
    let text = fs::read_to_string(file).map_err(|error| format!("read {}: {error}", file.display()))?;
    let mut client = Client::connect(server).map_err(|error| format!("connect to {server}: {error}"))?;
    for (number, line) in text.lines().enumerate() {
        step(&mut client, line)
            .map_err(|difference| format!("{}:{}: {line}\n  {difference}", file.display(), number + 1))?;
    }
    Ok(())
}

fn step(client: &mut Client, line: &str) -> Result<(), String> {
    let heard = |error: io::Error| format!("no reply came: {error}");
    match line.split_at_checked(2) {
        None if line.is_empty() => Ok(()),
        Some(("C:", text)) => {
            let text = text.strip_prefix(' ').unwrap_or(text);
            client.raw(format!("{text}\r\n").as_bytes()).map_err(|error| format!("say: {error}"))
        }
        Some(("R:", text)) => {
            let bytes = unescaped(text.strip_prefix(' ').unwrap_or(text).as_bytes())?;
            client.raw(&bytes).map_err(|error| format!("send: {error}"))
        }
        Some(("S:", start)) => {
            let reply = client.reply().map_err(heard)?;
            if reply.is(start.trim()) { Ok(()) } else { Err(format!("the reply was: {reply}")) }
        }
        Some(("X:", _)) if client.is_closed() => Ok(()),
        Some(("X:", _)) => Err("the connection was not closed".to_owned()),
        _ if line.starts_with('#') => Ok(()),
        _ => Err("no line of a dialogue".to_owned()),
    }
}

fn unescaped(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first != b'\\' {
            bytes.push(first);
            continue;
        }
        let (&kind, behind) = rest.split_first().ok_or("a backslash at the end")?;
        rest = behind;
        match kind {
            b'r' => bytes.push(b'\r'),
            b'n' => bytes.push(b'\n'),
            b'0' => bytes.push(0),
            b'\\' => bytes.push(b'\\'),
            b'x' => {
                let (digits, behind) = rest.split_at_checked(2).ok_or("\\x wants two digits")?;
                bytes.push(number(digits, 16)? as u8);
                rest = behind;
            }
            b'{' => {
                let end = memchr::memchr(b'}', rest).ok_or("\\{ wants a }")?;
                let star = memchr::memchr(b'*', &rest[..end]).ok_or("\\{ wants a *")?;
                let repeated = unescaped(&rest[star + 1..end])?;
                bytes.extend(repeated.repeat(number(&rest[..star], 10)?));
                rest = &rest[end + 1..];
            }
            other => return Err(format!("unknown escape \\{}", other.escape_ascii())),
        }
    }
    Ok(bytes)
}

fn number(digits: &[u8], radix: u32) -> Result<usize, String> {
    let text = String::from_utf8_lossy(digits);
    usize::from_str_radix(&text, radix).map_err(|error| format!("{text}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::unescaped;

    #[test]
    fn escapes_stand_for_their_bytes() {
        for (text, bytes) in [
            (r"a\r\n", &b"a\r\n"[..]),
            (r"\0\xff\\", b"\0\xff\\"),
            (r"\{3*ab}c", b"abababc"),
            (r"\{2*\x41\n}", b"A\nA\n"),
        ] {
            assert_eq!(unescaped(text.as_bytes()).as_deref(), Ok(bytes), "{text}");
        }
        for text in [r"\", r"\q", r"\x1", r"\{3ab}", r"\{3*ab"] {
            assert!(unescaped(text.as_bytes()).is_err(), "{text}");
        }
    }
}
