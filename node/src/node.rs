//! A running node: store, engine, network, gateway and control socket, wired together.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use firn_engine::{Engine, EngineConfig};
use firn_exchange::{Limits, Micros, PeerId};
use firn_gateway::{Gateway, GatewayConfig, HostName, PRIORITY, WRITE_TIMEOUT};
use firn_net::{Answerer, DialRules, Identity, Net, NetConfig, Reach};
use firn_store::{DiskStore, Rebuilt, create_private_dir};
use firn_trust::Policy;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    answerer::{RoleAnswerer, Served},
    commands,
    config::{Config, Environment, MissBudgets, NetworkName, Role},
    control::{ControlClient, ControlSocket, socket_path},
    failure::Failure,
    housekeeping::{self, Trouble},
    open_files,
    operations::{Adopting, Operations, Ops},
    remembered, show,
    signals::Signals,
};

/// A fetch that has not ended by then fails. Long enough for any path over any link worth using.
const FETCH_DEADLINE: Micros = Micros::from_millis(6 * 3600 * 1000);
/// The longest pause between two announcements. It is ten times what one has taken: what is committed meanwhile is gathered.
const ANNOUNCE_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long the start waits to learn where the DHT can be reached; without an interface it never can.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a store is waited for that another process has open: a node that starts can be asked soon, and most commands end.
pub const IN_USE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is tried meanwhile.
pub const IN_USE_POLL: Duration = Duration::from_millis(50);
/// How long the ending may take in all.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Something that could not be used, by name.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("the data directory {path}: {source}", path = .path.display())]
    DataDir { path: Box<Path>, source: io::Error },
    #[error("the binary cache cannot listen on {address}: {source}")]
    Http { address: SocketAddr, source: io::Error },
}

/// Where a running node can be reached.
#[derive(Debug, Clone)]
pub struct Ready {
    /// This node, 64 hex digits.
    pub peer_id: String,
    /// The binary cache.
    pub http: SocketAddr,
    /// The peer protocol.
    pub iroh: Vec<String>,
    /// The DHT, with `/p2p/` id.
    pub multiaddrs: Vec<String>,
}

/// Makes what answers peers, out of the place where the engine will be.
pub type MakeAnswerer = Box<dyn FnOnce(Arc<OnceLock<Engine>>) -> Arc<dyn Answerer> + Send>;

/// Who answers peers.
pub enum Behaviour {
    /// The role decides what they get.
    ByRole,
    /// Something else does, once there is an engine: the demo's liar.
    Other(MakeAnswerer),
}

/// A running node. Dropping it ends its tasks; [`Node::stop`] ends them well.
pub struct Node {
    ops: Arc<Ops>,
    net: Arc<Net>,
    http: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<Result<(), Failure>>,
}

/// Whether there is a store in the data directory. One that cannot be looked at is there: opening it tells more.
pub fn has_store(data_dir: &Path) -> bool {
    let found = std::fs::symlink_metadata(store_dir(data_dir));
    !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Opens the data directory's store, for this process alone.
pub async fn open_store(data_dir: &Path) -> Result<Arc<DiskStore>, Failure> {
    let failed = |source| Failure::advised(StartError::DataDir { path: data_dir.into(), source });
    create_private_dir(data_dir).map_err(failed)?;
    remembered::close(data_dir);
    let dir = store_dir(data_dir);
    let opened = tokio::task::spawn_blocking(move || DiskStore::open(&dir)).await.map_err(Failure::failed)?;
    let store = opened.map_err(Failure::advised)?;
    for stray in store.strays() {
        tracing::error!(stray = %stray.display(), "it is no file of a store, and is out of its way");
    }
    Ok(Arc::new(store))
}

/// The same, once the command that has it open has ended. Another node is not waited for.
async fn open_store_after_commands(data_dir: &Path) -> Result<Arc<DiskStore>, Failure> {
    let until = Instant::now() + IN_USE_TIMEOUT;
    loop {
        match open_store(data_dir).await {
            Err(failure)
                if failure.is_in_use() && Instant::now() < until && !is_node_there(data_dir).await =>
            {
                tokio::time::sleep(IN_USE_POLL).await;
            }
            opened => return opened,
        }
    }
}

/// Whether a node of this data directory answers, or fails to.
async fn is_node_there(data_dir: &Path) -> bool {
    match socket_path(data_dir, &Environment::of_process()) {
        Ok(socket) => !matches!(ControlClient::connect(&socket).await, Ok(None)),
        Err(_) => true,
    }
}

/// Makes a new index for the data directory's store, which nobody has open.
pub fn rebuild_index(data_dir: &Path) -> Result<Rebuilt, Failure> {
    DiskStore::rebuild_index(&store_dir(data_dir)).map_err(Failure::failed)
}

fn store_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}

