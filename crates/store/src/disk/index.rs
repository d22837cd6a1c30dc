//! What is looked up: a redb database.

use std::{
    collections::BTreeSet,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use bytes::Bytes;
use firn_castore::{BlobDigest, Directory, DirectoryDigest, Root};
use firn_nix::StorePathHash;
use firn_trust::StoredPath;
use redb::{
    Builder, Database, Durability, Error, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    TableError, WriteTransaction,
};

use super::{
    layout::OpenError,
    pending::{Held, Pending},
};
use crate::{Damage, Item, StoreError, tree::collect};

/// How much memory redb may use to cache pages, and half of it to collect pages to be written.
const CACHE_BYTES: usize = 128 << 20;

/// Contents of blobs of at most one group.
const SMALL: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("small-blobs");
/// Lengths of blobs that are files.
const LARGE: TableDefinition<&[u8; 32], u64> = TableDefinition::new("large-blobs");
/// Encodings of Directories.
const DIRECTORIES: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("directories");
/// By the path's hash, a sealed `firn.store.v1.StoredPath`.
const PATHS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("paths");
/// By the root's canonical Entry, a sealed byte: 1 if it is shared, else 0.
const ROOTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("roots");

/// What a commit makes visible.
pub(super) struct Record<'a> {
    root: &'a Root,
    table: TableDefinition<'static, &'static [u8], &'static [u8]>,
    key: Vec<u8>,
    value: Bytes,
}

impl<'a> Record<'a> {
    pub(super) fn path(path: &'a StoredPath) -> Self {
        let key = path.path_hash().as_bytes().to_vec();
        Self { root: path.root(), table: PATHS, key, value: path.to_bytes() }
    }

    pub(super) fn root(root: &'a Root, shared: bool) -> Self {
        Self { root, table: ROOTS, key: root.to_bytes(), value: vec![u8::from(shared)].into() }
    }
}

/// The database, and what it takes to open it anew.
pub(super) struct Index {
    path: PathBuf,
    database: RwLock<Handle>,
}

struct Handle {
    /// `None` after it has failed and could not be opened anew yet.
    database: Option<Database>,
    /// How often it was opened.
    generation: u64,
}

