//! Runs the store on a disk that loses, tears and refuses.

use firn_simnet::disk::{DiskReport, Pool, run_disk};

use super::totals::Totals;

/// Runs the story of one seed.
pub(crate) fn run_one(pool: &Pool, seed: u64, trace: bool, totals: &mut Totals) {
    let report = run_disk(pool, seed, None);
    let outcome = if report.violation.is_none() { "disks passed" } else { "disks failed" };
    totals.add(outcome, 1);
    totals.add("crashes", report.crashes);
    totals.add("faults", report.faults);
    totals.add("commits", report.commits);
    totals.add("resumed", report.resumed);
    totals.add("losses", report.losses);
    totals.add("calls", report.calls);
    tell(&report, trace);
}

fn tell(report: &DiskReport, trace: bool) {
    if trace || report.violation.is_some() {
        println!("seed {}:", report.seed);
        report.events.iter().for_each(|event| println!("  {event}"));
    }
    if let Some(violation) = &report.violation {
        println!("seed {} FAILED: {violation}", report.seed);
        println!("replay it: cargo run -p firn-simnet -- disk --seed {} --trace", report.seed);
    }
}

/// Tells what all came to; true if all is well.
pub(crate) fn sum_up(totals: &Totals) -> bool {
    println!(
        "{} disk seeds passed, {} failed ({} commits, {} cut off in a call, {} calls that went wrong, {} groups and \
         Directories found again, {} losses told, {} calls)",
        totals.get("disks passed"),
        totals.get("disks failed"),
        totals.get("commits"),
        totals.get("crashes"),
        totals.get("faults"),
        totals.get("resumed"),
        totals.get("losses"),
        totals.get("calls")
    );
    totals.get("disks failed") == 0
}
