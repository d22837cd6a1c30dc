//! Connections to neighbours and to peers that the user named, opened before anything is asked of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use firn_exchange::PeerId;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{discovery::View, transfer::Asker};

/// Peers to which a connection is kept: on a large LAN each node has about as many from others.
const KEPT_MAX: usize = 32;
/// How often it is looked whether each has a connection.
const LOOK: Duration = Duration::from_secs(1);
/// Between the beginnings of two dials of a peer that cannot be connected to. It varies by a quarter, so that many nodes do
/// not dial one at the same time.
const WAIT: Duration = Duration::from_secs(6);

/// Keeps the connections.
pub(crate) struct Keeper {
    pub(crate) local: PeerId,
    pub(crate) asker: Arc<Asker>,
    /// By the user.
    pub(crate) named: BTreeSet<PeerId>,
    /// Where neighbours are seen, if there is libp2p.
    pub(crate) view: Option<watch::Receiver<View>>,
    pub(crate) stop: CancellationToken,
}

impl Keeper {
    /// Runs until the node stops.
    pub(crate) async fn run(self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // When each that is not connected is dialled again.
        let mut again_at = BTreeMap::new();
        while self.stop.run_until_cancelled(looks.tick()).await.is_some() {
            let neighbours = self.view.as_ref().map(|view| view.borrow().neighbours.clone());
            let mut apart = kept(self.local, &self.named, neighbours.unwrap_or_default());
            self.asker.keep(&apart);
            apart.retain(|peer| !self.asker.is_connected(peer));
            again_at.retain(|peer, _| apart.contains(peer));
            let now = Instant::now();
            apart.retain(|peer| again_at.get(peer).is_none_or(|at| *at <= now));
            for peer in apart {
                again_at.insert(peer, now + varied(WAIT));
                self.asker.connect_ahead(peer);
            }
        }
    }
}

/// Those to which a connection is kept: who was named by the user comes first.
fn kept(local: PeerId, named: &BTreeSet<PeerId>, neighbours: BTreeSet<PeerId>) -> BTreeSet<PeerId> {
    let others = neighbours.into_iter().filter(|peer| !named.contains(peer));
    named.iter().copied().chain(others).filter(|peer| *peer != local).take(KEPT_MAX).collect()
}

/// About this long: up to a quarter more or less.
fn varied(wait: Duration) -> Duration {
    let chance = RandomState::new().build_hasher().finish() % 1024;
    wait * 3 / 4 + wait / 2 * u32::try_from(chance).unwrap_or(0) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_kept_and_the_named_ones_first() {
        let peers = |numbers: std::ops::Range<u8>| numbers.map(|number| PeerId::from([number; 32]));
        let [named, neighbours] = [200..203, 0..100].map(|numbers| peers(numbers).collect::<BTreeSet<_>>());
        let kept = kept(PeerId::from([0; 32]), &named, neighbours);
        assert!(kept.len() == KEPT_MAX && kept.is_superset(&named));
        assert!(!kept.contains(&PeerId::from([0; 32])));
    }

    #[test]
    fn waits_vary_by_a_quarter() {
        let waits: BTreeSet<Duration> = (0..100).map(|_| varied(WAIT)).collect();
        assert!(waits.len() > 50);
        assert!(waits.iter().all(|wait| (WAIT * 3 / 4..=WAIT * 5 / 4).contains(wait)));
    }
}
