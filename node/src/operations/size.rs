//! How large a tree is for its user.

use std::{collections::BTreeMap, ops::AddAssign};

use firn_castore::{Closure, DirectoryDigest, Node};

/// Files and their bytes, each counted as often as it stands in the tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        self.files = self.files.saturating_add(other.files);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

impl Size {
    /// That of a tree. Each Directory is looked at once, however often it stands in the tree.
    pub(super) fn of(closure: &Closure) -> Self {
        let mut sizes = BTreeMap::new();
        // Children first: a parent has more entries beneath it than each of them.
        let mut directories: Vec<_> = closure.directories().collect();
        directories.sort_by_key(|directory| directory.size());
        for directory in directories {
            let mut size = Self::default();
            for (_, node) in directory {
                size += Self::of_node(node, &sizes);
            }
            sizes.insert(directory.digest(), size);
        }
        Self::of_node(closure.root().node(), &sizes)
    }

    fn of_node(node: &Node, sizes: &BTreeMap<DirectoryDigest, Self>) -> Self {
        match node {
            Node::Symlink { .. } => Self::default(),
            Node::File { blob, .. } => Self { files: 1, bytes: blob.size },
            Node::Directory { digest, .. } => sizes.get(digest).copied().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use firn_store::{AddOptions, MemoryStore, add_tree};

    use super::*;

    #[test]
    fn what_stands_twice_counts_twice() {
        let temp = tempfile::tempdir().unwrap();
        for directory in ["one", "two/within", "three"] {
            std::fs::create_dir_all(temp.path().join(directory)).unwrap();
            std::fs::write(temp.path().join(directory).join("file"), "four").unwrap();
        }
        std::os::unix::fs::symlink("file", temp.path().join("two/link")).unwrap();
        let added = add_tree(&MemoryStore::new(), temp.path(), &AddOptions::default()).unwrap();
        assert_eq!(Size::of(&added.closure), Size { files: 3, bytes: 12 });
    }
}
