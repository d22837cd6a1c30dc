//! Opening the directory of a store.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{fs::OFlags, io::Errno};

use super::{
    away::Away,
    private::{FILE_MODE, set_mode},
    vfs::{Access, Disk, DiskFile},
};
use crate::StoreError;

/// The version of the layout and of what is in the index.
pub const FORMAT_VERSION: u32 = 2;

/// Space on the file system that only what gives room back may use: a transaction of the index copies the pages that it
/// changes, and when it fails for want of space the index has to be opened anew.
const RESERVE_BYTES: u64 = 8 << 20;

const VERSION: &str = "version";
const LOCK: &str = "lock";
const INDEX: &str = "index.redb";
const PACKS: &str = "packs";
const BLOBS: &str = "blobs";
const PARTIAL: &str = "partial";
const TEMP: &str = "temp";
const QUARANTINE: &str = "quarantine";
const OURS: [&str; 8] = [VERSION, LOCK, INDEX, PACKS, BLOBS, PARTIAL, TEMP, QUARANTINE];
const DIRS: [&str; 5] = [PACKS, BLOBS, PARTIAL, TEMP, QUARANTINE];

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
    #[error("the store {} has format {found}, this program knows format {FORMAT_VERSION}: {}", .path.display(), remedy(*.found))]
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

fn remedy(found: u32) -> &'static str {
    match found < FORMAT_VERSION {
        true => "an earlier firn has made it; put it aside, and add or fetch anew what it has",
        false => "a later firn has made it; use that one",
    }
}

fn holder(pid: &Option<u32>) -> String {
    match pid {
        Some(pid) if *pid == std::process::id() => format!("this process ({pid})"),
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

impl OpenError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}

/// The directory of a store that is open.
pub(super) struct Layout {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) index: PathBuf,
    pub(super) packs: PathBuf,
    pub(super) blobs: PathBuf,
    pub(super) partial: PathBuf,
    pub(super) temp: PathBuf,
    pub(super) quarantine: PathBuf,
    pub(super) away: Away,
}

impl Layout {
    /// Where everything is in the directory of a store, whose directories are made where they are missing.
    pub(super) fn of(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, OpenError> {
        let quarantine = dir.join(QUARANTINE);
        let layout = Self {
            away: Away::new(disk.clone(), quarantine.clone()),
            disk,
            dir: dir.to_path_buf(),
            index: dir.join(INDEX),
            packs: dir.join(PACKS),
            blobs: dir.join(BLOBS),
            partial: dir.join(PARTIAL),
            temp: dir.join(TEMP),
            quarantine,
        };
        for name in DIRS {
            let made = dir.join(name);
            layout.disk.create_dir(&made).map_err(OpenError::io(&made))?;
        }
        Ok(layout)
    }

    /// Checks that the directory is a store of this version, or makes one of an empty directory. Gives what stamps it,
    /// once its index is there.
    pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<(Self, Option<Stamp>), OpenError> {
        let is_new = check_version(&*disk, dir)?;
        if !is_new {
            check_index(&*disk, &dir.join(INDEX))?;
        }
        let layout = Self::of(disk, dir)?;
        Ok((layout, is_new.then_some(Stamp(()))))
    }

    /// Says that the store is whole and of this version.
    pub(super) fn stamp(&self, _: Stamp) -> Result<(), OpenError> {
        self.disk.sync().map_err(OpenError::io(&self.dir))?;
        let version = self.dir.join(VERSION);
        let write = || -> io::Result<()> {
            let file = match self.disk.open(&version, Access::Write) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.disk.open(&version, Access::CreateNew)?
                }
                opened => opened?,
            };
            file.write_all_at(format!("{FORMAT_VERSION}\n").as_bytes(), 0)?;
            self.disk.sync()
        };
        write().map_err(OpenError::io(&version))
    }

    /// Removes what was being copied in when the store was closed.
    pub(super) fn empty_temp(&self) -> Result<(), OpenError> {
        for name in self.disk.list(&self.temp).map_err(OpenError::io(&self.temp))? {
            let path = self.temp.join(name);
            self.away.clear(&path).map_err(OpenError::io(&path))?;
        }
        Ok(())
    }

    /// Makes all files of the file system durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.disk.sync().map_err(StoreError::io(&self.dir))
    }
}

