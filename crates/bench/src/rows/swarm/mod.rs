//! What peers give each other.
//!
//! "Store to store" is from the call of a consumer's engine, whose store is open and empty, until what came is durable.
//! Stores are on a tmpfs. Each run has processes of its own; their whole CPU is counted, that of opening the stores
//! included.

mod loopback;
mod memory;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Bench, How, Plan, adding, plan, work};
use crate::{
    cost::{Cost, cost_of_work},
    error::BenchError,
    table::Row,
    tools::Tool,
    trees::{files, total_bytes},
};

/// The rows of the swarm, in the order in which they are measured.
pub(crate) const SWARM: [Plan; 4] = [
    plan("big file from a peer", Some(0.75), &[], false, loopback::big),
    plan("small tree from a peer", Some(1.0), &[], false, loopback::small),
    plan("toolchain from a peer", Some(0.55), &[Tool::Rustc], false, loopback::toolchain),
    plan("memory of a seeder, 50 connections", Some(1.0), &[], false, memory::of_seeder),
];

/// A store with one tree, which peers may have.
struct Seed {
    store: PathBuf,
    root: String,
    bytes: u64,
    files: u64,
}

impl Seed {
    /// Adds a tree to a store in memory. Of others of this name there is none.
    fn make(bench: &Bench, name: &str, tree: &Path) -> Result<Self, BenchError> {
        let store = bench.places.memory.join(name);
        let report = cost_of_work(adding(&store, tree, How::Copy))?.1;
        let (bytes, files) = (total_bytes(tree)?, files(tree)?.len() as u64);
        Ok(Self { store, root: report.said.root.unwrap_or_default(), bytes, files })
    }

    /// What gives it to peers.
    fn seeding(&self) -> Command {
        work(&["seed".as_ref(), self.store.as_os_str()])
    }

    /// What gets it from peers into a store.
    fn getting(&self, store: &Path, peers: &BTreeSet<String>) -> Command {
        let mut command = work(&["get".as_ref(), store.as_os_str()]);
        command.arg(&self.root).args(peers);
        command
    }

    /// How fast it came, and for how much CPU.
    fn speed(&self, cost: &Cost) -> String {
        let megabytes = self.bytes as f64 / 1e6;
        let (files, per_gb) = (self.files as f64 / cost.seconds, cost.cpu_s * 1e3 / megabytes);
        format!("{:.0} MB/s, {files:.0} files/s, {per_gb:.2} CPU s/GB", megabytes / cost.seconds)
    }
}
