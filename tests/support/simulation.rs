//! A spool's life on a simulated disk: mail comes, goes, is held and deleted, the power fails, and everything is compared.
//!
//! The code under test is the relay's own: writer, log, reclaim, recovery, index, large files, scheduler. Only the disk, the
//! clock, chance and the two ends of the network are simulated. The same seed gives the same life.

mod imitation;
mod life;
mod model;
mod rot;

use std::{
    collections::BTreeSet,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use backupmx_relay::spool::{
    large,
    log::Limits,
    quarantine, recovery,
    segment::DamageKind,
    survey::{Damage, Reading, RecoveryError, survey},
};
use jiff::{SignedDuration, Timestamp};

use self::{
    life::{CONNECTIONS, Life},
    model::Model,
};
use crate::{
    chance::Chance,
    simulated_disk::{Faults, Lies, SimulatedDisk},
};

/// What is asked of one life.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// How often it ends in a crash or a kill.
    pub crashes: u64,
    /// How the disk lies. With lies the life is expected to end in [`Broken`].
    pub lies: Lies,
    /// Whether the life is told, event by event, on standard error.
    pub is_told: bool,
}

/// A promise that was not kept.
#[derive(Debug)]
pub struct Broken {
    /// What was seen.
    pub what: String,
    /// After so many crashes.
    pub crashes: u64,
}

/// What a life has seen. A simulation that never sees a full disk proves nothing about full disks.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Crashes and kills.
    pub crashes: u64,
    /// Those of them that happened while the spool was recovering from the one before.
    pub in_recovery: u64,
    /// Clean stops.
    pub stops: u64,
    /// Messages answered 250.
    pub kept: u64,
    /// Messages answered 4xx.
    pub refused: u64,
    /// Those of them because the disk was full.
    pub full: u64,
    /// Messages that heard nothing.
    pub unanswered: u64,
    /// Recipients delivered.
    pub delivered: u64,
    /// Recipients delivered again, as docs/spool.md allows.
    pub repeated: u64,
    /// Times that the log stood on the last room at some time.
    pub on_last_room: u64,
    /// Segments that were begun.
    pub segments: u64,
    /// Bytes that rotted.
    pub rotten: u64,
    /// Blocks that could not be read any more.
    pub bad_blocks: u64,
    /// Large files adopted after damage.
    pub adopted: u64,
}

impl Counts {
    /// Adds another life's.
    pub fn add(&mut self, other: &Self) {
        let Self {
            crashes,
            in_recovery,
            stops,
            kept,
            refused,
            full,
            unanswered,
            delivered,
            repeated,
            on_last_room,
            segments,
            rotten,
            bad_blocks,
            adopted,
        } = other;
        self.crashes += crashes;
        self.in_recovery += in_recovery;
        self.stops += stops;
        self.kept += kept;
        self.refused += refused;
        self.full += full;
        self.unanswered += unanswered;
        self.delivered += delivered;
        self.repeated += repeated;
        self.on_last_room += on_last_room;
        self.segments += segments;
        self.rotten += rotten;
        self.bad_blocks += bad_blocks;
        self.adopted += adopted;
    }

