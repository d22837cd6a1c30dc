//! Whole trees out of a store.

use firn_bao::Span;
use firn_castore::{BlobRef, Closure, ClosureBuilder, ClosureError, Directory, DirectoryDigest, Root};

use crate::{Blobs, Directories, Item, StoreError};

/// What comes of looking for every Directory beneath a root.
pub(crate) enum Collected {
    Whole(Closure),
    /// One that is not here.
    Missing(DirectoryDigest),
    /// They are not a tree.
    NoTree(ClosureError),
}

impl Collected {
    /// Only a whole tree will do.
    pub(crate) fn or_refuse(self, root: &Root) -> Result<Closure, StoreError> {
        match self {
            Collected::Whole(closure) => Ok(closure),
            Collected::Missing(digest) => Err(StoreError::Missing(Item::Directory(digest))),
            Collected::NoTree(source) => Err(StoreError::Tree { root: root.clone(), source }),
        }
    }
}

/// Takes Directories from `fetch` until there are no more, or one is missing.
pub(crate) fn collect<E>(
    root: &Root,
    mut fetch: impl FnMut(&DirectoryDigest) -> Result<Option<Directory>, E>,
) -> Result<Collected, E> {
    let mut builder = match ClosureBuilder::new(root.clone()) {
        Ok(builder) => builder,
        Err(error) => return Ok(Collected::NoTree(error)),
    };
    while let Some(digest) = builder.next_missing() {
        let Some(directory) = fetch(&digest)? else { return Ok(Collected::Missing(digest)) };
        if let Err(error) = builder.insert(directory) {
            return Ok(Collected::NoTree(error));
        }
    }
    Ok(match builder.finish() {
        Ok(closure) => Collected::Whole(closure),
        Err(error) => Collected::NoTree(error),
    })
}

/// Every Directory beneath a root; `None` where one is missing.
pub fn closure(store: &dyn Directories, root: &Root) -> Result<Option<Closure>, StoreError> {
    match collect(root, |digest| store.directory(digest))? {
        Collected::Missing(_) => Ok(None),
        collected => collected.or_refuse(root).map(Some),
    }
}

/// As [`closure`], but one that is missing is [`StoreError::Missing`], with its name.
pub fn closure_or_refuse(store: &dyn Directories, root: &Root) -> Result<Closure, StoreError> {
    collect(root, |digest| store.directory(digest))?.or_refuse(root)
}

/// The blobs of a tree that are not here as a whole, or not of the length that the tree says, in the order of
/// [`Closure::blobs`].
pub fn missing_blobs(store: &dyn Blobs, closure: &Closure) -> Result<Vec<BlobRef>, StoreError> {
    let mut missing = Vec::new();
    for blob in closure.blobs() {
        if store.has_blob(&blob.digest)? != Some(blob.size) {
            missing.push(blob);
        }
    }
    Ok(missing)
}

/// A blob that is not here as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingBlob {
    /// Which one.
    pub blob: BlobRef,
    /// What of it has to come, in order; never empty.
    pub spans: Vec<Span>,
}

impl MissingBlob {
    /// How many bytes of it have to come.
    pub fn bytes(&self) -> u64 {
        let spans = self.spans.iter().map(|span| span.bytes(self.blob.size));
        spans.map(|range| range.end - range.start).fold(0, u64::saturating_add)
    }
}

/// As [`missing_blobs`], with what is missing of each: a part of it may be here.
pub fn missing_spans(store: &dyn Blobs, closure: &Closure) -> Result<Vec<MissingBlob>, StoreError> {
    let mut missing = Vec::new();
    for blob in closure.blobs() {
        let here = store.groups(&blob)?;
        // Where all of it is here, to look at it may have made it whole.
        if here == [Span::whole(blob.size)] && store.has_blob(&blob.digest)? == Some(blob.size) {
            continue;
        }
        missing.push(MissingBlob { blob, spans: gaps(blob.size, &here) });
    }
    Ok(missing)
}

/// What is left of a blob beside these runs.
fn gaps(size: u64, here: &[Span]) -> Vec<Span> {
    let end = Span::whole(size).groups().end;
    let mut gaps = Vec::new();
    let mut start = 0;
    for run in here.iter().map(Span::groups) {
        gaps.extend(Span::from_groups(start..run.start));
        start = run.end;
    }
    gaps.extend(Span::from_groups(start..end));
    if gaps.is_empty() {
        // All of it came, but before it was whole something failed: whatever comes next makes it whole.
        gaps.push(Span::last(size));
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_blob() {
        let span = |start, end| Span::from_groups(start..end).unwrap();
        let size = 10 * firn_bao::GROUP_BYTES - 1;
        assert_eq!(gaps(size, &[]), [span(0, 10)]);
        assert_eq!(gaps(size, &[span(0, 2), span(5, 6), span(9, 10)]), [span(2, 5), span(6, 9)]);
        assert_eq!(gaps(size, &[span(3, 4)]), [span(0, 3), span(4, 10)]);
        assert_eq!(gaps(size, &[span(0, 10)]), [span(9, 10)]);
        assert_eq!(gaps(0, &[]), [span(0, 1)]);
    }
}
