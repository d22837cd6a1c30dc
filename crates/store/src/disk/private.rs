//! What is here is for its owner alone: files have the mode 0600 and directories 0700, whatever the umask is.
//!
//! What this program makes is made so. What was there before, such as a store of an earlier version, is closed when it is
//! opened; the mode of the store's directory, which is closed last, says that all beneath it has been.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::fs::OFlags;

/// The mode of a file.
pub(super) const FILE_MODE: u32 = 0o600;
/// The mode of a directory.
pub(super) const DIR_MODE: u32 = 0o700;
/// How many directories within each other are closed: more than a store has.
const DEPTH_MAX: u32 = 8;

/// Makes a directory for its owner alone, unless there is one; and those above it that are missing.
pub fn create_private_dir(dir: &Path) -> io::Result<()> {
    match fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
        Err(_) => {}
    }
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)?;
    make_private(dir)
}

/// Closes a file or a directory to all but its owner. No symlink is followed; what is neither is left alone.
pub fn make_private(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
    set_mode(&options.open(path)?)
}

/// Gives an open file or directory its mode.
pub(super) fn set_mode(file: &File) -> io::Result<()> {
    let metadata = file.metadata()?;
    let mode = match metadata.file_type() {
        kind if kind.is_dir() => DIR_MODE,
        kind if kind.is_file() => FILE_MODE,
        _ => return Ok(()),
    };
    if metadata.permissions().mode() & 0o7777 == mode {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(mode))
}

/// Closes the directory of a store, if that has not been done: all beneath it first.
pub(super) fn close_store(dir: &Path) -> io::Result<()> {
    if fs::metadata(dir)?.permissions().mode() & 0o7777 == DIR_MODE {
        return Ok(());
    }
    close_beneath(dir, DEPTH_MAX);
    File::open(dir).and_then(|dir| set_mode(&dir))
}

/// Closes what is in a directory. What cannot be closed is behind the store's directory all the same, and is told of by
/// whoever reads it.
fn close_beneath(dir: &Path, depth: u32) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        // A directory is closed before it is gone into, so that nobody else exchanges what is in it.
        let is_closed = make_private(&path).is_ok();
        if is_dir && is_closed && depth > 0 {
            close_beneath(&path, depth - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_store_that_others_could_read_is_closed_and_no_symlink_is_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let (dir, elsewhere) = (scratch.path().join("store"), scratch.path().join("elsewhere"));
        fs::create_dir_all(dir.join("blobs/ab")).unwrap();
        let files = [dir.join("version"), dir.join("blobs/ab/large"), elsewhere.clone()];
        for file in &files {
            fs::write(file, "x").unwrap();
            fs::set_permissions(file, Permissions::from_mode(0o646)).unwrap();
        }
        for dir in [dir.join("blobs/ab"), dir.join("blobs"), dir.clone()] {
            fs::set_permissions(dir, Permissions::from_mode(0o757)).unwrap();
        }
        std::os::unix::fs::symlink(&elsewhere, dir.join("blobs/link")).unwrap();
        close_store(&dir).unwrap();
        assert_eq!(files.map(|file| mode(&file)), [FILE_MODE, FILE_MODE, 0o646]);
        assert_eq!(["blobs/ab", "blobs", ""].map(|name| mode(&dir.join(name))), [DIR_MODE; 3]);
    }

    #[test]
    fn a_directory_that_was_there_stays_as_it_was() {
        let scratch = tempfile::tempdir().unwrap();
        fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).unwrap();
        create_private_dir(scratch.path()).unwrap();
        create_private_dir(&scratch.path().join("a/b")).unwrap();
        let modes = ["", "a", "a/b"].map(|name| mode(&scratch.path().join(name)));
        assert_eq!(modes, [0o755, DIR_MODE, DIR_MODE]);
    }
}
