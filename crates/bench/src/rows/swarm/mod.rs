//! What peers give each other.
//!
//! "Store to store" is from the call of a consumer's engine, whose store is open and empty, until what came is durable.
//! Stores are on a tmpfs. Each run has processes of its own; their whole CPU is counted, that of opening the stores
//! included.

mod among;
mod links;
mod loopback;
mod many;
mod memory;
mod nix;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{Bench, How, Plan, adding, plan};
use crate::{
    cost::{Cost, cost_of_work, cpu_of_children},
    error::BenchError,
    lab::Host,
    serving::Server,
    table::Row,
    tools::Tool,
    trees::{files, total_bytes},
    work::work,
};

/// What makes hosts of our own.
const NETWORK: [Tool; 2] = [Tool::Ip, Tool::Tc];
const LOSSY: [Tool; 4] = [Tool::Ip, Tool::Tc, Tool::Nginx, Tool::Curl];
const TEXT: [Tool; 5] = [Tool::Ip, Tool::Tc, Tool::Tar, Tool::Zstd, Tool::Rustc];
const NIX: [Tool; 4] = [Tool::Nix, Tool::Nginx, Tool::Curl, Tool::Rustc];

/// The rows of the swarm, in the order in which they are measured.
pub(crate) const SWARM: [Plan; 14] = [
    plan("big file from a peer", Some(0.75), &[], false, loopback::big),
    plan("small tree from a peer", Some(1.0), &[], false, loopback::small),
    plan("toolchain from a peer", Some(0.55), &[Tool::Rustc], false, loopback::toolchain),
    plan("memory of a seeder, 50 connections", Some(1.0), &[], false, memory::of_seeder),
    plan("file from 4 peers of 100 Mbit/s", Some(0.92), &NETWORK, false, many::four),
    plan("small tree, 100 Mbit/s, 40 ms", Some(0.85), &NETWORK, false, links::small),
    plan("10 MB of it, 1 % loss", Some(1.0), &LOSSY, false, links::lossy),
    plan("one of 3 peers killed halfway", None, &NETWORK, false, many::killed),
    plan("one of 3 peers lies", Some(0.91), &NETWORK, false, many::lying),
    plan("5 consumers, 20 Mbit/s seeder", Some(0.77), &NETWORK, false, among::five),
    plan("first byte of a file, 40 ms", Some(1.0), &NETWORK, false, links::first_byte),
    plan("nix copy, contents at a peer", Some(0.70), &NIX, false, nix::from_peer),
    plan("nix copy, contents in the store", Some(0.95), &NIX, false, nix::from_store),
    plan("text over the wire", Some(0.87), &TEXT, false, links::text),
];

/// A store with one tree, which peers may have.
struct Seed {
    store: PathBuf,
    root: String,
    path: String,
    bytes: u64,
    files: u64,
}

impl Seed {
    /// Adds a tree to a new store in memory, in the place of one that a failed row may have left.
    fn make(bench: &Bench, name: &str, tree: &Path) -> Result<Self, BenchError> {
        let store = bench.places.memory.join(name);
        if store.exists() {
            bench.places.memory.remove(name)?;
        }
        let said = cost_of_work(adding(&store, tree, How::Copy))?.1.said;
        let (root, path) = (said.root.unwrap_or_default(), said.path.unwrap_or_default());
        let (bytes, files) = (total_bytes(tree)?, files(tree)?.len() as u64);
        Ok(Self { store, root, path, bytes, files })
    }

    /// What gives it to peers, on a host or else on the loopback.
    fn seeding(&self, host: Option<&Host>) -> Result<Command, BenchError> {
        at(host, work(&["seed".as_ref(), self.store.as_os_str()]))
    }

    /// What gets it from peers into a store.
    fn getting(&self, store: &Path, peers: &[&str], host: Option<&Host>) -> Result<Command, BenchError> {
        let mut command = work(&["get".as_ref(), store.as_os_str()]);
        command.arg(&self.root).args(peers);
        at(host, command)
    }

    /// What it takes to get it from one peer into an empty store; the peak is the larger of both ends'.
    fn to_a_store(&self, bench: &Bench, hosts: Option<&[Host; 2]>) -> Result<Cost, BenchError> {
        let [from, to] = ends(hosts);
        let store = bench.places.memory.scratch()?.join("store");
        let cpu = cpu_of_children()?;
        let (mut server, peer) = Server::start_ours(&mut self.seeding(from)?)?;
        let (got, _) = cost_of_work(self.getting(&store, &[&peer], to)?)?;
        let gave = server.end_by_closing_its_input()?;
        let peak_rss_mb = got.peak_rss_mb.max(gave.peak_rss_mb);
        Ok(Cost { cpu_s: cpu_of_children()? - cpu, peak_rss_mb, ..got })
    }

    /// How fast it came, and for how much CPU.
    fn speed(&self, cost: &Cost) -> String {
        let megabytes = self.bytes as f64 / 1e6;
        let files = match self.files {
            1 => String::new(),
            files => format!("{:.0} files/s, ", files as f64 / cost.seconds),
        };
        let per_gb = cost.cpu_s * 1e3 / megabytes;
        format!("{:.1} MB/s, {files}{per_gb:.2} CPU s/GB", megabytes / cost.seconds)
    }
}

/// What it takes to get so many bytes of a file over one bare stream.
fn streamed(file: &Path, bytes: u64, hosts: Option<&[Host; 2]>) -> Result<Cost, BenchError> {
    let [from, to] = ends(hosts);
    let cpu = cpu_of_children()?;
    let mut sending = work(&["raw-send".as_ref(), file.as_os_str()]);
    sending.arg(bytes.to_string());
    let (mut server, peer) = Server::start_ours(&mut at(from, sending)?)?;
    let (took, _) = cost_of_work(at(to, work(&["raw-take", peer.as_str()]))?)?;
    server.end_by_closing_its_input()?;
    Ok(Cost { cpu_s: cpu_of_children()? - cpu, ..took })
}

fn ends(hosts: Option<&[Host; 2]>) -> [Option<&Host>; 2] {
    hosts.map_or([None; 2], |[from, to]| [Some(from), Some(to)])
}

fn at(host: Option<&Host>, mut command: Command) -> Result<Command, BenchError> {
    match host {
        Some(host) => {
            command.args(["--ip", &host.ip().to_string()]);
            host.runs(command)
        }
        None => Ok(command),
    }
}
