//! Packs: append-only files of many small things.
//!
//! Records are gathered in memory and written in large pieces. Nothing refers to a record before [`Packs::flush`] has
//! written it, but for what this process remembers of what waits; the index refers to it only after a sync. So what
//! lies behind the last durable record of the last pack is garbage, and is written over.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use super::{
    layout::check_room,
    place::{PACK_HEAD, PACK_HEAD_BYTES, Position},
    vfs::{Access, Disk, DiskFile},
};
use crate::{StoreError, lock};

/// A pack that has come to this length is not written to any more.
const PACK_BYTES_FULL: u32 = 128 << 20;
/// So much is gathered before it is written.
const BUFFER_BYTES: usize = 512 << 10;
/// The longest record.
pub(super) const RECORD_BYTES_MAX: u64 = 1 << 30;
/// How many packs are open for reading.
const OPEN_MAX: usize = 64;
/// With so many packs to be synced, they are: each of them is open.
const DIRTY_MAX: usize = 8;

pub(super) struct Packs {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    tail: Mutex<Tail>,
    open: Mutex<Open>,
}

/// The pack that is written to.
struct Tail {
    pack: u32,
    /// `None` until something is written to it.
    file: Option<Arc<dyn DiskFile>>,
    /// How much of it is in the file.
    written: u32,
    buffer: Vec<u8>,
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
    file: Arc<dyn DiskFile>,
}

#[derive(Default)]
struct Open {
    files: BTreeMap<u32, (u64, Arc<dyn DiskFile>)>,
    turn: u64,
}

