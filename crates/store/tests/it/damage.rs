//! A disk that does not give back what was written.

use std::{fs, path::Path};

use firn_bao::Span;
use firn_castore::{BlobRef, Node, Root};
use firn_store::{
    Blobs, Damage, Directories, DiskStore, Finding, Holder, Item, MemoryStore, OpenError, Paths, Store,
    StoreError, conformance, verify_all, verify_some,
};
use proptest::prelude::*;
use redb::{Database, TableDefinition};

use crate::{commit, copy, disk::large_files};

const SMALL: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("small-blobs");
const DIRECTORIES: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("directories");
const PATHS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("paths");
const ROOTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("roots");

/// A closed store with one sample, beneath a path and, without one, as a root; and a file that is both.
fn sample_store(dir: &Path) -> Root {
    let store = DiskStore::open(dir).unwrap();
    let root = commit(&store, 0);
    store.commit_root(&root, false).unwrap();
    commit(&store, 1);
    root
}

fn findings(store: &dyn Store) -> Vec<Finding> {
    let mut findings = Vec::new();
    let verified = verify_all(store, &mut |finding| findings.push(finding));
    assert_eq!(verified.findings, findings.len() as u64);
    findings
}

#[test]
fn what_is_not_asked_for_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("store");
    sample_store(&dir);
    let large = large_files(&dir);
    large.iter().filter(|file| file.extension().is_none()).for_each(|file| flip(file, 100));
    let store = DiskStore::open(&dir).unwrap();
    let verify = |name: &str| {
        let is_wanted = |holder: &Holder, _: &Root| holder.to_string().ends_with(name);
        let mut damaged = Vec::new();
        let verified = verify_some(&store, is_wanted, &mut |finding| damaged.extend(finding.holders));
        assert_eq!(verified.holders, 1);
        damaged.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for name in ["-sample-0", "-sample-1"] {
        let damaged = verify(name);
        assert!(damaged.len() == 1 && damaged[0].ends_with(name), "{damaged:?}");
    }
    assert!(verify_some(&store, |_, _| false, &mut |finding| panic!("{finding:?}")).holders == 0);
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The only finding there is: a damaged blob of the first sample, in this file.
fn assert_found(dir: &Path, file: &Path) {
    let blob = BlobRef::of(&conformance::sample(0).2[0]);
    let store = DiskStore::open(dir).unwrap();
    assert_eq!(store.has_blob(&blob.digest).unwrap(), Some(blob.size));
    let found = findings(&store);
    let [Finding { error: error @ StoreError::Damaged { item, file: named, .. }, holders }] = &found[..]
    else {
        panic!("{found:?}")
    };
    assert_eq!((item, named.as_path()), (&Item::Blob(blob.digest), file));
    assert!(error.to_string().starts_with(&format!("blob {} is damaged in {}", blob.digest, file.display())));
    let concerned: Vec<_> = holders.iter().map(ToString::to_string).collect();
    assert!(concerned.len() == 2 && concerned[0].ends_with("-sample-0") && concerned[1].starts_with("firn:"));

    // It counts as missing from now on, and can be kept anew.
    assert_eq!(store.has_blob(&blob.digest).unwrap(), None);
    let root = Root::from(Node::File { blob, executable: false });
    assert!(matches!(store.commit_root(&root, false), Err(StoreError::Missing(_))));
    store.add_blob(&mut &conformance::sample(0).2[0][..]).unwrap();
    store.commit_root(&root, false).unwrap();
    drop(store);
    assert!(findings(&DiskStore::open(dir).unwrap()).is_empty());
}

/// The file of the large blob of the first sample, and its outboard.
fn files(dir: &Path) -> [std::path::PathBuf; 2] {
    let digest = BlobRef::of(&conformance::sample(0).2[0]).digest.to_string();
    let files = large_files(dir).into_iter().filter(|file| file.to_str().unwrap().contains(&digest));
    files.collect::<Vec<_>>().try_into().unwrap()
}

#[test]
fn a_flipped_byte_of_a_file_is_found_and_healed() {
    let dir = tempfile::tempdir().unwrap();
    sample_store(dir.path());
    let [blob, _] = files(dir.path());
    flip(&blob, 50_000);
    assert_found(dir.path(), &blob);
}

#[test]
fn a_flipped_byte_of_an_outboard_is_found_and_healed() {
    let dir = tempfile::tempdir().unwrap();
    sample_store(dir.path());
    let [_, outboard] = files(dir.path());
    flip(&outboard, 70);
    assert_found(dir.path(), &outboard);
}

#[test]
fn a_truncated_file_is_found_and_healed() {
    for (which, length) in [(0, 99_999), (0, 0), (1, 64), (1, 0)] {
        let dir = tempfile::tempdir().unwrap();
        sample_store(dir.path());
        let file = &files(dir.path())[which];
        fs::File::options().write(true).open(file).unwrap().set_len(length).unwrap();
        assert_found(dir.path(), file);
    }
}

#[test]
fn a_file_that_is_gone_is_found_and_healed() {
    for which in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        sample_store(dir.path());
        let file = &files(dir.path())[which];
        fs::remove_file(file).unwrap();
        assert_found(dir.path(), file);
    }
}

