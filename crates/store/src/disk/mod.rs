//! A store on disk.
//!
//! `docs/STORE.md` draws the bytes. What is small goes into packs, what is large into files of their own, what is adopted
//! stays where it is; the index says where everything is, and what is visible.
//!
//! What was kept waits in memory for the index ([`state::Waiting`]). A change of the index, such as a commit, makes
//! durable what packs and files have of it, and then writes it to the index in one durable transaction, together with
//! the change. So whatever the index has after a crash is whole, and all else is garbage.

mod adopt;
mod backend;
mod collect;
mod commit;
mod index;
mod large;
mod layout;
mod packs;
mod partials;
mod place;
mod read;
mod state;
mod tables;
mod vfs;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic::AtomicBool},
};

use bytes::Bytes;
use firn_bao::{GROUP_BYTES, HashedBlob, HashedPiece, PIECE_BYTES, Span, SpanError, VerifiedSpan};
use firn_castore::{BlobDigest, BlobRef, Directory, DirectoryDigest, Root};
use firn_nix::StorePathHash;
use firn_trust::StoredPath;
use redb::{Error, ReadableTable};

pub use layout::{FORMAT_VERSION, OpenError};
pub use vfs::{Access, Disk, DiskFile, RealDisk};

use self::{
    adopt::Places,
    commit::{Change, Changes},
    index::Index,
    large::{Large, TempBlob},
    layout::{Layout, Lock},
    packs::Packs,
    partials::{Kept, Partials},
    place::{BlobKind, BlobPlace, DirectoryPlace, adopted_head, contents_head, directory_head},
    state::State,
    tables::unseal,
};
use crate::{
    Blobs, Collected, Directories, Hold, Incoming, Intake, Item, KnownTree, Listing, Paths, Pins, Reason,
    Room, StoreError, UnixSeconds, Usage, Visible, lock, mark::Holds,
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
    packs: Packs,
    large: Large,
    partials: Partials,
    places: Places,
    index: Index,
    layout: Layout,
    /// Last, so that it is given up after all else is closed. `None` on a disk that is not the operating system's.
    lock: Option<Lock>,
}

/// A record as it stands in the index.
type KeyAndSeal = (Vec<u8>, Vec<u8>);

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DiskStore").field(&self.layout.dir).finish()
    }
}

impl DiskStore {
    /// Opens the store in this directory, or makes one where there is nothing or an empty directory.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        fs::create_dir_all(dir).map_err(OpenError::io(dir))?;
        let disk = Arc::new(RealDisk::of(dir).map_err(OpenError::io(dir))?);
        // Before anything is made in a directory that may be something else.
        layout::check_version(&*disk, dir)?;
        let lock = Lock::take(dir)?;
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
        let large = Large::new(&layout);
        if was_left {
            large
                .sweep(|digest| Ok(index.blob(digest)?.is_some_and(|place| place.kind == BlobKind::File)))?;
        }
        let ends = index.ends()?;
        let packs = Packs::open(disk, layout.packs.clone(), &ends)?;
        let partials = Partials::open(&layout)?;
        for blob in partials.all() {
            // It has become whole, and a crash has undone the removal of its part.
            if index.blob(&blob.digest)?.is_some() {
                partials.remove(&blob)?;
            }
        }
        let places = Places::open(&index)?;
        Ok(Self {
            state: RwLock::default(),
            keeping: RwLock::new(()),
            changes: Changes::default(),
            collecting: Mutex::new(()),
            is_collecting: AtomicBool::new(false),
            holds: Mutex::default(),
            packs,
            large,
            partials,
            places,
            index,
            layout,
            lock,
        })
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

    /// Whether the whole blob is here. What is found stays as long as there is a hold.
    fn holds(&self, blob: &BlobRef) -> Result<bool, StoreError> {
        Ok(self.has_blob(&blob.digest)? == Some(blob.size))
    }

