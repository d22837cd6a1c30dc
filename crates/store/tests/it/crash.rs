//! A process that ends at any moment.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use firn_bao::Span;
use firn_castore::BlobRef;
use firn_store::{Blobs, DiskStore, Paths, closure, conformance, verify_all};

use crate::{commit, copy, disk::large_files, keep};

#[test]
fn what_was_not_committed_is_garbage_and_is_removed() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, crashed) = (parent.path().join("store"), parent.path().join("crashed"));
    let store = DiskStore::open(&dir).unwrap();
    let root = commit(&store, 0);
    keep(&store, 1);
    let partial = conformance::contents(100_000, 99);
    let blob = BlobRef::of(&partial);
    let whole = firn_bao::VerifiedSpan::whole(blob, partial).unwrap();
    let proof = {
        let other = DiskStore::open(&parent.path().join("other")).unwrap();
        other.keep_span(&whole).unwrap();
        other.read_span(&blob, Span::from_groups(0..2).unwrap()).unwrap().unwrap()
    };
    store.keep_span(&proof).unwrap();
    copy(&dir, &crashed);
    // As a killed process leaves it: nothing is closed.
    std::mem::forget(store);
    fs::write(crashed.join("blobs/README"), "not ours").unwrap();
    assert_eq!(large_files(&crashed).len(), 4);
    assert_eq!(fs::read_dir(crashed.join("temp")).unwrap().count(), 1);

    let store = DiskStore::open(&crashed).unwrap();
    assert_eq!(store.paths().unwrap(), [conformance::stored_path("sample-0", &root, true)]);
    assert_eq!(verify_all(&store, &mut |finding| panic!("{finding:?}")).blobs, 3);
    for bytes in conformance::sample(1).2.iter().take(2) {
        assert_eq!(store.has_blob(&BlobRef::of(bytes).digest).unwrap(), None);
    }
    assert_eq!(store.has_blob(&blob.digest).unwrap(), None);
    assert_eq!(large_files(&crashed).len(), 2);
    assert_eq!(fs::read_dir(crashed.join("temp")).unwrap().count(), 0);
    assert!(crashed.join("blobs/README").exists(), "what is not ours stays");
    commit(&store, 1);
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
        }
    });
}

/// Copies the store while it is written to, opens the copy, and counts its paths; all of them must be whole. `None`:
/// the index was written to while it was copied, so the copy is none of any moment.
fn look(store: &DiskStore, dir: &std::path::Path, crashed: &std::path::Path) -> Option<usize> {
    fs::create_dir(crashed).unwrap();
    let before = store.paths().unwrap().len();
    fs::copy(dir.join("index.redb"), crashed.join("index.redb")).unwrap();
    let after = store.paths().unwrap().len();
    if before != after {
        return None;
    }
    copy(&dir.join("blobs"), &crashed.join("blobs"));
    for name in ["version", "lock"] {
        fs::copy(dir.join(name), crashed.join(name)).unwrap();
    }
    let copied = DiskStore::open(crashed).ok()?;
    let paths = copied.paths().unwrap();
    for path in &paths {
        assert!(closure(&copied, path.root()).unwrap().is_some());
    }
    assert_eq!(verify_all(&copied, &mut |finding| panic!("{finding:?}")).findings, 0);
    Some(paths.len())
}
