//! Room: a full disk refuses, and what was set aside is found again.

use super::*;

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
    disk.trim("log/a", u64::MAX).unwrap();
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
        disk.trim("log/a", u64::MAX).unwrap();
        assert_eq!(disk.free_bytes().unwrap(), 3 * 4096);
        free_bytes
    });
    assert_eq!(found, [0, 3 * 4096].into());
}
