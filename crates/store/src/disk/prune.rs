//! Taking out of the index what only served things that are gone.

use std::{collections::BTreeSet, io, sync::PoisonError};

use firn_castore::{Node, Root};
use redb::{Error, ReadableTable, WriteTransaction};

use super::{
    DiskStore,
    away::is_out_of_reach,
    place::{BlobKind, BlobPlace, HEAD_BYTES_MAX, PlaceId, parse_adopted},
    tables,
};
use crate::{StoreError, lock};

impl DiskStore {
    /// Takes out the uses of what is not visible any more, the places where nothing is adopted from, and the trees that
    /// are not here.
    pub(super) fn prune(&self) -> Result<(), StoreError> {
        // Whoever adopts from here on gets a new number; who has an old one has told what lies there, to the index too.
        let first_new = {
            let _keeping = self.keeping.write().unwrap_or_else(PoisonError::into_inner);
            self.places.forget()
        };
        self.flush()?;
        let places = self.places_in_use()?;
        let _writing = lock(&self.changes.writing);
        self.index.write(|transaction| {
            prune_uses(transaction)?;
            transaction
                .open_table(tables::PLACES)?
                .retain(|id, _| id >= first_new || places.contains(&id))?;
            prune_trees(transaction)
        })
    }

    fn places_in_use(&self) -> Result<BTreeSet<PlaceId>, StoreError> {
        let adopted: Vec<BlobPlace> = self.index.read(|transaction| {
            let mut adopted = Vec::new();
            for entry in transaction.open_table(tables::BLOBS)?.iter()? {
                let place = BlobPlace::from_bytes(entry?.1.value());
                adopted.extend(place.filter(|place| matches!(place.kind, BlobKind::Adopted(_))));
            }
            Ok(adopted)
        })?;
        let mut places = BTreeSet::new();
        for place in adopted {
            let Some(position) = place.position() else { continue };
            let mut head = [0; HEAD_BYTES_MAX];
            match self.packs.read_some(position, &mut head) {
                Ok(read) => places.extend(parse_adopted(&head[..read], place.size).map(|head| head.place)),
                // A pack that is gone, or is none, has no need of places.
                Err(error) if error.kind() == io::ErrorKind::NotFound || is_out_of_reach(&error) => {}
                Err(error) => return Err(StoreError::io(self.packs.path(position.pack))(error)),
            }
        }
        Ok(places)
    }
}

fn prune_uses(transaction: &WriteTransaction) -> Result<(), Error> {
    let mut visible = BTreeSet::new();
    for (table, kind) in [(tables::PATHS, tables::PATH), (tables::ROOTS, tables::ROOT)] {
        for entry in transaction.open_table(table)?.iter()? {
            visible.insert([&[kind], entry?.0.value()].concat());
        }
    }
    Ok(transaction.open_table(tables::USES)?.retain(|key, _| visible.contains(key))?)
}

fn prune_trees(transaction: &WriteTransaction) -> Result<(), Error> {
    let directories = transaction.open_table(tables::DIRECTORIES)?;
    let blobs = transaction.open_table(tables::BLOBS)?;
    let mut trees = transaction.open_table(tables::TREES)?;
    let mut gone = Vec::new();
    for entry in trees.iter()? {
        let (listing, sealed) = entry?;
        let root = tables::unseal_tree(listing.value(), sealed.value()).map(|tree| tree.root);
        let is_here = match root.as_ref().map(Root::node) {
            Some(Node::Directory { digest, .. }) => directories.get(digest.as_bytes())?.is_some(),
            Some(Node::File { blob, .. }) => blobs.get(blob.digest.as_bytes())?.is_some(),
            Some(Node::Symlink { .. }) => true,
            None => false,
        };
        if !is_here {
            gone.push(listing.value().to_vec());
        }
    }
    gone.iter().try_for_each(|listing| Ok(trees.remove(&listing[..]).map(|_| ())?))
}
