//! `backupmx-relay spool` tells what a stopped relay keeps, gives it back to the byte, and never changes anything there.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use serde_json::json;
use support::{
    Client, Envelope, Primary, Relay,
    hash::{Hash, difference, sha256},
    messages,
    primary::{Rule, Stage},
    program::{self, Ended},
};
use tempfile::TempDir;

/// Something is damaged or unknown, or cannot be made.
const FAILED: i32 = 1;
/// The data folder cannot be looked into.
const FOLDER: i32 = 3;

const LIMIT: Duration = Duration::from_secs(60);
/// The primary's refusals count at once, without a second look.
const FINAL: &str = "primary: {breaker: {returnWindow: 0s}}";
/// Nobody listens there; nothing is asked of it.
const PRIMARY: &str = "127.0.0.1:9";
/// Above 256 KiB a message has a file of its own (docs/spool.md).
const LARGE_BYTES: usize = 600_000;
/// The segment of a relay's first run.
const SEGMENT_1: &str = "log/0000000000000001.seg";

#[test]
fn every_message_is_exported_as_it_was_sent_with_its_envelope_beside_it() {
    let mut relay = Relay::before(nobody()).start();
    let mut sent = Vec::new();
    for (number, message) in messages::awkward().into_iter().enumerate() {
        sent.push((send(&relay, &Envelope::to(&format!("m{number}")), &message.content), message));
    }
    relay.terminate();
    let folder = TempDir::new().expect("a temporary folder can be made");
    let to = folder.path().join("made/for/this");
    let ended = spool(relay.data(), &["export", "--all", &text(&to)]);
    assert_eq!((ended.code, &*ended.stdout, &*ended.stderr), (Some(0), "", ""), "{ended}");
    assert_eq!(mode(&to), 0o700);
    assert_eq!(fs::read_dir(&to).expect("it was made").count(), 2 * sent.len());
    for (number, (id, message)) in sent.iter().enumerate() {
        let mail = to.join(format!("{id}.eml"));
        let exported = fs::read(&mail).expect("it was exported");
        if let Some(difference) = difference(&message.content, &exported) {
            panic!("{}: {difference}", message.name);
        }
        let file = to.join(format!("{id}.json"));
        assert_eq!((mode(&mail), mode(&file)), (0o600, 0o600));
        let envelope: serde_json::Value = serde_json::from_slice(&fs::read(&file).expect("it was exported"))
            .unwrap_or_else(|error| panic!("{}: {error}", message.name));
        assert_eq!(envelope["reversePath"], "sender@client.example");
        let recipients = json!([{"address": format!("m{number}@example.org"), "parameters": "", "state": "waiting"}]);
        assert_eq!(envelope["recipients"], recipients);
        assert_eq!((&envelope["client"], &envelope["helo"]), (&json!("127.0.0.1"), &json!("client.example")));
    }
    // What is there stays as it is.
    let before = listing(&to);
    spool(relay.data(), &["export", "--all", &text(&to)]).expect_failure(FAILED, &["is there already", "another"]);
    assert_eq!(listing(&to), before);

    for (id, message) in &sent {
        let output = Relay::command(&[]).args(arguments(relay.data(), &["export", id])).output().expect("it runs");
        assert_eq!((output.status.code(), difference(&message.content, &output.stdout)), (Some(0), None));
    }
    let (id, message) = &sent[0];
    let file = folder.path().join("one.eml");
    assert_eq!(spool(relay.data(), &["export", id, "--output", &text(&file)]).code, Some(0));
    assert_eq!((fs::read(&file).expect("it was exported"), mode(&file)), (message.content.clone(), 0o600));
    fs::write(&file, "mine").expect("a temporary folder can be written");
    spool(relay.data(), &["export", id, "--output", &text(&file)]).expect_failure(FAILED, &["one.eml", "another"]);
    assert_eq!(fs::read(&file).expect("it is still there"), b"mine");
}

