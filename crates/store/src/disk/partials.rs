//! Blobs of which a part is here.
//!
//! Each has two files, named by its digest and the length that is claimed for it:
//!
//! ```text
//! partial/<hex>-<size>          groups where they belong; behind the claimed length the parents, where they belong
//! partial/<hex>-<size>.groups   8 bytes start, 8 bytes end of each run of groups that came, little-endian
//! ```
//!
//! Both are written before the keeper of a span is told that it is kept, the runs after the groups. So a process that is
//! killed loses nothing that it has told of. Neither is synced: after a restart each run is verified before it counts.

mod runs;
mod spans;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use firn_bao::{Groups, Outboard, Span, VerifiedSpan};
use firn_castore::BlobRef;

use self::spans::write_span;
pub(super) use self::spans::{read_parents, read_span};
use super::{
    away::{Away, is_no_file},
    large::parse_digest,
    layout::{Layout, check_room},
    vfs::{Access, Disk, DiskFile},
};
use crate::{StoreError, lock};

/// How many blobs may be partly here. Beyond, the one goes whose last span came longest ago.
const PARTIALS_MAX: usize = 4096;
/// How many groups are verified at a time after a crash: 1 MiB.
const READ_GROUPS: u64 = 64;

pub(super) struct Partials {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Where files are written that are to replace others.
    temp: PathBuf,
    away: Away,
    by_blob: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    /// By digest and length: a false length may well have true spans, but never all of them.
    entries: BTreeMap<BlobRef, Entry>,
    turn: u64,
}

struct Entry {
    partial: Arc<Mutex<Partial>>,
    /// When its last span came.
    turn: u64,
}

/// A blob of which a part is here.
#[derive(Default)]
struct Partial {
    state: Progress,
    groups: Groups,
    runs_bytes: u64,
}

#[derive(Default, PartialEq, Eq)]
enum Progress {
    /// There may be files of an earlier process, which nobody has looked into.
    #[default]
    Unread,
    Partly,
    /// It is whole, or was given up: its files are gone.
    Ended,
}

/// A blob of which a part was here.
pub(super) struct Taken(Arc<Mutex<Partial>>);

/// What comes of keeping a span.
pub(super) enum Kept {
    Partly,
    /// It was the last one.
    Whole,
}

impl Partials {
    /// Those that an earlier process has left.
    pub(super) fn open(layout: &Layout) -> Result<Self, StoreError> {
        let partials = Self {
            disk: layout.disk.clone(),
            dir: layout.partial.clone(),
            temp: layout.temp.clone(),
            away: layout.away.clone(),
            by_blob: Mutex::default(),
        };
        let names = partials.disk.list(&partials.dir).map_err(StoreError::io(&partials.dir))?;
        let mut by_blob = lock(&partials.by_blob);
        for name in names.iter().filter_map(|name| name.to_str()) {
            match parse_name(name.strip_suffix(runs::SUFFIX).unwrap_or(name)) {
                Some(blob) if by_blob.entries.len() < PARTIALS_MAX => {
                    by_blob.entries.entry(blob).or_insert_with(|| Entry { partial: Arc::default(), turn: 0 });
                }
                Some(_) => {
                    let path = partials.dir.join(name);
                    partials.away.clear(&path).map_err(StoreError::io(path))?;
                }
                None => {}
            }
        }
        drop(by_blob);
        Ok(partials)
    }

    pub(super) fn path(&self, blob: &BlobRef) -> PathBuf {
        self.dir.join(name(blob))
    }

    /// Takes back a blob that was whole, and that the process has ended before the index had it; it is verified when it is
    /// looked for. `false` where there is no room for it.
    pub(super) fn take_back(&self, blob: &BlobRef, file: &Path) -> Result<bool, StoreError> {
        let mut by_blob = lock(&self.by_blob);
        if by_blob.entries.len() >= PARTIALS_MAX && !by_blob.entries.contains_key(blob) {
            return Ok(false);
        }
        // In this order, so that it can be taken back once more where the process ends between the two.
        self.write_runs(blob, &[Span::whole(blob.size)])?;
        let path = self.path(blob);
        self.disk.rename(file, &path).map_err(StoreError::io(path))?;
        by_blob.entries.entry(*blob).or_insert_with(|| Entry { partial: Arc::default(), turn: 0 });
        Ok(true)
    }

    pub(super) fn all(&self) -> Vec<BlobRef> {
        lock(&self.by_blob).entries.keys().copied().collect()
    }

