//! What must come of a swarm: how fast it could be, and by when it must be done.

use firn_exchange::Micros;

use super::ground::Ground;
use super::plan::{Nature, NodePlan, SwarmPlan, Want, later};
use super::report::{FetchReport, SwarmViolation};

/// A fetch may take so many times the fluid bound, once all has healed.
const SLOWNESS_MAX: u64 = 5;
/// And so long besides, for look-ups, dials and requests that nobody answers.
const PATIENCE: Micros = Micros::from_millis(60_000);
/// And so long for each node that may let it wait.
const PATIENCE_LIAR: Micros = Micros::from_millis(25_000);
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
    let liars = plan.nodes.iter().filter(|node| node.nature != Nature::Honest).count() as u64;
    let takes = fluid_bound(plan, ground, node, want).0 * SLOWNESS_MAX;
    let from = want.at.max(of.joins_at).max(plan.calm_from());
    Some(later(from, Micros(takes + PATIENCE.0 + liars * PATIENCE_LIAR.0)))
}

/// No swarm is faster: each byte must leave those who have the tree once, all must come in here, and whatever anybody
/// receives somebody must send.
pub(super) fn fluid_bound(plan: &SwarmPlan, ground: &Ground, node: usize, want: Want) -> Micros {
    let size = ground.bytes(want.tree);
    let is_sender = |node: &&NodePlan| node.nature == Nature::Honest && plan.stays(node.number);
    let holds = |node: &&NodePlan| node.holds.iter().any(|holding| holding.tree == want.tree);
    let up = |nodes: &mut dyn Iterator<Item = &NodePlan>| nodes.map(|node| node.up).sum::<u64>().max(1);
    let seeders = up(&mut plan.nodes.iter().filter(is_sender).filter(holds));
    let all = up(&mut plan.nodes.iter().filter(is_sender));
    let wanted: u64 = plan
        .nodes
        .iter()
        .filter(is_sender)
        .flat_map(|node| &node.wants)
        .map(|want| ground.bytes(want.tree))
        .sum();
    let takes = |bytes: u64, rate: u64| u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
    let longest = [takes(size, seeders), takes(size, plan.nodes[node].down), takes(wanted.max(size), all)]
        .into_iter()
        .max();
    Micros(longest.and_then(|longest| u64::try_from(longest).ok()).unwrap_or(u64::MAX))
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
