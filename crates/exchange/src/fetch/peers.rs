//! What a fetch knows of the peers it may ask.

use std::collections::{BTreeMap, BTreeSet};

use super::{Limits, Micros};
use crate::{Key, PeerId};

/// How long a peer is left alone after it was busy, or failed to answer for the first time.
const REST: Micros = Micros::from_millis(250);
/// The rest doubles with each failure, this often at most.
const REST_DOUBLINGS_MAX: u32 = 4;

#[derive(Default)]
struct Peer {
    may_have: BTreeSet<Key>,
    in_flight: usize,
    failures: u32,
    failed_at: Option<Micros>,
    rests_until: Option<Micros>,
    is_liar: bool,
    has_answered: bool,
}

pub(super) struct Peers {
    peers: BTreeMap<PeerId, Peer>,
    seed: u64,
    limits: Limits,
}

impl Peers {
    pub(super) fn new(seed: u64, limits: Limits) -> Self {
        Self { peers: BTreeMap::new(), seed, limits }
    }

    pub(super) fn found(&mut self, peer: PeerId, key: Key) {
        self.peers.entry(peer).or_default().may_have.insert(key);
    }

    pub(super) fn all(&self) -> BTreeSet<PeerId> {
        self.peers.keys().copied().collect()
    }

    /// Those who may be asked for this now, the least busy first.
    pub(super) fn idle_for(&self, key: &Key) -> Vec<PeerId> {
        let mut idle: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| {
                self.is_left(peer) && peer.rests_until.is_none() && peer.may_have.contains(key)
            })
            .filter(|(_, peer)| peer.in_flight < self.window(peer))
            .map(|(id, peer)| (peer.in_flight, self.rank(id), *id))
            .collect();
        idle.sort_unstable();
        idle.into_iter().map(|(_, _, id)| id).collect()
    }

    /// Until it has answered once a peer may be gone, and all that it is asked waits for the dial to fail.
    fn window(&self, peer: &Peer) -> usize {
        if peer.has_answered { self.limits.in_flight_peer_max } else { 1 }
    }

    /// Whether anyone is left, be it resting or busy, that may have this and passes the test.
    pub(super) fn any_left(&self, key: &Key, test: impl Fn(&PeerId) -> bool) -> bool {
        self.peers.iter().any(|(id, peer)| self.is_left(peer) && peer.may_have.contains(key) && test(id))
    }

    fn is_left(&self, peer: &Peer) -> bool {
        !peer.is_liar && peer.failures < self.limits.failures_max
    }

    /// Different for each seed.
    fn rank(&self, id: &PeerId) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&id.as_bytes()[..8]);
        (u64::from_le_bytes(first) ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    pub(super) fn asked(&mut self, id: &PeerId) {
        self.change(id, |peer| peer.in_flight += 1);
    }

    pub(super) fn settled(&mut self, id: &PeerId) {
        self.change(id, |peer| peer.in_flight = peer.in_flight.saturating_sub(1));
    }

    pub(super) fn succeeded(&mut self, id: &PeerId) {
        self.change(id, |peer| {
            peer.failures = 0;
            peer.has_answered = true;
        });
    }

    /// A request that was sent at `since` was not answered. What one broken connection has cost is one failure.
    pub(super) fn failed(&mut self, id: &PeerId, since: Micros, now: Micros) {
        self.change(id, |peer| {
            if peer.failed_at.is_some_and(|failed_at| since < failed_at) {
                return;
            }
            let doublings = peer.failures.min(REST_DOUBLINGS_MAX);
            peer.failures = peer.failures.saturating_add(1);
            peer.failed_at = Some(now);
            peer.rests_until = Some(now.after(Micros(REST.0 << doublings)));
        });
    }

    pub(super) fn rest(&mut self, id: &PeerId, now: Micros) {
        self.change(id, |peer| peer.rests_until = Some(now.after(REST)));
    }

    pub(super) fn drop_liar(&mut self, id: &PeerId) {
        self.change(id, |peer| peer.is_liar = true);
    }

    pub(super) fn wake(&mut self, now: Micros) {
        for peer in self.peers.values_mut() {
            peer.rests_until = peer.rests_until.filter(|until| *until > now);
        }
    }

    pub(super) fn next_awake(&self) -> Option<Micros> {
        self.peers.values().filter(|peer| self.is_left(peer)).filter_map(|peer| peer.rests_until).min()
    }

    fn change(&mut self, id: &PeerId, change: impl FnOnce(&mut Peer)) {
        if let Some(peer) = self.peers.get_mut(id) {
            change(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_has_never_answered_is_asked_one_thing_at_a_time() {
        let (peer, key) = (PeerId::from([1; 32]), Key::Path([2; 20].into()));
        let mut peers = Peers::new(0, Limits::default());
        peers.found(peer, key.clone());
        assert_eq!(peers.idle_for(&key), [peer]);
        peers.asked(&peer);
        assert!(peers.idle_for(&key).is_empty());
        peers.settled(&peer);
        peers.succeeded(&peer);
        for _ in 0..Limits::default().in_flight_peer_max {
            assert_eq!(peers.idle_for(&key), [peer]);
            peers.asked(&peer);
        }
        assert!(peers.idle_for(&key).is_empty());
    }
}
