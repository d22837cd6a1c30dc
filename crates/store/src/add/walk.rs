//! What there is: all entries of a tree, without their contents.

use std::{
    ffi::{CStr, OsStr},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use bytes::Bytes;
use firn_bao::BLOB_BYTES_MAX;
use firn_castore::{ClosureError, DEPTH_MAX, ENTRIES_MAX, PathComponent, SymlinkTarget};
use rustix::{
    fs::{self, AtFlags, CWD, FileType, OFlags, RawDir, Stat},
    io::Errno,
    path::Arg,
};

use super::{
    AddError,
    beneath::Top,
    crew::{self, Next, Work},
};

/// How many directories must be known and unread before other threads help.
const MUCH: usize = 16;
/// Of the buffer that the kernel lists a directory into.
const LISTING_BYTES: usize = 32 * 1024;

/// What the file system says of an entry, as far as it tells whether the entry has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) modified: Time,
    pub(super) status_changed: Time,
}

/// Seconds since 1970, and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time {
    pub(super) seconds: i64,
    pub(super) nanoseconds: u64,
}

#[allow(clippy::unnecessary_cast, reason = "the types of these fields differ from platform to platform")]
impl Stamp {
    /// Whether both are of one file, be it as it was or not.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    pub(super) fn of(stat: &Stat) -> Self {
        let time = |seconds, nanoseconds| Time { seconds, nanoseconds };
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            size: stat.st_size as u64,
            modified: time(stat.st_mtime as i64, stat.st_mtime_nsec as u64),
            status_changed: time(stat.st_ctime as i64, stat.st_ctime_nsec as u64),
        }
    }
}

/// An entry.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) stamp: Stamp,
    pub(super) kind: SeenKind,
}

#[derive(Debug)]
pub(super) enum SeenKind {
    File {
        executable: bool,
    },
    Symlink(SymlinkTarget),
    /// With its index in [`Walked::directories`].
    Directory(u32),
}

/// All entries of a tree.
#[derive(Debug)]
pub(super) struct Walked {
    /// Where it is.
    pub(super) place: Top,
    pub(super) top: Seen,
    /// The entries of each directory, sorted.
    pub(super) directories: Vec<Vec<(PathComponent, Seen)>>,
}

/// Looks at all entries of a tree. Of what is wrong with it, that is reported which comes first in the order of a NAR.
pub(super) fn walk(path: &Path, threads: usize) -> Result<Walked, AddError> {
    walk_within(path, Limits { depth: DEPTH_MAX, entries: ENTRIES_MAX }, threads)
}

fn walk_within(path: &Path, limits: Limits, threads: usize) -> Result<Walked, AddError> {
    let (walker, top, state) = Walker::begin(path, limits)?;
    let found = crew::work(&walker, state, threads);
    match found.error {
        Some(refusal) => Err(refusal.error),
        None => Ok(Walked { place: walker.place, top, directories: found.directories }),
    }
}

struct Limits {
    depth: u32,
    entries: u64,
}

struct Walker {
    place: Top,
    limits: Limits,
}

/// A directory that is to be read.
struct Unread {
    index: u32,
    /// Where it is within the tree.
    inner: PathBuf,
    /// What was there when it was found.
    stamp: Stamp,
    /// How many directories it is within.
    depth: u32,
}

/// A directory that was read: what came before the first error, and that.
struct Level {
    unread: Unread,
    entries: Vec<(PathComponent, Seen)>,
    error: Option<Box<Refusal>>,
}

/// What is wrong, and where within the tree that was seen.
struct Refusal {
    inner: PathBuf,
    error: AddError,
}

struct Found {
    directories: Vec<Vec<(PathComponent, Seen)>>,
    /// The next one last. Those that come first in a NAR are read first, so that few directories wait.
    unread: Vec<Unread>,
    reading: usize,
    entries: u64,
    error: Option<Box<Refusal>>,
}

