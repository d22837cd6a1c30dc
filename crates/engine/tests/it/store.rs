//! A store that can be watched, and that can fail.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use firn_bao::{HashedBlob, Span, VerifiedSpan};
use firn_castore::{BlobDigest, BlobRef, Closure, Directory, DirectoryDigest, Root};
use firn_nix::StorePathHash;
use firn_store::{
    Blobs, Collected, Directories, Hold, Incoming, Intake, Item, KnownTree, Listing, MemoryStore, Paths,
    Pins, Reason, Record, Room, StoreError, UnixSeconds, Usage, Visible,
};
use firn_trust::StoredPath;

#[derive(Default)]
pub(crate) struct WatchedStore {
    pub(crate) inner: MemoryStore,
    /// Bytes of blobs that were read.
    pub(crate) bytes_read: AtomicU64,
    /// Whether there is no room.
    pub(crate) is_full: AtomicBool,
    /// For how many bytes there is said to be room.
    pub(crate) free: Mutex<Option<u64>>,
    /// The uses that it was told of.
    pub(crate) used: Mutex<Vec<Visible>>,
}

impl WatchedStore {
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::SeqCst)
    }

    /// The uses that it was told of since this was asked last.
    pub(crate) fn take_used(&self) -> Vec<Visible> {
        std::mem::take(&mut self.used.lock().unwrap())
    }

    fn room(&self) -> Result<(), StoreError> {
        match self.is_full.load(Ordering::SeqCst) {
            true => Err(StoreError::Io {
                path: PathBuf::from("blobs"),
                source: io::ErrorKind::StorageFull.into(),
            }),
            false => Ok(()),
        }
    }
}

impl Blobs for WatchedStore {
    fn has_blob(&self, digest: &BlobDigest) -> Result<Option<u64>, StoreError> {
        self.inner.has_blob(digest)
    }

    fn groups(&self, blob: &BlobRef) -> Result<Vec<Span>, StoreError> {
        self.inner.groups(blob)
    }

    fn read_span(&self, blob: &BlobRef, span: Span) -> Result<Option<VerifiedSpan>, StoreError> {
        let read = self.inner.read_span(blob, span)?;
        let bytes = read.as_ref().map_or(0, |read| read.bytes().len() as u64);
        self.bytes_read.fetch_add(bytes, Ordering::SeqCst);
        Ok(read)
    }

    fn keep_spans(&self, spans: &[VerifiedSpan]) -> Result<(), StoreError> {
        self.room()?;
        self.inner.keep_spans(spans)
    }
}

impl Intake for WatchedStore {
    fn begin_blob(&self, size: u64) -> Result<Box<dyn Incoming + '_>, StoreError> {
        self.room()?;
        self.inner.begin_blob(size)
    }

    fn adopt_blob(&self, file: &Path, blob: &HashedBlob) -> Result<(), StoreError> {
        self.inner.adopt_blob(file, blob)
    }

    fn known_tree(&self, listing: &Listing) -> Result<Option<KnownTree>, StoreError> {
        self.inner.known_tree(listing)
    }

    fn note_tree(&self, listing: &Listing, tree: &KnownTree) -> Result<(), StoreError> {
        self.inner.note_tree(listing, tree)
    }
}

impl Directories for WatchedStore {
    fn directory(&self, digest: &DirectoryDigest) -> Result<Option<Directory>, StoreError> {
        self.inner.directory(digest)
    }

    fn has_directory(&self, digest: &DirectoryDigest) -> Result<bool, StoreError> {
        self.inner.has_directory(digest)
    }

    fn keep_directories(&self, directories: &[Directory]) -> Result<(), StoreError> {
        self.room()?;
        self.inner.keep_directories(directories)
    }
}

impl Paths for WatchedStore {
    fn commit_record(
        &self,
        record: Record,
        known: Option<Arc<Closure>>,
        pin: Option<&Reason>,
    ) -> Result<(), StoreError> {
        self.room()?;
        self.inner.commit_record(record, known, pin)
    }

    fn path(&self, hash: &StorePathHash) -> Result<Option<StoredPath>, StoreError> {
        self.inner.path(hash)
    }

    fn paths(&self) -> Result<Vec<StoredPath>, StoreError> {
        self.inner.paths()
    }

    fn roots(&self) -> Result<Vec<(Root, bool)>, StoreError> {
        self.inner.roots()
    }

    fn damaged_records(&self) -> Result<Vec<StoreError>, StoreError> {
        self.inner.damaged_records()
    }
}

impl Pins for WatchedStore {
    fn pin(&self, what: &Visible, reason: &Reason) -> Result<(), StoreError> {
        self.inner.pin(what, reason)
    }

    fn unpin(&self, what: &Visible) -> Result<bool, StoreError> {
        self.inner.unpin(what)
    }

    fn pins(&self) -> Result<BTreeMap<Visible, Reason>, StoreError> {
        self.inner.pins()
    }
}

impl Room for WatchedStore {
    fn remove(&self, what: &Visible) -> Result<bool, StoreError> {
        self.inner.remove(what)
    }

    fn used(&self, what: &Visible, at: UnixSeconds) -> Result<(), StoreError> {
        self.used.lock().unwrap().push(what.clone());
        self.inner.used(what, at)
    }

    fn uses(&self) -> Result<BTreeMap<Visible, UnixSeconds>, StoreError> {
        self.inner.uses()
    }

    fn hold(&self) -> Hold {
        self.inner.hold()
    }

    fn hold_tree(&self, root: &Root) -> Hold {
        self.inner.hold_tree(root)
    }

    fn collect(&self, dry_run: bool) -> Result<Collected, StoreError> {
        self.inner.collect(dry_run)
    }

    fn quarantine(&self, item: &Item) -> Result<(), StoreError> {
        self.inner.quarantine(item)
    }

    fn take_lost(&self) -> BTreeSet<BlobDigest> {
        self.inner.take_lost()
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        self.inner.usage()
    }

    fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        Ok(*self.free.lock().unwrap())
    }
}
