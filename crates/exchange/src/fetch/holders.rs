//! Who has what of a tree.
//!
//! Most peers have all of it. A *fellow* has a part, since it is fetching the tree itself, and is asked again and again
//! what it has by now. Those who fetch the same tree share the work without talking about it: each run of groups has one
//! owner among them, by their names and the run's (rendezvous hashing: Thaler and Ravishankar, "Using name-based mappings
//! to increase hit rates", 1998), and who has all is asked first for what is one's own. So it sends each run about once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use firn_bao::{Groups, Span};
use firn_castore::{BlobDigest, BlobRef};
use indexmap::IndexMap;

use super::Micros;
use super::queue::{Edition, is_small};
use crate::check::Presence;
use crate::{PeerId, RUNS_MAX};

/// How long until a fellow that had something new is asked again, at most and at least.
pub(super) const POLL: Micros = Micros::from_millis(300);
const POLL_MIN: Micros = Micros::from_millis(150);
/// The time for each fellow between two questions to one of them: few are asked more often, as few questions cost little.
const POLL_EACH: Micros = Micros::from_millis(40);
/// How long until one that has all is asked who else is fetching the tree.
const POLL_WHOLE: Micros = Micros::from_millis(1_000);
/// The longest time between two questions to a fellow that has nothing new, or to somebody who has nothing or all.
const POLL_MAX: Micros = Micros::from_millis(8_000);
/// So many fellows that have something new now and then are enough, as each of them has fellows of its own.
const FELLOWS_ENOUGH: usize = 32;
/// A fellow that is asked as rarely as this has had nothing new for about as long.
const RARELY: Micros = Micros::from_millis(2_000);
/// A run of so many groups, beginning at a multiple of them, has one owner: 256 KiB.
const OWNED_GROUPS: u64 = 16;
/// The most partners that share the work.
const PARTNERS_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Nobody knows yet.
    Unknown,
    Whole,
    Partial,
    Nothing,
}

struct Holder {
    extent: Extent,
    /// Of one that has all: what it does not have, after all.
    lacks: BTreeSet<BlobDigest>,
    /// Of one that has a part: what of it.
    has: IndexMap<BlobDigest, Groups>,
    /// How many runs of groups these are; of more than [`RUNS_MAX`], those of other blobs are forgotten.
    runs: usize,
    /// The queue in which there was nothing for it, and until when it need not be looked through again.
    spent: Option<(Edition, Micros)>,
    /// When to ask what it has, and who else it knows of; `None` while it is being asked.
    poll_at: Option<Micros>,
    poll_gap: Micros,
}

pub(super) struct Holders {
    me: PeerId,
    holders: BTreeMap<PeerId, Holder>,
}

impl Holders {
    pub(super) fn new(me: PeerId) -> Self {
        Self { me, holders: BTreeMap::new() }
    }

    fn holder(&mut self, peer: PeerId) -> &mut Holder {
        self.holders.entry(peer).or_insert_with(|| Holder {
            extent: Extent::Unknown,
            lacks: BTreeSet::new(),
            has: IndexMap::new(),
            runs: 0,
            spent: None,
            poll_at: Some(Micros(0)),
            poll_gap: POLL,
        })
    }

    pub(super) fn extent(&self, peer: &PeerId) -> Extent {
        self.holders.get(peer).map_or(Extent::Unknown, |holder| holder.extent)
    }

    /// It has given the Directories, or vouches for the path: it will have the rest.
    pub(super) fn presume_whole(&mut self, peer: PeerId, now: Micros) {
        let holder = self.holder(peer);
        if matches!(holder.extent, Extent::Unknown | Extent::Nothing) {
            holder.is_whole(now);
        }
    }

    /// It has not even the Directories.
    pub(super) fn has_nothing(&mut self, peer: PeerId, now: Micros) {
        let holder = self.holder(peer);
        holder.extent = Extent::Nothing;
        holder.put_off(now);
    }

