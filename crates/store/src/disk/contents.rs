//! Contents coming in, and whether they are here.

use std::{io, path::Path, sync::atomic::Ordering};

use bytes::Bytes;
use firn_bao::{HashedBlob, HashedPiece, PIECE_BYTES, Span, VerifiedBytes, VerifiedSpan};
use firn_castore::{BlobDigest, BlobRef, Directory, DirectoryDigest};

use super::{
    DiskStore,
    keep::is_small,
    large::TempBlob,
    partials,
    place::{BlobKind, BlobPlace, adopted_head},
    tables,
    vfs::Access,
};
use crate::{
    Blobs, Directories, Incoming, Intake, Item, KnownTree, Listing, StoreError, lock, traits::check_fits,
};

impl DiskStore {
    /// Whether the whole blob is here. What is found stays as long as there is a hold.
    pub(super) fn holds(&self, blob: &BlobRef) -> Result<bool, StoreError> {
        Ok(self.has_blob(&blob.digest)? == Some(blob.size))
    }

    /// Where the whole blob is, if it is here.
    fn held(&self, blob: &BlobRef) -> Result<Option<BlobPlace>, StoreError> {
        self.touch(Item::Blob(blob.digest));
        Ok(self.blob_place(&blob.digest)?.filter(|place| place.size == blob.size))
    }

    /// Whether the store has the contents itself: an adopted blob is copied where somebody copies it in.
    pub(super) fn has_copy(&self, blob: &BlobRef) -> Result<bool, StoreError> {
        Ok(self.held(blob)?.is_some_and(|place| !matches!(place.kind, BlobKind::Adopted(_))))
    }

    /// Whether the blob need not be adopted: a place where its file is gone is given up for another.
    fn is_in_place(&self, blob: &BlobRef) -> Result<bool, StoreError> {
        match self.held(blob)? {
            Some(BlobPlace { kind: BlobKind::Adopted(position), size }) => {
                Ok(self.adopted_file_is_there(size, position))
            }
            Some(_) => Ok(true),
            None => Ok(false),
        }
    }

    /// Puts a whole large blob in its place, unless it is there. `sync_failures`: as it was before the first byte was
    /// written to the file.
    fn keep_large(&self, blob: &BlobRef, file: &Path, sync_failures: u64) -> Result<(), StoreError> {
        let _keeping = self.keeping();
        if self.sync_failures.load(Ordering::SeqCst) != sync_failures {
            // It may have holes that no later sync tells of, though what the system has in memory is whole.
            let lost = io::Error::other("a sync has failed since it was begun");
            return Err(StoreError::io(file)(lost));
        }
        // Nobody may put a copy that is not durable over a file that a commit has found durable already.
        let _publishing = lock(&self.large.publishing);
        if self.has_copy(blob)? {
            return Ok(());
        }
        self.large.publish(file, &blob.digest)?;
        self.state_mut().keep_blob(blob.digest, BlobPlace { size: blob.size, kind: BlobKind::File });
        Ok(())
    }

    /// Takes in a blob of which all groups have come. Its partial is locked, so nothing here may wait for a commit.
    pub(super) fn keep_whole_partial(
        &self,
        blob: &BlobRef,
        file: &Path,
        sync_failures: u64,
    ) -> Result<(), StoreError> {
        if blob.size > PIECE_BYTES {
            return self.keep_large(blob, file, sync_failures);
        }
        let whole = Span::whole(blob.size);
        let opened = self.layout.disk.open(file, Access::Read);
        let read = opened.and_then(|file| partials::read_span(&*file, blob.size, whole));
        let (bytes, parents) = read.map_err(StoreError::io(file))?;
        let checked = VerifiedSpan::check(*blob, whole, parents, bytes);
        let span = checked.map_err(|error| StoreError::damaged(Item::Blob(blob.digest), file, error))?;
        if self.holds(blob)? {
            return Ok(());
        }
        self.keep_small(blob, span.bytes(), span.parents())
    }
}

impl DiskStore {
    /// Takes in a blob of which all groups were found to be here: no more spans of it will come.
    fn keep_found(&self, blob: &BlobRef, sync_failures: u64) -> Result<(), StoreError> {
        let kept = self.partials.keep_found(blob, |file| self.keep_whole_partial(blob, file, sync_failures));
        match kept.and_then(|is_kept| if is_kept { self.make_room() } else { Ok(()) }) {
            // Its groups are here all the same.
            Err(error) if error.is_full() => Ok(()),
            kept => kept,
        }
    }
}

impl Blobs for DiskStore {
    fn has_blob(&self, digest: &BlobDigest) -> Result<Option<u64>, StoreError> {
        self.touch(Item::Blob(*digest));
        Ok(self.blob_place(digest)?.map(|place| place.size))
    }

