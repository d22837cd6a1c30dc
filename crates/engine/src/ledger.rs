//! What is known of peers: how they were found, what they gave, how they lied.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use firn_castore::Root;
use firn_exchange::{Lie, PeerId, Rejection};

use crate::{Found, Via};

/// The most peers that are remembered.
const PEERS_MAX: usize = 10_000;
/// The most lies of one peer that are remembered.
const LIES_MAX: usize = 16;
/// The most rejected roots that are remembered.
const REJECTED_MAX: usize = 256;

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
    /// Its lies; after the first it is asked nothing more.
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
pub(crate) struct Ledger(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    peers: BTreeMap<PeerId, LedgerEntry>,
    rejected: VecDeque<RejectedRoot>,
}

impl Ledger {
    /// Whether a peer that was found may be asked.
    pub(crate) fn found(&self, found: Found) -> bool {
        let mut entries = self.entries();
        if entries.peers.len() >= PEERS_MAX && !entries.peers.contains_key(&found.peer) {
            // Whoever has lied stays; of the others the first will do.
            let honest = entries.peers.iter().find(|(_, entry)| entry.lies.is_empty()).map(|(peer, _)| *peer);
            match honest {
                Some(peer) => entries.peers.remove(&peer),
                None => return false,
            };
        }
        let entry = entries.peers.entry(found.peer).or_default();
        entry.via.get_or_insert(found.via);
        entry.lies.is_empty()
    }

    pub(crate) fn asked(&self, peer: PeerId) {
        self.entries().peers.entry(peer).or_default().asked += 1;
    }

    pub(crate) fn failed(&self, peer: PeerId) {
        self.entries().peers.entry(peer).or_default().failed += 1;
    }

    pub(crate) fn gave(&self, peer: PeerId, bytes: u64) {
        self.entries().peers.entry(peer).or_default().bytes += bytes;
    }

    pub(crate) fn lied(&self, peer: PeerId, lie: Lie) {
        let mut entries = self.entries();
        let lies = &mut entries.peers.entry(peer).or_default().lies;
        if lies.len() < LIES_MAX {
            lies.push(lie);
        }
    }

    pub(crate) fn rejected(&self, rejected: RejectedRoot) {
        let mut entries = self.entries();
        if entries.rejected.len() == REJECTED_MAX {
            entries.rejected.pop_front();
        }
        entries.rejected.push_back(rejected);
    }

    pub(crate) fn peers(&self) -> Vec<(PeerId, LedgerEntry)> {
        self.entries().peers.iter().map(|(peer, entry)| (*peer, entry.clone())).collect()
    }

    pub(crate) fn rejected_roots(&self) -> Vec<RejectedRoot> {
        self.entries().rejected.iter().cloned().collect()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
