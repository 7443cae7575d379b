//! The command line: what people change first, and where on this machine the relay works.

use std::{
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use backupmx_relay_api::config::{Host, WhenPrimaryUp};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    config::{self, Config, ConfigError},
    mail::id::MessageId,
    smtp::certificates::Files,
};

/// Keeps mail while the primary mail server is away, and hands it over when it is back.
///
/// It stands in DNS behind the primary (a higher MX number), takes mail for the listed domains, keeps it on disk, watches the
/// primary, and delivers as soon as that answers. What it answered 250 to is on disk before it says so.
#[derive(Parser, Debug)]
#[command(name = "backupmx-relay", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Where and how to run.
    #[command(flatten)]
    pub flags: Flags,
}

const AFTER_HELP: &str = "\
Examples:
  backupmx-relay --domain example.org --primary mx1.example.org:25
      Takes mail for example.org on port 2525, keeps it in ./backupmx-data, delivers to mx1.
  backupmx-relay --config relay.yaml --data /var/lib/backupmx --listen '[::]:25'
      The same with a config document; start one with: backupmx-relay print-config

Then look:
  curl http://127.0.0.1:9125/status       what waits, and whether the primary answers
  curl http://127.0.0.1:9125/metrics      for Prometheus
Then act:
  token=$(cat backupmx-data/admin-token)
  curl -X POST -H \"Authorization: Bearer $token\" http://127.0.0.1:8025/api/v1/flush

Exit codes:
  0  stopped as asked
  1  failed while running, or a port is in use
  2  wrong usage or configuration
  3  the data folder cannot be used: in use, of another program, of a newer format, unreadable";

const SPOOL_HELP: &str = "\
Examples, with the relay stopped:
  backupmx-relay --data /var/lib/backupmx spool check
      Reads all that is kept and says whether it is as it was written.
  backupmx-relay --data /var/lib/backupmx spool list --query example.org
      The open messages from or to addresses with that in them.
  backupmx-relay --data /var/lib/backupmx spool export --all /srv/rescued
      Each open message as a file, with its envelope in another, to be sent again by hand.

None of them changes anything in the folder, so it may be mounted read-only. While a relay runs on it, ask its admin API.

Exit codes:
  0  done; nothing is damaged, as far as was asked
  1  something is damaged, the message is not known, or what was to be made cannot be made
  2  wrong usage
  3  the folder cannot be looked into: missing, in use, of another program, of a newer format, unreadable";

/// What to do instead of running.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Check the configuration that these flags and files give, and stop.
    CheckConfig,
    /// Print that configuration with all defaults filled in, as a document for --config.
    PrintConfig,
    /// Look into the data folder of a relay that is stopped: check, list, show, export.
    #[command(subcommand, after_help = SPOOL_HELP)]
    Spool(SpoolCommand),
}

/// What to look for. They need --data and no other flag, and change nothing in that folder.
#[derive(Subcommand, Clone, Debug)]
pub enum SpoolCommand {
    /// Read every record and every large file, and say what is damaged and what helps.
    Check,
    /// Print a line for each message that waits or is held, oldest first.
    List {
        /// Only those with this in an address, in whatever case of letters.
        #[arg(long, value_name = "TEXT")]
        query: Option<String>,
    },
    /// Print all that is known of a message: envelope, how each recipient stands, what happened when.
    Show {
        /// Its id, as in the log, in `Received:` and in the list.
        #[arg(value_name = "ID")]
        id: MessageId,
    },
    /// Write a message as its sender sent it, to the byte: to standard output, or into new files.
    #[command(
        override_usage = "backupmx-relay spool export ID [--output FILE]\n       backupmx-relay spool export --all DIR"
    )]
    Export {
        /// Its id, as in the log, in `Received:` and in the list.
        #[arg(value_name = "ID", required_unless_present = "all")]
        id: Option<MessageId>,
        /// Into this file, which must not be there, instead of standard output.
        #[arg(long, value_name = "FILE", conflicts_with = "all")]
        output: Option<PathBuf>,
        /// Each open message into this folder: ID.eml, and ID.json with its envelope. Made if missing.
        #[arg(long, value_name = "DIR", conflicts_with = "id")]
        all: Option<PathBuf>,
    },
}

