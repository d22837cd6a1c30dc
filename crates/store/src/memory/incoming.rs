//! A blob that is being copied into memory.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use firn_bao::{HashedPiece, PIECE_BYTES, Pieces};
use firn_castore::BlobRef;

use super::{
    MemoryStore,
    contents::{Kept, Place, join},
};
use crate::{Incoming, StoreError, lock};

pub(super) struct Arriving<'a> {
    store: &'a MemoryStore,
    size: u64,
    arrived: Mutex<Arrived>,
}

struct Arrived {
    pieces: Pieces,
    bytes: BTreeMap<u64, Bytes>,
}

impl<'a> Arriving<'a> {
    pub(super) fn new(store: &'a MemoryStore, size: u64) -> Self {
        let arrived = Mutex::new(Arrived { pieces: Pieces::new(size), bytes: BTreeMap::new() });
        Self { store, size, arrived }
    }
}

impl Incoming for Arriving<'_> {
    fn write(&self, piece: &HashedPiece) -> Result<(), StoreError> {
        let mut arrived = lock(&self.arrived);
        arrived.pieces.insert(piece)?;
        arrived.bytes.insert(piece.index(), piece.bytes().clone());
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<BlobRef, StoreError> {
        let Arrived { pieces, bytes } = self.arrived.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some(hashed) = pieces.finish() else {
            let missing_pieces = self.size.div_ceil(PIECE_BYTES).max(1) - bytes.len() as u64;
            return Err(StoreError::Incomplete { size: self.size, missing_pieces });
        };
        let place = Place::Memory(join(bytes.values()));
        let outboard = hashed.outboard().as_bytes().clone();
        self.store.lock().keep(hashed.blob(), Kept { size: self.size, place, outboard });
        Ok(hashed.blob())
    }
}
