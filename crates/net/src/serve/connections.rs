//! Which connections each peer has to this node.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use firn_exchange::PeerId;
use tokio_util::sync::CancellationToken;

/// Connections that one peer may have to this node.
pub const CONNECTIONS_OF_A_PEER_MAX: usize = 4;

/// The connections of all peers.
#[derive(Default, Clone)]
pub(crate) struct Connections(Arc<Mutex<BTreeMap<PeerId, VecDeque<CancellationToken>>>>);

/// One connection of a peer, counted for as long as this lives.
pub(crate) struct Counted {
    connections: Connections,
    peer: PeerId,
    /// Cancelled where this one is the oldest of too many.
    pub(crate) superseded: CancellationToken,
}

impl Connections {
    /// Counts one more. Of too many the peer's oldest is superseded: a peer that was killed leaves connections that look
    /// alive until they time out, and none of them may keep the living one out.
    pub(crate) fn take(&self, peer: PeerId) -> Counted {
        let superseded = CancellationToken::new();
        let mut connections = self.lock();
        let of_peer = connections.entry(peer).or_default();
        of_peer.push_back(superseded.clone());
        if of_peer.len() > CONNECTIONS_OF_A_PEER_MAX
            && let Some(oldest) = of_peer.pop_front()
        {
            oldest.cancel();
        }
        Counted { connections: self.clone(), peer, superseded }
    }

    /// How many each peer has.
    pub(crate) fn counts(&self) -> BTreeMap<PeerId, usize> {
        self.lock().iter().map(|(peer, of_peer)| (*peer, of_peer.len())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, VecDeque<CancellationToken>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Once cancelled it is not on the list any more. Else it is cancelled so that it can be told from the others.
        self.superseded.cancel();
        if let Entry::Occupied(mut of_peer) = self.connections.lock().entry(self.peer) {
            of_peer.get_mut().retain(|connection| !connection.is_cancelled());
            if of_peer.get().is_empty() {
                of_peer.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_so_many_connections_and_a_further_one_supersedes_its_oldest() {
        let connections = Connections::default();
        let (peer, other) = (PeerId::from([1; 32]), PeerId::from([2; 32]));
        let of_other = connections.take(other);
        let mut taken: VecDeque<Counted> =
            (0..CONNECTIONS_OF_A_PEER_MAX).map(|_| connections.take(peer)).collect();
        assert!(taken.iter().all(|counted| !counted.superseded.is_cancelled()));
        taken.push_back(connections.take(peer));
        let superseded: Vec<bool> = taken.iter().map(|counted| counted.superseded.is_cancelled()).collect();
        assert_eq!(superseded, [true, false, false, false, false]);
        assert!(!of_other.superseded.is_cancelled());
        // One that is given back makes room: nobody is superseded then.
        taken.drain(..2);
        taken.push_back(connections.take(peer));
        assert!(taken.iter().all(|counted| !counted.superseded.is_cancelled()));
        assert_eq!(connections.counts(), BTreeMap::from([(peer, CONNECTIONS_OF_A_PEER_MAX), (other, 1)]));
        drop((taken, of_other));
        assert!(connections.lock().is_empty());
    }
}
