//! Failures at a chosen step, and what stands where our files should be.

mod recovered;
mod together;

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use firn_bao::{HashedBlob, HashedPiece, PIECE_BYTES, Span, VerifiedBytes, VerifiedSpan};
use firn_castore::{BlobRef, Directory, Node, Root};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use super::*;
use crate::{
    Blobs, Directories, Intake, Paths, Room, StoreError, Visible,
    conformance::{add, contents, directory},
};

/// The real disk, which fails where it is told to.
struct Failing {
    disk: RealDisk,
    sync_fails: AtomicBool,
    write_fails: AtomicBool,
    is_full: AtomicBool,
    syncs: AtomicUsize,
    /// To packs.
    writes: AtomicUsize,
}

struct FailingFile(Arc<Failing>, Arc<dyn DiskFile>, PathBuf);

#[derive(Clone)]
struct Handle(Arc<Failing>);

impl Disk for Handle {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.disk.create_dir(dir)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(FailingFile(self.0.clone(), self.0.disk.open(path, access)?, path.to_path_buf())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.0.disk.list(dir)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.syncs.fetch_add(1, Ordering::SeqCst);
        if self.0.sync_fails.load(Ordering::SeqCst) { Err(io::Error::other("no sync")) } else { Ok(()) }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(if self.0.is_full.load(Ordering::SeqCst) { 0 } else { u64::MAX })
    }
}

impl DiskFile for FailingFile {
    fn size(&self) -> io::Result<u64> {
        self.1.size()
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.1.allocated_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1.read_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let is_pack = self.2.parent().is_some_and(|dir| dir.ends_with("packs"));
        self.0.writes.fetch_add(usize::from(is_pack), Ordering::SeqCst);
        match is_pack && self.0.write_fails.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.1.write_all_at(bytes, offset),
        }
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.1.set_size(size)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn open(dir: &TempDir) -> (Arc<Failing>, DiskStore) {
    let disk = Arc::new(Failing {
        disk: RealDisk::of(dir.path()).unwrap(),
        sync_fails: AtomicBool::new(false),
        write_fails: AtomicBool::new(false),
        is_full: AtomicBool::new(false),
        syncs: AtomicUsize::new(0),
        writes: AtomicUsize::new(0),
    });
    let store = DiskStore::open_on(Arc::new(Handle(disk.clone())), dir.path()).unwrap();
    (disk, store)
}

fn file(blob: BlobRef) -> Root {
    Node::File { blob, executable: false }.into()
}

fn commit(store: &DiskStore, blob: BlobRef) -> Root {
    let root = file(blob);
    store.commit_root(&root, true, None).unwrap();
    root
}

fn copy_in(store: &DiskStore, bytes: &Bytes) -> Result<BlobRef, StoreError> {
    let incoming = store.begin_blob(bytes.len() as u64)?;
    for (index, start) in (0..bytes.len()).step_by(PIECE_BYTES as usize).enumerate() {
        let piece = bytes.slice(start..bytes.len().min(start + PIECE_BYTES as usize));
        incoming.write(&HashedPiece::of(index as u64, piece))?;
    }
    incoming.finish()
}

fn first_half(bytes: &Bytes) -> VerifiedSpan {
    let hashed = HashedBlob::of(bytes);
    let size = hashed.blob().size;
    let (span, _) = Span::whole(size).split(Span::whole(size).groups().end / 2);
    let parents = hashed.outboard().parents_of(size, span).unwrap();
    let range = span.bytes(size);
    let part = bytes.slice(range.start as usize..range.end as usize);
    VerifiedSpan::check(hashed.blob(), span, parents, part).unwrap()
}

fn names(dir: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

/// Flips a bit wherever these bytes are in this file.
fn flip(path: &Path, bytes: &[u8]) {
    let mut all = fs::read(path).unwrap();
    let at = all.windows(bytes.len()).position(|window| window == bytes).unwrap();
    all[at] ^= 1;
    fs::write(path, all).unwrap();
}

#[test]
fn what_was_begun_before_a_sync_failed_does_not_become_whole_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, store) = open(&dir);
    let large = contents(PIECE_BYTES + 5, 1);
    let incoming = store.begin_blob(large.len() as u64).unwrap();
    incoming.write(&HashedPiece::of(0, large.slice(..PIECE_BYTES as usize))).unwrap();
    incoming.write(&HashedPiece::of(1, large.slice(PIECE_BYTES as usize..))).unwrap();
    let half = first_half(&contents(PIECE_BYTES + 6, 2));
    store.keep_spans(std::slice::from_ref(&half)).unwrap();
    assert_eq!(store.groups(&half.blob()).unwrap(), [half.span()]);

