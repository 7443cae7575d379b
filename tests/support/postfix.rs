//! A real Postfix, as the primary or as a backup in our place: own configuration, queue, log and port, in a temporary
//! folder. It knows nothing of the Postfix of this machine, and that one knows nothing of it.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpStream},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    DOMAIN,
    port::Port,
    program::{self, Ended},
    server::{self, Delivered, Duties},
    wait::eventually,
};

mod backup;
mod greylist;

pub use backup::Backup;
pub use greylist::Greylist;

/// For `postfix start` and `stop`, and until the greeting.
const CONTROL_LIMIT: Duration = Duration::from_secs(60);
/// Shown when a test fails.
const LOG_LINES_SHOWN: usize = 40;
/// `nobody` on Debian; it owns the mailboxes.
const NOBODY: u32 = 65534;

/// What answers at its port, and what does so first if postscreen stands before it.
const SMTPD: &str = "inet  n - n - -   smtpd\n";
const POSTSCREEN: &str = "inet  n - n - 1   postscreen
smtpd     pass  - - n - -   smtpd
dnsblog   unix  - - n - 0   dnsblog
tlsproxy  unix  - - n - 0   tlsproxy
";

/// A Postfix. Dropping it stops it.
pub struct Postfix {
    port: Port,
    folder: TempDir,
}

impl Postfix {
    /// Prepares one that takes all mail for the domain of the tests into one Maildir; it does not run yet.
    ///
    /// # Panics
    /// If Postfix is not installed, or the tests do not run as root, which Postfix needs.
    pub fn prepare() -> Self {
        Self::prepare_for(&Duties::default())
    }

    /// Prepares one that does this; it does not run yet.
    ///
    /// # Panics
    /// As [`Self::prepare`].
    pub fn prepare_for(duties: &Duties) -> Self {
        Self::prepare_at(Port::reserve(), duties)
    }

    /// The same on this port, in its network.
    ///
    /// # Panics
    /// As [`Self::prepare`].
    pub fn prepare_at(port: Port, duties: &Duties) -> Self {
        Self::prepared(port, &|folder| primary_cf(folder, duties))
    }

    /// As [`Self::prepare`], with these lines at the end of its main.cf.
    ///
    /// # Panics
    /// As [`Self::prepare`].
    pub fn prepare_with(lines: &[&str]) -> Self {
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        Self::prepared(Port::reserve(), &|folder| primary_cf(folder, &Duties::default()) + &lines)
    }

    /// The same, behind postscreen.
    ///
    /// # Panics
    /// As [`Self::prepare`].
    pub fn prepare_behind_postscreen(lines: &[&str]) -> Self {
        let postfix = Self::prepare_with(lines);
        let master_cf = postfix.master_cf().replacen(SMTPD, POSTSCREEN, 1);
        fs::write(postfix.path("etc/master.cf"), master_cf).expect("our folder is ours");
        postfix
    }

    /// As [`Self::prepare`], and it asks this server before it takes a recipient.
    ///
    /// # Panics
    /// As [`Self::prepare`].
    pub fn prepare_with_policy(policy: SocketAddr) -> Self {
        let asks = format!("smtpd_recipient_restrictions = check_policy_service inet:{policy}\n");
        Self::prepared(Port::reserve(), &|folder| primary_cf(folder, &Duties::default()) + &asks)
    }

    /// Prepares one that stands in our place and keeps what it takes; it does not run yet.
    ///
    /// # Panics
    /// As [`Self::prepare`].
    pub fn prepare_backup(backup: &Backup) -> Self {
        Self::prepared(Port::reserve(), &|_| backup.main_cf())
    }

    fn prepared(port: Port, role_cf: &dyn Fn(&Path) -> String) -> Self {
        assert!(rustix::process::geteuid().is_root(), "Postfix starts as root only: run `make test` as root");
        assert!(Path::new("/usr/sbin/postfix").exists(), "install postfix: `make test` as root does it");
        let folder = TempDir::with_prefix("backupmx-postfix-").expect("a temporary folder can be made");
        let postfix = Self { port, folder };
        postfix.write_configuration(&role_cf(postfix.folder.path()));
        postfix
    }

    /// Where it takes mail.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Starts it, and waits for its greeting.
    #[track_caller]
    pub fn start(&self) {
        let ended = self.control("start");
        assert_eq!(ended.code, Some(0), "postfix start: {ended}\n{}", self.log());
        eventually(CONTROL_LIMIT, "Postfix's greeting", || self.greets());
    }

    /// Stops it, as its administrator would.
    #[track_caller]
    pub fn stop(&self) {
        let ended = self.control("stop");
        assert_eq!(ended.code, Some(0), "postfix stop: {ended}\n{}", self.log());
    }