#[test]
fn open_mail_is_listed_oldest_first_and_found_by_any_address() {
    let primary = Primary::start();
    primary.misbehave(Rule::answer(Stage::Rcpt, "550 5.1.1 no such user").about("held@"));
    primary.misbehave(Rule::answer(Stage::Rcpt, "450 4.2.1 mailbox busy").about("busy@"));
    let mut relay = Relay::before(primary.address()).config(FINAL).start();
    let three = Envelope::new("", &["Delivered@example.org", "busy@example.org", "held@example.org"]);
    let ids = [
        send(&relay, &Envelope::to("held"), b"x\r\n"),
        send(&relay, &three, b""),
        send(&relay, &Envelope::to("busy"), &content(LARGE_BYTES)),
        send(&relay, &Envelope::new(r#""<\" >"@client.example"#, &["busy@example.org"]), b"x\r\n"),
    ];
    relay.until(LIMIT, "all have their first answer", |status| {
        status.account.delivered == 1 && status.queue.held == 1 && primary.misbehaved() >= 5
    });
    relay.terminate();
    let ended = spool(relay.data(), &["list"]);
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{ended}");
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 5, "a header and four messages: {ended}");
    let header: Vec<_> = lines[0].split_whitespace().collect();
    assert_eq!(header, ["ID", "RECEIVED", "STATE", "SIZE", "OPEN", "REVERSE-PATH"]);
    let expected = [
        ("held", "3 B", "1 of 1", "<sender@client.example>"),
        ("waiting", "0 B", "2 of 3", "<>"),
        ("waiting", "586.0 KiB", "1 of 1", "<sender@client.example>"),
        ("waiting", "3 B", "1 of 1", r#"<"<\" >"@client.example>"#),
    ];
    for ((line, id), (state, size, open, path)) in lines[1..].iter().zip(&ids).zip(expected) {
        let columns: Vec<_> = line.split("  ").map(str::trim).filter(|column| !column.is_empty()).collect();
        let [found_id, received, rest @ ..] = &columns[..] else { panic!("{line}") };
        assert_eq!((found_id, rest), (&id.as_str(), &[state, size, open, path][..]), "{line}");
        assert!(received.starts_with("20") && received.ends_with('Z') && received.len() == 20, "{line}");
    }
    for (part, found) in [
        ("BUSY@", &ids[1..]),
        ("delivered", &ids[1..2]),
        ("sender@client", &[ids[0].clone(), ids[2].clone()][..]),
        ("example", &ids[..]),
        ("nobody@", &[]),
    ] {
        let ended = spool(relay.data(), &["list", "--query", part]);
        let listed: Vec<_> = ended.stdout.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(listed, found, "{part}: {ended}");
    }
}

#[test]
fn all_that_happened_to_a_message_is_shown_also_when_it_is_closed() {
    let primary = Primary::start();
    primary.misbehave(Rule::answer(Stage::Rcpt, "550 5.1.1 no such user").about("held@"));
    let mut relay = Relay::before(primary.address()).config(FINAL).start();
    // Keeps the segment, and with it what was closed in it.
    let kept = send(&relay, &Envelope::to("held"), &content(100_000));
    let mixed = send(&relay, &Envelope::new("", &["bob@example.org", "held@example.org"]), b"x\r\n");
    let closed = send(&relay, &Envelope::to("carol"), b"Subject: closed\r\n\r\nbody\r\n");
    relay.until(LIMIT, "two are delivered, two are held", |status| {
        status.account.delivered == 2 && status.queue.held == 2
    });
    relay.terminate();
    let shown = spool(relay.data(), &["show", &mixed]);
    assert_eq!((shown.code, &*shown.stderr), (Some(0), ""), "{shown}");
    let primary_address = primary.address().to_string();
    for part in [
        &*mixed,
        "held",
        "127.0.0.1",
        "client.example",
        "ESMTP",
        "<>",
        "Received: from client.example",
        "<bob@example.org>",
        "delivered",
        "<held@example.org>",
        "550 5.1.1 no such user",
        &primary_address,
        "segment 1",
    ] {
        assert!(shown.stdout.contains(part), "{part}: {shown}");
    }
    let history: Vec<_> = shown.stdout.split_once("history").map(|(_, history)| history.lines().collect()).unwrap();
    let place = |words: &str| history.iter().position(|line| line.contains(words));
    assert!(place("Accepted").is_some() && place("Accepted") < place("Attempt"), "{shown}");

    let shown = spool(relay.data(), &["show", &closed]);
    assert_eq!(shown.code, Some(0), "{shown}");
    for part in ["closed", "<carol@example.org>", "ended", "Closed", "250 "] {
        assert!(shown.stdout.contains(part), "{part}: {shown}");
    }
    let exported = spool(relay.data(), &["export", &closed]);
    assert_eq!((exported.code, &*exported.stdout), (Some(0), "Subject: closed\r\n\r\nbody\r\n"));
    assert_eq!(spool(relay.data(), &["show", &kept]).code, Some(0));

    for tool in ["show", "export"] {
        let unknown = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
        spool(relay.data(), &[tool, unknown]).expect_failure(FAILED, &[unknown, "spool list"]);
        assert_eq!(spool(relay.data(), &[tool, "no-id"]).code, Some(2));
    }
}

#[test]
fn a_good_spool_is_good_and_its_account_is_told() {
    let mut relay = filled();
    relay.terminate();
    let ended = spool(relay.data(), &["check"]);
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{ended}");
    for (name, value) in
        [("open messages", "4,"), ("accepted", "103"), ("queued", "103"), ("delivered", "0"), ("difference", "0")]
    {
        let line = ended.stdout.lines().find(|line| line.trim().starts_with(name));
        let words: Vec<_> = line.unwrap_or_default().trim()[name.len()..].split_whitespace().collect();
        assert_eq!(words.first(), Some(&value), "{name}: {ended}");
    }
    assert!(ended.stdout.ends_with("good: every record and every large file is as it was written\n"), "{ended}");
}

#[test]
fn damage_is_named_with_its_place_and_its_cure() {
    type Damage = fn(&Path) -> String;
    let damages: [(Damage, &[&str]); 5] = [
        // One recipient less in the account, too.
        (|data| flip(data, SEGMENT_1, b"small@example.org"), &["segment 1:", "off by 1", "quarantine/", "backup"]),
        (|data| flip(data, &large(data), b"quick brown fox"), &["is not as it was written", "spool show"]),
        (|data| remove(data, &large(data)), &["is missing", "backup"]),
        (
            |data| {
                fs::write(data.join("quarantine/0000000000000009-4608-8.rot"), "12345678").expect("ours");
                "0000000000000009-4608-8.rot".to_owned()
            },
            &["found earlier", "remove it"],
        ),
        (
            |data| {
                let file = data.join(SEGMENT_1);
                let mut bytes = fs::read(&file).expect("a segment can be read");
                bytes[..4608].fill(0);
                fs::write(&file, bytes).expect("a segment can be written");
                SEGMENT_1.to_owned()
            },
            &["segment 1:", "header"],
        ),
    ];
    for (number, (damage, words)) in damages.iter().enumerate() {
        let mut relay = filled();
        relay.terminate();
        let place = damage(relay.data());
        let before = listing(relay.data());
        let ended = spool(relay.data(), &["check"]);
        assert_eq!(ended.code, Some(FAILED), "damage {number}: {ended}");
        for part in words.iter().chain([&&*place]) {
            assert!(ended.stdout.contains(part), "damage {number}, {part}: {ended}");
        }
        assert_eq!(listing(relay.data()), before, "damage {number}");
        // The others can be saved all the same.
        let to = TempDir::new().expect("a temporary folder can be made");
        let ended = spool(relay.data(), &["export", "--all", &text(to.path())]);
        let is_left_out = [1, 2].contains(&number);
        assert_eq!(ended.code, Some(i32::from(is_left_out)), "damage {number}: {ended}");
        assert_eq!(ended.stderr.contains("1 damaged messages"), is_left_out, "damage {number}: {ended}");
        let saved = fs::read_dir(to.path()).expect("it was made").count() / 2;
        assert_eq!(saved, [3, 3, 3, 4, 0][number], "damage {number}");
        let list = spool(relay.data(), &["list"]);
        let is_told = list.stderr.contains("spool check");
        assert_eq!((list.code, is_told), (Some(0), [0, 4].contains(&number)), "damage {number}: {list}");
        assert_eq!(listing(relay.data()), before, "damage {number}");
    }
}

#[test]
fn a_torn_end_is_told_and_is_no_damage() {
    let mut relay = filled();
    relay.kill9();
    let file = relay.data().join(SEGMENT_1);
    let mut bytes = fs::read(&file).expect("a segment can be read");
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| (last + 1).next_multiple_of(8));
    bytes.truncate(end);
    bytes.extend_from_slice(b"BMXR, and then the power went away");
    fs::write(&file, bytes).expect("a segment can be written");
    let ended = spool(relay.data(), &["check"]);
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(ended.stdout.contains("note: segment 1: ") && ended.stdout.contains("nothing need be done"), "{ended}");
}

#[test]
fn the_folder_of_a_running_relay_is_refused_and_the_relay_works_on() {
    let relay = filled();
    let id = send(&relay, &Envelope::to("bob"), b"x\r\n");
    let to = TempDir::new().expect("a temporary folder can be made");
    for tool in tools(&id, &text(to.path())) {
        let ended = spool(relay.data(), &tool);
        ended.expect_failure(FOLDER, &[&text(relay.data()), "stop that relay", "admin API"]);
        assert_eq!(ended.stdout, "");
    }
    send(&relay, &Envelope::to("bob"), b"x\r\n");
    assert_eq!(relay.account().queued, 105);
}

#[test]
fn a_folder_that_is_no_relays_is_refused_with_the_cure_and_left_as_it_is() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let at = |name: &str| folder.path().join(name);
    for (name, file, text) in [
        ("foreign", "accounts.db", "somebody's"),
        ("other", "backupmx-spool", "something else\n"),
        ("newer", "backupmx-spool", "backupmx-spool 99\n"),
        ("half", "backupmx-spool", "backupmx-spool 1\n"),
    ] {
        fs::create_dir(at(name)).expect("a temporary folder can be written");
        fs::write(at(name).join(file), text).expect("a temporary folder can be written");
    }
    fs::create_dir(at("empty")).expect("a temporary folder can be written");
    fs::write(at("file"), "x").expect("a temporary folder can be written");
    let before = listing(folder.path());
    for (name, words) in [
        ("foreign", &["--data", "backupmx-spool"][..]),
        ("other", &["--data", "backupmx-spool"]),
        ("newer", &["99", "newer program"]),
        ("half", &["list"]),
        ("empty", &["--data"]),
        ("file", &["no such folder", "--data"]),
        ("missing", &["no such folder", "--data"]),
        ("missing/below", &["no such folder", "--data"]),
    ] {
        for tool in tools("01ARZ3NDEKTSV4RRFFQ69G5FAV", &text(&at("exported"))) {
            let ended = spool(&at(name), &tool);
            ended.expect_failure(FOLDER, &[words, &[&*text(&at(name))]].concat());
        }
    }
    assert_eq!(listing(folder.path()), before);
}

