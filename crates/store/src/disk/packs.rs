//! Packs: append-only files of many small things.
//!
//! A record is in the file when [`Packs::append_many`] returns, so it outlives the process; the index refers to it only after
//! a sync. What lies behind the last end that the index has is [recovered](recover) on opening as far as it is sound, and
//! written over from there on.

mod gather;
mod recover;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use bytes::Bytes;

pub(super) use self::{gather::Gathered, recover::Recovered};
use super::{
    away::{Away, is_out_of_reach},
    layout::check_room,
    place::{PACK_HEAD_BYTES, Position},
    vfs::{Access, Disk, DiskFile},
};
use crate::{StoreError, lock};

/// A pack that has come to this length is not written to any more.
const PACK_BYTES_FULL: u32 = 128 << 20;
/// The longest record.
pub(super) const RECORD_BYTES_MAX: u64 = 1 << 30;
/// How many packs are open for reading.
const OPEN_MAX: usize = 64;
/// With so many packs to be synced, they are: each of them is open.
const DIRTY_MAX: usize = 8;

pub(super) struct Packs {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    away: Away,
    tail: Mutex<Tail>,
    open: Mutex<Open>,
}

/// The pack that is written to.
struct Tail {
    pack: u32,
    /// `None` until something is written to it.
    file: Option<Arc<dyn DiskFile>>,
    /// Where its last record ends, and the next begins.
    end: u32,
    /// The packs that were written to since the last sync.
    dirty: BTreeMap<u32, DirtyPack>,
    /// The last pack that was made.
    made: u32,
    /// The last pack whose name is durable.
    named: u32,
    /// How often what was not durable was given up.
    failures: u64,
}

/// A pack that was written to. It stays open: a failure to write that nobody was told of yet is forgotten with the file.
#[derive(Clone)]
struct DirtyPack {
    end: u32,
    /// Where it ended when it was synced last; 0 for a new one.
    synced_end: u32,
    file: Arc<dyn DiskFile>,
}

#[derive(Default)]
struct Open {
    files: BTreeMap<u32, (u64, Arc<dyn DiskFile>)>,
    turn: u64,
}

/// What was written and is not durable yet.
#[derive(Clone, Default)]
pub(super) struct Dirty {
    packs: BTreeMap<u32, DirtyPack>,
    /// The last pack that was made.
    made: u32,
    /// Whether the names of files have to be made durable too.
    pub(super) has_new: bool,
}

impl Dirty {
    /// Where each pack ends.
    pub(super) fn ends(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.packs.iter().map(|(pack, dirty)| (*pack, dirty.end))
    }
}

impl Packs {
    pub(super) fn path(&self, pack: u32) -> PathBuf {
        self.dir.join(name(pack))
    }

    /// Writes a record, given in parts.
    pub(super) fn append(&self, parts: &[&[u8]]) -> Result<Position, StoreError> {
        let mut gathered = Gathered::new();
        gathered.push(parts);
        let positions = self.append_many(&gathered)?;
        Ok(positions.into_iter().next().expect("each record has its position, and there is one"))
    }

    /// Writes all of these records with one write; gives where each of them begins.
    pub(super) fn append_many(&self, gathered: &Gathered) -> Result<Vec<Position>, StoreError> {
        if gathered.starts().is_empty() {
            return Ok(Vec::new());
        }
        let mut tail = lock(&self.tail);
        if tail.end >= PACK_BYTES_FULL {
            tail.skip();
        }
        let path = self.path(tail.pack);
        if gathered.longest() > RECORD_BYTES_MAX {
            return Err(StoreError::io(path)(io::ErrorKind::FileTooLarge.into()));
        }
        let is_new = tail.end == 0;
        let written = if is_new { gathered.with_head() } else { gathered.records() };
        check_room(&*self.disk, &path, written.len() as u64)?;
        let file = match &tail.file {
            Some(file) => file.clone(),
            None => {
                let file = self.disk.open(&path, Access::CreateNew).map_err(StoreError::io(&path))?;
                tail.made = tail.pack;
                tail.file = Some(file.clone());
                file
            }
        };
        // What was written in part is written over by the next.
        file.write_all_at(written, u64::from(tail.end)).map_err(StoreError::io(&path))?;
        let (pack, synced_end) = (tail.pack, tail.end);
        // A pack grows past its full length by what is gathered and one record at most.
        tail.end = tail.end.saturating_add(written.len() as u32);
        let end = tail.end;
        tail.dirty.entry(pack).or_insert(DirtyPack { end, synced_end, file }).end = end;
        let begin = if is_new { PACK_HEAD_BYTES } else { synced_end };
        let position = |start: &u32| Position { pack, offset: begin.saturating_add(*start) };
        Ok(gathered.starts().iter().map(position).collect())
    }

