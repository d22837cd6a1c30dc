//! What only a store on disk has: a directory, a lock, a version, a disk that fills up.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use bytes::Bytes;
use firn_bao::{PIECE_BYTES, PIECE_GROUPS, Span};
use firn_castore::{BlobRef, Node};
use firn_store::{
    Blobs, Directories, DiskStore, FORMAT_VERSION, Intake, OpenError, Paths, Pins, Reason, Room, Store,
    StoreError, UnixSeconds, Visible,
    conformance::{self, add, contents},
    verify_all,
};

use crate::{commit, copy_in, findings, keep, span_of};

#[test]
fn what_was_committed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path =
        Visible::Path(conformance::stored_path("sample-0", &conformance::sample(0).0, true).path_hash());
    let root = {
        let store = DiskStore::open(dir.path()).unwrap();
        let root = commit(&store, 0);
        store.pin(&path, &Reason::added()).unwrap();
        store.used(&path, UnixSeconds(5)).unwrap();
        root
    };
    let store = DiskStore::open(dir.path()).unwrap();
    assert_eq!(store.paths().unwrap(), [conformance::stored_path("sample-0", &root, true)]);
    assert_eq!(store.pins().unwrap(), [(path.clone(), Reason::added())].into());
    assert_eq!(store.uses().unwrap(), [(path, UnixSeconds(5))].into());
    let verified = verify_all(&store, &mut |finding| panic!("{finding:?}"));
    assert_eq!((verified.directories, verified.blobs, verified.blob_bytes), (2, 3, 100_100));
}

#[test]
fn what_was_only_kept_is_there_after_a_clean_end() {
    let dir = tempfile::tempdir().unwrap();
    let blobs: Vec<_> = (0..3000).map(|seed| contents(5000, seed)).collect();
    let large = contents(PIECE_BYTES + 1, 0);
    {
        // More than is gathered before it is written, so that some of it is in a pack and some in memory.
        let store = DiskStore::open(dir.path()).unwrap();
        keep(&store, 0);
        for bytes in &blobs {
            add(&store, bytes);
        }
        copy_in(&store, &large);
    }
    let store = DiskStore::open(dir.path()).unwrap();
    for bytes in blobs.iter().chain(&conformance::sample(0).2).chain([&large]) {
        let blob = BlobRef::of(bytes);
        assert_eq!(store.read_span(&blob, Span::whole(blob.size)).unwrap().unwrap().bytes(), bytes);
    }
    for directory in conformance::sample(0).1 {
        assert!(store.directory(&directory.digest()).unwrap().is_some());
    }
}

#[test]
fn a_second_opening_names_this_process() {
    let dir = tempfile::tempdir().unwrap();
    let _store = DiskStore::open(dir.path()).unwrap();
    let error = DiskStore::open(dir.path()).unwrap_err();
    let own = std::process::id();
    assert!(matches!(&error, OpenError::Locked { pid: Some(pid), .. } if *pid == own), "{error}");
    let expected = format!("the store {} is in use by this process ({own})", dir.path().display());
    assert_eq!(error.to_string(), expected);
}

/// Where a child process is told which store to hold.
const HOLD: &str = "FIRN_TEST_HOLD_STORE";

/// What it says when it does.
const READY: &str = "the store is held";

/// What the child process of the next test does until it is killed, or its parent is gone.
fn hold(dir: &Path) -> ! {
    let store = DiskStore::open(dir).unwrap();
    commit(&store, 0);
    commit_large(&store, 0);
    keep(&store, 1);
    copy_in(&store, &contents(PIECE_BYTES + 1, 1));
    println!("{READY}");
    let _ = std::io::stdin().read_line(&mut String::new());
    std::process::abort()
}

#[test]
fn another_holder_is_named_and_what_it_committed_survives_its_death() {
    if let Some(dir) = env::var_os(HOLD) {
        hold(Path::new(&dir));
    }
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("store");
    let test = "disk::another_holder_is_named_and_what_it_committed_survives_its_death";
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--nocapture", "--exact", test]).env(HOLD, &dir);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    // The test harness has begun the line already.
    assert!(said.any(|line| line.unwrap().ends_with(READY)), "the holder has ended");
    let error = DiskStore::open(&dir).unwrap_err();
    let expected = format!("the store {} is in use by process {}", dir.display(), child.id());
    assert_eq!(error.to_string(), expected);
    child.kill().unwrap();
    child.wait().unwrap();

    let store = DiskStore::open(&dir).unwrap();
    assert_eq!(store.paths().unwrap().len(), 1);
    assert_eq!(verify_all(&store, &mut |finding| panic!("{finding:?}")).blobs, 4);
    let uncommitted = BlobRef::of(&conformance::sample(1).2[0]);
    assert_eq!(store.has_blob(&uncommitted.digest).unwrap(), Some(uncommitted.size), "it is found again");
    assert_eq!(large_files(&dir).len(), 1, "the file of the committed blob");
    store.collect(false).unwrap();
    assert_eq!(store.has_blob(&uncommitted.digest).unwrap(), None);
}

