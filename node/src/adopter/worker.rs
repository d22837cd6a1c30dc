//! Adopts one path after another.

use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    sync::PoisonError,
    time::{SystemTime, UNIX_EPOCH},
};

use firn_bao::Span;
use firn_castore::Root;
use firn_engine::EngineError;
use firn_exchange::{Unshareable, shareable};
use firn_nix::{NarFacts, NarHash, Signature, StorePath};
use firn_store::{
    AddError, AddOptions, AddProgress, AddedTree, Reason, StoreError, UnixSeconds, add_tree, closure,
};
use firn_trust::{Admitted, Claim, Ground, NarMatch, NarMismatch, PathFacts, Refusal, TrustedPath};

use super::{
    Shared,
    book::{Job, Outcome, Suspects, Task},
    lock,
};
use crate::nixdb::{NixDatabaseError, ValidPath};

/// A path that was not adopted.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
struct NotAdopted {
    path: StorePath,
    source: Failure,
}

/// Why a path was not adopted.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Add(Box<AddError>),
    #[error(transparent)]
    Store(Box<StoreError>),
    #[error(transparent)]
    Engine(Box<EngineError>),
    #[error(
        "it is not what Nix's database says: its NAR has {actual_size} bytes and the hash {actual}, the database says \
         {size} and {hash}; `nix-store --verify --check-contents` finds such paths"
    )]
    NotAsRegistered { hash: NarHash, size: u64, actual: NarHash, actual_size: u64 },
    #[error(transparent)]
    Mismatch(Box<NarMismatch>),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("peers can't be told of it: {0}")]
    Unshareable(#[from] Unshareable),
}

impl Failure {
    /// Whether the same may go well a while later, with the path as it is.
    fn passes(&self) -> bool {
        match self {
            // What is missing or damaged is read anew from its own place the next time.
            Failure::Store(_) | Failure::Engine(_) => true,
            Failure::Add(source) => matches!(**source, AddError::Store(_)),
            _ => false,
        }
    }
}

impl From<AddError> for Failure {
    fn from(error: AddError) -> Self {
        Failure::Add(Box::new(error))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::Store(Box::new(error))
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Failure::Engine(Box::new(error))
    }
}

/// On what ground a path is to be adopted.
enum Grounds {
    /// These signatures of trusted keys.
    Signed(Vec<Signature>),
    /// The user has named it, and it is here.
    Named { shared: bool },
}

/// A path that is believed and in the store.
struct Known {
    path: TrustedPath,
    shared: bool,
}

/// Does whatever is next until the end.
pub(super) fn run(shared: &Shared) {
    while let Some(job) = next_job(shared) {
        let outcome = shared.run(&job);
        let may_stay = shared.update(|book| book.finish(&job, outcome));
        // The watcher withdraws what it finds adopted and no longer valid; this became so after it had looked.
        if !may_stay {
            shared.withdraw(&BTreeSet::from([job.hash]));
        }
    }
}

fn next_job(shared: &Shared) -> Option<Job> {
    let mut book = lock(&shared.book);
    loop {
        if shared.ends() {
            return None;
        }
        if let Some(job) = book.next_job() {
            return Some(job);
        }
        // A round of checks may have come to its end.
        shared.tell(&book);
        book = shared.changed.wait(book).unwrap_or_else(PoisonError::into_inner);
    }
}

impl Shared {
    fn run(&self, job: &Job) -> Outcome {
        let row = match self.nix.registered(job.id) {
            Ok(Some(row)) => row,
            Ok(None) => return Outcome::Gone,
            Err(error) => {
                self.note_error(&error);
                let is_odd = matches!(error, NixDatabaseError::Row { .. });
                return if is_odd { Outcome::Failed } else { Outcome::Later };
            }
        };
        let path = row.path.clone();
        let result = match &job.task {
            Task::Adopt => self.adopt_if_trusted(job, row),
            Task::Check(suspects) => self.check(job, suspects),
        };
        result.unwrap_or_else(|source| self.failed(job, NotAdopted { path, source }))
    }

    /// What vanishes while it is adopted is no failure.
    fn failed(&self, job: &Job, error: NotAdopted) -> Outcome {
        if self.ends() {
            return Outcome::Later;
        }
        if matches!(self.nix.registered(job.id), Ok(None)) {
            return Outcome::Gone;
        }
        self.note_error(&error);
        if error.source.passes() { Outcome::Later } else { Outcome::Failed }
    }

    fn adopt_if_trusted(&self, job: &Job, row: ValidPath) -> Result<Outcome, Failure> {
        let known = self.known(&row.path)?;
        let named = known.as_ref().filter(|known| known.path.ground() == Ground::AddedHere);
        let vouched_for = row.vouched_for(&self.trust);
        let grounds = match (vouched_for.is_empty(), named) {
            (false, _) => Grounds::Signed(vouched_for),
            (true, Some(known)) => Grounds::Named { shared: known.shared },
            (true, None) => return Ok(Outcome::Untrusted),
        };
        self.adopt(job, row, grounds, known)
    }