    /// It has this not. It may be fetching the tree itself.
    pub(super) fn lacks(&mut self, peer: PeerId, blob: BlobDigest, now: Micros) {
        let holder = self.holder(peer);
        let had = holder.has.swap_remove(&blob);
        holder.runs -= had.map_or(0, |groups| groups.run_count());
        if holder.lacks.insert(blob) && holder.extent == Extent::Whole {
            holder.poll_at = holder.poll_at.map(|at| at.min(now));
        }
    }

    /// Whether it is time to ask this peer what it has.
    pub(super) fn is_due(&self, peer: &PeerId, now: Micros) -> bool {
        self.holders.get(peer).is_none_or(|holder| holder.poll_at.is_some_and(|at| at <= now))
    }

    /// When, after this time, somebody is to be asked what it has.
    pub(super) fn next_poll(&self, now: Micros) -> Option<Micros> {
        self.holders.values().filter_map(|holder| holder.poll_at).filter(|at| *at > now).min()
    }

    /// It is being asked what it has.
    pub(super) fn polling(&mut self, peer: PeerId) {
        self.holder(peer).poll_at = None;
    }

    /// It did not say what it has.
    pub(super) fn not_told(&mut self, peer: PeerId, now: Micros) {
        self.holder(peer).put_off(now);
    }

    /// It has said what it has.
    pub(super) fn told(
        &mut self,
        peer: PeerId,
        tree: &Presence,
        blobs: Vec<(BlobRef, Presence)>,
        now: Micros,
    ) {
        let poll = self.poll_of_fellows();
        let holder = self.holder(peer);
        match tree {
            Presence::Whole => holder.is_whole(now),
            Presence::Missing => {
                holder.extent = Extent::Nothing;
                holder.put_off(now);
            }
            Presence::Partial(_) => {
                let is_new = holder.extent != Extent::Partial;
                holder.extent = Extent::Partial;
                if holder.takes(blobs) || is_new {
                    holder.poll_gap = poll;
                    holder.poll_at = Some(if is_new { now } else { now.after(poll) });
                } else {
                    holder.put_off(now);
                }
            }
        }
    }

    fn poll_of_fellows(&self) -> Micros {
        let fellows = self.holders.values().filter(|holder| holder.extent == Extent::Partial).count() as u64;
        Micros((fellows * POLL_EACH.0).clamp(POLL_MIN.0, POLL.0))
    }

    /// What of this run this peer can be asked for, whoever else has it.
    pub(super) fn part_of(&self, peer: &PeerId, blob: &BlobRef, run: Span) -> Option<Span> {
        let holder = self.holders.get(peer)?;
        match holder.extent {
            Extent::Whole => (!holder.lacks.contains(&blob.digest)).then_some(run),
            Extent::Partial => holder.part_of(blob, run),
            Extent::Unknown | Extent::Nothing => None,
        }
    }

    /// In the queue as it is there is nothing to ask this fellow for, until then.
    pub(super) fn has_nothing_until(&mut self, peer: &PeerId, edition: Edition, until: Micros) {
        if let Some(holder) = self.holders.get_mut(peer).filter(|holder| holder.extent == Extent::Partial) {
            holder.spent = Some((edition, until));
        }
    }

    /// Whether there may be something in the queue to ask this peer for.
    pub(super) fn may_have_more(&self, peer: &PeerId, edition: Edition, now: Micros) -> bool {
        let is_spent = |holder: &Holder| holder.spent.is_some_and(|(of, until)| of == edition && now < until);
        self.holders.get(peer).is_none_or(|holder| !is_spent(holder))
    }

    /// Whether this peer can be asked for all of this run.
    pub(super) fn has_all_of(&self, peer: &PeerId, blob: &BlobRef, run: Span) -> bool {
        self.part_of(peer, blob, run) == Some(run)
    }