    /// Keeps what fits into a pack, which is one record.
    fn keep_packed(
        &self,
        digest: BlobDigest,
        kind: fn(place::Position) -> BlobKind,
        size: u64,
        parts: &[&[u8]],
    ) -> Result<(), StoreError> {
        {
            let _keeping = self.keeping();
            let position = self.packs.append(parts)?;
            self.state_mut().keep_blob(digest, BlobPlace { size, kind: kind(position) });
        }
        self.make_room()
    }

    fn keep_small(&self, blob: &BlobRef, contents: &Bytes, outboard: &Bytes) -> Result<(), StoreError> {
        let head = contents_head(blob.size);
        self.keep_packed(blob.digest, BlobKind::Packed, blob.size, &[&head, contents, outboard])
    }

    /// Puts a whole large blob in its place, unless it is there.
    fn keep_large(&self, blob: &BlobRef, file: &Path) -> Result<(), StoreError> {
        let _keeping = self.keeping();
        // Nobody may put a copy that is not durable over a file that a commit has found durable already.
        let _publishing = lock(&self.large.publishing);
        if self.holds(blob)? {
            return Ok(());
        }
        self.large.publish(file, &blob.digest)?;
        self.state_mut().keep_blob(blob.digest, BlobPlace { size: blob.size, kind: BlobKind::File });
        Ok(())
    }

    /// Does away with the file of a large blob that has left the index, unless the blob has come anew.
    fn put_aside(
        &self,
        digest: &BlobDigest,
        how: fn(&Large, &BlobDigest) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let _publishing = lock(&self.large.publishing);
        match self.blob_place(digest)? {
            Some(_) => Ok(()),
            None => how(&self.large, digest),
        }
    }

    /// Takes in a blob of which all groups have come.
    fn keep_whole_partial(&self, blob: &BlobRef, file: &Path) -> Result<(), StoreError> {
        if blob.size > PIECE_BYTES {
            return self.keep_large(blob, file);
        }
        let whole = Span::whole(blob.size);
        let opened = self.layout.disk.open(file, Access::Read);
        let read = opened.and_then(|file| partials::read_span(&*file, blob.size, whole));
        let (bytes, parents) = read.map_err(StoreError::io(file))?;
        let checked = VerifiedSpan::check(*blob, whole, parents, bytes);
        let span = checked.map_err(|error| StoreError::damaged(Item::Blob(blob.digest), file, error))?;
        if self.holds(blob)? {
            return Ok(());
        }
        self.keep_small(blob, span.bytes(), span.parents())
    }

    fn parse_path(&self, hash: StorePathHash, sealed: &[u8]) -> Result<StoredPath, StoreError> {
        let parsed = unseal(hash.as_bytes(), sealed).and_then(|bytes| Ok(StoredPath::from_bytes(bytes)?));
        parsed.map_err(|damage| StoreError::damaged(Item::Path(hash), self.index.path(), damage))
    }

    fn parse_root(&self, root: Root, sealed: &[u8]) -> Result<(Root, bool), StoreError> {
        match unseal(&root.to_bytes(), sealed) {
            Ok(flag) => Ok((root, flag == [1])),
            Err(damage) => Err(StoreError::damaged(Item::Root(root), self.index.path(), damage)),
        }
    }

    fn records(
        &self,
        table: redb::TableDefinition<'static, &'static [u8], &'static [u8]>,
    ) -> Result<Vec<KeyAndSeal>, StoreError> {
        self.index.read(|transaction| {
            let mut records = Vec::new();
            for record in transaction.open_table(table)?.iter()? {
                let (key, sealed) = record?;
                records.push((key.value().to_vec(), sealed.value().to_vec()));
            }
            Ok(records)
        })
    }

    fn is_visible(&self, what: &Visible) -> Result<bool, StoreError> {
        let (table, key) = tables::record_key(what);
        self.index.read(|transaction| Ok(transaction.open_table(table)?.get(&key[..])?.is_some()))
    }