    fn adopt(
        &self,
        job: &Job,
        row: ValidPath,
        grounds: Grounds,
        known: Option<Known>,
    ) -> Result<Outcome, Failure> {
        self.update(|book| book.reads(job, &row.path));
        let _hold = self.engine.store().hold();
        let added = self.read(&row, false)?;
        // A path of this root that is here already keeps its ground, its signatures, and who may have it.
        let closure = added.closure.clone();
        if let Some(known) = known.filter(|known| known.path.facts().root == *closure.root()) {
            let shared = known.shared && shareable(&known.path, &closure).is_ok();
            return self.commit(known.path, shared);
        }
        let ValidPath { path, nar, deriver, ca, .. } = row.clone();
        let facts = PathFacts { path, root: closure.root().clone(), nar, deriver, ca };
        let (path, shared) = match grounds {
            Grounds::Signed(signatures) => {
                let claim = Claim { facts, signatures, attestations: Vec::new() };
                let path = TrustedPath::nar_match(self.prove(claim, &row, added)?);
                shareable(&path, &closure)?;
                (path, true)
            }
            Grounds::Named { shared } => {
                let path = TrustedPath::added_here(facts, row.without_false(&self.trust), &[]);
                let shared = shared && shareable(&path, &closure).is_ok();
                (path, shared)
            }
        };
        self.commit(path, shared)
    }

    /// Takes a tree in where it stands, if it is what is registered. `rehash`: reads it though it seems to be known.
    fn read(&self, row: &ValidPath, rehash: bool) -> Result<AddedTree, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // Nobody waits for a large tree when the node ends.
        let go_on =
            |_: AddProgress| if self.ends() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let (now, progress) = (UnixSeconds(now), Some(&go_on as _));
        let options = AddOptions { in_place: true, rehash, now, progress, ..AddOptions::default() };
        let added = add_tree(&**self.engine.store(), &self.nix.on_disk(&row.path), &options)?;
        let NarFacts { nar_hash: hash, nar_size: size, .. } = row.nar;
        let (actual, actual_size) = (added.nar_hash, added.nar_size);
        if (actual, actual_size) != (hash, size) {
            return Err(Failure::NotAsRegistered { hash, size, actual, actual_size });
        }
        Ok(added)
    }

    fn known(&self, path: &StorePath) -> Result<Option<Known>, Failure> {
        let Some(known) = self.engine.path(path.hash()) else { return Ok(None) };
        let stored = self.engine.store().path(path.hash())?;
        Ok(stored.map(|stored| Known { path: TrustedPath::clone(&known), shared: stored.shared() }))
    }

    /// What peers will get, by its root, is what the signature must be true of.
    fn prove(&self, claim: Claim, row: &ValidPath, added: AddedTree) -> Result<NarMatch, Failure> {
        let signed = match self.policy.admit(claim)? {
            Admitted::Signed(signed) => signed,
            Admitted::Attested(_) => return Err(Refusal::NoTrustedKey.into()),
        };
        // A tree that was known from an earlier time comes without a proof: its files have not been read.
        let added = if added.nar.is_some() { added } else { self.read(row, true)? };
        let nar = added.nar.expect("a tree that is read has its NAR");
        nar.prove(&signed, added.closure).map_err(|mismatch| Failure::Mismatch(Box::new(mismatch)))
    }

    fn commit(&self, path: TrustedPath, shared: bool) -> Result<Outcome, Failure> {
        let store_path = path.facts().path.clone();
        let pin = Some(Reason::adopted());
        self.wait_for(move |engine| async move { engine.commit(path, shared, pin).await })?;
        tracing::debug!(path = %store_path, "adopted");
        Ok(Outcome::Adopted)
    }

    /// Looks whether a path still has what went with another one.
    fn check(&self, job: &Job, suspects: &Suspects) -> Result<Outcome, Failure> {
        let Some(known) = self.engine.path(&job.hash) else { return Ok(Outcome::Broken) };
        let is_whole = self.has(&known.facts().root, suspects)?;
        if self.ends() {
            return Ok(Outcome::Later);
        }
        Ok(if is_whole { Outcome::Adopted } else { Outcome::Broken })
    }

    /// Whether the first group of each suspicious blob can be read: the file is there. At the end of all it is left off.
    fn has(&self, root: &Root, suspects: &Suspects) -> Result<bool, StoreError> {
        let store = &**self.engine.store();
        let closure = match closure(store, root) {
            Ok(Some(closure)) => closure,
            Ok(None) | Err(StoreError::Damaged { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        for blob in closure.blobs() {
            let first = Span::whole(blob.size).split(1).0;
            if !suspects.contains(&blob.digest) {
                continue;
            }
            if self.ends() {
                break;
            }
            match store.read_span(&blob, first) {
                Ok(Some(_)) => {}
                Ok(None) | Err(StoreError::Damaged { .. }) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
