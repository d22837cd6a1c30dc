//! How many requests are answered at once, and how much memory that may take.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    num::NonZeroU64,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use firn_exchange::PeerId;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

/// Requests that are answered at once.
pub const REQUESTS_MAX: usize = 1024;
/// Requests of one peer that are answered at once: twice what a node of this version asks for.
pub const REQUESTS_OF_A_PEER_MAX: usize = 64;
/// What all replies may take in memory at once, in bytes, besides what the connections hold until it is acknowledged. Over
/// it, one reply to each peer is still given, so that those who hold much for long keep nobody else out.
pub const MEMORY_BYTES_MAX: usize = 32 << 20;
/// What the replies to one peer may take of that.
pub const MEMORY_OF_A_PEER_BYTES_MAX: usize = 16 << 20;
/// Pieces of replies that are read from the store at once, each on a thread.
const READS_MAX: usize = 32;

/// Memory is counted in units of so many bytes.
const UNIT_BYTES: usize = 1 << 10;
/// How many of them a peer may have.
const UNITS_OF_A_PEER: usize = MEMORY_OF_A_PEER_BYTES_MAX / UNIT_BYTES;
/// Memory is waited for so long; an asker gives up what does not begin within 2.5 s.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(1);
/// With a limited upload, each request has to have this many bytes a second, or it is taken for stalled.
const REQUEST_BYTES_PER_SECOND_MIN: u64 = 1 << 10;

/// Lets requests in.
pub(crate) struct Gate {
    requests_max: usize,
    requests_of_a_peer_max: usize,
    memory: Semaphore,
    reads: Semaphore,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    requests: usize,
    peers: BTreeMap<PeerId, OfPeer>,
    turned_away: u64,
}

struct OfPeer {
    requests: usize,
    memory: Arc<Semaphore>,
}

/// A request that is being answered, for as long as this lives.
pub(crate) struct Entered<'a> {
    gate: &'a Gate,
    peer: PeerId,
    memory: Arc<Semaphore>,
}

/// Memory that a reply takes, for as long as this lives.
pub(crate) struct Reserved<'a> {
    /// None of it where all has been given out, and the peer had nothing.
    of_all: Option<SemaphorePermit<'a>>,
    of_peer: OwnedSemaphorePermit,
}

impl Reserved<'_> {
    /// Gives back what is over so many bytes.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let units = units(bytes);
        let over = |permits: usize| permits.saturating_sub(units);
        drop(self.of_peer.split(over(self.of_peer.num_permits())));
        if let Some(of_all) = &mut self.of_all {
            drop(of_all.split(over(of_all.num_permits())));
        }
    }
}

/// How many units so many bytes are; never more than a peer may have.
fn units(bytes: usize) -> usize {
    bytes.clamp(UNIT_BYTES, MEMORY_OF_A_PEER_BYTES_MAX).div_ceil(UNIT_BYTES)
}

impl Gate {
    /// With these limits of the upload, in bytes a second, for all and for each peer.
    pub(crate) fn new(upload: Option<NonZeroU64>, upload_peer: Option<NonZeroU64>) -> Self {
        let fit = |rate: Option<NonZeroU64>, most: usize| {
            let fit = rate.map_or(u64::MAX, |rate| rate.get() / REQUEST_BYTES_PER_SECOND_MIN);
            usize::try_from(fit).unwrap_or(usize::MAX).clamp(1, most)
        };
        Self {
            requests_max: fit(upload, REQUESTS_MAX),
            requests_of_a_peer_max: fit(upload_peer, REQUESTS_OF_A_PEER_MAX),
            memory: Semaphore::new(MEMORY_BYTES_MAX / UNIT_BYTES),
            reads: Semaphore::new(READS_MAX),
            inside: Mutex::default(),
        }
    }