    /// Which groups are here.
    pub(super) fn groups(&self, blob: &BlobRef) -> Result<Vec<Span>, StoreError> {
        let Some(partial) = self.find(blob) else { return Ok(Vec::new()) };
        let mut partial = lock(&partial);
        self.recover(blob, &mut partial)?;
        Ok(partial.groups.spans())
    }

    /// Reads and verifies a span, if all of it is here. What turns out to be damaged is not here any more.
    pub(super) fn read(&self, blob: &BlobRef, span: Span) -> Result<Option<VerifiedSpan>, StoreError> {
        let Some(partial) = self.find(blob) else { return Ok(None) };
        {
            let mut partial = lock(&partial);
            self.recover(blob, &mut partial)?;
            if !partial.groups.covers(&span.groups()) {
                return Ok(None);
            }
        }
        let path = self.path(blob);
        let read = self.disk.open(&path, Access::Read).and_then(|file| read_span(&*file, blob.size, span));
        match read {
            Ok((bytes, parents)) => match VerifiedSpan::check(*blob, span, parents, bytes) {
                Ok(verified) => Ok(Some(verified)),
                Err(_) => {
                    lock(&partial).groups.remove(span.groups());
                    Ok(None)
                }
            },
            // It has become whole just now, and lies elsewhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                lock(&partial).groups.remove(span.groups());
                Ok(None)
            }
            Err(error) => Err(StoreError::io(path)(error)),
        }
    }

    /// Keeps a span. `publish` is called with the file of a blob that is whole, before anybody else is told so.
    pub(super) fn keep(
        &self,
        span: &VerifiedSpan,
        publish: impl FnOnce(&Path) -> Result<(), StoreError>,
    ) -> Result<Kept, StoreError> {
        let blob = span.blob();
        let partial = self.find_or_begin(&blob)?;
        let path = self.path(&blob);
        let is_new = {
            let mut partial = lock(&partial);
            self.recover(&blob, &mut partial)?;
            partial.state == Progress::Partly && !partial.groups.covers(&span.span().groups())
        };
        if is_new {
            check_room(&*self.disk, &path, span.bytes().len() as u64)?;
            let written = self.open_or_create(&path).and_then(|file| write_span(&*file, span));
            written.map_err(StoreError::io(&path))?;
        }
        let mut partial = lock(&partial);
        if partial.state == Progress::Ended {
            drop(partial);
            self.remove_late(&blob)?;
            return Ok(Kept::Partly);
        }
        if is_new {
            self.note_run(&blob, &mut partial, span.span().groups())?;
        }
        // All may have come before, and what was to be done then have failed.
        if !partial.groups.covers(&Span::whole(blob.size).groups()) {
            return Ok(Kept::Partly);
        }
        self.end_whole(&blob, partial, publish)?;
        Ok(Kept::Whole)
    }

    /// As [`Partials::keep`] for the last span, where all have come before and a process has ended, or something failed,
    /// before the blob was published. Tells whether it is so.
    pub(super) fn keep_found(
        &self,
        blob: &BlobRef,
        publish: impl FnOnce(&Path) -> Result<(), StoreError>,
    ) -> Result<bool, StoreError> {
        let Some(partial) = self.find(blob) else { return Ok(false) };
        let mut partial = lock(&partial);
        self.recover(blob, &mut partial)?;
        let is_whole = partial.groups.covers(&Span::whole(blob.size).groups());
        if partial.state == Progress::Ended || !is_whole {
            return Ok(false);
        }
        self.end_whole(blob, partial, publish)?;
        Ok(true)
    }

    /// Publishes a blob of which all groups are here.
    fn end_whole(
        &self,
        blob: &BlobRef,
        mut partial: MutexGuard<'_, Partial>,
        publish: impl FnOnce(&Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        publish(&self.path(blob))?;
        partial.state = Progress::Ended;
        drop(partial);
        // Since it may have been taken and begun anew meanwhile, whichever is there now ends too.
        self.remove(blob)?;
        self.remove_late(blob)
    }

    /// Removes the files of a blob that has ended: a span that came late may have made them anew.
    fn remove_late(&self, blob: &BlobRef) -> Result<(), StoreError> {
        // Nobody begins it anew as long as this is held.
        let by_blob = lock(&self.by_blob);
        match by_blob.entries.contains_key(blob) {
            true => Ok(()),
            false => self.remove_files(blob),
        }
    }

    /// Gives a blob up.
    pub(super) fn remove(&self, blob: &BlobRef) -> Result<(), StoreError> {
        match self.take(blob) {
            Some(taken) => self.end(blob, taken),
            None => Ok(()),
        }
    }

    /// Makes all of them absent, which are to be given up.
    pub(super) fn take_all(&self) -> Vec<(BlobRef, Taken)> {
        let entries = std::mem::take(&mut lock(&self.by_blob).entries);
        entries.into_iter().map(|(blob, entry)| (blob, Taken(entry.partial))).collect()
    }

    /// Makes a blob absent that is to be given up.
    pub(super) fn take(&self, blob: &BlobRef) -> Option<Taken> {
        lock(&self.by_blob).entries.remove(blob).map(|entry| Taken(entry.partial))
    }

    /// Removes the files of a blob that was taken.
    pub(super) fn end(&self, blob: &BlobRef, taken: Taken) -> Result<(), StoreError> {
        lock(&taken.0).state = Progress::Ended;
        self.remove_late(blob)
    }

    /// How much of the disk a blob that is partly here takes.
    pub(super) fn allocated_bytes(&self, blob: &BlobRef) -> u64 {
        let allocated = |path: PathBuf| {
            let file = self.disk.open(&path, Access::Read);
            file.and_then(|file| file.allocated_bytes()).unwrap_or(0)
        };
        allocated(self.path(blob)).saturating_add(allocated(self.groups_path(blob)))
    }

    fn remove_files(&self, blob: &BlobRef) -> Result<(), StoreError> {
        for path in [self.path(blob), self.groups_path(blob)] {
            match self.away.clear(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io(path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn find(&self, blob: &BlobRef) -> Option<Arc<Mutex<Partial>>> {
        lock(&self.by_blob).entries.get(blob).map(|entry| entry.partial.clone())
    }

    /// What is here of a blob; a new one where nothing is.
    fn find_or_begin(&self, blob: &BlobRef) -> Result<Arc<Mutex<Partial>>, StoreError> {
        let (partial, oldest) = {
            let mut by_blob = lock(&self.by_blob);
            by_blob.turn += 1;
            let turn = by_blob.turn;
            if let Some(entry) = by_blob.entries.get_mut(blob) {
                entry.turn = turn;
                return Ok(entry.partial.clone());
            }
            let mut oldest = None;
            if by_blob.entries.len() >= PARTIALS_MAX {
                oldest = by_blob.entries.iter().min_by_key(|(_, entry)| entry.turn).map(|(blob, _)| *blob);
            }
            let partial = Arc::new(Mutex::new(Partial { state: Progress::Partly, ..Partial::default() }));
            by_blob.entries.insert(*blob, Entry { partial: partial.clone(), turn });
            (partial, oldest)
        };
        if let Some(oldest) = oldest {
            self.remove(&oldest)?;
        }
        Ok(partial)
    }

    fn open_or_create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        for _ in 0..2 {
            match self.disk.open(path, Access::Write) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if is_no_file(&error) => self.away.clear(path)?,
                opened => return opened,
            }
            match self.disk.open(path, Access::CreateNew) {
                // Another thread was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                created => return created,
            }
        }
        self.disk.open(path, Access::Write)
    }

    /// Finds out what an earlier process has left of a blob.
    fn recover(&self, blob: &BlobRef, partial: &mut Partial) -> Result<(), StoreError> {
        if partial.state != Progress::Unread {
            return Ok(());
        }
        let path = self.path(blob);
        let (claimed, runs_bytes) = self.read_runs(blob)?;
        match self.disk.open(&path, Access::Read) {
            Ok(file) => {
                for span in claimed.spans().into_iter().flat_map(|run| run.pieces(READ_GROUPS)) {
                    if is_right(&*file, blob, span) {
                        partial.groups.insert(span.groups());
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_no_file(&error) => {}
            Err(error) => return Err(StoreError::io(path)(error)),
        }
        partial.runs_bytes = runs_bytes;
        if partial.groups != claimed {
            // So that what is damaged is not looked at again.
            partial.runs_bytes = self.write_runs(blob, &partial.groups.spans())?;
        }
        partial.state = Progress::Partly;
        Ok(())
    }
}

fn is_right(file: &dyn DiskFile, blob: &BlobRef, span: Span) -> bool {
    read_span(file, blob.size, span)
        .is_ok_and(|(bytes, parents)| VerifiedSpan::check(*blob, span, parents, bytes).is_ok())
}

fn name(blob: &BlobRef) -> String {
    format!("{}-{}", blob.digest, blob.size)
}

fn parse_name(text: &str) -> Option<BlobRef> {
    let (hex, size) = text.split_once('-')?;
    let blob = BlobRef { digest: parse_digest(hex)?, size: size.parse().ok()? };
    let fits =
        Outboard::byte_length(blob.size) < u64::MAX - blob.size && blob.size <= firn_bao::BLOB_BYTES_MAX;
    (fits && name(&blob) == text).then_some(blob)
}
