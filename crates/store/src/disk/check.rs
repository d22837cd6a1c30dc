//! Whether a tree may become visible.

use std::{borrow::Cow, sync::atomic::Ordering};

use firn_castore::{BlobRef, Closure, Directory, DirectoryDigest, Root};
use redb::{Error, ReadableTable, WriteTransaction};

use super::{
    DiskStore,
    place::{BlobPlace, DirectoryPlace},
    state::Waiting,
    tables,
};
use crate::{Item, StoreError, lock, tree::collect};

impl DiskStore {
    /// Whether all beneath a root is in the index, and not known to be damaged. `known`: its tree, if that is in memory.
    /// `inserted`: what has come to the index in this transaction, and is there still.
    pub(super) fn check(
        &self,
        transaction: &WriteTransaction,
        root: &Root,
        known: Option<&Closure>,
        inserted: Option<&Waiting>,
    ) -> Result<Result<(), StoreError>, Error> {
        let directories = match known.filter(|known| known.root() == root) {
            Some(known) => {
                self.look_for_directories(transaction, known, inserted)?.map(|()| Cow::Borrowed(known))
            }
            None => self.read_directories(transaction, root)?.map(Cow::Owned),
        };
        match directories {
            Ok(closure) => self.look_for_blobs(transaction, &blobs(&closure), inserted),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// Reads all Directories beneath a root.
    fn read_directories(
        &self,
        transaction: &WriteTransaction,
        root: &Root,
    ) -> Result<Result<Closure, StoreError>, Error> {
        let table = transaction.open_table(tables::DIRECTORIES)?;
        let mut unreadable = None;
        let collected = collect(root, |digest| -> Result<Option<Directory>, Error> {
            let item = Item::Directory(*digest);
            self.spare(std::iter::once(item.clone()));
            let is_gone = self.state().is_gone(&item);
            let Some(place) = table.get(digest.as_bytes())?.filter(|_| !is_gone) else { return Ok(None) };
            let read = self.read_inserted(digest, DirectoryPlace::from_bytes(place.value()));
            Ok(read.unwrap_or_else(|error| {
                unreadable = Some(error);
                None
            }))
        })?;
        Ok(match unreadable {
            Some(error) => Err(error),
            None => collected.or_refuse(root),
        })
    }

    /// Reads a Directory from where the index has it. A damaged one is missing from here on.
    fn read_inserted(
        &self,
        digest: &DirectoryDigest,
        place: DirectoryPlace,
    ) -> Result<Option<Directory>, StoreError> {
        match self.read_directory(digest, place) {
            Err(StoreError::Damaged { .. }) => {
                self.state_mut().note_damaged_directory(*digest, place);
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    /// Looks for the Directories of a tree.
    fn look_for_directories(
        &self,
        transaction: &WriteTransaction,
        closure: &Closure,
        inserted: Option<&Waiting>,
    ) -> Result<Result<(), StoreError>, Error> {
        let digests: Vec<DirectoryDigest> = closure.directories().map(Directory::digest).collect();
        if let Some(item) = self.first_gone(digests.iter().map(|digest| Item::Directory(*digest))) {
            return Ok(Err(StoreError::Missing(item)));
        }
        let table = transaction.open_table(tables::DIRECTORIES)?;
        for digest in digests {
            let is_new = inserted.is_some_and(|inserted| inserted.directories.contains_key(&digest));
            if !is_new && table.get(digest.as_bytes())?.is_none() {
                return Ok(Err(StoreError::Missing(Item::Directory(digest))));
            }
        }
        Ok(Ok(()))
    }

    /// Looks for these blobs, which are in the order of the table.
    fn look_for_blobs(
        &self,
        transaction: &WriteTransaction,
        blobs: &[BlobRef],
        inserted: Option<&Waiting>,
    ) -> Result<Result<(), StoreError>, Error> {
        if let Some(item) = self.first_gone(blobs.iter().map(|blob| Item::Blob(blob.digest))) {
            return Ok(Err(StoreError::Missing(item)));
        }
        let table = transaction.open_table(tables::BLOBS)?;
        for blob in blobs {
            // Mostly it has just been kept, and then the table need not be searched.
            let place = match inserted.and_then(|inserted| inserted.blobs.get(&blob.digest)) {
                Some(place) => Some(*place),
                None => {
                    table.get(blob.digest.as_bytes())?.and_then(|place| BlobPlace::from_bytes(place.value()))
                }
            };
            if place.map(|place| place.size) != Some(blob.size) {
                return Ok(Err(StoreError::Missing(Item::Blob(blob.digest))));
            }
        }
        Ok(Ok(()))
    }

    /// The first that is known to be damaged, or is being collected; what is not being collected yet is spared.
    fn first_gone(&self, items: impl Iterator<Item = Item> + Clone) -> Option<Item> {
        self.spare(items.clone());
        let (mut items, state) = (items, self.state());
        items.find(|item| state.is_gone(item))
    }

    /// Keeps things from being collected from here on. Whoever looks after that at what is condemned knows what is here.
    fn spare(&self, items: impl Iterator<Item = Item>) {
        if self.is_collecting.load(Ordering::SeqCst) {
            let mut holds = lock(&self.holds);
            items.for_each(|item| holds.touch(item));
        }
    }
}

/// Each blob of a tree once, in order.
fn blobs(closure: &Closure) -> Vec<BlobRef> {
    let mut blobs: Vec<BlobRef> = closure.files().copied().collect();
    blobs.sort_unstable();
    blobs.dedup();
    blobs
}
