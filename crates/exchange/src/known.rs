//! What of a tree the asker has already.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use firn_castore::{Closure, Directory, DirectoryDigest};

/// The most Directories that are offered: their tags take 128 KiB.
pub const KNOWN_MAX: usize = 16_384;

const TAG_BYTES: usize = 8;

/// Directories that this node has, each with all beneath it, so that they need not be sent again.
///
/// On the wire each is named by a tag, the first 8 bytes of its digest. Two with one tag are no harm: what was left out
/// wrongly is found missing, and asked for without an offer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known(Arc<BTreeMap<DirectoryDigest, Directory>>);

impl Known {
    /// All Directories of these trees; a tree with which there would be more than [`KNOWN_MAX`] is left out.
    pub fn of<'a>(trees: impl IntoIterator<Item = &'a Closure>) -> Self {
        let mut known = BTreeMap::new();
        for tree in trees {
            if known.len() + tree.directories().count() <= KNOWN_MAX {
                known.extend(tree.directories().map(|directory| (directory.digest(), directory.clone())));
            }
        }
        Self(Arc::new(known))
    }

    /// Whether nothing is offered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get(&self, digest: &DirectoryDigest) -> Option<&Directory> {
        self.0.get(digest)
    }

    /// Whether a Directory has the tag of one that was offered.
    pub(crate) fn has_tag_of(&self, digest: &DirectoryDigest) -> bool {
        let mut first = [0; 32];
        first[..TAG_BYTES].copy_from_slice(&tag(digest));
        let next = self.0.range(DirectoryDigest::from(first)..).next();
        next.is_some_and(|(known, _)| tag(known) == tag(digest))
    }

    pub(crate) fn to_tags(&self) -> Bytes {
        let mut tags = BytesMut::with_capacity(self.0.len() * TAG_BYTES);
        self.0.keys().for_each(|digest| tags.put_slice(&tag(digest)));
        tags.freeze()
    }
}

/// The tags of what an asker has, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tags(Box<[[u8; TAG_BYTES]]>);

impl Tags {
    /// `None`: they are cut off, or more than [`KNOWN_MAX`].
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (tags, rest) = bytes.as_chunks::<TAG_BYTES>();
        if !rest.is_empty() || tags.len() > KNOWN_MAX {
            return None;
        }
        let mut tags: Box<[_]> = tags.into();
        tags.sort_unstable();
        Some(Self(tags))
    }

    pub(crate) fn has(&self, digest: &DirectoryDigest) -> bool {
        self.0.binary_search(&tag(digest)).is_ok()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.0)
    }
}

fn tag(digest: &DirectoryDigest) -> [u8; TAG_BYTES] {
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(&digest.as_bytes()[..TAG_BYTES]);
    tag
}
