//! Every Directory beneath a root, proven complete.

use std::collections::BTreeMap;

use indexmap::{IndexMap, IndexSet};

use crate::{BlobDigest, BlobRef, Directory, DirectoryDigest, Node, Root, Walk};

/// The most entries that a tree may have, itself included; what is named twice counts twice.
///
/// Four million bound the memory that a claimed root can take before it is known to be false.
pub const ENTRIES_MAX: u64 = 1 << 22;
/// The most directories that may lie within each other. A path of this depth is longer than `PATH_MAX`.
pub const DEPTH_MAX: u32 = 2048;

/// Why Directories do not make the closure of a root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClosureError {
    /// More entries than [`ENTRIES_MAX`].
    #[error("the tree claims {0} entries, more than {ENTRIES_MAX}")]
    TooManyEntries(u64),
    /// Deeper than [`DEPTH_MAX`].
    #[error("the tree is deeper than {DEPTH_MAX} directories")]
    TooDeep,
    /// A Directory that nothing before it names.
    #[error("no Directory before it names {0}")]
    NotConnected(DirectoryDigest),
    /// A parent's claim and the child's own count differ.
    #[error("Directory {digest} has {actual} entries beneath it, its parent claims {claimed}")]
    DirectorySize {
        /// The child.
        digest: DirectoryDigest,
        /// What the parent says.
        claimed: u64,
        /// What the child says.
        actual: u64,
    },
    /// Two entries name one blob with two lengths.
    #[error("blob {digest} is named with {first} and with {second} bytes")]
    BlobSize {
        /// The blob.
        digest: BlobDigest,
        /// One of the lengths.
        first: u64,
        /// The other.
        second: u64,
    },
    /// Directories are still missing.
    #[error("{0} Directories are missing")]
    Incomplete(usize),
}

/// Collects Directories, parents first, until none is missing.
#[derive(Debug)]
pub struct ClosureBuilder {
    root: Root,
    /// In the order of their coming: parents before children.
    directories: IndexMap<DirectoryDigest, Directory>,
    /// Named, but not here, with the size that the first parent claims.
    missing: BTreeMap<DirectoryDigest, u64>,
    blobs: IndexMap<BlobDigest, u64>,
}

impl ClosureBuilder {
    /// Begins with nothing but the root; refused where its claim is over [`ENTRIES_MAX`] already.
    pub fn new(root: Root) -> Result<Self, ClosureError> {
        let mut builder =
            Self { root, directories: IndexMap::new(), missing: BTreeMap::new(), blobs: IndexMap::new() };
        let node = builder.root.node().clone();
        match node.entries() {
            Some(entries) if entries <= ENTRIES_MAX => builder.want(&node)?,
            entries => return Err(ClosureError::TooManyEntries(entries.unwrap_or(u64::MAX))),
        }
        Ok(builder)
    }

    /// The Directories that are named by what is here and are not here themselves.
    pub fn missing(&self) -> impl Iterator<Item = DirectoryDigest> + '_ {
        self.missing.keys().copied()
    }

    /// The first of the [missing](ClosureBuilder::missing) Directories.
    pub fn next_missing(&self) -> Option<DirectoryDigest> {
        self.missing.keys().next().copied()
    }

    /// Whether this Directory is one of the [missing](ClosureBuilder::missing).
    pub fn is_missing(&self, digest: &DirectoryDigest) -> bool {
        self.missing.contains_key(digest)
    }

    /// Takes a Directory that is [missing](ClosureBuilder::missing); one that is here already changes nothing.
    pub fn insert(&mut self, directory: Directory) -> Result<(), ClosureError> {
        let digest = directory.digest();
        let Some(claimed) = self.missing.get(&digest).copied() else {
            return match self.directories.contains_key(&digest) {
                true => Ok(()),
                false => Err(ClosureError::NotConnected(digest)),
            };
        };
        let actual = directory.size();
        if claimed != actual {
            return Err(ClosureError::DirectorySize { digest, claimed, actual });
        }
        for (_, node) in &directory {
            self.want(node)?;
        }
        self.missing.remove(&digest);
        self.directories.insert(digest, directory);
        Ok(())
    }

    fn want(&mut self, node: &Node) -> Result<(), ClosureError> {
        match node {
            Node::Symlink { .. } => {}
            Node::File { blob, .. } => {
                let first = *self.blobs.entry(blob.digest).or_insert(blob.size);
                if first != blob.size {
                    let BlobRef { digest, size: second } = *blob;
                    return Err(ClosureError::BlobSize { digest, first, second });
                }
            }
            Node::Directory { digest, size } => {
                let actual = match self.directories.get(digest) {
                    Some(directory) => directory.size(),
                    None => *self.missing.entry(*digest).or_insert(*size),
                };
                if actual != *size {
                    return Err(ClosureError::DirectorySize { digest: *digest, claimed: *size, actual });
                }
            }
        }
        Ok(())
    }

    /// The closure, if nothing is missing and it is not too deep.
    pub fn finish(self) -> Result<Closure, ClosureError> {
        if !self.missing.is_empty() {
            return Err(ClosureError::Incomplete(self.missing.len()));
        }
        let closure = Closure { root: self.root, directories: self.directories };
        closure.check_depth()?;
        Ok(closure)
    }
}

