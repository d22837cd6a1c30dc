//! Whole trees through [`add_tree`].

mod faults;
mod known;
mod watched;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    ffi::OsString,
    fs,
    os::unix::{
        ffi::OsStringExt,
        fs::{PermissionsExt, symlink},
    },
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use firn_bao::PIECE_BYTES;
use firn_castore::{BlobDigest, BlobRef, ClosureBuilder, Directory, Node, PathComponent, Root};
use firn_nix::{NarFacts, NarLayout, Sha256Writer, SigningKey, write_nar};
use firn_trust::{Admitted, Claim, PathFacts, Policy, SignedNarInfo};
use proptest::prelude::*;

use super::*;
use crate::{MemoryStore, closure, conformance::contents, lock, missing_blobs};

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

fn options(jobs: usize, in_place: bool) -> AddOptions<'static> {
    AddOptions { jobs: NonZeroUsize::new(jobs).unwrap(), in_place, ..AddOptions::default() }
}

/// What a trusted key has signed of a tree.
fn signed(added: &AddedTree) -> SignedNarInfo {
    let nar = NarFacts { nar_hash: added.nar_hash, nar_size: added.nar_size, references: Default::default() };
    let path = "0c5b8vw40dy178xlpddw65q9gf1h2186-tree".parse().unwrap();
    let facts = PathFacts { path, root: added.closure.root().clone(), nar, deriver: None, ca: None };
    let key = SigningKey::generate("cache-1".parse().unwrap(), [7; 32]);
    let signatures = vec![key.sign(facts.fingerprint().as_bytes())];
    match Policy::new(vec![key.public()]).admit(Claim { facts, signatures, attestations: Vec::new() }) {
        Ok(Admitted::Signed(signed)) => signed,
        other => panic!("{other:?}"),
    }
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
    assert!(added.nar.as_ref().unwrap().prove(&signed(&added), added.closure.clone()).is_ok());
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
fn progress_is_told_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = much(dir.path());
    let told = Mutex::new(Vec::new());
    let tell = |progress| {
        lock(&told).push(progress);
        ControlFlow::Continue(())
    };
    let options = AddOptions { progress: Some(&tell), ..options(3, false) };
    add_tree(&MemoryStore::new(), &path, &options).unwrap();
    let told = lock(&told);
    assert!(told.is_sorted_by_key(|progress| progress.done_bytes));
    let total_bytes = (0..40).map(|number| 100_000 * (number % 15)).sum();
    assert_eq!(told.last(), Some(&AddProgress { done_bytes: total_bytes, total_bytes }));
}

#[test]
fn whoever_is_told_may_stop_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = much(dir.path());
    let file = dir.path().join("file");
    fs::write(&file, contents(40 * PIECE_BYTES, 0)).unwrap();
    for (path, jobs) in [(&path, 1), (&path, 3), (&file, 1), (&file, 3)] {
        for after in [0, 1, 5 * PIECE_BYTES] {
            let store = watched::Watched::default();
            let told = Mutex::new(0);
            let stop = |progress: AddProgress| {
                let mut told = lock(&told);
                assert!(*told <= after, "it is not told any more once it has stopped");
                *told = progress.done_bytes;
                if *told >= after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let error = add_tree(&store, path, &AddOptions { progress: Some(&stop), ..options(jobs, false) });
            assert!(matches!(&error, Err(AddError::Stopped(at)) if at == path), "{error:?}");
            // What other threads have begun they end.
            let bytes_max = (after + (2 * jobs as u64 + 1) * PIECE_BYTES).max(1);
            assert!(*lock(&told) <= bytes_max, "{after}");
            assert_eq!(store.keeps.take() == 0, after == 0);
        }
    }
}

#[test]
fn the_search_for_a_known_tree_may_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("inner")).unwrap();
    let now = crate::UnixSeconds(u64::MAX);
    let store = MemoryStore::new();
    add_tree(&store, dir.path(), &AddOptions { now, ..options(1, false) }).unwrap();
    // After the walk, and before each level.
    for calls_max in 0..4 {
        let calls = AtomicUsize::new(0);
        let stop = |_: AddProgress| match calls.fetch_add(1, Ordering::Relaxed) < calls_max {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        };
        let added = add_tree(&store, dir.path(), &AddOptions { progress: Some(&stop), ..options(1, false) });
        match added {
            Ok(added) => assert!(added.was_known && calls_max == 3),
            Err(error) => assert!(matches!(error, AddError::Stopped(_)) && calls_max < 3),
        }
    }
}