#[test]
fn a_segment_of_a_newer_relay_is_refused_as_its_folder_would_be() {
    let mut relay = filled();
    relay.terminate();
    let file = relay.data().join(SEGMENT_1);
    let mut bytes = fs::read(&file).expect("a segment can be read");
    // A version that is not known, and the checksum of the header that says so.
    bytes[8] = 99;
    let checksum = xxhash_rust::xxh3::xxh3_64(&bytes[..504]);
    bytes[504..512].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&file, bytes).expect("a segment can be written");
    let before = listing(relay.data());
    for tool in tools("01ARZ3NDEKTSV4RRFFQ69G5FAV", "/nonexistent") {
        spool(relay.data(), &tool).expect_failure(FOLDER, &["segment 1", "newer program"]);
    }
    assert_eq!(listing(relay.data()), before);
}

#[test]
fn nothing_in_the_folder_is_opened_for_writing_made_moved_or_removed() {
    let mut relay = filled();
    let id = send(&relay, &Envelope::to("bob"), &content(LARGE_BYTES));
    relay.terminate();
    flip(relay.data(), SEGMENT_1, b"small@example.org");
    let before = listing(relay.data());
    let folder = TempDir::new().expect("a temporary folder can be made");
    for (number, tool) in tools(&id, &text(&folder.path().join("exported"))).into_iter().enumerate() {
        let trace = folder.path().join(format!("trace{number}"));
        let options = ["strace", "-f", "-y", "-e", "trace=%file,%desc", "-o", &text(&trace)];
        let ended = program::run(Relay::command(&options).args(arguments(relay.data(), &tool)), LIMIT);
        assert!(ended.code.is_some_and(|code| code <= FAILED), "{tool:?}: {ended}");
        let calls = fs::read_to_string(&trace).expect("strace wrote it");
        // What a call is given stands in the first half of its line, where its name is, too.
        let of_folder: Vec<_> = calls.lines().filter(|line| line.contains(&text(relay.data()))).collect();
        assert!(of_folder.iter().any(|line| line.contains(SEGMENT_1)), "{tool:?}: {calls}");
        for call in of_folder {
            let name = call.split_whitespace().nth(1).and_then(|call| call.split('(').next()).unwrap_or_default();
            let is_reading = match name {
                "openat" => call.contains("O_RDONLY") && !call.contains("O_CREAT") && !call.contains("O_TRUNC"),
                "execve" | "statx" | "newfstatat" | "fstat" | "readlink" | "getdents64" | "pread64" | "read"
                | "flock" | "close" | "fcntl" | "lseek" | "ioctl" => true,
                _ => false,
            };
            assert!(is_reading, "{tool:?}: {call}");
        }
    }
    assert_eq!(listing(relay.data()), before);
}

