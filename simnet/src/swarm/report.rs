//! What came of a run, in numbers.

use std::fmt;

use firn_exchange::Micros;

use super::errand::Tally;
use super::plan::Number;
use crate::violation::Violation;

/// Something that must never happen.
#[derive(Debug)]
pub enum SwarmViolation {
    /// A fetch has done what it must not do.
    OfFetch {
        /// Whose.
        node: Number,
        /// What.
        violation: Violation,
    },
    /// A tree has not come in time, though it could.
    NotHere {
        /// To whom.
        node: Number,
        /// Which of the plan.
        tree: usize,
    },
    /// Too much came in vain.
    Wasteful {
        /// To whom.
        node: Number,
        /// So many bytes.
        wasted: u64,
        /// Of so many.
        allowed: u64,
    },
    /// Too much is under way at once.
    TooMuchUnverified {
        /// To whom.
        node: Number,
        /// So many bytes.
        bytes: u64,
    },
    /// A machine wants to be polled at a time that has passed, for ever.
    Spins(Micros),
    /// It does not end.
    Endless,
}

impl SwarmViolation {
    /// Whether the other is of the same kind.
    pub fn is_like(&self, other: &SwarmViolation) -> bool {
        match (self, other) {
            (SwarmViolation::OfFetch { violation: one, .. }, SwarmViolation::OfFetch { violation, .. }) => {
                std::mem::discriminant(one) == std::mem::discriminant(violation)
            }
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl fmt::Display for SwarmViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SwarmViolation::OfFetch { node, violation } => write!(f, "node {node}: {violation}"),
            SwarmViolation::NotHere { node, tree } => {
                write!(f, "node {node} has not got tree {tree} in time, though all of it can be reached")
            }
            SwarmViolation::Wasteful { node, wasted, allowed } => {
                write!(f, "node {node} has received {wasted} bytes in vain, {allowed} are allowed")
            }
            SwarmViolation::TooMuchUnverified { node, bytes } => {
                write!(f, "node {node} has {bytes} unverified bytes under way")
            }
            SwarmViolation::Spins(at) => {
                write!(f, "a machine wants to be polled at {}, which has passed", at.0)
            }
            SwarmViolation::Endless => f.write_str("it does not end"),
        }
    }
}

/// How one node got one tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchReport {
    /// Who.
    pub node: Number,
    /// Which tree of the plan.
    pub tree: usize,
    /// How large the tree is.
    pub tree_bytes: u64,
    /// Whether it must come.
    pub is_expected: bool,
    /// From when on nothing but liars stands in its way.
    pub calm_from: Micros,
    /// When it was first begun.
    pub begun: Option<Micros>,
    /// When all was here.
    pub ended: Option<Micros>,
    /// No swarm is faster.
    pub bound: Micros,
    /// What it has cost.
    pub tally: Tally,
}

impl FetchReport {
    /// How long it took.
    pub fn takes(&self) -> Option<Micros> {
        Some(Micros(self.ended?.0 - self.begun?.0))
    }

    /// How long it took, and at best would have; only where the bound is one: it counts those who stay, and what need
    /// not come may have come from others.
    pub fn takes_and_bound(&self) -> Option<(Micros, Micros)> {
        self.is_expected.then_some((self.takes()?, self.bound))
    }

    /// Bytes that came in vain.
    pub fn wasted_bytes(&self) -> u64 {
        self.tally.duplicate_bytes + self.tally.unfinished_bytes
    }
}

/// What one node has sent and received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// Who.
    pub number: Number,
    /// What left it.
    pub sent_bytes: u64,
    /// What came to it.
    pub received_bytes: u64,
}

/// Something to be seen in a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// With whom.
    pub node: Number,
    /// When.
    pub at: Micros,
    /// What.
    pub kind: MarkKind,
}

/// What is to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkKind {
    /// Its process is gone.
    Crashed,
    /// It has left.
    Left,
    /// Nothing gets through.
    CutOff,
    /// It is there again.
    Back,
    /// Somebody has called it a liar.
    Blamed,
    /// It has a tree.
    Done,
}

/// How many bytes a node had, over time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Curve(pub Vec<(Micros, u64)>);

impl Curve {
    pub(super) fn grow(&mut self, now: Micros, bytes: u64) {
        let had = self.0.last().map_or(0, |(_, bytes)| *bytes);
        match self.0.last_mut() {
            Some((at, last)) if *at == now => *last += bytes,
            _ => self.0.push((now, had + bytes)),
        }
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct SwarmReport {
    /// What made it.
    pub seed: u64,
    /// What must never happen and has happened.
    pub violations: Vec<SwarmViolation>,
    /// Each tree that a node has wanted.
    pub fetches: Vec<FetchReport>,
    /// In the order of the plan.
    pub nodes: Vec<NodeReport>,
    /// When it ended.
    pub ended_at: Micros,
    /// How many moments there were at which something happened.
    pub events: u64,
    /// How often somebody was called a liar.
    pub blamed: u64,
    /// How often a root was rejected.
    pub rejected: u64,
    /// What happened to nodes.
    pub marks: Vec<Mark>,
    /// How many bytes each node had, in the order of the plan.
    pub curves: Vec<Curve>,
    /// What happened, if it was wanted.
    pub trace: Vec<String>,
}

impl SwarmReport {
    /// How long those took that had to end, against the fluid bound; a hundred is as fast as can be.
    pub fn slowness_percent(&self) -> Option<u64> {
        let ended = self.fetches.iter().filter_map(FetchReport::takes_and_bound);
        let (takes, bounds) = ended.fold((0, 0), |(a, b), (takes, bound)| (a + takes.0, b + bound.0));
        (takes * 100).checked_div(bounds)
    }

    /// Bytes that came in vain, in thousandths of all that was useful.
    pub fn wasted_per_mille(&self) -> u64 {
        let wasted: u64 = self.fetches.iter().map(FetchReport::wasted_bytes).sum();
        let useful: u64 = self.fetches.iter().map(|fetch| fetch.tally.useful_bytes).sum();
        wasted * 1000 / useful.max(1)
    }

    /// Jain's index over how long the fetches took, in thousandths: a thousand where all took the same.
    pub fn fairness_per_mille(&self) -> Option<u64> {
        let takes: Vec<u128> =
            self.fetches.iter().filter_map(|fetch| Some(fetch.takes()?.0.into())).collect();
        let sum: u128 = takes.iter().sum();
        let squares: u128 = takes.iter().map(|takes| takes * takes).sum();
        let index = (sum * sum * 1000).checked_div(takes.len() as u128 * squares)?;
        u64::try_from(index).ok()
    }
}

impl fmt::Display for SwarmReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended = self.fetches.iter().filter(|fetch| fetch.ended.is_some()).count();
        let asks: u64 = self.fetches.iter().map(|fetch| fetch.tally.asks).sum();
        let percent = |value: Option<u64>| value.map_or_else(|| "-".into(), |value| format!("{value} %"));
        write!(
            f,
            "{} nodes, {ended} of {} fetches ended, {} of the fluid bound, {}.{} % in vain, fairness {}, \
             {asks} requests, {} s",
            self.nodes.len(),
            self.fetches.len(),
            percent(self.slowness_percent()),
            self.wasted_per_mille() / 10,
            self.wasted_per_mille() % 10,
            percent(self.fairness_per_mille().map(|index| index / 10)),
            self.ended_at.0 / 1_000_000,
        )
    }
}
