//! What a store holds, in numbers.

use std::collections::{BTreeMap, BTreeSet};

use firn_castore::{BlobDigest, DirectoryDigest, Node};

use crate::{
    Store, StoreError, Usage, Visible,
    mark::{read, visible},
};

/// What a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// How many paths are visible.
    pub paths: u64,
    /// How many trees without a path are visible.
    pub roots: u64,
    /// How many of both are pinned.
    pub pinned: u64,
    /// How many blobs are beneath all this, each counted once.
    pub unique_blobs: u64,
    /// How long these blobs are together, in bytes.
    pub unique_bytes: u64,
    /// How long all files of all visible trees are together, in bytes: a blob counts as often as it is named.
    pub total_bytes: u64,
    /// What the store takes, garbage included.
    pub usage: Usage,
}

impl Stats {
    /// How many bytes are visible for each that is kept: 1 or more.
    pub fn dedup_ratio(&self) -> f64 {
        if self.unique_bytes == 0 { 1.0 } else { self.total_bytes as f64 / self.unique_bytes as f64 }
    }

    /// How many bytes of the disk the store takes for each byte of the blobs that it does not only adopt. `None` where
    /// there are no such bytes.
    pub fn overhead(&self) -> Option<f64> {
        let own_bytes = self.usage.blob_bytes.saturating_sub(self.usage.adopted_bytes);
        (own_bytes > 0).then(|| self.usage.disk_bytes as f64 / own_bytes as f64)
    }
}

/// Counts what is visible. Each Directory is read once, however often it is named, and each blob is kept in mind.
pub fn stats(store: &dyn Store) -> Result<Stats, StoreError> {
    let pins = store.pins()?;
    let visible = visible(store)?;
    let is_path = |what: &Visible| matches!(what, Visible::Path(_));
    let paths = visible.iter().filter(|(what, _)| is_path(what)).count() as u64;
    let mut tally = Tally::default();
    visible.iter().for_each(|(_, root)| tally.count(root.node(), 1));
    while let Some(((_, digest), times)) = tally.waiting.pop_last() {
        if let Some(directory) = read(store, &digest)? {
            directory.iter().for_each(|(_, node)| tally.count(node, times));
        }
    }
    Ok(Stats {
        paths,
        roots: visible.len() as u64 - paths,
        pinned: visible.iter().filter(|(what, _)| pins.contains_key(what)).count() as u64,
        unique_blobs: tally.blobs.len() as u64,
        unique_bytes: tally.unique_bytes,
        total_bytes: tally.total_bytes,
        usage: store.usage()?,
    })
}

#[derive(Default)]
struct Tally {
    /// How often each Directory is named, first by how many entries are beneath it. A parent has more of them than its
    /// child, and a commit has proven these numbers: the largest that waits is named by none that is still to come.
    waiting: BTreeMap<(u64, DirectoryDigest), u64>,
    blobs: BTreeSet<BlobDigest>,
    unique_bytes: u64,
    total_bytes: u64,
}

impl Tally {
    fn count(&mut self, node: &Node, times: u64) {
        match node {
            Node::Symlink { .. } => {}
            Node::File { blob, .. } => {
                self.total_bytes = self.total_bytes.saturating_add(blob.size.saturating_mul(times));
                if self.blobs.insert(blob.digest) {
                    self.unique_bytes = self.unique_bytes.saturating_add(blob.size);
                }
            }
            Node::Directory { digest, size } => {
                let sum = self.waiting.entry((*size, *digest)).or_default();
                *sum = sum.saturating_add(times);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Directories, MemoryStore, Paths, Pins, Reason,
        conformance::{add, contents, directory, keep_sample, sample, stored_path},
    };

    #[test]
    fn an_empty_store() {
        let stats = stats(&MemoryStore::new()).unwrap();
        assert_eq!(stats, Stats::default());
        assert_eq!((stats.dedup_ratio(), stats.overhead()), (1.0, None));
    }

    #[test]
    fn trees_count_each_and_blobs_once() {
        let store = MemoryStore::new();
        let root = keep_sample(&store, 0);
        let path = stored_path("a", &root, true);
        store.commit(path, Some(&Reason::added())).unwrap();
        store.commit_root(&root, true, None).unwrap();
        store.commit_root(&keep_sample(&store, 1), true, Some(&Reason::added())).unwrap();
        // Neither garbage nor a pin of nothing is counted.
        add(&store, &contents(1000, 9));
        store.pin(&Visible::Root(sample(7).0), &Reason::added()).unwrap();
        let stats = stats(&store).unwrap();
        assert_eq!((stats.paths, stats.roots, stats.pinned), (1, 2, 2));
        assert_eq!((stats.unique_blobs, stats.unique_bytes), (5, 200_200));
        assert_eq!(stats.total_bytes, 300_300);
        assert_eq!(stats.dedup_ratio(), 1.5);
        assert_eq!(stats.usage.blob_bytes, 201_200);
        assert!((1.0..1.05).contains(&stats.overhead().unwrap()));
    }

    #[test]
    fn a_tree_that_names_itself_a_million_times_is_counted_at_once() {
        let store = MemoryStore::new();
        let file = Node::File { blob: add(&store, b"12345"), executable: false };
        let mut level = directory([("file", file.clone())]);
        store.keep_directories(std::slice::from_ref(&level)).unwrap();
        for _ in 0..20 {
            level = directory([("a", level.node()), ("b", level.node())]);
            store.keep_directories(std::slice::from_ref(&level)).unwrap();
        }
        // The innermost one stands elsewhere, too, and is not nearer to the top by that.
        let innermost = directory([("file", file)]).node();
        let top = directory([("deep", level.node()), ("flat", innermost)]);
        store.keep_directories(std::slice::from_ref(&top)).unwrap();
        store.commit_root(&top.node().into(), true, None).unwrap();
        let stats = stats(&store).unwrap();
        assert_eq!(stats.total_bytes, 5 * ((1 << 20) + 1));
        assert_eq!((stats.unique_blobs, stats.unique_bytes), (1, 5));
    }
}
