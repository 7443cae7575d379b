//! Folders and the names in them: what is seen, what is durable, and the changes in between. No bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Bound,
    sync::Arc,
};

use crate::chance::Chance;

/// Never given twice.
pub type InodeId = u64;
/// `folder/name`, or a name at the root.
pub type Path = Arc<str>;

/// File systems commit what nobody synced every few seconds. Here the oldest change is committed when there are more
/// than this, so that a long run without a crash stays small.
const PENDING_CHANGES_MAX: usize = 64;

/// All names of a disk. A file has one at most.
#[derive(Default)]
pub struct Names {
    folders: BTreeSet<Path>,
    visible: BTreeMap<Path, InodeId>,
    durable: BTreeMap<Path, InodeId>,
    pending: Vec<Change>,
}

/// A create has no `from`, a remove no `to`, a rename has both.
struct Change {
    inode: InodeId,
    from: Option<Path>,
    to: Option<Path>,
}

impl Names {
    /// Makes a folder, durably. One that exists is fine.
    pub fn make_folder(&mut self, path: &str) -> io::Result<()> {
        self.check_folder(folder_of(path))?;
        self.folders.insert(path.into());
        Ok(())
    }

    /// The file of a name.
    pub fn find(&self, path: &str) -> io::Result<InodeId> {
        self.visible.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = (&Path, InodeId)> {
        self.visible.iter().map(|(path, inode)| (path, *inode))
    }

    /// Names in a folder.
    pub fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let folder = self.check_folder(folder)?;
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let from = self.visible.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
        let names = from.map_while(|(path, _)| path.strip_prefix(prefix.as_str()));
        Ok(names.filter(|name| !name.contains('/')).map(str::to_owned).collect())
    }

    /// Gives a new file its name.
    pub fn create(&mut self, path: &str, inode: InodeId) -> io::Result<()> {
        self.check_folder(folder_of(path))?;
        if self.visible.contains_key(path) || self.folders.contains(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(Change { inode, from: None, to: Some(path.into()) });
        Ok(())
    }

    /// Gives a file another name, which another file then loses.
    pub fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let inode = self.find(from)?;
        self.check_folder(folder_of(to))?;
        if self.folders.contains(to) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if from != to {
            self.change(Change { inode, from: Some(from.into()), to: Some(to.into()) });
        }
        Ok(())
    }

    /// Takes a file its name.
    pub fn remove(&mut self, path: &str) -> io::Result<()> {
        let inode = self.find(path)?;
        self.change(Change { inode, from: Some(path.into()), to: None });
        Ok(())
    }

    /// Makes durable what was changed in a folder.
    pub fn sync_folder(&mut self, folder: &str) -> io::Result<()> {
        let folder = self.check_folder(folder)?;
        self.commit(self.pending.iter().map(|change| change.touches(folder)).collect());
        Ok(())
    }

    /// Gives a file a name that is durable at once.
    pub fn place(&mut self, path: &str, inode: InodeId) {
        let path: Path = path.into();
        if let Some(replaced) = self.visible.insert(path.clone(), inode) {
            self.pending.retain(|change| change.inode != replaced); // none of them may take the name back
        }
        self.apply(Change { inode, from: None, to: Some(path) });
    }

    /// Takes a file its name, durably.
    pub fn lose(&mut self, path: &str) {
        if let Some(lost) = self.visible.remove(path) {
            self.pending.retain(|change| change.inode != lost);
            self.durable.retain(|_, inode| *inode != lost);
        }
    }

    /// Makes all folders of another disk.
    pub fn copy_folders(&mut self, other: &Self) {
        self.folders.clone_from(&other.folders);
    }

    /// Renames that a crash may undo, with the new name.
    pub fn pending_renames(&self) -> impl Iterator<Item = (InodeId, Path)> {
        self.pending
            .iter()
            .filter(|change| change.from.is_some())
            .filter_map(|change| Some((change.inode, change.to.clone()?)))
    }

    /// Files that have a name or may get one back by a crash.
    pub fn reachable(&self) -> BTreeSet<InodeId> {
        let named = self.visible.values().chain(self.durable.values()).copied();
        named.chain(self.pending.iter().map(|change| change.inode)).collect()
    }

    /// How many files are seen.
    pub fn count(&self) -> usize {
        self.visible.len()
    }

    /// The power fails and comes back: each change survives or not.
    pub fn crash(&mut self, chance: &mut Chance) {
        if self.pending.is_empty() {
            return;
        }
        let count = self.pending.len();
        let survive = match chance.below(4) {
            0 => vec![false; count],
            1 => vec![true; count],
            2 => {
                // As a journal leaves them: up to some moment.
                let first = chance.below(count as u64 + 1) as usize;
                (0..count).map(|change| change < first).collect()
            }
            _ => (0..count).map(|_| chance.one_in(2)).collect(),
        };
        self.commit(survive);
        self.pending.clear();
        self.visible.clone_from(&self.durable);
    }

    fn change(&mut self, change: Change) {
        if let Some(from) = &change.from {
            self.visible.remove(from);
        }
        if let Some(to) = &change.to {
            self.visible.insert(to.clone(), change.inode);
        }
        self.pending.push(change);
        if self.pending.len() > PENDING_CHANGES_MAX {
            let oldest = self.pending.remove(0);
            self.apply(oldest);
        }
    }

    /// Makes changes durable, together with the earlier ones that they rest on.
    fn commit(&mut self, mut chosen: Vec<bool>) {
        for later in (0..chosen.len()).rev() {
            for earlier in 0..later {
                chosen[earlier] |= chosen[later] && self.pending[later].rests_on(&self.pending[earlier]);
            }
        }
        for (change, is_chosen) in std::mem::take(&mut self.pending).into_iter().zip(chosen) {
            if is_chosen { self.apply(change) } else { self.pending.push(change) }
        }
    }

    fn apply(&mut self, change: Change) {
        // By number and not by name: the change that gave it the name `from` may not have survived.
        self.durable.retain(|_, inode| *inode != change.inode);
        if let Some(to) = change.to {
            self.durable.insert(to, change.inode);
        }
    }

    /// The folder, in its plain spelling, if it exists.
    fn check_folder<'a>(&self, folder: &'a str) -> io::Result<&'a str> {
        let folder = if folder == "." { "" } else { folder };
        if folder.is_empty() || self.folders.contains(folder) {
            Ok(folder)
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }
}

impl Change {
    fn touches(&self, folder: &str) -> bool {
        [&self.from, &self.to].into_iter().flatten().any(|path| folder_of(path) == folder)
    }

    /// Without the earlier changes of the same file, a rename undone would take its file back; without those of the name
    /// that this one takes, it would put its file over one that is not to be lost.
    fn rests_on(&self, earlier: &Self) -> bool {
        self.inode == earlier.inode || (self.to.is_some() && (self.to == earlier.from || self.to == earlier.to))
    }
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}
