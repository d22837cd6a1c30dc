//! What a swarm is made of, as plain data: who is there, what each has and wants, and what goes wrong.

use firn_exchange::{Limits, Micros};

use crate::liar::LieKind;
use crate::scenario::Vouching;
use crate::tree::TreePlan;

/// A node's number. It stays the same when others are taken out of a plan, and so does all chance about it.
pub type Number = u32;

/// A tree that is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// What it is like.
    pub tree: TreePlan,
    /// What its publisher has signed.
    pub vouching: Vouching,
}

/// What of a tree a node has from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// One share, of which there are so many: who have one each have all together.
    Share {
        /// Which one.
        index: u32,
        /// Of how many.
        of: u32,
    },
}

/// What a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// Of which tree of the plan.
    pub tree: usize,
    /// How much of it.
    pub part: Part,
}

/// What a node wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Which tree of the plan.
    pub tree: usize,
    /// From when on.
    pub at: Micros,
    /// Whether it knows only the store path; else the root.
    pub by_path: bool,
}

/// Of what character a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// Says what is so.
    Honest,
    /// Says what is so; what it had once is gone, and the record of it is not.
    Ignorant,
    /// Lies. Those with the same kind and seed tell the same lie.
    Liar(LieKind, u64),
}

/// A node and its way to the others.
#[derive(Debug, Clone)]
pub struct NodePlan {
    /// Its name.
    pub number: Number,
    /// What it is.
    pub nature: Nature,
    /// What it has from the beginning.
    pub holds: Vec<Holding>,
    /// What it fetches.
    pub wants: Vec<Want>,
    /// What it can send, in bytes a second.
    pub up: u64,
    /// What it can receive, in bytes a second.
    pub down: u64,
    /// How far it is from the middle of the net, one way.
    pub latency: Micros,
    /// Added to that, by chance, at most.
    pub jitter: Micros,
    /// How many of a hundred of its replies break off half-way, until the plan's links heal.
    pub loss_percent: u64,
    /// How many of a hundred requests it puts off, until the plan's links heal.
    pub busy_percent: u64,
    /// When it comes.
    pub joins_at: Micros,
}

/// Something that goes wrong with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// With which one.
    pub node: Number,
    /// When.
    pub at: Micros,
    /// What.
    pub what: FaultKind,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// It is gone without a word. It comes back after this time with what its store kept, or never.
    Crash(Option<Micros>),
    /// It closes its connections and is gone for good.
    Leave,
    /// Nothing gets to it or from it for so long; streams stay open.
    Outage(Micros),
}

impl Fault {
    /// When it is over; `None` for never.
    pub fn heals_at(&self) -> Option<Micros> {
        match self.what {
            FaultKind::Crash(back_after) => back_after.map(|after| later(self.at, after)),
            FaultKind::Leave => None,
            FaultKind::Outage(lasts) => Some(later(self.at, lasts)),
        }
    }
}

/// What a driver may do and a good one does not, to see that the machine bears it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quirks {
    /// Each answer is handed in twice.
    pub repeats_answers: bool,
    /// Answers come to requests that were settled long ago.
    pub answers_nothing: bool,
}

/// A deliberate fault of a node, by which the checkers themselves are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwarmSabotage {
    /// Bytes change between the check and the store.
    KeepsOtherBytes,
    /// Replies of honest nodes change on their way.
    CorruptsLinks,
    /// Nodes fetch with larger limits than the plan's.
    AsksForTooMuch,
    /// What a fetch keeps is not put into the store.
    ForgetsBlobs,
    /// Answers are not taken.
    IgnoresAnswers,
    /// What is kept was received twice.
    AsksTwice,
    /// Replies take as long again as they should, and a minute more.
    Dawdles,
}

/// All that a run is made of.
#[derive(Debug, Clone)]
pub struct SwarmPlan {
    /// Decides all that the rest leaves open.
    pub seed: u64,
    /// What there is to fetch.
    pub trees: Vec<Published>,
    /// Who is there.
    pub nodes: Vec<NodePlan>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// When links lose no more, and nobody is busy any more.
    pub heals_at: Micros,
    /// How far each fetch may go.
    pub limits: Limits,
    /// How long a look-up takes, at most.
    pub find_takes: Micros,
    /// After how long a fetch that has failed is begun anew.
    pub retry_after: Micros,
    /// Whether a driver gives up a stream on which nothing comes, as `firn-net` does; else only the machine does.
    pub drivers_give_up: bool,
    /// Whether bodies come compressed where they may.
    pub compresses: bool,
    /// What the drivers do that good ones do not.
    pub quirks: Quirks,
    /// Only to check the checkers.
    pub sabotage: Option<SwarmSabotage>,
}

