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

use blake3::hazmat::ChainingValue;
use bytes::{BufMut, Bytes, BytesMut};
use firn_castore::BlobRef;

use crate::tree::{Part, parts};
use crate::{BLOB_BYTES_MAX, GROUP_BYTES, HashedBlob, PAIR_BYTES, Span, hash};

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
    /// A whole blob, whose contents are all here. It is named by what they hash to.
    pub fn of(bytes: Bytes) -> Self {
        let hashed = HashedBlob::of(&bytes);
        let blob = hashed.blob();
        Self { blob, span: Span::whole(blob.size), bytes, parents: hashed.outboard().as_bytes().clone() }
    }

    /// A whole blob, whose contents are all here. Its parents are made anew.
    pub fn whole(blob: BlobRef, bytes: Bytes) -> Result<Self, SpanError> {
        if blob.size != bytes.len() as u64 {
            return Err(SpanError::Size { header: bytes.len() as u64, claimed: blob.size });
        }
        let whole = Self::of(bytes);
        if whole.blob != blob {
            return Err(SpanError::WrongBytes { offset: 0 });
        }
        Ok(whole)
    }

    /// Takes apart the wire form of this very span.
    pub fn verify(blob: BlobRef, span: Span, proof: &[u8]) -> Result<Self, SpanError> {
        let (header, rest) = proof.split_first_chunk::<HEADER_BYTES>().ok_or(SpanError::Truncated)?;
        let header = u64::from_le_bytes(*header);
        if header != blob.size {
            return Err(SpanError::Size { header, claimed: blob.size });
        }
        let (parents, bytes) = take_apart(blob, span, rest)?;
        Self::check(blob, span, parents, bytes)
    }

    /// Takes what was read from a place that may have changed: a span's bytes, and those parents that [`Span::parents`]
    /// names, 64 bytes each, one behind the other.
    pub fn check(blob: BlobRef, span: Span, parents: Bytes, bytes: Bytes) -> Result<Self, SpanError> {
        check_parts(blob, span, &parents, &bytes)?;
        Ok(Self { blob, span, bytes, parents })
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

    /// The parents that [`Span::parents`] names, 64 bytes each, one behind the other. For a whole blob this is its outboard.
    pub fn parents(&self) -> &Bytes {
        &self.parents
    }

    /// The contents, where the span is the whole blob.
    pub fn into_whole(self) -> Option<Bytes> {
        (self.span == Span::whole(self.blob.size)).then_some(self.bytes)
    }

    /// The wire form.
    pub fn to_proof(&self) -> Bytes {
        let mut proof = BytesMut::with_capacity(HEADER_BYTES + self.parents.len() + self.bytes.len());
        proof.put_u64_le(self.blob.size);
        let mut parents = &self.parents[..];
        let mut bytes = &self.bytes[..];
        for part in parts(self.blob.size, self.span) {
            let (source, length) = match part {
                Part::Parent { .. } => (&mut parents, PAIR_BYTES),
                Part::Group { length, .. } => (&mut bytes, length),
            };
            let taken = source.split_off(..length).expect("verifying has kept each part of the span");
            proof.put_slice(taken);
        }
        proof.freeze()
    }
}

fn check_span(blob: BlobRef, span: Span) -> Result<(), SpanError> {
    if blob.size > BLOB_BYTES_MAX {
        return Err(SpanError::TooLong(blob.size));
    }
    if !span.fits(blob.size) {
        return Err(SpanError::PastEnd { span, size: blob.size });
    }
    Ok(())
}

/// Checks a span's bytes, and those parents that [`Span::parents`] names.
pub(crate) fn check_parts(blob: BlobRef, span: Span, parents: &[u8], bytes: &[u8]) -> Result<(), SpanError> {
    check_span(blob, span)?;
    let range = span.bytes(blob.size);
    check_length(bytes.len() as u64, range.end - range.start)?;
    if blob.size > GROUP_BYTES {
        return check_tree(blob, span, parents, bytes);
    }
    check_length(parents.len() as u64, 0)?;
    check_root(blob, bytes)
}

/// Checks the bytes of a whole blob without its parents.
pub(crate) fn check_root(blob: BlobRef, bytes: &[u8]) -> Result<(), SpanError> {
    match hash::root(bytes) == *blob.digest.as_bytes() {
        true => Ok(()),
        false => Err(SpanError::WrongBytes { offset: 0 }),
    }
}

pub(crate) fn check_length(actual: u64, expected: u64) -> Result<(), SpanError> {
    match actual.checked_sub(expected) {
        None => Err(SpanError::Truncated),
        Some(0) => Ok(()),
        Some(more) => Err(SpanError::TooMuch(more)),
    }
}

/// Sorts the parts of a proof into parents and bytes of groups.
fn take_apart(blob: BlobRef, span: Span, mut proof: &[u8]) -> Result<(Bytes, Bytes), SpanError> {
    check_span(blob, span)?;
    let range = span.bytes(blob.size);
    let mut bytes = BytesMut::with_capacity(proof.len().min((range.end - range.start) as usize));
    let mut parents = BytesMut::with_capacity(proof.len() - bytes.capacity().min(proof.len()));
    for part in parts(blob.size, span) {
        let (target, length) = match part {
            Part::Parent { .. } => (&mut parents, PAIR_BYTES),
            Part::Group { length, .. } => (&mut bytes, length),
        };
        target.put_slice(proof.split_off(..length).ok_or(SpanError::Truncated)?);
    }
    check_length(proof.len() as u64, 0)?;
    Ok((parents.freeze(), bytes.freeze()))
}

