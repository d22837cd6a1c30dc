//! The index.

use std::{fs, path::Path};

use firn_bao::{PIECE_BYTES, Span};
use firn_castore::{BlobRef, Root};
use firn_store::{
    Blobs, Damage, Directories, DiskStore, Finding, Item, OpenError, Paths, Room, Store, StoreError,
    UnixSeconds,
    conformance::{self, contents},
    verify_all,
};
use proptest::prelude::*;
use redb::{AccessGuard, Database, ReadableTable, TableDefinition};

use super::{file, findings};
use crate::{commit, copy, copy_in};

type Bytes = &'static [u8];
const BLOBS: TableDefinition<&[u8; 32], &[u8; 15]> = TableDefinition::new("blobs");
const DIRECTORIES: TableDefinition<&[u8; 32], &[u8; 12]> = TableDefinition::new("directories");
const PATHS: TableDefinition<Bytes, Bytes> = TableDefinition::new("paths");
const ROOTS: TableDefinition<Bytes, Bytes> = TableDefinition::new("roots");

/// A closed store with one sample, beneath a path and, without one, as a root; and another one.
fn sample_store(dir: &Path) -> Root {
    let store = DiskStore::open(dir).unwrap();
    let root = commit(&store, 0);
    store.commit_root(&root, false, None).unwrap();
    commit(&store, 1);
    root
}

fn open(dir: &Path) -> Database {
    Database::open(dir.join("index.redb")).unwrap()
}

/// Flips a bit of the last byte of each record of a table whose key is wanted.
fn flip_records(dir: &Path, table: TableDefinition<Bytes, Bytes>, is_wanted: impl Fn(&[u8]) -> bool) {
    let database = open(dir);
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(table).unwrap();
        let record = |(key, value): (AccessGuard<'_, Bytes>, AccessGuard<'_, Bytes>)| {
            (key.value().to_vec(), value.value().to_vec())
        };
        let records: Vec<_> = table.iter().unwrap().map(|found| record(found.unwrap())).collect();
        for (key, mut value) in records.into_iter().filter(|(key, _)| is_wanted(key)) {
            *value.last_mut().unwrap() ^= 1;
            table.insert(&key[..], &value[..]).unwrap();
        }
    }
    transaction.commit().unwrap();
}

#[test]
fn a_flipped_bit_of_a_record_is_found() {
    let dir = crate::scratch();
    let root = sample_store(dir.path());
    flip_records(dir.path(), PATHS, |_| true);
    // One bit decides whether others may have a tree.
    flip_records(dir.path(), ROOTS, |_| true);
    let store = DiskStore::open(dir.path()).unwrap();
    let path = conformance::stored_path("sample-0", &root, true).path_hash();
    let error = store.path(&path).unwrap_err();
    assert!(
        matches!(&error, StoreError::Damaged { item: Item::Path(hash), damage, .. } if *hash == path && matches!(**damage, Damage::Checksum))
    );
    assert!(error.to_string().contains(dir.path().join("index.redb").to_str().unwrap()), "{error}");
    assert_eq!((store.paths().unwrap(), store.roots().unwrap()), (vec![], vec![]));
    let found = findings(&store);
    assert_eq!(found.len(), 3);
    assert!(found[..2].iter().all(|f| matches!(&f.error, StoreError::Damaged { item: Item::Path(_), .. })));
    assert!(matches!(&found[2].error, StoreError::Damaged { item: Item::Root(named), .. } if *named == root));
    // What cannot be read may be anything, so nothing is deleted for it.
    let error = store.collect(false).unwrap_err();
    assert!(matches!(&error, StoreError::NotCollected { .. }));
    assert!(error.to_string().contains("firn verify --repair"), "{error}");
    commit(&store, 0);
}

