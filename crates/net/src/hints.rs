//! Where peers may be, by the word of others, and by where they have connected from.
//!
//! Whoever names a peer names an address with it, and this node sends packets there. So that nobody can have it send many to
//! somebody else, few peers are tried at one address until one of them was found there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use firn_exchange::PeerId;
use tokio::time::Instant;

use crate::host::Host;

/// Peers that are remembered; of more, the one that was named longest ago is forgotten.
const PEERS_MAX: usize = 1024;
/// Addresses of one peer: one of each kind.
const ADDRESSES_MAX: usize = 2;
/// Peers that are tried at one host until one of them was found there.
const TRIALS_OF_A_HOST_MAX: usize = 4;
/// A trial that has not shown the peer there counts for so long.
const TRIAL: Duration = Duration::from_secs(120);
/// Trials that are remembered; of more, the oldest is forgotten.
const TRIALS_MAX: usize = 4096;

#[derive(Default)]
pub(crate) struct Hints {
    peers: BTreeMap<PeerId, Named>,
    trials: BTreeMap<(Host, PeerId, SocketAddr), Trial>,
}

#[derive(Clone, Copy)]
struct Trial {
    since: Instant,
    has_failed: bool,
}

struct Named {
    addresses: BTreeSet<SocketAddr>,
    at: Instant,
}

/// Of two ways to write one address, one.
fn canonical(at: SocketAddr) -> SocketAddr {
    match at.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), at.port()),
        IpAddr::V6(_) => at,
    }
}

impl Hints {
    /// Somebody says that a peer is at these addresses, which may be dialled. Whoever says so last is heard.
    pub(crate) fn hear(
        &mut self,
        peer: PeerId,
        addresses: impl IntoIterator<Item = SocketAddr>,
        now: Instant,
    ) {
        let addresses: BTreeSet<SocketAddr> =
            addresses.into_iter().map(canonical).take(ADDRESSES_MAX).collect();
        if self.peers.get(&peer).is_some_and(|named| named.addresses == addresses) {
            return;
        }
        let tried: BTreeSet<_> =
            addresses.into_iter().filter(|at| self.may_be_tried(peer, *at, now)).collect();
        if !tried.is_empty() {
            self.remember(peer, tried, now);
        }
    }

    /// The peer has connected from this address, and has proven its key there.
    pub(crate) fn seen(&mut self, peer: PeerId, at: SocketAddr, now: Instant) {
        self.found(peer, at);
        self.remember(peer, BTreeSet::from([canonical(at)]), now);
    }

