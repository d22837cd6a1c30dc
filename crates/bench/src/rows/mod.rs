//! What is measured.

mod add;
mod adopt;
mod edges;
mod http;
mod nar;
mod nginx;
mod size;
mod swarm;

pub(crate) use edges::EDGES;
pub(crate) use swarm::SWARM;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cost::{Contender, Cost, cost_of_work, in_turn},
    error::BenchError,
    places::{Place, Places},
    table::Row,
    tools::Tool,
    work::work,
};

/// What waits most of its time, for a link or a clock, takes long and varies little: it runs no oftener than this.
const FEW_RUNS: usize = 3;

/// One row: its name, what it should reach, what it needs, and how it is measured.
pub(crate) struct Plan {
    /// Its name.
    pub(crate) name: &'static str,
    /// The ratio that it should reach.
    pub(crate) goal: Option<f64>,
    /// The programs that it needs.
    pub(crate) tools: &'static [Tool],
    /// Whether it needs a disk.
    pub(crate) needs_disk: bool,
    measure: fn(&Bench) -> Result<Row, BenchError>,
}

impl Plan {
    /// Measures it.
    pub(crate) fn run(&self, bench: &Bench) -> Result<Row, BenchError> {
        Ok((self.measure)(bench)?.named(self.name, self.goal))
    }
}

const fn plan(
    name: &'static str,
    goal: Option<f64>,
    tools: &'static [Tool],
    needs_disk: bool,
    measure: fn(&Bench) -> Result<Row, BenchError>,
) -> Plan {
    Plan { name, goal, tools, needs_disk, measure }
}

/// The rows of the store, in the order in which they are measured.
pub(crate) const STORE: [Plan; 14] = [
    plan("add small tree to disk, durable", Some(5.0), &[], true, add::small_to_disk),
    plan("add small tree in memory", Some(0.40), &[Tool::Tar], false, add::small_in_memory),
    plan("add big file in memory", Some(0.9), &[Tool::OpenSsl], false, add::big_in_memory),
    plan("add big file to disk, durable", Some(0.9), &[Tool::OpenSsl], true, add::big_to_disk),
    plan("adopt toolchain", Some(0.7), &[Tool::Rustc, Tool::OpenSsl], false, adopt::toolchain),
    plan("add toolchain again", Some(8.0), &[Tool::Rustc], false, add::toolchain_again),
    plan("NAR of toolchain into a pipe", Some(1.0), &[Tool::Rustc, Tool::NixStore], false, nar::toolchain),
    plan("NAR of big file over HTTP", Some(1.0), &[Tool::Nginx, Tool::Curl], false, http::big),
    plan("peak memory of add, toolchain", Some(1.0), &[Tool::Rustc], false, size::memory_of_add),
    plan("peak memory of adopt, toolchain", Some(1.0), &[Tool::Rustc], false, size::memory_of_adopt),
    plan("disk beside adopted toolchain", Some(1.0), &[Tool::Rustc], true, size::beside_toolchain),
    plan("disk beside adopted big file", Some(1.0), &[], true, size::beside_big),
    plan("disk of copied toolchain", Some(1.0), &[Tool::Rustc], true, size::copied_toolchain),
    plan("disk of copied small tree", None, &[], true, size::copied_small),
];

/// What all rows have in common.
pub(crate) struct Bench {
    /// Where things are made.
    pub(crate) places: Places,
    /// How often each contender runs, besides its warm-up.
    pub(crate) runs: usize,
}

impl Bench {
    /// How often each contender of a row runs that takes long.
    fn few_runs(&self) -> usize {
        self.runs.min(FEW_RUNS)
    }
}

/// How a tree comes into a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Copy,
    Adopt,
}

/// What adds a tree to a store.
fn adding(store: &Path, tree: &Path, how: How) -> Command {
    let mut command = work(&["add".as_ref(), store.as_os_str(), tree.as_os_str()]);
    command.args((how == How::Adopt).then_some("--in-place"));
    command
}

/// Adds a tree to a new store in an empty directory.
fn add_afresh<'a>(place: &'a Place, tree: &'a Path, how: How) -> Contender<'a> {
    Box::new(move || {
        let store = place.scratch()?.join("store");
        Ok(cost_of_work(adding(&store, tree, how))?.0)
    })
}

/// Makes a store that has a tree, for others to read; where it is, and the path's name.
fn store_with(place: &Place, name: &str, tree: &Path) -> Result<(PathBuf, String), BenchError> {
    let store = place.join(name);
    let report = cost_of_work(adding(&store, tree, How::Copy))?.1;
    Ok((store, report.said.path.unwrap_or_default()))
}

/// Ours against the slowest of others, all in turn.
fn against_slowest<'a>(
    bench: &Bench,
    ours: Contender<'a>,
    others: Vec<(&'static str, Contender<'a>)>,
) -> Result<Row, BenchError> {
    let (names, others): (Vec<_>, Vec<_>) = others.into_iter().unzip();
    let mut contenders: Vec<Contender<'a>> = std::iter::once(ours).chain(others).collect();
    let costs = in_turn(bench.runs, &mut contenders)?;
    let (ours, others) =
        costs.split_first().map_or((Cost::default(), &[][..]), |(ours, others)| (*ours, others));
    let slowest = others.iter().zip(names).max_by(|one, other| one.0.seconds.total_cmp(&other.0.seconds));
    let (baseline, name) = slowest.map_or((Cost::default(), ""), |(cost, name)| (*cost, name));
    Ok(Row::times(ours, baseline, name))
}
