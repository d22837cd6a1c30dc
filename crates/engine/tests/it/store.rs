//! A store that can be watched, and that can fail.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use firn_bao::{Span, VerifiedSpan};
use firn_castore::{BlobDigest, BlobRef, Directory, DirectoryDigest, Root};
use firn_nix::StorePathHash;
use firn_store::{Blobs, Directories, MemoryStore, Paths, StoreError};
use firn_trust::StoredPath;

#[derive(Default)]
pub(crate) struct WatchedStore {
    pub(crate) inner: MemoryStore,
    /// Bytes of blobs that were read.
    pub(crate) bytes_read: AtomicU64,
    /// Whether there is no room.
    pub(crate) is_full: AtomicBool,
}

impl WatchedStore {
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::SeqCst)
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

    fn read_span(&self, blob: &BlobRef, span: Span) -> Result<Option<VerifiedSpan>, StoreError> {
        let read = self.inner.read_span(blob, span)?;
        let bytes = read.as_ref().map_or(0, |read| read.bytes().len() as u64);
        self.bytes_read.fetch_add(bytes, Ordering::SeqCst);
        Ok(read)
    }

    fn keep_span(&self, span: &VerifiedSpan) -> Result<(), StoreError> {
        self.room()?;
        self.inner.keep_span(span)
    }

    fn add_blob(&self, reader: &mut dyn Read) -> Result<BlobRef, StoreError> {
        self.room()?;
        self.inner.add_blob(reader)
    }
}

impl Directories for WatchedStore {
    fn directory(&self, digest: &DirectoryDigest) -> Result<Option<Directory>, StoreError> {
        self.inner.directory(digest)
    }

    fn keep_directories(&self, directories: &[Directory]) -> Result<(), StoreError> {
        self.room()?;
        self.inner.keep_directories(directories)
    }
}

impl Paths for WatchedStore {
    fn commit(&self, path: StoredPath) -> Result<(), StoreError> {
        self.room()?;
        self.inner.commit(path)
    }

    fn commit_root(&self, root: &Root, shared: bool) -> Result<(), StoreError> {
        self.room()?;
        self.inner.commit_root(root, shared)
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
}
