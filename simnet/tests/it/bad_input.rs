//! Bad input in swarms, each kind by its name: what it costs, and that nothing worse comes of it.

use firn_exchange::Micros;
use firn_simnet::liar::LieKind;
use firn_simnet::swarm::{Nature, NodePlan, Quirks, SwarmPlan, SwarmReport, Want};
use firn_simnet::{TreePlan, Vouching};

use crate::swarm::well;

/// Seconds that a swarm of this size takes in which nobody lies.
const QUIET: u64 = 2;

/// Liars that are nearer than the one honest seeder, and two who fetch, one by the path and one by the root.
fn among(liars: impl IntoIterator<Item = LieKind>) -> SwarmPlan {
    let mut nodes = vec![NodePlan { latency: Micros::from_millis(30), ..NodePlan::seeder(0) }];
    nodes.extend([1, 2].map(NodePlan::leecher));
    nodes[1].wants = vec![Want { tree: 0, at: Micros(0), by_path: true }];
    nodes.extend(liars.into_iter().zip(3..).map(|(kind, number)| NodePlan::liar(number, kind)));
    let mut plan = SwarmPlan::quiet(TreePlan::Fixed, nodes);
    plan.trees[0].vouching = Vouching::Signed;
    plan
}

/// All is there in so many seconds more than it takes without them.
fn costs(name: &str, kind: LieKind, seconds: u64) -> SwarmReport {
    let report = well(name, &among([kind]));
    let takes = report.fetches.iter().filter_map(|fetch| fetch.takes()).max().unwrap();
    assert!(takes.0 < (QUIET + seconds) * 1_000_000, "{name}: {takes:?}");
    report
}

fn is_blamed(name: &str, kind: LieKind) {
    let report = costs(name, kind, 1);
    assert!(report.blamed >= 1, "{report}");
}

#[test]
fn a_proof_for_other_bytes() {
    is_blamed("a proof for other bytes", LieKind::OtherBytes);
}

#[test]
fn more_than_was_asked_for() {
    is_blamed("more than was asked for", LieKind::MoreThanAsked);
}

#[test]
fn a_zstd_bomb() {
    is_blamed("a zstd bomb", LieKind::ZstdBomb);
}

#[test]
fn a_byte_a_second() {
    let report = costs("a byte a second", LieKind::Dribble, 4);
    assert_eq!(report.blamed, 0, "slow is not a lie");
}

#[test]
fn sizes_that_claim_each_other() {
    let report = costs("sizes that claim each other", LieKind::FalseSizes, 1);
    assert_eq!(report.blamed, 0, "who names a root may believe in it");
}

#[test]
fn a_size_of_two_to_the_sixty_third() {
    let report = costs("a size of 2^63", LieKind::HugeFile, 1);
    assert_eq!(report.blamed, 0);
}

#[test]
fn one_that_vanishes_after_each_request() {
    let report = costs("one that vanishes", LieKind::HangUp, 3);
    assert_eq!(report.blamed, 0);
}

#[test]
fn everything_twice() {
    is_blamed("everything twice", LieKind::Twice);
}

#[test]
fn the_same_answer_twice_and_answers_to_nothing() {
    let quirks = Quirks { repeats_answers: true, answers_nothing: true };
    let usual = well("as usual", &among([]));
    let report = well("answers twice and to nothing", &SwarmPlan { quirks, ..among([]) });
    for (usual, report) in usual.fetches.iter().zip(&report.fetches) {
        assert_eq!(report.tally.useful_bytes, usual.tally.useful_bytes);
        assert_eq!(report.tally.duplicate_bytes, 0);
    }
}

#[test]
fn ten_that_share_one_lie_against_one_that_is_attested() {
    let mut plan = among([LieKind::FalseRoot; 10]);
    plan.trees[0].vouching = Vouching::Attested;
    for node in &mut plan.nodes {
        if let Nature::Liar(_, seed) = &mut node.nature {
            *seed = 7;
        }
    }
    well("ten share one lie, one is attested", &plan);
    plan.trees[0].vouching = Vouching::Signed;
    well("ten share one lie, one is right", &plan);
}

#[test]
fn liars_of_every_kind_at_once() {
    let report = well("liars of every kind", &among(LieKind::ALL));
    assert!(report.blamed >= 5, "{report}");
}
