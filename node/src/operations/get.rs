//! Getting a path or a tree, and writing it out.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use firn_engine::{EngineError, Fetched, LedgerEntry, Progress as Flown};
use firn_exchange::PeerId;
use firn_nix::StorePathHash;
use firn_proto::control::{GetReply, GetRequest, Giver, GotPath, PeerShare, Progress, progress::Phase};
use firn_store::{StoreError, Visible, WriteError, write_tree};

use super::{
    Ops, Report,
    ops::kind,
    repair,
    size::Size,
    subject::{Subject, named},
    verify::put_aside_damage,
};
use crate::failure::Failure;

/// How often it is told how far a request has come.
const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// Why something could not be got.
#[derive(Debug, thiserror::Error)]
#[error("{subject}: {source}")]
struct GetError {
    subject: Box<str>,
    source: EngineError,
}

/// What was here is so no longer.
#[derive(Debug, thiserror::Error)]
#[error(
    "{subject} is no longer whole here: {damage}, and it could not be got again: {why}; `firn verify` names the file"
)]
struct NotWhole {
    subject: Box<str>,
    damage: Box<StoreError>,
    why: Failure,
}

/// A root has nothing that it references.
#[derive(Debug, thiserror::Error)]
#[error("{0} is a root: only a store path has a closure")]
struct NoClosure(Box<str>);

/// Gets it, from here or from peers, and writes it out if that is asked for.
pub(super) async fn get(ops: &Ops, request: GetRequest, report: Report) -> Result<GetReply, Failure> {
    let begun = Instant::now();
    let subject: Subject = request.what.parse().map_err(Failure::usage)?;
    if request.closure && matches!(subject, Subject::Tree(_)) {
        return Err(Failure::usage(NoClosure(subject.to_string().into())));
    }
    let out =
        Some(request.out).filter(|out| !out.is_empty()).map(|out| PathBuf::from(OsStr::from_bytes(&out)));
    if let Some(out) = &out {
        must_not_exist(out)?;
    }
    let before: BTreeMap<PeerId, LedgerEntry> = ops.engine.peers().into_iter().collect();
    let watch = Watch { ops, report, subject: subject.to_string(), seen: Mutex::default() };
    let fetched = watch.tell_during(fetch(ops, &subject, request.closure, &watch)).await;
    let fetched = fetched.map_err(|source| {
        let kind = kind(&source);
        Failure::new(kind, GetError { subject: watch.subject.as_str().into(), source })
    })?;
    if let (Some(out), Some(asked_for)) = (out, fetched.last()) {
        watch.tell(Phase::Writing);
        write_out(ops, asked_for, out, &watch).await?;
    }
    Ok(reply(ops, &fetched, &watch, &before, begun))
}

/// Said before anything is fetched for it. What comes to be there meanwhile is not overwritten either.
fn must_not_exist(out: &Path) -> Result<(), Failure> {
    match out.symlink_metadata() {
        Ok(_) => Err(Failure::failed(WriteError::Exists(out.into()))),
        Err(_) => Ok(()),
    }
}

/// What was asked for is the last.
async fn fetch(
    ops: &Ops,
    subject: &Subject,
    with_closure: bool,
    watch: &Watch<'_>,
) -> Result<Vec<Fetched>, EngineError> {
    let fetched = match subject {
        Subject::Tree(root) => {
            ops.engine.get_root(root.clone(), &|flown| watch.note(None, flown)).await.map(|one| vec![one])
        }
        Subject::Path(path) if with_closure => {
            ops.engine.get_closure(*path.hash(), &|hash, flown| watch.note(Some(*hash), flown)).await
        }
        Subject::Path(path) => {
            let hash = *path.hash();
            ops.engine.get_path(hash, &|flown| watch.note(Some(hash), flown)).await.map(|one| vec![one])
        }
    };
    match (fetched, subject) {
        (Ok(mut fetched), Subject::Path(path)) => {
            fetched.sort_by_key(|one| hash_of(one) == Some(*path.hash()));
            Ok(fetched)
        }
        // It may be here under a key that is trusted no longer.
        (Err(error @ (EngineError::NotFound | EngineError::Blamed)), Subject::Path(path)) => {
            let (store, hash) = (ops.engine.store().clone(), *path.hash());
            let stored = ops.engine.run_blocking(move || store.path(&hash)).await??;
            Err(if stored.is_some() { EngineError::Untrusted } else { error })
        }
        (fetched, _) => fetched,
    }
}

fn hash_of(fetched: &Fetched) -> Option<StorePathHash> {
    fetched.path.as_ref().map(|path| *path.facts().path.hash())
}

/// Writes the tree out. What the disk has damaged is fetched again, if somebody has it.
async fn write_out(ops: &Ops, fetched: &Fetched, out: PathBuf, watch: &Watch<'_>) -> Result<(), Failure> {
    let write = async || {
        let (store, closure, out) = (ops.engine.store().clone(), fetched.closure.clone(), out.clone());
        let (report, writing) = (watch.report.clone(), ops.writing.token());
        let job = move || {
            let _writing = writing;
            write_tree(&*store, &closure, &out, &|| !report.is_closed())
        };
        ops.engine.run_blocking(job).await
    };
    match write().await? {
        Err(WriteError::Store(damage)) if damage.lost().is_some() => {
            tracing::warn!(%damage, "what is damaged is looked for elsewhere");
            let hash = hash_of(fetched);
            let root = || Visible::Root(fetched.closure.root().clone());
            let what = hash.map_or_else(root, Visible::Path);
            let note = |flown: &Flown| watch.note(hash, flown);
            // All that is damaged, not only what was met first.
            let (store, closure) = (ops.engine.store().clone(), fetched.closure.clone());
            ops.engine.run_blocking(move || put_aside_damage(&*store, &closure)).await??;
            let again = watch.tell_during(repair::get_again(ops, &what, &note)).await;
            again.map_err(|why| {
                let subject = named(&what, fetched.path.as_ref().map(|path| &path.facts().path)).into();
                Failure::new(why.kind(), NotWhole { subject, damage: Box::new(damage), why })
            })?;
            write().await?.map_err(Failure::failed)
        }
        written => written.map_err(Failure::failed),
    }
}

