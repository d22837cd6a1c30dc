//! What stands where a file of the store should, or could, and is none.
//!
//! A directory, a pipe or a file that may not be opened is nothing that a store makes. One of them must not keep the store
//! from being used: it goes to the directory of damaged files, and whoever has opened the store is told.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rustix::io::Errno;

use super::vfs::{Access, Disk};
use crate::lock;

/// So many things of one name are put aside; what comes then stays where it is.
const SAME_NAME_MAX: u32 = 1000;
/// So many of them are told of.
const TOLD_MAX: usize = 1000;

/// Where it goes.
#[derive(Clone)]
pub(super) struct Away {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    told: Arc<Mutex<Vec<PathBuf>>>,
}

impl Away {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        Self { disk, dir, told: Arc::default() }
    }

    /// Removes a file that nothing needs. What is no file is put aside, and what cannot be moved stays.
    pub(super) fn clear(&self, path: &Path) -> io::Result<()> {
        match self.disk.remove(path) {
            Err(error) if is_out_of_reach(&error) => {
                if self.put(path).is_err() {
                    self.tell(path);
                }
                Ok(())
            }
            removed => removed,
        }
    }

    /// Puts something aside, and says where it is now.
    pub(super) fn put(&self, path: &Path) -> io::Result<PathBuf> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for number in 0..SAME_NAME_MAX {
            let to = self.dir.join(if number == 0 { name.clone() } else { format!("{name}.{number}") });
            if matches!(self.disk.open(&to, Access::Read), Err(error) if error.kind() == io::ErrorKind::NotFound)
            {
                self.disk.rename(path, &to)?;
                self.tell(&to);
                return Ok(to);
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn tell(&self, path: &Path) {
        let mut told = lock(&self.told);
        if told.len() < TOLD_MAX {
            told.push(path.to_path_buf());
        }
    }

    /// What has been put aside, or is in the way.
    pub(super) fn told(&self) -> Vec<PathBuf> {
        lock(&self.told).clone()
    }
}

/// Whether an error says that something is no file: a directory, a symlink, a socket or a pipe.
pub(super) fn is_no_file(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::ISDIR | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::SPIPE)
    )
}

/// Whether nothing can be done with it, be it since it is no file or since it may not be touched.
pub(super) fn is_out_of_reach(error: &io::Error) -> bool {
    is_no_file(error) || error.kind() == io::ErrorKind::PermissionDenied
}
