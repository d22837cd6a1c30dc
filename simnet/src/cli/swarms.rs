//! Runs swarms: many nodes that fetch from each other.

use std::path::Path;

use firn_simnet::swarm::{FetchReport, SwarmPlan, SwarmReport, draw, run_swarm, shrink};

use super::totals::Totals;

/// Runs the swarm of one seed.
pub(crate) fn run_one(seed: u64, trace: bool, totals: &mut Totals) -> SwarmReport {
    let plan = SwarmPlan::from_seed(seed);
    let report = run_swarm(&plan, trace);
    count(&report, totals);
    tell(&plan, &report, trace);
    report
}

/// Draws a run.
pub(crate) fn draw_to(file: &Path, report: &SwarmReport) -> Result<(), String> {
    let svg = draw(&SwarmPlan::from_seed(report.seed), report);
    std::fs::write(file, svg).map_err(|error| format!("{}: {error}", file.display()))
}

fn count(report: &SwarmReport, totals: &mut Totals) {
    totals.add(if report.violations.is_empty() { "swarms passed" } else { "swarms failed" }, 1);
    totals.add("nodes", report.nodes.len() as u64);
    totals.add("swarm liars named", report.blamed);
    totals.add("swarm roots rejected", report.rejected);
    for fetch in &report.fetches {
        if let Some((takes, bound)) = fetch.takes_and_bound() {
            totals.add("milliseconds taken", takes.0 / 1000);
            totals.add("milliseconds of the bound", bound.0 / 1000);
        }
        totals.add("fetches ended", u64::from(fetch.ended.is_some()));
        totals.add("fetches", 1);
        totals.add("swarm requests", fetch.tally.asks);
        totals.add("useful bytes", fetch.tally.useful_bytes);
        totals.add("duplicate bytes", fetch.tally.duplicate_bytes);
        totals.add("unfinished bytes", fetch.tally.unfinished_bytes);
        totals.raise("most unverified bytes", fetch.tally.unverified_bytes_most);
    }
    if let Some(fairness) = report.fairness_per_mille() {
        totals.add("fairness", fairness);
        totals.add("fair swarms", 1);
    }
    totals.add("simulated milliseconds", report.ended_at.0 / 1000);
}

fn tell(plan: &SwarmPlan, report: &SwarmReport, trace: bool) {
    let has_failed = !report.violations.is_empty();
    if trace {
        println!("seed {}: {plan:#?}", report.seed);
        report.trace.iter().for_each(|line| println!("{line}"));
        report.fetches.iter().for_each(tell_fetch);
    }
    if has_failed || trace {
        println!("seed {}: {report}", report.seed);
    }
    for violation in &report.violations {
        println!("seed {} FAILED at {} ms: {violation}", report.seed, report.ended_at.0 / 1000);
    }
    if has_failed {
        tell_shrunk(plan);
        println!("replay it: cargo run -p firn-simnet -- swarm --seed {} --trace", report.seed);
    }
}

/// What of a failing plan it takes to fail.
fn tell_shrunk(plan: &SwarmPlan) {
    let Some((smallest, violation, runs)) = shrink(plan) else { return };
    println!("seed {}: after {runs} runs it still fails ({violation}) with no more than", plan.seed);
    let SwarmPlan { limits, find_takes, heals_at, trees, .. } = &smallest;
    println!("  {limits:?}, look-ups of {find_takes:?}, links heal at {heals_at:?}");
    trees.iter().enumerate().for_each(|(place, tree)| println!("  tree {place}: {tree:?}"));
    smallest.nodes.iter().for_each(|node| println!("  {node:?}"));
    smallest.faults.iter().for_each(|fault| println!("  {fault:?}"));
}

fn tell_fetch(fetch: &FetchReport) {
    let seconds = |micros: u64| micros as f64 / 1e6;
    let takes =
        fetch.takes().map_or_else(|| "has not ended".into(), |takes| format!("{:.2} s", seconds(takes.0)));
    let tally = &fetch.tally;
    println!(
        "node {} tree {} ({} KiB): {takes}, at best {:.2} s; {} fetches, {} requests, {} KiB twice, {} KiB unfinished, \
         at most {} KiB unverified, stalled for {:.2} s",
        fetch.node,
        fetch.tree,
        fetch.tree_bytes >> 10,
        seconds(fetch.bound.0),
        tally.fetches,
        tally.asks,
        tally.duplicate_bytes >> 10,
        tally.unfinished_bytes >> 10,
        tally.unverified_bytes_most >> 10,
        seconds(tally.stall_most.0),
    );
}

/// Tells what all came to; true if all is well.
pub(crate) fn sum_up(totals: &Totals) -> bool {
    let get = |what| totals.get(what);
    let share = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;
    println!(
        "{} swarms passed, {} failed ({} nodes, {} of {} fetches ended, {} liars named, {} roots rejected, {} requests, \
         {} MiB fetched)",
        get("swarms passed"),
        get("swarms failed"),
        get("nodes"),
        get("fetches ended"),
        get("fetches"),
        get("swarm liars named"),
        get("swarm roots rejected"),
        get("swarm requests"),
        get("useful bytes") >> 20,
    );
    println!(
        "in all: {:.0} % of the fluid bound, {:.2} % received twice, {:.2} % unfinished, fairness {:.3}, \
         at most {} KiB unverified, {} s simulated",
        share(get("milliseconds taken"), get("milliseconds of the bound")),
        share(get("duplicate bytes"), get("useful bytes")),
        share(get("unfinished bytes"), get("useful bytes")),
        get("fairness") as f64 / 1000.0 / get("fair swarms").max(1) as f64,
        get("most unverified bytes") >> 10,
        get("simulated milliseconds") / 1000,
    );
    get("swarms failed") == 0
}
