//! Where Postfix would answer a dialogue otherwise than we do, docs/smtp.md says so, and why.
//!
//! What counts is the first digit of a reply, whether one comes at all, and whether the connection stays open.

use std::{fs, io::ErrorKind, net::SocketAddr, path::Path, time::Duration};

use support::{
    HOSTNAME, Reply,
    certificate::Certificate,
    dialogue::{self, Act, Dialogue, Player},
    postfix::{Backup, Postfix},
};

/// For a reply of Postfix. Some never come.
const REPLY_LIMIT: Duration = Duration::from_secs(5);
/// The section of docs/smtp.md, and what it says instead of a client's line before there was one.
const SECTION: &str = "\n## Where Postfix answers otherwise\n";
const CONNECTS: &str = "connects";
/// A line that goes on behind this is shown so far.
const LINE_CHARS_SHOWN: usize = 60;

#[test]
fn where_postfix_answers_otherwise_the_documentation_says_why() {
    let certificate = Certificate::of(&[HOSTNAME]);
    let postfix = Postfix::prepare_backup(&Backup {
        domains: &["example.org", ".shop.example", "bücher.example", "xn--bcher-kva.example"],
        message_bytes_max: 64 << 10,
        recipients_max: 100,
        certificate: &certificate,
    });
    postfix.start();
    let files = dialogue::files("dialogues");
    let found = dialogue::for_all(&files, |file| differences(file, postfix.address())).concat();
    let listed = listed();
    let unlisted: Vec<_> = found.iter().filter(|found| !listed.iter().any(|row| row.is(found))).collect();
    let gone: Vec<_> = listed.iter().filter(|row| !found.iter().any(|found| row.is(found))).collect();
    let rows = |differences: &[&Difference]| differences.iter().map(|row| row.to_row()).collect::<String>();
    assert!(unlisted.is_empty(), "docs/smtp.md does not list, nor say why:\n{}", rows(&unlisted));
    assert!(gone.is_empty(), "docs/smtp.md lists what is not so:\n{}", rows(&gone));
}

/// What we and Postfix do otherwise, in one line of one dialogue.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Difference {
    dialogue: String,
    /// What the client said last. In the documentation it may be cut, and then ends in `…`.
    line: String,
    /// The first digit of our reply, or what happens in place of one.
    we: String,
    postfix: String,
    /// Postfix's own words, for who has to find the reason.
    says: String,
}

impl Difference {
    /// Whether this row of the documentation speaks of `found`.
    fn is(&self, found: &Self) -> bool {
        let is_line = match self.line.strip_suffix('…') {
            Some(start) => found.line.starts_with(start),
            None => found.line == self.line,
        };
        is_line && (&self.dialogue, &self.we, &self.postfix) == (&found.dialogue, &found.we, &found.postfix)
    }

    /// As a row of the documentation, with Postfix's words where the reason is to stand.
    fn to_row(&self) -> String {
        let Self { dialogue, line, we, postfix, says } = self;
        // Neither may stand in a cell of such a table.
        let end = line.find(['|', '`']).unwrap_or(line.len());
        let end = line.char_indices().nth(LINE_CHARS_SHOWN).map_or(end, |(at, _)| at.min(end));
        let more = if end < line.len() { "…" } else { "" };
        format!("| {dialogue} | `{}{more}` | {we} | {postfix} | {says} |\n", &line[..end])
    }
}

/// Plays one dialogue against Postfix, as long as both sides still speak of the same.
fn differences(file: &Path, server: SocketAddr) -> Vec<Difference> {
    let dialogue = Dialogue::read(file).expect("each file is a dialogue");
    let mut player = Player::connect(server, REPLY_LIMIT).expect("Postfix takes connections");
    let mut found: Vec<Difference> = Vec::new();
    let mut line = CONNECTS;
    for step in &dialogue.steps {
        let (we, heard) = match &step.act {
            Act::Has(_) | Act::HasNot(_) => continue,
            Act::Hear(start) => (start.as_str(), heard(&mut player)),
            Act::Closed { at_last } => {
                let mut last = heard(&mut player);
                while *at_last && last.is_ok() {
                    last = heard(&mut player);
                }
                ("closed", last)
            }
            act => {
                line = step.text[2..].trim_start();
                match player.act(act) {
                    Ok(()) => continue,
                    Err(error) => ("goes on", Err(("fails", error))),
                }
            }
        };
        let (postfix, says) = match &heard {
            Ok(reply) => (reply.to_string(), reply.to_string()),
            Err((what, says)) => ((*what).to_owned(), says.clone()),
        };
        if class(we) == class(&postfix) {
            continue;
        }
        let is_end = [we, &postfix].iter().any(|what| ends_lock_step(what));
        let (we, postfix) = (class(we).to_owned(), class(&postfix).to_owned());
        if !is_end && we == "5" && postfix == "2" && line.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case("MAIL"))
        {
            // We have no transaction: neither shall Postfix, or it would refuse the next one for this alone.
            player.act(&Act::Send(b"RSET\r\n".to_vec())).expect("Postfix goes on");
            player.hear().expect("RSET is answered");
        }
        let difference = Difference { dialogue: dialogue.name(), line: line.to_owned(), we, postfix, says };
        if !found.iter().any(|other| other.is(&difference)) {
            found.push(difference);
        }
        if is_end {
            break;
        }
    }
    found
}

/// The first digit of a reply, or the word for what happens in place of one.
fn class(what: &str) -> &str {
    if what.starts_with(|digit: char| digit.is_ascii_digit()) { &what[..1] } else { what }
}

/// Whether the one side is at another place of the dialogue than the other from here on.
fn ends_lock_step(what: &str) -> bool {
    ["221", "421", "3", "closed", "none", "fails"].iter().any(|end| what.starts_with(end))
}

/// The next reply, or what happens in place of one and how that shows.
fn heard(player: &mut Player) -> Result<Reply, (&'static str, String)> {
    player.hear().map_err(|error| {
        let what = match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "closed",
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "none",
            _ => "no SMTP",
        };
        (what, error.to_string())
    })
}

/// The rows of the documentation. Checked: each says why.
fn listed() -> Vec<Difference> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/smtp.md");
    let text = fs::read_to_string(file).expect("docs/smtp.md is there");
    let (_, section) = text.split_once(SECTION).expect("docs/smtp.md has the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [dialogue, line, we, postfix, why] = cells[..] else { panic!("five cells, none with a | in it: {row}") };
        assert!(!why.is_empty(), "no reason: {row}");
        let line = line.strip_prefix('`').and_then(|line| line.strip_suffix('`')).unwrap_or(line);
        let owned = |cell: &str| cell.to_owned();
        Difference {
            dialogue: owned(dialogue),
            line: owned(line),
            we: owned(we),
            postfix: owned(postfix),
            says: owned(why),
        }
    })
    .collect()
}
