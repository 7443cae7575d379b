//! No sender hears 250 before the disk has said that the message is on it: shown by the relay's own system calls.

use std::{collections::BTreeSet, thread};

use support::{
    Primary, Relay,
    letters::{Heard, LARGE_BYTES, Letters, SMALL_BYTES},
    strace::{self, Call, Strace},
};

/// Many enough that several messages share a sync.
const SESSIONS: usize = 6;
const MESSAGES_PER_SESSION: usize = 4;
/// Which of a session's messages gets a file of its own.
const LARGE: usize = 2;
/// A sync takes this long at least, so that whoever does not wait for it is seen to be early.
const SLOW_SYNCS: &str = "inject=fdatasync,fsync:delay_enter=10000";
const WATCHED: &str =
    "trace=pwrite64,pwritev,write,writev,sendto,sendmsg,fdatasync,fsync,rename,renameat,renameat2,openat";

#[test]
fn every_250_comes_after_the_sync_of_what_it_answers() {
    let primary = Primary::away();
    let strace = Strace::around(&["-e", WATCHED, "-e", SLOW_SYNCS]);
    let mut relay = Relay::before(primary.address()).under(strace.words()).start();
    let smtp = relay.smtp();
    let sessions: Vec<_> = (0..SESSIONS).map(|session| thread::spawn(move || send(smtp, session))).collect();
    let kept: Vec<_> = sessions.into_iter().flat_map(|session| session.join().expect("all are taken")).collect();
    assert_eq!(relay.status().account.accepted as usize, SESSIONS * MESSAGES_PER_SESSION);
    assert_eq!(relay.terminate(), 0);
    let calls = strace.finish();
    let shared = syncs_fewer_than(&calls, kept.len());
    assert!(shared, "each message had a sync of its own, so nothing was shown about those that share one");
    if let Err(early) = prove(&calls, &kept) {
        panic!("{early}");
    }
}

/// The proof itself: each line of this trace is needed, and the order is.
#[test]
fn a_trace_that_misses_a_step_or_has_it_too_late_proves_nothing() {
    let trace = [
        r#"1 openat(AT_FDCWD</>, "/d/log/1.seg", O_RDWR|O_CREAT, 0600) = 4</d/log/1.seg>"#,
        r#"1 fsync(5</d/log>) = 0"#,
        r#"2 pwrite64(6</d/tmp/BIG>, "content", 7, 48) = 7"#,
        r#"2 fdatasync(6</d/tmp/BIG>) = 0"#,
        r#"2 rename("/d/tmp/BIG", "/d/large/BIG") = 0"#,
        r#"2 fsync(6</d/large>) = 0"#,
        r#"1 pwrite64(4</d/log/1.seg>, "SMALL BIG", 9, 4608) = 9"#,
        r#"1 fdatasync(4</d/log/1.seg>) = 0"#,
        r#"3 sendto(8<socket:[1]>, "250 2.0.0 Kept as SMALL\r\n", 25) = 25"#,
        r#"3 sendto(9<socket:[2]>, "250 2.0.0 Kept as BIG\r\n", 23) = 23"#,
    ];
    let kept = [("SMALL", false), ("BIG", true)].map(|(id, is_large)| Kept { id: id.to_owned(), is_large });
    let proves = |lines: &[&str]| prove(&strace::parse(&lines.join("\n")), &kept).is_ok();
    assert!(proves(&trace));
    assert!(!proves(&[]));
    for place in 0..trace.len() {
        let mut without = trace.to_vec();
        let line = without.remove(place);
        assert!(!proves(&without), "without {line}");
        let failed = format!("{}-1 EIO (Input/output error)", line.split_inclusive(") = ").next().unwrap_or_default());
        without.insert(place, &failed);
        assert!(place >= 8 || !proves(&without), "{failed}");
    }
    for (earlier, later) in [(8, 7), (8, 6), (6, 5), (5, 4), (4, 3), (9, 7)] {
        let mut lines = trace.to_vec();
        lines.swap(earlier, later);
        assert!(!proves(&lines), "{} before {}", trace[earlier], trace[later]);
    }
}

/// A message that heard 250.
#[derive(Clone, Debug)]
struct Kept {
    id: String,
    is_large: bool,
}

fn send(smtp: std::net::SocketAddr, session: usize) -> Vec<Kept> {
    let mut letters = Letters::new(&format!("s{session}x"));
    let send = |place| {
        let is_large = place == LARGE;
        match letters.send(smtp, if is_large { LARGE_BYTES } else { SMALL_BYTES }) {
            Heard::Yes(id) => Kept { id: id.clone(), is_large },
            other => panic!("session {session}, message {place}: {other:?}"),
        }
    };
    (0..MESSAGES_PER_SESSION).map(send).collect()
}

