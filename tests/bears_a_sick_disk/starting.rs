//! Single system calls of a relay that starts fail, one after the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use support::{
    Primary, Relay, eventually, is_soak,
    letters::{LARGE_BYTES, Letters, SMALL_BYTES},
    strace::{Call, Strace, eventually_seen},
};
use tempfile::TempDir;

use crate::faults::{
    Fault, IMPATIENT, LIMIT, SOON, bear, check_arrival, check_refusals, end, errors, is_worth_telling, work_off,
};

/// Exit code: the data folder cannot be used.
const FOLDER: i32 = 3;
const WATCHED: &str = "trace=openat,read,pread64,write,pwrite64,fdatasync,fsync,rename,renameat,renameat2,mkdir,\
                       fallocate,ftruncate,unlink,getdents64";
/// What may fail at a start.
const CALLS: &[&str] = &[
    "openat",
    "read",
    "pread64",
    "write",
    "pwrite64",
    "fdatasync",
    "fsync",
    "rename",
    "mkdir",
    "fallocate",
    "ftruncate",
    "unlink",
    "getdents64",
];
/// What may go on failing: the others are needed for much else than the data folder.
const LASTING: &[&str] = &["pwrite64", "fdatasync", "fsync", "rename", "fallocate"];

/// A folder of which the start is tried.
struct Template {
    files: Files,
    waiting: Letters,
    /// Whether the end of the last segment is torn, so that a start copies it aside, and tells of it.
    torn: bool,
}

/// Contents of all files below a folder, by their places in it; `None` for folders.
type Files = BTreeMap<PathBuf, Option<Vec<u8>>>;

#[test]
fn a_call_that_fails_at_the_start_costs_no_mail_and_is_borne_or_names_the_cure() {
    let (whole, torn) = (template(false), template(true));
    let (of_whole, mut of_torn) = (faults(&whole), faults(&torn));
    for needed in ["openat", "pread64", "pwrite64", "fdatasync", "fsync"] {
        assert!(of_whole.iter().any(|fault| fault.call == needed), "there was no {needed} to fail");
    }
    assert!(of_torn.iter().any(|fault| fault.call == "rename"), "no copy was made of what was torn");
    of_torn.retain(|fault| is_soak() || !of_whole.contains(fault));
    let with = |template, faults: Vec<Fault>| faults.into_iter().map(move |fault| (template, fault));
    let table: Vec<_> = with(&whole, of_whole).chain(with(&torn, of_torn)).collect();
    work_off(&table, |(template, fault), wrong| {
        let torn = if template.torn { " of a torn log" } else { "" };
        bear(&format!("Start{torn}: {fault}"), wrong, || try_start(template, *fault));
        1
    });
}

/// Mail that was delivered and mail that waits, in several segments and in files of its own, after a power cut.
fn template(torn: bool) -> Template {
    let mut primary = Primary::start();
    let mut relay = Relay::before(primary.address()).config(IMPATIENT).start();
    let (mut done, mut waiting) = (Letters::new("done"), Letters::new("waits"));
    for bytes in [SMALL_BYTES, LARGE_BYTES, SMALL_BYTES] {
        assert!(done.is_taken(relay.smtp(), bytes));
    }
    relay.until(LIMIT, "nothing waits", |status| status.account.delivered == 3);
    primary.go_away();
    for bytes in [SMALL_BYTES, LARGE_BYTES] {
        assert!(waiting.is_taken(relay.smtp(), bytes));
    }
    assert_eq!(relay.terminate(), 0);
    relay.start_again();
    assert!(waiting.is_taken(relay.smtp(), SMALL_BYTES));
    relay.kill9();
    let mut files = read(relay.data());
    if torn {
        let is_segment = |path: &Path| path.extension().is_some_and(|extension| extension == "seg");
        let (_, last) = files.iter_mut().rfind(|(path, _)| is_segment(path)).expect("there are segments");
        // The beginning of a record, as docs/spool.md has it, and nothing behind it.
        last.as_mut().expect("a segment is a file").extend_from_slice(b"BMXR\x01 torn by a power cut");
    }
    Template { files, waiting, torn }
}

