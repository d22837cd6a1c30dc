//! The directory beside the place of a tree, in which the tree is written before it is renamed into place.
//!
//! Its name is `.firn-<process>-<number>`. It is locked as long as its process writes to it, so that one that a killed
//! process has left behind is known for what it is, and removed by the next that writes to a place beside it.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, Metadata},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};

/// How many names are tried.
const NAMES_MAX: u32 = 1000;
/// How many that were left behind are removed at a time: the next one goes on.
const LEFT_BEHIND_MAX: usize = 64;
/// The mode of the directory: its contents are nobody else's.
const MODE: u32 = 0o700;

/// A directory for us alone: whatever is in it is removed when this is dropped.
pub(super) struct Aside {
    path: PathBuf,
    /// Holds the lock, where the file system has any.
    _lock: File,
}

impl Aside {
    /// Makes one beside this place.
    pub(super) fn beside(place: &Path) -> io::Result<Self> {
        let mut number = 0;
        loop {
            let path = place.with_file_name(format!(".firn-{}-{number}", std::process::id()));
            match make(&path) {
                Ok(Some(lock)) => return Ok(Self { path, _lock: lock }),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            number += 1;
            if number == NAMES_MAX {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
        }
    }

    /// Where the tree is written.
    pub(super) fn tree(&self) -> PathBuf {
        self.path.join(TREE)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Empty by now if all went well. What cannot be removed stays.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The one name in such a directory.
const TREE: &str = "tree";

/// Makes and locks a directory; `None` if another process took it for one that was left behind before it was locked.
fn make(path: &Path) -> io::Result<Option<File>> {
    DirBuilder::new().mode(MODE).create(path)?;
    let lock = match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(None),
        // Where directories cannot be locked (NFS), nobody removes what is left behind either.
        Err(_) => Ok(Some(lock)),
        Ok(()) => Ok(is_at(&lock, path).then_some(lock)),
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    fs::OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)
}

/// Whether the directory still has this path.
fn is_at(dir: &File, path: &Path) -> bool {
    let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let (opened, named) = (dir.metadata().map(id), path.symlink_metadata().map(id));
    opened.is_ok_and(|opened| named.is_ok_and(|named| named == opened))
}

/// Removes what killed processes have left beside this place. What cannot be removed, or might be anything else, stays.
pub(super) fn remove_left_behind(place: &Path) {
    let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| is_name(&entry.file_name())).take(LEFT_BEHIND_MAX);
    for entry in ours {
        let path = entry.path();
        let Ok(dir) = open(&path) else { continue };
        if is_like_ours(&dir, &path)
            && flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok()
            && is_at(&dir, &path)
        {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// `.firn-<process>-<number>`
fn is_name(name: &OsStr) -> bool {
    let numbers =
        name.to_str().and_then(|name| name.strip_prefix(".firn-")).and_then(|rest| rest.split_once('-'));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    numbers.is_some_and(|(process, number)| is_number(process) && is_number(number))
}

/// Whether it belongs to this user, is closed to others, and has nothing in it but a tree.
fn is_like_ours(dir: &File, path: &Path) -> bool {
    let is_closed = dir.metadata().is_ok_and(|metadata| {
        metadata.uid() == rustix::process::geteuid().as_raw() && metadata.permissions().mode() & 0o777 == MODE
    });
    let mut entries = fs::read_dir(path).into_iter().flatten();
    is_closed && entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == TREE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make_tree(aside: &Path) {
        fs::create_dir_all(aside.join("tree/sub")).unwrap();
        fs::write(aside.join("tree/sub/file"), "text").unwrap();
        fs::set_permissions(aside, fs::Permissions::from_mode(MODE)).unwrap();
    }

    #[test]
    fn what_a_dead_process_left_is_removed_and_what_a_living_one_has_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("out");
        let living = Aside::beside(&place).unwrap();
        fs::create_dir(living.tree()).unwrap();
        let dead = dir.path().join(".firn-1-0");
        make_tree(&dead);
        remove_left_behind(&place);
        assert!(!dead.exists() && living.tree().exists());
        let beside = Aside::beside(&place).unwrap();
        assert_ne!(beside.path, living.path);
        drop((living, beside));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_might_be_anything_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let other_mode = dir.path().join(".firn-1-0");
        make_tree(&other_mode);
        fs::set_permissions(&other_mode, fs::Permissions::from_mode(0o755)).unwrap();
        let more_in_it = dir.path().join(".firn-1-1");
        make_tree(&more_in_it);
        fs::write(more_in_it.join("thesis.tex"), "years of work").unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join(".firn-1-2"));
        make_tree(&target);
        std::os::unix::fs::symlink(&target, &link).unwrap();
        for name in [".firn-", ".firn-1", ".firn-1-", ".firn--1", ".firn-1-x", "firn-1-1", ".firn-1-1-1"] {
            make_tree(&dir.path().join(name));
        }
        let before = fs::read_dir(dir.path()).unwrap().count();
        remove_left_behind(&dir.path().join("out"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before);
        assert!(target.join("tree/sub/file").exists());
    }
}