impl NodePlan {
    /// An honest node with nothing, a near and fast one.
    pub fn new(number: Number) -> Self {
        Self {
            number,
            nature: Nature::Honest,
            holds: Vec::new(),
            wants: Vec::new(),
            up: 12_500_000,
            down: 12_500_000,
            latency: Micros::from_millis(5),
            jitter: Micros(0),
            loss_percent: 0,
            busy_percent: 0,
            joins_at: Micros(0),
        }
    }

    /// One that has the first tree.
    pub fn seeder(number: Number) -> Self {
        Self { holds: vec![Holding { tree: 0, part: Part::Whole }], ..Self::new(number) }
    }

    /// One that wants the first tree by its root, from the beginning.
    pub fn leecher(number: Number) -> Self {
        Self { wants: vec![Want { tree: 0, at: Micros(0), by_path: false }], ..Self::new(number) }
    }

    /// One that has the first tree and lies.
    pub fn liar(number: Number, kind: LieKind) -> Self {
        Self { nature: Nature::Liar(kind, number.into()), ..Self::seeder(number) }
    }

    /// Whether it may never be blamed.
    pub fn is_honest(&self) -> bool {
        !matches!(self.nature, Nature::Liar(..))
    }
}

impl SwarmPlan {
    /// These nodes and one tree, where nothing goes wrong.
    pub fn quiet(tree: TreePlan, nodes: Vec<NodePlan>) -> Self {
        Self {
            seed: 1,
            trees: vec![Published { tree, vouching: Vouching::Attested }],
            nodes,
            faults: Vec::new(),
            heals_at: Micros(0),
            limits: Limits::default(),
            find_takes: Micros::from_millis(50),
            retry_after: Micros::from_millis(5_000),
            drivers_give_up: true,
            compresses: false,
            quirks: Quirks::default(),
            sabotage: None,
        }
    }

    /// Whether nobody lies, nothing breaks and nobody goes: what is received twice then has no excuse.
    pub fn is_quiet(&self) -> bool {
        let is_quiet = |node: &NodePlan| {
            node.nature == Nature::Honest && node.loss_percent == 0 && node.busy_percent == 0
        };
        self.faults.is_empty() && self.nodes.iter().all(is_quiet)
    }

    /// Whether this node is there for good, once all has healed.
    pub fn stays(&self, number: Number) -> bool {
        let mut faults = self.faults.iter().filter(|fault| fault.node == number);
        faults.all(|fault| fault.heals_at().is_some())
    }

    /// When the last of all that heals has healed, and all nodes have come.
    pub fn calm_from(&self) -> Micros {
        let faults = self.faults.iter().map(|fault| fault.heals_at().unwrap_or(fault.at));
        let nodes = self.nodes.iter().map(|node| node.joins_at);
        faults.chain(nodes).chain([self.heals_at]).max().unwrap_or_default()
    }

    /// Whether the honest nodes that stay have all of this tree together, without what they fetch. Who knows only its
    /// path needs one that has all of it, for nobody else vouches for it.
    pub fn is_held(&self, tree: usize, by_path: bool) -> bool {
        let stays = |node: &&NodePlan| node.nature == Nature::Honest && self.stays(node.number);
        let held = self.nodes.iter().filter(stays).flat_map(|node| &node.holds);
        let parts: Vec<Part> = held.filter(|held| held.tree == tree).map(|held| held.part).collect();
        parts.iter().any(|part| match part {
            Part::Whole => true,
            Part::Share { of, .. } => {
                !by_path && (0..*of).all(|index| parts.contains(&Part::Share { index, of: *of }))
            }
        })
    }
}

/// This much later.
pub(super) fn later(at: Micros, by: Micros) -> Micros {
    Micros(at.0.saturating_add(by.0))
}