    /// Whether this very record is there already, with this pin, and nothing of it can have gone since.
    fn is_committed(&self, what: &Visible, record: &[u8], pin: Option<&Reason>) -> Result<bool, StoreError> {
        if !self.state().damaged.is_empty() {
            return Ok(false);
        }
        let (table, key) = tables::record_key(what);
        let name = tables::visible_key(what);
        self.index.read(|transaction| {
            let sealed = transaction.open_table(table)?.get(&key[..])?;
            let is_same =
                sealed.is_some_and(|sealed| unseal(&key, sealed.value()).is_ok_and(|it| it == record));
            if !is_same || transaction.open_table(tables::WHOLE)?.get(&name[..])?.is_none() {
                return Ok(false);
            }
            let Some(pin) = pin else { return Ok(true) };
            let reason = transaction.open_table(tables::PINS)?.get(&name[..])?;
            Ok(reason.is_some_and(|reason| reason.value() == pin.as_str()))
        })
    }

    /// A key that names nothing can only come of damage, and there is no name to give it.
    fn nameless(&self) -> StoreError {
        self.index.error(Error::Corrupted("a record's key names nothing".to_owned()))
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        let flushed = self.flush().is_ok();
        if let Some(lock) = &mut self.lock {
            lock.closed_cleanly(flushed);
        }
    }
}

impl Blobs for DiskStore {
    fn has_blob(&self, digest: &BlobDigest) -> Result<Option<u64>, StoreError> {
        lock(&self.holds).touch(Item::Blob(*digest));
        Ok(self.blob_place(digest)?.map(|(place, _)| place.size))
    }

    fn groups(&self, blob: &BlobRef) -> Result<Vec<Span>, StoreError> {
        match self.has_blob(&blob.digest)? {
            Some(size) if size == blob.size => Ok(vec![Span::whole(size)]),
            Some(_) => Ok(Vec::new()),
            None => self.partials.groups(blob),
        }
    }

    fn read_span(&self, blob: &BlobRef, span: Span) -> Result<Option<VerifiedSpan>, StoreError> {
        if !span.fits(blob.size) {
            let source = SpanError::PastEnd { span, size: blob.size };
            return Err(StoreError::Span { blob: *blob, source });
        }
        lock(&self.holds).touch(Item::Blob(blob.digest));
        self.read_blob(blob, span)
    }

    fn keep_span(&self, span: &VerifiedSpan) -> Result<(), StoreError> {
        let blob = span.blob();
        if self.holds(&blob)? {
            return Ok(());
        }
        if blob.size <= PIECE_BYTES && span.span() == Span::whole(blob.size) {
            self.keep_small(&blob, span.bytes(), span.parents())?;
            return self.partials.remove(&blob);
        }
        match self.partials.keep(span, |file| self.keep_whole_partial(&blob, file))? {
            Kept::Whole => self.make_room(),
            Kept::Partly => Ok(()),
        }
    }
}

