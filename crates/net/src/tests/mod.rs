//! Nodes on loopback, with real sockets.

mod asking;
mod finding;
mod frames;
mod hostile;
mod limits;
mod relayed;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use bytes::Bytes;
use firn_engine::{Ask, AskError, Find, Found, Received, Via};
use firn_exchange::{Key, PeerId, Request};
use futures::StreamExt;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use crate::{
    Answerer, BrokenOff, Identity, Multiaddr, Net, NetConfig, NetError, Peer, ReplyBody, StaticPeer,
};

/// Nothing here takes this long.
const DEADLINE: Duration = Duration::from_secs(40);

/// How a test's node answers.
enum Manner {
    /// The request, and then where the asker is.
    Echo,
    /// So many bytes, in pieces of 64 KiB.
    Long(usize),
    /// A first piece, and then nothing until the test ends.
    Stall(Mutex<Option<Stall>>),
    /// A first piece, and then it is broken off.
    BreakOff,
    /// It panics.
    Panic,
    /// It panics after the first piece.
    PanicLater,
}

/// Says that it stalls, and then blocks until the test drops the other half.
struct Stall {
    begun: oneshot::Sender<()>,
    end: mpsc::Receiver<()>,
}

/// The test's half.
struct Stalled {
    begun: oneshot::Receiver<()>,
    _end: mpsc::Sender<()>,
}

fn stall() -> (Manner, Stalled) {
    let ((begun, is_begun), (to_end, end)) = (oneshot::channel(), mpsc::channel());
    (Manner::Stall(Mutex::new(Some(Stall { begun, end }))), Stalled { begun: is_begun, _end: to_end })
}

struct Scripted(Manner);

struct Script {
    pieces: Vec<Bytes>,
    end: End,
}

enum End {
    Whole,
    Stall(Option<Stall>),
    BreakOff,
    Panic,
}

impl ReplyBody for Script {
    fn next(&mut self) -> Result<Option<Bytes>, BrokenOff> {
        if let Some(piece) = self.pieces.pop() {
            return Ok(Some(piece));
        }
        match &mut self.end {
            End::Whole => Ok(None),
            End::Stall(stall) => {
                let Stall { begun, end } = stall.take().unwrap();
                begun.send(()).unwrap();
                assert!(end.recv().is_err(), "nothing is ever sent");
                Ok(None)
            }
            End::BreakOff => Err(BrokenOff),
            End::Panic => panic!("as the test wants"),
        }
    }
}

impl Answerer for Scripted {
    fn answer(&self, from: Peer, request: Bytes) -> Box<dyn ReplyBody> {
        let first = || vec![Bytes::from_static(b"first")];
        let (pieces, end) = match &self.0 {
            Manner::Echo => {
                (vec![Bytes::from(format!("{} {}", from.id, from.is_private())), request], End::Whole)
            }
            Manner::Long(bytes) => {
                let pieces = (0..*bytes).step_by(64 << 10).map(|at| (bytes - at).min(64 << 10));
                (pieces.map(|length| Bytes::from(vec![7; length])).collect(), End::Whole)
            }
            Manner::Stall(stall) => (first(), End::Stall(stall.lock().unwrap().take())),
            Manner::BreakOff => (first(), End::BreakOff),
            Manner::Panic => panic!("as the test wants"),
            Manner::PanicLater => (first(), End::Panic),
        };
        Box::new(Script { pieces, end })
    }
}

/// A node on loopback without libp2p.
fn near(seed: u8) -> NetConfig {
    let mut config = NetConfig::new(Identity::from_seed([seed; 32]));
    config.iroh_bind = vec!["127.0.0.1:0".parse().unwrap()];
    config
}

/// A node on loopback that takes part in the DHT.
fn far(seed: u8, bootstrap: &[Multiaddr]) -> NetConfig {
    let mut config = near(seed);
    config.libp2p_bind = vec!["127.0.0.1:0".parse().unwrap()];
    config.bootstrap = bootstrap.to_vec();
    config
}

/// A node that serves the DHT.
fn server(seed: u8, bootstrap: &[Multiaddr]) -> NetConfig {
    NetConfig { is_server: true, ..far(seed, bootstrap) }
}

async fn start(config: NetConfig, manner: Manner) -> Net {
    Net::start(config, Arc::new(Scripted(manner))).await.unwrap()
}

/// Starts a node on ports that another one had until just now: sockets close soon after a node is dropped.
async fn start_again(config: NetConfig, manner: Manner) -> Net {
    let answerer: Arc<dyn Answerer> = Arc::new(Scripted(manner));
    let deadline = Instant::now() + DEADLINE;
    let mut tries = tokio::time::interval(Duration::from_millis(20));
    loop {
        tries.tick().await;
        match Net::start(config.clone(), Arc::clone(&answerer)).await {
            Ok(net) => return net,
            Err(error @ (NetError::Bind { .. } | NetError::Listen { .. })) => {
                assert!(Instant::now() < deadline, "{error}")
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// The peer as a user would name it.
fn named(net: &Net) -> StaticPeer {
    let status = net.status();
    StaticPeer { id: status.peer, address: status.iroh[0] }
}

/// Where the DHT is entered through this node.
async fn entrance(net: &Net) -> Vec<Multiaddr> {
    until("it listens", || !net.status().libp2p.is_empty()).await;
    net.status().libp2p
}

/// Waits until this holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        looks.tick().await;
    }
}

fn request() -> Request {
    Request::Path([3; 20].into())
}

fn key(byte: u8) -> Key {
    Key::Path([byte; 20].into())
}

/// Looks until this peer is found.
async fn find(net: &Net, key: u8, peer: PeerId) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        assert!(Instant::now() < deadline, "not found in time");
        let found: Vec<Found> = timeout(DEADLINE, net.find(self::key(key)).collect()).await.unwrap();
        let peers: BTreeSet<PeerId> = found.iter().map(|found| found.peer).collect();
        assert_eq!(peers.len(), found.len(), "each at most once");
        if found.contains(&Found { peer, via: Via::Dht }) {
            return;
        }
    }
}

async fn ask(net: &Net, peer: PeerId, request: Request) -> Result<Bytes, AskError> {
    timeout(DEADLINE, net.ask(peer, request, Received::default())).await.unwrap()
}

/// What [`Manner::Echo`] says to this asker, which is on loopback.
fn echo(asker: &Net, request: &Request) -> Vec<u8> {
    [&request.encode(false)[..], format!("{} true", asker.status().peer).as_bytes()].concat()
}

async fn shut_down(nets: impl IntoIterator<Item = Net>) {
    for net in nets {
        let before = Instant::now();
        net.shutdown().await.unwrap();
        assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    }
}
