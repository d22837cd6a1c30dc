//! A peer that names others which have left: a command ends when its work is done.

use std::{cell::RefCell, time::Instant};

use super::{
    Bench, BenchError, Row,
    firn::{Firn, parsed},
    on_top,
};
use crate::{
    cost::{Cost, cost_of_work, cpu_of_children, in_turn, median, output_of},
    work::work,
};

/// Of the small tree: 1 MB.
const FILES: u64 = 143;
/// Each at an address of its own, since of one host only a few are tried.
const HINTS: u64 = 10;
const ALLOWED_S: f64 = 0.2;

/// The node is new each time: who gets from it is among those that it names to the next.
pub(super) fn dead(bench: &Bench) -> Result<Row, BenchError> {
    let name = "hinting";
    let seeder = Firn::at(bench.places.memory.join(name));
    let root = seeder.add(&bench.places.trees.small_part(FILES)?)?.root;
    let (fetches, hinted) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
    let get = |hints: u64| {
        let consumer = Firn::at(bench.places.memory.scratch()?.join("data"));
        let cpu = cpu_of_children()?;
        let node = seeder.node(&["--role", "seed"])?;
        let peer = node.peer.to_string();
        if hints > 0 {
            let count = hints.to_string();
            cost_of_work(work(&["crowd", &peer, &root, "--apart", "--count", &count]))?;
        }
        let mut command = consumer.command(&["get", &root, "--peer", &peer, "--mdns", "false"])?;
        let begun = Instant::now();
        let said = output_of(&mut command)?;
        let seconds = begun.elapsed().as_secs_f64();
        let json = parsed(&said)?;
        let peers = json["peers"].as_array().map_or(&[][..], Vec::as_slice);
        if hints > 0 {
            hinted.borrow_mut().push(peers.iter().filter(|peer| peer["via"] == "fellow").count());
            fetches.borrow_mut().push(json["seconds"].as_f64().unwrap_or_default());
        }
        let peak_rss_mb = node.memory()?.peak_mb;
        node.end();
        Ok(Cost { seconds, cpu_s: cpu_of_children()? - cpu, peak_rss_mb })
    };
    let contenders = (|| get(HINTS), || get(0));
    let costs = in_turn(bench.runs, &mut [Box::new(contenders.0), Box::new(contenders.1)])?;
    bench.places.memory.remove(name)?;
    let tried = hinted.borrow().iter().copied().min().unwrap_or(0);
    let fetch_s = median(&fetches.borrow());
    let row = on_top(costs[0], costs[1].seconds, ALLOWED_S, "the same without hints, + 200 ms");
    Ok(row.also_noted(&format!("the fetch itself {fetch_s:.3} s; {tried} hints were followed")))
}