    /// Whether anybody has a part.
    pub(super) fn has_fellows(&self) -> bool {
        self.holders.values().any(|holder| holder.extent == Extent::Partial)
    }

    /// Whether one that nothing is known of is worth a question. One that has all may be among them, so where fellows bring
    /// nothing new the others get their turn.
    pub(super) fn welcomes_strangers(&self) -> bool {
        let is_busy = |holder: &&Holder| match holder.extent {
            Extent::Unknown => holder.poll_at.is_none(),
            Extent::Partial => holder.poll_gap < RARELY,
            Extent::Whole | Extent::Nothing => false,
        };
        self.holders.values().filter(is_busy).count() < FELLOWS_ENOUGH
    }

    /// Those who may be fetching the tree as well, and pass the test: fellows, and who has nothing yet.
    pub(super) fn partners(&self, test: impl Fn(&PeerId) -> bool) -> Vec<PeerId> {
        let others = self.holders.iter().filter(|(_, holder)| holder.extent != Extent::Whole);
        others.map(|(peer, _)| *peer).filter(|peer| test(peer)).take(PARTNERS_MAX).collect()
    }

    /// The first part of a run that none of its partners has, and that so many of them at most would ask for before this node.
    pub(super) fn part_up_to_rank(
        &self,
        rank: usize,
        partners: &[PeerId],
        blob: &BlobRef,
        run: Span,
    ) -> Option<Span> {
        self.first_part(partners, blob, run, |start| self.rank(partners, blob, start) <= rank)
    }

    /// The first part of a run that none of these fellows has.
    pub(super) fn unheld_part(&self, fellows: &[PeerId], blob: &BlobRef, run: Span) -> Option<Span> {
        self.first_part(fellows, blob, run, |_| true)
    }

    /// The first part of a run that some of these fellows have.
    pub(super) fn held_part(&self, fellows: &[PeerId], blob: &BlobRef, run: Span) -> Option<Span> {
        let parts = fellows.iter().filter_map(|fellow| self.holders.get(fellow)?.part_of(blob, run));
        parts.min_by_key(|part| part.groups().start)
    }

    /// Cuts a run where ownership changes, and gives the first part that is wanted by where it begins, without what these
    /// fellows have.
    fn first_part(
        &self,
        fellows: &[PeerId],
        blob: &BlobRef,
        run: Span,
        wants: impl Fn(u64) -> bool,
    ) -> Option<Span> {
        let has = |fellow| self.holders.get(fellow).and_then(|holder| holder.has.get(&blob.digest));
        let held: Vec<&Groups> = fellows.iter().filter_map(has).collect();
        let Range { mut start, end } = run.groups();
        while start < end {
            let until = if is_small(blob) { end } else { end.min((start / OWNED_GROUPS + 1) * OWNED_GROUPS) };
            if wants(start)
                && let Some(part) = first_gap(&held, start..until)
            {
                return Span::from_groups(part);
            }
            start = until;
        }
        None
    }

    /// How many of its partners own this run rather than this node.
    pub(super) fn rank(&self, partners: &[PeerId], blob: &BlobRef, group: u64) -> usize {
        let mine = (weight(&self.me, blob, group), self.me);
        partners.iter().filter(|partner| (weight(partner, blob, group), **partner) > mine).count()
    }
}

impl Holder {
    fn is_whole(&mut self, now: Micros) {
        self.poll_gap = match self.extent {
            Extent::Whole => Micros((self.poll_gap.0 * 2).min(POLL_MAX.0)),
            Extent::Unknown | Extent::Partial | Extent::Nothing => {
                // What it had not when it had a part it has now.
                self.lacks.clear();
                POLL_WHOLE
            }
        };
        (self.extent, self.spent) = (Extent::Whole, None);
        self.poll_at = Some(now.after(self.poll_gap));
    }

