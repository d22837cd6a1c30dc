//! What every store must do, as tests that run on any of them.
#![allow(clippy::unwrap_used, clippy::panic)] // These are tests, though other crates may run them too.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, thread,
};

use bytes::Bytes;
use firn_bao::{GROUP_BYTES, Span, VerifiedSpan};
use firn_castore::{BlobDigest, BlobRef, Directory, DirectoryDigest, Node, PathComponent, Root};
use firn_nix::{NarFacts, NarHash, StorePath, StorePathHash};
use firn_trust::{PathFacts, StoredPath, TrustedPath};

use crate::{Item, Store, StoreError, closure, missing_blobs};

/// Runs all tests, each on a store of its own, which must be empty.
pub fn run(make: impl Fn() -> Box<dyn Store>) {
    let cases: [fn(&dyn Store); 16] = [
        an_empty_store_has_nothing,
        blobs_come_back,
        any_span_comes_back,
        spans_come_in_any_order,
        overlapping_spans_make_a_blob,
        a_partial_blob_is_not_here,
        another_length_is_not_here,
        a_span_past_the_end_is_an_error,
        keeping_again_changes_nothing,
        a_failing_reader_leaves_nothing,
        directories_come_back,
        a_commit_needs_every_directory,
        a_commit_needs_every_blob,
        a_commit_needs_true_lengths,
        records_come_back_and_are_replaced,
        many_threads_agree,
    ];
    for case in cases {
        case(&*make());
    }
}

