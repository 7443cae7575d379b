//! A disk that is full, fails or forgets: what heard 250 is kept, nobody hears a no for good, and it is over when the
//! disk is well again.

use std::{
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use backupmx_relay_api::status::{PrimaryState, Status};
use support::{
    Primary, Relay, eventually,
    letters::{Heard, Letters, SMALL_BYTES},
    volume::Volume,
};

#[path = "bears_a_sick_disk/faults.rs"]
mod faults;
#[path = "bears_a_sick_disk/running.rs"]
mod running;
#[path = "bears_a_sick_disk/starting.rs"]
mod starting;

const LIMIT: Duration = Duration::from_secs(60);
/// More than the relay waits until it looks again, or tries again, by itself.
const SOON: Duration = Duration::from_secs(10);
/// Twice the room below which senders hear 452.
const VOLUME_BYTES: u64 = 400 << 20;
const SENDERS: usize = 4;
const IMPATIENT: &str = "primary: {probe: {interval: 1s, intervalWhileQueued: 1s}}";

#[test]
fn a_full_volume_stops_the_intake_not_the_drain_and_costs_no_mail() {
    let volume = Volume::new(VOLUME_BYTES);
    let mut primary = Primary::away();
    let mut relay = Relay::before(primary.address()).config(IMPATIENT).data(&volume.path().join("data")).start();

    let senders = Senders::begin(relay.smtp());
    senders.wait_for_taken(500);
    volume.fill();
    senders.wait_for_refused(10 * SENDERS as u64);
    let mut letters = senders.stop();
    for refusal in letters.iter().flat_map(Letters::refusals) {
        assert!(refusal.is("452 4.3.1 "), "{refusal}");
    }
    let full = relay.status();
    assert_ne!(full.problems, [""; 0]);

    // The drain goes on, and what became of each message is recorded, on a volume without a free block; also after
    // restarts, the first of which takes the reserve.
    volume.fill();
    for _ in 0..3 {
        relay.kill9();
        relay.start_again();
    }
    primary.return_now();
    let drained = relay.until(LIMIT, "all is delivered from a full volume", |status| status.queue.messages == 0);
    assert_eq!(drained.account.delivered, drained.account.accepted);
    assert_eq!(complaints(&letters, &primary), [""; 0]);

    // With room again it takes mail again, by itself.
    volume.make_room();
    let mut again = Letters::new("again");
    eventually(SOON, "mail is taken again", || again.is_taken(relay.smtp(), SMALL_BYTES));
    relay.until(SOON, "nothing is wrong", is_well);
    relay.until(SOON, "nothing waits", |status| status.queue.messages == 0);
    letters.push(again);

    // Started on a full volume, it knows what it has delivered.
    volume.fill();
    relay.kill9();
    relay.start_again();
    let known = relay.until(LIMIT, "the primary is known to be up", |status| status.primary.state == PrimaryState::Up);
    assert_eq!((known.queue.messages, known.account.difference()), (0, 0), "{known:?}");
    volume.make_room();
    let mut last = Letters::new("last");
    eventually(SOON, "mail is taken again", || last.is_taken(relay.smtp(), SMALL_BYTES));
    relay.until(SOON, "nothing is wrong, nothing waits", |status| is_well(status) && status.queue.messages == 0);
    letters.push(last);
    assert_eq!(complaints(&letters, &primary), [""; 0]);
}

/// The volume fails while no message is under way, because of a known limit: where ext4 (Linux 6.18) gives up its journal
/// within an fdatasync of blocks that were not written before, that fdatasync says yes and the blocks are zeros later.
/// It needs no relay to be seen; a program that only writes and syncs loses its last write in one case of ten.
#[test]
fn a_volume_that_turns_read_only_costs_no_mail() {
    let mut volume = Volume::new(VOLUME_BYTES);
    let mut primary = Primary::away();
    let mut relay = Relay::before(primary.address()).config(IMPATIENT).data(&volume.path().join("data")).start();

    let senders = Senders::begin(relay.smtp());
    senders.wait_for_taken(500);
    // Not while a message is under way: see below.
    senders.between_messages(|| volume.fail());
    senders.wait_for_refused(10 * SENDERS as u64);
    let letters = senders.stop();
    for refusal in letters.iter().flat_map(Letters::refusals) {
        assert!(refusal.is("451 4.3.0 "), "{refusal}");
    }
    relay.until(SOON, "it is told", |status| !status.spool.writable && !status.problems.is_empty());
    let log = relay.log().lines();
    let told = log.iter().any(|line| line["level"] == "ERROR" && line.to_string().contains("Read-only file system"));
    assert!(told, "no ERROR line names the cause");

    // What cannot be recorded is not delivered: it would come again after a restart.
    primary.return_now();
    relay.until(SOON, "the primary is known to be up", |status| status.primary.state == PrimaryState::Up);
    assert_eq!(relay.terminate(), 0, "{}", relay.log().end());
    assert_eq!(primary.count(), 0);

    volume.repair();
    relay.start_again();
    relay.until(LIMIT, "nothing waits", |status| status.queue.messages == 0);
    assert_eq!(complaints(&letters, &primary), [""; 0]);
    assert!(is_well(&relay.status()), "{:#?}", relay.status());
}

fn is_well(status: &Status) -> bool {
    status.spool.writable && status.problems.is_empty()
}

fn complaints(letters: &[Letters], primary: &Primary) -> Vec<String> {
    letters.iter().flat_map(|letters| letters.complaints(primary, 0)).collect()
}

/// Sessions that send message after message.
struct Senders {
    stop: Arc<AtomicBool>,
    /// Held by whoever has a message under way.
    gate: Arc<RwLock<()>>,
    taken: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Letters>>,
}

impl Senders {
    fn begin(to: SocketAddr) -> Self {
        let (stop, gate, taken, refused) = (Arc::default(), Arc::default(), Arc::default(), Arc::default());
        let mut senders = Self { stop, gate, taken, refused, threads: Vec::new() };
        for sender in 0..SENDERS {
            let (stop, gate) = (senders.stop.clone(), senders.gate.clone());
            let (taken, refused) = (senders.taken.clone(), senders.refused.clone());
            senders.threads.push(thread::spawn(move || {
                let mut letters = Letters::new(&format!("s{sender}x"));
                while !stop.load(Ordering::Relaxed) {
                    let _under_way = gate.read().unwrap_or_else(PoisonError::into_inner);
                    match letters.send(to, SMALL_BYTES) {
                        Heard::Yes(_) => taken.fetch_add(1, Ordering::Relaxed),
                        Heard::No(_) => refused.fetch_add(1, Ordering::Relaxed),
                        Heard::Nothing => 0,
                    };
                }
                letters
            }));
        }
        senders
    }

    fn wait_for_taken(&self, count: u64) {
        eventually(LIMIT, "mail is taken", || self.taken.load(Ordering::Relaxed) >= count);
    }

    fn wait_for_refused(&self, count: u64) {
        eventually(LIMIT, "mail is refused", || self.refused.load(Ordering::Relaxed) >= count);
    }

    /// Does this while none of them waits for a reply.
    fn between_messages(&self, act: impl FnOnce()) {
        let _nobody = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        act();
    }

    fn stop(self) -> Vec<Letters> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("a sender does not panic")).collect()
    }
}