impl Walker {
    /// Looks at the topmost entry.
    fn begin(path: &Path, limits: Limits) -> Result<(Self, Seen, Found), AddError> {
        let stat = fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).map_err(AddError::io(path))?;
        let top = look(CWD, path, stat, &|| path.to_path_buf())?;
        let (place, unread) = match top.kind {
            SeenKind::Directory(index) => {
                let place = Top::open_directory(path).map_err(|errno| AddError::open(path, errno))?;
                (place, vec![Unread { index, inner: PathBuf::new(), stamp: top.stamp, depth: 0 }])
            }
            SeenKind::File { .. } | SeenKind::Symlink(_) => (Top::without_directory(path), Vec::new()),
        };
        let directories = unread.iter().map(|_| Vec::new()).collect();
        let state = Found { directories, unread, reading: 0, entries: 1, error: None };
        Ok((Self { place, limits }, top, state))
    }

    /// Reads a directory up to the first entry that cannot be taken.
    fn read(&self, unread: &Unread, entries: &mut Vec<(PathComponent, Seen)>) -> Result<(), Box<Refusal>> {
        let inner = &unread.inner;
        let fail = |error| Box::new(Refusal { inner: inner.clone(), error });
        let directory = self.open(unread).map_err(fail)?;
        let directory = directory.as_fd();
        let names = read_names(directory).map_err(AddError::io(&self.place.path(inner))).map_err(fail)?;
        entries.reserve_exact(names.len());
        for name in names.iter() {
            let at = || inner.join(OsStr::from_bytes(name.to_bytes()));
            let path = || self.place.path(&at());
            let entry = self.read_entry(directory, name, &names, unread.depth, &path);
            entries.push(entry.map_err(|error| Box::new(Refusal { inner: at(), error }))?);
        }
        Ok(())
    }

    /// Opens a directory, which must be the one that was found.
    fn open(&self, unread: &Unread) -> Result<OwnedFd, AddError> {
        let path = || self.place.path(&unread.inner);
        let opened = self.place.open(&unread.inner, OFlags::RDONLY | OFlags::DIRECTORY);
        let directory = opened.map_err(|errno| AddError::open(&path(), errno))?;
        let stat = fs::fstat(&directory).map_err(|errno| AddError::io(&path())(errno))?;
        match Stamp::of(&stat).is_same_file(&unread.stamp) {
            true => Ok(directory),
            false => Err(AddError::exchanged(&path())),
        }
    }

    fn read_entry(
        &self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        names: &Names,
        depth: u32,
        at: &dyn Fn() -> PathBuf,
    ) -> Result<(PathComponent, Seen), AddError> {
        let component = PathComponent::try_from(names.bytes.slice_ref(name.to_bytes()));
        let component = component.map_err(|source| AddError::Name { path: at(), source })?;
        let stat = fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|errno| AddError::io(&at())(errno))?;
        let seen = look(directory, name, stat, at)?;
        let is_too_deep = depth.saturating_add(1) >= self.limits.depth;
        if is_too_deep && matches!(seen.kind, SeenKind::Directory(_)) {
            return Err(AddError::TooDeep(at()));
        }
        Ok((component, seen))
    }
}

impl Work for Walker {
    type State = Found;
    type Task = Unread;
    type Outcome = Level;

    fn next(&self, state: &mut Found) -> Next<Unread> {
        match state.unread.pop() {
            Some(unread) => {
                state.reading += 1;
                Next::Do(unread)
            }
            None if state.reading == 0 => Next::End,
            None => Next::Wait,
        }
    }

    fn run(&self, unread: Unread) -> Level {
        let mut entries = Vec::new();
        let error = self.read(&unread, &mut entries).err();
        Level { unread, entries, error }
    }

    fn finish(&self, state: &mut Found, level: Level) {
        let Level { unread, mut entries, error } = level;
        state.reading -= 1;
        state.entries = state.entries.saturating_add(entries.len() as u64);
        if state.entries > self.limits.entries {
            let source = ClosureError::TooManyEntries(state.entries);
            // Nothing comes before the top, so nothing more is read.
            let error = AddError::Tree { path: self.place.path(Path::new("")), source };
            return state.fail(Box::new(Refusal { inner: PathBuf::new(), error }));
        }
        let begin = state.unread.len();
        for (name, seen) in &mut entries {
            if let SeenKind::Directory(index) = &mut seen.kind {
                *index = state.directories.len() as u32;
                state.directories.push(Vec::new());
                let inner = unread.inner.join(OsStr::from_bytes(name.as_bytes()));
                let (stamp, depth) = (seen.stamp, unread.depth + 1);
                state.unread.push(Unread { index: *index, inner, stamp, depth });
            }
        }
        state.unread[begin..].reverse();
        state.directories[unread.index as usize] = entries;
        match error {
            Some(refusal) => state.fail(refusal),
            None => state.forget_what_comes_after_the_error(),
        }
    }

