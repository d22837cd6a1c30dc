//! What a store can do.

use std::io::Read;

use firn_bao::{Span, VerifiedSpan};
use firn_castore::{BlobDigest, BlobRef, Directory, DirectoryDigest, Root};
use firn_nix::StorePathHash;
use firn_trust::StoredPath;

use crate::StoreError;

/// Contents of files.
pub trait Blobs: Send + Sync {
    /// The length in bytes, if the whole blob is here.
    fn has_blob(&self, digest: &BlobDigest) -> Result<Option<u64>, StoreError>;

    /// Reads and verifies a span of a whole blob. `None`: there is no whole blob of this digest and length.
    ///
    /// All of the span is in memory at once, so whoever reads something large cuts it.
    fn read_span(&self, blob: &BlobRef, span: Span) -> Result<Option<VerifiedSpan>, StoreError>;

    /// Keeps a span. The spans of a blob come in any order; the blob is here once all of them are.
    fn keep_span(&self, span: &VerifiedSpan) -> Result<(), StoreError>;

    /// Reads to the end and keeps that as a blob. An error of the reader is [`StoreError::Reader`].
    fn add_blob(&self, reader: &mut dyn Read) -> Result<BlobRef, StoreError>;
}

/// The levels of trees.
pub trait Directories: Send + Sync {
    /// The Directory of this name, verified.
    fn directory(&self, digest: &DirectoryDigest) -> Result<Option<Directory>, StoreError>;

    /// Keeps Directories, in any order.
    fn keep_directories(&self, directories: &[Directory]) -> Result<(), StoreError>;
}

/// What is visible: whole trees, with the store paths that they are believed to be.
pub trait Paths: Send + Sync {
    /// Makes a path visible, in place of an earlier record of it.
    ///
    /// This comes last: what is beneath the root must be here already, else [`StoreError::Missing`] names something
    /// that is not. When it returns, the path and all beneath it are durable.
    fn commit(&self, path: StoredPath) -> Result<(), StoreError>;

    /// Makes a tree visible that has no path; else as [`Paths::commit`].
    fn commit_root(&self, root: &Root, shared: bool) -> Result<(), StoreError>;

    /// The record of a path.
    fn path(&self, hash: &StorePathHash) -> Result<Option<StoredPath>, StoreError>;

    /// All paths, in the order of their hashes.
    fn paths(&self) -> Result<Vec<StoredPath>, StoreError>;

    /// All trees that were committed without a path, and whether peers may have them, in the order of their encoding.
    fn roots(&self) -> Result<Vec<(Root, bool)>, StoreError>;
}

/// A whole store.
pub trait Store: Blobs + Directories + Paths {}

impl<T: Blobs + Directories + Paths + ?Sized> Store for T {}