impl Index {
    /// Opens the database, or makes one where there is none.
    pub(super) fn open(path: PathBuf) -> Result<Self, OpenError> {
        let database = open(&path).map_err(|error| match error {
            Error::Io(source) => OpenError::Io { path: path.clone(), source },
            error => OpenError::Index { path: path.clone(), source: Box::new(error) },
        })?;
        let handle = Handle { database: Some(database), generation: 0 };
        Ok(Self { path, database: RwLock::new(handle) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Works with the database. After a failure to read or write redb refuses everything, so it is opened anew: what
    /// was not durable is gone from the index then, and a commit refuses what misses it.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, Error>) -> Result<T, StoreError> {
        if self.database.read().unwrap_or_else(PoisonError::into_inner).database.is_none() {
            self.reopen(None)?;
        }
        let (result, generation) = {
            let handle = self.database.read().unwrap_or_else(PoisonError::into_inner);
            let result = match &handle.database {
                Some(database) => guarded(|| work(database)),
                None => Err(Error::PreviousIo),
            };
            (result, handle.generation)
        };
        if let Err(Error::Io(_) | Error::PreviousIo | Error::LockPoisoned(_) | Error::Corrupted(_)) = &result
        {
            // The error that is reported is the one that has led here. Where this fails, the next use tries again.
            let _ = self.reopen(Some(generation));
        }
        result.map_err(|error| self.error(error))
    }

    /// Opens the database anew, unless that has happened since this generation.
    fn reopen(&self, failed: Option<u64>) -> Result<(), StoreError> {
        let mut handle = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let is_failed = failed == Some(handle.generation);
        if handle.database.is_none() || is_failed {
            // The old one holds a lock on its file until it is dropped.
            let failed = handle.database.take();
            close(failed);
            handle.database = Some(open(&self.path).map_err(|error| self.error(error))?);
            handle.generation += 1;
        }
        Ok(())
    }

    fn error(&self, error: Error) -> StoreError {
        match error {
            Error::Io(source) => StoreError::Io { path: self.path.clone(), source },
            error => StoreError::Index { path: self.path.clone(), source: Box::new(error) },
        }
    }

    fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, Error>) -> Result<T, StoreError> {
        self.with(|database| work(&database.begin_read()?))
    }

    /// A blob's contents, or its length where it is a file.
    pub(super) fn blob(&self, digest: &BlobDigest) -> Result<Option<Held>, StoreError> {
        self.read(|transaction| {
            if let Some(bytes) = transaction.open_table(SMALL)?.get(digest.as_bytes())? {
                return Ok(Some(Held::Small(Bytes::copy_from_slice(bytes.value()))));
            }
            Ok(transaction.open_table(LARGE)?.get(digest.as_bytes())?.map(|size| Held::Large(size.value())))
        })
    }

    pub(super) fn blob_size(&self, digest: &BlobDigest) -> Result<Option<u64>, StoreError> {
        self.read(|transaction| {
            blob_size(&transaction.open_table(SMALL)?, &transaction.open_table(LARGE)?, digest)
        })
    }

    pub(super) fn is_large(&self, digest: &BlobDigest) -> Result<bool, StoreError> {
        self.read(|transaction| Ok(transaction.open_table(LARGE)?.get(digest.as_bytes())?.is_some()))
    }

    /// A Directory's encoding.
    pub(super) fn directory(&self, digest: &DirectoryDigest) -> Result<Option<Bytes>, StoreError> {
        self.read(|transaction| {
            let bytes = transaction.open_table(DIRECTORIES)?.get(digest.as_bytes())?;
            Ok(bytes.map(|bytes| Bytes::copy_from_slice(bytes.value())))
        })
    }

    pub(super) fn path_record(&self, hash: &StorePathHash) -> Result<Option<StoredPath>, StoreError> {
        let sealed = self.read(|transaction| {
            let sealed = transaction.open_table(PATHS)?.get(&hash.as_bytes()[..])?;
            Ok(sealed.map(|sealed| sealed.value().to_vec()))
        })?;
        sealed.map(|sealed| self.parse_path(hash.as_bytes(), &sealed)).transpose()
    }

    pub(super) fn path_records(&self) -> Result<Vec<StoredPath>, StoreError> {
        self.records(PATHS, |key, sealed| self.parse_path(key, sealed))
    }

    pub(super) fn root_records(&self) -> Result<Vec<(Root, bool)>, StoreError> {
        self.records(ROOTS, |key, sealed| self.parse_root(key, sealed))
    }

    fn records<T>(
        &self,
        table: TableDefinition<&[u8], &[u8]>,
        parse: impl Fn(&[u8], &[u8]) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let records = self.read(|transaction| {
            let mut records = Vec::new();
            for record in transaction.open_table(table)?.iter()? {
                let (key, sealed) = record?;
                records.push(parse(key.value(), sealed.value()));
            }
            Ok(records)
        })?;
        records.into_iter().collect()
    }

    fn parse_path(&self, key: &[u8], sealed: &[u8]) -> Result<StoredPath, StoreError> {
        let Ok(hash) = StorePathHash::try_from(key) else {
            // A key of another length can only come of damage, and there is no name to give it.
            return Err(self.error(Error::Corrupted("a path's key has not 20 bytes".to_owned())));
        };
        let parsed = unseal(key, sealed).and_then(|bytes| Ok(StoredPath::from_bytes(bytes)?));
        parsed.map_err(|damage| StoreError::damaged(Item::Path(hash), &self.path, damage))
    }

    fn parse_root(&self, key: &[u8], sealed: &[u8]) -> Result<(Root, bool), StoreError> {
        let root = Root::from_bytes(key)
            .map_err(|_| self.error(Error::Corrupted("a root's key is no root".to_owned())))?;
        match unseal(key, sealed) {
            Ok(flag) => Ok((root, flag == [1])),
            Err(damage) => Err(StoreError::damaged(Item::Root(root), &self.path, damage)),
        }
    }

    /// Takes in what waits, without making it durable.
    pub(super) fn write(&self, batch: &Pending) -> Result<(), StoreError> {
        self.with(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::None)?;
            insert(&transaction, batch)?;
            Ok(transaction.commit()?)
        })
    }

    /// Takes in what waits, makes it and all before it durable, and with it a record. The record is refused, and then
    /// nothing is taken in, if anything beneath its root is missing or known to be damaged.
    pub(super) fn commit(
        &self,
        batch: &Pending,
        record: Option<&Record>,
        damaged: &BTreeSet<Item>,
    ) -> Result<(), StoreError> {
        self.with(|database| {
            let mut transaction = database.begin_write()?;
            // An attacker chooses contents: two phases do not depend on checksums that can be forged. It also saves
            // reading the whole index after a crash.
            transaction.set_quick_repair(true);
            insert(&transaction, batch)?;
            if let Some(record) = record {
                if let Err(refusal) = check(&transaction, record.root, damaged)? {
                    transaction.abort()?;
                    return Ok(Err(refusal));
                }
                let sealed = seal(&record.key, &record.value);
                transaction.open_table(record.table)?.insert(&record.key[..], &sealed[..])?;
            }
            transaction.commit()?;
            Ok(Ok(()))
        })?
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        let handle = self.database.get_mut().unwrap_or_else(PoisonError::into_inner);
        let database = handle.database.take();
        close(database);
    }
}