    fn is_much(&self, state: &Found) -> bool {
        state.unread.len() >= MUCH
    }
}

impl Found {
    /// Keeps the error that comes first in the order of a NAR, which is that of paths by their components.
    fn fail(&mut self, refusal: Box<Refusal>) {
        if self.error.as_ref().is_none_or(|first| refusal.inner < first.inner) {
            self.error = Some(refusal);
        }
        self.forget_what_comes_after_the_error();
    }

    fn forget_what_comes_after_the_error(&mut self) {
        if let Some(first) = &self.error {
            self.unread.retain(|unread| unread.inner < first.inner);
        }
    }
}

/// Says what a stat has found. A directory's index is not known yet.
fn look(
    directory: BorrowedFd<'_>,
    name: impl Arg,
    stat: Stat,
    at: &dyn Fn() -> PathBuf,
) -> Result<Seen, AddError> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if !matches!(u64::try_from(stat.st_size), Ok(..=BLOB_BYTES_MAX)) => {
            return Err(AddError::TooLong(at()));
        }
        FileType::RegularFile => SeenKind::File { executable: stat.st_mode & 0o100 != 0 },
        FileType::Directory => SeenKind::Directory(0),
        FileType::Symlink => {
            let target = fs::readlinkat(directory, name, Vec::new());
            let target = target.map_err(|errno| match errno {
                Errno::INVAL => AddError::exchanged(&at()),
                errno => AddError::io(&at())(errno),
            })?;
            let target = SymlinkTarget::try_from(Bytes::from(target.into_bytes()));
            SeenKind::Symlink(target.map_err(|source| AddError::Name { path: at(), source })?)
        }
        _ => return Err(AddError::Kind(at())),
    };
    Ok(Seen { stamp: Stamp::of(&stat), kind })
}

/// The names in a directory, sorted, in one piece of memory.
struct Names {
    /// Each with a NUL at its end.
    bytes: Bytes,
    /// Where each begins and ends, without its NUL.
    places: Vec<(u32, u32)>,
}

impl Names {
    fn len(&self) -> usize {
        self.places.len()
    }

    fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.places.iter().map(|(begin, end)| {
            let name = &self.bytes[*begin as usize..=*end as usize];
            CStr::from_bytes_with_nul(name).expect("a NUL was put behind each name, and names have none")
        })
    }
}

