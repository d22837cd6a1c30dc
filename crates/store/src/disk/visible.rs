//! What is visible, why it stays, and when it was used.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use firn_castore::{BlobDigest, Closure, Root};
use firn_nix::StorePathHash;
use firn_trust::StoredPath;
use redb::{Error, ReadableTable};

use super::{
    DiskStore,
    commit::Change,
    layout::free_bytes,
    place::BlobKind,
    tables::{self, unseal},
};
use crate::{
    Collected, Hold, Item, Paths, Pins, Reason, Record, Room, StoreError, UnixSeconds, Usage, Visible, lock,
};

/// A record as it stands in the index.
type KeyAndSeal = (Vec<u8>, Vec<u8>);
/// What is in the records of a table; an error for each that is damaged.
type Records<T> = Vec<Result<T, StoreError>>;

impl DiskStore {
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

    /// Each path; an error where its record is damaged.
    pub(super) fn path_records(&self) -> Result<Records<StoredPath>, StoreError> {
        let records = self.records(tables::PATHS)?.into_iter().map(|(key, sealed)| {
            let hash = StorePathHash::try_from(&key[..]).map_err(|_| self.nameless())?;
            self.parse_path(hash, &sealed)
        });
        Ok(records.collect())
    }

    /// Each tree without a path, and whether peers may have it; an error where its record is damaged.
    pub(super) fn root_records(&self) -> Result<Records<(Root, bool)>, StoreError> {
        let records = self.records(tables::ROOTS)?.into_iter().map(|(key, sealed)| {
            let root = Root::from_bytes(&key).map_err(|_| self.nameless())?;
            self.parse_root(root, &sealed)
        });
        Ok(records.collect())
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

    /// Does away with the file of a damaged blob that has left the index, unless the blob has come anew.
    fn put_aside(&self, digest: &BlobDigest) -> Result<(), StoreError> {
        let _publishing = lock(&self.large.publishing);
        match self.blob_place(digest)? {
            Some(_) => Ok(()),
            None => self.large.quarantine(digest),
        }
    }

    /// A key that names nothing can only come of damage, and there is no name to give it.
    fn nameless(&self) -> StoreError {
        self.index.error(Error::Corrupted("a record's key names nothing".to_owned()))
    }
}

impl Paths for DiskStore {
    fn commit_record(
        &self,
        record: Record,
        known: Option<Arc<Closure>>,
        pin: Option<&Reason>,
    ) -> Result<(), StoreError> {
        if self.is_committed(&record.what(), &tables::record_bytes(&record), pin)? {
            return self.flush();
        }
        self.change(Change::Show(record, known, pin.cloned())).map(|_| ())
    }

    fn path(&self, hash: &StorePathHash) -> Result<Option<StoredPath>, StoreError> {
        let sealed = self.index.read(|transaction| {
            let sealed = transaction.open_table(tables::PATHS)?.get(&hash.as_bytes()[..])?;
            Ok(sealed.map(|sealed| sealed.value().to_vec()))
        })?;
        sealed.map(|sealed| self.parse_path(*hash, &sealed)).transpose()
    }

    fn paths(&self) -> Result<Vec<StoredPath>, StoreError> {
        Ok(self.path_records()?.into_iter().filter_map(Result::ok).collect())
    }

    fn roots(&self) -> Result<Vec<(Root, bool)>, StoreError> {
        Ok(self.root_records()?.into_iter().filter_map(Result::ok).collect())
    }

    fn damaged_records(&self) -> Result<Vec<StoreError>, StoreError> {
        let paths = self.path_records()?.into_iter().filter_map(Result::err);
        Ok(paths.chain(self.root_records()?.into_iter().filter_map(Result::err)).collect())
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
            self.state_mut().waiting.uses.insert(what.clone(), at);
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
        uses.extend(waiting);
        Ok(uses)
    }

    fn hold(&self) -> Hold {
        lock(&self.holds).take()
    }

    fn hold_tree(&self, root: &Root) -> Hold {
        lock(&self.holds).take_tree(root)
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
            Some(digest) => self.put_aside(digest),
            None => Ok(()),
        }
    }

    fn take_lost(&self) -> BTreeSet<BlobDigest> {
        std::mem::take(&mut self.state_mut().lost)
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        self.count_usage()
    }

    fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        free_bytes(&*self.layout.disk, &self.layout.dir).map(Some)
    }
}
