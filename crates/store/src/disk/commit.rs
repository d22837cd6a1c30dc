//! Changes of the index. Those that come while one is under way are written together, with one sync.

use std::{
    io, mem,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use firn_castore::Closure;
use redb::{Error, WriteTransaction};

use super::{
    DiskStore,
    layout::check_room,
    packs::Dirty,
    state::Waiting,
    tables::{self, seal, seal_tree, visible_key},
};
use crate::{Item, Reason, Record, StoreError, Visible, lock};

/// What is to be changed.
pub(super) enum Change {
    /// Only makes durable what waits.
    Flush,
    Show(Record, Option<Arc<Closure>>, Option<Reason>),
    Pin(Visible, Reason),
    Unpin(Visible),
    Remove(Visible),
    /// Takes a thing out of the index that was found damaged.
    Forget(Item),
}

impl Change {
    fn gives_room(&self) -> bool {
        matches!(self, Change::Remove(_) | Change::Unpin(_) | Change::Forget(_))
    }
}

/// The changes that are to be made.
#[derive(Default)]
pub(super) struct Changes {
    queue: Mutex<Vec<Arc<Request>>>,
    /// Held by whoever writes to the index. Readers never wait for it.
    pub(super) writing: Mutex<()>,
}

struct Request {
    change: Change,
    outcome: Mutex<Option<Result<bool, StoreError>>>,
}

impl Request {
    fn end(&self, outcome: Result<bool, StoreError>) {
        lock(&self.outcome).get_or_insert(outcome);
    }
}

impl DiskStore {
    /// Makes a change, and all that waits, durable. Tells whether there was something to change.
    pub(super) fn change(&self, change: Change) -> Result<bool, StoreError> {
        let request = Arc::new(Request { change, outcome: Mutex::default() });
        lock(&self.changes.queue).push(request.clone());
        let _writing = lock(&self.changes.writing);
        // Whoever held it before may have taken this along.
        if let Some(outcome) = lock(&request.outcome).take() {
            return outcome;
        }
        let batch = mem::take(&mut *lock(&self.changes.queue));
        if let Err(error) = self.write(&batch) {
            for request in &batch {
                request.end(Err(again(&error)));
            }
        }
        let outcome = lock(&request.outcome).take();
        // Whoever has taken it along has panicked.
        let unknown = || StoreError::io(self.index.path())(io::Error::other("a change was not made"));
        outcome.unwrap_or_else(|| Err(unknown()))
    }

    /// Makes what waits durable.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        if !self.state().waiting.is_empty() {
            self.change(Change::Flush)?;
        }
        Ok(())
    }

    /// Makes what waits durable, if there is room for it; else `false`.
    pub(super) fn flush_if_room(&self) -> Result<bool, StoreError> {
        match self.flush() {
            Ok(()) => Ok(true),
            Err(error) if error.is_full() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes what waits durable where there is much of it.
    pub(super) fn make_room(&self) -> Result<(), StoreError> {
        if self.state().waiting.is_full() || self.packs.are_dirty() {
            self.change(Change::Flush)?;
        }
        Ok(())
    }

    /// Makes these changes, for whoever holds `writing`.
    fn write(&self, batch: &[Arc<Request>]) -> Result<(), StoreError> {
        let synced = match self.sync_waiting() {
            // What gives room back does not need what waits.
            Err(error) if error.is_full() && batch.iter().all(|request| request.change.gives_room()) => None,
            synced => Some(synced?),
        };
        // What is taken out in the same transaction is not there for certain.
        let forgets = batch.iter().any(|request| matches!(request.change, Change::Forget(_)));
        let outcomes = self.index.write(|transaction| {
            if let Some((waiting, dirty)) = &synced {
                insert(transaction, waiting, dirty)?;
            }
            let inserted = synced.as_ref().filter(|_| !forgets).map(|(waiting, _)| waiting);
            let changes = batch.iter().map(|request| self.apply(transaction, &request.change, inserted));
            changes.collect::<Result<Vec<_>, _>>()
        })?;
        if let Some((waiting, dirty)) = &synced {
            self.packs.is_durable(dirty);
            self.state_mut().waiting.remove(waiting);
        }
        for (request, outcome) in batch.iter().zip(outcomes) {
            request.end(outcome);
        }
        Ok(())
    }

    /// Makes durable what waits, but for the index, for whoever holds `writing`.
    pub(super) fn sync_waiting(&self) -> Result<(Waiting, Dirty), StoreError> {
        let waiting = self.state().waiting.clone();
        // Pages of the index are half full at worst.
        check_room(&*self.layout.disk, self.index.path(), 2 * waiting.index_bytes())?;
        // After the look at what waits: its records have come to the packs before.
        let dirty = self.packs.dirty();
        let is_everything = dirty.has_new || waiting.files > 0;
        let synced = match is_everything {
            true => self.layout.sync(),
            false => self.packs.sync(&dirty),
        };
        match synced {
            Ok(()) => {
                self.packs.is_synced(&dirty);
                Ok((waiting, dirty))
            }
            Err(error) => {
                self.give_up_unsynced(is_everything);
                Err(error)
            }
        }
    }

    /// Gives up what may not be durable after a sync has failed, for whoever holds `writing`.
    ///
    /// The system tells of a failure once and then takes everything for written, though what it reads of it is right as
    /// long as it is in memory. So nothing counts that may be lost, and what is kept anew is synced anew. `is_everything`:
    /// it was the whole disk that was to be synced, so also what was written of blobs that are not whole yet may be lost.
    fn give_up_unsynced(&self, is_everything: bool) {
        let partials = {
            let _keeping = self.keeping.write().unwrap_or_else(PoisonError::into_inner);
            let waiting = &mut self.state_mut().waiting;
            *waiting = Waiting { uses: mem::take(&mut waiting.uses), ..Waiting::default() };
            self.packs.give_up();
            self.places.forget();
            if !is_everything {
                return;
            }
            let partials = self.partials.take_all();
            self.sync_failures.fetch_add(1, Ordering::SeqCst);
            partials
        };
        for (blob, taken) in partials {
            // A file that cannot be removed is written over when the blob is begun anew.
            let _ = self.partials.end(&blob, taken);
        }
    }

    fn apply(
        &self,
        transaction: &WriteTransaction,
        change: &Change,
        inserted: Option<&Waiting>,
    ) -> Result<Result<bool, StoreError>, Error> {
        match change {
            Change::Flush => {}
            Change::Show(record, known, pin) => {
                return self.show(transaction, record, known.as_deref(), pin.as_ref(), inserted);
            }
            Change::Pin(what, reason) => put_pin(transaction, what, Some(reason))?,
            Change::Unpin(what) => {
                let removed = transaction.open_table(tables::PINS)?.remove(&visible_key(what)[..])?.is_some();
                return Ok(Ok(removed));
            }
            Change::Remove(what) => return remove(transaction, what).map(Ok),
            Change::Forget(item) => return forget(transaction, item).map(Ok),
        }
        Ok(Ok(true))
    }

    /// Makes a record visible, unless something beneath its root is not here.
    fn show(
        &self,
        transaction: &WriteTransaction,
        record: &Record,
        known: Option<&Closure>,
        pin: Option<&Reason>,
        inserted: Option<&Waiting>,
    ) -> Result<Result<bool, StoreError>, Error> {
        if let Err(refusal) = self.check(transaction, record.root(), known, inserted)? {
            return Ok(Err(refusal));
        }
        let what = record.what();
        let (table, key) = tables::record_key(&what);
        transaction.open_table(table)?.insert(&key[..], &seal(&key, &tables::record_bytes(record))[..])?;
        transaction.open_table(tables::WHOLE)?.insert(&visible_key(&what)[..], ())?;
        put_pin(transaction, &what, pin)?;
        Ok(Ok(true))
    }
}

fn insert(transaction: &WriteTransaction, waiting: &Waiting, dirty: &Dirty) -> Result<(), Error> {
    let mut blobs = transaction.open_table(tables::BLOBS)?;
    for (digest, place) in &waiting.blobs {
        blobs.insert(digest.as_bytes(), &place.to_bytes())?;
    }
    let mut directories = transaction.open_table(tables::DIRECTORIES)?;
    for (digest, place) in &waiting.directories {
        directories.insert(digest.as_bytes(), &place.to_bytes())?;
    }
    let mut places = transaction.open_table(tables::PLACES)?;
    for (id, dir) in &waiting.places {
        places.insert(id, dir.as_os_str().as_encoded_bytes())?;
    }
    let mut trees = transaction.open_table(tables::TREES)?;
    for (listing, tree) in &waiting.trees {
        trees.insert(&listing.0[..], &seal_tree(listing, tree)[..])?;
    }
    let mut uses = transaction.open_table(tables::USES)?;
    for (what, at) in &waiting.uses {
        uses.insert(&visible_key(what)[..], at.0)?;
    }
    let mut packs = transaction.open_table(tables::PACKS)?;
    for (pack, end) in dirty.ends() {
        packs.insert(pack, end)?;
    }
    Ok(())
}

fn put_pin(transaction: &WriteTransaction, what: &Visible, reason: Option<&Reason>) -> Result<(), Error> {
    if let Some(reason) = reason {
        transaction.open_table(tables::PINS)?.insert(&visible_key(what)[..], reason.as_str())?;
    }
    Ok(())
}

fn remove(transaction: &WriteTransaction, what: &Visible) -> Result<bool, Error> {
    let key = visible_key(what);
    transaction.open_table(tables::PINS)?.remove(&key[..])?;
    transaction.open_table(tables::USES)?.remove(&key[..])?;
    transaction.open_table(tables::WHOLE)?.remove(&key[..])?;
    let (table, key) = tables::record_key(what);
    Ok(transaction.open_table(table)?.remove(&key[..])?.is_some())
}

fn forget(transaction: &WriteTransaction, item: &Item) -> Result<bool, Error> {
    if matches!(item, Item::Blob(_) | Item::Directory(_)) {
        transaction.open_table(tables::WHOLE)?.retain(|_, ()| false)?;
    }
    match item {
        Item::Blob(digest) => Ok(transaction.open_table(tables::BLOBS)?.remove(digest.as_bytes())?.is_some()),
        Item::Directory(digest) => {
            Ok(transaction.open_table(tables::DIRECTORIES)?.remove(digest.as_bytes())?.is_some())
        }
        Item::Path(hash) => remove(transaction, &Visible::Path(*hash)),
        Item::Root(root) => remove(transaction, &Visible::Root(root.clone())),
    }
}

/// An error told once more, to another whom it concerns.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Io { path, source } => {
            StoreError::Io { path: path.clone(), source: io::Error::new(source.kind(), source.to_string()) }
        }
        StoreError::Index { path, source } => {
            let kind = match &**source {
                Error::Io(source) => source.kind(),
                _ => io::ErrorKind::Other,
            };
            let source = Box::new(Error::Io(io::Error::new(kind, source.to_string())));
            StoreError::Index { path: path.clone(), source }
        }
        other => StoreError::Reader(io::Error::other(other.to_string())),
    }
}
