//! What all handles of one engine share.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use firn_castore::{Closure, Root};
use firn_exchange::{Goal, Limits, Outcome};
use firn_store::{Item, Reason, Record, Store, StoreError, Visible, closure_or_refuse, missing_blobs};
use firn_trust::{PathFacts, TrustedPath};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument;

use crate::flight::{Cockpit, Crew, Plan, fly};
use crate::flights::{FlightKey, Flights, Landed, Seat};
use crate::index::Index;
use crate::memory::{Layouts, NarMemory};
use crate::passing::Windows;
use crate::uses::{self, Uses};
use crate::{EngineError, Fetched, telling};

/// What all handles of one engine share.
pub(crate) struct Inner {
    pub(crate) crew: Crew,
    pub(crate) index: Arc<Index>,
    pub(crate) flights: Flights,
    pub(crate) uses: Arc<Uses>,
    /// What those who read NARs hold.
    pub(crate) nar_memory: NarMemory,
    /// What they read.
    pub(crate) layouts: Layouts,
    /// What of NARs is passed on without being kept.
    pub(crate) windows: Windows,
    pub(crate) changes: watch::Sender<u64>,
    /// Commits go on beside each other, and whatever takes away goes alone: else the store and the view of it could
    /// end up different.
    gate: RwLock<()>,
    /// What was found to be lost, until all that needs it has been withdrawn.
    pub(crate) lost_items: Mutex<BTreeSet<Item>>,
    /// One collection at a time.
    pub(crate) collecting: tokio::sync::Mutex<()>,
    /// One withdrawal at a time.
    pub(crate) withdrawing: tokio::sync::Mutex<()>,
}

impl Inner {
    pub(crate) fn new(crew: Crew, index: Arc<Index>) -> Self {
        let (changes, _) = watch::channel(0);
        let (flights, uses, gate) = (Flights::default(), Arc::default(), RwLock::default());
        let lost_items = Mutex::default();
        let (nar_memory, layouts, windows, collecting, withdrawing) = Default::default();
        Self {
            crew,
            index,
            flights,
            uses,
            nar_memory,
            layouts,
            windows,
            changes,
            gate,
            lost_items,
            collecting,
            withdrawing,
        }
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.crew.store
    }

