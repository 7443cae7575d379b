//! What the simulated disk promises to those who crash it: every outcome that real disks have, and no other.

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
fn synced_bytes_survive_every_crash() {
    for seed in 0..SEEDS {
        let disk = disk(seed);
        let file = put(&disk, "log/a", &[1; 3000]);
        file.write_at(&[2; 3000], 2000).unwrap();
        file.sync().unwrap();
        file.write_at(&[3; 10], 4990).unwrap(); // may change what it touches, and nothing else
        disk.crash();
        let bytes = disk.read("log/a").unwrap();
        assert_eq!(bytes[..4990], [&[1; 2000][..], &[2; 2990]].concat(), "seed {seed}");
    }
}

#[test]
fn of_an_unsynced_write_survive_all_nothing_any_sectors_or_one_side_of_a_cut() {
    let (mut all, mut nothing, mut holes, mut cuts) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        let disk = disk(seed);
        let file = put(&disk, "log/a", &[1; 8192]);
        file.write_at(&[2; 7000], 700).unwrap();
        disk.crash();
        let bytes = disk.read("log/a").unwrap();
        assert_eq!(bytes.len(), 8192, "seed {seed}");
        assert!(bytes[..700].iter().chain(&bytes[7700..]).all(|byte| *byte == 1), "seed {seed}");
        let steps: Vec<_> = (701..7700).filter(|at| bytes[*at] != bytes[at - 1]).collect();
        let is_cut = steps.iter().any(|at| at % 512 != 0);
        assert!(!is_cut || steps.len() == 1, "seed {seed}: only a single cut may be inside a sector");
        all += usize::from(bytes[700..7700] == [2; 7000]);
        nothing += usize::from(bytes == [1; 8192]);
        holes += usize::from(steps.len() > 1);
        cuts += usize::from(is_cut);
    }
    let share = SEEDS as usize / 10;
    assert!(all > share && nothing > share && holes > share && cuts > share / 4, "{all} {nothing} {holes} {cuts}");
}

#[test]
fn of_two_unsynced_writes_either_may_survive_without_the_other_and_holes_are_zeros() {
    let found = outcomes(|disk| {
        let file = put(disk, "log/a", b"");
        file.write_at(&[1; 512], 0).unwrap();
        file.write_at(&[2; 512], 512).unwrap();
        disk.crash();
        let bytes = disk.read("log/a").unwrap();
        assert!(bytes.iter().take(512).all(|byte| [0, 1].contains(byte)));
        assert!(bytes.iter().skip(512).all(|byte| [0, 2].contains(byte)));
        bytes
    });
    for expected in [vec![], vec![1; 512], [[1; 512], [2; 512]].concat(), [[0; 512], [2; 512]].concat(), vec![0; 1024]]
    {
        assert!(found.contains(&expected), "never left: {:?} and so on", expected.first());
    }
}

#[test]
fn overlapping_writes_leave_either_in_each_sector() {
    let found = outcomes(|disk| {
        let file = put(disk, "log/a", &[0; 1024]);
        file.write_at(&[1; 1024], 0).unwrap();
        file.write_at(&[2; 1024], 0).unwrap();
        disk.crash();
        let bytes = disk.read("log/a").unwrap();
        (bytes[0], bytes[1023])
    });
    assert_eq!(found.len(), 9, "{found:?}");
}

#[test]
fn a_name_may_vanish_until_its_folder_is_synced() {
    let create = |disk: &SimulatedDisk| drop(disk.create("log/new").unwrap());
    assert_eq!(names_after(create), sets(&[&["log/old"], &["log/new", "log/old"]]));
    let synced = names_after(|disk| {
        create(disk);
        disk.sync_folder("log").unwrap();
    });
    assert_eq!(synced, sets(&[&["log/new", "log/old"]]));
    let elsewhere = names_after(|disk| {
        create(disk);
        disk.sync_folder("tmp").unwrap();
    });
    assert_eq!(elsewhere.len(), 2, "another folder's sync does nothing for it");
}

#[test]
fn a_rename_happens_or_not_until_one_of_its_folders_is_synced() {
    assert_eq!(names_after(|disk| disk.rename("log/old", "tmp/b").unwrap()), sets(&[&["log/old"], &["tmp/b"]]));
    for folder in FOLDERS {
        let found = names_after(|disk| {
            disk.rename("log/old", "tmp/b").unwrap();
            disk.sync_folder(folder).unwrap();
        });
        assert_eq!(found, sets(&[&["tmp/b"]]), "{folder}");
    }
}

#[test]
fn a_removed_file_may_come_back_until_its_folder_is_synced() {
    let remove = |disk: &SimulatedDisk| disk.remove("log/old").unwrap();
    assert_eq!(names_after(remove), sets(&[&["log/old"], &[]]));
    let synced = names_after(|disk| {
        remove(disk);
        disk.sync_folder("log").unwrap();
    });
    assert_eq!(synced, sets(&[&[]]));
}

