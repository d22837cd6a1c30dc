//! What a fetch knows of the peers it may ask.

use std::collections::{BTreeMap, BTreeSet};

use super::pace::{Mark, Pace};
use super::{Limits, Micros, RATE_MIN};
use crate::{Key, PeerId};

/// How long a peer is left alone after it was busy, or failed to answer for the first time.
const REST: Micros = Micros::from_millis(250);
/// The longest rest that a busy peer can ask for.
const BUSY_MAX: Micros = Micros::from_millis(10_000);
/// The rest doubles with each failure, this often at most.
const REST_DOUBLINGS_MAX: u32 = 4;
/// A peer that owes something and sends nothing for so long is stalled: what it owes is asked elsewhere as well.
pub(super) const STALL: Micros = Micros::from_millis(2_000);
/// As good as nothing: what comes in [`STALL`] at the rate at which a peer is given up.
const STALL_BYTES: u64 = RATE_MIN * STALL.0 / 1_000_000;
/// A peer that has said nothing but that it is busy for so long counts as one that does not answer.
const BUSY_PATIENCE: Micros = Micros::from_millis(60_000);

#[derive(Default)]
struct Peer {
    may_have: BTreeSet<Key>,
    in_flight: usize,
    failures: u32,
    failed_at: Option<Micros>,
    rests_until: Option<Micros>,
    is_liar: bool,
    /// It answers, if it does, too late to be waited for.
    is_slow: bool,
    has_answered: bool,
    /// It has failed, and has not answered since.
    has_failed: bool,
    /// Since when it has given nothing, and said that it is busy.
    busy_since: Option<Micros>,
    /// When something came of it, or it was asked with nothing else under way.
    progress_at: Micros,
    /// How many bytes of replies it has sent, and how many that were at `progress_at`.
    sent: u64,
    sent_at_progress: u64,
    pace: Pace,
}

impl Peer {
    fn answered(&mut self, now: Micros) {
        (self.has_answered, self.has_failed) = (true, false);
        self.progressed(now);
    }

    fn progressed(&mut self, now: Micros) {
        (self.progress_at, self.sent_at_progress) = (now, self.sent);
    }

    fn is_stalled(&self, now: Micros) -> bool {
        self.in_flight > 0 && self.progress_at.after(STALL) <= now
    }
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

    /// One that was given up gets another chance when it is found again.
    pub(super) fn found(&mut self, peer: PeerId, key: Key) {
        let failures_max = self.limits.failures_max;
        let peer = self.peers.entry(peer).or_default();
        if !peer.may_have.insert(key) {
            peer.failures = peer.failures.min(failures_max.saturating_sub(1));
        }
    }