#[test]
fn what_is_exported_never_lands_in_the_data_folder() {
    let mut relay = filled();
    let id = send(&relay, &Envelope::to("bob"), b"x\r\n");
    relay.terminate();
    let before = listing(relay.data());
    let (file, folder) = (relay.data().join("bob.eml"), relay.data().join("exported"));
    for tool in [["export", &id, "--output", &text(&file)][..].to_vec(), vec!["export", "--all", &text(&folder)]] {
        spool(relay.data(), &tool).expect_failure(FAILED, &["data folder", "another"]);
    }
    assert_eq!(listing(relay.data()), before);
}

#[test]
fn who_reads_only_the_first_lines_of_a_long_list_is_not_complained_at() {
    let relay = Relay::before(nobody()).start();
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    for _ in 0..2000 {
        let reply = client.send(&Envelope::to("bob"), b"x\r\n").expect("the relay answers");
        assert!(reply.is("250 2.0.0"), "{reply}");
    }
    let mut relay = relay;
    relay.terminate();
    let mut list = Relay::command(&[])
        .args(arguments(relay.data(), &["list"]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut first = String::new();
    let mut out = BufReader::new(list.stdout.take().expect("stdout is a pipe"));
    out.read_line(&mut first).expect("a pipe can be read");
    drop(out); // as `head` does; more was to come than a pipe holds
    let ended = list.wait_with_output().expect("it ends");
    assert!(first.starts_with("ID "), "{first}");
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned()), (Some(0), String::new()));
}

