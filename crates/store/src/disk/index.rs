//! What is looked up: a redb database.

use std::{
    collections::BTreeMap,
    io,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use redb::{
    Builder, Database, Error, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, StorageError,
    WriteTransaction,
};

use firn_castore::{BlobDigest, DirectoryDigest};

use super::{
    backend::Backend,
    layout::OpenError,
    place::{BLOB_PLACE_BYTES, BlobPlace, DIRECTORY_PLACE_BYTES, DirectoryPlace},
    tables,
    vfs::{Access, Disk, DiskFile},
};
use crate::StoreError;

/// How much memory redb may use to cache pages, and half of it to collect pages to be written.
const CACHE_BYTES: usize = 32 << 20;

/// The database, and what it takes to open it anew.
pub(super) struct Index {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    database: RwLock<Handle>,
    /// The tables as the last commit left them. The lock is only ever held to clone or replace what is in it.
    snapshot: RwLock<Option<Arc<Snapshot>>>,
}

struct Handle {
    /// `None` after it has failed and could not be opened anew yet.
    database: Option<Database>,
    /// How often it was opened.
    generation: u64,
}

/// The tables that every read needs, opened once for each commit rather than once for each look-up.
struct Snapshot {
    blobs: ReadOnlyTable<&'static [u8; 32], &'static [u8; BLOB_PLACE_BYTES]>,
    directories: ReadOnlyTable<&'static [u8; 32], &'static [u8; DIRECTORY_PLACE_BYTES]>,
}

impl Index {
    /// Opens the database, or makes one where there is none.
    pub(super) fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Result<Self, OpenError> {
        let database = open(&*disk, &path).map_err(|error| match error {
            // What redb looks for lies behind the end of the file, or is not what it may be.
            Error::Io(source) if !is_damage(&source) => OpenError::Io { path: path.clone(), source },
            error => OpenError::Index { path: path.clone(), source: Box::new(error) },
        })?;
        let handle = Handle { database: Some(database), generation: 0 };
        Ok(Self { disk, path, database: RwLock::new(handle), snapshot: RwLock::default() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How much of the disk it takes.
    pub(super) fn allocated_bytes(&self) -> Result<u64, StoreError> {
        let file = self.disk.open(&self.path, Access::Read).map_err(StoreError::io(&self.path))?;
        file.allocated_bytes().map_err(StoreError::io(&self.path))
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
        if let Err(error) = &result
            && is_fatal(error)
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
            self.set_snapshot(None);
            let failed = handle.database.take();
            close(failed);
            handle.database = Some(open(&*self.disk, &self.path).map_err(|error| self.error(error))?);
            handle.generation += 1;
        }
        Ok(())
    }

    pub(super) fn error(&self, error: Error) -> StoreError {
        match error {
            Error::Io(source) => StoreError::Io { path: self.path.clone(), source },
            error => StoreError::Index { path: self.path.clone(), source: Box::new(error) },
        }
    }

    /// Reads several things as they were at one moment.
    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        self.with(|database| work(&database.begin_read()?))
    }

    /// Changes several things at one moment, durably.
    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        let result = self.with(|database| {
            let mut transaction = database.begin_write()?;
            // An attacker chooses contents: two phases do not depend on checksums that can be forged. It also saves
            // reading the whole index after a crash.
            transaction.set_quick_repair(true);
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        });
        // Also where it has failed: whoever looks next sees what is there.
        self.set_snapshot(None);
        result
    }

    fn set_snapshot(&self, snapshot: Option<Arc<Snapshot>>) {
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }

    /// Looks something up in the tables as they are now.
    fn look_up<T>(&self, look: impl Fn(&Snapshot) -> Result<T, StorageError>) -> Result<T, StoreError> {
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(snapshot) = snapshot {
            match guarded(|| Ok(look(&snapshot)?)) {
                Ok(found) => return Ok(found),
                // The database may have been opened anew meanwhile: looked up once more, in a new snapshot.
                Err(_) => self.set_snapshot(None),
            }
        }
        self.with(|database| {
            // Held from before the tables are opened until they are in place, so that no older ones replace newer ones.
            let mut place = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
            let transaction = database.begin_read()?;
            let snapshot = Arc::new(Snapshot {
                blobs: transaction.open_table(tables::BLOBS)?,
                directories: transaction.open_table(tables::DIRECTORIES)?,
            });
            *place = Some(snapshot.clone());
            drop(place);
            Ok(look(&snapshot)?)
        })
    }

    /// Where the packs end.
    pub(super) fn ends(&self) -> Result<BTreeMap<u32, u32>, StoreError> {
        self.read(|transaction| {
            let mut ends = BTreeMap::new();
            for entry in transaction.open_table(tables::PACKS)?.iter()? {
                let (pack, end) = entry?;
                ends.insert(pack.value(), end.value());
            }
            Ok(ends)
        })
    }

    pub(super) fn blob(&self, digest: &BlobDigest) -> Result<Option<BlobPlace>, StoreError> {
        self.look_up(|snapshot| {
            let place = snapshot.blobs.get(digest.as_bytes())?;
            Ok(place.and_then(|place| BlobPlace::from_bytes(place.value())))
        })
    }

    pub(super) fn directory(&self, digest: &DirectoryDigest) -> Result<Option<DirectoryPlace>, StoreError> {
        self.look_up(|snapshot| {
            let place = snapshot.directories.get(digest.as_bytes())?;
            Ok(place.map(|place| DirectoryPlace::from_bytes(place.value())))
        })
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.set_snapshot(None);
        let handle = self.database.get_mut().unwrap_or_else(PoisonError::into_inner);
        let database = handle.database.take();
        close(database);
    }
}

/// Whether what the file system says comes of what is in the file.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
    )
}

fn is_fatal(error: &Error) -> bool {
    matches!(
        error,
        Error::Io(_)
            | Error::PreviousIo
            | Error::LockPoisoned(_)
            | Error::Corrupted(_)
            | Error::DatabaseClosed
    )
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

fn open(disk: &dyn Disk, path: &Path) -> Result<Database, Error> {
    let file = open_file(disk, path)?;
    guarded(|| open_database(file))
}

fn open_file(disk: &dyn Disk, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
    match disk.open(path, Access::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.open(path, Access::CreateNew),
        opened => opened,
    }
}

fn open_database(file: Arc<dyn DiskFile>) -> Result<Database, Error> {
    let mut database = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(Backend(file))?;
    // redb trusts what it reads: a damaged page makes it panic, or look for things where they are not. So all of it is
    // checked against its checksums before anything is believed. Since every commit has two phases, damage is an error,
    // and never taken for a commit that was cut off.
    database.check_integrity()?;
    if !tables::exist(&database.begin_read()?)? {
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        tables::create(&transaction)?;
        transaction.commit()?;
    }
    Ok(database)
}
