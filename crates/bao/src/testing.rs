//! What the tests share.

use bao_tree::BlockSize;
use bytes::Bytes;
use proptest::prelude::*;

use crate::{GROUP_BYTES, HashedBlob, PIECE_BYTES, Span, VerifiedSpan};

/// 2^4 chunks of 1 KiB.
pub(crate) const BLOCK_SIZE: BlockSize = BlockSize::from_chunk_log(4);

pub(crate) fn contents(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i / 7 % 251) as u8).collect()
}

/// Lengths at and beside the borders of pieces, and anywhere.
pub(crate) fn sizes() -> impl Strategy<Value = usize> {
    let beside = [0, 1, GROUP_BYTES as isize - 1, GROUP_BYTES as isize, GROUP_BYTES as isize + 1];
    let signed = beside.into_iter().flat_map(|bytes| [bytes, -bytes]).collect::<Vec<_>>();
    let at_borders = (0..8isize, prop::sample::select(signed))
        .prop_map(|(pieces, beside)| (pieces * PIECE_BYTES as isize + beside).max(0) as usize);
    prop_oneof![3 => at_borders, 1 => 0..8 * PIECE_BYTES as usize]
}

/// A span of a blob, as it is read from a place that has its outboard.
pub(crate) fn read(bytes: &[u8], span: Span) -> VerifiedSpan {
    let hashed = HashedBlob::of(bytes);
    let blob = hashed.blob();
    let range = span.bytes(blob.size);
    let part = Bytes::copy_from_slice(&bytes[range.start as usize..range.end as usize]);
    let parents = hashed.outboard().parents_of(blob.size, span).unwrap();
    VerifiedSpan::check(blob, span, parents, part).unwrap()
}
