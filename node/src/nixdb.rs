//! What Nix's own SQLite database says of the paths in the Nix store.
//!
//! The database belongs to root and is in WAL mode, or, with `use-sqlite-wal = false`, in that of a rollback journal. An
//! ordinary user opens it with `mode=ro`. In WAL mode that fails where no process has it open: SQLite would have to make
//! the `-wal` and `-shm` files beside it, and the user may not. With no `-wal` and no journal there is nothing but the
//! database file itself, and `immutable=1` reads that. SQLite takes no lock then, so we do: see `NixStore::read_alone`.
//! What another process holds a lock on, or has left half done, is waited for, and then is an error: nothing is ever read
//! without a lock. Each read opens the database afresh, since neither way sees later changes.
//!
//! The tables are those of Nix's `schema.sql`, version 10:
//! `ValidPaths(id, path, hash, deriver, narSize, sigs, ca, ..)` and `Refs(referrer, reference)`, where `hash` is
//! `sha256:<hex>` and `sigs` are separated by spaces.

mod listing;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    error::Error,
    ffi::OsString,
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use firn_nix::{ContentAddress, NarFacts, PublicKey, STORE_DIR, Signature, StorePath, fingerprint};
pub use listing::{DatabaseState, Registration, RegistrationId, RowDigest};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, params};
use rustix::{
    fs::{FlockOperation, fcntl_lock},
    io::Errno,
};

/// What stands in place of a deriver that is not known.
const NO_DERIVER: &str = "unknown-deriver";

/// How long a writer is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a read waits before it is tried again, where it falls into the moment in which a writer comes or goes.
const READ_PAUSE: Duration = Duration::from_millis(20);

/// Held during each read. Locks on a file belong to the process, and closing the file once gives up all of them: two
/// connections of which one is not SQLite's usual kind would take each other's away.
static READING: Mutex<()> = Mutex::new(());

/// One store path as Nix knows it.
#[derive(Debug, Clone)]
pub struct ValidPath {
    /// The path.
    pub path: StorePath,
    /// What Nix signs.
    pub nar: NarFacts,
    /// What built it.
    pub deriver: Option<StorePath>,
    /// What stands with it, unchecked.
    pub signatures: Vec<Signature>,
    /// Present if the path is named by its contents.
    pub ca: Option<ContentAddress>,
}

impl ValidPath {
    /// The signatures to tell of: first those that [vouch for it](ValidPath::vouched_for), for of many some are left out
    /// later, then those by keys that are not known here. Nix keeps all of them unchecked; what is false under a trusted
    /// key's name is not told.
    pub fn without_false(&self, trust: &[PublicKey]) -> Vec<Signature> {
        let is_known = |signature: &Signature| trust.iter().any(|key| key.name() == signature.key_name());
        let unknown = self.signatures.iter().filter(|signature| !is_known(signature)).cloned();
        self.vouched_for(trust).into_iter().chain(unknown).collect()
    }

    /// The signatures by trusted keys that are true.
    pub fn vouched_for(&self, trust: &[PublicKey]) -> Vec<Signature> {
        self.signatures.iter().filter(|signature| self.is_true(signature, trust.iter())).cloned().collect()
    }

    fn is_true<'k>(&self, signature: &Signature, mut keys: impl Iterator<Item = &'k PublicKey>) -> bool {
        let text = fingerprint(&self.path, &self.nar);
        keys.any(|key| key.verify(text.as_bytes(), signature).is_ok())
    }
}

