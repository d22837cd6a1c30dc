//! The use cases.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use firn_castore::Root;
use firn_exchange::{Fellow, Goal, Key, Limits, Micros, PeerId, Request, SharedView};
use firn_nix::{NarHash, StorePath, StorePathHash};
use firn_store::{Reason, Store, UnixSeconds, Visible};
use firn_trust::{Admitted, Policy, SignedNarInfo, TrustedPath};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::{broadcast, watch};

use crate::flight::{Crew, is_answered};
use crate::flights::{FlightKey, Landed, Seat};
use crate::heard::Heard;
use crate::index::Index;
use crate::inner::Inner;
use crate::ledger::Ledger;
use crate::nar::Contents;
use crate::pool::Pool;
use crate::replies::ReplyMemory;
use crate::{
    Ask, EngineError, Fetched, Find, LedgerEntry, Liar, Nar, Progress, RejectedRoot, Transfer, Via, uses,
};

/// How many paths of a closure are fetched at once.
const PATHS_AT_ONCE: usize = 4;
/// How many who ask for a tree are remembered until its fetch looks.
const ASKERS_MAX: usize = 64;

/// What an engine can be told.
#[derive(Debug, Clone, Copy)]
pub struct EngineConfig {
    /// How far each fetch goes.
    pub limits: Limits,
    /// Decides among equal peers; different for each node.
    pub seed: u64,
    /// This node: who fetches the same agrees by their names on who begins where.
    pub me: PeerId,
}

/// A local store, and all that can be had from others, as one.
#[derive(Clone)]
pub struct Engine(pub(crate) Arc<Inner>);

/// What is believed of a path that was asked for.
#[derive(Debug, Clone)]
pub enum Resolved {
    /// Its root is believed: it is here, or it is attested.
    Proven(Arc<TrustedPath>),
    /// Its narinfo is signed; its root waits for the NAR match.
    Signed(Arc<SignedNarInfo>),
}

/// Under which name a NAR is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NarName {
    /// The NAR of this tree, if it is admitted.
    Root(Root),
    /// The NAR of this hash, whichever tree it is of.
    Hash(NarHash),
}

impl Engine {
    /// Judges what the store has, and is ready.
    pub async fn open(
        store: Arc<dyn Store>,
        policy: Policy,
        ask: Arc<dyn Ask>,
        find: Arc<dyn Find>,
        config: EngineConfig,
    ) -> Result<Self, EngineError> {
        let pool = Pool::new();
        let policy = Arc::new(policy);
        let EngineConfig { limits, seed, me } = config;
        let ledger = Arc::new(Ledger::default());
        let (slow, undelivered) = Default::default();
        let (askers, _) = broadcast::channel(ASKERS_MAX);
        let memory = ReplyMemory::default();
        let crew = Crew {
            store,
            policy,
            ask,
            find,
            pool,
            memory,
            ledger,
            slow,
            undelivered,
            limits,
            seed,
            me,
            askers,
        };
        let Crew { store, policy, .. } = crew.clone();
        let index = Arc::new(crew.pool.run(move || Index::load(&*store, &policy)).await??);
        Ok(Self(Arc::new(Inner::new(crew, index))))
    }

