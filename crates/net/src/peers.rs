//! Which peers libp2p sees, where, and what they are good for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Instant,
};

use firn_exchange::PeerId;
use libp2p::{
    Multiaddr, StreamProtocol,
    kad::{Addresses, KBucketKey, KBucketRef},
    multiaddr::Protocol,
    swarm::ConnectionId,
};

use crate::{
    dial::{DialRules, quic_address, quic_multiaddr},
    identity::peer_of_libp2p,
    mdns::Sighting,
    routing::Networks,
};

/// Neighbours by mDNS; further ones are not looked at.
const NEIGHBOURS_MAX: usize = 64;
/// Addresses of one neighbour.
const NEIGHBOUR_ADDRESSES_MAX: usize = 8;
/// Addresses of one peer that go into the routing table.
const ADDRESSES_MAX: usize = 4;

/// One connection of libp2p.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: SocketAddr,
    is_dialled: bool,
}

/// The peers.
pub(crate) struct Peers {
    rules: DialRules,
    protocol: StreamProtocol,
    connections: BTreeMap<libp2p::PeerId, BTreeMap<ConnectionId, Seen>>,
    /// Connected ones that speak our Kademlia as servers.
    speaking: BTreeSet<libp2p::PeerId>,
    /// Seen by mDNS, at these addresses, which hold until then.
    nearby: BTreeMap<libp2p::PeerId, BTreeMap<Multiaddr, Instant>>,
    networks: Networks,
    in_table: usize,
    far_in_table: usize,
}

impl Peers {
    pub(crate) fn new(rules: DialRules, protocol: StreamProtocol) -> Self {
        Self {
            rules,
            protocol,
            connections: BTreeMap::new(),
            speaking: BTreeSet::new(),
            nearby: BTreeMap::new(),
            networks: Networks::default(),
            in_table: 0,
            far_in_table: 0,
        }
    }

    pub(crate) fn connected(
        &mut self,
        peer: libp2p::PeerId,
        id: ConnectionId,
        at: &Multiaddr,
        is_dialled: bool,
    ) {
        if let Some(at) = quic_address(at) {
            self.connections.entry(peer).or_default().insert(id, Seen { at, is_dialled });
        }
    }

    pub(crate) fn disconnected(&mut self, peer: &libp2p::PeerId, id: ConnectionId) {
        let Some(connections) = self.connections.get_mut(peer) else { return };
        connections.remove(&id);
        if connections.is_empty() {
            self.connections.remove(peer);
            self.speaking.remove(peer);
        }
    }

    /// Is there a connection with this address?
    pub(crate) fn is_connected_at(&self, address: &Multiaddr) -> bool {
        self.connections.keys().any(|peer| self.is_at(peer, address))
    }

    /// Is this peer connected at this address, or named by it?
    pub(crate) fn is_at(&self, peer: &libp2p::PeerId, address: &Multiaddr) -> bool {
        let Some(connections) = self.connections.get(peer) else { return false };
        let is_named = address.iter().any(|part| part == Protocol::P2p(*peer));
        is_named || connections.values().any(|seen| Some(seen.at) == quic_address(address))
    }

    /// This peer says what it speaks and where it listens, on this connection. Gives the addresses under which it may
    /// enter the routing table: those that agree with where it is seen, if it is a server of our DHT and its network
    /// has room.
    pub(crate) fn identified(
        &mut self,
        peer: libp2p::PeerId,
        id: ConnectionId,
        protocols: &[StreamProtocol],
        listening: &[Multiaddr],
    ) -> Vec<Multiaddr> {
        if !protocols.contains(&self.protocol) || peer_of_libp2p(&peer).is_err() {
            self.speaking.remove(&peer);
            return Vec::new();
        }
        let seen = self.connections.get(&peer).and_then(|connections| connections.get(&id)).copied();
        let Some(seen) = seen else { return Vec::new() };
        self.speaking.insert(peer);
        if !self.networks.admit(peer, seen.at.ip()) {
            return Vec::new();
        }
        let dialled = seen.is_dialled.then_some(seen.at);
        let claimed = listening.iter().filter_map(quic_address);
        let claimed = claimed.filter(|address| self.rules.allows_own_claim(*address, seen.at.ip()));
        let addresses: BTreeSet<SocketAddr> =
            dialled.into_iter().chain(claimed).take(ADDRESSES_MAX).collect();
        addresses.into_iter().map(quic_multiaddr).collect()
    }

    /// The peer didn't get into the routing table, or was put out of it.
    pub(crate) fn not_in_table(&mut self, peer: &libp2p::PeerId) {
        self.networks.remove(peer);
    }

    /// Of the addresses that a peer claims, those that agree with where it is seen; if none does, where it is seen.
    pub(crate) fn provider_addresses(&self, peer: &libp2p::PeerId, claimed: &[Multiaddr]) -> Vec<Multiaddr> {
        let seen: Vec<SocketAddr> =
            self.connections.get(peer).into_iter().flatten().map(|(_, seen)| seen.at).collect();
        let agrees =
            |address: &SocketAddr| seen.iter().any(|seen| self.rules.allows_own_claim(*address, seen.ip()));
        let claimed: BTreeSet<SocketAddr> = claimed.iter().filter_map(quic_address).filter(agrees).collect();
        let addresses = if claimed.is_empty() { seen.into_iter().collect() } else { claimed };
        addresses.into_iter().map(quic_multiaddr).collect()
    }

