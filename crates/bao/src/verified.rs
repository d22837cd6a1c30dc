//! Bytes that are proven to belong to a blob.
//!
//! The wire form of a span, as `bao-tree` encodes responses:
//!
//! ```text
//! 8 bytes    length of the blob, little-endian
//! then, for the part of the hash tree that touches the span, in pre-order:
//!   64 bytes   a parent: left, right chaining value
//!   <=16 KiB   a group of the span
//! ```

use bao_tree::iter::BaoChunk;
use blake3::hazmat::ChainingValue;
use bytes::{BufMut, Bytes, BytesMut};
use firn_castore::BlobRef;

use crate::{BLOB_BYTES_MAX, PAIR_BYTES, Span, hash, span};

const HEADER_BYTES: usize = 8;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// The claimed length is over [`BLOB_BYTES_MAX`].
    #[error("a blob of {0} bytes is too long")]
    TooLong(u64),
    /// The blob has no such groups.
    #[error("groups {}..{} are past the end of a blob of {size} bytes", .span.groups().start, .span.groups().end)]
    PastEnd {
        /// What was asked.
        span: Span,
        /// The claimed length.
        size: u64,
    },
    /// The header names another length. One of the two claims is false; which, the last group tells.
    #[error("the header says {header} bytes, the Directory {claimed}")]
    Size {
        /// By the header.
        header: u64,
        /// By whom the blob was named.
        claimed: u64,
    },
    /// The proof ends too early.
    #[error("the proof is cut off")]
    Truncated,
    /// Something follows the proof.
    #[error("{0} bytes follow the proof")]
    TooMuch(u64),
    /// A parent is not what its own parent, or the digest, says.
    #[error("a parent hash is wrong")]
    WrongParent,
    /// A group's bytes are not what its parent, or the digest, says.
    #[error("the bytes of the group at {offset} are wrong")]
    WrongBytes {
        /// Where the group begins in the blob.
        offset: u64,
    },
}

/// A span's bytes, and the parents that tie them to the blob's digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedSpan {
    blob: BlobRef,
    span: Span,
    bytes: Bytes,
    /// 64 bytes each, in pre-order; those alone that touch the span.
    parents: Bytes,
}

impl VerifiedSpan {
    /// A whole blob, whose contents are all here. Its parents are made anew.
    pub fn whole(blob: BlobRef, bytes: Bytes) -> Result<Self, SpanError> {
        if blob.size != bytes.len() as u64 {
            return Err(SpanError::Size { header: bytes.len() as u64, claimed: blob.size });
        }
        let (actual, outboard) =
            crate::hash_blob(&mut &bytes[..]).expect("reading from memory does not fail");
        if actual.digest != blob.digest {
            return Err(SpanError::WrongBytes { offset: 0 });
        }
        Ok(Self { blob, span: Span::whole(blob.size), bytes, parents: outboard.as_bytes().clone() })
    }

    /// Takes apart the wire form of this very span.
    pub fn verify(blob: BlobRef, span: Span, proof: &[u8]) -> Result<Self, SpanError> {
        let (header, mut rest) = proof.split_first_chunk::<HEADER_BYTES>().ok_or(SpanError::Truncated)?;
        let header = u64::from_le_bytes(*header);
        if header != blob.size {
            return Err(SpanError::Size { header, claimed: blob.size });
        }
        let mut take = |length: usize| -> Result<&[u8], SpanError> {
            let (taken, left) = rest.split_at_checked(length).ok_or(SpanError::Truncated)?;
            rest = left;
            Ok(taken)
        };
        let capacity = span.bytes(blob.size);
        let mut bytes = BytesMut::with_capacity(proof.len().min((capacity.end - capacity.start) as usize));
        let mut parents = BytesMut::new();
        verify(blob, span, |part| match part {
            Part::Parent { .. } => {
                let pair = take(PAIR_BYTES)?;
                parents.put_slice(pair);
                Ok(pair)
            }
            Part::Group { length, .. } => {
                let group = take(length)?;
                bytes.put_slice(group);
                Ok(group)
            }
        })?;
        match rest.len() {
            0 => Ok(Self { blob, span, bytes: bytes.freeze(), parents: parents.freeze() }),
            more => Err(SpanError::TooMuch(more as u64)),
        }
    }

    /// Takes what was read from a place that may have changed: a span's bytes and the whole [outboard](crate::Outboard).
    pub fn check(blob: BlobRef, span: Span, outboard: &[u8], bytes: Bytes) -> Result<Self, SpanError> {
        let range = span.bytes(blob.size);
        let mut parents = BytesMut::new();
        verify(blob, span, |part| match part {
            Part::Parent { index } => {
                let pair = slice(outboard, index.saturating_mul(PAIR_BYTES as u64), PAIR_BYTES)?;
                parents.put_slice(pair);
                Ok(pair)
            }
            Part::Group { offset, length } => slice(&bytes, offset - range.start, length),
        })?;
        match (bytes.len() as u64).saturating_sub(range.end - range.start) {
            0 => Ok(Self { blob, span, bytes, parents: parents.freeze() }),
            more => Err(SpanError::TooMuch(more)),
        }
    }

