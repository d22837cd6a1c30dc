//! Reads everything that is visible.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    num::NonZero,
    panic::resume_unwind,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use firn_bao::{PIECE_GROUPS, Span};
use firn_castore::{BlobRef, Closure, Directory, DirectoryDigest, Node, Root};
use firn_nix::StorePath;

use crate::{Item, Store, StoreError};

/// So many blobs are read at a time, at most.
const JOBS_MAX: usize = 8;

/// What a damaged item is part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A store path.
    Path(StorePath),
    /// A tree without a path.
    Root(Root),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Path(path) => write!(f, "{path}"),
            Holder::Root(root) => write!(f, "{root}"),
        }
    }
}

/// Something that is not what it was.
#[derive(Debug)]
pub struct Finding {
    /// What was found: [`StoreError::Damaged`], [`StoreError::Missing`], or that something cannot be read.
    pub error: StoreError,
    /// Of what, if that is known. Once [quarantined](crate::Room::quarantine) it is absent, so that fetching the holders
    /// again brings it back.
    pub item: Option<Item>,
    /// Everything visible that it concerns.
    pub holders: Vec<Holder>,
}

/// What was read by [`verify_all`]; what several trees share counts once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many Directories.
    pub directories: u64,
    /// How many blobs.
    pub blobs: u64,
    /// How long these blobs are together.
    pub blob_bytes: u64,
    /// How many paths, and trees without one, all this belongs to.
    pub holders: u64,
    /// How many things were not what they were.
    pub findings: u64,
}

/// Reads and verifies all that is reachable from paths and roots, each thing once, and tells of what is damaged.
///
/// Blobs are read on all cores, yet the findings come in the same order each time: records, Directories, blobs.
pub fn verify_all(store: &dyn Store, on_damage: &mut dyn FnMut(Finding)) -> Verified {
    verify_some(store, |_, _| true, on_damage)
}

/// As [`verify_all`], for the wanted ones of all paths and roots alone.
pub fn verify_some(
    store: &dyn Store,
    is_wanted: impl Fn(&Holder, &Root) -> bool,
    on_damage: &mut dyn FnMut(Finding),
) -> Verified {
    let (mut holders, errors) = holders(store);
    holders.retain(|(holder, root)| is_wanted(holder, root));
    let mut things = Things::default();
    let mut bad = Vec::new();
    for (_, root) in &holders {
        things.read(store, root, &mut bad);
    }
    let blobs = things.order;
    bad.extend(read_blobs(store, &blobs));
    let verified = Verified {
        directories: things.directories.len() as u64,
        blobs: blobs.len() as u64,
        blob_bytes: blobs.iter().map(|blob| blob.size).fold(0, u64::saturating_add),
        holders: holders.len() as u64,
        findings: (errors.len() + bad.len()) as u64,
    };
    for error in errors {
        let item = error.lost().cloned();
        on_damage(Finding { error, item, holders: Vec::new() });
    }
    let mut concerned = concerned(store, &holders, &bad);
    for (thing, error) in bad {
        let holders = concerned.remove(&thing).unwrap_or_default();
        on_damage(Finding { error, item: Some(thing.item()), holders });
    }
    verified
}

/// Reads and verifies all of a tree, visible or not. Gives what of it is not what it was, or is not here, and why.
pub fn verify_tree(store: &dyn Store, closure: &Closure) -> Vec<(Item, StoreError)> {
    let mut bad: Vec<(Thing, StoreError)> = Vec::new();
    for directory in closure.directories() {
        let digest = directory.digest();
        bad.extend(read_directory(store, digest).err().map(|error| (Thing::Directory(digest), error)));
    }
    bad.extend(read_blobs(store, &closure.blobs()));
    bad.into_iter().map(|(thing, error)| (thing.item(), error)).collect()
}

/// Everything visible, with its root; and why something cannot be told.
fn holders(store: &dyn Store) -> (Vec<(Holder, Root)>, Vec<StoreError>) {
    let mut errors = Vec::new();
    let (paths, roots) = (or_note(store.paths(), &mut errors), or_note(store.roots(), &mut errors));
    let damaged = or_note(store.damaged_records(), &mut errors);
    errors.extend(damaged);
    let paths = paths.iter().map(|path| (Holder::Path(path.path().clone()), path.root().clone()));
    let roots = roots.into_iter().map(|(root, _)| (Holder::Root(root.clone()), root));
    (paths.chain(roots).collect(), errors)
}

