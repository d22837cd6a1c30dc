//! What is copied in, and what walks have come to.

use std::thread;

use bytes::Bytes;
use firn_bao::{GROUP_BYTES, HashedPiece, PIECE_BYTES};
use firn_castore::{BlobRef, Root};
use firn_nix::NarHash;

use super::{
    Case, add, contents, copy_in, file, groups, is_absent, keep_sample, pieces, read_whole, span_of,
    stored_path,
};
use crate::{KnownTree, Listing, Store, StoreError};

pub(super) const CASES: &[Case] = &[
    pieces_come_in_any_order,
    pieces_come_from_many_threads,
    a_missing_piece_is_named,
    a_dropped_blob_leaves_nothing,
    a_piece_that_does_not_fit_is_refused,
    a_blob_comes_twice_at_a_time,
    a_copied_blob_takes_the_place_of_a_partial_one,
    known_trees_come_back,
];

const SIZES: [u64; 5] = [
    PIECE_BYTES + 1,
    2 * PIECE_BYTES - 1,
    2 * PIECE_BYTES,
    3 * PIECE_BYTES + 7,
    5 * PIECE_BYTES + GROUP_BYTES,
];

fn pieces_come_in_any_order(store: &dyn Store) {
    for size in SIZES {
        let bytes = contents(size, size);
        let pieces = pieces(&bytes);
        let incoming = store.begin_blob(size).unwrap();
        for piece in pieces.iter().skip(1).step_by(2).chain(pieces.iter().rev().step_by(2)).chain(&pieces) {
            incoming.write(piece).unwrap();
        }
        let blob = incoming.finish().unwrap();
        assert_eq!(blob, BlobRef::of(&bytes));
        assert_eq!(store.has_blob(&blob.digest).unwrap(), Some(size));
        assert_eq!(read_whole(store, &blob).unwrap(), bytes);
        assert_eq!(store.groups(&blob).unwrap(), [firn_bao::Span::whole(size)]);
        store.commit_root(&file(blob).into(), false, None).unwrap();
    }
}

fn pieces_come_from_many_threads(store: &dyn Store) {
    let bytes = contents(7 * PIECE_BYTES + 3, 0);
    let pieces = pieces(&bytes);
    let incoming = store.begin_blob(bytes.len() as u64).unwrap();
    thread::scope(|scope| {
        for first in 0..4 {
            let (incoming, pieces) = (&incoming, &pieces);
            scope.spawn(move || {
                pieces.iter().skip(first).step_by(4).for_each(|piece| incoming.write(piece).unwrap());
            });
        }
    });
    let blob = incoming.finish().unwrap();
    assert_eq!(read_whole(store, &blob).unwrap(), bytes);
}

fn a_missing_piece_is_named(store: &dyn Store) {
    for size in SIZES {
        let bytes = contents(size, size);
        let pieces = pieces(&bytes);
        for left_out in [1, pieces.len()] {
            let before = store.usage().unwrap();
            let incoming = store.begin_blob(size).unwrap();
            pieces.iter().skip(left_out).for_each(|piece| incoming.write(piece).unwrap());
            let error = incoming.finish().unwrap_err();
            let StoreError::Incomplete { size: named, missing_pieces } = error else { panic!("{error}") };
            assert_eq!((named, missing_pieces), (size, left_out as u64));
            assert!(is_absent(store, &BlobRef::of(&bytes)));
            assert_eq!(store.usage().unwrap(), before);
        }
    }
}

fn a_dropped_blob_leaves_nothing(store: &dyn Store) {
    let bytes = contents(3 * PIECE_BYTES, 0);
    let before = store.usage().unwrap();
    let incoming = store.begin_blob(bytes.len() as u64).unwrap();
    pieces(&bytes).iter().for_each(|piece| incoming.write(piece).unwrap());
    drop(incoming);
    assert!(is_absent(store, &BlobRef::of(&bytes)));
    assert_eq!(store.usage().unwrap(), before);
}

fn a_piece_that_does_not_fit_is_refused(store: &dyn Store) {
    let bytes = contents(2 * PIECE_BYTES + 5, 0);
    let pieces = pieces(&bytes);
    let incoming = store.begin_blob(bytes.len() as u64).unwrap();
    let wrong = [
        HashedPiece::of(3, Bytes::from_static(b"wrong")),
        HashedPiece::of(u64::MAX, Bytes::from_static(b"wrong")),
        HashedPiece::of(2, Bytes::from_static(b"four")),
        HashedPiece::of(2, contents(PIECE_BYTES, 1)),
        HashedPiece::of(0, Bytes::new()),
    ];
    for piece in wrong {
        assert!(matches!(incoming.write(&piece), Err(StoreError::Piece(_))));
    }
    pieces.iter().for_each(|piece| incoming.write(piece).unwrap());
    let other = HashedPiece::of(2, Bytes::from_static(b"other"));
    assert!(matches!(incoming.write(&other), Err(StoreError::Piece(_))));
    let blob = incoming.finish().unwrap();
    assert_eq!(read_whole(store, &blob).unwrap(), bytes);
}

fn a_blob_comes_twice_at_a_time(store: &dyn Store) {
    let bytes = contents(2 * PIECE_BYTES, 0);
    let both = [(); 2].map(|()| store.begin_blob(bytes.len() as u64).unwrap());
    for incoming in &both {
        pieces(&bytes).iter().for_each(|piece| incoming.write(piece).unwrap());
    }
    for incoming in both {
        assert_eq!(incoming.finish().unwrap(), BlobRef::of(&bytes));
    }
    assert_eq!(read_whole(store, &BlobRef::of(&bytes)).unwrap(), bytes);
    assert_eq!(store.usage().unwrap().blobs, 1);
}

fn a_copied_blob_takes_the_place_of_a_partial_one(store: &dyn Store) {
    let bytes = contents(2 * PIECE_BYTES, 0);
    store.keep_spans(&[span_of(&bytes, groups(3, 9))]).unwrap();
    let blob = copy_in(store, &bytes);
    let usage = store.usage().unwrap();
    assert_eq!((usage.blobs, usage.partials), (1, 0));
    assert_eq!(read_whole(store, &blob).unwrap(), bytes);
}

fn known_trees_come_back(store: &dyn Store) {
    let root = keep_sample(store, 0);
    let known =
        |root: &Root, nar_size| KnownTree { root: root.clone(), nar_hash: NarHash::of(b"nar"), nar_size };
    let listings = [1, 2, 3].map(|byte| Listing([byte; 32]));
    let other = Root::from(file(add(store, b"other")));
    store.note_tree(&listings[0], &known(&root, 1)).unwrap();
    store.note_tree(&listings[1], &known(&root, 2)).unwrap();
    store.note_tree(&listings[1], &known(&other, 3)).unwrap();
    for _ in 0..2 {
        assert_eq!(store.known_tree(&listings[0]).unwrap(), Some(known(&root, 1)));
        assert_eq!(store.known_tree(&listings[1]).unwrap(), Some(known(&other, 3)));
        assert_eq!(store.known_tree(&listings[2]).unwrap(), None);
        store.commit(stored_path("a", &root, true), None).unwrap();
    }
}
