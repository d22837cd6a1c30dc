//! What stays and what goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

use firn_castore::{BlobDigest, Root};
use firn_nix::{NarHash, StorePathHash};

use crate::{Item, StoreError};

/// The longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 255;

/// Something visible: the name of a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Visible {
    /// A path.
    Path(StorePathHash),
    /// A tree without a path.
    Root(Root),
}

/// Why something is pinned: 1 to [`REASON_BYTES_MAX`] bytes of text without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason(Box<str>);

/// A text that is no [`Reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a reason has 1 to {REASON_BYTES_MAX} bytes and no control characters")]
pub struct ReasonError;

impl Reason {
    /// Of what the user of this machine has added.
    pub fn added() -> Self {
        Self("added".into())
    }

    /// Of what is here because it is in this machine's Nix store.
    pub fn adopted() -> Self {
        Self("adopted".into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Reason {
    type Err = ReasonError;

    fn from_str(text: &str) -> Result<Self, ReasonError> {
        let is_legal = (1..=REASON_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
        if is_legal { Ok(Self(text.into())) } else { Err(ReasonError) }
    }
}

/// When something was used last, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct UnixSeconds(pub u64);

/// What stays although room is wanted.
pub trait Pins: Send + Sync {
    /// Pins something, in place of an earlier reason. It need not be visible yet. Durable on return.
    fn pin(&self, what: &Visible, reason: &Reason) -> Result<(), StoreError>;

    /// Takes a pin away; whether there was one. Durable on return.
    fn unpin(&self, what: &Visible) -> Result<bool, StoreError>;

    /// All pins.
    fn pins(&self) -> Result<BTreeMap<Visible, Reason>, StoreError>;
}

/// What goes.
pub trait Room: Send + Sync {
    /// Ends the visibility of something; whether it was visible. Its pin and its use go with it. Its contents stay until
    /// [`Room::collect`]. Durable on return.
    fn remove(&self, what: &Visible) -> Result<bool, StoreError>;

    /// Remembers when something was used, in place of an earlier time. It is durable with the next commit.
    fn used(&self, what: &Visible, at: UnixSeconds) -> Result<(), StoreError>;

    /// When what is visible was used last; what never was is left out.
    fn uses(&self) -> Result<BTreeMap<Visible, UnixSeconds>, StoreError>;

    /// While it lives, nothing is collected that is kept, or found to be here, from now on.
    fn hold(&self) -> Hold;

    /// As [`Room::hold`], for all that is here of a tree too.
    fn hold_tree(&self, root: &Root) -> Hold;

    /// Deletes what is not reachable from anything visible, while others read and write. `dry_run`: only counts it.
    ///
    /// It refuses with [`StoreError::NotCollected`] while a record is damaged.
    fn collect(&self, dry_run: bool) -> Result<Collected, StoreError>;

    /// Makes damaged content absent for good: its file, if it has one of its own, is put aside for the user to look at.
    fn quarantine(&self, item: &Item) -> Result<(), StoreError>;

    /// The blobs that were found damaged or changed since this was asked last. They are absent until kept anew.
    fn take_lost(&self) -> BTreeSet<BlobDigest>;

    /// What the store takes.
    fn usage(&self) -> Result<Usage, StoreError>;

    /// How many bytes of contents it has room for, about; `None` where nothing is known to limit it.
    fn free_bytes(&self) -> Result<Option<u64>, StoreError>;
}

/// See [`Room::hold`].
#[derive(Clone)]
pub struct Hold(
    #[allow(dead_code, reason = "what counts is when it is dropped")] pub(crate) Arc<dyn Send + Sync>,
);

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}

/// What [`Room::collect`] has deleted, or would.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// How many blobs, whole ones.
    pub blobs: u64,
    /// How many Directories.
    pub directories: u64,
    /// How many blobs that were only partly here.
    pub partials: u64,
    /// How many bytes of the disk that gives back, about.
    pub bytes: u64,
}

/// What a store takes, in bytes of its own disk unless said otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many blobs are here as a whole.
    pub blobs: u64,
    /// How long they are together.
    pub blob_bytes: u64,
    /// How many of them are adopted.
    pub adopted_blobs: u64,
    /// How long the adopted ones are together: bytes that this store does not take.
    pub adopted_bytes: u64,
    /// How many Directories there are.
    pub directories: u64,
    /// How many blobs are partly here.
    pub partials: u64,
    /// All that the store takes.
    pub disk_bytes: u64,
}

/// The digest of a walk over a tree in the file system: names, kinds, inodes, lengths and times of all its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listing(pub(crate) [u8; 32]);

/// What a walk has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownTree {
    /// The tree.
    pub root: Root,
    /// The hash of its NAR.
    pub nar_hash: NarHash,
    /// The length of its NAR in bytes.
    pub nar_size: u64,
}
