//! From one peer over a link that is slow, long or lossy.

use std::{cell::RefCell, path::Path, process::Command, time::Duration};

use super::{Bench, Row, Seed, at, streamed};
use crate::{
    cost::{Cost, cost_of_work, cpu_of_children, in_turn, in_turn_at_once, median, output_of},
    error::BenchError,
    lab::{Host, Lab, LongLink, Mbit},
    rows::{
        http::{hash_of, write_nar},
        nginx::{Nginx, fetch},
    },
    serving::Server,
    tools::Tool,
    work::work,
};

const RATE: Mbit = Mbit(100);
const SLOW: Mbit = Mbit(20);
const ROUND_TRIP: Duration = Duration::from_millis(40);
/// Of the small tree: 10 MB.
const PART_FILES: u64 = 1430;
/// A path of a usual size.
const USUAL_FILES: u64 = 200;
const ROUND_TRIPS_LIMIT: f64 = 5.0;
const NAR: &str = "part.nar";

/// The limit is the time in which the link carries the contents of all files, without any headers.
pub(super) fn small(bench: &Bench) -> Result<Row, BenchError> {
    let seed = Seed::make(bench, "seed", bench.places.trees.small()?)?;
    let lab = Lab::new()?;
    let hosts = lab.pair(LongLink { round_trip: ROUND_TRIP, rate: Some(RATE), loss: 0.0 })?;
    let ours = || seed.to_a_store(bench, Some(&hosts));
    let costs = in_turn_at_once(bench.few_runs(), &mut [Box::new(ours)])?;
    bench.places.memory.remove("seed")?;
    let (cost, limit) = (costs[0], RATE.seconds(seed.bytes));
    Ok(Row::limit(cost, cost.seconds, limit, "s", "the link").noted(seed.speed(&cost)))
}

/// All over one connection; TCP has cubic, as we do. What is lost differs from run to run and decides much, so there are
/// more runs than usual.
pub(super) fn lossy(bench: &Bench) -> Result<Row, BenchError> {
    let place = &bench.places.memory;
    let seed = Seed::make(bench, "seed", &bench.places.trees.small_part(PART_FILES)?)?;
    let lab = Lab::new()?;
    let hosts = lab.pair(LongLink { round_trip: ROUND_TRIP, rate: Some(RATE), loss: 0.01 })?;
    let nginx = Nginx::make(place, Some(&hosts[0]))?;
    let nar_size = write_nar(&seed.store, &nginx.file(NAR))?;
    let curl = || {
        let cpu = cpu_of_children()?;
        let mut server = nginx.start()?;
        let seconds = fetch(&nginx.url(NAR), nar_size, Some(&hosts[1]))?;
        server.end_by_signal();
        Ok(Cost { seconds, cpu_s: cpu_of_children()? - cpu, peak_rss_mb: 0.0 })
    };
    let runs = (bench.runs * 9).div_ceil(5);
    let ours = || seed.to_a_store(bench, Some(&hosts));
    let stream = || streamed(&nginx.file(NAR), nar_size, Some(&hosts));
    let costs = in_turn_at_once(runs, &mut [Box::new(ours), Box::new(curl), Box::new(stream)])?;
    place.remove("seed")?;
    place.remove("nginx")?;
    let stream_s = costs[2].seconds;
    let note = format!("medians of {runs}; {}; bare stream {stream_s:.1} s", seed.speed(&costs[0]));
    Ok(Row::times(costs[0], costs[1], "nginx to curl").noted(note))
}

/// All that the seeder sends, headers included.
pub(super) fn text(bench: &Bench) -> Result<Row, BenchError> {
    let tree = bench.places.trees.text()?;
    let seed = Seed::make(bench, "seed", &tree)?;
    let lab = Lab::new()?;
    let hosts = [lab.host(Some(SLOW))?, lab.host(None)?];
    let sent = RefCell::new(Vec::new());
    let ours = || {
        let before = hosts[0].sent_bytes()?;
        let cost = seed.to_a_store(bench, Some(&hosts))?;
        sent.borrow_mut().push((hosts[0].sent_bytes()? - before) as f64 / 1e6);
        Ok(cost)
    };
    let costs = in_turn_at_once(bench.few_runs(), &mut [Box::new(ours)])?;
    bench.places.memory.remove("seed")?;
    let note = format!("{:.1} MB of text in {:.1} s", seed.bytes as f64 / 1e6, costs[0].seconds);
    let sent = median(&sent.borrow());
    Ok(Row::limit(costs[0], sent, packed_mb(&tree)?, "MB", "tar | zstd -3").noted(note))
}

fn packed_mb(tree: &Path) -> Result<f64, BenchError> {
    Tool::Tar.find()?;
    Tool::Zstd.find()?;
    let mut shell = Command::new("sh");
    shell.args(["-c", "tar c --sort=name -C \"$0\" . | zstd -3 -c | wc -c"]).arg(tree);
    let said = output_of(&mut shell)?;
    let bytes: u64 = said
        .trim()
        .parse()
        .map_err(|_| BenchError::Answer { program: "wc".into(), said: said.as_str().into() })?;
    Ok(bytes as f64 / 1e6)
}

/// The reader's process knows the peer's address and has no connection.
pub(super) fn first_byte(bench: &Bench) -> Result<Row, BenchError> {
    let seed = Seed::make(bench, "seed", &bench.places.trees.small_part(USUAL_FILES)?)?;
    let lab = Lab::new()?;
    let hosts = lab.pair(LongLink { round_trip: ROUND_TRIP, rate: None, loss: 0.0 })?;
    let stages = RefCell::new(Vec::new());
    let read = || {
        let (cost, stages_s) = read_first(&seed, &hosts)?;
        *stages.borrow_mut() = stages_s;
        Ok(cost)
    };
    let costs = in_turn(bench.runs, &mut [Box::new(read)])?;
    bench.places.memory.remove("seed")?;
    let round_trips = costs[0].seconds / ROUND_TRIP.as_secs_f64();
    let stages: Vec<String> =
        stages.borrow().iter().map(|s| format!("{:.1}", s / ROUND_TRIP.as_secs_f64())).collect();
    let note = format!("of {} files; at last claim and tree at {}", seed.files, stages.join(" and "));
    Ok(Row::limit(costs[0], round_trips, ROUND_TRIPS_LIMIT, "RTT", "limit").noted(note))
}

fn read_first(seed: &Seed, [from, to]: &[Host; 2]) -> Result<(Cost, Vec<f64>), BenchError> {
    let cpu = cpu_of_children()?;
    let (mut server, peer) = Server::start_ours(&mut seed.seeding(Some(from))?)?;
    let reading = work(&["first-byte", hash_of(&seed.path), &peer]);
    let (cost, report) = cost_of_work(at(Some(to), reading)?)?;
    server.end_by_closing_its_input()?;
    Ok((Cost { cpu_s: cpu_of_children()? - cpu, ..cost }, report.said.stages_s))
}
