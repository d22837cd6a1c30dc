//! Whole trees through [`add_tree`].

use std::{
    collections::BTreeMap,
    convert::Infallible,
    ffi::OsString,
    fs, io,
    os::unix::{
        ffi::OsStringExt,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use firn_bao::{HashedBlob, HashedPiece, PIECE_BYTES, Span, VerifiedSpan};
use firn_castore::{
    BlobDigest, BlobRef, ClosureBuilder, Directory, DirectoryDigest, Node, PathComponent, Root,
};
use firn_nix::{NarLayout, Sha256Writer, write_nar};
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;
use crate::{
    Incoming, Listing, MemoryStore, StoreError, closure, conformance::contents, lock, missing_blobs,
};

#[derive(Debug, Clone)]
enum Tree {
    File(Vec<u8>, bool),
    Symlink(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Tree>),
}

fn trees() -> impl Strategy<Value = Tree> {
    let name = prop::collection::vec(prop_oneof![1u8..b'/', b'0'..=255u8], 1..12)
        .prop_filter("dots are no names", |name| name != b"." && name != b"..");
    let size = prop_oneof![
        6 => 0..100u64,
        4 => 16_000..70_000u64,
        1 => PIECE_BYTES - 1..=PIECE_BYTES + 1,
        1 => Just(2 * PIECE_BYTES + 100_000)
    ];
    let leaf = prop_oneof![
        5 => (size, 0..20u64, any::<bool>())
            .prop_map(|(size, seed, executable)| Tree::File(contents(size, seed).to_vec(), executable)),
        1 => prop::collection::vec(1u8..=255, 1..30).prop_map(Tree::Symlink),
    ];
    leaf.prop_recursive(5, 60, 8, move |inner| {
        prop::collection::btree_map(name.clone(), inner, 0..8).prop_map(Tree::Directory)
    })
}

fn make(tree: &Tree, at: &Path) {
    match tree {
        Tree::File(bytes, executable) => {
            fs::write(at, bytes).unwrap();
            let mode = if *executable { 0o744 } else { 0o655 };
            fs::set_permissions(at, fs::Permissions::from_mode(mode)).unwrap();
        }
        Tree::Symlink(target) => symlink(OsString::from_vec(target.clone()), at).unwrap(),
        Tree::Directory(entries) => {
            fs::create_dir(at).unwrap();
            for (name, tree) in entries {
                make(tree, &at.join(OsString::from_vec(name.clone())));
            }
        }
    }
}

/// What is to come of a tree, one thing after the other.
#[derive(Default)]
struct Naive {
    directories: Vec<Directory>,
    blobs: BTreeMap<BlobDigest, Vec<u8>>,
}

impl Naive {
    fn of(tree: &Tree) -> (Root, NarHash, u64) {
        let mut naive = Self::default();
        let root = Root::from(naive.node(tree));
        let mut builder = ClosureBuilder::new(root.clone()).unwrap();
        for directory in naive.directories.into_iter().rev() {
            builder.insert(directory).unwrap();
        }
        let layout = NarLayout::new(Arc::new(builder.finish().unwrap())).unwrap();
        let mut hasher = Sha256Writer::new();
        write_nar(&layout, &mut hasher, |blob, out| {
            out.write_all(&naive.blobs[&blob.digest]).unwrap();
            Ok::<_, Infallible>(())
        })
        .unwrap();
        let (nar_hash, nar_size) = hasher.finish();
        assert_eq!(nar_size, layout.nar_size());
        (root, nar_hash, nar_size)
    }

    fn node(&mut self, tree: &Tree) -> Node {
        match tree {
            Tree::File(bytes, executable) => {
                let blob = BlobRef::of(bytes);
                self.blobs.insert(blob.digest, bytes.clone());
                Node::File { blob, executable: *executable }
            }
            Tree::Symlink(target) => Node::Symlink { target: target[..].try_into().unwrap() },
            Tree::Directory(entries) => {
                let nodes: Vec<_> = entries
                    .iter()
                    .map(|(name, tree)| (PathComponent::try_from(&name[..]).unwrap(), self.node(tree)))
                    .collect();
                let directory = Directory::build(nodes).unwrap();
                let node = directory.node();
                self.directories.push(directory);
                node
            }
        }
    }
}

/// The calls of one kind, and what happens at each, which is told how many came before.
#[derive(Default)]
struct Calls<'a> {
    count: AtomicUsize,
    #[expect(clippy::type_complexity)]
    then: Option<Box<dyn Fn(usize) -> Result<(), StoreError> + Send + Sync + 'a>>,
}

impl<'a> Calls<'a> {
    fn then(then: impl Fn(usize) -> Result<(), StoreError> + Send + Sync + 'a) -> Self {
        Self { count: AtomicUsize::new(0), then: Some(Box::new(then)) }
    }

    fn call(&self) -> Result<(), StoreError> {
        let before = self.count.fetch_add(1, Ordering::SeqCst);
        self.then.as_ref().map_or(Ok(()), |then| then(before))
    }

    fn take(&self) -> usize {
        self.count.swap(0, Ordering::SeqCst)
    }
}

/// A store that is watched.
#[derive(Default)]
struct Watched<'a> {
    inner: MemoryStore,
    keeps: Calls<'a>,
    pieces: Calls<'a>,
    /// They come between the walk and the reading.
    searches: Calls<'a>,
}