fn read_names(directory: BorrowedFd<'_>) -> Result<Names, Errno> {
    let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
    let mut listing = RawDir::new(directory, &mut buffer);
    let mut bytes = Vec::new();
    let mut places = Vec::new();
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes_with_nul();
        if matches!(name, b".\0" | b"..\0") {
            continue;
        }
        // Four thousand million bytes of names are far more than a tree may have.
        let begin = u32::try_from(bytes.len()).map_err(|_| Errno::OVERFLOW)?;
        bytes.extend_from_slice(name);
        let end = u32::try_from(bytes.len() - 1).map_err(|_| Errno::OVERFLOW)?;
        places.push((begin, end));
    }
    bytes.shrink_to_fit();
    places.sort_unstable_by(|a: &(u32, u32), b| {
        bytes[a.0 as usize..a.1 as usize].cmp(&bytes[b.0 as usize..b.1 as usize])
    });
    Ok(Names { bytes: Bytes::from(bytes), places })
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir, create_dir_all, write};

    use super::*;

    fn walk_within(path: &Path, depth: u32, entries: u64) -> Result<Walked, AddError> {
        super::walk_within(path, Limits { depth, entries }, 2)
    }

    /// Walks over a tree in which `change` happens before the directory `at` is read, when it has been found.
    fn walk_and_change(path: &Path, at: &str, change: impl Fn()) -> Result<(), AddError> {
        let limits = Limits { depth: DEPTH_MAX, entries: ENTRIES_MAX };
        let (walker, _, mut state) = Walker::begin(path, limits)?;
        while let Next::Do(unread) = walker.next(&mut state) {
            if unread.inner == Path::new(at) {
                change();
            }
            let level = walker.run(unread);
            walker.finish(&mut state, level);
        }
        state.error.map_or(Ok(()), |refusal| Err(refusal.error))
    }

    #[test]
    fn a_directory_that_is_exchanged_during_the_walk_is_not_gone_into() {
        type Exchange = fn(&Path, &Path);
        let exchanges: [Exchange; 3] = [
            |directory, outside| std::os::unix::fs::symlink(outside, directory).unwrap(),
            |directory, outside| std::fs::rename(outside, directory).unwrap(),
            |directory, _| write(directory, "").unwrap(),
        ];
        for exchange in exchanges {
            // The one that is read next, the one that it is in, and the topmost.
            for (at, exchanged) in [("a/b", "a/b"), ("a/b", "a"), ("", "")] {
                let dir = tempfile::tempdir().unwrap();
                let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
                [tree.join("a/b"), outside.join("b/a/b")].iter().for_each(|dir| create_dir_all(dir).unwrap());
                for secret in ["secret", "b/secret", "a/b/secret"] {
                    let secret = outside.join(secret);
                    create_dir_all(secret.parent().unwrap()).unwrap();
                    write(secret, "").unwrap();
                }
                let directory = if exchanged.is_empty() { tree.clone() } else { tree.join(exchanged) };
                let change = || {
                    std::fs::rename(&directory, dir.path().join("aside")).unwrap();
                    exchange(&directory, &outside);
                };
                let walked = walk_and_change(&tree, at, change);
                // The topmost stays open, so that it is the tree that was asked for, wherever it is now.
                match exchanged.is_empty() {
                    true => walked.unwrap(),
                    false => {
                        let error = walked.unwrap_err();
                        let is_it =
                            matches!(&error, AddError::Changed { path, .. } if *path == tree.join(at));
                        assert!(is_it, "{error}");
                    }
                }
            }
        }
    }

    #[test]
    fn too_deep_is_refused_and_just_deep_enough_is_not() {
        let dir = tempfile::tempdir().unwrap();
        create_dir_all(dir.path().join("a/b")).unwrap();
        write(dir.path().join("a/b/file"), "").unwrap();
        assert_eq!(walk_within(dir.path(), 3, 100).unwrap().directories.len(), 3);
        let error = walk_within(dir.path(), 2, 100).unwrap_err();
        assert!(matches!(&error, AddError::TooDeep(path) if *path == dir.path().join("a/b")), "{error}");
    }

    #[test]
    fn too_many_entries_are_refused_before_all_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        for outer in ["a", "b", "c"] {
            create_dir(dir.path().join(outer)).unwrap();
            for inner in 0..5 {
                write(dir.path().join(outer).join(inner.to_string()), "").unwrap();
            }
        }
        assert!(walk_within(dir.path(), 3, 19).is_ok());
        let error = walk_within(dir.path(), 3, 7).unwrap_err();
        let AddError::Tree { path, source } = error else { panic!("{error}") };
        assert_eq!(path, dir.path());
        assert!(matches!(source, ClosureError::TooManyEntries(9)), "{source}");
    }

    #[test]
    fn a_file_that_is_longer_than_any_blob_is_refused_before_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        write(&file, "").unwrap();
        let look_at = |length| {
            let mut stat = fs::statat(CWD, &file, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            stat.st_size = length;
            look(CWD, &file, stat, &|| file.clone())
        };
        let longest = i64::try_from(BLOB_BYTES_MAX).unwrap();
        assert!(look_at(longest).is_ok());
        assert!(matches!(look_at(longest + 1), Err(AddError::TooLong(path)) if path == file));
    }

    #[test]
    fn more_threads_see_the_same() {
        let dir = tempfile::tempdir().unwrap();
        for outer in 0..40 {
            for inner in 0..5 {
                create_dir_all(dir.path().join(format!("{outer}/{inner}/x"))).unwrap();
            }
        }
        let names = |threads| {
            let entries = crate::add::Entries::new(walk(dir.path(), threads).unwrap(), false);
            let list = entries.list().iter().map(|entry| entry.name.clone());
            (list.collect::<Vec<_>>(), entries.listing)
        };
        let one = names(1);
        assert_eq!(one.0.len(), 2 * (1 + 40 + 200 + 200));
        for _ in 0..10 {
            assert!(names(4) == one);
        }
    }
}
