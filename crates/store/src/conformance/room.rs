//! Collecting, holds, quarantine.

use firn_bao::PIECE_BYTES;
use firn_castore::{BlobRef, Directory, Root};
use firn_nix::NarHash;

use super::{
    Case, add, assert_sound, contents, copy_in, directory, file, groups, is_absent, keep_sample, lacks, read,
    read_whole, sample, span_of, stored_path,
};
use crate::{Item, KnownTree, Listing, Reason, Store, StoreError, Visible};

pub(super) const CASES: &[Case] = &[
    what_nothing_refers_to_is_collected,
    a_dry_run_changes_nothing,
    what_two_trees_share_stays_with_the_other,
    nothing_is_collected_beside_a_missing_directory,
    what_is_kept_under_a_hold_stays,
    what_is_found_under_a_hold_stays,
    a_tree_stays_under_its_hold,
    a_known_tree_stays_under_a_hold_and_else_is_forgotten,
    what_is_quarantined_is_kept_anew,
];

/// A tree with a blob of more than one piece, and what it has for itself: two blobs and a Directory.
pub(super) fn keep_tree(store: &dyn Store, seed: u64) -> Root {
    let large = file(copy_in(store, &contents(2 * PIECE_BYTES + 9, 100 + seed)));
    let small = file(add(store, &contents(20_000, 100 + seed)));
    let shared = file(add(store, &contents(PIECE_BYTES, 100)));
    let inner = directory([("shared", shared)]);
    let top = directory([("large", large), ("small", small), ("inner", inner.node())]);
    store.keep_directories(&[inner, top.clone()]).unwrap();
    top.node().into()
}

/// Something of each kind that nothing refers to.
fn keep_garbage(store: &dyn Store) -> (Vec<BlobRef>, Directory) {
    let partial = contents(3 * PIECE_BYTES, 1000);
    store.keep_spans(&[span_of(&partial, groups(70, 80))]).unwrap();
    let mut blobs = vec![BlobRef::of(&partial)];
    for size in [100, 100_000, PIECE_BYTES] {
        blobs.push(add(store, &contents(size, 1000)));
    }
    blobs.push(copy_in(store, &contents(2 * PIECE_BYTES, 1000)));
    let alone = directory([("alone", file(blobs[1]))]);
    store.keep_directories(std::slice::from_ref(&alone)).unwrap();
    (blobs, alone)
}

/// Collects what a dry run has said.
fn collect(store: &dyn Store) -> (u64, u64, u64) {
    let predicted = store.collect(true).unwrap();
    let collected = store.collect(false).unwrap();
    assert_eq!(predicted, collected);
    (collected.blobs, collected.directories, collected.partials)
}

fn what_nothing_refers_to_is_collected(store: &dyn Store) {
    assert_eq!(collect(store), (0, 0, 0));
    let root = keep_tree(store, 0);
    store.commit_root(&root, false, None).unwrap();
    let before = store.usage().unwrap();
    let (garbage, alone) = keep_garbage(store);
    assert_eq!(collect(store), (4, 1, 1));
    assert!(garbage.iter().all(|blob| is_absent(store, blob)));
    assert!(!store.has_directory(&alone.digest()).unwrap());
    assert_eq!(store.directory(&alone.digest()).unwrap(), None);
    let after = store.usage().unwrap();
    assert_eq!((after.blobs, after.blob_bytes), (before.blobs, before.blob_bytes));
    assert_eq!((after.directories, after.partials), (before.directories, before.partials));
    assert_sound(store);
    assert!(lacks(store.commit_root(&file(garbage[1]).into(), true, None), &garbage[1]));
    assert_eq!(collect(store), (0, 0, 0));
    // It comes again as if it had never been here.
    keep_garbage(store);
    assert_eq!(store.usage().unwrap().partials, 1);
    for blob in &garbage[1..] {
        assert_eq!(read_whole(store, blob).unwrap(), contents(blob.size, 1000));
    }
    assert!(store.take_lost().is_empty());
}

