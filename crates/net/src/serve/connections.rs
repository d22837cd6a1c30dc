//! Which connections each peer has to this node.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use firn_exchange::PeerId;
use iroh::TransportAddr;
use tokio_util::sync::CancellationToken;

/// Connections that one peer may have to this node.
pub const CONNECTIONS_OF_A_PEER_MAX: usize = 4;
/// A connection that does not answer for so long looks dead, where a newer one of its peer finds no room.
const SILENCE: Duration = Duration::from_millis(500);
/// It is looked at so often meanwhile: on a busy machine it may be this node that does nothing for long, and what came by
/// then it has not read yet.
const LOOKS: u32 = 10;

/// The connections of all peers, of each the oldest first.
#[derive(Default, Clone)]
pub(crate) struct Connections(Arc<Mutex<BTreeMap<PeerId, VecDeque<Known>>>>);

/// The other end of a connection, which may be gone.
pub(crate) trait OtherEnd: Send + Sync + 'static {
    /// Sends something that it answers at once if it lives.
    fn nudge(&self);
    /// How much has come from it: a count that only grows.
    fn heard(&self) -> u64;
    /// Where it connected from, unless through a relay.
    fn came_from(&self) -> Option<SocketAddr>;
}

#[derive(Clone)]
struct Known {
    superseded: CancellationToken,
    other_end: Arc<dyn OtherEnd>,
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
    /// alive until they time out, and none of them may keep the living one out.
    pub(crate) fn take(&self, peer: PeerId, other_end: impl OtherEnd) -> Counted {
        let superseded = CancellationToken::new();
        let mut connections = self.lock();
        let of_peer = connections.entry(peer).or_default();
        of_peer.push_back(Known { superseded: superseded.clone(), other_end: Arc::new(other_end) });
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

    /// Ends those of the peer's connections whose other end answers nothing for a while. To be called where the peer does not
    /// answer a dial: while a connection stands, iroh sends all that is for the peer to where that connection goes, even if
    /// the peer is known to be elsewhere by now.
    pub(crate) async fn end_silent(&self, peer: &PeerId) {
        supersede_silent(self.of(peer)).await;
    }

    /// Ends those of the peer's connections that came from one of these addresses. To be called where it does not answer a
    /// dial there: one of them stands, so iroh takes the peer to be at another address, where it was before.
    pub(crate) fn end_from(&self, peer: &PeerId, addresses: &BTreeSet<TransportAddr>) {
        let is_there = |known: &Known| {
            known.other_end.came_from().is_some_and(|at| addresses.contains(&TransportAddr::Ip(at)))
        };
        let there = self.of(peer).into_iter().filter(is_there);
        there.for_each(|known| known.superseded.cancel());
    }

    fn of(&self, peer: &PeerId) -> Vec<Known> {
        self.lock().get(peer).into_iter().flatten().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, VecDeque<Known>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    /// Takes the place of the peer's older connections whose other end answers nothing for a while. To be called where there
    /// is no room for what this one asks: replies to a process that was killed may fill all that the peer may have.
    pub(crate) async fn supersede_silent(&self) {
        supersede_silent(self.older()).await;
    }

    /// None for one that was itself superseded: it is on the list no more.
    fn older(&self) -> Vec<Known> {
        let connections = self.connections.lock();
        let of_peer = || connections.get(&self.peer).into_iter().flatten();
        let older = of_peer().position(|known| known.superseded == self.superseded);
        of_peer().take(older.unwrap_or(0)).cloned().collect()
    }
}

/// Ends those of these connections whose other end answers nothing for a while.
async fn supersede_silent(known: Vec<Known>) {
    let mut silent: Vec<(u64, Known)> =
        known.into_iter().map(|known| (known.other_end.heard(), known)).collect();
    silent.iter().for_each(|(_, known)| known.other_end.nudge());
    for _ in 0..LOOKS {
        if silent.is_empty() {
            return;
        }
        tokio::time::sleep(SILENCE / LOOKS).await;
        silent.retain(|(heard, known)| known.other_end.heard() == *heard);
    }
    silent.iter().for_each(|(_, known)| known.superseded.cancel());
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

    struct Gone;

    impl OtherEnd for Gone {
        fn nudge(&self) {}

        fn heard(&self) -> u64 {
            7
        }

        fn came_from(&self) -> Option<SocketAddr> {
            None
        }
    }

    /// Says something only if it is asked to.
    #[derive(Default)]
    struct Quiet(AtomicU64);

    impl OtherEnd for Quiet {
        fn nudge(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn heard(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn came_from(&self) -> Option<SocketAddr> {
            Some(([10, 0, 0, 1], 7).into())
        }
    }

    #[test]
    fn a_peer_has_so_many_connections_and_a_further_one_supersedes_its_oldest() {
        let connections = Connections::default();
        let (peer, other) = (PeerId::from([1; 32]), PeerId::from([2; 32]));
        let of_other = connections.take(other, Gone);
        let mut taken: VecDeque<Counted> =
            (0..CONNECTIONS_OF_A_PEER_MAX).map(|_| connections.take(peer, Gone)).collect();
        assert!(taken.iter().all(|counted| !counted.superseded.is_cancelled()));
        taken.push_back(connections.take(peer, Gone));
        let superseded: Vec<bool> = taken.iter().map(|counted| counted.superseded.is_cancelled()).collect();
        assert_eq!(superseded, [true, false, false, false, false]);
        assert!(!of_other.superseded.is_cancelled());
        // One that is given back makes room: nobody is superseded then.
        taken.drain(..2);
        taken.push_back(connections.take(peer, Gone));
        assert!(taken.iter().all(|counted| !counted.superseded.is_cancelled()));
        assert_eq!(connections.counts(), BTreeMap::from([(peer, CONNECTIONS_OF_A_PEER_MAX), (other, 1)]));
        drop((taken, of_other));
        assert!(connections.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_one_takes_the_place_of_older_ones_that_answer_nothing() {
        let (connections, peer) = (Connections::default(), PeerId::from([1; 32]));
        let quiet = connections.take(peer, Quiet::default());
        let (silent, other) = (connections.take(peer, Gone), connections.take(PeerId::from([2; 32]), Gone));
        let (asking, newer) = (connections.take(peer, Gone), connections.take(peer, Gone));
        asking.supersede_silent().await;
        assert!(silent.superseded.is_cancelled());
        for counted in [quiet, other, asking, newer] {
            assert!(!counted.superseded.is_cancelled());
        }
        silent.supersede_silent().await;
    }

    #[test]
    fn those_from_where_a_dial_is_not_answered_are_ended() {
        let (connections, peer) = (Connections::default(), PeerId::from([1; 32]));
        let (there, relayed) = (connections.take(peer, Quiet::default()), connections.take(peer, Gone));
        let at = |port: u16| BTreeSet::from([TransportAddr::Ip(([10, 0, 0, 1], port).into())]);
        connections.end_from(&peer, &at(8));
        connections.end_from(&PeerId::from([2; 32]), &at(7));
        assert!(!there.superseded.is_cancelled());
        connections.end_from(&peer, &at(7));
        assert!(there.superseded.is_cancelled() && !relayed.superseded.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn those_of_a_peer_that_answer_nothing_are_ended() {
        let (connections, peer) = (Connections::default(), PeerId::from([1; 32]));
        let quiet = connections.take(peer, Quiet::default());
        let (silent, other) = (connections.take(peer, Gone), connections.take(PeerId::from([2; 32]), Gone));
        connections.end_silent(&peer).await;
        assert!(silent.superseded.is_cancelled());
        assert!(!quiet.superseded.is_cancelled() && !other.superseded.is_cancelled());
        connections.end_silent(&PeerId::from([3; 32])).await;
    }
}
