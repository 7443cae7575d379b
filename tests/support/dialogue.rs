//! SMTP dialogues as files: what a client says, and how each reply must begin.
//!
//! | line begins with | means |
//! |---|---|
//! | `#` | a remark; so is an empty line |
//! | `C: ` | the client says this line; CRLF is added |
//! | `R: ` | the client sends these bytes as they are; `\r \n \0 \\ \xHH`, and `\{1000*text}` for text so often |
//! | `F: ` | as `R:`, but each byte in a TCP segment of its own |
//! | `P: ` | the client pauses, for instance `P: 300ms` |
//! | `T:` | the client does a TLS handshake, which must succeed, and all that follows is encrypted; a name behind it is the one that the client asks for (SNI), else it is the relay's |
//! | `V:` | the client vanishes: the connection is reset; nothing can follow |
//! | `S: ` | one reply must come, of one line or more, and its first line begins like this; an enhanced code that stands here stands on all its lines |
//! | `M: ` | as many replies must come, one after the other, all as with `S:`, for instance `M: 19 500 5.5.1` |
//! | `L: ` | the last reply has a line that begins like this, its code not counted, for instance `L: SIZE 65536` |
//! | `N: ` | the last reply has no such line |
//! | `X:` | the server closes the connection, saying nothing more; `X: at last`, whatever it says before |
//!
//! A dialogue waits up to ten seconds for a reply, and is to take less than two.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use crate::{
    HOSTNAME, certificate,
    client::{Client, Reply},
};

/// For a reply. Long enough for a busy machine.
const REPLY_LIMIT: Duration = Duration::from_secs(10);
/// Dialogues that are played at the same time: most of them wait for the disk or for a pause.
const AT_ONCE: usize = 8;
/// Digits and dots of an enhanced code with the reply code before it: `250 2.0.0 `.
const CODES_LENGTH: usize = "250 2.0.0 ".len();

/// A dialogue as its file has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dialogue {
    /// Where it stands.
    pub file: PathBuf,
    /// Its lines, remarks left out.
    pub steps: Vec<Step>,
}

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Its number in the file, from 1.
    pub number: usize,
    /// How it stands there.
    pub text: String,
    /// What it means.
    pub act: Act,
}

/// What a line means; the table above tells more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    /// `C:` and `R:`.
    Send(Vec<u8>),
    /// `F:`.
    SendFragments(Vec<u8>),
    /// `P:`.
    Pause(Duration),
    /// `T:`, with the name that is asked for.
    Handshake(String),
    /// `V:`.
    Vanish,
    /// `S:`, and each of those that `M:` stands for.
    Hear(String),
    /// `L:`.
    Has(String),
    /// `N:`.
    HasNot(String),
    /// `X:`.
    Closed {
        /// Whatever it says before.
        at_last: bool,
    },
}

/// The dialogues in this folder below `tests`, in the order of their names; those of its sub-folders are not among them.
pub fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(folder).expect("the dialogues are there");
    let paths = entries.map(|entry| entry.expect("a folder can be listed").path());
    let mut files: Vec<_> = paths.filter(|path| path.extension().is_some_and(|ending| ending == "smtp")).collect();
    files.sort();
    assert!(!files.is_empty(), "there are dialogues");
    files
}

/// Plays the dialogue in `file` against a server, on a connection of its own. Returns the replies. An error names file,
/// line and difference.
pub fn play(file: &Path, server: SocketAddr) -> Result<Vec<Reply>, String> {
    let Dialogue { steps, .. } = Dialogue::read(file)?;
    let mut player = Player::connect(server, REPLY_LIMIT)?;
    let mut replies = Vec::new();
    for Step { number, text, act } in &steps {
        let heard = player.step(act).map_err(|error| format!("{}:{number}: {text}\n  {error}", file.display()))?;
        replies.extend(heard);
    }
    Ok(replies)
}

/// Does this for all files, for some of them at the same time. Returns the results in the order of the files.
pub fn for_all<T: Send>(files: &[PathBuf], doing: impl Fn(&Path) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((file, doing(file)));
        }
        done
    };
    let mut done: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("playing does not panic")).collect()
    });
    done.sort_by_key(|(file, _)| *file);
    done.into_iter().map(|(_, result)| result).collect()
}