fn a_dry_run_changes_nothing(store: &dyn Store) {
    let root = keep_tree(store, 0);
    store.commit_root(&root, false, None).unwrap();
    let (garbage, alone) = keep_garbage(store);
    let tree = KnownTree { root: alone.node().into(), nar_hash: NarHash::of(b""), nar_size: 1 };
    store.note_tree(&Listing([0; 32]), &tree).unwrap();
    let before = store.usage().unwrap();
    let predicted = store.collect(true).unwrap();
    assert!(predicted.bytes >= 2 * PIECE_BYTES);
    assert_eq!((predicted.blobs, predicted.directories, predicted.partials), (4, 1, 1));
    assert_eq!(store.collect(true).unwrap(), predicted);
    assert_eq!(store.usage().unwrap(), before);
    assert_eq!(store.groups(&garbage[0]).unwrap(), [groups(70, 80)]);
    assert!(garbage[1..].iter().all(|blob| read_whole(store, blob).is_some()));
    assert_eq!(store.directory(&alone.digest()).unwrap(), Some(alone));
    assert_eq!(store.known_tree(&Listing([0; 32])).unwrap(), Some(tree));
    assert_eq!(store.collect(false).unwrap(), predicted);
}

fn what_two_trees_share_stays_with_the_other(store: &dyn Store) {
    let [a, b] = [keep_tree(store, 1), keep_tree(store, 2)];
    let [path_a, path_b] = [stored_path("a", &a, true), stored_path("b", &b, true)];
    for path in [&path_a, &path_b] {
        store.commit(path.clone(), Some(&Reason::added())).unwrap();
    }
    store.commit_root(&a, true, None).unwrap();
    assert!(store.remove(&Visible::Path(path_a.path_hash())).unwrap());
    // The same tree is a root, too.
    assert_eq!(collect(store), (0, 0, 0));
    assert!(store.remove(&Visible::Root(a)).unwrap());
    let before = store.usage().unwrap();
    assert_eq!(collect(store), (2, 1, 0));
    let after = store.usage().unwrap();
    assert_eq!(before.blob_bytes - after.blob_bytes, 2 * PIECE_BYTES + 9 + 20_000);
    assert!(after.disk_bytes < before.disk_bytes);
    assert_sound(store);
    assert_eq!(store.paths().unwrap(), [path_b]);
    store.commit(path_a.clone(), None).unwrap_err();
    keep_tree(store, 1);
    store.commit(path_a, None).unwrap();
    assert_sound(store);
}

fn nothing_is_collected_beside_a_missing_directory(store: &dyn Store) {
    let (root, directories, _) = sample(0);
    keep_sample(store, 0);
    store.commit_root(&root, true, None).unwrap();
    store.quarantine(&Item::Directory(directories[1].digest())).unwrap();
    let (garbage, _) = keep_garbage(store);
    for dry_run in [true, false] {
        assert!(matches!(store.collect(dry_run), Err(StoreError::NotCollected { .. })));
    }
    store.keep_directories(&directories[1..]).unwrap();
    assert_sound(store);
    store.collect(false).unwrap();
    assert!(garbage.iter().all(|blob| is_absent(store, blob)));
    assert_sound(store);
}

fn what_is_kept_under_a_hold_stays(store: &dyn Store) {
    let before = add(store, b"before");
    let hold = store.hold();
    let (garbage, alone) = keep_garbage(store);
    assert_eq!(collect(store), (1, 0, 0));
    assert!(is_absent(store, &before));
    // A hold is held as long as any copy of it.
    let copy = hold.clone();
    drop(hold);
    assert_eq!(collect(store), (0, 0, 0));
    store.commit_root(&alone.node().into(), true, None).unwrap();
    assert!(garbage[1..].iter().all(|blob| read_whole(store, blob).is_some()));
    let later = store.hold();
    drop(copy);
    // The later hold came when all that was here already, and the checks above went before it.
    assert_eq!(collect(store), (3, 0, 1));
    assert_eq!(store.directory(&alone.digest()).unwrap(), Some(alone));
    assert_sound(store);
    drop(later);
}

