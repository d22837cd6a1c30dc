//! A walked tree in the order of a NAR.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::PathBuf, vec};

use firn_castore::{PathComponent, SymlinkTarget};
use firn_nix::NarFrame;

use super::{
    beneath::Top,
    walk::{Seen, SeenKind, Stamp, Walked},
};
use crate::{Listing, UnixSeconds};

/// How many seconds old an entry must be before its times tell it from what it may become: those of some file systems
/// are as coarse as that.
const SETTLED_SECONDS: u64 = 2;

/// An entry, or the end of a directory.
#[derive(Debug)]
pub(super) struct Entry {
    /// None for the topmost.
    pub(super) name: Option<PathComponent>,
    /// The index of the directory that it is in, or that it ends.
    parent: u32,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Open,
    Close,
    File { stamp: Stamp, executable: bool },
    Symlink(SymlinkTarget),
}

/// All entries of a tree in the order of a NAR.
#[derive(Debug)]
pub(super) struct Entries {
    /// Where the tree is.
    pub(super) place: Top,
    list: Vec<Entry>,
    /// How long the files are together.
    pub(super) file_bytes: u64,
    /// What the walk is known by.
    pub(super) listing: Listing,
    /// The youngest time of any entry, in seconds since 1970.
    youngest: i64,
}

impl Entries {
    /// Puts the entries of a tree in order. `in_place`: what was adopted is not
    /// known to who wants it copied.
    pub(super) fn new(walked: Walked, in_place: bool) -> Self {
        let Walked { place, top, mut directories } = walked;
        let mut entries = Flattening::new(in_place);
        let mut open: Vec<(u32, vec::IntoIter<(PathComponent, Seen)>)> = Vec::new();
        let mut next = Some((None, top));
        loop {
            if let Some((name, seen)) = next.take() {
                let directory = match seen.kind {
                    SeenKind::Directory(index) => directories.get_mut(index as usize).map(std::mem::take),
                    SeenKind::File { .. } | SeenKind::Symlink(_) => None,
                };
                let index = entries.push(open.last().map_or(0, |(index, _)| *index), name, seen);
                if let Some(directory) = directory {
                    open.push((index, directory.into_iter()));
                }
            }
            let Some((index, inner)) = open.last_mut() else { break };
            match inner.next() {
                Some((name, seen)) => next = Some((Some(name), seen)),
                None => {
                    entries.close(*index);
                    open.pop();
                }
            }
        }
        entries.end(place)
    }

    /// All of them.
    pub(super) fn list(&self) -> &[Entry] {
        &self.list
    }

    /// The entry itself, or the beginning of the directory that ends here.
    pub(super) fn opening(&self, index: usize) -> &Entry {
        let entry = &self.list[index];
        if matches!(entry.kind, Kind::Close) { &self.list[entry.parent as usize] } else { entry }
    }

    /// Where in the file system an entry is.
    pub(super) fn path(&self, index: usize) -> PathBuf {
        self.place.path(&self.inner(index))
    }

    /// Where within the tree an entry is.
    pub(super) fn inner(&self, index: usize) -> PathBuf {
        let mut names = Vec::new();
        let mut entry = self.opening(index);
        while let Some(name) = &entry.name {
            names.push(name);
            entry = &self.list[entry.parent as usize];
        }
        names.into_iter().rev().map(|name| OsStr::from_bytes(name.as_bytes())).collect()
    }

    /// Whether all times are so old that no change could have left them as they are.
    pub(super) fn is_settled(&self, now: UnixSeconds) -> bool {
        u64::try_from(self.youngest.max(0))
            .is_ok_and(|youngest| youngest.saturating_add(SETTLED_SECONDS) < now.0)
    }
}

impl Entry {
    /// What a file was when it was walked over; of anything else there is none.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        match &self.kind {
            Kind::File { stamp, .. } => Some(*stamp),
            Kind::Open | Kind::Close | Kind::Symlink(_) => None,
        }
    }

    /// What stands in the NAR for the entry, of a file what is before its contents.
    pub(super) fn frame(&self) -> NarFrame<'_> {
        let name = self.name.as_ref();
        match &self.kind {
            Kind::Open => NarFrame::Open { name },
            Kind::Close => NarFrame::Close { is_top: self.parent == 0 },
            Kind::File { stamp, executable } => {
                NarFrame::File { name, executable: *executable, size: stamp.size }
            }
            Kind::Symlink(target) => NarFrame::Symlink { name, target },
        }
    }
}

