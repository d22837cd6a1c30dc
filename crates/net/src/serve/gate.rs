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

use super::slots::AddressGroup;

/// Requests that are answered at once.
pub const REQUESTS_MAX: usize = 1024;
/// Requests of one address group that are answered at once: half of all, so that it leaves room for others.
pub const REQUESTS_OF_A_GROUP_MAX: usize = REQUESTS_MAX / 2;
/// Requests of one peer that are answered at once: twice what a node of this version asks for.
pub const REQUESTS_OF_A_PEER_MAX: usize = 64;
/// What all replies may take in memory at once, in bytes, besides what the connections hold until it is acknowledged. Over
/// it, one reply to each address group is still given, so that those who hold much for long keep nobody else out.
pub const MEMORY_BYTES_MAX: usize = 32 << 20;
/// What the replies to one address group may take of that.
pub const MEMORY_OF_A_GROUP_BYTES_MAX: usize = 24 << 20;
/// What the replies to one peer may take of that.
pub const MEMORY_OF_A_PEER_BYTES_MAX: usize = 16 << 20;
/// Pieces of replies that are read from the store at once, each on a thread.
const READS_MAX: usize = 32;

/// Memory is counted in units of so many bytes.
const UNIT_BYTES: usize = 1 << 10;
/// How many of them an address group may have ..
const UNITS_OF_A_GROUP: usize = MEMORY_OF_A_GROUP_BYTES_MAX / UNIT_BYTES;
/// .. and a peer.
const UNITS_OF_A_PEER: usize = MEMORY_OF_A_PEER_BYTES_MAX / UNIT_BYTES;
/// Memory is waited for so long; an asker gives up what does not begin within 2.5 s.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(1);
/// With a limited upload, each request has to have this many bytes a second, or it is taken for stalled.
const REQUEST_BYTES_PER_SECOND_MIN: u64 = 1 << 10;

/// Lets requests in.
pub(crate) struct Gate {
    requests_max: usize,
    requests_of_a_group_max: usize,
    requests_of_a_peer_max: usize,
    memory: Semaphore,
    reads: Semaphore,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    requests: usize,
    groups: Shares<AddressGroup>,
    peers: Shares<PeerId>,
    turned_away: u64,
}

/// What each has that has anything.
type Shares<K> = BTreeMap<K, Share>;

struct Share {
    requests: usize,
    memory: Arc<Semaphore>,
}

/// A request that is being answered, for as long as this lives.
pub(crate) struct Entered<'a> {
    gate: &'a Gate,
    peer: PeerId,
    group: AddressGroup,
    memory_of_peer: Arc<Semaphore>,
    memory_of_group: Arc<Semaphore>,
}

/// Memory that a reply takes, for as long as this lives.
pub(crate) struct Reserved<'a> {
    /// None of it where all has been given out, and the group had nothing.
    of_all: Option<SemaphorePermit<'a>>,
    of_group: OwnedSemaphorePermit,
    of_peer: OwnedSemaphorePermit,
}

impl Reserved<'_> {
    /// Gives back what is over so many bytes.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let units = units(bytes);
        let over = |permits: usize| permits.saturating_sub(units);
        drop(self.of_peer.split(over(self.of_peer.num_permits())));
        drop(self.of_group.split(over(self.of_group.num_permits())));
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
        let requests_max = fit(upload, REQUESTS_MAX);
        Self {
            requests_max,
            requests_of_a_group_max: requests_max.div_ceil(2),
            requests_of_a_peer_max: fit(upload_peer, REQUESTS_OF_A_PEER_MAX),
            memory: Semaphore::new(MEMORY_BYTES_MAX / UNIT_BYTES),
            reads: Semaphore::new(READS_MAX),
            inside: Mutex::default(),
        }
    }

    /// Lets a request in, unless there are too many. One of each peer is let in wherever its group has room, so that
    /// nobody can keep other groups out.
    pub(crate) fn enter(&self, peer: PeerId, group: AddressGroup) -> Option<Entered<'_>> {
        let mut inside = self.lock();
        let (of_peer, of_group) = (requests(&inside.peers, peer), requests(&inside.groups, group));
        let is_full = inside.requests >= self.requests_max || of_peer >= self.requests_of_a_peer_max;
        if (is_full && of_peer > 0) || of_group >= self.requests_of_a_group_max {
            inside.turned_away += 1;
            return None;
        }
        inside.requests += 1;
        let memory_of_peer = count(&mut inside.peers, peer, UNITS_OF_A_PEER);
        let memory_of_group = count(&mut inside.groups, group, UNITS_OF_A_GROUP);
        Some(Entered { gate: self, peer, group, memory_of_peer, memory_of_group })
    }

    /// Waits until a piece may be read.
    pub(crate) async fn read(&self) -> SemaphorePermit<'_> {
        self.reads.acquire().await.expect("this semaphore is never closed")
    }

    /// How many requests of each peer are being answered.
    pub(crate) fn requests(&self) -> BTreeMap<PeerId, usize> {
        self.lock().peers.iter().map(|(peer, share)| (*peer, share.requests)).collect()
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
        let share =
            |memory: &Arc<Semaphore>| timeout_at(deadline, Arc::clone(memory).acquire_many_owned(permits));
        // Its own shares first: who waits for those is not in anybody's way.
        let of_peer = share(&self.memory_of_peer).await.ok()?.ok()?;
        let of_group = share(&self.memory_of_group).await.ok()?.ok()?;
        let of_all = timeout_at(deadline, self.gate.memory.acquire_many(permits)).await;
        let has_nothing = self.memory_of_group.available_permits() + units == UNITS_OF_A_GROUP;
        match of_all {
            Ok(of_all) => Some(Reserved { of_all: Some(of_all.ok()?), of_group, of_peer }),
            Err(_) => has_nothing.then_some(Reserved { of_all: None, of_group, of_peer }),
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut inside = self.gate.lock();
        inside.requests -= 1;
        uncount(&mut inside.peers, self.peer);
        uncount(&mut inside.groups, self.group);
    }
}

