//! What a store can do.

use std::{path::Path, sync::Arc};

use firn_bao::{HashedBlob, HashedPiece, Span, SpanError, VerifiedBytes, VerifiedSpan};
use firn_castore::{BlobDigest, BlobRef, Closure, Directory, DirectoryDigest, Root};
use firn_nix::StorePathHash;
use firn_trust::StoredPath;

use crate::{KnownTree, Listing, Pins, Reason, Room, StoreError, Visible};

/// Contents of files.
pub trait Blobs: Send + Sync {
    /// The length in bytes, if the whole blob is here.
    fn has_blob(&self, digest: &BlobDigest) -> Result<Option<u64>, StoreError>;

    /// Which groups of a blob are here, as runs that neither overlap nor touch, in order: one of all of them where it is
    /// whole, none where nothing of it is here.
    fn groups(&self, blob: &BlobRef) -> Result<Vec<Span>, StoreError>;

    /// Reads and verifies a span. `None`: it is not all here, or there is no blob of this digest and length.
    ///
    /// All of the span is in memory at once, so whoever reads something large cuts it.
    fn read_span(&self, blob: &BlobRef, span: Span) -> Result<Option<VerifiedSpan>, StoreError>;

    /// Reads a span, as [`Blobs::read_span`] does, behind what has been read, and verifies it there. False where nothing
    /// has come.
    fn read_onto(&self, read: &mut VerifiedBytes, blob: &BlobRef, span: Span) -> Result<bool, StoreError> {
        let span = self.read_span(blob, span)?;
        Ok(span.map(|span| read.push(span.bytes())).is_some())
    }

    /// Keeps spans, of one blob or of several. The spans of a blob come in any order; the blob is here once all of them
    /// are.
    ///
    /// Whoever has many at hand gives them together, which is faster. Where it fails some of them may have been kept.
    fn keep_spans(&self, spans: &[VerifiedSpan]) -> Result<(), StoreError>;
}

/// Refuses a span that a blob of this length does not have: what reading it begins with.
pub(crate) fn check_fits(blob: &BlobRef, span: Span) -> Result<(), StoreError> {
    match span.fits(blob.size) {
        true => Ok(()),
        false => {
            let source = SpanError::PastEnd { span, size: blob.size };
            Err(StoreError::Span { blob: *blob, source })
        }
    }
}

/// What comes from this machine's file system.
pub trait Intake: Send + Sync {
    /// Begins a blob of this many bytes, more than one piece, whose contents are to be copied.
    fn begin_blob(&self, size: u64) -> Result<Box<dyn Incoming + '_>, StoreError>;

    /// Keeps a blob whose contents stay in this file (an absolute path). They are read there, and verified, whenever the
    /// blob is read; when the file has changed the blob is absent.
    fn adopt_blob(&self, file: &Path, blob: &HashedBlob) -> Result<(), StoreError>;

    /// The tree that a walk has come to before.
    fn known_tree(&self, listing: &Listing) -> Result<Option<KnownTree>, StoreError>;

    /// Remembers to which tree a walk has come. It is durable with the next commit.
    fn note_tree(&self, listing: &Listing, tree: &KnownTree) -> Result<(), StoreError>;
}

/// A blob that is being copied in. Dropped before its end, nothing of it stays.
pub trait Incoming: Send + Sync {
    /// Takes a piece; the pieces come in any order, from any thread.
    fn write(&self, piece: &HashedPiece) -> Result<(), StoreError>;

    /// Keeps the blob. Pieces that never came are [`StoreError::Incomplete`].
    fn finish(self: Box<Self>) -> Result<BlobRef, StoreError>;
}

/// The levels of trees.
pub trait Directories: Send + Sync {
    /// The Directory of this name, verified.
    fn directory(&self, digest: &DirectoryDigest) -> Result<Option<Directory>, StoreError>;

    /// Whether it is here, without reading it.
    fn has_directory(&self, digest: &DirectoryDigest) -> Result<bool, StoreError>;

    /// Keeps Directories, in any order. Where it fails some of them may have been kept.
    fn keep_directories(&self, directories: &[Directory]) -> Result<(), StoreError>;
}

/// What is made visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A path.
    Path(Box<StoredPath>),
    /// A tree that has no path.
    Tree {
        /// Which one.
        root: Root,
        /// Whether peers may have it.
        shared: bool,
    },
}

impl Record {
    /// What is visible by it.
    pub fn what(&self) -> Visible {
        match self {
            Record::Path(path) => Visible::Path(path.path_hash()),
            Record::Tree { root, .. } => Visible::Root(root.clone()),
        }
    }

    /// The tree that it is about.
    pub fn root(&self) -> &Root {
        match self {
            Record::Path(path) => path.root(),
            Record::Tree { root, .. } => root,
        }
    }
}

/// What is visible: whole trees, with the store paths that they are believed to be.
pub trait Paths: Send + Sync {
    /// Makes something visible, in place of an earlier record of it, and pins it if there is a reason.
    ///
    /// This comes last: what is beneath the root must be here already, else [`StoreError::Missing`] names something
    /// that is not. When it returns, the record and all beneath it are durable. Commits of several threads share a sync.
    ///
    /// Where the caller has the tree in memory, its Directories are looked for, as its blobs are, instead of read.
    fn commit_record(
        &self,
        record: Record,
        known: Option<Arc<Closure>>,
        pin: Option<&Reason>,
    ) -> Result<(), StoreError>;

    /// Makes a path visible; see [`Paths::commit_record`].
    fn commit(&self, path: StoredPath, pin: Option<&Reason>) -> Result<(), StoreError> {
        self.commit_record(Record::Path(Box::new(path)), None, pin)
    }

    /// Makes a tree visible that has no path; see [`Paths::commit_record`].
    fn commit_root(&self, root: &Root, shared: bool, pin: Option<&Reason>) -> Result<(), StoreError> {
        self.commit_record(Record::Tree { root: root.clone(), shared }, None, pin)
    }

    /// The record of a path.
    fn path(&self, hash: &StorePathHash) -> Result<Option<StoredPath>, StoreError>;

    /// All paths, in the order of their hashes; without those whose records are damaged.
    fn paths(&self) -> Result<Vec<StoredPath>, StoreError>;

    /// All trees that were committed without a path, and whether peers may have them, in the order of their encoding;
    /// without those whose records are damaged.
    fn roots(&self) -> Result<Vec<(Root, bool)>, StoreError>;

    /// What is wrong with the records that [`Paths::paths`] and [`Paths::roots`] leave out, paths first. While there are
    /// any, nothing is collected.
    fn damaged_records(&self) -> Result<Vec<StoreError>, StoreError>;
}

/// A whole store.
pub trait Store: Blobs + Intake + Directories + Paths + Pins + Room {}

impl<T: Blobs + Intake + Directories + Paths + Pins + Room + ?Sized> Store for T {}
