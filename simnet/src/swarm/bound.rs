//! What must come of a swarm: how fast it could be, and by when it must be done.

use firn_exchange::Micros;

use super::ground::Ground;
use super::plan::{Holding, Nature, NodePlan, Part, SwarmPlan, Want, later};
use super::report::{FetchReport, SwarmViolation};

/// A fetch may take so many times the fluid bound, once all has healed.
const SLOWNESS_MAX: u64 = 4;
/// And so long besides, for look-ups, dials and requests that nobody answers.
const PATIENCE: Micros = Micros::from_millis(15_000);
/// And so long for each node that may let it wait.
const PATIENCE_LIAR: Micros = Micros::from_millis(3_000);
/// All of that so many times where no driver gives up a stream on which nothing comes: the machine has more patience.
const SILENCE_FACTOR: u64 = 8;
/// What is asked for at once of one peer may come in vain, in bytes.
const PIECE_BYTES: u64 = 1 << 20;
/// How many of these for each peer.
const PIECES_WASTED_MAX: u64 = 4;

/// By when this must be here; `None` if it may never come.
pub(super) fn due(plan: &SwarmPlan, ground: &Ground, node: usize, want: Want) -> Option<Micros> {
    let of = &plan.nodes[node];
    if of.nature != Nature::Honest || !plan.stays(of.number) || !plan.is_held(want.tree, want.by_path) {
        return None;
    }
    let from = calm_for(plan, of, want);
    let liars = plan.nodes.iter().filter(|node| node.nature != Nature::Honest).count() as u64;
    let takes = fluid_bound(plan, ground, node, want).0 * SLOWNESS_MAX;
    let factor = if plan.drivers_give_up { 1 } else { SILENCE_FACTOR };
    let patience = (PATIENCE.0 + liars * PATIENCE_LIAR.0) * factor;
    Some(later(from, Micros(takes + patience)))
}

/// From when on nothing but liars stands in the way of a fetch.
pub(super) fn calm_for(plan: &SwarmPlan, node: &NodePlan, want: Want) -> Micros {
    want.at.max(node.joins_at).max(plan.calm_from())
}

/// No swarm is faster: each byte must leave those who have it once, all must come in here, and whatever anybody receives
/// somebody must send.
pub(super) fn fluid_bound(plan: &SwarmPlan, ground: &Ground, node: usize, want: Want) -> Micros {
    let size = ground.bytes(want.tree);
    let senders =
        || plan.nodes.iter().filter(|node| node.nature == Nature::Honest && plan.stays(node.number));
    let all: u64 = senders().map(|node| node.up).sum();
    let wanted = senders().flat_map(|node| &node.wants).map(|want| ground.bytes(want.tree)).sum();
    let leaves = shares(plan, want.tree).into_iter().map(|of| {
        let holders = senders().filter(|node| node.holds.iter().any(|held| has_share(held, want.tree, of)));
        takes(size / u64::from(of.1), holders.map(|node| node.up).sum())
    });
    let comes = takes(size, plan.nodes[node].down).max(takes(size.max(wanted), all));
    leaves.fold(comes, Micros::max)
}

/// Into which shares a tree was cut; into one where nobody has only a share.
fn shares(plan: &SwarmPlan, tree: usize) -> Vec<(u32, u32)> {
    let held = plan.nodes.iter().flat_map(|node| &node.holds).filter(|held| held.tree == tree);
    let cut = held.filter_map(|held| match held.part {
        Part::Whole => None,
        Part::Share { of, .. } => Some(of),
    });
    let of = cut.max().unwrap_or(1);
    (0..of).map(|index| (index, of)).collect()
}

fn has_share(held: &Holding, tree: usize, (index, of): (u32, u32)) -> bool {
    held.tree == tree && (held.part == Part::Whole || held.part == Part::Share { index, of })
}

fn takes(bytes: u64, rate: u64) -> Micros {
    let micros = u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
    Micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// Looks at what a run has cost.
pub(super) fn judge(plan: &SwarmPlan, fetches: &[FetchReport], violations: &mut Vec<SwarmViolation>) {
    let peers = plan.nodes.len() as u64 - 1;
    for fetch in fetches {
        let wasted = fetch.wasted_bytes();
        let allowed = (fetch.tree_bytes / 20).max(peers * PIECES_WASTED_MAX * PIECE_BYTES);
        let allowed =
            if plan.is_quiet() { allowed } else { allowed * 4 + fetch.tree_bytes * fetch.tally.fetches };
        if wasted > allowed {
            violations.push(SwarmViolation::Wasteful { node: fetch.node, wasted, allowed });
        }
        let unverified = fetch.tally.unverified_bytes_most;
        // The last one that is asked for may go over the limit by its own length.
        if unverified > plan.limits.bytes_in_flight_max + PIECE_BYTES {
            violations.push(SwarmViolation::TooMuchUnverified { node: fetch.node, bytes: unverified });
        }
    }
}
