//! An index that is made anew.

use std::{
    fs,
    path::{Path, PathBuf},
};

use firn_bao::{HashedBlob, PIECE_BYTES, Span};
use firn_castore::BlobRef;
use firn_store::{
    Blobs, Directories, DiskStore, Intake, OpenError, Paths, Pins, Reason, Room, Visible,
    conformance::{self, contents, directory},
};

use super::file;
use crate::{commit, copy_in, disk::large_files, findings};

/// How many trees a [`Filled`] store has, each of which is no part of another one.
const TREES: u64 = 3;

/// A store that is closed, with samples, a large blob in a tree of its own, an adopted one, and a pin.
struct Filled {
    dir: PathBuf,
    large: BlobRef,
    _scratch: tempfile::TempDir,
}

fn filled() -> Filled {
    let scratch = crate::scratch();
    let (dir, adopted) = (scratch.path().join("store"), scratch.path().join("adopted"));
    let store = DiskStore::open(&dir).unwrap();
    for seed in 0..2 {
        commit(&store, seed);
    }
    let large = copy_in(&store, &contents(3 * PIECE_BYTES + 1, 0));
    let tree = directory([("large", file(large))]);
    store.keep_directories(std::slice::from_ref(&tree)).unwrap();
    store.commit_root(&tree.node().into(), true, Some(&Reason::added())).unwrap();
    let bytes = contents(100_000, 9);
    fs::write(&adopted, &bytes).unwrap();
    store.adopt_blob(&adopted, &HashedBlob::of(&bytes)).unwrap();
    store.commit_root(&file(BlobRef::of(&bytes)).into(), true, None).unwrap();
    drop(store);
    Filled { dir, large, _scratch: scratch }
}

/// All contents that packs and files have are there, and nothing else is visible.
fn assert_all_is_here(store: &DiskStore, large: &BlobRef) {
    for seed in 0..2 {
        let (_, directories, blobs) = conformance::sample(seed);
        for directory in directories {
            assert_eq!(store.directory(&directory.digest()).unwrap().as_ref(), Some(&directory));
        }
        for bytes in blobs {
            let blob = BlobRef::of(&bytes);
            let read = store.read_span(&blob, Span::whole(blob.size)).unwrap();
            assert_eq!(read.unwrap().bytes(), &bytes);
        }
    }
    assert_eq!(store.has_blob(&large.digest).unwrap(), Some(large.size));
    assert_eq!((store.paths().unwrap().len(), store.pins().unwrap().len()), (0, 0));
    assert!(store.roots().unwrap().iter().all(|(_, shared)| !shared), "nobody may have it");
    assert_eq!(store.roots().unwrap().len() as u64, TREES);
}

#[test]
fn all_that_is_whole_is_there_and_the_old_index_is_put_aside() {
    let Filled { dir, large, _scratch } = filled();
    let index = dir.join("index.redb");
    let before = fs::read(&index).unwrap();
    for round in 0..3 {
        let rebuilt = DiskStore::rebuild_index(&dir).unwrap();
        assert_eq!((rebuilt.trees, rebuilt.damaged), (TREES, 0), "{rebuilt:?}");
        let aside = rebuilt.put_aside.unwrap();
        assert_eq!(aside.parent().unwrap(), dir.join("quarantine"));
        assert!(round > 0 || fs::read(aside).unwrap() == before);
        let store = DiskStore::open(&dir).unwrap();
        assert!(findings(&store).is_empty());
        store.collect(false).unwrap();
        assert_all_is_here(&store, &large);
    }
    // It is a store like any other.
    let store = DiskStore::open(&dir).unwrap();
    commit(&store, 5);
    store.remove(&Visible::Root(conformance::sample(0).0)).unwrap();
    store.collect(false).unwrap();
    drop(store);
    assert!(findings(&DiskStore::open(&dir).unwrap()).is_empty());
}

