//! Taking a tree, or paths of the Nix store, into the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    io,
    num::NonZeroUsize,
    ops::ControlFlow,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use firn_exchange::{Unshareable, shareable};
use firn_nix::{
    ContentAddress, ContentHash, KeyError, NarFacts, NarHash, PublicKey, Signature, SigningKey, StorePath,
    StorePathError, StorePathHash, source_store_path,
};
use firn_proto::control::{AddReply, AddRequest, AddedPath, Progress, progress::Phase};
use firn_store::{
    AddError, AddOptions, AddProgress, AddedTree, Reason, Store, StoreError, UnixSeconds, Visible, add_tree,
};
use firn_trust::{PathFacts, TrustedPath};
use futures::{StreamExt, TryStreamExt, stream};

use super::{Ops, Report, size::Size, subject::stored, verify::put_aside_damage};
use crate::{
    failure::{Failure, Kind},
    nixdb::{NixDatabaseError, NixStore, ValidPath},
};

/// The most paths of a closure that are read at a time; each is read by several threads where it is large.
const PATHS_AT_ONCE_MAX: usize = 4;
/// How many paths are committed at a time: they share a sync.
const COMMITS_AT_ONCE: usize = 16;

/// Why something can't be added.
#[derive(Debug, thiserror::Error)]
enum AddPathError {
    #[error("{} has no last part to take a name from: give one by --name", .0.display())]
    NoName(PathBuf),
    #[error("\"{name}\" can't be the name of a store path: {source}; another is given by --name")]
    Name { name: Box<str>, source: StorePathError },
    #[error("{0} is a path of the Nix store and keeps its name")]
    NamedAlready(StorePath),
    #[error("{} is no path of the Nix store: only these have a closure", .0.display())]
    NoClosure(PathBuf),
    #[error("{}: {source}", .path.display())]
    Place { path: PathBuf, source: io::Error },
    #[error(
        "{} was read, but {things} things that were kept of it cannot be read back as they were: the disk of the \
         store may be failing; nothing was added", .path.display()
    )]
    StaysDamaged { path: PathBuf, things: usize },
    #[error("a key to sign with: {0}")]
    Key(KeyError),
    #[error(
        "{} is not what Nix's database says: its NAR has {actual_size} bytes and the hash {actual}, the database \
         says {size} and {hash}; nothing was added. `nix-store --verify --check-contents` finds such paths",
        path.to_absolute()
    )]
    NotAsRegistered { path: StorePath, hash: NarHash, size: u64, actual: NarHash, actual_size: u64 },
    #[error(
        "{} can't be shared, since peers can't be told of it: {why}; nothing was added. Without --share and --sign-key \
         it can be added for this machine alone",
        path.to_absolute()
    )]
    Unshareable { path: StorePath, why: Unshareable },
}

/// Reads all, then commits all: a closure of which something can't be read is not added in part.
pub(super) async fn add(ops: &Ops, request: AddRequest, report: Report) -> Result<AddReply, Failure> {
    // The request holds secret keys: it is never logged.
    let keys = request.sign_keys.iter().map(|text| text.parse()).collect::<Result<Vec<SigningKey>, _>>();
    let keys = keys.map_err(|error| Failure::usage(AddPathError::Key(error)))?;
    let adding = Adding {
        is_shared: request.share || !keys.is_empty(),
        keys,
        is_in_place: request.in_place,
        rehash: request.rehash,
        ..Adding::new(ops, &path_of(&request.nix_root), report)
    };
    let (path, name) = (path_of(&request.path), Some(request.name).filter(|name| !name.is_empty()));
    let with_closure = request.closure;
    let read = move || adding.read(&path, name, with_closure);
    let reply = take(ops, Reason::added(), read).await?;
    Ok(AddReply { in_place: request.in_place, ..reply })
}

/// Takes store paths in where they are, with all that they reference if that is wanted.
pub(super) async fn adopt(
    ops: &Ops,
    nix_root: &Path,
    paths: Vec<StorePath>,
    (with_closure, is_shared): (bool, bool),
    jobs: Option<NonZeroUsize>,
    report: Report,
) -> Result<AddReply, Failure> {
    let adding = Adding { is_in_place: true, is_shared, jobs, ..Adding::new(ops, nix_root, report) };
    let read = move || {
        let (mut rows, mut seen) = (Vec::new(), BTreeSet::new());
        for path in &paths {
            let more = if with_closure { adding.nix.closure(path)? } else { vec![adding.nix.path(path)?] };
            rows.extend(more.into_iter().filter(|row| seen.insert(row.path.clone())));
        }
        adding.read_registered(rows)
    };
    take(ops, Reason::adopted(), read).await
}