/// Some bytes, different for each seed.
pub fn contents(size: u64, seed: u64) -> Bytes {
    let mut bytes = vec![0; size as usize];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// A record of a path that was added here, whose NAR hash is made up.
pub fn stored_path(name: &str, root: &Root, shared: bool) -> StoredPath {
    let hash: [u8; 20] = blake3::hash(name.as_bytes()).as_bytes()[..20].try_into().unwrap();
    let path = StorePath::new(StorePathHash::from(hash), name).unwrap();
    let nar = NarFacts { nar_hash: NarHash::of(name.as_bytes()), nar_size: 1, references: BTreeSet::new() };
    let facts = PathFacts { path, root: root.clone(), nar, deriver: None, ca: None };
    TrustedPath::added_here(facts, Vec::new(), &[]).to_stored(shared)
}

/// A directory with a large file, a small file and a directory with an empty one, and what must be kept of it.
pub fn sample(seed: u64) -> (Root, Vec<Directory>, Vec<Bytes>) {
    let blobs = vec![contents(100_000, seed), contents(100, seed), Bytes::new()];
    let file = |i: usize| Node::File { blob: BlobRef::of(&blobs[i]), executable: i == 1 };
    let inner = Directory::build([(name("empty"), file(2))]).unwrap();
    let link = Node::Symlink { target: "small".try_into().unwrap() };
    let entries = [("large", file(0)), ("small", file(1)), ("inner", inner.node()), ("link", link)];
    let top = Directory::build(entries.map(|(text, node)| (name(text), node))).unwrap();
    (top.node().into(), vec![top, inner], blobs)
}

fn name(text: &str) -> PathComponent {
    text.try_into().unwrap()
}

fn add(store: &dyn Store, bytes: &[u8]) -> BlobRef {
    let blob = store.add_blob(&mut &bytes[..]).unwrap();
    assert_eq!(blob, BlobRef::of(bytes));
    blob
}

fn keep_sample(store: &dyn Store, seed: u64) -> Root {
    let (root, directories, blobs) = sample(seed);
    store.keep_directories(&directories).unwrap();
    for bytes in &blobs {
        add(store, bytes);
    }
    root
}

/// The bytes of a span, if there is such a blob.
fn read(store: &dyn Store, blob: &BlobRef, span: Span) -> Option<Bytes> {
    let read = store.read_span(blob, span).unwrap()?;
    assert_eq!((read.blob(), read.span()), (*blob, span));
    Some(read.bytes().clone())
}

/// One span of a blob, as it comes from a peer.
fn span_of(bytes: &Bytes, span: Span) -> VerifiedSpan {
    let blob = BlobRef::of(bytes);
    let (_, outboard) = firn_bao::hash_blob(&mut &bytes[..]).unwrap();
    let range = span.bytes(blob.size);
    let part = bytes.slice(range.start as usize..range.end as usize);
    VerifiedSpan::check(blob, span, outboard.as_bytes(), part).unwrap()
}

fn groups(start: u64, end: u64) -> Span {
    Span::from_groups(start..end).unwrap()
}

const SIZES: [u64; 9] =
    [0, 1, 1024, GROUP_BYTES - 1, GROUP_BYTES, GROUP_BYTES + 1, 2 * GROUP_BYTES, 100_000, 3_000_000];

fn an_empty_store_has_nothing(store: &dyn Store) {
    let blob = BlobRef::of(b"x");
    assert_eq!(store.has_blob(&blob.digest).unwrap(), None);
    assert_eq!(store.has_blob(&BlobDigest::of(b"")).unwrap(), None);
    assert_eq!(read(store, &blob, Span::whole(1)), None);
    assert_eq!(store.directory(&DirectoryDigest::of(b"")).unwrap(), None);
    assert_eq!(store.path(&StorePathHash::from([0; 20])).unwrap(), None);
    assert_eq!(store.paths().unwrap(), []);
    assert_eq!(store.roots().unwrap(), []);
    let (root, ..) = sample(0);
    assert!(closure(store, &root).unwrap().is_none());
}

fn blobs_come_back(store: &dyn Store) {
    for size in SIZES {
        let bytes = contents(size, size);
        let blob = add(store, &bytes);
        assert_eq!(store.has_blob(&blob.digest).unwrap(), Some(size));
        assert_eq!(read(store, &blob, Span::whole(size)).unwrap(), bytes);
    }
}

fn any_span_comes_back(store: &dyn Store) {
    let bytes = contents(5 * GROUP_BYTES + 7, 0);
    let blob = add(store, &bytes);
    for start in 0..6 {
        for end in start + 1..=6 {
            let range = groups(start, end).bytes(blob.size);
            let part = bytes.slice(range.start as usize..range.end as usize);
            assert_eq!(read(store, &blob, groups(start, end)).unwrap(), part, "groups {start}..{end}");
        }
    }
}

fn spans_come_in_any_order(store: &dyn Store) {
    for size in SIZES {
        let bytes = contents(size, size + 1);
        let blob = BlobRef::of(&bytes);
        let spans: Vec<_> = Span::whole(size).pieces(2).collect();
        let (later, sooner): (Vec<_>, Vec<_>) = spans.iter().rev().enumerate().partition(|(i, _)| i % 3 == 0);
        for (left, (_, span)) in
            sooner.iter().chain(&later).enumerate().map(|(i, s)| (spans.len() - i - 1, s))
        {
            assert_eq!(store.has_blob(&blob.digest).unwrap(), None);
            store.keep_span(&span_of(&bytes, **span)).unwrap();
            assert_eq!(store.has_blob(&blob.digest).unwrap(), (left == 0).then_some(size));
        }
        assert_eq!(read(store, &blob, Span::whole(size)).unwrap(), bytes);
    }
}

fn overlapping_spans_make_a_blob(store: &dyn Store) {
    let bytes = contents(6 * GROUP_BYTES + 1, 0);
    for span in [groups(1, 4), groups(3, 6), groups(2, 3), groups(5, 7), groups(0, 2)] {
        store.keep_span(&span_of(&bytes, span)).unwrap();
    }
    let blob = BlobRef::of(&bytes);
    assert_eq!(read(store, &blob, Span::whole(blob.size)).unwrap(), bytes);
}

fn a_partial_blob_is_not_here(store: &dyn Store) {
    let bytes = contents(3 * GROUP_BYTES, 0);
    let blob = BlobRef::of(&bytes);
    store.keep_span(&span_of(&bytes, groups(0, 2))).unwrap();
    store.keep_span(&span_of(&bytes, groups(0, 2))).unwrap();
    assert_eq!(store.has_blob(&blob.digest).unwrap(), None);
    assert_eq!(read(store, &blob, groups(0, 1)), None);
    let root = Root::from(Node::File { blob, executable: false });
    let refused = store.commit_root(&root, true);
    assert!(matches!(refused, Err(StoreError::Missing(Item::Blob(digest))) if digest == blob.digest));
    // It comes whole from somewhere else meanwhile; a span that comes late changes nothing.
    add(store, &bytes);
    store.keep_span(&span_of(&bytes, groups(2, 3))).unwrap();
    assert_eq!(read(store, &blob, Span::whole(blob.size)).unwrap(), bytes);
}

fn another_length_is_not_here(store: &dyn Store) {
    for size in [100, 100_000] {
        let blob = add(store, &contents(size, 0));
        for claimed in [size - 1, size + 1, 0, u64::from(u32::MAX)] {
            let other = BlobRef { size: claimed, ..blob };
            assert_eq!(read(store, &other, groups(0, 1)), None, "{claimed} bytes instead of {size}");
        }
        assert_eq!(read(store, &BlobRef { size: u64::MAX, ..blob }, Span::whole(u64::MAX)), None);
        // To ask for it does no harm.
        assert_eq!(store.has_blob(&blob.digest).unwrap(), Some(size));
    }
}

fn a_span_past_the_end_is_an_error(store: &dyn Store) {
    for size in [0, 100, 100_000] {
        let blob = add(store, &contents(size, 0));
        let end = Span::whole(size).groups().end;
        let past = store.read_span(&blob, groups(end - 1, end + 1));
        assert!(matches!(past, Err(StoreError::Span { blob: named, .. }) if named == blob));
    }
}

fn keeping_again_changes_nothing(store: &dyn Store) {
    let root = keep_sample(store, 0);
    store.commit_root(&root, false).unwrap();
    keep_sample(store, 0);
    for bytes in sample(0).2 {
        let whole = span_of(&bytes, Span::whole(bytes.len() as u64));
        store.keep_span(&whole).unwrap();
        assert_eq!(read(store, &whole.blob(), whole.span()).unwrap(), bytes);
    }
    assert!(missing_blobs(store, &closure(store, &root).unwrap().unwrap()).unwrap().is_empty());
}

/// Fails after some bytes.
struct Failing(u64);

impl io::Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let given = self.0.min(buffer.len() as u64);
        self.0 -= given;
        if given == 0 { Err(io::Error::other("the reader fails")) } else { Ok(given as usize) }
    }
}