#[test]
fn damage_to_one_group_leaves_the_others_readable() {
    let dir = tempfile::tempdir().unwrap();
    sample_store(dir.path());
    flip(&files(dir.path())[0], 0);
    let store = DiskStore::open(dir.path()).unwrap();
    let blob = BlobRef::of(&conformance::sample(0).2[0]);
    assert!(store.read_span(&blob, Span::from_groups(1..7).unwrap()).unwrap().is_some());
    assert!(store.read_span(&blob, Span::whole(blob.size)).is_err());
}

/// Changes values of a table of a closed store.
macro_rules! change {
    ($dir:expr, $table:ident: $type:ty, |$key:ident, $value:ident| $change:expr) => {{
        let database = Database::open($dir.join("index.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            use redb::ReadableTable;
            let mut table = transaction.open_table($table).unwrap();
            let all: Vec<_> = table
                .iter()
                .unwrap()
                .map(|record| {
                    let (key, value) = record.unwrap();
                    (key.value().to_owned(), value.value().to_vec())
                })
                .collect();
            for ($key, mut $value) in all {
                $change;
                let key: $type = &$key;
                table.insert(key, &$value[..]).unwrap();
            }
        }
        transaction.commit().unwrap();
    }};
}

#[test]
fn a_flipped_byte_of_a_small_blob_is_found_and_healed() {
    let dir = tempfile::tempdir().unwrap();
    sample_store(dir.path());
    let bytes = &conformance::sample(0).2[1];
    let blob = BlobRef::of(bytes);
    for cut in [false, true] {
        change!(dir.path(), SMALL: &[u8; 32], |key, value| {
            if key == *blob.digest.as_bytes() {
                if cut { value.truncate(50) } else { value[0] ^= 1 }
            }
        });
        let store = DiskStore::open(dir.path()).unwrap();
        let found = if cut {
            vec![Finding {
                error: store.read_span(&blob, Span::whole(blob.size)).unwrap_err(),
                holders: vec![],
            }]
        } else {
            findings(&store)
        };
        let [Finding { error: StoreError::Damaged { item, file, .. }, .. }] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!((item, file), (&Item::Blob(blob.digest), &dir.path().join("index.redb")));
        store.add_blob(&mut &bytes[..]).unwrap();
        assert!(findings(&store).is_empty());
        commit(&store, 0);
    }
}

#[test]
fn a_flipped_byte_of_a_directory_is_found_and_healed() {
    let dir = tempfile::tempdir().unwrap();
    sample_store(dir.path());
    let directories = conformance::sample(0).1;
    let digest = directories[1].digest();
    change!(dir.path(), DIRECTORIES: &[u8; 32], |key, value| if key == *digest.as_bytes() {
        value[3] ^= 1
    });
    let store = DiskStore::open(dir.path()).unwrap();
    let found = findings(&store);
    let [Finding { error: StoreError::Damaged { item, .. }, holders }] = &found[..] else {
        panic!("{found:?}")
    };
    // Both samples have this Directory.
    assert_eq!((item, holders.len()), (&Item::Directory(digest), 3));
    let root = directories[0].node().into();
    let refused = store.commit_root(&root, false);
    assert!(matches!(refused, Err(StoreError::Missing(Item::Directory(d))) if d == digest));
    store.keep_directories(&directories).unwrap();
    store.commit_root(&root, false).unwrap();
    assert!(findings(&store).is_empty());
}

#[test]
fn a_flipped_bit_of_a_record_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let root = sample_store(dir.path());
    change!(dir.path(), PATHS: &[u8], |_key, value| *value.last_mut().unwrap() ^= 1);
    // One bit decides whether others may have a tree.
    change!(dir.path(), ROOTS: &[u8], |_key, value| *value.last_mut().unwrap() ^= 1);
    let store = DiskStore::open(dir.path()).unwrap();
    let path = conformance::stored_path("sample-0", &root, true).path_hash();
    let error = store.path(&path).unwrap_err();
    assert!(
        matches!(&error, StoreError::Damaged { item: Item::Path(hash), damage, .. } if *hash == path && matches!(**damage, Damage::Checksum))
    );
    let found = findings(&store);
    assert!(matches!(&found[0].error, StoreError::Damaged { item: Item::Path(_), .. }));
    assert!(matches!(&found[1].error, StoreError::Damaged { item: Item::Root(named), .. } if *named == root));
}

