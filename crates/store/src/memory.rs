//! A store in memory.

mod contents;
mod incoming;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use firn_bao::{HashedBlob, Span, VerifiedSpan};
use firn_castore::{BlobDigest, BlobRef, Closure, Directory, DirectoryDigest, Root};
use firn_nix::StorePathHash;
use firn_trust::StoredPath;

use self::{
    contents::{Contents, Kept, Place},
    incoming::Arriving,
};
use crate::{
    Blobs, Collected, Directories, Hold, Incoming, Intake, Item, KnownTree, Listing, Paths, Pins, Reason,
    Record, Room, StoreError, UnixSeconds, Usage, Visible, lock,
};

/// A store in memory, for tests and simulations. Only adopted blobs are read from files.
///
/// It is stricter than a [`DiskStore`](crate::DiskStore): whether a blob is here is answered by reading all of it, and
/// a commit reads and verifies all that it makes visible.
#[derive(Debug, Default)]
pub struct MemoryStore {
    contents: Mutex<Contents>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Flips a bit of a blob that is here, as a broken disk does. Tells whether there was one to flip.
    pub fn damage_blob(&self, digest: &BlobDigest) -> bool {
        self.lock().damage_blob(digest)
    }

    /// Damages a record, as a broken disk does. Tells whether there was one.
    pub fn damage_record(&self, what: &Visible) -> bool {
        self.lock().damage_record(what)
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        lock(&self.contents)
    }
}

impl Blobs for MemoryStore {
    fn has_blob(&self, digest: &BlobDigest) -> Result<Option<u64>, StoreError> {
        let mut contents = self.lock();
        let size = contents.whole_size(digest);
        if size.is_some() {
            contents.holds.touch(Item::Blob(*digest));
        }
        Ok(size)
    }

    fn groups(&self, blob: &BlobRef) -> Result<Vec<Span>, StoreError> {
        let mut contents = self.lock();
        let groups = contents.groups(blob);
        if !groups.is_empty() {
            contents.holds.touch(Item::Blob(blob.digest));
        }
        Ok(groups)
    }

    fn read_span(&self, blob: &BlobRef, span: Span) -> Result<Option<VerifiedSpan>, StoreError> {
        let mut contents = self.lock();
        let read = contents.read_span(blob, span)?;
        if read.is_some() {
            contents.holds.touch(Item::Blob(blob.digest));
        }
        Ok(read)
    }

    fn keep_spans(&self, spans: &[VerifiedSpan]) -> Result<(), StoreError> {
        let mut contents = self.lock();
        spans.iter().for_each(|span| contents.keep_span(span));
        Ok(())
    }
}

impl Intake for MemoryStore {
    fn begin_blob(&self, size: u64) -> Result<Box<dyn Incoming + '_>, StoreError> {
        Ok(Box::new(Arriving::new(self, size)))
    }

    fn adopt_blob(&self, file: &Path, blob: &HashedBlob) -> Result<(), StoreError> {
        let place = match blob.blob().size {
            0 => Place::Memory(Bytes::new()),
            _ => Place::File(file.to_path_buf()),
        };
        let kept = Kept { size: blob.blob().size, place, outboard: blob.outboard().as_bytes().clone() };
        self.lock().keep(blob.blob(), kept);
        Ok(())
    }

    fn known_tree(&self, listing: &Listing) -> Result<Option<KnownTree>, StoreError> {
        let mut contents = self.lock();
        let known = contents.known.get(listing).cloned();
        if let Some(tree) = &known {
            contents.holds.touch(Item::Root(tree.root.clone()));
        }
        Ok(known)
    }

    fn note_tree(&self, listing: &Listing, tree: &KnownTree) -> Result<(), StoreError> {
        self.lock().known.insert(*listing, tree.clone());
        Ok(())
    }
}

impl Directories for MemoryStore {
    fn directory(&self, digest: &DirectoryDigest) -> Result<Option<Directory>, StoreError> {
        let mut contents = self.lock();
        let found = contents.directory(digest)?;
        if found.is_some() {
            contents.holds.touch(Item::Directory(*digest));
        }
        Ok(found)
    }

