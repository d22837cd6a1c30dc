//! What is in memory alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use firn_castore::{BlobDigest, DirectoryDigest};

use super::{
    packs::Recovered,
    place::{BlobPlace, DirectoryPlace, PlaceId},
};
use crate::{Item, KnownTree, Listing, UnixSeconds, Visible};

/// With so many things waiting for the index, they go there.
const WAITING_MAX: usize = 1 << 16;
/// With so many of them in files of their own too. It is less than there may be blobs that are partly here: where the
/// process ends, these become such ones.
const FILES_WAITING_MAX: usize = 1 << 10;

/// What waits for the index: its records are in packs, its files in their places, and none of it may be durable yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting {
    pub(super) blobs: BTreeMap<BlobDigest, BlobPlace>,
    pub(super) directories: BTreeMap<DirectoryDigest, DirectoryPlace>,
    pub(super) places: BTreeMap<PlaceId, PathBuf>,
    pub(super) trees: BTreeMap<Listing, KnownTree>,
    pub(super) uses: BTreeMap<Visible, UnixSeconds>,
    /// So many blobs have come to files of their own, at most: the names of files have to be made durable.
    pub(super) files: usize,
}

impl Waiting {
    /// How many things wait. A place waits only beside a blob that is there.
    fn count(&self) -> usize {
        self.blobs.len() + self.directories.len() + self.trees.len() + self.uses.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.count() >= WAITING_MAX || self.files >= FILES_WAITING_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// How many bytes the index grows by this, about.
    pub(super) fn index_bytes(&self) -> u64 {
        128 * self.count() as u64
    }

    /// Takes out what has come to the index, unless it has changed since.
    pub(super) fn remove(&mut self, written: &Waiting) {
        remove_equal(&mut self.blobs, &written.blobs);
        remove_equal(&mut self.directories, &written.directories);
        remove_equal(&mut self.places, &written.places);
        remove_equal(&mut self.trees, &written.trees);
        remove_equal(&mut self.uses, &written.uses);
        if self.files > 0 {
            self.files = self.blobs.values().filter(|place| place.position().is_none()).count();
        }
    }
}

fn remove_equal<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, written: &BTreeMap<K, V>) {
    if map.len() == written.len() {
        // Mostly nothing has come meanwhile, and then this is much faster.
        if map.iter().eq(written.iter()) {
            map.clear();
            return;
        }
    }
    for (key, value) in written {
        if map.get(key) == Some(value) {
            map.remove(key);
        }
    }
}

/// What is in memory alone.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) waiting: Waiting,
    /// What was read and found damaged, and was not kept anew since: it counts as absent.
    pub(super) damaged: BTreeSet<Item>,
    /// What is being deleted just now: it counts as absent.
    pub(super) condemned: BTreeSet<Item>,
    /// Blobs that were found damaged since this was asked last.
    pub(super) lost: BTreeSet<BlobDigest>,
}

impl State {
    /// What was found on opening waits for the index as if it had been kept just now.
    pub(super) fn of(recovered: Recovered) -> Self {
        let Recovered { blobs, directories, .. } = recovered;
        Self { waiting: Waiting { blobs, directories, ..Waiting::default() }, ..Self::default() }
    }

    pub(super) fn keep_blob(&mut self, digest: BlobDigest, place: BlobPlace) {
        self.damaged.remove(&Item::Blob(digest));
        self.condemned.remove(&Item::Blob(digest));
        self.waiting.files += usize::from(place.position().is_none());
        self.waiting.blobs.insert(digest, place);
    }

    pub(super) fn keep_directory(&mut self, digest: DirectoryDigest, place: DirectoryPlace) {
        self.damaged.remove(&Item::Directory(digest));
        self.condemned.remove(&Item::Directory(digest));
        self.waiting.directories.insert(digest, place);
    }

    pub(super) fn is_gone(&self, item: &Item) -> bool {
        (!self.damaged.is_empty() && self.damaged.contains(item))
            || (!self.condemned.is_empty() && self.condemned.contains(item))
    }

    /// A thing has been taken out of the index since it was damaged; it may have been kept anew.
    pub(super) fn note_quarantined(&mut self, item: &Item) {
        let is_anew = match item {
            Item::Blob(digest) => self.waiting.blobs.contains_key(digest),
            Item::Directory(digest) => self.waiting.directories.contains_key(digest),
            Item::Path(_) | Item::Root(_) => true,
        };
        if !is_anew {
            self.damaged.insert(item.clone());
        }
    }

    /// A blob was found damaged where it was, unless it has been kept anew since.
    pub(super) fn note_damaged_blob(&mut self, digest: BlobDigest, place: BlobPlace) {
        match self.waiting.blobs.get(&digest) {
            Some(waiting) if *waiting != place => return,
            _ => self.waiting.blobs.remove(&digest),
        };
        self.lost.insert(digest);
        self.damaged.insert(Item::Blob(digest));
    }

    /// A Directory was found damaged where it was, unless it has been kept anew since.
    pub(super) fn note_damaged_directory(&mut self, digest: DirectoryDigest, place: DirectoryPlace) {
        match self.waiting.directories.get(&digest) {
            Some(waiting) if *waiting != place => return,
            _ => self.waiting.directories.remove(&digest),
        };
        self.damaged.insert(Item::Directory(digest));
    }
}
