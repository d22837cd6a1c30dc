//! All parents of a blob's hash tree.

use std::io::{self, Read};

use blake3::hazmat::ChainingValue;
use bytes::Bytes;
use firn_castore::{BlobDigest, BlobRef};

use crate::{GROUP_BYTES, PAIR_BYTES, PIECE_BYTES, Span, hash, span, tree};

/// The parents of a blob's hash tree in pre-order, 64 bytes each: left and right chaining value.
///
/// Empty for blobs of at most one group. There is no length in front. This is bao-tree's pre-order outboard for 16 KiB
/// chunk groups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outboard(Bytes);

impl Outboard {
    /// The encoding.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// How long the outboard of a blob of `size` bytes is.
    pub fn byte_length(size: u64) -> u64 {
        (span::group_count(size) - 1) * PAIR_BYTES as u64
    }

    /// The parents of a span of the blob, which has `size` bytes: what [`Span::parents`] names. `None`: they
    /// are not all here, so that this is not the outboard of such a blob.
    pub fn parents_of(&self, size: u64, span: Span) -> Option<Bytes> {
        let place = |index: u64| usize::try_from(index).ok()?.checked_mul(PAIR_BYTES);
        let mut runs = Vec::new();
        for run in span.parents(size) {
            let run = place(run.start)?..place(run.end)?;
            self.0.get(run.clone())?;
            runs.push(run);
        }
        match &runs[..] {
            [run] => Some(self.0.slice(run.clone())),
            _ => Some(runs.into_iter().flat_map(|run| &self.0[run]).copied().collect()),
        }
    }
}

/// A blob's name and its outboard, which were computed together from contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashedBlob {
    blob: BlobRef,
    outboard: Outboard,
}

impl HashedBlob {
    /// Hashes contents.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_tree(bytes.len() as u64, HashedTree::of(bytes))
    }

    /// Joins the pieces, all of them and in order, of a blob of `size` bytes.
    pub(crate) fn join(size: u64, pieces: impl IntoIterator<Item = HashedTree>) -> Self {
        let mut pieces = pieces.into_iter();
        let mut parents = Vec::with_capacity(Outboard::byte_length(size) as usize);
        let value = tree::fold(size.div_ceil(PIECE_BYTES), true, &mut parents, &mut |parents| {
            let piece = pieces.next().expect("the caller has all pieces");
            parents.extend_from_slice(&piece.parents);
            piece.value
        });
        Self::from_tree(size, HashedTree { value, parents: parents.into() })
    }

    fn from_tree(size: u64, tree: HashedTree) -> Self {
        let digest = BlobDigest::from(tree.value);
        Self { blob: BlobRef { digest, size }, outboard: Outboard(tree.parents) }
    }

    /// The name.
    pub fn blob(&self) -> BlobRef {
        self.blob
    }

    /// The outboard.
    pub fn outboard(&self) -> &Outboard {
        &self.outboard
    }
}

/// Reads to the end and hashes what comes, a piece at a time. Beside a piece there is the outboard in memory.
pub fn hash_blob(reader: &mut dyn Read) -> io::Result<HashedBlob> {
    let mut trees = Vec::new();
    let mut size = 0;
    // The byte after a piece tells whether there is more, and so whether the first piece is the root.
    let mut buffer = Vec::with_capacity(GROUP_BYTES as usize);
    loop {
        let length_max = PIECE_BYTES + 1 - buffer.len() as u64;
        Read::take(&mut *reader, length_max).read_to_end(&mut buffer)?;
        let (piece, ahead) = buffer.split_at(buffer.len().min(PIECE_BYTES as usize));
        let ahead = ahead.first().copied();
        if size == 0 && ahead.is_none() {
            return Ok(HashedBlob::of(piece));
        }
        trees.push(HashedTree::of_part(size, piece));
        size += piece.len() as u64;
        let Some(ahead) = ahead else { return Ok(HashedBlob::join(size, trees)) };
        buffer.clear();
        buffer.push(ahead);
    }
}

/// The value of a tree, and its parents in pre-order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HashedTree {
    value: ChainingValue,
    parents: Bytes,
}

impl HashedTree {
    /// A whole blob.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        if bytes.len() as u64 <= GROUP_BYTES {
            return Self { value: hash::root(bytes), parents: Bytes::new() };
        }
        Self::of_groups(0, bytes, true)
    }

    /// A complete subtree of a larger blob, or its last one: what begins at `offset`.
    pub(crate) fn of_part(offset: u64, bytes: &[u8]) -> Self {
        Self::of_groups(offset, bytes, false)
    }

    fn of_groups(mut offset: u64, bytes: &[u8], is_root: bool) -> Self {
        let size = bytes.len() as u64;
        let mut parents = Vec::with_capacity(Outboard::byte_length(size) as usize);
        let mut groups = bytes.chunks(GROUP_BYTES as usize);
        let value = tree::fold(span::group_count(size), is_root, &mut parents, &mut |_| {
            let group = groups.next().unwrap_or_default();
            let value = hash::group(offset, group);
            offset = offset.wrapping_add(GROUP_BYTES);
            value
        });
        Self { value, parents: parents.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bao_tree::io::outboard::PreOrderMemOutboard;
    use proptest::prelude::*;

    use crate::testing::{BLOCK_SIZE, contents, sizes};

    fn is_bao_trees(size: usize) {
        let bytes = contents(size);
        let hashed = HashedBlob::of(&bytes);
        assert_eq!(hashed.blob(), BlobRef::of(&bytes));
        let theirs = PreOrderMemOutboard::create(&bytes, BLOCK_SIZE);
        assert_eq!(hashed.outboard().as_bytes()[..], theirs.data[..], "{size} bytes");
        assert_eq!(hashed.outboard().as_bytes().len() as u64, Outboard::byte_length(size as u64));
        assert_eq!(hash_blob(&mut &bytes[..]).unwrap(), hashed, "{size} bytes");
    }

    #[test]
    fn as_blake3_and_bao_tree_have_it() {
        for size in [0, 1, 1024, 16_384, 16_385, 32_768, 49_153, 100_000, 1_000_000] {
            is_bao_trees(size);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn as_bao_tree_has_it_around_pieces(size in sizes()) {
            is_bao_trees(size);
        }
    }

    #[test]
    fn an_outboard_that_is_too_short_has_no_parents_of_a_span() {
        let size = 100_000;
        let hashed = HashedBlob::of(&contents(size));
        let short = Outboard(hashed.outboard().as_bytes().slice(..64 * 4));
        assert_eq!(short.parents_of(size as u64, Span::last(size as u64)), None);
        assert_eq!(short.parents_of(u64::MAX, Span::last(u64::MAX)), None);
    }
}