/// All Directories beneath a root: complete, connected, with true sizes, within [`ENTRIES_MAX`] and [`DEPTH_MAX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closure {
    root: Root,
    directories: IndexMap<DirectoryDigest, Directory>,
}

impl Closure {
    /// What it is the closure of.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// How many entries the tree has, itself included.
    pub fn entries(&self) -> u64 {
        self.root.node().entries().expect("ClosureBuilder::new has bounded it")
    }

    /// The Directory of this name, if it is part of the tree.
    pub fn get(&self, digest: &DirectoryDigest) -> Option<&Directory> {
        self.directories.get(digest)
    }

    /// Each Directory once, parents before children.
    pub fn directories(&self) -> impl DoubleEndedIterator<Item = &Directory> {
        self.directories.values()
    }

    /// The blob of each file of each Directory, and of a root that is a file, in no order that means anything; one that
    /// is named twice comes twice.
    pub fn files(&self) -> impl Iterator<Item = &BlobRef> {
        let entries = self.directories().flat_map(|directory| directory.iter().map(|(_, node)| node));
        std::iter::once(self.root.node()).chain(entries).filter_map(|node| match node {
            Node::File { blob, .. } => Some(blob),
            Node::Directory { .. } | Node::Symlink { .. } => None,
        })
    }

    /// Each blob once, in the order in which a NAR of the tree first needs it.
    pub fn blobs(&self) -> Vec<BlobRef> {
        let mut seen = IndexSet::new();
        let mut opened = IndexSet::new();
        let mut blobs = Vec::new();
        let mut stack = vec![self.root.node()];
        while let Some(node) = stack.pop() {
            match node {
                Node::Symlink { .. } => {}
                Node::File { blob, .. } => {
                    if seen.insert(blob.digest) {
                        blobs.push(*blob);
                    }
                }
                Node::Directory { digest, .. } => {
                    if opened.insert(*digest) {
                        stack.extend(self.child(digest).iter().rev().map(|(_, node)| node));
                    }
                }
            }
        }
        blobs
    }