#[test]
fn a_blob_that_a_path_needs_and_that_is_gone_is_found() {
    let dir = tempfile::tempdir().unwrap();
    sample_store(dir.path());
    let blob = BlobRef::of(&conformance::sample(0).2[1]);
    {
        let database = Database::open(dir.path().join("index.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(SMALL).unwrap().remove(blob.digest.as_bytes()).unwrap();
        transaction.commit().unwrap();
    }
    let found = findings(&DiskStore::open(dir.path()).unwrap());
    let [Finding { error: StoreError::Missing(item), holders }] = &found[..] else { panic!("{found:?}") };
    assert_eq!((item, holders.len()), (&Item::Blob(blob.digest), 2));
}

#[test]
fn damage_in_memory_is_found_and_healed() {
    let store = MemoryStore::new();
    commit(&store, 0);
    let bytes = &conformance::sample(0).2[0];
    let digest = BlobRef::of(bytes).digest;
    assert!(store.damage_blob(&digest));
    assert_eq!(findings(&store).len(), 1);
    assert_eq!(store.has_blob(&digest).unwrap(), None);
    store.add_blob(&mut &bytes[..]).unwrap();
    assert!(findings(&store).is_empty());
}

#[test]
fn an_index_that_is_no_database_is_named() {
    let parent = tempfile::tempdir().unwrap();
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
    fs::write(&index, "It is a truth universally acknowledged").unwrap();
    let error = DiskStore::open(&dir).unwrap_err();
    assert!(error.to_string().contains(index.to_str().unwrap()), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_damaged_index_never_panics_and_never_lies(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..=255), 1..4), clean in any::<bool>()
    ) {
        let parent = tempfile::tempdir().unwrap();
        let (dir, crashed) = (parent.path().join("store"), parent.path().join("crashed"));
        let store = DiskStore::open(&dir).unwrap();
        commit(&store, 0);
        commit(&store, 1);
        let dir = if clean {
            drop(store);
            dir
        } else {
            copy(&dir, &crashed);
            crashed
        };
        let index = dir.join("index.redb");
        let mut bytes = fs::read(&index).unwrap();
        // Most of the file is unused.
        let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[at / 64 * 64..][..64].iter().any(|b| *b != 0)).collect();
        for (at, flip) in flips {
            bytes[used[at.index(used.len())]] ^= flip;
        }
        fs::write(&index, bytes).unwrap();
        if let Ok(store) = DiskStore::open(&dir) {
            for path in store.paths().unwrap_or_default() {
                let name = path.path().name().to_owned();
                let seed = name.strip_prefix("sample-").unwrap().parse().unwrap();
                prop_assert_eq!(path, conformance::stored_path(&name, &conformance::sample(seed).0, true));
            }
            for seed in 0..2 {
                for bytes in conformance::sample(seed).2 {
                    let blob = BlobRef::of(&bytes);
                    if let Ok(Some(read)) = store.read_span(&blob, Span::whole(blob.size)) {
                        prop_assert_eq!(read.bytes(), &bytes);
                    }
                }
            }
            verify_all(&store, &mut drop);
            let _ = store.commit_root(&conformance::sample(0).0, true);
        }
    }
}