    /// Whose span it is.
    pub fn blob(&self) -> BlobRef {
        self.blob
    }

    /// Which span it is.
    pub fn span(&self) -> Span {
        self.span
    }

    /// The bytes: exactly those of [`Span::bytes`].
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The contents, where the span is the whole blob.
    pub fn into_whole(self) -> Option<Bytes> {
        (self.span == Span::whole(self.blob.size)).then_some(self.bytes)
    }

    /// The wire form.
    pub fn to_proof(&self) -> Bytes {
        let mut proof = BytesMut::with_capacity(HEADER_BYTES + self.parents.len() + self.bytes.len());
        proof.put_u64_le(self.blob.size);
        let start = self.span.bytes(self.blob.size).start;
        let mut parents = self.parents.chunks_exact(PAIR_BYTES);
        for part in parts(self.blob.size, self.span) {
            match part.part {
                Part::Parent { .. } => {
                    proof.put_slice(parents.next().expect("verifying has kept each parent of the span"));
                }
                Part::Group { offset, length } => {
                    let at = (offset - start) as usize;
                    proof.put_slice(&self.bytes[at..at + length]);
                }
            }
        }
        proof.freeze()
    }
}

fn slice(bytes: &[u8], at: u64, length: usize) -> Result<&[u8], SpanError> {
    let at = usize::try_from(at).map_err(|_| SpanError::Truncated)?;
    let end = at.checked_add(length).ok_or(SpanError::Truncated)?;
    bytes.get(at..end).ok_or(SpanError::Truncated)
}

/// A piece of a proof.
#[derive(Clone, Copy)]
enum Part {
    /// The parent that stands at `index` in the blob's pre-order outboard.
    Parent { index: u64 },
    /// A group.
    Group { offset: u64, length: usize },
}

/// A piece with what it takes to verify it.
struct Placed {
    part: Part,
    is_root: bool,
    /// For a parent: whether the left, the right child is part of the proof too.
    children: (bool, bool),
}

/// The pieces of a span's proof, in pre-order.
fn parts(size: u64, span: Span) -> Vec<Placed> {
    let tree = span::tree(size);
    let ranges = span.chunk_ranges();
    tree.ranges_pre_order_chunks_iter_ref(&ranges, 0)
        .map(|chunk| match chunk {
            BaoChunk::Parent { node, is_root, left, right, .. } => Placed {
                part: Part::Parent { index: tree.pre_order_offset(node).unwrap_or(u64::MAX) },
                is_root,
                children: (left, right),
            },
            BaoChunk::Leaf { start_chunk, size, is_root, .. } => Placed {
                part: Part::Group { offset: start_chunk.to_bytes(), length: size },
                is_root,
                children: (false, false),
            },
        })
        .collect()
}

/// Checks each piece, which `fetch` brings, against what its parent has promised.
fn verify<'a>(
    blob: BlobRef,
    span: Span,
    mut fetch: impl FnMut(Part) -> Result<&'a [u8], SpanError>,
) -> Result<(), SpanError> {
    if blob.size > BLOB_BYTES_MAX {
        return Err(SpanError::TooLong(blob.size));
    }
    if !span.fits(blob.size) {
        return Err(SpanError::PastEnd { span, size: blob.size });
    }
    let mut promised: Vec<ChainingValue> = vec![*blob.digest.as_bytes()];
    for Placed { part, is_root, children } in parts(blob.size, span) {
        let bytes = fetch(part)?;
        let promise = promised.pop().ok_or(SpanError::WrongParent)?;
        match part {
            Part::Group { offset, .. } => {
                if hash::subtree(offset / 1024, bytes, is_root) != promise {
                    return Err(SpanError::WrongBytes { offset });
                }
            }
            Part::Parent { .. } => {
                let (left, right) = pair(bytes)?;
                if hash::parent(left, right, is_root) != promise {
                    return Err(SpanError::WrongParent);
                }
                if children.1 {
                    promised.push(*right);
                }
                if children.0 {
                    promised.push(*left);
                }
            }
        }
    }
    Ok(())
}

