//! Runs worlds: one consumer among peers.

use firn_simnet::{Report, Scenario, run};

use super::totals::Totals;

/// Runs the world of one seed.
pub(crate) fn run_world(seed: u64, trace: bool, totals: &mut Totals) {
    let scenario = Scenario::from_seed(seed);
    let mut report = run(&scenario, trace);
    count(&report, totals);
    if !report.violations.is_empty() && !trace {
        // The same again, with words.
        report = run(&scenario, true);
    }
    tell(&scenario, &report);
}

fn count(report: &Report, totals: &mut Totals) {
    totals.add(if report.violations.is_empty() { "worlds passed" } else { "worlds failed" }, 1);
    totals.add("liars named", report.blamed.len() as u64);
    totals.add("roots rejected", report.rejected.len() as u64);
    totals.add("requests", report.asks);
    totals.add("bytes kept", report.kept_bytes);
}

fn tell(scenario: &Scenario, report: &Report) {
    if !report.trace.is_empty() {
        println!("seed {}: {scenario:#?}", report.seed);
        report.trace.iter().for_each(|line| println!("{line}"));
    }
    for violation in &report.violations {
        println!("seed {} FAILED at {} ms: {violation}", report.seed, report.ended_at.0 / 1000);
    }
    if !report.violations.is_empty() {
        println!("replay it: cargo run -p firn-simnet -- worlds --seed {} --trace", report.seed);
    }
}

/// Tells what all came to; true if all is well.
pub(crate) fn sum_up(totals: &Totals) -> bool {
    println!(
        "{} worlds passed, {} failed ({} liars named, {} roots rejected, {} requests, {} MiB kept)",
        totals.get("worlds passed"),
        totals.get("worlds failed"),
        totals.get("liars named"),
        totals.get("roots rejected"),
        totals.get("requests"),
        totals.get("bytes kept") >> 20
    );
    totals.get("worlds failed") == 0
}
