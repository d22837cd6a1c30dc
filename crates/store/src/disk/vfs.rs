//! The file system beneath a store, as far as a store needs it.
//!
//! [`RealDisk`] is the operating system's. Simulations put a stricter one in its place, which loses and reorders what
//! was not synced. What it makes is for its owner alone.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use rustix::{
    buffer::spare_capacity,
    fs::{OFlags, fstatvfs, syncfs},
    io::{Errno, pread},
};

use super::private::{DIR_MODE, FILE_MODE, make_private, set_mode};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To be read; it must be there.
    Read,
    /// To be read and written; it must be there.
    Write,
    /// To be read and written; it must not be there.
    CreateNew,
}

/// The files of one file system.
///
/// What is written, created, renamed or removed may be lost in a crash, in any order and in part, until
/// [`Disk::sync`], or for the bytes and the length of one file that was durable already, [`DiskFile::sync`], has
/// returned without an error. After an error of either, what was not durable before may be lost for good.
pub trait Disk: Send + Sync {
    /// Makes a directory, unless there is one. A symlink to one is none.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Opens a file. No symlink in place of it is followed, and no pipe waited for.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name, in place of any file that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;

    /// Makes everything durable.
    fn sync(&self) -> io::Result<()>;

    /// How many bytes may still be written.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Its length in bytes.
    fn size(&self) -> io::Result<u64>;

    /// How many bytes of the disk it takes.
    fn allocated_bytes(&self) -> io::Result<u64>;

    /// Reads at most as much as there is room for; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of it. A gap before it reads as zeros.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts it, or makes it longer by zeros.
    fn set_size(&self, size: u64) -> io::Result<()>;

    /// Makes its bytes and its length durable.
    fn sync(&self) -> io::Result<()>;

    /// Fills the buffer, or fails with [`io::ErrorKind::UnexpectedEof`].
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    buffer = &mut buffer[read..];
                    offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// So many bytes of it, or [`io::ErrorKind::UnexpectedEof`].
    fn read_bytes_at(&self, bytes: usize, offset: u64) -> io::Result<Bytes> {
        let mut buffer = BytesMut::zeroed(bytes);
        self.read_exact_at(&mut buffer, offset)?;
        Ok(buffer.freeze())
    }
}

/// The operating system's file system that a store's directory is on.
#[derive(Debug)]
pub struct RealDisk {
    dir: PathBuf,
    /// Opened once and for all: a sync tells of each failure to write since then.
    handle: File,
}

impl RealDisk {
    /// The file system of this directory.
    pub fn of(dir: &Path) -> io::Result<Self> {
        Ok(Self { dir: dir.to_path_buf(), handle: File::open(dir)? })
    }
}

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(DIR_MODE).create(dir) {
            Ok(()) => make_private(dir),
            // A symlink may lead to another file system, which a sync of this one would not make durable.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if fs::symlink_metadata(dir)?.is_dir() { Ok(()) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(access != Access::Read).create_new(access == Access::CreateNew);
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32).mode(FILE_MODE);
        let file = options.open(path)?;
        if access == Access::CreateNew {
            set_mode(&file)?;
        }
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn sync(&self) -> io::Result<()> {
        Ok(syncfs(&self.handle)?)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let space = fstatvfs(&self.handle).map_err(|error| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("{}: {error}", self.dir.display()))
        })?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.blocks().saturating_mul(512))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    // To make it all zeros first costs a third of what it costs to read it.
    fn read_bytes_at(&self, bytes: usize, offset: u64) -> io::Result<Bytes> {
        let mut buffer = Vec::with_capacity(bytes);
        while buffer.len() < bytes {
            let offset = offset + buffer.len() as u64;
            match pread(&self.0, spare_capacity(&mut buffer), offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        buffer.truncate(bytes);
        Ok(buffer.into())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
