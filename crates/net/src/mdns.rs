//! Neighbours by multicast DNS (RFC 6762), as libp2p's mDNS says it: each node asks `_p2p._udp.local` now and then, and
//! answers those that ask with its id and its addresses.
//!
//! Both families are asked, 224.0.0.251 and ff02::fb, on each interface by sockets of its own. What comes is a hint: the
//! dial rules decide what is dialled, and a handshake who is there. libp2p's own crate asks one family, takes the first
//! interface for IPv6, keeps what it hears without bound, and hides who else has this node's identity.

mod message;
mod place;
mod station;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::discovery::View;
use place::Place;
use station::Station;

/// Sightings that wait for the driver; further ones are lost and come again.
pub(crate) const SIGHTINGS_MAX: usize = 256;
/// How often the interfaces are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// A peer that says it is near.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub(crate) peer: PeerId,
    pub(crate) address: Multiaddr,
    /// Unless it is seen again.
    pub(crate) until: Instant,
}

/// Asks and answers on all interfaces.
pub(crate) struct Mdns {
    pub(crate) local: PeerId,
    /// Where libp2p listens.
    pub(crate) view: watch::Receiver<View>,
    pub(crate) sightings: mpsc::Sender<Sighting>,
    pub(crate) stop: CancellationToken,
}

impl Mdns {
    /// Runs until the node stops. Interfaces and addresses may come and go.
    pub(crate) async fn run(self) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        let mut tasks = JoinSet::new();
        let (mut running, mut refused) = (BTreeMap::<Place, AbortHandle>::new(), BTreeSet::new());
        while self.stop.run_until_cancelled(looks.tick()).await.is_some() {
            while tasks.try_join_next().is_some() {}
            let places = place::all();
            running.retain(|place, task| {
                let stays = places.contains(place) && !task.is_finished();
                if !stays {
                    task.abort();
                }
                stays
            });
            refused.retain(|place| places.contains(place));
            for place in places {
                if running.contains_key(&place) {
                    continue;
                }
                match Station::open(&self, &place) {
                    Ok(station) => {
                        tracing::debug!(?place, "neighbours are looked for");
                        running.insert(place, tasks.spawn(station.run()));
                    }
                    Err(error) if refused.insert(place.clone()) => {
                        tracing::warn!(?place, %error, "neighbours are not looked for: no multicast");
                    }
                    Err(_) => {}
                }
            }
        }
    }
}
