//! Blobs that stay where they are.

use std::{fs, path::Path};

use bytes::Bytes;
use firn_bao::{GROUP_BYTES, HashedBlob, PIECE_BYTES, Span};
use firn_castore::{BlobRef, Root};

use super::{
    FileCase, add, adopt, assert_sound, contents, copy_in, file, groups, is_absent, lacks, read, read_whole,
};
use crate::{Store, Visible};

pub(super) const CASES: &[FileCase] = &[
    adopted_blobs_come_back,
    an_adopted_file_that_is_not_what_it_was_is_lost,
    a_file_that_is_cut_off_while_it_is_read_is_lost,
    what_was_lost_is_adopted_anew,
    a_blob_that_is_here_does_not_need_its_file,
    what_is_copied_in_does_not_need_its_file_any_more,
    a_place_that_is_gone_is_given_up_for_another,
    an_empty_blob_needs_no_file,
    what_is_collected_leaves_its_file,
];

const SIZES: [u64; 6] = [1, 100, GROUP_BYTES + 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 7];

fn adopted_blobs_come_back(store: &dyn Store, files: &Path) {
    for (i, size) in SIZES.into_iter().enumerate() {
        let bytes = contents(size, size);
        let path = files.join(size.to_string());
        let blob = adopt(store, &path, &bytes);
        assert_eq!(store.has_blob(&blob.digest).unwrap(), Some(size));
        assert_eq!(store.groups(&blob).unwrap(), [Span::whole(size)]);
        assert_eq!(read_whole(store, &blob).unwrap(), bytes);
        let last = Span::last(size);
        let range = last.bytes(size);
        assert_eq!(read(store, &blob, last).unwrap(), bytes.slice(range.start as usize..));
        store.commit_root(&file(blob).into(), true, None).unwrap();
        let usage = store.usage().unwrap();
        assert_eq!((usage.blobs, usage.adopted_blobs), (i as u64 + 1, i as u64 + 1));
        assert_eq!(usage.blob_bytes, usage.adopted_bytes);
        assert_eq!(fs::read(path).unwrap(), bytes);
    }
    assert_eq!(store.usage().unwrap().adopted_bytes, SIZES.iter().sum::<u64>());
    assert!(store.take_lost().is_empty());
    assert_sound(store);
}

/// What may happen to a file that is not ours.
const FATES: [fn(&Path, &Bytes); 7] = [
    |path, bytes| fs::write(path, &bytes[..bytes.len() / 2]).unwrap(),
    |path, _| fs::write(path, b"").unwrap(),
    |path, bytes| fs::write(path, bytes.iter().map(|byte| byte ^ 1).collect::<Vec<_>>()).unwrap(),
    |path, _| fs::write(path, contents(2 * PIECE_BYTES, 99)).unwrap(),
    |path, _| fs::remove_file(path).unwrap(),
    |path, _| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    },
    |path, _| {
        fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink("/nowhere", path).unwrap();
    },
];

fn an_adopted_file_that_is_not_what_it_was_is_lost(store: &dyn Store, files: &Path) {
    for (i, fate) in FATES.into_iter().enumerate() {
        for size in SIZES {
            let bytes = contents(size, size + i as u64);
            let path = files.join(format!("{i}-{size}"));
            let blob = adopt(store, &path, &bytes);
            fate(&path, &bytes);
            assert_eq!(read_whole(store, &blob), None, "fate {i} of {size} bytes");
            assert!(is_absent(store, &blob));
            assert!(lacks(store.commit_root(&file(blob).into(), true, None), &blob));
            assert_eq!(store.take_lost(), [blob.digest].into());
            assert!(store.take_lost().is_empty());
            // From elsewhere it comes again.
            add(store, &bytes);
            assert_eq!(read_whole(store, &blob).unwrap(), bytes);
            store.commit_root(&file(blob).into(), true, None).unwrap();
        }
    }
    assert!(store.take_lost().is_empty());
    assert_sound(store);
}

fn a_file_that_is_cut_off_while_it_is_read_is_lost(store: &dyn Store, files: &Path) {
    let bytes = contents(4 * PIECE_BYTES, 0);
    let path = files.join("file");
    let blob = adopt(store, &path, &bytes);
    let root = Root::from(file(blob));
    store.commit_root(&root, true, None).unwrap();
    assert!(read(store, &blob, groups(0, 64)).is_some());
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(PIECE_BYTES + 5).unwrap();
    assert_eq!(read(store, &blob, groups(64, 128)), None);
    assert!(is_absent(store, &blob));
    assert_eq!(store.take_lost(), [blob.digest].into());
    // What is visible is known still, so that it can be fetched again.
    assert_eq!(store.roots().unwrap(), [(root, true)]);
}