    fn groups(&self, blob: &BlobRef) -> Result<Vec<Span>, StoreError> {
        match self.has_blob(&blob.digest)? {
            Some(size) if size == blob.size => Ok(vec![Span::whole(size)]),
            Some(_) => Ok(Vec::new()),
            None => {
                // Before it is looked for, as in `keep_part`.
                let sync_failures = self.sync_failures.load(Ordering::SeqCst);
                let here = self.partials.groups(blob)?;
                if here == [Span::whole(blob.size)] {
                    self.keep_found(blob, sync_failures)?;
                }
                Ok(here)
            }
        }
    }

    fn read_span(&self, blob: &BlobRef, span: Span) -> Result<Option<VerifiedSpan>, StoreError> {
        check_fits(blob, span)?;
        self.touch(Item::Blob(blob.digest));
        self.read_blob(blob, span)
    }

    fn read_onto(&self, read: &mut VerifiedBytes, blob: &BlobRef, span: Span) -> Result<bool, StoreError> {
        check_fits(blob, span)?;
        self.touch(Item::Blob(blob.digest));
        self.read_blob_onto(read, blob, span)
    }

    fn keep_spans(&self, spans: &[VerifiedSpan]) -> Result<(), StoreError> {
        let (small, parts): (Vec<_>, Vec<_>) = spans.iter().partition(|span| is_small(span));
        self.keep_all_small(&small)?;
        parts.into_iter().try_for_each(|span| self.keep_part(span))
    }
}

impl Intake for DiskStore {
    fn begin_blob(&self, size: u64) -> Result<Box<dyn Incoming + '_>, StoreError> {
        let sync_failures = self.sync_failures.load(Ordering::SeqCst);
        Ok(Box::new(Copying { store: self, temp: self.large.begin(size)?, sync_failures }))
    }

    fn adopt_blob(&self, file: &Path, blob: &HashedBlob) -> Result<(), StoreError> {
        let (BlobRef { digest, size }, outboard) = (blob.blob(), blob.outboard().as_bytes());
        if self.is_in_place(&blob.blob())? {
            return Ok(());
        }
        if size == 0 {
            // There is nothing to stay where it is, and what has an empty file must not go with another's.
            return self.keep_small(&blob.blob(), &Bytes::new(), outboard);
        }
        let illegal = || StoreError::io(file)(io::ErrorKind::InvalidInput.into());
        let (dir, name) =
            file.parent().zip(file.file_name()).filter(|_| file.is_absolute()).ok_or_else(illegal)?;
        {
            let _keeping = self.keeping();
            let place = {
                // Who gets a number that is not new finds it where it waits.
                let mut state = self.state_mut();
                let (place, is_new) = self.places.number(dir);
                if is_new {
                    state.waiting.places.insert(place, dir.to_path_buf());
                }
                place
            };
            let head = adopted_head(size, place, name).ok_or_else(illegal)?;
            let position = self.packs.append(&[&head, outboard])?;
            self.state_mut().keep_blob(digest, BlobPlace { size, kind: BlobKind::Adopted(position) });
        }
        self.partials.remove(&blob.blob())?;
        self.make_room()
    }

    fn known_tree(&self, listing: &Listing) -> Result<Option<KnownTree>, StoreError> {
        let waiting = self.state().waiting.trees.get(listing).cloned();
        let tree = match waiting {
            Some(tree) => Some(tree),
            None => self.index.read(|transaction| {
                let sealed = transaction.open_table(tables::TREES)?.get(&listing.0[..])?;
                Ok(sealed.and_then(|sealed| tables::unseal_tree(&listing.0, sealed.value())))
            })?,
        };
        if let Some(tree) = &tree {
            self.touch(Item::Root(tree.root.clone()));
        }
        Ok(tree)
    }

    fn note_tree(&self, listing: &Listing, tree: &KnownTree) -> Result<(), StoreError> {
        self.state_mut().waiting.trees.insert(*listing, tree.clone());
        self.make_room()
    }
}

/// See [`Intake::begin_blob`].
struct Copying<'a> {
    store: &'a DiskStore,
    temp: TempBlob,
    /// As it was when it began.
    sync_failures: u64,
}

impl Incoming for Copying<'_> {
    fn write(&self, piece: &HashedPiece) -> Result<(), StoreError> {
        self.temp.write(piece)
    }

    fn finish(self: Box<Self>) -> Result<BlobRef, StoreError> {
        let blob = self.temp.complete()?;
        self.store.keep_large(&blob, self.temp.path(), self.sync_failures)?;
        self.store.partials.remove(&blob)?;
        self.store.make_room()?;
        Ok(blob)
    }
}

impl Directories for DiskStore {
    fn directory(&self, digest: &DirectoryDigest) -> Result<Option<Directory>, StoreError> {
        self.touch(Item::Directory(*digest));
        self.find_directory(digest)
    }

    fn has_directory(&self, digest: &DirectoryDigest) -> Result<bool, StoreError> {
        self.touch(Item::Directory(*digest));
        Ok(self.directory_place(digest)?.is_some())
    }

    fn keep_directories(&self, directories: &[Directory]) -> Result<(), StoreError> {
        self.keep_all_directories(directories)
    }
}