    disk.sync_fails.store(true, Ordering::SeqCst);
    store.commit_root(&file(add(&store, b"unlucky")), true, None).unwrap_err();
    disk.sync_fails.store(false, Ordering::SeqCst);

    // The system may have dropped what was written, and the next sync would not tell.
    assert!(matches!(incoming.finish(), Err(StoreError::Io { .. })));
    assert_eq!(store.groups(&half.blob()).unwrap(), []);
    assert!(names(&dir.path().join("partial")).is_empty());
    let blob = copy_in(&store, &large).unwrap();
    store.keep_spans(std::slice::from_ref(&half)).unwrap();
    assert_eq!(store.groups(&half.blob()).unwrap(), [half.span()]);
    commit(&store, blob);
}

#[test]
fn what_lies_behind_the_end_of_any_pack_is_cut_off_after_a_failed_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, store) = open(&dir);
    let root = commit(&store, add(&store, &contents(1000, 1)));
    let pack = store.packs.path(store.packs.tail());
    let end = fs::metadata(&pack).unwrap().len();
    disk.sync_fails.store(true, Ordering::SeqCst);
    // A large blob makes it the whole disk that is synced.
    let large = copy_in(&store, &contents(PIECE_BYTES + 1, 2)).unwrap();
    add(&store, &contents(2000, 3));
    store.commit_root(&file(large), true, None).unwrap_err();
    disk.sync_fails.store(false, Ordering::SeqCst);
    // Else the next process would take it for whole.
    assert_eq!(fs::metadata(&pack).unwrap().len(), end);
    commit(&store, add(&store, &contents(3000, 4)));
    assert!(store.packs.path(store.packs.tail()) != pack);
    // The file that was put in its place and given up is swept.
    store.collect(false).unwrap();
    assert!(names(&dir.path().join("blobs")).iter().all(|fan| names(fan).is_empty()));
    drop(store);
    let (_, store) = open(&dir);
    assert_eq!(fs::metadata(&pack).unwrap().len(), end);
    let Node::File { blob, .. } = root.node() else { panic!() };
    assert!(store.read_span(blob, Span::whole(blob.size)).unwrap().is_some());
}

#[test]
fn the_name_of_a_pack_that_could_not_be_written_at_first_is_made_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, store) = open(&dir);
    disk.write_fails.store(true, Ordering::SeqCst);
    // The pack is made, and not written.
    store.keep_spans(&[VerifiedSpan::of(contents(1000, 1))]).unwrap_err();
    assert_eq!(names(&dir.path().join("packs")).len(), 1);
    disk.write_fails.store(false, Ordering::SeqCst);
    let blob = add(&store, &contents(1000, 1));
    let before = disk.syncs.load(Ordering::SeqCst);
    commit(&store, blob);
    assert_eq!(disk.syncs.load(Ordering::SeqCst), before + 1, "the whole disk, names too");
}

#[test]
fn a_full_disk_tells_what_it_takes() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, store) = open(&dir);
    commit(&store, add(&store, &contents(1000, 1)));
    add(&store, &contents(1000, 2));
    disk.is_full.store(true, Ordering::SeqCst);
    assert_eq!(store.usage().unwrap().blobs, 1);
}

#[test]
fn a_damaged_directory_that_a_commit_finds_can_be_kept_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (_, store) = open(&dir);
    let inner = directory([("a", Node::File { blob: add(&store, b"a"), executable: false })]);
    store.keep_directories(std::slice::from_ref(&inner)).unwrap();
    store.flush().unwrap();
    flip(&store.packs.path(store.packs.tail()), inner.encoded());
    let root: Root = inner.node().into();
    assert!(matches!(store.commit_root(&root, true, None), Err(StoreError::Missing(Item::Directory(_)))));
    assert!(!store.has_directory(&inner.digest()).unwrap());
    store.keep_directories(std::slice::from_ref(&inner)).unwrap();
    store.commit_root(&root, true, None).unwrap();
    assert_eq!(store.directory(&inner.digest()).unwrap(), Some(inner));
}

