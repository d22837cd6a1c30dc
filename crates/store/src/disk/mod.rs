//! A store on disk.
//!
//! `docs/STORE.md` draws the bytes. What is small goes into packs, what is large into files of their own, what is adopted
//! stays where it is; the index says where everything is, and what is visible.
//!
//! What was kept waits in memory for the index ([`state::Waiting`]). A change of the index, such as a commit, makes
//! durable what packs and files have of it, and then writes it to the index in one durable transaction, together with
//! the change. So whatever the index has after a crash is whole. All else is looked for on opening, and counts as far as it
//! is what its digest says: of a process that was killed, all that it has told of.
//!
//! # Locks
//!
//! Whoever holds one of these takes only such as come after it: `collecting`; `changes.writing`, or the lock of one
//! partial blob; `keeping`; `large.publishing`; those of the [`Index`]; `state`; `holds`. Last come those inside of
//! [`Packs`] and [`Places`] and the one of all partial blobs, of which nobody holds two. A partial blob is locked while
//! it is published, so nothing that this does may wait for `changes.writing`.

mod adopt;
mod away;
mod backend;
mod census;
mod check;
mod collect;
mod commit;
mod compact;
mod contents;
mod index;
mod keep;
mod large;
mod layout;
mod packs;
mod partials;
mod place;
mod private;
mod prune;
mod read;
mod rebuild;
mod state;
mod tables;
#[cfg(test)]
mod tests;
mod vfs;
mod visible;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64},
    },
};

pub use layout::{FORMAT_VERSION, OpenError};
pub use private::{create_private_dir, make_private};
pub use rebuild::Rebuilt;
pub use vfs::{Access, Disk, DiskFile, RealDisk};

use self::{
    adopt::Places,
    commit::Changes,
    index::Index,
    large::Large,
    layout::{Layout, Lock},
    packs::Packs,
    partials::Partials,
    state::State,
};
use crate::{
    Item, lock,
    mark::{Holds, Living},
};

/// A store in a directory of its own, for one process at a time.
///
/// Closing (dropping) it makes durable what was kept and not committed, as far as that works.
pub struct DiskStore {
    state: RwLock<State>,
    /// Held for reading from a record's coming to a pack until `state` knows of it.
    keeping: RwLock<()>,
    changes: Changes,
    /// Held by whoever deletes what is not needed.
    collecting: Mutex<()>,
    is_collecting: AtomicBool,
    holds: Mutex<Holds>,
    living: Living,
    /// How often the whole disk could not be synced. What was written to any file before may be lost then.
    sync_failures: AtomicU64,
    packs: Packs,
    large: Large,
    partials: Partials,
    places: Places,
    index: Index,
    layout: Layout,
    /// Last, so that it is given up after all else is closed. `None` on a disk that is not the operating system's.
    lock: Option<Lock>,
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DiskStore").field(&self.layout.dir).finish()
    }
}

impl DiskStore {
    /// Opens the store in this directory, or makes one where there is nothing or an empty directory.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        create_private_dir(dir).map_err(OpenError::io(dir))?;
        let disk = Arc::new(RealDisk::of(dir).map_err(OpenError::io(dir))?);
        // Before anything is made in a directory that may be something else.
        layout::check_version(&*disk, dir)?;
        let lock = Lock::take(dir)?;
        private::close_store(dir).map_err(OpenError::io(dir))?;
        let was_left = lock.was_left;
        Self::open_with(disk, dir, Some(lock), was_left)
    }

    /// Opens the store in this directory of a disk, which must be there and which nobody else has open.
    pub fn open_on(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, OpenError> {
        Self::open_with(disk, dir, None, true)
    }

    /// `was_left`: the last process did not close the store, so there may be garbage.
    fn open_with(
        disk: Arc<dyn Disk>,
        dir: &Path,
        lock: Option<Lock>,
        was_left: bool,
    ) -> Result<Self, OpenError> {
        let (layout, stamp) = Layout::open(disk.clone(), dir)?;
        let mut index = Index::open(disk.clone(), layout.index.clone());
        if let Some(stamp) = stamp {
            // The first opening was cut off by a crash. Nothing can be in a store that was never stamped.
            if index.is_err() && layout.disk.remove(&layout.index).is_ok() {
                index = Index::open(disk.clone(), layout.index.clone());
            }
            if index.is_ok() {
                layout.stamp(stamp)?;
            }
        }
        let index = index?;
        layout.empty_temp()?;
        let ends = index.ends()?;
        let (packs, recovered) =
            Packs::open(disk, layout.packs.clone(), layout.away.clone(), &ends, was_left)?;
        let partials = Partials::open(&layout)?;
        let large = Large::new(&layout);
        if was_left {
            large.recover(&index, |blob, file| partials.take_back(blob, file))?;
        }
        for blob in partials.all() {
            // It has become whole, and a crash has undone the removal of its part, or come before it.
            if recovered.blobs.contains_key(&blob.digest) || index.blob(&blob.digest)?.is_some() {
                partials.remove(&blob)?;
            }
        }
        let places = Places::open(&index)?;
        let holds = Holds::default();
        Ok(Self {
            state: RwLock::new(State::of(recovered)),
            keeping: RwLock::new(()),
            changes: Changes::default(),
            collecting: Mutex::new(()),
            is_collecting: AtomicBool::new(false),
            living: holds.living(),
            holds: Mutex::new(holds),
            sync_failures: AtomicU64::new(0),
            packs,
            large,
            partials,
            places,
            index,
            layout,
            lock,
        })
    }

    /// What is in the store's directory and no file of a store, which was put aside if that was possible.
    pub fn strays(&self) -> Vec<PathBuf> {
        self.layout.away.told()
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn keeping(&self) -> RwLockReadGuard<'_, ()> {
        self.keeping.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be told before it is looked whether something is here: it stays then as long as there is a hold.
    fn touch(&self, item: Item) {
        if self.living.any() {
            lock(&self.holds).touch(item);
        }
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        let flushed = self.flush().is_ok();
        let is_clean = flushed && *self.sync_failures.get_mut() == 0;
        if let Some(lock) = &mut self.lock {
            lock.closed_cleanly(is_clean);
        }
    }
}
