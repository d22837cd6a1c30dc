//! What is here but not in the index yet.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use firn_castore::{BlobDigest, Directory, DirectoryDigest};

use crate::Item;

/// With so many bytes of small blobs and Directories waiting, they go to the index.
const PENDING_BYTES_MAX: usize = 8 << 20;
/// With so many of them waiting, too.
const PENDING_ITEMS_MAX: usize = 8192;
/// With so many large blobs that are not durable, they are made so.
const PENDING_LARGE_MAX: usize = 1 << 16;

/// A blob's contents, or how long they are where they lie in a file of their own.
#[derive(Debug, Clone)]
pub(super) enum Held {
    Small(Bytes),
    Large(u64),
}

impl Held {
    pub(super) fn size(&self) -> u64 {
        match self {
            Held::Small(bytes) => bytes.len() as u64,
            Held::Large(size) => *size,
        }
    }
}

/// What waits for the index. Large blobs are in their place, but wait until a sync has made their files durable.
#[derive(Debug, Clone, Default)]
pub(super) struct Pending {
    pub(super) small: BTreeMap<BlobDigest, Bytes>,
    pub(super) large: BTreeMap<BlobDigest, u64>,
    pub(super) directories: BTreeMap<DirectoryDigest, Bytes>,
    bytes: usize,
}

impl Pending {
    pub(super) fn blob(&self, digest: &BlobDigest) -> Option<Held> {
        let small = self.small.get(digest).cloned().map(Held::Small);
        small.or_else(|| self.large.get(digest).copied().map(Held::Large))
    }

    pub(super) fn directory(&self, digest: &DirectoryDigest) -> Option<&Bytes> {
        self.directories.get(digest)
    }

    /// How many bytes of small blobs and Directories there are.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn has_large(&self) -> bool {
        !self.large.is_empty()
    }

    pub(super) fn has_too_many_large(&self) -> bool {
        self.large.len() >= PENDING_LARGE_MAX
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= PENDING_BYTES_MAX
            || self.small.len() + self.directories.len() >= PENDING_ITEMS_MAX
            || self.has_too_many_large()
    }

    /// Only what the index can make durable by itself.
    pub(super) fn without_large(self) -> Self {
        Self { large: BTreeMap::new(), ..self }
    }

    /// Takes out what has come to the index.
    pub(super) fn remove(&mut self, written: &Pending) {
        for digest in written.small.keys() {
            self.bytes -= self.small.remove(digest).map_or(0, |bytes| bytes.len());
        }
        for digest in written.directories.keys() {
            self.bytes -= self.directories.remove(digest).map_or(0, |bytes| bytes.len());
        }
        for digest in written.large.keys() {
            self.large.remove(digest);
        }
    }
}

/// What is in memory alone.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) pending: Pending,
    /// Blobs and Directories that were read and found damaged, and were not kept anew since.
    pub(super) damaged: BTreeSet<Item>,
}

impl State {
    pub(super) fn keep_blob(&mut self, digest: BlobDigest, held: Held) {
        self.damaged.remove(&Item::Blob(digest));
        match held {
            Held::Large(size) => {
                self.pending.large.insert(digest, size);
            }
            Held::Small(bytes) => {
                self.pending.bytes += bytes.len();
                let before = self.pending.small.insert(digest, bytes);
                self.pending.bytes -= before.map_or(0, |bytes| bytes.len());
            }
        }
    }

    pub(super) fn keep_directory(&mut self, directory: &Directory) {
        self.damaged.remove(&Item::Directory(directory.digest()));
        self.pending.bytes += directory.encoded().len();
        let before = self.pending.directories.insert(directory.digest(), directory.encoded().clone());
        self.pending.bytes -= before.map_or(0, |bytes| bytes.len());
    }
}
