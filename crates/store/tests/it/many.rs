//! Many threads at once: readers, writers, and one that collects.

mod races;
mod syncs;
mod watched;

pub(crate) use watched::{Step, Watched};

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use bytes::Bytes;
use firn_bao::{GROUP_BYTES, HashedBlob, PIECE_BYTES, PIECE_GROUPS, Span};
use firn_castore::{BlobDigest, BlobRef, Directory, Node, Root};
use firn_store::{
    Blobs, Directories, DiskStore, Intake, Paths, Room, StoreError, Visible, closure,
    conformance::{add, contents, directory, stored_path},
};
use firn_trust::StoredPath;

use crate::{copy_in, findings, scratch, span_of};

const READERS: u64 = 64;
const WRITERS: u64 = 4;
/// How many trees each writer adds, and how many each reader reads.
const ADDED: u64 = 60;
const READ: u64 = 60;
/// So many trees are visible all the time.
const STABLE: u64 = 6;
/// Those that come and go are of so many kinds, so that what one writer adds another has just removed.
const KINDS: u64 = 8;
/// Of so many of them some stay; of the others all go, so that their contents come and go too.
const STAYING_KINDS: u64 = 2;

/// A tree, and how its blobs come into a store.
struct Tree {
    root: Root,
    directories: Vec<Directory>,
    /// Each with the file that has it, if it is adopted.
    blobs: Vec<(Bytes, Option<PathBuf>)>,
}

impl Tree {
    /// Of what others have too, a blob of its own, one that comes in two parts, one that is large and one that is adopted.
    fn new(seed: u64, files: &Path) -> Self {
        let adopted = files.join(seed.to_string());
        let mut blobs = vec![
            (contents(60_000, 1000 + seed % 3), None),
            (contents(100 + seed, 2000 + seed), None),
            (contents(3 * GROUP_BYTES, 3000 + seed), None),
        ];
        if seed.is_multiple_of(3) {
            blobs.push((contents(PIECE_BYTES + 100, 4000 + seed), None));
        }
        if seed.is_multiple_of(2) {
            fs::write(&adopted, contents(20_000, 5000 + seed)).unwrap();
            blobs.push((contents(20_000, 5000 + seed), Some(adopted)));
        }
        let node = |i: usize| Node::File { blob: BlobRef::of(&blobs[i].0), executable: false };
        let inner = directory([("shared", node(0))]);
        let names: Vec<String> = (1..blobs.len()).map(|i| format!("blob-{i}")).collect();
        let entries = names.iter().enumerate().map(|(i, name)| (name.as_str(), node(i + 1)));
        let top = directory(entries.chain([("inner", inner.node())]));
        Self { root: top.node().into(), directories: vec![top, inner], blobs }
    }

    fn keep(&self, store: &DiskStore) -> Result<(), StoreError> {
        store.keep_directories(&self.directories)?;
        for (bytes, file) in &self.blobs {
            match (file, bytes.len() as u64) {
                (Some(file), _) => store.adopt_blob(file, &HashedBlob::of(bytes))?,
                (None, size) if size > PIECE_BYTES => drop(copy_in(store, bytes)),
                (None, size) if size > 2 * GROUP_BYTES && size < 60_000 => {
                    let (early, late) = Span::whole(size).split(2);
                    for span in [late.unwrap(), early] {
                        store.keep_spans(&[span_of(bytes, span)])?;
                    }
                }
                _ => drop(add(store, bytes)),
            }
        }
        Ok(())
    }
}

/// Which kind of tree a writer adds.
fn kind(writer: u64, round: u64) -> u64 {
    (writer * 3 + round) % KINDS
}

/// What all threads know.
struct World {
    store: DiskStore,
    trees: Vec<Tree>,
    by_digest: BTreeMap<BlobDigest, Bytes>,
    /// Whether writers hold what they keep.
    is_held: bool,
    /// How far each writer is, so that readers can look at what is changing.
    rounds: [AtomicU64; WRITERS as usize],
    refused: AtomicUsize,
    read_whole: AtomicUsize,
    read_absent: AtomicUsize,
}

impl World {
    fn new(dir: &Path, is_held: bool) -> Self {
        let files = dir.join("files");
        fs::create_dir(&files).unwrap();
        let store = DiskStore::open(&dir.join("store")).unwrap();
        let trees: Vec<_> = (0..STABLE + KINDS).map(|seed| Tree::new(seed, &files)).collect();
        let blobs = trees.iter().flat_map(|tree| &tree.blobs);
        let by_digest = blobs.map(|(bytes, _)| (BlobRef::of(bytes).digest, bytes.clone())).collect();
        let [refused, read_whole, read_absent] = [0, 0, 0].map(AtomicUsize::new);
        let rounds = [0; WRITERS as usize].map(AtomicU64::new);
        Self { store, trees, rounds, by_digest, is_held, refused, read_whole, read_absent }
    }

