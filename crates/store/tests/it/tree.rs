//! From the file system into a store and back.

use std::{
    cell::Cell,
    collections::BTreeMap,
    ffi::OsString,
    fs,
    num::NonZeroUsize,
    os::unix::{
        ffi::OsStringExt,
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use firn_castore::{BlobRef, Directory, Node, PathComponent, Root};
use firn_store::{
    AddError, AddOptions, Directories, DiskStore, Item, MemoryStore, Paths, Store, StoreError, WriteError,
    add_tree, closure, conformance, missing_blobs, write_tree,
};
use proptest::prelude::*;
use rustix::fs::{Mode, OFlags};

#[derive(Debug, Clone, PartialEq)]
enum Tree {
    File(Vec<u8>, bool),
    Symlink(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Tree>),
}

fn trees() -> impl Strategy<Value = Tree> {
    let name = prop::collection::vec(prop_oneof![1u8..b'/', b'0'..=255u8], 1..12)
        .prop_filter("dots are no names", |name| name != b"." && name != b"..");
    let size = prop_oneof![Just(0usize), 1..100usize, 16_380..16_390usize, 30_000..70_000usize];
    let leaf = prop_oneof![
        4 => (size, any::<u64>(), any::<bool>())
            .prop_map(|(size, seed, x)| Tree::File(conformance::contents(size as u64, seed % 20).to_vec(), x)),
        1 => prop::collection::vec(1u8..=255, 1..30).prop_map(Tree::Symlink),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop::collection::btree_map(name.clone(), inner, 0..6).prop_map(Tree::Directory)
    })
}

fn make(tree: &Tree, at: &Path) {
    match tree {
        Tree::File(bytes, executable) => {
            fs::write(at, bytes).unwrap();
            fs::set_permissions(at, fs::Permissions::from_mode(if *executable { 0o744 } else { 0o655 }))
                .unwrap();
        }
        Tree::Symlink(target) => symlink(OsString::from_vec(target.clone()), at).unwrap(),
        Tree::Directory(entries) => {
            fs::create_dir(at).unwrap();
            for (name, tree) in entries {
                make(tree, &at.join(OsString::from_vec(name.clone())));
            }
        }
    }
}

fn read(at: &Path) -> Tree {
    let metadata = fs::symlink_metadata(at).unwrap();
    if metadata.is_symlink() {
        return Tree::Symlink(fs::read_link(at).unwrap().into_os_string().into_vec());
    }
    if metadata.is_file() {
        return Tree::File(fs::read(at).unwrap(), metadata.mode() & 0o100 != 0);
    }
    let entries = fs::read_dir(at).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_vec(), read(&entry.path()))
    });
    Tree::Directory(entries.collect())
}

/// What is in a directory.
fn names(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into()).collect()
}

fn round_trip(tree: &Tree, store: &dyn Store) -> Root {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    make(tree, &from);
    let added = add_tree(store, &from, &AddOptions::default()).unwrap().closure;
    store.commit_root(added.root(), false, None).unwrap();
    assert_eq!(closure(store, added.root()).unwrap().unwrap().root(), added.root());
    assert!(missing_blobs(store, &added).unwrap().is_empty());
    write_tree(store, &added, &to, &|| true).unwrap();
    assert_eq!(read(&to), *tree);
    assert_eq!(names(dir.path()).len(), 2, "nothing stays aside");
    added.root().clone()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn trees_come_back(tree in trees()) {
        let dir = tempfile::tempdir().unwrap();
        let disk = DiskStore::open(dir.path()).unwrap();
        prop_assert_eq!(round_trip(&tree, &disk), round_trip(&tree, &MemoryStore::new()));
    }
}

#[test]
fn the_empty_directory_is_the_one_that_everybody_knows() {
    let dir = tempfile::tempdir().unwrap();
    let added = add_tree(&MemoryStore::new(), dir.path(), &AddOptions::default()).unwrap().closure;
    let Node::Directory { digest, size: 0 } = added.root().node() else { panic!("{added:?}") };
    assert_eq!(digest.to_string(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
}

#[test]
fn a_topmost_symlink_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    symlink(dir.path(), &link).unwrap();
    let added = add_tree(&MemoryStore::new(), &link, &AddOptions::default()).unwrap().closure;
    assert!(matches!(added.root().node(), Node::Symlink { .. }));
}

#[test]
fn what_is_no_file_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let error = add_tree(&MemoryStore::new(), dir.path(), &AddOptions::default()).unwrap_err();
    assert!(matches!(&error, AddError::Kind(path) if *path == socket), "{error}");
    let error = add_tree(&MemoryStore::new(), Path::new("/dev/null"), &AddOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "/dev/null is neither a file, a directory nor a symlink");
}

#[test]
fn what_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    let error = add_tree(&MemoryStore::new(), &absent, &AddOptions::default()).unwrap_err();
    assert!(matches!(&error, AddError::Io { path, .. } if *path == absent));
}

#[test]
fn a_file_whose_length_is_not_what_it_seemed_is_named() {
    // The files of /proc say that they have no bytes, and have some.
    let error =
        add_tree(&MemoryStore::new(), Path::new("/proc/self/status"), &AddOptions::default()).unwrap_err();
    assert!(matches!(&error, AddError::Changed { before: 0, after: 1.., .. }), "{error}");
    assert!(error.to_string().starts_with("/proc/self/status has changed"));
}

#[test]
fn a_tree_is_added_however_long_its_paths_are() {
    let dir = tempfile::tempdir().unwrap();
    let name = "n".repeat(100);
    let flags = OFlags::DIRECTORY | OFlags::RDONLY;
    let mut at = rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap();
    for _ in 0..50 {
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &name, flags, Mode::empty()).unwrap();
    }
    let added = add_tree(&MemoryStore::new(), dir.path(), &AddOptions::default()).unwrap();
    assert_eq!(added.closure.directories().count(), 51);
}

