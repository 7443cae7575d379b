//! Who sets a relay up wrongly is told what is wrong, where, and what would be right; exit code 2 says that it is the
//! setup.

use std::{fs, net::SocketAddr};

use support::{HOSTNAME, Relay};
use tempfile::TempDir;

/// Wrong usage or configuration.
const USAGE: i32 = 2;
/// Nobody listens there; nothing is asked of it.
const PRIMARY: &str = "127.0.0.1:9";

#[test]
fn an_unknown_key_is_named_with_its_place() {
    let ended = Relay::before(nobody()).config("limits:\n  messageSize: 1Mi\n  conections: 5\n").fail();
    ended.expect_failure(USAGE, &["conections", "line 3", "column 3"]);
}

#[test]
fn a_config_file_that_cannot_be_read_is_named() {
    let ended = Relay::before(nobody()).flags(&["--config", "/nonexistent/relay.yaml"]).fail();
    ended.expect_failure(USAGE, &["/nonexistent/relay.yaml"]);
}

#[test]
fn bad_values_in_the_config_are_named() {
    let bad = [
        ("limits: {messageSize: big}", "big"),
        ("limits: {recipients: many}", "line 1"),
        ("limits: {connections: 0}", "connections"),
        ("primary: {probe: {interval: fast}}", "fast"),
        ("primary: {probe: {failureThreshold: -1}}", "line 1"),
        ("primary: {delivery: {maxConnections: 0}}", "maxConnections"),
        ("whenPrimaryUp: Sometimes", "Sometimes"),
        ("schema: 99\nwhenPrimaryUp: Sometimes", "Sometimes"),
        ("limits: [", "line"),
        ("just text", "line"),
    ];
    for (yaml, named) in bad {
        let ended = Relay::before(nobody()).config(yaml).fail();
        ended.expect_failure(USAGE, &[named]);
    }
}

#[test]
fn bad_flags_are_named() {
    let bad: [(&[&str], &str); 10] = [
        (&["--domain", "exa mple.org", "--primary", PRIMARY], "exa mple.org"),
        (&["--domain", "", "--primary", PRIMARY], "domain"),
        (&["--domain", "example.org", "--primary", "mx1.example.org:smtp"], "mx1.example.org:smtp"),
        (&["--domain", "example.org", "--primary", "mx1.example.org:99999"], "99999"),
        (&["--domain", "example.org", "--primary", PRIMARY, "--hostname", "not a name"], "not a name"),
        (&["--domain", "example.org", "--primary", PRIMARY, "--log-format", "xml"], "xml"),
        (&["--domain", "example.org"], "primary"),
        (&["--primary", PRIMARY], "domain"),
        (&["--domain", "example.org", "--primary", PRIMARY, "--listen", "everywhere"], "everywhere"),
        (&["--colour"], "--colour"),
    ];
    for (flags, named) in bad {
        let hostname: &[&str] = if flags.contains(&"--hostname") { &[] } else { &["--hostname", HOSTNAME] };
        Relay::run(&[&["--data", "/nonexistent/data"], hostname, flags].concat()).expect_exit(USAGE, &[named]);
    }
}

#[test]
fn a_relay_that_was_told_nothing_says_what_it_needs() {
    let ended = Relay::run(&["--data", "/nonexistent/data"]);
    ended.expect_failure(USAGE, &["--domain"]);
}

#[test]
fn help_teaches_every_flag() {
    let ended = Relay::run(&["--help"]);
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    let flags = [
        "--config",
        "--domain",
        "--primary",
        "--hostname",
        "--name",
        "--data",
        "--listen",
        "--observe",
        "--console",
        "--log-format",
        "--log-level",
        "--admin-token-file",
    ];
    for flag in flags {
        let variable = format!("BACKUPMX_{}", flag[2..].to_uppercase().replace('-', "_"));
        assert!(ended.stdout.contains(flag) && ended.stdout.contains(&variable), "{flag}:\n{}", ended.stdout);
    }
    for subcommand in ["check-config", "print-config", "spool"] {
        assert!(ended.stdout.contains(subcommand), "{subcommand}:\n{}", ended.stdout);
    }
    let version = Relay::run(&["--version"]);
    assert_eq!(
        (version.code, &*version.stdout),
        (Some(0), concat!("backupmx-relay ", env!("CARGO_PKG_VERSION"), "\n"))
    );
}

#[test]
fn check_config_says_yes_or_what_is_wrong_and_leaves_no_trace() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let (file, data) = (folder.path().join("relay.yaml"), folder.path().join("data"));
    let arguments = ["check-config", "--config", &file.to_string_lossy(), "--data", &data.to_string_lossy()];
    let good = "domains: [example.org]\nhostname: mx2.example.org\nprimary: {hosts: [{host: mx1.example.org}]}\n";
    fs::write(&file, good).expect("a temporary folder can be written");
    let ended = Relay::run(&arguments);
    assert_eq!(ended.code, Some(0), "{ended}");
    fs::write(&file, good.replace("hostname", "hostnam")).expect("a temporary folder can be written");
    Relay::run(&arguments).expect_failure(USAGE, &["hostnam", "line 2", "column 1"]);
    assert!(!data.exists());
}

#[test]
fn print_config_prints_a_document_that_means_the_same() {
    let flags = ["--domain", "example.org", "--domain", "*.example.net", "--primary", "mx1.example.org:26"];
    let printed = Relay::run(&[&flags[..], &["--hostname", "mx2.example.org", "print-config"]].concat());
    assert_eq!(printed.code, Some(0), "{printed}");
    for part in ["example.org", "*.example.net", "mx1.example.org", "26", "mx2.example.org", "messageSize", "50Mi"] {
        assert!(printed.stdout.contains(part), "{part}:\n{}", printed.stdout);
    }
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    fs::write(&file, &printed.stdout).expect("a temporary file can be written");
    let again = Relay::run(&["--config", &file.path().to_string_lossy(), "print-config"]);
    assert_eq!(again, printed);
}

#[test]
fn the_example_shows_every_key_with_its_default() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/relay.yaml");
    let written = Relay::run(&["print-config", "--config", example]);
    let flags = ["--domain", "example.org", "--primary", "mx1.example.org", "--hostname", "mx2.example.org"];
    let defaults = Relay::run(&[&["print-config"], &flags[..]].concat());
    assert_eq!((defaults.code, &defaults), (Some(0), &written));
    let text = fs::read_to_string(example).expect("the example is there");
    for line in defaults.stdout.lines().filter(|line| !line.trim_start().starts_with('-')) {
        let key = line.split(':').next().unwrap_or(line);
        assert!(text.contains(&format!("{key}:")), "{key} is not shown");
    }
}

#[test]
fn the_environment_says_what_flags_say_and_flags_win() {
    let relay = Relay::bare()
        .environment("BACKUPMX_DOMAIN", "example.org")
        .environment("BACKUPMX_PRIMARY", PRIMARY)
        .environment("BACKUPMX_HOSTNAME", "from.environment.example")
        .start();
    assert_eq!(relay.status().hostname, "from.environment.example");
    let relay = Relay::before(nobody()).environment("BACKUPMX_HOSTNAME", "from.environment.example").start();
    assert_eq!(relay.status().hostname, HOSTNAME);
}

fn nobody() -> SocketAddr {
    PRIMARY.parse().expect("it is an address")
}
