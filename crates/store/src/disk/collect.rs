//! Deleting what nothing visible needs, while others read and write.
//!
//! What is to go is condemned first, which makes it absent for whoever looks; then it leaves the index, and only then the
//! disk. Packs of which little is needed are copied into the last one, and removed when the index has the new places.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::BytesMut;
use firn_bao::Outboard;
use firn_castore::{BlobDigest, BlobRef, DirectoryDigest, Node, Root};
use redb::{Error, ReadableTable};

use super::{
    DiskStore,
    commit::is_full,
    large::Large,
    packs::RECORD_BYTES_MAX,
    place::{
        BlobKind, BlobPlace, DirectoryPlace, HEAD_BYTES_MAX, PACK_HEAD_BYTES, Position,
        contents_record_bytes, parse_adopted,
    },
    tables,
};
use crate::{
    Collected, Item, Paths, StoreError, Usage, lock,
    mark::{Live, mark},
};

/// A pack of which less than this part is needed is copied.
const NEEDED_PART_MIN: (u64, u64) = (3, 4);

/// What the index has, and what of it goes.
#[derive(Default)]
struct Census {
    blobs: BTreeMap<BlobDigest, BlobPlace>,
    directories: BTreeMap<DirectoryDigest, DirectoryPlace>,
    /// How much of each pack is needed.
    needed: BTreeMap<u32, u64>,
    ends: BTreeMap<u32, u32>,
}

impl DiskStore {
    pub(super) fn collect_garbage(&self, dry_run: bool) -> Result<Collected, StoreError> {
        let _collecting = lock(&self.collecting);
        lock(&self.holds).prune();
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
        if !dry_run {
            self.delete(&doomed)?;
            if !has_room {
                // Where nothing can be copied, what is not needed at all is still removed.
                self.give_up_unneeded(&live, &mut collected)?;
                self.remove_empty(&census, &sparse)?;
            }
            if self.flush_if_room()? {
                self.compact(&sparse)?;
                self.prune()?;
            }
        }
        Ok(collected)
    }