/// Why Nix's database gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum NixDatabaseError {
    /// There is no database.
    #[error("no Nix database at {0}")]
    Absent(PathBuf),
    /// It could not be read.
    #[error("can't read Nix's database {database}: {source}", database = database.display())]
    Sqlite {
        /// The database file.
        database: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The file could not be looked at.
    #[error("can't read Nix's database {database}: {source}", database = database.display())]
    File {
        /// The database file.
        database: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has it locked, and did not give it free in time.
    #[error(
        "Nix's database {0} is locked by another process, which writes to it: try again once that has ended"
    )]
    Locked(PathBuf),
    /// A write was broken off, and its journal waits to be rolled back, which changes the file.
    #[error(
        "Nix's database {0} has a journal of a write that was broken off: any command of Nix by the user to whom it \
         belongs (such as `nix-store --verify`) rolls it back"
    )]
    HotJournal(PathBuf),
    /// It could not be read though it was tried for seconds.
    #[error("Nix's database {0} can't be read by this user just now, since others write to it")]
    Restless(PathBuf),
    /// Nix does not hold this path to be valid.
    #[error("{} is not a valid path of the Nix store", .0.to_absolute())]
    Invalid(StorePath),
    /// A row holds something that Nix does not write.
    #[error("Nix's database: {column} of {path}: {source}")]
    Row {
        /// The store path as the database has it.
        path: Box<str>,
        /// Which column.
        column: &'static str,
        /// What is wrong with it.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl NixDatabaseError {
    /// Whether it may be otherwise in a moment.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Locked(_) | Self::HotJournal(_) | Self::Restless(_))
    }
}

/// A column that Nix leaves empty only in very old databases.
#[derive(Debug, thiserror::Error)]
#[error("it is empty or out of range; `nix-store --verify` may mend that")]
struct EmptyColumn;

/// A Nix store: its files and its database, which stand below `nix_root` but know nothing of it.
#[derive(Debug, Clone)]
pub struct NixStore {
    store_dir_on_disk: PathBuf,
    database: PathBuf,
    busy_timeout: Duration,
}

impl NixStore {
    /// The store below `nix_root`. `$NIX_STATE_DIR` counts for the machine's own store only.
    pub fn at(nix_root: &Path, nix_state_dir: Option<&Path>) -> Self {
        let state_dir = match nix_state_dir {
            Some(dir) if nix_root == Path::new("/") => dir.into(),
            _ => nix_root.join("nix/var/nix"),
        };
        Self {
            store_dir_on_disk: nix_root.join("nix/store"),
            database: state_dir.join("db/db.sqlite"),
            busy_timeout: BUSY_TIMEOUT,
        }
    }

    /// Where a store path's files are.
    pub fn on_disk(&self, path: &StorePath) -> PathBuf {
        self.store_dir_on_disk.join(path.to_string())
    }

    /// The store path that this path of the file system is, if it stands directly in the store. A path may also be
    /// given by its logical name, `/nix/store/...`, wherever the store is.
    pub fn store_path(&self, path: &Path) -> Option<StorePath> {
        let dir = path.parent()?;
        if dir != self.store_dir_on_disk && dir != Path::new(STORE_DIR) {
            return None;
        }
        path.file_name()?.to_str()?.parse().ok()
    }

    /// What Nix knows of one path.
    pub fn path(&self, path: &StorePath) -> Result<ValidPath, NixDatabaseError> {
        self.read(|transaction| self.row(transaction, path))
    }

    /// A path and all that it references, at one moment. What is referenced stands before what references it; the
    /// path asked for is the last.
    pub fn closure(&self, path: &StorePath) -> Result<Vec<ValidPath>, NixDatabaseError> {
        self.read(|transaction| {
            let mut rows = BTreeMap::new();
            let mut open = vec![path.clone()];
            while let Some(path) = open.pop() {
                if let Entry::Vacant(entry) = rows.entry(path) {
                    let row = self.row(transaction, entry.key())?;
                    open.extend(row.nar.references.iter().cloned());
                    entry.insert(row);
                }
            }
            Ok(in_order(rows, path))
        })
    }