    fn remember(&mut self, peer: PeerId, addresses: BTreeSet<SocketAddr>, now: Instant) {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            let oldest = self.peers.iter().min_by_key(|(_, named)| named.at).map(|(peer, _)| *peer);
            oldest.and_then(|peer| self.peers.remove(&peer));
        }
        self.peers.insert(peer, Named { addresses, at: now });
    }

    /// Where this peer may be.
    pub(crate) fn of(&self, peer: &PeerId) -> impl Iterator<Item = SocketAddr> + '_ {
        self.peers.get(peer).into_iter().flat_map(|named| named.addresses.iter().copied())
    }

    /// The peer is there: who said so was right.
    pub(crate) fn found(&mut self, peer: PeerId, at: SocketAddr) {
        let at = canonical(at);
        self.trials.remove(&(Host::of(at.ip()), peer, at));
    }

    /// The peer was not where it is said to be: it is not tried there again soon.
    pub(crate) fn not_found(&mut self, peer: &PeerId) {
        let Some(named) = self.peers.remove(peer) else { return };
        for at in named.addresses {
            if let Some(trial) = self.trials.get_mut(&(Host::of(at.ip()), *peer, at)) {
                trial.has_failed = true;
            }
        }
    }

    fn may_be_tried(&mut self, peer: PeerId, at: SocketAddr, now: Instant) -> bool {
        self.trials.retain(|_, trial| now.saturating_duration_since(trial.since) < TRIAL);
        let trial = (Host::of(at.ip()), peer, at);
        if let Some(known) = self.trials.get(&trial) {
            return !known.has_failed;
        }
        if self.trials.keys().filter(|(host, ..)| *host == trial.0).count() >= TRIALS_OF_A_HOST_MAX {
            return false;
        }
        if self.trials.len() >= TRIALS_MAX {
            let oldest = self.trials.iter().min_by_key(|(_, known)| known.since).map(|(trial, _)| *trial);
            oldest.and_then(|trial| self.trials.remove(&trial));
        }
        self.trials.insert(trial, Trial { since: now, has_failed: false });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u32) -> PeerId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        id.into()
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn where_a_peer_has_connected_from_is_no_trial() {
        let (mut hints, now) = (Hints::default(), Instant::now());
        for number in 0..10 {
            hints.seen(peer(number), at("10.0.0.1:7"), now);
            assert_eq!(hints.of(&peer(number)).collect::<Vec<_>>(), [at("10.0.0.1:7")]);
        }
        assert!(hints.trials.is_empty());
        hints.seen(peer(0), at("[::ffff:10.0.0.2]:7"), now);
        assert_eq!(hints.of(&peer(0)).collect::<Vec<_>>(), [at("10.0.0.2:7")]);
        for number in 10..PEERS_MAX as u32 + 10 {
            hints.seen(peer(number), at("10.0.0.1:7"), now + Duration::from_secs(1));
        }
        assert_eq!((hints.peers.len(), hints.of(&peer(0)).count()), (PEERS_MAX, 0));
    }

    #[test]
    fn a_victim_is_tried_a_few_times_whoever_is_said_to_be_there() {
        let (mut hints, begun) = (Hints::default(), Instant::now());
        let tried = |hints: &mut Hints, now, strangers: std::ops::Range<u32>| {
            let mut packets_to = BTreeSet::new();
            for number in strangers {
                // Each with other ports of the one host, in another reply.
                let ports =
                    (0..8).map(|port| SocketAddr::new(at("10.0.0.9:1").ip(), (number * 8 + port + 1) as u16));
                hints.hear(peer(number), ports, now);
                packets_to.extend(hints.of(&peer(number)));
            }
            packets_to.len()
        };
        assert_eq!(tried(&mut hints, begun, 0..16), TRIALS_OF_A_HOST_MAX);
        assert_eq!(tried(&mut hints, begun + TRIAL / 2, 16..2000), 0);
        assert_eq!(tried(&mut hints, begun + TRIAL, 2000..3000), TRIALS_OF_A_HOST_MAX);
        hints.hear(peer(5000), [at("10.0.0.8:1")], begun);
        assert_eq!(hints.of(&peer(5000)).count(), 1, "another host is another's");
    }

    #[test]
    fn a_network_that_a_host_may_have_for_itself_is_one() {
        let (mut hints, now) = (Hints::default(), Instant::now());
        let heard = (0..100).filter(|number| {
            hints.hear(peer(*number), [at(&format!("[2001:db8::{number:x}]:1"))], now);
            hints.of(&peer(*number)).count() > 0
        });
        assert_eq!(heard.count(), TRIALS_OF_A_HOST_MAX);
    }

    #[test]
    fn many_that_are_where_they_were_said_to_be_are_all_tried() {
        let (mut hints, now) = (Hints::default(), Instant::now());
        for number in 0..100 {
            let address = SocketAddr::new(at("10.0.0.9:1").ip(), number as u16 + 1);
            hints.hear(peer(number), [address], now);
            assert_eq!(hints.of(&peer(number)).collect::<Vec<_>>(), [address]);
            hints.found(peer(number), address);
        }
        assert!(hints.trials.is_empty());
    }

    #[test]
    fn where_a_peer_was_not_it_is_not_tried_again_soon() {
        let (mut hints, now) = (Hints::default(), Instant::now());
        let heard = |hints: &mut Hints, now| {
            hints.hear(peer(1), [at("[::ffff:10.0.0.9]:1")], now);
            hints.of(&peer(1)).collect::<Vec<_>>()
        };
        assert_eq!(heard(&mut hints, now), [at("10.0.0.9:1")]);
        hints.not_found(&peer(1));
        assert_eq!(heard(&mut hints, now + TRIAL / 2), []);
        assert_eq!(heard(&mut hints, now + TRIAL), [at("10.0.0.9:1")]);
    }

    #[test]
    fn one_that_is_found_elsewhere_proves_nothing() {
        let (mut hints, now) = (Hints::default(), Instant::now());
        let (victim, own) = (at("10.0.0.9:1"), at("10.0.0.1:1"));
        for number in 0..10 {
            hints.hear(peer(number), [own, victim], now);
            hints.found(peer(number), own);
        }
        let sent = (0..10).filter(|number| hints.of(&peer(*number)).any(|address| address == victim)).count();
        assert_eq!(sent, TRIALS_OF_A_HOST_MAX);
    }

    #[test]
    fn who_was_named_longest_ago_is_forgotten() {
        let (mut hints, now) = (Hints::default(), Instant::now());
        let host =
            |number: u32| SocketAddr::new(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into(), 1);
        for number in 0..=TRIALS_MAX as u32 {
            hints.hear(peer(number), [host(number)], now + Duration::from_millis(number.into()));
        }
        assert_eq!((hints.peers.len(), hints.trials.len()), (PEERS_MAX, TRIALS_MAX));
        assert_eq!(hints.of(&peer(0)).count(), 0);
        assert_eq!(hints.of(&peer(TRIALS_MAX as u32)).collect::<Vec<_>>(), [host(TRIALS_MAX as u32)]);
    }
}
