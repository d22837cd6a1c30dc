//! Who has asked for the same tree of late: they may have a part of it for each other.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use firn_castore::Root;
use firn_exchange::{FELLOWS_MAX, Fellow, PeerId};
use firn_net::{Peer, is_private};

/// Whoever asked longer ago has all of it by now, and is found like any other, or has gone.
const RECENT: Duration = Duration::from_secs(300);
/// Trees that are remembered.
const ROOTS_MAX: usize = 1024;
/// Askers of one tree that are remembered.
const ASKERS_MAX: usize = 64;

/// The latest askers of each tree, the latest one last.
#[derive(Debug, Default)]
pub(super) struct Fellows(BTreeMap<Root, VecDeque<Asker>>);

#[derive(Debug, Clone, Copy)]
struct Asker {
    peer: PeerId,
    /// Where its connection came from: iroh dials from the socket on which it listens.
    address: SocketAddr,
    at: Instant,
}

impl Fellows {
    /// This peer asks for a tree. One that comes through a relay is somewhere that nobody else can be told.
    pub(super) fn asked(&mut self, root: Root, from: Peer, now: Instant) {
        let Some(address) = from.address else { return };
        if self.0.len() >= ROOTS_MAX && !self.0.contains_key(&root) {
            self.make_room(now);
        }
        let askers = self.0.entry(root).or_default();
        askers.retain(|asker| asker.peer != from.id);
        askers.push_back(Asker { peer: from.id, address, at: now });
        if askers.len() > ASKERS_MAX {
            askers.pop_front();
        }
    }

    /// Others that have asked for this tree, the latest first, as far as this peer may be told of them.
    pub(super) fn others(&self, root: &Root, to: Peer, now: Instant) -> Vec<Fellow> {
        let askers = self.0.get(root).into_iter().flatten().rev();
        let others = askers.filter(|asker| {
            asker.peer != to.id && asker.is_recent(now) && may_be_told(asker.address.ip(), to)
        });
        let fellow = |asker: &Asker| Fellow { peer: asker.peer, addresses: vec![asker.address] };
        others.take(FELLOWS_MAX).map(fellow).collect()
    }

    /// Forgets what nobody has asked for of late; if that is nothing, what was asked for longest ago.
    fn make_room(&mut self, now: Instant) {
        self.0.retain(|_, askers| askers.back().is_some_and(|asker| asker.is_recent(now)));
        if self.0.len() >= ROOTS_MAX {
            let oldest = self.0.iter().min_by_key(|(_, askers)| askers.back().map(|asker| asker.at));
            let oldest = oldest.map(|(root, _)| root.clone());
            oldest.and_then(|root| self.0.remove(&root));
        }
    }
}

impl Asker {
    fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < RECENT
    }
}

/// An address of a private network means something in private networks only, and one of this machine on this machine. One
/// that needs the name of an interface means nothing to anybody else.
fn may_be_told(of: IpAddr, to: Peer) -> bool {
    let of = of.to_canonical();
    match of {
        _ if of.is_loopback() => to.address.is_some_and(|to| to.ip().to_canonical().is_loopback()),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => false,
        _ => !is_private(of) || to.is_private(),
    }
}

#[cfg(test)]
mod tests {
    use firn_castore::BlobRef;

    use super::*;

    fn peer(number: u16, address: &str) -> Peer {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&number.to_le_bytes());
        Peer { id: id.into(), address: Some(address.parse().unwrap()), drain: None }
    }

    fn root(number: u64) -> Root {
        let blob = BlobRef::of(&number.to_le_bytes());
        firn_castore::Node::File { blob, executable: false }.into()
    }

    fn told(fellows: &Fellows, to: Peer, now: Instant) -> Vec<PeerId> {
        fellows.others(&root(1), to, now).into_iter().map(|fellow| fellow.peer).collect()
    }

    #[test]
    fn those_who_asked_for_the_same_of_late_are_told_of_each_other() {
        let (mut fellows, now) = (Fellows::default(), Instant::now());
        let (first, second, third) = (peer(1, "10.0.0.1:1"), peer(2, "10.0.0.2:2"), peer(3, "10.0.0.3:3"));
        assert!(told(&fellows, first, now).is_empty());
        fellows.asked(root(1), first, now);
        fellows.asked(root(1), second, now + RECENT / 2);
        fellows.asked(root(2), third, now);
        assert!(told(&fellows, first, now) == [second.id] && told(&fellows, second, now) == [first.id]);
        assert_eq!(told(&fellows, third, now), [second.id, first.id]);
        let fellow = Fellow { peer: second.id, addresses: vec!["10.0.0.2:2".parse().unwrap()] };
        assert_eq!(fellows.others(&root(1), third, now + RECENT), [fellow]);
    }

    #[test]
    fn an_address_is_told_where_it_can_be_dialled() {
        let (mut fellows, now) = (Fellows::default(), Instant::now());
        let addresses = ["127.0.0.1:1", "10.0.0.1:1", "8.8.8.8:1", "[fe80::1]:1", "[::ffff:192.168.0.1]:1"];
        for (number, address) in addresses.into_iter().enumerate() {
            fellows.asked(root(1), peer(number as u16, address), now);
        }
        let told_to = |address: &str| {
            let mut told = fellows.others(&root(1), peer(99, address), now);
            told.sort_by_key(|fellow| fellow.peer);
            told.iter().map(|fellow| fellow.addresses[0].to_string()).collect::<Vec<_>>()
        };
        assert_eq!(told_to("127.0.0.1:9"), [addresses[0], addresses[1], addresses[2], addresses[4]]);
        assert_eq!(told_to("192.168.1.1:9"), [addresses[1], addresses[2], addresses[4]]);
        assert_eq!(told_to("9.9.9.9:9"), [addresses[2]]);
        let through_a_relay = Peer { address: None, ..peer(98, "9.9.9.9:9") };
        assert_eq!(told(&fellows, through_a_relay, now), [peer(2, "8.8.8.8:1").id]);
        fellows.asked(root(1), through_a_relay, now);
        assert!(!told(&fellows, peer(99, "10.0.0.9:9"), now).contains(&through_a_relay.id));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut fellows, now) = (Fellows::default(), Instant::now());
        for number in 0..2 * ASKERS_MAX as u16 {
            fellows.asked(root(1), peer(number, "10.0.0.1:1"), now);
        }
        assert_eq!(fellows.0[&root(1)].len(), ASKERS_MAX);
        assert_eq!(told(&fellows, peer(999, "10.0.0.1:1"), now).len(), FELLOWS_MAX);
        for number in 0..2 * ROOTS_MAX as u64 {
            fellows.asked(root(number), peer(1, "10.0.0.1:1"), now + Duration::from_millis(number));
        }
        assert_eq!(fellows.0.len(), ROOTS_MAX);
        assert!(!fellows.0.contains_key(&root(2)) && fellows.0.contains_key(&root(2 * ROOTS_MAX as u64 - 1)));
        fellows.asked(root(0), peer(1, "10.0.0.1:1"), now + RECENT * 2);
        assert_eq!(fellows.0.len(), 1);
    }
}
