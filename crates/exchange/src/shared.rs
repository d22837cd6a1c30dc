//! What of the store peers may see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use firn_castore::{BlobDigest, BlobRef, Closure, Root};
use firn_nix::StorePathHash;
use firn_store::Visible;
use firn_trust::{Claim, TooMany, TrustedPath};
use indexmap::{IndexMap, map::Entry};

use crate::order::Order;
use crate::{CLOSURE_BYTES_MAX, Key, frame};

/// Why peers cannot be told of a path: none takes a reply that is so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unshareable {
    /// More than a claim may have.
    #[error("it has {0}")]
    Claim(#[from] TooMany),
    /// More Directories than a reply may have.
    #[error("its directories take {0} bytes, more than the {CLOSURE_BYTES_MAX} that a reply may have")]
    Directories(usize),
}

/// Whether peers can be told of a path and its tree, by the limits to which they hold a reply.
pub fn shareable(path: &TrustedPath, closure: &Closure) -> Result<(), Unshareable> {
    path.claim().fits()?;
    match closure_bytes(closure) {
        bytes if bytes > CLOSURE_BYTES_MAX => Err(Unshareable::Directories(bytes)),
        _ => Ok(()),
    }
}

/// The length of all Directories as a reply has them.
fn closure_bytes(closure: &Closure) -> usize {
    closure.directories().map(|directory| frame::put_bytes(directory.encoded())).sum()
}

/// All that can be reached from what is shared. Whatever is not in here does not exist for peers.
#[derive(Debug, Default)]
pub struct Shared(RwLock<Reachable>);

#[derive(Debug, Default)]
struct Reachable {
    claims: BTreeMap<StorePathHash, Claim>,
    roots: BTreeMap<Root, SharedRoot>,
    /// Each with its length, and how many of the roots have it.
    blobs: IndexMap<BlobDigest, (u64, u32)>,
}

#[derive(Debug)]
struct SharedRoot {
    /// The length of all its Directories as a reply has them.
    closure_bytes: usize,
    /// In which a reply has them.
    order: Arc<Order>,
    /// As what it is shared: itself, and paths.
    holders: BTreeSet<Visible>,
    /// How many fetches are bringing it. With the holders never none at all.
    coming: u32,
}

/// How much of a tree is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Whole,
    /// It is being fetched: what has come so far.
    Partial,
    Nothing,
}

impl Shared {
    /// Shares a path and all beneath it. One that is shared with another root must be [removed](Shared::remove) first.
    /// What peers [cannot be told of](shareable) stays unseen: they would take whoever told it for a liar.
    pub fn add_path(&self, path: &TrustedPath, closure: &Closure) {
        let hash = *path.facts().path.hash();
        if shareable(path, closure).is_err() {
            return;
        }
        let mut reachable = self.write();
        reachable.claims.insert(hash, path.claim().clone());
        reachable.add(Visible::Path(hash), closure);
    }

    /// Shares a tree that needs no path.
    pub fn add_root(&self, closure: &Closure) {
        self.write().add(Visible::Root(closure.root().clone()), closure);
    }

    /// Shares what comes of a tree while it is fetched. Its Directories are here, of its blobs whatever has come.
    pub fn begin_coming(&self, closure: &Closure) {
        self.write().root(closure).coming += 1;
    }

    /// The fetch that brought this tree has ended; if it was committed it has been added already.
    pub fn end_coming(&self, closure: &Closure) {
        self.write().take(closure, |root| root.coming = root.coming.saturating_sub(1));
    }

    /// Whether this is shared as such.
    pub fn has(&self, what: &Visible) -> bool {
        let reachable = self.read();
        match what {
            Visible::Path(hash) => reachable.claims.contains_key(hash),
            Visible::Root(root) => reachable.roots.get(root).is_some_and(|root| root.holders.contains(what)),
        }
    }

    /// Shares something no longer. What of its tree other shared trees have as well stays shared.
    pub fn remove(&self, what: &Visible, closure: &Closure) {
        let mut reachable = self.write();
        if let Visible::Path(hash) = what {
            reachable.claims.remove(hash);
        }
        reachable.remove(what, closure);
    }

    /// Shares this instead, all at once.
    pub fn replace(&self, other: Shared) {
        *self.write() = other.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    }

    /// Under which keys a holder of all this can be found.
    pub fn keys(&self) -> Vec<Key> {
        let reachable = self.read();
        let paths = reachable.claims.keys().copied().map(Key::Path);
        paths.chain(reachable.roots.keys().cloned().map(Key::Root)).collect()
    }

    pub(crate) fn claim(&self, hash: &StorePathHash) -> Option<Claim> {
        self.read().claims.get(hash).cloned()
    }

    /// The length of all Directories of a tree as a reply has them, and in which order.
    pub(crate) fn directories(&self, root: &Root) -> Option<(usize, Arc<Order>)> {
        self.read().roots.get(root).map(|root| (root.closure_bytes, Arc::clone(&root.order)))
    }

    pub(crate) fn holders(&self, root: &Root) -> Vec<Visible> {
        self.read().roots.get(root).map(|root| root.holders.iter().cloned().collect()).unwrap_or_default()
    }

    pub(crate) fn extent(&self, root: &Root) -> Extent {
        match self.read().roots.get(root) {
            None => Extent::Nothing,
            Some(root) if root.holders.is_empty() => Extent::Partial,
            Some(_) => Extent::Whole,
        }
    }

    pub(crate) fn blob(&self, digest: BlobDigest) -> Option<BlobRef> {
        self.read().blobs.get(&digest).map(|(size, _)| BlobRef { digest, size: *size })
    }

    fn read(&self) -> RwLockReadGuard<'_, Reachable> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Reachable> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reachable {
    /// The entry of this tree, made where there is none.
    fn root(&mut self, closure: &Closure) -> &mut SharedRoot {
        let Self { roots, blobs, .. } = self;
        roots.entry(closure.root().clone()).or_insert_with(|| {
            for blob in closure.blobs() {
                blobs.entry(blob.digest).or_insert((blob.size, 0)).1 += 1;
            }
            let order = Arc::new(Order::of(closure));
            SharedRoot { closure_bytes: closure_bytes(closure), order, holders: BTreeSet::new(), coming: 0 }
        })
    }

    fn add(&mut self, holder: Visible, closure: &Closure) {
        self.root(closure).holders.insert(holder);
    }

    fn remove(&mut self, holder: &Visible, closure: &Closure) {
        self.take(closure, |root| {
            root.holders.remove(holder);
        });
    }

    /// Changes the entry of this tree; it goes once nobody holds it.
    fn take(&mut self, closure: &Closure, change: impl FnOnce(&mut SharedRoot)) {
        let Some(root) = self.roots.get_mut(closure.root()) else { return };
        change(root);
        if !root.holders.is_empty() || root.coming > 0 {
            return;
        }
        self.roots.remove(closure.root());
        for blob in closure.blobs() {
            if let Entry::Occupied(mut entry) = self.blobs.entry(blob.digest) {
                match &mut entry.get_mut().1 {
                    1 => drop(entry.swap_remove()),
                    count => *count -= 1,
                }
            }
        }
    }
}
