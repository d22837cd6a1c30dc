//! Clients that read a NAR slowly: what a node holds for each of them, and what another client waits for.

use std::{cell::RefCell, net::SocketAddr, time::Duration};

use tokio::{
    net::TcpSocket,
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::sleep,
};

use super::{
    Bench, BenchError, Row,
    client::{Client, first_byte, in_time, nar_of},
    firn::{Added, Firn, Node},
    growth, runtime,
};
use crate::cost::{Cost, cpu_of_children, in_turn_at_once, median};

const READERS: u64 = 300;
const LARGE_BYTES: u64 = 40_000_000;
const OTHER_BYTES: u64 = 1_000_000;
/// Each reads 64 KiB a second, and lets its system hold little more.
const PIECE_BYTES: usize = 16 << 10;
const PAUSE: Duration = Duration::from_millis(250);
const PROBES: usize = 10;
const MEMORY_MB_LIMIT: f64 = 200.0;
const FIRST_BYTE_S_LIMIT: f64 = 0.1;

/// The first byte's time is the longest of those of each run.
pub(super) fn slow(bench: &Bench) -> Result<Row, BenchError> {
    let trees = &bench.places.trees;
    let firn = Firn::at(bench.places.memory.scratch()?);
    let paths = [firn.add(&trees.file(LARGE_BYTES)?)?, firn.add(&trees.file(OTHER_BYTES)?)?];
    let readers = trees.scaled(READERS);
    let (memory, waits) = (RefCell::new((Vec::new(), Vec::new())), RefCell::new(Vec::new()));
    let read = || {
        let cpu = cpu_of_children()?;
        let node = firn.node(&[])?;
        let before = node.memory()?.resident_mb;
        let waited = runtime()?.block_on(beside_readers(&node, &paths, readers))?;
        let peak_rss_mb = node.memory()?.peak_mb;
        node.end();
        memory.borrow_mut().0.push(before);
        memory.borrow_mut().1.push(peak_rss_mb - before);
        waits.borrow_mut().push(median(&waited));
        let seconds = waited.into_iter().fold(0.0, f64::max);
        Ok(Cost { seconds, cpu_s: cpu_of_children()? - cpu, peak_rss_mb })
    };
    let costs = in_turn_at_once(bench.few_runs(), &mut [Box::new(read)])?;
    let (before, grown) = (median(&memory.borrow().0), median(&memory.borrow().1));
    let note = format!("{readers} readers; {before:.1} MB before, {:.1} MB at most", costs[0].peak_rss_mb);
    let waited = Row::limit(costs[0], costs[0].seconds, FIRST_BYTE_S_LIMIT, "s", "limit").noted(format!(
        "of another NAR, the slowest of {PROBES}; the median {:.4} s",
        median(&waits.borrow())
    ));
    let memory = growth(costs[0], grown, MEMORY_MB_LIMIT).noted(note);
    Ok(memory.and(waited.named("first byte, 300 slow readers", Some(1.0))))
}

/// How long another client waits for the first byte of another NAR while all of them read, again and again.
async fn beside_readers(
    node: &Node,
    [large, other]: &[Added; 2],
    count: u64,
) -> Result<Vec<f64>, BenchError> {
    let (large, other) = (nar_of(node.http, &large.path).await?, nar_of(node.http, &other.path).await?);
    let (begun, mut beginnings) = unbounded_channel();
    // They end when they are dropped.
    let mut readers = JoinSet::new();
    for number in 0..count {
        // Not all at one moment.
        let (large, begun) = (large.clone(), begun.clone());
        let later = PAUSE.mul_f64(number as f64 / count as f64);
        let read = read_slowly(node.http, large, begun);
        readers.spawn(async move {
            sleep(later).await;
            read.await
        });
    }
    for _ in 0..count {
        let begun = async { beginnings.recv().await.ok_or(std::io::ErrorKind::BrokenPipe.into()) };
        in_time(node.http, begun).await?;
    }
    let mut waited = Vec::with_capacity(PROBES);
    for _ in 0..PROBES {
        sleep(PAUSE).await;
        waited.push(first_byte(node.http, &other).await?);
    }
    match readers.try_join_next() {
        Some(Ok(Err(source))) => Err(BenchError::Client { address: node.http, source }),
        _ => Ok(waited),
    }
}

/// Says when it has its first bytes, and reads on until all has come.
async fn read_slowly(address: SocketAddr, nar: String, begun: UnboundedSender<()>) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(PIECE_BYTES as u32)?;
    let mut client = Client::over(socket.connect(address).await?);
    client.ask(&nar).await?;
    let mut piece = vec![0; PIECE_BYTES];
    client.piece(&mut piece).await?;
    let _ = begun.send(());
    loop {
        sleep(PAUSE).await;
        if client.piece(&mut piece).await.is_err() {
            // On a small scale it has come to the end.
            return Ok(());
        }
    }
}
