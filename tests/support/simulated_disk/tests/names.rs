//! Names: what a folder's sync covers stays, what it does not happened or not.

use super::*;

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
    disk.sync_folder("log").unwrap();
    for round in 0..1000 {
        put(&disk, "tmp/a", &[0; 100]);
        disk.remove("tmp/a").unwrap();
        disk.sync_folder("tmp").unwrap();
        assert!(disk.lock().inodes.len() < 20, "round {round}");
    }
    file.read_at(&mut [0; 3], 0).unwrap();
}