struct WatchedIncoming<'a>(Box<dyn Incoming + 'a>, &'a Calls<'a>);

impl Blobs for Watched<'_> {
    fn has_blob(&self, digest: &BlobDigest) -> Result<Option<u64>, StoreError> {
        self.inner.has_blob(digest)
    }

    fn groups(&self, blob: &BlobRef) -> Result<Vec<Span>, StoreError> {
        self.inner.groups(blob)
    }

    fn read_span(&self, blob: &BlobRef, span: Span) -> Result<Option<VerifiedSpan>, StoreError> {
        self.inner.read_span(blob, span)
    }

    fn keep_span(&self, span: &VerifiedSpan) -> Result<(), StoreError> {
        self.keeps.call()?;
        self.inner.keep_span(span)
    }
}

impl Intake for Watched<'_> {
    fn begin_blob(&self, size: u64) -> Result<Box<dyn Incoming + '_>, StoreError> {
        self.keeps.call()?;
        Ok(Box::new(WatchedIncoming(self.inner.begin_blob(size)?, &self.pieces)))
    }

    fn adopt_blob(&self, file: &Path, blob: &HashedBlob) -> Result<(), StoreError> {
        self.keeps.call()?;
        self.inner.adopt_blob(file, blob)
    }

    fn known_tree(&self, listing: &Listing) -> Result<Option<KnownTree>, StoreError> {
        self.searches.call()?;
        self.inner.known_tree(listing)
    }

    fn note_tree(&self, listing: &Listing, tree: &KnownTree) -> Result<(), StoreError> {
        self.inner.note_tree(listing, tree)
    }
}

impl Incoming for WatchedIncoming<'_> {
    fn write(&self, piece: &HashedPiece) -> Result<(), StoreError> {
        self.1.call()?;
        self.0.write(piece)
    }

    fn finish(self: Box<Self>) -> Result<BlobRef, StoreError> {
        self.0.finish()
    }
}

impl Directories for Watched<'_> {
    fn directory(&self, digest: &DirectoryDigest) -> Result<Option<Directory>, StoreError> {
        self.inner.directory(digest)
    }

    fn has_directory(&self, digest: &DirectoryDigest) -> Result<bool, StoreError> {
        self.inner.has_directory(digest)
    }

    fn keep_directories(&self, directories: &[Directory]) -> Result<(), StoreError> {
        self.keeps.call()?;
        self.inner.keep_directories(directories)
    }
}

fn options(jobs: usize, in_place: bool) -> AddOptions<'static> {
    AddOptions { jobs: NonZeroUsize::new(jobs).unwrap(), in_place, ..AddOptions::default() }
}

/// The time at which the youngest of these is of this age.
fn at_age(paths: &[&Path], age_seconds: u64) -> UnixSeconds {
    let youngest = paths.iter().map(|path| fs::symlink_metadata(path).unwrap().ctime()).max();
    UnixSeconds(youngest.unwrap() as u64 + age_seconds)
}

/// So that whatever changes it from now on changes its time.
fn make_old(path: &Path) {
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(UNIX_EPOCH + Duration::from_secs(1))
        .unwrap();
}

