//! Bytes: what was synced stays, what was not may go in any part.

use super::*;

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
    assert!(found.contains(b"\0\0\0\0kept".as_slice()) && found.contains(b"lostkept".as_slice()), "{found:?}");
}

#[test]
fn a_sync_after_a_failed_one_keeps_the_length_of_what_that_dropped() {
    let found = outcomes(|disk| {
        let file = put(disk, "log/a", b"kept");
        file.write_at(b"lost", 4).unwrap();
        disk.set_faults(Faults { sync_fails: 10_000, ..Faults::default() });
        file.sync().unwrap_err();
        disk.set_faults(Faults::default());
        file.sync().unwrap();
        disk.crash();
        disk.read("log/a").unwrap()
    });
    assert!(found.contains(&b"kept\0\0\0\0"[..]) && found.iter().all(|bytes| bytes.len() == 8), "{found:?}");
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
fn rot_changes_one_byte_that_is_there_for_good() {
    let (disk, mut chance) = (disk(1), Chance::seeded(1));
    assert_eq!(disk.rot(&mut chance), None);
    put(&disk, "log/a", &[7; 1000]);
    put(&disk, "log/b", &[7; 1000]).write_at(&[7; 500], 0).unwrap();
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