fn requests<K: Ord>(shares: &Shares<K>, key: K) -> usize {
    shares.get(&key).map_or(0, |share| share.requests)
}

/// Counts one more request, and gives the asker's memory.
fn count<K: Ord>(shares: &mut Shares<K>, key: K, units: usize) -> Arc<Semaphore> {
    let new = || Share { requests: 0, memory: Arc::new(Semaphore::new(units)) };
    let share = shares.entry(key).or_insert_with(new);
    share.requests += 1;
    Arc::clone(&share.memory)
}

fn uncount<K: Ord>(shares: &mut Shares<K>, key: K) {
    if let Entry::Occupied(mut share) = shares.entry(key) {
        share.get_mut().requests -= 1;
        if share.get().requests == 0 {
            share.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;

    fn peer(number: u16) -> PeerId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&number.to_le_bytes());
        id.into()
    }

    fn group(number: u16) -> AddressGroup {
        let [high, low] = number.to_be_bytes();
        AddressGroup::Host(Host::of([10, 0, high, low].into()))
    }

    /// Each peer is at an address of its own.
    fn enter(gate: &Gate, number: u16) -> Option<Entered<'_>> {
        gate.enter(peer(number), group(number))
    }

    #[test]
    fn a_peer_has_so_many_requests_and_all_have_so_many() {
        let gate = Gate::new(None, None);
        let of_one: Vec<_> = std::iter::from_fn(|| enter(&gate, 0)).collect();
        assert_eq!(of_one.len(), REQUESTS_OF_A_PEER_MAX);
        let others = (1..100).flat_map(|number| (0..64).map(move |_| number));
        let entered: Vec<_> = others.filter_map(|number| enter(&gate, number)).collect();
        assert!(gate.requests().len() == 100, "one of each is always let in");
        assert!(entered.len() + of_one.len() < REQUESTS_MAX + 100);
        assert_eq!(gate.turned_away(), 1 + 99 * 64 - entered.len() as u64);
        drop((entered, of_one));
        assert!(gate.requests().is_empty() && enter(&gate, 0).is_some());
        assert!(gate.lock().groups.is_empty());
    }

    #[test]
    fn the_keys_of_one_host_have_half_of_it() {
        let gate = Gate::new(None, None);
        let of_host: Vec<_> = (0..1000).filter_map(|number| gate.enter(peer(number), group(0))).collect();
        assert_eq!(of_host.len(), REQUESTS_OF_A_GROUP_MAX);
        assert!(gate.enter(peer(1001), group(0)).is_none());
        let of_other: Vec<_> = std::iter::from_fn(|| gate.enter(peer(1002), group(1))).collect();
        assert_eq!(of_other.len(), REQUESTS_OF_A_PEER_MAX, "as if nobody else were there");
        drop(of_host);
        assert!(gate.enter(peer(1001), group(0)).is_some());
    }

    #[test]
    fn a_slow_upload_has_room_for_few() {
        let gate = Gate::new(NonZeroU64::new(64 << 10), NonZeroU64::new(16 << 10));
        assert_eq!(std::iter::from_fn(|| enter(&gate, 0)).collect::<Vec<_>>().len(), 16);
        let entered: Vec<_> = (0..4).flat_map(|number| (0..16).map(move |_| number)).collect();
        let entered: Vec<_> = entered.into_iter().filter_map(|number| enter(&gate, number)).collect();
        assert_eq!(entered.len(), 64);
        assert!(enter(&gate, 3).is_none() && enter(&gate, 4).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_shared_out() {
        let gate = Gate::new(None, None);
        let entered = enter(&gate, 0).unwrap();
        let mut all = entered.reserve(usize::MAX).await.unwrap();
        assert_eq!(gate.reserved_bytes(), MEMORY_OF_A_PEER_BYTES_MAX);
        assert!(entered.reserve(1).await.is_none(), "it has what it may have");
        assert_eq!(gate.turned_away(), 1);
        let other = enter(&gate, 1).unwrap();
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
            .map(|number| enter(&gate, number).unwrap())
            .collect();
        let mut held = Vec::new();
        for entered in &greedy {
            held.push(entered.reserve(usize::MAX).await.unwrap());
        }
        assert_eq!(gate.reserved_bytes(), MEMORY_BYTES_MAX);
        let (one, other) = (enter(&gate, 100).unwrap(), enter(&gate, 100).unwrap());
        let begun = Instant::now();
        let first = one.reserve(4 << 20).await;
        assert!(first.is_some() && begun.elapsed() >= MEMORY_TIMEOUT);
        assert!(other.reserve(4 << 20).await.is_none(), "one at a time");
        drop(first);
        assert!(other.reserve(4 << 20).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn many_keys_of_one_host_take_no_more_memory_than_it_may_have() {
        let gate = Gate::new(None, None);
        let greedy: Vec<_> = (0..64).map(|number| gate.enter(peer(number), group(0)).unwrap()).collect();
        let mut held = Vec::new();
        for entered in &greedy {
            held.extend(entered.reserve(4 << 20).await);
        }
        assert_eq!(gate.reserved_bytes(), MEMORY_OF_A_GROUP_BYTES_MAX);
        assert!(enter(&gate, 100).unwrap().reserve(4 << 20).await.is_some());
        drop(held);
        assert_eq!(gate.reserved_bytes(), 0);
    }
}
