//! What firn reaches, beside what others reach in the same run.
//!
//! Each row runs our work and its baseline in turn, once to warm up and then some times more, and gives the medians.
//! Ours runs in a process of its own each time, from opening the store to its durable commit and its closing; theirs is
//! timed from its start to its end. A ratio is always better when larger: for times it is baseline / ours, for memory
//! and disk, where the baseline is a limit, it is limit / ours.
//!
//! What it is honest about: the sources lie in memory or in warm caches for both; before each run what the last one left
//! is deleted and the file system is synced, so that nobody pays for another; `sync -f` counts where ours is durable; CPU
//! is that of all processes that take part, readers and servers too; peak memory is the kernel's VmHWM.
//!
//! Deliberately absent: statistics beyond the median, judgement (a row that falls short is no error).
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod cost;
mod crowd;
mod error;
mod first_byte;
mod input;
mod lab;
mod peers;
mod places;
mod raw;
mod reading;
mod rows;
mod serving;
mod strangers;
mod table;
mod tools;
mod trees;
mod work;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    error::BenchError,
    places::{Places, Wanted},
    rows::{Bench, EDGES, Plan, STORE, SWARM},
    trees::Scale,
    work::Work,
};

/// As the `firn` program has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Wrong use, as clap has it.
const USAGE: u8 = 2;
const RUNS_MAX: u32 = 1000;

#[derive(Debug, Parser)]
#[command(version, about = "What firn reaches, beside what others reach in the same run")]
struct Arguments {
    #[command(subcommand)]
    hidden: Option<Hidden>,
    #[command(flatten)]
    choice: Choice,
}

#[derive(Debug, Subcommand)]
enum Hidden {
    /// One piece of our own work, for a row.
    #[command(subcommand, hide = true)]
    Work(Work),
}

#[derive(Debug, Args)]
struct Choice {
    /// Which rows.
    #[arg(long, value_enum, default_value = "all")]
    rows: Rows,
    /// Only rows whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// One JSON object a line instead of the table.
    #[arg(long)]
    json: bool,
    /// Where trees and stores are made: about 8 GiB in memory [default: /dev/shm].
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
    /// Where the rows that need a disk write: about 3 GiB [default: target/tmp].
    #[arg(long, value_name = "DIRECTORY")]
    disk_dir: Option<PathBuf>,
    /// How often each contender runs after its warm-up.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=i64::from(RUNS_MAX)))]
    runs: u32,
    /// Keeps what was made.
    #[arg(long)]
    keep: bool,
    /// The share of their size that trees are made in: whether the bench works can be seen without waiting.
    #[arg(long, hide = true, default_value_t = 1.0)]
    scale: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rows {
    /// The store's.
    Store,
    /// The swarm's.
    Swarm,
    /// Those of a node among clients and peers that behave badly.
    Edges,
    /// All that there are.
    All,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Hidden::Work(work)) = arguments.hidden {
        return match work.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failure(&*error),
        };
    }
    let choice = arguments.choice;
    let plans = selected(choice.rows, &choice.only);
    if plans.is_empty() {
        let names: Vec<&str> = selected(choice.rows, "").iter().map(|plan| plan.name).collect();
        eprintln!("firn-bench: no row's name contains \"{}\"; there are:\n{}", choice.only, names.join("\n"));
        return ExitCode::from(USAGE);
    }
    match run(&choice, &plans) {
        Ok(code) => code,
        Err(error) => failure(&error),
    }
}

fn failure(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("firn-bench: {error}");
    ExitCode::FAILURE
}

fn selected(rows: Rows, only: &str) -> Vec<&'static Plan> {
    let groups: [(Rows, &[Plan]); 3] = [(Rows::Store, &STORE), (Rows::Swarm, &SWARM), (Rows::Edges, &EDGES)];
    let chosen = groups.into_iter().filter(|(group, _)| rows == Rows::All || rows == *group);
    chosen.flat_map(|(_, plans)| plans).filter(|plan| plan.name.contains(only)).collect()
}

/// Measures and prints row by row. A row that fails is told and does not keep the others from being measured.
fn run(choice: &Choice, plans: &[&Plan]) -> Result<ExitCode, BenchError> {
    for tool in plans.iter().flat_map(|plan| plan.tools) {
        tool.find()?;
    }
    let wanted = Wanted {
        directory: choice.dir.clone(),
        disk: choice.disk_dir.clone(),
        needs_disk: plans.iter().any(|plan| plan.needs_disk),
        keep: choice.keep,
    };
    let bench = Bench { places: Places::make(&wanted, Scale(choice.scale))?, runs: choice.runs as usize };
    if !choice.json {
        println!("{}, medians of {}\n\n{}", table::machine(), choice.runs, table::head());
    }
    let mut code = ExitCode::SUCCESS;
    for plan in plans {
        match plan.run(&bench) {
            Ok(row) if choice.json => row.all().for_each(|row| println!("{}", row.json())),
            Ok(row) => row.all().for_each(|row| println!("{row}")),
            Err(error) => {
                eprintln!("firn-bench: {}: {error}", plan.name);
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn only_selects_by_a_part_of_the_name() {
        assert_eq!(selected(Rows::Store, "").len(), STORE.len());
        assert_eq!(selected(Rows::Swarm, "").len(), SWARM.len());
        assert_eq!(selected(Rows::Edges, "").len(), EDGES.len());
        assert_eq!(selected(Rows::All, "").len(), STORE.len() + SWARM.len() + EDGES.len());
        let names: Vec<&str> = selected(Rows::Store, "peak memory").iter().map(|plan| plan.name).collect();
        assert_eq!(names, ["peak memory of add, toolchain", "peak memory of adopt, toolchain"]);
        assert!(selected(Rows::All, "no such row").is_empty());
    }

    #[test]
    fn each_row_has_a_name_of_its_own() {
        let plans = selected(Rows::All, "");
        let names: BTreeSet<&str> = plans.iter().map(|plan| plan.name).collect();
        assert_eq!(names.len(), plans.len());
    }
}
