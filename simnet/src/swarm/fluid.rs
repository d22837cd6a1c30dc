//! Bandwidth as a fluid: what is under way shares the links of its two ends, max-min fairly.
//!
//! Each node has one link up and one link down. The link with the least for each of its transfers is filled first, those
//! transfers get that share, and what they leave elsewhere goes to the others: progressive filling, as in Bertsekas and
//! Gallager, "Data Networks", 6.5.2. All is in whole numbers, so that one seed gives one run on every machine.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use firn_exchange::Micros;

/// Bytes are counted in millionths, so that a rate in bytes a second is a whole number of them each microsecond.
const MILLIONTHS: u64 = 1_000_000;

struct Transfer {
    from: usize,
    to: usize,
    /// At most so many bytes a second.
    cap: u64,
    total: u64,
    sent: u64,
    rate: u64,
}

struct Links {
    up: u64,
    down: u64,
    is_cut: bool,
}

/// All links and all that is under way, by names of the caller's choice.
pub(super) struct Fluid<K> {
    links: Vec<Links>,
    transfers: BTreeMap<K, Transfer>,
    /// Up to when what was sent is counted.
    settled_at: Micros,
    /// Whether the rates are to be found anew.
    is_stale: bool,
    next_end: Option<Micros>,
}

impl<K: Ord + Copy> Fluid<K> {
    /// Nodes with these links, up and down, in bytes a second.
    pub(super) fn new(links: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let links = links.into_iter().map(|(up, down)| Links { up, down, is_cut: false }).collect();
        Self { links, transfers: BTreeMap::new(), settled_at: Micros(0), is_stale: false, next_end: None }
    }

    /// Begins to send so many bytes, at most `cap` a second.
    pub(super) fn begin(&mut self, now: Micros, name: K, ends: (usize, usize), bytes: u64, cap: u64) {
        self.settle(now);
        let (from, to) = ends;
        let total = bytes.saturating_mul(MILLIONTHS);
        self.transfers.insert(name, Transfer { from, to, cap, total, sent: 0, rate: 0 });
        self.is_stale = true;
    }

    /// Stops sending; how many bytes have gone.
    pub(super) fn stop(&mut self, now: Micros, name: &K) -> Option<u64> {
        self.settle(now);
        let transfer = self.transfers.remove(name)?;
        self.is_stale = true;
        Some(transfer.sent / MILLIONTHS)
    }

    /// How many bytes have gone.
    pub(super) fn sent(&mut self, now: Micros, name: &K) -> Option<u64> {
        self.settle(now);
        Some(self.transfers.get(name)?.sent / MILLIONTHS)
    }

    /// Nothing flows to or from this node, or does again.
    pub(super) fn cut(&mut self, now: Micros, node: usize, is_cut: bool) {
        self.settle(now);
        self.links[node].is_cut = is_cut;
        self.is_stale = true;
    }

    /// When the first of what is under way has arrived.
    pub(super) fn next_end(&mut self) -> Option<Micros> {
        if self.is_stale {
            self.share();
            let ends = self.transfers.values().filter_map(|transfer| {
                let left = transfer.total - transfer.sent;
                let takes = match (left, transfer.rate) {
                    (0, _) => 0,
                    (_, 0) => return None,
                    (left, rate) => left.div_ceil(rate),
                };
                Some(Micros(self.settled_at.0 + takes))
            });
            self.next_end = ends.min();
            self.is_stale = false;
        }
        self.next_end
    }

    /// Takes out what has arrived, in the order of the names, each with its bytes.
    pub(super) fn take_ended(&mut self, now: Micros) -> Vec<(K, u64)> {
        if self.next_end().is_none_or(|end| end > now) {
            return Vec::new();
        }
        self.settle(now);
        let ended = self.transfers.iter().filter(|(_, transfer)| transfer.sent >= transfer.total);
        let ended: Vec<_> = ended.map(|(name, transfer)| (*name, transfer.total / MILLIONTHS)).collect();
        for (name, _) in &ended {
            self.transfers.remove(name);
        }
        self.is_stale = true;
        ended
    }

    fn settle(&mut self, now: Micros) {
        let passed = now.0.saturating_sub(self.settled_at.0);
        if passed == 0 {
            return;
        }
        // The rates that held until now.
        self.next_end();
        for transfer in self.transfers.values_mut() {
            let sent = transfer.sent.saturating_add(transfer.rate.saturating_mul(passed));
            transfer.sent = sent.min(transfer.total);
        }
        self.settled_at = now;
        // The cached end stays what it was: time alone changes no rate.
    }

