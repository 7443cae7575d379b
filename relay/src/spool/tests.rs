//! What the spool promises, on a real folder behind a disk that fails when told to.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    Content, ReadError, Spool, Watchers,
    disk::{Disk, RealDisk},
    faulty_disk::{Faults, FaultyDisk},
    field::{self, Change, Fate, HeldNote, HeldReason},
    large::{self, LargeWriter},
    log::{self, Limits, Log},
    quarantine::FOLDER as QUARANTINE,
    record::{INLINE_CONTENT_BYTES_MAX, Kind},
    recovery,
    search::{Cursor, Query},
    shared::Shared,
    wish::{NotKept, Wish},
};
use crate::mail::{content::Source, id::MessageId};

/// What a start found.
struct Recovered {
    waiting: Vec<MessageId>,
    damages: Vec<String>,
    rot: u64,
}

fn open(folder: &Path) -> (Spool, Recovered) {
    let (spool, waiting) = Spool::open(Arc::new(RealDisk::new(folder)), unwatched()).unwrap();
    let waiting = waiting.into_iter().map(|(id, _)| id).collect();
    let (damages, rot) = spool.damages();
    (spool, Recovered { waiting, damages, rot })
}

/// Ends a spool as a kill does, without a last word. Its threads are gone when this returns.
fn kill(spool: Spool) {
    let shared = Arc::downgrade(&spool.shared);
    drop(spool);
    wait_until("the threads end", || shared.strong_count() == 0);
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < limit, "waited too long until {what}");
        std::thread::yield_now();
    }
}

fn unwatched() -> Watchers {
    Watchers { synced: Box::new(|_| {}), rot: Box::new(|_| {}) }
}

fn recover(disk: Arc<FaultyDisk>) -> (Arc<Shared>, Log) {
    let nonces = Box::new(|| uuid::Uuid::new_v4().into_bytes());
    recovery::recover(disk, Limits::default(), nonces, Timestamp::now()).unwrap()
}

async fn keep(spool: &Spool, content: &[u8], recipients: usize) -> Result<MessageId, NotKept> {
    let field::Accepted { envelope, trace, .. } = field::tests::accepted(MessageId::new(), recipients);
    let mut incoming = spool.begin(envelope, trace);
    for piece in content.chunks(100_000) {
        incoming.buffer().extend_from_slice(piece);
        incoming.spill(1 << 16).await?;
    }
    incoming.keep().await.map(|receipt| receipt.id())
}

fn attempt(id: MessageId, fates: &[Fate]) -> Change {
    let fates = (0..).zip(fates).map(|(place, fate)| (place, *fate, "words".to_owned())).collect();
    Change {
        kind: Kind::Attempt,
        id,
        at: Timestamp::now(),
        by: "mx1:25".into(),
        fates,
        held_as: Some(HeldReason::Undeliverable),
    }
}

async fn content(mut source: Content) -> io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    while let Some(piece) = source.next().await? {
        whole.extend(piece);
    }
    Ok(whole)
}

/// A wish to keep a small message, for [`log::Log::commit`].
fn wish() -> Wish {
    let accepted = field::tests::accepted(MessageId::new(), 1);
    let fields = accepted.encode();
    Wish::Accept { arrival: accepted.arrival(), fields, content: b"small\r\n".to_vec(), is_copy: false }
}

fn outcome(id: MessageId) -> Wish {
    Wish::change(attempt(id, &[Fate::Delivered]))
}

/// What those who wanted it hear.
fn told(log: &mut Log, wishes: &[Wish]) -> Vec<Result<(), NotKept>> {
    log.commit(wishes, Timestamp::now()).into_iter().map(|done| done.map(|_| ())).collect()
}