fn a_failing_reader_leaves_nothing(store: &dyn Store) {
    for after in [0, 100, 100_000] {
        assert!(matches!(store.add_blob(&mut Failing(after)), Err(StoreError::Reader(_))));
        let given = vec![0; after as usize];
        assert_eq!(store.has_blob(&BlobDigest::of(&given)).unwrap(), None);
    }
}

fn directories_come_back(store: &dyn Store) {
    let (root, directories, _) = sample(0);
    // Children may come before their parents, and the other way round.
    for directory in directories.iter().rev() {
        store.keep_directories(std::slice::from_ref(directory)).unwrap();
        assert_eq!(store.directory(&directory.digest()).unwrap().as_ref(), Some(directory));
    }
    store.keep_directories(&[]).unwrap();
    let closure = closure(store, &root).unwrap().unwrap();
    assert_eq!(closure.directories().cloned().collect::<Vec<_>>(), directories);
    let missing: Vec<_> = sample(0).2.iter().map(|bytes| BlobRef::of(bytes)).collect();
    let found: BTreeSet<_> = missing_blobs(store, &closure).unwrap().into_iter().collect();
    assert_eq!(found, missing.into_iter().collect());
}

fn a_commit_needs_every_directory(store: &dyn Store) {
    let (root, directories, blobs) = sample(0);
    for bytes in &blobs {
        add(store, bytes);
    }
    for directory in &directories {
        let path = stored_path("a", &root, true);
        for refused in [store.commit_root(&root, true), store.commit(path)] {
            let named =
                matches!(refused, Err(StoreError::Missing(Item::Directory(d))) if d == directory.digest());
            assert!(named);
        }
        store.keep_directories(std::slice::from_ref(directory)).unwrap();
    }
    assert_eq!((store.paths().unwrap(), store.roots().unwrap()), (vec![], vec![]));
    store.commit_root(&root, true).unwrap();
}