fn check(tree: &Tree, jobs: usize, in_place: bool) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tree");
    make(tree, &path);
    let store = MemoryStore::new();
    let added = add_tree(&store, &path, &options(jobs, in_place)).unwrap();
    let got = (added.closure.root().clone(), added.nar_hash, added.nar_size);
    assert_eq!(got, Naive::of(tree));
    assert!(!added.was_known);
    assert_eq!(closure(&store, added.closure.root()).unwrap().as_ref(), Some(&*added.closure));
    assert_eq!(missing_blobs(&store, &added.closure).unwrap(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_comes_of_a_tree_is_what_comes_of_it_naively(tree in trees(), jobs in 1..4usize, in_place: bool) {
        check(&tree, jobs, in_place);
    }
}

#[test]
fn many_files_by_many_threads() {
    let file =
        |number: u64| Tree::File(contents(number * 97 % 30_000, number).to_vec(), number.is_multiple_of(3));
    let name = |number: u64| format!("{number:03}").into_bytes();
    let inner =
        |outer| Tree::Directory((0..20).map(|number| (name(number), file(outer * 20 + number))).collect());
    let tree = Tree::Directory((0..60).map(|outer| (name(outer), inner(outer))).collect());
    for (jobs, in_place) in [(1, false), (2, true), (4, false), (7, true)] {
        check(&tree, jobs, in_place);
    }
}

#[test]
fn files_of_several_pieces() {
    for size in [PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES, 30 * PIECE_BYTES - 5] {
        let file = Tree::File(contents(size, 1).to_vec(), false);
        for (jobs, in_place) in [(1, false), (1, true), (3, false), (3, true)] {
            check(&file, jobs, in_place);
        }
    }
}

#[test]
fn the_smallest_trees() {
    let empty = Tree::File(Vec::new(), true);
    let unnamed = Tree::Directory(BTreeMap::new());
    let odd = [(b"a\nb".to_vec(), empty.clone()), (vec![b'n'; 255], unnamed.clone())];
    for tree in [empty, unnamed, Tree::Symlink(b"nowhere".to_vec()), Tree::Directory(odd.into())] {
        check(&tree, 1, false);
        check(&tree, 2, true);
    }
}

#[test]
fn symlinks_in_a_circle_are_symlinks() {
    let dir = tempfile::tempdir().unwrap();
    symlink(dir.path(), dir.path().join("self")).unwrap();
    symlink("b", dir.path().join("a")).unwrap();
    symlink("a", dir.path().join("b")).unwrap();
    let added = add_tree(&MemoryStore::new(), dir.path(), &options(2, false)).unwrap();
    assert_eq!(added.closure.entries(), 4);
}

#[test]
fn what_is_no_file_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("b/pipe");
    fs::create_dir(dir.path().join("b")).unwrap();
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
    // It comes first in the directory above, but not in a NAR.
    let _listener = UnixListener::bind(dir.path().join("c")).unwrap();
    let store = Watched::default();
    let error = add_tree(&store, dir.path(), &options(2, false)).unwrap_err();
    assert!(matches!(&error, AddError::Kind(path) if *path == pipe), "{error}");
    assert_eq!(error.to_string(), format!("{} is neither a file, a directory nor a symlink", pipe.display()));
    assert_eq!(store.keeps.take(), 0, "nothing is kept of a tree that cannot be");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o0)).unwrap();
    if fs::read(&secret).is_ok() {
        return; // The user of these tests may read everything.
    }
    let error = add_tree(&MemoryStore::new(), dir.path(), &options(1, false)).unwrap_err();
    let AddError::Io { path, source } = error else { panic!("{error}") };
    assert_eq!((path, source.kind()), (secret, io::ErrorKind::PermissionDenied));
}

