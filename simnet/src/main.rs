//! Runs seeds and tells how they went. One line of result at the end; a failure prints its seed.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use firn_simnet::{
    Report, Scenario,
    disk::{DiskReport, Pool, run_disk},
    run,
};

/// Lets the production machine fetch in made-up worlds full of liars.
#[derive(Parser)]
#[command(name = "firn-simnet", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    seeds: Seeds,
}

#[derive(Subcommand)]
enum Command {
    /// Lets the store work on a disk that loses, tears and refuses, and ends its process at any moment.
    Disk(Seeds),
}

#[derive(Args)]
struct Seeds {
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

impl Seeds {
    fn range(&self) -> std::ops::Range<u64> {
        match self.seed {
            Some(seed) => seed..seed.saturating_add(1),
            None => self.from..self.from.saturating_add(self.seeds),
        }
    }
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
    let is_well = match &arguments.command {
        Some(Command::Disk(seeds)) => run_disks(seeds),
        None => run_worlds(&arguments.seeds),
    };
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_worlds(seeds: &Seeds) -> bool {
    let mut totals = Totals::default();
    for seed in seeds.range() {
        let scenario = Scenario::from_seed(seed);
        let mut report = run(&scenario, seeds.trace);
        totals.count(&report);
        if !report.violations.is_empty() && !seeds.trace {
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
    failed == 0
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

fn run_disks(seeds: &Seeds) -> bool {
    let pool = Pool::new();
    let (mut passed, mut failed) = (0u64, 0u64);
    let mut sum = DiskReport::default();
    for seed in seeds.range() {
        let report = run_disk(&pool, seed, None);
        match report.violation {
            None => passed += 1,
            Some(_) => failed += 1,
        }
        sum.crashes += report.crashes;
        sum.faults += report.faults;
        sum.commits += report.commits;
        sum.resumed += report.resumed;
        sum.losses += report.losses;
        sum.calls += report.calls;
        tell_disk(&report, seeds.trace);
    }
    let DiskReport { crashes, faults, commits, resumed, losses, calls, .. } = sum;
    println!(
        "{passed} disk seeds passed, {failed} failed ({commits} commits, {crashes} cut off in a call, {faults} calls \
         that went wrong, {resumed} groups and Directories found again, {losses} losses told, {calls} calls)"
    );
    failed == 0
}

fn tell_disk(report: &DiskReport, trace: bool) {
    if trace || report.violation.is_some() {
        println!("seed {}:", report.seed);
        report.events.iter().for_each(|event| println!("  {event}"));
    }
    if let Some(violation) = &report.violation {
        println!("seed {} FAILED: {violation}", report.seed);
        println!("replay it: cargo run -p firn-simnet -- disk --seed {} --trace", report.seed);
    }
}
