//! Swarms by name: what a few nodes must manage together, in figures.

use firn_exchange::Micros;
use firn_simnet::TreePlan;
use firn_simnet::liar::LieKind;
use firn_simnet::swarm::{
    Fault, FaultKind, FetchReport, Holding, NodePlan, Number, Part, SwarmPlan, SwarmReport, run_swarm,
};

const MIB: u64 = 1 << 20;

/// Runs it; nothing may be wrong, and all that is wanted comes.
pub(crate) fn well(name: &str, plan: &SwarmPlan) -> SwarmReport {
    let report = run_swarm(plan, true);
    println!("{name}: {report}");
    for fetch in &report.fetches {
        println!(
            "  node {}: {:.2} s of {:.2} s at best, stalled {:.2} s, {} requests, {} KiB in vain",
            fetch.node,
            seconds(fetch.takes().unwrap_or_default()),
            seconds(fetch.bound),
            seconds(fetch.tally.stall_most),
            fetch.tally.asks,
            fetch.wasted_bytes() >> 10,
        );
    }
    for node in &report.nodes {
        println!(
            "  node {}: {} KiB up, {} KiB down",
            node.number,
            node.sent_bytes >> 10,
            node.received_bytes >> 10
        );
    }
    assert!(report.violations.is_empty(), "{:#?} {:#?}", report.violations, report.trace);
    assert!(report.fetches.iter().all(|fetch| fetch.ended.is_some()), "{report}");
    report
}

fn seconds(time: Micros) -> f64 {
    time.0 as f64 / 1e6
}

fn takes(report: &SwarmReport, node: Number) -> f64 {
    seconds(of(report, node).takes().unwrap())
}

fn of(report: &SwarmReport, node: Number) -> &FetchReport {
    report.fetches.iter().find(|fetch| fetch.node == node).unwrap()
}

fn sent(report: &SwarmReport, node: Number) -> u64 {
    report.nodes.iter().find(|other| other.number == node).unwrap().sent_bytes
}

fn ms(millis: u64) -> Micros {
    Micros::from_millis(millis)
}

/// A link of so many mebibytes a second, both ways.
fn link(node: NodePlan, mib: u64) -> NodePlan {
    NodePlan { up: mib * MIB, down: mib * MIB, ..node }
}

/// Five consumers, each with ten times the seeder's link, and one alone: how much longer they take, and how many times the
/// tree the seeder sends.
fn five_against_one(tree: TreePlan) -> (f64, f64) {
    let seeder = link(NodePlan::seeder(0), 1);
    let alone = SwarmPlan::quiet(tree, vec![seeder.clone(), link(NodePlan::leecher(1), 10)]);
    let alone = well("one alone", &alone);
    let mut nodes = vec![seeder];
    nodes.extend((1..6).map(|number| link(NodePlan::leecher(number), 10)));
    let plan = SwarmPlan::quiet(tree, nodes);
    let five = well("five consumers", &plan);
    let (last, one) = ((1..6).map(|node| takes(&five, node)).fold(0.0, f64::max), takes(&alone, 1));
    let upload = sent(&five, 0) as f64 / five.fetches[0].tree_bytes as f64;
    let slower = last / one;
    println!("five consumers: {slower:.2} x as long as one, the seeder sends {upload:.2} x the tree");
    (slower, upload)
}

#[test]
fn five_consumers_of_one_slow_seeder_are_about_as_fast_as_one_alone() {
    let (slower, upload) = five_against_one(TreePlan::Mebibytes(16));
    assert!(slower < 1.2 && upload < 1.1);
}

#[test]
fn five_consumers_of_small_files_are_about_as_fast_as_one_alone() {
    let (slower, upload) = five_against_one(TreePlan::Folders(1_200));
    assert!(slower < 1.2 && upload < 1.1);
}

