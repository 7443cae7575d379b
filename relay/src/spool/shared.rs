//! What the writer shares with those who read: the disk, the index, the segments, what was found damaged.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64},
    },
};

use super::{disk::Disk, index::Index, record::Key};

/// One spool, as all its users see it.
pub struct Shared {
    /// The way to files.
    pub disk: Arc<dyn Disk>,
    /// False while nothing can be recorded.
    pub writable: AtomicBool,
    /// True while the log stands on its reserve, or on the last room that there is: what becomes of mail is recorded, and no mail is taken.
    pub on_last_room: AtomicBool,
    /// Bytes free on the volume, as the writer found them within the last second.
    pub free_bytes: AtomicU64,
    state: Mutex<State>,
    damages: Mutex<Damages>,
}

/// Index and segments, under one lock: a location is of use only while its segment exists.
#[derive(Default)]
pub struct State {
    /// The open messages.
    pub index: Index,
    /// The segments on disk, by number.
    pub segments: BTreeMap<u64, Segment>,
    /// Damaged ones of which no copy could be made: they stay until a later start has made it.
    pub uncopied: BTreeSet<u64>,
    /// Those of which the start could not read some blocks: they are moved aside instead of removed.
    pub unread: BTreeMap<u64, Vec<Range<u64>>>,
}

/// A segment on disk.
#[derive(Clone, Copy)]
pub struct Segment {
    /// Key of its checksums.
    pub key: Key,
    /// End of its valid part.
    pub length: u64,
}

/// What was found damaged since the start.
#[derive(Default)]
pub struct Damages {
    /// A sentence each.
    pub told: Vec<String>,
    /// How many parts had been synced once.
    pub rot: u64,
}

/// A person needs to hear that there is much, not all of it; the quarantine has each part.
const TOLD_MAX: usize = 100;

impl Shared {
    /// As recovery found it.
    pub fn new(disk: Arc<dyn Disk>, state: State, damages: Damages) -> Self {
        let free_bytes = AtomicU64::new(disk.free_bytes().unwrap_or_default());
        Self {
            disk,
            writable: AtomicBool::new(false),
            on_last_room: AtomicBool::new(false),
            free_bytes,
            state: Mutex::new(state),
            damages: Mutex::new(damages),
        }
    }

    /// Locks index and segments. Held only for look-ups and updates, never over I/O.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found damaged.
    pub fn damages(&self) -> MutexGuard<'_, Damages> {
        self.damages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Damages {
    /// Notes a damaged part, unless it was told before. True if it is news, as what comes behind the first hundred always is.
    pub fn tell(&mut self, sentence: String, is_rot: bool) -> bool {
        if self.told.contains(&sentence) {
            return false;
        }
        self.rot += u64::from(is_rot);
        if self.told.len() < TOLD_MAX {
            self.told.push(sentence);
        }
        true
    }
}
