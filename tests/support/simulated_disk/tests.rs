//! What the simulated disk promises to those who crash it: every outcome that real disks have, and no other.

mod bytes;
mod names;
mod room;

use std::collections::BTreeSet;

use super::*;

/// Enough that an outcome of one in a hundred is met.
const SEEDS: u64 = 1_000;
const FOLDERS: [&str; 2] = ["log", "tmp"];

fn disk(seed: u64) -> SimulatedDisk {
    let disk = SimulatedDisk::new(seed);
    for folder in FOLDERS {
        disk.make_folder(folder).unwrap();
    }
    disk
}

/// A durable file.
fn put(disk: &SimulatedDisk, path: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.create(path).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync().unwrap();
    disk.sync_folder(path.split_once('/').unwrap().0).unwrap();
    file
}

fn names(disk: &SimulatedDisk) -> Vec<String> {
    disk.files().into_iter().map(|(path, _)| path).collect()
}

/// What crashes leave of something, over many seeds.
fn outcomes<T: Ord>(run: impl Fn(&SimulatedDisk) -> T) -> BTreeSet<T> {
    (0..SEEDS).map(|seed| run(&disk(seed))).collect()
}

/// All names that crashes leave after `change` was made to a disk with a durable `log/old`.
fn names_after(change: impl Fn(&SimulatedDisk)) -> BTreeSet<Vec<String>> {
    outcomes(|disk| {
        put(disk, "log/old", b"old");
        change(disk);
        disk.crash();
        names(disk)
    })
}

fn sets(expected: &[&[&str]]) -> BTreeSet<Vec<String>> {
    expected.iter().map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect()
}

fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
    result.err().expect("an error").kind()
}

fn is_eio<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|cause| cause.raw_os_error() == Some(Errno::IO.raw_os_error()))
}

