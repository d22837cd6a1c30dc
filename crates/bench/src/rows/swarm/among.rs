//! Consumers that want the same thing at the same time, and one slow seeder: what one has got, others can have from it.

use std::cell::RefCell;

use firn_net::StaticPeer;

use super::{Bench, Row, Seed};
use crate::{
    cost::{Cost, cpu_of_children, in_turn_at_once, median},
    error::BenchError,
    lab::{Host, Lab, Mbit},
    peers::identity,
    serving::Server,
};

const CONSUMERS: usize = 5;
const SEEDER: Mbit = Mbit(20);
/// Between consumers there is room.
const CONSUMER: Mbit = Mbit(100);
/// Of the small tree: 50 MB.
const FILES: u64 = 7150;
const PORT: u16 = 7334;
const UPLOAD_LIMIT: f64 = 1.15;

/// All begin at once, and know each other's addresses; the time is that of the last. Nobody leaves before that.
pub(super) fn five(bench: &Bench) -> Result<Row, BenchError> {
    let seed = Seed::make(bench, "seed", &bench.places.trees.small_part(FILES)?)?;
    let lab = Lab::new()?;
    let seeder = lab.host(Some(SEEDER))?;
    let consumers =
        (0..CONSUMERS).map(|_| lab.host(Some(CONSUMER))).collect::<Result<Vec<_>, BenchError>>()?;
    let uploads = RefCell::new(Vec::new());
    let all = || {
        let (cost, sent) = get(bench, &seed, &seeder, &consumers)?;
        uploads.borrow_mut().push(sent as f64 / seed.bytes as f64);
        Ok(cost)
    };
    let alone = || Ok(get(bench, &seed, &seeder, &consumers[..1])?.0);
    let costs = in_turn_at_once(bench.few_runs(), &mut [Box::new(all), Box::new(alone)])?;
    bench.places.memory.remove("seed")?;
    let upload = Row::limit(costs[0], median(&uploads.borrow()), UPLOAD_LIMIT, "x", "limit");
    let row = Row::times(costs[0], costs[1], "one consumer alone");
    Ok(row.and(upload.named("seeder's upload, 5 consumers", Some(1.0))))
}

/// What it takes until all have it, and what the seeder has sent by then, headers included.
fn get(bench: &Bench, seed: &Seed, seeder: &Host, consumers: &[Host]) -> Result<(Cost, u64), BenchError> {
    let scratch = bench.places.memory.scratch()?;
    let (cpu, before) = (cpu_of_children()?, seeder.sent_bytes()?);
    let (mut server, peer) = Server::start_ours(&mut seed.seeding(Some(seeder))?)?;
    let names: Vec<String> = (0..consumers.len()).map(|number| format!("consumer {number}")).collect();
    let peers = names.iter().zip(consumers).map(|(name, host)| {
        let address = (host.ip(), PORT).into();
        StaticPeer { id: identity(name).peer_id(), address }.to_string()
    });
    let peers: Vec<String> = peers.collect();
    let mut getting = Vec::new();
    for (number, (name, host)) in names.iter().zip(consumers).enumerate() {
        let others = peers.iter().enumerate().filter(|(at, _)| *at != number).map(|(_, peer)| peer.as_str());
        let known: Vec<&str> = others.chain([peer.as_str()]).collect();
        let mut command = seed.getting(&scratch.join(format!("store-{number}")), &known, Some(host))?;
        command.args(["--attended", "--name", name, "--port", &PORT.to_string()]);
        getting.push(Server::start_ours(&mut command)?.0);
    }
    getting.iter_mut().for_each(Server::go);
    for consumer in &mut getting {
        while consumer.line()? != "done" {}
    }
    let sent = seeder.sent_bytes()? - before;
    let (mut seconds, mut peak_rss_mb) = (0_f64, 0_f64);
    for consumer in &mut getting {
        let report = consumer.end_by_closing_its_input()?;
        seconds = seconds.max(report.seconds);
        peak_rss_mb = peak_rss_mb.max(report.peak_rss_mb);
    }
    peak_rss_mb = peak_rss_mb.max(server.end_by_closing_its_input()?.peak_rss_mb);
    Ok((Cost { seconds, cpu_s: cpu_of_children()? - cpu, peak_rss_mb }, sent))
}