#[test]
fn nothing_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let root = crate::keep(&store, 0);
    let closure = closure(&store, &root).unwrap().unwrap();
    let (file, link, full) = (dir.path().join("file"), dir.path().join("link"), dir.path().join("dir"));
    fs::write(&file, "mine").unwrap();
    symlink("nowhere", &link).unwrap();
    fs::create_dir(&full).unwrap();
    for to in [&file, &link, &full] {
        let error = write_tree(&store, &closure, to, &|| true).unwrap_err();
        assert!(matches!(&error, WriteError::Exists(path) if path == to), "{error}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    assert_eq!(names(dir.path()).len(), 3);
    let error = write_tree(&store, &closure, Path::new("/"), &|| true).unwrap_err();
    assert!(matches!(error, WriteError::NoName(_)));
    let error = write_tree(&store, &closure, &dir.path().join("absent/x"), &|| true).unwrap_err();
    assert!(matches!(error, WriteError::Io { .. }));
}

#[test]
fn of_many_that_write_to_one_place_one_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let root = crate::keep(&store, 0);
    let closure = closure(&store, &root).unwrap().unwrap();
    let to = dir.path().join("to");
    let results: Vec<_> = thread::scope(|scope| {
        let writers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| write_tree(&store, &closure, &to, &|| true))).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let others = results.iter().filter_map(|result| result.as_ref().err());
    assert!(others.into_iter().all(|error| matches!(error, WriteError::Exists(path) if *path == to)));
    assert_eq!(names(dir.path()), ["to"].map(PathBuf::from));
    assert_eq!(fs::read(to.join("large")).unwrap(), conformance::sample(0).2[0]);
}

#[test]
fn a_failure_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let (root, directories, blobs) = conformance::sample(0);
    store.keep_directories(&directories).unwrap();
    let closure = closure(&store, &root).unwrap().unwrap();
    // The last file in the order of names is missing.
    for bytes in [&blobs[0], &blobs[2]] {
        conformance::add(&store, bytes);
    }
    let error = write_tree(&store, &closure, &dir.path().join("to"), &|| true).unwrap_err();
    let digest = BlobRef::of(&blobs[1]).digest;
    assert!(matches!(error, WriteError::Store(StoreError::Missing(Item::Blob(d))) if d == digest));
    assert_eq!(names(dir.path()), [""; 0].map(PathBuf::from));
}

#[test]
fn what_is_broken_off_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let root = crate::keep(&store, 0);
    let closure = closure(&store, &root).unwrap().unwrap();
    let to = dir.path().join("to");
    let mut asked_before = 0;
    // At every moment in which it may be broken off.
    for asked_max in 0.. {
        let asked = Cell::new(0);
        let goes_on = || {
            asked.set(asked.get() + 1);
            asked.get() <= asked_max
        };
        match write_tree(&store, &closure, &to, &goes_on) {
            Ok(()) => break,
            Err(error) => assert!(matches!(error, WriteError::BrokenOff(_)), "{error}"),
        }
        assert_eq!(names(dir.path()), [""; 0].map(PathBuf::from));
        asked_before = asked.get();
    }
    assert!(asked_before > 3, "it is asked for each entry, and the last time before the end");
    assert_eq!(names(dir.path()), ["to"].map(PathBuf::from));
}

#[test]
fn a_tree_does_not_reach_out_of_its_place() {
    // A symlink that points out of the tree, and whatever names there may be, are written as what they are.
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let store = MemoryStore::new();
    let blob = conformance::add(&store, b"x");
    let name = |text: &str| PathComponent::try_from(text).unwrap();
    let inner = Directory::build([(name("f"), Node::File { blob, executable: false })]).unwrap();
    let target = outside.to_str().unwrap().try_into().unwrap();
    let link = Node::Symlink { target };
    let top = Directory::build([(name("a"), link), (name("b"), inner.node())]).unwrap();
    store.keep_directories(&[top.clone(), inner]).unwrap();
    let closure = closure(&store, &top.node().into()).unwrap().unwrap();
    let to = dir.path().join("to");
    write_tree(&store, &closure, &to, &|| true).unwrap();
    assert_eq!(names(&outside).len(), 0);
    assert_eq!(fs::read_link(to.join("a")).unwrap(), outside);
}

#[test]
fn a_name_of_full_length_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let root = crate::keep(&store, 0);
    write_tree(&store, &closure(&store, &root).unwrap().unwrap(), &dir.path().join("n".repeat(255)), &|| {
        true
    })
    .unwrap();
}

#[test]
#[allow(clippy::disallowed_methods)] // It is about time.
fn twenty_thousand_small_files_take_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    for outer in 0..100 {
        let outer_dir = from.join(outer.to_string());
        fs::create_dir_all(&outer_dir).unwrap();
        for inner in 0..200 {
            fs::write(outer_dir.join(inner.to_string()), conformance::contents(2000, outer * 1000 + inner))
                .unwrap();
        }
    }
    let store = DiskStore::open(&dir.path().join("store")).unwrap();
    let begin = Instant::now();
    let options = AddOptions { jobs: NonZeroUsize::new(2).unwrap(), ..AddOptions::default() };
    let added = add_tree(&store, &from, &options).unwrap().closure;
    store.commit_root(added.root(), false, None).unwrap();
    let seconds = begin.elapsed().as_secs_f64();
    eprintln!("added 20,000 files in {seconds:.2} s");
    // An order of magnitude more than it takes, since other tests run beside it.
    assert!(seconds < 30.0, "{seconds} s");
    assert_eq!(added.entries(), 1 + 100 + 20_000);
}
