//! The tables of the index, and what is in them.

use bytes::Bytes;
use firn_castore::Root;
use firn_nix::{NarHash, StorePathHash};
use redb::{Error, ReadTransaction, TableDefinition, WriteTransaction};

use super::place::{BLOB_PLACE_BYTES, DIRECTORY_PLACE_BYTES};
use crate::{Damage, KnownTree, Listing, Record, Visible};

/// By digest, a [`BlobPlace`](super::place::BlobPlace).
pub(super) const BLOBS: TableDefinition<&[u8; 32], &[u8; BLOB_PLACE_BYTES]> = TableDefinition::new("blobs");
/// By digest, a [`DirectoryPlace`](super::place::DirectoryPlace).
pub(super) const DIRECTORIES: TableDefinition<&[u8; 32], &[u8; DIRECTORY_PLACE_BYTES]> =
    TableDefinition::new("directories");
/// By number, the path of a directory that adopted files are in.
pub(super) const PLACES: TableDefinition<u32, &[u8]> = TableDefinition::new("places");
/// By number, where a pack ends.
pub(super) const PACKS: TableDefinition<u32, u32> = TableDefinition::new("packs");
/// By the path's hash, a sealed `firn.store.v1.StoredPath`.
pub(super) const PATHS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("paths");
/// By the root's canonical Entry, a sealed byte: 1 if it is shared, else 0.
pub(super) const ROOTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("roots");
/// By [`visible_key`], the reason.
pub(super) const PINS: TableDefinition<&[u8], &str> = TableDefinition::new("pins");
/// By [`visible_key`], what was whole when it was committed; nothing has been taken out of the index since, but what it did
/// not need.
pub(super) const WHOLE: TableDefinition<&[u8], ()> = TableDefinition::new("whole");
/// By [`visible_key`], seconds since 1970.
pub(super) const USES: TableDefinition<&[u8], u64> = TableDefinition::new("uses");
/// By listing, a sealed [`KnownTree`]: NAR hash, NAR size (8 bytes, little-endian), canonical Entry of the root.
pub(super) const TREES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("trees");

/// Makes all tables.
pub(super) fn create(transaction: &WriteTransaction) -> Result<(), Error> {
    transaction.open_table(BLOBS)?;
    transaction.open_table(DIRECTORIES)?;
    transaction.open_table(PLACES)?;
    transaction.open_table(PACKS)?;
    transaction.open_table(PATHS)?;
    transaction.open_table(ROOTS)?;
    transaction.open_table(PINS)?;
    transaction.open_table(WHOLE)?;
    transaction.open_table(USES)?;
    transaction.open_table(TREES)?;
    Ok(())
}

/// The table that is made last.
pub(super) fn exist(transaction: &ReadTransaction) -> Result<bool, Error> {
    match transaction.open_table(TREES) {
        Ok(_) => Ok(true),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What [`visible_key`] begins with for a path; its hash follows.
pub(super) const PATH: u8 = b'p';
/// What [`visible_key`] begins with for a root; its canonical Entry follows.
pub(super) const ROOT: u8 = b'r';

pub(super) fn visible_key(what: &Visible) -> Vec<u8> {
    match what {
        Visible::Path(hash) => [&[PATH], &hash.as_bytes()[..]].concat(),
        Visible::Root(root) => [&[ROOT], &root.to_bytes()[..]].concat(),
    }
}

/// The table and the key of what is visible.
pub(super) fn record_key(
    what: &Visible,
) -> (TableDefinition<'static, &'static [u8], &'static [u8]>, Vec<u8>) {
    match what {
        Visible::Path(hash) => (PATHS, hash.as_bytes().to_vec()),
        Visible::Root(root) => (ROOTS, root.to_bytes()),
    }
}

/// What a record's table has of it, unsealed.
pub(super) fn record_bytes(record: &Record) -> Bytes {
    match record {
        Record::Path(path) => path.to_bytes(),
        Record::Tree { shared, .. } => vec![u8::from(*shared)].into(),
    }
}

/// `None` for a key that names nothing.
pub(super) fn parse_visible(key: &[u8]) -> Option<Visible> {
    match key.split_first()? {
        (&PATH, hash) => StorePathHash::try_from(hash).ok().map(Visible::Path),
        (&ROOT, root) => Root::from_bytes(root).ok().map(Visible::Root),
        _ => None,
    }
}

const SEAL_BYTES: usize = 32;

/// A record with its checksum in front, which covers its key too: unlike contents, a record is not named by its digest.
pub(super) fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = checksum(key, value).as_bytes().to_vec();
    sealed.extend_from_slice(value);
    sealed
}

pub(super) fn unseal<'a>(key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], Damage> {
    let (checked, value) = sealed.split_first_chunk::<SEAL_BYTES>().ok_or(Damage::Checksum)?;
    if checksum(key, value) == *checked { Ok(value) } else { Err(Damage::Checksum) }
}

fn checksum(key: &[u8], value: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

/// The sealed form of a known tree.
pub(super) fn seal_tree(listing: &Listing, tree: &KnownTree) -> Vec<u8> {
    let value = [&tree.nar_hash.as_bytes()[..], &tree.nar_size.to_le_bytes(), &tree.root.to_bytes()].concat();
    seal(&listing.0, &value)
}

/// A known tree; a damaged one is not known.
pub(super) fn unseal_tree(listing: &[u8], sealed: &[u8]) -> Option<KnownTree> {
    let value = unseal(listing, sealed).ok()?;
    let (nar_hash, value) = value.split_first_chunk::<32>()?;
    let (nar_size, root) = value.split_first_chunk::<8>()?;
    let root = Root::from_bytes(root).ok()?;
    Some(KnownTree { root, nar_hash: NarHash::from(*nar_hash), nar_size: u64::from_le_bytes(*nar_size) })
}