impl Intake for DiskStore {
    fn begin_blob(&self, size: u64) -> Result<Box<dyn Incoming + '_>, StoreError> {
        Ok(Box::new(Copying { store: self, temp: self.large.begin(size)? }))
    }

    fn adopt_blob(&self, file: &Path, blob: &HashedBlob) -> Result<(), StoreError> {
        let (BlobRef { digest, size }, outboard) = (blob.blob(), blob.outboard().as_bytes());
        if self.holds(&blob.blob())? {
            return Ok(());
        }
        let illegal = || StoreError::io(file)(io::ErrorKind::InvalidInput.into());
        let (dir, name) =
            file.parent().zip(file.file_name()).filter(|_| file.is_absolute()).ok_or_else(illegal)?;
        {
            let _keeping = self.keeping();
            let place = {
                // Who gets a number that is not new finds it where it waits.
                let mut state = self.state_mut();
                let (place, is_new) = self.places.number(dir);
                if is_new {
                    state.waiting.places.insert(place, dir.to_path_buf());
                }
                place
            };
            let head = adopted_head(size, place, name).ok_or_else(illegal)?;
            let position = self.packs.append(&[&head, outboard])?;
            self.state_mut().keep_blob(digest, BlobPlace { size, kind: BlobKind::Adopted(position) });
        }
        self.partials.remove(&blob.blob())?;
        self.make_room()
    }

    fn known_tree(&self, listing: &Listing) -> Result<Option<KnownTree>, StoreError> {
        let waiting = self.state().waiting.trees.get(listing).cloned();
        let tree = match waiting {
            Some(tree) => Some(tree),
            None => self.index.read(|transaction| {
                let sealed = transaction.open_table(tables::TREES)?.get(&listing.0[..])?;
                Ok(sealed.and_then(|sealed| tables::unseal_tree(&listing.0, sealed.value())))
            })?,
        };
        if let Some(tree) = &tree {
            lock(&self.holds).touch(Item::Root(tree.root.clone()));
        }
        Ok(tree)
    }

    fn note_tree(&self, listing: &Listing, tree: &KnownTree) -> Result<(), StoreError> {
        self.state_mut().waiting.trees.insert(*listing, tree.clone());
        self.make_room()
    }
}

/// See [`Intake::begin_blob`].
struct Copying<'a> {
    store: &'a DiskStore,
    temp: TempBlob,
}

impl Incoming for Copying<'_> {
    fn write(&self, piece: &HashedPiece) -> Result<(), StoreError> {
        self.temp.write(piece)
    }

    fn finish(self: Box<Self>) -> Result<BlobRef, StoreError> {
        let blob = self.temp.complete()?;
        self.store.keep_large(&blob, self.temp.path())?;
        self.store.partials.remove(&blob)?;
        self.store.make_room()?;
        Ok(blob)
    }
}

impl Directories for DiskStore {
    fn directory(&self, digest: &DirectoryDigest) -> Result<Option<Directory>, StoreError> {
        lock(&self.holds).touch(Item::Directory(*digest));
        self.find_directory(digest)
    }

    fn has_directory(&self, digest: &DirectoryDigest) -> Result<bool, StoreError> {
        lock(&self.holds).touch(Item::Directory(*digest));
        Ok(self.directory_place(digest)?.is_some())
    }

    fn keep_directories(&self, directories: &[Directory]) -> Result<(), StoreError> {
        for directory in directories {
            let digest = directory.digest();
            if self.has_directory(&digest)? {
                continue;
            }
            let encoded = directory.encoded();
            let bytes = u32::try_from(encoded.len())
                .map_err(|_| StoreError::io(&self.layout.packs)(io::ErrorKind::FileTooLarge.into()))?;
            let _keeping = self.keeping();
            let position = self.packs.append(&[&directory_head(bytes), encoded])?;
            self.state_mut().keep_directory(digest, DirectoryPlace { position, bytes });
        }
        self.make_room()
    }
}

impl Paths for DiskStore {
    fn commit(&self, path: StoredPath, pin: Option<&Reason>) -> Result<(), StoreError> {
        let what = Visible::Path(path.path_hash());
        if self.is_committed(&what, &path.to_bytes(), pin)? {
            return self.flush();
        }
        self.change(Change::Path(Box::new(path), pin.cloned())).map(|_| ())
    }

    fn commit_root(&self, root: &Root, shared: bool, pin: Option<&Reason>) -> Result<(), StoreError> {
        if self.is_committed(&Visible::Root(root.clone()), &[u8::from(shared)], pin)? {
            return self.flush();
        }
        self.change(Change::Root(root.clone(), shared, pin.cloned())).map(|_| ())
    }

    fn path(&self, hash: &StorePathHash) -> Result<Option<StoredPath>, StoreError> {
        let sealed = self.index.read(|transaction| {
            let sealed = transaction.open_table(tables::PATHS)?.get(&hash.as_bytes()[..])?;
            Ok(sealed.map(|sealed| sealed.value().to_vec()))
        })?;
        sealed.map(|sealed| self.parse_path(*hash, &sealed)).transpose()
    }