#[test]
fn one_damaged_record_hides_no_other_one() {
    let dir = crate::scratch();
    let root = sample_store(dir.path());
    let [first, second] = [0, 1]
        .map(|seed| conformance::stored_path(&format!("sample-{seed}"), &conformance::sample(seed).0, true));
    flip_records(dir.path(), PATHS, |key| key == &first.path_hash().as_bytes()[..]);
    let store = DiskStore::open(dir.path()).unwrap();
    crate::keep(&store, 7);
    assert_eq!(store.paths().unwrap(), std::slice::from_ref(&second));
    assert_eq!(store.roots().unwrap(), [(root.clone(), false)]);
    assert_eq!(firn_store::stats(&store).unwrap().paths, 1);
    assert_eq!(firn_store::plan_eviction(&store, 0, UnixSeconds(0)).unwrap().remove.len(), 2);
    for dry_run in [true, false] {
        assert!(matches!(store.collect(dry_run), Err(StoreError::NotCollected { .. })));
    }
    let found = findings(&store);
    let [Finding { item: Some(item), holders, .. }] = &found[..] else { panic!("{found:?}") };
    assert_eq!((item, &holders[..]), (&Item::Path(first.path_hash()), &[][..]));
    store.quarantine(item).unwrap();
    assert!(findings(&store).is_empty());
    assert_eq!(store.collect(false).unwrap().blobs, 2);
    assert_eq!(store.paths().unwrap(), [second]);
    commit(&store, 0);
    assert_eq!((store.paths().unwrap().len(), findings(&store).len()), (2, 0));
}

#[test]
fn a_blob_that_a_path_needs_and_that_is_gone_is_found() {
    let dir = crate::scratch();
    sample_store(dir.path());
    let blob = BlobRef::of(&conformance::sample(0).2[1]);
    {
        let database = open(dir.path());
        let transaction = database.begin_write().unwrap();
        transaction.open_table(BLOBS).unwrap().remove(blob.digest.as_bytes()).unwrap();
        transaction.commit().unwrap();
    }
    let found = findings(&DiskStore::open(dir.path()).unwrap());
    let [Finding { error: StoreError::Missing(item), holders, .. }] = &found[..] else { panic!("{found:?}") };
    assert_eq!((item, holders.len()), (&Item::Blob(blob.digest), 2));
}

/// Changes where the index says that a blob, and a Directory, of the first sample are.
fn misplace(dir: &Path, change: impl Fn(&mut [u8])) {
    let (_, directories, blobs) = conformance::sample(0);
    let (blob, directory) = (BlobRef::of(&blobs[0]).digest, directories[0].digest());
    let database = open(dir);
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(BLOBS).unwrap();
        let mut place = *table.get(blob.as_bytes()).unwrap().unwrap().value();
        change(&mut place[7..]);
        table.insert(blob.as_bytes(), &place).unwrap();
        let mut table = transaction.open_table(DIRECTORIES).unwrap();
        let mut place = *table.get(directory.as_bytes()).unwrap().unwrap().value();
        change(&mut place[..8]);
        table.insert(directory.as_bytes(), &place).unwrap();
    }
    transaction.commit().unwrap();
}

#[test]
fn a_wrong_place_is_found_and_healed() {
    // Another pack, one that can't be, another place in the same one, one behind its end.
    let changes: [fn(&mut [u8]); 5] = [
        |place| place[0] ^= 3,
        |place| place[..4].fill(0xff),
        |place| place[4] ^= 1,
        |place| place[4..].fill(0xff),
        |place| place.fill(0),
    ];
    for change in changes {
        let dir = crate::scratch();
        let root = sample_store(dir.path());
        misplace(dir.path(), change);
        let store = DiskStore::open(dir.path()).unwrap();
        let (_, directories, blobs) = conformance::sample(0);
        let blob = BlobRef::of(&blobs[0]);
        let errors = [
            store.read_span(&blob, Span::whole(blob.size)).unwrap_err(),
            store.directory(&directories[0].digest()).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, StoreError::Damaged { .. }));
            assert!(error.to_string().contains(dir.path().join("packs").to_str().unwrap()), "{error}");
        }
        assert!(matches!(store.commit_root(&root, false, None), Err(StoreError::Missing(_))));
        crate::keep(&store, 0);
        store.commit_root(&root, false, None).unwrap();
        assert!(findings(&store).is_empty());
    }
}