/// What was found; of an error nothing, and the error is noted.
fn or_note<T: Default>(found: Result<T, StoreError>, errors: &mut Vec<StoreError>) -> T {
    found.unwrap_or_else(|error| {
        errors.push(error);
        T::default()
    })
}

/// What stands beneath a root.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Directory(DirectoryDigest),
    Blob(BlobRef),
}

impl Thing {
    fn item(&self) -> Item {
        match self {
            Thing::Directory(digest) => Item::Directory(*digest),
            Thing::Blob(blob) => Item::Blob(blob.digest),
        }
    }
}

/// What stands beneath roots, as far as Directories can be read.
#[derive(Default)]
struct Things {
    directories: BTreeSet<DirectoryDigest>,
    blobs: BTreeSet<BlobRef>,
    /// The blobs as they stand in the trees: what was kept together lies together, and is read in one go.
    order: Vec<BlobRef>,
}

impl Things {
    /// Takes in all beneath a root; Directories that are there already are not read again.
    fn read(&mut self, store: &dyn Store, root: &Root, bad: &mut Vec<(Thing, StoreError)>) {
        let mut stack = vec![root.node().clone()];
        while let Some(node) = stack.pop() {
            match node {
                Node::Symlink { .. } => {}
                Node::File { blob, .. } => {
                    if self.blobs.insert(blob) {
                        self.order.push(blob);
                    }
                }
                Node::Directory { digest, .. } => {
                    if self.directories.insert(digest) {
                        match read_directory(store, digest) {
                            Ok(directory) => {
                                stack.extend(directory.iter().rev().map(|(_, node)| node.clone()))
                            }
                            Err(error) => bad.push((Thing::Directory(digest), error)),
                        }
                    }
                }
            }
        }
    }

    fn contains(&self, thing: &Thing) -> bool {
        match thing {
            Thing::Directory(digest) => self.directories.contains(digest),
            Thing::Blob(blob) => self.blobs.contains(blob),
        }
    }
}

/// Beneath which roots the damaged things stand. This reads Directories again, which only happens after damage.
fn concerned(
    store: &dyn Store,
    holders: &[(Holder, Root)],
    bad: &[(Thing, StoreError)],
) -> BTreeMap<Thing, Vec<Holder>> {
    let mut concerned: BTreeMap<Thing, Vec<Holder>> = BTreeMap::new();
    for (holder, root) in holders.iter().take_while(|_| !bad.is_empty()) {
        let mut things = Things::default();
        things.read(store, root, &mut Vec::new());
        for (thing, _) in bad.iter().filter(|(thing, _)| things.contains(thing)) {
            concerned.entry(*thing).or_default().push(holder.clone());
        }
    }
    concerned
}

fn read_directory(store: &dyn Store, digest: DirectoryDigest) -> Result<Directory, StoreError> {
    store.directory(&digest)?.ok_or(StoreError::Missing(Item::Directory(digest)))
}

fn read_blob(store: &dyn Store, blob: BlobRef) -> Result<(), StoreError> {
    for span in Span::whole(blob.size).pieces(PIECE_GROUPS) {
        store.read_span(&blob, span)?.ok_or(StoreError::Missing(Item::Blob(blob.digest)))?;
    }
    Ok(())
}

