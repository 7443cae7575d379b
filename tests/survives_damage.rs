//! A disk that loses or alters what was stored costs the mail that it hit and no other; a person is told, at every start.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use backupmx_relay_api::status::{PrimaryState, Status};
use support::{Client, Envelope, Primary, Relay, trace_field};

const LIMIT: Duration = Duration::from_secs(60);
/// More than a relay waits for anything that damage has to do with.
const SOON: Duration = Duration::from_secs(5);
/// Far above the 256 KiB from which on a message has a file of its own (docs/spool.md).
const LARGE_BYTES: usize = 600_000;
/// Where records begin in a segment; before that its header stands twice (docs/spool.md).
const RECORDS_START: usize = 4608;

#[test]
fn large_messages_that_are_lost_or_altered_are_held_and_the_others_arrive() {
    let mut primary = Primary::away();
    let relay = Relay::before(primary.address()).start();
    let lost = send(&relay, "lost", LARGE_BYTES);
    let altered = send(&relay, "altered", LARGE_BYTES);
    for name in ["a", "b", "c", "d", "e"] {
        send(&relay, name, 100);
    }
    fs::remove_file(large_file(&relay, &lost)).expect("a large message has a file");
    flip(&large_file(&relay, &altered), |file| file.len() - 100);

    primary.return_now();
    let up = relay.until(LIMIT, "the primary is known to be up", is_up);
    let done = relay.until(SOON, "the healthy are delivered, the damaged are held", |status| {
        status.account.delivered == 5 && status.queue.held == 2
    });
    assert_eq!((done.account.accepted, done.account.difference()), (7, 0), "{:?}", done.account);
    // What the disk did says nothing about the primary.
    assert!(is_up(&done) && done.primary.since == up.primary.since, "{:?}", done.primary);
    assert_ne!(done.problems, [""; 0]);
    let mut arrived: Vec<_> = primary.mails().iter().map(|mail| mail.recipients.join(" ")).collect();
    arrived.sort();
    assert_eq!(arrived, ["a", "b", "c", "d", "e"].map(|name| format!("{name}@example.org")));
}

#[test]
fn damage_is_told_at_every_start_and_costs_no_other_message() {
    let mut primary = Primary::away();
    let mut relay = Relay::before(primary.address()).start();
    send(&relay, "before", 100);
    let large = send(&relay, "large", LARGE_BYTES);
    send(&relay, "hit", 100);
    send(&relay, "behind", 100);
    relay.terminate();
    flip(&first_segment(&relay), |segment| place(segment, b"hit@example.org"));
    for start in 1..=3 {
        relay.start_again();
        let status = relay.status();
        assert!(tells_of_segment_1(&status), "start {start}: {:#?}", status.problems);
        assert_eq!((status.queue.messages, status.account.difference()), (3, 0), "start {start}: {status:#?}");
        assert!(large_file(&relay, &large).is_file(), "start {start}");
        relay.terminate();
    }
    relay.start_again();
    primary.return_now();
    relay.until(LIMIT, "what was not hit is delivered", |status| status.account.delivered == 3);
    let mails = primary.mails();
    let mail = mails.iter().find(|mail| mail.recipients == ["large@example.org"]).expect("the large one arrived");
    assert!(trace_field::split(&mail.content).1 == content(LARGE_BYTES), "the large one was altered");
}

#[test]
fn a_large_file_that_damage_has_cut_off_is_not_thrown_away() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 2] = [
        ("its record is altered", |segment| flip(segment, |bytes| place(bytes, b"large@example.org"))),
        ("its segment has lost both headers", |segment| {
            let mut bytes = fs::read(segment).expect("a segment can be read");
            bytes[..RECORDS_START].fill(0);
            fs::write(segment, bytes).expect("a segment can be written");
        }),
    ];
    for (what, damage) in damages {
        let primary = Primary::away();
        let mut relay = Relay::before(primary.address()).start();
        send(&relay, "bob", 100);
        let large = send(&relay, "large", LARGE_BYTES);
        relay.terminate();
        damage(&first_segment(&relay));
        for start in 1..=3 {
            relay.start_again();
            let status = relay.status();
            assert!(tells_of_segment_1(&status), "{what}, start {start}: {:#?}", status.problems);
            assert_eq!(status.account.difference(), 0, "{what}, start {start}: {:?}", status.account);
            assert!(large_file(&relay, &large).is_file(), "{what}, start {start}: the file is gone");
            relay.terminate();
        }
    }
}

fn is_up(status: &Status) -> bool {
    status.primary.state == PrimaryState::Up
}

fn tells_of_segment_1(status: &Status) -> bool {
    status.problems.iter().any(|problem| problem.contains("segment 1"))
}

/// Sends a message of this size. Returns its id.
fn send(relay: &Relay, name: &str, bytes: usize) -> String {
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let reply = client.send(&Envelope::to(name), &content(bytes)).expect("the relay answers");
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

fn large_file(relay: &Relay, id: &str) -> PathBuf {
    relay.data().join("large").join(id)
}

/// The one that the relay's first run wrote, closed by now.
fn first_segment(relay: &Relay) -> PathBuf {
    relay.data().join("log/0000000000000001.seg")
}

/// Where `part` stands, which is there.
fn place(bytes: &[u8], part: &[u8]) -> usize {
    memchr::memmem::find(bytes, part).expect("the part is in the file")
}

/// Turns one bit over, as disks do.
fn flip(file: &Path, place: impl Fn(&[u8]) -> usize) {
    let mut bytes = fs::read(file).unwrap_or_else(|error| panic!("read {}: {error}", file.display()));
    let place = place(&bytes);
    bytes[place] ^= 1;
    fs::write(file, bytes).expect("what can be read can be written");
}