impl Dialogue {
    /// Reads a file. An error names the line that is none of a dialogue.
    pub fn read(file: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(file).map_err(|error| format!("read {}: {error}", file.display()))?;
        let mut steps = Vec::new();
        for (place, text) in text.lines().enumerate() {
            let (number, text) = (place + 1, text.to_owned());
            let acts = acts(&text).map_err(|error| format!("{}:{number}: {text}\n  {error}", file.display()))?;
            steps.extend(acts.into_iter().map(|act| Step { number, text: text.clone(), act }));
        }
        Ok(Self { file: file.to_owned(), steps })
    }

    /// Its name: that of the file, without its ending.
    pub fn name(&self) -> String {
        self.file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// The client of one dialogue.
pub struct Player {
    /// `None` once it has vanished.
    client: Option<Client>,
    last: Option<Reply>,
}

impl Player {
    /// Connects; the greeting is still to be heard. It waits for each reply no longer than `limit`.
    pub fn connect(server: SocketAddr, limit: Duration) -> Result<Self, String> {
        let client =
            Client::connect_patiently(server, limit).map_err(|error| format!("connect to {server}: {error}"))?;
        Ok(Self { client: Some(client), last: None })
    }

    /// Does what one line says, and returns the reply if one was to come and is as it must be. An error says how it was
    /// otherwise.
    pub fn step(&mut self, act: &Act) -> Result<Option<Reply>, String> {
        match act {
            Act::Hear(start) => {
                let reply = self.hear().map_err(|error| format!("no reply came: {error}"))?;
                return if is_as_said(&reply, start) {
                    Ok(Some(reply))
                } else {
                    Err(format!("the reply was: {reply}"))
                };
            }
            Act::Has(start) if !self.last_has(start)? => {
                Err(format!("the last reply has no such line: {:?}", self.last))
            }
            Act::HasNot(start) if self.last_has(start)? => {
                Err(format!("the last reply has such a line: {:?}", self.last))
            }
            Act::Has(_) | Act::HasNot(_) => Ok(()),
            Act::Closed { at_last: false } if self.client()?.is_closed() => Ok(()),
            Act::Closed { at_last: true } if self.client()?.is_closed_at_last() => Ok(()),
            Act::Closed { .. } => Err("the connection was not closed".to_owned()),
            _ => self.act(act),
        }
        .map(|()| None)
    }

    /// What the client does by itself.
    pub fn act(&mut self, act: &Act) -> Result<(), String> {
        match act {
            Act::Send(bytes) => sent(self.client()?.raw(bytes)),
            Act::SendFragments(bytes) => sent(self.client()?.fragments(bytes)),
            Act::Pause(time) => {
                thread::sleep(*time);
                Ok(())
            }
            Act::Handshake(name) => {
                let done = self.client()?.start_tls(name, certificate::trust_any());
                done.map_err(|error| format!("TLS handshake: {error}"))
            }
            Act::Vanish => match self.client.take() {
                Some(client) => client.vanish().map_err(|error| format!("vanish: {error}")),
                None => Err("the client has vanished already".to_owned()),
            },
            Act::Hear(_) | Act::Has(_) | Act::HasNot(_) | Act::Closed { .. } => Ok(()),
        }
    }

    /// One reply, whatever it is.
    pub fn hear(&mut self) -> io::Result<Reply> {
        let reply = self.client().map_err(io::Error::other)?.reply()?;
        Ok(self.last.insert(reply).clone())
    }

    fn client(&mut self) -> Result<&mut Client, String> {
        self.client.as_mut().ok_or_else(|| "the client has vanished".to_owned())
    }

    fn last_has(&self, start: &str) -> Result<bool, String> {
        let last = self.last.as_ref().ok_or("no reply has come yet")?;
        Ok(last.lines.iter().any(|line| line.starts_with(start)))
    }
}

/// A server may close while we speak; what it said before that is still to be heard.
fn sent(outcome: io::Result<()>) -> Result<(), String> {
    match outcome {
        Err(error) if !matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            Err(format!("send: {error}"))
        }
        _ => Ok(()),
    }
}

/// Whether a reply begins like this. RFC 2034 section 3: in a reply of several lines each carries the enhanced code.
fn is_as_said(reply: &Reply, start: &str) -> bool {
    let said = format!("{start} ");
    let enhanced = said.get(4..CODES_LENGTH).filter(|code| code.starts_with(|class: char| class.is_ascii_digit()));
    reply.is(start) && enhanced.is_none_or(|code| reply.lines.iter().all(|line| line.starts_with(code)))
}

/// What one line means: nothing, one thing, or as many replies as `M:` says.
fn acts(line: &str) -> Result<Vec<Act>, String> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(Vec::new());
    }
    let (kind, text) = line.split_at_checked(2).ok_or("no line of a dialogue")?;
    let text = text.strip_prefix(' ').unwrap_or(text);
    let word = text.trim().to_owned();
    Ok(vec![match kind {
        "C:" => Act::Send(format!("{text}\r\n").into_bytes()),
        "R:" => Act::Send(unescaped(text.as_bytes())?),
        "F:" => Act::SendFragments(unescaped(text.as_bytes())?),
        "P:" => {
            let milliseconds = word.strip_suffix("ms").ok_or("a pause is told in ms")?;
            Act::Pause(Duration::from_millis(number(milliseconds.as_bytes(), 10)? as u64))
        }
        "T:" if word.is_empty() => Act::Handshake(HOSTNAME.to_owned()),
        "T:" => Act::Handshake(word),
        "V:" if word.is_empty() => Act::Vanish,
        "S:" => Act::Hear(word),
        "M:" => {
            let (count, start) = word.split_once(' ').ok_or("M: wants a number and how the replies begin")?;
            return Ok(vec![Act::Hear(start.to_owned()); number(count.as_bytes(), 10)?]);
        }
        "L:" => Act::Has(word),
        "N:" => Act::HasNot(word),
        "X:" if word.is_empty() => Act::Closed { at_last: false },
        "X:" if word == "at last" => Act::Closed { at_last: true },
        _ => return Err("no line of a dialogue".to_owned()),
    }])
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
    use super::*;

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

    #[test]
    fn lines_mean_what_the_table_says() {
        let hear = |start: &str| Act::Hear(start.to_owned());
        for (line, meant) in [
            ("", vec![]),
            ("# S: 220", vec![]),
            ("C: NOOP", vec![Act::Send(b"NOOP\r\n".to_vec())]),
            ("C:", vec![Act::Send(b"\r\n".to_vec())]),
            (r"R:  NOOP\n", vec![Act::Send(b" NOOP\n".to_vec())]),
            (r"F: \x16", vec![Act::SendFragments(vec![0x16])]),
            ("P: 300ms", vec![Act::Pause(Duration::from_millis(300))]),
            ("T:", vec![Act::Handshake(HOSTNAME.to_owned())]),
            ("T: name.example", vec![Act::Handshake("name.example".to_owned())]),
            ("V:", vec![Act::Vanish]),
            ("S: 250 2.0.0", vec![hear("250 2.0.0")]),
            ("M: 2 250", vec![hear("250"), hear("250")]),
            ("L: SIZE 1", vec![Act::Has("SIZE 1".to_owned())]),
            ("N: SIZE", vec![Act::HasNot("SIZE".to_owned())]),
            ("X:", vec![Act::Closed { at_last: false }]),
            ("X: at last", vec![Act::Closed { at_last: true }]),
        ] {
            assert_eq!(acts(line), Ok(meant), "{line}");
        }
        for line in ["S", "Q: 1", "P: 3s", "M: 250", "M: many 250", "V: now", "X: soon", r"R: \q", "client says"] {
            assert!(acts(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_reply_carries_its_enhanced_code_on_each_line() {
        let reply = |lines: &[&str]| Reply { code: 214, lines: lines.iter().map(|&line| line.to_owned()).collect() };
        for (lines, start, is_so) in [
            (&["2.0.0 a", "2.0.0 b"][..], "214 2.0.0", true),
            (&["2.0.0 a", "2.0.0 b"][..], "214 2.0.0 a", true),
            (&["2.0.0 a", "b"][..], "214 2.0.0", false),
            (&["2.0.0 a", "b"][..], "214", true),
            (&["mx2.example.org", "SIZE"][..], "214 mx2", true),
            (&["2.0.0 a"][..], "214 2.1.0", false),
        ] {
            assert_eq!(is_as_said(&reply(lines), start), is_so, "{lines:?} {start}");
        }
    }
}