#[test]
fn ten_get_a_small_tree_over_a_fast_network_as_soon_as_one() {
    let near = |node: NodePlan| NodePlan { latency: Micros(200), ..link(node, 100) };
    let swarm = |consumers: Number| {
        let leechers = (1..=consumers).map(NodePlan::leecher);
        let nodes = [NodePlan::seeder(0)].into_iter().chain(leechers).map(near);
        SwarmPlan::quiet(TreePlan::Mebibytes(1), nodes.collect())
    };
    let (one, ten) = (well("one on a fast network", &swarm(1)), well("ten", &swarm(10)));
    let last = (1..=10).map(|node| takes(&ten, node)).fold(0.0, f64::max);
    println!("the last of ten is done after {last:.3} s, one alone after {:.3} s", takes(&one, 1));
    assert!(last < takes(&one, 1) * 1.5);
}

#[test]
fn one_of_three_vanishes_half_way() {
    let mut nodes: Vec<NodePlan> = (0..3).map(|number| link(NodePlan::seeder(number), 2)).collect();
    nodes.push(link(NodePlan::leecher(3), 10));
    let mut plan = SwarmPlan::quiet(TreePlan::Mebibytes(16), nodes);
    plan.faults.push(Fault { node: 1, at: ms(1_500), what: FaultKind::Crash(None) });
    for drivers_give_up in [true, false] {
        let report = well("one of three vanishes", &SwarmPlan { drivers_give_up, ..plan.clone() });
        let stall = seconds(of(&report, 3).tally.stall_most);
        assert!(stall < 3.0, "{stall}");
        assert!(takes(&report, 3) < 7.0);
    }
}

#[test]
fn one_of_three_lies_from_the_start() {
    let seeders = || (0..2).map(|number| link(NodePlan::seeder(number), 2));
    let leecher = link(NodePlan::leecher(3), 10);
    let tree = TreePlan::Mebibytes(16);
    let two = well("two seeders", &SwarmPlan::quiet(tree, seeders().chain([leecher.clone()]).collect()));
    let liar = link(NodePlan::liar(2, LieKind::WrongByte), 2);
    let nodes = seeders().chain([liar, leecher]).collect();
    let three = well("two seeders and a liar", &SwarmPlan::quiet(tree, nodes));
    assert_eq!(three.blamed, 1);
    let slower = takes(&three, 3) / takes(&two, 3);
    assert!(slower < 1.1, "{slower}");
    // What comes of a liar before the first lie of it is looked at, with its proofs.
    let given = sent(&three, 2);
    assert!(given < 64 << 10, "{given} bytes");
}

#[test]
fn one_that_is_twenty_times_slower_keeps_nobody_waiting() {
    let slow = NodePlan { up: MIB / 5, ..NodePlan::seeder(0) };
    let nodes = vec![slow, link(NodePlan::seeder(1), 4), link(NodePlan::leecher(2), 40)];
    let report = well("one is slow", &SwarmPlan::quiet(TreePlan::Mebibytes(16), nodes));
    let fetch = of(&report, 2);
    assert!(takes(&report, 2) < seconds(fetch.bound) * 1.3, "{report}");
    assert!(fetch.wasted_bytes() < MIB, "{report}");
}

#[test]
fn what_came_stays_when_all_are_gone_and_one_returns() {
    let nodes =
        vec![link(NodePlan::seeder(0), 2), link(NodePlan::seeder(1), 2), link(NodePlan::leecher(2), 10)];
    let mut plan = SwarmPlan::quiet(TreePlan::Mebibytes(16), nodes);
    plan.faults.push(Fault { node: 0, at: ms(2_000), what: FaultKind::Crash(None) });
    plan.faults.push(Fault { node: 1, at: ms(2_100), what: FaultKind::Crash(Some(ms(10_000))) });
    let report = well("all gone, one returns", &plan);
    let fetch = of(&report, 2);
    assert!(fetch.tally.duplicate_bytes * 100 < fetch.tree_bytes, "{report}");
    assert_eq!(fetch.tally.fetches, 1, "it waits rather than fails");
    assert!(takes(&report, 2) < 25.0, "{report}");
}