#[test]
fn a_known_tree_is_not_read_again() {
    for in_place in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = (dir.path().join("tree"), dir.path().join("tree/file"));
        fs::create_dir(&path).unwrap();
        fs::write(&file, "x").unwrap();
        fs::write(path.join("large"), contents(PIECE_BYTES + 1, 0)).unwrap();
        symlink("file", path.join("link")).unwrap();
        let store = Watched::default();
        let now = at_age(&[&path, &file, &path.join("large"), &path.join("link")], 3);
        let options = AddOptions { now, ..options(2, in_place) };
        let first = add_tree(&store, &path, &options).unwrap();
        assert!(store.keeps.take() > 0);
        let second = add_tree(&store, &path, &options).unwrap();
        assert_eq!((second.was_known, store.keeps.take()), (true, 0));
        assert_eq!(AddedTree { was_known: false, ..second }, first);

        let rehashed = add_tree(&store, &path, &AddOptions { rehash: true, ..options }).unwrap();
        assert_eq!(rehashed, first);
        assert!(store.keeps.take() > 0);

        fs::File::open(&file).unwrap().set_modified(UNIX_EPOCH).unwrap();
        assert!(!add_tree(&store, &path, &options).unwrap().was_known, "the time of a file has changed");
    }
}

#[test]
fn a_listing_tells_trees_apart() {
    let dir = tempfile::tempdir().unwrap();
    let listing = || {
        let path = dir.path().join("tree");
        Entries::new(&path, walk::walk(&path, 1).unwrap()).listing
    };
    let at = |name: &str| dir.path().join("tree").join(name);
    fs::create_dir(at("")).unwrap();
    fs::create_dir(at("a")).unwrap();
    fs::write(at("f"), "x").unwrap();
    let mut listings = vec![listing()];
    fs::rename(at("f"), at("g")).unwrap();
    listings.push(listing());
    fs::rename(at("g"), at("a/g")).unwrap();
    listings.push(listing());
    fs::set_permissions(at("a/g"), fs::Permissions::from_mode(0o755)).unwrap();
    listings.push(listing());
    // An entry of the same name and contents, but another inode.
    fs::copy(at("a/g"), at("copy")).unwrap();
    fs::rename(at("copy"), at("a/g")).unwrap();
    listings.push(listing());
    assert_eq!(listing(), *listings.last().unwrap());
    let count = listings.len();
    listings.sort();
    listings.dedup();
    assert_eq!(listings.len(), count);
}

#[test]
fn what_is_young_or_from_the_future_is_not_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "x").unwrap();
    let store = MemoryStore::new();
    let add = |now| add_tree(&store, &path, &AddOptions { now, ..options(1, false) }).unwrap().was_known;
    for now in [UnixSeconds(0), at_age(&[&path], 0), at_age(&[&path], 1), at_age(&[&path], 2)] {
        assert!(!add(now));
    }
    assert!(!add(at_age(&[&path], 3)));
    assert!(add(UnixSeconds(0)), "what is known stays known");
    // A time from the future can be given to a file, but not to its inode.
    let far = UNIX_EPOCH + Duration::from_secs(1 << 33);
    fs::File::open(&path).unwrap().set_modified(far).unwrap();
    assert!(!add(at_age(&[&path], 3)));
    assert!(!add(at_age(&[&path], 3)));
}

#[test]
fn a_tree_of_which_something_is_missing_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "x").unwrap();
    let options = AddOptions { now: at_age(&[&path], 3), ..options(1, false) };
    let added = add_tree(&MemoryStore::new(), &path, &options).unwrap();
    let store = MemoryStore::new();
    let listing = Entries::new(&path, walk::walk(&path, 1).unwrap()).listing;
    let AddedTree { closure, nar_hash, nar_size, .. } = added;
    store.note_tree(&listing, &KnownTree { root: closure.root().clone(), nar_hash, nar_size }).unwrap();
    assert!(!add_tree(&store, &path, &options).unwrap().was_known);
    assert_eq!(missing_blobs(&store, &closure).unwrap(), []);
    assert!(add_tree(&store, &path, &options).unwrap().was_known);
}

#[test]
fn a_small_file_that_changes_after_the_walk_is_named() {
    type Change = fn(&Path);
    let changes: [Change; 5] = [
        |path| fs::write(path, "now the file is longer").unwrap(),
        |path| fs::write(path, "").unwrap(),
        |path| fs::write(path, "other").unwrap(),
        |path| {
            let aside = path.with_extension("aside");
            fs::copy(path, &aside).unwrap();
            fs::rename(aside, path).unwrap();
        },
        |path| {
            fs::remove_file(path).unwrap();
            mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        },
    ];
    for change in changes {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "first").unwrap();
        make_old(&path);
        let searches = Calls::then(|_| {
            change(&path);
            Ok(())
        });
        let store = Watched { searches, ..Watched::default() };
        let error = add_tree(&store, dir.path(), &options(1, false)).unwrap_err();
        assert!(matches!(&error, AddError::Changed { path: at, .. } if *at == path), "{error}");
        assert_eq!(store.keeps.take(), 0);
    }
}