    /// Everything that a simulation should meet, by name, with how often it did.
    pub fn met(&self) -> [(&'static str, u64); 14] {
        [
            ("crashes", self.crashes),
            ("crashes in recovery", self.in_recovery),
            ("clean stops", self.stops),
            ("messages kept", self.kept),
            ("messages refused", self.refused),
            ("refused on a full disk", self.full),
            ("messages unanswered", self.unanswered),
            ("recipients delivered", self.delivered),
            ("recipients delivered again", self.repeated),
            ("times on the last room", self.on_last_room),
            ("segments", self.segments),
            ("bytes rotten", self.rotten),
            ("blocks unreadable", self.bad_blocks),
            ("large files adopted", self.adopted),
        ]
    }
}

/// A start that fails without a crash is tried again; injected faults end at the latest after so many.
const STARTS_WITH_FAULTS_MAX: u32 = 3;
/// What is not answered within so many rounds in good order will never be.
const DRAIN_ROUNDS_MAX: usize = 2000;
/// Rounds on a full volume.
const SHORT_DRAIN_ROUNDS: usize = 3;
/// What a file takes more than its length, at most.
const BLOCK_BYTES: u64 = 4096;
/// Far more than any simulated volume uses.
const CAPACITY_BYTES: u64 = 1 << 40;

/// Lives it, to the end or to the first broken promise.
pub fn live(plan: Plan) -> Result<Counts, Broken> {
    let mut world = World::new(plan);
    // A panic, too, is to be replayed.
    let lived = catch_unwind(AssertUnwindSafe(|| world.live())).unwrap_or(Err("it panicked, see above".into()));
    lived.map(|()| world.counts).map_err(|what| Broken { what, crashes: world.counts.crashes })
}

/// Everything that outlives a crash, and the clock.
struct World {
    chance: Chance,
    disk: SimulatedDisk,
    limits: Limits,
    now: Timestamp,
    messages: u64,
    plan: Plan,
    /// Whether bytes may rot in this life: then what was hit is no longer compared.
    rots: bool,
    model: Model,
    /// What was said of tears that could not be copied aside: later reads cannot tell them from rot.
    uncopied: Vec<String>,
    counts: Counts,
}

impl World {
    fn new(plan: Plan) -> Self {
        let mut chance = Chance::seeded(plan.seed);
        let disk = SimulatedDisk::new(chance.number());
        disk.set_lies(plan.lies);
        disk.set_capacity(CAPACITY_BYTES);
        let limits = Limits {
            segment_bytes: chance.between(12, 96) << 10,
            reserve_bytes: chance.between(6, 12) << 10,
            small_segment_bytes: chance.between(6, 12) << 10,
            ..Limits::default()
        };
        let now = Timestamp::from_second(1_800_000_000).expect("a time");
        let rots = chance.one_in(4);
        let (model, uncopied, counts) = (Model::default(), Vec::new(), Counts::default());
        Self { chance, disk, limits, now, messages: 0, plan, rots, model, uncopied, counts }
    }

    fn live(&mut self) -> Result<(), String> {
        while self.counts.crashes < self.plan.crashes {
            self.set_trouble();
            let mut life = self.start()?;
            for _ in 0..self.chance.between(1, 14) {
                if self.disk.is_off() {
                    break;
                }
                life.round(self)?;
            }
            if !self.disk.is_off() && self.chance.one_in(4) {
                self.compare_with_disk(&life, "before the end")?;
            }
            self.end(life);
        }
        self.drain()
    }

    /// A disk in good order, and all that waits goes out: nothing is stuck. Often there is first no room for a segment, and a
    /// little for what becomes of mail.
    fn drain(&mut self) -> Result<(), String> {
        self.disk.set_faults(Faults::default());
        self.disk.set_fuse(u64::MAX);
        let is_short = !self.rots && self.chance.one_in(2);
        let last_room = 3 * (self.limits.small_segment_bytes + BLOCK_BYTES);
        self.disk.set_capacity(if is_short { self.used_bytes() + last_room } else { CAPACITY_BYTES });
        let mut life = self.start()?;
        if is_short {
            if !life.is_writable() {
                return Err("there is some room, and nothing can be recorded".into());
            }
            life.drain(self, SHORT_DRAIN_ROUNDS)?;
            self.disk.set_capacity(CAPACITY_BYTES);
        }
        if !life.drain(self, DRAIN_ROUNDS_MAX)? {
            let state = life.shared.state();
            return Err(format!("mail is stuck: {:?}, first {:?}", state.index.counts(), state.index.iter().next()));
        }
        self.compare_leavings(&life)?;
        self.compare_with_disk(&life, "after the drain")
    }

