//! One SMTP conversation, from greeting to goodbye.

use std::{
    io::{self, ErrorKind},
    net::TcpStream,
    thread,
    time::Instant,
};

use super::{
    Mail, Shared,
    script::{Act, Stage},
    wire::Wire,
};

/// Holds the conversation until it ends; every end is an error or a QUIT.
pub(super) fn hold(stream: &TcpStream, connection: u64, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut session =
        Session { wire: Wire::new(stream), connection, shared, client: None, refuses: false, draft: None, messages: 0 };
    let Some(_place) = shared.limits.take_place() else {
        session.wire.say("421 4.7.0 too many connections");
        return session.wire.flush();
    };
    session.greet()?;
    loop {
        let line = session.wire.line()?;
        let goes_on = session.hear(&line)? && session.wire.refusals() < shared.limits.refusals_max();
        if !goes_on {
            return session.wire.flush();
        }
    }
}

struct Session<'a> {
    wire: Wire<'a>,
    connection: u64,
    shared: &'a Shared,
    client: Option<String>,
    /// The greeting was a refusal, so only QUIT is heard (RFC 5321 section 3.1).
    refuses: bool,
    draft: Option<Draft>,
    /// Kept so far.
    messages: u64,
}

#[derive(Default)]
struct Draft {
    sender: String,
    parameters: String,
    recipients: Vec<String>,
    recipient_parameters: Vec<String>,
}

impl Session<'_> {
    fn greet(&mut self) -> io::Result<()> {
        match self.act_at(Stage::Greeting, "")? {
            Some(line) => self.refuses = !line.starts_with('2'),
            None => self.wire.say("220 primary.example.org ESMTP"),
        }
        self.wire.flush()
    }

    /// Hears one command. Returns whether the conversation goes on.
    fn hear(&mut self, line: &[u8]) -> io::Result<bool> {
        let command = self.command(line);
        let verb = command.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "QUIT" => {
                self.wire.say("221 2.0.0 bye");
                return Ok(false);
            }
            _ if self.refuses => self.wire.say("503 5.5.1 no service here"),
            "EHLO" | "HELO" => self.hello(&command)?,
            "MAIL" => self.mail(&command)?,
            "RCPT" => self.rcpt(&command)?,
            "DATA" => self.data(&command)?,
            "RSET" => {
                self.draft = None;
                self.wire.say("250 2.0.0 forgotten");
            }
            "NOOP" => self.wire.say("250 2.0.0 still here"),
            _ => self.wire.say("500 5.5.1 what?"),
        }
        Ok(true)
    }

    fn command(&self, line: &[u8]) -> String {
        let text = line.strip_suffix(b"\r\n").unwrap_or_else(|| {
            self.violation(&format!("a command ends in a bare LF: {}", line.escape_ascii()));
            line.trim_ascii_end()
        });
        if text.iter().any(|byte| matches!(byte, b'\r' | 0)) {
            self.violation(&format!("CR or NUL in a command: {}", line.escape_ascii()));
        }
        String::from_utf8_lossy(text).into_owned()
    }

    fn hello(&mut self, command: &str) -> io::Result<()> {
        if self.act_at(Stage::Hello, command)?.is_some() {
            return Ok(());
        }
        self.draft = None;
        self.client = Some(command.get(5..).unwrap_or_default().to_owned());
        let mut lines = vec!["primary.example.org".to_owned()];
        if command[..4].eq_ignore_ascii_case("EHLO") {
            lines.extend(super::lock(&self.shared.extensions).iter().cloned());
        }
        let last = lines.len() - 1;
        for (number, line) in lines.iter().enumerate() {
            self.wire.say(&format!("250{}{line}", if number == last { ' ' } else { '-' }));
        }
        Ok(())
    }

    fn mail(&mut self, command: &str) -> io::Result<()> {
        if self.client.is_none() {
            self.violation("MAIL came before EHLO");
        }
        if self.draft.is_some() {
            self.violation("MAIL came within a transaction");
        }
        if self.act_at(Stage::Mail, command)?.is_some() {
            return Ok(());
        }
        let Some((sender, parameters)) = path(command, "MAIL FROM:<") else {
            self.violation(&format!("no MAIL command: {command}"));
            self.wire.say("501 5.5.4 MAIL FROM:<address>");
            return Ok(());
        };
        self.check_parameters(parameters);
        let (sender, parameters) = (sender.to_owned(), parameters.to_owned());
        self.draft = Some(Draft { sender, parameters, ..Draft::default() });
        self.wire.say("250 2.1.0 go on");
        Ok(())
    }

    /// A parameter may be used only where its extension is offered (RFC 5321 section 4.1.1.11).
    fn check_parameters(&self, parameters: &str) {
        for parameter in parameters.split_whitespace() {
            let extension = match parameter.split('=').next().unwrap_or_default() {
                "SIZE" => "SIZE",
                "BODY" => "8BITMIME",
                "SMTPUTF8" => "SMTPUTF8",
                "RET" | "ENVID" | "NOTIFY" | "ORCPT" => "DSN",
                _ => "?",
            };
            let extensions = super::lock(&self.shared.extensions);
            if !extensions.iter().any(|offered| offered.split(' ').next() == Some(extension)) {
                self.violation(&format!("{parameter} was used but not offered"));
            }
        }
    }

    fn rcpt(&mut self, command: &str) -> io::Result<()> {
        if self.act_at(Stage::Rcpt, command)?.is_some() {
            return Ok(());
        }
        let path = path(command, "RCPT TO:<");
        self.check_parameters(path.map_or("", |(_, parameters)| parameters));
        match (&mut self.draft, path) {
            (Some(draft), Some((recipient, parameters))) => {
                draft.recipients.push(recipient.to_owned());
                draft.recipient_parameters.push(parameters.to_owned());
                self.wire.say("250 2.1.5 go on");
            }
            // A pipelining client may send it after a MAIL that was refused (RFC 2920 section 3.1).
            (None, _) => self.wire.say("503 5.5.1 MAIL first"),
            (Some(_), None) => {
                self.violation(&format!("no RCPT command: {command}"));
                self.wire.say("501 5.5.4 RCPT TO:<address>");
            }
        }
        Ok(())
    }

    fn data(&mut self, command: &str) -> io::Result<()> {
        let Some(draft) = self.draft.take_if(|draft| !draft.recipients.is_empty()) else {
            self.wire.say("503 5.5.1 MAIL and RCPT first");
            return Ok(());
        };
        // RFC 2920 section 3.1: DATA is the last command of a group.
        if self.wire.has_more() {
            self.violation("something followed DATA before it was answered");
        }
        match self.act_at(Stage::Data, command)? {
            Some(answer) if !answer.starts_with("354") => return Ok(()),
            Some(_) => {}
            None => self.wire.say("354 go on"),
        }
        self.wire.flush()?;
        self.wire.wait_for_more()?;
        self.act_at(Stage::Content, command)?;
        let content = self.wire.content()?;
        self.end_of_content(draft, content)
    }

    fn end_of_content(&mut self, draft: Draft, content: Vec<u8>) -> io::Result<()> {
        let arrived = Instant::now();
        if has_bare_line_end(&content) {
            self.violation("a bare CR or LF in content");
        }
        let Draft { sender, parameters, recipients, recipient_parameters } = draft;
        let client = self.client.clone().unwrap_or_default();
        let about = format!("{sender} {}", recipients.join(" "));
        let connection = self.connection;
        let mail = Mail { client, sender, parameters, recipients, recipient_parameters, content, arrived, connection };
        let act = self.shared.script.act_at(Stage::Dot, &about, self.messages);
        if act == Some(Act::KeepAndClose) {
            self.shared.keep(mail);
            return Err(ErrorKind::ConnectionAborted.into());
        }
        let answered = act.map(|act| self.perform(act)).transpose()?.flatten();
        if answered.is_none() {
            self.shared.keep(mail);
            self.messages += 1;
            self.wire.say("250 2.0.0 kept");
            self.act_at(Stage::Kept, &about)?;
        }
        Ok(())
    }

    /// Follows the script, if it has something for this stage. Returns what was answered in place of the usual.
    fn act_at(&mut self, stage: Stage, command: &str) -> io::Result<Option<String>> {
        match self.shared.script.act_at(stage, command, self.messages) {
            Some(act) => self.perform(act),
            None => Ok(None),
        }
    }

    fn perform(&mut self, act: Act) -> io::Result<Option<String>> {
        match act {
            Act::Answer(line) => {
                self.wire.say(&line);
                if line.starts_with("421") {
                    self.wire.flush()?;
                    return Err(ErrorKind::ConnectionAborted.into());
                }
                Ok(Some(line))
            }
            Act::Raw(bytes) => {
                self.wire.raw(&bytes)?;
                Ok(Some(String::new()))
            }
            Act::Close | Act::KeepAndClose => {
                self.wire.flush()?;
                Err(ErrorKind::ConnectionAborted.into())
            }
            Act::Stall => self.wire.stall().map(|()| None),
            Act::Slow(time) => {
                thread::sleep(time);
                Ok(None)
            }
        }
    }

    fn violation(&self, what: &str) {
        self.shared.violation(format!("connection {}: {what}", self.connection));
    }
}