#[test]
fn an_index_that_is_no_database_is_named() {
    let parent = crate::scratch();
    let dir = parent.path().join("store");
    sample_store(&dir);
    let index = dir.join("index.redb");
    let whole = fs::read(&index).unwrap();
    for length in [1, 100, 5000, whole.len() / 2, whole.len() - 1] {
        fs::write(&index, &whole[..length]).unwrap();
        match DiskStore::open(&dir) {
            Err(error) => {
                assert!(matches!(&error, OpenError::Index { .. } | OpenError::Io { .. }));
                assert!(error.to_string().contains("index.redb"), "{error}");
            }
            // What is cut off may have been unused.
            Ok(store) => assert!(findings(&store).is_empty(), "cut to {length} of {}", whole.len()),
        }
    }
    // Nothing at all is no new store either: its packs would be taken for garbage.
    for text in ["", "It is a truth universally acknowledged"] {
        fs::write(&index, text).unwrap();
        let error = DiskStore::open(&dir).unwrap_err();
        assert!(error.to_string().contains(index.to_str().unwrap()), "{error}");
    }
    fs::write(&index, whole).unwrap();
    assert!(findings(&DiskStore::open(&dir).unwrap()).is_empty());
}

/// A store with two samples and a large blob; `clean`: it was closed.
fn two_samples(parent: &Path, clean: bool) -> std::path::PathBuf {
    let (dir, crashed) = (parent.join("store"), parent.join("crashed"));
    let store = DiskStore::open(&dir).unwrap();
    commit(&store, 0);
    let large = copy_in(&store, &contents(2 * PIECE_BYTES, 0));
    store.commit_root(&file(large).into(), true, None).unwrap();
    commit(&store, 1);
    if clean {
        return dir;
    }
    copy(&dir, &crashed);
    crashed
}

/// Whatever the store says, it says nothing wrong.
fn assert_no_lies(store: &dyn Store) {
    for path in store.paths().unwrap_or_default() {
        let name = path.path().name().to_owned();
        let seed = name.strip_prefix("sample-").unwrap().parse().unwrap();
        assert_eq!(path, conformance::stored_path(&name, &conformance::sample(seed).0, true));
    }
    let small = (0..2).flat_map(|seed| conformance::sample(seed).2);
    for bytes in small.chain([contents(2 * PIECE_BYTES, 0)]) {
        let blob = BlobRef::of(&bytes);
        if let Ok(Some(read)) = store.read_span(&blob, Span::whole(blob.size)) {
            assert_eq!(read.bytes(), &bytes);
        }
    }
    verify_all(store, &mut drop);
    let _ = store.usage();
    let _ = store.collect(false);
    let _ = store.commit_root(&conformance::sample(0).0, true, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_damaged_index_never_panics_and_never_lies(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..=255), 1..4), clean in any::<bool>()
    ) {
        let parent = crate::scratch();
        let dir = two_samples(parent.path(), clean);
        let index = dir.join("index.redb");
        let mut bytes = fs::read(&index).unwrap();
        // Most of the file is unused.
        let is_used = |at: &usize| bytes[at / 64 * 64..][..64].iter().any(|byte| *byte != 0);
        let used: Vec<usize> = (0..bytes.len()).filter(is_used).collect();
        for (at, flip) in flips {
            bytes[used[at.index(used.len())]] ^= flip;
        }
        fs::write(&index, bytes).unwrap();
        if let Ok(store) = DiskStore::open(&dir) {
            assert_no_lies(&store);
        }
    }

    #[test]
    fn a_damaged_pack_never_panics_and_never_lies(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..=255), 1..9), clean in any::<bool>()
    ) {
        let parent = crate::scratch();
        let dir = two_samples(parent.path(), clean);
        let pack = dir.join("packs/00000001");
        let mut bytes = fs::read(&pack).unwrap();
        let length = bytes.len();
        flips.iter().for_each(|(at, flip)| bytes[at.index(length)] ^= flip);
        fs::write(&pack, bytes).unwrap();
        // A pack tells the index nothing, so that the store opens, and what is visible is known.
        let store = DiskStore::open(&dir).unwrap();
        prop_assert_eq!((store.paths().unwrap().len(), store.roots().unwrap().len()), (2, 1));
        assert_no_lies(&store);
    }
}
