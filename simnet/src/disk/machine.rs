//! What a fake disk does with one call.

use std::{collections::BTreeMap, ffi::OsString, io, path::Path};

use firn_store::Access;

use super::{
    contents::{Contents, Survival},
    faults::{Call, FaultKind, Flaw, Plan},
    names::{Entry, Names},
};
use crate::dice::Dice;

/// How many bytes fit.
const CAPACITY_BYTES: u64 = 1 << 30;
/// With more than this not synced, the disk writes a file back by itself, as systems do.
const UNSYNCED_BYTES_MAX: usize = 64 << 20;
/// Of a hundred reads so many give less than they could.
const SHORT_READS_PERCENT: u64 = 3;
/// Linux's number of an I/O error.
const EIO: i32 = 5;
/// Linux's number of a full disk.
const ENOSPC: i32 = 28;

fn eio() -> io::Error {
    io::Error::from_raw_os_error(EIO)
}

fn enospc() -> io::Error {
    io::Error::from_raw_os_error(ENOSPC)
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) names: Names,
    pub(super) files: BTreeMap<u64, Contents>,
    next_file: u64,
    unsynced_bytes: usize,
    pub(super) dice: Dice,
    pub(super) calls: u64,
    pub(super) plan: Plan,
    pub(super) flaw: Option<Flaw>,
    pub(super) has_ended: bool,
    /// A call has gone wrong, other than by the end.
    pub(super) has_failed: bool,
    /// The calls that went wrong, in words.
    pub(super) events: Vec<String>,
}