/// Makes a blob of more than one piece visible as a tree of its own.
fn commit_large(store: &dyn Store, seed: u64) {
    let blob = copy_in(store, &contents(PIECE_BYTES + 1, seed));
    store.commit_root(&Node::File { blob, executable: false }.into(), true, None).unwrap();
}

/// The files of large blobs.
pub(crate) fn large_files(store: &Path) -> Vec<std::path::PathBuf> {
    let fans = fs::read_dir(store.join("blobs")).unwrap().map(|fan| fan.unwrap().path());
    let files = fans.filter(|fan| fan.is_dir()).flat_map(|fan| fs::read_dir(fan).unwrap());
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn another_version_is_refused_with_both_numbers() {
    let dir = tempfile::tempdir().unwrap();
    commit(&DiskStore::open(dir.path()).unwrap(), 0);
    // An older one, and one of the future.
    for found in [1, 3, 7] {
        fs::write(dir.path().join("version"), format!("{found}\n")).unwrap();
        let error = DiskStore::open(dir.path()).unwrap_err();
        let store = dir.path().display();
        let expected = format!("the store {store} has format {found}, this program knows format 2: ");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
    fs::write(dir.path().join("version"), "garbage").unwrap();
    assert!(matches!(DiskStore::open(dir.path()), Err(OpenError::Stamp(_))));
    fs::write(dir.path().join("version"), format!("{FORMAT_VERSION}\n")).unwrap();
    assert_eq!(DiskStore::open(dir.path()).unwrap().paths().unwrap().len(), 1);
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "").unwrap();
    let error = DiskStore::open(dir.path()).unwrap_err();
    let expected = format!("{} is no store: it contains thesis.tex", dir.path().display());
    assert_eq!(error.to_string(), expected);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_first_opening_that_was_interrupted_is_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("blobs")).unwrap();
    fs::write(dir.path().join("lock"), "1234567\n").unwrap();
    fs::write(dir.path().join("index.redb"), "").unwrap();
    commit(&DiskStore::open(dir.path()).unwrap(), 0);
}

#[test]
fn a_place_where_nothing_can_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for place in [&file, &file.join("store")] {
        let error = DiskStore::open(place).unwrap_err();
        assert!(matches!(&error, OpenError::Io { path, .. } if path == place), "{error}");
    }
}

#[test]
fn an_index_that_is_gone_is_not_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    commit(&DiskStore::open(dir.path()).unwrap(), 0);
    let index = dir.path().join("index.redb");
    fs::remove_file(&index).unwrap();
    let error = DiskStore::open(dir.path()).unwrap_err();
    assert_eq!(error.to_string(), format!("the index {} is gone", index.display()));
}

