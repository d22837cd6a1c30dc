//! A store on disk.
//!
//! ```text
//! version              "1\n"
//! lock                 locked while the store is open; holds the holder's process id until it is closed cleanly
//! index.redb           small blobs, Directories, sizes of large blobs, paths, roots
//! blobs/ab/ab01…       a blob of more than one group
//! blobs/ab/ab01….outboard   its parents
//! temp/0, 1, …         what is not whole yet; emptied on opening
//! ```
//!
//! Small things wait in memory ([`Pending`]) until there are enough for one write transaction, which is not durable. A
//! commit syncs the files of large blobs, then puts what waits, what was not durable, and the visible record into the
//! index with one durable transaction. So whatever the index holds after a crash is whole.

mod files;
mod index;
mod layout;
mod pending;

use std::{
    fmt,
    io::Read,
    path::Path,
    sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use firn_bao::{GROUP_BYTES, Outboard, Span, SpanError, VerifiedSpan};
use firn_castore::{BlobDigest, BlobRef, Directory, DirectoryDigest, Root};
use firn_nix::StorePathHash;
use firn_trust::StoredPath;

pub use layout::{FORMAT_VERSION, OpenError};

use self::{
    files::{Files, TempFile},
    index::{Index, Record},
    layout::Layout,
    pending::{Held, Pending, State},
};
use crate::{Blobs, Directories, Item, Paths, StoreError, lock};

/// A store in a directory of its own, for one process at a time.
///
/// Closing (dropping) it makes durable what was kept and not committed, as far as that works.
pub struct DiskStore {
    state: RwLock<State>,
    /// Held by whoever writes to the index. Readers never wait for it.
    writing: Mutex<()>,
    /// Held from a span's coming until its blob is here if it was the last, so that whoever kept the others finds it.
    keeping: Mutex<()>,
    files: Files,
    index: Index,
    /// Last, so that the lock is given up after all else is closed.
    layout: Layout,
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DiskStore").field(&self.layout.dir).finish()
    }
}

impl DiskStore {
    /// Opens the store in this directory, or makes one where there is nothing or an empty directory.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let (layout, index) = layout::open(dir)?;
        let files = Files::new(&layout);
        Ok(Self {
            state: RwLock::default(),
            writing: Mutex::new(()),
            keeping: Mutex::new(()),
            files,
            index,
            layout,
        })
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits is looked at before the index: it leaves there only after it has come to the index.
    fn blob_size(&self, digest: &BlobDigest) -> Result<Option<u64>, StoreError> {
        {
            let state = self.state();
            if let Some(held) = state.pending.blob(digest) {
                return Ok(Some(held.size()));
            }
            if state.damaged.contains(&Item::Blob(*digest)) {
                return Ok(None);
            }
        }
        self.index.blob_size(digest)
    }

    fn holds(&self, blob: &BlobRef) -> Result<bool, StoreError> {
        Ok(self.blob_size(&blob.digest)? == Some(blob.size))
    }

    fn has_directory(&self, digest: &DirectoryDigest) -> Result<bool, StoreError> {
        {
            let state = self.state();
            if state.pending.directory(digest).is_some() {
                return Ok(true);
            }
            if state.damaged.contains(&Item::Directory(*digest)) {
                return Ok(false);
            }
        }
        Ok(self.index.directory(digest)?.is_some())
    }

    fn keep_small(&self, blob: &BlobRef, bytes: Bytes) -> Result<(), StoreError> {
        if self.holds(blob)? {
            return Ok(());
        }
        self.make_room()?;
        self.state_mut().keep_blob(blob.digest, Held::Small(bytes));
        Ok(())
    }

    /// Puts a whole large blob in its place, unless it is there.
    fn keep_large(&self, blob: &BlobRef, temp: TempFile, outboard: &Outboard) -> Result<(), StoreError> {
        let outboard = self.files.write_temp(outboard.as_bytes())?;
        {
            // Nobody may put a copy that is not durable over a file that a commit has found durable already.
            let _publishing = lock(&self.files.publishing);
            if self.holds(blob)? {
                return Ok(());
            }
            self.files.publish(&blob.digest, temp, outboard)?;
            self.state_mut().keep_blob(blob.digest, Held::Large(blob.size));
        }
        self.make_room()
    }

    /// Hands what waits to the index where it is enough for a transaction.
    fn make_room(&self) -> Result<(), StoreError> {
        if !self.state().pending.is_full() {
            return Ok(());
        }
        let _writing = lock(&self.writing);
        // Another thread may have done it meanwhile.
        let pending = self.state().pending.clone();
        if pending.has_too_many_large() {
            return self.commit_record(pending, None);
        }
        if pending.is_full() {
            self.layout.check_room(pending.bytes())?;
            let batch = pending.without_large();
            self.index.write(&batch)?;
            self.state_mut().pending.remove(&batch);
        }
        Ok(())
    }

    /// Makes everything durable, and then, in the same transaction, a record visible.
    fn flush(&self, record: Option<&Record>) -> Result<(), StoreError> {
        let _writing = lock(&self.writing);
        let pending = self.state().pending.clone();
        self.commit_record(pending, record)
    }

