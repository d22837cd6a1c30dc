//! Reading what is here, wherever it lies.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use firn_bao::{Span, SpanError, VerifiedBytes, VerifiedSpan};
use firn_castore::{BlobDigest, BlobRef, Directory, DirectoryDigest};
use rustix::io::Errno;

use super::{
    DiskStore,
    away::is_no_file,
    packs::RECORD_BYTES_MAX,
    partials::read_parents,
    place::{
        BlobKind, BlobPlace, DirectoryPlace, HEAD_BYTES_MAX, Position, contents_head, directory_head,
        parse_adopted,
    },
    vfs::{Access, DiskFile},
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
            io::ErrorKind::NotFound => Fault::Damage(path, Damage::Gone),
            io::ErrorKind::UnexpectedEof => Fault::Damage(path, Damage::Short),
            // Something else stands where our file was.
            _ if is_no_file(&error) => Fault::Damage(path, Damage::Gone),
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

/// What a whole blob lies in.
struct Contents {
    contents: Extent,
    /// `None`: directly behind the contents.
    outboard: Option<Extent>,
}

/// Something in a file, from its start on.
struct Extent {
    file: Arc<dyn DiskFile>,
    start: u64,
    path: PathBuf,
    /// Whether nobody else should have changed the file.
    is_ours: bool,
}

impl Contents {
    fn read(&self, blob: BlobRef, span: Span) -> Result<VerifiedSpan, Fault> {
        let range = span.bytes(blob.size);
        let length = (range.end - range.start) as usize;
        let bytes = self.contents.read(range.start, |file, offset| file.read_bytes_at(length, offset))?;
        let parents = self.parents(blob.size, span)?;
        VerifiedSpan::check(blob, span, parents, bytes).map_err(|error| self.damage(error))
    }

    fn read_onto(&self, read: &mut VerifiedBytes, blob: BlobRef, span: Span) -> Result<(), Fault> {
        let range = span.bytes(blob.size);
        let mut bytes = read.room((range.end - range.start) as usize);
        self.contents.read(range.start, |file, offset| file.read_exact_at(&mut bytes, offset))?;
        let verified = match span == Span::whole(blob.size) {
            true => bytes.verify_whole(blob),
            false => bytes.verify(blob, span, &self.parents(blob.size, span)?),
        };
        verified.map_err(|error| self.damage(error))
    }

    fn parents(&self, size: u64, span: Span) -> Result<Bytes, Fault> {
        let (outboard, skip) = match &self.outboard {
            Some(outboard) => (outboard, 0),
            None => (&self.contents, size),
        };
        outboard.read(skip, |file, start| {
            read_parents(size, span, |bytes, offset| file.read_bytes_at(bytes, start.saturating_add(offset)))
        })
    }

    fn damage(&self, error: SpanError) -> Fault {
        Fault::Damage(self.contents.path.clone(), error.into())
    }
}

impl Extent {
    /// Reads so far behind its start.
    fn read<T>(&self, skip: u64, read: impl FnOnce(&dyn DiskFile, u64) -> io::Result<T>) -> Result<T, Fault> {
        read(&*self.file, self.start.saturating_add(skip)).map_err(|error| match self.is_ours {
            true => Fault::of(self.path.clone())(error),
            false => foreign(&self.path, error),
        })
    }
}

/// What it means that a file that is not ours can't be read.
fn foreign(path: &Path, error: io::Error) -> Fault {
    match is_passing(&error) {
        true => Fault::Io(path.to_path_buf(), error),
        // Whatever else keeps it from being read makes the blob absent.
        false => Fault::Damage(path.to_path_buf(), Damage::Gone),
    }
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
        match self.read_whole(blob, |contents| contents.read(*blob, span))? {
            None => self.partials.read(blob, span),
            read => Ok(read),
        }
    }

    pub(super) fn read_blob_onto(
        &self,
        read: &mut VerifiedBytes,
        blob: &BlobRef,
        span: Span,
    ) -> Result<bool, StoreError> {
        if self.read_whole(blob, |contents| contents.read_onto(read, *blob, span))?.is_some() {
            return Ok(true);
        }
        let part = self.partials.read(blob, span)?;
        Ok(part.map(|part| read.push(part.bytes())).is_some())
    }

    /// Reads from a blob that is whole; `None` where it is not, or moves faster than it is found.
    fn read_whole<T>(
        &self,
        blob: &BlobRef,
        mut read: impl FnMut(&Contents) -> Result<T, Fault>,
    ) -> Result<Option<T>, StoreError> {
        let mut wrong: Option<BlobPlace> = None;
        for _ in 0..LOOKS_MAX {
            let place = self.blob_place(&blob.digest)?;
            let Some(place) = place.filter(|place| place.size == blob.size) else { return Ok(None) };
            match self.contents(blob, place).and_then(|contents| read(&contents)) {
                Ok(read) => return Ok(Some(read)),
                // It was wrong before, and has not moved since.
                Err(fault) if wrong == Some(place) => return self.faulty(blob, place, fault),
                Err(_) => wrong = Some(place),
            }
        }
        Ok(None)
    }

    /// What a blob that is not what it was means: an adopted one is absent, since its file is not ours.
    fn faulty<T>(&self, blob: &BlobRef, place: BlobPlace, fault: Fault) -> Result<Option<T>, StoreError> {
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

    /// Opens what a whole blob lies in.
    fn contents(&self, blob: &BlobRef, place: BlobPlace) -> Result<Contents, Fault> {
        let in_pack = |position: Position, skip: u64| {
            let path = self.packs.path(position.pack);
            let file = self.packs.file(position.pack).map_err(|error| Fault::of(path.clone())(error))?;
            Ok(Extent { file, start: u64::from(position.offset).saturating_add(skip), path, is_ours: true })
        };
        match place.kind {
            BlobKind::Packed(position) => {
                let contents = in_pack(position, contents_head(blob.size).len() as u64)?;
                Ok(Contents { contents, outboard: None })
            }
            BlobKind::File => {
                let path = self.large.path(&blob.digest);
                let file = self.large.open(&blob.digest).map_err(|error| Fault::of(path.clone())(error))?;
                let contents = Extent { file, start: 0, path, is_ours: true };
                Ok(Contents { contents, outboard: None })
            }
            BlobKind::Adopted(position) => {
                let (path, head) = self.adopted_file(blob.size, position)?;
                let outboard = Some(in_pack(position, head)?);
                let file =
                    self.layout.disk.open(&path, Access::Read).map_err(|error| foreign(&path, error))?;
                let contents = Extent { file, start: 0, path, is_ours: false };
                Ok(Contents { contents, outboard })
            }
        }
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
