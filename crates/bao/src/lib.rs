//! Proves and verifies one span of one blob, in 16 KiB chunk groups.
//!
//! A [`Span`] is a run of groups of a blob. A [`VerifiedSpan`] is a span's bytes with the proof that they belong to the
//! blob's BLAKE3 digest; it can only be made by verifying, or by hashing the whole blob. Its wire form is exactly
//! bao-tree's response encoding. A [`HashedBlob`] is a blob's name with its [`Outboard`]: all parents of its hash tree, so
//! that any span of it can be proven. [`Pieces`] computes one from [`HashedPiece`]s, which several threads may make.
//! [`VerifiedBytes`] are for whoever hands on contents without their proof.
//!
//! Deliberately absent: files, sockets, more than one span at a time.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]
#![deny(clippy::print_stdout, clippy::print_stderr)] // They panic where nobody can be told.

mod groups;
mod hash;
mod in_place;
mod outboard;
mod piece;
mod span;
#[cfg(test)]
mod testing;
mod tree;
mod verified;

pub use groups::Groups;
pub use in_place::{Unverified, VerifiedBytes};
pub use outboard::{HashedBlob, Outboard, hash_blob};
pub use piece::{HashedPiece, PIECE_BYTES, PIECE_GROUPS, PieceError, Pieces};
pub use span::{BLOB_BYTES_MAX, GROUP_BYTES, Span};
pub use verified::{SpanError, VerifiedSpan};

/// Two chaining values.
pub(crate) const PAIR_BYTES: usize = 64;
