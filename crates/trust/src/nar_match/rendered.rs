//! A NAR that is hashed while its blobs are.

use std::sync::Arc;

use bytes::Bytes;
use firn_bao::{HashedBlob, HashedPiece, Pieces, Span, VerifiedSpan};
use firn_castore::{BlobRef, Closure};
use firn_nix::{NarHash, NarLayout, Segment, Sha256Writer};

use super::{NarMatch, NarMismatch};
use crate::SignedNarInfo;

/// A whole blob with its contents, which have been hashed to name it.
#[derive(Debug, Clone)]
pub struct WholeBlob {
    blob: BlobRef,
    bytes: Bytes,
}

impl WholeBlob {
    /// Hashes contents; gives the outboard, too.
    pub fn hash(bytes: Bytes) -> (Self, HashedBlob) {
        let hashed = HashedBlob::of(&bytes);
        (Self { blob: hashed.blob(), bytes }, hashed)
    }

    /// The blob of a span that is all of it.
    pub fn of_span(span: &VerifiedSpan) -> Option<Self> {
        let blob = span.blob();
        (span.span() == Span::whole(blob.size)).then(|| Self { blob, bytes: span.bytes().clone() })
    }

    /// The name.
    pub fn blob(&self) -> BlobRef {
        self.blob
    }

    /// The contents.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// Hashes a NAR before its tree is known: what stands between the blobs as it comes, and blobs that are named by the very
/// bytes that go into the NAR.
#[derive(Default)]
pub struct NarRenderer {
    nar: Sha256Writer,
    outline: OutlineWriter,
    /// The blob that comes in pieces, and how many have come.
    large: Option<(Pieces, u64, u64)>,
    is_out_of_order: bool,
}

/// The hash of a NAR, and of what tree it is. Only [`NarRenderer`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedNar {
    nar_hash: NarHash,
    nar_size: u64,
    outline: Outline,
}

impl NarRenderer {
    /// One that has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what stands before, between or behind blobs.
    pub fn literal(&mut self, bytes: &[u8]) {
        self.is_out_of_order |= self.large.is_some();
        self.nar.update(bytes);
        self.outline.literal(bytes);
    }

    /// Takes a whole blob.
    pub fn blob(&mut self, blob: &WholeBlob) {
        self.is_out_of_order |= self.large.is_some();
        self.nar.update(&blob.bytes);
        self.outline.blob(&blob.blob);
    }

    /// Takes the next piece of a blob of `size` bytes, which comes in pieces.
    pub fn piece(&mut self, size: u64, piece: &HashedPiece) {
        let (mut pieces, blob_size, next) = self.large.take().unwrap_or_else(|| (Pieces::new(size), size, 0));
        let is_next = (size, piece.index()) == (blob_size, next) && pieces.insert(piece).is_ok();
        self.is_out_of_order |= !is_next;
        self.nar.update(piece.bytes());
        if pieces.missing() > 0 {
            self.large = Some((pieces, blob_size, next + 1));
        } else if let Some(hashed) = pieces.finish() {
            self.outline.blob(&hashed.blob());
        }
    }

    /// What all this has come to. [`NarMismatch::OutOfOrder`] if a piece was not the one that comes next.
    pub fn finish(self) -> Result<RenderedNar, NarMismatch> {
        if self.is_out_of_order || self.large.is_some() {
            return Err(NarMismatch::OutOfOrder);
        }
        let (nar_hash, nar_size) = self.nar.finish();
        Ok(RenderedNar { nar_hash, nar_size, outline: self.outline.finish() })
    }
}

impl RenderedNar {
    /// Its hash.
    pub fn nar_hash(&self) -> NarHash {
        self.nar_hash
    }

    /// Its length in bytes.
    pub fn nar_size(&self) -> u64 {
        self.nar_size
    }

    /// The proof, if this is the NAR of the closure, and has the hash that is signed.
    pub fn prove(&self, signed: &SignedNarInfo, closure: Arc<Closure>) -> Result<NarMatch, NarMismatch> {
        let layout = NarMatch::layout(signed, closure)?;
        if Outline::of(&layout) != self.outline {
            return Err(NarMismatch::OtherTree);
        }
        NarMatch::judge(signed, self.nar_hash)
    }
}

/// All of a NAR but the contents of its blobs, which their names stand for: what lies between the blobs, and which blob
/// lies where. Two NARs of one outline are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outline {
    /// BLAKE3 of all that lies between the blobs.
    literals: blake3::Hash,
    /// BLAKE3 of 48 bytes for each blob that is not empty: where it begins in the NAR (8 bytes, little-endian), its digest,
    /// its length (8 bytes, little-endian).
    blobs: blake3::Hash,
}

#[derive(Default)]
struct OutlineWriter {
    literals: blake3::Hasher,
    blobs: blake3::Hasher,
    position: u64,
}

impl Outline {
    fn of(layout: &NarLayout) -> Self {
        let mut outline = OutlineWriter::default();
        for segment in layout.segments(0..layout.nar_size()) {
            match segment {
                Segment::Literal(bytes) => outline.literal(&bytes),
                // Of a whole NAR each is a whole blob; where one were not, no NAR would have this outline.
                Segment::Blob { blob, .. } => outline.blob(&blob),
            }
        }
        outline.finish()
    }
}

impl OutlineWriter {
    fn literal(&mut self, bytes: &[u8]) {
        self.literals.update(bytes);
        self.position += bytes.len() as u64;
    }

    fn blob(&mut self, blob: &BlobRef) {
        if blob.size == 0 {
            return;
        }
        self.blobs.update(&self.position.to_le_bytes());
        self.blobs.update(blob.digest.as_bytes());
        self.blobs.update(&blob.size.to_le_bytes());
        self.position += blob.size;
    }

    fn finish(self) -> Outline {
        Outline { literals: self.literals.finalize(), blobs: self.blobs.finalize() }
    }
}