/// What may be written to the disk yet: all that is free but the reserve.
pub(super) fn free_bytes(disk: &dyn Disk, path: &Path) -> Result<u64, StoreError> {
    Ok(disk.free_bytes().map_err(StoreError::io(path))?.saturating_sub(RESERVE_BYTES))
}

/// Refuses to write so many bytes to this file where that would use up the reserve.
pub(super) fn check_room(disk: &dyn Disk, path: &Path, bytes: u64) -> Result<(), StoreError> {
    match free_bytes(disk, path)? < bytes {
        true => Err(StoreError::io(path)(Errno::NOSPC.into())),
        false => Ok(()),
    }
}

/// Refuses to go on without an index: what is there is not to be taken for garbage.
fn check_index(disk: &dyn Disk, index: &Path) -> Result<(), OpenError> {
    let damaged = |what: &str| OpenError::Index {
        path: index.to_path_buf(),
        source: Box::new(redb::Error::Corrupted(what.to_owned())),
    };
    match disk.open(index, Access::Read).and_then(|file| file.read_bytes_at(1, 0)) {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::NotFound => OpenError::NoIndex(index.to_path_buf()),
            io::ErrorKind::UnexpectedEof => damaged("the file is empty"),
            io::ErrorKind::PermissionDenied => OpenError::io(index)(error),
            _ => damaged("it is no file"),
        }),
    }
}

/// That the store is still to be stamped.
pub(super) struct Stamp(());

/// Whether the store is still to be made. What is neither a store nor the beginnings of one is refused.
pub(super) fn check_version(disk: &dyn Disk, dir: &Path) -> Result<bool, OpenError> {
    let path = dir.join(VERSION);
    let stamp = match disk.open(&path, Access::Read).and_then(|file| read_stamp(&*file)) {
        Ok(stamp) => stamp,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return check_fresh(disk, dir).map(|()| true);
        }
        Err(error) => return Err(OpenError::io(&path)(error)),
    };
    // Its first opening was cut off by a crash.
    if stamp.is_empty() || stamp.contains(&0) {
        return check_fresh(disk, dir).map(|()| true);
    }
    let number = std::str::from_utf8(&stamp).ok().and_then(|text| text.trim_end().parse().ok());
    match number {
        Some(FORMAT_VERSION) => Ok(false),
        Some(found) => Err(OpenError::Version { path: dir.to_path_buf(), found }),
        None => Err(OpenError::Stamp(path)),
    }
}

fn read_stamp(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let mut stamp = vec![0; file.size()?.min(64) as usize];
    file.read_exact_at(&mut stamp, 0)?;
    Ok(stamp)
}

/// Refuses a directory with anything in it but what an interrupted first opening leaves.
fn check_fresh(disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
    for name in disk.list(dir).map_err(OpenError::io(dir))? {
        if !OURS.iter().any(|ours| name == *ours) {
            return Err(OpenError::NotAStore { path: dir.to_path_buf(), found: name.into() });
        }
    }
    Ok(())
}

/// The locked file. The kernel gives the lock up when the process ends, however it ends.
pub(super) struct Lock {
    file: File,
    /// The last holder did not close the store cleanly.
    pub(super) was_left: bool,
    empty_on_drop: bool,
}

impl Lock {
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        // A pipe in its place would be waited for.
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
        let mut file = options.open(&path).map_err(OpenError::io(&path))?;
        let locked = file.try_lock();
        let mut before = String::new();
        // Whoever holds it may be writing just now; then the name is not known.
        let read = (&mut file).take(32).read_to_string(&mut before);
        match locked {
            Ok(()) => set_mode(&file).map_err(OpenError::io(&path))?,
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

    /// To be told at the end, where all that was kept is durable: the next opening need not look for garbage.
    pub(super) fn closed_cleanly(&mut self, cleanly: bool) {
        self.empty_on_drop = cleanly;
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