fn nobody() -> SocketAddr {
    PRIMARY.parse().expect("it is an address")
}

/// A relay with four messages to 103 recipients: a small one, a large one, one to many, and another small one.
fn filled() -> Relay {
    let relay = Relay::before(nobody()).start();
    send(&relay, &Envelope::to("first"), b"x\r\n");
    send(&relay, &Envelope::to("small"), b"Subject: x\r\n\r\nbody\r\n");
    send(&relay, &Envelope::to("large"), &content(LARGE_BYTES));
    let many: Vec<_> = (0..100).map(|number| format!("r{number}@example.org")).collect();
    send(&relay, &Envelope::new("", &many.iter().map(String::as_str).collect::<Vec<_>>()), b"x\r\n");
    relay
}

/// Returns its id.
fn send(relay: &Relay, envelope: &Envelope, content: &[u8]) -> String {
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let reply = client.send(envelope, content).expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
    reply.message_id().to_owned()
}

fn content(bytes: usize) -> Vec<u8> {
    let mut content = b"Subject: x\r\n\r\n".to_vec();
    while content.len() < bytes {
        content.extend_from_slice(b"The quick brown fox jumps over the lazy dog, and over again.\r\n");
    }
    content
}

/// Runs `backupmx-relay spool` with these arguments on this folder.
#[track_caller]
fn spool(data: &Path, tool: &[&str]) -> Ended {
    let data = text(data);
    Relay::run(&[&["--data", &data, "spool"], tool].concat())
}

