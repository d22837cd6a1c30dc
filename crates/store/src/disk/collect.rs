//! Deleting what nothing visible needs, while others read and write.
//!
//! What is to go is condemned first, which makes it absent for whoever looks; then it leaves the index, and only then the
//! disk. Packs of which little is needed are copied into the last one, and removed when the index has the new places.

use std::sync::{
    PoisonError,
    atomic::{AtomicBool, Ordering},
};

use firn_castore::{BlobDigest, Root};

use super::{
    DiskStore,
    census::Census,
    place::{BlobKind, BlobPlace},
    tables,
};
use crate::{
    Collected, Item, StoreError, lock,
    mark::{Live, mark},
};

impl DiskStore {
    pub(super) fn collect_garbage(&self, dry_run: bool) -> Result<Collected, StoreError> {
        let _collecting = lock(&self.collecting);
        // From here on, whatever is kept or found stays.
        let _hold = lock(&self.holds).take();
        let _until_the_end = Collecting::begin(&self.is_collecting);
        let has_room = self.flush_if_room()?;
        // Commits that are under way end, and are seen by the marking; those that come touch what they make visible.
        drop(lock(&self.changes.writing));
        let live = self.mark()?;
        let mut census = self.census()?;
        let mut collected = self.collect_partials(&live, dry_run)?;
        let doomed = self.condemn(&live, &census, dry_run);
        for item in &doomed {
            census.remove(item, &mut collected);
        }
        let sparse = census.sparse();
        collected.bytes = collected.bytes.saturating_add(census.reclaimable(&sparse));
        if dry_run {
            return Ok(collected);
        }
        self.delete(&doomed)?;
        if !has_room {
            // Where nothing can be copied, what is not needed at all is still removed.
            self.give_up_unneeded(&live, &mut collected)?;
            self.remove_empty(&census, &sparse)?;
        }
        self.sweep()?;
        if self.flush_if_room()? {
            self.compact(&sparse)?;
            self.prune()?;
        }
        Ok(collected)
    }

    fn mark(&self) -> Result<Live, StoreError> {
        // What a damaged record needs is unknown, and must not be taken for garbage.
        let paths = self.path_records()?.into_iter().map(|path| Ok(path?.root().clone()));
        let trees = self.root_records()?.into_iter().map(|tree| Ok(tree?.0));
        let visible = paths.chain(trees).collect::<Result<Vec<Root>, _>>();
        let held: Vec<Root> = lock(&self.holds).roots().cloned().collect();
        mark(visible.map_err(StoreError::not_collected)?, held, |digest| self.find_directory(digest))
    }

    fn collect_partials(&self, live: &Live, dry_run: bool) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        for blob in self.partials.all() {
            let bytes = self.partials.allocated_bytes(&blob);
            // A file that has lost its end in a crash was taken for one of a shorter blob.
            let is_false = self.blob_place(&blob.digest)?.is_some_and(|place| place.size != blob.size);
            let taken = {
                // Whoever finds something touches it first and then looks: either it is spared, or it is not found.
                let holds = lock(&self.holds);
                let is_wanted = live.blobs.contains(&blob.digest) || holds.protects(&Item::Blob(blob.digest));
                if is_wanted && !is_false {
                    continue;
                }
                if dry_run { None } else { self.partials.take(&blob) }
            };
            collected.partials += 1;
            collected.bytes = collected.bytes.saturating_add(bytes);
            if let Some(taken) = taken {
                self.partials.end(&blob, taken)?;
            }
        }
        Ok(collected)
    }

    /// Chooses what goes, and makes it absent at once.
    fn condemn(&self, live: &Live, census: &Census, dry_run: bool) -> Vec<Item> {
        let blobs =
            census.blobs.keys().filter(|digest| !live.blobs.contains(*digest)).map(|d| Item::Blob(*d));
        let directories = census.directories.keys().filter(|digest| !live.directories.contains(*digest));
        let candidates = blobs.chain(directories.map(|digest| Item::Directory(*digest)));
        let mut state = self.state_mut();
        // Whoever finds something touches it first and then looks here: either it is spared, or it is not found.
        let holds = lock(&self.holds);
        let doomed: Vec<Item> = candidates.filter(|item| !holds.protects(item)).collect();
        if !dry_run {
            state.condemned.extend(doomed.iter().cloned());
        }
        doomed
    }

    /// Takes what is condemned out of the index.
    fn delete(&self, doomed: &[Item]) -> Result<(), StoreError> {
        let deleted = {
            let _writing = lock(&self.changes.writing);
            // What was kept anew meanwhile is condemned no longer, and may be in the index already.
            let condemned = self.state().condemned.clone();
            self.index.write(|transaction| {
                let mut blobs = transaction.open_table(tables::BLOBS)?;
                let mut directories = transaction.open_table(tables::DIRECTORIES)?;
                for item in doomed.iter().filter(|item| condemned.contains(item)) {
                    match item {
                        Item::Blob(digest) => drop(blobs.remove(digest.as_bytes())?),
                        Item::Directory(digest) => drop(directories.remove(digest.as_bytes())?),
                        Item::Path(_) | Item::Root(_) => {}
                    }
                }
                Ok(())
            })
        };
        // What could not be deleted is there again; what is gone from the index is absent without being condemned.
        self.state_mut().condemned.clear();
        deleted
    }

    /// Gives up what waits and nobody needs. Where nothing waits any more, packs are cut to what the index has of them.
    fn give_up_unneeded(&self, live: &Live, collected: &mut Collected) -> Result<(), StoreError> {
        // What is durable stays as it is now.
        let _writing = lock(&self.changes.writing);
        let ends = self.index.ends()?;
        let _keeping = self.keeping.write().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state_mut();
        let holds = lock(&self.holds);
        let waiting = &mut state.waiting;
        let before = (waiting.blobs.len(), waiting.directories.len());
        waiting.blobs.retain(|digest, _| live.blobs.contains(digest) || holds.protects(&Item::Blob(*digest)));
        waiting.directories.retain(|digest, _| {
            live.directories.contains(digest) || holds.protects(&Item::Directory(*digest))
        });
        collected.blobs += (before.0 - waiting.blobs.len()) as u64;
        collected.directories += (before.1 - waiting.directories.len()) as u64;
        if !waiting.blobs.is_empty() || !waiting.directories.is_empty() {
            return Ok(());
        }
        waiting.places.clear();
        self.places.forget();
        let given_up = self.packs.give_up();
        collected.bytes = collected.bytes.saturating_add(given_up).saturating_add(self.packs.cut(&ends)?);
        Ok(())
    }

    /// Removes the files of large blobs that are not there any more, or not in a file.
    fn sweep(&self) -> Result<(), StoreError> {
        let is_file = |place: &BlobPlace| place.kind == BlobKind::File;
        self.large.sweep(|digest: &BlobDigest| {
            // What waits leaves only after it has come to the index. What is damaged is there: it is quarantine's.
            let waits = self.state().waiting.blobs.get(digest).is_some_and(is_file);
            Ok(waits || self.index.blob(digest)?.as_ref().is_some_and(is_file))
        })
    }
}

/// Tells commits that a collection is under way, as long as it lives.
struct Collecting<'a>(&'a AtomicBool);

impl<'a> Collecting<'a> {
    fn begin(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::SeqCst);
        Self(flag)
    }
}

impl Drop for Collecting<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}
