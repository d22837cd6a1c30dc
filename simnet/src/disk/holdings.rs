//! What is in a store, at least.

use std::collections::{BTreeMap, BTreeSet};

use firn_bao::Span;
use firn_castore::{BlobRef, DirectoryDigest};
use firn_store::Item;

use super::pool::Tree;

/// What is somewhere without being visible, at least.
#[derive(Debug, Clone, Default)]
pub(super) struct Holdings {
    pub(super) groups: BTreeMap<BlobRef, BTreeSet<u64>>,
    pub(super) directories: BTreeSet<DirectoryDigest>,
}

impl Holdings {
    pub(super) fn add_span(&mut self, blob: BlobRef, span: Span) {
        self.groups.entry(blob).or_default().extend(span.groups());
    }

    pub(super) fn add_tree(&mut self, tree: &Tree) {
        tree.blobs.iter().for_each(|blob| self.add_span(*blob, Span::whole(blob.size)));
        self.directories.extend(tree.directories.keys());
    }

    pub(super) fn add_all(&mut self, other: &Self) {
        for (blob, groups) in &other.groups {
            self.groups.entry(*blob).or_default().extend(groups);
        }
        self.directories.extend(&other.directories);
    }

    pub(super) fn has_blob(&self, blob: &BlobRef) -> bool {
        let count = self.groups.get(blob).map_or(0, |groups| groups.len() as u64);
        count == Span::whole(blob.size).groups().end
    }

    pub(super) fn has_directory(&self, digest: &DirectoryDigest) -> bool {
        self.directories.contains(digest)
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = (&BlobRef, &BTreeSet<u64>)> {
        self.groups.iter()
    }

    /// Those of which every group is here.
    pub(super) fn blobs(&self) -> impl Iterator<Item = &BlobRef> {
        self.groups.keys().filter(|blob| self.has_blob(blob))
    }

    pub(super) fn directories(&self) -> &BTreeSet<DirectoryDigest> {
        &self.directories
    }

    /// How many groups and Directories there are.
    pub(super) fn count(&self) -> u64 {
        let groups: usize = self.groups.values().map(BTreeSet::len).sum();
        (groups + self.directories.len()) as u64
    }

    /// Takes out what the other does not have.
    pub(super) fn retain(&mut self, other: &Self) {
        self.groups.retain(|blob, groups| {
            let others = other.groups.get(blob);
            groups.retain(|group| others.is_some_and(|others| others.contains(group)));
            !groups.is_empty()
        });
        self.directories.retain(|digest| other.directories.contains(digest));
    }

    pub(super) fn remove(&mut self, item: &Item) {
        match item {
            Item::Blob(digest) => self.groups.retain(|blob, _| blob.digest != *digest),
            Item::Directory(digest) => drop(self.directories.remove(digest)),
            Item::Path(_) | Item::Root(_) => {}
        }
    }
}
