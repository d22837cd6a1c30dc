//! Peers that connect, get something small and leave: a node takes no memory for those that have gone.

use std::cell::Cell;

use super::{
    Bench, BenchError, Row,
    firn::{Firn, Node},
};
use crate::{
    cost::{Cost, cost_of_work, cpu_of_children, in_turn_at_once},
    work::work,
};

/// The number of peers before memory is looked at, and again between that and the end.
const PEERS: u64 = 1000;
const FILES: u64 = 20;
const GROWTH_LIMIT: f64 = 1.1;

/// One run, which takes long enough. What is compared is one process with itself.
pub(super) fn memory(bench: &Bench) -> Result<Row, BenchError> {
    let firn = Firn::at(bench.places.memory.scratch()?);
    let root = firn.add(&bench.places.trees.small_part(FILES)?)?.root;
    let count = bench.places.trees.scaled(PEERS);
    let (before, after) = (Cell::new(0.0), Cell::new(0.0));
    let come_and_go = || {
        let cpu = cpu_of_children()?;
        let node = firn.node(&["--role", "seed"])?;
        let mut seconds = short_peers(&node, &root, count)?;
        before.set(node.memory()?.resident_mb);
        seconds += short_peers(&node, &root, count)?;
        let memory = node.memory()?;
        after.set(memory.resident_mb);
        node.end();
        Ok(Cost { seconds, cpu_s: cpu_of_children()? - cpu, peak_rss_mb: memory.peak_mb })
    };
    let costs = in_turn_at_once(1, &mut [Box::new(come_and_go)])?;
    let (before, after, seconds) = (before.get(), after.get(), costs[0].seconds);
    let note = format!(
        "{before:.1} MB after the first {count}, {after:.1} MB after as many more; {:.1} peers/s",
        2.0 * count as f64 / seconds
    );
    Ok(Row::limit(costs[0], after / before, GROWTH_LIMIT, "x", "limit").noted(note))
}

/// How long it takes until all have been there; each of them must get the tree.
fn short_peers(node: &Node, root: &str, count: u64) -> Result<f64, BenchError> {
    let (peer, count) = (node.peer.to_string(), count.to_string());
    Ok(cost_of_work(work(&["short-peers", &peer, root, "--count", &count]))?.0.seconds)
}