    /// With all mail gone, its files are, too. What was damaged stays while there is no copy of it.
    fn compare_leavings(&self, life: &Life) -> Result<(), String> {
        if self.rots || !life.shared.state().uncopied.is_empty() {
            return Ok(());
        }
        let is_mail = |path: &String| path.ends_with(".seg") || path.starts_with("large/") || path.starts_with("tmp/");
        let left: Vec<_> = self.disk.files().into_iter().map(|(path, _)| path).filter(is_mail).collect();
        if left.len() > 1 {
            return Err(format!("no mail is open, and there are {left:?}"));
        }
        Ok(())
    }

    /// What goes wrong until the next crash: in most lives nothing but the crash.
    fn set_trouble(&mut self) {
        let mut faults = Faults::default();
        let rate = |chance: &mut Chance| if chance.one_in(3) { chance.below(800) as u32 } else { 0 };
        if self.chance.one_in(3) {
            let chance = &mut self.chance;
            faults = Faults {
                sync_fails: rate(chance),
                write_fails: rate(chance),
                create_fails: rate(chance),
                rename_fails: rate(chance),
                remove_fails: rate(chance),
                sync_folder_fails: rate(chance),
                read_fails: rate(chance),
                open_fails: rate(chance),
                allocate_unsupported: chance.one_in(4),
            };
        }
        self.disk.set_faults(faults);
        let used = self.used_bytes();
        let is_short = self.chance.one_in(4);
        let spare = self.chance.below(3 * self.limits.segment_bytes);
        self.disk.set_capacity(if is_short { used + spare } else { CAPACITY_BYTES });
        let fuse = match self.chance.below(4) {
            0 => self.chance.below(40),
            1 => self.chance.below(150),
            2 => self.chance.below(600),
            _ => u64::MAX,
        };
        self.disk.set_fuse(fuse);
    }

    /// What the files take, in whole blocks.
    fn used_bytes(&self) -> u64 {
        self.disk.files().iter().map(|(_, length)| length + BLOCK_BYTES).sum()
    }

    /// Starts the spool, however often it takes, and compares what it found.
    fn start(&mut self) -> Result<Life, String> {
        let (mut failed, mut was_cut_off) = (0, false);
        loop {
            let mut nonces = self.chance.clone();
            self.chance.number();
            let nonces = Box::new(move || {
                let mut nonce = [0; 16];
                nonce[..8].copy_from_slice(&nonces.number().to_le_bytes());
                nonce[8..].copy_from_slice(&nonces.number().to_le_bytes());
                nonce
            });
            let recovered = recovery::recover(self.disk.mount(), self.limits, nonces, self.now);
            if self.disk.is_off() {
                self.counts.in_recovery += 1;
                drop(recovered);
                was_cut_off = true;
                self.crash_or_kill();
                self.set_trouble();
                failed = 0;
                continue;
            }
            match recovered {
                Ok((shared, log)) => {
                    let life = Life::new(shared, log, &mut self.chance);
                    let told = life.told();
                    self.tell(|| format!("started: {told:?}"));
                    self.uncopied.extend(told.iter().filter(|told| told.contains("not copied aside")).cloned());
                    // A start that was cut off may have found damage, adopted something and left no damage to be found.
                    let may_have_adopted = was_cut_off || !told.is_empty();
                    self.compare_files(&life)?;
                    self.model.compare(&life.shared, may_have_adopted, &mut self.counts)?;
                    self.compare_with_disk(&life, "after the start")?;
                    return Ok(life);
                }
                Err(cause @ RecoveryError::Newer { .. }) => return Err(format!("refused its own folder: {cause}")),
                Err(cause @ RecoveryError::Io { .. }) => {
                    self.tell(|| format!("did not start: {cause}"));
                    was_cut_off = true;
                    failed += 1;
                    if failed > STARTS_WITH_FAULTS_MAX {
                        return Err(format!("does not start on a disk in good order: {cause}"));
                    }
                    if failed == STARTS_WITH_FAULTS_MAX {
                        self.disk.set_faults(Faults::default());
                        self.disk.set_capacity(CAPACITY_BYTES);
                    }
                }
            }
        }
    }