fn syncs_fewer_than(calls: &[Call], messages: usize) -> bool {
    calls.iter().filter(|call| call.name == "fdatasync" && is_segment(call.path())).count() < messages
}

/// That for each of these, and for nobody else, a 250 went out, and went out after all that makes it true.
fn prove(calls: &[Call], kept: &[Kept]) -> Result<(), String> {
    let replies: Vec<_> =
        calls.iter().filter(|call| is_to_socket(call) && call.arguments.contains("\"250 2.0.0 ")).collect();
    let is_answered = |id: &&str| replies.iter().any(|reply| reply.arguments.contains(id));
    let answered: BTreeSet<_> = kept.iter().map(|kept| &*kept.id).filter(is_answered).collect();
    if replies.len() != kept.len() || answered.len() != kept.len() {
        let (replies, answered, kept) = (replies.len(), answered.len(), kept.len());
        return Err(format!("the trace has {replies} replies for {answered} messages; {kept} heard 250"));
    }
    kept.iter().try_for_each(|kept| prove_one(calls, kept).map_err(|what| format!("message {}: {what}", kept.id)))
}

fn prove_one(calls: &[Call], Kept { id, is_large }: &Kept) -> Result<(), String> {
    let told =
        |call: &&Call| is_to_socket(call) && call.arguments.contains("\"250 2.0.0 ") && call.arguments.contains(id);
    let reply = calls.iter().find(told).ok_or("no reply")?;
    // The trace field names the id, be the content in the record or not.
    let written = |call: &&Call| {
        is_write(call) && is_segment(call.path()) && call.arguments.contains(id) && call.is_before(reply)
    };
    let record = calls.iter().rfind(written).ok_or("no record was written before the reply")?;
    if record.number() != asked(record) {
        return Err(format!("only {} was written of the record", record.result));
    }
    let segment = record.path().unwrap_or_default();
    synced(calls, segment, record, reply)?;
    let name =
        calls.iter().rfind(|call| names(call, segment) && call.is_before(record)).ok_or("the segment has no name")?;
    let log = segment.rsplit_once('/').map_or("", |(folder, _)| folder);
    synced(calls, log, name, reply)?;
    if *is_large { prove_large(calls, id, record) } else { Ok(()) }
}

/// The file, its name, the folder: all of it before the record that refers to it.
fn prove_large(calls: &[Call], id: &str, record: &Call) -> Result<(), String> {
    let of_file = |path: Option<&str>| path.is_some_and(|path| path.ends_with(id) && !is_segment(Some(path)));
    let last = calls.iter().rfind(|call| is_write(call) && of_file(call.path())).ok_or("its file was not written")?;
    let renamed = |call: &&Call| call.name.starts_with("rename") && call.arguments.contains(&format!("large/{id}\""));
    let rename = calls.iter().find(renamed).ok_or("its file got no name")?;
    synced(calls, last.path().unwrap_or_default(), last, rename)?;
    let large =
        calls.iter().find_map(|call| call.path().filter(|path| call.name == "fsync" && path.ends_with("/large")));
    synced(calls, large.ok_or("the folder of its file was never synced")?, rename, record)
}

/// That a sync of `path` began after `change` and had succeeded before `claim` began.
fn synced(calls: &[Call], path: &str, change: &Call, claim: &Call) -> Result<(), String> {
    let sync = |call: &Call| {
        matches!(&*call.name, "fdatasync" | "fsync") && call.path() == Some(path) && call.number() == Some(0)
    };
    let found = change.number().is_some_and(|number| number >= 0)
        && calls.iter().any(|call| sync(call) && change.is_before(call) && call.is_before(claim));
    found.then_some(()).ok_or_else(|| format!("no sync of {path} between {} and {}", change.shown(), claim.shown()))
}

fn is_write(call: &Call) -> bool {
    matches!(&*call.name, "pwrite64" | "pwritev" | "write" | "writev")
}

fn is_to_socket(call: &Call) -> bool {
    matches!(&*call.name, "sendto" | "sendmsg" | "write" | "writev")
        && call.path().is_some_and(|path| path.starts_with("socket:"))
}

fn is_segment(path: Option<&str>) -> bool {
    path.is_some_and(|path| path.contains("/log/") && path.ends_with(".seg"))
}

/// Bytes that a `pwrite64` was asked to write: the last but one of its arguments.
fn asked(call: &Call) -> Option<i64> {
    call.arguments.rsplit(", ").nth(1)?.parse().ok()
}

/// Whether the call made a file appear under this name.
fn names(call: &Call, path: &str) -> bool {
    let quoted = format!("\"{path}\"");
    match &*call.name {
        "openat" => call.arguments.contains(&quoted) && call.arguments.contains("O_CREAT"),
        name => name.starts_with("rename") && call.arguments.contains(&quoted) && !call.arguments.starts_with(&quoted),
    }
}
