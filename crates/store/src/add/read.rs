//! Reading files that were walked over, and telling whether they are still the same.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    buffer::spare_capacity,
    fs::{self, OFlags},
    io::{self, retry_on_intr},
};

use super::{AddError, entries::Entries, walk::Stamp};

/// A file that is read.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: OwnedFd,
    path: PathBuf,
    /// What it was when it was walked over.
    stamp: Stamp,
}

impl OpenFile {
    /// Opens what was a file a moment ago. If it is something else by now, no symlink is followed, no pipe waited for, and
    /// nothing read.
    pub(super) fn open(entries: &Entries, index: usize, stamp: Stamp) -> Result<Self, AddError> {
        let inner = entries.inner(index);
        let path = entries.place.path(&inner);
        let opened = entries.place.open(&inner, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY);
        let file = opened.map_err(|errno| AddError::open(&path, errno))?;
        let opened = Self { file, path, stamp };
        opened.check()?;
        Ok(opened)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Closes it.
    pub(super) fn into_path(self) -> PathBuf {
        self.path
    }

    /// Appends all that is in it. The buffer must have room for a byte more, which tells whether there is more.
    pub(super) fn read_whole(&self, buffer: &mut Vec<u8>) -> Result<(), AddError> {
        let begin = buffer.len();
        let size = self.stamp.size;
        loop {
            let read = retry_on_intr(|| io::read(&self.file, spare_capacity(buffer)));
            let read = read.map_err(AddError::io(&self.path))?;
            let length = (buffer.len() - begin) as u64;
            // A file that says it has no bytes may have some, as those of /proc do.
            let is_end = read == 0 || (length >= size && size > 0);
            if is_end || length > size {
                return if length == size { Ok(()) } else { Err(self.changed(length)) };
            }
        }
    }

    /// Appends `length` bytes from `offset` on. The buffer must have room for them.
    pub(super) fn read_piece(
        &self,
        offset: u64,
        length: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), AddError> {
        let begin = buffer.len();
        while buffer.len() < begin + length {
            let at = offset + (buffer.len() - begin) as u64;
            let read = retry_on_intr(|| io::pread(&self.file, spare_capacity(buffer), at));
            if read.map_err(AddError::io(&self.path))? == 0 {
                return Err(self.changed(at));
            }
        }
        buffer.truncate(begin + length);
        Ok(())
    }

    /// Whether it is the file, and as it was, that was walked over.
    pub(super) fn check(&self) -> Result<(), AddError> {
        let stat = fs::fstat(&self.file).map_err(AddError::io(&self.path))?;
        let now = Stamp::of(&stat);
        if now == self.stamp { Ok(()) } else { Err(self.changed(now.size)) }
    }

    fn changed(&self, after: u64) -> AddError {
        AddError::Changed { path: self.path.clone(), before: self.stamp.size, after }
    }
}
