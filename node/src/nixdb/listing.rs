//! Going through all that is valid, and telling whether there is something new.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    ops::ControlFlow,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime},
};

use firn_nix::{NarHash, StorePath};
use rusqlite::{Row, Transaction, params, types::ValueRef};

use super::{Columns, EmptyColumn, NixDatabaseError, NixStore, ValidPath, Wrong, beside};

/// A file that was written to so shortly ago may be written to again without its time showing it.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// What is registered, in the order in which it was: what is referenced comes mostly before what references it.
const ALL: &str = "select id, path, hash, narSize, deriver, sigs, ca from ValidPaths order by id";

/// The number of a row. Nix gives none twice, and a later one is larger: a path that was deleted and came back has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RegistrationId(pub(crate) i64);

/// A digest of all that a row says, to tell whether Nix has changed it. It is no proof of anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowDigest(pub(crate) u64);

/// One valid path, in short.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Its row.
    pub id: RegistrationId,
    /// The path.
    pub path: StorePath,
    /// The hash of its NAR.
    pub nar_hash: NarHash,
    /// The length of its NAR in bytes.
    pub nar_size: u64,
    /// What its row says.
    pub row: RowDigest,
}

/// How the database's files stand: its own, and the log beside it. While this is the same, nothing was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseState {
    database: FileState,
    wal: Option<FileState>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FileState {
    inode: u64,
    bytes: u64,
    modified: SystemTime,
}

impl DatabaseState {
    /// Whether a later change is sure to show.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        let is_old =
            |file: &FileState| now.duration_since(file.modified).is_ok_and(|age| age >= SETTLED_AFTER);
        is_old(&self.database) && self.wal.iter().all(is_old)
    }

    pub(super) fn has_wal(&self) -> bool {
        self.wal.is_some()
    }
}

impl NixStore {
    /// How the database stands. Taken before a read, it tells later whether another read would say more.
    ///
    /// This looks at files rather than at SQLite's `data_version`, which takes a connection that stays open: an ordinary
    /// user can have none while no writer is there, and one that is root's would keep Nix from tidying up its log.
    pub fn state(&self) -> Result<DatabaseState, NixDatabaseError> {
        let failed = |source| NixDatabaseError::File { database: self.database.clone(), source };
        let database = file_state(&self.database).map_err(failed)?;
        let database = database.ok_or_else(|| NixDatabaseError::Absent(self.database.clone()))?;
        let wal = file_state(&beside(&self.database, "-wal")).map_err(failed)?;
        Ok(DatabaseState { database, wal })
    }

    /// What is registered under this number, if it still is.
    pub fn registered(&self, id: RegistrationId) -> Result<Option<ValidPath>, NixDatabaseError> {
        self.read(|transaction| {
            let columns = Columns::select(transaction, "id = ?1", params![id.0]);
            let Some((path, columns)) = columns.map_err(|source| self.sqlite(source))? else {
                return Ok(None);
            };
            columns.parse(&store_path(&path)?).map(Some)
        })
    }

    /// Goes through all valid paths at one moment, one row in memory at a time, and gives what `visit` has gathered.
    ///
    /// A row that Nix did not write comes as an error, and the next one follows. Where a writer comes in between, all
    /// starts over with what `begin` makes.
    pub fn fold_paths<T>(
        &self,
        begin: impl Fn() -> T,
        visit: impl Fn(&mut T, Result<Registration, NixDatabaseError>) -> ControlFlow<()>,
    ) -> Result<T, NixDatabaseError> {
        self.read(|transaction| {
            let mut gathered = begin();
            let each = |row| visit(&mut gathered, row);
            each_row(transaction, each).map_err(|source| self.sqlite(source))?;
            Ok(gathered)
        })
    }
}

fn file_state(path: &Path) -> Result<Option<FileState>, io::Error> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(FileState {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: metadata.modified()?,
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn each_row(
    transaction: &Transaction<'_>,
    mut visit: impl FnMut(Result<Registration, NixDatabaseError>) -> ControlFlow<()>,
) -> Result<(), rusqlite::Error> {
    let mut select = transaction.prepare_cached(ALL)?;
    let columns = select.column_count();
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        if visit(registration(row, columns)?).is_break() {
            break;
        }
    }
    Ok(())
}

fn registration(
    row: &Row<'_>,
    columns: usize,
) -> Result<Result<Registration, NixDatabaseError>, rusqlite::Error> {
    let mut digest = DefaultHasher::new();
    for column in 0..columns {
        hash_value(row.get_ref(column)?, &mut digest);
    }
    let (id, path, hash) = (row.get(0)?, text(row.get_ref(1)?), text(row.get_ref(2)?));
    let nar_size = row.get_ref(3)?.as_i64().ok().and_then(|size| u64::try_from(size).ok());
    let wrong = |column| Wrong { path: &path, column };
    let parse = || {
        Ok(Registration {
            id: RegistrationId(id),
            path: store_path(&path)?,
            nar_hash: hash.parse().map_err(|error| wrong("hash").because(error))?,
            nar_size: nar_size
                .filter(|&size| size > 0)
                .ok_or_else(|| wrong("narSize").because(EmptyColumn))?,
            row: RowDigest(digest.finish()),
        })
    };
    Ok(parse())
}

fn store_path(text: &str) -> Result<StorePath, NixDatabaseError> {
    StorePath::from_absolute(text).map_err(|error| Wrong { path: text, column: "path" }.because(error))
}

/// What Nix writes as text. Anything else is told of as what it is not.
fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => String::new(),
    }
}

fn hash_value(value: ValueRef<'_>, digest: &mut DefaultHasher) {
    match value {
        ValueRef::Null => 0u8.hash(digest),
        ValueRef::Integer(number) => (1u8, number).hash(digest),
        ValueRef::Real(number) => (2u8, number.to_bits()).hash(digest),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => (3u8, bytes).hash(digest),
    }
}
