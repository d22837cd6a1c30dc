//! Adopting a whole Nix store: every path of it that a trusted key has signed is taken in where it stands, and what Nix
//! collects is withdrawn.
//!
//! One thread, the watcher, looks at Nix's database every few seconds. Others, the workers, take one path after another
//! in the order in which Nix registered them, so that mostly a path comes after what it references, and what came to
//! the machine last, and may be about to be collected again, does not hold up what has stood there for long. All of them
//! run at the lowest priority. There is no file of what was done: what is adopted is what the store has pinned as such,
//! so that a node that starts again has only to look.
//!
//! - `book`: what is known of each registration, and whose turn it is; no I/O.
//! - `watcher`: follows the database, and withdraws.
//! - `worker`: adopts one path.

mod book;
mod watcher;
mod worker;

use std::{
    io,
    num::NonZeroUsize,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use firn_engine::{Engine, EngineError};
use firn_nix::{PublicKey, StorePath};
use firn_trust::Policy;
use tokio::{runtime::Handle, sync::watch};

use self::book::Book;
use crate::nixdb::NixStore;

/// How many paths are adopted at a time, unless said otherwise: adopting has time.
pub const JOBS_DEFAULT: NonZeroUsize = NonZeroUsize::MIN;
/// How often Nix's database is looked at, unless said otherwise.
pub const POLL_DEFAULT: Duration = Duration::from_secs(10);
/// The most valid paths of a Nix store that are followed; those that were registered after them are left out.
pub const REGISTRATIONS_MAX: usize = 1_000_000;

/// The nice value of the adopter's threads, the lowest priority there is. Linux derives a thread's I/O priority from it:
/// the last level of the best-effort class. (The idle class would starve a thread that may hold a lock of the store.)
const NICE: i32 = 19;

/// What the adopter is told.
#[derive(Debug, Clone)]
pub struct AdoptConfig {
    /// What is adopted.
    pub nix: NixStore,
    /// How many paths are adopted at a time, each by a thread of its own.
    pub jobs: NonZeroUsize,
    /// How often Nix's database is looked at.
    pub poll: Duration,
}

impl AdoptConfig {
    /// All signed paths of this store, one at a time.
    pub fn new(nix: NixStore) -> Self {
        Self { nix, jobs: JOBS_DEFAULT, poll: POLL_DEFAULT }
    }
}

/// How far the adopter has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdoptStatus {
    /// How many valid paths Nix's database has.
    pub total: u64,
    /// How many of them are here, whether adopted or otherwise.
    pub done: u64,
    /// How many of them are adopted.
    pub adopted: u64,
    /// How long the NARs of the adopted ones are together.
    pub adopted_bytes: u64,
    /// How many are still to be looked at.
    pub waiting: u64,
    /// How many were withdrawn since the start because Nix has collected them.
    pub withdrawn: u64,
    /// How many no trusted key has signed, so that they are not for us.
    pub skipped_untrusted: u64,
    /// How many are not what the database says, or can't be read. They are tried again when Nix registers them anew.
    pub failed: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// What is being adopted just now.
    pub current: Vec<StorePath>,
    /// The database was read, and all in it was looked at.
    pub settled: bool,
}

/// A thread of the adopter has panicked.
#[derive(Debug, thiserror::Error)]
#[error("a thread that adopts the Nix store has failed")]
pub struct AdopterFailed;

/// A Nix store that is being adopted. When it is dropped its threads end soon; [`Adopter::stop`] waits for that.
pub struct Adopter {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads share.
struct Shared {
    engine: Engine,
    runtime: Handle,
    trust: Vec<PublicKey>,
    policy: Policy,
    nix: NixStore,
    poll: Duration,
    book: Mutex<Book>,
    /// Something in the book has changed, or the end has come.
    changed: Condvar,
    ends: AtomicBool,
    status: watch::Sender<AdoptStatus>,
}

impl Adopter {
    /// Starts the threads. Call this within the runtime that drives the engine.
    pub fn start(engine: Engine, policy: Policy, config: AdoptConfig) -> io::Result<Self> {
        let AdoptConfig { nix, jobs, poll } = config;
        let shared = Arc::new(Shared {
            engine,
            runtime: Handle::try_current().map_err(io::Error::other)?,
            trust: policy.keys().to_vec(),
            policy,
            nix,
            poll,
            book: Mutex::default(),
            changed: Condvar::new(),
            ends: AtomicBool::new(false),
            status: watch::Sender::default(),
        });
        let adopter = Self { shared, threads: Mutex::default() };
        adopter.spawn("firn-adopt-watch", watcher::run)?;
        for _ in 0..jobs.get() {
            adopter.spawn("firn-adopt", worker::run)?;
        }
        Ok(adopter)
    }

    fn spawn(&self, name: &str, run: fn(&Shared)) -> io::Result<()> {
        let shared = self.shared.clone();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            yield_to_others();
            run(&shared);
        })?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// How far it has come.
    pub fn status(&self) -> AdoptStatus {
        self.shared.status.borrow().clone()
    }

    /// How far it has come, now and later.
    pub fn subscribe(&self) -> watch::Receiver<AdoptStatus> {
        self.shared.status.subscribe()
    }

    /// Ends all threads within a second or so. What is adopted by half is garbage in the store.
    pub async fn stop(&self) -> Result<(), AdopterFailed> {
        self.shared.end();
        let threads = std::mem::take(&mut *lock(&self.threads));
        let join = move || threads.into_iter().all(|thread| thread.join().is_ok());
        let all_ended_well = tokio::task::spawn_blocking(join).await.unwrap_or(false);
        if all_ended_well { Ok(()) } else { Err(AdopterFailed) }
    }
}

impl Drop for Adopter {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl Shared {
    fn ends(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    fn end(&self) {
        // Under the lock, so that nobody looks at the flag just before and then waits.
        let _book = lock(&self.book);
        self.ends.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Has the engine do something, driven by the runtime's own threads: those that it starts for blocking work must not
    /// inherit that the caller gives way, for they serve others later.
    fn wait_for<T, F>(&self, call: impl FnOnce(Engine) -> F) -> Result<T, EngineError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, EngineError>> + Send + 'static,
    {
        let task = self.runtime.spawn(call(self.engine.clone()));
        self.runtime.block_on(task).unwrap_or(Err(EngineError::Ending))
    }

    /// Changes the book, and tells everybody.
    fn update<T>(&self, change: impl FnOnce(&mut Book) -> T) -> T {
        let mut book = lock(&self.book);
        let result = change(&mut book);
        self.tell(&book);
        self.changed.notify_all();
        result
    }

    fn tell(&self, book: &Book) {
        self.status.send_if_modified(|told| {
            let status = book.status();
            let is_new = *told != status;
            *told = status;
            is_new
        });
    }

    /// Notes what went wrong; it is logged unless it is what went wrong before.
    fn note_error(&self, error: &dyn std::error::Error) {
        let text = error.to_string();
        // What fails because of the end is no failure.
        if self.ends() {
            return;
        }
        if self.update(|book| book.note_error(text.clone())) {
            tracing::warn!(error = text, "adopting the Nix store");
        }
    }
}

/// Gives way to all else on this machine.
fn yield_to_others() {
    // On Linux this is the calling thread's, and inherited by threads that it starts.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "adopting at usual priority");
    }
}

/// Locks, also where another thread has panicked: [`Adopter::stop`] tells of that.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