/// Entries that are being put in order, and their digest.
struct Flattening {
    list: Vec<Entry>,
    file_bytes: u64,
    digest: ListingWriter,
    youngest: i64,
}

impl Flattening {
    fn new(in_place: bool) -> Self {
        let digest = ListingWriter::new(in_place);
        Self { list: Vec::new(), file_bytes: 0, digest, youngest: i64::MIN }
    }

    /// Appends an entry; its index.
    fn push(&mut self, parent: u32, name: Option<PathComponent>, seen: Seen) -> u32 {
        let Seen { stamp, kind } = seen;
        self.digest.entry(name.as_ref(), &stamp, &kind);
        self.youngest = self.youngest.max(stamp.modified.seconds).max(stamp.status_changed.seconds);
        let kind = match kind {
            SeenKind::File { executable } => {
                self.file_bytes = self.file_bytes.saturating_add(stamp.size);
                Kind::File { stamp, executable }
            }
            SeenKind::Symlink(target) => Kind::Symlink(target),
            SeenKind::Directory(_) => Kind::Open,
        };
        let index = self.list.len() as u32;
        self.list.push(Entry { name, parent, kind });
        index
    }

    fn close(&mut self, parent: u32) {
        self.digest.close();
        self.list.push(Entry { name: None, parent, kind: Kind::Close });
    }

    fn end(self, place: Top) -> Entries {
        let Self { list, file_bytes, digest, youngest } = self;
        Entries { place, list, file_bytes, listing: digest.finish(), youngest }
    }
}

/// The digest of a listing: BLAKE3's key derivation over all entries in the order of a NAR, numbers little-endian.
///
/// ```text
/// head    1 byte: 1 if the files are to stay where they are, else 0
/// entry   1 byte: 1 file, 2 executable file, 3 symlink, 4 directory
///         8 bytes each: device, inode, size, nanoseconds of mtime and ctime, seconds of mtime and ctime
///         4 bytes length of the name, the name; of a symlink, 4 bytes length of its target, the target
/// end     00: the innermost directory ends
/// ```
struct ListingWriter {
    hasher: blake3::Hasher,
    /// What is not hashed yet: many entries at once are hashed much faster than one after the other.
    buffer: Vec<u8>,
}

const LISTING_BUFFER_BYTES: usize = 64 * 1024;

impl ListingWriter {
    fn new(in_place: bool) -> Self {
        let hasher = blake3::Hasher::new_derive_key("firn listing 1");
        Self { hasher, buffer: vec![u8::from(in_place)] }
    }

    fn entry(&mut self, name: Option<&PathComponent>, stamp: &Stamp, kind: &SeenKind) {
        self.buffer.push(match kind {
            SeenKind::File { executable: false } => 1,
            SeenKind::File { executable: true } => 2,
            SeenKind::Symlink(_) => 3,
            SeenKind::Directory(_) => 4,
        });
        let Stamp { device, inode, size, modified, status_changed } = *stamp;
        for number in [device, inode, size, modified.nanoseconds, status_changed.nanoseconds] {
            self.buffer.extend_from_slice(&number.to_le_bytes());
        }
        for seconds in [modified.seconds, status_changed.seconds] {
            self.buffer.extend_from_slice(&seconds.to_le_bytes());
        }
        self.string(name.map_or(b"", |name| name.as_bytes()));
        if let SeenKind::Symlink(target) = kind {
            self.string(target.as_bytes());
        }
        if self.buffer.len() >= LISTING_BUFFER_BYTES {
            self.flush();
        }
    }

    fn close(&mut self) {
        self.buffer.push(0);
    }

    fn string(&mut self, string: &[u8]) {
        self.buffer.extend_from_slice(&(string.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(string);
    }

    fn flush(&mut self) {
        self.hasher.update(&self.buffer);
        self.buffer.clear();
    }

    fn finish(mut self) -> Listing {
        self.flush();
        Listing(*self.hasher.finalize().as_bytes())
    }
}