#[test]
fn a_renamed_file_is_found_under_its_new_name_though_its_create_was_never_synced() {
    let found = names_after(|disk| {
        disk.create("tmp/a").unwrap();
        disk.rename("tmp/a", "log/a").unwrap();
    });
    assert_eq!(found, sets(&[&["log/old"], &["log/old", "tmp/a"], &["log/a", "log/old"]]));
    let synced = names_after(|disk| {
        disk.create("tmp/a").unwrap();
        disk.rename("tmp/a", "log/a").unwrap();
        disk.sync_folder("log").unwrap();
    });
    assert_eq!(synced, sets(&[&["log/a", "log/old"]]));
}

#[test]
fn changes_of_names_survive_in_any_order() {
    let found = names_after(|disk| {
        disk.create("log/a").unwrap();
        disk.create("log/b").unwrap();
        disk.remove("log/old").unwrap();
    });
    assert_eq!(found.len(), 8, "{found:?}");
}

#[test]
fn a_replaced_file_is_there_until_the_new_one_is() {
    let found = outcomes(|disk| {
        put(disk, "log/a", b"old");
        put(disk, "tmp/a", b"new");
        disk.rename("tmp/a", "log/a").unwrap();
        disk.crash();
        (disk.read("log/a").unwrap(), names(disk).len())
    });
    assert_eq!(found, [(b"new".to_vec(), 1), (b"old".to_vec(), 2)].into());
}

/// Random changes of names: a durable file that nobody removes is never lost and never there twice, and what all
/// folders' syncs cover is there exactly.
#[test]
fn no_order_of_changes_loses_a_file() {
    for seed in 0..SEEDS {
        let (disk, mut chance) = (disk(seed), Chance::seeded(seed));
        let paths = ["log/a", "log/b", "tmp/a", "tmp/b", "c"];
        let mut kept = BTreeSet::new();
        for step in 0..40_u8 {
            let mut path = || paths[chance.below(paths.len() as u64) as usize];
            let (from, to) = (path(), path());
            match chance.below(8) {
                0..3 => {
                    if let Ok(file) = disk.create(from) {
                        file.write_at(&[step], 0).unwrap();
                        file.sync().unwrap();
                    }
                }
                3..6 => {
                    let replaced = disk.read(to);
                    if from != to && disk.rename(from, to).is_ok() {
                        kept.retain(|bytes| Some(bytes) != replaced.as_ref());
                    }
                }
                6 => {
                    kept.retain(|bytes| Some(bytes) != disk.read(from).as_ref());
                    let _ = disk.remove(from);
                }
                _ => {
                    disk.sync_folder(["log", "tmp", ""][chance.below(3) as usize]).unwrap();
                }
            }
            if chance.one_in(8) {
                for folder in ["log", "tmp", ""] {
                    disk.sync_folder(folder).unwrap();
                }
                kept = names(&disk).iter().filter_map(|path| disk.read(path)).collect();
                if chance.one_in(2) {
                    let before = disk.files();
                    disk.crash();
                    assert_eq!(disk.files(), before, "seed {seed}");
                }
            }
        }
        disk.crash();
        let found: Vec<_> = names(&disk).iter().filter_map(|path| disk.read(path)).collect();
        let distinct: BTreeSet<_> = found.iter().cloned().collect();
        assert_eq!(found.len(), distinct.len(), "seed {seed}: a file has two names");
        assert!(kept.is_subset(&distinct), "seed {seed}: {kept:?} in {distinct:?}");
    }
}

#[test]
fn what_a_failed_sync_dropped_is_read_until_the_crash_and_saved_by_no_later_sync() {
    let found = outcomes(|disk| {
        let file = put(disk, "log/a", b"");
        file.write_at(b"lost", 0).unwrap();
        disk.set_faults(Faults { sync_fails: 10_000, ..Faults::default() });
        assert!(is_eio(file.sync()));
        disk.set_faults(Faults::default());
        file.write_at(b"kept", 4).unwrap();
        file.sync().unwrap();
        disk.kill();
        assert_eq!(disk.read("log/a").unwrap(), b"lostkept");
        disk.open("log/a").unwrap().sync().unwrap();
        disk.crash();
        disk.read("log/a").unwrap()
    });
    assert!(found.iter().all(|bytes| bytes.ends_with(b"kept")));
    assert!(found.contains(&b"\0\0\0\0kept".to_vec()) && found.contains(&b"lostkept".to_vec()), "{found:?}");
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
fn a_failed_write_leaves_any_part_from_its_start() {
    let found = outcomes(|disk| {
        let file = put(disk, "log/a", b"");
        disk.set_faults(Faults { write_fails: 10_000, ..Faults::default() });
        file.write_at(b"abc", 0).unwrap_err();
        disk.read("log/a").unwrap()
    });
    assert_eq!(found, [b"".to_vec(), b"a".to_vec(), b"ab".to_vec(), b"abc".to_vec()].into());
}

#[test]
fn a_full_disk_takes_what_it_has_room_for_and_no_more() {
    let disk = disk(1);
    disk.set_capacity(5 * 4096 + 100);
    assert_eq!(disk.free_bytes().unwrap(), 5 * 4096);
    let file = put(&disk, "log/a", &[1; 4097]);
    assert_eq!(disk.free_bytes().unwrap(), 3 * 4096);
    assert_eq!(kind(file.write_at(&[2; 4 * 4096], 4096 + 1)), io::ErrorKind::StorageFull);
    assert!(disk.files()[0].1 <= 5 * 4096);
    file.write_at(&[3; 4097], 0).unwrap(); // over what is there
    disk.remove("log/a").unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 5 * 4096, "the open handle does not hold the room");
    disk.set_capacity(0);
    assert_eq!(disk.free_bytes().unwrap(), 0);
}