    fn paths(&self) -> Result<Vec<StoredPath>, StoreError> {
        let records = self.records(tables::PATHS)?.into_iter().map(|(key, sealed)| {
            let hash = StorePathHash::try_from(&key[..]).map_err(|_| self.nameless())?;
            self.parse_path(hash, &sealed)
        });
        records.collect()
    }

    fn roots(&self) -> Result<Vec<(Root, bool)>, StoreError> {
        let records = self.records(tables::ROOTS)?.into_iter().map(|(key, sealed)| {
            let root = Root::from_bytes(&key).map_err(|_| self.nameless())?;
            self.parse_root(root, &sealed)
        });
        records.collect()
    }
}

impl Pins for DiskStore {
    fn pin(&self, what: &Visible, reason: &Reason) -> Result<(), StoreError> {
        self.change(Change::Pin(what.clone(), reason.clone())).map(|_| ())
    }

    fn unpin(&self, what: &Visible) -> Result<bool, StoreError> {
        self.change(Change::Unpin(what.clone()))
    }

    fn pins(&self) -> Result<BTreeMap<Visible, Reason>, StoreError> {
        self.index.read(|transaction| {
            let mut pins = BTreeMap::new();
            for entry in transaction.open_table(tables::PINS)?.iter()? {
                let (key, reason) = entry?;
                pins.extend(tables::parse_visible(key.value()).zip(reason.value().parse().ok()));
            }
            Ok(pins)
        })
    }
}

impl Room for DiskStore {
    fn remove(&self, what: &Visible) -> Result<bool, StoreError> {
        let was_visible = self.change(Change::Remove(what.clone()))?;
        self.state_mut().waiting.uses.remove(what);
        Ok(was_visible)
    }

    fn used(&self, what: &Visible, at: UnixSeconds) -> Result<(), StoreError> {
        if self.is_visible(what)? {
            let mut state = self.state_mut();
            let last = state.waiting.uses.entry(what.clone()).or_default();
            *last = at.max(*last);
        }
        self.make_room()
    }

    fn uses(&self) -> Result<BTreeMap<Visible, UnixSeconds>, StoreError> {
        let waiting = self.state().waiting.uses.clone();
        let mut uses = self.index.read(|transaction| {
            let mut uses = BTreeMap::new();
            for entry in transaction.open_table(tables::USES)?.iter()? {
                let (key, at) = entry?;
                uses.extend(tables::parse_visible(key.value()).map(|what| (what, UnixSeconds(at.value()))));
            }
            Ok(uses)
        })?;
        for (what, at) in waiting {
            let last: &mut UnixSeconds = uses.entry(what).or_default();
            *last = at.max(*last);
        }
        Ok(uses)
    }

    fn hold(&self) -> Hold {
        lock(&self.holds).take()
    }

    fn collect(&self, dry_run: bool) -> Result<Collected, StoreError> {
        self.collect_garbage(dry_run)
    }

    fn quarantine(&self, item: &Item) -> Result<(), StoreError> {
        self.flush()?;
        let file = match item {
            Item::Blob(digest) => {
                let place = self.index.blob(digest)?;
                place.is_some_and(|place| place.kind == BlobKind::File).then_some(digest)
            }
            Item::Directory(_) | Item::Path(_) | Item::Root(_) => None,
        };
        self.change(Change::Forget(item.clone()))?;
        self.state_mut().note_quarantined(item);
        match file {
            Some(digest) => self.put_aside(digest, Large::quarantine),
            None => Ok(()),
        }
    }

    fn take_lost(&self) -> BTreeSet<BlobDigest> {
        std::mem::take(&mut self.state_mut().lost)
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        self.count_usage()
    }
}

const _: () = assert!(PIECE_BYTES.is_multiple_of(GROUP_BYTES));