fn pair(bytes: &[u8]) -> Result<(&ChainingValue, &ChainingValue), SpanError> {
    let (left, rest) = bytes.split_first_chunk::<32>().ok_or(SpanError::Truncated)?;
    let right = rest.first_chunk::<32>().ok_or(SpanError::Truncated)?;
    Ok((left, right))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use bao_tree::io::outboard::PreOrderMemOutboard;
    use bao_tree::io::sync::encode_ranges_validated;
    use proptest::prelude::*;

    use super::*;
    use crate::GROUP_BYTES;

    fn contents(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i / 7 % 251) as u8).collect()
    }

    fn read(bytes: &[u8], span: Span) -> VerifiedSpan {
        let (blob, outboard) = crate::hash_blob(&mut Cursor::new(bytes)).unwrap();
        let range = span.bytes(blob.size);
        let part = Bytes::copy_from_slice(&bytes[range.start as usize..range.end as usize]);
        VerifiedSpan::check(blob, span, outboard.as_bytes(), part).unwrap()
    }

    fn spans() -> impl Strategy<Value = (usize, Span)> {
        (0usize..400_000).prop_flat_map(|size| {
            let groups = Span::whole(size as u64).groups().end;
            (Just(size), 0..groups, 1..=groups).prop_map(move |(size, start, length)| {
                (size, Span::from_groups(start..(start + length).min(groups)).unwrap())
            })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_wire_form_is_bao_trees((size, span) in spans()) {
            let bytes = contents(size);
            let theirs = PreOrderMemOutboard::create(&bytes, crate::BLOCK_SIZE);
            let mut encoded = (size as u64).to_le_bytes().to_vec();
            encode_ranges_validated(&bytes[..], &theirs, &span.chunk_ranges(), &mut encoded).unwrap();
            prop_assert_eq!(&read(&bytes, span).to_proof()[..], &encoded[..]);
        }

        #[test]
        fn proof_and_back((size, span) in spans()) {
            let bytes = contents(size);
            let ours = read(&bytes, span);
            prop_assert_eq!(VerifiedSpan::verify(ours.blob(), span, &ours.to_proof()).unwrap(), ours);
        }

        #[test]
        fn any_flipped_bit_is_found((size, span) in spans(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let ours = read(&contents(size), span);
            let mut proof = ours.to_proof().to_vec();
            let at = at.index(proof.len());
            proof[at] ^= 1u8 << bit;
            prop_assert!(VerifiedSpan::verify(ours.blob(), span, &proof).is_err());
        }

        #[test]
        fn any_cut_or_padding_is_found((size, span) in spans(), at in any::<prop::sample::Index>()) {
            let ours = read(&contents(size), span);
            let mut proof = ours.to_proof().to_vec();
            proof.push(0);
            prop_assert_eq!(VerifiedSpan::verify(ours.blob(), span, &proof), Err(SpanError::TooMuch(1)));
            proof.truncate(at.index(proof.len() - 1));
            prop_assert!(VerifiedSpan::verify(ours.blob(), span, &proof).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            size in any::<u64>(), start in any::<u64>(), length in 1u64..100, noise in prop::collection::vec(any::<u8>(), 0..500)
        ) {
            let blob = BlobRef { digest: [7; 32].into(), size };
            if let Some(span) = Span::from_groups(start % (1 << 20)..start % (1 << 20) + length) {
                let mut proof = size.to_le_bytes().to_vec();
                proof.extend(noise);
                prop_assert!(VerifiedSpan::verify(blob, span, &proof).is_err());
            }
        }
    }

    #[test]
    fn a_lying_header_is_told_apart_from_wrong_bytes() {
        let bytes = contents(50_000);
        let ours = read(&bytes, Span::whole(50_000));
        let longer = BlobRef { size: 50_001, ..ours.blob() };
        let error = VerifiedSpan::verify(longer, Span::last(50_001), &ours.to_proof()).unwrap_err();
        assert_eq!(error, SpanError::Size { header: 50_000, claimed: 50_001 });
    }

    #[test]
    fn the_last_group_proves_the_length() {
        // A blob of two groups and one byte, whose namer claims a byte less or more.
        let size = 2 * GROUP_BYTES + 1;
        let ours = read(&contents(size as usize), Span::last(size));
        for claimed in [size - 1, size + 1, size + GROUP_BYTES] {
            let blob = BlobRef { size: claimed, ..ours.blob() };
            let mut proof = ours.to_proof().to_vec();
            proof[..8].copy_from_slice(&claimed.to_le_bytes());
            assert!(VerifiedSpan::verify(blob, Span::last(claimed), &proof).is_err());
        }
    }

    #[test]
    fn whole_blobs() {
        let bytes = Bytes::from(contents(100_000));
        let blob = BlobRef::of(&bytes);
        let whole = VerifiedSpan::whole(blob, bytes.clone()).unwrap();
        assert_eq!(whole, read(&bytes, Span::whole(blob.size)));
        let other = BlobRef { digest: [0; 32].into(), ..blob };
        assert_eq!(VerifiedSpan::whole(other, bytes), Err(SpanError::WrongBytes { offset: 0 }));
    }
}