#[test]
fn room_set_aside_is_found_again_and_can_be_given_back() {
    let disk = disk(1);
    disk.set_capacity(4 * 4096);
    let file = put(&disk, "log/a", b"abc");
    assert_eq!(kind(file.allocate(4 * 4096 + 1)), io::ErrorKind::StorageFull);
    file.allocate(2 * 4096 + 1).unwrap();
    assert_eq!((disk.free_bytes().unwrap(), file.length().unwrap()), (4096, 3));
    put(&disk, "log/b", b"the last block");
    file.write_at(&[1; 3 * 4096], 0).unwrap();
    assert_eq!(kind(disk.create("log/c").unwrap().write_at(b"x", 0)), io::ErrorKind::StorageFull);
    disk.remove("log/b").unwrap();
    file.allocate(4 * 4096).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 0);
    disk.trim("log/a").unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 4096);
    disk.set_faults(Faults { allocate_unsupported: true, ..Faults::default() });
    assert_eq!(kind(file.allocate(1)), io::ErrorKind::Unsupported);
}

#[test]
fn room_set_aside_may_survive_a_crash() {
    let found = outcomes(|disk| {
        disk.set_capacity(4 * 4096);
        put(disk, "log/a", b"abc").allocate(4 * 4096).unwrap();
        disk.crash();
        let free_bytes = disk.free_bytes().unwrap();
        disk.trim("log/a").unwrap();
        assert_eq!(disk.free_bytes().unwrap(), 3 * 4096);
        free_bytes
    });
    assert_eq!(found, [0, 3 * 4096].into());
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
fn rot_changes_one_byte_that_is_there_for_good() {
    let (disk, mut chance) = (disk(1), Chance::seeded(1));
    assert_eq!(disk.rot(&mut chance), None);
    put(&disk, "log/a", &[7; 1000]);
    put(&disk, "log/b", &[7; 1000]).write_at(&[8; 500], 0).unwrap();
    for _ in 0..100 {
        let before = disk.snapshot();
        let Rotten { path, offset } = disk.rot(&mut chance).unwrap();
        let is_unsynced = path == "log/b" && offset < 500; // the page cache still has it
        for name in names(&disk) {
            let (old, new) = (before.read(&name).unwrap(), disk.read(&name).unwrap());
            let changed: Vec<_> = (0..old.len() as u64).filter(|at| old[*at as usize] != new[*at as usize]).collect();
            assert_eq!(changed, if name == path && !is_unsynced { vec![offset] } else { vec![] }, "{path} {offset}");
        }
    }
    assert!(disk.rot_at("log/a", 999) && !disk.rot_at("log/a", 1000) && !disk.rot_at("log/c", 0));
    let before = disk.read("log/a");
    disk.crash();
    assert_eq!(disk.read("log/a"), before);
}

#[test]
fn a_loss_takes_the_tail_or_the_file() {
    let found = outcomes(|disk| {
        put(disk, "log/a", b"ab");
        let loss = disk.lose("log/a").unwrap();
        disk.crash();
        assert_eq!(
            disk.read("log/a"),
            match loss {
                Loss::Tail(from) => Some(b"ab"[..from as usize].to_vec()),
                Loss::File => None,
            }
        );
        disk.files()
    });
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(disk(1).lose("log/a"), None);
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
        (NotFound, disk.trim("log/b")),
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

#[test]
fn a_folder_lists_its_own_files() {
    let disk = disk(1);
    for path in ["log/a", "log/b", "tmp/c"] {
        put(&disk, path, b"");
    }
    disk.create("d").unwrap();
    assert_eq!(disk.list("log").unwrap(), ["a", "b"]);
    assert_eq!((disk.list("").unwrap(), disk.list(".").unwrap()), (vec!["d".to_owned()], vec!["d".to_owned()]));
}

#[test]
fn a_removed_file_lives_as_long_as_it_is_open_and_not_longer() {
    let disk = disk(1);
    let file = put(&disk, "log/a", b"abc");
    disk.remove("log/a").unwrap();
    for round in 0..1000 {
        put(&disk, "tmp/a", &[0; 100]);
        disk.remove("tmp/a").unwrap();
        disk.sync_folder("tmp").unwrap();
        assert!(disk.lock().inodes.len() < 20, "round {round}");
    }
    file.read_at(&mut [0; 3], 0).unwrap();
}