    fn has_directory(&self, digest: &DirectoryDigest) -> Result<bool, StoreError> {
        self.directory(digest).map(|found| found.is_some())
    }

    fn keep_directories(&self, directories: &[Directory]) -> Result<(), StoreError> {
        let mut contents = self.lock();
        for directory in directories {
            contents.directories.insert(directory.digest(), directory.encoded().clone());
            contents.holds.touch(Item::Directory(directory.digest()));
        }
        Ok(())
    }
}

impl Paths for MemoryStore {
    fn commit_record(
        &self,
        record: Record,
        _: Option<Arc<Closure>>,
        pin: Option<&Reason>,
    ) -> Result<(), StoreError> {
        let mut contents = self.lock();
        contents.check(record.root())?;
        let what = record.what();
        contents.damaged.remove(&what);
        if let Some(reason) = pin {
            contents.pins.insert(what, reason.clone());
        }
        match record {
            Record::Path(path) => drop(contents.paths.insert(path.path_hash(), *path)),
            Record::Tree { root, shared } => {
                contents.roots.insert(root.to_bytes(), (root, shared));
            }
        }
        Ok(())
    }

    fn path(&self, hash: &StorePathHash) -> Result<Option<StoredPath>, StoreError> {
        let contents = self.lock();
        contents.check_record(&Visible::Path(*hash))?;
        Ok(contents.paths.get(hash).cloned())
    }

    fn paths(&self) -> Result<Vec<StoredPath>, StoreError> {
        let contents = self.lock();
        let is_legible = |path: &&StoredPath| !contents.damaged.contains(&Visible::Path(path.path_hash()));
        Ok(contents.paths.values().filter(is_legible).cloned().collect())
    }

    fn roots(&self) -> Result<Vec<(Root, bool)>, StoreError> {
        let contents = self.lock();
        let is_legible = |(root, _): &&(Root, bool)| !contents.damaged.contains(&Visible::Root(root.clone()));
        Ok(contents.roots.values().filter(is_legible).cloned().collect())
    }

    fn damaged_records(&self) -> Result<Vec<StoreError>, StoreError> {
        Ok(self.lock().damaged_records())
    }
}

impl Pins for MemoryStore {
    fn pin(&self, what: &Visible, reason: &Reason) -> Result<(), StoreError> {
        self.lock().pins.insert(what.clone(), reason.clone());
        Ok(())
    }

    fn unpin(&self, what: &Visible) -> Result<bool, StoreError> {
        Ok(self.lock().pins.remove(what).is_some())
    }

    fn pins(&self) -> Result<BTreeMap<Visible, Reason>, StoreError> {
        Ok(self.lock().pins.clone())
    }
}

impl Room for MemoryStore {
    fn remove(&self, what: &Visible) -> Result<bool, StoreError> {
        let mut contents = self.lock();
        contents.pins.remove(what);
        contents.uses.remove(what);
        Ok(contents.hide(what))
    }

    fn used(&self, what: &Visible, at: UnixSeconds) -> Result<(), StoreError> {
        let mut contents = self.lock();
        if contents.is_visible(what) {
            contents.uses.insert(what.clone(), at);
        }
        Ok(())
    }

    fn uses(&self) -> Result<BTreeMap<Visible, UnixSeconds>, StoreError> {
        Ok(self.lock().uses.clone())
    }

    fn hold(&self) -> Hold {
        self.lock().holds.take()
    }

    fn hold_tree(&self, root: &Root) -> Hold {
        self.lock().holds.take_tree(root)
    }

    fn collect(&self, dry_run: bool) -> Result<Collected, StoreError> {
        self.lock().collect(dry_run)
    }

    fn quarantine(&self, item: &Item) -> Result<(), StoreError> {
        self.lock().quarantine(item);
        Ok(())
    }

    fn take_lost(&self) -> BTreeSet<BlobDigest> {
        std::mem::take(&mut self.lock().lost)
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        Ok(self.lock().usage())
    }

    fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }
}
