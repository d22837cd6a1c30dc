//! A store in memory.

use std::{
    collections::BTreeMap,
    io::Read,
    path::PathBuf,
    sync::{Mutex, MutexGuard},
};

use bytes::{Bytes, BytesMut};
use firn_bao::{GROUP_BYTES, Outboard, Span, VerifiedSpan, hash_blob};
use firn_castore::{BlobDigest, BlobRef, Directory, DirectoryDigest, Root};
use firn_nix::StorePathHash;
use firn_trust::StoredPath;

use crate::{Blobs, Damage, Directories, Item, Paths, StoreError, lock, tree::collect};

/// A store in memory, for tests and simulations.
///
/// It is stricter than a [`DiskStore`](crate::DiskStore): a commit reads and verifies all that it makes visible.
#[derive(Debug, Default)]
pub struct MemoryStore {
    contents: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    blobs: BTreeMap<BlobDigest, (Bytes, Outboard)>,
    /// The groups that are here of blobs that are not whole.
    partial: BTreeMap<BlobRef, BTreeMap<u64, Bytes>>,
    directories: BTreeMap<DirectoryDigest, Bytes>,
    paths: BTreeMap<StorePathHash, StoredPath>,
    roots: BTreeMap<Vec<u8>, (Root, bool)>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Flips a bit of a blob that is here, as a broken disk does. Tells whether there was one to flip.
    pub fn damage_blob(&self, digest: &BlobDigest) -> bool {
        let mut contents = self.lock();
        let Some((bytes, _)) = contents.blobs.get_mut(digest) else { return false };
        let mut damaged = BytesMut::from(&bytes[..]);
        let Some(first) = damaged.first_mut() else { return false };
        *first ^= 1;
        *bytes = damaged.freeze();
        true
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        lock(&self.contents)
    }
}

fn damaged(item: Item, damage: impl Into<Damage>) -> StoreError {
    StoreError::damaged(item, PathBuf::from("memory"), damage)
}

impl Contents {
    fn read_span(&self, blob: &BlobRef, span: Span) -> Result<Option<VerifiedSpan>, StoreError> {
        if !span.fits(blob.size) {
            let source = firn_bao::SpanError::PastEnd { span, size: blob.size };
            return Err(StoreError::Span { blob: *blob, source });
        }
        let Some((bytes, outboard)) = self.blobs.get(&blob.digest) else { return Ok(None) };
        if bytes.len() as u64 != blob.size {
            return Ok(None);
        }
        let range = span.bytes(blob.size);
        let part = bytes.slice(range.start as usize..range.end as usize);
        match VerifiedSpan::check(*blob, span, outboard.as_bytes(), part) {
            Ok(verified) => Ok(Some(verified)),
            Err(error) => Err(damaged(Item::Blob(blob.digest), error)),
        }
    }

    fn directory(&self, digest: &DirectoryDigest) -> Result<Option<Directory>, StoreError> {
        let Some(encoded) = self.directories.get(digest) else { return Ok(None) };
        match Directory::decode(encoded.clone(), digest) {
            Ok(directory) => Ok(Some(directory)),
            Err(error) => Err(damaged(Item::Directory(*digest), error)),
        }
    }

    /// Refuses unless all beneath the root is here and is what it was.
    fn check(&self, root: &Root) -> Result<(), StoreError> {
        let closure = collect(root, |digest| self.directory(digest))?.or_refuse(root)?;
        for blob in closure.blobs() {
            let read = self.read_span(&blob, Span::whole(blob.size))?;
            read.ok_or(StoreError::Missing(Item::Blob(blob.digest)))?;
        }
        Ok(())
    }

    /// Whether a blob is here and is what it was.
    fn is_whole(&self, blob: &BlobRef) -> bool {
        matches!(self.read_span(blob, Span::whole(blob.size)), Ok(Some(_)))
    }
}

impl Blobs for MemoryStore {
    fn has_blob(&self, digest: &BlobDigest) -> Result<Option<u64>, StoreError> {
        let contents = self.lock();
        let size = contents.blobs.get(digest).map(|(bytes, _)| bytes.len() as u64);
        Ok(size.filter(|size| contents.is_whole(&BlobRef { digest: *digest, size: *size })))
    }

    fn read_span(&self, blob: &BlobRef, span: Span) -> Result<Option<VerifiedSpan>, StoreError> {
        self.lock().read_span(blob, span)
    }

    fn keep_span(&self, span: &VerifiedSpan) -> Result<(), StoreError> {
        let mut contents = self.lock();
        let blob = span.blob();
        if contents.is_whole(&blob) {
            return Ok(());
        }
        let partial = contents.partial.entry(blob).or_default();
        for (group, bytes) in span.span().groups().zip(groups(span.bytes())) {
            partial.insert(group, bytes);
        }
        if partial.len() as u64 == Span::whole(blob.size).groups().end {
            let bytes: BytesMut = partial.values().fold(BytesMut::new(), |mut bytes, group| {
                bytes.extend_from_slice(group);
                bytes
            });
            // Under one lock: whoever kept the other spans must find the blob here from now on.
            contents.partial.remove(&blob);
            let (blob, outboard) = hash_blob(&mut &bytes[..]).map_err(StoreError::Reader)?;
            contents.blobs.insert(blob.digest, (bytes.into(), outboard));
        }
        Ok(())
    }

    fn add_blob(&self, reader: &mut dyn Read) -> Result<BlobRef, StoreError> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(StoreError::Reader)?;
        let (blob, outboard) = hash_blob(&mut &bytes[..]).map_err(StoreError::Reader)?;
        self.lock().blobs.insert(blob.digest, (bytes.into(), outboard));
        Ok(blob)
    }
}

/// Cuts a span's bytes into groups. No bytes are one empty group.
fn groups(bytes: &Bytes) -> impl Iterator<Item = Bytes> + '_ {
    let step = GROUP_BYTES as usize;
    (0..bytes.len().div_ceil(step).max(1))
        .map(move |i| bytes.slice(i * step..bytes.len().min((i + 1) * step)))
}

impl Directories for MemoryStore {
    fn directory(&self, digest: &DirectoryDigest) -> Result<Option<Directory>, StoreError> {
        self.lock().directory(digest)
    }

    fn keep_directories(&self, directories: &[Directory]) -> Result<(), StoreError> {
        let mut contents = self.lock();
        for directory in directories {
            contents.directories.insert(directory.digest(), directory.encoded().clone());
        }
        Ok(())
    }
}

impl Paths for MemoryStore {
    fn commit(&self, path: StoredPath) -> Result<(), StoreError> {
        let mut contents = self.lock();
        contents.check(path.root())?;
        contents.paths.insert(path.path_hash(), path);
        Ok(())
    }

    fn commit_root(&self, root: &Root, shared: bool) -> Result<(), StoreError> {
        let mut contents = self.lock();
        contents.check(root)?;
        contents.roots.insert(root.to_bytes(), (root.clone(), shared));
        Ok(())
    }

    fn path(&self, hash: &StorePathHash) -> Result<Option<StoredPath>, StoreError> {
        Ok(self.lock().paths.get(hash).cloned())
    }

    fn paths(&self) -> Result<Vec<StoredPath>, StoreError> {
        Ok(self.lock().paths.values().cloned().collect())
    }

    fn roots(&self) -> Result<Vec<(Root, bool)>, StoreError> {
        Ok(self.lock().roots.values().cloned().collect())
    }
}
