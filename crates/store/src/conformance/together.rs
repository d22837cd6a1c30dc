//! Many threads, and a collection beside them.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use firn_bao::{PIECE_BYTES, Span};
use firn_castore::BlobRef;

use super::{
    Case, assert_sound, contents, file, keep_sample, read, read_whole, room::keep_tree, span_of, stored_path,
};
use crate::{Store, StoreError, UnixSeconds, Visible};

pub(super) const CASES: &[Case] = &[
    collecting_beside_writers_loses_nothing,
    a_commit_beside_a_collection_is_whole_or_refused,
    readers_and_fetches_go_on_beside_collections,
];

fn collecting_beside_writers_loses_nothing(store: &dyn Store) {
    const ROUNDS: u64 = 8;
    const WRITERS: u64 = 3;
    let are_done = AtomicBool::new(false);
    // Of the same few trees each writer makes paths of its own, and removes those of even rounds.
    let write = |writer: u64| {
        for round in 0..ROUNDS {
            let seed = (writer + round) % 3;
            let hold = store.hold();
            let root = if round % 4 == 0 { keep_tree(store, seed) } else { keep_sample(store, seed) };
            let path = stored_path(&format!("{writer}-{round}"), &root, true);
            let hash = path.path_hash();
            store.commit(path, None).unwrap();
            drop(hold);
            store.used(&Visible::Path(hash), UnixSeconds(round)).unwrap();
            let closure = crate::closure(store, &root).unwrap().unwrap();
            assert!(closure.blobs().iter().all(|blob| read_whole(store, blob).is_some()));
            if round % 2 == 0 {
                assert!(store.remove(&Visible::Path(hash)).unwrap());
            }
        }
    };
    thread::scope(|scope| {
        let collector = scope.spawn(|| {
            while !are_done.load(Ordering::Relaxed) {
                store.collect(false).unwrap();
            }
        });
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
        let written: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        are_done.store(true, Ordering::Relaxed);
        collector.join().unwrap();
        written.into_iter().for_each(|result| result.unwrap());
    });
    assert_eq!(store.paths().unwrap().len() as u64, WRITERS * ROUNDS / 2);
    assert_sound(store);
    store.collect(false).unwrap();
    assert_sound(store);
    assert!(store.take_lost().is_empty());
}

/// What lies about unheld may go at any moment before a commit, but not after it.
fn a_commit_beside_a_collection_is_whole_or_refused(store: &dyn Store) {
    const ROUNDS: u64 = 20;
    // Something to mark, which takes time.
    for seed in 0..10 {
        store.commit_root(&keep_sample(store, 1000 + seed), true, None).unwrap();
    }
    for seed in 0..ROUNDS {
        let root = keep_sample(store, seed);
        let start = Barrier::new(2);
        let committed = thread::scope(|scope| {
            let collector = scope.spawn(|| {
                start.wait();
                store.collect(false).unwrap();
            });
            start.wait();
            let committed = store.commit_root(&root, true, None);
            collector.join().unwrap();
            committed
        });
        assert!(matches!(committed, Ok(()) | Err(StoreError::Missing(_))), "{committed:?}");
        assert_eq!(store.roots().unwrap().iter().any(|(visible, _)| *visible == root), committed.is_ok());
        assert_sound(store);
    }
}

/// A blob that comes in spans under a hold is not taken away between them, and what is visible can always be read.
fn readers_and_fetches_go_on_beside_collections(store: &dyn Store) {
    let root = keep_tree(store, 0);
    store.commit_root(&root, true, None).unwrap();
    let are_done = AtomicBool::new(false);
    let fetch = |seed: u64| {
        let bytes = contents(2 * PIECE_BYTES + 5, 500 + seed);
        let blob = BlobRef::of(&bytes);
        let hold = store.hold();
        let mut here = 0;
        for span in Span::whole(blob.size).pieces(17) {
            store.keep_spans(&[span_of(&bytes, span)]).unwrap();
            here += span.groups().end - span.groups().start;
            let groups = store.groups(&blob).unwrap();
            assert_eq!(groups.iter().map(|run| run.groups().end - run.groups().start).sum::<u64>(), here);
            assert!(read(store, &blob, span).is_some());
        }
        store.commit_root(&file(blob).into(), true, None).unwrap();
        drop(hold);
        assert_eq!(read_whole(store, &blob).unwrap(), bytes);
    };
    let until_done = |work: &dyn Fn()| {
        while !are_done.load(Ordering::Relaxed) {
            work();
        }
    };
    thread::scope(|scope| {
        let collector = scope.spawn(|| until_done(&|| assert!(store.collect(false).is_ok())));
        let reader = scope.spawn(|| {
            until_done(&|| {
                let closure = crate::closure(store, &root).unwrap().unwrap();
                assert!(closure.blobs().iter().all(|blob| read_whole(store, blob).is_some()));
            });
        });
        let fetchers: Vec<_> = (0..3).map(|seed| scope.spawn(move || fetch(seed))).collect();
        let fetched: Vec<_> = fetchers.into_iter().map(|fetcher| fetcher.join()).collect();
        are_done.store(true, Ordering::Relaxed);
        collector.join().unwrap();
        reader.join().unwrap();
        fetched.into_iter().for_each(|result| result.unwrap());
    });
    assert_eq!(store.roots().unwrap().len(), 4);
    assert_sound(store);
}