    /// Runs `query` on one state of the database, in whichever way it can be read just now.
    fn read<T>(
        &self,
        query: impl Fn(&Transaction<'_>) -> Result<T, NixDatabaseError>,
    ) -> Result<T, NixDatabaseError> {
        let _reading = READING.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        loop {
            match self.read_once(&query) {
                Err(error) if error.may_pass() && begun.elapsed() < self.busy_timeout => {
                    std::thread::sleep(READ_PAUSE)
                }
                result => return result,
            }
        }
    }

    fn read_once<T>(
        &self,
        query: impl Fn(&Transaction<'_>) -> Result<T, NixDatabaseError>,
    ) -> Result<T, NixDatabaseError> {
        match self.open("mode=ro") {
            Ok(mut connection) => query(&connection.transaction().map_err(|source| self.sqlite(source))?),
            Err(_) if !self.database.exists() => Err(NixDatabaseError::Absent(self.database.clone())),
            Err(error) => match error.sqlite_error_code() {
                // Who may not make the files beside the database meets these; everybody does where a journal is left.
                Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) => self.read_alone(query),
                _ => Err(self.sqlite(error)),
            },
        }
    }

    /// Reads the file as it is, under a lock of ours, if there is nothing beside it.
    ///
    /// The lock is one for reading, on all of the file, so it has the bytes of SQLite's SHARED lock in it, and those by
    /// which a writer says that it will write. A writer with a rollback journal cannot begin while it is held. One in WAL
    /// mode can, but it makes the `-wal` first, and cannot remove that again: for that it needs the file for itself. So
    /// where there is no `-wal` at the end there was no writer.
    fn read_alone<T>(
        &self,
        query: impl Fn(&Transaction<'_>) -> Result<T, NixDatabaseError>,
    ) -> Result<T, NixDatabaseError> {
        let failed = |source| NixDatabaseError::File { database: self.database.clone(), source };
        let file = std::fs::File::open(&self.database).map_err(failed)?;
        match fcntl_lock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS) => return Err(NixDatabaseError::Locked(self.database.clone())),
            Err(error) => return Err(failed(error.into())),
        }
        if self.has_journal().map_err(failed)? {
            return Err(NixDatabaseError::HotJournal(self.database.clone()));
        }
        let before = self.state()?;
        if before.has_wal() {
            return Err(NixDatabaseError::Restless(self.database.clone()));
        }
        let mut connection = self.open("immutable=1").map_err(|source| self.sqlite(source))?;
        let transaction = connection.transaction().map_err(|source| self.sqlite(source))?;
        let result = query(&transaction);
        // Looked at while the connection is open: closing it gives up the lock.
        if self.state()? == before { result } else { Err(NixDatabaseError::Restless(self.database.clone())) }
    }