#[test]
fn a_large_file_that_changes_while_it_is_read_is_named() {
    for in_place in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, contents(3 * PIECE_BYTES, 0)).unwrap();
        make_old(&path);
        // It is told of each piece, with which one thread then goes on.
        let change = |_: AddProgress| {
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.write_at(b"changed", 2 * PIECE_BYTES).unwrap();
        };
        let options = AddOptions { progress: Some(&change), ..options(1, in_place) };
        let store = MemoryStore::new();
        let error = add_tree(&store, &path, &options).unwrap_err();
        let size = 3 * PIECE_BYTES;
        assert!(
            matches!(&error, AddError::Changed { before, after, .. } if (*before, *after) == (size, size))
        );
        assert_eq!(error.to_string(), format!("{} has changed while it was read", path.display()));
    }
}

#[test]
fn a_large_file_that_shrinks_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, contents(3 * PIECE_BYTES, 0)).unwrap();
    let shrink = |before| {
        if before == 0 {
            fs::File::options().write(true).open(&path).unwrap().set_len(PIECE_BYTES + 7).unwrap();
        }
        Ok(())
    };
    let store = Watched { pieces: Calls::then(shrink), ..Watched::default() };
    let error = add_tree(&store, &path, &options(1, false)).unwrap_err();
    let after = PIECE_BYTES + 7;
    assert!(matches!(&error, AddError::Changed { after: got, .. } if *got == after), "{error}");
}

#[test]
fn the_first_error_in_the_order_of_a_nar_is_reported() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let file = |number| dir.path().join(format!("{number:04}"));
        for number in 0..600u64 {
            fs::write(file(number), contents(3000, number)).unwrap();
        }
        let searches = Calls::then(|_| {
            [400, 301, 302, 599].into_iter().for_each(|number| fs::remove_file(file(number)).unwrap());
            Ok(())
        });
        let store = Watched { searches, ..Watched::default() };
        let error = add_tree(&store, dir.path(), &options(4, false)).unwrap_err();
        assert!(matches!(&error, AddError::Io { path, .. } if *path == file(301)), "{error}");
    }
}

/// A tree that is enough for several threads.
fn much(dir: &Path) -> PathBuf {
    let path = dir.join("much");
    fs::create_dir(&path).unwrap();
    for number in 0..40 {
        fs::write(path.join(number.to_string()), contents(100_000 * (number % 15), number)).unwrap();
    }
    path
}

#[test]
fn a_store_that_fails_or_panics_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = much(dir.path());
    for calls in [1, 5, 20] {
        let full = || StoreError::Reader(io::ErrorKind::StorageFull.into());
        let fail = move |before| if before >= calls { Err(full()) } else { Ok(()) };
        let store = Watched { keeps: Calls::then(fail), ..Watched::default() };
        let error = add_tree(&store, &path, &options(3, false)).unwrap_err();
        assert!(matches!(error, AddError::Store(StoreError::Reader(_))), "{error}");

        let fail = move |before| if before == calls { panic!("as the test wants it") } else { Ok(()) };
        let store = Watched { keeps: Calls::then(fail), ..Watched::default() };
        let add = || add_tree(&store, &path, &options(3, false)).map(|_| ());
        assert!(panic::catch_unwind(AssertUnwindSafe(add)).is_err());
    }
}

#[test]
fn progress_is_told_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = much(dir.path());
    let told = Mutex::new(Vec::new());
    let tell = |progress| lock(&told).push(progress);
    let options = AddOptions { progress: Some(&tell), ..options(3, false) };
    add_tree(&MemoryStore::new(), &path, &options).unwrap();
    let told = lock(&told);
    assert!(told.is_sorted_by_key(|progress| progress.done_bytes));
    let total_bytes = (0..40).map(|number| 100_000 * (number % 15)).sum();
    assert_eq!(told.last(), Some(&AddProgress { done_bytes: total_bytes, total_bytes }));
}