/// What is to happen to a call.
enum Fate {
    Done,
    /// It is done in part, or not at all, and fails with this.
    Fails(io::Error),
    /// It is done, but there is nobody left to be told.
    Last,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            names: Names::new(),
            files: BTreeMap::new(),
            next_file: 0,
            unsynced_bytes: 0,
            dice: Dice::new(seed),
            calls: 0,
            plan: Plan::default(),
            flaw: None,
            has_ended: false,
            has_failed: false,
            events: Vec::new(),
        }
    }

    /// Ends the process. What it leaves, for the next one to see after [`State::settle`].
    pub(super) fn end(&mut self, seed: u64) -> Self {
        self.has_ended = true;
        Self {
            names: std::mem::take(&mut self.names),
            files: std::mem::take(&mut self.files),
            next_file: self.next_file,
            flaw: self.flaw,
            ..Self::new(seed)
        }
    }

    /// Forgets the files that had no name but a handle.
    pub(super) fn settle(mut self) -> Self {
        let reachable = self.names.reachable();
        self.files.retain(|file, _| reachable.contains(file));
        self.unsynced_bytes = self.files.values().map(Contents::unsynced_bytes).sum();
        self
    }

    /// The errors that stand in no plan come after this one.
    fn check_alive(&self) -> io::Result<()> {
        if self.has_ended { Err(eio()) } else { Ok(()) }
    }

    /// Counts a call. A process that has ended is told so.
    fn fate(&mut self, call: Call, path: &Path) -> io::Result<Fate> {
        self.check_alive()?;
        self.calls += 1;
        if self.plan.ends_at.is_some_and(|end| self.calls >= end) {
            self.has_ended = true;
            self.tell("the end", call, path);
            return Ok(Fate::Last);
        }
        let fault = self.plan.fault(self.calls, call);
        self.has_failed |= fault.is_some();
        Ok(match fault {
            None => Fate::Done,
            Some(FaultKind::NoSpace) => {
                self.tell("no space", call, path);
                Fate::Fails(enospc())
            }
            Some(FaultKind::Read | FaultKind::Write | FaultKind::Sync) => {
                self.tell("an I/O error", call, path);
                Fate::Fails(eio())
            }
        })
    }

    fn tell(&mut self, what: &str, call: Call, path: &Path) {
        self.events.push(format!("disk call {}: {what} ({call:?} {})", self.calls, path.display()));
    }

    /// For a call that only looks.
    pub(super) fn look(&mut self, path: &Path) -> io::Result<()> {
        match self.fate(Call::Read, path)? {
            Fate::Done => Ok(()),
            Fate::Fails(error) => Err(error),
            Fate::Last => Err(eio()),
        }
    }

    /// For a change of names: it is done or not.
    fn change(&mut self, call: Call, path: &Path, change: impl FnOnce(&mut Names)) -> io::Result<()> {
        match self.fate(call, path)? {
            Fate::Done => {
                change(&mut self.names);
                Ok(())
            }
            Fate::Fails(error) => Err(error),
            Fate::Last => {
                change(&mut self.names);
                Err(eio())
            }
        }
    }

    fn file_named(&self, path: &Path) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Entry::File(file)) => Ok(file),
            Some(Entry::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn contents(&mut self, file: u64) -> &mut Contents {
        self.files.entry(file).or_default()
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.files.values().map(|contents| contents.current().len() as u64).sum()
    }

    pub(super) fn write(&mut self, file: u64, path: &Path, bytes: &[u8], offset: u64) -> io::Result<()> {
        let fate = self.fate(Call::Grow, path)?;
        let end = offset.saturating_add(bytes.len() as u64);
        let at = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let grown = end.saturating_sub(self.contents(file).current().len() as u64);
        let fate = match fate {
            Fate::Done if self.used_bytes().saturating_add(grown) > CAPACITY_BYTES => Fate::Fails(enospc()),
            fate => fate,
        };
        let (done, result) = match fate {
            Fate::Done => (bytes.len(), Ok(())),
            Fate::Last => (bytes.len(), Err(eio())),
            Fate::Fails(error) => (self.dice.between(0..bytes.len() as u64 + 1) as usize, Err(error)),
        };
        self.contents(file).write(at, &bytes[..done]);
        self.unsynced_bytes += done;
        self.write_back();
        result
    }

    /// Makes files durable while there is too much that is not.
    fn write_back(&mut self) {
        if self.unsynced_bytes > UNSYNCED_BYTES_MAX {
            self.files.values_mut().for_each(Contents::sync);
            self.unsynced_bytes = 0;
        }
    }

    pub(super) fn set_size(&mut self, file: u64, path: &Path, size: u64) -> io::Result<()> {
        let fate = self.fate(Call::Grow, path)?;
        if size > CAPACITY_BYTES {
            return Err(enospc());
        }
        let (done, result) = match fate {
            Fate::Done => (size, Ok(())),
            Fate::Last => (size, Err(eio())),
            Fate::Fails(error) => return Err(error),
        };
        self.contents(file).set_size(done as usize);
        result
    }

    pub(super) fn sync_file(&mut self, file: u64, path: &Path) -> io::Result<()> {
        match self.fate(Call::Sync, path)? {
            Fate::Done if self.flaw != Some(Flaw::NoFileSync) => self.contents(file).sync(),
            Fate::Done => {}
            Fate::Fails(error) => {
                let survival = Survival::any(&mut self.dice);
                if let Some(contents) = self.files.get_mut(&file) {
                    contents.fail_to_sync(&mut self.dice, survival);
                }
                return Err(error);
            }
            Fate::Last => return Err(eio()),
        }
        Ok(())
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        match self.fate(Call::Sync, Path::new("/"))? {
            Fate::Done if self.flaw == Some(Flaw::NoDiskSync) => return Ok(()),
            Fate::Done => {
                self.names.sync();
                self.files.values_mut().for_each(Contents::sync);
            }
            Fate::Fails(error) => {
                // Names are not lost by this: a file system that cannot write them takes no more changes at all.
                for contents in self.files.values_mut() {
                    let survival = Survival::any(&mut self.dice);
                    contents.fail_to_sync(&mut self.dice, survival);
                }
                return Err(error);
            }
            Fate::Last => return Err(eio()),
        }
        self.unsynced_bytes = 0;
        Ok(())
    }

    pub(super) fn open(&mut self, path: &Path, access: Access) -> io::Result<u64> {
        if access != Access::CreateNew {
            self.look(path)?;
            return self.file_named(path);
        }
        self.check_alive()?;
        if !self.names.has_parent(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if self.names.get(path).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = self.next_file;
        self.next_file += 1;
        self.files.insert(file, Contents::default());
        self.change(Call::Grow, path, |names| names.make(path, Entry::File(file)))?;
        Ok(file)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.check_alive()?;
        let file = self.file_named(from)?;
        if !self.names.has_parent(to) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if self.names.get(to) == Some(Entry::Dir) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        self.change(Call::Grow, to, |names| names.rename(from, to, file))
    }

    pub(super) fn create_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.check_alive()?;
        match self.names.get(dir) {
            Some(Entry::Dir) => self.look(dir),
            Some(Entry::File(_)) => Err(io::ErrorKind::AlreadyExists.into()),
            None if !self.names.has_parent(dir) => Err(io::ErrorKind::NotFound.into()),
            None => self.change(Call::Grow, dir, |names| names.make(dir, Entry::Dir)),
        }
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.check_alive()?;
        let file = self.file_named(path)?;
        self.change(Call::Change, path, |names| names.remove(path, file))
    }

    pub(super) fn list(&mut self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.look(dir)?;
        if self.names.get(dir) != Some(Entry::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut names = self.names.list(dir);
        // In an order that nobody may count on.
        let middle = self.dice.between(0..names.len().max(1) as u64) as usize;
        names.rotate_left(middle);
        Ok(names)
    }

    pub(super) fn free_bytes(&mut self) -> io::Result<u64> {
        self.look(Path::new("/"))?;
        if self.plan.full_from.is_some_and(|from| self.calls >= from) {
            self.tell("no space", Call::Read, Path::new("/"));
            self.has_failed = true;
            return Ok(0);
        }
        Ok(CAPACITY_BYTES.saturating_sub(self.used_bytes()))
    }

    pub(super) fn size(&mut self, file: u64, path: &Path) -> io::Result<u64> {
        self.look(path)?;
        Ok(self.contents(file).current().len() as u64)
    }

    pub(super) fn read(
        &mut self,
        file: u64,
        path: &Path,
        buffer: &mut [u8],
        offset: u64,
    ) -> io::Result<usize> {
        self.look(path)?;
        let mut wanted = buffer.len();
        if wanted > 1 && self.dice.percent(SHORT_READS_PERCENT) {
            wanted = self.dice.between(1..wanted as u64) as usize;
        }
        let flips = self.flaw == Some(Flaw::ReadsWrong) && self.dice.percent(2);
        let contents = self.contents(file).current();
        let at = usize::try_from(offset).unwrap_or(usize::MAX).min(contents.len());
        let read = wanted.min(contents.len() - at);
        buffer[..read].copy_from_slice(&contents[at..at + read]);
        if flips && read > 0 {
            buffer[self.dice.between(0..read as u64) as usize] ^= 1;
        }
        Ok(read)
    }
}