#[test]
fn a_store_that_is_in_use_or_none_is_left_alone() {
    let Filled { dir, .. } = &filled();
    let store = DiskStore::open(dir).unwrap();
    assert!(matches!(DiskStore::rebuild_index(dir), Err(OpenError::Locked { .. })));
    drop(store);
    let nothing = tempfile::tempdir().unwrap();
    assert!(DiskStore::rebuild_index(nothing.path()).is_err());
    assert!(DiskStore::rebuild_index(&nothing.path().join("nowhere")).is_err());
    assert_eq!(fs::read_dir(nothing.path()).unwrap().count(), 0);
}

#[test]
fn what_is_damaged_beside_the_index_hides_nothing_else() {
    let harms: [fn(&Path); 4] = [
        |dir| {
            // Within a blob of several groups: its record is passed over.
            let pack = dir.join("packs/00000001");
            let mut bytes = fs::read(&pack).unwrap();
            let packed = &conformance::sample(0).2;
            let longest = packed.iter().max_by_key(|bytes| bytes.len()).unwrap();
            assert!(longest.len() > 16 * 1024);
            let at = bytes.windows(longest.len()).position(|window| window == &longest[..]).unwrap();
            bytes[at] ^= 1;
            fs::write(pack, bytes).unwrap();
        },
        |dir| {
            let large = large_files(dir).remove(0);
            fs::File::options().write(true).open(large).unwrap().set_len(PIECE_BYTES).unwrap();
        },
        |dir| fs::create_dir(dir.join("packs/00000002")).unwrap(),
        |dir| fs::write(dir.join("packs/00000007"), "no pack").unwrap(),
    ];
    for (number, harm) in harms.into_iter().enumerate() {
        let Filled { dir, .. } = &filled();
        harm(dir);
        fs::remove_file(dir.join("index.redb")).unwrap();
        assert!(matches!(DiskStore::open(dir), Err(OpenError::NoIndex(_))));
        let rebuilt = DiskStore::rebuild_index(dir).unwrap();
        assert_eq!((rebuilt.damaged, &rebuilt.put_aside), (1, &None), "{number}: {rebuilt:?}");
        assert_eq!(rebuilt.trees, if number < 2 { TREES - 1 } else { TREES }, "{number}");
        let store = DiskStore::open(dir).unwrap();
        assert!(findings(&store).is_empty(), "{number}");
        commit(&store, 0);
        assert!(findings(&store).is_empty(), "{number}");
    }
}

/// Numbers of Steele and Vigna's SplitMix64.
fn numbers(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    move |below| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % below as u64) as usize
    }
}

#[test]
fn whatever_has_happened_to_the_index_a_new_one_is_made() {
    let Filled { dir, large, _scratch } = filled();
    let index = dir.join("index.redb");
    let whole = fs::read(&index).unwrap();
    let used: Vec<usize> =
        (0..whole.len()).filter(|at| whole[at / 64 * 64..][..64].iter().any(|byte| *byte != 0)).collect();
    let mut refused = 0;
    for seed in 0..60 {
        let mut below = numbers(seed);
        let mut bytes = whole.clone();
        match seed % 3 {
            0 => bytes.truncate(below(whole.len())),
            1 => (0..20).for_each(|_| bytes[used[below(used.len())]] ^= 1 + below(255) as u8),
            _ => {
                let page = used[below(used.len())] / 4096 * 4096;
                bytes[page..page + 4096].iter_mut().for_each(|byte| *byte = below(256) as u8);
            }
        }
        let case = dir.with_file_name(format!("case-{seed}"));
        crate::copy(&dir, &case);
        fs::write(case.join("index.redb"), bytes).unwrap();
        match DiskStore::open(&case) {
            Ok(store) => drop(findings(&store)),
            Err(error) => {
                assert!(error.to_string().contains("index.redb"), "{seed}: {error:?}");
                refused += 1;
                DiskStore::rebuild_index(&case).unwrap();
                let store = DiskStore::open(&case).unwrap();
                assert!(findings(&store).is_empty(), "{seed}");
                assert_all_is_here(&store, &large);
            }
        }
        fs::remove_dir_all(case).unwrap();
    }
    assert!(refused > 20, "only {refused} were damaged");
}