    pub(super) fn knows(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    pub(super) fn all(&self) -> BTreeSet<PeerId> {
        self.peers.keys().copied().collect()
    }

    /// Those who may be asked for this now (`among`: of these), without whom `order` gives no place: who has not failed of
    /// late before who has, then by their places, then the least busy.
    pub(super) fn ready_for<Place: Ord>(
        &self,
        key: &Key,
        now: Micros,
        among: Option<&BTreeSet<PeerId>>,
        order: impl Fn(&PeerId) -> Option<Place>,
    ) -> Vec<PeerId> {
        let place = |(id, peer): (&PeerId, &Peer)| {
            let is_ready = self.is_left(peer)
                && peer.rests_until.is_none()
                && peer.in_flight < self.requests_max(peer)
                && !peer.is_stalled(now)
                && peer.may_have.contains(key);
            let place = is_ready.then(|| order(id)).flatten()?;
            Some((peer.failures, place, peer.in_flight, self.rank(id), *id))
        };
        let mut ready: Vec<_> = match among {
            None => self.peers.iter().filter_map(place).collect(),
            Some(these) => these.iter().filter_map(|id| place(self.peers.get_key_value(id)?)).collect(),
        };
        ready.sort_unstable();
        ready.into_iter().map(|(.., id)| id).collect()
    }

    /// Until it has answered once a peer may be gone, and all that it is asked waits for the dial to fail.
    fn requests_max(&self, peer: &Peer) -> usize {
        if peer.has_answered { self.limits.in_flight_peer_max } else { 1 }
    }

    /// Whether anyone is left, be it resting or busy, that may have this and passes the test.
    pub(super) fn any_left(&self, key: &Key, test: impl Fn(&PeerId) -> bool) -> bool {
        self.peers.iter().any(|(id, peer)| self.is_left(peer) && peer.may_have.contains(key) && test(id))
    }

    /// Whether anyone that may have this has failed to answer of late.
    pub(super) fn any_failed(&self, key: &Key) -> bool {
        let has_failed = |peer: &Peer| !peer.is_liar && peer.failures > 0;
        self.peers.values().any(|peer| has_failed(peer) && peer.may_have.contains(key))
    }

    /// Whether it is left, has answered since it failed, and does not owe anything for too long.
    pub(super) fn is_usable(&self, id: &PeerId, now: Micros) -> bool {
        let is_usable = |peer: &Peer| self.is_left(peer) && !peer.has_failed && !peer.is_stalled(now);
        self.peers.get(id).is_some_and(is_usable)
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

    /// What this peer has shown; that of a stranger if it is not known.
    pub(super) fn pace(&self, id: &PeerId) -> Pace {
        self.peers.get(id).map(|peer| peer.pace.clone()).unwrap_or_default()
    }

    /// It was asked for so many bytes of contents.
    pub(super) fn asked(&mut self, id: &PeerId, bytes: u64, now: Micros) -> Mark {
        let peer = self.peers.entry(*id).or_default();
        if peer.in_flight == 0 {
            peer.progressed(now);
        }
        peer.in_flight += 1;
        peer.pace.asked(bytes, now)
    }

    pub(super) fn settled(&mut self, id: &PeerId, bytes: u64) {
        self.change(id, |peer| {
            peer.in_flight = peer.in_flight.saturating_sub(1);
            peer.pace.settled(bytes);
        });
    }

    /// So many bytes more of its replies have come.
    pub(super) fn sent(&mut self, id: &PeerId, bytes: u64, now: Micros) {
        self.change(id, |peer| {
            peer.sent += bytes;
            if peer.sent - peer.sent_at_progress >= STALL_BYTES {
                peer.progressed(now);
            }
        });
    }

    /// How many bytes of replies it has sent.
    pub(super) fn bytes_sent(&self, id: &PeerId) -> u64 {
        self.peers.get(id).map_or(0, |peer| peer.sent)
    }

    /// A request was answered, with so many bytes of contents. Who answers small questions may fail to bring contents all
    /// the same, so that alone makes up for no failure.
    pub(super) fn succeeded(&mut self, id: &PeerId, mark: Mark, bytes: u64, now: Micros) {
        self.change(id, |peer| {
            if bytes > 0 {
                (peer.failures, peer.busy_since) = (0, None);
            }
            peer.answered(now);
            peer.pace.answered(mark, bytes, now);
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
            peer.has_failed = true;
            peer.rests_until = Some(now.after(Micros(REST.0 << doublings)));
            peer.pace.failed();
        });
    }

    /// It cannot be reached.
    pub(super) fn give_up(&mut self, id: &PeerId) {
        let failures_max = self.limits.failures_max;
        self.change(id, |peer| peer.failures = peer.failures.max(failures_max));
    }

    /// Its claims are not waited for.
    pub(super) fn wait_no_longer(&mut self, id: PeerId) {
        self.peers.entry(id).or_default().is_slow = true;
    }

    /// Whether its claims are waited for.
    pub(super) fn waits_for(&self, id: &PeerId) -> bool {
        self.peers.get(id).is_none_or(|peer| !peer.is_slow)
    }

    /// It is busy, and says perhaps when to ask again.
    pub(super) fn rest(&mut self, id: &PeerId, after: Option<Micros>, now: Micros) {
        let rest = after.unwrap_or(REST).clamp(Micros(1), BUSY_MAX);
        self.change(id, |peer| {
            peer.answered(now);
            peer.busy_since = peer.busy_since.or(Some(now));
            peer.rests_until = Some(now.after(rest));
        });
    }

    /// Whether it has given nothing since it said that it is busy.
    pub(super) fn is_busy(&self, id: &PeerId) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.busy_since.is_some())
    }