    /// The local store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.crew.store
    }

    /// What peers may see, whoever they are; who may see it is the caller's to decide. What they read counts as used.
    pub fn shared_view(&self) -> SharedView {
        let (store, uses) = (self.store().clone(), self.0.uses.clone());
        let note = move |what: &Visible| {
            if uses.is_due(what) {
                uses::note(&*store, what);
            }
        };
        SharedView::new(self.store().clone(), self.0.index.shared.clone()).watched(Arc::new(note))
    }

    /// Under which keys this node should be found.
    pub fn keys(&self) -> Vec<Key> {
        self.0.index.shared.keys()
    }

    /// Changes whenever something was committed, or has gone.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// All paths that are here and believed.
    pub fn paths(&self) -> Vec<Arc<TrustedPath>> {
        self.0.index.paths()
    }

    /// The path of this hash, if it is here and believed.
    pub fn path(&self, hash: &StorePathHash) -> Option<Arc<TrustedPath>> {
        self.0.index.path(hash)
    }

    /// A path of this root that is here and believed.
    pub fn path_of_root(&self, root: &Root) -> Option<Arc<TrustedPath>> {
        self.0.index.by_root(root)
    }

    /// How many paths are in the store and believed no longer.
    pub fn paths_refused(&self) -> u64 {
        self.0.index.refused_count()
    }

    /// A peer asks this node for a tree: where that is being fetched, the two can give each other what comes.
    pub fn asked_for(&self, root: &Root, asker: impl FnOnce() -> Fellow) {
        let askers = &self.0.crew.askers;
        if askers.receiver_count() > 0 {
            // Nobody listens any more where the last fetch has ended meanwhile.
            let _ = askers.send((root.clone(), asker()));
        }
    }

    /// What is known of peers that were found.
    pub fn peers(&self) -> Vec<(PeerId, LedgerEntry)> {
        self.0.crew.ledger.peers()
    }

    /// How a peer was found first, if it was.
    pub fn via(&self, peer: &PeerId) -> Option<Via> {
        self.0.crew.ledger.via(peer)
    }

    /// What is being fetched now, each path or tree once.
    pub fn transfers(&self) -> Vec<Transfer> {
        self.0.flights.transfers()
    }

    /// Has liars of an earlier life of this node asked nothing either: to be called before anything is fetched.
    pub fn remember_liars(&self, liars: Vec<Liar>, now: UnixSeconds) {
        self.0.crew.ledger.remember(liars, now);
    }

    /// Who is asked nothing because of a lie, the newest first; those that were remembered as well.
    pub fn liars(&self, now: UnixSeconds) -> Vec<Liar> {
        self.0.crew.ledger.liars(now)
    }

    /// Changes with each lie.
    pub fn lies(&self) -> watch::Receiver<u64> {
        self.0.crew.ledger.lies()
    }

    /// Roots that were given up, the latest last.
    pub fn rejected_roots(&self) -> Vec<RejectedRoot> {
        self.0.crew.ledger.rejected_roots()
    }

    /// Runs blocking work on the engine's bounded pool.
    pub async fn run_blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        self.0.crew.pool.run(job).await
    }

    /// Makes a path visible whose tree is in the store, and pins it if there is a reason.
    pub async fn commit(
        &self,
        path: TrustedPath,
        shared: bool,
        pin: Option<Reason>,
    ) -> Result<(), EngineError> {
        self.0.commit(path, shared, pin, None).await
    }

    /// Makes a tree visible that has no path; else as [`Engine::commit`].
    pub async fn commit_root(
        &self,
        root: Root,
        shared: bool,
        pin: Option<Reason>,
    ) -> Result<(), EngineError> {
        self.0.commit_root(root, shared, pin, None).await
    }

    /// What is believed of a path: from here, else from peers within the budget; none at all are asked if it is zero.
    pub async fn resolve(
        &self,
        hash: StorePathHash,
        budget: Duration,
    ) -> Result<Option<Resolved>, EngineError> {
        if let Some(path) = self.0.index.path(&hash) {
            self.0.used(Visible::Path(hash)).await?;
            return Ok(Some(Resolved::Proven(path)));
        }
        if let Some(admitted) = self.0.index.admitted(&hash) {
            return Ok(Some(admitted.into()));
        }
        if budget.is_zero() {
            return Ok(None);
        }
        let seat = self.0.clone().join(Goal::Claims(hash), None);
        match tokio::time::timeout(budget, seat.landing).await {
            Err(_) => {
                self.waited_in_vain(hash, &seat.heard, budget);
                Ok(None)
            }
            Ok(Err(
                EngineError::NotFound | EngineError::Blamed | EngineError::Untrusted | EngineError::TimedOut,
            )) => Ok(None),
            Ok(Err(error)) => Err(error),
            Ok(Ok(Landed::Here(_))) => Ok(None),
            Ok(Ok(Landed::Claims(claims))) => {
                let best = claims.into_iter().next();
                if let Some(admitted) = &best {
                    self.0.index.admit(admitted.clone());
                }
                Ok(best.map(Resolved::from))
            }
        }
    }

    /// Who has not answered within the budget is not waited for from now on, but asked on.
    fn waited_in_vain(&self, hash: StorePathHash, heard: &Heard, budget: Duration) {
        for (peer, waited) in heard.owing() {
            // Who was asked near the end of the budget may be as fast as any.
            if waited < budget / 2 {
                continue;
            }
            // What is asked on must not keep alive what ends it.
            let crew = Crew { slow: Arc::default(), ..self.0.crew.clone() };
            let question = move || is_answered(crew.clone(), peer, Request::Path(hash)).boxed();
            self.0.crew.slow.add(peer, waited, Box::new(question));
        }
    }

    /// A NAR of something that is here or was admitted. `path` helps where this node has forgotten: whoever asks for
    /// it knows by which path it came. What was not admitted is absent, and never fetched.
    pub async fn nar(
        &self,
        name: NarName,
        path: Option<StorePathHash>,
        budget: Duration,
    ) -> Result<Option<Nar>, EngineError> {
        let here = match &name {
            NarName::Root(root) => self.0.index.by_root(root),
            NarName::Hash(nar_hash) => self.0.index.by_nar_hash(nar_hash),
        };
        if let Some(path) = here {
            self.0.used(Visible::Path(*path.facts().path.hash())).await?;
            return Ok(Some(self.nar_of(Resolved::Proven(path))));
        }
        let Some(hash) = path else { return Ok(None) };
        let resolved = self.resolve(hash, budget).await?;
        let named = resolved.filter(|resolved| match &name {
            NarName::Root(root) => matches!(resolved, Resolved::Proven(path) if path.facts().root == *root),
            NarName::Hash(nar_hash) => resolved.facts().nar.nar_hash == *nar_hash,
        });
        Ok(named.map(|resolved| self.nar_of(resolved)))
    }

    fn nar_of(&self, resolved: Resolved) -> Nar {
        let size = resolved.facts().nar.nar_size;
        let is_proven = matches!(resolved, Resolved::Proven(_));
        Nar::new(size, is_proven, Contents { engine: self.clone(), resolved })
    }

    /// Fetches a path, unless it is here.
    pub async fn get_path(
        &self,
        hash: StorePathHash,
        on_progress: &(dyn Fn(&Progress) + Send + Sync),
    ) -> Result<Fetched, EngineError> {
        let hold = self.store().hold();
        if let Some(path) = self.0.index.path(&hash)
            && let Some(closure) = self.0.whole(path.facts()).await?
        {
            self.0.used(Visible::Path(hash)).await?;
            return Ok(Fetched { path: Some(path), closure });
        }
        drop(hold);
        // What is attested flies as its tree, so that whoever reads its NAR is on the same flight.
        if let Some(Admitted::Attested(path)) = self.0.index.admitted(&hash) {
            match self.board(&Resolved::Proven(Arc::new(path))).landed(on_progress).await {
                // Another root may do.
                Err(
                    EngineError::Rejected(_)
                    | EngineError::NotFound
                    | EngineError::Blamed
                    | EngineError::TimedOut,
                ) => {}
                landed => return fetched(landed?),
            }
        }
        fetched(self.0.clone().join(Goal::Path(hash), None).landed(on_progress).await?)
    }

    /// Fetches a tree that the user has named, unless it is here.
    pub async fn get_root(
        &self,
        root: Root,
        on_progress: &(dyn Fn(&Progress) + Send + Sync),
    ) -> Result<Fetched, EngineError> {
        fetched(self.0.clone().join(Goal::Tree(root), None).landed(on_progress).await?)
    }

    /// Fetches a path and all that it refers to, directly or not. Gives the paths as they were finished.
    pub async fn get_closure(
        &self,
        path: StorePathHash,
        on_progress: &(dyn Fn(&StorePathHash, &Progress) + Send + Sync),
    ) -> Result<Vec<Fetched>, EngineError> {
        let mut wanted: Vec<(StorePathHash, Option<StorePath>)> = vec![(path, None)];
        let mut seen = BTreeSet::from([path]);
        let mut under_way = FuturesUnordered::new();
        let mut all = Vec::new();
        loop {
            while under_way.len() < PATHS_AT_ONCE
                && let Some((hash, reference)) = wanted.pop()
            {
                under_way.push(async move {
                    let fetched = self.get_path(hash, &|progress| on_progress(&hash, progress)).await;
                    fetched.map_err(|source| match reference {
                        Some(path) => EngineError::Reference { path, source: Box::new(source) },
                        None => source,
                    })
                });
            }
            let Some(fetched) = under_way.next().await else { return Ok(all) };
            let fetched = fetched?;
            if let Some(path) = &fetched.path {
                let new =
                    path.facts().nar.references.iter().filter(|reference| seen.insert(*reference.hash()));
                wanted.extend(new.map(|reference| (*reference.hash(), Some(reference.clone()))));
            }
            all.push(fetched);
        }
    }

    /// A seat in a flight of this very root.
    pub(crate) fn board_tree(&self, path: &Arc<TrustedPath>) -> Seat {
        self.0.clone().join(Goal::Tree(path.facts().root.clone()), Some(path.clone()))
    }

    /// A seat in the flight that brings this path's tree. One that is under way for the path may bring another root.
    pub(crate) fn board(&self, resolved: &Resolved) -> Seat {
        match resolved {
            Resolved::Proven(path) => {
                let under_way = self.0.flights.under_way(&FlightKey::Path(*path.facts().path.hash()));
                under_way.unwrap_or_else(|| self.board_tree(path))
            }
            // Whoever reads a NAR has other places to look: peers that cannot be reached are not waited for.
            Resolved::Signed(signed) => {
                let limits = Limits { claims_patience: Micros(0), ..self.0.crew.limits };
                self.0.clone().join_within(Goal::Path(*signed.facts().path.hash()), None, limits)
            }
        }
    }
}

fn fetched(landed: Landed) -> Result<Fetched, EngineError> {
    match landed {
        Landed::Here(fetched) => Ok(fetched),
        Landed::Claims(_) => Err(EngineError::NotFound),
    }
}

impl From<Admitted> for Resolved {
    fn from(admitted: Admitted) -> Self {
        match admitted {
            Admitted::Attested(path) => Resolved::Proven(Arc::new(path)),
            Admitted::Signed(signed) => Resolved::Signed(Arc::new(signed)),
        }
    }
}

impl Resolved {
    /// What is said of the path.
    pub fn facts(&self) -> &firn_trust::PathFacts {
        match self {
            Resolved::Proven(path) => path.facts(),
            Resolved::Signed(signed) => signed.facts(),
        }
    }

    /// Nix's signatures.
    pub fn signatures(&self) -> &[firn_nix::Signature] {
        match self {
            Resolved::Proven(path) => path.signatures(),
            Resolved::Signed(signed) => signed.signatures(),
        }
    }
}
