//! Copying what is needed out of packs of which little is, and removing them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
};

use firn_castore::{BlobDigest, DirectoryDigest};
use redb::{Error, ReadableTable, WriteTransaction};

use super::{
    DiskStore,
    census::Census,
    packs::{Dirty, RECORD_BYTES_MAX},
    place::{BlobPlace, DirectoryPlace, Position},
    tables,
};
use crate::{StoreError, lock};

/// So many packs are copied and removed at a time: this bounds the room that it takes.
const PACKS_AT_ONCE: usize = 4;

/// The records of a pack.
#[derive(Default)]
struct Records {
    blobs: Vec<(BlobDigest, BlobPlace)>,
    directories: Vec<(DirectoryDigest, DirectoryPlace)>,
}

/// What was copied from where to where.
#[derive(Default)]
struct Moves {
    blobs: Vec<(BlobDigest, BlobPlace, Position)>,
    directories: Vec<(DirectoryDigest, DirectoryPlace, Position)>,
    /// The packs that nobody needs then.
    emptied: BTreeSet<u32>,
}

impl DiskStore {
    /// Copies what is needed out of these packs, and removes them.
    pub(super) fn compact(&self, sparse: &BTreeSet<u32>) -> Result<(), StoreError> {
        if sparse.is_empty() {
            return Ok(());
        }
        {
            // Whoever puts a record into a pack has told where it is when this is ours.
            let _keeping = self.keeping.write().unwrap_or_else(PoisonError::into_inner);
            if sparse.contains(&self.packs.tail()) {
                self.packs.begin_next();
            }
        }
        // So the index has all records of these packs now, and no more will come to them.
        self.flush()?;
        let census = self.census()?;
        let mut packs: Vec<(u32, Records)> = records(&census, sparse).into_iter().collect();
        // Those that give most for the least room come first.
        packs.sort_by_key(|(pack, _)| census.needed.get(pack).copied().unwrap_or(0));
        for some in packs.chunks(PACKS_AT_ONCE) {
            match self.copy_packs(some) {
                // What has gone has gone; the rest waits for more room.
                Err(error) if error.is_full() => return Ok(()),
                copied => copied?,
            }
        }
        Ok(())
    }

    fn copy_packs(&self, packs: &[(u32, Records)]) -> Result<(), StoreError> {
        let failures = self.packs.failures();
        let mut moves = Moves::default();
        for (pack, records) in packs {
            // What can't be read stays where it is, and so does its pack: the user may want to look at it.
            if self.copy_records(records, &mut moves)? {
                moves.emptied.insert(*pack);
            }
        }
        self.apply_moves(&moves, failures)
    }

    /// Whether all of them could be read.
    fn copy_records(&self, records: &Records, moves: &mut Moves) -> Result<bool, StoreError> {
        let mut are_all = true;
        for (digest, place) in &records.blobs {
            let record = place.position().zip(self.record_bytes(place));
            match record.map(|(from, bytes)| self.copy_record(from, bytes)).transpose()?.flatten() {
                Some(to) => moves.blobs.push((*digest, *place, to)),
                None => are_all = false,
            }
        }
        for (digest, place) in &records.directories {
            match self.copy_record(place.position, place.record_bytes())? {
                Some(to) => moves.directories.push((*digest, *place, to)),
                None => are_all = false,
            }
        }
        Ok(are_all)
    }