/// Reads, and makes visible what was read.
async fn take(
    ops: &Ops,
    reason: Reason,
    read: impl FnOnce() -> Result<Vec<Added>, Failure> + Send + 'static,
) -> Result<AddReply, Failure> {
    // What is read is not collected before it is committed.
    let _hold = ops.engine.store().hold();
    let (engine, store) = (ops.engine.clone(), ops.engine.store().clone());
    let job = move || -> Result<Vec<Added>, Failure> {
        let mut added = read()?;
        for added in &mut added {
            let known = engine.path(added.path.facts().path.hash());
            added.keep_earlier(&*store, known.as_deref())?;
            added.must_be_shareable()?;
        }
        Ok(added)
    };
    let mut added = ops.engine.run_blocking(job).await??;
    let missing_references = missing_references(ops, &added);
    let mut reply = AddReply { announced: ops.gives_away(), missing_references, ..AddReply::default() };
    let mut size = Size::default();
    for added in &added {
        reply.paths.push(added.told());
        size += added.size;
    }
    let pins = ops.engine.pins().await?;
    let commit = |added: Added| {
        let visible = Visible::Path(*added.path.facts().path.hash());
        // The user's own words stay; what was adopted and is then added is no longer the adopter's to withdraw.
        let earlier = pins.get(&visible).filter(|earlier| **earlier != Reason::adopted());
        let pin = earlier.unwrap_or(&reason).clone();
        let engine = ops.engine.clone();
        async move { engine.commit(added.path, added.is_shared, Some(pin)).await }
    };
    // The one that was asked for comes after all that it references.
    let last = added.pop();
    stream::iter(added).map(commit).buffer_unordered(COMMITS_AT_ONCE).try_collect::<()>().await?;
    if let Some(last) = last {
        commit(last).await?;
    }
    Ok(AddReply { files: size.files, bytes: size.bytes, ..reply })
}

/// What these paths reference that is neither among them nor here.
fn missing_references(ops: &Ops, added: &[Added]) -> Vec<String> {
    let here: BTreeSet<&StorePath> = added.iter().map(|added| &added.path.facts().path).collect();
    let referenced: BTreeSet<&StorePath> =
        added.iter().flat_map(|added| &added.path.facts().nar.references).collect();
    let missing = referenced.difference(&here).filter(|path| ops.engine.path(path.hash()).is_none());
    missing.map(|path| path.to_absolute()).collect()
}

