//! What a seeder needs while many ask it.

use super::{Bench, Row, Seed, adding, work};
use crate::{
    cost::{Cost, cost_of_work, cpu_of_children, in_turn},
    error::BenchError,
    rows::How,
    serving::Server,
};

const CONNECTIONS: usize = 50;
const MEMORY_MB_LIMIT: f64 = 150.0;
/// Half of the peers want a file of this size, the others a tree of so many small files.
const FILE_BYTES: u64 = 32 << 20;
const FILES: u64 = 2000;

/// All get at once. Their own memory is another process's.
pub(super) fn of_seeder(bench: &Bench) -> Result<Row, BenchError> {
    let trees = &bench.places.trees;
    let seed = Seed::make(bench, "seed", &trees.file(FILE_BYTES)?)?;
    let other = cost_of_work(adding(&seed.store, &trees.small_part(FILES)?, How::Copy))?.1;
    let roots = [seed.root.clone(), other.said.root.unwrap_or_default()];
    let asked_by_all = || {
        let cpu = cpu_of_children()?;
        let (mut server, peer) = Server::start_ours(&mut seed.seeding(None)?)?;
        let mut crowd = work(&["crowd", &peer, "--count", &CONNECTIONS.to_string()]);
        let (crowd, _) = cost_of_work({
            crowd.args(&roots);
            crowd
        })?;
        let peak_rss_mb = server.end_by_closing_its_input()?.peak_rss_mb;
        Ok(Cost { cpu_s: cpu_of_children()? - cpu, peak_rss_mb, ..crowd })
    };
    let costs = in_turn(bench.runs, &mut [Box::new(asked_by_all)])?;
    bench.places.memory.remove("seed")?;
    let note = format!("all served in {:.2} s", costs[0].seconds);
    Ok(Row::limit(costs[0], costs[0].peak_rss_mb, MEMORY_MB_LIMIT, "MB", "limit").noted(note))
}
