//! Look-ups under way: who waits for which query of Kademlia.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use firn_exchange::PeerId;
use libp2p::kad::QueryId;
use tokio::sync::{mpsc, oneshot};

use crate::{address::AddressRecord, announce::DhtKey, discovery::PROVIDERS_WANTED_MAX};

/// Look-ups of providers at once; further ones wait.
pub(crate) const SEARCHES_MAX: usize = 64;
/// Look-ups that wait; further ones end with nothing.
pub(crate) const WAITING_MAX: usize = 1024;
/// Look-ups of address records at once; further ones end with nothing.
pub(crate) const RESOLVES_MAX: usize = 256;

/// One look-up of providers.
pub(crate) struct Search {
    found: mpsc::Sender<PeerId>,
    seen: BTreeSet<PeerId>,
}

/// Look-ups of providers.
#[derive(Default)]
pub(crate) struct Searches {
    waiting: VecDeque<(DhtKey, Search)>,
    running: HashMap<QueryId, Search>,
}

impl Searches {
    pub(crate) fn add(&mut self, key: DhtKey, found: mpsc::Sender<PeerId>) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back((key, Search { found, seen: BTreeSet::new() }));
        }
    }

    /// The next one to be started, if there is room for it.
    pub(crate) fn next_to_start(&mut self) -> Option<(DhtKey, Search)> {
        if self.running.len() >= SEARCHES_MAX {
            return None;
        }
        self.waiting.retain(|(_, search)| !search.found.is_closed());
        self.waiting.pop_front()
    }

    pub(crate) fn started(&mut self, query: QueryId, search: Search) {
        self.running.insert(query, search);
    }

    /// These are providers. Gives those that were not known, and whether the look-up is over.
    pub(crate) fn found(
        &mut self,
        query: QueryId,
        peers: impl Iterator<Item = PeerId>,
    ) -> (Vec<PeerId>, bool) {
        let Some(search) = self.running.get_mut(&query) else { return (Vec::new(), true) };
        let new: Vec<PeerId> = peers.filter(|peer| search.seen.insert(*peer)).collect();
        let is_taken = new.iter().all(|peer| search.found.try_send(*peer).is_ok());
        (new, !is_taken || search.seen.len() >= PROVIDERS_WANTED_MAX)
    }

    pub(crate) fn end(&mut self, query: QueryId) {
        self.running.remove(&query);
    }

    /// Ends those that nobody waits for any more.
    pub(crate) fn take_abandoned(&mut self) -> Vec<QueryId> {
        let abandoned: Vec<QueryId> = self
            .running
            .iter()
            .filter(|(_, search)| search.found.is_closed())
            .map(|(query, _)| *query)
            .collect();
        for query in &abandoned {
            self.running.remove(query);
        }
        abandoned
    }
}

/// Who waits for an address record signed after some time.
struct Waiter {
    signed_after_us: Option<u64>,
    done: oneshot::Sender<()>,
}

/// Look-ups of address records, one a peer.
#[derive(Default)]
pub(crate) struct Resolves {
    queries: HashMap<QueryId, PeerId>,
    waiters: BTreeMap<PeerId, Vec<Waiter>>,
}

impl Resolves {
    /// Joins the look-up of this peer; says whether there was one.
    pub(crate) fn join(
        &mut self,
        peer: PeerId,
        signed_after_us: Option<u64>,
        done: oneshot::Sender<()>,
    ) -> bool {
        let Some(waiters) = self.waiters.get_mut(&peer) else { return false };
        waiters.push(Waiter { signed_after_us, done });
        true
    }

    pub(crate) fn has_room(&self) -> bool {
        self.queries.len() < RESOLVES_MAX
    }

    pub(crate) fn is_running(&self, peer: PeerId) -> bool {
        self.waiters.contains_key(&peer)
    }

    pub(crate) fn started(&mut self, query: QueryId, peer: PeerId) {
        self.queries.insert(query, peer);
        self.waiters.insert(peer, Vec::new());
    }

    /// Whom this query looks for.
    pub(crate) fn peer(&self, query: QueryId) -> Option<PeerId> {
        self.queries.get(&query).copied()
    }

    /// This record came: those that wait for one as late as this are done, and if it was not known, all are.
    pub(crate) fn found(&mut self, record: &AddressRecord, is_new: bool) {
        let Some(waiters) = self.waiters.get_mut(&record.peer()) else { return };
        let is_late = |waiter: &mut Waiter| {
            is_new || waiter.signed_after_us.is_none_or(|after| record.signed_at_us() > after)
        };
        for waiter in waiters.extract_if(.., is_late) {
            if waiter.done.send(()).is_err() {
                tracing::trace!("nobody waits for this address any more");
            }
        }
    }

    /// The query is over; whoever still waits learns it by losing its channel.
    pub(crate) fn end(&mut self, query: QueryId) {
        if let Some(peer) = self.queries.remove(&query) {
            self.waiters.remove(&peer);
        }
    }
}
