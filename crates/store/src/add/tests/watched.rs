//! A store that is watched.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use firn_bao::{HashedBlob, HashedPiece, Span, VerifiedSpan};
use firn_castore::{BlobDigest, BlobRef, Directory, DirectoryDigest};

use crate::{Blobs, Directories, Incoming, Intake, KnownTree, Listing, MemoryStore, StoreError};

/// The calls of one kind, and what happens at each, which is told how many came before.
#[derive(Default)]
pub(super) struct Calls<'a> {
    count: AtomicUsize,
    #[expect(clippy::type_complexity)]
    then: Option<Box<dyn Fn(usize) -> Result<(), StoreError> + Send + Sync + 'a>>,
}

impl<'a> Calls<'a> {
    pub(super) fn then(then: impl Fn(usize) -> Result<(), StoreError> + Send + Sync + 'a) -> Self {
        Self { count: AtomicUsize::new(0), then: Some(Box::new(then)) }
    }

    pub(super) fn call(&self) -> Result<(), StoreError> {
        let before = self.count.fetch_add(1, Ordering::SeqCst);
        self.then.as_ref().map_or(Ok(()), |then| then(before))
    }

    pub(super) fn take(&self) -> usize {
        self.count.swap(0, Ordering::SeqCst)
    }
}

/// A store that is watched.
#[derive(Default)]
pub(super) struct Watched<'a> {
    pub(super) inner: MemoryStore,
    pub(super) keeps: Calls<'a>,
    pub(super) pieces: Calls<'a>,
    /// They come between the walk and the reading.
    pub(super) searches: Calls<'a>,
}

struct WatchedIncoming<'a>(Box<dyn Incoming + 'a>, &'a Calls<'a>);

impl Blobs for Watched<'_> {
    fn has_blob(&self, digest: &BlobDigest) -> Result<Option<u64>, StoreError> {
        self.inner.has_blob(digest)
    }

    fn groups(&self, blob: &BlobRef) -> Result<Vec<Span>, StoreError> {
        self.inner.groups(blob)
    }

    fn read_span(&self, blob: &BlobRef, span: Span) -> Result<Option<VerifiedSpan>, StoreError> {
        self.inner.read_span(blob, span)
    }

    fn keep_spans(&self, spans: &[VerifiedSpan]) -> Result<(), StoreError> {
        self.keeps.call()?;
        self.inner.keep_spans(spans)
    }
}

impl Intake for Watched<'_> {
    fn begin_blob(&self, size: u64) -> Result<Box<dyn Incoming + '_>, StoreError> {
        self.keeps.call()?;
        Ok(Box::new(WatchedIncoming(self.inner.begin_blob(size)?, &self.pieces)))
    }

    fn adopt_blob(&self, file: &Path, blob: &HashedBlob) -> Result<(), StoreError> {
        self.keeps.call()?;
        self.inner.adopt_blob(file, blob)
    }

    fn known_tree(&self, listing: &Listing) -> Result<Option<KnownTree>, StoreError> {
        self.searches.call()?;
        self.inner.known_tree(listing)
    }

    fn note_tree(&self, listing: &Listing, tree: &KnownTree) -> Result<(), StoreError> {
        self.inner.note_tree(listing, tree)
    }
}

impl Incoming for WatchedIncoming<'_> {
    fn write(&self, piece: &HashedPiece) -> Result<(), StoreError> {
        self.1.call()?;
        self.0.write(piece)
    }

    fn finish(self: Box<Self>) -> Result<BlobRef, StoreError> {
        self.0.finish()
    }
}

impl Directories for Watched<'_> {
    fn directory(&self, digest: &DirectoryDigest) -> Result<Option<Directory>, StoreError> {
        self.inner.directory(digest)
    }

    fn has_directory(&self, digest: &DirectoryDigest) -> Result<bool, StoreError> {
        self.inner.has_directory(digest)
    }

    fn keep_directories(&self, directories: &[Directory]) -> Result<(), StoreError> {
        self.keeps.call()?;
        self.inner.keep_directories(directories)
    }
}