    /// `None` where the record cannot be read.
    fn copy_record(&self, from: Position, bytes: u64) -> Result<Option<Position>, StoreError> {
        let Some(bytes) = usize::try_from(bytes).ok().filter(|bytes| *bytes as u64 <= RECORD_BYTES_MAX)
        else {
            return Ok(None);
        };
        match self.packs.read(from, 0, bytes) {
            Ok(record) => self.packs.append(&[&record]).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Tells the index, and removes what is not needed any more. `failures`: as it was before the first record was copied.
    fn apply_moves(&self, moves: &Moves, failures: u64) -> Result<(), StoreError> {
        {
            let _writing = lock(&self.changes.writing);
            let (_, dirty) = self.sync_waiting()?;
            if self.packs.failures() != failures {
                // The copies may be gone. What was to be moved stays where it is.
                return Ok(());
            }
            let tail = self.packs.tail();
            self.index.write(|transaction| {
                moves.apply(transaction, &dirty)?;
                forget(transaction, &moves.emptied, tail)
            })?;
            self.packs.is_durable(&dirty);
        }
        moves.emptied.iter().try_for_each(|pack| self.packs.remove(*pack))
    }

    /// Removes the packs of which nothing is needed, also by what waits.
    pub(super) fn remove_empty(&self, census: &Census, sparse: &BTreeSet<u32>) -> Result<(), StoreError> {
        let (empty, tail): (BTreeSet<u32>, u32) = {
            let _keeping = self.keeping.write().unwrap_or_else(PoisonError::into_inner);
            let (tail, state) = (self.packs.tail(), self.state());
            let waiting = state.waiting.blobs.values().filter_map(BlobPlace::position);
            let waiting = waiting.chain(state.waiting.directories.values().map(|place| place.position));
            let used: BTreeSet<u32> = waiting.map(|position| position.pack).chain([tail]).collect();
            let is_empty = |pack: &&u32| census.needed.get(*pack).is_none_or(|needed| *needed == 0);
            (sparse.iter().filter(is_empty).filter(|pack| !used.contains(*pack)).copied().collect(), tail)
        };
        {
            let _writing = lock(&self.changes.writing);
            self.index.write(|transaction| forget(transaction, &empty, tail))?;
        }
        empty.iter().try_for_each(|pack| self.packs.remove(*pack))
    }
}

impl Moves {
    /// What has changed its place meanwhile has come anew elsewhere, and stays there.
    fn apply(&self, transaction: &WriteTransaction, dirty: &Dirty) -> Result<(), Error> {
        let mut blobs = transaction.open_table(tables::BLOBS)?;
        for (digest, from, to) in &self.blobs {
            let now = blobs.get(digest.as_bytes())?.map(|place| *place.value());
            if now == Some(from.to_bytes()) {
                blobs.insert(digest.as_bytes(), &from.moved(*to).to_bytes())?;
            }
        }
        let mut directories = transaction.open_table(tables::DIRECTORIES)?;
        for (digest, from, to) in &self.directories {
            let now = directories.get(digest.as_bytes())?.map(|place| *place.value());
            if now == Some(from.to_bytes()) {
                let place = DirectoryPlace { position: *to, ..*from };
                directories.insert(digest.as_bytes(), &place.to_bytes())?;
            }
        }
        let mut packs = transaction.open_table(tables::PACKS)?;
        for (pack, end) in dirty.ends() {
            packs.insert(pack, end)?;
        }
        Ok(())
    }
}

/// Takes packs out that are before the one that is written to.
///
/// That one stays, or comes with an end of 0: a crash may bring back the files of those that go, and whatever is before the
/// last pack of the index is not looked into on opening.
fn forget(transaction: &WriteTransaction, emptied: &BTreeSet<u32>, tail: u32) -> Result<(), Error> {
    let mut packs = transaction.open_table(tables::PACKS)?;
    packs.retain(|pack, end| end > 0 && !emptied.contains(&pack))?;
    if packs.last()?.is_none_or(|(last, _)| last.value() < tail) {
        packs.insert(tail, 0)?;
    }
    Ok(())
}

/// What the index has of each of these packs, in the order in which it lies there.
fn records(census: &Census, sparse: &BTreeSet<u32>) -> BTreeMap<u32, Records> {
    let mut packs: BTreeMap<u32, Records> = sparse.iter().map(|pack| (*pack, Records::default())).collect();
    for (digest, place) in &census.blobs {
        if let Some(records) = place.position().and_then(|position| packs.get_mut(&position.pack)) {
            records.blobs.push((*digest, *place));
        }
    }
    for (digest, place) in &census.directories {
        if let Some(records) = packs.get_mut(&place.position.pack) {
            records.directories.push((*digest, *place));
        }
    }
    for records in packs.values_mut() {
        records.blobs.sort_by_key(|(_, place)| place.position());
        records.directories.sort_by_key(|(_, place)| place.position);
    }
    packs
}