    fn put_off(&mut self, now: Micros) {
        self.poll_gap = Micros((self.poll_gap.0 * 2).min(POLL_MAX.0));
        self.poll_at = Some(now.after(self.poll_gap));
    }

    /// Whether any of this is new.
    fn takes(&mut self, blobs: Vec<(BlobRef, Presence)>) -> bool {
        let mut is_new = false;
        for (blob, presence) in blobs {
            let groups = match presence {
                Presence::Missing => continue,
                Presence::Partial(groups) => groups,
                Presence::Whole => [Span::whole(blob.size)].into_iter().collect(),
            };
            let known = self.has.get(&blob.digest);
            if known == Some(&groups) {
                continue;
            }
            is_new = true;
            self.runs += groups.run_count();
            let before = self.has.insert(blob.digest, groups);
            self.runs -= before.map_or(0, |groups| groups.run_count());
        }
        while self.runs > RUNS_MAX
            && let Some((_, forgotten)) = self.has.shift_remove_index(0)
        {
            self.runs -= forgotten.run_count();
        }
        if is_new {
            self.spent = None;
        }
        is_new
    }

    fn part_of(&self, blob: &BlobRef, run: Span) -> Option<Span> {
        let first = self.has.get(&blob.digest)?.within(&run.groups()).into_iter().next()?;
        let part = Span::from_groups(first)?;
        (part == run || !is_small(blob)).then_some(part)
    }
}

/// The first part of a run that is in none of the sets.
fn first_gap(held: &[&Groups], run: Range<u64>) -> Option<Range<u64>> {
    let mut start = run.start;
    while start < run.end {
        let mut parts = held.iter().flat_map(|groups| groups.within(&(start..run.end)));
        match parts.clone().find(|part| part.start == start) {
            Some(part) => start = part.end,
            None => {
                let end = parts.try_fold(run.end, |end, part| Some(end.min(part.start)))?;
                return Some(start..end);
            }
        }
    }
    None
}