fn what_was_lost_is_adopted_anew(store: &dyn Store, files: &Path) {
    for size in SIZES {
        let bytes = contents(size, size);
        let [path, other] = [files.join(format!("{size}")), files.join(format!("{size}-other"))];
        let blob = adopt(store, &path, &bytes);
        fs::remove_file(&path).unwrap();
        assert_eq!(read_whole(store, &blob), None);
        for path in [&path, &other] {
            assert_eq!(adopt(store, path, &bytes), blob);
            assert_eq!(read_whole(store, &blob).unwrap(), bytes);
            fs::remove_file(path).unwrap();
            assert_eq!(read_whole(store, &blob), None);
            assert_eq!(store.take_lost(), [blob.digest].into());
        }
    }
}

fn a_blob_that_is_here_does_not_need_its_file(store: &dyn Store, files: &Path) {
    for (i, size) in [100, GROUP_BYTES + 1, 2 * PIECE_BYTES].into_iter().enumerate() {
        let bytes = contents(size, size);
        let blob = if size > PIECE_BYTES { copy_in(store, &bytes) } else { add(store, &bytes) };
        let path = files.join(i.to_string());
        adopt(store, &path, &bytes);
        fs::remove_file(path).unwrap();
        assert_eq!(read_whole(store, &blob).unwrap(), bytes);
    }
    let usage = store.usage().unwrap();
    assert_eq!((usage.adopted_blobs, usage.blobs), (0, 3));
}

fn what_is_copied_in_does_not_need_its_file_any_more(store: &dyn Store, files: &Path) {
    for size in SIZES {
        let bytes = contents(size, size);
        let path = files.join(size.to_string());
        let blob = adopt(store, &path, &bytes);
        store.commit_root(&file(blob).into(), true, None).unwrap();
        if size > PIECE_BYTES {
            copy_in(store, &bytes)
        } else {
            add(store, &bytes)
        };
        fs::remove_file(path).unwrap();
        assert_eq!(read_whole(store, &blob).unwrap(), bytes);
    }
    assert_eq!(store.usage().unwrap().adopted_blobs, 0);
    assert!(store.take_lost().is_empty());
    assert_sound(store);
}

fn a_place_that_is_gone_is_given_up_for_another(store: &dyn Store, files: &Path) {
    for size in SIZES {
        let bytes = contents(size, size);
        let [first, second] = ["first", "second"].map(|name| files.join(format!("{name}-{size}")));
        let blob = adopt(store, &first, &bytes);
        store.commit_root(&file(blob).into(), true, None).unwrap();
        // While it is there it is as good as any other.
        adopt(store, &second, &bytes);
        fs::remove_file(&second).unwrap();
        assert_eq!(read_whole(store, &blob).unwrap(), bytes);
        // Nobody has noticed yet that it is gone.
        fs::remove_file(first).unwrap();
        adopt(store, &second, &bytes);
        assert_eq!(read_whole(store, &blob).unwrap(), bytes);
    }
    assert!(store.take_lost().is_empty());
    assert_sound(store);
}

fn an_empty_blob_needs_no_file(store: &dyn Store, files: &Path) {
    let path = files.join("empty");
    let blob = adopt(store, &path, &Bytes::new());
    fs::remove_file(path).unwrap();
    assert_eq!(read_whole(store, &blob).unwrap(), Bytes::new());
    assert_eq!((store.usage().unwrap().blobs, store.usage().unwrap().adopted_blobs), (1, 0));
}

fn what_is_collected_leaves_its_file(store: &dyn Store, files: &Path) {
    let blobs: Vec<BlobRef> = SIZES
        .iter()
        .map(|size| adopt(store, &files.join(size.to_string()), &contents(*size, *size)))
        .collect();
    let root = Root::from(file(blobs[0]));
    store.commit_root(&root, false, None).unwrap();
    assert_eq!(store.collect(false).unwrap().blobs, SIZES.len() as u64 - 1);
    assert!(blobs[1..].iter().all(|blob| is_absent(store, blob)));
    assert_sound(store);
    assert!(store.remove(&Visible::Root(root)).unwrap());
    assert_eq!(store.collect(false).unwrap().blobs, 1);
    for size in SIZES {
        let path = files.join(size.to_string());
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes, contents(size, size));
        // What was collected was not lost.
        store.adopt_blob(&path, &HashedBlob::of(&bytes)).unwrap();
    }
    assert_eq!(store.usage().unwrap().adopted_blobs, SIZES.len() as u64);
    assert!(store.take_lost().is_empty());
}
