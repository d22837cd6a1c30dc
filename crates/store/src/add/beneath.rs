//! Opening what is in a tree, and nothing else.
//!
//! Whoever may write to a tree that another user adds may put a symlink in place of a directory at any moment. So what is
//! in a tree is opened from the tree's topmost directory on, which stays open, and no symlink on the way is followed.

use std::{
    ffi::OsStr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, Mode, OFlags, ResolveFlags},
    io::{Errno, retry_on_intr},
};

/// Where a tree is.
#[derive(Debug)]
pub(super) struct Top {
    path: PathBuf,
    /// `None` where the whole tree is a file or a symlink.
    directory: Option<OwnedFd>,
}

impl Top {
    /// Where a tree is whose topmost entry is no directory.
    pub(super) fn without_directory(path: &Path) -> Self {
        Self { path: path.to_path_buf(), directory: None }
    }

    /// Opens the topmost directory of a tree.
    pub(super) fn open_directory(path: &Path) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = retry_on_intr(|| fs::open(path, flags, Mode::empty()))?;
        Ok(Self { path: path.to_path_buf(), directory: Some(directory) })
    }

    /// The path of what is at `inner` within the tree; the empty one is the topmost entry.
    pub(super) fn path(&self, inner: &Path) -> PathBuf {
        if inner.as_os_str().is_empty() { self.path.clone() } else { self.path.join(inner) }
    }

    /// Opens what is at `inner` within the tree. It fails with [`Errno::LOOP`] or [`Errno::NOTDIR`] where a symlink is on
    /// the way or at its end.
    pub(super) fn open(&self, inner: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Some(directory) = &self.directory else {
            return retry_on_intr(|| fs::open(&self.path, flags, Mode::empty()));
        };
        let inner = if inner.as_os_str().is_empty() { Path::new(".") } else { inner };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match retry_on_intr(|| fs::openat2(directory, inner, flags, Mode::empty(), resolve)) {
            // Linux before 5.6 or a filter of system calls does not know it, and no path is longer than 4096 bytes.
            Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG) => open_in_steps(directory, inner, flags),
            opened => opened,
        }
    }
}

/// Opens one directory after the other. At most two are open at a time.
fn open_in_steps(top: &OwnedFd, inner: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let step = |from: Option<&OwnedFd>, name: &OsStr, flags| {
        retry_on_intr(|| fs::openat(from.unwrap_or(top), name, flags, Mode::empty()))
    };
    let on_the_way = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = None;
    for name in inner.parent().unwrap_or(Path::new("")) {
        at = Some(step(at.as_ref(), name, on_the_way)?);
    }
    step(at.as_ref(), inner.file_name().unwrap_or(OsStr::new(".")), flags)
}

#[cfg(test)]
mod tests {
    use std::{fs as files, os::unix::fs::symlink};

    use super::*;

    /// Whether something can be opened, both ways.
    fn is_opened(top: &Top, inner: &str) -> [Result<(), Errno>; 2] {
        let (inner, flags) = (Path::new(inner), OFlags::RDONLY | OFlags::NOFOLLOW);
        let steps = open_in_steps(top.directory.as_ref().unwrap(), inner, flags);
        [top.open(inner, OFlags::RDONLY).map(drop), steps.map(drop)]
    }

    #[test]
    fn no_symlink_is_followed_on_the_way_or_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        files::create_dir_all(tree.join("a/b")).unwrap();
        files::create_dir_all(outside.join("b")).unwrap();
        for file in [tree.join("a/b/file"), outside.join("b/file")] {
            files::write(file, "").unwrap();
        }
        symlink(&outside, tree.join("out")).unwrap();
        symlink("a", tree.join("inside")).unwrap();
        symlink("file", tree.join("a/b/link")).unwrap();
        let top = Top::open_directory(&tree).unwrap();
        for inner in ["a", "a/b", "a/b/file"] {
            assert_eq!(is_opened(&top, inner), [Ok(()); 2], "{inner}");
        }
        for inner in ["out/b/file", "inside/b/file", "out/b", "inside/b"] {
            let [at_once, in_steps] = is_opened(&top, inner);
            assert_eq!((at_once, in_steps), (Err(Errno::LOOP), Err(Errno::NOTDIR)), "{inner}");
        }
        for inner in ["out", "a/b/link"] {
            assert_eq!(is_opened(&top, inner), [Err(Errno::LOOP); 2], "{inner}");
        }
        // The directory that was opened stays the tree's, whatever comes in its place.
        files::rename(&tree, dir.path().join("aside")).unwrap();
        symlink(&outside, &tree).unwrap();
        assert_eq!(is_opened(&top, "a/b/file"), [Ok(()); 2]);
        assert_eq!(Top::open_directory(&tree).unwrap_err(), Errno::NOTDIR);
    }

    #[test]
    fn what_is_too_deep_for_one_path_is_opened_in_steps() {
        let dir = tempfile::tempdir().unwrap();
        let top = Top::open_directory(dir.path()).unwrap();
        let (name, mut inner) = ("d".repeat(250), PathBuf::new());
        let mut at = fs::open(dir.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        for _ in 0..20 {
            fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            at = fs::openat(&at, &name, OFlags::RDONLY, Mode::empty()).unwrap();
            inner.push(&name);
        }
        assert!(inner.as_os_str().len() > 4096);
        assert!(top.open(&inner, OFlags::RDONLY | OFlags::DIRECTORY).is_ok());
    }
}
