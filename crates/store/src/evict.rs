//! What has to go, so that a store takes no more than it may.

use std::collections::{BTreeMap, btree_map::Entry};

use firn_castore::{BlobDigest, DirectoryDigest, Node, Root};

use crate::{
    Store, StoreError, UnixSeconds, Visible,
    mark::{read, visible},
};

/// What [`plan_eviction`] proposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// What to [remove](crate::Room::remove), the least recently used first.
    pub remove: Vec<Visible>,
    /// How many bytes go with it, once the store is collected.
    pub bytes: u64,
    /// How many bytes are left.
    pub bytes_left: u64,
    /// Whether that is at most what is allowed. If not, what is pinned is too much.
    pub is_enough: bool,
}

/// Chooses what is removed, so that all that is visible takes at most `bytes_max`: nothing that is pinned, the least
/// recently used first, and what was never used before all else. A use that lies after `now` is one of a clock that was
/// ahead; it counts as one of now.
///
/// What counts are the lengths of the blobs and Directories beneath what is visible, each once, less those of all
/// adopted blobs, which lie elsewhere. What outboards, the index and garbage take comes on top. What would free nothing,
/// since others share all of it, stays. This only plans; it keeps a count in memory for each blob and Directory.
pub fn plan_eviction(store: &dyn Store, bytes_max: u64, now: UnixSeconds) -> Result<Eviction, StoreError> {
    let (pins, uses) = (store.pins()?, store.uses()?);
    let visible = visible(store)?;
    let mut counts = Counts::default();
    for (_, root) in &visible {
        counts.insert(store, root)?;
    }
    let adopted_bytes = store.usage()?.adopted_bytes;
    let before = counts.bytes.saturating_sub(adopted_bytes);
    let mut candidates: Vec<_> = visible.into_iter().filter(|(what, _)| !pins.contains_key(what)).collect();
    candidates.sort_by_cached_key(|(what, _)| (uses.get(what).map(|at| now.min(*at)), what.clone()));
    let mut left = before;
    let mut removed = Vec::new();
    for (what, root) in candidates {
        if left <= bytes_max {
            break;
        }
        counts.remove(store, &root)?;
        left = counts.bytes.saturating_sub(adopted_bytes);
        removed.push((what, root));
    }
    // A tree that is still beneath another one has freed nothing.
    removed.retain(|(_, root)| !counts.contains(root.node()));
    let remove = removed.into_iter().map(|(what, _)| what).collect();
    Ok(Eviction { remove, bytes: before - left, bytes_left: left, is_enough: left <= bytes_max })
}

/// How often each thing is named by what is live.
#[derive(Default)]
struct Counts {
    blobs: BTreeMap<BlobDigest, Counted>,
    directories: BTreeMap<DirectoryDigest, Counted>,
    /// How long all this is.
    bytes: u64,
}

struct Counted {
    bytes: u64,
    names: u64,
}

impl Counts {
    /// Counts a name of this tree. What is counted already is not gone into.
    fn insert(&mut self, store: &dyn Store, root: &Root) -> Result<(), StoreError> {
        let mut stack = vec![root.node().clone()];
        while let Some(node) = stack.pop() {
            let bytes = match &node {
                Node::Symlink { .. } => 0,
                Node::File { blob, .. } => name(self.blobs.entry(blob.digest), || Ok(blob.size))?,
                Node::Directory { digest, .. } => name(self.directories.entry(*digest), || {
                    // One that is not here takes no room, and what is beneath it is unknown.
                    let Some(directory) = read(store, digest)? else { return Ok(0) };
                    stack.extend(directory.iter().map(|(_, node)| node.clone()));
                    Ok(directory.encoded().len() as u64)
                })?,
            };
            self.bytes = self.bytes.saturating_add(bytes);
        }
        Ok(())
    }