    /// What has to be made durable.
    pub(super) fn dirty(&self) -> Dirty {
        let tail = lock(&self.tail);
        Dirty { packs: tail.dirty.clone(), made: tail.made, has_new: tail.made > tail.named }
    }

    /// Makes this durable. Names of new packs are not: see [`Dirty::has_new`].
    pub(super) fn sync(&self, dirty: &Dirty) -> Result<(), StoreError> {
        let mut packs = dirty.packs.iter();
        packs.try_for_each(|(pack, dirty)| dirty.file.sync().map_err(StoreError::io(self.path(*pack))))
    }

    /// Whether there is so much to be synced that it should be.
    pub(super) fn are_dirty(&self) -> bool {
        lock(&self.tail).dirty.len() >= DIRTY_MAX
    }

    /// To be told once this has been synced: it may come to the index from here on, and is not cut off any more.
    pub(super) fn is_synced(&self, dirty: &Dirty) {
        let mut tail = lock(&self.tail);
        for (pack, synced) in &dirty.packs {
            if let Some(now) = tail.dirty.get_mut(pack) {
                now.synced_end = now.synced_end.max(synced.end);
            }
        }
    }

    /// To be told once what was dirty is durable, and the index has the ends of the packs.
    pub(super) fn is_durable(&self, dirty: &Dirty) {
        let mut tail = lock(&self.tail);
        tail.dirty.retain(|pack, now| dirty.packs.get(pack).is_none_or(|durable| durable.end < now.end));
        tail.named = tail.named.max(dirty.made);
    }

    /// Gives up all that is not durable, after a sync has failed: a new pack is begun. Gives how many bytes went.
    pub(super) fn give_up(&self) -> u64 {
        let mut tail = lock(&self.tail);
        // Else the next process would find it, whole in memory as it may be, and take it for something that a sync will
        // make durable. What cannot be cut off now goes with the next opening, unless that finds it sound.
        let cut = |dirty: &DirtyPack| cut(&*dirty.file, dirty.synced_end).unwrap_or(0);
        let bytes = std::mem::take(&mut tail.dirty).values().map(cut).fold(0, u64::saturating_add);
        tail.skip();
        tail.failures += 1;
        bytes
    }

    /// Cuts off what lies behind these ends, and removes packs that have none, but for the one that is written to. Gives
    /// how many bytes went. To be called where nothing refers to anything else.
    pub(super) fn cut(&self, ends: &BTreeMap<u32, u32>) -> Result<u64, StoreError> {
        let tail = lock(&self.tail);
        let mut sum = 0u64;
        for pack in self.list()?.into_iter().filter(|pack| *pack < tail.pack) {
            let path = self.path(pack);
            let end = ends.get(&pack).copied();
            match self.disk.open(&path, Access::Write) {
                Ok(file) => {
                    let bytes = cut(&*file, end.unwrap_or(0)).map_err(StoreError::io(&path))?;
                    sum = sum.saturating_add(bytes);
                }
                Err(error) if is_out_of_reach(&error) => {}
                Err(error) => return Err(StoreError::io(path)(error)),
            }
            if end.is_none() {
                self.remove_file(pack)?;
            }
        }
        Ok(sum)
    }

    /// All packs that are there, in order.
    fn list(&self) -> Result<BTreeSet<u32>, StoreError> {
        Ok(Self::all(&*self.disk, &self.dir)?.into_iter().map(|(pack, _)| pack).collect())
    }

    fn remove_file(&self, pack: u32) -> Result<(), StoreError> {
        let path = self.path(pack);
        self.away.clear(&path).map_err(StoreError::io(path))
    }

