//! How much goes over the wire.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use firn_exchange::PeerId;
use tokio::time::Instant;

/// A rate is that of the last so many seconds.
const SECONDS: usize = 4;
/// Peers that are told apart; of further ones only the sum is known.
const PEERS_MAX: usize = 1024;

/// Bytes a second, in all and of each peer, over the last few seconds.
pub(crate) struct Meter {
    since: Instant,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    all: Recent,
    peers: BTreeMap<PeerId, Recent>,
}

/// The bytes of each of the last seconds, and of the one that is under way.
#[derive(Debug, Default, Clone, Copy)]
struct Recent {
    second: u64,
    bytes: [u64; SECONDS + 1],
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), counts: Mutex::default() }
    }

    /// So many bytes went.
    pub(crate) fn add(&self, peer: PeerId, bytes: u64) {
        let second = self.since.elapsed().as_secs();
        let mut counts = self.lock();
        counts.all.add(bytes, second);
        if counts.peers.len() >= PEERS_MAX && !counts.peers.contains_key(&peer) {
            counts.peers.retain(|_, recent| recent.rate(second) > 0);
        }
        if counts.peers.len() < PEERS_MAX || counts.peers.contains_key(&peer) {
            counts.peers.entry(peer).or_default().add(bytes, second);
        }
    }

    /// Bytes a second of all.
    pub(crate) fn rate(&self) -> u64 {
        self.lock().all.rate(self.since.elapsed().as_secs())
    }

    /// Bytes a second of one peer.
    pub(crate) fn rate_of(&self, peer: &PeerId) -> u64 {
        let second = self.since.elapsed().as_secs();
        self.lock().peers.get(peer).map_or(0, |recent| recent.rate(second))
    }

    /// Bytes a second of each peer that has any.
    pub(crate) fn rates(&self) -> BTreeMap<PeerId, u64> {
        let second = self.since.elapsed().as_secs();
        let rates =
            self.lock().peers.iter().map(|(peer, recent)| (*peer, recent.rate(second))).collect::<Vec<_>>();
        rates.into_iter().filter(|(_, rate)| *rate > 0).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    fn add(&mut self, bytes: u64, second: u64) {
        self.turn(second);
        self.bytes[second as usize % self.bytes.len()] += bytes;
    }

    /// Of the seconds that have passed; of the first one, of what there is of it.
    fn rate(mut self, second: u64) -> u64 {
        self.turn(second);
        let under_way = self.bytes[second as usize % self.bytes.len()];
        if second == 0 {
            return under_way;
        }
        (self.bytes.iter().sum::<u64>() - under_way) / second.min(SECONDS as u64)
    }

    /// Empties the places of the seconds that have begun since.
    fn turn(&mut self, second: u64) {
        let length = self.bytes.len() as u64;
        for begun in (self.second + 1)..=second.min(self.second + length) {
            self.bytes[(begun % length) as usize] = 0;
        }
        if second > self.second + length {
            self.bytes = Default::default();
        }
        self.second = self.second.max(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_seconds() {
        let mut recent = Recent::default();
        for second in 0..100 {
            recent.add(1000, second);
            recent.add(500, second);
        }
        assert_eq!(recent.rate(99), 1500, "the second that is under way does not count yet");
        assert_eq!(recent.rate(100), 1500);
        assert_eq!(recent.rate(102), 750, "half of the last seconds were idle");
        assert_eq!(recent.rate(104), 0);
        recent.add(4000, 1_000_000);
        assert_eq!((recent.rate(1_000_000), recent.rate(1_000_001)), (0, 1000));
    }

    #[test]
    fn peers_are_bounded() {
        let meter = Meter::new();
        for number in 0..2 * PEERS_MAX as u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_le_bytes());
            meter.add(id.into(), 1);
        }
        assert_eq!(meter.lock().peers.len(), PEERS_MAX);
    }
}