/// How the engine of a node or of a command is set up; `me` is its name on the network, if it has one.
pub fn engine_config(me: Option<PeerId>) -> Result<EngineConfig, Failure> {
    let limits = Limits { deadline: Some(FETCH_DEADLINE), ..Limits::default() };
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(Failure::failed)?;
    let me = me.unwrap_or_else(|| PeerId::from([0; 32]));
    Ok(EngineConfig { limits, seed: u64::from_le_bytes(seed), me })
}

/// How the network of a node is set up.
pub fn net_config(config: &Config, identity: Identity) -> NetConfig {
    let finds = config.role == Role::Seed || config.mdns || !config.bootstrap.is_empty();
    NetConfig {
        identity,
        iroh_bind: config.iroh.clone(),
        libp2p_bind: if finds { config.libp2p.clone() } else { Vec::new() },
        bootstrap: config.bootstrap.clone(),
        peers: config.peers.clone(),
        relays: config.relays.clone(),
        mdns: config.mdns,
        network: (config.network != NetworkName::usual()).then(|| config.network.as_str().to_owned()),
        dial: DialRules::new(config.dial.clone()),
        is_server: config.role != Role::Client,
        limits: config.rates,
        compress: config.compress,
    }
}

impl Node {
    /// Takes the data directory, binds all addresses and starts.
    pub async fn start(config: Arc<Config>, behaviour: Behaviour) -> Result<Self, Failure> {
        let store = open_store_after_commands(&config.data_dir).await?;
        let identity =
            Identity::load_or_create(&config.data_dir.join("node.key")).map_err(Failure::failed)?;
        let (engine_of_answerer, served) = (Arc::new(OnceLock::new()), Arc::new(Served::default()));
        let answerer: Arc<dyn Answerer> = match behaviour {
            Behaviour::ByRole => {
                let (engine, served) = (engine_of_answerer.clone(), served.clone());
                Arc::new(RoleAnswerer::new(config.role, config.compress, engine, served))
            }
            Behaviour::Other(make) => make(engine_of_answerer.clone()),
        };
        let http = TcpListener::bind(config.http)
            .await
            .map_err(|source| Failure::failed(StartError::Http { address: config.http, source }))?;
        let http_address = http.local_addr().map_err(Failure::failed)?;
        let net = Net::start(net_config(&config, identity), answerer).await.map_err(Failure::failed)?;
        let net = Arc::new(net);
        let _ = tokio::time::timeout(LISTEN_TIMEOUT, net.listening()).await;
        let policy = Policy::new(config.trust.clone());
        let config_of_engine = engine_config(Some(net.status().peer))?;
        let engine = Engine::open(store, policy, net.clone(), net.clone(), config_of_engine).await;
        let engine = engine.map_err(Failure::failed)?;
        remembered::tell(&engine, &config.data_dir);
        let _ = engine_of_answerer.set(engine.clone());
        let ops = Arc::new(Ops {
            engine,
            net: Some(net.clone()),
            served,
            http: Some(http_address),
            started: Instant::now(),
            adopting: Adopting::default(),
            trouble: Arc::new(Trouble::default()),
            writing: TaskTracker::new(),
            config,
        });
        let mut node =
            Self { ops, net, http: http_address, stop: CancellationToken::new(), tasks: JoinSet::new() };
        node.serve_nix(http);
        node.serve_commands()?;
        node.announce();
        node.keep_house();
        if node.ops.config.adopt {
            node.ops.adopting.start(&node.ops, &node.ops.config.nix_root, None).await?;
        }
        Ok(node)
    }