/// Who has most weight owns a run.
fn weight(peer: &PeerId, blob: &BlobRef, group: u64) -> u64 {
    let word = |bytes: &[u8; 32]| {
        let mut first = [0; 8];
        first.copy_from_slice(&bytes[..8]);
        u64::from_le_bytes(first)
    };
    let run = word(blob.digest.as_bytes()) ^ (group / OWNED_GROUPS).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mix(word(peer.as_bytes()) ^ mix(run))
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use firn_store::MissingBlob;

    use super::super::queue::{Queue, Work};
    use super::*;

    fn peer(byte: u8) -> PeerId {
        [byte; 32].into()
    }

    fn partial(runs: &[Range<u64>]) -> Presence {
        let mut groups = Groups::default();
        runs.iter().for_each(|run| groups.insert(run.clone()));
        Presence::Partial(groups)
    }

    #[test]
    fn a_fellow_is_asked_for_what_it_has() {
        let large = BlobRef { digest: [1; 32].into(), size: 10 << 20 };
        let small = BlobRef { digest: [2; 32].into(), size: 50_000 };
        let mut holders = Holders::new(peer(0));
        let fellow = peer(1);
        assert!(holders.is_due(&fellow, Micros(0)));
        holders.told(fellow, &Presence::Partial(Groups::default()), Vec::new(), Micros(0));
        assert!(holders.is_due(&fellow, Micros(0)), "now that it is one it is asked what it has");
        let has = vec![(large, partial(&[5..9, 20..30])), (small, partial(&[0..1, 2..3]))];
        holders.told(fellow, &Presence::Partial(Groups::default()), has, Micros(0));
        let whole = Span::whole(large.size);
        assert_eq!(holders.part_of(&fellow, &large, whole), Span::from_groups(5..9));
        assert_eq!(holders.part_of(&fellow, &small, Span::whole(small.size)), None, "small ones go whole");
        assert!(!holders.is_due(&fellow, Micros(0)) && holders.is_due(&fellow, POLL_MIN));
        holders.lacks(fellow, large.digest, Micros(0));
        assert_eq!(holders.part_of(&fellow, &large, whole), None);
        holders.told(fellow, &Presence::Whole, Vec::new(), Micros(0));
        assert_eq!(holders.part_of(&fellow, &large, whole), Some(whole), "all of it has come to it");
        assert_eq!(holders.part_of(&fellow, &small, Span::whole(small.size)), Some(Span::whole(small.size)));
        assert_eq!(holders.next_poll(Micros(0)), Some(POLL_WHOLE), "it may know of others by then");
    }

    #[test]
    fn what_a_fellow_says_takes_so_much_however_often_it_is_asked() {
        let (mut holders, fellow) = (Holders::new(peer(0)), peer(1));
        let blob = |number: u8| BlobRef { digest: [number; 32].into(), size: 10 << 30 };
        let every_other: Vec<_> = (0..RUNS_MAX as u64 / 2).map(|run| 2 * run..2 * run + 1).collect();
        let none = Presence::Partial(Groups::default());
        for number in 0..10 {
            holders.told(fellow, &none, vec![(blob(number), partial(&every_other))], Micros(0));
            holders.told(fellow, &none, vec![(blob(number), partial(&every_other))], Micros(0));
            let holder = &holders.holders[&fellow];
            assert_eq!(holder.runs, holder.has.values().map(Groups::run_count).sum::<usize>());
        }
        let whole = Span::whole(10 << 30);
        assert_eq!(holders.holders[&fellow].runs, RUNS_MAX);
        assert_eq!(holders.part_of(&fellow, &blob(7), whole), None);
        assert_eq!(holders.part_of(&fellow, &blob(9), whole), Span::from_groups(0..1));
        holders.lacks(fellow, blob(9).digest, Micros(0));
        assert_eq!(holders.holders[&fellow].runs, RUNS_MAX / 2);
    }

    #[test]
    fn who_has_enough_fellows_meets_no_strangers_until_they_bring_nothing_new() {
        let mut holders = Holders::new(peer(0));
        let none = || Presence::Partial(Groups::default());
        for number in 1..=FELLOWS_ENOUGH as u8 {
            assert!(holders.welcomes_strangers());
            holders.polling(peer(number));
        }
        assert!(!holders.welcomes_strangers(), "so many are being asked");
        for number in 1..=FELLOWS_ENOUGH as u8 {
            holders.told(peer(number), &none(), Vec::new(), Micros(0));
        }
        assert!(!holders.welcomes_strangers());
        let mut now = Micros(0);
        while !holders.welcomes_strangers() {
            now = holders.next_poll(now).unwrap_or(now.after(POLL));
            holders.told(peer(1), &none(), Vec::new(), now);
        }
        assert!((RARELY.0..2 * RARELY.0).contains(&now.0), "{now:?}");
        let blob = BlobRef { digest: [1; 32].into(), size: 10 };
        holders.told(peer(1), &none(), vec![(blob, Presence::Whole)], now);
        assert!(!holders.welcomes_strangers());
        holders.told(peer(2), &Presence::Whole, Vec::new(), now);
        assert!(holders.welcomes_strangers(), "of those who have all there can't be too many");
    }

    #[test]
    fn nobody_is_asked_again_until_it_or_the_queue_has_something_new_or_time_has_passed() {
        let blob = BlobRef { digest: [1; 32].into(), size: 10 };
        let missing = MissingBlob { blob, spans: vec![Span::whole(blob.size)] };
        let mut queue = Queue::new([missing].into_iter());
        let (mut holders, fellow) = (Holders::new(peer(0)), peer(1));
        let (now, later) = (Micros(0), Micros(9));
        let none = Presence::Partial(Groups::default());
        holders.told(fellow, &none, Vec::new(), now);
        assert!(holders.may_have_more(&fellow, queue.edition(), now));
        holders.has_nothing_until(&fellow, queue.edition(), later);
        assert!(!holders.may_have_more(&fellow, queue.edition(), now));
        assert!(holders.may_have_more(&fellow, queue.edition(), later));
        queue.put_back(&Work::Batch(vec![blob]));
        assert!(holders.may_have_more(&fellow, queue.edition(), now));
        holders.has_nothing_until(&fellow, queue.edition(), later);
        queue.bring_forward(&blob.digest);
        assert!(holders.may_have_more(&fellow, queue.edition(), now), "a reader wants it at once");
        holders.has_nothing_until(&fellow, queue.edition(), later);
        holders.told(fellow, &none, vec![(blob, Presence::Whole)], now);
        assert!(holders.may_have_more(&fellow, queue.edition(), now));
    }

    #[test]
    fn the_first_part_that_some_have_and_of_small_blobs_all() {
        let large = BlobRef { digest: [1; 32].into(), size: 10 << 20 };
        let small = BlobRef { digest: [2; 32].into(), size: 50_000 };
        let (mut holders, fellows) = (Holders::new(peer(0)), [peer(1), peer(2)]);
        for (fellow, runs) in fellows.iter().zip([[20..30, 90..91], [8..9, 25..40]]) {
            let has = vec![(large, partial(&runs)), (small, partial(&[0..1, 2..3]))];
            holders.told(*fellow, &Presence::Partial(Groups::default()), has, Micros(0));
        }
        let held = |run: Range<u64>| holders.held_part(&fellows, &large, Span::from_groups(run).unwrap());
        assert_eq!(held(0..100), Span::from_groups(8..9));
        assert_eq!(held(10..100), Span::from_groups(20..30));
        assert_eq!(held(40..90), None);
        assert_eq!(holders.held_part(&fellows, &small, Span::whole(small.size)), None);
    }

    #[test]
    fn a_gap_is_what_nobody_has() {
        let groups = |runs: &[Range<u64>]| {
            let mut groups = Groups::default();
            runs.iter().for_each(|run| groups.insert(run.clone()));
            groups
        };
        let (a, b) = (groups(&[0..4, 10..12]), groups(&[3..6, 20..30]));
        let first = |run| first_gap(&[&a, &b], run);
        assert_eq!(first(0..32), Some(6..10));
        assert_eq!(first(10..18), Some(12..18));
        assert_eq!(first(21..30), None);
        assert_eq!(first_gap(&[], 1..2), Some(1..2));
    }

    #[test]
    fn each_run_has_one_owner_and_the_shares_are_about_equal() {
        let blob = BlobRef { digest: [7; 32].into(), size: 500 << 20 };
        let all: Vec<PeerId> = (0..5).map(peer).collect();
        let (mut shares, mut helps) = (vec![0u64; all.len()], vec![0u64; all.len()]);
        for run in Span::whole(blob.size).pieces(OWNED_GROUPS) {
            let owners: Vec<usize> = (0..all.len())
                .filter(|i| {
                    let others: Vec<PeerId> = all.iter().filter(|peer| **peer != all[*i]).copied().collect();
                    Holders::new(all[*i]).part_up_to_rank(0, &others, &blob, run) == Some(run)
                })
                .collect();
            assert_eq!(owners.len(), 1);
            shares[owners[0]] += 1;
            let others = &all[1..];
            let up_to = |rank| Holders::new(all[0]).part_up_to_rank(rank, others, &blob, run).is_some();
            assert!(up_to(others.len()), "in the end everyone helps with everything");
            helps.iter_mut().zip(0..).for_each(|(count, rank)| *count += u64::from(up_to(rank)));
        }
        assert!(shares.iter().all(|share| (280..520).contains(share)), "{shares:?}");
        assert!(helps.is_sorted() && helps.windows(2).all(|two| two[1] - two[0] > 280), "{helps:?}");
    }
}
