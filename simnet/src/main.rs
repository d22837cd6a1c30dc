//! Runs seeds and tells how they went. One line of result at the end; a failure prints its seed.

use std::process::ExitCode;

use clap::Parser;
use firn_simnet::{Report, Scenario, run};

/// Lets the production machine fetch in made-up worlds full of liars.
#[derive(Parser)]
#[command(name = "firn-simnet")]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this one alone.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Tell what happens.
    #[arg(long, requires = "seed")]
    trace: bool,
}

#[derive(Default)]
struct Totals {
    passed: u64,
    failed: u64,
    blamed: usize,
    rejected: usize,
    asks: u64,
    kept_bytes: u64,
}

impl Totals {
    fn count(&mut self, report: &Report) {
        match report.violations.is_empty() {
            true => self.passed += 1,
            false => self.failed += 1,
        }
        self.blamed += report.blamed.len();
        self.rejected += report.rejected.len();
        self.asks += report.asks;
        self.kept_bytes += report.kept_bytes;
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seeds = match arguments.seed {
        Some(seed) => seed..seed.saturating_add(1),
        None => arguments.from..arguments.from.saturating_add(arguments.seeds),
    };
    let mut totals = Totals::default();
    for seed in seeds {
        let scenario = Scenario::from_seed(seed);
        let mut report = run(&scenario, arguments.trace);
        totals.count(&report);
        if !report.violations.is_empty() && !arguments.trace {
            // The same again, with words.
            report = run(&scenario, true);
        }
        tell(&scenario, &report);
    }
    let Totals { passed, failed, blamed, rejected, asks, kept_bytes } = totals;
    println!(
        "{passed} seeds passed, {failed} failed ({blamed} liars named, {rejected} roots rejected, {asks} requests, \
         {} MiB kept)",
        kept_bytes >> 20
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
        println!("replay it: cargo run -p firn-simnet -- --seed {} --trace", report.seed);
    }
}