/// Checks each part against what its parent has promised.
fn check_tree(blob: BlobRef, span: Span, mut parents: &[u8], mut bytes: &[u8]) -> Result<(), SpanError> {
    let mut promised: Vec<ChainingValue> = vec![*blob.digest.as_bytes()];
    for part in parts(blob.size, span) {
        let promise = promised.pop().ok_or(SpanError::WrongParent)?;
        match part {
            Part::Group { offset, length } => {
                let group = bytes.split_off(..length).ok_or(SpanError::Truncated)?;
                if hash::group(offset, group) != promise {
                    return Err(SpanError::WrongBytes { offset });
                }
            }
            Part::Parent { is_root, left, right } => {
                let (values, rest) = parents.split_first_chunk::<PAIR_BYTES>().ok_or(SpanError::Truncated)?;
                parents = rest;
                let pair = pair(values);
                if hash::parent(pair.0, pair.1, is_root) != promise {
                    return Err(SpanError::WrongParent);
                }
                if right {
                    promised.push(*pair.1);
                }
                if left {
                    promised.push(*pair.0);
                }
            }
        }
    }
    check_length(parents.len() as u64, 0)
}

fn pair(values: &[u8; PAIR_BYTES]) -> (&ChainingValue, &ChainingValue) {
    let (left, right) = values.split_first_chunk().expect("a pair is two values");
    (left, right.first_chunk().expect("a pair is two values"))
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use bao_tree::io::outboard::PreOrderMemOutboard;
    use bao_tree::io::sync::encode_ranges_validated;
    use bao_tree::{ChunkNum, ChunkRanges};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{BLOCK_SIZE, contents, read};

    fn chunk_ranges(span: Span) -> ChunkRanges {
        let Range { start, end } = span.groups();
        ChunkRanges::from(ChunkNum(start * 16)..ChunkNum(end * 16))
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
            let theirs = PreOrderMemOutboard::create(&bytes, BLOCK_SIZE);
            let mut encoded = (size as u64).to_le_bytes().to_vec();
            encode_ranges_validated(&bytes[..], &theirs, &chunk_ranges(span), &mut encoded).unwrap();
            prop_assert_eq!(&read(&bytes, span).to_proof()[..], &encoded[..]);
        }

        #[test]
        fn proof_and_back((size, span) in spans()) {
            let bytes = contents(size);
            let ours = read(&bytes, span);
            prop_assert_eq!(VerifiedSpan::verify(ours.blob(), span, &ours.to_proof()).unwrap(), ours);
        }

        #[test]
        fn the_parents_are_runs_of_the_outboard((size, span) in spans()) {
            let bytes = contents(size);
            let outboard = HashedBlob::of(&bytes).outboard().as_bytes().clone();
            let runs = span.parents(size as u64);
            prop_assert!(runs.iter().all(|run| run.start < run.end));
            prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
            let parents: Vec<u8> =
                runs.iter().flat_map(|run| &outboard[run.start as usize * 64..run.end as usize * 64]).copied().collect();
            let ours = read(&bytes, span);
            prop_assert_eq!(&ours.parents()[..], parents);
        }

        #[test]
        fn any_flipped_bit_on_disk_is_found((size, span) in spans(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let ours = read(&contents(size), span);
            let (mut parents, mut bytes) = (ours.parents().to_vec(), ours.bytes().to_vec());
            if parents.len() + bytes.len() > 0 {
                let at = at.index(parents.len() + bytes.len());
                *parents.iter_mut().chain(&mut bytes).nth(at).unwrap() ^= 1u8 << bit;
                prop_assert!(VerifiedSpan::check(ours.blob(), span, parents.into(), bytes.into()).is_err());
            }
        }

        #[test]
        fn any_wrong_length_on_disk_is_found((size, span) in spans()) {
            let ours = read(&contents(size), span);
            let longer = |bytes: &Bytes| [bytes, &[0][..]].concat();
            let check = |parents: Vec<u8>, bytes: Vec<u8>| VerifiedSpan::check(ours.blob(), span, parents.into(), bytes.into());
            let (parents, bytes) = (ours.parents(), ours.bytes());
            prop_assert_eq!(check(longer(parents), bytes.to_vec()), Err(SpanError::TooMuch(1)));
            prop_assert_eq!(check(parents.to_vec(), longer(bytes)), Err(SpanError::TooMuch(1)));
            if let Some((_, shorter)) = parents.split_last() {
                prop_assert_eq!(check(shorter.to_vec(), bytes.to_vec()), Err(SpanError::Truncated));
            }
            if let Some((_, shorter)) = bytes.split_last() {
                prop_assert_eq!(check(parents.to_vec(), shorter.to_vec()), Err(SpanError::Truncated));
            }
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
                proof.extend(&noise);
                prop_assert!(VerifiedSpan::verify(blob, span, &proof).is_err());
                let (parents, bytes) = noise.split_at(noise.len() / 64 * 64);
                let (parents, bytes) = (Bytes::copy_from_slice(parents), Bytes::copy_from_slice(bytes));
                prop_assert!(VerifiedSpan::check(blob, span, parents, bytes).is_err());
                prop_assert!(span.parents(size).len() <= 128);
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
        assert_eq!(whole, VerifiedSpan::of(bytes.clone()));
        assert_eq!(whole, read(&bytes, Span::whole(blob.size)));
        let other = BlobRef { digest: [0; 32].into(), ..blob };
        assert_eq!(VerifiedSpan::whole(other, bytes), Err(SpanError::WrongBytes { offset: 0 }));
    }
}
