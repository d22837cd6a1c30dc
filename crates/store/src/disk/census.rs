//! What the index has, and how much of each pack that is.

use std::collections::{BTreeMap, BTreeSet};

use firn_bao::Outboard;
use firn_castore::{BlobDigest, DirectoryDigest};
use redb::{ReadableTable, ReadableTableMetadata};

use super::{
    DiskStore,
    large::Large,
    place::{
        BlobKind, BlobPlace, DirectoryPlace, HEAD_BYTES_MAX, PACK_HEAD_BYTES, Position,
        contents_record_bytes, parse_adopted,
    },
    tables,
};
use crate::{Collected, Item, StoreError, Usage};

/// A pack of which less than this part is needed is copied.
const NEEDED_PART_MIN: (u64, u64) = (3, 4);

/// What the index has, and what of it goes.
#[derive(Default)]
pub(super) struct Census {
    pub(super) blobs: BTreeMap<BlobDigest, BlobPlace>,
    pub(super) directories: BTreeMap<DirectoryDigest, DirectoryPlace>,
    /// How much of each pack is needed.
    pub(super) needed: BTreeMap<u32, u64>,
    ends: BTreeMap<u32, u32>,
}

impl DiskStore {
    pub(super) fn census(&self) -> Result<Census, StoreError> {
        let mut census = self.index.read(|transaction| {
            let mut census = Census::default();
            for entry in transaction.open_table(tables::BLOBS)?.iter()? {
                let (digest, place) = entry?;
                if let Some(place) = BlobPlace::from_bytes(place.value()) {
                    census.blobs.insert(BlobDigest::from(*digest.value()), place);
                }
            }
            for entry in transaction.open_table(tables::DIRECTORIES)?.iter()? {
                let (digest, place) = entry?;
                let place = DirectoryPlace::from_bytes(place.value());
                census.directories.insert(DirectoryDigest::from(*digest.value()), place);
            }
            Ok(census)
        })?;
        census.ends = self.index.ends()?;
        let mut needed: BTreeMap<u32, u64> = BTreeMap::new();
        let mut add = |pack: u32, bytes: u64| {
            let sum = needed.entry(pack).or_default();
            *sum = sum.saturating_add(bytes);
        };
        for place in census.blobs.values() {
            if let Some(position) = place.position() {
                add(position.pack, self.record_bytes(place).unwrap_or(0));
            }
        }
        for place in census.directories.values() {
            add(place.position.pack, place.record_bytes());
        }
        census.needed = needed;
        Ok(census)
    }

    /// How long a blob's record in a pack is; `None` for a damaged one.
    pub(super) fn record_bytes(&self, place: &BlobPlace) -> Option<u64> {
        match place.kind {
            BlobKind::File => Some(0),
            BlobKind::Packed(_) => Some(contents_record_bytes(place.size)),
            BlobKind::Adopted(position) => {
                let mut head = [0; HEAD_BYTES_MAX];
                let read = self.packs.read_some(position, &mut head).ok()?;
                let head = parse_adopted(&head[..read], place.size)?;
                Some((head.bytes as u64).saturating_add(Outboard::byte_length(place.size)))
            }
        }
    }

    pub(super) fn count_usage(&self) -> Result<Usage, StoreError> {
        // A full disk may be asked too.
        self.flush_if_room()?;
        let (mut usage, files) = self.index.read(|transaction| {
            let (mut usage, mut files) = (Usage::default(), 0u64);
            let add = |sum: &mut u64, bytes: u64| *sum = sum.saturating_add(bytes);
            for entry in transaction.open_table(tables::BLOBS)?.iter()? {
                let Some(place) = BlobPlace::from_bytes(entry?.1.value()) else { continue };
                usage.blobs += 1;
                add(&mut usage.blob_bytes, place.size);
                match place.kind {
                    BlobKind::Adopted(_) => {
                        usage.adopted_blobs += 1;
                        add(&mut usage.adopted_bytes, place.size);
                    }
                    BlobKind::File => add(&mut files, Large::disk_bytes(place.size)),
                    BlobKind::Packed(_) => {}
                }
            }
            usage.directories = transaction.open_table(tables::DIRECTORIES)?.len()?;
            Ok((usage, files))
        })?;
        let partials = self.partials.all();
        usage.partials = partials.len() as u64;
        let partial_bytes = partials.iter().map(|blob| self.partials.allocated_bytes(blob));
        usage.disk_bytes = partial_bytes
            .chain([files, self.packs.allocated_bytes()?, self.index.allocated_bytes()?])
            .chain([self.large.quarantined_bytes()?])
            .fold(0, u64::saturating_add);
        Ok(usage)
    }
}

impl Census {
    /// Takes out what goes.
    pub(super) fn remove(&mut self, item: &Item, collected: &mut Collected) {
        let mut free = |position: Position, bytes: u64| {
            if let Some(needed) = self.needed.get_mut(&position.pack) {
                *needed = needed.saturating_sub(bytes);
            }
        };
        match item {
            Item::Blob(digest) => {
                let Some(place) = self.blobs.remove(digest) else { return };
                collected.blobs += 1;
                match place.kind {
                    BlobKind::Packed(position) => free(position, contents_record_bytes(place.size)),
                    // The head of its record is small change.
                    BlobKind::Adopted(position) => free(position, Outboard::byte_length(place.size)),
                    BlobKind::File => {
                        collected.bytes = collected.bytes.saturating_add(Large::disk_bytes(place.size));
                    }
                }
            }
            Item::Directory(digest) => {
                let Some(place) = self.directories.remove(digest) else { return };
                collected.directories += 1;
                free(place.position, place.record_bytes());
            }
            Item::Path(_) | Item::Root(_) => {}
        }
    }

    /// The packs of which little is needed.
    pub(super) fn sparse(&self) -> BTreeSet<u32> {
        let (part, of) = NEEDED_PART_MIN;
        let is_sparse = |(pack, end): (&u32, &u32)| {
            let needed = self.needed.get(pack).copied().unwrap_or(0);
            let length = u64::from(end.saturating_sub(PACK_HEAD_BYTES));
            (needed.saturating_mul(of) < length.saturating_mul(part)).then_some(*pack)
        };
        self.ends.iter().filter_map(is_sparse).collect()
    }

    /// How many bytes compacting these packs gives back.
    pub(super) fn reclaimable(&self, sparse: &BTreeSet<u32>) -> u64 {
        let gain = |pack: &u32| {
            let end = self.ends.get(pack).copied().map_or(0, u64::from);
            end.saturating_sub(self.needed.get(pack).copied().unwrap_or(0))
        };
        sparse.iter().map(gain).fold(0, u64::saturating_add)
    }
}
