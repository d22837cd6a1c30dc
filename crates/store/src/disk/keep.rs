//! Keeping many things: what is small comes to a pack with one write for many of them.
//!
//! A thing is in the file before the state knows of it, and that before its keeper is told. Where a write fails, what it
//! was to bring was not kept, and what came with an earlier one was.

use std::{collections::BTreeSet, io, sync::atomic::Ordering};

use bytes::Bytes;
use firn_bao::{PIECE_BYTES, Span, VerifiedSpan};
use firn_castore::{BlobRef, Directory, DirectoryDigest};

use super::{
    DiskStore,
    packs::Gathered,
    partials::Kept,
    place::{BlobKind, BlobPlace, DirectoryPlace, Position, contents_head, directory_head},
    state::State,
};
use crate::{Directories, StoreError};

/// Whether a span is a whole blob that goes into a pack.
pub(super) fn is_small(span: &VerifiedSpan) -> bool {
    let size = span.blob().size;
    size <= PIECE_BYTES && span.span() == Span::whole(size)
}

/// What is to come to a pack with the next write.
struct Batch<T> {
    gathered: Gathered,
    /// What the records are, one after another.
    things: Vec<T>,
    /// The same: one call may name a thing several times.
    names: BTreeSet<T>,
}

impl<T: Ord + Copy> Batch<T> {
    fn new() -> Self {
        Self { gathered: Gathered::new(), things: Vec::new(), names: BTreeSet::new() }
    }

    /// Adds a thing, with its record in parts, unless it is there already. Tells whether it is time to write.
    fn add(&mut self, thing: T, record: &[&[u8]]) -> bool {
        if self.names.insert(thing) {
            self.things.push(thing);
            self.gathered.push(record);
        }
        self.gathered.is_full()
    }

    fn clear(&mut self) {
        self.gathered.clear();
        self.things.clear();
        self.names.clear();
    }
}

impl DiskStore {
    /// Keeps one blob that fits into a pack. It makes no room, since that waits for a commit.
    pub(super) fn keep_small(
        &self,
        blob: &BlobRef,
        contents: &Bytes,
        outboard: &Bytes,
    ) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        batch.add(*blob, &[&contents_head(blob.size), contents, outboard]);
        self.write_records(&batch, keep_packed)
    }

    /// Keeps blobs that fit into a pack.
    pub(super) fn keep_all_small(&self, spans: &[&VerifiedSpan]) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        for span in spans {
            let blob = span.blob();
            if self.has_copy(&blob)? {
                continue;
            }
            if batch.add(blob, &[&contents_head(blob.size), span.bytes(), span.parents()]) {
                self.write_small(&mut batch)?;
            }
        }
        self.write_small(&mut batch)
    }

    fn write_small(&self, batch: &mut Batch<BlobRef>) -> Result<(), StoreError> {
        self.write_records(batch, keep_packed)?;
        batch.things.iter().try_for_each(|blob| self.partials.remove(blob))?;
        self.end_batch(batch)
    }

    /// Keeps a span that is not a whole blob in a pack.
    pub(super) fn keep_part(&self, span: &VerifiedSpan) -> Result<(), StoreError> {
        let blob = span.blob();
        if self.holds(&blob)? {
            return Ok(());
        }
        // Before it is looked for: a failure gives up what it finds, so what is found has begun after this.
        let sync_failures = self.sync_failures.load(Ordering::SeqCst);
        match self.partials.keep(span, |file| self.keep_whole_partial(&blob, file, sync_failures))? {
            Kept::Whole => self.make_room(),
            Kept::Partly => Ok(()),
        }
    }

    /// Keeps Directories.
    pub(super) fn keep_all_directories(&self, directories: &[Directory]) -> Result<(), StoreError> {
        let mut batch: Batch<(DirectoryDigest, u32)> = Batch::new();
        let keep = |state: &mut State, (digest, bytes), position| {
            state.keep_directory(digest, DirectoryPlace { position, bytes });
        };
        for directory in directories {
            let digest = directory.digest();
            if self.is_readable(&digest) {
                continue;
            }
            let encoded = directory.encoded();
            let bytes = u32::try_from(encoded.len())
                .map_err(|_| StoreError::io(&self.layout.packs)(io::ErrorKind::FileTooLarge.into()))?;
            if batch.add((digest, bytes), &[&directory_head(bytes), encoded]) {
                self.write_records(&batch, keep)?;
                self.end_batch(&mut batch)?;
            }
        }
        self.write_records(&batch, keep)?;
        self.end_batch(&mut batch)
    }

    /// Whether a Directory is here and is what it was. It is read for that: else the Directories beneath a damaged one would
    /// be found damaged level by level. One that cannot be read for whatever reason is kept anew.
    fn is_readable(&self, digest: &DirectoryDigest) -> bool {
        matches!(self.directory(digest), Ok(Some(_)))
    }

    /// Writes what was gathered, and has the state know of it.
    fn write_records<T: Copy>(
        &self,
        batch: &Batch<T>,
        keep: impl Fn(&mut State, T, Position),
    ) -> Result<(), StoreError> {
        if batch.things.is_empty() {
            return Ok(());
        }
        let _keeping = self.keeping();
        let positions = self.packs.append_many(&batch.gathered)?;
        let mut state = self.state_mut();
        for (thing, position) in batch.things.iter().zip(positions) {
            keep(&mut state, *thing, position);
        }
        Ok(())
    }

    /// Begins the next batch. So much waits with each write that it is looked after each whether that is too much.
    fn end_batch<T: Ord + Copy>(&self, batch: &mut Batch<T>) -> Result<(), StoreError> {
        if batch.things.is_empty() {
            return Ok(());
        }
        batch.clear();
        self.make_room()
    }
}

fn keep_packed(state: &mut State, blob: BlobRef, position: Position) {
    state.keep_blob(blob.digest, BlobPlace { size: blob.size, kind: BlobKind::Packed(position) });
}
