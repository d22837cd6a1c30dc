//! Slots: how many connections there are, and which one gives way to a new one.
//!
//! Connections are counted for each address group. Where there is no slot left, an idle connection gives way, of the
//! largest group that has one. Where none is idle, the oldest of the largest group does, unless the new one would make its
//! own group as large. So no group takes more than its share from others, and who asks goes before who is idle.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::host::Host;

/// Connections that others may have to this node.
pub const CONNECTIONS_MAX: usize = 256;
/// Connections that one address group may have of these, so that two groups can never fill them.
pub const CONNECTIONS_OF_A_GROUP_MAX: usize = CONNECTIONS_MAX / 2;

/// Connections that count together: those of one host, and all that come through relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AddressGroup {
    Host(Host),
    Relayed,
}

impl AddressGroup {
    /// The group of a peer at this address; `None` is a relay.
    pub(crate) fn of(address: Option<SocketAddr>) -> Self {
        address.map_or(Self::Relayed, |address| Self::Host(Host::of(address.ip())))
    }
}

/// The slots of a node.
#[derive(Clone, Default)]
pub(crate) struct Slots(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    next: u64,
    /// By age: a later slot has a larger number.
    slots: BTreeMap<u64, State>,
}

struct State {
    group: AddressGroup,
    /// Requests under way.
    requests: usize,
    /// When the last request ended, or the slot was taken.
    idle_since: Instant,
    evicted: CancellationToken,
}

/// The slot of one connection, for as long as this lives.
pub(crate) struct Slot {
    slots: Slots,
    number: u64,
    /// Cancelled where the slot was given to another connection.
    pub(crate) evicted: CancellationToken,
}

/// A request on a connection: as long as this lives, the connection is not idle.
pub(crate) struct Busy {
    slots: Slots,
    number: u64,
}

impl Slots {
    /// A slot for a connection from this group; `None` where all are taken by those that have as good a right.
    pub(crate) fn take(&self, group: AddressGroup) -> Option<Slot> {
        let mut taken = self.lock();
        let of_group = taken.count(group);
        if of_group >= CONNECTIONS_OF_A_GROUP_MAX {
            let idle = taken.longest_idle(group)?;
            taken.evict(idle);
        } else if taken.slots.len() >= CONNECTIONS_MAX {
            let victim = taken.idle_for(group, of_group).or_else(|| taken.busy_for(of_group))?;
            taken.evict(victim);
        }
        let (number, evicted) = (taken.next, CancellationToken::new());
        taken.next += 1;
        let state = State { group, requests: 0, idle_since: Instant::now(), evicted: evicted.clone() };
        taken.slots.insert(number, state);
        Some(Slot { slots: self.clone(), number, evicted })
    }

