//! What is known of peers: how they were found, what they gave, how they lied.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use firn_castore::Root;
use firn_exchange::{Lie, PeerId, Rejection};
use firn_store::UnixSeconds;
use tokio::sync::watch;

use crate::{Found, Via};

/// The most peers that are remembered; of more, the one that was met longest ago is forgotten, but not that it has lied.
const PEERS_MAX: usize = 10_000;
/// The most lies of one peer that are remembered.
const LIES_MAX: usize = 16;
/// The most rejected roots that are remembered.
const REJECTED_MAX: usize = 256;

/// The most liars that are remembered; of more, those whose lie is the oldest are forgotten.
const LIARS_MAX: usize = 10_000;
/// For so many days after its lie a peer is asked nothing. A liar may have been a host with a broken disk that was
/// repaired, so this ends.
pub const LIAR_DAYS: u64 = 7;
/// The same in seconds.
const LIAR_SECONDS: u64 = LIAR_DAYS * 24 * 60 * 60;

/// A peer that has lied of late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Liar {
    /// Who.
    pub peer: PeerId,
    /// Its last lie, in words.
    pub reason: String,
    /// When that was.
    pub at: UnixSeconds,
}

/// What is known of one peer.
#[derive(Debug, Clone, Default)]
pub struct LedgerEntry {
    /// How it was found first.
    pub via: Option<Via>,
    /// Requests to it.
    pub asked: u64,
    /// Requests to it that it did not answer.
    pub failed: u64,
    /// Verified bytes of contents that came from it.
    pub bytes: u64,
    /// Its lies since the engine was opened; after one it is asked nothing for [`LIAR_DAYS`].
    pub lies: Vec<Lie>,
}

/// A root that could not be believed or delivered. No peer is to blame for that.
#[derive(Debug, Clone)]
pub struct RejectedRoot {
    /// Which root.
    pub root: Root,
    /// Who named it.
    pub claimants: Vec<PeerId>,
    /// Why not.
    pub reason: Rejection,
}

#[derive(Default)]
pub(crate) struct Ledger {
    entries: Mutex<Entries>,
    /// Changes with each lie, so that whoever keeps them on a disk knows.
    lies: watch::Sender<u64>,
}

#[derive(Default)]
struct Entries {
    peers: BTreeMap<PeerId, Met>,
    /// How often anybody was met.
    meetings: u64,
    rejected: VecDeque<RejectedRoot>,
    /// By who, the last lie. Also of earlier lives of this node.
    liars: BTreeMap<PeerId, (UnixSeconds, String)>,
}

#[derive(Default)]
struct Met {
    /// The last one has the highest number of all.
    last: u64,
    entry: LedgerEntry,
}

impl Entries {
    /// The entry of a peer that is met now, made where there is none.
    fn meet(&mut self, peer: PeerId) -> &mut LedgerEntry {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            let oldest = self.peers.iter().min_by_key(|(_, met)| met.last).map(|(peer, _)| *peer);
            oldest.and_then(|peer| self.peers.remove(&peer));
        }
        self.meetings += 1;
        let met = self.peers.entry(peer).or_default();
        met.last = self.meetings;
        &mut met.entry
    }

    fn note_liar(&mut self, liar: Liar) {
        let Liar { peer, reason, at } = liar;
        if self.liars.get(&peer).is_some_and(|(known, _)| *known > at) {
            return;
        }
        self.liars.insert(peer, (at, reason));
        if self.liars.len() > LIARS_MAX {
            let oldest = self.liars.iter().min_by_key(|(_, (at, _))| *at).map(|(peer, _)| *peer);
            oldest.and_then(|peer| self.liars.remove(&peer));
        }
    }

    fn is_liar(&self, peer: &PeerId, now: UnixSeconds) -> bool {
        self.liars.get(peer).is_some_and(|(at, _)| !is_forgiven(*at, now))
    }
}

/// Whether a lie is so old that it counts no more.
fn is_forgiven(at: UnixSeconds, now: UnixSeconds) -> bool {
    now.0.saturating_sub(at.0) >= LIAR_SECONDS
}

impl Ledger {
    /// Whether a peer that was found may be asked.
    pub(crate) fn found(&self, found: Found, now: UnixSeconds) -> bool {
        let mut entries = self.entries();
        entries.meet(found.peer).via.get_or_insert(found.via);
        !entries.is_liar(&found.peer, now)
    }

    pub(crate) fn asked(&self, peer: PeerId) {
        self.entries().meet(peer).asked += 1;
    }

    pub(crate) fn failed(&self, peer: PeerId) {
        self.entries().meet(peer).failed += 1;
    }

    pub(crate) fn gave(&self, peer: PeerId, bytes: u64) {
        self.entries().meet(peer).bytes += bytes;
    }

