//! Where neighbours are looked for: each interface, once for each family of addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use libp2p::Multiaddr;

use crate::dial::{is_v6_link_local, quic_address};

/// Places; the interfaces of further ones are left alone.
const PLACES_MAX: usize = 64;

/// The addresses of one family that one interface has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The interface, as the system numbers it.
    pub(super) index: u32,
    pub(super) addresses: Addresses,
}

/// None is loopback's. Those of IPv6 are more than link-local: nobody can dial such an address without the interface's
/// name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Addresses {
    V4(BTreeSet<Ipv4Addr>),
    V6(BTreeSet<Ipv6Addr>),
}

impl Place {
    fn has(&self, ip: IpAddr) -> bool {
        match (&self.addresses, ip) {
            (Addresses::V4(own), IpAddr::V4(ip)) => own.contains(&ip),
            (Addresses::V6(own), IpAddr::V6(ip)) => own.contains(&ip),
            _ => false,
        }
    }

    /// Of the addresses on which the node listens, those that it has here.
    pub(super) fn told(&self, listeners: &[Multiaddr]) -> Vec<Multiaddr> {
        let is_here =
            |address: &&Multiaddr| quic_address(address).is_some_and(|address| self.has(address.ip()));
        listeners.iter().filter(is_here).cloned().collect()
    }
}

/// All places of this machine; none where the system does not tell.
pub(super) fn all() -> BTreeSet<Place> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    places(interfaces.iter().filter_map(|interface| Some((interface.index?, interface.ip()))))
}

fn places(addresses: impl Iterator<Item = (u32, IpAddr)>) -> BTreeSet<Place> {
    let (mut v4, mut v6) = (BTreeMap::<u32, BTreeSet<_>>::new(), BTreeMap::<u32, BTreeSet<_>>::new());
    for (index, ip) in addresses {
        match ip {
            ip if ip.is_loopback() || is_v6_link_local(ip) => {}
            IpAddr::V4(ip) => _ = v4.entry(index).or_default().insert(ip),
            IpAddr::V6(ip) => _ = v6.entry(index).or_default().insert(ip),
        }
    }
    let v4 = v4.into_iter().map(|(index, own)| Place { index, addresses: Addresses::V4(own) });
    let v6 = v6.into_iter().map(|(index, own)| Place { index, addresses: Addresses::V6(own) });
    v4.chain(v6).take(PLACES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_interface_is_a_place_of_each_family_that_others_can_reach_it_by() {
        let own = [
            (1, "127.0.0.1"),
            (1, "::1"),
            (2, "10.0.0.1"),
            (2, "fd00::1"),
            (2, "2001:db8::1"),
            (2, "fe80::1"),
            (3, "fe80::2"),
            (3, "169.254.7.7"),
        ];
        let found = places(own.iter().map(|(index, ip)| (*index, ip.parse().unwrap())));
        let v4 = |index, ip: &str| Place {
            index,
            addresses: Addresses::V4(BTreeSet::from([ip.parse().unwrap()])),
        };
        let v6 = ["fd00::1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        let v6 = Place { index: 2, addresses: Addresses::V6(BTreeSet::from(v6)) };
        assert_eq!(found, BTreeSet::from([v4(2, "10.0.0.1"), v6.clone(), v4(3, "169.254.7.7")]));
        let listeners =
            ["/ip4/10.0.0.1/udp/1/quic-v1", "/ip6/fd00::1/udp/2/quic-v1", "/ip6/::1/udp/2/quic-v1"]
                .map(|address| address.parse().unwrap());
        assert_eq!(v6.told(&listeners), listeners[1..2]);
        assert_eq!(v4(2, "10.0.0.1").told(&listeners), listeners[..1]);
        let many = places((0..100).map(|index| (index, "10.0.0.1".parse().unwrap())));
        assert_eq!(many.len(), PLACES_MAX);
    }
}