    /// Takes a name of this tree back. What nothing names any more goes, and its names of others with it.
    fn remove(&mut self, store: &dyn Store, root: &Root) -> Result<(), StoreError> {
        let mut stack = vec![root.node().clone()];
        while let Some(node) = stack.pop() {
            let bytes = match &node {
                Node::Symlink { .. } => 0,
                Node::File { blob, .. } => unname(self.blobs.entry(blob.digest)),
                Node::Directory { digest, .. } => {
                    let bytes = unname(self.directories.entry(*digest));
                    if bytes > 0
                        && let Some(directory) = read(store, digest)?
                    {
                        stack.extend(directory.iter().map(|(_, node)| node.clone()));
                    }
                    bytes
                }
            };
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        Ok(())
    }

    /// Whether something names this. A symlink takes no room, so that it is as if another one named it.
    fn contains(&self, node: &Node) -> bool {
        match node {
            Node::Symlink { .. } => true,
            Node::File { blob, .. } => self.blobs.contains_key(&blob.digest),
            Node::Directory { digest, .. } => self.directories.contains_key(digest),
        }
    }
}

/// Counts a name; how many bytes that has added.
fn name<K: Ord>(
    entry: Entry<'_, K, Counted>,
    bytes: impl FnOnce() -> Result<u64, StoreError>,
) -> Result<u64, StoreError> {
    match entry {
        Entry::Occupied(mut counted) => {
            counted.get_mut().names += 1;
            Ok(0)
        }
        Entry::Vacant(place) => Ok(place.insert(Counted { bytes: bytes()?, names: 1 }).bytes),
    }
}

/// Takes a name back; how many bytes have gone with it.
fn unname<K: Ord>(entry: Entry<'_, K, Counted>) -> u64 {
    let Entry::Occupied(mut counted) = entry else { return 0 };
    counted.get_mut().names -= 1;
    if counted.get().names > 0 { 0 } else { counted.remove().bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Directories, MemoryStore, Paths, Pins, Reason, Room,
        conformance::{add, contents, directory, stored_path},
    };

    const KIB: u64 = 1024;
    const NOW: UnixSeconds = UnixSeconds(1000);

    /// A tree of blobs of so many KiB, by their seeds; two of one seed are one blob.
    fn commit(store: &MemoryStore, blobs: &[(u64, u64)], used: Option<u64>) -> Visible {
        let names: Vec<String> = (0..blobs.len()).map(|i| i.to_string()).collect();
        let file = |(kib, seed): &(u64, u64)| Node::File {
            blob: add(store, &contents(kib * KIB, *seed)),
            executable: false,
        };
        let inner = directory(names.iter().map(String::as_str).zip(blobs.iter().map(file)));
        let top = directory([("one", inner.node()), ("same", inner.node())]);
        store.keep_directories(&[inner, top.clone()]).unwrap();
        let name: String = blobs.iter().map(|(kib, seed)| format!("{kib}-{seed}-")).collect();
        let path = stored_path(&name, &top.node().into(), true);
        let what = Visible::Path(path.path_hash());
        store.commit(path, None).unwrap();
        used.into_iter().for_each(|at| store.used(&what, UnixSeconds(at)).unwrap());
        what
    }

    /// Plans, does it, and sees whether it was true.
    fn evict(store: &MemoryStore, kib_max: u64) -> Eviction {
        let planned = plan_eviction(store, kib_max * KIB, NOW).unwrap();
        assert_eq!(plan_eviction(store, kib_max * KIB, NOW).unwrap(), planned);
        for what in &planned.remove {
            assert!(store.remove(what).unwrap());
        }
        store.collect(false).unwrap();
        let directories = stats_directories(store);
        assert_eq!(store.usage().unwrap().blob_bytes + directories, planned.bytes_left);
        assert_eq!(planned.is_enough, planned.bytes_left <= kib_max * KIB);
        crate::verify_all(store, &mut |finding| panic!("{finding:?}"));
        let again = plan_eviction(store, kib_max * KIB, NOW).unwrap();
        assert_eq!((again.bytes_left, again.is_enough), (planned.bytes_left, planned.is_enough));
        assert_eq!((again.remove, again.bytes), (vec![], 0));
        planned
    }

    /// How long the Directories are together.
    fn stats_directories(store: &MemoryStore) -> u64 {
        let mut counts = Counts::default();
        visible(store).unwrap().iter().for_each(|(_, root)| counts.insert(store, root).unwrap());
        counts.directories.values().map(|counted| counted.bytes).sum()
    }

    #[test]
    fn the_least_recently_used_goes_first_and_no_more_than_is_needed() {
        let store = MemoryStore::new();
        let newest = commit(&store, &[(100, 1)], Some(30));
        let oldest = commit(&store, &[(100, 2)], Some(10));
        let never = commit(&store, &[(100, 3)], None);
        let middle = commit(&store, &[(100, 4)], Some(20));
        assert_eq!(evict(&store, 500).remove, []);
        let planned = evict(&store, 250);
        assert_eq!(planned.remove, [never, oldest]);
        assert!(planned.is_enough && (200 * KIB..202 * KIB).contains(&planned.bytes));
        assert_eq!(evict(&store, 0).remove, [middle, newest]);
    }

    #[test]
    fn a_use_that_lies_in_the_future_does_not_keep_anything_for_ever() {
        let store = MemoryStore::new();
        let (far, near) =
            (commit(&store, &[(100, 1)], Some(u64::MAX)), commit(&store, &[(100, 2)], Some(2000)));
        let used = commit(&store, &[(100, 3)], Some(999));
        let mut of_the_future = [far, near];
        of_the_future.sort();
        let plan = |now| plan_eviction(&store, 0, now).unwrap().remove;
        let [first, second] = of_the_future.clone();
        assert_eq!(plan(NOW), [used.clone(), first, second], "they count as used now");
        // From then on they are as old as anything else.
        of_the_future.iter().for_each(|what| store.used(what, NOW).unwrap());
        store.used(&used, UnixSeconds(1001)).unwrap();
        let [first, second] = of_the_future;
        assert_eq!(plan(UnixSeconds(1002)), [first, second, used]);
    }

    #[test]
    fn what_was_never_used_goes_in_the_order_of_its_name() {
        let store = MemoryStore::new();
        let mut all: Vec<_> = (0..5).map(|seed| commit(&store, &[(10, seed)], None)).collect();
        all.sort();
        assert_eq!(evict(&store, 35).remove, all[..2]);
    }

    #[test]
    fn what_a_pinned_tree_shares_is_not_freed() {
        let store = MemoryStore::new();
        let pinned = commit(&store, &[(100, 1), (50, 2)], None);
        store.pin(&pinned, &Reason::added()).unwrap();
        let sharing = commit(&store, &[(100, 1), (70, 3)], Some(1));
        let other = commit(&store, &[(30, 4)], Some(2));
        let planned = evict(&store, 185);
        assert_eq!(planned.remove, [sharing]);
        assert!((70 * KIB..71 * KIB).contains(&planned.bytes));
        let planned = evict(&store, 100);
        assert_eq!((planned.remove, planned.is_enough), (vec![other], false));
        assert!(planned.bytes_left >= 150 * KIB);
    }

    #[test]
    fn what_frees_nothing_stays() {
        let store = MemoryStore::new();
        let pinned = commit(&store, &[(100, 1)], None);
        store.pin(&pinned, &Reason::adopted()).unwrap();
        let Visible::Path(hash) = &pinned else { panic!() };
        let root = store.path(hash).unwrap().unwrap().root().clone();
        // The same tree without a path, one of its files, and a symlink.
        let blob = add(&store, &contents(100 * KIB, 1));
        let link = Node::Symlink { target: "nowhere".try_into().unwrap() };
        for root in [root, Node::File { blob, executable: true }.into(), link.into()] {
            store.commit_root(&root, true, None).unwrap();
        }
        let two = [commit(&store, &[(20, 5)], Some(2)), commit(&store, &[(20, 5), (1, 6)], Some(1))];
        // The older one alone would free little: the newer one has nearly all of it.
        let planned = evict(&store, 101);
        assert_eq!((planned.remove, planned.is_enough), (vec![two[1].clone(), two[0].clone()], true));
        let planned = evict(&store, 0);
        assert_eq!((planned.remove, planned.bytes, planned.is_enough), (vec![], 0, false));
    }

    #[test]
    fn adopted_bytes_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let store = MemoryStore::new();
        let bytes = contents(500 * KIB, 1);
        std::fs::write(dir.path().join("file"), &bytes).unwrap();
        let hashed = firn_bao::HashedBlob::of(&bytes);
        crate::Intake::adopt_blob(&store, &dir.path().join("file"), &hashed).unwrap();
        let root = Node::File { blob: hashed.blob(), executable: false }.into();
        store.commit_root(&root, true, Some(&Reason::adopted())).unwrap();
        commit(&store, &[(100, 2)], None);
        let planned = plan_eviction(&store, 150 * KIB, NOW).unwrap();
        assert_eq!((planned.remove, planned.is_enough), (vec![], true));
        assert_eq!(plan_eviction(&store, 50 * KIB, NOW).unwrap().remove.len(), 1);
    }

    #[test]
    fn a_missing_directory_is_no_obstacle() {
        let store = MemoryStore::new();
        let what = commit(&store, &[(100, 1)], None);
        let Visible::Path(hash) = &what else { panic!() };
        let root = store.path(hash).unwrap().unwrap().root().clone();
        let Node::Directory { digest, .. } = root.node() else { panic!() };
        store.quarantine(&crate::Item::Directory(*digest)).unwrap();
        commit(&store, &[(10, 2)], Some(1));
        let planned = plan_eviction(&store, 0, NOW).unwrap();
        assert_eq!((planned.remove.len(), planned.bytes_left), (2, 0));
    }
}