    pub(crate) fn lied(&self, peer: PeerId, lie: Lie, now: UnixSeconds) {
        {
            let mut entries = self.entries();
            entries.note_liar(Liar { peer, reason: lie.to_string(), at: now });
            let lies = &mut entries.meet(peer).lies;
            if lies.len() < LIES_MAX {
                lies.push(lie);
            }
        }
        self.lies.send_modify(|count| *count += 1);
    }

    /// Liars of an earlier life. A clock that was wrong then must not make a lie count for ever.
    pub(crate) fn remember(&self, liars: impl IntoIterator<Item = Liar>, now: UnixSeconds) {
        let mut entries = self.entries();
        for liar in liars {
            let at = liar.at.min(now);
            if !is_forgiven(at, now) {
                entries.note_liar(Liar { at, ..liar });
            }
        }
    }

    /// Whose lies count still, the newest first.
    pub(crate) fn liars(&self, now: UnixSeconds) -> Vec<Liar> {
        let mut entries = self.entries();
        entries.liars.retain(|_, (at, _)| !is_forgiven(*at, now));
        let liar = |(peer, (at, reason)): (&PeerId, &(UnixSeconds, String))| Liar {
            peer: *peer,
            reason: reason.clone(),
            at: *at,
        };
        let mut liars: Vec<Liar> = entries.liars.iter().map(liar).collect();
        liars.sort_by_key(|liar| std::cmp::Reverse(liar.at));
        liars
    }

    pub(crate) fn lies(&self) -> watch::Receiver<u64> {
        self.lies.subscribe()
    }

    pub(crate) fn rejected(&self, rejected: RejectedRoot) {
        let mut entries = self.entries();
        if entries.rejected.len() == REJECTED_MAX {
            entries.rejected.pop_front();
        }
        entries.rejected.push_back(rejected);
    }

    /// How a peer was found first.
    pub(crate) fn via(&self, peer: &PeerId) -> Option<Via> {
        self.entries().peers.get(peer)?.entry.via
    }

    pub(crate) fn peers(&self) -> Vec<(PeerId, LedgerEntry)> {
        self.entries().peers.iter().map(|(peer, met)| (*peer, met.entry.clone())).collect()
    }

    pub(crate) fn rejected_roots(&self) -> Vec<RejectedRoot> {
        self.entries().rejected.iter().cloned().collect()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Via;

    fn peer(number: u16) -> PeerId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        PeerId::from(bytes)
    }

    fn liar(number: u16, at: u64) -> Liar {
        Liar { peer: peer(number), reason: "no".into(), at: UnixSeconds(at) }
    }

    #[test]
    fn a_lie_counts_for_days_and_no_longer() {
        let ledger = Ledger::default();
        let may_be_asked = |now| ledger.found(Found { peer: peer(1), via: Via::Dht }, UnixSeconds(now));
        ledger.lied(peer(1), Lie::TooMuch, UnixSeconds(1000));
        assert!(!may_be_asked(1000) && !may_be_asked(1000 + LIAR_SECONDS - 1));
        assert!(may_be_asked(1000 + LIAR_SECONDS));
        assert_eq!(ledger.liars(UnixSeconds(1000)).len(), 1);
        assert!(ledger.liars(UnixSeconds(1000 + LIAR_SECONDS)).is_empty());
    }

    #[test]
    fn of_very_many_peers_those_that_were_met_last_are_remembered() {
        let ledger = Ledger::default();
        let meet = |number| ledger.found(Found { peer: peer(number), via: Via::Dht }, UnixSeconds(9));
        (0..PEERS_MAX as u16).for_each(|number| ledger.lied(peer(number), Lie::TooMuch, UnixSeconds(9)));
        ledger.asked(peer(0));
        assert!(meet(PEERS_MAX as u16) && meet(PEERS_MAX as u16 + 1), "liars keep nobody out");
        let known: Vec<PeerId> = ledger.peers().into_iter().map(|(peer, _)| peer).collect();
        assert_eq!(known.len(), PEERS_MAX);
        assert!(known.contains(&peer(0)) && !known.contains(&peer(1)) && !known.contains(&peer(2)));
        assert!(!meet(1), "that it has lied is not forgotten");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_never_from_the_future() {
        let (ledger, now) = (Ledger::default(), UnixSeconds(LIAR_SECONDS * 2));
        ledger.remember([liar(1, 5), liar(2, u64::MAX)], now);
        assert_eq!(ledger.liars(now), [liar(2, now.0)], "the first is forgiven");
        let many = (0..=LIARS_MAX as u16).map(|number| liar(number + 3, now.0 - 1));
        ledger.remember(many, now);
        let liars = ledger.liars(now);
        assert_eq!((liars.len(), &liars[0]), (LIARS_MAX, &liar(2, now.0)), "the newest stay");
    }
}