/// Every flag is an environment variable too.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// Config document (YAML or JSON). --domain, --primary and --hostname go before what it says. It is read again when it
    /// changes; one that cannot be used changes nothing.
    #[arg(long, env = "BACKUPMX_CONFIG", value_name = "FILE", global = true, hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Domain to take mail for; *.example.org means all below it. Give it again for each domain.
    #[arg(
        long = "domain",
        env = "BACKUPMX_DOMAIN",
        value_name = "DOMAIN",
        value_delimiter = ',',
        global = true,
        hide_env_values = true
    )]
    pub domains: Vec<String>,
    /// The server that owns the mailboxes. Give it again for others that are tried in order.
    #[arg(long = "primary", env = "BACKUPMX_PRIMARY", value_name = "HOST[:PORT]", value_delimiter = ',', value_parser = host, global = true, hide_env_values = true)]
    pub primaries: Vec<Host>,
    /// Our own name, as in the MX record [default: this machine's name].
    #[arg(long, env = "BACKUPMX_HOSTNAME", value_name = "NAME", global = true, hide_env_values = true)]
    pub hostname: Option<String>,
    /// What the key `cordoned` calls this relay [default: this machine's name].
    #[arg(long, env = "BACKUPMX_NAME", value_name = "NAME", global = true, hide_env_values = true)]
    pub name: Option<String>,
    /// What happens to mail that comes in while the primary answers [default: PassThrough].
    #[arg(long, env = "BACKUPMX_WHEN_PRIMARY_UP", value_name = "WHAT", global = true, hide_env_values = true)]
    pub when_primary_up: Option<WhenPrimaryUpFlag>,
    /// Folder for the spool; made if missing, used by one relay at a time.
    #[arg(
        long,
        env = "BACKUPMX_DATA",
        value_name = "FOLDER",
        default_value = "./backupmx-data",
        global = true,
        hide_env_values = true
    )]
    pub data: PathBuf,
    /// Address for SMTP; [::] takes IPv4 too, unless an IPv4 address has the same port. Port 25 needs privilege, 2525 does not. Give it again for others
    /// [default: [::]:2525, unless there is --listen-proxy].
    #[arg(
        long,
        env = "BACKUPMX_LISTEN",
        value_name = "ADDRESS",
        value_delimiter = ',',
        global = true,
        hide_env_values = true
    )]
    pub listen: Vec<SocketAddr>,
    /// Address for SMTP behind a load balancer that speaks the PROXY protocol; proxyProtocol.trusted names who may.
    #[arg(
        long,
        env = "BACKUPMX_LISTEN_PROXY",
        value_name = "ADDRESS",
        value_delimiter = ',',
        global = true,
        hide_env_values = true
    )]
    pub listen_proxy: Vec<SocketAddr>,
    /// Certificate for STARTTLS, in PEM, with those between it and its root. It is read again when it changes. Give it and
    /// --tls-key again for other names; the first is for clients that ask for none of them.
    #[arg(
        long,
        env = "BACKUPMX_TLS_CERT",
        value_name = "FILE",
        value_delimiter = ',',
        global = true,
        hide_env_values = true
    )]
    pub tls_cert: Vec<PathBuf>,
    /// Its private key, in PEM.
    #[arg(
        long,
        env = "BACKUPMX_TLS_KEY",
        value_name = "FILE",
        value_delimiter = ',',
        global = true,
        hide_env_values = true
    )]
    pub tls_key: Vec<PathBuf>,
    /// Address for /metrics, /status, /healthz and /readyz. No secrets, but not for the world.
    #[arg(
        long,
        env = "BACKUPMX_OBSERVE",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9125",
        global = true,
        hide_env_values = true
    )]
    pub observe: SocketAddr,
    /// Address for the admin API, which asks for the token.
    #[arg(
        long,
        env = "BACKUPMX_CONSOLE",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8025",
        global = true,
        hide_env_values = true
    )]
    pub console: SocketAddr,
    /// File with the admin token; made at first start, read again when it changes [default: admin-token in the data folder].
    #[arg(long, env = "BACKUPMX_ADMIN_TOKEN_FILE", value_name = "FILE", global = true, hide_env_values = true)]
    pub admin_token_file: Option<PathBuf>,
    /// How log lines look; they go to standard error.
    #[arg(
        long,
        env = "BACKUPMX_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text",
        global = true,
        hide_env_values = true
    )]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug (also what is refused, and each probe).
    #[arg(
        long,
        env = "BACKUPMX_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info",
        global = true,
        hide_env_values = true
    )]
    pub log_level: tracing_subscriber::filter::LevelFilter,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `WhenPrimaryUp` as a flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum WhenPrimaryUpFlag {
    /// Ask the primary during the session: its verdict is what senders hear, and nothing is kept unless it fails.
    #[value(name = "PassThrough", alias = "pass-through")]
    PassThrough,
    /// Accept, store, deliver at once.
    #[value(name = "Queue", alias = "queue")]
    Queue,
}

