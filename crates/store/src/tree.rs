//! Whole trees out of a store.

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
    loop {
        let Some(digest) = builder.missing().next() else { break };
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