/// Each call that a start makes on its data folder.
fn faults(template: &Template) -> Vec<Fault> {
    let folder = written(&template.files);
    let data = folder.path().to_string_lossy().into_owned();
    let primary = Primary::away();
    let strace = Strace::around(&["-e", WATCHED]);
    let setup = Relay::before(primary.address()).config(IMPATIENT).data(folder.path());
    let mut relay = setup.under(strace.words()).start();
    relay.kill9();
    let calls = strace.finish();
    // Counted in each thread, as strace does; what the main thread does before it comes to its folder must not fail.
    let main = calls.first().expect("a start makes calls").thread;
    let of_data = |call: &Call| call.arguments.contains(&data);
    let mut faults: Vec<Fault> = Vec::new();
    for call in CALLS {
        let in_thread = |thread| calls.iter().filter(move |made| made.thread == thread && made.name.starts_with(call));
        let threads: BTreeSet<_> = calls.iter().map(|made| made.thread).collect();
        let places: BTreeSet<_> = threads
            .into_iter()
            .flat_map(|thread| in_thread(thread).enumerate().filter(|(_, made)| of_data(made)).map(|(place, _)| place))
            .filter(|place| in_thread(main).nth(*place).is_none_or(of_data))
            .collect();
        for (place, at) in places.iter().map(|place| place + 1).enumerate() {
            faults.extend(errors().iter().map(|error| Fault { call, error, at, lasts: false }));
            let lasts = place == 0 && LASTING.contains(call);
            faults.extend(lasts.then_some(Fault { call, error: "EIO", at, lasts }));
        }
    }
    faults
}

fn try_start(template: &Template, fault: Fault) {
    let folder = written(&template.files);
    let mut primary = Primary::away();
    let mut letters = template.waiting.clone();
    let address = primary.address();
    let setup = || Relay::before(address).config(IMPATIENT).data(folder.path());
    let inject = fault.inject();
    let strace = Strace::around(&["-e", WATCHED, "-e", &inject]);
    let ended = match setup().under(strace.words()).try_start() {
        Ok(relay) => {
            recover(relay, strace, template, &mut letters, fault);
            None
        }
        Err(ended) => {
            let now = read(folder.path());
            let is_altered = |(path, content): &(&PathBuf, &Option<Vec<u8>>)| now.get(*path) != Some(*content);
            let altered: Vec<_> = template.files.iter().filter(is_altered).map(|(path, _)| path).collect();
            assert!(altered.is_empty(), "{altered:?} are not as they were");
            Some(ended)
        }
    };
    primary.return_now();
    let relay = setup().start();
    check_arrival(&relay, &primary, &letters, 0);
    let again = primary.mails().iter().any(|mail| mail.recipients[0].starts_with("done"));
    assert!(!again, "what had been delivered came again");
    if let Some(ended) = ended {
        assert_eq!(ended.code, Some(FOLDER), "{ended}");
        let last = ended.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("backupmx-relay: ") && last.contains(fault.words()), "no cause: {last}");
        // As all messages of the kind have it: behind a semicolon stands what to do.
        assert!(last.contains("; "), "no cure: {last}");
    }
}

/// It runs all the same, and takes mail at the latest when the fault is over.
fn recover(mut relay: Relay, strace: Strace, template: &Template, letters: &mut Letters, fault: Fault) {
    let hit = eventually_seen(&strace, "the call that fails", |call| fault.hit(call));
    if fault.lasts {
        relay.until(SOON, "it is told", |status| !status.problems.is_empty());
        letters.send(relay.smtp(), SMALL_BYTES);
    }
    strace.detach(relay.pid());
    eventually(SOON, "mail is taken", || letters.is_taken(relay.smtp(), SMALL_BYTES));
    check_refusals(letters);
    relay.until(SOON, "nothing is wrong", |status| {
        status.spool.writable && (template.torn || status.problems.is_empty())
    });
    // What a start only looks at, and runs without, it may keep to itself. What goes wrong with the copy of a torn
    // part is told as a problem.
    let changes = hit.arguments.contains("O_CREAT") || LASTING.contains(&fault.call);
    let told = fault.is_told(&relay) || relay.status().problems.iter().any(|problem| problem.contains(fault.words()));
    assert!(!changes || !is_worth_telling(&hit) || told, "nothing tells of {}", hit.shown());
    end(&mut relay, fault);
}

fn read(folder: &Path) -> Files {
    let mut files = Files::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(folder.join(&inner)).expect("a data folder can be listed").flatten() {
            let path = inner.join(entry.file_name());
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let content = (!is_folder).then(|| fs::read(entry.path()).expect("a file can be read"));
            files.insert(path.clone(), content);
            folders.extend(is_folder.then_some(path));
        }
    }
    files
}

fn written(files: &Files) -> TempDir {
    let folder = TempDir::with_prefix("backupmx-").expect("a temporary folder can be made");
    // Folders stand before what is in them.
    for (path, content) in files {
        let path = folder.path().join(path);
        let done = content.as_ref().map_or_else(|| fs::create_dir(&path), |content| fs::write(&path, content));
        done.expect("a temporary folder can be written");
    }
    folder
}
