//! One SMTP conversation, from greeting to goodbye.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, TcpStream},
    thread,
    time::Instant,
};

use super::{
    Mail, Shared,
    draft::{Draft, has_bare_line_end, part, path},
    lock,
    model::Moment,
    offered::Offered,
    script::{Act, Stage},
    wire::Wire,
};

/// Holds the conversation until it ends; every end is an error or a QUIT.
pub(super) fn hold(stream: &TcpStream, connection: u64, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut session = Session {
        wire: Wire::new(stream),
        connection,
        address: stream.peer_addr()?.ip(),
        shared,
        client: None,
        offered: Offered::default(),
        refuses: false,
        forwarded: String::new(),
        sender: String::new(),
        draft: None,
        transactions: 0,
        messages: 0,
    };
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
    address: IpAddr,
    shared: &'a Shared,
    client: Option<String>,
    offered: Offered,
    /// The greeting was a refusal, so only QUIT is heard (RFC 5321 section 3.1).
    refuses: bool,
    forwarded: String,
    /// Of the last MAIL, whatever it was answered.
    sender: String,
    draft: Option<Draft>,
    /// MAIL commands so far.
    transactions: u64,
    /// Kept so far.
    messages: u64,
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
        thread::sleep(self.shared.model.pause());
        match verb.as_str() {
            "QUIT" => {
                // Before the answer: the client may connect anew as soon as it has that, and then these are not two at a time.
                self.shared.closed(self.connection);
                if self.act_at(Stage::Quit, &command)?.is_none() {
                    self.wire.say("221 2.0.0 bye");
                }
                return Ok(false);
            }
            _ if self.refuses => self.wire.say("503 5.5.1 no service here"),
            "EHLO" | "HELO" => self.hello(&command)?,
            "STARTTLS" => self.start_tls(&command)?,
            "XFORWARD" => self.xforward(&command),
            "MAIL" => self.mail(&command)?,
            "RCPT" => self.rcpt(&command)?,
            "DATA" => self.data(&command)?,
            "BDAT" => self.bdat(&command)?,
            "RSET" => {
                self.forget();
                if self.act_at(Stage::Reset, &command)?.is_none() {
                    self.wire.say("250 2.0.0 forgotten");
                }
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

    /// The transaction, and what XFORWARD said of it.
    fn forget(&mut self) {
        self.draft = None;
        self.forwarded.clear();
    }

    fn hello(&mut self, command: &str) -> io::Result<()> {
        if self.act_at(Stage::Hello, command)?.is_some() {
            return Ok(());
        }
        self.forget();
        self.client = Some(command.get(5..).unwrap_or_default().to_owned());
        let mut lines = vec!["primary.example.org".to_owned()];
        self.offered = Offered::default();
        if command[..4].eq_ignore_ascii_case("EHLO") {
            lines.extend(lock(&self.shared.extensions).iter().cloned());
            if !self.wire.is_encrypted() && lock(&self.shared.tls).is_some() {
                lines.push("STARTTLS".to_owned());
            }
            self.offered = Offered::new(lines[1..].to_vec());
        }
        let last = lines.len() - 1;
        for (number, line) in lines.iter().enumerate() {
            self.wire.say(&format!("250{}{line}", if number == last { ' ' } else { '-' }));
        }
        Ok(())
    }

    fn start_tls(&mut self, command: &str) -> io::Result<()> {
        let config = lock(&self.shared.tls).clone().filter(|_| self.offered.has("STARTTLS"));
        let Some(config) = config else {
            self.violation("STARTTLS was used but not offered");
            self.wire.say("502 5.5.1 no TLS here");
            return Ok(());
        };
        // RFC 3207 section 4: the client waits for the reply.
        if self.wire.has_more() {
            self.violation("something followed STARTTLS before it was answered");
        }
        match self.act_at(Stage::StartTls, command)? {
            Some(answer) if !answer.starts_with("220") => return Ok(()),
            Some(_) => {}
            None => self.wire.say("220 2.0.0 go on"),
        }
        self.wire.flush()?;
        let act = self.choose(Stage::Handshake, command);
        if matches!(act, Some(Act::Answer(_) | Act::Raw(_))) {
            // Said before the client began, it would be one more reply in clear.
            self.wire.wait_for_more()?;
        }
        if self.follow(act, Stage::Handshake)?.is_some() {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        self.wire.start_tls(config)?;
        // RFC 3207 section 4.2: all that was said is forgotten.
        self.forget();
        self.client = None;
        self.offered = Offered::default();
        Ok(())
    }

    fn xforward(&mut self, command: &str) {
        if self.draft.is_some() {
            self.violation("XFORWARD came within a transaction");
        }
        let attributes = command.get("XFORWARD ".len()..).unwrap_or_default();
        self.complain(self.offered.complaints_xforward(attributes));
        if !self.forwarded.is_empty() {
            self.forwarded.push(' ');
        }
        self.forwarded.push_str(attributes);
        self.wire.say("250 2.0.0 noted");
    }

    fn mail(&mut self, command: &str) -> io::Result<()> {
        if self.client.is_none() {
            self.violation("MAIL came before EHLO");
        }
        if self.draft.is_some() {
            self.violation("MAIL came within a transaction");
        }
        self.transactions += 1;
        if self.offered.limit("MAILMAX").is_some_and(|max| self.transactions > max) {
            self.violation("more MAIL commands than MAILMAX allows");
        }
        let path = path(command, "MAIL FROM:<");
        self.sender = path.map_or("", |(sender, _)| sender).to_owned();
        if !self.sender.is_empty() {
            self.shared.ledger.begun();
        }
        if self.act_at(Stage::Mail, command)?.is_some() {
            return Ok(());
        }
        let Some((sender, parameters)) = path else {
            self.violation(&format!("no MAIL command: {command}"));
            self.wire.say("501 5.5.4 MAIL FROM:<address>");
            return Ok(());
        };
        self.complain(self.offered.complaints(parameters));
        let (sender, parameters) = (sender.to_owned(), parameters.to_owned());
        self.draft = Some(Draft { sender, parameters, ..Draft::default() });
        self.wire.say("250 2.1.0 go on");
        Ok(())
    }

    fn rcpt(&mut self, command: &str) -> io::Result<()> {
        let path = path(command, "RCPT TO:<");
        let recipient = path.map_or("", |(recipient, _)| recipient);
        if !self.sender.is_empty() {
            self.shared.ledger.attempted(recipient);
        }
        if self.act_at(Stage::Rcpt, command)?.is_some() {
            return Ok(());
        }
        self.complain(self.offered.complaints(path.map_or("", |(_, parameters)| parameters)));
        match (&mut self.draft, path) {
            (Some(draft), Some((recipient, parameters))) => {
                draft.recipients.push(recipient.to_owned());
                draft.recipient_parameters.push(parameters.to_owned());
                let taken = draft.recipients.len() as u64;
                if self.offered.limit("RCPTMAX").is_some_and(|max| taken > max) {
                    self.violation("more recipients than RCPTMAX allows");
                }
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
        let whole = |draft: &mut Draft| !draft.recipients.is_empty() && draft.parts.is_none();
        let Some(draft) = self.draft.take_if(whole) else {
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

    /// RFC 3030 section 2: a part follows its command at once, whatever the command will be answered.
    fn bdat(&mut self, command: &str) -> io::Result<()> {
        if !self.offered.has("CHUNKING") {
            self.violation("BDAT was used but CHUNKING not offered");
        }
        let Some((bytes, is_last)) = part(command) else {
            self.violation(&format!("no BDAT command: {command}"));
            self.wire.say("501 5.5.4 BDAT length [LAST]");
            return Err(ErrorKind::InvalidData.into());
        };
        let first = self.draft.as_ref().is_some_and(|draft| draft.parts.is_none());
        if first {
            self.act_at(Stage::Content, command)?;
        }
        let part = self.wire.bytes(bytes)?;
        let Some(mut draft) = self.draft.take_if(|draft| !draft.recipients.is_empty()) else {
            self.wire.say("503 5.5.1 MAIL and RCPT first");
            return Ok(());
        };
        draft.parts.get_or_insert_default().extend_from_slice(&part);
        if !is_last {
            self.draft = Some(draft);
            self.wire.say("250 2.0.0 go on");
            return Ok(());
        }
        let content = draft.parts.clone().unwrap_or_default();
        self.end_of_content(draft, content)
    }

    fn end_of_content(&mut self, draft: Draft, content: Vec<u8>) -> io::Result<()> {
        let arrived = Instant::now();
        if has_bare_line_end(&content) {
            self.violation("a bare CR or LF in content");
        }
        let Draft { sender, parameters, recipients, recipient_parameters, parts } = draft;
        let about = format!("{sender} {}", recipients.join(" "));
        let mut mail = Mail {
            client: self.client.clone().unwrap_or_default(),
            sender,
            parameters,
            recipients,
            recipient_parameters,
            forwarded: std::mem::take(&mut self.forwarded),
            content,
            in_parts: parts.is_some(),
            encrypted: self.wire.is_encrypted(),
            arrived,
            kept: arrived,
            connection: self.connection,
        };
        let act = self.choose(Stage::Dot, &about);
        if act == Some(Act::KeepAndClose) {
            self.shared.keep(mail);
            return Err(ErrorKind::ConnectionAborted.into());
        }
        if self.follow(act, Stage::Dot)?.is_none() {
            let turn = self.shared.model.served(Instant::now());
            thread::sleep(turn.saturating_duration_since(Instant::now()));
            mail.kept = Instant::now();
            self.shared.keep(mail);
            self.messages += 1;
            self.wire.say("250 2.0.0 kept");
            self.act_at(Stage::Kept, &about)?;
        }
        Ok(())
    }

    /// Does what this primary does at this stage in place of the usual, if anything. Returns what was answered.
    fn act_at(&mut self, stage: Stage, command: &str) -> io::Result<Option<String>> {
        let act = self.choose(stage, command);
        self.follow(act, stage)
    }

    /// The script goes before the limits, and those before the model.
    fn choose(&self, stage: Stage, command: &str) -> Option<Act> {
        let script = self.shared.script.act_at(stage, command, self.messages);
        script.or_else(|| self.limit_at(stage)).or_else(|| {
            let recipient = path(command, "RCPT TO:<").map_or("", |(recipient, _)| recipient);
            let (now, client, sender) = (Instant::now(), self.address, &*self.sender);
            self.shared.model.act_at(&Moment { stage, now, client, sender, recipient })
        })
    }

    fn limit_at(&self, stage: Stage) -> Option<Act> {
        let limits = &self.shared.limits;
        let taken = self.draft.as_ref().map_or(0, |draft| draft.recipients.len() as u64);
        let line = match stage {
            Stage::Mail if self.messages >= limits.messages_max() => "421 4.7.0 enough for one connection",
            Stage::Rcpt if taken >= limits.recipients_max() => "452 4.5.3 too many recipients",
            _ => return None,
        };
        Some(Act::Answer(line.to_owned()))
    }

    fn follow(&mut self, act: Option<Act>, stage: Stage) -> io::Result<Option<String>> {
        let answer = act.map(|act| self.perform(act, stage)).transpose()?;
        Ok(answer.flatten())
    }

    fn perform(&mut self, act: Act, stage: Stage) -> io::Result<Option<String>> {
        match act {
            Act::Answer(line) => {
                self.wire.say(&line);
                if matches!(stage, Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Dot) {
                    self.shared.ledger.answered(&line);
                }
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
            Act::Trickle(pause) => {
                self.wire.trickle(pause);
                Ok(None)
            }
        }
    }

    fn complain(&self, complaints: impl Iterator<Item = String>) {
        complaints.for_each(|complaint| self.violation(&complaint));
    }

    fn violation(&self, what: &str) {
        self.shared.violation(format!("connection {}: {what}", self.connection));
    }
}