    fn share(&mut self) {
        let Self { links, transfers, .. } = self;
        // Up and down of each node, then what caps a transfer below that, as a link of its own.
        let mut left: Vec<u64> = links.iter().flat_map(|link| [link.up, link.down]).collect();
        let mut flows: Vec<Flow<'_>> = Vec::with_capacity(transfers.len());
        for transfer in transfers.values_mut() {
            transfer.rate = 0;
            let (from, to) = (&links[transfer.from], &links[transfer.to]);
            if from.is_cut || to.is_cut {
                continue;
            }
            let cap = (transfer.cap < from.up.min(to.down)).then_some(left.len());
            left.extend(cap.map(|_| transfer.cap));
            flows.push(Flow { transfer, cap });
        }
        let members = Members::new(left.len(), &flows);
        let mut count: Vec<u64> = (0..left.len()).map(|link| members.of(link).len() as u64).collect();
        let share = |left: &[u64], count: &[u64], link: usize| left[link].checked_div(count[link]);
        let mut heap: BinaryHeap<_> =
            (0..left.len()).filter_map(|link| Some(Reverse((share(&left, &count, link)?, link)))).collect();
        while let Some(Reverse((least, link))) = heap.pop() {
            // Shares only grow while others are filled, so one that has grown since goes back.
            match share(&left, &count, link) {
                None => continue,
                Some(now) if now > least => {
                    heap.push(Reverse((now, link)));
                    continue;
                }
                Some(_) => {}
            }
            for &at in members.of(link) {
                let flow = &mut flows[at];
                if flow.transfer.rate > 0 {
                    continue;
                }
                // A link that is shared by more than it has bytes still brings everyone something.
                flow.transfer.rate = least.max(1);
                for other in flow.links() {
                    left[other] = left[other].saturating_sub(flow.transfer.rate);
                    count[other] -= 1;
                }
            }
        }
    }
}

/// A transfer that is not cut off.
struct Flow<'a> {
    transfer: &'a mut Transfer,
    /// The link that caps it, if one of its ends does not do so before.
    cap: Option<usize>,
}

impl Flow<'_> {
    /// The links that it goes through.
    fn links(&self) -> impl Iterator<Item = usize> + use<> {
        [2 * self.transfer.from, 2 * self.transfer.to + 1].into_iter().chain(self.cap)
    }
}

/// Which flows go through each link, all in one list, by where each link's begin.
struct Members {
    all: Vec<usize>,
    begins: Vec<usize>,
}

impl Members {
    fn new(links: usize, flows: &[Flow<'_>]) -> Self {
        let mut begins = vec![0; links + 1];
        flows.iter().flat_map(Flow::links).for_each(|link| begins[link + 1] += 1);
        (0..links).for_each(|link| begins[link + 1] += begins[link]);
        let (mut all, mut free) = (vec![0; begins[links]], begins.clone());
        for (at, flow) in flows.iter().enumerate() {
            for link in flow.links() {
                all[free[link]] = at;
                free[link] += 1;
            }
        }
        Self { all, begins }
    }

    fn of(&self, link: usize) -> &[usize] {
        &self.all[self.begins[link]..self.begins[link + 1]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: u64 = u64::MAX;

    fn ends(fluid: &mut Fluid<u32>) -> Vec<(u64, u32)> {
        let mut all = Vec::new();
        while let Some(end) = fluid.next_end() {
            all.extend(fluid.take_ended(end).into_iter().map(|(name, _)| (end.0, name)));
        }
        all
    }

    #[test]
    fn one_alone_takes_as_long_as_its_slower_end() {
        let mut fluid = Fluid::new([(1000, 1000), (1000, 500)]);
        fluid.begin(Micros(0), 1, (0, 1), 1000, FREE);
        assert_eq!(ends(&mut fluid), [(2_000_000, 1)]);
    }

    #[test]
    fn what_one_cannot_use_goes_to_the_other() {
        // Node 0 sends to a slow node and to a fast one.
        let mut fluid = Fluid::new([(1000, 1000), (1000, 200), (1000, 1000)]);
        fluid.begin(Micros(0), 1, (0, 1), 200, FREE);
        fluid.begin(Micros(0), 2, (0, 2), 800, FREE);
        assert_eq!(ends(&mut fluid), [(1_000_000, 1), (1_000_000, 2)]);
    }

    #[test]
    fn the_rest_has_all_once_one_is_over() {
        let mut fluid = Fluid::new([(1000, 1000), (1000, 1000)]);
        fluid.begin(Micros(0), 1, (0, 1), 500, FREE);
        fluid.begin(Micros(0), 2, (0, 1), 1000, FREE);
        assert_eq!(fluid.sent(Micros(500_000), &2), Some(250));
        assert_eq!(ends(&mut fluid), [(1_000_000, 1), (1_500_000, 2)]);
    }

    #[test]
    fn what_is_cut_waits_and_what_is_stopped_is_gone() {
        let mut fluid = Fluid::new([(1000, 1000), (1000, 1000)]);
        fluid.begin(Micros(0), 1, (0, 1), 1000, FREE);
        fluid.cut(Micros(400_000), 1, true);
        assert_eq!(fluid.next_end(), None);
        fluid.cut(Micros(5_000_000), 1, false);
        assert_eq!(fluid.next_end(), Some(Micros(5_600_000)));
        assert_eq!(fluid.stop(Micros(5_100_000), &1), Some(500));
        assert_eq!(fluid.next_end(), None);
    }

    #[test]
    fn a_cap_holds() {
        let mut fluid = Fluid::new([(1000, 1000), (1000, 1000)]);
        fluid.begin(Micros(0), 1, (0, 1), 10, 1);
        fluid.begin(Micros(0), 2, (0, 1), 999, FREE);
        assert_eq!(ends(&mut fluid), [(1_000_000, 2), (10_000_000, 1)]);
    }

    #[test]
    fn nobody_starves_and_nothing_is_sent_twice() {
        // More transfers than bytes a second.
        let mut fluid = Fluid::new([(5, 1000), (1000, 1000)]);
        for name in 0..20 {
            fluid.begin(Micros(0), name, (0, 1), 3, FREE);
        }
        let all = ends(&mut fluid);
        assert_eq!(all.len(), 20);
        assert!(all.iter().all(|(at, _)| *at == 3_000_000));
    }
}