/// Address and parameters of a command that begins with `start`.
fn path<'a>(command: &'a str, start: &str) -> Option<(&'a str, &'a str)> {
    let (head, rest) = command.split_at_checked(start.len())?;
    if !head.eq_ignore_ascii_case(start) {
        return None;
    }
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some((&rest[..at], rest[at + 1..].trim_start())),
            _ => {}
        }
    }
    None
}

fn has_bare_line_end(content: &[u8]) -> bool {
    memchr::memchr2_iter(b'\r', b'\n', content).any(|at| match content[at] {
        b'\r' => content.get(at + 1) != Some(&b'\n'),
        _ => at == 0 || content[at - 1] != b'\r',
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_ends_at_the_first_bracket_outside_of_quotes() {
        assert_eq!(path("MAIL FROM:<a@b> SIZE=1", "MAIL FROM:<"), Some(("a@b", "SIZE=1")));
        assert_eq!(path(r#"RCPT TO:<"a>\" b"@c>"#, "RCPT TO:<"), Some((r#""a>\" b"@c"#, "")));
        assert_eq!(path("MAIL FROM:<>", "MAIL FROM:<"), Some(("", "")));
        assert_eq!(path("MAIL FROM: <a@b>", "MAIL FROM:<"), None);
    }

    #[test]
    fn a_bare_line_end_is_seen() {
        for (content, bare) in [("a\r\n\r\n", false), ("\na", true), ("a\rb", true), ("a\r\r\n", true), ("a\r", true)] {
            assert_eq!(has_bare_line_end(content.as_bytes()), bare, "{content:?}");
        }
    }
}
