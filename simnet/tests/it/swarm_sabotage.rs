//! The checkers of swarms are checked: each swarm here is broken on purpose, and they must notice.

use firn_simnet::swarm::{NodePlan, SwarmPlan, SwarmSabotage, SwarmViolation, run_swarm};
use firn_simnet::{TreePlan, Violation};

fn plan() -> SwarmPlan {
    let nodes = vec![NodePlan::seeder(0), NodePlan::seeder(1), NodePlan::leecher(2), NodePlan::leecher(3)];
    SwarmPlan::quiet(TreePlan::Fixed, nodes)
}

fn assert_noticed(plan: SwarmPlan, sabotage: SwarmSabotage, is_it: impl Fn(&SwarmViolation) -> bool) {
    let report = run_swarm(&plan, false);
    assert!(report.violations.is_empty(), "without sabotage all is well: {:#?}", report.violations);
    let report = run_swarm(&SwarmPlan { sabotage: Some(sabotage), ..plan }, false);
    assert!(report.violations.iter().any(is_it), "{:#?}", report.violations);
}

fn of_fetch(violation: &SwarmViolation, is_it: impl Fn(&Violation) -> bool) -> bool {
    matches!(violation, SwarmViolation::OfFetch { violation, .. } if is_it(violation))
}

#[test]
fn bytes_that_change_before_they_are_kept() {
    assert_noticed(plan(), SwarmSabotage::KeepsOtherBytes, |violation| {
        of_fetch(violation, |violation| matches!(violation, Violation::FalseBytes(_)))
    });
}

#[test]
fn an_honest_node_that_is_blamed() {
    assert_noticed(plan(), SwarmSabotage::CorruptsLinks, |violation| {
        of_fetch(violation, |violation| matches!(violation, Violation::HonestBlamed(..)))
    });
}

#[test]
fn a_store_that_forgets() {
    assert_noticed(plan(), SwarmSabotage::ForgetsBlobs, |violation| {
        of_fetch(violation, |violation| matches!(violation, Violation::NotWhole(_)))
    });
}

#[test]
fn a_tree_that_does_not_come_though_it_could() {
    let is_late = |violation: &SwarmViolation| matches!(violation, SwarmViolation::NotHere { .. });
    assert_noticed(plan(), SwarmSabotage::IgnoresAnswers, is_late);
    assert_noticed(plan(), SwarmSabotage::Dawdles, is_late);
}

#[test]
fn more_requests_and_more_bytes_than_there_may_be() {
    let mut plan = SwarmPlan { trees: plan().trees, ..plan() };
    plan.trees[0].tree = TreePlan::Mebibytes(12);
    plan.limits.in_flight_max = 6;
    plan.limits.in_flight_peer_max = 4;
    plan.limits.bytes_in_flight_max = 1 << 20;
    assert_noticed(plan.clone(), SwarmSabotage::AsksForTooMuch, |violation| {
        of_fetch(violation, |violation| matches!(violation, Violation::TooManyInFlight(_)))
    });
    assert_noticed(plan.clone(), SwarmSabotage::AsksForTooMuch, |violation| {
        of_fetch(violation, |violation| matches!(violation, Violation::TooManyOfPeer(..)))
    });
    assert_noticed(plan, SwarmSabotage::AsksForTooMuch, |violation| {
        matches!(violation, SwarmViolation::TooMuchUnverified { .. })
    });
}

#[test]
fn bytes_that_come_twice() {
    let mut plan = plan();
    plan.trees[0].tree = TreePlan::Mebibytes(40);
    assert_noticed(plan, SwarmSabotage::AsksTwice, |violation| {
        matches!(violation, SwarmViolation::Wasteful { .. })
    });
}
