//! A disk in memory that keeps no more than it promises.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use firn_store::{Access, Disk, DiskFile};

use super::{
    contents::{Contents, Survival},
    faults::{Flaw, Plan},
    machine::State,
};
use crate::dice::Dice;

/// What a file takes is a multiple of this.
const BLOCK_BYTES: u64 = 4096;

/// A disk in memory, stricter than any real one.
///
/// It is what one process sees. [`FakeDisk::crash`] and [`FakeDisk::kill`] end that process, so that each of its calls
/// fails and changes nothing, and give the disk that the next one finds. The same calls and seeds give the same disk.
#[derive(Debug, Clone)]
pub struct FakeDisk(Arc<Mutex<State>>);

/// An open file of a [`FakeDisk`].
struct FakeFile {
    disk: FakeDisk,
    file: u64,
    path: PathBuf,
}

impl FakeDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        Self::of(State::new(seed))
    }

    fn of(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    /// What is to go wrong from now on. Calls are counted anew.
    pub fn set_plan(&self, plan: Plan) {
        let mut state = self.lock();
        state.plan = plan;
        state.calls = 0;
    }

    /// Breaks a promise from now on. Gives the one that was broken until now.
    pub fn set_flaw(&self, flaw: Option<Flaw>) -> Option<Flaw> {
        std::mem::replace(&mut self.lock().flaw, flaw)
    }

    /// The power fails: of what was not durable, anything may be lost. The disk as the next process finds it.
    pub fn crash(&self, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut next = self.lock().end(seed);
        let chance = dice.pick(&[0, 10, 50, 90, 100]);
        next.names.crash(&mut dice, chance);
        for contents in next.files.values_mut() {
            let survival = Survival::any(&mut dice);
            contents.crash(&mut dice, survival);
        }
        Self::of(next.settle())
    }

    /// The process is killed: all that it has written is there, durable or not. The disk as the next process finds it.
    pub fn kill(&self, seed: u64) -> Self {
        let mut next = self.lock().end(seed);
        next.files.values_mut().for_each(Contents::kill);
        Self::of(next.settle())
    }

    /// Ends the process: whatever it still calls fails.
    pub fn halt(&self) {
        self.lock().has_ended = true;
    }

    /// Whether the process has come to its end.
    pub fn has_ended(&self) -> bool {
        self.lock().has_ended
    }

    /// Whether a call of the process has gone wrong, other than by its end.
    pub fn has_failed(&self) -> bool {
        self.lock().has_failed
    }

    /// How many calls there were since the plan was set.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// The calls that went wrong, in words, since this was asked last.
    pub fn take_events(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().events)
    }

    /// All files and their lengths, without a call.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.lock();
        let length = |file| state.files.get(&file).map_or(0, |contents| contents.current().len() as u64);
        state.names.files().map(|(path, file)| (path.clone(), length(file))).collect()
    }

    /// Flips one bit of one of the files that are not empty, for good. Tells of which, and where.
    pub fn flip_bit(&self, seed: u64) -> Option<(PathBuf, u64)> {
        let mut dice = Dice::new(seed);
        let mut state = self.lock();
        let length = |file| state.files.get(&file).map_or(0, |contents| contents.current().len());
        let filled: Vec<_> = state.names.files().filter(|(_, file)| length(*file) > 0).collect();
        let (path, file) = filled.get(dice.between(0..filled.len() as u64) as usize).copied()?;
        let at = dice.between(0..length(file) as u64);
        let flipped = (path.clone(), at);
        state.files.get_mut(&file)?.flip(at as usize, dice.between(0..8) as u8);
        Some(flipped)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for FakeDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.lock().create_dir(dir)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.lock().open(path, access)?;
        Ok(Arc::new(FakeFile { disk: self.clone(), file, path: path.to_path_buf() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.lock().rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.lock().remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.lock().list(dir)
    }

    fn sync(&self) -> io::Result<()> {
        self.lock().sync()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.lock().free_bytes()
    }
}

impl DiskFile for FakeFile {
    fn size(&self) -> io::Result<u64> {
        self.disk.lock().size(self.file, &self.path)
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(self.size()?.next_multiple_of(BLOCK_BYTES))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.lock().read(self.file, &self.path, buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.lock().write(self.file, &self.path, bytes, offset)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.disk.lock().set_size(self.file, &self.path, size)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.lock().sync_file(self.file, &self.path)
    }
}
