//! Hashing a blob in pieces, which may come in any order.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;

use crate::outboard::HashedTree;
use crate::{GROUP_BYTES, HashedBlob};

/// How many groups are in a piece. Since this is a power of two, a piece is a complete subtree unless it is the last one.
pub const PIECE_GROUPS: u64 = 64;
/// 1 MiB. Only a blob's last piece may be shorter.
pub const PIECE_BYTES: u64 = PIECE_GROUPS * GROUP_BYTES;

/// A piece of a blob that has more than one, and what it hashes to.
#[derive(Debug, Clone)]
pub struct HashedPiece {
    index: u64,
    bytes: Bytes,
    tree: HashedTree,
}

impl HashedPiece {
    /// Hashes the piece that begins at `index` times [`PIECE_BYTES`].
    pub fn of(index: u64, bytes: Bytes) -> Self {
        // No blob has a piece that begins past 2^64: where this wraps, the piece is good for nothing.
        let tree = HashedTree::of_part(index.wrapping_mul(PIECE_BYTES), &bytes);
        Self { index, bytes, tree }
    }

    /// Which piece of its blob it is, counted from zero.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The contents.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// Why a piece is not one of a blob's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PieceError {
    /// The blob has no such piece.
    #[error("piece {index} is past the end of a blob of {size} bytes")]
    PastEnd {
        /// Of the piece.
        index: u64,
        /// Of the blob, in bytes.
        size: u64,
    },
    /// The piece is too short or too long for its place.
    #[error("piece {index} is {actual} bytes long, not {expected}")]
    Length {
        /// Of the piece.
        index: u64,
        /// What the blob's length leaves for it, in bytes.
        expected: u64,
        /// Its own length in bytes.
        actual: u64,
    },
    /// It has come before, with other contents.
    #[error("piece {index} has come twice, with different contents")]
    Differs {
        /// Of the piece.
        index: u64,
    },
}

/// Gathers what the pieces of a blob hash to, without their bytes.
///
/// It takes as much memory as the outboard of what has come, and as much again while it finishes.
#[derive(Debug)]
pub struct Pieces {
    size: u64,
    trees: BTreeMap<u64, HashedTree>,
}

impl Pieces {
    /// None yet, of a blob of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self { size, trees: BTreeMap::new() }
    }

    /// Takes a piece; they come in any order.
    pub fn insert(&mut self, piece: &HashedPiece) -> Result<(), PieceError> {
        let HashedPiece { index, .. } = *piece;
        let actual = piece.bytes.len() as u64;
        let expected = self.length(index).ok_or(PieceError::PastEnd { index, size: self.size })?;
        if actual != expected {
            return Err(PieceError::Length { index, expected, actual });
        }
        // The only piece of a blob is its root, which hashes to something else than a piece of a larger one.
        let is_root = self.count() == 1;
        let tree = if is_root { HashedTree::of(&piece.bytes) } else { piece.tree.clone() };
        match self.trees.entry(index) {
            Entry::Vacant(place) => {
                place.insert(tree);
            }
            Entry::Occupied(place) if *place.get() == tree => {}
            Entry::Occupied(_) => return Err(PieceError::Differs { index }),
        }
        Ok(())
    }

    /// How many have not come.
    pub fn missing(&self) -> u64 {
        self.count() - self.trees.len() as u64
    }

    /// The blob. `None`: not all pieces have come.
    pub fn finish(self) -> Option<HashedBlob> {
        let is_complete = self.trees.len() as u64 == self.count();
        is_complete.then(|| HashedBlob::join(self.size, self.trees.into_values()))
    }

    /// How many pieces the blob has. An empty one has one, which is empty.
    fn count(&self) -> u64 {
        self.size.div_ceil(PIECE_BYTES).max(1)
    }

    fn length(&self, index: u64) -> Option<u64> {
        (index < self.count()).then(|| (self.size - index * PIECE_BYTES).min(PIECE_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{contents, sizes};

    fn pieces(bytes: &Bytes) -> Vec<HashedPiece> {
        let count = (bytes.len() as u64).div_ceil(PIECE_BYTES).max(1);
        let cut = |index: u64| {
            let start = (index * PIECE_BYTES) as usize;
            bytes.slice(start..bytes.len().min(start + PIECE_BYTES as usize))
        };
        (0..count).map(|index| HashedPiece::of(index, cut(index))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn pieces_in_any_order_make_the_blob(size in sizes(), first in any::<prop::sample::Index>()) {
            let bytes = Bytes::from(contents(size));
            let mut pieces = pieces(&bytes);
            let count = pieces.len();
            pieces.rotate_left(first.index(count));
            let mut gathered = Pieces::new(size as u64);
            for piece in pieces.iter().rev().chain(&pieces) {
                gathered.insert(piece).unwrap();
            }
            prop_assert_eq!(gathered.finish().unwrap(), HashedBlob::of(&bytes));

            let mut but_one = Pieces::new(size as u64);
            for piece in &pieces[1..] {
                but_one.insert(piece).unwrap();
            }
            prop_assert!(but_one.finish().is_none());
        }

        #[test]
        fn no_piece_and_no_size_panics(size in any::<u64>(), index in any::<u64>(), length in 0usize..40_000) {
            let piece = HashedPiece::of(index, Bytes::from(contents(length)));
            let _ = Pieces::new(size).insert(&piece);
            prop_assert!(Pieces::new(size.max(PIECE_BYTES + 1)).finish().is_none());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let size = PIECE_BYTES + 5;
        let mut pieces = Pieces::new(size);
        let piece = |index, length| HashedPiece::of(index, Bytes::from(contents(length)));
        assert_eq!(pieces.insert(&piece(2, 5)), Err(PieceError::PastEnd { index: 2, size }));
        let error = |actual| Err(PieceError::Length { index: 1, expected: 5, actual });
        assert_eq!(pieces.insert(&piece(1, 4)), error(4));
        assert_eq!(pieces.insert(&piece(1, PIECE_BYTES as usize)), error(PIECE_BYTES));
        assert_eq!(pieces.insert(&piece(1, 0)), error(0));
        assert_eq!(pieces.insert(&piece(1, 5)), Ok(()));
        let other = HashedPiece::of(1, Bytes::from_static(b"other"));
        assert_eq!(pieces.insert(&other), Err(PieceError::Differs { index: 1 }));
        assert!(pieces.finish().is_none());
    }
}
