//! Which roots a path may have, by those who claim it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use firn_castore::Root;
use firn_trust::Admitted;

use super::Micros;
use crate::PeerId;

/// How long others may still speak after the first signed claim that is not attested. Well below the time that a
/// gateway gives to neighbours, or one that is silent would make another's word come too late.
const GRACE: Micros = Micros::from_millis(100);
/// The most roots that are tried for one path.
const CANDIDATES_MAX: usize = 64;

/// A root that may be the one, and who says so.
#[derive(Debug, Clone)]
pub struct Candidate {
    root: Root,
    /// `None` where the user named the root.
    admitted: Option<Admitted>,
    claimants: BTreeSet<PeerId>,
    turns: u32,
}

impl Candidate {
    /// The root.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Why it may be the root of the path; `None` where the user named the root.
    pub fn admitted(&self) -> Option<&Admitted> {
        self.admitted.as_ref()
    }

    /// Who claims it.
    pub fn claimants(&self) -> &BTreeSet<PeerId> {
        &self.claimants
    }

    /// One more says so.
    pub(super) fn claimed_by(&mut self, peer: PeerId, admitted: Admitted) {
        self.claimants.insert(peer);
        if matches!(admitted, Admitted::Attested(_)) {
            self.admitted = Some(admitted);
        }
    }

    fn is_attested(&self) -> bool {
        !matches!(self.admitted, Some(Admitted::Signed(_)))
    }
}

#[derive(Default)]
pub(super) struct Candidates {
    waiting: Vec<Candidate>,
    /// Roots that have been taken out to be tried.
    tried: BTreeSet<Root>,
    /// How many roots each peer has named.
    named: BTreeMap<PeerId, usize>,
    asked: BTreeSet<PeerId>,
    ripe_at: Option<Micros>,
}

impl Candidates {
    pub(super) fn of_root(root: Root) -> Self {
        let candidate = Candidate { root, admitted: None, claimants: BTreeSet::new(), turns: 0 };
        Self { waiting: vec![candidate], ..Self::default() }
    }

    /// Whether this peer is still to be asked; it counts as asked from now on.
    pub(super) fn begin_asking(&mut self, peer: PeerId) -> bool {
        self.asked.insert(peer)
    }

    pub(super) fn has_asked(&self, peer: &PeerId) -> bool {
        self.asked.contains(peer)
    }

    pub(super) fn ask_again(&mut self, peer: PeerId) {
        self.asked.remove(&peer);
    }

    pub(super) fn add(&mut self, now: Micros, peer: PeerId, admitted: Admitted) {
        let root = admitted.facts().root.clone();
        *self.named.entry(peer).or_default() += 1;
        if let Some(known) = self.waiting.iter_mut().find(|candidate| candidate.root == root) {
            known.claimed_by(peer, admitted);
        } else if !self.tried.contains(&root) {
            let claimants = BTreeSet::from([peer]);
            self.waiting.push(Candidate { root, admitted: Some(admitted), claimants, turns: 0 });
            self.drop_worst();
        }
        let ripe_at = if self.waiting.iter().any(Candidate::is_attested) { now } else { now.after(GRACE) };
        self.ripe_at = Some(self.ripe_at.map_or(ripe_at, |earlier| earlier.min(ripe_at)));
    }

    /// When the best candidate is tried without waiting for more.
    pub(super) fn ripe_at(&self) -> Option<Micros> {
        self.ripe_at.filter(|_| self.others())
    }

    pub(super) fn is_ripe(&self, now: Micros) -> bool {
        self.ripe_at.is_some_and(|at| at <= now)
    }

    /// Whether there is another root to try.
    pub(super) fn others(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The least comes first: those that had no turn yet, attested ones first, then those by somebody who names few
    /// roots (an honest peer names one, a liar as many as it likes), then those that most claim.
    fn rank(&self, candidate: &Candidate) -> (u32, bool, Option<usize>, Reverse<usize>) {
        let named = candidate.claimants.iter().filter_map(|peer| self.named.get(peer).copied()).min();
        (candidate.turns, !candidate.is_attested(), named, Reverse(candidate.claimants.len()))
    }

    fn drop_worst(&mut self) {
        let worst = self.waiting.iter().enumerate().max_by_key(|(_, candidate)| self.rank(candidate));
        if let Some((worst, _)) = worst
            && self.waiting.len() > CANDIDATES_MAX
        {
            self.waiting.remove(worst);
        }
    }

    /// The best one.
    pub(super) fn next(&mut self) -> Option<Candidate> {
        let (best, _) = self.waiting.iter().enumerate().min_by_key(|(_, candidate)| self.rank(candidate))?;
        let mut candidate = self.waiting.remove(best);
        candidate.turns += 1;
        self.tried.insert(candidate.root.clone());
        Some(candidate)
    }

    /// Nobody could deliver it; whoever claims it from now on may.
    pub(super) fn forget(&mut self, root: &Root) {
        self.tried.remove(root);
    }

    /// It was only slow.
    pub(super) fn put_back(&mut self, candidate: Candidate) {
        self.waiting.push(candidate);
    }

    pub(super) fn take_admitted(&mut self) -> Vec<Admitted> {
        std::iter::from_fn(|| self.next()).filter_map(|candidate| candidate.admitted).collect()
    }
}