    /// While this lives, nothing is taken out of view.
    pub(crate) fn commits(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// While this lives, nothing else changes what is visible.
    pub(crate) fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Remembers that something was used that is in view.
    pub(crate) async fn used(&self, what: Visible) -> Result<(), EngineError> {
        if self.uses.is_due(&what) {
            let store = self.crew.store.clone();
            self.crew.pool.run(move || uses::note(&*store, &what)).await?;
        }
        Ok(())
    }

    /// Joins, or starts, the flight to this goal. A tree is committed as `path` if there is one.
    pub(crate) fn join(self: Arc<Self>, goal: Goal, path: Option<Arc<TrustedPath>>) -> Seat {
        let limits = self.crew.limits;
        self.join_within(goal, path, limits)
    }

    /// As [`Inner::join`]; a flight that is to be started goes as far as these limits.
    pub(crate) fn join_within(
        self: Arc<Self>,
        goal: Goal,
        path: Option<Arc<TrustedPath>>,
        limits: Limits,
    ) -> Seat {
        let key = match &goal {
            Goal::Claims(hash) => FlightKey::Claims(*hash),
            Goal::Path(hash) => FlightKey::Path(*hash),
            Goal::Tree(root) => {
                FlightKey::Tree(root.clone(), path.as_ref().map(|path| *path.facts().path.hash()))
            }
        };
        let inner = self.clone();
        let crew = Crew { limits, ..self.crew.clone() };
        let changes = self.changes.clone();
        self.flights.join(key, changes, move |cockpit| {
            let span = telling::span(&goal, path.as_deref());
            inner.carry(crew, goal, path, cockpit).instrument(span)
        })
    }

    /// Flies, and tells how it ended.
    async fn carry(
        self: Arc<Self>,
        crew: Crew,
        goal: Goal,
        path: Option<Arc<TrustedPath>>,
        cockpit: Cockpit,
    ) -> Result<Landed, EngineError> {
        let (begun, progress) = (Instant::now(), cockpit.progress.subscribe());
        let path_name = path.as_ref().map(|path| path.facts().path.clone());
        cockpit.progress.send_modify(|progress| progress.path = path_name);
        let landed = self.clone().bring(crew, goal.clone(), path.clone(), cockpit).await;
        if let Err(error) = &landed
            && error.is_absence()
        {
            match (&goal, &path) {
                (Goal::Tree(root), Some(path)) => self.index.disown(path.facts().path.hash(), Some(root)),
                (Goal::Path(hash), _) => self.index.disown(hash, None),
                _ => {}
            }
        }
        telling::ended(&landed, &progress.borrow(), begun.elapsed());
        landed
    }

    async fn bring(
        self: Arc<Self>,
        crew: Crew,
        goal: Goal,
        path: Option<Arc<TrustedPath>>,
        cockpit: Cockpit,
    ) -> Result<Landed, EngineError> {
        // What it finds here, and what it brings, must still be here when it is committed.
        let _hold = self.crew.store.hold();
        let may_share = self.index.may_share(&goal, path.as_deref());
        if let Goal::Tree(root) = &goal
            && let Some(closure) = self.local_tree(root.clone()).await?
        {
            return match path {
                Some(_) => self.land(closure, path, may_share).await,
                None => self.land_local(closure).await,
            };
        }
        // Peers may have what has come until it is committed.
        let (outcome, _coming) =
            fly(crew, self.index.clone(), Plan { goal, may_share, part: None }, cockpit).await?;
        match outcome {
            Outcome::Claims(claims) => Ok(Landed::Claims(claims)),
            Outcome::Path(path, closure) => self.land(closure, Some(Arc::new(*path)), may_share).await,
            Outcome::Tree(closure) => self.land(closure, path, may_share).await,
            outcome => Err(in_vain(outcome)),
        }
    }

    /// Commits what a flight has brought. What came from others may go to others, unless it was private before.
    async fn land(
        self: Arc<Self>,
        closure: Arc<Closure>,
        path: Option<Arc<TrustedPath>>,
        may_share: bool,
    ) -> Result<Landed, EngineError> {
        match &path {
            Some(path) => {
                self.commit(TrustedPath::clone(path), may_share, None, Some(closure.clone())).await?;
            }
            None => self.commit_root(closure.root().clone(), may_share, None, Some(closure.clone())).await?,
        }
        self.used(match &path {
            Some(path) => Visible::Path(*path.facts().path.hash()),
            None => Visible::Root(closure.root().clone()),
        })
        .await?;
        Ok(Landed::Here(Fetched { path, closure }))
    }

    /// A tree of which nothing had to be fetched may be a part of something private: it is not shared by this.
    async fn land_local(self: Arc<Self>, closure: Arc<Closure>) -> Result<Landed, EngineError> {
        if !self.index.is_visible(closure.root()) {
            self.commit_root(closure.root().clone(), false, None, Some(closure.clone())).await?;
        }
        Ok(Landed::Here(Fetched { path: None, closure }))
    }

    /// `known` is its tree where that is in memory already: then it is not read again.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        path: TrustedPath,
        shared: bool,
        pin: Option<Reason>,
        known: Option<Arc<Closure>>,
    ) -> Result<(), EngineError> {
        let inner = self.clone();
        // All in one: whoever waits for it may stop waiting at any time.
        let commit = move || {
            let _gate = inner.commits();
            let record = Record::Path(Box::new(path.to_stored(shared)));
            inner.store().commit_record(record, known.clone(), pin.as_ref())?;
            inner.index.add(inner.store(), path, shared, known.as_deref())?;
            inner.changed();
            Ok::<_, StoreError>(())
        };
        Ok(self.crew.pool.run(commit).await??)
    }

