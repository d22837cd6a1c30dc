//! From one peer on the same machine: what checking and keeping cost beside moving.

use std::path::Path;

use super::{Bench, Row, Seed, streamed};
use crate::{cost::in_turn, error::BenchError};

/// A second.
const FILES_LIMIT: f64 = 20_000.0;

pub(super) fn big(bench: &Bench) -> Result<Row, BenchError> {
    against_stream(bench, bench.places.trees.big()?)
}

pub(super) fn toolchain(bench: &Bench) -> Result<Row, BenchError> {
    against_stream(bench, bench.places.trees.toolchain()?)
}

pub(super) fn small(bench: &Bench) -> Result<Row, BenchError> {
    let seed = Seed::make(bench, "seed", bench.places.trees.small()?)?;
    let costs = in_turn(bench.runs, &mut [Box::new(|| seed.to_a_store(bench, None))])?;
    bench.places.memory.remove("seed")?;
    let (cost, limit) = (costs[0], seed.files as f64 / FILES_LIMIT);
    Ok(Row::limit(cost, cost.seconds, limit, "s", "20,000 files/s").noted(seed.speed(&cost)))
}

/// Against one bare stream of as many bytes, which come out of the big file whatever the tree is.
fn against_stream(bench: &Bench, tree: &Path) -> Result<Row, BenchError> {
    let file = bench.places.trees.big()?;
    let seed = Seed::make(bench, "seed", tree)?;
    let costs = in_turn(
        bench.runs,
        &mut [Box::new(|| seed.to_a_store(bench, None)), Box::new(|| streamed(file, seed.bytes, None))],
    )?;
    bench.places.memory.remove("seed")?;
    let (ours, stream) = (costs[0], costs[1]);
    let stream_speed = seed.bytes as f64 / 1e6 / stream.seconds;
    let note = format!("{}; stream {stream_speed:.0} MB/s", seed.speed(&ours));
    Ok(Row::times(ours, stream, "one bare stream of iroh").noted(note))
}
