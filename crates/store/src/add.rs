//! From the file system into a store.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File, Metadata, OpenOptions},
    io,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    vec,
};

use firn_castore::{
    Closure, ClosureError, DEPTH_MAX, Directory, DirectoryDigest, DirectoryError, NameError, Node,
    PathComponent, Root, SymlinkTarget,
};
use rustix::fs::OFlags;

use crate::{
    Store, StoreError,
    tree::{Collected, collect},
};

/// Why a tree could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The file system would not.
    #[error("{}: {source}", .path.display())]
    Io {
        /// With which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A socket, a device or a pipe.
    #[error("{} is neither a file, a directory nor a symlink", .0.display())]
    Kind(PathBuf),
    /// A name, or the target of a symlink, that no tree may have.
    #[error("{} has an illegal name or target: {source}", .path.display())]
    Name {
        /// Whose.
        path: PathBuf,
        /// What is wrong with it.
        source: NameError,
    },
    /// The file was written to meanwhile.
    #[error("{} has changed while it was read: it had {before} bytes, then {after}", .path.display())]
    Changed {
        /// Which file.
        path: PathBuf,
        /// How long it was when it was opened.
        before: u64,
        /// How much was read.
        after: u64,
    },
    /// Too many directories within each other.
    #[error("{} is deeper than {DEPTH_MAX} directories", .0.display())]
    TooDeep(PathBuf),
    /// A directory of too many entries.
    #[error("{}: {source}", .path.display())]
    Directory {
        /// Which directory.
        path: PathBuf,
        /// What is wrong with it.
        source: DirectoryError,
    },
    /// A tree of too many entries.
    #[error("{}: {source}", .path.display())]
    Tree {
        /// Which tree.
        path: PathBuf,
        /// What is wrong with it.
        source: ClosureError,
    },
    /// The store would not.
    #[error(transparent)]
    Store(StoreError),
}

/// Keeps the tree at `path`, as `nix-store --add` sees it: symlinks are not followed, not even a topmost one, and of a
/// file's mode only the owner's executable bit counts.
///
/// Nothing is visible or durable before the caller commits a path or a root.
pub fn add_tree(store: &dyn Store, path: &Path) -> Result<Closure, AddError> {
    let mut adding = Adding { store, open: Vec::new(), directories: BTreeMap::new() };
    let mut next = adding.enter(path.to_path_buf())?;
    let root = loop {
        // Either a node is complete and goes to the directory that is open, or that directory's next entry is looked at.
        next = match (next.take(), adding.open.last_mut()) {
            (Some(node), None) => break Root::from(node),
            (Some(node), Some(level)) => {
                level.complete(node);
                None
            }
            (None, Some(level)) => match level.names.next() {
                Some(name) => {
                    let path = level.path.join(OsStr::from_bytes(name.as_bytes()));
                    level.name = Some(name);
                    adding.enter(path)?
                }
                None => adding.leave()?,
            },
            (None, None) => return Err(AddError::Kind(path.to_path_buf())),
        };
    };
    adding.finish(&root, path)
}

/// The state of [`add_tree`], which keeps its own stack since trees may be deep.
struct Adding<'a> {
    store: &'a dyn Store,
    open: Vec<Level>,
    directories: BTreeMap<DirectoryDigest, Directory>,
}

/// A directory that is being added.
struct Level {
    path: PathBuf,
    /// What is left of it.
    names: vec::IntoIter<PathComponent>,
    /// Whose node is awaited.
    name: Option<PathComponent>,
    nodes: Vec<(PathComponent, Node)>,
}

impl Level {
    fn complete(&mut self, node: Node) {
        if let Some(name) = self.name.take() {
            self.nodes.push((name, node));
        }
    }
}

impl Adding<'_> {
    /// Looks at a path: a file or a symlink is a node at once, a directory is opened.
    fn enter(&mut self, path: PathBuf) -> Result<Option<Node>, AddError> {
        let metadata = fs::symlink_metadata(&path).map_err(io_error(&path))?;
        if metadata.is_symlink() {
            let target = fs::read_link(&path).map_err(io_error(&path))?.into_os_string().into_vec();
            let target = SymlinkTarget::try_from(&target[..]);
            return Ok(Some(Node::Symlink {
                target: target.map_err(|source| AddError::Name { path, source })?,
            }));
        }
        if metadata.is_file() {
            return self.file(&path).map(Some);
        }
        if !metadata.is_dir() {
            return Err(AddError::Kind(path));
        }
        if self.open.len() >= DEPTH_MAX as usize {
            return Err(AddError::TooDeep(path));
        }
        let names = read_names(&path)?.into_iter();
        self.open.push(Level { path, names, name: None, nodes: Vec::new() });
        Ok(None)
    }

    /// Makes a Directory of the directory whose entries are all complete.
    fn leave(&mut self) -> Result<Option<Node>, AddError> {
        let Some(Level { path, nodes, .. }) = self.open.pop() else { return Ok(None) };
        let directory = Directory::build(nodes).map_err(|source| AddError::Directory { path, source })?;
        let node = directory.node();
        self.store.keep_directories(std::slice::from_ref(&directory)).map_err(AddError::Store)?;
        self.directories.insert(directory.digest(), directory);
        Ok(Some(node))
    }

    fn file(&self, path: &Path) -> Result<Node, AddError> {
        let (mut file, metadata) = open_file(path)?;
        let blob = self.store.add_blob(&mut file).map_err(|error| match error {
            StoreError::Reader(source) => AddError::Io { path: path.to_path_buf(), source },
            error => AddError::Store(error),
        })?;
        if blob.size != metadata.len() {
            let path = path.to_path_buf();
            return Err(AddError::Changed { path, before: metadata.len(), after: blob.size });
        }
        Ok(Node::File { blob, executable: metadata.mode() & 0o100 != 0 })
    }

    fn finish(mut self, root: &Root, path: &Path) -> Result<Closure, AddError> {
        let collected = collect(root, |digest| Ok::<_, AddError>(self.directories.remove(digest)))?;
        match collected {
            Collected::NoTree(source) => Err(AddError::Tree { path: path.to_path_buf(), source }),
            collected => collected.or_refuse(root).map_err(AddError::Store),
        }
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> AddError {
    let path = path.to_path_buf();
    move |source| AddError::Io { path, source }
}

/// The names in a directory, sorted.
fn read_names(path: &Path) -> Result<Vec<PathComponent>, AddError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(io_error(path))? {
        let name = entry.map_err(io_error(path))?.file_name();
        let component = PathComponent::try_from(name.as_bytes());
        names.push(component.map_err(|source| AddError::Name { path: path.join(name), source })?);
    }
    names.sort();
    Ok(names)
}

/// Opens what was a file a moment ago. If it is something else by now, no symlink is followed and no pipe waited for.
fn open_file(path: &Path) -> Result<(File, Metadata), AddError> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(io_error(path))?;
    let metadata = file.metadata().map_err(io_error(path))?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(AddError::Kind(path.to_path_buf())) }
}
