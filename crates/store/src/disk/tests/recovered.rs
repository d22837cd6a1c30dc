//! What is found again on opening, and what must not be.

use super::*;

/// What a process leaves that is killed.
fn kill(store: DiskStore) {
    std::mem::forget(store);
}

#[test]
fn packs_that_the_index_never_had_are_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let (_, store) = open(&dir);
    commit(&store, add(&store, &contents(1000, 0)));
    let blobs: Vec<BlobRef> = (1..5)
        .map(|seed| {
            let blob = add(&store, &contents(40_000, seed));
            store.packs.begin_next();
            blob
        })
        .collect();
    kill(store);
    // Killed once more, before anything was committed.
    for _ in 0..2 {
        let (_, store) = open(&dir);
        assert!(blobs.iter().all(|blob| store.has_blob(&blob.digest).unwrap() == Some(blob.size)));
        kill(store);
    }
    let (disk, store) = open(&dir);
    let before = disk.syncs.load(Ordering::SeqCst);
    blobs.iter().for_each(|blob| drop(commit(&store, *blob)));
    assert_eq!(disk.syncs.load(Ordering::SeqCst), before + 1, "the names of the packs are made durable");
    // The next record goes behind the last.
    commit(&store, add(&store, &contents(1000, 5)));
    assert_eq!(names(&dir.path().join("packs")).len(), 4);
    kill(store);
    let (_, store) = open(&dir);
    assert!(store.state().waiting.is_empty());
    for blob in blobs {
        assert!(store.read_span(&blob, Span::whole(blob.size)).unwrap().is_some());
    }
}

#[test]
fn a_pack_that_a_crash_brings_back_after_it_was_removed_is_not_looked_into() {
    for needed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (_, store) = open(&dir);
        if needed {
            commit(&store, add(&store, &contents(100, 1)));
        }
        let garbage = add(&store, &contents(5000, 2));
        store.flush().unwrap();
        let pack = store.packs.path(1);
        let removed = fs::read(&pack).unwrap();
        store.collect(false).unwrap();
        assert!(!pack.exists());
        kill(store);
        fs::write(&pack, removed).unwrap();
        let (_, store) = open(&dir);
        assert_eq!(store.has_blob(&garbage.digest).unwrap(), None, "{needed}");
        assert!(!pack.exists());
        // The pack that is begun now gets a name that is durable.
        let kept = add(&store, &contents(100, 3));
        kill(store);
        let (_, store) = open(&dir);
        commit(&store, kept);
        assert!(!pack.exists());
    }
}

#[test]
fn a_file_of_a_large_blob_that_cannot_be_one_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (_, store) = open(&dir);
    let [short, whole] = [1, 2].map(|seed| copy_in(&store, &contents(PIECE_BYTES + 5, seed)).unwrap());
    let file = store.large.path(&short.digest);
    kill(store);
    fs::File::options().write(true).open(&file).unwrap().set_len(PIECE_BYTES).unwrap();
    let (_, store) = open(&dir);
    assert!(!file.exists());
    assert_eq!(store.groups(&short).unwrap(), []);
    assert_eq!(store.groups(&whole).unwrap(), [Span::whole(whole.size)]);
    assert_eq!(store.has_blob(&whole.digest).unwrap(), Some(whole.size));
    commit(&store, whole);
    assert!(names(&dir.path().join("partial")).is_empty());
}