/// Names in a folder of the spool.
fn names(folder: &Path, of: &str) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder.join(of)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn every_message_and_every_fate_is_found_again_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let contents = [0, 1, 8192, INLINE_CONTENT_BYTES_MAX, INLINE_CONTENT_BYTES_MAX + 1, 1_000_000]
        .map(|length| vec![b'x'; length]);
    let mut ids = Vec::new();
    for content in &contents {
        ids.push(keep(&spool, content, 2).await.unwrap());
    }
    assert_eq!(spool.change(attempt(ids[0], &[Fate::Delivered, Fate::Delivered])).await, Ok(true));
    assert_eq!(spool.change(attempt(ids[1], &[Fate::Held, Fate::Deferred])).await, Ok(false));
    assert_eq!(spool.change(attempt(ids[5], &[Fate::Delivered, Fate::Delivered])).await, Ok(true));
    let account = spool.account();
    kill(spool);

    let (spool, recovered) = open(folder.path());
    assert_eq!(recovered.damages, [] as [String; 0]);
    assert_eq!(recovered.waiting, ids[1..5]);
    assert_eq!(spool.account(), account);
    assert_eq!(account.difference(), 0);
    let second = spool.read(ids[1]).await.unwrap().unwrap();
    assert_eq!((second.waiting, second.deferrals), (vec![1], 1));
    for place in 1..5 {
        let stored = spool.read(ids[place]).await.unwrap().unwrap();
        assert_eq!(stored.envelope, field::tests::accepted(ids[place], 2).envelope);
        assert!(content(stored.content).await.unwrap() == contents[place], "message {place}");
    }
    assert_eq!(names(folder.path(), "large"), [ids[4].to_string()], "the closed one's file is gone");
}

#[tokio::test]
async fn a_message_that_was_closed_never_comes_back_though_its_segments_go_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut last = None;
    for _ in 0..5 {
        let (spool, recovered) = open(folder.path());
        assert_eq!(recovered.waiting.len(), usize::from(last.is_some()));
        if let Some(id) = last {
            // Closed in a later segment than the one that holds its content.
            assert_eq!(spool.change(attempt(id, &[Fate::Delivered])).await, Ok(true));
        }
        last = Some(keep(&spool, b"content\r\n", 1).await.unwrap());
        assert_eq!(spool.account().difference(), 0);
        kill(spool);
    }
    let (spool, recovered) = open(folder.path());
    assert_eq!(recovered.waiting.len(), 1);
    let account = spool.account();
    assert_eq!((account.accepted, account.delivered, account.queued), (5, 4, 1));
    assert!(names(folder.path(), "log").len() <= 3, "old segments are removed");
}

#[tokio::test]
async fn nobody_hears_that_a_message_is_kept_before_its_sync_has_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let disk = Arc::new(FaultyDisk { disk: RealDisk::new(folder.path()), faults: faults.clone() });
    let (spool, _) = Spool::open(disk, unwatched()).unwrap();
    *faults.sync_is_held.lock().unwrap() = true;
    let keeping = tokio::spawn({
        let spool = spool.clone();
        async move { keep(&spool, b"content\r\n", 1).await }
    });
    let limit = Instant::now() + Duration::from_secs(10);
    while faults.syncs_under_way.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < limit && !keeping.is_finished(), "no sync was asked for");
        tokio::task::yield_now().await;
    }
    for _ in 0..1000 {
        tokio::task::yield_now().await; // time enough for an answer that came too early
    }
    assert!(!keeping.is_finished());
    assert_eq!(spool.counts().messages, 0);
    *faults.sync_is_held.lock().unwrap() = false;
    faults.released.notify_all();
    keeping.await.unwrap().unwrap();
    assert_eq!(spool.counts().messages, 1);
}