#[test]
fn nothing_is_collected_beneath_a_damaged_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (_, store) = open(&dir);
    let blob = add(&store, b"beneath");
    let inner = directory([("a", Node::File { blob, executable: false })]);
    store.keep_directories(std::slice::from_ref(&inner)).unwrap();
    let root: Root = inner.node().into();
    store.commit_root(&root, true, None).unwrap();
    flip(&store.packs.path(store.packs.tail()), inner.encoded());
    // What it needs is unknown.
    assert!(matches!(store.collect(false), Err(StoreError::NotCollected { .. })));
    store.keep_directories(std::slice::from_ref(&inner)).unwrap();
    store.commit_root(&root, true, None).unwrap();
    assert_eq!(store.collect(false).unwrap().blobs, 0);
    assert!(store.read_span(&blob, Span::whole(blob.size)).unwrap().is_some());
}

#[test]
fn the_damaged_file_of_a_blob_that_was_adopted_since_is_collected() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, store) = open(&dir);
    let bytes = contents(PIECE_BYTES + 5, 1);
    let blob = copy_in(&store, &bytes).unwrap();
    commit(&store, blob);
    flip(&store.large.path(&blob.digest), &bytes[..100]);
    let mut nothing = VerifiedBytes::expecting(0);
    store.read_onto(&mut nothing, &blob, Span::whole(blob.size)).unwrap_err();
    assert!(nothing.is_empty());
    // As long as nothing else has it, it is the user's to look at.
    store.collect(false).unwrap();
    assert!(store.large.path(&blob.digest).exists());
    let path = elsewhere.path().join("file");
    fs::write(&path, &bytes).unwrap();
    store.adopt_blob(&path, &HashedBlob::of(&bytes)).unwrap();
    commit(&store, blob);
    store.collect(false).unwrap();
    assert!(!store.large.path(&blob.digest).exists());
    assert!(store.read_span(&blob, Span::whole(blob.size)).unwrap().is_some());
}

#[test]
fn many_packs_are_made_compact_a_few_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (_, store) = open(&dir);
    let mut roots = Vec::new();
    for seed in 0..10 {
        roots.push(commit(&store, add(&store, &contents(1000 + seed, seed))));
        let garbage = commit(&store, add(&store, &contents(50_000, 100 + seed)));
        assert!(store.remove(&Visible::Root(garbage)).unwrap());
        store.packs.begin_next();
    }
    assert_eq!(names(&dir.path().join("packs")).len(), 10);
    let collected = store.collect(false).unwrap();
    assert_eq!(collected.blobs, 10);
    assert_eq!(names(&dir.path().join("packs")).len(), 1);
    drop(store);
    let (_, store) = open(&dir);
    for root in &roots {
        let Node::File { blob, .. } = root.node() else { panic!() };
        assert!(store.read_span(blob, Span::whole(blob.size)).unwrap().is_some());
    }
}

#[test]
fn a_pack_that_is_removed_is_not_synced_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let (_, store) = open(&dir);
    add(&store, b"something");
    store.packs.begin_next();
    assert_eq!(store.packs.dirty().ends().count(), 1);
    store.packs.remove(1).unwrap();
    assert_eq!(store.packs.dirty().ends().count(), 0);
}

#[test]
fn a_symlink_in_place_of_a_directory_of_ours_is_refused() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(DiskStore::open(dir.path()).unwrap());
    let packs = dir.path().join("packs");
    fs::remove_dir_all(&packs).unwrap();
    symlink(elsewhere.path(), &packs).unwrap();
    let Err(OpenError::Io { path, .. }) = DiskStore::open(dir.path()) else { panic!() };
    assert_eq!(path, packs);
}

#[test]
fn a_pipe_in_place_of_the_lock_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    drop(DiskStore::open(dir.path()).unwrap());
    let lock = dir.path().join("lock");
    fs::remove_file(&lock).unwrap();
    mknodat(CWD, &lock, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let Err(OpenError::Io { path, .. }) = DiskStore::open(dir.path()) else { panic!() };
    assert_eq!(path, lock);
}