    /// Makes durable what waits; `false` where there is no room for it.
    fn flush_if_room(&self) -> Result<bool, StoreError> {
        match self.flush() {
            Ok(()) => Ok(true),
            Err(error) if is_full(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives up what waits and nobody needs. Where nothing waits any more, packs are cut to what the index has of them.
    fn give_up_unneeded(&self, live: &Live, collected: &mut Collected) -> Result<(), StoreError> {
        // What is durable stays as it is now.
        let _writing = lock(&self.changes.writing);
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
        self.packs.give_up();
        collected.bytes = collected.bytes.saturating_add(self.packs.cut(&self.index.ends()?)?);
        Ok(())
    }

    /// Removes the packs of which nothing is needed, also by what waits.
    fn remove_empty(&self, census: &Census, sparse: &BTreeSet<u32>) -> Result<(), StoreError> {
        let empty: Vec<u32> = {
            let _keeping = self.keeping.write().unwrap_or_else(PoisonError::into_inner);
            let (tail, state) = (self.packs.tail(), self.state());
            let waiting = state.waiting.blobs.values().filter_map(BlobPlace::position);
            let waiting = waiting.chain(state.waiting.directories.values().map(|place| place.position));
            let used: BTreeSet<u32> = waiting.map(|position| position.pack).chain([tail]).collect();
            let is_empty = |pack: &&u32| census.needed.get(*pack).is_none_or(|needed| *needed == 0);
            sparse.iter().filter(is_empty).filter(|pack| !used.contains(*pack)).copied().collect()
        };
        {
            let _writing = lock(&self.changes.writing);
            self.index.write(|transaction| {
                let mut packs = transaction.open_table(tables::PACKS)?;
                empty.iter().try_for_each(|pack| packs.remove(pack).map(|_| ()))?;
                Ok(())
            })?;
        }
        empty.iter().try_for_each(|pack| self.packs.remove(*pack))
    }

    fn mark(&self) -> Result<Live, StoreError> {
        let mut roots: Vec<Root> = self.paths()?.iter().map(|path| path.root().clone()).collect();
        roots.extend(self.roots()?.into_iter().map(|(root, _)| root));
        roots.extend(lock(&self.holds).roots().cloned());
        mark(roots, |digest| self.find_directory(digest))
    }

    fn census(&self) -> Result<Census, StoreError> {
        let mut census = self.index.read(|transaction| {
            let mut census = Census::default();
            for entry in transaction.open_table(tables::BLOBS)?.iter()? {
                let (digest, place) = entry?;
                if let Some(place) = BlobPlace::from_bytes(place.value()) {
                    census.blobs.insert(BlobDigest::from(*digest.value()), place);
                }
            }
            for entry in transaction.open_table(tables::DIRECTORIES)?.iter()? {
                let (digest, place) = entry?;
                let place = DirectoryPlace::from_bytes(place.value());
                census.directories.insert(DirectoryDigest::from(*digest.value()), place);
            }
            Ok(census)
        })?;
        census.ends = self.index.ends()?;
        let mut needed: BTreeMap<u32, u64> = BTreeMap::new();
        let mut add = |pack: u32, bytes: u64| {
            let sum = needed.entry(pack).or_default();
            *sum = sum.saturating_add(bytes);
        };
        for place in census.blobs.values() {
            if let Some(position) = place.position() {
                add(position.pack, self.record_bytes(place).unwrap_or(0));
            }
        }
        for place in census.directories.values() {
            add(place.position.pack, place.record_bytes());
        }
        census.needed = needed;
        Ok(census)
    }

    /// How long a blob's record in a pack is; `None` for a damaged one.
    fn record_bytes(&self, place: &BlobPlace) -> Option<u64> {
        match place.kind {
            BlobKind::File => Some(0),
            BlobKind::Packed(_) => Some(contents_record_bytes(place.size)),
            BlobKind::Adopted(position) => {
                let mut head = [0; HEAD_BYTES_MAX];
                let read = self.packs.read_some(position, &mut head).ok()?;
                let head = parse_adopted(&head[..read], place.size)?;
                Some((head.bytes as u64).saturating_add(Outboard::byte_length(place.size)))
            }
        }
    }

    fn collect_partials(&self, live: &Live, dry_run: bool) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        for blob in self.partials.all() {
            let bytes = self.partials.allocated_bytes(&blob);
            let taken = {
                // Whoever finds something touches it first and then looks: either it is spared, or it is not found.
                let holds = lock(&self.holds);
                if live.blobs.contains(&blob.digest) || holds.protects(&Item::Blob(blob.digest)) {
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

    /// Takes what is condemned out of the index, and its files off the disk.
    fn delete(&self, doomed: &[Item]) -> Result<(), StoreError> {
        let deleted = {
            let _writing = lock(&self.changes.writing);
            // What was kept anew meanwhile is condemned no longer, and may be in the index already.
            let condemned = self.state().condemned.clone();
            self.index.write(|transaction| {
                let mut blobs = transaction.open_table(tables::BLOBS)?;
                let mut directories = transaction.open_table(tables::DIRECTORIES)?;
                let mut files = Vec::new();
                for item in doomed.iter().filter(|item| condemned.contains(item)) {
                    match item {
                        Item::Blob(digest) => {
                            let place = blobs.remove(digest.as_bytes())?;
                            let place = place.and_then(|place| BlobPlace::from_bytes(place.value()));
                            if place.is_some_and(|place| place.kind == BlobKind::File) {
                                files.push(*digest);
                            }
                        }
                        Item::Directory(digest) => {
                            directories.remove(digest.as_bytes())?;
                        }
                        Item::Path(_) | Item::Root(_) => {}
                    }
                }
                Ok(files)
            })
        };
        // What could not be deleted is there again; what is gone from the index is absent without being condemned.
        let result = deleted
            .and_then(|files| files.iter().try_for_each(|digest| self.put_aside(digest, Large::remove)));
        self.state_mut().condemned.clear();
        result
    }

    /// Copies what is needed out of these packs, and removes them.
    fn compact(&self, sparse: &BTreeSet<u32>) -> Result<(), StoreError> {
        if sparse.is_empty() {
            return Ok(());
        }
        {
            // Whoever puts a record into a pack has told where it is when this is ours.
            let _keeping = self.keeping.write().unwrap_or_else(PoisonError::into_inner);
            if sparse.contains(&self.packs.tail()) {
                self.packs.begin_next()?;
            }
        }
        // So the index has all records of these packs now, and no more will come to them.
        self.flush()?;
        let failures = self.packs.failures();
        let census = self.census()?;
        let mut moves = Moves::default();
        for (digest, place) in &census.blobs {
            let Some(position) = place.position().filter(|position| sparse.contains(&position.pack)) else {
                continue;
            };
            let copied =
                self.record_bytes(place).and_then(|bytes| self.copy_record(position, bytes).transpose());
            match copied.transpose()? {
                Some(to) => moves.blobs.push((*digest, *place, to)),
                // What can't be read stays where it is, and so does its pack: the user may want to look at it.
                None => {
                    moves.kept.insert(position.pack);
                }
            }
        }
        for (digest, place) in
            census.directories.iter().filter(|(_, place)| sparse.contains(&place.position.pack))
        {
            match self.copy_record(place.position, place.record_bytes())? {
                Some(to) => moves.directories.push((*digest, *place, to)),
                None => {
                    moves.kept.insert(place.position.pack);
                }
            }
        }
        self.apply_moves(moves, sparse, failures)
    }

    /// `None` where the record cannot be read.
    fn copy_record(&self, from: Position, bytes: u64) -> Result<Option<Position>, StoreError> {
        let Some(bytes) = usize::try_from(bytes).ok().filter(|bytes| *bytes as u64 <= RECORD_BYTES_MAX)
        else {
            return Ok(None);
        };
        let mut record = BytesMut::zeroed(bytes);
        match self.packs.read(from, 0, &mut record) {
            Ok(()) => self.packs.append(&[&record]).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// `failures`: as it was before the first record was copied.
    fn apply_moves(&self, moves: Moves, sparse: &BTreeSet<u32>, failures: u64) -> Result<(), StoreError> {
        let emptied: Vec<u32> = sparse.difference(&moves.kept).copied().collect();
        {
            let _writing = lock(&self.changes.writing);
            let (_, dirty) = self.sync_waiting()?;
            if self.packs.failures() != failures {
                // The copies may be gone. What was to be moved stays where it is.
                return Ok(());
            }
            self.index.write(|transaction| {
                let mut blobs = transaction.open_table(tables::BLOBS)?;
                for (digest, from, to) in &moves.blobs {
                    let now = blobs.get(digest.as_bytes())?.map(|place| *place.value());
                    if now == Some(from.to_bytes()) {
                        blobs.insert(digest.as_bytes(), &from.moved(*to).to_bytes())?;
                    }
                }
                let mut directories = transaction.open_table(tables::DIRECTORIES)?;
                for (digest, from, to) in &moves.directories {
                    let now = directories.get(digest.as_bytes())?.map(|place| *place.value());
                    if now == Some(from.to_bytes()) {
                        let place = DirectoryPlace { position: *to, ..*from };
                        directories.insert(digest.as_bytes(), &place.to_bytes())?;
                    }
                }
                let mut packs = transaction.open_table(tables::PACKS)?;
                for (pack, end) in &dirty.ends {
                    packs.insert(pack, end)?;
                }
                for pack in &emptied {
                    packs.remove(pack)?;
                }
                Ok(())
            })?;
            self.packs.is_durable(&dirty);
        }
        emptied.iter().try_for_each(|pack| self.packs.remove(*pack))
    }

    /// Takes out of the index what only served things that are gone.
    fn prune(&self) -> Result<(), StoreError> {
        // Whoever adopts from here on gets a new number; who has an old one has told what lies there, to the index too.
        let first_new = {
            let _keeping = self.keeping.write().unwrap_or_else(PoisonError::into_inner);
            self.places.forget()
        };
        self.flush()?;
        let places = self.places_in_use()?;
        let _writing = lock(&self.changes.writing);
        self.index.write(|transaction| {
            let paths = transaction.open_table(tables::PATHS)?;
            let roots = transaction.open_table(tables::ROOTS)?;
            let mut visible = BTreeSet::new();
            for entry in paths.iter()? {
                visible.insert([b"p", entry?.0.value()].concat());
            }
            for entry in roots.iter()? {
                visible.insert([b"r", entry?.0.value()].concat());
            }
            transaction.open_table(tables::USES)?.retain(|key, _| visible.contains(key))?;
            transaction
                .open_table(tables::PLACES)?
                .retain(|id, _| id >= first_new || places.contains(&id))?;
            let directories = transaction.open_table(tables::DIRECTORIES)?;
            let blobs = transaction.open_table(tables::BLOBS)?;
            let mut trees = transaction.open_table(tables::TREES)?;
            let mut gone = Vec::new();
            for entry in trees.iter()? {
                let (listing, sealed) = entry?;
                let root = tables::unseal_tree(listing.value(), sealed.value()).map(|tree| tree.root);
                let is_here = match root.as_ref().map(Root::node) {
                    Some(Node::Directory { digest, .. }) => directories.get(digest.as_bytes())?.is_some(),
                    Some(Node::File { blob, .. }) => blobs.get(blob.digest.as_bytes())?.is_some(),
                    Some(Node::Symlink { .. }) => true,
                    None => false,
                };
                if !is_here {
                    gone.push(listing.value().to_vec());
                }
            }
            for listing in gone {
                trees.remove(&listing[..])?;
            }
            Ok(())
        })
    }

    fn places_in_use(&self) -> Result<BTreeSet<u32>, StoreError> {
        let adopted: Vec<BlobPlace> = self.index.read(|transaction| {
            let mut adopted = Vec::new();
            for entry in transaction.open_table(tables::BLOBS)?.iter()? {
                let place = BlobPlace::from_bytes(entry?.1.value());
                adopted.extend(place.filter(|place| matches!(place.kind, BlobKind::Adopted(_))));
            }
            Ok(adopted)
        })?;
        let mut places = BTreeSet::new();
        for place in adopted {
            let Some(position) = place.position() else { continue };
            let mut head = [0; HEAD_BYTES_MAX];
            match self.packs.read_some(position, &mut head) {
                Ok(read) => places.extend(parse_adopted(&head[..read], place.size).map(|head| head.place)),
                // A pack that is gone has no need of places.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io(self.packs.path(position.pack))(error)),
            }
        }
        Ok(places)
    }

    pub(super) fn count_usage(&self) -> Result<Usage, StoreError> {
        self.flush()?;
        let (mut usage, files) = self.index.read(|transaction| {
            let (mut usage, mut files) = (Usage::default(), 0u64);
            let add = |sum: &mut u64, bytes: u64| *sum = sum.saturating_add(bytes);
            for entry in transaction.open_table(tables::BLOBS)?.iter()? {
                let Some(place) = BlobPlace::from_bytes(entry?.1.value()) else { continue };
                usage.blobs += 1;
                add(&mut usage.blob_bytes, place.size);
                match place.kind {
                    BlobKind::Adopted(_) => {
                        usage.adopted_blobs += 1;
                        add(&mut usage.adopted_bytes, place.size);
                    }
                    BlobKind::File => add(&mut files, Large::disk_bytes(place.size)),
                    BlobKind::Packed(_) => {}
                }
            }
            usage.directories =
                redb::ReadableTableMetadata::len(&transaction.open_table(tables::DIRECTORIES)?)?;
            Ok::<_, Error>((usage, files))
        })?;
        let partials = self.partials.all();
        usage.partials = partials.len() as u64;
        let partial_bytes = partials.iter().map(|blob: &BlobRef| self.partials.allocated_bytes(blob));
        usage.disk_bytes = partial_bytes
            .chain([files, self.packs.allocated_bytes()?, self.index.allocated_bytes()?])
            .fold(0, u64::saturating_add);
        Ok(usage)
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

#[derive(Default)]
struct Moves {
    blobs: Vec<(BlobDigest, BlobPlace, Position)>,
    directories: Vec<(DirectoryDigest, DirectoryPlace, Position)>,
    /// Packs that stay, since a record of theirs could not be copied.
    kept: BTreeSet<u32>,
}

impl Census {
    /// Takes out what goes.
    fn remove(&mut self, item: &Item, collected: &mut Collected) {
        let mut free = |position: Position, bytes: u64| {
            if let Some(needed) = self.needed.get_mut(&position.pack) {
                *needed = needed.saturating_sub(bytes);
            }
        };
        match item {
            Item::Blob(digest) => {
                let Some(place) = self.blobs.remove(digest) else { return };
                collected.blobs += 1;
                match place.kind {
                    BlobKind::Packed(position) => free(position, contents_record_bytes(place.size)),
                    // The head of its record is small change.
                    BlobKind::Adopted(position) => free(position, Outboard::byte_length(place.size)),
                    BlobKind::File => {
                        collected.bytes = collected.bytes.saturating_add(Large::disk_bytes(place.size));
                    }
                }
            }
            Item::Directory(digest) => {
                let Some(place) = self.directories.remove(digest) else { return };
                collected.directories += 1;
                free(place.position, place.record_bytes());
            }
            Item::Path(_) | Item::Root(_) => {}
        }
    }

    /// The packs of which little is needed.
    fn sparse(&self) -> BTreeSet<u32> {
        let (part, of) = NEEDED_PART_MIN;
        let is_sparse = |(pack, end): (&u32, &u32)| {
            let needed = self.needed.get(pack).copied().unwrap_or(0);
            let length = u64::from(end.saturating_sub(PACK_HEAD_BYTES));
            (needed.saturating_mul(of) < length.saturating_mul(part)).then_some(*pack)
        };
        self.ends.iter().filter_map(is_sparse).collect()
    }

    /// How many bytes compacting these packs gives back.
    fn reclaimable(&self, sparse: &BTreeSet<u32>) -> u64 {
        let gain = |pack: &u32| {
            let end = self.ends.get(pack).copied().map_or(0, u64::from);
            end.saturating_sub(self.needed.get(pack).copied().unwrap_or(0))
        };
        sparse.iter().map(gain).fold(0, u64::saturating_add)
    }
}