impl Flags {
    /// The document of --config, or the default one, with what the flags say in its place; checked. Also the keys in it that
    /// a newer program wrote, which are ignored.
    pub fn config(&self) -> Result<(Config, Vec<String>), ConfigError> {
        let text = self.config.as_deref().map(config::read).transpose()?;
        self.config_of(text.as_deref())
    }

    /// The same for what that file was found to hold.
    pub fn config_of(&self, text: Option<&str>) -> Result<(Config, Vec<String>), ConfigError> {
        let path = self.config.as_deref().unwrap_or(Path::new(""));
        let (mut document, ignored_keys) =
            text.map_or_else(|| Ok(Default::default()), |text| config::parse(text, path))?;
        if !self.domains.is_empty() {
            document.domains.clone_from(&self.domains);
        }
        if !self.primaries.is_empty() {
            document.primary.hosts.clone_from(&self.primaries);
        }
        document.when_primary_up = match self.when_primary_up {
            None => document.when_primary_up,
            Some(WhenPrimaryUpFlag::PassThrough) => WhenPrimaryUp::PassThrough,
            Some(WhenPrimaryUpFlag::Queue) => WhenPrimaryUp::Queue,
        };
        if let Some(hostname) = &self.hostname {
            document.hostname.clone_from(hostname);
        } else if document.hostname.is_empty() {
            document.hostname = machine();
        }
        let name = self.name.clone().filter(|name| !name.is_empty()).unwrap_or_else(machine);
        let mut config = config::check(document)?;
        config.is_cordoned = config.document.cordoned.contains(&name);
        if !self.listen_proxy.is_empty() && config.proxies.is_empty() {
            return Err(ConfigError::Value {
                key: "proxyProtocol.trusted",
                reason: "is empty, so nobody could connect to --listen-proxy; list the proxies' networks".into(),
            });
        }
        Ok((config, ignored_keys))
    }

    /// Where clients connect by themselves.
    pub fn listen(&self) -> Vec<SocketAddr> {
        if self.listen.is_empty() && self.listen_proxy.is_empty() {
            return vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, backupmx_relay_api::port::SMTP))];
        }
        self.listen.clone()
    }

    /// The files of --tls-cert and --tls-key, in pairs. What they hold is not looked at.
    pub fn certificates(&self) -> Result<Vec<Files>, ConfigError> {
        let (certificates, keys) = (&self.tls_cert, &self.tls_key);
        if certificates.len() != keys.len() {
            let reason = format!(
                "is given {} times, and --tls-key {} times; give both, once for each certificate",
                certificates.len(),
                keys.len()
            );
            return Err(ConfigError::Value { key: "--tls-cert", reason });
        }
        let pairs = certificates.iter().cloned().zip(keys.iter().cloned());
        Ok(pairs.map(|(certificate, key)| Files { certificate, key }).collect())
    }

    /// Where the admin token is.
    pub fn token_path(&self) -> PathBuf {
        self.admin_token_file.clone().unwrap_or_else(|| Path::new(&self.data).join(crate::admin::TOKEN_FILE))
    }
}

