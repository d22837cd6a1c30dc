//! What is true in a swarm, and what its nodes begin with.

use firn_bao::Span;
use firn_exchange::PeerId;
use firn_store::{Blobs, Directories, MemoryStore, Paths};
use firn_trust::{Policy, TrustedPath};

use super::plan::{Holding, Number, Part, SwarmPlan};
use crate::dice::Dice;
use crate::tree::Tree;
use crate::world::{Truth, beside_garbage, key, namesake, vouched};

const EXPECT_MEMORY: &str = "a store in memory takes what is legal";
/// What of a blob goes into one share, in groups.
const SHARE_GROUPS: u64 = 4;

/// The trees of a swarm, as their publisher knows them.
pub(super) struct Ground {
    /// In the order of the plan.
    pub(super) truths: Vec<Truth>,
    /// The same, with what their publisher has signed; beside half of them stands what others have.
    pub(super) paths: Vec<TrustedPath>,
    /// Whom all nodes trust.
    pub(super) policy: Policy,
}

impl Ground {
    pub(super) fn make(plan: &SwarmPlan) -> Self {
        let mut dice = Dice::new(plan.seed ^ 0x6772_6f75_6e64);
        let (publisher, stranger) = (key("publisher-1", &mut dice), key("stranger-1", &mut dice));
        let (mut truths, mut paths) = (Vec::new(), Vec::new());
        for published in &plan.trees {
            let tree = Tree::make(published.tree, &mut dice);
            let truth = Truth::of(tree, published.vouching, false, publisher.public(), &mut dice);
            let mut path = vouched(&truth.facts, published.vouching, &publisher);
            if dice.percent(50) {
                path.keep_signatures_of(&beside_garbage(&truth.facts, &namesake(&publisher), &stranger));
            }
            paths.push(path);
            truths.push(truth);
        }
        Self { truths, paths, policy: Policy::new(vec![publisher.public()]) }
    }

    /// How many bytes a tree is.
    pub(super) fn bytes(&self, tree: usize) -> u64 {
        let closure = &self.truths[tree].tree.closure;
        let blobs: u64 = closure.blobs().iter().map(|blob| blob.size).sum();
        blobs + closure.directories().map(|directory| directory.encoded().len() as u64).sum::<u64>()
    }

    /// Puts what a node has into its store; a whole tree is committed.
    pub(super) fn stock(&self, store: &MemoryStore, holding: Holding) {
        let truth = &self.truths[holding.tree];
        let directories: Vec<_> = truth.tree.closure.directories().cloned().collect();
        store.keep_directories(&directories).expect(EXPECT_MEMORY);
        let mut piece = 0;
        for blob in truth.tree.closure.blobs() {
            for span in Span::whole(blob.size).pieces(SHARE_GROUPS) {
                piece += 1;
                let is_here = match holding.part {
                    Part::Whole => true,
                    Part::Share { index, of } => piece % of == index,
                };
                if is_here {
                    let read = truth.tree.store.read_span(&blob, span).expect(EXPECT_MEMORY);
                    store.keep_spans(&[read.expect("the whole tree is here")]).expect(EXPECT_MEMORY);
                }
            }
        }
        if holding.part == Part::Whole {
            store.commit(self.paths[holding.tree].to_stored(true), None).expect(EXPECT_MEMORY);
        }
    }
}

/// All chance about one node, or about its place in one kind of thing.
pub(super) fn dice_of(seed: u64, number: Number, what: u64) -> Dice {
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ what.rotate_left(32) ^ u64::from(number);
    Dice::new(mixed)
}

/// The id of the node of this number.
pub(super) fn id_of(seed: u64, number: Number) -> PeerId {
    dice_of(seed, number, 0x6964).array().into()
}
