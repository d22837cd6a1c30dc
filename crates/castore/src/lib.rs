//! The castore data model: how a file tree becomes a Merkle tree of [`Directory`] messages over blobs.
//!
//! A blob is a file's contents, named by a [`BlobRef`]. A [`Directory`] is one level of a tree, named by its
//! [`DirectoryDigest`]. A [`Root`] is the nameless entry that stands for a whole tree, and a [`Closure`] is the proof
//! that every Directory beneath a root is here, connected, and of the size that its parents claim.
//!
//! The encodings are byte-identical to `snix.castore.v1`. A value of these types can only be made by the check that
//! it stands for, so whoever holds one need not check again. Deliberately absent: any I/O, contents of blobs, trust.

#![deny(clippy::print_stdout, clippy::print_stderr)] // They panic where nobody can be told.

mod closure;
mod digest;
mod directory;
mod name;
mod root;
mod walk;

pub use closure::{Closure, ClosureBuilder, ClosureError, DEPTH_MAX, ENTRIES_MAX};
pub use digest::{BlobDigest, BlobRef, DigestError, DirectoryDigest};
pub use directory::{DIRECTORY_BYTES_MAX, Directory, DirectoryError};
pub use name::{NAME_BYTES_MAX, NameError, PathComponent, SymlinkTarget, TARGET_BYTES_MAX};
pub use root::{Node, Root, RootError};
pub use walk::{Step, Walk};
