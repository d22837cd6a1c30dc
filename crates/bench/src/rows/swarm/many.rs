//! From several peers at once, each with a link of 100 Mbit/s, to one that has room for all of them: when all is well,
//! when one dies, when one lies.

use std::cell::RefCell;

use super::{Bench, Row, Seed};
use crate::{
    cost::{Cost, cpu_of_children, in_turn_at_once, median},
    error::BenchError,
    lab::{Host, Lab, Mbit},
    serving::Server,
    work::Report,
};

const RATE: Mbit = Mbit(100);
/// A file of a gigabyte takes five times as long, and tells no more.
const FILE_BYTES: u64 = 200 << 20;
const STALL_S_LIMIT: f64 = 3.0;
const UNPROVEN_KIB_LIMIT: f64 = 64.0;

/// What happens while a consumer gets a file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mishap {
    Nothing,
    /// The last seeder's machine is gone when half of the file is here.
    Death,
    /// The last seeder lies about all contents.
    Lies,
}

/// Seeders that have the same file, each a store of its own.
struct Many<'a> {
    bench: &'a Bench,
    lab: Lab,
    seeds: Vec<(Seed, Host)>,
    consumer: Host,
}

impl<'a> Many<'a> {
    fn make(bench: &'a Bench, count: usize) -> Result<Self, BenchError> {
        let (lab, file) = (Lab::new()?, bench.places.trees.file(FILE_BYTES)?);
        let seed = |number| Ok((Seed::make(bench, &format!("seed-{number}"), &file)?, lab.host(Some(RATE))?));
        let seeds = (0..count).map(seed).collect::<Result<_, BenchError>>()?;
        let consumer = lab.host(None)?;
        Ok(Self { bench, lab, seeds, consumer })
    }

    fn bytes(&self) -> u64 {
        self.seeds[0].0.bytes
    }

    /// The consumer gets the file from the first so many; what it reports, and who is the last of them.
    fn get(&self, count: usize, mishap: Mishap) -> Result<(Cost, Report, String), BenchError> {
        let store = self.bench.places.memory.scratch()?.join("store");
        let cpu = cpu_of_children()?;
        let (mut servers, mut peers) = (Vec::new(), Vec::new());
        for (at, (seed, host)) in self.seeds.iter().take(count).enumerate() {
            let mut seeding = seed.seeding(Some(host))?;
            seeding.args((mishap == Mishap::Lies && at + 1 == count).then_some("--lies"));
            let (server, peer) = Server::start_ours(&mut seeding)?;
            servers.push(server);
            peers.push(peer);
        }
        let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
        let mut getting = self.seeds[0].0.getting(&store, &peers, Some(&self.consumer))?;
        let (mut consumer, _) = Server::start_ours(getting.arg("--attended"))?;
        consumer.go();
        if mishap == Mishap::Death
            && consumer.line()? == "half"
            && let (Some(mut server), Some((_, host))) = (servers.pop(), self.seeds.get(count - 1))
        {
            // Without the plug its system would tell that nobody listens there any longer.
            self.lab.unplug(host)?;
            server.kill();
        }
        while consumer.line()? != "done" {}
        let report = consumer.end_by_closing_its_input()?;
        let mut peak_rss_mb = report.peak_rss_mb;
        for server in &mut servers {
            peak_rss_mb = peak_rss_mb.max(server.end_by_closing_its_input()?.peak_rss_mb);
        }
        if let (Mishap::Death, Some((_, host))) = (mishap, self.seeds.get(count - 1)) {
            self.lab.plug(host)?;
        }
        let cost = Cost { seconds: report.seconds, cpu_s: cpu_of_children()? - cpu, peak_rss_mb };
        Ok((cost, report, peers.last().copied().unwrap_or_default().to_owned()))
    }

    fn undisturbed(&self, count: usize) -> Result<Cost, BenchError> {
        Ok(self.get(count, Mishap::Nothing)?.0)
    }

    fn remove(self) -> Result<(), BenchError> {
        (0..self.seeds.len())
            .try_for_each(|number| self.bench.places.memory.remove(&format!("seed-{number}")))
    }
}

/// The limit is the time in which the links together carry the contents, without any headers.
pub(super) fn four(bench: &Bench) -> Result<Row, BenchError> {
    let many = Many::make(bench, 4)?;
    let costs = in_turn_at_once(bench.few_runs(), &mut [Box::new(|| many.undisturbed(4))])?;
    let limit = Mbit(4 * RATE.0).seconds(many.bytes());
    let note = many.seeds[0].0.speed(&costs[0]);
    many.remove()?;
    Ok(Row::limit(costs[0], costs[0].seconds, limit, "s", "the links").noted(note))
}

/// The time that two take is generous: half of the file came from three.
pub(super) fn killed(bench: &Bench) -> Result<Row, BenchError> {
    let many = Many::make(bench, 3)?;
    let stalls = RefCell::new(Vec::new());
    let disturbed = || {
        let (cost, report, _) = many.get(3, Mishap::Death)?;
        stalls.borrow_mut().push(report.said.stall_s);
        Ok(cost)
    };
    let costs =
        in_turn_at_once(bench.few_runs(), &mut [Box::new(disturbed), Box::new(|| many.undisturbed(2))])?;
    many.remove()?;
    let stall = Row::limit(costs[0], median(&stalls.borrow()), STALL_S_LIMIT, "s", "limit");
    let row = Row::times(costs[0], costs[1], "2 peers undisturbed");
    Ok(row.and(stall.named("longest stall, one of 3 killed", Some(1.0))))
}

/// Unproven is all that the liar's machine sent, headers included, but for what was true.
pub(super) fn lying(bench: &Bench) -> Result<Row, BenchError> {
    let many = Many::make(bench, 3)?;
    let (unproven, named) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
    let disturbed = || {
        let liar = &many.seeds[2].1;
        let before = liar.sent_bytes()?;
        let (cost, report, peer) = many.get(3, Mishap::Lies)?;
        let sent = liar.sent_bytes()? - before;
        let caught = report.said.liars.iter().find(|(id, _)| peer.starts_with(id.as_str()));
        named.borrow_mut().push(caught.is_some() && report.said.liars.len() == 1);
        let proven = caught.map_or(0, |(_, bytes)| *bytes);
        unproven.borrow_mut().push(sent.saturating_sub(proven) as f64 / 1024.0);
        Ok(cost)
    };
    let costs =
        in_turn_at_once(bench.few_runs(), &mut [Box::new(disturbed), Box::new(|| many.undisturbed(2))])?;
    many.remove()?;
    let named = if named.borrow().iter().all(|named| *named) { "the liar was named" } else { "NOT NAMED" };
    let unproven = Row::limit(costs[0], median(&unproven.borrow()), UNPROVEN_KIB_LIMIT, "KiB", "limit");
    let row = Row::times(costs[0], costs[1], "2 honest peers").noted(named.into());
    Ok(row.and(unproven.named("unproven bytes, one of 3 lies", Some(1.0))))
}
