//! Trees that are added again.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use firn_bao::PIECE_BYTES;

use super::{options, watched::Watched};
use crate::{
    AddOptions, AddedTree, Intake, KnownTree, MemoryStore, UnixSeconds,
    add::{Entries, walk},
    add_tree,
    conformance::contents,
    missing_blobs,
};

/// The time at which the youngest of these is of this age.
fn at_age(paths: &[&Path], age_seconds: u64) -> UnixSeconds {
    let youngest = paths.iter().map(|path| fs::symlink_metadata(path).unwrap().ctime()).max();
    UnixSeconds(youngest.unwrap() as u64 + age_seconds)
}

#[test]
fn a_known_tree_is_not_read_again() {
    for in_place in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = (dir.path().join("tree"), dir.path().join("tree/file"));
        fs::create_dir(&path).unwrap();
        fs::write(&file, "x").unwrap();
        fs::write(path.join("large"), contents(PIECE_BYTES + 1, 0)).unwrap();
        symlink("file", path.join("link")).unwrap();
        let store = Watched::default();
        let now = at_age(&[&path, &file, &path.join("large"), &path.join("link")], 3);
        let options = AddOptions { now, ..options(2, in_place) };
        let first = add_tree(&store, &path, &options).unwrap();
        assert!(store.keeps.take() > 0);
        let second = add_tree(&store, &path, &options).unwrap();
        assert_eq!((second.was_known, store.keeps.take()), (true, 0));
        assert_eq!(AddedTree { was_known: false, nar: first.nar.clone(), ..second }, first);

        let rehashed = add_tree(&store, &path, &AddOptions { rehash: true, ..options }).unwrap();
        assert_eq!(rehashed, first);
        assert!(store.keeps.take() > 0);

        fs::File::open(&file).unwrap().set_modified(UNIX_EPOCH).unwrap();
        assert!(!add_tree(&store, &path, &options).unwrap().was_known, "the time of a file has changed");
    }
}

#[test]
fn a_listing_tells_trees_apart() {
    let dir = tempfile::tempdir().unwrap();
    let listing = || {
        let path = dir.path().join("tree");
        Entries::new(walk::walk(&path, 1).unwrap(), false).listing
    };
    let at = |name: &str| dir.path().join("tree").join(name);
    fs::create_dir(at("")).unwrap();
    fs::create_dir(at("a")).unwrap();
    fs::write(at("f"), "x").unwrap();
    let mut listings = vec![listing()];
    fs::rename(at("f"), at("g")).unwrap();
    listings.push(listing());
    fs::rename(at("g"), at("a/g")).unwrap();
    listings.push(listing());
    fs::set_permissions(at("a/g"), fs::Permissions::from_mode(0o755)).unwrap();
    listings.push(listing());
    // An entry of the same name and contents, but another inode.
    fs::copy(at("a/g"), at("copy")).unwrap();
    fs::rename(at("copy"), at("a/g")).unwrap();
    listings.push(listing());
    assert_eq!(listing(), *listings.last().unwrap());
    let count = listings.len();
    listings.sort();
    listings.dedup();
    assert_eq!(listings.len(), count);
}

#[test]
fn what_is_young_or_from_the_future_is_not_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "x").unwrap();
    let store = MemoryStore::new();
    let add = |now| add_tree(&store, &path, &AddOptions { now, ..options(1, false) }).unwrap().was_known;
    for now in [UnixSeconds(0), at_age(&[&path], 0), at_age(&[&path], 1), at_age(&[&path], 2)] {
        assert!(!add(now));
    }
    assert!(!add(at_age(&[&path], 3)));
    assert!(add(UnixSeconds(0)), "what is known stays known");
    // A time from the future can be given to a file, but not to its inode.
    let far = UNIX_EPOCH + Duration::from_secs(1 << 33);
    fs::File::open(&path).unwrap().set_modified(far).unwrap();
    assert!(!add(at_age(&[&path], 3)));
    assert!(!add(at_age(&[&path], 3)));
}

#[test]
fn a_tree_of_which_something_is_missing_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "x").unwrap();
    let options = AddOptions { now: at_age(&[&path], 3), ..options(1, false) };
    let added = add_tree(&MemoryStore::new(), &path, &options).unwrap();
    let store = MemoryStore::new();
    let listing = Entries::new(walk::walk(&path, 1).unwrap(), false).listing;
    let AddedTree { closure, nar_hash, nar_size, .. } = added;
    store.note_tree(&listing, &KnownTree { root: closure.root().clone(), nar_hash, nar_size }).unwrap();
    assert!(!add_tree(&store, &path, &options).unwrap().was_known);
    assert_eq!(missing_blobs(&store, &closure).unwrap(), []);
    assert!(add_tree(&store, &path, &options).unwrap().was_known);
}