#[tokio::test]
async fn why_and_since_when_mail_is_held_survives_a_restart_with_and_without_footers() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(keep(&spool, b"content\r\n", 2).await.unwrap());
    }
    let held_at = |ms: i64| Timestamp::from_millisecond(ms).unwrap();
    let refused = Change { at: held_at(5), ..attempt(ids[0], &[Fate::Held, Fate::Delivered]) };
    let by_a_person = Change { kind: Kind::Held, held_as: Some(HeldReason::Person), ..attempt(ids[1], &[Fate::Held]) };
    let by_a_person = Change { at: held_at(7), ..by_a_person };
    for change in [refused, by_a_person] {
        assert_eq!(spool.change(change).await, Ok(false));
    }
    let check = |spool: &Spool| {
        let notes: Vec<_> = ids.iter().map(|id| spool.stands(*id).unwrap().note).collect();
        let note = |since_ms, reason| Some(HeldNote { since_ms, reason });
        assert_eq!(notes, [note(5, HeldReason::Undeliverable), note(7, HeldReason::Person), None]);
        let counts = spool.held_by_reason();
        assert_eq!((counts[&HeldReason::Undeliverable], counts[&HeldReason::Person]), (1, 1));
        assert_eq!((counts[&HeldReason::Expired], spool.counts().held), (0, 1));
        assert_eq!(spool.held_before(&[HeldReason::Undeliverable], 6, 9), [ids[0]]);
        assert_eq!(spool.held_before(&[HeldReason::Undeliverable], 5, 9), [] as [MessageId; 0]);
        assert_eq!(spool.held_before(&HeldReason::ALL, 8, 1), [ids[0]]);
        assert_eq!(spool.waiting_before(i64::MAX, 9), ids[1..]);
        assert_eq!(spool.waiting_before(ids[0].made_at_ms(), 9), [] as [MessageId; 0]);
    };
    check(&spool);
    kill(spool);
    let (spool, _) = open(folder.path());
    check(&spool);
    kill(spool);
    assert!(names(folder.path(), "log").contains(&"0000000000000001.footer".to_owned()));
    let (spool, _) = open(folder.path());
    check(&spool);
}

#[tokio::test]
async fn held_mail_can_be_read_and_found_and_its_story_told() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let (first, second) = (keep(&spool, b"1\r\n", 12).await.unwrap(), keep(&spool, b"2\r\n", 1).await.unwrap());
    spool.change(attempt(second, &[Fate::Held])).await.unwrap();
    assert!(spool.read(second).await.unwrap().is_none(), "nobody in it is to be tried");
    assert_eq!(content(spool.read_any(second).await.unwrap().unwrap().content).await.unwrap(), b"2\r\n");
    assert_eq!(spool.history(second).await.unwrap().len(), 2);
    assert!(spool.history(MessageId::new()).await.unwrap().is_empty());

    let found = async |query: Query| {
        let (hits, rest) = spool.search(query, Cursor::default(), 9, Duration::from_secs(9)).await.unwrap();
        assert_eq!(rest, None);
        hits.into_iter().map(|hit| hit.id).collect::<Vec<_>>()
    };
    let (all, reason) = (Query::default(), |reason| Query { reason: Some(reason), ..Query::default() });
    assert_eq!(found(all.clone()).await, [first, second]);
    assert_eq!(found(Query { is_held: Some(true), ..all.clone() }).await, [second]);
    assert_eq!(found(Query { is_held: Some(false), ..all.clone() }).await, [first]);
    assert_eq!(found(reason(HeldReason::Undeliverable)).await, [second]);
    assert_eq!(found(reason(HeldReason::Person)).await, []);
    assert_eq!(found(Query { part: "U11@EXAMPLE".into(), ..all.clone() }).await, [first]);
    assert_eq!(found(Query { part: "u11@".into(), is_held: Some(true), ..all.clone() }).await, []);
    let (mut hits, rest) = spool.search(all.clone(), Cursor::default(), 1, Duration::from_secs(9)).await.unwrap();
    let hit = hits.remove(0);
    assert_eq!((hit.recipients.len(), hit.entry.states().len(), hits.len()), (10, 12, 0));
    let (hits, _) = spool.search(all, rest.unwrap(), 1, Duration::from_secs(9)).await.unwrap();
    assert_eq!(hits[0].id, second);
    let query = Query { part: "u11@".into(), ..Query::default() };
    let (hits, _) = spool.search(query, Cursor::default(), 1, Duration::from_secs(9)).await.unwrap();
    assert_eq!(hits[0].recipients[..2], ["u11@example.org", "u0@example.org"], "what was looked for goes first");
}

