//! What the writer shares with those who read: the disk, the index, the segments.

use std::{
    collections::BTreeMap,
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
    /// False while no segment can be written.
    pub writable: AtomicBool,
    /// Bytes free on the volume, as the writer found them within the last second.
    pub free_bytes: AtomicU64,
    state: Mutex<State>,
}

/// Index and segments, under one lock: a location is of use only while its segment exists.
pub struct State {
    /// The open messages.
    pub index: Index,
    /// Key and length of each segment on disk, by number.
    pub segments: BTreeMap<u64, (Key, u64)>,
}

impl Shared {
    /// As recovery found it.
    pub fn new(disk: Arc<dyn Disk>, state: State) -> Self {
        let free_bytes = AtomicU64::new(disk.free_bytes().unwrap_or_default());
        Self { disk, writable: AtomicBool::new(false), free_bytes, state: Mutex::new(state) }
    }

    /// Locks index and segments. Held only for look-ups and updates, never over I/O.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