fn what_is_found_under_a_hold_stays(store: &dyn Store) {
    let root = keep_sample(store, 5);
    let (_, directories, blobs) = sample(5);
    let (garbage, alone) = keep_garbage(store);
    let hold = store.hold();
    assert!(store.has_directory(&alone.digest()).unwrap());
    assert_eq!(store.groups(&garbage[0]).unwrap().len(), 1);
    assert!(store.has_blob(&garbage[1].digest).unwrap().is_some());
    assert_eq!(store.groups(&garbage[2]).unwrap().len(), 1);
    assert!(read(store, &garbage[3], groups(0, 1)).is_some());
    assert!(store.has_blob(&garbage[4].digest).unwrap().is_some());
    for directory in &directories {
        assert!(store.directory(&directory.digest()).unwrap().is_some());
    }
    for bytes in &blobs[..2] {
        assert!(store.has_blob(&BlobRef::of(bytes).digest).unwrap().is_some());
    }
    // Of all this only the empty blob was not asked for.
    assert_eq!(collect(store), (1, 0, 0));
    add(store, b"");
    assert_eq!(collect(store), (0, 0, 0));
    store.commit_root(&root, true, None).unwrap();
    drop(hold);
    assert_eq!(collect(store), (4, 1, 1));
    assert_sound(store);
}

fn a_tree_stays_under_its_hold(store: &dyn Store) {
    let root = keep_sample(store, 0);
    store.commit_root(&root, true, None).unwrap();
    let hold = store.hold_tree(&root);
    assert!(store.remove(&Visible::Root(root)).unwrap());
    assert_eq!(collect(store), (0, 0, 0));
    drop(hold);
    assert_eq!(collect(store), (3, 2, 0));
}

fn a_known_tree_stays_under_a_hold_and_else_is_forgotten(store: &dyn Store) {
    let listing = Listing([3; 32]);
    let known = |root: &Root| KnownTree { root: root.clone(), nar_hash: NarHash::of(b""), nar_size: 1 };
    let root = keep_sample(store, 0);
    store.note_tree(&listing, &known(&root)).unwrap();
    let hold = store.hold();
    assert_eq!(store.known_tree(&listing).unwrap(), Some(known(&root)));
    assert_eq!(collect(store), (0, 0, 0));
    store.commit_root(&root, true, None).unwrap();
    drop(hold);
    assert_eq!(collect(store), (0, 0, 0));
    assert_eq!(store.known_tree(&listing).unwrap(), Some(known(&root)));
    assert!(store.remove(&Visible::Root(root)).unwrap());
    assert_eq!(collect(store), (3, 2, 0));
    assert_eq!(store.known_tree(&listing).unwrap(), None);
}

fn what_is_quarantined_is_kept_anew(store: &dyn Store) {
    let root = keep_tree(store, 0);
    let path = stored_path("a", &root, true);
    store.commit(path.clone(), Some(&Reason::added())).unwrap();
    let closure = crate::closure(store, &root).unwrap().unwrap();
    for blob in closure.blobs() {
        store.quarantine(&Item::Blob(blob.digest)).unwrap();
        assert!(is_absent(store, &blob));
        let refused = store.commit_root(&root, true, None);
        assert!(matches!(refused, Err(StoreError::Missing(Item::Blob(_)))));
    }
    for directory in closure.directories() {
        store.quarantine(&Item::Directory(directory.digest())).unwrap();
        assert!(!store.has_directory(&directory.digest()).unwrap());
        assert_eq!(store.directory(&directory.digest()).unwrap(), None);
    }
    assert_eq!(store.paths().unwrap(), std::slice::from_ref(&path));
    assert_eq!((store.usage().unwrap().blobs, store.usage().unwrap().directories), (0, 0));
    // What is not here can be put aside as well.
    store.quarantine(&Item::Blob(BlobRef::of(b"never here").digest)).unwrap();
    keep_tree(store, 0);
    assert_sound(store);
    store.quarantine(&Item::Path(path.path_hash())).unwrap();
    assert_eq!((store.path(&path.path_hash()).unwrap(), store.paths().unwrap()), (None, vec![]));
    store.commit_root(&root, true, None).unwrap();
    store.quarantine(&Item::Root(root.clone())).unwrap();
    assert_eq!(store.roots().unwrap(), []);
    store.commit(path.clone(), None).unwrap();
    assert_eq!(store.paths().unwrap(), [path]);
    assert_sound(store);
}
