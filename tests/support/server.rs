//! The mail servers that people use, as primaries: what they are asked to do, and what they have delivered.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use crate::{
    DOMAIN, certificate::Certificate, exim::Exim, opensmtpd::OpenSmtpd, postfix::Postfix, trace_field, wait::eventually,
};

/// From start to greeting, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What a server is to do for the domain of the tests.
#[derive(Clone, Copy, Default)]
pub struct Duties<'a> {
    /// Local parts that it has mailboxes for; every one if there are none.
    pub users: &'a [&'a str],
    /// For STARTTLS; none if absent. OpenSMTPD 6.8 on OpenSSL 3 then offers it, and breaks each handshake (OpenSMTPD issue 1171).
    pub certificate: Option<&'a Certificate>,
}

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// [`Postfix`].
    Postfix,
    /// [`Exim`].
    Exim,
    /// [`OpenSmtpd`].
    OpenSmtpd,
}

/// One that was prepared. Dropping it ends it.
pub enum Server {
    /// Postfix.
    Postfix(Postfix),
    /// Exim.
    Exim(Exim),
    /// OpenSMTPD.
    OpenSmtpd(OpenSmtpd),
}

/// A message in a mailbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivered {
    /// Whom it was delivered to.
    pub recipient: String,
    /// The field that the server put on top of it.
    pub trace: String,
    /// What follows that field, with the line ends that it travelled with.
    pub content: Vec<u8>,
}

impl Delivered {
    /// Recipient, and what follows the relay's own field: what [`crate::load::Load::compare`] asks for.
    ///
    /// # Panics
    /// If no relay's field stands on top.
    pub fn relayed(&self) -> (&str, &[u8]) {
        (&self.recipient, trace_field::split(&self.content).1)
    }
}

impl Server {
    /// Prepares one; it does not run yet.
    pub fn prepare(kind: Kind, duties: &Duties) -> Self {
        match kind {
            Kind::Postfix => Self::Postfix(Postfix::prepare_for(duties)),
            Kind::Exim => Self::Exim(Exim::prepare(duties)),
            Kind::OpenSmtpd => Self::OpenSmtpd(OpenSmtpd::prepare(duties)),
        }
    }

    /// Where it takes mail.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Postfix(server) => server.address(),
            Self::Exim(server) => server.address(),
            Self::OpenSmtpd(server) => server.address(),
        }
    }

    /// Starts it, and waits for its greeting.
    #[track_caller]
    pub fn start(&mut self) {
        match self {
            Self::Postfix(server) => server.start(),
            Self::Exim(server) => server.start(),
            Self::OpenSmtpd(server) => server.start(),
        }
    }

    /// Stops it.
    #[track_caller]
    pub fn stop(&mut self) {
        match self {
            Self::Postfix(server) => server.stop(),
            Self::Exim(server) => server.stop(),
            Self::OpenSmtpd(server) => server.stop(),
        }
    }

    /// What is in its mailboxes, in any order.
    pub fn delivered(&self) -> Vec<Delivered> {
        match self {
            Self::Postfix(server) => server.mailbox(),
            Self::Exim(server) => server.delivered(),
            Self::OpenSmtpd(server) => server.delivered(),
        }
    }
}

impl Delivered {
    /// Whether the server took it over TLS (RFC 3848).
    pub fn is_encrypted(&self) -> bool {
        self.trace.to_ascii_uppercase().contains(" ESMTPS ")
    }
}

#[track_caller]
pub(crate) fn wait_for_greeting(server: SocketAddr, name: &str) {
    let greets = || {
        let Ok(stream) = TcpStream::connect(server) else { return false };
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).is_ok() && line.starts_with("220 ")
    };
    eventually(START_LIMIT, &format!("{name}'s greeting"), greets);
}

/// The messages in a Maildir, of which the recipient stands in this field.
pub fn maildir(folder: &Path, recipient_field: &str) -> Vec<Delivered> {
    let recipient = |fields: &str| {
        let found = fields.lines().find_map(|line| line.strip_prefix(recipient_field));
        found.unwrap_or_else(|| panic!("no {recipient_field}in {fields}")).trim().to_owned()
    };
    files(&folder.join("new")).map(|file| taken_apart(&file, recipient)).collect()
}

