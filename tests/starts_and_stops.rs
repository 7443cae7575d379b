//! Starting and stopping as good programs do it: exit codes that mean something, messages that say what to do, and
//! nothing lost on the way.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use backupmx_relay_api::{
    admin::{self, Problem},
    path,
    status::Account,
};
use support::{Client, Envelope, Primary, Relay, relay::http};
use tempfile::TempDir;

/// The data folder cannot be used.
const FOLDER: i32 = 3;
/// Anything else.
const FAILED: i32 = 1;

const LIMIT: Duration = Duration::from_secs(30);
/// Nobody listens there; nothing is asked of it.
const PRIMARY: &str = "127.0.0.1:9";
const CONTENT: &[u8] = b"Subject: x\r\n\r\nbody\r\n";

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("127.0.0.1 has a free port");
    let address = taken.local_addr().expect("a listener has an address").to_string();
    for flag in ["--listen", "--observe", "--console"] {
        let ended = Relay::before(nobody()).address(flag, &address).fail();
        ended.expect_failure(FAILED, &[&address]);
    }
}

#[test]
fn a_data_folder_that_is_no_folder_is_refused() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let file = folder.path().join("file");
    fs::write(&file, "x").expect("a temporary folder can be written");
    for data in [file.clone(), file.join("data")] {
        let ended = Relay::before(nobody()).data(&data).fail();
        ended.expect_failure(FOLDER, &[&data.display().to_string()]);
    }
}

#[test]
fn a_data_folder_without_rights_is_refused() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let inside = folder.path().join("data");
    fs::create_dir(&inside).expect("a temporary folder can be written");
    for (outer, inner) in [(0o755, 0o555), (0o755, 0o000), (0o000, 0o777)] {
        fs::set_permissions(&inside, PermissionsExt::from_mode(inner)).expect("our folder is ours");
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(outer)).expect("our folder is ours");
        let ended = Relay::before(nobody()).unprivileged().data(&inside).fail();
        // So that the folder can be removed, and looked into next time.
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("our folder is ours");
        ended.expect_failure(FOLDER, &[&inside.display().to_string()]);
    }
    fs::set_permissions(&inside, PermissionsExt::from_mode(0o755)).expect("our folder is ours");
}

#[test]
fn a_folder_of_another_program_is_refused_and_left_as_it_is() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    fs::write(folder.path().join("accounts.db"), "somebody's").expect("a temporary folder can be written");
    let ended = Relay::before(nobody()).data(folder.path()).fail();
    ended.expect_failure(FOLDER, &[&folder.path().display().to_string()]);
    let left: Vec<_> = fs::read_dir(folder.path()).expect("it is still there").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(fs::read_to_string(left[0].path()).expect("it is still there"), "somebody's");
}

#[test]
fn a_folder_of_a_newer_relay_is_refused_and_left_as_it_is() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let marker = folder.path().join("backupmx-spool");
    fs::write(&marker, "backupmx-spool 99\n").expect("a temporary folder can be written");
    let ended = Relay::before(nobody()).data(folder.path()).fail();
    ended.expect_failure(FOLDER, &[&folder.path().display().to_string(), "99", "newer program"]);
    assert_eq!(fs::read_to_string(&marker).expect("it is still there"), "backupmx-spool 99\n");
}

#[test]
fn a_second_relay_on_the_same_folder_is_refused_and_the_first_one_works_on() {
    let mut first = Relay::before(nobody()).start();
    let ended = Relay::before(nobody()).data(first.data()).fail();
    ended.expect_failure(FOLDER, &[&first.data().display().to_string()]);
    send(&first);
    // The lock goes with its holder, however that one ends.
    first.kill9();
    let second = Relay::before(nobody()).data(first.data()).start();
    assert_eq!(second.account(), Account { accepted: 1, queued: 1, ..Account::default() });
}

#[test]
fn a_missing_data_folder_is_made_for_its_owner_alone() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let data = folder.path().join("var/spool/backupmx");
    let relay = Relay::before(nobody()).data(&data).start();
    send(&relay);
    let mode = fs::metadata(&data).expect("it was made").permissions().mode() & 0o777;
    assert_eq!(mode & 0o007, 0, "mode {mode:o}: mail is nobody else's business");
}

#[test]
fn sigterm_ends_an_idle_relay_with_0_and_it_comes_back_with_all_its_mail() {
    let mut relay = Relay::before(nobody()).start();
    let mut idle = Client::hello(relay.smtp()).expect("the relay takes connections");
    send(&relay);
    assert_eq!(relay.terminate(), 0, "{}", relay.log().end());
    let goodbye = idle.reply().expect("an idle client is told");
    assert!(goodbye.is("421 4.3.2"), "{goodbye}");
    assert!(idle.is_closed());
    relay.start_again();
    assert_eq!(relay.account(), Account { accepted: 1, queued: 1, ..Account::default() });
}

