//! Blobs of more than one piece: a file each, with the contents and then the outboard.

use std::{
    cmp::Ordering,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{self, AtomicU64},
    },
};

use firn_bao::{BLOB_BYTES_MAX, HashedPiece, Outboard, PIECE_BYTES, Pieces};
use firn_castore::{BlobDigest, BlobRef};

use super::{
    away::{Away, is_out_of_reach},
    index::Index,
    layout::{Layout, check_room},
    place::BlobKind,
    vfs::{Access, Disk, DiskFile},
};
use crate::{StoreError, lock};

/// The files of large blobs, whole and coming in.
pub(super) struct Large {
    disk: Arc<dyn Disk>,
    blobs: PathBuf,
    temp: PathBuf,
    quarantine: PathBuf,
    away: Away,
    next_temp: AtomicU64,
    /// Held while a whole blob is put in its place, or one is removed.
    pub(super) publishing: Mutex<()>,
}

impl Large {
    pub(super) fn new(layout: &Layout) -> Self {
        Self {
            disk: layout.disk.clone(),
            blobs: layout.blobs.clone(),
            temp: layout.temp.clone(),
            quarantine: layout.quarantine.clone(),
            away: layout.away.clone(),
            next_temp: AtomicU64::new(0),
            publishing: Mutex::new(()),
        }
    }

    pub(super) fn path(&self, digest: &BlobDigest) -> PathBuf {
        let name = digest.to_string();
        self.blobs.join(&name[..2]).join(name)
    }

    pub(super) fn open(&self, digest: &BlobDigest) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(&self.path(digest), Access::Read)
    }

    /// How much of the disk a blob of this size takes.
    pub(super) fn disk_bytes(size: u64) -> u64 {
        size.saturating_add(Outboard::byte_length(size))
    }

    /// Puts a whole blob where it is found, for whoever holds `publishing`.
    pub(super) fn publish(&self, from: &Path, digest: &BlobDigest) -> Result<(), StoreError> {
        let to = self.path(digest);
        let renamed = match self.disk.rename(from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let dir = to.parent().unwrap_or(&self.blobs);
                self.disk.create_dir(dir).map_err(StoreError::io(dir))?;
                self.disk.rename(from, &to)
            }
            renamed => renamed,
        };
        renamed.map_err(StoreError::io(to))
    }

    /// Puts a damaged blob aside, for whoever holds `publishing`.
    pub(super) fn quarantine(&self, digest: &BlobDigest) -> Result<(), StoreError> {
        let path = self.path(digest);
        match self.disk.rename(&path, &self.quarantine.join(digest.to_string())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io(path)(error)),
            _ => Ok(()),
        }
    }

    /// How much of the disk what was put aside takes.
    pub(super) fn quarantined_bytes(&self) -> Result<u64, StoreError> {
        let mut sum = 0u64;
        for name in self.disk.list(&self.quarantine).map_err(StoreError::io(&self.quarantine))? {
            // What the user has put there, and what cannot be looked at, is not ours to count.
            let file = self.disk.open(&self.quarantine.join(name), Access::Read);
            sum = sum.saturating_add(file.and_then(|file| file.allocated_bytes()).unwrap_or(0));
        }
        Ok(sum)
    }

    /// Begins a file for a blob of this size.
    pub(super) fn begin(&self, size: u64) -> Result<TempBlob, StoreError> {
        let path = self.temp.join(self.next_temp.fetch_add(1, atomic::Ordering::Relaxed).to_string());
        let file = self.disk.open(&path, Access::CreateNew).map_err(StoreError::io(&path))?;
        let temp = TempFile { disk: self.disk.clone(), path };
        Ok(TempBlob { temp, file, size, pieces: Mutex::new(Pieces::new(size)) })
    }

    /// Removes the files of blobs that are not kept: those of garbage, of blobs that have come anew elsewhere, and those
    /// that a failed sync has kept from the index.
    pub(super) fn sweep(
        &self,
        mut is_kept: impl FnMut(&BlobDigest) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        self.for_each(|digest, path| match is_kept(digest)? {
            true => Ok(()),
            false => self.away.clear(path).map_err(StoreError::io(path)),
        })
    }

    /// Gives the files that the index does not have to `take_back`, and removes those that it does not take.
    pub(super) fn recover(
        &self,
        index: &Index,
        mut take_back: impl FnMut(&BlobRef, &Path) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        self.for_each(|digest, path| {
            let place = index.blob(digest)?;
            if place.is_some_and(|place| place.kind == BlobKind::File) {
                return Ok(());
            }
            let size = match self.disk.open(path, Access::Read).and_then(|file| file.size()) {
                Ok(size) => blob_size(size),
                // It may be read another time, or is none of ours.
                Err(error) if is_out_of_reach(&error) => return Ok(()),
                Err(error) => return Err(StoreError::io(path)(error)),
            };
            let is_taken = match (place, size) {
                (None, Some(size)) => take_back(&BlobRef { digest: *digest, size }, path)?,
                _ => false,
            };
            match is_taken {
                true => Ok(()),
                false => self.away.clear(path).map_err(StoreError::io(path)),
            }
        })
    }

    /// Reads all files from their beginning to their end and gives to `take` the blobs that are whole; how many files are
    /// not what their names say.
    pub(super) fn read_all(
        &self,
        mut take: impl FnMut(BlobRef) -> Result<(), StoreError>,
    ) -> Result<u64, StoreError> {
        let mut damaged = 0;
        self.for_each(|digest, path| match self.read_whole(path) {
            Ok(Some(blob)) if blob.digest == *digest => take(blob),
            Ok(_) | Err(_) => {
                damaged += 1;
                Ok(())
            }
        })?;
        Ok(damaged)
    }

    /// The blob that a file has the contents and the outboard of.
    fn read_whole(&self, path: &Path) -> io::Result<Option<BlobRef>> {
        let file = self.disk.open(path, Access::Read)?;
        let Some(size) = blob_size(file.size()?) else { return Ok(None) };
        let mut pieces = Pieces::new(size);
        for index in 0..size.div_ceil(PIECE_BYTES) {
            let offset = index * PIECE_BYTES;
            let bytes = file.read_bytes_at((size - offset).min(PIECE_BYTES) as usize, offset)?;
            pieces.insert(&HashedPiece::of(index, bytes)).expect("the piece was cut to fit");
        }
        let Some(hashed) = pieces.finish() else { return Ok(None) };
        let expected = hashed.outboard().as_bytes();
        let outboard = file.read_bytes_at(expected.len(), size)?;
        Ok((outboard == *expected).then(|| hashed.blob()))
    }

    fn for_each(
        &self,
        mut visit: impl FnMut(&BlobDigest, &Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for fan in self.disk.list(&self.blobs).map_err(StoreError::io(&self.blobs))? {
            let dir = self.blobs.join(&fan);
            // Whatever is no directory is none of ours.
            let Ok(names) = self.disk.list(&dir) else { continue };
            for name in names {
                let Some(digest) = parse_name(&fan, &name) else { continue };
                // Nobody puts a file there between the look and the removal.
                let _publishing = lock(&self.publishing);
                visit(&digest, &dir.join(&name))?;
            }
        }
        Ok(())
    }
}

