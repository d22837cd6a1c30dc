//! Bytes that are verified where they have been read to.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use firn_castore::BlobRef;

use crate::verified::{check_length, check_parts, check_root};
use crate::{Span, SpanError};

/// Bytes to be believed, one behind the other: those of spans, and what their holder says between them.
///
/// What is read onto it comes to lie where it stays, and belongs to it once it is verified. No proof is kept, so this is
/// for whoever hands on contents alone.
#[derive(Debug)]
pub struct VerifiedBytes {
    /// Behind the end there is room.
    buffer: Vec<u8>,
    end: usize,
    /// How many are expected.
    expected: usize,
}

impl VerifiedBytes {
    /// None yet, of about so many. There is room for them once the first have come, and for more where more come.
    pub fn expecting(bytes: usize) -> Self {
        Self::within(Vec::new(), bytes)
    }

    /// None yet, of about so many, in the memory of others, which cost less to write over than new memory does.
    pub fn within(buffer: Vec<u8>, bytes: usize) -> Self {
        Self { buffer, end: 0, expected: bytes }
    }

    /// Takes all but the first so many away; the room stays.
    pub fn truncate(&mut self, bytes: usize) {
        self.end = self.end.min(bytes);
    }

    /// Puts something behind them that is no part of a span, or was verified elsewhere.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut room = self.room(bytes.len());
        room.copy_from_slice(bytes);
        room.keep();
    }

    /// Room behind them for a span of this length. Nothing has come until it is verified there.
    pub fn room(&mut self, bytes: usize) -> Unverified<'_> {
        let end = self.end + bytes;
        if self.buffer.is_empty() {
            // Zeros cost less where there was nothing.
            self.buffer = vec![0; end.max(self.expected)];
        } else if self.buffer.len() < end {
            self.buffer.resize(end.max(self.expected), 0);
        }
        Unverified { verified: self, end }
    }
}

impl Deref for VerifiedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[..self.end]
    }
}

/// Room behind [`VerifiedBytes`], and what has been read into it.
#[derive(Debug)]
pub struct Unverified<'a> {
    verified: &'a mut VerifiedBytes,
    end: usize,
}

impl Unverified<'_> {
    /// Keeps it as this span, with those parents that [`Span::parents`] names, 64 bytes each, one behind the other.
    pub fn verify(self, blob: BlobRef, span: Span, parents: &[u8]) -> Result<(), SpanError> {
        check_parts(blob, span, parents, &self)?;
        self.keep();
        Ok(())
    }

    /// Keeps it as this whole blob, for which no parents are needed.
    pub fn verify_whole(self, blob: BlobRef) -> Result<(), SpanError> {
        check_length(self.len() as u64, blob.size)?;
        check_root(blob, &self)?;
        self.keep();
        Ok(())
    }

    fn keep(self) {
        self.verified.end = self.end;
    }
}

impl Deref for Unverified<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.verified.buffer[self.verified.end..self.end]
    }
}

impl DerefMut for Unverified<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.verified.buffer[self.verified.end..self.end]
    }
}

impl From<VerifiedBytes> for Vec<u8> {
    fn from(mut verified: VerifiedBytes) -> Self {
        verified.buffer.truncate(verified.end);
        verified.buffer
    }
}

impl From<VerifiedBytes> for Bytes {
    fn from(verified: VerifiedBytes) -> Self {
        Vec::from(verified).into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{contents, read};
    use crate::{GROUP_BYTES, VerifiedSpan};

    fn spans_of(bytes: &[u8]) -> Vec<VerifiedSpan> {
        Span::whole(bytes.len() as u64).pieces(3).map(|span| read(bytes, span)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn spans_and_what_is_between_them_one_behind_the_other(sizes in prop::collection::vec(0usize..200_000, 1..4), expected_length in 0usize..300_000, memory in 0usize..300_000) {
            let mut verified = VerifiedBytes::within(vec![7; memory], expected_length);
            let mut expected = Vec::new();
            for size in sizes {
                let bytes = contents(size);
                verified.push(b"between");
                for span in spans_of(&bytes) {
                    let mut read = verified.room(span.bytes().len());
                    read.copy_from_slice(span.bytes());
                    read.verify(span.blob(), span.span(), span.parents()).unwrap();
                }
                let mut read = verified.room(size);
                read.copy_from_slice(&bytes);
                read.verify_whole(BlobRef::of(&bytes)).unwrap();
                expected.extend([b"between", &bytes[..], &bytes[..]].concat());
            }
            prop_assert_eq!(verified.len(), expected.len());
            prop_assert!(verified[..] == expected);
            prop_assert!(Bytes::from(verified) == expected);
        }

        #[test]
        fn what_is_wrong_does_not_come(size in 1usize..100_000, at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let bytes = contents(size);
            let blob = BlobRef::of(&bytes);
            let mut verified = VerifiedBytes::expecting(0);
            verified.push(b"before");
            let mut read = verified.room(size);
            read.copy_from_slice(&bytes);
            read[at.index(size)] ^= 1 << bit;
            prop_assert_eq!(read.verify_whole(blob), Err(SpanError::WrongBytes { offset: 0 }));
            let spans = spans_of(&bytes);
            let span = &spans[at.index(spans.len())];
            let mut read = verified.room(span.bytes().len());
            read.copy_from_slice(span.bytes());
            read[at.index(span.bytes().len())] ^= 1 << bit;
            let is_wrong = matches!(read.verify(blob, span.span(), span.parents()), Err(SpanError::WrongBytes { .. }));
            prop_assert!(is_wrong);
            // Read and not verified.
            verified.room(size).copy_from_slice(&bytes);
            prop_assert_eq!(&verified[..], b"before");
            // The room stays, with what was in it, and none of that is there.
            verified.truncate(0);
            prop_assert!(verified.is_empty());
        }
    }

    #[test]
    fn what_has_another_length_does_not_come() {
        let bytes = contents(2 * GROUP_BYTES as usize);
        let span = &spans_of(&bytes)[0];
        let mut verified = VerifiedBytes::expecting(bytes.len());
        for (length, error) in
            [(bytes.len() - 1, SpanError::Truncated), (bytes.len() + 1, SpanError::TooMuch(1))]
        {
            assert_eq!(verified.room(length).verify_whole(span.blob()), Err(error.clone()));
            assert_eq!(verified.room(length).verify(span.blob(), span.span(), span.parents()), Err(error));
        }
        assert!(verified.is_empty());
    }
}