/// Where Nix's files and its database are.
pub(super) fn nix_store(nix_root: &Path) -> NixStore {
    let state_dir = std::env::var_os("NIX_STATE_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    NixStore::at(nix_root, state_dir.as_deref())
}

pub(super) fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

/// What was read, and waits to be committed.
struct Added {
    path: TrustedPath,
    is_shared: bool,
    was_known: bool,
    size: Size,
    /// Why peers cannot be told of it, if they cannot.
    unshareable: Option<Unshareable>,
}

impl Added {
    fn told(&self) -> AddedPath {
        let facts = self.path.facts();
        let signers =
            self.path.attestations().iter().map(|attestation| attestation.signature().key_name().to_string());
        AddedPath {
            store_path: facts.path.to_absolute(),
            root: facts.root.to_string(),
            nar_hash: facts.nar.nar_hash.to_string(),
            nar_size: facts.nar.nar_size,
            shared: self.is_shared,
            signed_by: signers.collect(),
            was_known: self.was_known,
        }
    }

    /// What peers cannot be told of is not said to be shared.
    fn must_be_shareable(&self) -> Result<(), Failure> {
        match self.unshareable {
            Some(why) if self.is_shared => {
                let path = self.path.facts().path.clone();
                Err(Failure::failed(AddPathError::Unshareable { path, why }))
            }
            _ => Ok(()),
        }
    }

    /// What was signed, and who may have it, stays from an earlier time if the contents are the same.
    fn keep_earlier(&mut self, store: &dyn Store, known: Option<&TrustedPath>) -> Result<(), StoreError> {
        let facts = self.path.facts();
        let stored = stored(store, facts.path.hash())?;
        let was_shared = stored.is_some_and(|stored| stored.shared() && *stored.root() == facts.root);
        self.is_shared |= was_shared && self.unshareable.is_none();
        if let Some(known) = known {
            self.path.keep_signatures_of(known);
        }
        Ok(())
    }
}

/// Reads paths into the store. All of it blocks.
struct Adding {
    store: Arc<dyn Store>,
    nix: NixStore,
    /// Whose true signatures come first, and whose false ones are not passed on.
    trust: Vec<PublicKey>,
    keys: Vec<SigningKey>,
    is_shared: bool,
    is_in_place: bool,
    rehash: bool,
    jobs: Option<NonZeroUsize>,
    report: Report,
}

impl Adding {
    fn new(ops: &Ops, nix_root: &Path, report: Report) -> Self {
        Self {
            store: ops.engine.store().clone(),
            nix: nix_store(nix_root),
            trust: ops.config.trust.clone(),
            keys: Vec::new(),
            is_shared: false,
            is_in_place: false,
            rehash: false,
            jobs: None,
            report,
        }
    }

    fn read(&self, path: &Path, name: Option<String>, closure: bool) -> Result<Vec<Added>, Failure> {
        match (self.nix.store_path(path), name) {
            (Some(path), Some(_)) => Err(Failure::usage(AddPathError::NamedAlready(path))),
            (Some(path), None) if closure => self.read_registered(self.nix.closure(&path)?),
            (Some(path), None) => self.read_registered(vec![self.nix.path(&path)?]),
            (None, _) if closure => Err(Failure::usage(AddPathError::NoClosure(path.into()))),
            (None, name) => Ok(vec![self.read_plain(path, name)?]),
        }
    }

    /// A tree under the path that `nix-store --add` gives it.
    fn read_plain(&self, path: &Path, name: Option<String>) -> Result<Added, Failure> {
        let last = || path.file_name().map(|last| last.to_string_lossy().into_owned());
        let name = name.or_else(last).ok_or_else(|| Failure::usage(AddPathError::NoName(path.into())))?;
        let wrong = |source| Failure::usage(AddPathError::Name { name: name.as_str().into(), source });
        // Before the tree is read, which may take long.
        StorePath::new(StorePathHash::from([0; 20]), &name).map_err(wrong)?;
        let subject = path.display().to_string();
        self.report.send_replace(Progress { phase: Phase::Reading.into(), subject, ..Progress::default() });
        let tell = |read: AddProgress| {
            let (done_bytes, total_bytes) = (read.done_bytes, read.total_bytes);
            self.report.send_modify(|told| *told = Progress { done_bytes, total_bytes, ..told.clone() });
            self.is_awaited()
        };
        let tree = self.read_tree(path, &tell)?;
        let nar =
            NarFacts { nar_hash: tree.nar_hash, nar_size: tree.nar_size, references: Default::default() };
        let ca = ContentAddress::Nar(ContentHash::Sha256(*tree.nar_hash.as_bytes()));
        let path = source_store_path(&name, &tree.nar_hash).map_err(wrong)?;
        let root = tree.closure.root().clone();
        let facts = PathFacts { path, root, nar, deriver: None, ca: Some(ca) };
        Ok(self.added(facts, Vec::new(), &tree))
    }

    /// Paths that Nix knows, each checked against what it says of them, several at a time. They come in their order.
    fn read_registered(&self, rows: Vec<ValidPath>) -> Result<Vec<Added>, Failure> {
        let threads = self.jobs.unwrap_or_else(cores).get().min(PATHS_AT_ONCE_MAX).min(rows.len());
        let reading = Reading::new(rows);
        thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| self.read_from(&reading));
            }
            self.read_from(&reading);
        });
        reading.end()
    }

    /// Reads one path after the other until there is none left, or one could not be read.
    fn read_from(&self, reading: &Reading) {
        while let Some((index, row)) = reading.next(&self.report) {
            let nar_size = row.nar.nar_size;
            reading.finish(index, self.read_one_registered(row), nar_size, &self.report);
        }
    }

    fn read_one_registered(&self, row: ValidPath) -> Result<Added, Failure> {
        let tree = self.read_tree(&self.nix.on_disk(&row.path), &|_| self.is_awaited())?;
        let NarFacts { nar_hash: hash, nar_size: size, .. } = row.nar;
        if (tree.nar_hash, tree.nar_size) != (hash, size) {
            return Err(Failure::failed(AddPathError::NotAsRegistered {
                path: row.path,
                hash,
                size,
                actual: tree.nar_hash,
                actual_size: tree.nar_size,
            }));
        }
        let signatures = row.without_false(&self.trust);
        let ValidPath { path, nar, deriver, ca, .. } = row;
        let facts = PathFacts { path, root: tree.closure.root().clone(), nar, deriver, ca };
        Ok(self.added(facts, signatures, &tree))
    }

    /// Nothing more is read once the command has gone that asked for it.
    fn is_awaited(&self) -> ControlFlow<()> {
        if self.report.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn read_tree(
        &self,
        path: &Path,
        progress: &(dyn Fn(AddProgress) -> ControlFlow<()> + Sync),
    ) -> Result<AddedTree, Failure> {
        let path = if self.is_in_place { &canonical(path)? } else { path };
        let jobs = self.jobs.unwrap_or_else(cores);
        let (in_place, rehash, progress) = (self.is_in_place, self.rehash, Some(progress));
        let options = AddOptions { in_place, rehash, jobs, now: now(), progress };
        let read = || {
            add_tree(&*self.store, path, &options).map_err(|error| match &error {
                AddError::Io { path: at, source }
                    if at == path && source.kind() == io::ErrorKind::NotFound =>
                {
                    Failure::missing(error)
                }
                _ => Failure::advised(error),
            })
        };
        let mut tree = read()?;
        if !self.rehash {
            return Ok(tree);
        }
        // What was here already was not kept anew: where it is not what it was, it is to be kept with the next reading.
        let mut seen = BTreeSet::new();
        loop {
            let damaged = put_aside_damage(&*self.store, &tree.closure)?;
            if damaged.is_empty() {
                return Ok(tree);
            }
            if damaged.is_subset(&seen) {
                let (path, things) = (path.into(), damaged.len());
                return Err(Failure::failed(AddPathError::StaysDamaged { path, things }));
            }
            seen.extend(damaged);
            tree = read()?;
        }
    }

    fn added(&self, facts: PathFacts, signatures: Vec<Signature>, tree: &AddedTree) -> Added {
        let path = TrustedPath::added_here(facts, signatures, &self.keys);
        let (size, unshareable) = (Size::of(&tree.closure), shareable(&path, &tree.closure).err());
        Added { path, is_shared: self.is_shared, was_known: tree.was_known, size, unshareable }
    }
}