#[test]
fn after_a_failed_sync_senders_hear_no_only_when_their_messages_are_void() {
    let folder = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let disk = Arc::new(FaultyDisk { disk: RealDisk::new(folder.path()), faults: faults.clone() });
    let (shared, mut log) = recover(disk);
    let kept = wish();
    assert_eq!(told(&mut log, std::slice::from_ref(&kept)), [Ok(())]);

    faults.sync.store(true, Ordering::Relaxed);
    let batch = [wish(), outcome(kept.id()), wish()];
    assert_eq!(told(&mut log, &batch), [Err(NotKept::Disk), Ok(()), Err(NotKept::Disk)]);
    assert_eq!(shared.state().index.counts().messages, 0);
    let later = wish();
    assert_eq!(told(&mut log, std::slice::from_ref(&later)), [Ok(())]);
    drop(log);

    // The bytes of the failed batch are on the disk, but the next header made them void.
    let (_, recovered) = open(folder.path());
    assert_eq!(recovered.waiting, [later.id()]);
    assert_eq!(recovered.damages, [] as [String; 0]);
}

#[test]
fn when_no_segment_can_be_made_nobody_is_told_anything_until_one_can() {
    let folder = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let disk = Arc::new(FaultyDisk { disk: RealDisk::new(folder.path()), faults: faults.clone() });
    let (shared, mut log) = recover(disk);

    faults.sync.store(true, Ordering::Relaxed);
    faults.create.store(true, Ordering::Relaxed);
    assert_eq!(told(&mut log, &[wish()]), [Err(NotKept::Unknown)]);
    assert!(!shared.writable.load(Ordering::Relaxed));
    assert_eq!(told(&mut log, &[wish()]), [Err(NotKept::Disk)], "nothing was written, so no is true");

    faults.create.store(false, Ordering::Relaxed);
    log.tick(Timestamp::now());
    assert!(shared.writable.load(Ordering::Relaxed));
    let later = wish();
    assert_eq!(told(&mut log, std::slice::from_ref(&later)), [Ok(())]);
    drop(log);
    let (_, recovered) = open(folder.path());
    assert_eq!(recovered.waiting, [later.id()]);
}

#[tokio::test]
async fn a_torn_end_costs_nothing_that_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let kept = keep(&spool, b"kept\r\n", 1).await.unwrap();
    kill(spool);
    let segment = folder.path().join(log::path(1));
    let mut bytes = fs::read(&segment).unwrap();
    bytes.extend(b"BMXR half a record that a crash left behind");
    fs::write(&segment, &bytes).unwrap();

    for _ in 0..2 {
        let (_, recovered) = open(folder.path());
        assert_eq!(recovered.waiting, [kept]);
        assert_eq!(recovered.rot, 0);
    }
    assert_eq!(names(folder.path(), QUARANTINE).len(), 1, "copied aside once");
    assert_eq!(fs::read(&segment).unwrap(), bytes, "nothing is truncated");
}

#[tokio::test]
async fn rot_is_copied_aside_and_counted_and_what_is_behind_it_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(keep(&spool, b"content\r\n", 1).await.unwrap());
    }
    let second = spool.shared.state().index.get(ids[1]).unwrap().location;
    let segment = folder.path().join(log::path(second.segment));
    let mut bytes = fs::read(&segment).unwrap();
    bytes[second.offset as usize + 40] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    assert!(matches!(spool.read(ids[1]).await, Err(ReadError::Damaged)), "a running relay notices too");
    kill(spool);

    let (_, recovered) = open(folder.path());
    assert_eq!(recovered.waiting, [ids[0], ids[2]]);
    assert_eq!(recovered.rot, 1);
    let copies = names(folder.path(), QUARANTINE);
    let copy = fs::read(folder.path().join(QUARANTINE).join(&copies[0])).unwrap();
    assert_eq!(copy, &bytes[second.offset as usize..(second.offset + second.length) as usize]);
}

