//! Peers whose messages are small on the wire and would be large in memory: reading them takes little of it.

use std::{
    cell::RefCell,
    net::{Ipv4Addr, SocketAddr},
    process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use firn_castore::{Node, Root};
use firn_exchange::REQUEST_BYTES_MAX;
use firn_net::{Net, NetConfig};
use firn_nix::StorePathHash;
use futures::future::join_all;

use super::{
    Bench, BenchError, Row,
    bombs::{Bomber, Swollen, empty_digests, promised},
    caller::Caller,
    firn::{self, Firn},
    growth, runtime,
};
use crate::{
    cost::{Cost, cost_of_work, cpu_of_children, in_turn_at_once, median},
    peers::{identity, name_of},
    work::work,
};

const PEERS: usize = 16;
/// The paths or trees that are asked for at once, of each kind of reply. A tree is asked for from one peer after the
/// other, unless peers promise it: then from all at once.
const ASKED: [(Swollen, usize); 4] =
    [(Swollen::Claims, 16), (Swollen::Hints, 16), (Swollen::Zeros, 16), (Swollen::Bitmaps, 1)];
/// The longest time for all of it, in seconds; on a small scale it is less.
const ASKING_S: u64 = 5;
const ASKING_S_MIN: u64 = 2;
/// The most trees that such peers promise at once.
const PROMISED: usize = 16;
const MEMORY_MB_LIMIT: f64 = 200.0;
/// What a server is asked: more than a request may have, and as much as one may.
const REQUEST_BYTES: [usize; 2] = [1 << 20, REQUEST_BYTES_MAX - 16];
const CONNECTIONS_OF_A_PEER: usize = 4;
const ROUNDS: usize = 5;

/// Each kind of reply has a consumer of its own, and peers that have not lied yet. The first row is that of the worst
/// kind, the other that of many trees which the same peers promise at once.
pub(super) fn replies(bench: &Bench) -> Result<Row, BenchError> {
    let mut kinds = ASKED
        .map(|(swollen, asked)| measured(bench, swollen, asked))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let notes: Vec<&str> = kinds.iter().map(|kind| kind.note.as_str()).collect();
    let note = notes.join(", ");
    kinds.sort_by(|one, other| other.grown_mb.total_cmp(&one.grown_mb));
    let worst = growth(kinds[0].cost, kinds[0].grown_mb, MEMORY_MB_LIMIT).noted(note);
    let many = measured(bench, Swollen::Bitmaps, PROMISED)?;
    let many = growth(many.cost, many.grown_mb, MEMORY_MB_LIMIT).noted(many.note);
    Ok(worst.and(many.named("memory, 16 trees that 16 peers promise", Some(1.0))))
}

/// What one kind of reply has come to.
struct Kind {
    cost: Cost,
    grown_mb: f64,
    note: String,
}

fn measured(bench: &Bench, swollen: Swollen, asked: usize) -> Result<Kind, BenchError> {
    let reply = swollen.make()?;
    let seconds = bench.places.trees.scaled(ASKING_S).max(ASKING_S_MIN);
    let (mut grown, mut given) = (Vec::new(), 0);
    let ask = || {
        let (cost, grown_mb, count) = ask_for(swollen, asked, seconds, &reply)?;
        grown.push(grown_mb);
        given = count;
        Ok(cost)
    };
    let cost = in_turn_at_once(bench.few_runs(), &mut [Box::new(ask)])?[0];
    let grown_mb = median(&grown);
    let note = format!("{} {grown_mb:.1} MB ({given} of {} B)", swollen.name(), reply.len());
    Ok(Kind { cost, grown_mb, note })
}

/// What it costs a consumer to ask such peers, by how many MB it grows, and how many such replies it was given.
fn ask_for(
    swollen: Swollen,
    asked: usize,
    seconds: u64,
    reply: &Bytes,
) -> Result<(Cost, f64, usize), BenchError> {
    let runtime = runtime()?;
    let trees: Vec<_> = (0..asked).map(promised).collect();
    let given = Arc::new(AtomicUsize::new(0));
    let start = |number: usize| {
        let bomber = Bomber {
            swollen,
            reply: reply.clone(),
            trees: trees.iter().cloned().collect(),
            given: given.clone(),
        };
        async move {
            let iroh_bind = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
            let key = identity(&format!("bomber {number} of {}", process::id()));
            Net::start(NetConfig { iroh_bind, ..NetConfig::new(key) }, Arc::new(bomber)).await
        }
    };
    let nets = runtime.block_on(join_all((0..PEERS).map(start)));
    let nets = nets.into_iter().collect::<Result<Vec<_>, _>>();
    let nets = nets.map_err(BenchError::peer)?;
    let mut asking = work(&["ask-strangers", "--seconds", &seconds.to_string()]);
    for net in &nets {
        let name = runtime.block_on(name_of(net));
        asking.arg(name.map_err(BenchError::peer)?.to_string());
    }
    match swollen {
        Swollen::Claims | Swollen::Hints => {
            for path in (0..asked).map(some_path) {
                asking.args(["--path", &path.to_string()]);
            }
        }
        Swollen::Zeros => {
            for root in (0..asked).map(some_root) {
                asking.args(["--root", &root.to_string()]);
            }
        }
        Swollen::Bitmaps => {
            for (root, _) in &trees {
                asking.args(["--root", &root.to_string()]);
            }
        }
    }
    let asked = cost_of_work(asking);
    runtime.block_on(join_all(nets.iter().map(Net::shutdown)));
    let (cost, report) = asked?;
    match given.load(Ordering::Relaxed) {
        0 => Err(BenchError::peer(format!("no peer was asked for {}", swollen.name()))),
        given => Ok((cost, report.peak_rss_mb - report.said.resident_mb, given)),
    }
}

fn some_path(number: usize) -> StorePathHash {
    [number as u8 + 1; 20].into()
}

fn some_root(number: usize) -> Root {
    Node::Directory { digest: [number as u8 + 1; 32].into(), size: 1 << 20 }.into()
}

/// All peers ask at once and again, each over several connections.
pub(super) fn requests(bench: &Bench) -> Result<Row, BenchError> {
    let scratch = bench.places.memory.scratch()?;
    let firn = Firn::at(scratch.join("data"));
    let runs = RefCell::new((Vec::new(), Vec::new(), 0));
    let ask = || {
        let cpu = cpu_of_children()?;
        let node = firn.node(&["--role", "seed"])?;
        let before = node.memory()?.resident_mb;
        let (seconds, answered) = ask_wrongly(&node)?;
        let peak_rss_mb = node.memory()?.peak_mb;
        node.end();
        let mut runs = runs.borrow_mut();
        runs.0.push(before);
        runs.1.push(peak_rss_mb - before);
        runs.2 = answered;
        Ok(Cost { seconds, cpu_s: cpu_of_children()? - cpu, peak_rss_mb })
    };
    let costs = in_turn_at_once(bench.few_runs(), &mut [Box::new(ask)])?;
    let (before, grown, answered) = runs.into_inner();
    let asked = PEERS * CONNECTIONS_OF_A_PEER * ROUNDS * REQUEST_BYTES.len();
    let note = format!("{:.1} MB before; {answered} of {asked} requests got a reply", median(&before));
    Ok(growth(costs[0], median(&grown), MEMORY_MB_LIMIT).noted(note))
}

fn ask_wrongly(node: &firn::Node) -> Result<(f64, usize), BenchError> {
    let requests = REQUEST_BYTES.map(empty_digests);
    runtime()?.block_on(async {
        let calls = (0..PEERS)
            .map(|number| Caller::connect(format!("bomber {number}"), node.peer, CONNECTIONS_OF_A_PEER));
        let callers = join_all(calls).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let begun = Instant::now();
        let mut answered = 0;
        for request in std::iter::repeat_n(&requests, ROUNDS).flatten() {
            answered +=
                join_all(callers.iter().map(|caller| caller.ask(request))).await.iter().sum::<usize>();
        }
        Ok((begun.elapsed().as_secs_f64(), answered))
    })
}