#[test]
fn a_kill_leaves_what_was_written_as_unsynced_as_it_was() {
    let found = outcomes(|disk| {
        put(disk, "log/a", b"").write_at(b"x", 0).unwrap();
        disk.rename("log/a", "log/b").unwrap();
        disk.kill();
        assert_eq!((disk.read("log/b"), names(disk).len()), (Some(b"x".to_vec()), 1));
        disk.crash();
        (names(disk), disk.files()[0].1)
    });
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn files_and_mounts_from_before_a_crash_or_a_kill_are_dead() {
    for end in [SimulatedDisk::crash, SimulatedDisk::kill] {
        let disk = disk(1);
        let (file, mount) = (put(&disk, "log/a", b"abc"), disk.mount());
        mount.list("log").unwrap();
        end(&disk);
        let failures = [
            file.write_at(b"x", 0),
            file.read_at(&mut [0], 0),
            file.sync(),
            file.allocate(1),
            file.length().map(drop),
            mount.remove("log/a"),
            mount.create("log/b").map(drop),
        ];
        assert!(failures.iter().all(Result::is_err), "{failures:?}");
        assert_eq!(disk.files(), [("log/a".to_owned(), 3)]);
        disk.mount().open("log/a").unwrap().read_at(&mut [0; 3], 0).unwrap();
    }
}

#[test]
fn a_fuse_lets_its_number_of_operations_pass_and_then_none_until_the_next_start() {
    for end in [SimulatedDisk::crash, SimulatedDisk::kill] {
        let disk = disk(1);
        let (file, before) = (put(&disk, "log/a", b"abc"), disk.operations());
        disk.set_fuse(2);
        file.sync().unwrap();
        file.length().unwrap();
        assert!(!disk.is_off());
        assert_eq!(file.sync().unwrap_err().to_string(), "power is off");
        assert!(disk.is_off());
        assert!(disk.list("log").is_err() && disk.free_bytes().is_err());
        assert_eq!(disk.operations() - before, 3);
        end(&disk);
        assert!(!disk.is_off());
        disk.list("log").unwrap();
    }
}

#[test]
fn the_operation_that_loses_its_power_has_its_effect_or_not() {
    let written = outcomes(|disk| {
        let file = put(disk, "log/a", b"");
        disk.set_fuse(0);
        file.write_at(b"abc", 0).unwrap_err();
        disk.kill();
        disk.read("log/a").unwrap()
    });
    assert_eq!(written, [b"".to_vec(), b"a".to_vec(), b"ab".to_vec(), b"abc".to_vec()].into());
    let renamed = names_after(|disk| {
        disk.set_fuse(0);
        disk.rename("log/old", "log/new").unwrap_err();
    });
    assert_eq!(renamed, sets(&[&["log/old"], &["log/new"]]));
    let synced = outcomes(|disk| {
        let file = put(disk, "log/a", b"");
        file.write_at(&[1; 1024], 0).unwrap();
        disk.set_fuse(0);
        file.sync().unwrap_err();
        disk.crash();
        disk.read("log/a").unwrap()
    });
    assert!(synced.len() > 3, "a sync cut short leaves all, nothing or a part");
}

#[test]
fn each_fault_fails_its_operation_and_no_other() {
    const ALWAYS: u32 = 10_000;
    type Fault = fn(&mut Faults) -> &mut u32;
    let faults: [Fault; 8] = [
        |faults| &mut faults.create_fails,
        |faults| &mut faults.write_fails,
        |faults| &mut faults.sync_fails,
        |faults| &mut faults.read_fails,
        |faults| &mut faults.open_fails,
        |faults| &mut faults.rename_fails,
        |faults| &mut faults.sync_folder_fails,
        |faults| &mut faults.remove_fails,
    ];
    for (failing, fault) in faults.into_iter().enumerate() {
        let disk = disk(1);
        let file = put(&disk, "log/a", b"abc");
        let mut set = Faults::default();
        *fault(&mut set) = ALWAYS;
        disk.set_faults(set);
        let results = [
            disk.create("tmp/b").map(drop),
            file.write_at(b"x", 0),
            file.sync(),
            file.read_at(&mut [0], 0),
            disk.open("log/a").map(drop),
            disk.rename("log/a", "tmp/a"),
            disk.sync_folder("log"),
            disk.remove(if failing == 5 { "log/a" } else { "tmp/a" }),
        ];
        for (position, result) in results.into_iter().enumerate() {
            assert_eq!(is_eio(result), position == failing, "fault {failing}, operation {position}");
        }
    }
}

#[test]
fn each_lie_is_told() {
    let lengths = |lies: Lies, act: fn(&SimulatedDisk)| {
        outcomes(|disk| {
            disk.set_lies(lies);
            act(disk);
            disk.crash();
            disk.files().into_iter().map(|(_, length)| length).collect::<Vec<_>>()
        })
    };
    let honest = [vec![3]].into();
    assert_eq!(lengths(Lies::default(), |disk| drop(put(disk, "log/a", b"abc"))), honest);
    let no_data_sync = lengths(Lies { no_data_sync: true, ..Lies::default() }, |disk| drop(put(disk, "log/a", b"abc")));
    assert!(no_data_sync.contains(&vec![0]), "{no_data_sync:?}");
    let no_folder_sync =
        lengths(Lies { no_folder_sync: true, ..Lies::default() }, |disk| drop(put(disk, "log/a", b"abc")));
    assert_eq!(no_folder_sync, [vec![], vec![3]].into());
    let late_sync = lengths(Lies { late_sync: true, ..Lies::default() }, |disk| drop(put(disk, "log/a", b"abc")));
    assert!(late_sync.contains(&vec![0]), "{late_sync:?}");
    let next_sync = lengths(Lies { late_sync: true, ..Lies::default() }, |disk| {
        put(disk, "log/a", b"abc");
        put(disk, "log/b", b"");
    });
    assert_eq!(next_sync, [vec![3, 0]].into());
    let torn_rename = lengths(Lies { torn_rename: true, ..Lies::default() }, |disk| {
        put(disk, "tmp/a", b"abc");
        disk.rename("tmp/a", "log/a").unwrap();
        disk.sync_folder("log").unwrap();
    });
    assert!(torn_rename.contains(&vec![1]) && torn_rename.contains(&vec![3]), "{torn_rename:?}");
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = |seed| {
        let disk = disk(seed);
        disk.set_faults(Faults { write_fails: 1_000, sync_fails: 1_000, ..Faults::default() });
        for round in 0..20 {
            let file = disk.create(&format!("log/{round}")).unwrap();
            for piece in 0..10 {
                let _ = file.write_at(&[piece + 1; 1500], u64::from(piece) * 1500);
                let _ = if piece % 4 == 3 { file.sync() } else { Ok(()) };
            }
            disk.crash();
        }
        names(&disk).into_iter().map(|path| (disk.read(&path), path)).collect::<Vec<_>>()
    };
    assert_eq!(run(4711), run(4711));
    assert_ne!(run(4711), run(4712));
}

#[test]
fn a_snapshot_is_durable_and_apart_from_its_origin() {
    let disk = disk(1);
    let file = disk.create("log/a").unwrap();
    file.write_at(b"abc", 0).unwrap();
    disk.set_fuse(0);
    let copy = disk.snapshot();
    file.write_at(b"xyz", 0).unwrap_err();
    copy.crash();
    assert_eq!(copy.read("log/a").unwrap(), b"abc");
    copy.remove("log/a").unwrap();
    copy.create("tmp/b").unwrap();
    assert_eq!(names(&disk), ["log/a"]);
}

#[test]
fn raw_bytes_replace_what_is_there_and_stay() {
    for seed in 0..100 {
        let disk = disk(seed);
        put(&disk, "tmp/a", b"old");
        disk.rename("tmp/a", "large/a").unwrap_err();
        disk.write_raw("large/a", b"raw");
        disk.rename("tmp/a", "large/a").unwrap();
        disk.write_raw("large/a", b"newer");
        disk.crash();
        assert_eq!(disk.read("large/a").unwrap(), b"newer");
    }
}

#[test]
fn misuse_gets_the_answers_of_an_operating_system() {
    use io::ErrorKind::{AlreadyExists, FileTooLarge, IsADirectory, NotFound, UnexpectedEof};
    let disk = disk(1);
    let file = put(&disk, "log/a", b"abc");
    disk.make_folder("log").unwrap();
    for (expected, result) in [
        (NotFound, disk.make_folder("none/log")),
        (NotFound, disk.create("none/a").map(drop)),
        (AlreadyExists, disk.create("log/a").map(drop)),
        (AlreadyExists, disk.create("log").map(drop)),
        (NotFound, disk.open("log/b").map(drop)),
        (NotFound, disk.list("none").map(drop)),
        (NotFound, disk.rename("log/b", "log/c")),
        (NotFound, disk.rename("log/a", "none/a")),
        (IsADirectory, disk.rename("log/a", "tmp")),
        (NotFound, disk.remove("log/b")),
        (NotFound, disk.sync_folder("none")),
        (NotFound, disk.trim("log/b", 0)),
        (UnexpectedEof, file.read_at(&mut [0; 3], 1)),
        (UnexpectedEof, file.read_at(&mut [0; 3], u64::MAX)),
        (FileTooLarge, file.write_at(b"x", u64::MAX)),
        (FileTooLarge, file.allocate(u64::MAX)),
    ] {
        assert_eq!(kind(result), expected);
    }
    assert!(disk.open("log/a").unwrap().write_at(b"x", 0).is_err(), "opened for reading");
    disk.rename("log/a", "log/a").unwrap();
    assert_eq!(disk.files(), [("log/a".to_owned(), 3)]);
}