    /// Lets a request in, unless there are too many. One of each peer always is, so that nobody can keep others out.
    pub(crate) fn enter(&self, peer: PeerId) -> Option<Entered<'_>> {
        let mut inside = self.lock();
        let of_peer = inside.peers.get(&peer).map_or(0, |of_peer| of_peer.requests);
        let is_full = inside.requests >= self.requests_max || of_peer >= self.requests_of_a_peer_max;
        if is_full && of_peer > 0 {
            inside.turned_away += 1;
            return None;
        }
        inside.requests += 1;
        let of_peer = inside
            .peers
            .entry(peer)
            .or_insert_with(|| OfPeer { requests: 0, memory: Arc::new(Semaphore::new(UNITS_OF_A_PEER)) });
        of_peer.requests += 1;
        Some(Entered { gate: self, peer, memory: Arc::clone(&of_peer.memory) })
    }

    /// Waits until a piece may be read.
    pub(crate) async fn read(&self) -> SemaphorePermit<'_> {
        self.reads.acquire().await.expect("this semaphore is never closed")
    }

    /// How many requests of each peer are being answered.
    pub(crate) fn requests(&self) -> BTreeMap<PeerId, usize> {
        self.lock().peers.iter().map(|(peer, of_peer)| (*peer, of_peer.requests)).collect()
    }

    /// How many requests were turned away since the start.
    pub(crate) fn turned_away(&self) -> u64 {
        self.lock().turned_away
    }

    /// What is reserved now, in bytes.
    pub(crate) fn reserved_bytes(&self) -> usize {
        MEMORY_BYTES_MAX.saturating_sub(self.memory.available_permits() * UNIT_BYTES)
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Entered<'a> {
    /// Waits for so much memory; not for long. What is longer than a peer may have at all waits for all of that.
    pub(crate) async fn reserve(&self, bytes: usize) -> Option<Reserved<'a>> {
        let reserved = self.try_reserve(bytes).await;
        if reserved.is_none() {
            self.gate.lock().turned_away += 1;
        }
        reserved
    }

    async fn try_reserve(&self, bytes: usize) -> Option<Reserved<'a>> {
        let units = units(bytes);
        let permits = units as u32;
        let deadline = Instant::now() + MEMORY_TIMEOUT;
        // Its own share first: who waits for that is not in anybody's way.
        let of_peer = timeout_at(deadline, Arc::clone(&self.memory).acquire_many_owned(permits)).await;
        let of_peer = of_peer.ok()?.ok()?;
        let of_all = timeout_at(deadline, self.gate.memory.acquire_many(permits)).await;
        let has_nothing = self.memory.available_permits() + units == UNITS_OF_A_PEER;
        match of_all {
            Ok(of_all) => Some(Reserved { of_all: Some(of_all.ok()?), of_peer }),
            Err(_) => has_nothing.then_some(Reserved { of_all: None, of_peer }),
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut inside = self.gate.lock();
        inside.requests -= 1;
        if let Entry::Occupied(mut of_peer) = inside.peers.entry(self.peer) {
            of_peer.get_mut().requests -= 1;
            if of_peer.get().requests == 0 {
                of_peer.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u16) -> PeerId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&number.to_le_bytes());
        id.into()
    }

    #[test]
    fn a_peer_has_so_many_requests_and_all_have_so_many() {
        let gate = Gate::new(None, None);
        let of_one: Vec<_> = std::iter::from_fn(|| gate.enter(peer(0))).collect();
        assert_eq!(of_one.len(), REQUESTS_OF_A_PEER_MAX);
        let others = (1..100).flat_map(|number| (0..64).map(move |_| peer(number)));
        let entered: Vec<_> = others.filter_map(|peer| gate.enter(peer)).collect();
        assert!(gate.requests().len() == 100, "one of each is always let in");
        assert!(entered.len() + of_one.len() < REQUESTS_MAX + 100);
        assert_eq!(gate.turned_away(), 1 + 99 * 64 - entered.len() as u64);
        drop((entered, of_one));
        assert!(gate.requests().is_empty() && gate.enter(peer(0)).is_some());
    }

    #[test]
    fn a_slow_upload_has_room_for_few() {
        let gate = Gate::new(NonZeroU64::new(64 << 10), NonZeroU64::new(16 << 10));
        assert_eq!(std::iter::from_fn(|| gate.enter(peer(0))).collect::<Vec<_>>().len(), 16);
        let entered: Vec<_> = (0..4).flat_map(|number| (0..16).map(move |_| peer(number))).collect();
        let entered: Vec<_> = entered.into_iter().filter_map(|peer| gate.enter(peer)).collect();
        assert_eq!(entered.len(), 64);
        assert!(gate.enter(peer(3)).is_none() && gate.enter(peer(4)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_shared_out() {
        let gate = Gate::new(None, None);
        let entered = gate.enter(peer(0)).unwrap();
        let mut all = entered.reserve(usize::MAX).await.unwrap();
        assert_eq!(gate.reserved_bytes(), MEMORY_OF_A_PEER_BYTES_MAX);
        assert!(entered.reserve(1).await.is_none(), "it has what it may have");
        assert_eq!(gate.turned_away(), 1);
        let other = gate.enter(peer(1)).unwrap();
        assert!(other.reserve(4 << 20).await.is_some());
        all.shrink(3 << 20);
        assert_eq!(gate.reserved_bytes(), 3 << 20);
        all.shrink(usize::MAX);
        assert_eq!(gate.reserved_bytes(), 3 << 20, "it never grows");
        assert!(entered.reserve(MEMORY_OF_A_PEER_BYTES_MAX - (3 << 20)).await.is_some());
        drop(all);
        assert!(entered.reserve(1).await.is_some());
        assert_eq!(gate.reserved_bytes(), 0);
    }
    #[tokio::test(start_paused = true)]
    async fn those_who_hold_all_of_it_keep_nobody_out() {
        let gate = Gate::new(None, None);
        let greedy: Vec<_> = (0..(MEMORY_BYTES_MAX / MEMORY_OF_A_PEER_BYTES_MAX) as u16)
            .map(|number| gate.enter(peer(number)).unwrap())
            .collect();
        let mut held = Vec::new();
        for entered in &greedy {
            held.push(entered.reserve(usize::MAX).await.unwrap());
        }
        assert_eq!(gate.reserved_bytes(), MEMORY_BYTES_MAX);
        let (one, other) = (gate.enter(peer(100)).unwrap(), gate.enter(peer(100)).unwrap());
        let begun = Instant::now();
        let first = one.reserve(4 << 20).await;
        assert!(first.is_some() && begun.elapsed() >= MEMORY_TIMEOUT);
        assert!(other.reserve(4 << 20).await.is_none(), "one at a time");
        drop(first);
        assert!(other.reserve(4 << 20).await.is_some());
    }
}
