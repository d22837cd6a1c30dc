//! A disk that tells what it is about to do, and lets a test do something else first.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock},
};

use firn_store::{Access, Disk, DiskFile, DiskStore, RealDisk};

/// What the disk is about to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step<'a> {
    Open(&'a Path, Access),
    /// Of so many bytes.
    Read(&'a Path, usize),
    Remove(&'a Path),
    /// Of one file, or of all.
    Sync,
}

type Watch = Arc<dyn Fn(Step<'_>) -> io::Result<()> + Send + Sync>;

/// The real disk, watched.
pub(crate) struct Watched {
    disk: RealDisk,
    watch: Arc<RwLock<Watch>>,
}

impl Watched {
    /// Opens a store on a disk that is watched.
    pub(crate) fn open(dir: &Path) -> (Arc<Self>, Arc<DiskStore>) {
        let watch: Watch = Arc::new(|_| Ok(()));
        let disk = RealDisk::of(dir).unwrap();
        let watched = Arc::new(Self { disk, watch: Arc::new(RwLock::new(watch)) });
        let store = DiskStore::open_on(watched.clone(), dir).unwrap();
        (watched, Arc::new(store))
    }

    /// Calls this before each step, on the thread that takes it; where it fails, the step does.
    pub(crate) fn watch(&self, watch: impl Fn(Step<'_>) -> io::Result<()> + Send + Sync + 'static) {
        *self.watch.write().unwrap() = Arc::new(watch);
    }

    pub(crate) fn watch_no_more(&self) {
        self.watch(|_| Ok(()));
    }

    /// Calls `act` before the first such step, and lets go of it.
    pub(crate) fn once(
        &self,
        is_it: impl Fn(Step<'_>) -> bool + Send + Sync + 'static,
        act: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) {
        let act = Mutex::new(Some(act));
        self.watch(move |step| {
            let act = if is_it(step) { act.lock().unwrap().take() } else { None };
            act.map_or(Ok(()), |act| act())
        });
    }

    fn tell(&self, step: Step<'_>) -> io::Result<()> {
        tell(&self.watch, step)
    }
}

fn tell(watch: &RwLock<Watch>, step: Step<'_>) -> io::Result<()> {
    // What it does may take steps of its own, so nothing is locked meanwhile.
    let watch = watch.read().unwrap().clone();
    watch(step)
}

impl Disk for Watched {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        self.tell(Step::Open(path, access))?;
        let file = self.disk.open(path, access)?;
        Ok(Arc::new(WatchedFile { file, path: path.to_path_buf(), watch: self.watch.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.tell(Step::Remove(path))?;
        self.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.disk.list(dir)
    }

    fn sync(&self) -> io::Result<()> {
        self.tell(Step::Sync)?;
        self.disk.sync()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

struct WatchedFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    watch: Arc<RwLock<Watch>>,
}

impl DiskFile for WatchedFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.file.allocated_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        tell(&self.watch, Step::Read(&self.path, buffer.len()))?;
        self.file.read_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.file.set_size(size)
    }

    fn sync(&self) -> io::Result<()> {
        tell(&self.watch, Step::Sync)?;
        self.file.sync()
    }
}