    pub(crate) async fn commit_root(
        self: &Arc<Self>,
        root: Root,
        shared: bool,
        pin: Option<Reason>,
        known: Option<Arc<Closure>>,
    ) -> Result<(), EngineError> {
        let inner = self.clone();
        let commit = move || {
            let _gate = inner.commits();
            let shared = shared || inner.index.tree_is_shared(&root);
            let record = Record::Tree { root: root.clone(), shared };
            inner.store().commit_record(record, known.clone(), pin.as_ref())?;
            inner.index.add_tree(inner.store(), root, shared, known.as_deref())?;
            inner.changed();
            Ok::<_, StoreError>(())
        };
        Ok(self.crew.pool.run(commit).await??)
    }

    /// The tree, if all of it is here: nothing else is committed.
    async fn local_tree(&self, root: Root) -> Result<Option<Arc<Closure>>, EngineError> {
        let store = self.crew.store.clone();
        match self.crew.pool.run(move || whole_tree(&*store, &root)).await? {
            Ok(closure) => Ok(Some(closure)),
            Err(error) if error.lost().is_some() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The tree of a path that is in view, if all of it is here. Else the path is withdrawn.
    pub(crate) async fn whole(
        self: &Arc<Self>,
        facts: &PathFacts,
    ) -> Result<Option<Arc<Closure>>, EngineError> {
        self.tree_of(facts, whole_tree).await
    }

    /// As [`Inner::whole`], but its blobs are not looked for.
    pub(crate) async fn directories(
        self: &Arc<Self>,
        facts: &PathFacts,
    ) -> Result<Option<Arc<Closure>>, EngineError> {
        self.tree_of(facts, |store, root| closure_or_refuse(store, root).map(Arc::new)).await
    }

    async fn tree_of(
        self: &Arc<Self>,
        facts: &PathFacts,
        read: fn(&dyn Store, &Root) -> Result<Arc<Closure>, StoreError>,
    ) -> Result<Option<Arc<Closure>>, EngineError> {
        let (store, root) = (self.crew.store.clone(), facts.root.clone());
        match self.crew.pool.run(move || read(&*store, &root)).await? {
            Ok(closure) => Ok(Some(closure)),
            Err(error) => match self.lost(facts, error).await {
                EngineError::Gone { .. } => Ok(None),
                error => Err(error),
            },
        }
    }

    /// What reading a path comes to because of this: where something of it is not here, or not what it was, the path is
    /// withdrawn, with all else that has lost the same.
    pub(crate) async fn lost(self: &Arc<Self>, facts: &PathFacts, error: StoreError) -> EngineError {
        let Some(item) = error.lost().cloned() else { return error.into() };
        tracing::warn!(path = %facts.path, %error, "a path is not whole any longer");
        match self.withdraw(Some(item)).await {
            Ok(_) => EngineError::Gone { path: Box::new(facts.path.clone()), source: Arc::new(error) },
            Err(error) => error,
        }
    }
}

/// Why a flight has not brought what it was for.
pub(crate) fn in_vain(outcome: Outcome) -> EngineError {
    match outcome {
        Outcome::Untrusted => EngineError::Untrusted,
        Outcome::Rejected(rejection) => EngineError::Rejected(rejection),
        Outcome::TimedOut => EngineError::TimedOut,
        Outcome::NotFound | Outcome::Claims(_) | Outcome::Path(..) | Outcome::Tree(_) => {
            EngineError::NotFound
        }
    }
}

/// The tree, all of which must be here.
fn whole_tree(store: &dyn Store, root: &Root) -> Result<Arc<Closure>, StoreError> {
    let closure = closure_or_refuse(store, root)?;
    match missing_blobs(store, &closure)?.first() {
        Some(blob) => Err(StoreError::Missing(Item::Blob(blob.digest))),
        None => Ok(Arc::new(closure)),
    }
}
