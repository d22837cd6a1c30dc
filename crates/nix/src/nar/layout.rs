//! Where in a NAR each part of a tree lies.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use firn_castore::{Closure, Directory, DirectoryDigest, Node, PathComponent};

use super::{
    Segments,
    frame::{
        CLOSE, CONTENTS, DIRECTORY, ENTRY, EXECUTABLE, FILE, MAGIC, NODE, SYMLINK, fixed_bytes, string_bytes,
    },
};

/// Why a closure has no NAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Its length is over 64 bits.
    #[error("the NAR of the tree would have 2^64 bytes or more")]
    Overflow,
}

/// The NAR of a closure: its length, and any range of it without rendering what lies before.
///
/// It holds one length for each Directory, however often the tree has it; cloning it is cheap.
#[derive(Debug, Clone)]
pub struct NarLayout {
    closure: Arc<Closure>,
    lengths: Arc<Lengths>,
    nar_size: u64,
}

impl NarLayout {
    /// Lays a closure out, in time proportional to its Directories.
    pub fn new(closure: Arc<Closure>) -> Result<Self, LayoutError> {
        let mut lengths = Lengths(BTreeMap::new());
        // A Directory counts more entries than each that it holds: from the smallest on, children come first.
        let mut by_size: Vec<&Directory> = closure.directories().collect();
        by_size.sort_by_key(|directory| directory.size());
        for directory in by_size {
            let length = lengths.of_directory(directory).ok_or(LayoutError::Overflow)?;
            lengths.0.insert(directory.digest(), length);
        }
        let top = lengths.of_node(closure.root().node());
        let nar_size = top.and_then(|top| top.checked_add(fixed_bytes(MAGIC)));
        let nar_size = nar_size.ok_or(LayoutError::Overflow)?;
        Ok(Self { closure, lengths: Arc::new(lengths), nar_size })
    }

    /// The length of the NAR in bytes.
    pub fn nar_size(&self) -> u64 {
        self.nar_size
    }

    /// What is laid out.
    pub fn closure(&self) -> &Arc<Closure> {
        &self.closure
    }

    /// The parts of the NAR that make up these bytes of it; what lies past its end is left out.
    pub fn segments(&self, range: Range<u64>) -> Segments {
        Segments::new(self.clone(), range)
    }

    /// The length of an entry with its name and node, of a Directory of this closure.
    pub(super) fn entry_bytes(&self, name: &PathComponent, node: &Node) -> u64 {
        self.lengths.of_entry(name, node).expect("the sum of all entries has fitted 64 bits")
    }
}

/// The length of the node of each Directory.
#[derive(Debug)]
struct Lengths(BTreeMap<DirectoryDigest, u64>);

impl Lengths {
    fn of_directory(&self, directory: &Directory) -> Option<u64> {
        let around = fixed_bytes(DIRECTORY) + fixed_bytes(CLOSE);
        directory.iter().try_fold(around, |sum, (name, node)| sum.checked_add(self.of_entry(name, node)?))
    }

    fn of_entry(&self, name: &PathComponent, node: &Node) -> Option<u64> {
        let around = fixed_bytes(ENTRY) + fixed_bytes(NODE) + fixed_bytes(CLOSE);
        let name = string_bytes(name.as_bytes().len() as u64)?;
        self.of_node(node)?.checked_add(around + name)
    }

    /// `None` where 64 bits do not suffice.
    fn of_node(&self, node: &Node) -> Option<u64> {
        match node {
            Node::Directory { digest, .. } => self.0.get(digest).copied(),
            Node::Symlink { target } => {
                let target = string_bytes(target.as_bytes().len() as u64)?;
                Some(fixed_bytes(SYMLINK) + target + fixed_bytes(CLOSE))
            }
            Node::File { blob, executable } => {
                let mark = if *executable { fixed_bytes(EXECUTABLE) } else { 0 };
                let around = fixed_bytes(FILE) + mark + fixed_bytes(CONTENTS) + fixed_bytes(CLOSE);
                string_bytes(blob.size)?.checked_add(around)
            }
        }
    }
}
