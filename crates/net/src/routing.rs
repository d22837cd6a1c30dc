//! How many peers of one network the routing table takes in.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
};

use ipnet::IpNet;
use libp2p::PeerId;

use crate::dial::is_private;

/// Peers of one public /24 (v4) or /48 (v6) in the routing table: whoever rents one network can't fill the table.
pub(crate) const PEERS_OF_A_NETWORK_MAX: usize = 8;
const V4_NETWORK_BITS: u8 = 24;
const V6_NETWORK_BITS: u8 = 48;

/// The public networks that the peers of the routing table are in. Private ones aren't counted.
#[derive(Default)]
pub(crate) struct Networks {
    peers: BTreeMap<PeerId, IpNet>,
    counts: BTreeMap<IpNet, usize>,
}

impl Networks {
    /// Takes the peer in, if its network has room; one that is in stays.
    pub(crate) fn admit(&mut self, peer: PeerId, ip: IpAddr) -> bool {
        let Some(network) = public_network(ip) else { return true };
        let Entry::Vacant(vacant) = self.peers.entry(peer) else { return true };
        let count = self.counts.entry(network).or_default();
        if *count >= PEERS_OF_A_NETWORK_MAX {
            return false;
        }
        *count += 1;
        vacant.insert(network);
        true
    }

    /// The peer is no longer in the table.
    pub(crate) fn remove(&mut self, peer: &PeerId) {
        let Some(network) = self.peers.remove(peer) else { return };
        if let Entry::Occupied(mut count) = self.counts.entry(network) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// The network that somebody has rented who has this address; `None` for private ones.
pub(crate) fn public_network(ip: IpAddr) -> Option<IpNet> {
    let ip = ip.to_canonical();
    let bits = if ip.is_ipv4() { V4_NETWORK_BITS } else { V6_NETWORK_BITS };
    let network = IpNet::new(ip, bits).expect("both lengths are within an address").trunc();
    (!is_private(ip)).then_some(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_network_has_room_for_so_many() {
        let mut networks = Networks::default();
        let peers: Vec<PeerId> = (0..PEERS_OF_A_NETWORK_MAX + 1).map(|_| PeerId::random()).collect();
        let (last, first) = peers.split_last().unwrap();
        for (host, peer) in first.iter().enumerate() {
            assert!(networks.admit(*peer, IpAddr::from([1, 2, 3, host as u8])));
        }
        assert!(!networks.admit(*last, IpAddr::from([1, 2, 3, 200])));
        assert!(networks.admit(first[0], IpAddr::from([1, 2, 3, 0])), "it is in already");
        assert!(networks.admit(*last, IpAddr::from([1, 2, 4, 200])), "another network");
        networks.remove(last);
        networks.remove(&first[0]);
        assert!(networks.admit(*last, IpAddr::from([1, 2, 3, 200])));
    }

    #[test]
    fn six_bytes_of_ipv6_are_one_network() {
        let mut networks = Networks::default();
        let admitted = (0..20u16).filter(|host| {
            networks.admit(PeerId::random(), IpAddr::from([0x2001, 0xdb8, 7, *host, 0, 0, 0, 1]))
        });
        assert_eq!(admitted.count(), PEERS_OF_A_NETWORK_MAX);
    }

    #[test]
    fn private_networks_are_not_counted() {
        let mut networks = Networks::default();
        for host in 0..100 {
            assert!(networks.admit(PeerId::random(), IpAddr::from([192, 168, 0, host])));
            assert!(networks.admit(PeerId::random(), IpAddr::from([127, 0, 0, 1])));
        }
    }
}
