//! What may go wrong on a disk that is otherwise true to its word, and how it may break its word.

use crate::chance::Chance;

/// How often operations fail, of 10,000 each. Nothing fails by default.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Faults {
    /// A file's sync: EIO. What did not reach the disk is read until the next crash, written by no later sync, then gone.
    pub sync_fails: u32,
    /// A write: EIO, after a part of the bytes, perhaps all.
    pub write_fails: u32,
    /// A create: EIO, and no file.
    pub create_fails: u32,
    /// A rename: EIO, and both names are as before.
    pub rename_fails: u32,
    /// A remove: EIO, and the file stays.
    pub remove_fails: u32,
    /// A folder's sync: EIO. The changes in it are as unsure as before.
    pub sync_folder_fails: u32,
    /// A read: EIO, but not three times in a row: what lasts is a bad block ([`super::SimulatedDisk::lose_block`]).
    pub read_fails: u32,
    /// Opening a file: EIO.
    pub open_fails: u32,
    /// The file system cannot set room aside.
    pub allocate_unsupported: bool,
}

impl Faults {
    /// Whether nothing fails.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Promises that the disk breaks: a simulation that does not notice them proves nothing. None by default.
#[derive(Clone, Copy, Default, Debug)]
pub struct Lies {
    /// A file's sync returns `Ok` and does nothing.
    pub no_data_sync: bool,
    /// A folder's sync returns `Ok` and does nothing.
    pub no_folder_sync: bool,
    /// A crash may leave only a part of the bytes under the new name: of the last rename, synced or not, and of all that
    /// no folder sync covered.
    pub torn_rename: bool,
    /// A file's sync returns `Ok`, and does its work at the next sync of any file.
    pub late_sync: bool,
}

/// True `rate` times of 10,000. Draws nothing if it cannot be, so that a fault switched on later changes nothing before.
pub fn hits(rate: u32, chance: &mut Chance) -> bool {
    rate > 0 && chance.below(10_000) < u64::from(rate)
}