fn arguments(data: &Path, tool: &[&str]) -> Vec<String> {
    [&["--data", &text(data), "spool"], tool].concat().into_iter().map(str::to_owned).collect()
}

/// Each tool once.
fn tools<'a>(id: &'a str, to: &'a str) -> [Vec<&'a str>; 5] {
    [vec!["check"], vec!["list"], vec!["show", id], vec!["export", id], vec!["export", "--all", to]]
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it was made").permissions().mode() & 0o777
}

/// What can be told of a file or folder from outside, but when it was read.
#[derive(PartialEq, Debug)]
struct There {
    mode: u32,
    modified: SystemTime,
    changed_ns: (i64, i64),
    hash: Option<Hash>,
}

/// All that is below a folder.
fn listing(folder: &Path) -> BTreeMap<PathBuf, There> {
    let mut all = BTreeMap::new();
    let mut rest = vec![folder.to_owned()];
    while let Some(path) = rest.pop() {
        let metadata = fs::metadata(&path).expect("what is listed is there");
        let hash = metadata.is_file().then(|| sha256(&fs::read(&path).expect("a file can be read")));
        if metadata.is_dir() {
            rest.extend(fs::read_dir(&path).expect("a folder can be read").flatten().map(|entry| entry.path()));
        }
        let modified = metadata.modified().expect("files have times");
        let changed_ns = (metadata.ctime(), metadata.ctime_nsec());
        all.insert(path, There { mode: metadata.mode(), modified, changed_ns, hash });
    }
    all
}

/// The file of the one large message.
fn large(data: &Path) -> String {
    let mut files = fs::read_dir(data.join("large")).expect("a spool has this folder");
    let file = files.next().expect("there is a large message").expect("a folder can be read");
    format!("large/{}", file.file_name().to_string_lossy())
}

/// Turns one bit over where `part` stands, as disks do. Returns the file's name.
fn flip(data: &Path, file: &str, part: &[u8]) -> String {
    let path = data.join(file);
    let mut bytes = fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    let place = memchr::memmem::find(&bytes, part).expect("the part is in the file");
    bytes[place] ^= 1;
    fs::write(&path, bytes).expect("what can be read can be written");
    file.to_owned()
}

fn remove(data: &Path, file: &str) -> String {
    fs::remove_file(data.join(file)).expect("it is there");
    file.to_owned()
}