fn reply(
    ops: &Ops,
    fetched: &[Fetched],
    watch: &Watch<'_>,
    before: &BTreeMap<PeerId, LedgerEntry>,
    begun: Instant,
) -> GetReply {
    let seen = watch.seen();
    let was_here = |one: &Fetched| seen.flights.get(&hash_of(one)).is_none_or(|flight| !flight.has_tree);
    let path = |one: &Fetched| GotPath {
        store_path: one.path.as_ref().map(|path| path.facts().path.to_absolute()).unwrap_or_default(),
        root: one.closure.root().to_string(),
        was_here: was_here(one),
    };
    let mut size = Size::default();
    fetched.iter().for_each(|one| size += Size::of(&one.closure));
    let given = seen.given();
    GetReply {
        paths: fetched.iter().map(path).collect(),
        files: size.files,
        bytes: size.bytes,
        fetched_bytes: given.values().sum(),
        seconds: begun.elapsed().as_secs_f64(),
        peers: shares(ops, before, &seen, &given),
    }
}

/// Who took part since then. What was asked for something else at the same time can't be told apart and counts as well;
/// bytes are those of this request alone.
fn shares(
    ops: &Ops,
    before: &BTreeMap<PeerId, LedgerEntry>,
    seen: &Seen,
    given: &BTreeMap<PeerId, u64>,
) -> Vec<PeerShare> {
    let nothing = LedgerEntry::default();
    let share = |(peer, entry): (PeerId, LedgerEntry)| {
        let earlier = before.get(&peer).unwrap_or(&nothing);
        let asked = entry.asked.saturating_sub(earlier.asked);
        let bytes = given.get(&peer).copied().unwrap_or(0);
        let id = peer.to_string();
        // Whoever has left meanwhile was reached as it was seen last.
        let now = Some(ops.route_of(&peer)).filter(|route| !route.is_empty());
        let route = now.or_else(|| seen.routes.get(&id).cloned()).unwrap_or_default();
        (asked > 0 || bytes > 0).then(|| PeerShare {
            id,
            via: entry.via.map(|via| via.to_string()).unwrap_or_default(),
            asked,
            bytes,
            lies: entry.lies.iter().skip(earlier.lies.len()).map(ToString::to_string).collect(),
            route,
        })
    };
    ops.engine.peers().into_iter().filter_map(share).collect()
}

/// How far the flights of a request have come.
struct Watch<'a> {
    ops: &'a Ops,
    report: Report,
    subject: String,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// By path; a tree without one has none.
    flights: BTreeMap<Option<StorePathHash>, Flight>,
    /// How each peer that gave was reached last, by its id.
    routes: BTreeMap<String, String>,
}

#[derive(Default)]
struct Flight {
    has_tree: bool,
    bytes_done: u64,
    bytes_total: u64,
    givers: Vec<(PeerId, u64)>,
}

impl Seen {
    /// What each peer has given, all flights together.
    fn given(&self) -> BTreeMap<PeerId, u64> {
        let mut given = BTreeMap::new();
        for (peer, bytes) in self.flights.values().flat_map(|flight| &flight.givers) {
            *given.entry(*peer).or_default() += bytes;
        }
        given
    }

    fn note_routes(&mut self, givers: &[Giver]) {
        let connected = givers.iter().filter(|giver| !giver.route.is_empty());
        self.routes.extend(connected.map(|giver| (giver.id.clone(), giver.route.clone())));
    }
}

impl Watch<'_> {
    fn note(&self, path: Option<StorePathHash>, flown: &Flown) {
        let flight = Flight {
            has_tree: flown.closure.is_some(),
            bytes_done: flown.bytes_done,
            bytes_total: flown.bytes_total,
            givers: flown.givers.clone(),
        };
        self.seen().flights.insert(path, flight);
    }

    /// Tells how far it is for as long as this takes: rates change, too, while nothing comes.
    async fn tell_during<T>(&self, fetching: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            done = fetching => done,
            never = self.keep_telling() => match never {},
        }
    }

    async fn keep_telling(&self) -> Infallible {
        let mut ticks = tokio::time::interval(TELL_INTERVAL);
        loop {
            ticks.tick().await;
            self.report.send_replace(self.progress());
        }
    }

    fn progress(&self) -> Progress {
        let mut seen = self.seen();
        let peers = self.ops.givers(seen.given());
        seen.note_routes(&peers);
        let sum = |of: fn(&Flight) -> u64| seen.flights.values().map(of).fold(0, u64::saturating_add);
        let has_tree = seen.flights.values().any(|flight| flight.has_tree);
        let phase = if has_tree { Phase::Fetching } else { Phase::Finding };
        Progress {
            phase: phase.into(),
            subject: self.subject.clone(),
            done_bytes: sum(|flight| flight.bytes_done),
            total_bytes: sum(|flight| flight.bytes_total),
            peers,
            ..Progress::default()
        }
    }

    fn tell(&self, phase: Phase) {
        let subject = self.subject.clone();
        self.report.send_replace(Progress { phase: phase.into(), subject, ..Progress::default() });
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