fn a_commit_needs_every_blob(store: &dyn Store) {
    let (root, directories, blobs) = sample(0);
    store.keep_directories(&directories).unwrap();
    let mut missing: BTreeMap<_, _> = blobs.iter().map(|bytes| (BlobRef::of(bytes).digest, bytes)).collect();
    while !missing.is_empty() {
        for refused in [store.commit_root(&root, true), store.commit(stored_path("a", &root, true))] {
            let Err(StoreError::Missing(Item::Blob(digest))) = refused else { panic!("{refused:?}") };
            assert!(missing.contains_key(&digest), "{digest} is here");
        }
        missing.pop_first().map(|(_, bytes)| add(store, bytes)).unwrap();
    }
    store.commit(stored_path("a", &root, true)).unwrap();
    assert_eq!(store.paths().unwrap(), [stored_path("a", &root, true)]);
}

fn a_commit_needs_true_lengths(store: &dyn Store) {
    for size in [100, 100_000] {
        let blob = add(store, &contents(size, 0));
        let lie = BlobRef { size: size + 1, ..blob };
        let root = Root::from(Node::File { blob: lie, executable: false });
        let refused = store.commit_root(&root, false);
        assert!(matches!(refused, Err(StoreError::Missing(Item::Blob(digest))) if digest == blob.digest));
    }
    let (_, directories, _) = sample(0);
    let lie = Node::Directory { digest: directories[1].digest(), size: 77 };
    store.keep_directories(&directories).unwrap();
    let refused = store.commit_root(&lie.into(), false);
    assert!(matches!(refused, Err(StoreError::Tree { .. })));
}

fn records_come_back_and_are_replaced(store: &dyn Store) {
    let tree = keep_sample(store, 0);
    let file = Root::from(Node::File { blob: add(store, b"file"), executable: true });
    let link = Root::from(Node::Symlink { target: "nowhere".try_into().unwrap() });
    for (i, root) in [&tree, &file, &link].into_iter().enumerate() {
        let path = stored_path(&format!("path-{i}"), root, i == 0);
        store.commit(path.clone()).unwrap();
        assert_eq!(store.path(&path.path_hash()).unwrap(), Some(path));
        store.commit_root(root, i == 1).unwrap();
    }
    let hashes: Vec<_> = store.paths().unwrap().iter().map(StoredPath::path_hash).collect();
    assert!(hashes.len() == 3 && hashes.is_sorted());
    let roots: BTreeMap<_, _> = store.roots().unwrap().into_iter().collect();
    assert_eq!(roots, [(tree.clone(), false), (file.clone(), true), (link, false)].into());

    let other = stored_path("path-0", &file, false);
    store.commit(other.clone()).unwrap();
    store.commit_root(&tree, true).unwrap();
    assert_eq!(store.paths().unwrap().len(), 3);
    assert_eq!(store.path(&other.path_hash()).unwrap(), Some(other));
    assert!(store.roots().unwrap().contains(&(tree, true)));
}

fn many_threads_agree(store: &dyn Store) {
    const TREES: u64 = 6;
    let thread = |first: u64| {
        // All threads keep all trees, each beginning with another, and read what may be there already.
        for seed in (0..TREES).map(|i| (i + first) % TREES) {
            let (root, directories, blobs) = sample(seed);
            store.keep_directories(&directories).unwrap();
            for bytes in &blobs {
                for span in Span::whole(bytes.len() as u64).pieces(3) {
                    store.keep_span(&span_of(bytes, span)).unwrap();
                }
            }
            store.commit(stored_path(&format!("tree-{seed}"), &root, true)).unwrap();
            for path in store.paths().unwrap() {
                let closure = closure(store, path.root()).unwrap().unwrap();
                for blob in closure.blobs() {
                    assert!(read(store, &blob, Span::whole(blob.size)).is_some());
                }
            }
        }
    };
    thread::scope(|scope| {
        for first in 0..4 {
            scope.spawn(move || thread(first));
        }
    });
    assert_eq!(store.paths().unwrap().len() as u64, TREES);
}