    /// May others be told to dial this address?
    pub(crate) fn may_be_dialled(&self, address: SocketAddr) -> bool {
        self.rules.allows(address)
    }

    /// mDNS saw this. Gives the addresses to dial, if this is a new one.
    pub(crate) fn nearby(&mut self, seen: Sighting) -> Option<Vec<Multiaddr>> {
        let Sighting { peer, address, until } = seen;
        let is_known = self.nearby.contains_key(&peer);
        let is_allowed = quic_address(&address).is_some_and(|address| self.rules.allows(address));
        if !is_allowed || peer_of_libp2p(&peer).is_err() || (!is_known && self.nearby.len() >= NEIGHBOURS_MAX)
        {
            return None;
        }
        let addresses = self.nearby.entry(peer).or_default();
        if let Some(known) = addresses.get_mut(&address) {
            *known = until.max(*known);
            return None;
        }
        if addresses.len() < NEIGHBOUR_ADDRESSES_MAX {
            addresses.insert(address, until);
        }
        Some(addresses.keys().cloned().collect())
    }

    /// Forgets what mDNS has not heard of for long.
    pub(crate) fn forget_those_gone(&mut self, now: Instant) {
        self.nearby.retain(|_, addresses| {
            addresses.retain(|_, until| now < *until);
            !addresses.is_empty()
        });
    }

    /// Those that mDNS saw and that aren't connected.
    pub(crate) fn neighbours_to_dial(&self) -> Vec<(libp2p::PeerId, Vec<Multiaddr>)> {
        let apart = self.nearby.iter().filter(|(peer, _)| !self.connections.contains_key(*peer));
        apart.map(|(peer, addresses)| (*peer, addresses.keys().cloned().collect())).collect()
    }

    /// Those that mDNS saw and that speak our protocol.
    pub(crate) fn neighbours(&self) -> BTreeSet<PeerId> {
        let speaking = self.nearby.keys().filter(|peer| self.speaking.contains(*peer));
        speaking.filter_map(|peer| peer_of_libp2p(peer).ok()).collect()
    }

    pub(crate) fn speaks_with_none(&self) -> bool {
        self.speaking.is_empty()
    }

    pub(crate) fn speaks_with(&self, peer: &libp2p::PeerId) -> bool {
        self.speaking.contains(peer)
    }

    /// Counts the routing table.
    pub(crate) fn count_table<'a>(
        &mut self,
        buckets: impl Iterator<Item = KBucketRef<'a, KBucketKey<libp2p::PeerId>, Addresses>>,
    ) {
        (self.in_table, self.far_in_table) = (0, 0);
        for bucket in buckets {
            for entry in bucket.iter() {
                self.in_table += 1;
                self.far_in_table += usize::from(!self.nearby.contains_key(entry.node.key.preimage()));
            }
        }
    }

    /// Peers in the routing table.
    pub(crate) fn in_table(&self) -> usize {
        self.in_table
    }

    /// Peers in the routing table that mDNS doesn't see.
    pub(crate) fn far_in_table(&self) -> usize {
        self.far_in_table
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_neighbour_is_dialled_when_it_is_new_and_forgotten_when_it_is_not_seen_for_long() {
        let now = Instant::now();
        let mut peers = Peers::new(DialRules::near(), StreamProtocol::new("/x"));
        let peer = crate::identity::Identity::from_seed([1; 32]).libp2p_peer_id();
        let seen = |address: &str, seconds| Sighting {
            peer,
            address: address.parse().unwrap(),
            until: now + Duration::from_secs(seconds),
        };
        let (v4, v6) = ("/ip4/10.0.0.1/udp/1/quic-v1", "/ip6/fd00::1/udp/1/quic-v1");
        assert_eq!(peers.nearby(seen(v4, 5)).unwrap(), [v4.parse().unwrap()]);
        assert_eq!(peers.nearby(seen(v4, 9)), None, "it is known");
        assert_eq!(peers.nearby(seen(v6, 5)).unwrap(), [v4, v6].map(|address| address.parse().unwrap()));
        assert_eq!(peers.nearby(seen("/ip4/8.8.8.8/udp/1/quic-v1", 5)), None);
        assert_eq!(peers.nearby(seen("/ip6/fe80::1/udp/1/quic-v1", 5)), None);
        peers.forget_those_gone(now + Duration::from_secs(5));
        assert_eq!(peers.neighbours_to_dial(), [(peer, vec![v4.parse().unwrap()])]);
        for host in 0..2 * NEIGHBOURS_MAX {
            let seed = [host as u8; 32];
            let peer = crate::identity::Identity::from_seed(seed).libp2p_peer_id();
            peers.nearby(Sighting { peer, ..seen(v4, 7) });
        }
        assert_eq!(peers.neighbours_to_dial().len(), NEIGHBOURS_MAX);
        peers.forget_those_gone(now + Duration::from_secs(9));
        assert_eq!(peers.neighbours_to_dial(), []);
    }
}