#[test]
fn sigterm_lets_a_message_that_is_coming_in_finish() {
    let mut relay = Relay::before(nobody()).start();
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let begun = client.begin(&Envelope::to("bob"), CONTENT).expect("the relay answers");
    assert_eq!(begun, Ok(()));
    client.raw(b"Subject: x\r\n").expect("the relay reads");
    relay.ask_to_stop();
    support::eventually(LIMIT, "no new sessions", || Client::hello(relay.smtp()).is_err());
    client.raw(b"\r\nbody\r\n.\r\n").expect("the relay still reads");
    let reply = client.reply().expect("the relay still answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
    assert_eq!(relay.wait_for_end(), 0, "{}", relay.log().end());
    relay.start_again();
    assert_eq!(relay.account(), Account { accepted: 1, queued: 1, ..Account::default() });
}

#[test]
fn sigterm_in_mid_drain_loses_nothing() {
    let mut primary = Primary::away();
    let mut relay = Relay::before(primary.address()).start();
    for _ in 0..200 {
        send(&relay);
    }
    primary.return_now();
    primary.wait_for(1, LIMIT);
    assert_eq!(relay.terminate(), 0, "{}", relay.log().end());
    relay.start_again();
    let done = relay.until(LIMIT, "nothing waits", |status| status.queue.messages == 0);
    assert_eq!(done.account, Account { accepted: 200, delivered: 200, ..Account::default() });
    // Asked to stop, it hears out the primary, so that nothing comes twice.
    assert_eq!(primary.count(), 200);
}

#[test]
fn the_token_is_made_once_for_its_owner_alone_and_opens_the_admin_api() {
    let mut relay = Relay::before(nobody()).start();
    let file = relay.data().join("admin-token");
    let mode = fs::metadata(&file).expect("the token was made").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let token = relay.token();
    let text = fs::read_to_string(&file).expect("the token can be read");
    assert_eq!(text.lines().collect::<Vec<_>>(), [&*token]);
    assert!(token.len() >= 20, "a token of {} characters can be guessed", token.len());
    let log = relay.log().whole();
    assert!(!log.contains(&token), "the token is in the log");

    for wrong in [None, Some(""), Some("wrong"), Some(&token[1..])] {
        for answer in
            [http::get(relay.console(), admin::STATUS, wrong), http::post(relay.console(), admin::FLUSH, wrong)]
        {
            assert_eq!((answer.code, &*answer.kind), (401, "application/problem+json"), "{wrong:?}");
            let problem: Problem = serde_json::from_str(&answer.body).expect("a problem is told as RFC 9457 has it");
            assert_eq!(problem.status, 401);
        }
    }
    let answer = http::get(relay.console(), admin::STATUS, Some(&token));
    assert_eq!(answer.code, 200);
    assert_eq!(relay.flush(), 0);

    relay.kill9();
    relay.start_again();
    assert_eq!(relay.token(), token);
}

#[test]
fn unknown_paths_and_methods_get_a_problem_document() {
    let relay = Relay::before(nobody()).start();
    let token = relay.token();
    for answer in [
        http::get(relay.console(), "/api/v1/nothing", Some(&token)),
        http::get(relay.console(), admin::FLUSH, Some(&token)),
    ] {
        assert!([404, 405].contains(&answer.code), "{answer:?}");
        assert_eq!(answer.kind, "application/problem+json", "{answer:?}");
    }
    assert_eq!(http::get(relay.observe(), "/nothing", None).code, 404);
    for path in [path::HEALTHZ, path::READYZ, path::STATUS, path::METRICS] {
        assert_eq!(http::get(relay.observe(), path, None).code, 200, "{path}");
    }
    // What gives orders is not on the port that needs no token.
    assert_eq!(http::post(relay.observe(), admin::FLUSH, Some(&token)).code, 404);
}

#[test]
fn port_0_takes_a_free_port_and_the_log_tells_which() {
    let any = "127.0.0.1:0";
    let setup = Relay::before(nobody()).address("--listen", any).address("--observe", any).address("--console", any);
    let relay = setup.start();
    assert_ne!(relay.smtp().port(), 0);
    assert!(relay.is_ready());
    send(&relay);
    assert_eq!(relay.account().queued, 1);
}

/// The unit's own line, as systemd would run it, with this machine's paths and ports.
#[test]
fn the_example_for_systemd_starts_a_relay_for_its_domain() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/relay-standalone");
    let unit = fs::read_to_string(folder.join("backupmx-relay.service")).expect("it is there");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("it starts something");
    let (program, flags) = line.split_once(' ').expect("it has flags");
    assert!(program.ends_with("/backupmx-relay"), "{program}");
    let config = folder.join("relay.yaml").to_string_lossy().into_owned();
    let flags = flags.replace("/etc/backupmx/relay.yaml", &config);
    let mut words: Vec<_> = flags.split(' ').collect();
    // Data and port are the test's, as each relay has its own.
    for theirs in ["--data", "--listen"] {
        let at = words.iter().position(|word| *word == theirs).unwrap_or_else(|| panic!("{theirs} is missing: {line}"));
        words.drain(at..at + 2);
    }
    assert_eq!(words, ["--config", &*config]);
    let relay = Relay::bare().flags(&words).start();
    let mut client = Client::hello(relay.smtp()).expect("it takes sessions");
    assert!(client.say("MAIL FROM:<ann@client.example>").expect("it answers").is("250"));
    assert!(client.say("RCPT TO:<bob@example.org>").expect("it answers").is("250"));
}

fn nobody() -> SocketAddr {
    PRIMARY.parse().expect("it is an address")
}

fn send(relay: &Relay) {
    let sent = || -> io::Result<_> { Client::hello(relay.smtp())?.send(&Envelope::to("bob"), CONTENT) };
    let reply = sent().expect("the relay takes mail");
    assert!(reply.is("250 2.0.0"), "{reply}");
}
