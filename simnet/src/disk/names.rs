//! The names on a fake disk, and which of them are durable.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use crate::dice::Dice;

/// What a name stands for: a directory or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Dir,
    File(u64),
}

#[derive(Debug, Clone)]
enum Change {
    Made(PathBuf, Entry),
    Renamed { from: PathBuf, to: PathBuf, file: u64 },
    Removed(PathBuf, u64),
}

/// A name space as the process sees it, and as the disk has it.
#[derive(Debug, Default)]
pub(super) struct Names {
    durable: BTreeMap<PathBuf, Entry>,
    current: BTreeMap<PathBuf, Entry>,
    unsynced: Vec<Change>,
}

impl Names {
    /// With nothing but the topmost directory.
    pub(super) fn new() -> Self {
        let top = BTreeMap::from([(PathBuf::from("/"), Entry::Dir)]);
        Self { durable: top.clone(), current: top, unsynced: Vec::new() }
    }

    pub(super) fn get(&self, path: &Path) -> Option<Entry> {
        self.current.get(path).copied()
    }

    pub(super) fn has_parent(&self, path: &Path) -> bool {
        has_parent(&self.current, path)
    }

    /// The last parts of the names in a directory.
    pub(super) fn list(&self, dir: &Path) -> Vec<std::ffi::OsString> {
        let inside = self.current.keys().filter(|path| path.parent() == Some(dir));
        inside.filter_map(|path| path.file_name()).map(Into::into).collect()
    }

    /// All files.
    pub(super) fn files(&self) -> impl Iterator<Item = (&PathBuf, u64)> {
        self.current.iter().filter_map(|(path, entry)| match entry {
            Entry::File(file) => Some((path, *file)),
            Entry::Dir => None,
        })
    }

    /// The files that have a name, or may have one after a crash.
    pub(super) fn reachable(&self) -> BTreeSet<u64> {
        let file = |entry: &Entry| match entry {
            Entry::File(file) => Some(*file),
            Entry::Dir => None,
        };
        let named = self.durable.values().chain(self.current.values()).filter_map(file);
        let unsynced = self.unsynced.iter().filter_map(|change| match change {
            Change::Made(_, entry) => file(entry),
            Change::Renamed { file, .. } | Change::Removed(_, file) => Some(*file),
        });
        named.chain(unsynced).collect()
    }

    pub(super) fn make(&mut self, path: &Path, entry: Entry) {
        self.change(Change::Made(path.to_path_buf(), entry));
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, file: u64) {
        self.change(Change::Renamed { from: from.to_path_buf(), to: to.to_path_buf(), file });
    }

    pub(super) fn remove(&mut self, path: &Path, file: u64) {
        self.change(Change::Removed(path.to_path_buf(), file));
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.current, &change);
        self.unsynced.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            apply(&mut self.durable, &change);
        }
    }

    /// Loses what was not durable, or not, each change for itself.
    pub(super) fn crash(&mut self, dice: &mut Dice, chance: u64) {
        for change in std::mem::take(&mut self.unsynced) {
            if dice.percent(chance) {
                apply(&mut self.durable, &change);
            }
        }
        self.current = self.durable.clone();
    }
}

fn has_parent(names: &BTreeMap<PathBuf, Entry>, path: &Path) -> bool {
    path.parent().is_some_and(|parent| names.get(parent) == Some(&Entry::Dir))
}

/// A change does nothing where what it builds on was lost.
fn apply(names: &mut BTreeMap<PathBuf, Entry>, change: &Change) {
    match change {
        Change::Made(path, entry) if has_parent(names, path) => {
            names.insert(path.clone(), *entry);
        }
        Change::Renamed { from, to, file } if has_parent(names, to) => {
            if names.get(from) == Some(&Entry::File(*file)) {
                names.remove(from);
            }
            names.insert(to.clone(), Entry::File(*file));
        }
        Change::Removed(path, file) if names.get(path) == Some(&Entry::File(*file)) => {
            names.remove(path);
        }
        Change::Made(..) | Change::Renamed { .. } | Change::Removed(..) => {}
    }
}