    /// [`DiskStore::flush`] for one that holds `writing`.
    fn commit_record(&self, pending: Pending, record: Option<&Record>) -> Result<(), StoreError> {
        self.layout.check_room(pending.bytes())?;
        if pending.has_large() {
            self.sync_large()?;
        }
        let damaged = self.state().damaged.clone();
        self.index.commit(&pending, record, &damaged)?;
        self.state_mut().pending.remove(&pending);
        Ok(())
    }

    fn sync_large(&self) -> Result<(), StoreError> {
        // The system tells of a failure once and then takes the files for written, so they do not count any longer.
        self.layout.sync().inspect_err(|_| self.state_mut().pending.large.clear())
    }

    /// Remembers what is found to be damaged: it counts as missing, so that it can be kept anew.
    fn noting_damage<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Damaged { item, .. }) = &result {
            self.state_mut().damaged.insert(item.clone());
        }
        result
    }

    fn read_held(&self, held: Held, blob: &BlobRef, span: Span) -> Result<Option<VerifiedSpan>, StoreError> {
        match held {
            Held::Large(size) if size != blob.size => Ok(None),
            Held::Large(_) => self.files.read(blob, span).map(Some),
            Held::Small(bytes) => self.check_small(blob, span, bytes),
        }
    }

    fn check_small(
        &self,
        blob: &BlobRef,
        span: Span,
        bytes: Bytes,
    ) -> Result<Option<VerifiedSpan>, StoreError> {
        let held = BlobRef { digest: blob.digest, size: bytes.len() as u64 };
        let damaged = |error| StoreError::damaged(Item::Blob(blob.digest), self.index.path(), error);
        if held == *blob {
            return VerifiedSpan::check(held, span, &[], bytes).map(Some).map_err(damaged);
        }
        // Either somebody claims a false length for contents that are right, or a part of them is gone.
        VerifiedSpan::check(held, Span::whole(held.size), &[], bytes).map(|_| None).map_err(damaged)
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.layout.closed_cleanly(self.flush(None).is_ok());
    }
}

impl Blobs for DiskStore {
    fn has_blob(&self, digest: &BlobDigest) -> Result<Option<u64>, StoreError> {
        self.blob_size(digest)
    }

    fn read_span(&self, blob: &BlobRef, span: Span) -> Result<Option<VerifiedSpan>, StoreError> {
        if !span.fits(blob.size) {
            let source = SpanError::PastEnd { span, size: blob.size };
            return Err(StoreError::Span { blob: *blob, source });
        }
        let waiting = self.state().pending.blob(&blob.digest);
        let held = match waiting {
            Some(held) => Some(held),
            None => self.index.blob(&blob.digest)?,
        };
        match held {
            Some(held) => self.noting_damage(self.read_held(held, blob, span)),
            None => Ok(None),
        }
    }

    fn keep_span(&self, span: &VerifiedSpan) -> Result<(), StoreError> {
        let blob = span.blob();
        if blob.size <= GROUP_BYTES {
            return self.keep_small(&blob, span.bytes().clone());
        }
        let _keeping = lock(&self.keeping);
        if self.holds(&blob)? {
            return Ok(());
        }
        match self.files.keep_span(span)? {
            Some((temp, outboard)) => self.keep_large(&blob, temp, &outboard),
            None => Ok(()),
        }
    }

    fn add_blob(&self, reader: &mut dyn Read) -> Result<BlobRef, StoreError> {
        let mut head = Vec::new();
        reader.take(GROUP_BYTES + 1).read_to_end(&mut head).map_err(StoreError::Reader)?;
        if head.len() as u64 <= GROUP_BYTES {
            let blob = BlobRef::of(&head);
            self.keep_small(&blob, head.into())?;
            return Ok(blob);
        }
        let (temp, blob, outboard) = self.files.add(&mut head.chain(reader))?;
        self.keep_large(&blob, temp, &outboard)?;
        Ok(blob)
    }
}

impl Directories for DiskStore {
    fn directory(&self, digest: &DirectoryDigest) -> Result<Option<Directory>, StoreError> {
        let waiting = self.state().pending.directory(digest).cloned();
        let encoded = match waiting {
            Some(encoded) => Some(encoded),
            None => self.index.directory(digest)?,
        };
        let Some(encoded) = encoded else { return Ok(None) };
        let decoded = Directory::decode(encoded, digest)
            .map_err(|error| StoreError::damaged(Item::Directory(*digest), self.index.path(), error));
        self.noting_damage(decoded).map(Some)
    }

    fn keep_directories(&self, directories: &[Directory]) -> Result<(), StoreError> {
        for directory in directories {
            if !self.has_directory(&directory.digest())? {
                self.make_room()?;
                self.state_mut().keep_directory(directory);
            }
        }
        Ok(())
    }
}

impl Paths for DiskStore {
    fn commit(&self, path: StoredPath) -> Result<(), StoreError> {
        self.flush(Some(&Record::path(&path)))
    }

    fn commit_root(&self, root: &Root, shared: bool) -> Result<(), StoreError> {
        self.flush(Some(&Record::root(root, shared)))
    }

    fn path(&self, hash: &StorePathHash) -> Result<Option<StoredPath>, StoreError> {
        self.index.path_record(hash)
    }

    fn paths(&self) -> Result<Vec<StoredPath>, StoreError> {
        self.index.path_records()
    }

    fn roots(&self) -> Result<Vec<(Root, bool)>, StoreError> {
        self.index.root_records()
    }
}
