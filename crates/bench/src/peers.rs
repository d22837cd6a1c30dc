//! The two ends of a fetch: who gives a store to peers, and who gets a tree from them. Both as a node does it.

use std::{
    error::Error,
    net::{IpAddr, SocketAddr},
    path::Path,
    process,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use firn_castore::Root;
use firn_engine::{Engine, EngineConfig, Progress};
use firn_exchange::{Limits, Micros, Reply, answer};
use firn_net::{Answerer, BrokenOff, Identity, Net, NetConfig, Peer, ReplyBody, StaticPeer};
use firn_store::{DiskStore, Store};
use firn_trust::Policy;
use tokio::runtime::Runtime;

use crate::{reading::input_ended, work::Said};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// As a node has it.
const FETCH_DEADLINE: Micros = Micros::from_millis(6 * 3600 * 1000);
/// How long it may take to learn where the own endpoint is.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(10);
const ADDRESS_POLL: Duration = Duration::from_millis(5);

/// Answers everybody out of all that the engine shares.
struct GivesAll(Arc<OnceLock<Engine>>);

impl Answerer for GivesAll {
    fn answer(&self, _from: Peer, request: Bytes) -> Box<dyn ReplyBody> {
        Box::new(Body(self.0.get().map(|engine| answer(&engine.shared_view(), request))))
    }
}

/// A reply; none before there is an engine.
struct Body(Option<Reply>);

impl ReplyBody for Body {
    fn next(&mut self) -> Result<Option<Bytes>, BrokenOff> {
        self.0.as_mut().ok_or(BrokenOff)?.next().map_err(|_| BrokenOff)
    }
}

/// An engine and the network that it asks and that asks it.
pub(crate) struct Party {
    pub(crate) engine: Engine,
    pub(crate) net: Arc<Net>,
}

impl Party {
    /// Starts one; those of one process differ by their number.
    pub(crate) async fn start(
        store: Arc<dyn Store>,
        ip: IpAddr,
        number: usize,
        peers: Vec<StaticPeer>,
    ) -> Outcome<Self> {
        let seed = blake3::hash(format!("firn-bench {} {number}", process::id()).as_bytes());
        let iroh_bind = vec![SocketAddr::new(ip, 0)];
        let identity = Identity::from_seed(*seed.as_bytes());
        let config = NetConfig { iroh_bind, peers, ..NetConfig::new(identity) };
        let place = Arc::new(OnceLock::new());
        let net = Arc::new(Net::start(config, Arc::new(GivesAll(place.clone()))).await?);
        let limits = Limits { deadline: Some(FETCH_DEADLINE), ..Limits::default() };
        let config = EngineConfig { limits, seed: number as u64 };
        let policy = Policy::new(Vec::new());
        let engine = Engine::open(store, policy, net.clone(), net.clone(), config).await?;
        let _ = place.set(engine.clone());
        Ok(Self { engine, net })
    }

    /// Who it is and where.
    async fn name(&self) -> Outcome<StaticPeer> {
        let begun = Instant::now();
        loop {
            let status = self.net.status();
            if let Some(address) = status.iroh.first() {
                return Ok(StaticPeer { id: status.peer, address: *address });
            }
            if begun.elapsed() > ADDRESS_TIMEOUT {
                return Err("iroh does not say where it listens".into());
            }
            tokio::time::sleep(ADDRESS_POLL).await;
        }
    }
}

/// Gives a store to peers until standard input ends.
pub(crate) fn seed(store: &Path, ip: IpAddr) -> Outcome<()> {
    let store = Arc::new(DiskStore::open(store)?);
    Runtime::new()?.block_on(async {
        let party = Party::start(store, ip, 0, Vec::new()).await?;
        println!("{}", party.name().await?);
        input_ended().await;
        Ok(party.net.shutdown().await?)
    })
}

/// Gets a tree from peers, timed from the call of the engine, which has an open store, until what came is durable.
pub(crate) fn get(store: &Path, root: Root, peers: Vec<StaticPeer>, ip: IpAddr) -> Outcome<Said> {
    let store = Arc::new(DiskStore::open(store)?);
    Runtime::new()?.block_on(async {
        let party = Party::start(store, ip, 0, peers).await?;
        let begun = Instant::now();
        let stalls = Mutex::new(Stalls { came: 0, last: begun, longest: Duration::ZERO });
        let note = |progress: &Progress| {
            stalls.lock().unwrap_or_else(PoisonError::into_inner).note(progress);
        };
        party.engine.get_root(root, &note).await?;
        let seconds = Some(begun.elapsed().as_secs_f64());
        party.net.shutdown().await?;
        let liars = party.engine.peers().into_iter().filter(|(_, entry)| !entry.lies.is_empty());
        let liars = liars.map(|(peer, _)| peer.to_string()).collect();
        let stalls = stalls.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Said { seconds, liars, stall_s: stalls.longest.as_secs_f64(), ..Said::default() })
    })
}

/// How long nothing came. What counts is verified contents: the Directories come before that.
struct Stalls {
    came: u64,
    last: Instant,
    longest: Duration,
}

impl Stalls {
    fn note(&mut self, progress: &Progress) {
        let came = progress.givers.iter().map(|(_, bytes)| bytes).sum();
        if came > self.came {
            let now = Instant::now();
            (self.longest, self.last, self.came) = (self.longest.max(now - self.last), now, came);
        }
    }
}
