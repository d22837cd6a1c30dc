//! What there is: all entries of a tree, without their contents.

use std::{
    ffi::{CStr, OsStr},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use bytes::Bytes;
use firn_bao::BLOB_BYTES_MAX;
use firn_castore::{ClosureError, DEPTH_MAX, ENTRIES_MAX, PathComponent, SymlinkTarget};
use rustix::{
    fs::{self, AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat},
    io::Errno,
    path::Arg,
};

use super::{
    AddError,
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
    pub(super) top: Seen,
    /// The entries of each directory, sorted.
    pub(super) directories: Vec<Vec<(PathComponent, Seen)>>,
}

/// Looks at all entries of a tree. Of what is wrong with it, that is reported which comes first in the order of a NAR.
pub(super) fn walk(path: &Path, threads: usize) -> Result<Walked, AddError> {
    let limits = Limits { depth: DEPTH_MAX, entries: ENTRIES_MAX };
    Walker { path, limits }.walk(threads)
}

struct Limits {
    depth: u32,
    entries: u64,
}

struct Walker<'a> {
    path: &'a Path,
    limits: Limits,
}

/// A directory that is to be read.
struct Unread {
    index: u32,
    path: PathBuf,
    /// How many directories it is within.
    depth: u32,
}

/// A directory that was read: what came before the first error, and that.
struct Level {
    unread: Unread,
    entries: Vec<(PathComponent, Seen)>,
    error: Option<Box<Refusal>>,
}

/// What is wrong, and where that was seen.
struct Refusal {
    path: PathBuf,
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

impl Walker<'_> {
    fn walk(&self, threads: usize) -> Result<Walked, AddError> {
        let stat = fs::statat(CWD, self.path, AtFlags::SYMLINK_NOFOLLOW).map_err(AddError::io(self.path))?;
        let top = look(CWD, self.path, stat, &|| self.path.to_path_buf())?;
        let unread = match top.kind {
            SeenKind::Directory(index) => {
                vec![Unread { index, path: self.path.to_path_buf(), depth: 0 }]
            }
            SeenKind::File { .. } | SeenKind::Symlink(_) => Vec::new(),
        };
        let directories = unread.iter().map(|_| Vec::new()).collect();
        let state = Found { directories, unread, reading: 0, entries: 1, error: None };
        let found = crew::work(self, state, threads);
        match found.error {
            Some(refusal) => Err(refusal.error),
            None => Ok(Walked { top, directories: found.directories }),
        }
    }

    /// Reads a directory up to the first entry that cannot be taken.
    fn read(&self, unread: &Unread, entries: &mut Vec<(PathComponent, Seen)>) -> Result<(), Box<Refusal>> {
        let path = &unread.path;
        let fail = |error| Box::new(Refusal { path: path.clone(), error });
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = fs::open(path, flags, Mode::empty()).map_err(AddError::io(path)).map_err(fail)?;
        let directory = directory.as_fd();
        let names = read_names(directory).map_err(AddError::io(path)).map_err(fail)?;
        entries.reserve_exact(names.len());
        for name in names.iter() {
            let at = || path.join(OsStr::from_bytes(name.to_bytes()));
            let entry = self.read_entry(directory, name, &names, unread.depth, &at);
            entries.push(entry.map_err(|error| Box::new(Refusal { path: at(), error }))?);
        }
        Ok(())
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

impl Work for Walker<'_> {
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
            let error = AddError::Tree { path: self.path.into(), source };
            return state.fail(Box::new(Refusal { path: self.path.into(), error }));
        }
        let begin = state.unread.len();
        for (name, seen) in &mut entries {
            if let SeenKind::Directory(index) = &mut seen.kind {
                *index = state.directories.len() as u32;
                state.directories.push(Vec::new());
                let path = unread.path.join(OsStr::from_bytes(name.as_bytes()));
                state.unread.push(Unread { index: *index, path, depth: unread.depth + 1 });
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
        if self.error.as_ref().is_none_or(|first| refusal.path < first.path) {
            self.error = Some(refusal);
        }
        self.forget_what_comes_after_the_error();
    }

    fn forget_what_comes_after_the_error(&mut self) {
        if let Some(first) = &self.error {
            self.unread.retain(|unread| unread.path < first.path);
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
            let target = target.map_err(|errno| AddError::io(&at())(errno))?;
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
        Walker { path, limits: Limits { depth, entries } }.walk(2)
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
            let entries = crate::add::Entries::new(dir.path(), walk(dir.path(), threads).unwrap(), false);
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
