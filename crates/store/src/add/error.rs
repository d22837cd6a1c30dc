//! Why a tree could not be added.

use std::{
    io,
    path::{Path, PathBuf},
};

use firn_bao::BLOB_BYTES_MAX;
use firn_castore::{ClosureError, DEPTH_MAX, DirectoryError, NameError};
use rustix::io::Errno;

use crate::StoreError;

/// Why a tree could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The file system would not.
    #[error("{}: {source}", .path.display())]
    Io {
        /// With which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A socket, a device or a pipe.
    #[error("{} is neither a file, a directory nor a symlink", .0.display())]
    Kind(PathBuf),
    /// A name, or the target of a symlink, that no tree may have.
    #[error("{} has an illegal name or target: {source}", .path.display())]
    Name {
        /// Whose.
        path: PathBuf,
        /// What is wrong with it.
        source: NameError,
    },
    /// The file was written to, or something else came in its place, meanwhile.
    #[error("{} has changed while it was read{}", .path.display(), lengths(*.before, *.after))]
    Changed {
        /// Which file.
        path: PathBuf,
        /// How many bytes it had when it was found.
        before: u64,
        /// How many it has now, or were read.
        after: u64,
    },
    /// A file that is longer than any blob; a sparse one may be.
    #[error("{} has more than {BLOB_BYTES_MAX} bytes", .0.display())]
    TooLong(PathBuf),
    /// Too many directories within each other.
    #[error("{} is deeper than {DEPTH_MAX} directories", .0.display())]
    TooDeep(PathBuf),
    /// A directory of too many entries.
    #[error("{}: {source}", .path.display())]
    Directory {
        /// Which directory.
        path: PathBuf,
        /// What is wrong with it.
        source: DirectoryError,
    },
    /// A tree of too many entries.
    #[error("{}: {source}", .path.display())]
    Tree {
        /// Which tree.
        path: PathBuf,
        /// What is wrong with it.
        source: ClosureError,
    },
    /// Whoever is told of the progress wanted no more.
    #[error("{} was not read to its end: that was stopped", .0.display())]
    Stopped(PathBuf),
    /// The store would not.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AddError {
    /// Puts the file's name to an error.
    pub(super) fn io(path: &Path) -> impl FnOnce(Errno) -> Self {
        |errno| Self::Io { path: path.to_path_buf(), source: errno.into() }
    }

    /// Why what was found a moment ago cannot be opened.
    pub(super) fn open(path: &Path, errno: Errno) -> Self {
        match errno {
            // A symlink or a file is where a directory was, or a symlink where a file was.
            Errno::LOOP | Errno::NOTDIR => Self::exchanged(path),
            errno => Self::io(path)(errno),
        }
    }

    /// Something else is where this was.
    pub(super) fn exchanged(path: &Path) -> Self {
        Self::Changed { path: path.to_path_buf(), before: 0, after: 0 }
    }
}

fn lengths(before: u64, after: u64) -> String {
    if before == after { String::new() } else { format!(": it had {before} bytes, then {after}") }
}