    /// A crash, a kill, or a clean stop; then perhaps rot, and some time.
    fn end(&mut self, mut life: Life) {
        if !self.disk.is_off() && self.chance.one_in(6) {
            life.close(self);
            self.counts.stops += 1;
        }
        drop(life);
        self.crash_or_kill();
        if self.rots && self.chance.one_in(3) {
            rot::flip(self);
        }
        self.pass_time();
    }

    /// Tells an event, if somebody listens.
    fn tell(&self, event: impl FnOnce() -> String) {
        if self.plan.is_told {
            eprintln!("{:>4} {}", self.counts.crashes, event());
        }
    }

    /// The power fails, or the process dies, also in the middle of an operation: then what it wrote is still read, and a
    /// later crash may take what no sync covered.
    fn crash_or_kill(&mut self) {
        let is_killed = self.chance.one_in(2);
        self.tell(|| if is_killed { "killed" } else { "the power fails" }.into());
        self.counts.crashes += 1;
        if is_killed {
            self.disk.kill()
        } else {
            self.disk.crash()
        }
        self.model.unsettled_at_crash(CONNECTIONS);
    }

    fn pass_time(&mut self) {
        let passed = match self.chance.below(20) {
            0 => SignedDuration::from_hours(self.chance.below(30) as i64),
            1..4 => SignedDuration::from_mins(self.chance.below(90) as i64),
            _ => SignedDuration::from_millis(self.chance.below(3000) as i64),
        };
        self.now = self.now.checked_add(passed).expect("a time");
    }

    fn compare_files(&self, life: &Life) -> Result<(), String> {
        let files: BTreeSet<_> = self.disk.files().into_iter().map(|(path, _)| path).collect();
        let told = life.told();
        let is_left = |id| told.iter().any(|told| told.starts_with(&large::path(id)) && told.contains("tries again"));
        self.model.compare_files(&life.shared.state().index, |id| files.contains(&large::path(id)), is_left)
    }

    /// Whether a start found a tear there, for the copy of which it had no room.
    fn is_uncopied(&self, segment: u64, range: &Range<u64>) -> bool {
        let tear = quarantine::describe(segment, range, DamageKind::Tear);
        self.uncopied.iter().any(|told| told.starts_with(&tear))
    }

    /// What `spool check` and the next start would find is what the running spool knows.
    fn compare_with_disk(&self, life: &Life, when: &str) -> Result<(), String> {
        if self.model.is_inexact || !life.is_writable() {
            return Ok(()); // a start trusts footers, a check reads everything: after rot they may differ
        }
        let copy = self.disk.snapshot();
        let disk: Arc<_> = copy.mount();
        let mut found =
            survey(&*disk, Reading::Everything, &mut ()).map_err(|cause| format!("check {when}: {cause}"))?;
        if found.is_damaged() {
            found.state.index.admit_damage();
        }
        let is_rot =
            |damage: &&Damage| damage.kind == DamageKind::Rot && !self.is_uncopied(damage.segment, &damage.range);
        if let Some(rot) = found.damages.iter().find(is_rot) {
            return Err(format!("check {when}: rot that nobody made: {rot:?}"));
        }
        let state = life.shared.state();
        if !found.state.index.iter().eq(state.index.iter()) {
            let mut differing =
                found.state.index.iter().zip(state.index.iter()).filter(|(disk, memory)| disk != memory);
            let counts = (found.state.index.counts(), state.index.counts());
            return Err(format!("check {when}: disk and memory differ: {:?}; {counts:?}", differing.next()));
        }
        let (on_disk, in_memory) = (found.state.index.account(), state.index.account());
        if on_disk != in_memory {
            return Err(format!("check {when}: the account is {on_disk:?} on disk and {in_memory:?} in memory"));
        }
        Ok(())
    }
}