/// Its name, which is a pod's own.
fn machine() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// `mx1.example.org`, `mx1.example.org:25`, `192.0.2.1:25`, `[2001:db8::1]:25`.
fn host(text: &str) -> Result<Host, String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().map_err(|_| format!("{port:?} is no port; write for instance {host}:25"))?)
        }
        _ => (text, backupmx_relay_api::port::SMTP_DELIVERY),
    };
    let host = host.trim_matches(['[', ']']);
    if host.is_empty() {
        Err("a host name is missing".into())
    } else {
        Ok(Host { host: host.to_owned(), port, xclient: false })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_primary_is_a_host_with_or_without_a_port() {
        for (text, name, port) in [
            ("mx1.example.org:26", "mx1.example.org", 26),
            ("mx1.example.org", "mx1.example.org", 25),
            ("192.0.2.1:25", "192.0.2.1", 25),
            ("[2001:db8::1]:26", "2001:db8::1", 26),
            ("[2001:db8::1]", "2001:db8::1", 25),
            ("2001:db8::1", "2001:db8::1", 25),
        ] {
            assert_eq!(host(text), Ok(Host { host: name.into(), port, xclient: false }), "{text}");
        }
        for text in ["", ":25", "mx1:x", "mx1:99999"] {
            assert!(host(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn flags_go_before_the_document_and_the_machine_gives_the_name() {
        let flags = |arguments: &[&str]| Cli::parse_from([&["backupmx-relay"], arguments].concat()).flags.config();
        let (config, _) = flags(&["--domain", "a.example,b.example", "--primary", "mx1"]).unwrap();
        assert_eq!(config.document.domains, ["a.example", "b.example"]);
        assert!(!config.document.hostname.is_empty());
        assert!(flags(&["--domain", "a.example"]).is_err(), "no primary");
        let proxied = ["--domain", "a.example", "--primary", "mx1", "--listen-proxy", "[::]:2526"];
        assert!(flags(&proxied).unwrap_err().to_string().contains("proxyProtocol.trusted"));
    }

    #[test]
    fn a_relay_is_cordoned_by_its_own_name() {
        let document = "{domains: [a.example], primary: {hosts: [{host: mx1}]}, cordoned: [mx-0, mx-1]}";
        for (arguments, is_cordoned) in [(&["--name", "mx-1"][..], true), (&["--name", "mx-2"], false), (&[], false)] {
            let flags = Cli::parse_from([&["backupmx-relay"], arguments].concat()).flags;
            assert_eq!(flags.config_of(Some(document)).unwrap().0.is_cordoned, is_cordoned, "{arguments:?}");
        }
    }

    #[test]
    fn a_relay_listens_where_it_is_told_and_else_on_2525() {
        let listen = |arguments: &[&str]| Cli::parse_from([&["backupmx-relay"], arguments].concat()).flags.listen();
        assert_eq!(listen(&[]), ["[::]:2525".parse().unwrap()]);
        assert_eq!(listen(&["--listen-proxy", "[::]:2526"]), []);
        let two = ["0.0.0.0:25".parse().unwrap(), "[::]:25".parse().unwrap()];
        assert_eq!(listen(&["--listen", "0.0.0.0:25", "--listen", "[::]:25"]), two);
    }

    #[test]
    fn each_certificate_has_its_key() {
        let files =
            |arguments: &[&str]| Cli::parse_from([&["backupmx-relay"], arguments].concat()).flags.certificates();
        assert_eq!(files(&["--tls-cert", "a.crt,b.crt", "--tls-key", "a.key,b.key"]).unwrap().len(), 2);
        assert!(files(&["--tls-cert", "a.crt"]).is_err());
        assert!(files(&["--tls-key", "a.key"]).is_err());
    }
}
