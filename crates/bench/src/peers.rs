//! The two ends of a fetch: who gives a store to peers, and who gets a tree from them. Both as a node does it.

use std::{
    error::Error,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use firn_castore::Root;
use firn_engine::{Engine, EngineConfig, Progress};
use firn_exchange::{Asked, Compress, Limits, Micros, Question, Reply, answer};
use firn_net::{Answerer, BrokenOff, Identity, Net, NetConfig, Peer, ReplyBody, SharedCodec, StaticPeer};
use firn_store::{DiskStore, Store};
use tokio::runtime::Runtime;

use crate::{
    input::{input_ended, told_to_go},
    work::{Said, policy},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// As a node has it.
const FETCH_DEADLINE: Micros = Micros::from_millis(6 * 3600 * 1000);
/// How long it may take to learn where the own endpoint is.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(10);
const ADDRESS_POLL: Duration = Duration::from_millis(5);

/// Who a peer is and where it listens.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Spot {
    /// Its address.
    #[arg(long, default_value_t = LOOPBACK)]
    pub(crate) ip: IpAddr,
    /// Its port; 0 is any.
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// What its key is made of; one of its own by default.
    #[arg(long, default_value_t = process::id().to_string())]
    pub(crate) name: String,
    /// A byte of each piece of contents that it gives is wrong.
    #[arg(long)]
    pub(crate) lies: bool,
}

impl Default for Spot {
    fn default() -> Self {
        Self { ip: LOOPBACK, port: 0, name: process::id().to_string(), lies: false }
    }
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The key of a peer of this name, which whoever made up the name knows, too.
pub(crate) fn identity(name: &str) -> Identity {
    Identity::from_seed(blake3::derive_key("firn bench peer 1", name.as_bytes()))
}

/// Answers everybody out of all that the engine shares, compressed where a node would do that.
struct GivesAll {
    engine: Arc<OnceLock<Engine>>,
    codec: SharedCodec,
    lies: bool,
}

impl Answerer for GivesAll {
    fn answer(&self, from: Peer, request: Bytes) -> Box<dyn ReplyBody> {
        let asked = Question::decode(request.clone()).map(|question| question.asked);
        let of_contents = matches!(asked, Ok(Asked::Batch(_) | Asked::Ranges { .. }));
        let reply = self.engine.get().map(|engine| {
            let reply = answer(&engine.shared_view(), request);
            self.codec.squeezed(reply, from)
        });
        Box::new(Body { reply, codec: self.codec.clone(), lies: self.lies && of_contents })
    }
}

struct Body {
    /// None before there is an engine.
    reply: Option<Reply>,
    codec: SharedCodec,
    lies: bool,
}

impl ReplyBody for Body {
    fn memory_bytes(&self) -> usize {
        self.reply.as_ref().map_or(0, Reply::memory_bytes)
    }

    fn next(&mut self) -> Result<Option<Bytes>, BrokenOff> {
        let reply = self.reply.as_mut().ok_or(BrokenOff)?;
        let piece = self.codec.pull(reply).map_err(|_| BrokenOff)?;
        Ok(piece.map(|piece| if self.lies { with_wrong_end(&piece) } else { piece }))
    }
}

fn with_wrong_end(piece: &[u8]) -> Bytes {
    let mut wrong = piece.to_vec();
    if let Some(last) = wrong.last_mut() {
        *last ^= 1;
    }
    wrong.into()
}

/// An engine and the network that it asks and that asks it.
pub(crate) struct Party {
    pub(crate) engine: Engine,
    pub(crate) net: Arc<Net>,
}

impl Party {
    /// Starts one.
    pub(crate) async fn start(store: Arc<dyn Store>, spot: &Spot, peers: Vec<StaticPeer>) -> Outcome<Self> {
        let iroh_bind = vec![SocketAddr::new(spot.ip, spot.port)];
        let config = NetConfig { iroh_bind, peers, ..NetConfig::new(identity(&spot.name)) };
        let place = Arc::new(OnceLock::new());
        let codec = SharedCodec::new(Compress::Auto);
        let answerer = GivesAll { engine: place.clone(), codec, lies: spot.lies };
        let net = Arc::new(Net::start(config, Arc::new(answerer)).await?);
        let limits = Limits { deadline: Some(FETCH_DEADLINE), ..Limits::default() };
        let seed = u64::from(process::id());
        let engine = Engine::open(
            store,
            policy(),
            net.clone(),
            net.clone(),
            EngineConfig { limits, seed, me: net.status().peer },
        )
        .await?;
        let _ = place.set(engine.clone());
        Ok(Self { engine, net })
    }

    /// Who it is and where.
    pub(crate) async fn name(&self) -> Outcome<StaticPeer> {
        name_of(&self.net).await
    }
}

/// The key and the address of a network.
pub(crate) async fn name_of(net: &Net) -> Outcome<StaticPeer> {
    let begun = Instant::now();
    loop {
        let status = net.status();
        if let Some(address) = status.iroh.first() {
            return Ok(StaticPeer { id: status.peer, address: *address });
        }
        if begun.elapsed() > ADDRESS_TIMEOUT {
            return Err("iroh does not say where it listens".into());
        }
        tokio::time::sleep(ADDRESS_POLL).await;
    }
}

/// Gives a store to peers until standard input ends.
pub(crate) fn seed(store: &Path, spot: &Spot) -> Outcome<()> {
    let store = Arc::new(DiskStore::open(store)?);
    Runtime::new()?.block_on(async {
        let party = Party::start(store, spot, Vec::new()).await?;
        println!("{}", party.name().await?);
        input_ended().await;
        Ok(party.net.shutdown().await?)
    })
}

/// Gets a tree from peers, timed from the call of the engine, which has an open store, until what came is durable.
///
/// One that is attended says who it is, begins when it is told to, says when half has come and when all has, and gives
/// to others until standard input ends.
pub(crate) fn get(
    store: &Path,
    root: Root,
    peers: Vec<StaticPeer>,
    spot: &Spot,
    attended: bool,
) -> Outcome<Said> {
    let store = Arc::new(DiskStore::open(store)?);
    Runtime::new()?.block_on(async {
        let party = Party::start(store, spot, peers).await?;
        if attended {
            println!("{}", party.name().await?);
            told_to_go().await;
        }
        let begun = Instant::now();
        let course = Mutex::new(Course { came: 0, last: begun, longest: Duration::ZERO, half: attended });
        let note = |progress: &Progress| {
            course.lock().unwrap_or_else(PoisonError::into_inner).note(progress);
        };
        party.engine.get_root(root, &note).await?;
        let seconds = Some(begun.elapsed().as_secs_f64());
        if attended {
            println!("done");
            input_ended().await;
        }
        party.net.shutdown().await?;
        let known = party.engine.peers();
        let liars = known.iter().filter(|(_, entry)| !entry.lies.is_empty());
        let liars = liars.map(|(peer, entry)| (peer.to_string(), entry.bytes)).collect();
        let course = course.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Said { seconds, liars, stall_s: course.longest.as_secs_f64(), ..Said::default() })
    })
}

/// How a fetch went. What counts is verified contents: the Directories come before that.
struct Course {
    came: u64,
    last: Instant,
    longest: Duration,
    /// Whether it is still to be said that half has come.
    half: bool,
}

impl Course {
    fn note(&mut self, progress: &Progress) {
        let came = progress.givers.iter().map(|(_, bytes)| bytes).sum();
        if came > self.came {
            let now = Instant::now();
            (self.longest, self.last, self.came) = (self.longest.max(now - self.last), now, came);
        }
        if self.half && progress.bytes_total > 0 && came >= progress.bytes_total / 2 {
            self.half = false;
            println!("half");
        }
    }
}
