//! Reading what is here, wherever it lies.

use std::{io, path::PathBuf};

use bytes::Bytes;
use firn_bao::{Span, VerifiedSpan};
use firn_castore::{BlobDigest, BlobRef, Directory, DirectoryDigest};
use rustix::io::Errno;

use super::{
    DiskStore,
    packs::RECORD_BYTES_MAX,
    partials::{read_parents, read_span},
    place::{
        BlobKind, BlobPlace, DirectoryPlace, HEAD_BYTES_MAX, Position, contents_head, directory_head,
        parse_adopted,
    },
    vfs::Access,
};
use crate::{Damage, Item, StoreError};

/// How often it is looked where something is: it moves when packs are made compact.
const LOOKS_MAX: usize = 4;

/// Why something could not be read from where it should be.
enum Fault {
    /// It is not what it was.
    Damage(PathBuf, Damage),
    /// The file system would not.
    Io(PathBuf, io::Error),
}

impl Fault {
    fn of(path: PathBuf) -> impl FnOnce(io::Error) -> Self {
        move |error| match error.kind() {
            // Something else stands where our file was, or nothing.
            io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => {
                Fault::Damage(path, Damage::Gone)
            }
            _ if Errno::from_io_error(&error) == Some(Errno::LOOP) => Fault::Damage(path, Damage::Gone),
            io::ErrorKind::UnexpectedEof => Fault::Damage(path, Damage::Short),
            _ => Fault::Io(path, error),
        }
    }
}

/// Whether an error says nothing about the file itself.
fn is_passing(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(
        errno,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO | Errno::AGAIN | Errno::STALE)
    )
}

impl DiskStore {
    /// Where a blob is. What waits for the index is looked at before it: it leaves there only after it has come to the
    /// index.
    pub(super) fn blob_place(&self, digest: &BlobDigest) -> Result<Option<BlobPlace>, StoreError> {
        {
            let state = self.state();
            if let Some(place) = state.waiting.blobs.get(digest) {
                return Ok(Some(*place));
            }
            if state.is_gone(&Item::Blob(*digest)) {
                return Ok(None);
            }
        }
        self.index.blob(digest)
    }

    pub(super) fn directory_place(
        &self,
        digest: &DirectoryDigest,
    ) -> Result<Option<DirectoryPlace>, StoreError> {
        {
            let state = self.state();
            if let Some(place) = state.waiting.directories.get(digest) {
                return Ok(Some(*place));
            }
            if state.is_gone(&Item::Directory(*digest)) {
                return Ok(None);
            }
        }
        self.index.directory(digest)
    }

    pub(super) fn read_blob(&self, blob: &BlobRef, span: Span) -> Result<Option<VerifiedSpan>, StoreError> {
        let mut wrong: Option<BlobPlace> = None;
        for _ in 0..LOOKS_MAX {
            let Some(place) = self.blob_place(&blob.digest)? else {
                return self.partials.read(blob, span);
            };
            if place.size != blob.size {
                return Ok(None);
            }
            match self.read_at(blob, span, place) {
                Ok(read) => return Ok(Some(read)),
                // It was wrong before, and has not moved since.
                Err(fault) if wrong == Some(place) => return self.faulty(blob, place, fault),
                Err(_) => wrong = Some(place),
            }
        }
        Ok(None)
    }

    /// What a blob that is not what it was means: an adopted one is absent, since its file is not ours.
    fn faulty(
        &self,
        blob: &BlobRef,
        place: BlobPlace,
        fault: Fault,
    ) -> Result<Option<VerifiedSpan>, StoreError> {
        match fault {
            Fault::Io(path, source) => Err(StoreError::Io { path, source }),
            Fault::Damage(path, damage) => {
                self.state_mut().note_damaged_blob(blob.digest, place);
                match place.kind {
                    BlobKind::Adopted(_) if !path.starts_with(&self.layout.packs) => Ok(None),
                    _ => Err(StoreError::damaged(Item::Blob(blob.digest), path, damage)),
                }
            }
        }
    }

    fn read_at(&self, blob: &BlobRef, span: Span, place: BlobPlace) -> Result<VerifiedSpan, Fault> {
        let (path, read) = match place.kind {
            BlobKind::Packed(position) => {
                (self.packs.path(position.pack), self.read_packed(blob.size, span, position))
            }
            BlobKind::File => {
                let file = self.large.open(&blob.digest);
                (self.large.path(&blob.digest), file.and_then(|file| read_span(&*file, blob.size, span)))
            }
            BlobKind::Adopted(position) => return self.read_adopted(blob, span, position),
        };
        let (bytes, parents) = read.map_err(Fault::of(path.clone()))?;
        VerifiedSpan::check(*blob, span, parents, bytes).map_err(|error| Fault::Damage(path, error.into()))
    }

