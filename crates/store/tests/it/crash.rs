//! A process that ends at any moment.

mod killed;
mod resumed;

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use firn_bao::{PIECE_BYTES, Span};
use firn_castore::BlobRef;
use firn_store::{
    Blobs, DiskStore, Paths, Room, closure,
    conformance::{self, contents},
    missing_spans,
};

use crate::{commit, copy, copy_in, disk::large_files, findings, keep, span_of};

#[test]
fn what_was_not_committed_is_found_again_and_may_be_collected() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, crashed) = (parent.path().join("store"), parent.path().join("crashed"));
    let store = DiskStore::open(&dir).unwrap();
    let root = commit(&store, 0);
    let committed = copy_in(&store, &contents(2 * PIECE_BYTES, 0));
    let file = firn_castore::Node::File { blob: committed, executable: false };
    store.commit_root(&file.into(), true, None).unwrap();
    // Then whole blobs, a part of one, and one that is being copied in.
    let uncommitted = keep(&store, 1);
    let large = copy_in(&store, &contents(2 * PIECE_BYTES, 1));
    let partial = contents(100_000, 99);
    store.keep_spans(&[span_of(&partial, Span::from_groups(0..2).unwrap())]).unwrap();
    std::mem::forget(firn_store::Intake::begin_blob(&store, 2 * PIECE_BYTES).unwrap());
    let pack = crashed.join("packs/00000001");
    copy(&dir, &crashed);
    // As a killed process leaves it: nothing is closed.
    std::mem::forget(store);
    assert_eq!(large_files(&crashed).len(), 2);
    assert_eq!(fs::read_dir(crashed.join("temp")).unwrap().count(), 1);
    // Of the last write only a part has come to the disk, and something else to a pack.
    let pack_bytes = fs::metadata(&pack).unwrap().len();
    fs::File::options().write(true).open(&pack).unwrap().set_len(pack_bytes + 12_345).unwrap();
    fs::write(crashed.join("packs/00000002"), "a pack that nobody knows").unwrap();

    let store = DiskStore::open(&crashed).unwrap();
    assert_eq!(store.paths().unwrap(), [conformance::stored_path("sample-0", &root, true)]);
    assert!(findings(&store).is_empty());
    let found = closure(&store, &uncommitted).unwrap().unwrap();
    assert_eq!(missing_spans(&store, &found).unwrap(), []);
    assert_eq!(store.groups(&large).unwrap(), [Span::whole(large.size)]);
    assert_eq!(large_files(&crashed).len(), 2);
    assert_eq!(fs::read_dir(crashed.join("temp")).unwrap().count(), 0);
    assert_eq!(fs::metadata(&pack).unwrap().len(), pack_bytes);
    assert!(!crashed.join("packs/00000002").exists());
    // What is partly here stays.
    assert_eq!(store.groups(&BlobRef::of(&partial)).unwrap(), [Span::from_groups(0..2).unwrap()]);
    assert_eq!(store.usage().unwrap().partials, 1);
    // It is garbage as long as nothing that is visible needs it.
    store.collect(false).unwrap();
    assert_eq!(closure(&store, &uncommitted).unwrap(), None);
    assert_eq!(store.groups(&large).unwrap(), []);
    assert_eq!(large_files(&crashed).len(), 1);
    assert_eq!(store.usage().unwrap().partials, 0);
    commit(&store, 1);
    drop(store);
    assert!(findings(&DiskStore::open(&crashed).unwrap()).is_empty());
}

#[test]
fn whenever_it_ends_what_is_visible_is_whole() {
    // One thread commits tree after tree; the store is copied again and again meanwhile. A copy is taken in the order
    // of names, which no crash does, so the index is copied first: what it holds must lie beside it.
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("store");
    let store = DiskStore::open(&dir).unwrap();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for seed in 0..30 {
                copy_in(&store, &contents(PIECE_BYTES + seed, seed));
                commit(&store, seed);
            }
            ended.store(true, Ordering::Release);
        });
        let mut seen = 0;
        for moment in 0.. {
            let last = ended.load(Ordering::Acquire);
            let crashed = parent.path().join(format!("crashed-{moment}"));
            if let Some(paths) = look(&store, &dir, &crashed) {
                assert!(paths >= seen, "{paths} paths after {seen}");
                seen = paths;
            }
            if last {
                assert_eq!(seen, 30);
                break;
            }
            fs::remove_dir_all(&crashed).unwrap();
        }
    });
}

/// Copies the store while it is written to, opens the copy, and counts its paths; all of them must be whole. `None`:
/// the index was written to while it was copied, so the copy is none of any moment.
fn look(store: &DiskStore, dir: &Path, crashed: &Path) -> Option<usize> {
    fs::create_dir(crashed).unwrap();
    let before = store.paths().unwrap().len();
    fs::copy(dir.join("index.redb"), crashed.join("index.redb")).unwrap();
    let after = store.paths().unwrap().len();
    if before != after {
        return None;
    }
    copy(&dir.join("packs"), &crashed.join("packs"));
    copy(&dir.join("blobs"), &crashed.join("blobs"));
    for name in ["version", "lock"] {
        fs::copy(dir.join(name), crashed.join(name)).unwrap();
    }
    let copied = DiskStore::open(crashed).ok()?;
    let paths = copied.paths().unwrap();
    for path in &paths {
        assert!(closure(&copied, path.root()).unwrap().is_some());
    }
    assert!(findings(&copied).is_empty());
    Some(paths.len())
}