    /// Whether it has been busy for so long that it is not believed.
    pub(super) fn is_busy_for_long(&self, id: &PeerId, now: Micros) -> bool {
        let since = self.peers.get(id).and_then(|peer| peer.busy_since);
        since.is_some_and(|since| since.after(BUSY_PATIENCE) <= now)
    }

    pub(super) fn drop_liar(&mut self, id: &PeerId) {
        self.change(id, |peer| peer.is_liar = true);
    }

    pub(super) fn wake(&mut self, now: Micros) {
        for peer in self.peers.values_mut() {
            peer.rests_until = peer.rests_until.filter(|until| *until > now);
        }
    }

    /// Whether this peer owes something and sends nothing.
    pub(super) fn is_stalled(&self, id: &PeerId, now: Micros) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.is_stalled(now))
    }

    /// When something came of this peer last.
    pub(super) fn progress_at(&self, id: &PeerId) -> Micros {
        self.peers.get(id).map(|peer| peer.progress_at).unwrap_or_default()
    }

    /// When one wakes, or counts as stalled.
    pub(super) fn next_event(&self, now: Micros) -> Option<Micros> {
        let awake = self.peers.values().filter(|peer| self.is_left(peer)).filter_map(|peer| peer.rests_until);
        let owing = self.peers.values().filter(|peer| peer.in_flight > 0);
        let stall = owing.map(|peer| peer.progress_at.after(STALL)).filter(|at| *at > now);
        awake.chain(stall).min()
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
        let (peer, key, now) = (PeerId::from([1; 32]), Key::Path([2; 20].into()), Micros(0));
        let mut peers = Peers::new(0, Limits::default());
        peers.found(peer, key.clone());
        assert_eq!(peers.ready_for(&key, now, None, |_| Some(())), [peer]);
        let mark = peers.asked(&peer, 0, now);
        assert!(peers.ready_for(&key, now, None, |_| Some(())).is_empty());
        peers.settled(&peer, 0);
        peers.succeeded(&peer, mark, 0, now);
        for _ in 0..Limits::default().in_flight_peer_max {
            assert_eq!(peers.ready_for(&key, now, None, |_| Some(())), [peer]);
            peers.asked(&peer, 0, now);
        }
        assert!(peers.ready_for(&key, now, None, |_| Some(())).is_empty());
    }

    #[test]
    fn a_peer_that_owes_and_sends_nothing_is_stalled_until_something_comes() {
        let (peer, key) = (PeerId::from([1; 32]), Key::Path([2; 20].into()));
        let mut peers = Peers::new(0, Limits::default());
        peers.found(peer, key);
        assert_eq!(peers.next_event(Micros(0)), None);
        peers.asked(&peer, 1, Micros(5));
        assert_eq!(peers.next_event(Micros(5)), Some(Micros(5).after(STALL)));
        let late = Micros(5).after(STALL);
        assert!(peers.is_stalled(&peer, late) && !peers.is_stalled(&peer, Micros(late.0 - 1)));
        peers.sent(&peer, STALL_BYTES - 1, late);
        assert!(peers.is_stalled(&peer, late), "as good as nothing has come");
        peers.sent(&peer, 1, late);
        assert!(!peers.is_stalled(&peer, late));
    }

    #[test]
    fn who_fails_is_no_partner_until_it_answers() {
        let (peer, key, now) = (PeerId::from([1; 32]), Key::Path([2; 20].into()), Micros(0));
        let mut peers = Peers::new(0, Limits::default());
        peers.found(peer, key.clone());
        assert!(peers.is_usable(&peer, now), "a stranger may be one");
        let mark = peers.asked(&peer, 0, now);
        peers.settled(&peer, 0);
        peers.succeeded(&peer, mark, 0, now);
        peers.failed(&peer, now, now);
        peers.wake(Micros(u64::MAX));
        assert!(!peers.is_usable(&peer, now));
        assert_eq!(peers.ready_for(&key, now, None, |_| Some(())), [peer], "it is asked again");
        peers.succeeded(&peer, mark, 0, now);
        assert!(peers.is_usable(&peer, now));
    }
}
