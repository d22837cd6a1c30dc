//! One thing happens in the middle of another, at a moment that is chosen.
//!
//! What another thread would do is done before a step of the disk, on the same thread, where nothing is locked.

use std::{
    fs,
    io::{self, ErrorKind},
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use firn_bao::{GROUP_BYTES, HashedBlob, Outboard, PIECE_BYTES, Span};
use firn_castore::{BlobRef, Node, Root};
use firn_store::{
    Access, Blobs, Directories, DiskStore, Intake, Paths, Room, Store, StoreError, Visible, closure,
    conformance::{self, add, contents, directory},
    missing_blobs,
};

use super::watched::{Step, Watched};
use crate::{commit, copy_in, findings, keep, scratch, span_of};

/// Makes a file visible as a tree of its own.
fn commit_file(store: &dyn Store, blob: BlobRef) -> Result<Root, StoreError> {
    let root = Root::from(Node::File { blob, executable: false });
    store.commit_root(&root, true, None).map(|()| root)
}

fn remove(store: &dyn Store, root: &Root) {
    assert!(store.remove(&Visible::Root(root.clone())).unwrap());
}

/// Everything beneath the root is here and is what it was.
fn is_whole(store: &dyn Store, root: &Root) -> bool {
    let Ok(Some(closure)) = closure(store, root) else { return false };
    let is_read = |blob: &BlobRef| matches!(store.read_span(blob, Span::whole(blob.size)), Ok(Some(_)));
    missing_blobs(store, &closure).unwrap().is_empty() && closure.blobs().iter().all(is_read)
}

fn in_packs(path: &Path) -> bool {
    path.parent().is_some_and(|dir| dir.ends_with("packs"))
}

/// Runs `act` while the store is being collected, after what is visible was listed, and before anything was chosen.
fn while_it_is_marked(watched: &Watched, store: &DiskStore, act: impl FnOnce() + Send + 'static) {
    let has_acted = Arc::new(Mutex::new(false));
    let acted = has_acted.clone();
    watched.once(
        |step| matches!(step, Step::Read(path, _) if in_packs(path)),
        move || {
            act();
            *acted.lock().unwrap() = true;
            Ok(())
        },
    );
    store.collect(false).unwrap();
    assert!(*has_acted.lock().unwrap(), "marking reads the Directories of what is visible");
}

#[test]
fn what_is_committed_while_others_collect_is_whole_or_refused() {
    let dir = scratch();
    let (watched, store) = Watched::open(dir.path());
    commit(&*store, 0);
    // It takes no hold, so that it may lose what it has kept; but then it is told so.
    let root = keep(&*store, 1);
    let (committing, committed) = (store.clone(), Arc::new(Mutex::new(None)));
    let (outcome, path) = (committed.clone(), conformance::stored_path("late", &root, true));
    while_it_is_marked(&watched, &store, move || {
        *outcome.lock().unwrap() = Some(committing.commit(path, None));
    });
    match committed.lock().unwrap().take().unwrap() {
        Ok(()) => assert!(is_whole(&*store, &root), "what is visible is not whole"),
        Err(error) => assert!(matches!(error, StoreError::Missing(_)), "{error}"),
    }
    assert!(findings(&*store).is_empty());
}

#[test]
fn what_was_held_until_it_was_committed_stays() {
    let dir = scratch();
    let (watched, store) = Watched::open(dir.path());
    commit(&*store, 0);
    let hold = store.hold();
    let root = keep(&*store, 1);
    let (committing, path) = (store.clone(), conformance::stored_path("held", &root, true));
    while_it_is_marked(&watched, &store, move || {
        committing.commit(path, None).unwrap();
        drop(hold);
        // Another one begins something meanwhile.
        drop(committing.hold());
    });
    assert!(is_whole(&*store, &root), "what is visible is not whole");
}

#[test]
fn a_file_that_comes_anew_while_it_is_read_is_not_damaged() {
    let dir = scratch();
    let (watched, store) = Watched::open(dir.path());
    let bytes = contents(PIECE_BYTES + 5, 0);
    let blob = copy_in(&*store, &bytes);
    let root = commit_file(&*store, blob).unwrap();
    let other = store.clone();
    watched.once(
        |step| matches!(step, Step::Open(path, Access::Read) if path.parent().unwrap().parent().unwrap().ends_with("blobs")),
        move || {
            remove(&*other, &root);
            assert_eq!(other.collect(false).unwrap().blobs, 1);
            // So it is not there at this moment. Before the reader looks once more, it comes from elsewhere.
            copy_in(&*other, &bytes);
            commit_file(&*other, blob).unwrap();
            Err(ErrorKind::NotFound.into())
        },
    );
    // It may be absent to this reader, or here.
    store.read_span(&blob, Span::whole(blob.size)).unwrap();
    assert_eq!(store.has_blob(&blob.digest).unwrap(), Some(blob.size));
    assert!(store.take_lost().is_empty());
    assert!(findings(&*store).is_empty());
}

#[test]
fn a_sync_that_fails_while_packs_are_copied_loses_nothing() {
    let dir = scratch();
    let (watched, store) = Watched::open(dir.path());
    // A pack of which little is needed: two blobs, the second of a length of its own.
    let [first, second] = [contents(5000, 1), contents(77_777, 2)].map(|bytes| add(&*store, &bytes));
    let garbage = commit_file(&*store, add(&*store, &contents(900_000, 3))).unwrap();
    let roots = [first, second].map(|blob| commit_file(&*store, blob).unwrap());
    remove(&*store, &garbage);

    // While the last of them is copied, a commit of another thread fails.
    let records = [first, second].map(|blob| record_bytes(blob.size));
    let (failing, other) = (watched.clone(), store.clone());
    let copied = Mutex::new(0);
    watched.once(
        move |step| {
            let Step::Read(path, length) = step else { return false };
            let mut copied = copied.lock().unwrap();
            *copied += usize::from(in_packs(path) && records.contains(&length));
            *copied == 2
        },
        move || {
            failing.watch(|step| match step {
                Step::Sync => Err(io::Error::other("the cable was pulled")),
                _ => Ok(()),
            });
            let refused = commit_file(&*other, add(&*other, b"unlucky"));
            assert!(refused.unwrap_err().to_string().ends_with("the cable was pulled"));
            failing.watch_no_more();
            Ok(())
        },
    );
    // It may fail too, but what was committed stays.
    let _ = store.collect(false);
    for root in &roots {
        assert!(is_whole(&*store, root), "{root} was committed");
    }
    drop(store);
    let (_, store) = Watched::open(dir.path());
    for root in &roots {
        assert!(is_whole(&*store, root), "{root} was committed");
    }
}

/// How long the record of a small blob is.
fn record_bytes(size: u64) -> usize {
    let varint = size.max(1).ilog2() as u64 / 7 + 1;
    (1 + varint + size + Outboard::byte_length(size)) as usize
}

#[test]
fn what_is_adopted_while_others_collect_is_found() {
    let dir = scratch();
    let files = scratch();
    let (watched, store) = Watched::open(dir.path());
    let adopt = |store: &DiskStore, name: &str, bytes: &Bytes| {
        let file = files.path().join(name);
        fs::write(&file, bytes).unwrap();
        let hashed = HashedBlob::of(bytes);
        store.adopt_blob(&file, &hashed).unwrap();
        hashed.blob()
    };
    // Most of the pack is needed, so that it is not copied; the only blob adopted from there goes, and a large file.
    commit_file(&*store, add(&*store, &contents(PIECE_BYTES, 0))).unwrap();
    let old = commit_file(&*store, adopt(&store, "old", &contents(1000, 1))).unwrap();
    let large = commit_file(&*store, copy_in(&*store, &contents(PIECE_BYTES + 1, 2))).unwrap();
    [&old, &large].into_iter().for_each(|root| remove(&*store, root));

    let (adopting, path) = (store.clone(), files.path().join("new"));
    fs::write(&path, contents(1000, 3)).unwrap();
    let hashed = HashedBlob::of(&contents(1000, 3));
    let blob = hashed.blob();
    let _hold = store.hold();
    watched.once(
        |step| matches!(step, Step::Remove(path) if path.components().any(|part| part.as_os_str() == "blobs")),
        move || {
            adopting.adopt_blob(&path, &hashed).unwrap();
            Ok(())
        },
    );
    assert_eq!(store.collect(false).unwrap().blobs, 2);
    let root = commit_file(&*store, blob).unwrap();
    assert!(is_whole(&*store, &root), "the file is there and has not changed");
    drop(store);
    let (_, store) = Watched::open(dir.path());
    assert!(is_whole(&*store, &root), "the file is there and has not changed");
}

#[test]
fn a_span_that_comes_late_leaves_no_file() {
    let dir = scratch();
    let (watched, store) = Watched::open(dir.path());
    let bytes = contents(PIECE_BYTES + 5, 0);
    let (early, late) = Span::whole(bytes.len() as u64).split(10);
    let spans = [early, late.unwrap()].map(|span| span_of(&bytes, span));
    let (other, both) = (store.clone(), spans.clone());
    watched.once(
        |step| matches!(step, Step::Open(path, Access::Write) if path.parent().unwrap().ends_with("partial")),
        move || {
            // Another thread is faster with both.
            both.iter().for_each(|span| other.keep_spans(std::slice::from_ref(span)).unwrap());
            Ok(())
        },
    );
    store.keep_spans(std::slice::from_ref(&spans[0])).unwrap();
    let blob = spans[0].blob();
    assert_eq!(store.read_span(&blob, Span::whole(blob.size)).unwrap().unwrap().bytes(), &bytes);
    commit_file(&*store, blob).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
}

#[test]
fn a_partial_blob_that_is_found_under_a_hold_stays() {
    let dir = scratch();
    let (watched, store) = Watched::open(dir.path());
    let bytes = contents(PIECE_BYTES + 5, 0);
    let (early, late) = Span::whole(bytes.len() as u64).split(10);
    let [early, late] = [early, late.unwrap()].map(|span| span_of(&bytes, span));
    store.keep_spans(std::slice::from_ref(&early)).unwrap();
    let blob = early.blob();
    let (finding, found) = (store.clone(), Arc::new(Mutex::new(Vec::new())));
    let seen = found.clone();
    let hold = store.hold();
    watched.once(
        |step| matches!(step, Step::Open(path, Access::Read) if path.parent().unwrap().ends_with("partial")),
        move || {
            *seen.lock().unwrap() = finding.groups(&blob).unwrap();
            Ok(())
        },
    );
    store.collect(false).unwrap();
    assert_eq!(early.bytes().len() as u64, 10 * GROUP_BYTES);
    if !found.lock().unwrap().is_empty() {
        // Somebody relies on it: only the rest is fetched.
        store.keep_spans(std::slice::from_ref(&late)).unwrap();
        assert_eq!(store.has_blob(&blob.digest).unwrap(), Some(blob.size));
    }
    drop(hold);
}

#[test]
fn a_directory_that_is_found_while_others_collect_stays_beneath_what_is_committed() {
    // As what is held until it was committed, but for one that was found and not kept.
    let dir = scratch();
    let (watched, store) = Watched::open(dir.path());
    commit(&*store, 0);
    let inner = directory([("a", Node::File { blob: add(&*store, b"a"), executable: false })]);
    store.keep_directories(std::slice::from_ref(&inner)).unwrap();
    let (finding, digest) = (store.clone(), inner.digest());
    let hold = store.hold();
    while_it_is_marked(&watched, &store, move || {
        let closure = closure(&*finding, &inner.node().into()).unwrap().unwrap();
        assert!(missing_blobs(&*finding, &closure).unwrap().is_empty());
    });
    let root: Root = store.directory(&digest).unwrap().unwrap().node().into();
    store.commit_root(&root, true, None).unwrap();
    drop(hold);
    assert!(is_whole(&*store, &root));
}
