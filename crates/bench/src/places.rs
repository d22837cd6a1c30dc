//! Where trees, stores and copies are made.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use rustix::fs::{statfs, statvfs};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cost::Pipeline,
    error::BenchError,
    lab,
    trees::{Scale, Trees},
};

const DEFAULT_DIRECTORY: &str = "/dev/shm";
/// Within the working directory.
const DEFAULT_DISK_DIRECTORY: &str = "target/tmp";
/// All trees, and beside them four stores or copies of the largest.
const MEMORY_BYTES: u64 = 8 << 30;
/// Two copies of the largest tree, of which the file system may still be deleting one.
const DISK_BYTES: u64 = 3 << 30;
/// What any scale needs.
const SLACK_BYTES: u64 = 64 << 20;
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Where to make things, as the user says.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// In memory; a tmpfs unless the user names something else.
    pub(crate) directory: Option<PathBuf>,
    /// On a disk.
    pub(crate) disk: Option<PathBuf>,
    /// Whether the disk is needed at all.
    pub(crate) needs_disk: bool,
    /// Whether what was made stays.
    pub(crate) keep: bool,
}

/// A directory in which runs leave things.
pub(crate) struct Place(PathBuf);

impl Place {
    /// A file or directory of this name.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Deletes a directory that no row needs any longer, for its room.
    pub(crate) fn remove(&self, name: &str) -> Result<(), BenchError> {
        let directory = self.0.join(name);
        fs::remove_dir_all(&directory).map_err(BenchError::io(&directory))
    }

    /// An empty directory for the next run; what the last one made in it is gone, also from the disk's queue.
    pub(crate) fn scratch(&self) -> Result<PathBuf, BenchError> {
        let scratch = self.0.join("scratch");
        match fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(BenchError::io(&scratch)(error)),
            _ => {}
        }
        fs::create_dir(&scratch).map_err(BenchError::io(&scratch))?;
        Pipeline::from(sync(&scratch)).run(Stdio::null())?;
        Ok(scratch)
    }
}

/// Makes durable what is on the file system of a path.
pub(crate) fn sync(path: &Path) -> Command {
    let mut command = Command::new("sync");
    command.arg("-f").arg(path);
    command
}

/// The directories of one run of the bench; gone at its end unless they are to be kept.
pub(crate) struct Places {
    /// The trees, and what is made beside them.
    pub(crate) memory: Place,
    /// What is made on a disk; in memory too where no row needs a disk.
    pub(crate) disk: Place,
    /// What is added.
    pub(crate) trees: Trees,
    _fresh: Vec<TempDir>,
}

impl Places {
    /// Makes fresh directories where there is room.
    pub(crate) fn make(wanted: &Wanted, scale: Scale) -> Result<Self, BenchError> {
        let directory = wanted.directory.clone().unwrap_or_else(|| DEFAULT_DIRECTORY.into());
        if !is_tmpfs(&directory)? {
            match wanted.directory {
                None => return Err(BenchError::NotInMemory(directory)),
                Some(_) => {
                    eprintln!("firn-bench: {} is no tmpfs: its disk is measured, too", directory.display())
                }
            }
        }
        let memory = fresh(&directory, scale.of(MEMORY_BYTES), wanted.keep)?;
        let mut places = Self {
            memory: Place(memory.path().into()),
            disk: Place(memory.path().into()),
            trees: Trees::new(memory.path().into(), scale),
            _fresh: vec![memory],
        };
        if wanted.needs_disk {
            let disk = wanted.disk.clone().unwrap_or_else(|| DEFAULT_DISK_DIRECTORY.into());
            fs::create_dir_all(&disk).map_err(BenchError::io(&disk))?;
            if is_tmpfs(&disk)? {
                return Err(BenchError::NotOnDisk(disk));
            }
            let disk = fresh(&disk, scale.of(DISK_BYTES), wanted.keep)?;
            places.disk = Place(disk.path().into());
            places._fresh.push(disk);
        }
        if !wanted.keep {
            delete_on_signal(places._fresh.iter().map(|fresh| fresh.path().to_path_buf()).collect());
        }
        Ok(places)
    }
}

fn fresh(parent: &Path, needed: u64, keep: bool) -> Result<TempDir, BenchError> {
    let parent = parent.canonicalize().map_err(BenchError::io(parent))?;
    let (needed, free) = (needed + SLACK_BYTES, free_bytes(&parent)?);
    if free < needed {
        return Err(BenchError::Room { path: parent, needed_mib: needed >> 20, free_mib: free >> 20 });
    }
    let made = tempfile::Builder::new().prefix("firn-bench-").disable_cleanup(keep).tempdir_in(&parent);
    let made = made.map_err(BenchError::io(&parent))?;
    if keep {
        eprintln!("firn-bench: {} is kept", made.path().display());
    }
    Ok(made)
}

fn is_tmpfs(directory: &Path) -> Result<bool, BenchError> {
    let found = statfs(directory).map_err(|error| BenchError::io(directory)(error.into()))?;
    Ok(found.f_type as u64 == TMPFS_MAGIC)
}

/// How much can be written; a tmpfs promises more than there is memory.
fn free_bytes(directory: &Path) -> Result<u64, BenchError> {
    let found = statvfs(directory).map_err(|error| BenchError::io(directory)(error.into()))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    Ok(if is_tmpfs(directory)? { free.min(available_memory()?) } else { free })
}

fn available_memory() -> Result<u64, BenchError> {
    let file = Path::new("/proc/meminfo");
    let text = fs::read_to_string(file).map_err(BenchError::io(file))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.map_or(u64::MAX, |kib| kib << 10))
}

/// Gigabytes of memory would stay taken if a bench that is stopped left its trees.
fn delete_on_signal(directories: Vec<PathBuf>) {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            let signals =
                signal(SignalKind::interrupt()).and_then(|one| Ok((one, signal(SignalKind::terminate())?)));
            let Ok((mut interrupt, mut terminate)) = signals else { return };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            lab::tear_down();
            for directory in directories {
                let _ = fs::remove_dir_all(directory);
            }
            std::process::exit(130);
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_room_is_an_error_that_says_how_much_is_needed() {
        let directory = tempfile::tempdir().unwrap();
        let error = fresh(directory.path(), 1 << 60, false).unwrap_err();
        assert!(error.to_string().contains("1099511627840 MiB are needed"), "{error}");
    }

    #[test]
    fn each_run_begins_with_an_empty_directory() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place(directory.path().into());
        let scratch = place.scratch().unwrap();
        fs::write(scratch.join("left"), "over").unwrap();
        assert_eq!(fs::read_dir(place.scratch().unwrap()).unwrap().count(), 0);
    }
}