#[test]
fn a_consumer_that_crashes_goes_on_where_it_was() {
    let nodes = vec![link(NodePlan::seeder(0), 2), link(NodePlan::leecher(1), 10)];
    let mut plan = SwarmPlan::quiet(TreePlan::Mebibytes(16), nodes);
    plan.faults.push(Fault { node: 1, at: ms(4_000), what: FaultKind::Crash(Some(ms(1_000))) });
    let report = well("crash and resume", &plan);
    let fetch = of(&report, 1);
    assert_eq!(fetch.tally.fetches, 2);
    assert!(fetch.tally.duplicate_bytes * 100 < fetch.tree_bytes, "{report}");
    // What was under way when it crashed is lost.
    assert!(fetch.wasted_bytes() < 3 * MIB, "{report}");
    assert!(takes(&report, 1) < 12.0, "{report}");
}

#[test]
fn twenty_leechers_lose_one_of_them() {
    let mut nodes = vec![link(NodePlan::seeder(0), 4)];
    nodes.extend((1..21).map(|number| link(NodePlan::leecher(number), 8)));
    let mut plan = SwarmPlan::quiet(TreePlan::Mebibytes(8), nodes);
    plan.faults.push(Fault { node: 7, at: ms(1_500), what: FaultKind::Leave });
    let report = run_swarm(&plan, false);
    println!("twenty leechers: {report}");
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    let last = report.fetches.iter().filter_map(FetchReport::takes).max().unwrap();
    let upload = sent(&report, 0) as f64 / report.fetches[0].tree_bytes as f64;
    println!("the last is done after {:.2} s, the seeder sends {upload:.2} x the tree", seconds(last));
    assert_eq!(report.fetches.iter().filter(|fetch| fetch.ended.is_some()).count(), 19);
    assert!(seconds(last) < 4.5 && upload < 1.8);
}

/// Each asks a slow holder for other parts first, and has the rest of the others.
#[test]
fn twelve_get_a_tree_from_two_slow_ones_who_have_a_half_each() {
    let half = |index| {
        let holds = vec![Holding { tree: 0, part: Part::Share { index, of: 2 } }];
        NodePlan { holds, ..link(NodePlan::new(index), 1) }
    };
    let mut nodes = vec![half(0), half(1)];
    nodes.extend((2..14).map(|number| link(NodePlan::leecher(number), 8)));
    let report = well("two halves", &SwarmPlan::quiet(TreePlan::Mebibytes(8), nodes));
    let last = (2..14).map(|node| takes(&report, node)).fold(0.0, f64::max);
    let upload = (sent(&report, 0) + sent(&report, 1)) as f64 / report.fetches[0].tree_bytes as f64;
    println!("the last is done after {last:.2} s, the holders send {upload:.2} x the tree");
    assert!(last < 11.0 && upload < 2.5);
}

#[test]
fn three_hundred_get_a_tree_from_three() {
    let mut nodes: Vec<NodePlan> = (0..3).map(|number| link(NodePlan::seeder(number), 4)).collect();
    nodes.extend((3..303).map(|number| link(NodePlan::leecher(number), 8)));
    let report = run_swarm(&SwarmPlan::quiet(TreePlan::Mebibytes(2), nodes), false);
    println!("three hundred: {report}");
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    assert!(report.fetches.iter().all(|fetch| fetch.ended.is_some()));
    let last = report.fetches.iter().filter_map(FetchReport::takes).max().unwrap();
    let given: u64 = (0..3).map(|seeder| sent(&report, seeder)).sum();
    let upload = given as f64 / report.fetches[0].tree_bytes as f64;
    println!("the last is done after {:.2} s, the seeders send {upload:.1} x the tree", seconds(last));
    // Three alone would send it three hundred times, in fifty seconds.
    assert!(seconds(last) < 6.0 && upload < 40.0);
}