/// A file system of its own, of a few MiB.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(mebibytes: u32) -> Self {
        let root = rustix::process::geteuid().is_root();
        assert!(root, "this test mounts a small file system, which takes root");
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={mebibytes}m");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "firn-test"]).arg(dir.path()).status();
        assert!(mount.unwrap().success(), "a tmpfs can be mounted");
        Self(dir)
    }

    fn remount(&self, options: &str) {
        let mount =
            Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.0.path()).status();
        assert!(mount.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

fn is_full(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
}

/// Keeps something, of which there is a different one for each seed.
type Keep = fn(&DiskStore, u64) -> Result<(), StoreError>;

/// Keeps things until the disk is full.
fn fill(store: &DiskStore, keep: Keep) -> StoreError {
    (1_000_000..).find_map(|seed| keep(store, seed).err()).unwrap()
}

fn keep_whole(store: &DiskStore, bytes: Bytes) -> Result<(), StoreError> {
    store.keep_spans(&[firn_bao::VerifiedSpan::of(bytes)])
}

/// What may fill a disk: packs of small and of larger blobs, large files, partial ones, and the index.
const FILLS: [Keep; 5] = [
    |store, seed| keep_whole(store, contents(10_000, seed)),
    |store, seed| keep_whole(store, contents(300_000, seed)),
    |store, seed| {
        let bytes = contents(3 * PIECE_BYTES, seed);
        let incoming = store.begin_blob(3 * PIECE_BYTES)?;
        for index in 0..3 {
            let piece = bytes.slice((index * PIECE_BYTES) as usize..((index + 1) * PIECE_BYTES) as usize);
            incoming.write(&firn_bao::HashedPiece::of(index, piece))?;
        }
        incoming.finish().map(drop)
    },
    |store, seed| {
        let span = Span::from_groups(0..PIECE_GROUPS).unwrap();
        store.keep_spans(&[span_of(&contents(2 * PIECE_BYTES, seed), span)])
    },
    |store, seed| {
        // The longest reasons for things that need not be there.
        let text = "x".repeat(firn_store::REASON_BYTES_MAX);
        let reason: Reason = text.parse().unwrap();
        (0..200).try_for_each(|i| {
            let blob = BlobRef { digest: BlobRef::of(&(1000 * seed + i).to_le_bytes()).digest, size: 1 };
            store.pin(&Visible::Root(Node::File { blob, executable: false }.into()), &reason)
        })
    },
];

#[test]
fn a_full_disk_is_an_error_that_loses_nothing() {
    for (i, keep) in FILLS.into_iter().enumerate() {
        let disk = SmallDisk::mount(32);
        let dir = disk.0.path().join("store");
        let store = DiskStore::open(&dir).unwrap();
        commit(&store, 0);
        commit_large(&store, 0);
        // The index grows slowly.
        let ballast = if i == 4 { 19 << 20 } else { 0 };
        fs::write(disk.0.path().join("ballast"), vec![0; ballast]).unwrap();
        let error = fill(&store, keep);
        assert!(is_full(&error), "fill {i}: {error}");
        assert!(error.to_string().starts_with(&dir.display().to_string()), "{error}");
        let (root, directories, _) = conformance::sample(1);
        assert!(
            store.keep_directories(&directories).is_err() || store.commit_root(&root, true, None).is_err()
        );

        // Reading goes on, also in the next process, and writing once there is room again.
        assert_eq!(verify_all(&store, &mut |finding| panic!("{finding:?}")).blobs, 4);
        drop(store);
        let store = DiskStore::open(&dir).unwrap();
        assert_eq!(verify_all(&store, &mut |finding| panic!("{finding:?}")).blobs, 4);
        disk.remount("size=256m");
        commit(&store, 1);
        commit_large(&store, 1);
        assert!(findings(&store).is_empty());
        assert_eq!(store.paths().unwrap().len(), 2);
    }
}

#[test]
fn a_full_disk_is_made_room_on_by_collecting() {
    for (i, keep) in FILLS[..4].iter().enumerate() {
        let disk = SmallDisk::mount(64);
        let dir = disk.0.path().join("store");
        let store = DiskStore::open(&dir).unwrap();
        commit(&store, 0);
        commit_large(&store, 0);
        fill(&store, *keep);
        let collected = store.collect(false).unwrap();
        assert!(collected.bytes > 32 << 20, "fill {i}: {collected:?}");
        commit(&store, 1);
        commit_large(&store, 1);
        assert!(findings(&store).is_empty());
        assert!(store.usage().unwrap().disk_bytes < 16 << 20, "{:?}", store.usage().unwrap());
    }
}

#[test]
fn the_index_is_opened_anew_after_it_could_not_be_written() {
    // Others may use up the space between our look at it and our writing: here the disk shrinks under the store.
    let disk = SmallDisk::mount(64);
    let dir = disk.0.path().join("store");
    let store = DiskStore::open(&dir).unwrap();
    commit(&store, 0);
    let ballast = disk.0.path().join("ballast");
    let mut refused = 0;
    for round in 0..40u64 {
        // Leaves less and less beyond the reserve.
        fs::write(&ballast, vec![0; (30 << 20) + (round as usize) * (1 << 20)]).ok();
        for seed in 0..200 {
            if let Err(error) = keep_whole(&store, contents(16_000, round * 1000 + seed)) {
                assert!(is_full(&error), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    fs::remove_file(&ballast).unwrap();
    disk.remount("size=256m");
    commit(&store, 1);
    drop(store);
    let store = DiskStore::open(&dir).unwrap();
    assert_eq!(store.paths().unwrap().len(), 2);
    assert_eq!(verify_all(&store, &mut |finding| panic!("{finding:?}")).findings, 0);
}

#[test]
fn a_read_only_disk_is_named() {
    let disk = SmallDisk::mount(64);
    let dir = disk.0.path().join("store");
    drop(DiskStore::open(&dir).unwrap());
    disk.remount("ro");
    let error = DiskStore::open(&dir).unwrap_err();
    let OpenError::Io { path, source } = &error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert!(path.starts_with(&dir), "{error}");
    let fresh = disk.0.path().join("fresh");
    assert!(matches!(DiskStore::open(&fresh), Err(OpenError::Io { path, .. }) if path == fresh));
}