    /// How many are taken.
    pub(crate) fn len(&self) -> usize {
        self.lock().slots.len()
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn count(&self, group: AddressGroup) -> usize {
        self.of(group).count()
    }

    fn of(&self, group: AddressGroup) -> impl Iterator<Item = (&u64, &State)> {
        self.slots.iter().filter(move |(_, state)| state.group == group)
    }

    fn longest_idle(&self, group: AddressGroup) -> Option<u64> {
        let idle = self.of(group).filter(|(_, state)| state.requests == 0);
        idle.min_by_key(|(number, state)| (state.idle_since, **number)).map(|(number, _)| *number)
    }

    /// The idle connection that gives way to one of a group that has `of_group`.
    fn idle_for(&self, group: AddressGroup, of_group: usize) -> Option<u64> {
        let others = self.counts().into_iter().filter(|(other, count)| *count > of_group || *other == group);
        let idle = others.filter_map(|(other, count)| Some((count, self.longest_idle(other)?)));
        idle.max_by_key(|(count, _)| *count).map(|(_, number)| number)
    }

    /// The connection in use that gives way to one of a group that has `of_group`.
    fn busy_for(&self, of_group: usize) -> Option<u64> {
        let (largest, count) = self.counts().into_iter().max_by_key(|(_, count)| *count)?;
        let mut of_largest = self.of(largest).map(|(number, _)| *number);
        of_largest.next().filter(|_| count > of_group + 1)
    }

    fn counts(&self) -> BTreeMap<AddressGroup, usize> {
        let mut counts = BTreeMap::new();
        self.slots.values().for_each(|state| *counts.entry(state.group).or_default() += 1);
        counts
    }

    fn evict(&mut self, number: u64) {
        if let Some(state) = self.slots.remove(&number) {
            state.evicted.cancel();
        }
    }
}

impl Slot {
    /// A request has come on this connection.
    pub(crate) fn busy(&self) -> Busy {
        if let Some(state) = self.slots.lock().slots.get_mut(&self.number) {
            state.requests += 1;
        }
        Busy { slots: self.slots.clone(), number: self.number }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock().slots.remove(&self.number);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(state) = self.slots.lock().slots.get_mut(&self.number) {
            state.requests -= 1;
            state.idle_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(number: u8) -> AddressGroup {
        AddressGroup::Host(Host::of([10, 0, 0, number].into()))
    }

    fn fill(slots: &Slots, number: u8, count: usize) -> Vec<Slot> {
        (0..count).map(|_| slots.take(group(number)).unwrap()).collect()
    }

    fn evicted(slots: &[Slot]) -> Vec<usize> {
        (0..slots.len()).filter(|index| slots[*index].evicted.is_cancelled()).collect()
    }

    #[test]
    fn addresses_of_one_party_are_one_group() {
        let of = |text: &str| AddressGroup::of(Some(text.parse().unwrap()));
        assert_eq!(of("10.0.0.1:1"), of("10.0.0.1:2"));
        assert_eq!(of("10.0.0.1:1"), of("[::ffff:10.0.0.1]:1"));
        assert_ne!(of("10.0.0.1:1"), of("10.0.0.2:1"));
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:1]:1"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
        assert_eq!(AddressGroup::of(None), AddressGroup::Relayed);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_goes_before_who_is_idle() {
        let slots = Slots::default();
        let held = fill(&slots, 1, CONNECTIONS_OF_A_GROUP_MAX);
        let others = fill(&slots, 2, CONNECTIONS_MAX - CONNECTIONS_OF_A_GROUP_MAX);
        let asking = held[0].busy();
        let newcomer = slots.take(group(3)).unwrap();
        assert_eq!(slots.len(), CONNECTIONS_MAX);
        assert_eq!(
            (evicted(&held), evicted(&others)),
            (vec![], vec![0]),
            "the largest group, the longest idle"
        );
        let more = slots.take(group(3)).unwrap();
        assert_eq!((evicted(&held), evicted(&others)), (vec![1], vec![0]), "none that is asking");
        drop((asking, newcomer, more));
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_is_full_replaces_its_own_idle_ones_alone() {
        let slots = Slots::default();
        let held = fill(&slots, 1, CONNECTIONS_OF_A_GROUP_MAX);
        let busy: Vec<Busy> = held.iter().map(Slot::busy).collect();
        assert!(slots.take(group(1)).is_none());
        assert!(slots.take(group(2)).is_some());
        drop(busy);
        assert!(slots.take(group(1)).is_some());
        assert_eq!(evicted(&held), [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn busy_connections_of_few_groups_keep_no_other_group_out() {
        let slots = Slots::default();
        let held: Vec<Slot> = (1..=4).flat_map(|number| fill(&slots, number, CONNECTIONS_MAX / 4)).collect();
        let busy: Vec<Busy> = held.iter().map(Slot::busy).collect();
        let mut newcomers = Vec::new();
        for _ in 0..30 {
            let newcomer = slots.take(group(9)).unwrap();
            newcomers.push((newcomer.busy(), newcomer));
        }
        assert_eq!(slots.len(), CONNECTIONS_MAX);
        assert!(newcomers.iter().all(|(_, newcomer)| !newcomer.evicted.is_cancelled()));
        assert!(slots.take(group(1)).is_none(), "a group with its share takes nothing from others");
        drop((busy, newcomers, held));
        assert_eq!(slots.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn of_groups_with_one_each_an_idle_one_gives_way() {
        let slots = Slots::default();
        let take =
            |number: u16| slots.take(AddressGroup::Host(Host::of([0x2001, 0, 0, number, 0, 0, 0, 1].into())));
        let held: Vec<Slot> = (0..CONNECTIONS_MAX as u16).map(|number| take(number).unwrap()).collect();
        let busy = held[1..].iter().map(Slot::busy).collect::<Vec<_>>();
        let newcomer = take(1000).unwrap();
        assert_eq!(evicted(&held), [0]);
        let asking = newcomer.busy();
        assert!(take(1001).is_none(), "all have one, and all ask");
        drop((busy, asking));
    }
}