/// A file that is removed unless it is put in its place.
struct TempFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // Where it has been renamed there is nothing; what stays otherwise goes with the next opening.
        let _ = self.disk.remove(&self.path);
    }
}

/// A large blob that is being copied in.
pub(super) struct TempBlob {
    temp: TempFile,
    file: Arc<dyn DiskFile>,
    size: u64,
    pieces: Mutex<Pieces>,
}

impl TempBlob {
    pub(super) fn path(&self) -> &Path {
        &self.temp.path
    }

    pub(super) fn write(&self, piece: &HashedPiece) -> Result<(), StoreError> {
        check_room(&*self.temp.disk, self.path(), piece.bytes().len() as u64)?;
        lock(&self.pieces).insert(piece)?;
        let offset = piece.index().saturating_mul(PIECE_BYTES);
        self.file.write_all_at(piece.bytes(), offset).map_err(|error| {
            // What is in the file is not what came: the blob can't become whole any more.
            *lock(&self.pieces) = Pieces::new(self.size);
            StoreError::io(self.path())(error)
        })
    }

    /// Writes the outboard behind the contents. The file is whole then.
    pub(super) fn complete(&self) -> Result<BlobRef, StoreError> {
        let pieces = std::mem::replace(&mut *lock(&self.pieces), Pieces::new(self.size));
        let incomplete = StoreError::Incomplete { size: self.size, missing_pieces: pieces.missing() };
        let hashed = pieces.finish().ok_or(incomplete)?;
        let outboard = hashed.outboard().as_bytes();
        self.file.write_all_at(outboard, self.size).map_err(StoreError::io(self.path()))?;
        Ok(hashed.blob())
    }
}

/// How long the blob is of which a file of this length has the contents and the outboard. `None`: none that has a file.
fn blob_size(file_bytes: u64) -> Option<u64> {
    let (mut low, mut high) = (PIECE_BYTES + 1, file_bytes.min(BLOB_BYTES_MAX));
    while low <= high {
        let size = low + (high - low) / 2;
        match Large::disk_bytes(size).cmp(&file_bytes) {
            Ordering::Equal => return Some(size),
            Ordering::Less => low = size + 1,
            Ordering::Greater => high = size - 1,
        }
    }
    None
}

/// The digest in the name of a file that we have written.
fn parse_name(fan: &OsString, name: &OsString) -> Option<BlobDigest> {
    let (fan, name) = (fan.to_str()?, name.to_str()?);
    let digest = parse_digest(name)?;
    name.starts_with(fan).then_some(digest).filter(|_| fan.len() == 2)
}

/// A digest in lower-case hexadecimal digits.
pub(super) fn parse_digest(hex: &str) -> Option<BlobDigest> {
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    let digest = BlobDigest::from(bytes);
    (digest.to_string() == hex).then_some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_tells_how_long_its_blob_is() {
        let outboard = |size: u64| Large::disk_bytes(size);
        for size in
            [1, 2, 16384, 16385].iter().map(|more| PIECE_BYTES + more).chain([7 << 30, BLOB_BYTES_MAX])
        {
            assert_eq!(blob_size(outboard(size)), Some(size));
        }
        let at_a_border = outboard(2 * PIECE_BYTES);
        for none in [0, 1, PIECE_BYTES, outboard(PIECE_BYTES), at_a_border + 1, at_a_border + 64, u64::MAX] {
            assert_eq!(blob_size(none), None, "{none}");
        }
    }

    #[test]
    fn only_our_own_names_are_parsed() {
        let digest = BlobDigest::of(b"x");
        let hex = digest.to_string();
        let parse = |fan: &str, name: &str| parse_name(&fan.into(), &name.into());
        assert_eq!(parse(&hex[..2], &hex), Some(digest));
        assert_eq!(parse("zz", &hex), None);
        assert_eq!(parse(&hex, &hex), None);
        for name in
            ["", "ab", "README", &hex[1..], &hex.to_uppercase(), &format!("{hex}0"), "é".repeat(32).as_str()]
        {
            assert_eq!(parse(&hex[..2], name), None, "{name}");
        }
    }
}
