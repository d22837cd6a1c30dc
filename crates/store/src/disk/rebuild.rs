//! A new index in place of one that cannot be used, from what is beside it.
//!
//! Packs and files do not say what is in them, but everything is named by its digest: it is hashed, and is there under
//! that name. What only the index has is lost: which paths there are, who may have them, what is pinned, and where adopted
//! files are. So that their contents are not taken for garbage, whole trees that are no part of others become visible
//! without a path, for this machine alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use firn_castore::{BlobDigest, Directory, DirectoryDigest, Node, Root};

use super::{
    DiskStore,
    index::Index,
    large::Large,
    layout::{self, Layout, Lock, OpenError},
    packs::{Packs, Recovered},
    place::{BlobKind, BlobPlace},
    private, tables,
    vfs::{Disk, RealDisk},
};
use crate::{Paths, StoreError};

/// The new index, until it is whole.
const REBUILT: &str = "index.rebuilt";
/// How many large blobs come to the index with one transaction.
const FILES_AT_ONCE: usize = 1 << 12;

/// What has come to an index that was made anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Where the old index is now, if there was one.
    pub put_aside: Option<PathBuf>,
    /// How many blobs were found whole.
    pub blobs: u64,
    /// How many Directories were found whole.
    pub directories: u64,
    /// How many trees are visible now, without a path, for this machine alone.
    pub trees: u64,
    /// How many records and files are not what they were, or cannot be read.
    pub damaged: u64,
}

impl DiskStore {
    /// Makes a new index for the store in this directory, which nobody has open, and puts the old one aside.
    pub fn rebuild_index(dir: &Path) -> Result<Rebuilt, OpenError> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::of(dir).map_err(OpenError::io(dir))?);
        if layout::check_version(&*disk, dir)? {
            return Err(OpenError::io(dir)(io::ErrorKind::NotFound.into()));
        }
        let lock = Lock::take(dir)?;
        private::close_store(dir).map_err(OpenError::io(dir))?;
        let (mut rebuilt, tops) = {
            let layout = Layout::of(disk.clone(), dir)?;
            replace_index(&layout)?
        };
        let store = Self::open_with(disk, dir, Some(lock), true)?;
        for top in tops {
            match store.commit_root(&top, false, None) {
                Ok(()) => rebuilt.trees += 1,
                // Something beneath it is gone, which `damaged` counts where it was found.
                Err(error) if error.lost().is_some() || matches!(error, StoreError::Tree { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(rebuilt)
    }
}

/// Writes a new index beside the old one, and then puts it in its place. Gives what is no part of anything else.
fn replace_index(layout: &Layout) -> Result<(Rebuilt, Vec<Root>), OpenError> {
    let path = layout.dir.join(REBUILT);
    match layout.disk.remove(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(OpenError::io(&path)(error)),
        _ => {}
    }
    let index = Index::open(layout.disk.clone(), path.clone())?;
    let mut rebuilding = Rebuilding { index, rebuilt: Rebuilt::default(), tops: Tops::default() };
    rebuilding.read_packs(layout)?;
    rebuilding.read_files(layout)?;
    let Rebuilding { index, mut rebuilt, tops } = rebuilding;
    drop(index);
    layout.sync()?;
    rebuilt.put_aside = match layout.away.put(&layout.index) {
        Ok(aside) => Some(aside),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(OpenError::io(&layout.index)(error)),
    };
    layout.disk.rename(&path, &layout.index).map_err(OpenError::io(&path))?;
    layout.sync()?;
    Ok((rebuilt, tops.roots()))
}

struct Rebuilding {
    index: Index,
    rebuilt: Rebuilt,
    tops: Tops,
}

impl Rebuilding {
    fn read_packs(&mut self, layout: &Layout) -> Result<(), StoreError> {
        for (pack, path) in Packs::all(&*layout.disk, &layout.packs)? {
            let mut take = |recovered| self.take(recovered);
            let read = Packs::read_whole(&*layout.disk, &path, pack, &mut take)?;
            match read {
                Some((end, damaged)) => {
                    self.rebuilt.damaged += damaged;
                    self.index.write(|transaction| {
                        transaction.open_table(tables::PACKS)?.insert(pack, end)?;
                        Ok(())
                    })?;
                }
                None => {
                    self.rebuilt.damaged += 1;
                    layout.away.put(&path).map_err(StoreError::io(path))?;
                }
            }
        }
        Ok(())
    }

    /// Takes in what was found in a pack.
    fn take(&mut self, recovered: Recovered) -> Result<(), StoreError> {
        let Recovered { blobs, directories, decoded, .. } = recovered;
        self.rebuilt.blobs += blobs.len() as u64;
        self.rebuilt.directories += directories.len() as u64;
        decoded.iter().for_each(|directory| self.tops.take(directory));
        self.index.write(|transaction| {
            let mut table = transaction.open_table(tables::BLOBS)?;
            for (digest, place) in &blobs {
                table.insert(digest.as_bytes(), &place.to_bytes())?;
            }
            let mut table = transaction.open_table(tables::DIRECTORIES)?;
            for (digest, place) in &directories {
                table.insert(digest.as_bytes(), &place.to_bytes())?;
            }
            Ok(())
        })
    }

    /// Reads the files of large blobs. One that is not what its name says is taken for one of which a part is here, when
    /// the store is opened.
    fn read_files(&mut self, layout: &Layout) -> Result<(), StoreError> {
        let large = Large::new(layout);
        let mut whole = Vec::new();
        let (index, rebuilt) = (&self.index, &mut self.rebuilt);
        let mut write = |whole: &mut Vec<(BlobDigest, BlobPlace)>| {
            rebuilt.blobs += whole.len() as u64;
            let written = index.write(|transaction| {
                let mut table = transaction.open_table(tables::BLOBS)?;
                for (digest, place) in whole.iter() {
                    table.insert(digest.as_bytes(), &place.to_bytes())?;
                }
                Ok(())
            });
            whole.clear();
            written
        };
        let damaged = large.read_all(|blob| {
            whole.push((blob.digest, BlobPlace { size: blob.size, kind: BlobKind::File }));
            if whole.len() >= FILES_AT_ONCE { write(&mut whole) } else { Ok(()) }
        })?;
        write(&mut whole)?;
        self.rebuilt.damaged += damaged;
        Ok(())
    }
}

/// Finds the Directories that are in no other.
#[derive(Default)]
struct Tops {
    all: BTreeMap<DirectoryDigest, Root>,
    inner: BTreeSet<DirectoryDigest>,
}

impl Tops {
    fn take(&mut self, directory: &Directory) {
        self.all.insert(directory.digest(), directory.node().into());
        for (_, node) in directory.iter() {
            if let Node::Directory { digest, .. } = node {
                self.inner.insert(*digest);
            }
        }
    }

    fn roots(mut self) -> Vec<Root> {
        self.inner.iter().for_each(|inner| drop(self.all.remove(inner)));
        self.all.into_values().collect()
    }
}