/// The messages in Maildirs that have the names of their users.
pub(crate) fn maildirs(folder: &Path) -> Vec<Delivered> {
    let boxes = fs::read_dir(folder).expect("our folder is ours").map(|entry| entry.expect("a folder can be listed"));
    let messages = |entry: fs::DirEntry| {
        let recipient = format!("{}@{DOMAIN}", entry.file_name().to_string_lossy());
        let whole = files(&entry.path().join("new")).filter(|file| is_whole(file));
        whole.map(move |file| taken_apart(&file, |_| recipient.clone()))
    };
    boxes.flat_map(messages).collect()
}

/// What is in them; nothing if there is no such folder, since servers make it when the first message comes.
fn files(folder: &Path) -> impl Iterator<Item = Vec<u8>> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| fs::read(entry.expect("a Maildir can be listed").path()).expect("root reads a Maildir"))
}

/// Servers write LF for CRLF, and fields of their own on top, of which `Received` is the last.
/// OpenSMTPD takes the end of a delivery that its stop has cut off for the end of the message, and delivers it again afterwards.
fn is_whole(file: &[u8]) -> bool {
    file.ends_with(b"\n") && file.split_inclusive(|byte| *byte == b'\n').any(|line| line.starts_with(b"Received: "))
}

fn taken_apart(file: &[u8], recipient: impl Fn(&str) -> String) -> Delivered {
    let mut text = Vec::with_capacity(file.len() + file.len() / 40);
    for line in file.split_inclusive(|byte| *byte == b'\n') {
        text.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        text.extend_from_slice(if line.ends_with(b"\n") { b"\r\n" } else { b"" });
    }
    let start = text.split_inclusive(|byte| *byte == b'\n').take_while(|line| !line.starts_with(b"Received: "));
    let top = start.map(<[u8]>::len).sum();
    let recipient = recipient(&String::from_utf8_lossy(&text[..top]));
    let (trace, content) = trace_field::split_any(&text[top..]);
    Delivered { recipient, trace: String::from_utf8_lossy(trace).into_owned(), content: content.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, certificate::trust_any};

    const LIMIT: Duration = Duration::from_secs(60);
    /// With what OpenSMTPD would add.
    const MESSAGE: &str = "Date: Sun, 22 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@client.example>\r\n\r\nbody\r\n";

    #[test]
    fn each_server_delivers_after_a_restart_over_tls_and_refuses_whom_it_does_not_know() {
        let certificate = Certificate::of(&["primary.example.org"]);
        let duties = Duties { users: &["bob", "carol"], certificate: Some(&certificate) };
        std::thread::scope(|scope| {
            for kind in [Kind::Postfix, Kind::Exim, Kind::OpenSmtpd] {
                scope.spawn(move || check(kind, &duties));
            }
        });
    }

    fn check(kind: Kind, duties: &Duties) {
        let mut server = Server::prepare(kind, duties);
        for round in 1..=2 {
            server.start();
            let mut client = Client::hello(server.address()).unwrap();
            assert_eq!(client.say("STARTTLS").unwrap().code, 220, "{kind:?}");
            let is_encrypted = client.start_tls("primary.example.org", trust_any()).is_ok();
            assert_eq!(is_encrypted, kind != Kind::OpenSmtpd, "{kind:?}");
            if is_encrypted {
                client.say("EHLO client.example").unwrap();
            } else {
                client = Client::hello(server.address()).unwrap();
            }
            // A command at a time: OpenSMTPD knows no PIPELINING.
            let dialogue =
                ["MAIL FROM:<ann@client.example>", "RCPT TO:<nobody@example.org>", "RCPT TO:<bob@example.org>", "DATA"];
            let codes = dialogue.map(|line| client.say(line).unwrap().code);
            assert_eq!(codes, [250, 550, 250, 354], "{kind:?}");
            assert_eq!(client.say(&format!("{MESSAGE}.")).unwrap().code, 250, "{kind:?}");
            eventually(LIMIT, &format!("{round} messages in {kind:?}'s mailbox"), || server.delivered().len() == round);
            server.stop();
            assert!(Client::hello(server.address()).is_err(), "{kind:?}");
        }
        for mail in server.delivered() {
            let expected = ("bob@example.org", kind != Kind::OpenSmtpd);
            assert_eq!((&*mail.recipient, mail.is_encrypted()), expected, "{kind:?}: {}", mail.trace);
            assert_eq!(String::from_utf8_lossy(&mail.content), MESSAGE, "{kind:?}");
        }
    }
}