    /// Whether there is a rollback journal with something in it.
    fn has_journal(&self) -> io::Result<bool> {
        match std::fs::metadata(beside(&self.database, "-journal")) {
            Ok(journal) => Ok(journal.len() > 0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens the database and reads one word of it, since SQLite opens lazily.
    fn open(&self, parameters: &str) -> Result<Connection, rusqlite::Error> {
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(uri(&self.database, parameters), flags)?;
        connection.busy_timeout(self.busy_timeout)?;
        connection.query_row("select count(*) from sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    }

    fn sqlite(&self, source: rusqlite::Error) -> NixDatabaseError {
        let database = self.database.clone();
        match is_locked(&source) {
            true => NixDatabaseError::Locked(database),
            false => NixDatabaseError::Sqlite { database, source },
        }
    }

    fn row(&self, transaction: &Transaction<'_>, path: &StorePath) -> Result<ValidPath, NixDatabaseError> {
        let columns = Columns::select(transaction, "path = ?1", params![path.to_absolute()]);
        match columns.map_err(|source| self.sqlite(source))? {
            Some((_, columns)) => columns.parse(path),
            None => Err(NixDatabaseError::Invalid(path.clone())),
        }
    }
}

/// Whether another process has it locked.
fn is_locked(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// A file beside the database, which SQLite names so.
fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// `file:` and the path with all but the plainest bytes escaped.
fn uri(database: &Path, parameters: &str) -> OsString {
    let mut uri = b"file:".to_vec();
    for &byte in database.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => uri.push(byte),
            _ => uri.extend(format!("%{byte:02x}").into_bytes()),
        }
    }
    uri.push(b'?');
    uri.extend(parameters.as_bytes());
    OsString::from_vec(uri)
}

/// Depth first, so that each path comes after what it references. A self-reference, or a cycle, which Nix does not
/// make, is cut where it closes.
fn in_order(mut rows: BTreeMap<StorePath, ValidPath>, last: &StorePath) -> Vec<ValidPath> {
    enum Step {
        Enter(StorePath),
        Leave(StorePath),
    }
    let mut ordered = Vec::with_capacity(rows.len());
    let mut entered = BTreeSet::new();
    let mut steps = vec![Step::Enter(last.clone())];
    while let Some(step) = steps.pop() {
        match step {
            Step::Leave(path) => ordered.extend(rows.remove(&path)),
            Step::Enter(path) => {
                if entered.insert(path.clone()) {
                    let references = rows.get(&path).into_iter().flat_map(|row| &row.nar.references);
                    let next: Vec<Step> = references.cloned().map(Step::Enter).collect();
                    steps.push(Step::Leave(path));
                    steps.extend(next);
                }
            }
        }
    }
    ordered
}

/// A row of `ValidPaths` and those of `Refs` that belong to it, as they stand there.
struct Columns {
    hash: String,
    nar_size: Option<i64>,
    deriver: Option<String>,
    signatures: Option<String>,
    ca: Option<String>,
    references: Vec<String>,
}

impl Columns {
    /// The row for which the condition holds, and the path in it.
    fn select(
        transaction: &Transaction<'_>,
        condition: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Option<(String, Self)>, rusqlite::Error> {
        let mut select = transaction.prepare_cached(&format!(
            "select id, hash, narSize, deriver, sigs, ca, path from ValidPaths where {condition}"
        ))?;
        let row = select.query_row(parameters, |row| {
            let columns = Self {
                hash: row.get(1)?,
                nar_size: row.get(2)?,
                deriver: row.get(3)?,
                signatures: row.get(4)?,
                ca: row.get(5)?,
                references: Vec::new(),
            };
            Ok((row.get::<_, i64>(0)?, row.get(6)?, columns))
        });
        let Some((id, path, mut columns)) = row.optional()? else { return Ok(None) };
        let mut select = transaction.prepare_cached(
            "select path from Refs join ValidPaths on reference = id where referrer = ?1 order by path",
        )?;
        columns.references = select.query_map(params![id], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(Some((path, columns)))
    }

    fn parse(self, path: &StorePath) -> Result<ValidPath, NixDatabaseError> {
        let absolute = path.to_absolute();
        let row = |column| Wrong { path: &absolute, column };
        let nar_size = self.nar_size.and_then(|size| u64::try_from(size).ok()).filter(|&size| size > 0);
        let references = self.references.iter().map(|text| StorePath::from_absolute(text));
        let signatures = self.signatures.as_deref().unwrap_or_default().split_ascii_whitespace();
        let deriver = self.deriver.as_deref().filter(|text| !text.is_empty() && *text != NO_DERIVER);
        let ca = self.ca.as_deref().filter(|text| !text.is_empty());
        Ok(ValidPath {
            path: path.clone(),
            nar: NarFacts {
                nar_hash: self.hash.parse().map_err(|error| row("hash").because(error))?,
                nar_size: nar_size.ok_or_else(|| row("narSize").because(EmptyColumn))?,
                references: references
                    .collect::<Result<_, _>>()
                    .map_err(|error| row("references").because(error))?,
            },
            deriver: deriver.and_then(|text| row("deriver").if_read(StorePath::from_absolute(text))),
            signatures: signatures.filter_map(|text| row("sigs").if_read(text.parse())).collect(),
            ca: ca.and_then(|text| row("ca").if_read(text.parse())),
        })
    }
}

/// Names a column of a path, to be completed with what is wrong with it.
struct Wrong<'a> {
    path: &'a str,
    column: &'static str,
}

impl Wrong<'_> {
    fn because(self, source: impl Error + Send + Sync + 'static) -> NixDatabaseError {
        NixDatabaseError::Row { path: self.path.into(), column: self.column, source: Box::new(source) }
    }

    /// What stands beside what Nix signs is passed over where it cannot be read: Nix itself keeps whatever a cache has
    /// sent along, and takes the path.
    fn if_read<T>(self, read: Result<T, impl Error>) -> Option<T> {
        let Self { path, column } = self;
        read.inspect_err(|error| tracing::debug!(path, column, %error, "passed over in Nix's database")).ok()
    }
}

#[cfg(test)]
mod tests;
