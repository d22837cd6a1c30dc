//! Which connections each peer has to this node.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use firn_exchange::PeerId;
use tokio_util::sync::CancellationToken;

/// Connections that one peer may have to this node.
pub const CONNECTIONS_OF_A_PEER_MAX: usize = 4;
/// A connection from which nothing comes for so long looks dead, where a newer one of its peer finds no room.
const SILENCE: Duration = Duration::from_millis(500);

/// The connections of all peers, of each the oldest first.
#[derive(Default, Clone)]
pub(crate) struct Connections(Arc<Mutex<BTreeMap<PeerId, VecDeque<Known>>>>);

#[derive(Clone)]
struct Known {
    superseded: CancellationToken,
    /// How much has come from it: a count that only grows.
    heard: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// One connection of a peer, counted for as long as this lives.
pub(crate) struct Counted {
    connections: Connections,
    peer: PeerId,
    /// Cancelled where a newer one of the peer has taken its place.
    pub(crate) superseded: CancellationToken,
}

impl Connections {
    /// Counts one more. Of too many the peer's oldest is superseded: a peer that was killed leaves connections that look
    /// alive until they time out, and none of them may keep the living one out. `heard` counts what has come from it.
    pub(crate) fn take(&self, peer: PeerId, heard: impl Fn() -> u64 + Send + Sync + 'static) -> Counted {
        let superseded = CancellationToken::new();
        let mut connections = self.lock();
        let of_peer = connections.entry(peer).or_default();
        of_peer.push_back(Known { superseded: superseded.clone(), heard: Arc::new(heard) });
        if of_peer.len() > CONNECTIONS_OF_A_PEER_MAX
            && let Some(oldest) = of_peer.pop_front()
        {
            oldest.superseded.cancel();
        }
        Counted { connections: self.clone(), peer, superseded }
    }

    /// How many each peer has.
    pub(crate) fn counts(&self) -> BTreeMap<PeerId, usize> {
        self.lock().iter().map(|(peer, of_peer)| (*peer, of_peer.len())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, VecDeque<Known>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    /// Takes the place of the peer's older connections from which nothing comes for a while. To be called where there is no
    /// room for what this one asks: replies to a process that was killed may fill all that the peer may have.
    pub(crate) async fn supersede_silent(&self) {
        let older = self.older();
        if older.is_empty() {
            return;
        }
        let heard: Vec<u64> = older.iter().map(|known| (known.heard)()).collect();
        tokio::time::sleep(SILENCE).await;
        for (known, heard) in older.iter().zip(heard) {
            if (known.heard)() == heard {
                known.superseded.cancel();
            }
        }
    }

    /// None for one that was itself superseded: it is on the list no more.
    fn older(&self) -> Vec<Known> {
        let connections = self.connections.lock();
        let of_peer = || connections.get(&self.peer).into_iter().flatten();
        let older = of_peer().position(|known| known.superseded == self.superseded);
        of_peer().take(older.unwrap_or(0)).cloned().collect()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Once cancelled it is not on the list any more. Else it is cancelled so that it can be told from the others.
        self.superseded.cancel();
        if let Entry::Occupied(mut of_peer) = self.connections.lock().entry(self.peer) {
            of_peer.get_mut().retain(|known| !known.superseded.is_cancelled());
            if of_peer.get().is_empty() {
                of_peer.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn a_peer_has_so_many_connections_and_a_further_one_supersedes_its_oldest() {
        let connections = Connections::default();
        let (peer, other) = (PeerId::from([1; 32]), PeerId::from([2; 32]));
        let of_other = connections.take(other, || 0);
        let mut taken: VecDeque<Counted> =
            (0..CONNECTIONS_OF_A_PEER_MAX).map(|_| connections.take(peer, || 0)).collect();
        assert!(taken.iter().all(|counted| !counted.superseded.is_cancelled()));
        taken.push_back(connections.take(peer, || 0));
        let superseded: Vec<bool> = taken.iter().map(|counted| counted.superseded.is_cancelled()).collect();
        assert_eq!(superseded, [true, false, false, false, false]);
        assert!(!of_other.superseded.is_cancelled());
        // One that is given back makes room: nobody is superseded then.
        taken.drain(..2);
        taken.push_back(connections.take(peer, || 0));
        assert!(taken.iter().all(|counted| !counted.superseded.is_cancelled()));
        assert_eq!(connections.counts(), BTreeMap::from([(peer, CONNECTIONS_OF_A_PEER_MAX), (other, 1)]));
        drop((taken, of_other));
        assert!(connections.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_one_takes_the_place_of_older_ones_that_are_silent() {
        let (connections, peer) = (Connections::default(), PeerId::from([1; 32]));
        let lives = Arc::new(AtomicU64::new(0));
        let counts = lives.clone();
        let talking = connections.take(peer, move || counts.fetch_add(1, Ordering::Relaxed));
        let (silent, other) = (connections.take(peer, || 7), connections.take(PeerId::from([2; 32]), || 7));
        let (asking, newer) = (connections.take(peer, || 7), connections.take(peer, || 7));
        asking.supersede_silent().await;
        assert!(silent.superseded.is_cancelled());
        for counted in [talking, other, asking, newer] {
            assert!(!counted.superseded.is_cancelled());
        }
        silent.supersede_silent().await;
    }
}