/// Closes a database that may be damaged. What was committed is durable already, so there is nothing to tell.
fn close(database: Option<Database>) {
    let _ = guarded(|| {
        drop(database);
        Ok(())
    });
}

/// Runs redb, which mostly says [`Error::Corrupted`] when its file is damaged, but now and then panics.
fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    // Nothing half done is seen afterwards: a transaction that is not committed does not count, and after this error
    // the database is opened anew.
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(Error::Corrupted(format!("redb has panicked: {message}")))
    })
}

fn open(path: &Path) -> Result<Database, Error> {
    guarded(|| open_database(path))
}

fn open_database(path: &Path) -> Result<Database, Error> {
    let mut database = Builder::new().set_cache_size(CACHE_BYTES).create(path)?;
    // redb trusts what it reads: a damaged page makes it panic, or look for things where they are not. So all of it is
    // checked against its checksums before anything is believed. Since every commit has two phases, damage is an error,
    // and never taken for a commit that was cut off.
    database.check_integrity()?;
    if !has_tables(&database)? {
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        transaction.open_table(SMALL)?;
        transaction.open_table(LARGE)?;
        transaction.open_table(DIRECTORIES)?;
        transaction.open_table(PATHS)?;
        transaction.open_table(ROOTS)?;
        transaction.commit()?;
    }
    Ok(database)
}

/// Whether the database was made as a whole: all tables come with the first transaction.
fn has_tables(database: &Database) -> Result<bool, Error> {
    match database.begin_read()?.open_table(ROOTS) {
        Ok(_) => Ok(true),
        Err(TableError::TableDoesNotExist(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn blob_size(
    small: &impl ReadableTable<&'static [u8; 32], &'static [u8]>,
    large: &impl ReadableTable<&'static [u8; 32], u64>,
    digest: &BlobDigest,
) -> Result<Option<u64>, Error> {
    if let Some(bytes) = small.get(digest.as_bytes())? {
        return Ok(Some(bytes.value().len() as u64));
    }
    Ok(large.get(digest.as_bytes())?.map(|size| size.value()))
}

fn insert(transaction: &WriteTransaction, batch: &Pending) -> Result<(), Error> {
    let mut small = transaction.open_table(SMALL)?;
    for (digest, bytes) in &batch.small {
        small.insert(digest.as_bytes(), &bytes[..])?;
    }
    let mut large = transaction.open_table(LARGE)?;
    for (digest, size) in &batch.large {
        large.insert(digest.as_bytes(), size)?;
    }
    let mut directories = transaction.open_table(DIRECTORIES)?;
    for (digest, encoded) in &batch.directories {
        directories.insert(digest.as_bytes(), &encoded[..])?;
    }
    Ok(())
}

/// Whether all beneath a root is in the index.
fn check(
    transaction: &WriteTransaction,
    root: &Root,
    damaged: &BTreeSet<Item>,
) -> Result<Result<(), StoreError>, Error> {
    let directories = transaction.open_table(DIRECTORIES)?;
    let small = transaction.open_table(SMALL)?;
    let large = transaction.open_table(LARGE)?;
    let collected = collect(root, |digest| -> Result<_, Error> {
        if damaged.contains(&Item::Directory(*digest)) {
            return Ok(None);
        }
        let encoded = directories.get(digest.as_bytes())?.map(|bytes| Bytes::copy_from_slice(bytes.value()));
        // Damaged bytes count as missing.
        Ok(encoded.and_then(|encoded| Directory::decode(encoded, digest).ok()))
    })?;
    let closure = match collected.or_refuse(root) {
        Ok(closure) => closure,
        Err(refusal) => return Ok(Err(refusal)),
    };
    for blob in closure.blobs() {
        let item = Item::Blob(blob.digest);
        if damaged.contains(&item) || blob_size(&small, &large, &blob.digest)? != Some(blob.size) {
            return Ok(Err(StoreError::Missing(item)));
        }
    }
    Ok(Ok(()))
}

const SEAL_BYTES: usize = 32;

/// A record with its checksum in front, which covers its key too: unlike contents, a record is not named by its digest.
fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = checksum(key, value).as_bytes().to_vec();
    sealed.extend_from_slice(value);
    sealed
}

fn unseal<'a>(key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], Damage> {
    let (checked, value) = sealed.split_first_chunk::<SEAL_BYTES>().ok_or(Damage::Checksum)?;
    if checksum(key, value) == *checked { Ok(value) } else { Err(Damage::Checksum) }
}

fn checksum(key: &[u8], value: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}
