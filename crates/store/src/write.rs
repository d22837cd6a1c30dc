//! From a store into the file system.

mod aside;

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{OpenOptionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use firn_bao::Span;
use firn_castore::{BlobRef, Closure, PathComponent, Step};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use self::aside::{Aside, remove_left_behind};
use crate::{Item, Store, StoreError};

/// How many groups are read at a time: 1 MiB.
const READ_GROUPS: u64 = 64;

/// Why a tree could not be written out.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Something is there already.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// The path does not end in a name.
    #[error("{} does not end in a name", .0.display())]
    NoName(PathBuf),
    /// The file system would not.
    #[error("{}: {source}", .path.display())]
    Io {
        /// With which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The store would not, or lacks a blob.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was told to.
    #[error("writing {} was broken off", .0.display())]
    BrokenOff(PathBuf),
}

/// Writes a tree to `to`, which must not exist: aside first, in the same directory, then renamed into place.
///
/// Files get the mode 0644 or 0755 and directories 0755, less the umask. Nothing is synced. A tree cannot reach out of
/// its place: names are legal by their type, each is made anew and fails where something is there already, and only
/// directories made here are entered, so no symlink of the tree is ever followed.
///
/// `goes_on` is asked after each entry and each piece of a file. Once it says no, what is aside is removed, as with any failure.
/// What a killed process has left aside is removed by the next that writes beside it.
pub fn write_tree(
    store: &dyn Store,
    closure: &Closure,
    to: &Path,
    goes_on: &dyn Fn() -> bool,
) -> Result<(), WriteError> {
    if to.file_name().is_none() {
        return Err(WriteError::NoName(to.to_path_buf()));
    }
    if exists(to)? {
        return Err(WriteError::Exists(to.to_path_buf()));
    }
    remove_left_behind(to);
    let aside = Aside::beside(to).map_err(io_error(to))?;
    let tree = aside.tree();
    let work = Work { store, goes_on };
    work.write(closure, &tree).and_then(|()| rename(&tree, to))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> WriteError {
    let path = path.to_path_buf();
    move |source| WriteError::Io { path, source }
}

/// Whether there is something, be it a symlink to nowhere.
fn exists(path: &Path) -> Result<bool, WriteError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error(path)(error)),
    }
}

struct Work<'a> {
    store: &'a dyn Store,
    goes_on: &'a dyn Fn() -> bool,
}

impl Work<'_> {
    fn write(&self, closure: &Closure, to: &Path) -> Result<(), WriteError> {
        let mut path = to.to_path_buf();
        for step in closure.walk() {
            match step {
                Step::Open { name } => {
                    enter(&mut path, name);
                    fs::create_dir(&path).map_err(io_error(&path))?;
                }
                Step::Close => {
                    path.pop();
                }
                Step::File { name, blob, executable } => {
                    enter(&mut path, name);
                    self.write_file(&path, blob, executable)?;
                    path.pop();
                }
                Step::Symlink { name, target } => {
                    enter(&mut path, name);
                    symlink(OsStr::from_bytes(target.as_bytes()), &path).map_err(io_error(&path))?;
                    path.pop();
                }
            }
            self.go_on(&path)?;
        }
        Ok(())
    }

    fn write_file(&self, path: &Path, blob: BlobRef, executable: bool) -> Result<(), WriteError> {
        let mode = if executable { 0o755 } else { 0o644 };
        let options = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        let mut file: File = options.map_err(io_error(path))?;
        for span in Span::whole(blob.size).pieces(READ_GROUPS) {
            let read = self.store.read_span(&blob, span)?;
            let read = read.ok_or(StoreError::Missing(Item::Blob(blob.digest)))?;
            file.write_all(read.bytes()).map_err(io_error(path))?;
            self.go_on(path)?;
        }
        Ok(())
    }

    fn go_on(&self, path: &Path) -> Result<(), WriteError> {
        if (self.goes_on)() { Ok(()) } else { Err(WriteError::BrokenOff(path.to_path_buf())) }
    }
}

/// The topmost node has no name: its path is there already.
fn enter(path: &mut PathBuf, name: Option<&PathComponent>) {
    if let Some(name) = name {
        path.push(OsStr::from_bytes(name.as_bytes()));
    }
}

fn rename(tree: &Path, to: &Path) -> Result<(), WriteError> {
    match renameat_with(CWD, tree, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(WriteError::Exists(to.to_path_buf())),
        // Some file systems (NFS, older ZFS) know no such flag.
        Err(Errno::INVAL | Errno::NOSYS) => match exists(to)? {
            true => Err(WriteError::Exists(to.to_path_buf())),
            false => fs::rename(tree, to).map_err(io_error(to)),
        },
        Err(error) => Err(io_error(to)(error.into())),
    }
}