#[tokio::test]
async fn a_large_file_that_changed_is_never_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let id = keep(&spool, &vec![b'x'; 700_000], 1).await.unwrap();
    let path = folder.path().join(super::large::path(id));
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    let stored = spool.read(id).await.unwrap().unwrap();
    assert_eq!(content(stored.content).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    fs::remove_file(&path).unwrap();
    assert!(matches!(spool.read(id).await, Err(ReadError::Damaged)));
}

#[tokio::test]
async fn what_was_never_answered_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let field::Accepted { envelope, trace, .. } = field::tests::accepted(MessageId::new(), 1);
    let mut incoming = spool.begin(envelope, trace);
    incoming.buffer().extend_from_slice(&vec![b'x'; 300_000]);
    incoming.spill(1 << 16).await.unwrap();
    assert_eq!(names(folder.path(), "tmp").len(), 1);
    drop(incoming);
    assert_eq!(names(folder.path(), "tmp"), [] as [String; 0]);

    // A crash leaves them; the next start clears up.
    fs::write(folder.path().join("tmp/left"), "x").unwrap();
    fs::write(folder.path().join("large").join(MessageId::new().to_string()), "x").unwrap();
    kill(spool);
    open(folder.path());
    assert_eq!((names(folder.path(), "tmp").len(), names(folder.path(), "large").len()), (0, 0));
}

/// Flips a bit in the record of a message.
fn damage(folder: &Path, spool: &Spool, id: MessageId) {
    let place = spool.shared.state().index.get(id).unwrap().location;
    let path = folder.join(log::path(place.segment));
    let mut bytes = fs::read(&path).unwrap();
    bytes[place.offset as usize + 40] ^= 1;
    fs::write(&path, &bytes).unwrap();
}

#[tokio::test]
async fn damage_is_told_at_every_start_and_a_large_file_without_its_record_is_never_removed_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    keep(&spool, b"small\r\n", 1).await.unwrap();
    let large = keep(&spool, &vec![b'x'; 300_000], 1).await.unwrap();
    damage(folder.path(), &spool, large);
    spool.close().await;
    kill(spool);
    for start in 1..=3 {
        let (spool, recovered) = open(folder.path());
        assert_eq!(recovered.rot, 1, "start {start}");
        assert_eq!(names(folder.path(), "large"), [large.to_string()], "start {start}");
        spool.close().await;
    }
    assert_eq!(names(folder.path(), QUARANTINE).len(), 1, "copied aside once");
}

#[tokio::test]
async fn the_account_admits_what_damage_took_and_stays_exact() {
    for (delivered_before, expected_damaged) in [(false, 1), (true, 0)] {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path());
        keep(&spool, b"stays\r\n", 1).await.unwrap();
        let hit = keep(&spool, b"is hit\r\n", 1).await.unwrap();
        damage(folder.path(), &spool, hit);
        if delivered_before {
            spool.change(attempt(hit, &[Fate::Delivered])).await.unwrap();
        }
        spool.close().await;
        kill(spool);
        open(folder.path()).0.close().await; // the header that it writes knows the account
        let (spool, _) = open(folder.path());
        let account = spool.account();
        assert_eq!(account.difference(), 0, "{account:?}");
        assert_eq!((account.accepted, account.damaged, account.queued), (2, expected_damaged, 1), "{account:?}");
    }
}

#[tokio::test]
async fn after_a_clean_stop_damage_to_the_very_last_message_is_told_as_rot() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let last = keep(&spool, b"the last one\r\n", 1).await.unwrap();
    spool.close().await;
    damage(folder.path(), &spool, last);
    kill(spool);
    assert_eq!(open(folder.path()).1.rot, 1);
}

