//! Directories, bottom-up, in order.

use std::{collections::BTreeMap, mem, ops::Range};

use firn_castore::{BlobRef, Closure, Directory, DirectoryDigest, Node, PathComponent, Root};
use firn_trust::RenderedNar;

use super::{
    AddError,
    entries::{Entries, Kind},
};
use crate::{
    Directories,
    tree::{Collected, collect},
};

/// How many Directories are kept at once.
const BATCH: usize = 256;

/// What a whole tree has come to.
pub(super) struct Built {
    pub(super) closure: Closure,
    pub(super) nar: RenderedNar,
}

/// A run of entries with the blobs of the files among them.
pub(super) struct Known {
    /// Of the job that has found it out.
    pub(super) number: u64,
    pub(super) entries: Range<usize>,
    pub(super) blobs: Vec<BlobRef>,
}

/// Makes Directories of what comes in order.
pub(super) struct BuildStage {
    /// What is in the directories that are open.
    open: Vec<Vec<(PathComponent, Node)>>,
    /// Complete, and not kept yet.
    batch: Vec<Directory>,
    directories: BTreeMap<DirectoryDigest, Directory>,
    root: Option<Root>,
}

impl BuildStage {
    pub(super) fn new() -> Self {
        Self { open: Vec::new(), batch: Vec::new(), directories: BTreeMap::new(), root: None }
    }

    /// Takes what comes next.
    pub(super) fn take(
        &mut self,
        store: &(impl Directories + ?Sized),
        entries: &Entries,
        known: Known,
    ) -> Result<(), AddError> {
        let mut blobs = known.blobs.into_iter();
        for index in known.entries {
            let entry = &entries.list()[index];
            match &entry.kind {
                Kind::Open => self.open.push(Vec::new()),
                Kind::Close => self.close(entries, index)?,
                Kind::File { executable, .. } => {
                    let blob = blobs.next().expect("each file that was read has its blob");
                    self.node(entry.name.as_ref(), Node::File { blob, executable: *executable });
                }
                Kind::Symlink(target) => {
                    self.node(entry.name.as_ref(), Node::Symlink { target: target.clone() });
                }
            }
        }
        if self.batch.len() >= BATCH { self.keep(store) } else { Ok(()) }
    }

    /// Ends with the closure of all.
    pub(super) fn finish(
        mut self,
        store: &(impl Directories + ?Sized),
        entries: &Entries,
    ) -> Result<Closure, AddError> {
        self.keep(store)?;
        let root = self.root.expect("all entries have come, the topmost among them");
        match collect(&root, |digest| Ok::<_, AddError>(self.directories.remove(digest)))? {
            Collected::NoTree(source) => Err(AddError::Tree { path: entries.path(0), source }),
            collected => Ok(collected.or_refuse(&root)?),
        }
    }

    fn close(&mut self, entries: &Entries, index: usize) -> Result<(), AddError> {
        let nodes = self.open.pop().unwrap_or_default();
        let directory = Directory::build(nodes)
            .map_err(|source| AddError::Directory { path: entries.path(index), source })?;
        self.node(entries.opening(index).name.as_ref(), directory.node());
        self.batch.push(directory);
        Ok(())
    }

    /// Puts a node into the directory that it is in; the topmost is in none.
    fn node(&mut self, name: Option<&PathComponent>, node: Node) {
        match (name, self.open.last_mut()) {
            (Some(name), Some(directory)) => directory.push((name.clone(), node)),
            _ => self.root = Some(node.into()),
        }
    }

    fn keep(&mut self, store: &(impl Directories + ?Sized)) -> Result<(), AddError> {
        store.keep_directories(&self.batch)?;
        let batch = mem::take(&mut self.batch).into_iter();
        self.directories.extend(batch.map(|directory| (directory.digest(), directory)));
        Ok(())
    }
}