/// What [`Packs::flush`] has written and is not durable yet.
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
    /// The packs of a store whose index has these ends. Packs that the index does not have are removed.
    ///
    /// `was_left`: there may be garbage behind any of these ends, which is cut off. Else it is behind the last at most.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        ends: &BTreeMap<u32, u32>,
        was_left: bool,
    ) -> Result<Self, StoreError> {
        for name in disk.list(&dir).map_err(StoreError::io(&dir))? {
            let Some(pack) = parse_name(&name) else { continue };
            let path = dir.join(&name);
            match ends.get(&pack) {
                None => disk.remove(&path).map_err(StoreError::io(path))?,
                Some(end) if was_left => {
                    // A pack that cannot be cut is told of when it is read; garbage behind it does no harm.
                    let _ = disk.open(&path, Access::Write).and_then(|file| cut(&*file, *end));
                }
                Some(_) => {}
            }
        }
        let (pack, written) = match ends.last_key_value() {
            Some((pack, end)) if *end < PACK_BYTES_FULL => (*pack, *end),
            Some((pack, _)) => (pack.saturating_add(1), 0),
            None => (1, 0),
        };
        let made = ends.last_key_value().map_or(0, |(pack, _)| *pack);
        let mut tail = Tail { pack, written, made, named: made, ..Tail::default() };
        let packs = Self { disk, dir, tail: Mutex::default(), open: Mutex::default() };
        if written > 0 && packs.reopen_tail(&mut tail).is_err() {
            // It is damaged, which whoever reads it will be told. Nothing more is put into it.
            tail.skip();
        }
        *lock(&packs.tail) = tail;
        Ok(packs)
    }

    fn reopen_tail(&self, tail: &mut Tail) -> io::Result<()> {
        let file = self.disk.open(&self.path(tail.pack), Access::Write)?;
        if file.size()? < u64::from(tail.written) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        cut(&*file, tail.written)?;
        tail.file = Some(file);
        Ok(())
    }

    pub(super) fn path(&self, pack: u32) -> PathBuf {
        self.dir.join(name(pack))
    }

    /// Takes in a record, given in parts. It can be read by [`Packs::read_waiting`] until it is flushed, and by
    /// [`Packs::read`] then.
    pub(super) fn append(&self, parts: &[&[u8]]) -> Result<Position, StoreError> {
        let bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let mut tail = lock(&self.tail);
        if bytes > RECORD_BYTES_MAX {
            return Err(StoreError::io(self.path(tail.pack))(io::ErrorKind::FileTooLarge.into()));
        }
        if tail.end() >= PACK_BYTES_FULL {
            self.flush_tail(&mut tail)?;
            tail.skip();
        }
        if tail.end() == 0 {
            tail.buffer.extend_from_slice(PACK_HEAD);
        }
        let position = Position { pack: tail.pack, offset: tail.end() };
        let before = tail.buffer.len();
        for part in parts {
            tail.buffer.extend_from_slice(part);
        }
        if tail.buffer.len() >= BUFFER_BYTES {
            // What others have put in stays, and is written when there is room again.
            self.flush_tail(&mut tail).inspect_err(|_| tail.buffer.truncate(before))?;
        }
        Ok(position)
    }

    /// Writes what was gathered, and tells what has to be made durable.
    pub(super) fn flush(&self) -> Result<Dirty, StoreError> {
        let mut tail = lock(&self.tail);
        self.flush_tail(&mut tail)?;
        Ok(Dirty { packs: tail.dirty.clone(), made: tail.made, has_new: tail.made > tail.named })
    }

    fn flush_tail(&self, tail: &mut Tail) -> Result<(), StoreError> {
        if tail.buffer.is_empty() {
            return Ok(());
        }
        let path = self.path(tail.pack);
        check_room(&*self.disk, &path, tail.buffer.len() as u64)?;
        let file = match &tail.file {
            Some(file) => file.clone(),
            None => {
                let file = self.disk.open(&path, Access::CreateNew).map_err(StoreError::io(&path))?;
                tail.made = tail.pack;
                tail.file = Some(file.clone());
                file
            }
        };
        file.write_all_at(&tail.buffer, u64::from(tail.written)).map_err(StoreError::io(&path))?;
        tail.written = tail.end();
        tail.buffer.clear();
        let (pack, end) = (tail.pack, tail.written);
        tail.dirty.insert(pack, DirtyPack { end, file });
        Ok(())
    }

    /// Makes durable what was flushed. Names of new packs are not: see [`Dirty::has_new`].
    pub(super) fn sync(&self, dirty: &Dirty) -> Result<(), StoreError> {
        let mut packs = dirty.packs.iter();
        packs.try_for_each(|(pack, dirty)| dirty.file.sync().map_err(StoreError::io(self.path(*pack))))
    }

    /// Whether there is so much to be synced that it should be.
    pub(super) fn are_dirty(&self) -> bool {
        lock(&self.tail).dirty.len() >= DIRTY_MAX
    }

    /// To be told once what was dirty is durable.
    pub(super) fn is_durable(&self, dirty: &Dirty) {
        let mut tail = lock(&self.tail);
        tail.dirty.retain(|pack, now| dirty.packs.get(pack).is_none_or(|durable| durable.end < now.end));
        tail.named = tail.named.max(dirty.made);
    }

    /// Gives up all that is not durable, after a sync has failed: a new pack is begun.
    pub(super) fn give_up(&self) {
        let mut tail = lock(&self.tail);
        tail.skip();
        tail.dirty.clear();
        tail.failures += 1;
    }

    /// Cuts off what lies behind these ends, and removes packs that have none, but for the one that is written to. Gives
    /// how many bytes went. To be called where nothing refers to anything else.
    pub(super) fn cut(&self, ends: &BTreeMap<u32, u32>) -> Result<u64, StoreError> {
        let tail = lock(&self.tail);
        let mut sum = 0u64;
        for name in self.disk.list(&self.dir).map_err(StoreError::io(&self.dir))? {
            let Some(pack) = parse_name(&name).filter(|pack| *pack < tail.pack) else { continue };
            let path = self.path(pack);
            let end = ends.get(&pack).copied();
            let file = self.disk.open(&path, Access::Write).map_err(StoreError::io(&path))?;
            let bytes = cut(&*file, end.unwrap_or(0)).map_err(StoreError::io(&path))?;
            sum = sum.saturating_add(bytes);
            if end.is_none() {
                self.disk.remove(&path).map_err(StoreError::io(&path))?;
            }
        }
        Ok(sum)
    }

    /// How often what was not durable was given up. Where this has changed, what was appended before may be gone.
    pub(super) fn failures(&self) -> u64 {
        lock(&self.tail).failures
    }

    /// Begins the next pack.
    pub(super) fn begin_next(&self) -> Result<(), StoreError> {
        let mut tail = lock(&self.tail);
        self.flush_tail(&mut tail)?;
        tail.skip();
        Ok(())
    }

    /// The pack that is written to.
    pub(super) fn tail(&self) -> u32 {
        lock(&self.tail).pack
    }

    /// Reads from a record that may wait to be written: `None` if it does not.
    pub(super) fn read_waiting(&self, position: Position, skip: u64, buffer: &mut [u8]) -> Option<()> {
        let tail = lock(&self.tail);
        if tail.pack != position.pack || position.offset < tail.written {
            return None;
        }
        let start = usize::try_from(u64::from(position.offset - tail.written).checked_add(skip)?).ok()?;
        let waiting = tail.buffer.get(start..start.checked_add(buffer.len())?)?;
        buffer.copy_from_slice(waiting);
        Some(())
    }

    /// As [`Packs::read_waiting`], but for less where nothing follows yet; tells how much.
    pub(super) fn read_some_waiting(&self, position: Position, buffer: &mut [u8]) -> Option<usize> {
        let tail = lock(&self.tail);
        if tail.pack != position.pack || position.offset < tail.written {
            return None;
        }
        let waiting = tail.buffer.get((position.offset - tail.written) as usize..)?;
        let read = waiting.len().min(buffer.len());
        buffer[..read].copy_from_slice(&waiting[..read]);
        Some(read)
    }

    /// Reads from a record, `skip` bytes after its beginning. It fails with `UnexpectedEof` where the pack ends before.
    pub(super) fn read(&self, position: Position, skip: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file(position.pack)?.read_exact_at(buffer, u64::from(position.offset).saturating_add(skip))
    }

    /// As [`Packs::read`], but for less where the pack ends before; tells how much.
    pub(super) fn read_some(&self, position: Position, buffer: &mut [u8]) -> io::Result<usize> {
        let file = self.file(position.pack)?;
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], u64::from(position.offset) + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn file(&self, pack: u32) -> io::Result<Arc<dyn DiskFile>> {
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
        match self.disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io(path)(error)),
            _ => Ok(()),
        }
    }

    /// How much of the disk all packs take.
    pub(super) fn allocated_bytes(&self) -> Result<u64, StoreError> {
        let mut sum = 0u64;
        for name in self.disk.list(&self.dir).map_err(StoreError::io(&self.dir))? {
            let Some(pack) = parse_name(&name) else { continue };
            let path = self.path(pack);
            let file = self.disk.open(&path, Access::Read).map_err(StoreError::io(&path))?;
            sum = sum.saturating_add(file.allocated_bytes().map_err(StoreError::io(&path))?);
        }
        Ok(sum)
    }
}

impl Default for Tail {
    fn default() -> Self {
        let (buffer, dirty) = (Vec::new(), BTreeMap::new());
        Self { pack: 1, file: None, written: 0, buffer, dirty, made: 0, named: 0, failures: 0 }
    }
}

impl Tail {
    /// Where the next record begins.
    fn end(&self) -> u32 {
        // A pack grows past its full length by one record at most.
        self.written.saturating_add(self.buffer.len() as u32)
    }

    /// Begins the next pack.
    fn skip(&mut self) {
        self.pack = self.pack.saturating_add(1);
        self.file = None;
        self.written = 0;
        self.buffer.clear();
    }
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

const _: () = assert!(PACK_BYTES_FULL as u64 + RECORD_BYTES_MAX < u32::MAX as u64 && PACK_HEAD_BYTES == 16);
