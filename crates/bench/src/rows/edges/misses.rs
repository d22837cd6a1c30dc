//! Narinfos that nobody has, asked for as Nix does, while a neighbour is silent.

use std::{net::UdpSocket, time::Instant};

use firn_net::StaticPeer;
use firn_nix::StorePathHash;
use futures::future::try_join_all;

use super::{
    Bench, BenchError, Row,
    client::{Client, in_time},
    firn::{Firn, Node, answer},
    on_top, runtime,
};
use crate::{
    cost::{Cost, cpu_of_children, in_turn},
    peers::identity,
    places::Place,
    serving::Server,
    work::work,
};

const MISSES: u64 = 2000;
/// As many connections as Nix opens.
const CLIENTS: u64 = 25;
const ALLOWED_S: f64 = 1.0;
const AGAINST: &str = "without neighbour, + 1 s";
/// The empty store of a neighbour, within the scratch directory.
const STORE: &str = "store";

/// The neighbour that the node knows.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Neighbour {
    Nobody,
    /// It has never answered: packets to its address are swallowed.
    Swallowing,
    /// It has answered, and is stopped.
    Stopped,
}

/// All of it from the first request to the last answer.
pub(super) fn beside_neighbours(bench: &Bench) -> Result<Row, BenchError> {
    let place = &bench.places.memory;
    let count = bench.places.trees.scaled(MISSES);
    let measure = |neighbour| move || with(place, neighbour, count);
    let contenders = [Neighbour::Swallowing, Neighbour::Stopped, Neighbour::Nobody];
    let costs =
        in_turn(bench.few_runs(), &mut contenders.map(|neighbour| Box::new(measure(neighbour)) as _))?;
    let row = |cost: Cost| on_top(cost, costs[2].seconds, ALLOWED_S, AGAINST);
    let stopped = row(costs[1]).named("2,000 misses, stopped neighbour", Some(1.0));
    Ok(row(costs[0]).also_noted(&format!("{count} misses, {CLIENTS} at a time")).and(stopped))
}

fn with(place: &Place, neighbour: Neighbour, count: u64) -> Result<Cost, BenchError> {
    let scratch = place.scratch()?;
    let firn = Firn::at(scratch.join("data"));
    let cpu = cpu_of_children()?;
    let node = match neighbour {
        Neighbour::Nobody => miss(firn.node(&[])?, count),
        Neighbour::Swallowing => {
            let bound = UdpSocket::bind("127.0.0.1:0").and_then(|socket| Ok((socket.local_addr()?, socket)));
            let (address, _socket) = bound
                .map_err(|source| BenchError::Start { program: "a socket that swallows".into(), source })?;
            let peer = StaticPeer { id: identity("swallowing").peer_id(), address };
            miss(firn.node(&["--peer", &peer.to_string()])?, count)
        }
        Neighbour::Stopped => {
            let store = scratch.join(STORE);
            let (mut seeder, peer) = Server::start_ours(&mut work(&["seed".as_ref(), store.as_os_str()]))?;
            let node = firn.node(&["--peer", &peer])?;
            // It answers once, so there is a connection to it.
            let asked = misses(&node, 1);
            seeder.stop();
            let missed = asked.and_then(|_| miss(node, count));
            seeder.kill();
            missed
        }
    };
    let (seconds, peak_rss_mb) = node?;
    Ok(Cost { seconds, cpu_s: cpu_of_children()? - cpu, peak_rss_mb })
}

/// How long all misses take, and the node's peak memory in MB; the node ends.
fn miss(node: Node, count: u64) -> Result<(f64, f64), BenchError> {
    let seconds = misses(&node, count)?;
    let peak_mb = node.memory()?.peak_mb;
    node.end();
    Ok((seconds, peak_mb))
}

fn misses(node: &Node, count: u64) -> Result<f64, BenchError> {
    let address = node.http;
    let one_after_the_other = |client: u64| async move {
        let mut connection = in_time(address, Client::connect(address)).await?;
        for number in (client..count).step_by(CLIENTS as usize) {
            let path = format!("{}.narinfo", nowhere(number));
            let (status, _) = in_time(address, connection.get(&path)).await?;
            if status != 404 {
                return Err(answer(&format!("HTTP {status} for a path that nobody has")));
            }
        }
        Ok(())
    };
    let begun = Instant::now();
    runtime()?.block_on(try_join_all((0..CLIENTS.min(count)).map(one_after_the_other)))?;
    Ok(begun.elapsed().as_secs_f64())
}

/// A path that nobody has.
fn nowhere(number: u64) -> StorePathHash {
    let mut hash = [0; 20];
    hash.copy_from_slice(&blake3::hash(&number.to_le_bytes()).as_bytes()[..20]);
    hash.into()
}
