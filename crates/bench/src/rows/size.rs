//! What the store takes: memory while it works, disk afterwards.

use std::{path::Path, process::Stdio};

use super::{Bench, How, add_afresh, adding};
use crate::{
    cost::{Pipeline, cost_of_work, in_turn},
    error::BenchError,
    places::sync,
    table::Row,
    trees::{allocated_bytes, total_bytes, unique_bytes},
};

const MEMORY_MB_LIMIT: f64 = 200.0;
const BESIDE_TOOLCHAIN_PERCENT_LIMIT: f64 = 1.2;
const BESIDE_BIG_PERCENT_LIMIT: f64 = 0.45;
/// Of the unique bytes.
const COPIED_LIMIT: f64 = 1.02;

pub(super) fn memory_of_add(bench: &Bench) -> Result<Row, BenchError> {
    memory(bench, How::Copy)
}

pub(super) fn memory_of_adopt(bench: &Bench) -> Result<Row, BenchError> {
    memory(bench, How::Adopt)
}

fn memory(bench: &Bench, how: How) -> Result<Row, BenchError> {
    let tree = bench.places.trees.toolchain()?;
    let cost = in_turn(bench.runs, &mut [add_afresh(&bench.places.memory, tree, how)])?;
    let cost = cost.first().copied().unwrap_or_default();
    Ok(Row::limit(cost, cost.peak_rss_mb, MEMORY_MB_LIMIT, "MB", "limit"))
}

pub(super) fn beside_toolchain(bench: &Bench) -> Result<Row, BenchError> {
    let tree = bench.places.trees.toolchain()?;
    disk(bench, tree, How::Adopt, 100.0 / total_bytes(tree)? as f64, BESIDE_TOOLCHAIN_PERCENT_LIMIT, "%")
}

pub(super) fn beside_big(bench: &Bench) -> Result<Row, BenchError> {
    let tree = bench.places.trees.big()?;
    disk(bench, tree, How::Adopt, 100.0 / total_bytes(tree)? as f64, BESIDE_BIG_PERCENT_LIMIT, "%")
}

pub(super) fn copied_toolchain(bench: &Bench) -> Result<Row, BenchError> {
    copied(bench, bench.places.trees.toolchain()?)
}

pub(super) fn copied_small(bench: &Bench) -> Result<Row, BenchError> {
    copied(bench, bench.places.trees.small()?)
}

/// Unique bytes are those of the files; Directories, names and index all count as the store's own.
fn copied(bench: &Bench, tree: &Path) -> Result<Row, BenchError> {
    disk(bench, tree, How::Copy, 1.0 / unique_bytes(tree)? as f64, COPIED_LIMIT, "x")
}

/// The blocks of a closed store's directory times `share`. It comes out the same each time, so that one run is enough.
fn disk(
    bench: &Bench,
    tree: &Path,
    how: How,
    share: f64,
    limit: f64,
    unit: &'static str,
) -> Result<Row, BenchError> {
    let store = bench.places.disk.scratch()?.join("store");
    let (cost, _) = cost_of_work(adding(&store, tree, how))?;
    // A file system may give out blocks only when it writes.
    Pipeline::from(sync(&store)).run(Stdio::null())?;
    let taken = allocated_bytes(&store)? as f64;
    Ok(Row::limit(cost, taken * share, limit, unit, "limit"))
}
