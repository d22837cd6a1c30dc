//! Why a store could not do something.

use std::{fmt, io, path::PathBuf};

use firn_bao::{PieceError, SpanError};
use firn_castore::{BlobDigest, BlobRef, ClosureError, DirectoryDigest, DirectoryError, Root, RootError};
use firn_nix::StorePathHash;
use firn_trust::StoredPathError;

/// Something that a store holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// The contents of a file.
    Blob(BlobDigest),
    /// One level of a tree.
    Directory(DirectoryDigest),
    /// The record of a path.
    Path(StorePathHash),
    /// The record of a tree without a path.
    Root(Root),
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Blob(digest) => write!(f, "blob {digest}"),
            Item::Directory(digest) => write!(f, "Directory {digest}"),
            Item::Path(hash) => write!(f, "the record of path {hash}"),
            Item::Root(root) => write!(f, "the record of root {root}"),
        }
    }
}

/// In what way something that was kept is not what it was.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// The bytes, or the parents beside them, do not belong to the digest.
    #[error(transparent)]
    Span(#[from] SpanError),
    /// The bytes are not the Directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The file is gone.
    #[error("the file is gone")]
    Gone,
    /// The file ends too early.
    #[error("the file ends too early")]
    Short,
    /// The record of where it is is not what was written.
    #[error("the record of its place is wrong")]
    Record,
    /// The record is not what was written.
    #[error("the checksum is wrong")]
    Checksum,
    /// The record cannot be read.
    #[error(transparent)]
    Path(#[from] StoredPathError),
    /// The root cannot be read.
    #[error(transparent)]
    Root(#[from] RootError),
}

/// Why a store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system would not; a full disk too.
    #[error("{}: {source}", .path.display())]
    Io {
        /// With which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// What was to be added could not be read.
    #[error("the contents cannot be read: {0}")]
    Reader(io::Error),
    /// The index cannot be used.
    #[error("the index {} cannot be used: {source}", .path.display())]
    Index {
        /// The index's file.
        path: PathBuf,
        /// What redb said.
        source: Box<redb::Error>,
    },
    /// What was kept has changed since.
    #[error("{item} is damaged in {}: {damage}", .file.display())]
    Damaged {
        /// What.
        item: Item,
        /// Where; `memory` in a [`MemoryStore`](crate::MemoryStore).
        file: PathBuf,
        /// In what way.
        damage: Box<Damage>,
    },
    /// A record is damaged: what it needs is unknown, so that anything might be.
    #[error(
        "{source}; what it needs is unknown, so nothing is collected before `firn verify --repair` puts it aside"
    )]
    NotCollected {
        /// Which record.
        source: Box<StoreError>,
    },
    /// Something beneath a root is not here.
    #[error("{0} is missing")]
    Missing(Item),
    /// Not all pieces of a blob that was being copied in have come.
    #[error("of a blob of {size} bytes, {missing_pieces} pieces never came")]
    Incomplete {
        /// How long the blob is, in bytes.
        size: u64,
        /// How many of its pieces are missing.
        missing_pieces: u64,
    },
    /// A piece is not one of the blob that is being copied in.
    #[error(transparent)]
    Piece(#[from] PieceError),
    /// The Directories beneath a root make no tree.
    #[error("{root} is no tree: {source}")]
    Tree {
        /// Whose Directories.
        root: Root,
        /// What is wrong with them.
        source: ClosureError,
    },
    /// The blob has no such span.
    #[error("blob {}: {source}", .blob.digest)]
    Span {
        /// Whose span.
        blob: BlobRef,
        /// What is wrong with it.
        source: SpanError,
    },
}

impl StoreError {
    /// What is not here any longer, or not what it was, where the error says so.
    pub fn lost(&self) -> Option<&Item> {
        match self {
            Self::Missing(item) | Self::Damaged { item, .. } => Some(item),
            _ => None,
        }
    }

    /// Whether there is no room on the disk.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        let is_full = |error: &io::Error| matches!(error.kind(), StorageFull | QuotaExceeded);
        match self {
            Self::Io { source, .. } => is_full(source),
            Self::Index { source, .. } => matches!(&**source, redb::Error::Io(error) if is_full(error)),
            _ => false,
        }
    }

    /// Puts the file's name to an error.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// Why nothing is collected: this record is damaged.
    pub(crate) fn not_collected(record: Self) -> Self {
        Self::NotCollected { source: Box::new(record) }
    }

    pub(crate) fn damaged(item: Item, file: impl Into<PathBuf>, damage: impl Into<Damage>) -> Self {
        Self::Damaged { item, file: file.into(), damage: Box::new(damage.into()) }
    }
}