    /// Goes through the tree in the order of a NAR.
    pub fn walk(&self) -> Walk<'_> {
        Walk::new(self)
    }

    /// The Directory of an entry of this tree.
    pub(crate) fn child(&self, digest: &DirectoryDigest) -> &Directory {
        &self.directories[digest]
    }

    fn check_depth(&self) -> Result<(), ClosureError> {
        // Children stand behind their parents only in the sense of "was named before it came", so a child may have
        // come before one of its other parents. Sizes give a true order: a parent's is always larger.
        let mut by_size: Vec<usize> = (0..self.directories.len()).collect();
        by_size.sort_by_key(|place| self.directories[*place].size());
        let mut heights = vec![0; self.directories.len()];
        for place in by_size {
            let below = self.directories[place].iter().filter_map(|(_, node)| match node {
                Node::Directory { digest, .. } => {
                    self.directories.get_index_of(digest).map(|place| heights[place])
                }
                Node::File { .. } | Node::Symlink { .. } => None,
            });
            let height: u32 = below.max().unwrap_or(0) + 1;
            if height > DEPTH_MAX {
                return Err(ClosureError::TooDeep);
            }
            heights[place] = height;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PathComponent;

    fn name(text: &str) -> PathComponent {
        PathComponent::try_from(text).unwrap()
    }

    fn file(contents: &[u8]) -> Node {
        Node::File { blob: BlobRef::of(contents), executable: false }
    }

    fn directory(entries: &[(&str, Node)]) -> Directory {
        Directory::build(entries.iter().map(|(n, node)| (name(n), node.clone()))).unwrap()
    }

    #[test]
    fn complete_in_any_order_of_siblings() {
        let leaf = directory(&[("x", file(b"1"))]);
        let middle = directory(&[("leaf", leaf.node()), ("y", file(b"2"))]);
        let top = directory(&[("a", leaf.node()), ("b", middle.node()), ("c", file(b"1"))]);
        let mut builder = ClosureBuilder::new(top.node().into()).unwrap();
        assert_eq!(builder.insert(leaf.clone()), Err(ClosureError::NotConnected(leaf.digest())));
        builder.insert(top.clone()).unwrap();
        builder.insert(leaf.clone()).unwrap();
        builder.insert(leaf.clone()).unwrap();
        assert_eq!(builder.missing().collect::<Vec<_>>(), [middle.digest()]);
        builder.insert(middle).unwrap();
        let closure = builder.finish().unwrap();
        assert_eq!(closure.entries(), 8);
        assert_eq!(closure.blobs(), [BlobRef::of(b"1"), BlobRef::of(b"2")]);
    }

    #[test]
    fn a_lying_size_is_found() {
        let leaf = directory(&[("x", file(b"1"))]);
        let lie = Node::Directory { digest: leaf.digest(), size: 2 };
        let top = directory(&[("a", lie)]);
        let mut builder = ClosureBuilder::new(top.node().into()).unwrap();
        builder.insert(top).unwrap();
        let error = builder.insert(leaf.clone()).unwrap_err();
        assert_eq!(error, ClosureError::DirectorySize { digest: leaf.digest(), claimed: 2, actual: 1 });
    }

    #[test]
    fn two_lengths_of_one_blob_are_found() {
        let blob = BlobRef::of(b"1");
        let longer = Node::File { blob: BlobRef { size: 2, ..blob }, executable: false };
        let top = directory(&[("a", file(b"1")), ("b", longer)]);
        let mut builder = ClosureBuilder::new(top.node().into()).unwrap();
        let error = ClosureError::BlobSize { digest: blob.digest, first: 1, second: 2 };
        assert_eq!(builder.insert(top), Err(error));
    }

    #[test]
    fn a_graph_of_doubling_directories_is_refused_before_it_is_walked() {
        let mut below = directory(&[("x", file(b"1"))]);
        for _ in 0..60 {
            let Ok(doubled) = Directory::build([(name("l"), below.node()), (name("r"), below.node())]) else {
                panic!("the sizes fit 64 bits")
            };
            below = doubled;
        }
        assert!(matches!(ClosureBuilder::new(below.node().into()), Err(ClosureError::TooManyEntries(_))));
    }

    #[test]
    fn too_deep_is_refused_and_just_deep_enough_is_not() {
        let mut below = directory(&[]);
        let mut all = vec![below.clone()];
        for _ in 1..DEPTH_MAX {
            below = directory(&[("d", below.node())]);
            all.push(below.clone());
        }
        let finish = |all: &[Directory]| {
            let top = all.last().unwrap();
            let mut builder = ClosureBuilder::new(top.node().into()).unwrap();
            for directory in all.iter().rev() {
                builder.insert(directory.clone()).unwrap();
            }
            builder.finish()
        };
        assert!(finish(&all).is_ok());
        all.push(directory(&[("d", below.node())]));
        assert_eq!(finish(&all), Err(ClosureError::TooDeep));
    }

    #[test]
    fn a_symlink_root_is_complete_in_itself() {
        let node = Node::Symlink { target: "to".try_into().unwrap() };
        let closure = ClosureBuilder::new(node.into()).unwrap().finish().unwrap();
        assert_eq!(closure.entries(), 1);
        assert!(closure.blobs().is_empty());
    }
}
