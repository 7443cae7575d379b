//! A real OpenSMTPD as the primary: own configuration, queue, log and port, in a temporary folder.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, chown},
};

use tempfile::TempDir;

use crate::{
    DOMAIN,
    apart::{self, Apart, Running},
    port::Port,
    server::{self, Delivered, Duties},
};

/// Owns the mailboxes.
const OWNER: (&str, u32) = ("mailboxes", 64_993);
/// The users that it was built for, and ours; they exist in its namespace alone.
const USERS: [(&str, u32); 3] = [("opensmtpd", 64_991), ("opensmtpq", 64_992), OWNER];
/// Where it looks for its queue, its socket and its parts. Its queue outlives a restart.
const PLACES: &str = "mount -t tmpfs tmpfs /var/lib
mkdir -p /var/lib/opensmtpd/empty
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /usr/libexec
mkdir /usr/libexec/opensmtpd
mount --bind \"$package/usr/libexec/opensmtpd\" /usr/libexec/opensmtpd
mount --bind \"$folder/spool\" /var/spool";

/// An OpenSMTPD. Dropping it ends it.
pub struct OpenSmtpd {
    port: Port,
    running: Option<Running>,
    folder: TempDir,
}

impl OpenSmtpd {
    /// Prepares one; it does not run yet.
    ///
    /// # Panics
    /// If the tests do not run as root.
    pub fn prepare(duties: &Duties) -> Self {
        Self::prepare_with(duties, "", None)
    }

    /// The same, with these lines before its listener, which has this filter.
    ///
    /// # Panics
    /// As [`Self::prepare`].
    pub fn prepare_with(duties: &Duties, lines: &str, filter: Option<&str>) -> Self {
        let folder = TempDir::with_prefix("backupmx-opensmtpd-").expect("a temporary folder can be made");
        let server = Self { port: Port::reserve(), running: None, folder };
        let path = |name: &str| server.folder.path().join(name);
        fs::set_permissions(server.folder.path(), PermissionsExt::from_mode(0o755)).expect("our folder is ours");
        fs::create_dir_all(path("spool/smtpd")).expect("our folder is ours");
        fs::set_permissions(path("spool/smtpd"), PermissionsExt::from_mode(0o711)).expect("our folder is ours");
        fs::create_dir(path("mail")).expect("our folder is ours");
        chown(path("mail"), Some(OWNER.1), Some(OWNER.1)).expect("root may give folders away");
        if let Some(certificate) = duties.certificate {
            apart::give(&certificate.file(), &path("tls.crt"), 0);
            apart::give(&certificate.key_file(), &path("tls.key"), 0);
        }
        fs::write(path("smtpd.conf"), server.configuration(duties, lines, filter)).expect("our folder is ours");
        server
    }

    /// Where it takes mail.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Starts it, and waits for its greeting.
    #[track_caller]
    pub fn start(&mut self) {
        let configuration = self.folder.path().join("smtpd.conf");
        let apart = Apart {
            folder: self.folder.path(),
            users: &USERS,
            places: PLACES,
            package: "opensmtpd",
            program: "$package/usr/sbin/smtpd",
            arguments: &["-d", "-f", &configuration.to_string_lossy()],
        };
        self.running = Some(apart.start());
        server::wait_for_greeting(self.address(), "OpenSMTPD");
    }

    /// Stops it.
    pub fn stop(&mut self) {
        self.running.take().expect("it runs").stop();
    }

    /// What it has delivered, less the fields that it adds to a header where they are missing.
    pub fn delivered(&self) -> Vec<Delivered> {
        let mut mails = server::maildirs(&self.folder.path().join("mail"));
        for mail in &mut mails {
            let lines = mail.content.split_inclusive(|byte| *byte == b'\n');
            mail.content = lines.filter(|line| !is_added(line)).flatten().copied().collect();
        }
        mails
    }

    /// Its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn configuration(&self, duties: &Duties, lines: &str, filter: Option<&str>) -> String {
        let (folder, port, owner) = (self.folder.path().display(), self.address().port(), OWNER.0);
        let known = match duties.users {
            [] => format!("for domain \"{DOMAIN}\""),
            _ => "for domain \"{DOMAIN}\" rcpt-to <known>".replace("{DOMAIN}", DOMAIN),
        };
        let users: Vec<_> = duties.users.iter().map(|user| format!("\"{user}@{DOMAIN}\"")).collect();
        let table = if users.is_empty() { String::new() } else { format!("table known {{ {} }}", users.join(", ")) };
        let (pki, tls) = match duties.certificate {
            Some(_) => (
                format!("pki primary cert \"{folder}/tls.crt\"\npki primary key \"{folder}/tls.key\""),
                "tls pki primary",
            ),
            None => (String::new(), ""),
        };
        let filter = filter.map(|name| format!("filter {name}")).unwrap_or_default();
        format!(
            "{pki}
{table}
{lines}
table boxes {{ \"@{DOMAIN}\" = {owner} }}
smtp max-message-size 100M
listen on 127.0.0.1 port {port} hostname primary.{DOMAIN} {tls} {filter}
action keep maildir \"{folder}/mail/%{{rcpt.user}}\" virtual <boxes>
match from any {known} action keep
"
        )
    }
}

/// Its own date has a comment, and its own Message-ID its name.
fn is_added(line: &[u8]) -> bool {
    let is = |start: &[u8], end: &[u8]| line.starts_with(start) && line.ends_with(end);
    is(b"Date: ", b" (UTC)\r\n") || is(b"Message-ID: <", format!("@primary.{DOMAIN}>\r\n").as_bytes())
}

impl Drop for OpenSmtpd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            apart::show_end("OpenSMTPD", &self.log());
        }
    }
}
