//! Syncs: they are shared, and nobody waits for one to read.

use std::{
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use firn_bao::{PIECE_BYTES, Span};
use firn_castore::BlobRef;
use firn_store::{
    Blobs, Paths, closure,
    conformance::{add, contents, stored_path},
};

use super::watched::{Step, Watched};
use crate::{commit, copy_in, findings, scratch};

/// How many syncs it takes to commit trees, one after the other or at once.
fn count_syncs(commits: u64, at_once: bool) -> usize {
    let dir = scratch();
    let (watched, store) = Watched::open(dir.path());
    let syncs = Arc::new(AtomicUsize::new(0));
    let count = syncs.clone();
    watched.watch(move |step| {
        if matches!(step, Step::Sync) {
            count.fetch_add(1, Ordering::Relaxed);
            // A sync takes long enough for others to come.
            (0..2000).for_each(|_| thread::yield_now());
        }
        Ok(())
    });
    let begin = Barrier::new(if at_once { commits as usize } else { 1 });
    let commit = |seed| {
        let root = crate::keep(&*store, seed);
        begin.wait();
        store.commit(stored_path(&format!("sample-{seed}"), &root, true), None).unwrap();
    };
    if at_once {
        let commit = &commit;
        thread::scope(|scope| (0..commits).for_each(|seed| drop(scope.spawn(move || commit(seed)))));
    } else {
        (0..commits).for_each(commit);
    }
    let syncs = syncs.load(Ordering::Relaxed);
    drop(store);
    let (_, store) = Watched::open(dir.path());
    assert_eq!(store.paths().unwrap().len() as u64, commits);
    assert!(findings(&*store).is_empty());
    syncs
}

#[test]
fn commits_that_come_together_share_a_sync() {
    const COMMITS: u64 = 64;
    let [alone, together] = [false, true].map(|at_once| count_syncs(COMMITS, at_once));
    eprintln!("{COMMITS} commits: {alone} syncs one after the other, {together} at once");
    assert!(alone as u64 >= COMMITS);
    assert!(together * 4 <= alone && (together as u64) < COMMITS, "{together} of {alone}");
}

#[test]
fn nobody_waits_for_a_sync_to_read() {
    let dir = scratch();
    let (watched, store) = Watched::open(dir.path());
    let root = commit(&*store, 0);
    let waiting = crate::keep(&*store, 1);
    let large = copy_in(&*store, &contents(PIECE_BYTES + 1, 7));
    let (syncing, synced) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let may_go_on = Mutex::new(may_go_on);
    let told = syncing.clone();
    watched.watch(move |step| {
        if matches!(step, Step::Sync) {
            told.send(true).unwrap();
            may_go_on.lock().unwrap().recv().unwrap();
        }
        Ok(())
    });
    let mut syncs = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            store.commit(stored_path("sample-1", &waiting, true), None).unwrap();
            syncing.send(false).unwrap();
        });
        // At each sync of the commit, all is read and something is kept before it goes on.
        while synced.recv().unwrap() {
            for root in [&root, &waiting] {
                let blobs = closure(&*store, root).unwrap().unwrap().blobs();
                let is_here =
                    |blob: &BlobRef| store.read_span(blob, Span::whole(blob.size)).unwrap().is_some();
                assert!(blobs.iter().all(is_here));
            }
            assert!(store.read_span(&large, Span::whole(large.size)).unwrap().is_some());
            assert!(!store.paths().unwrap().is_empty());
            let kept = add(&*store, &contents(100_000, 100 + syncs));
            assert_eq!(store.has_blob(&kept.digest).unwrap(), Some(kept.size));
            syncs += 1;
            go_on.send(()).unwrap();
        }
    });
    assert!(syncs >= 2, "contents and index are synced");
    watched.watch_no_more();
    assert_eq!(store.paths().unwrap().len(), 2);
}