    /// The messages that it has delivered, one file each.
    pub fn delivered(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path("mail/all/new")) else {
            // Postfix makes the Maildir when the first message comes.
            return Vec::new();
        };
        entries.map(|entry| entry.expect("a Maildir can be listed").path()).collect()
    }

    /// The same, taken apart.
    pub fn mailbox(&self) -> Vec<Delivered> {
        server::maildir(&self.path("mail/all"), "X-Original-To: ")
    }

    /// Its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log/postfix.log")).unwrap_or_default()
    }

    fn greets(&self) -> bool {
        let Ok(stream) = self.port.enter(|| TcpStream::connect(self.address())) else { return false };
        let mut line = String::new();
        // postscreen begins with a line that is not the last one.
        BufReader::new(stream).read_line(&mut line).is_ok() && line.starts_with("220")
    }

    fn control(&self, order: &str) -> Ended {
        let mut command = Command::new("/usr/sbin/postfix");
        command.arg("-c").arg(self.path("etc")).arg(order);
        self.port.enter(|| program::run(&mut command, CONTROL_LIMIT))
    }

    fn write_configuration(&self, role_cf: &str) {
        for name in ["etc", "queue", "data", "log", "mail"] {
            fs::create_dir(self.path(name)).expect("our folder is ours");
        }
        // Postfix's parts run as users of their own and must be able to enter.
        fs::set_permissions(self.folder.path(), PermissionsExt::from_mode(0o755)).expect("our folder is ours");
        chown(self.path("data"), Some(user_id("postfix")), None).expect("root may give folders away");
        // A start after a stop in mid-delivery may have something to log as that user, and fails if it cannot.
        let log = self.path("log/postfix.log");
        fs::write(&log, "").expect("our folder is ours");
        chown(&log, Some(user_id("postfix")), None).expect("root may give files away");
        chown(self.path("mail"), Some(NOBODY), Some(NOBODY)).expect("root may give folders away");
        fs::write(self.path("etc/main.cf"), self.main_cf() + role_cf).expect("our folder is ours");
        fs::write(self.path("etc/master.cf"), self.master_cf()).expect("our folder is ours");
    }

    fn main_cf(&self) -> String {
        let (folder, address) = (self.folder.path().display(), self.address().ip());
        format!(
            "compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log/postfix.log
maillog_file_prefixes = {folder}/log
mydestination =
inet_interfaces = {address}
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
smtpd_relay_restrictions = permit_auth_destination, reject
# The relay comes from an address of this machine, but what it brings is not local mail, of which Postfix would complete the header.
local_header_rewrite_clients =
mynetworks =
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
# As much at once as a test asks for, without the pauses that spare a busy disk.
default_process_limit = 50
in_flow_delay = 0
biff = no
"
        )
    }

    fn master_cf(&self) -> String {
        format!(
            "{}      {SMTPD}cleanup   unix  n - n - 0   cleanup
qmgr      unix  n - n 300 1 qmgr
rewrite   unix  - - n - -   trivial-rewrite
bounce    unix  - - n - 0   bounce
defer     unix  - - n - 0   bounce
trace     unix  - - n - 0   bounce
virtual   unix  - n n - -   virtual
error     unix  - - n - -   error
retry     unix  - - n - -   error
discard   unix  - - n - -   discard
flush     unix  n - n 1000? 0 flush
tlsmgr    unix  - - n 1000? 1 tlsmgr
anvil     unix  - - n - 1   anvil
postlog   unix-dgram n - n - 1 postlogd
",
            self.address()
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Everything for the domain, or for its users, goes into one Maildir.
fn primary_cf(folder: &Path, duties: &Duties) -> String {
    let folder = folder.display();
    let boxes = match duties.users {
        [] => "static:all/".to_owned(),
        users => {
            let boxes: Vec<_> = users.iter().map(|user| format!("{{ {user}@{DOMAIN} = all/ }}")).collect();
            format!("inline:{{ {} }}", boxes.join(" "))
        }
    };
    let tls = match duties.certificate {
        Some(certificate) => format!(
            "smtpd_tls_security_level = may
smtpd_tls_cert_file = {}
smtpd_tls_key_file = {}
",
            certificate.file().display(),
            certificate.key_file().display()
        ),
        None => "smtpd_tls_security_level = none\n".to_owned(),
    };
    format!(
        "myhostname = primary.{DOMAIN}
virtual_mailbox_domains = {DOMAIN}
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = {boxes}
virtual_mailbox_limit = 0
virtual_uid_maps = static:{NOBODY}
virtual_gid_maps = static:{NOBODY}
{tls}"
    )
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
            eprintln!("--- the end of Postfix's log\n{end}\n---");
        }
        // `stop` waits for deliveries under way; `abort` does not. Neither minds a Postfix that does not run.
        self.control("abort");
    }
}

fn user_id(name: &str) -> u32 {
    let passwd = fs::read_to_string("/etc/passwd").expect("a machine has users");
    let user = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name);
    let id = user.and_then(|fields| fields.get(2)?.parse().ok());
    id.unwrap_or_else(|| panic!("no user {name}: installing postfix makes it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, Envelope};

    #[test]
    fn a_postfix_that_was_stopped_and_started_again_delivers() {
        let postfix = Postfix::prepare();
        for round in 1..=2 {
            postfix.start();
            let mut client = Client::hello(postfix.address()).unwrap();
            assert_eq!(client.send(&Envelope::to("bob"), b"Subject: x\r\n\r\nbody\r\n").unwrap().code, 250);
            eventually(CONTROL_LIMIT, "a file in the Maildir", || postfix.delivered().len() == round);
            postfix.stop();
            assert!(!postfix.greets());
        }
        let text = fs::read_to_string(&postfix.delivered()[0]).unwrap();
        assert!(text.ends_with("Subject: x\n\nbody\n"), "{text}");
    }
}
