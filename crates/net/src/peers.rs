//! Which peers libp2p sees, where, and what they are good for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
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
    /// Seen by mDNS, at these addresses.
    nearby: BTreeMap<libp2p::PeerId, BTreeSet<Multiaddr>>,
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

    /// Of the addresses that a provider claims, those that agree with where it is seen; if none does, where it is seen.
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

    /// mDNS saw this. Gives the addresses to dial, if there are any.
    pub(crate) fn nearby(&mut self, peer: libp2p::PeerId, address: Multiaddr) -> Option<Vec<Multiaddr>> {
        let is_known = self.nearby.contains_key(&peer);
        let is_allowed = quic_address(&address).is_some_and(|address| self.rules.allows(address));
        if !is_allowed || peer_of_libp2p(&peer).is_err() || (!is_known && self.nearby.len() >= NEIGHBOURS_MAX)
        {
            return None;
        }
        let addresses = self.nearby.entry(peer).or_default();
        if addresses.len() < NEIGHBOUR_ADDRESSES_MAX {
            addresses.insert(address);
        }
        Some(addresses.iter().cloned().collect())
    }

    /// mDNS has not heard of this for long.
    pub(crate) fn no_longer_nearby(&mut self, peer: libp2p::PeerId, address: &Multiaddr) {
        let Some(addresses) = self.nearby.get_mut(&peer) else { return };
        addresses.remove(address);
        if addresses.is_empty() {
            self.nearby.remove(&peer);
        }
    }

    /// Those that mDNS saw and that aren't connected.
    pub(crate) fn neighbours_to_dial(&self) -> Vec<(libp2p::PeerId, Vec<Multiaddr>)> {
        let apart = self.nearby.iter().filter(|(peer, _)| !self.connections.contains_key(*peer));
        apart.map(|(peer, addresses)| (*peer, addresses.iter().cloned().collect())).collect()
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
