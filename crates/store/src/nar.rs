//! Judging a stored tree by its NAR.

use std::sync::Arc;

use firn_castore::Closure;
use firn_trust::{NarHasher, NarMatch, NarMismatch, SignedNarInfo};

use crate::{Blobs, Item, StoreError};

/// Renders the tree's NAR out of the store, in order, into the hash that was signed. Every blob of it must be here.
pub fn hash_nar(
    store: &dyn Blobs,
    signed: SignedNarInfo,
    closure: Arc<Closure>,
) -> Result<Result<NarMatch, NarMismatch>, StoreError> {
    let mut hasher = match NarHasher::new(signed, closure) {
        Ok(hasher) => hasher,
        Err(mismatch) => return Ok(Err(mismatch)),
    };
    while let Some((blob, span)) = hasher.wanted() {
        let read = store.read_span(&blob, span)?.ok_or(StoreError::Missing(Item::Blob(blob.digest)))?;
        if let Err(mismatch) = hasher.feed(&read) {
            return Ok(Err(mismatch));
        }
    }
    Ok(hasher.finish())
}
