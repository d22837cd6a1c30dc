//! A store that takes nothing more once the node ends, so that nobody waits for a large tree.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use firn_bao::{HashedBlob, Span, VerifiedSpan};
use firn_castore::{BlobDigest, BlobRef, Directory, DirectoryDigest};
use firn_store::{Blobs, Directories, Incoming, Intake, KnownTree, Listing, Store, StoreError};

pub(super) struct Interruptible<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) ends: &'a AtomicBool,
}

impl Interruptible<'_> {
    fn go_on(&self) -> Result<&dyn Store, StoreError> {
        if self.ends.load(Ordering::Relaxed) {
            return Err(StoreError::Io { path: PathBuf::new(), source: ErrorKind::Interrupted.into() });
        }
        Ok(self.store)
    }
}

impl Blobs for Interruptible<'_> {
    fn has_blob(&self, digest: &BlobDigest) -> Result<Option<u64>, StoreError> {
        self.go_on()?.has_blob(digest)
    }

    fn groups(&self, blob: &BlobRef) -> Result<Vec<Span>, StoreError> {
        self.go_on()?.groups(blob)
    }

    fn read_span(&self, blob: &BlobRef, span: Span) -> Result<Option<VerifiedSpan>, StoreError> {
        self.go_on()?.read_span(blob, span)
    }

    fn keep_span(&self, span: &VerifiedSpan) -> Result<(), StoreError> {
        self.go_on()?.keep_span(span)
    }
}

impl Intake for Interruptible<'_> {
    fn begin_blob(&self, size: u64) -> Result<Box<dyn Incoming + '_>, StoreError> {
        self.go_on()?.begin_blob(size)
    }

    fn adopt_blob(&self, file: &Path, blob: &HashedBlob) -> Result<(), StoreError> {
        self.go_on()?.adopt_blob(file, blob)
    }

    fn known_tree(&self, listing: &Listing) -> Result<Option<KnownTree>, StoreError> {
        self.go_on()?.known_tree(listing)
    }

    fn note_tree(&self, listing: &Listing, tree: &KnownTree) -> Result<(), StoreError> {
        self.go_on()?.note_tree(listing, tree)
    }
}

impl Directories for Interruptible<'_> {
    fn directory(&self, digest: &DirectoryDigest) -> Result<Option<Directory>, StoreError> {
        self.go_on()?.directory(digest)
    }

    fn has_directory(&self, digest: &DirectoryDigest) -> Result<bool, StoreError> {
        self.go_on()?.has_directory(digest)
    }

    fn keep_directories(&self, directories: &[Directory]) -> Result<(), StoreError> {
        self.go_on()?.keep_directories(directories)
    }
}
