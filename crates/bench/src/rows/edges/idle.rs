//! Connections that are open and ask for nothing: an honest client and an honest peer are answered all the same.

use std::cell::RefCell;

use futures::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{net::TcpStream, runtime::Runtime};

use super::{
    Bench, BenchError, Row,
    caller::Caller,
    client::{in_time, narinfo},
    firn::{Added, Firn, Node},
    on_top, runtime,
};
use crate::{
    cost::{Cost, cost_of_work, cpu_of_children, in_turn, median},
    work::work,
};

const CLIENTS: u64 = 5000;
const PEERS: u64 = 64;
const CONNECTIONS_OF_A_PEER: usize = 4;
/// What the honest peer gets.
const FILES: u64 = 20;
/// The honest peer is another host than the crowd.
const HONEST_IP: &str = "127.0.0.2";
const PROBES: usize = 10;
const ALLOWED_S: f64 = 0.1;
/// All clients, and what else the bench has open.
const OPEN_FILES_WANTED: u64 = 1 << 14;
const AGAINST: &str = "undisturbed, + 100 ms";

/// What there is besides the honest ones.
struct Crowd {
    _clients: Vec<TcpStream>,
    peers: Vec<Caller>,
}

/// Both crowds are there at once. A narinfo's time is the longest of ten, each over a connection of its own.
pub(super) fn crowded(bench: &Bench) -> Result<Row, BenchError> {
    raise_open_files();
    let name = "crowded";
    let firn = Firn::at(bench.places.memory.join(name));
    let added = firn.add(&bench.places.trees.small_part(FILES)?)?;
    let trees = &bench.places.trees;
    let (clients, peers) = (trees.scaled(CLIENTS), trees.scaled(PEERS));
    let (fetches, quiet_fetches) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
    let open = RefCell::new(0);
    let beside_crowd = || {
        let answers = answers(bench, &firn, &added, clients, peers)?;
        fetches.borrow_mut().push(answers.fetch_s);
        *open.borrow_mut() = answers.peer_connections;
        Ok(answers.cost)
    };
    let undisturbed = || {
        let answers = answers(bench, &firn, &added, 0, 0)?;
        quiet_fetches.borrow_mut().push(answers.fetch_s);
        Ok(answers.cost)
    };
    let costs = in_turn(bench.few_runs(), &mut [Box::new(beside_crowd), Box::new(undisturbed)])?;
    bench.places.memory.remove(name)?;
    let fetch = Cost { seconds: median(&fetches.borrow()), ..costs[0] };
    let fetch = on_top(fetch, median(&quiet_fetches.borrow()), ALLOWED_S, AGAINST);
    let connections = peers * CONNECTIONS_OF_A_PEER as u64;
    let fetch = fetch.also_noted(&format!("{} of {connections} connections kept", open.borrow()));
    let narinfo = on_top(costs[0], costs[1].seconds, ALLOWED_S, AGAINST);
    let narinfo = narinfo.also_noted(&format!("the slowest of {PROBES}, beside {clients} clients"));
    Ok(narinfo.and(fetch.named("small fetch, 256 idle peers", Some(1.0))))
}

/// How long honest ones waited.
struct Answers {
    /// Its seconds are those of the slowest narinfo.
    cost: Cost,
    fetch_s: f64,
    /// The connections of idle peers that were still open in the end.
    peer_connections: usize,
}

fn answers(
    bench: &Bench,
    firn: &Firn,
    added: &Added,
    clients: u64,
    peers: u64,
) -> Result<Answers, BenchError> {
    let store = bench.places.memory.scratch()?.join("store");
    let cpu = cpu_of_children()?;
    let node = firn.node(&["--role", "seed"])?;
    let runtime = runtime()?;
    let crowd = runtime.block_on(Crowd::gather(&node, clients, peers))?;
    let seconds = slowest_narinfo(&runtime, &node, &added.path)?;
    let mut getting = work(&["get".as_ref(), store.as_os_str()]);
    getting.args([added.root.as_str(), &node.peer.to_string(), "--ip", HONEST_IP]);
    let fetch_s = cost_of_work(getting)?.0.seconds;
    let peer_connections = crowd.peers.iter().map(Caller::open).sum();
    runtime.block_on(async move { drop(crowd) });
    let peak_rss_mb = node.memory()?.peak_mb;
    node.end();
    let cost = Cost { seconds, cpu_s: cpu_of_children()? - cpu, peak_rss_mb };
    Ok(Answers { cost, fetch_s, peer_connections })
}

impl Crowd {
    async fn gather(node: &Node, clients: u64, peers: u64) -> Result<Self, BenchError> {
        let calls = (0..peers)
            .map(|number| Caller::connect(format!("idle peer {number}"), node.peer, CONNECTIONS_OF_A_PEER));
        let peers = join_all(calls).await.into_iter().collect::<Result<_, _>>()?;
        let mut open = Vec::new();
        for _ in 0..clients {
            open.push(in_time(node.http, TcpStream::connect(node.http)).await?);
        }
        Ok(Self { _clients: open, peers })
    }
}

fn slowest_narinfo(runtime: &Runtime, node: &Node, path: &str) -> Result<f64, BenchError> {
    let mut slowest = 0_f64;
    for _ in 0..PROBES {
        slowest = slowest.max(runtime.block_on(narinfo(node.http, path))?.1);
    }
    Ok(slowest)
}

/// As far as the administrator allows; where that is too little, a client says so.
fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(u64::MAX).min(OPEN_FILES_WANTED);
    if current.is_some_and(|current| current < wanted) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}