fn cores() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Where a tree is that is to be read there again: no symlink leads to it, though it may be one.
fn canonical(path: &Path) -> Result<PathBuf, Failure> {
    let failed = |source: io::Error| {
        let kind = if source.kind() == io::ErrorKind::NotFound { Kind::Missing } else { Kind::Failed };
        Failure::new(kind, AddPathError::Place { path: path.into(), source })
    };
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize().map_err(failed)?.join(name)),
        _ => path.canonicalize().map_err(failed),
    }
}

/// A clock before 1970 makes all files look young, so that nothing is remembered of them.
fn now() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// Paths that are read by several threads.
struct Reading {
    work: Mutex<Work>,
    /// Set by the first failure: what is not begun yet need not be.
    failed: AtomicBool,
}

struct Work {
    rows: std::iter::Enumerate<std::vec::IntoIter<ValidPath>>,
    results: BTreeMap<usize, Result<Added, Failure>>,
    progress: Progress,
}

impl Reading {
    fn new(rows: Vec<ValidPath>) -> Self {
        let total_bytes = rows.iter().map(|row| row.nar.nar_size).fold(0, u64::saturating_add);
        let progress = Progress {
            phase: Phase::Reading.into(),
            total_items: rows.len() as u64,
            total_bytes,
            ..Progress::default()
        };
        let work = Work { rows: rows.into_iter().enumerate(), results: BTreeMap::new(), progress };
        Self { work: Mutex::new(work), failed: AtomicBool::new(false) }
    }

    fn next(&self, report: &Report) -> Option<(usize, ValidPath)> {
        if self.failed.load(Ordering::Relaxed) {
            return None;
        }
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let (index, row) = work.rows.next()?;
        work.progress.subject = row.path.to_absolute();
        report.send_replace(work.progress.clone());
        Some((index, row))
    }

    fn finish(&self, index: usize, result: Result<Added, Failure>, nar_size: u64, report: &Report) {
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        work.results.insert(index, result);
        work.progress.done_items += 1;
        work.progress.done_bytes = work.progress.done_bytes.saturating_add(nar_size);
        report.send_replace(work.progress.clone());
    }

    fn end(self) -> Result<Vec<Added>, Failure> {
        let work = self.work.into_inner().unwrap_or_else(PoisonError::into_inner);
        work.results.into_values().collect()
    }
}

impl From<NixDatabaseError> for Failure {
    fn from(error: NixDatabaseError) -> Self {
        match error {
            NixDatabaseError::Invalid(_) => Self::missing(error),
            _ => Self::failed(error),
        }
    }
}