    fn read_packed(&self, size: u64, span: Span, position: Position) -> io::Result<(Bytes, Bytes)> {
        let head = contents_head(size).len() as u64;
        let range = span.bytes(size);
        let bytes = self.packs.read(position, head + range.start, (range.end - range.start) as usize)?;
        let parents =
            read_parents(size, span, |bytes, offset| self.packs.read(position, head + size + offset, bytes))?;
        Ok((bytes, parents))
    }

    fn read_adopted(&self, blob: &BlobRef, span: Span, position: Position) -> Result<VerifiedSpan, Fault> {
        let (file, head) = self.adopted_file(blob.size, position)?;
        let parents =
            read_parents(blob.size, span, |bytes, offset| self.packs.read(position, head + offset, bytes));
        let parents = parents.map_err(Fault::of(self.packs.path(position.pack)))?;
        let range = span.bytes(blob.size);
        let read = self.layout.disk.open(&file, Access::Read);
        let read = read.and_then(|file| file.read_bytes_at((range.end - range.start) as usize, range.start));
        let bytes = read.map_err(|error| match is_passing(&error) {
            true => Fault::Io(file.clone(), error),
            // Whatever else keeps a file that is not ours from being read makes the blob absent.
            false => Fault::Damage(file.clone(), Damage::Gone),
        })?;
        VerifiedSpan::check(*blob, span, parents, bytes).map_err(|error| Fault::Damage(file, error.into()))
    }

    /// Whether there still is a file of this length where an adopted blob is.
    pub(super) fn adopted_file_is_there(&self, size: u64, position: Position) -> bool {
        let Ok((file, _)) = self.adopted_file(size, position) else { return false };
        let opened = self.layout.disk.open(&file, Access::Read);
        opened.and_then(|file| file.size()).is_ok_and(|found| found == size)
    }

    /// The file of an adopted blob, and how long the head of its record is.
    fn adopted_file(&self, size: u64, position: Position) -> Result<(PathBuf, u64), Fault> {
        let pack = self.packs.path(position.pack);
        let mut head = [0; HEAD_BYTES_MAX];
        let read = self.packs.read_some(position, &mut head).map_err(Fault::of(pack.clone()))?;
        let wrong = || Fault::Damage(pack.clone(), Damage::Record);
        let head = parse_adopted(&head[..read], size).ok_or_else(wrong)?;
        let waiting = self.state().waiting.places.get(&head.place).cloned();
        let dir = match waiting {
            Some(dir) => Some(dir),
            None => match self.places.directory(&self.index, head.place) {
                Ok(dir) => dir.map(|dir| dir.to_path_buf()),
                Err(error) => return Err(Fault::Io(pack, io::Error::other(error.to_string()))),
            },
        };
        Ok((dir.ok_or_else(wrong)?.join(head.name), head.bytes as u64))
    }

    pub(super) fn find_directory(&self, digest: &DirectoryDigest) -> Result<Option<Directory>, StoreError> {
        let mut wrong: Option<DirectoryPlace> = None;
        for _ in 0..LOOKS_MAX {
            let Some(place) = self.directory_place(digest)? else { return Ok(None) };
            match self.read_directory(digest, place) {
                Ok(directory) => return Ok(Some(directory)),
                Err(error) if wrong == Some(place) => {
                    if matches!(error, StoreError::Damaged { .. }) {
                        self.state_mut().note_damaged_directory(*digest, place);
                    }
                    return Err(error);
                }
                Err(_) => wrong = Some(place),
            }
        }
        Ok(None)
    }

    pub(super) fn read_directory(
        &self,
        digest: &DirectoryDigest,
        place: DirectoryPlace,
    ) -> Result<Directory, StoreError> {
        let pack = self.packs.path(place.position.pack);
        let item = Item::Directory(*digest);
        if u64::from(place.bytes) > RECORD_BYTES_MAX {
            return Err(StoreError::damaged(item, pack, Damage::Record));
        }
        let head = directory_head(place.bytes).len() as u64;
        let read = self.packs.read(place.position, head, place.bytes as usize);
        let encoded = read.map_err(Fault::of(pack.clone())).map_err(|fault| match fault {
            Fault::Damage(path, damage) => StoreError::damaged(item.clone(), path, damage),
            Fault::Io(path, source) => StoreError::Io { path, source },
        })?;
        Directory::decode(encoded, digest).map_err(|error| StoreError::damaged(item, pack, error))
    }
}