    fn path(&self, name: &str, tree: u64) -> StoredPath {
        stored_path(name, &self.trees[tree as usize].root, true)
    }

    fn stable(&self, tree: u64) -> StoredPath {
        self.path(&format!("stable-{tree}"), tree)
    }

    /// What a writer adds, and the tree that it is.
    fn coming(&self, writer: u64, round: u64) -> StoredPath {
        self.path(&format!("coming-{writer}-{round}"), STABLE + kind(writer, round))
    }

    /// Adds a tree; whether it was not refused.
    fn add(&self, path: &StoredPath) -> bool {
        let tree = self.trees.iter().find(|tree| tree.root == *path.root()).unwrap();
        let hold = self.is_held.then(|| self.store.hold());
        tree.keep(&self.store).unwrap();
        let committed = self.store.commit(path.clone(), None);
        drop(hold);
        match committed {
            Err(StoreError::Missing(_)) if !self.is_held => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                false
            }
            committed => {
                committed.unwrap();
                true
            }
        }
    }

    /// Reads all of a path, byte for byte. `false`: something of it is absent. There is nothing in between.
    fn read(&self, path: &StoredPath) -> bool {
        let Some(found) = self.store.path(&path.path_hash()).unwrap() else { return false };
        assert_eq!(found, *path);
        let Some(closure) = closure(&self.store, found.root()).unwrap() else { return false };
        assert_eq!(closure.root(), path.root());
        closure.blobs().iter().all(|blob| {
            let expected = &self.by_digest[&blob.digest];
            Span::whole(blob.size).pieces(PIECE_GROUPS / 2).all(|span| {
                let range = span.bytes(blob.size);
                let Some(read) = self.store.read_span(blob, span).unwrap() else { return false };
                assert_eq!(read.bytes()[..], expected[range.start as usize..range.end as usize]);
                true
            })
        })
    }

    fn read_many(&self, reader: u64) {
        for round in 0..READ {
            let stable = (reader + round) % STABLE;
            assert!(self.read(&self.stable(stable)), "stable-{stable} is visible all the time");
            let writer = (reader + round) % WRITERS;
            let now = self.rounds[writer as usize].load(Ordering::Relaxed);
            let coming = self.coming(writer, now.saturating_sub(reader % 2));
            let count = if self.read(&coming) { &self.read_whole } else { &self.read_absent };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds tree after tree, and removes most of them again; gives those that stay.
    fn write_many(&self, writer: u64) -> Vec<StoredPath> {
        let mut staying = Vec::new();
        for round in 0..ADDED {
            let path = self.coming(writer, round);
            self.rounds[writer as usize].store(round, Ordering::Relaxed);
            if !self.add(&path) {
                continue;
            }
            assert!(self.read(&path), "{} was committed, and nobody has removed it", path.path());
            if kind(writer, round) < STAYING_KINDS {
                staying.push(path);
            } else {
                assert!(self.store.remove(&Visible::Path(path.path_hash())).unwrap());
                assert!(!self.read(&path));
            }
        }
        staying
    }

    /// Lets readers, writers and a collector loose; gives what is visible then.
    fn run(&self) -> Vec<StoredPath> {
        let mut visible: Vec<_> = (0..STABLE).map(|tree| self.stable(tree)).collect();
        visible.iter().for_each(|path| assert!(self.add(path)));
        let (begin, are_done) = (Barrier::new((READERS + WRITERS) as usize), AtomicBool::new(false));
        thread::scope(|scope| {
            let collector = scope.spawn(|| {
                while !are_done.load(Ordering::Acquire) {
                    self.store.collect(false).unwrap();
                }
            });
            let begin = &begin;
            let readers = (0..READERS).map(|reader| {
                scope.spawn(move || {
                    begin.wait();
                    self.read_many(reader);
                    Vec::new()
                })
            });
            let writers = (0..WRITERS).map(|writer| {
                scope.spawn(move || {
                    begin.wait();
                    self.write_many(writer)
                })
            });
            let threads: Vec<_> = readers.chain(writers).collect::<Vec<_>>();
            let ended: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
            are_done.store(true, Ordering::Release);
            collector.join().unwrap();
            visible.extend(ended.into_iter().flat_map(|ended| ended.unwrap()));
        });
        visible
    }

    /// What is visible is whole, and there is nothing else.
    fn check(&self, visible: &[StoredPath]) {
        let names = |paths: &[StoredPath]| paths.iter().map(StoredPath::path_hash).collect::<BTreeSet<_>>();
        assert_eq!(names(&self.store.paths().unwrap()), names(visible));
        for path in visible {
            assert!(self.read(path), "{} is visible and not whole", path.path());
        }
        assert!(findings(&self.store).is_empty());
        assert!(self.store.take_lost().is_empty(), "no file was damaged");
    }

    /// What is left after collecting is what is needed.
    fn check_usage(&self, visible: &[StoredPath]) {
        self.store.collect(false).unwrap();
        let roots: BTreeSet<_> = visible.iter().map(|path| path.root().clone()).collect();
        let live: Vec<_> = self.trees.iter().filter(|tree| roots.contains(&tree.root)).collect();
        let directories = live.iter().flat_map(|tree| &tree.directories).map(Directory::digest);
        let blobs = live.iter().flat_map(|tree| &tree.blobs).map(|(bytes, _)| BlobRef::of(bytes));
        let (directories, blobs) = (directories.collect::<BTreeSet<_>>(), blobs.collect::<BTreeSet<_>>());
        let usage = self.store.usage().unwrap();
        assert_eq!((usage.blobs, usage.directories), (blobs.len() as u64, directories.len() as u64));
        assert_eq!(usage.blob_bytes, blobs.iter().map(|blob| blob.size).sum::<u64>());
        assert_eq!(usage.partials, 0);
        // Of each pack at least three quarters are needed, but for heads of packs and outboards.
        let index = fs::metadata(self.dir().join("index.redb")).unwrap().len();
        let own_bytes = usage.blob_bytes - usage.adopted_bytes;
        assert!(usage.disk_bytes <= index + own_bytes * 3 / 2 + (1 << 20), "{usage:?}, index {index}");
        let again = self.store.collect(false).unwrap();
        assert_eq!((again.blobs, again.directories, again.partials), (0, 0, 0));
    }

    fn dir(&self) -> PathBuf {
        self.trees
            .iter()
            .find_map(|tree| tree.blobs.iter().find_map(|(_, file)| file.clone()))
            .unwrap()
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .join("store")
    }

    fn reopened(mut self) -> Self {
        let dir = self.dir();
        // Two of them can't be open at once.
        let aside = tempfile::tempdir().unwrap();
        self.store = DiskStore::open(aside.path()).unwrap();
        self.store = DiskStore::open(&dir).unwrap();
        self
    }
}

#[test]
fn readers_writers_and_a_collector_do_not_disturb_each_other() {
    let dir = scratch();
    let world = World::new(dir.path(), true);
    let visible = world.run();
    let rounds = (0..WRITERS).flat_map(|writer| (0..ADDED).map(move |round| kind(writer, round)));
    let staying = rounds.filter(|kind| *kind < STAYING_KINDS).count();
    assert_eq!(visible.len(), STABLE as usize + staying);
    let [whole, absent] = [&world.read_whole, &world.read_absent].map(|count| count.load(Ordering::Relaxed));
    assert_eq!((whole + absent) as u64, READERS * READ);
    eprintln!("of those that come and go, {whole} were read whole, {absent} were not there");
    world.check(&visible);
    let world = world.reopened();
    world.check(&visible);
    world.check_usage(&visible);
    world.check(&visible);
    let world = world.reopened();
    world.check(&visible);
    world.check_usage(&visible);
}

#[test]
fn without_a_hold_a_commit_is_refused_and_never_lies() {
    let dir = scratch();
    let world = World::new(dir.path(), false);
    let visible = world.run();
    let refused = world.refused.load(Ordering::Relaxed);
    eprintln!("of {} commits, {refused} were refused", WRITERS * ADDED);
    world.check(&visible);
    let world = world.reopened();
    world.check(&visible);
    world.check_usage(&visible);
}

#[test]
fn what_is_not_held_can_go_before_it_is_committed() {
    // What the other tests rest on: that a collector takes what nobody holds, and that what is lost is seen.
    for is_held in [false, true] {
        let dir = scratch();
        let world = World::new(dir.path(), is_held);
        for tree in &world.trees {
            let hold = is_held.then(|| world.store.hold());
            tree.keep(&world.store).unwrap();
            world.store.collect(false).unwrap();
            let committed = world.store.commit_root(&tree.root, true, None);
            drop(hold);
            match committed {
                Err(StoreError::Missing(_)) => assert!(!is_held),
                committed => assert!(is_held, "{committed:?}"),
            }
        }
        let path = world.stable(0);
        assert!(world.add(&path) && world.read(&path));
        let item = firn_store::Item::Blob(BlobRef::of(&world.trees[0].blobs[1].0).digest);
        world.store.quarantine(&item).unwrap();
        assert!(!world.read(&path), "a path that has lost a blob is not whole");
        assert_eq!(findings(&world.store).len(), 1);
    }
}
