//! Makes a plan that fails smaller while it still fails in the same way.

use super::plan::SwarmPlan;
use super::report::SwarmViolation;
use super::run::run_swarm;

/// The most runs that are spent on it.
const RUNS_MAX: u32 = 400;

/// The smallest plan that was found: what it fails by, and how many runs it took to find it. Faults, nodes and wants are
/// taken out one at a time, and what ails a node, again and again until nothing can go any more.
pub fn shrink(plan: &SwarmPlan) -> Option<(SwarmPlan, SwarmViolation, u32)> {
    let mut found = run_swarm(plan, false).violations.into_iter().next()?;
    let mut smallest = plan.clone();
    let mut runs = 0;
    'again: loop {
        for smaller in smaller(&smallest) {
            if runs == RUNS_MAX {
                break 'again;
            }
            runs += 1;
            let violations = run_swarm(&smaller, false).violations;
            if let Some(same) = violations.into_iter().find(|other| other.is_like(&found)) {
                (smallest, found) = (smaller, same);
                continue 'again;
            }
        }
        break;
    }
    Some((smallest, found, runs))
}

/// All plans that have one thing less.
fn smaller(plan: &SwarmPlan) -> Vec<SwarmPlan> {
    let mut plans = Vec::new();
    let mut with = |change: &dyn Fn(&mut SwarmPlan)| {
        let mut smaller = plan.clone();
        change(&mut smaller);
        plans.push(smaller);
    };
    for node in (0..plan.nodes.len()).filter(|_| plan.nodes.len() > 2) {
        let number = plan.nodes[node].number;
        with(&|plan| {
            plan.nodes.remove(node);
            plan.faults.retain(|fault| fault.node != number);
        });
    }
    for fault in 0..plan.faults.len() {
        with(&|plan| {
            plan.faults.remove(fault);
        });
    }
    for (place, node) in plan.nodes.iter().enumerate() {
        for want in 0..node.wants.len() {
            with(&|plan| {
                plan.nodes[place].wants.remove(want);
            });
        }
        if node.loss_percent > 0 || node.busy_percent > 0 {
            with(&|plan| {
                let node = &mut plan.nodes[place];
                (node.loss_percent, node.busy_percent) = (0, 0);
            });
        }
    }
    for (is_on, off) in QUIRKS {
        if is_on(plan) {
            with(&off);
        }
    }
    plans
}

type Quirk = (fn(&SwarmPlan) -> bool, fn(&mut SwarmPlan));

const QUIRKS: [Quirk; 3] = [
    (|plan| plan.compresses, |plan| plan.compresses = false),
    (|plan| plan.quirks.repeats_answers, |plan| plan.quirks.repeats_answers = false),
    (|plan| plan.quirks.answers_nothing, |plan| plan.quirks.answers_nothing = false),
];