#[tokio::test]
async fn what_a_start_counted_is_rot_when_it_is_damaged_later_even_after_a_kill() {
    for zeros in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path());
        keep(&spool, b"small\r\n", 1).await.unwrap();
        let large = keep(&spool, &vec![b'x'; 300_000], 1).await.unwrap();
        let place = spool.shared.state().index.get(large).unwrap().location;
        kill(spool);
        open(folder.path()).0.close().await;

        let path = folder.path().join(log::path(place.segment));
        let mut bytes = fs::read(&path).unwrap();
        let hit = place.offset as usize..if zeros { bytes.len() } else { place.offset as usize + 50 };
        bytes[hit].fill(0);
        fs::write(&path, &bytes).unwrap();
        // A start that trusts its footers does not see it, the scrub that follows does.
        let (spool, _) = open(folder.path());
        wait_until("the scrub has found it", || spool.damages().1 == 1);
        assert_eq!(spool.account().difference(), 0, "zeros: {zeros}");
        kill(spool);
        let (spool, recovered) = open(folder.path());
        assert_eq!((recovered.rot, spool.account().difference()), (1, 0), "zeros: {zeros}");
        assert_eq!(names(folder.path(), "large"), [large.to_string()], "zeros: {zeros}");
    }
}

#[tokio::test]
async fn a_segment_without_its_header_leaves_the_log_only_when_its_copy_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    keep(&spool, b"unreadable\r\n", 1).await.unwrap();
    kill(spool);
    let path = folder.path().join(log::path(1));
    let mut bytes = fs::read(&path).unwrap();
    bytes[..4608].fill(0);
    fs::write(&path, &bytes).unwrap();

    // As long as no copy can be made, it stays.
    let faults = Arc::new(Faults::default());
    faults.create.store(true, Ordering::Relaxed);
    let disk = Arc::new(FaultyDisk { disk: RealDisk::new(folder.path()), faults });
    let (shared, _) = recover(disk);
    assert_eq!((shared.damages().rot, fs::read(&path).unwrap().len()), (1, bytes.len()));

    let (_, recovered) = open(folder.path());
    assert_eq!((recovered.rot, path.exists()), (1, false));
    let copies = names(folder.path(), QUARANTINE);
    assert_eq!(fs::read(folder.path().join(QUARANTINE).join(&copies[0])).unwrap(), bytes);
}

#[tokio::test]
async fn a_record_of_a_kind_that_only_a_newer_program_knows_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let path = folder.path().join(log::path(1));
    let mut bytes = fs::read(&path).unwrap();
    let (end, key) = (bytes.len() as u64, super::segment::Header::decode(&bytes).unwrap().key());
    let later = super::record::Record { kind: Kind::Later, is_copy: false, synced: end, fields: b"", content: b"" };
    super::record::append(&mut bytes, 0, key, &later);
    fs::write(&path, &bytes).unwrap();
    let refused = Spool::open(Arc::new(RealDisk::new(folder.path())), unwatched()).err().unwrap();
    assert!(refused.to_string().contains("newer program"), "{refused}");
}

#[test]
fn a_large_message_whose_client_has_gone_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(folder.path()));
    [large::FOLDER, large::TEMPORARY_FOLDER].iter().for_each(|name| disk.make_folder(name).unwrap());
    let [unfinished, finished, kept] = [(); 3].map(|()| {
        let mut writer = LargeWriter::create(disk.clone(), MessageId::new(), b"fields").unwrap();
        writer.push(b"content").unwrap();
        writer
    });
    drop(unfinished);
    drop(finished.finish().unwrap());
    assert_eq!([large::FOLDER, large::TEMPORARY_FOLDER].map(|name| disk.list(name).unwrap().len()), [0, 1]);
    assert_eq!(kept.finish().unwrap().release(), 7);
    assert_eq!(disk.list(large::FOLDER).unwrap().len(), 1, "now it is the record's");
}

#[test]
fn a_large_file_that_cannot_be_read_now_is_not_taken_for_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, id) = (RealDisk::new(folder.path()), MessageId::new());
    disk.make_folder(large::FOLDER).unwrap();
    assert_eq!(large::accepted_of_whole(&disk, id).unwrap(), None, "what is missing will not come back");
    // Opening a folder works, reading it is an error of the system's.
    fs::create_dir(folder.path().join(large::path(id))).unwrap();
    large::accepted_of_whole(&disk, id).unwrap_err();
}
