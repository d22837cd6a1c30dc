//! Opening the directory of a store.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use firn_castore::BlobDigest;
use rustix::fs::{fstatvfs, syncfs};

use super::{files, index::Index};
use crate::StoreError;

/// The version of the layout and of what is in the index.
pub const FORMAT_VERSION: u32 = 1;

/// Space on the file system that is never used up. A transaction of the index copies the pages that it changes, and
/// when it fails for want of space the index has to be opened anew, so it is not begun then.
const RESERVE_BYTES: u64 = 8 << 20;

const VERSION: &str = "version";
const LOCK: &str = "lock";
const INDEX: &str = "index.redb";
const BLOBS: &str = "blobs";
const TEMP: &str = "temp";

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file system would not.
    #[error("{}: {source}", .path.display())]
    Io {
        /// With which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Another process has it open, or this one.
    #[error("the store {} is in use by {}", .path.display(), holder(.pid))]
    Locked {
        /// The store.
        path: PathBuf,
        /// The process that has it open, as it says itself.
        pid: Option<u32>,
    },
    /// The store was made by another version of this program.
    #[error("the store {} has format {found}, this program knows format {FORMAT_VERSION}", .path.display())]
    Version {
        /// The store.
        path: PathBuf,
        /// What its stamp says.
        found: u32,
    },
    /// The stamp is no number.
    #[error("{} holds no format version", .0.display())]
    Stamp(PathBuf),
    /// The directory has something else in it.
    #[error("{} is no store: it contains {}", .path.display(), .found.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// A name in it.
        found: PathBuf,
    },
    /// The index of a store that had one is gone.
    #[error("the index {} is gone", .0.display())]
    NoIndex(PathBuf),
    /// The index is damaged.
    #[error("the index {} cannot be used: {source}", .path.display())]
    Index {
        /// The index's file.
        path: PathBuf,
        /// What redb said.
        source: Box<redb::Error>,
    },
    /// Something went wrong while what a crash left behind was removed.
    #[error(transparent)]
    Sweep(#[from] StoreError),
}

fn holder(pid: &Option<u32>) -> String {
    match pid {
        Some(pid) if *pid == std::process::id() => format!("this process ({pid})"),
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

impl OpenError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}

/// The directory of a store that is open, and the lock on it.
pub(super) struct Layout {
    pub(super) dir: PathBuf,
    pub(super) blobs: PathBuf,
    pub(super) temp: PathBuf,
    /// Opened once and for all: a sync tells of each failure to write since then.
    handle: File,
    lock: Lock,
}

/// Opens or makes a store, and removes what a crash has left.
pub(super) fn open(dir: &Path) -> Result<(Layout, Index), OpenError> {
    fs::create_dir_all(dir).map_err(OpenError::io(dir))?;
    let is_new = check_version(dir)?;
    let lock = Lock::take(dir)?;
    // Looked at again, since another process may have made the store or changed it until the lock was ours.
    let is_new = is_new && check_version(dir)?;
    let handle = File::open(dir).map_err(OpenError::io(dir))?;
    let layout =
        Layout { dir: dir.to_path_buf(), blobs: dir.join(BLOBS), temp: dir.join(TEMP), handle, lock };
    for made in [&layout.blobs, &layout.temp] {
        fs::create_dir_all(made).map_err(OpenError::io(made))?;
    }
    let path = dir.join(INDEX);
    if !is_new && !path.exists() {
        return Err(OpenError::NoIndex(path));
    }
    let index = Index::open(path)?;
    if is_new {
        let version = dir.join(VERSION);
        layout.sync()?;
        fs::write(&version, format!("{FORMAT_VERSION}\n")).map_err(OpenError::io(&version))?;
        layout.sync()?;
    }
    empty(&layout.temp)?;
    if layout.lock.was_left {
        files::sweep(&layout.blobs, |digest: &BlobDigest| index.is_large(digest))?;
    }
    Ok((layout, index))
}

/// Whether the store is still to be made. What is neither a store nor the beginnings of one is refused.
fn check_version(dir: &Path) -> Result<bool, OpenError> {
    let path = dir.join(VERSION);
    let stamp = match fs::read(&path) {
        Ok(stamp) => stamp,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return check_fresh(dir).map(|()| true),
        Err(error) => return Err(OpenError::io(&path)(error)),
    };
    let number = std::str::from_utf8(&stamp).ok().and_then(|text| text.trim_end().parse().ok());
    match number {
        Some(FORMAT_VERSION) => Ok(false),
        Some(found) => Err(OpenError::Version { path: dir.to_path_buf(), found }),
        None => Err(OpenError::Stamp(path)),
    }
}

/// Refuses a directory with anything in it but what an interrupted first opening leaves.
fn check_fresh(dir: &Path) -> Result<(), OpenError> {
    for entry in fs::read_dir(dir).map_err(OpenError::io(dir))? {
        let name = entry.map_err(OpenError::io(dir))?.file_name();
        if ![VERSION, LOCK, INDEX, BLOBS, TEMP].iter().any(|ours| name == *ours) {
            return Err(OpenError::NotAStore { path: dir.to_path_buf(), found: name.into() });
        }
    }
    Ok(())
}

fn empty(dir: &Path) -> Result<(), OpenError> {
    for entry in fs::read_dir(dir).map_err(OpenError::io(dir))? {
        let entry = entry.map_err(OpenError::io(dir))?;
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            fs::remove_file(&path).map_err(OpenError::io(&path))?;
        }
    }
    Ok(())
}

impl Layout {
    /// Makes all files of the file system durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        syncfs(&self.handle).map_err(|error| StoreError::io(&self.dir)(error.into()))
    }

    /// Refuses where so many bytes may not fit.
    pub(super) fn check_room(&self, bytes: usize) -> Result<(), StoreError> {
        let space = fstatvfs(&self.handle).map_err(|error| StoreError::io(&self.dir)(error.into()))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        // Values are rounded up to powers of two pages.
        if free < (bytes as u64).saturating_mul(2).saturating_add(RESERVE_BYTES) {
            return Err(StoreError::io(&self.dir)(io::ErrorKind::StorageFull.into()));
        }
        Ok(())
    }

    /// To be told at the end, where all that was kept is durable: the next opening need not look for garbage.
    pub(super) fn closed_cleanly(&mut self, cleanly: bool) {
        self.lock.empty_on_drop = cleanly;
    }
}

/// The locked file. The kernel gives the lock up when the process ends, however it ends.
struct Lock {
    file: File,
    /// The last holder did not close the store cleanly.
    was_left: bool,
    empty_on_drop: bool,
}

impl Lock {
    fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(LOCK);
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(OpenError::io(&path))?;
        let locked = file.try_lock();
        let mut before = String::new();
        // Whoever holds it may be writing just now; then the name is not known.
        let read = (&mut file).take(32).read_to_string(&mut before);
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = read.ok().and_then(|_| before.trim_end().parse().ok());
                return Err(OpenError::Locked { path: dir.to_path_buf(), pid });
            }
            Err(TryLockError::Error(error)) => return Err(OpenError::io(&path)(error)),
        }
        let mut lock = Self { file, was_left: read.is_err() || !before.is_empty(), empty_on_drop: false };
        lock.stamp().map_err(OpenError::io(&path))?;
        lock.empty_on_drop = !lock.was_left;
        Ok(lock)
    }

    fn stamp(&mut self) -> io::Result<()> {
        self.file.rewind()?;
        self.file.set_len(0)?;
        self.file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
        self.file.sync_all()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.empty_on_drop {
            // If it fails, the next opening looks for garbage that is not there.
            let _ = self.file.set_len(0);
        }
    }
}
