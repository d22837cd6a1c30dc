//! Whether a tree's NAR is the one that was signed.

mod rendered;

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use firn_bao::{GROUP_BYTES, Span, VerifiedSpan};
use firn_castore::{BlobRef, Closure};
use firn_nix::{LayoutError, NarHash, NarLayout, Segment, Segments, Sha256Writer, Signature};

pub use self::rendered::{NarRenderer, RenderedNar, WholeBlob};
use crate::{PathFacts, SignedNarInfo};

/// How much of a blob is asked for at once.
const SPAN_GROUPS_MAX: u64 = (1 << 20) / GROUP_BYTES;

/// The proof that a root's NAR has the hash and the size that a trusted key has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarMatch {
    facts: PathFacts,
    signatures: Vec<Signature>,
}

impl NarMatch {
    /// The layout of the tree; refuses at once where the tree's NAR has not the signed length.
    fn layout(signed: &SignedNarInfo, closure: Arc<Closure>) -> Result<NarLayout, NarMismatch> {
        if closure.root() != &signed.facts().root {
            return Err(NarMismatch::OtherRoot);
        }
        let layout = NarLayout::new(closure)?;
        let (signed_size, actual) = (signed.facts().nar.nar_size, layout.nar_size());
        if signed_size != actual {
            return Err(NarMismatch::Size { signed: signed_size, actual });
        }
        Ok(layout)
    }

    /// The proof, if the hash of the [layout](NarMatch::layout)'s NAR is the signed one.
    fn judge(signed: &SignedNarInfo, actual: NarHash) -> Result<Self, NarMismatch> {
        let facts = signed.facts();
        if facts.nar.nar_hash != actual {
            return Err(NarMismatch::Hash { signed: facts.nar.nar_hash, actual });
        }
        Ok(Self { facts: facts.clone(), signatures: signed.signatures().to_vec() })
    }

    pub(crate) fn into_parts(self) -> (PathFacts, Vec<Signature>) {
        (self.facts, self.signatures)
    }
}

/// Why a root is not the root of a signed narinfo.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NarMismatch {
    /// The closure is of another root.
    #[error("the closure is not that of the claimed root")]
    OtherRoot,
    /// The NAR would be too long to count.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Another length: known before a single blob is.
    #[error("the tree's NAR has {actual} bytes, {signed} are signed")]
    Size {
        /// As signed.
        signed: u64,
        /// Of this tree.
        actual: u64,
    },
    /// Another hash.
    #[error("the tree's NAR has the hash {actual}, {signed} is signed")]
    Hash {
        /// As signed.
        signed: NarHash,
        /// Of this tree.
        actual: NarHash,
    },
    /// The NAR that was hashed is not that of the claimed root's tree.
    #[error("the NAR that was hashed is that of another tree")]
    OtherTree,
    /// The bytes did not come in the order of the layout.
    #[error("the spans came out of order")]
    OutOfOrder,
}

/// Renders a tree's NAR into SHA-256 from verified spans in order. Ask [`NarHasher::wanted`] for the next one.
pub struct NarHasher {
    signed: SignedNarInfo,
    segments: Segments,
    hash: Sha256Writer,
    /// What is left of the blob at hand.
    blob: Option<(BlobRef, Range<u64>)>,
}

impl NarHasher {
    /// Refuses at once where the tree's NAR has not the signed length.
    pub fn new(signed: SignedNarInfo, closure: Arc<Closure>) -> Result<Self, NarMismatch> {
        let layout = NarMatch::layout(&signed, closure)?;
        let segments = layout.segments(0..layout.nar_size());
        Ok(Self { signed, segments, hash: Sha256Writer::default(), blob: None })
    }

    /// The span that must be fed next; `None` when all has been.
    pub fn wanted(&mut self) -> Option<(BlobRef, Span)> {
        loop {
            if let Some((blob, range)) = &self.blob
                && let Some(span) = Span::covering(range.clone(), blob.size)
            {
                let start = span.groups().start;
                let end = span.groups().end.min(start + SPAN_GROUPS_MAX);
                return Some((*blob, Span::from_groups(start..end)?));
            }
            match self.segments.next()? {
                Segment::Literal(bytes) => {
                    self.hash.write_all(&bytes).expect("writing into a hash does not fail");
                }
                Segment::Blob { blob, range } => self.blob = Some((blob, range)),
            }
        }
    }

    /// Takes the span that is [wanted](NarHasher::wanted).
    pub fn feed(&mut self, span: &VerifiedSpan) -> Result<(), NarMismatch> {
        if self.wanted() != Some((span.blob(), span.span())) {
            return Err(NarMismatch::OutOfOrder);
        }
        self.hash.write_all(span.bytes()).expect("writing into a hash does not fail");
        if let Some((blob, range)) = &mut self.blob {
            range.start = span.span().bytes(blob.size).end;
        }
        Ok(())
    }

    /// The proof, if all has been fed and the hash is the signed one.
    pub fn finish(mut self) -> Result<NarMatch, NarMismatch> {
        if self.wanted().is_some() {
            return Err(NarMismatch::OutOfOrder);
        }
        let (actual, _) = self.hash.finish();
        NarMatch::judge(&self.signed, actual)
    }
}
