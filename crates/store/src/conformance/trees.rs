//! Directories, and what makes trees visible.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    thread,
};

use firn_bao::Span;
use firn_castore::{BlobDigest, BlobRef, Closure, ClosureBuilder, Directory, DirectoryDigest, Node, Root};
use firn_nix::StorePathHash;
use firn_trust::StoredPath;

use super::{Case, add, contents, keep_sample, read, sample, span_of, stored_path};
use crate::{Item, Record, Store, StoreError, closure, missing_blobs};

pub(super) const CASES: &[Case] = &[
    an_empty_store_has_nothing,
    directories_come_back,
    a_commit_needs_every_directory,
    a_commit_needs_every_blob,
    a_tree_in_memory_is_taken_for_no_other,
    a_commit_needs_true_lengths,
    records_come_back_and_are_replaced,
    many_threads_agree,
];

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
    let known = in_memory(&root, &directories);
    for directory in &directories {
        let path = stored_path("a", &root, true);
        let knowing = store.commit_record(Record::Path(Box::new(path.clone())), Some(known.clone()), None);
        for refused in [store.commit_root(&root, true, None), store.commit(path, None), knowing] {
            let named =
                matches!(refused, Err(StoreError::Missing(Item::Directory(d))) if d == directory.digest());
            assert!(named);
        }
        store.keep_directories(std::slice::from_ref(directory)).unwrap();
    }
    assert_eq!((store.paths().unwrap(), store.roots().unwrap()), (vec![], vec![]));
    store.commit_root(&root, true, None).unwrap();
}

fn a_commit_needs_every_blob(store: &dyn Store) {
    let (root, directories, blobs) = sample(0);
    store.keep_directories(&directories).unwrap();
    let known = in_memory(&root, &directories);
    let mut missing: BTreeMap<_, _> = blobs.iter().map(|bytes| (BlobRef::of(bytes).digest, bytes)).collect();
    while !missing.is_empty() {
        let record = Record::Tree { root: root.clone(), shared: true };
        for refused in [
            store.commit_root(&root, true, None),
            store.commit(stored_path("a", &root, true), None),
            store.commit_record(record, Some(known.clone()), None),
        ] {
            let Err(StoreError::Missing(Item::Blob(digest))) = refused else { panic!("{refused:?}") };
            assert!(missing.contains_key(&digest), "{digest} is here");
        }
        missing.pop_first().map(|(_, bytes)| add(store, bytes)).unwrap();
    }
    store.commit(stored_path("a", &root, true), None).unwrap();
    assert_eq!(store.paths().unwrap(), [stored_path("a", &root, true)]);
}

fn a_tree_in_memory_is_taken_for_no_other(store: &dyn Store) {
    let root = keep_sample(store, 0);
    let (other_root, directories, _) = sample(1);
    let record = |root: &Root| Record::Tree { root: root.clone(), shared: false };
    let (here, other) = (in_memory(&root, &sample(0).1), in_memory(&other_root, &directories));
    store.commit_record(record(&root), Some(other), None).unwrap();
    assert!(store.commit_record(record(&other_root), Some(here.clone()), None).is_err());
    store.commit_record(record(&root), Some(here), None).unwrap();
    assert_eq!(store.roots().unwrap(), [(root, false)]);
}

fn in_memory(root: &Root, directories: &[Directory]) -> Arc<Closure> {
    let mut builder = ClosureBuilder::new(root.clone()).unwrap();
    directories.iter().for_each(|directory| builder.insert(directory.clone()).unwrap());
    Arc::new(builder.finish().unwrap())
}

fn a_commit_needs_true_lengths(store: &dyn Store) {
    for size in [100, 100_000] {
        let blob = add(store, &contents(size, 0));
        let lie = BlobRef { size: size + 1, ..blob };
        let root = Root::from(Node::File { blob: lie, executable: false });
        let refused = store.commit_root(&root, false, None);
        assert!(matches!(refused, Err(StoreError::Missing(Item::Blob(digest))) if digest == blob.digest));
    }
    let (_, directories, _) = sample(0);
    let lie = Node::Directory { digest: directories[1].digest(), size: 77 };
    store.keep_directories(&directories).unwrap();
    let refused = store.commit_root(&lie.into(), false, None);
    assert!(matches!(refused, Err(StoreError::Tree { .. })));
}

fn records_come_back_and_are_replaced(store: &dyn Store) {
    let tree = keep_sample(store, 0);
    let file = Root::from(Node::File { blob: add(store, b"file"), executable: true });
    let link = Root::from(Node::Symlink { target: "nowhere".try_into().unwrap() });
    for (i, root) in [&tree, &file, &link].into_iter().enumerate() {
        let path = stored_path(&format!("path-{i}"), root, i == 0);
        store.commit(path.clone(), None).unwrap();
        assert_eq!(store.path(&path.path_hash()).unwrap(), Some(path));
        store.commit_root(root, i == 1, None).unwrap();
    }
    let hashes: Vec<_> = store.paths().unwrap().iter().map(StoredPath::path_hash).collect();
    assert!(hashes.len() == 3 && hashes.is_sorted());
    let roots: BTreeMap<_, _> = store.roots().unwrap().into_iter().collect();
    assert_eq!(roots, [(tree.clone(), false), (file.clone(), true), (link, false)].into());

    let other = stored_path("path-0", &file, false);
    store.commit(other.clone(), None).unwrap();
    store.commit_root(&tree, true, None).unwrap();
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
                    store.keep_spans(&[span_of(bytes, span)]).unwrap();
                }
            }
            store.commit(stored_path(&format!("tree-{seed}"), &root, true), None).unwrap();
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