    fn serve_nix(&mut self, listener: TcpListener) {
        let (net, miss) = (self.net.clone(), self.ops.config.miss);
        if !self.http.ip().to_canonical().is_loopback() {
            tracing::warn!(
                http = %self.http,
                "the binary cache is open to the network: all who reach it read every path that is here, private ones too"
            );
        }
        let named = self.ops.config.http_host.iter().cloned();
        let config = GatewayConfig {
            priority: PRIORITY,
            budget: Arc::new(move || budget(miss, net.reach())),
            hosts: named.chain(own_names()).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            // The store and the network want some as well.
            connections_max: usize::try_from(open_files::raise_limit() / 2).unwrap_or(usize::MAX),
            write_timeout: WRITE_TIMEOUT,
        };
        let gateway = Gateway { engine: self.ops.engine.clone(), config };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            gateway.serve(listener, stop.cancelled_owned()).await;
            Ok(())
        });
    }

    fn serve_commands(&mut self) -> Result<(), Failure> {
        let path = socket_path(&self.ops.config.data_dir, &Environment::of_process())?;
        let socket = ControlSocket::bind(&path).map_err(Failure::failed)?;
        let (operations, stop): (Arc<dyn Operations>, _) = (self.ops.clone(), self.stop.clone());
        self.tasks.spawn(async move { socket.serve(operations, stop).await.map_err(Failure::failed) });
        Ok(())
    }

    /// Whatever is committed is announced soon after; what is announced derives from the store.
    fn announce(&mut self) {
        if self.ops.config.role != Role::Seed {
            return;
        }
        let (engine, net, stop) = (self.ops.engine.clone(), self.net.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let mut changes = engine.changes();
            loop {
                changes.mark_unchanged();
                let begun = Instant::now();
                net.announce(engine.keys()).await;
                let pause = (begun.elapsed() * 10).min(ANNOUNCE_PAUSE_MAX);
                let changed = async {
                    tokio::time::sleep(pause).await;
                    changes.changed().await
                };
                match stop.run_until_cancelled(changed).await {
                    Some(Ok(())) => {}
                    Some(Err(_)) | None => return Ok(()),
                }
            }
        });
    }

    /// What is lost goes out of view, the store stays within its limit, and who lied is remembered.
    fn keep_house(&mut self) {
        let (engine, trouble, stop) = (self.ops.engine.clone(), self.ops.trouble.clone(), self.stop.clone());
        if let Some(limit) = self.ops.config.store_bytes_max {
            let (engine, trouble, stop) = (engine.clone(), trouble.clone(), stop.clone());
            self.tasks.spawn(async move {
                housekeeping::keep_room(engine, limit.0, trouble, stop).await;
                Ok(())
            });
        }
        let (told, data_dir, ending) = (engine.clone(), self.ops.config.data_dir.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            remembered::keep(told, data_dir, ending).await;
            Ok(())
        });
        self.tasks.spawn(async move {
            housekeeping::withdraw(engine, trouble, stop).await;
            Ok(())
        });
    }

    /// How many provider records of the DHT this node keeps for others.
    pub fn provider_records(&self) -> usize {
        self.net.status().provider_records
    }

    /// What the node can be asked to do.
    pub fn operations(&self) -> &Arc<Ops> {
        &self.ops
    }

    /// Where the node can be reached.
    pub fn ready(&self) -> Ready {
        let status = self.net.status();
        Ready {
            peer_id: status.peer.to_string(),
            http: self.http,
            iroh: status.iroh.iter().map(ToString::to_string).collect(),
            multiaddrs: status.libp2p.iter().map(ToString::to_string).collect(),
        }
    }

    /// Ends when one of the node's parts has ended, which none should before [`Node::stop`].
    async fn failed(&mut self) -> Failure {
        tokio::select! {
            () = self.net.stopped() => Failure::failed(Stopped("network")),
            ended = self.tasks.join_next() => match ended {
                Some(Ok(Err(failure))) => failure,
                Some(Err(error)) => Failure::failed(error),
                Some(Ok(Ok(()))) | None => Failure::failed(Stopped("gateway or control socket")),
            },
        }
    }

    /// Ends all within 5 s.
    pub async fn stop(mut self) -> Result<(), Failure> {
        self.stop.cancel();
        let end = async {
            let adopting = self.ops.adopting.stop().await;
            let network = self.net.shutdown().await;
            while let Some(ended) = self.tasks.join_next().await {
                ended.map_err(Failure::failed)??;
            }
            self.ops.finish_writing().await;
            network.map_err(Failure::failed).and(adopting)
        };
        match tokio::time::timeout(SHUTDOWN_TIMEOUT, end).await {
            Ok(ended) => ended,
            Err(_) => {
                self.tasks.abort_all();
                tracing::warn!("some connections did not end in time and were cut");
                Ok(())
            }
        }
    }
}

/// A part of the node has ended though nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[error("the node's {0} has ended unexpectedly")]
struct Stopped(&'static str);

/// The names that this machine has for itself: its own, without its domain, and as multicast DNS knows it.
fn own_names() -> impl Iterator<Item = HostName> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let first = name.split('.').next().unwrap_or_default().to_owned();
    let local = format!("{first}.local");
    [name, first, local].into_iter().filter_map(|name| name.parse().ok())
}

/// How long Nix may be kept waiting for a miss.
fn budget(miss: MissBudgets, reach: Reach) -> Duration {
    match reach {
        Reach::None => miss.alone,
        Reach::Near => miss.near,
        Reach::Dht => miss.dht,
    }
}

/// `firn node`: runs until a signal ends it.
pub async fn run(config: Arc<Config>, behaviour: Behaviour, json: bool) -> Result<ExitCode, Failure> {
    let mut signals = Signals::of_node().map_err(Failure::failed)?;
    let mut node = Node::start(config.clone(), behaviour).await?;
    let socket = socket_path(&config.data_dir, &Environment::of_process())?;
    if let Err(error) = commands::say(&show::ready(&node.ready(), &config, &socket), json) {
        tracing::warn!(%error, "the node is ready");
    }
    let outcome = tokio::select! {
        ending = signals.next() => {
            tracing::info!("{ending}");
            Ok(())
        }
        failure = node.failed() => Err(failure),
    };
    let stopped = node.stop().await;
    outcome.and(stopped).map(|()| ExitCode::SUCCESS)
}
