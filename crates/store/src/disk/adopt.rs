//! Where adopted blobs lie.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use redb::{Error, ReadOnlyTable, ReadableTable};

use super::{index::Index, place::PlaceId, tables};
use crate::{StoreError, lock};

/// How many directories are remembered, in either direction.
const REMEMBERED_MAX: usize = 4096;

/// The directories that adopted files are in, by number.
pub(super) struct Places(Mutex<Inner>);

struct Inner {
    next: PlaceId,
    by_path: BTreeMap<PathBuf, PlaceId>,
    by_id: BTreeMap<PlaceId, Arc<Path>>,
}

impl Places {
    pub(super) fn open(index: &Index) -> Result<Self, StoreError> {
        let last = index.read(|transaction| {
            let table: ReadOnlyTable<PlaceId, &[u8]> = transaction.open_table(tables::PLACES)?;
            Ok(table.last()?.map(|(id, _)| id.value()))
        })?;
        let next = last.map_or(0, |last| last.saturating_add(1));
        Ok(Self(Mutex::new(Inner { next, by_path: BTreeMap::new(), by_id: BTreeMap::new() })))
    }

    /// The number of a directory, and whether it is a new one that the index does not have.
    pub(super) fn number(&self, dir: &Path) -> (PlaceId, bool) {
        let mut inner = lock(&self.0);
        if let Some(id) = inner.by_path.get(dir) {
            return (*id, false);
        }
        let id = inner.next;
        inner.next = inner.next.saturating_add(1);
        if inner.by_path.len() >= REMEMBERED_MAX {
            inner.by_path.clear();
        }
        inner.by_path.insert(dir.to_path_buf(), id);
        (id, true)
    }

    /// The directory of a number that the index has.
    pub(super) fn directory(&self, index: &Index, id: PlaceId) -> Result<Option<Arc<Path>>, StoreError> {
        if let Some(dir) = lock(&self.0).by_id.get(&id) {
            return Ok(Some(dir.clone()));
        }
        let dir: Option<Arc<Path>> = index.read(|transaction| {
            let table: ReadOnlyTable<PlaceId, &[u8]> = transaction.open_table(tables::PLACES)?;
            let path = table.get(id)?;
            Ok::<_, Error>(path.map(|path| Path::new(OsStr::from_bytes(path.value())).into()))
        })?;
        if let Some(dir) = &dir {
            let mut inner = lock(&self.0);
            if inner.by_id.len() >= REMEMBERED_MAX {
                inner.by_id.clear();
            }
            inner.by_id.insert(id, dir.clone());
        }
        Ok(dir)
    }

    /// Forgets what was remembered. Gives the first of the numbers that come from now on.
    pub(super) fn forget(&self) -> PlaceId {
        let mut inner = lock(&self.0);
        inner.by_path.clear();
        inner.by_id.clear();
        inner.next
    }
}
