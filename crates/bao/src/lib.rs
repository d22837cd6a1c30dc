//! Proves and verifies one span of one blob, in 16 KiB chunk groups.
//!
//! A [`Span`] is a run of groups of a blob. A [`VerifiedSpan`] is a span's bytes with the proof that they belong to the
//! blob's BLAKE3 digest; it can only be made by verifying. Its wire form is exactly bao-tree's response encoding. An
//! [`Outboard`] holds all parents of a blob's hash tree, so that any span of it can be proven.
//!
//! Deliberately absent: files, sockets, more than one span at a time.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod hash;
mod outboard;
mod span;
mod verified;

pub use outboard::{Outboard, hash_blob};
pub use span::{BLOB_BYTES_MAX, GROUP_BYTES, Span};
pub use verified::{SpanError, VerifiedSpan};

use bao_tree::BlockSize;

/// 2^4 chunks of 1 KiB.
pub(crate) const BLOCK_SIZE: BlockSize = BlockSize::from_chunk_log(4);
/// Two chaining values.
pub(crate) const PAIR_BYTES: usize = 64;
