//! Blobs of which a part is here.

use std::{
    fs,
    io::Write,
    ops::Range,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use firn_bao::{GROUP_BYTES, PIECE_BYTES, Span};
use firn_castore::BlobRef;
use firn_store::{Blobs, DiskStore, Paths, Room, conformance::contents};

use super::{file, findings, flip, truncate};
use crate::{commit, span_of};

/// How many groups the blob has.
const GROUPS: u64 = 5 * 64 + 10;
/// Which of them are here.
const KEPT: [Range<u64>; 4] = [0..64, 70..80, 128..256, 300..GROUPS];

/// A store that was closed, with a blob of which a part is here.
struct Partial {
    dir: tempfile::TempDir,
    bytes: Bytes,
    blob: BlobRef,
}

impl Partial {
    fn new() -> Self {
        let dir = crate::scratch();
        let bytes = contents((GROUPS - 1) * GROUP_BYTES + 5, 1);
        let store = DiskStore::open(dir.path()).unwrap();
        commit(&store, 0);
        for run in KEPT {
            for span in Span::from_groups(run).unwrap().pieces(10) {
                store.keep_spans(&[span_of(&bytes, span)]).unwrap();
            }
        }
        let blob = BlobRef::of(&bytes);
        Self { dir, bytes, blob }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(format!("partial/{}-{}", self.blob.digest, self.blob.size))
    }

    fn runs(&self) -> PathBuf {
        self.dir.path().join(format!("partial/{}-{}.groups", self.blob.digest, self.blob.size))
    }

    /// Opens the store anew: what it says is here can be read and is right, and all else is not given. Gives the groups.
    fn reopen(&self) -> (DiskStore, Vec<u64>) {
        let store = DiskStore::open(self.dir.path()).unwrap();
        let said: Vec<u64> = store.groups(&self.blob).unwrap().iter().flat_map(Span::groups).collect();
        for group in 0..GROUPS {
            let span = Span::from_groups(group..group + 1).unwrap();
            let read = store.read_span(&self.blob, span).unwrap();
            assert_eq!(read.is_some(), said.contains(&group), "group {group}");
            let range = span.bytes(self.blob.size);
            let expected = &self.bytes[range.start as usize..range.end as usize];
            assert!(read.is_none_or(|read| read.bytes() == expected));
        }
        assert_eq!(store.has_blob(&self.blob.digest).unwrap(), None);
        (store, said)
    }

    /// What is missing is kept, and then all of it is here.
    fn complete(&self, store: DiskStore) {
        for span in Span::whole(self.blob.size).pieces(7) {
            store.keep_spans(&[span_of(&self.bytes, span)]).unwrap();
        }
        store.commit_root(&file(self.blob).into(), true, None).unwrap();
        assert!(findings(&store).is_empty());
        assert_eq!(store.usage().unwrap().partials, 0);
        drop(store);
        let store = DiskStore::open(self.dir.path()).unwrap();
        assert!(findings(&store).is_empty());
        assert_eq!(store.roots().unwrap().len(), 1);
        assert_eq!(store.usage().unwrap().partials, 0);
    }

    /// Whatever has happened to its files, the groups outside these are still here.
    fn check(&self, lost: Range<u64>) {
        let (store, said) = self.reopen();
        let is_expected = |group: &u64| KEPT.iter().any(|run| run.contains(group)) && !lost.contains(group);
        let expected: Vec<u64> = (0..GROUPS).filter(is_expected).collect();
        assert!(expected.iter().all(|group| said.contains(group)), "expected {expected:?}, found {said:?}");
        drop(store);
        // What was found once is what is found again.
        let (store, again) = self.reopen();
        assert_eq!(again, said);
        self.complete(store);
    }
}

#[test]
fn what_was_partly_here_is_partly_here_after_reopening() {
    Partial::new().check(0..0);
}

#[test]
fn a_flipped_bit_in_a_partial_file_costs_what_is_around_it() {
    for group in [0, 75, 128, 200, GROUPS - 1] {
        let partial = Partial::new();
        flip(&partial.path(), (group * GROUP_BYTES) as usize);
        // What is verified at a time is a piece.
        partial.check(group.saturating_sub(63)..group + 64);
    }
    let partial = Partial::new();
    // One of the topmost parents is what all groups need.
    flip(&partial.path(), partial.blob.size as usize);
    partial.check(0..GROUPS);
}

#[test]
fn a_truncated_partial_file_costs_what_is_cut_off() {
    let size = Partial::new().blob.size;
    for length in [0, 1, 64 * GROUP_BYTES, 79 * GROUP_BYTES + 1, size - 1, size, size + 64 * 100] {
        let partial = Partial::new();
        truncate(&partial.path(), length);
        // The outboard comes last, so that nothing is left of much that has its bytes.
        partial.check(0..GROUPS);
    }
}

#[test]
fn either_file_of_a_partial_blob_may_be_gone() {
    let partial = Partial::new();
    fs::remove_file(partial.path()).unwrap();
    partial.check(0..GROUPS);
    let partial = Partial::new();
    fs::remove_file(partial.runs()).unwrap();
    partial.check(0..GROUPS);
}

fn append(path: &Path, bytes: &[u8]) {
    fs::File::options().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn a_run_list_is_not_believed() {
    let number = |number: u64| number.to_le_bytes();
    // Whatever is claimed, groups are believed once they were verified; what is behind still counts.
    let claims = [
        [number(0), number(GROUPS)].concat(),
        [number(0), number(GROUPS + 1)].concat(),
        [number(90), number(80)].concat(),
        [number(64), number(64)].concat(),
        [number(0), number(u64::MAX)].concat(),
        [number(u64::MAX), number(u64::MAX)].concat(),
        vec![0; 15],
        vec![0xff; 33],
        contents(16 * 1000, 5).to_vec(),
    ];
    for (i, claim) in claims.iter().enumerate() {
        let partial = Partial::new();
        append(&partial.runs(), claim);
        // A claim that touches what is here is verified with it, piece by piece, and is found out with it.
        let lost = if i == 0 { 64..GROUPS } else { 0..0 };
        partial.check(lost);
        let partial = Partial::new();
        fs::write(partial.runs(), claim).unwrap();
        partial.check(0..GROUPS);
    }
}

#[test]
fn a_truncated_run_list_costs_what_is_cut_off() {
    for length in [0, 5, 16, 31, 32] {
        let partial = Partial::new();
        truncate(&partial.runs(), length);
        partial.check(length / 16 * 10..GROUPS);
    }
}

#[test]
fn a_flipped_bit_in_a_run_list_costs_little() {
    let length = fs::metadata(Partial::new().runs()).unwrap().len();
    for at in [0, 7, 8, 15, length - 16, length - 1] {
        let partial = Partial::new();
        flip(&partial.runs(), at as usize);
        let run = if at < 16 { 0..64 } else { 256..GROUPS };
        partial.check(run);
    }
}

#[test]
fn a_partial_file_that_is_no_file_is_out_of_the_way() {
    for which in [Partial::path, Partial::runs] {
        let partial = Partial::new();
        let path = which(&partial);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let store = DiskStore::open(partial.dir.path()).unwrap();
        assert!(store.groups(&partial.blob).unwrap().is_empty());
        let span = span_of(&partial.bytes, Span::from_groups(80..90).unwrap());
        store.keep_spans(std::slice::from_ref(&span)).unwrap();
        assert_eq!(store.groups(&partial.blob).unwrap(), [span.span()]);
        assert!(path.is_file());
        // All else is as before.
        assert!(findings(&store).is_empty());
        commit(&store, 1);
    }
}

#[test]
fn damage_that_comes_while_the_store_is_open_is_not_served() {
    let partial = Partial::new();
    let store = DiskStore::open(partial.dir.path()).unwrap();
    let span = |start, end| Span::from_groups(start..end).unwrap();
    assert!(store.read_span(&partial.blob, span(70, 80)).unwrap().is_some());
    flip(&partial.path(), 75 * GROUP_BYTES as usize);
    assert!(store.read_span(&partial.blob, span(70, 80)).unwrap().is_none());
    assert!(store.read_span(&partial.blob, span(128, 138)).unwrap().is_some());
    assert!(!store.groups(&partial.blob).unwrap().iter().any(|run| run.groups().contains(&75)));
    truncate(&partial.path(), 2 * PIECE_BYTES);
    assert!(store.read_span(&partial.blob, span(128, 138)).unwrap().is_none());
    drop(store);
    partial.check(0..GROUPS);
}
