//! One flight for one thing: whoever wants what is already on its way joins.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_castore::{BlobDigest, Closure, Root};
use firn_nix::StorePathHash;
use firn_trust::{Admitted, TrustedPath};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::flight::Cockpit;
use crate::heard::Heard;
use crate::transfer::each_once;
use crate::{EngineError, Progress, Transfer};

/// What a flight is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FlightKey {
    /// What can be believed of a path.
    Claims(StorePathHash),
    /// A path, with whichever root can be proven.
    Path(StorePathHash),
    /// A tree, to be committed for this path if there is one.
    Tree(Root, Option<StorePathHash>),
}

/// What a flight has brought.
#[derive(Debug, Clone)]
pub(crate) enum Landed {
    /// For [`FlightKey::Claims`].
    Claims(Vec<Admitted>),
    /// For the others: committed.
    Here(Fetched),
}

/// A tree that is here, and the path that it is believed to be.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// `None` where a root was asked for.
    pub path: Option<Arc<TrustedPath>>,
    /// The tree.
    pub closure: Arc<Closure>,
}

type Landing = Shared<BoxFuture<'static, Result<Landed, EngineError>>>;

/// A seat in a flight. The flight ends when nobody holds one any longer.
#[derive(Clone)]
pub(crate) struct Seat {
    pub(crate) progress: watch::Receiver<Progress>,
    reading: watch::Sender<Option<BlobDigest>>,
    pub(crate) heard: Heard,
    pub(crate) landing: Landing,
}

#[derive(Default)]
pub(crate) struct Flights(Mutex<BTreeMap<FlightKey, Waiting>>);

struct Waiting {
    since: Instant,
    progress: watch::Receiver<Progress>,
    reading: watch::Sender<Option<BlobDigest>>,
    heard: Heard,
    landing: WeakShared<BoxFuture<'static, Result<Landed, EngineError>>>,
}

impl Flights {
    /// A seat in the flight of this key, if there is one and it has not landed.
    pub(crate) fn under_way(&self, key: &FlightKey) -> Option<Seat> {
        self.lock().get(key).and_then(Waiting::seat)
    }

    /// The flights that are to bring contents and have not landed.
    pub(crate) fn transfers(&self) -> Vec<Transfer> {
        let flights = self.lock();
        let under_way = flights.iter().filter(|(_, flight)| flight.seat().is_some());
        each_once(under_way.filter_map(|(key, flight)| {
            let (progress, elapsed) = (flight.progress.borrow().clone(), flight.since.elapsed());
            Some(Transfer { what: key.brings()?, progress, elapsed })
        }))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<FlightKey, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the flight of this key, or starts it.
    pub(crate) fn join<F>(
        &self,
        key: FlightKey,
        changes: watch::Sender<u64>,
        start: impl FnOnce(Cockpit) -> F,
    ) -> Seat
    where
        F: Future<Output = Result<Landed, EngineError>> + Send + 'static,
    {
        let mut flights = self.lock();
        if let Some(seat) = flights.get(&key).and_then(Waiting::seat) {
            return seat;
        }
        flights.retain(|_, flight| flight.landing.upgrade().is_some());
        let (sender, progress) = watch::channel(Progress::default());
        let (reading, receiver) = watch::channel(None);
        let heard = Heard::default();
        let cockpit = Cockpit { progress: sender, reading: receiver, changes, heard: heard.clone() };
        let task = AbortOnDropHandle::new(tokio::spawn(start(cockpit)));
        let landing = async move { task.await.unwrap_or(Err(EngineError::Ending)) }.boxed().shared();
        if let Some(weak) = landing.downgrade() {
            let (progress, reading, heard) = (progress.clone(), reading.clone(), heard.clone());
            let since = Instant::now();
            flights.insert(key, Waiting { since, progress, reading, heard, landing: weak });
        }
        Seat { progress, reading, heard, landing }
    }
}

impl Waiting {
    fn seat(&self) -> Option<Seat> {
        let landing = self.landing.upgrade().filter(|landing| landing.peek().is_none())?;
        let (progress, reading) = (self.progress.clone(), self.reading.clone());
        Some(Seat { progress, reading, heard: self.heard.clone(), landing })
    }
}

impl Seat {
    /// What a reader waits for comes first.
    pub(crate) fn read(&self, blob: BlobDigest) {
        self.reading.send_if_modified(|reading| reading.replace(blob) != Some(blob));
    }

    /// Waits for the end, and tells of each change on the way.
    pub(crate) async fn landed(
        mut self,
        on_progress: &(dyn Fn(&Progress) + Send + Sync),
    ) -> Result<Landed, EngineError> {
        loop {
            tokio::select! {
                landed = self.landing.clone() => {
                    on_progress(&self.progress.borrow_and_update());
                    return landed;
                }
                Ok(()) = self.progress.changed() => on_progress(&self.progress.borrow_and_update()),
            }
        }
    }
}