/// Reads all of these blobs, several at a time; what is wrong, in their order.
fn read_blobs(store: &dyn Store, blobs: &[BlobRef]) -> Vec<(Thing, StoreError)> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut bad = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(blob) = blobs.get(index) else { return bad };
            bad.extend(read_blob(store, *blob).err().map(|error| (index, error)));
        }
    };
    let jobs = thread::available_parallelism().map_or(1, NonZero::get).min(JOBS_MAX).min(blobs.len());
    let mut bad = thread::scope(|scope| {
        let threads: Vec<_> = (1..jobs).map(|_| scope.spawn(work)).collect();
        let mut bad = work();
        for thread in threads {
            bad.extend(thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        bad
    });
    bad.sort_by_key(|(index, _)| *index);
    bad.into_iter().map(|(index, error)| (Thing::Blob(blobs[index]), error)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryStore, Paths, Room, UnixSeconds, Visible, conformance, plan_eviction, stats};

    fn findings(store: &dyn Store) -> Vec<Finding> {
        let mut findings = Vec::new();
        verify_all(store, &mut |finding| findings.push(finding));
        findings
    }

    #[test]
    fn findings_come_in_order_and_what_they_name_is_healed() {
        let damaged_store = || {
            let store = MemoryStore::new();
            for seed in 0..20 {
                let root = conformance::keep_sample(&store, seed);
                store.commit_root(&root, true, None).unwrap();
                let path = conformance::stored_path(&format!("path-{seed}"), &root, true);
                store.commit(path, None).unwrap();
                let damaged = &conformance::sample(seed).2[(seed % 2) as usize];
                assert!(store.damage_blob(&BlobRef::of(damaged).digest));
            }
            store.quarantine(&Item::Directory(conformance::sample(0).1[0].digest())).unwrap();
            store
        };
        let (first, second) = (damaged_store(), damaged_store());
        let found = findings(&first);
        let told = |found: &[Finding]| found.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>();
        assert_eq!(told(&found), told(&findings(&second)));
        // Beneath the Directory that is gone nothing is found.
        assert_eq!(found.len(), 20);
        assert!(matches!(found[0].error, StoreError::Missing(Item::Directory(_))));
        for finding in &found {
            assert_eq!(finding.holders.len(), 2);
            first.quarantine(finding.item.as_ref().unwrap()).unwrap();
        }
        assert_eq!(findings(&first).len(), 20);
        (0..20).for_each(|seed| drop(conformance::keep_sample(&first, seed)));
        assert!(findings(&first).is_empty());
        let verified = verify_all(&first, &mut |_| {});
        let expected =
            Verified { directories: 21, blobs: 41, blob_bytes: 2_002_000, holders: 40, findings: 0 };
        assert_eq!(verified, expected);
    }

    #[test]
    fn a_damaged_record_hides_no_other_one_and_nothing_is_collected_before_it_is_put_aside() {
        let store = MemoryStore::new();
        let roots: Vec<Root> = (0..4).map(|seed| conformance::keep_sample(&store, seed)).collect();
        let path = |seed: usize| conformance::stored_path(&format!("path-{seed}"), &roots[seed], true);
        for seed in [0, 1] {
            store.commit(path(seed), None).unwrap();
            store.commit_root(&roots[seed + 2], true, None).unwrap();
        }
        let [bad_path, bad_root] = [Visible::Path(path(0).path_hash()), Visible::Root(roots[2].clone())];
        assert!(store.damage_record(&bad_path) && store.damage_record(&bad_root));
        assert!(!store.damage_record(&Visible::Root(roots[0].clone())));

        assert_eq!(store.paths().unwrap(), [path(1)]);
        assert_eq!(store.roots().unwrap(), [(roots[3].clone(), true)]);
        assert!(store.path(&path(0).path_hash()).is_err());
        let counted = stats(&store).unwrap();
        assert_eq!((counted.paths, counted.roots), (1, 1));
        assert_eq!(plan_eviction(&store, 0, UnixSeconds(0)).unwrap().remove.len(), 2);
        for dry_run in [true, false] {
            let error = store.collect(dry_run).unwrap_err();
            assert!(matches!(error, StoreError::NotCollected { .. }));
            let text = error.to_string();
            let record = Item::Path(path(0).path_hash()).to_string();
            assert!(text.contains(&record) && text.contains("firn verify --repair"), "{text}");
        }

        let items = |found: &[Finding]| found.iter().map(|f| f.item.clone().unwrap()).collect::<Vec<_>>();
        let found = items(&findings(&store));
        assert_eq!(found, [Item::Path(path(0).path_hash()), Item::Root(roots[2].clone())]);
        // What is committed anew is as good as ever.
        store.commit(path(0), None).unwrap();
        assert_eq!(items(&findings(&store)), found[1..]);
        store.quarantine(&found[1]).unwrap();
        assert!(findings(&store).is_empty());
        assert_eq!(store.collect(false).unwrap().blobs, 2);
        assert_eq!((store.paths().unwrap().len(), store.roots().unwrap().len()), (2, 1));
    }
}