    /// How often what was not durable was given up. Where this has changed, what was appended before may be gone.
    pub(super) fn failures(&self) -> u64 {
        lock(&self.tail).failures
    }

    /// Begins the next pack.
    pub(super) fn begin_next(&self) {
        lock(&self.tail).skip();
    }

    /// The pack that is written to.
    pub(super) fn tail(&self) -> u32 {
        lock(&self.tail).pack
    }

    /// Reads from a record, `skip` bytes after its beginning. It fails with `UnexpectedEof` where the pack ends before.
    pub(super) fn read(&self, position: Position, skip: u64, bytes: usize) -> io::Result<Bytes> {
        self.file(position.pack)?.read_bytes_at(bytes, u64::from(position.offset).saturating_add(skip))
    }

    /// As [`Packs::read`], but for less where the pack ends before; tells how much.
    pub(super) fn read_some(&self, position: Position, buffer: &mut [u8]) -> io::Result<usize> {
        read_some(&*self.file(position.pack)?, u64::from(position.offset), buffer)
    }

    /// A pack, to be read from. It fails with `NotFound` where there is none.
    pub(super) fn file(&self, pack: u32) -> io::Result<Arc<dyn DiskFile>> {
        {
            let mut open = lock(&self.open);
            open.turn += 1;
            let turn = open.turn;
            if let Some((used, file)) = open.files.get_mut(&pack) {
                *used = turn;
                return Ok(file.clone());
            }
        }
        let file = self.disk.open(&self.path(pack), Access::Read)?;
        let mut open = lock(&self.open);
        if open.files.len() >= OPEN_MAX {
            let oldest = open.files.iter().min_by_key(|(_, (used, _))| *used).map(|(pack, _)| *pack);
            oldest.and_then(|pack| open.files.remove(&pack));
        }
        let turn = open.turn;
        open.files.insert(pack, (turn, file.clone()));
        Ok(file)
    }

    /// Removes a pack that nothing refers to any more.
    pub(super) fn remove(&self, pack: u32) -> Result<(), StoreError> {
        lock(&self.open).files.remove(&pack);
        lock(&self.tail).dirty.remove(&pack);
        let path = self.path(pack);
        match self.away.clear(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io(path)(error)),
            _ => Ok(()),
        }
    }

    /// How much of the disk all packs take.
    pub(super) fn allocated_bytes(&self) -> Result<u64, StoreError> {
        let mut sum = 0u64;
        for pack in self.list()? {
            let path = self.path(pack);
            match self.disk.open(&path, Access::Read).and_then(|file| file.allocated_bytes()) {
                Ok(bytes) => sum = sum.saturating_add(bytes),
                // Whoever reads from it is told.
                Err(error) if is_out_of_reach(&error) => {}
                Err(error) => return Err(StoreError::io(path)(error)),
            }
        }
        Ok(sum)
    }
}

impl Default for Tail {
    fn default() -> Self {
        Self { pack: 1, file: None, end: 0, dirty: BTreeMap::new(), made: 0, named: 0, failures: 0 }
    }
}

impl Tail {
    /// Begins the next pack.
    fn skip(&mut self) {
        self.pack = self.pack.saturating_add(1);
        self.file = None;
        self.end = 0;
    }
}

/// Reads until the buffer is full or the file ends; tells how much.
fn read_some(file: &dyn DiskFile, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Cuts a file to this length; gives how much it was longer.
fn cut(file: &dyn DiskFile, end: u32) -> io::Result<u64> {
    let more = file.size()?.saturating_sub(u64::from(end));
    if more > 0 {
        file.set_size(u64::from(end))?;
    }
    Ok(more)
}

fn name(pack: u32) -> String {
    format!("{pack:08x}")
}

fn parse_name(text: &OsString) -> Option<u32> {
    let text = text.to_str()?;
    let pack = u32::from_str_radix(text, 16).ok()?;
    (name(pack) == text && pack >= 1).then_some(pack)
}

const _: () = assert!(
    PACK_BYTES_FULL as u64 + gather::GATHER_BYTES as u64 + RECORD_BYTES_MAX < u32::MAX as u64
        && PACK_HEAD_BYTES == 16
);
