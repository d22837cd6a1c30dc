//! Runs seeds and tells how they went. A line or two of result at the end; a failure prints its seed.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod cli;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use firn_simnet::disk::Pool;

use crate::cli::seeds::Seeds;
use crate::cli::{disks, swarms, worlds};

/// Lets the production machine fetch in made-up worlds full of liars: of each seed one consumer's world and one swarm.
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
    /// Worlds of one consumer alone.
    Worlds(Seeds),
    /// Swarms alone: many nodes fetch from each other while others come, go and lie.
    Swarm(SwarmArguments),
    /// Lets the store work on a disk that loses, tears and refuses, and ends its process at any moment.
    Disk(Seeds),
}

#[derive(Args)]
struct SwarmArguments {
    #[command(flatten)]
    seeds: Seeds,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// True if all went well.
fn run(arguments: &Arguments) -> Result<bool, String> {
    match &arguments.command {
        None => {
            let seeds = &arguments.seeds;
            let totals = seeds.each("worlds and swarms", |seed, totals| {
                worlds::run_world(seed, seeds.trace, totals);
                swarms::run_one(seed, seeds.trace, totals);
            })?;
            Ok(worlds::sum_up(&totals) & swarms::sum_up(&totals))
        }
        Some(Command::Worlds(seeds)) => {
            let totals = seeds.each("worlds", |seed, totals| worlds::run_world(seed, seeds.trace, totals))?;
            Ok(worlds::sum_up(&totals))
        }
        Some(Command::Swarm(SwarmArguments { seeds })) => {
            let totals = seeds.each("swarms", |seed, totals| {
                swarms::run_one(seed, seeds.trace, totals);
            })?;
            Ok(swarms::sum_up(&totals))
        }
        Some(Command::Disk(seeds)) => {
            let pool = Pool::new();
            let totals =
                seeds.each("disks", |seed, totals| disks::run_one(&pool, seed, seeds.trace, totals))?;
            Ok(disks::sum_up(&totals))
        }
    }
}
