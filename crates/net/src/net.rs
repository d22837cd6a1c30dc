//! The network as the rest of the node sees it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use firn_engine::{Ask, AskError, Find, Found, Received, Via};
use firn_exchange::{Fellow, Key, PeerId, Request};
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use iroh::{TransportAddr, Watcher};
use libp2p::{Multiaddr, multiaddr::Protocol};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    address::{AddressBook, AddressRecord},
    config::{NetConfig, StaticPeer},
    dial::{DialRules, is_private, is_v6_link_local, quic_address},
    discovery::{COMMANDS_MAX, Discovery, NoDiscovery, View},
    driver::{Driver, DriverConfig},
    duplicates,
    endpoint::{Binding, KeptEndpoint},
    error::NetError,
    identity::{Identity, libp2p_peer},
    keeper::Keeper,
    limits::{Pacer, RateLimits},
    mdns::{Mdns, SIGHTINGS_MAX},
    route::Route,
    serve::{Answerer, Server, Serving},
    swarm::{SwarmConfig, kad_protocol},
    traffic::Traffic,
    transfer::{Asker, Resolve},
    transport::Silent,
};

/// How long iroh may take to say goodbye to its peers. What it says is sent at once; it would wait for 3 s for those that are
/// gone to answer, and for some round trips for the others.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(100);
/// How long the tasks may take to end after that.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// When no further address has come for so long, all are known.
const LISTENERS_SETTLE: Duration = Duration::from_millis(400);

/// Whom a look-up can reach: what a client that waits for a miss should be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Nobody.
    None,
    /// Neighbours and peers named by the user.
    Near,
    /// The DHT, or its first node is being dialled.
    Dht,
}

/// What the network looks like from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetStatus {
    /// This node.
    pub peer: PeerId,
    /// Where iroh can be reached directly.
    pub iroh: Vec<SocketAddr>,
    /// Where libp2p can be reached, with `/p2p/<id>`: what others take as `--bootstrap`.
    pub libp2p: Vec<Multiaddr>,
    /// Peers that libp2p is connected to.
    pub connected: Vec<PeerId>,
    /// Neighbours found by mDNS.
    pub neighbours: Vec<PeerId>,
    /// Peers in the DHT's routing table.
    pub dht_peers: usize,
    /// Keys that this node announces.
    pub announced: usize,
    /// Provider records kept for others.
    pub provider_records: usize,
    /// Where others have shown themselves that have this node's identity, or where the configuration names it.
    pub duplicates: Vec<SocketAddr>,
    /// What goes over the wire.
    pub traffic: Traffic,
}

/// Both planes: libp2p finds, iroh asks and answers.
pub struct Net {
    local: PeerId,
    endpoint: Arc<KeptEndpoint>,
    asker: Arc<Asker>,
    serving: Arc<Serving>,
    download: Arc<Pacer>,
    limits: RateLimits,
    discovery: Option<Discovery>,
    peers: Vec<StaticPeer>,
    /// Where the configuration names this node, and it is not.
    named_elsewhere: BTreeSet<SocketAddr>,
    stop: CancellationToken,
    tasks: Mutex<Option<JoinHandle<Result<(), NetError>>>>,
    _stops_when_dropped: DropGuard,
}

impl Net {
    /// Binds all sockets and starts all tasks. `answerer` answers whoever connects.
    pub async fn start(config: NetConfig, answerer: Arc<dyn Answerer>) -> Result<Self, NetError> {
        let stop = CancellationToken::new();
        let rules = rules_of(&config);
        let endpoint = KeptEndpoint::open(Binding {
            identity: config.identity.clone(),
            addresses: config.iroh_bind.clone(),
            relays: config.relays.clone(),
            limits: config.limits,
        });
        let endpoint = endpoint.await?;
        let named = config.peers.iter().map(|peer| (peer.id, peer.address));
        let book = Arc::new(AddressBook::new(rules.clone(), config.relays.clone(), named));
        let mut tasks = JoinSet::new();
        let discovery = match &config.libp2p_bind[..] {
            [] => None,
            _ => Some(start_discovery(&config, rules, Arc::clone(&book), &stop, &mut tasks)?),
        };
        let resolver: Arc<dyn Resolve> = match &discovery {
            Some(discovery) => Arc::new(discovery.clone()),
            None => Arc::new(NoDiscovery),
        };
        let download = Pacer::new(config.limits.download, config.limits.download_peer);
        let serving = Serving::new(answerer, Arc::clone(&book), &config.limits);
        let asker = Asker::new(
            Arc::clone(&endpoint),
            book,
            resolver,
            stop.clone(),
            Arc::clone(&download),
            config.compress,
            serving.connections.clone(),
        );
        let asker = Arc::new(asker);
        let server =
            Server { endpoint: Arc::clone(&endpoint), serving: Arc::clone(&serving), stop: stop.clone() };
        spawn(&mut tasks, "endpoint", Arc::clone(&endpoint).keep(stop.clone()));
        spawn(&mut tasks, "upload", Arc::clone(&serving.upload).run(stop.clone()));
        spawn(&mut tasks, "download", Arc::clone(&download).run(stop.clone()));
        spawn(&mut tasks, "server", server.run());
        spawn(&mut tasks, "sweeper", Arc::clone(&asker).sweep());
        let keeper = Keeper {
            local: config.identity.peer_id(),
            asker: Arc::clone(&asker),
            named: config.peers.iter().map(|peer| peer.id).collect(),
            view: discovery.as_ref().map(|discovery| discovery.view.clone()),
            stop: stop.clone(),
        };
        spawn(&mut tasks, "keeper", keeper.run());
        if let Some(discovery) = discovery.clone().filter(|_| config.is_server) {
            let publisher = publish(Arc::clone(&endpoint), config.identity.clone(), discovery, stop.clone());
            spawn(&mut tasks, "publisher", publisher);
        }
        let named_elsewhere = named_elsewhere(&config, endpoint.bound());
        named_elsewhere.iter().copied().for_each(duplicates::tell);
        Ok(Self {
            local: config.identity.peer_id(),
            named_elsewhere,
            endpoint,
            asker,
            serving,
            download,
            limits: config.limits,
            discovery,
            peers: config.peers,
            tasks: Mutex::new(Some(tokio::spawn(supervise(tasks, stop.clone())))),
            _stops_when_dropped: stop.clone().drop_guard(),
            stop,
        })
    }

    /// Announces exactly these keys from now on: at once, and again before others forget them.
    pub async fn announce(&self, keys: Vec<Key>) {
        if let Some(discovery) = &self.discovery {
            discovery.announce(keys.iter().map(Key::dht_key).collect()).await;
        }
    }

    /// What the network looks like now.
    pub fn status(&self) -> NetStatus {
        let mut view = self.view();
        let name = Protocol::P2p(libp2p_peer(self.local));
        let iroh = self.endpoint.get().map(|endpoint| endpoint.addr().ip_addrs().copied().collect());
        // Those that mean something to other machines come first.
        view.listeners.retain(|address| quic_address(address).is_some_and(|at| !is_v6_link_local(at.ip())));
        let rank =
            |address: &Multiaddr| quic_address(address).map(|at| (at.ip().is_loopback(), at.is_ipv6()));
        view.listeners.sort_by_key(rank);
        NetStatus {
            peer: self.local,
            iroh: iroh.unwrap_or_default(),
            libp2p: view.listeners.into_iter().map(|address| address.with(name.clone())).collect(),
            connected: view.connected,
            neighbours: view.neighbours.into_iter().collect(),
            dht_peers: view.dht_peers,
            announced: view.announced,
            provider_records: view.provider_records,
            duplicates: view.duplicates.union(&self.named_elsewhere).copied().collect(),
            traffic: Traffic::of(self.limits, &self.serving, &self.download),
        }
    }

    /// Waits until it is known where libp2p can be reached; at once where it listens nowhere.
    pub async fn listening(&self) {
        let Some(discovery) = &self.discovery else { return };
        let mut view = discovery.view.clone();
        let mut known = 0;
        // libp2p tells of one address at a time, and never that it was the last. Once there is one, the others follow
        // at once; an error says that the network has stopped, which is not for this to tell.
        loop {
            let more = view.wait_for(|view| view.listeners.len() > known);
            let patience = if known == 0 { Duration::MAX } else { LISTENERS_SETTLE };
            match tokio::time::timeout(patience, more).await {
                Ok(Ok(view)) => known = view.listeners.len(),
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    /// Whom a look-up can reach now.
    pub fn reach(&self) -> Reach {
        let view = self.view();
        if view.reaches_dht {
            Reach::Dht
        } else if !self.peers.is_empty() || !view.neighbours.is_empty() {
            Reach::Near
        } else {
            Reach::None
        }
    }

    /// By which route this peer is asked now; `None` where nothing was asked of it for a while.
    pub fn route_of(&self, peer: &PeerId) -> Option<Route> {
        self.asker.route_of(peer)
    }

    /// Bytes a second of replies from this peer, over the last few seconds.
    pub fn download_rate(&self, peer: &PeerId) -> u64 {
        self.download.meter.rate_of(peer)
    }

    /// Ends when the network has stopped: by [`Net::shutdown`], or because one of its tasks failed.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Ends all connections and all tasks, within 5 s. The UDP ports are free soon after the `Net` is dropped, not before.
    pub async fn shutdown(&self) -> Result<(), NetError> {
        self.stop.cancel();
        self.endpoint.close(CLOSE_TIMEOUT).await;
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = async {
            self.asker.dials_ended().await;
            match tasks {
                Some(tasks) => tasks.await.unwrap_or(Err(NetError::Task { task: "supervisor" })),
                None => Ok(()),
            }
        };
        tokio::time::timeout(END_TIMEOUT, ended).await.unwrap_or(Err(NetError::Task { task: "shutdown" }))
    }

    /// Ends the endpoint as a panic in one of its tasks does.
    #[cfg(test)]
    pub(crate) async fn break_endpoint(&self) {
        self.endpoint.close(Duration::MAX).await;
    }

    /// The way to libp2p, where there is one.
    #[cfg(test)]
    pub(crate) fn discovery(&self) -> Option<&Discovery> {
        self.discovery.as_ref()
    }

    fn view(&self) -> View {
        self.discovery.as_ref().map(|discovery| discovery.view.borrow().clone()).unwrap_or_default()
    }
}

impl Ask for Net {
    fn ask(
        &self,
        peer: PeerId,
        request: Request,
        received: Received,
    ) -> BoxFuture<'static, Result<Bytes, AskError>> {
        Box::pin(Arc::clone(&self.asker).ask(peer, request, received))
    }
}

impl Find for Net {
    fn find(&self, key: Key) -> BoxStream<'static, Found> {
        let named = self.peers.iter().map(|peer| Found { peer: peer.id, via: Via::Static });
        let neighbours = self.view().neighbours.into_iter().map(|peer| Found { peer, via: Via::Mdns });
        let near: Vec<Found> = named.chain(neighbours).collect();
        let far = match &self.discovery {
            Some(discovery) if self.view().reaches_dht => {
                let found = discovery.find(key.dht_key()).map(|peer| Found { peer, via: Via::Dht });
                found.boxed()
            }
            _ => stream::empty().boxed(),
        };
        let mut seen = BTreeSet::from([self.local]);
        stream::iter(near).chain(far).filter(move |found| std::future::ready(seen.insert(found.peer))).boxed()
    }

    fn hint(&self, fellow: &Fellow) -> bool {
        fellow.peer != self.local && self.asker.hint(fellow)
    }
}

/// A node that was itself told to be on loopback may be sent to loopback.
fn rules_of(config: &NetConfig) -> DialRules {
    let bound = config.iroh_bind.iter().chain(&config.libp2p_bind).copied();
    let named =
        config.peers.iter().map(|peer| peer.address).chain(config.bootstrap.iter().filter_map(quic_address));
    if bound.chain(named).any(|address| address.ip().is_loopback()) {
        config.dial.clone().with_loopback()
    } else {
        config.dial.clone()
    }
}

/// Where the configuration names this node, and it is not.
fn named_elsewhere(config: &NetConfig, bound: &[SocketAddr]) -> BTreeSet<SocketAddr> {
    let local = config.identity.peer_id();
    let named = config.peers.iter().filter(|peer| peer.id == local).map(|peer| peer.address);
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let own: Vec<IpAddr> = interfaces.iter().map(|interface| interface.ip()).collect();
    duplicates::elsewhere(named, bound, &own)
}

fn start_discovery(
    config: &NetConfig,
    rules: DialRules,
    book: Arc<AddressBook>,
    stop: &CancellationToken,
    tasks: &mut JoinSet<&'static str>,
) -> Result<Discovery, NetError> {
    let protocol = kad_protocol(config.network.as_deref())?;
    let mut named = BTreeSet::new();
    for address in &config.bootstrap {
        named.insert(quic_address(address).ok_or_else(|| NetError::Bootstrap { address: address.clone() })?);
    }
    let (commands, told) = mpsc::channel(COMMANDS_MAX);
    let (sightings, seen) = mpsc::channel(SIGHTINGS_MAX);
    let (show, view) = watch::channel(View { reaches_dht: !config.bootstrap.is_empty(), ..View::default() });
    let driver = Driver::new(DriverConfig {
        swarm: SwarmConfig {
            identity: config.identity.clone(),
            bind: config.libp2p_bind.clone(),
            named,
            rules,
            silent: Silent::default(),
            protocol,
            is_server: config.is_server,
        },
        book,
        bootstrap: config.bootstrap.clone(),
        commands: told,
        sightings: seen,
        view: show,
        stop: stop.clone(),
    })?;
    if config.mdns {
        let (local, view) = (config.identity.libp2p_peer_id(), view.clone());
        spawn(tasks, "mDNS", Mdns { local, view, sightings, stop: stop.clone() }.run());
    }
    spawn(tasks, "libp2p driver", driver.run());
    Ok(Discovery { commands, view })
}

/// The private addresses of this machine at which its sockets can be reached. iroh tells of those of IPv6 only where there
/// is no address of another kind, such as that of a bridge for containers.
fn private_addresses(own: impl Iterator<Item = IpAddr>, bound: &[SocketAddr]) -> BTreeSet<TransportAddr> {
    let is_for_others = |ip: &IpAddr| is_private(*ip) && !ip.is_loopback() && !is_v6_link_local(*ip);
    let port_of = |ip: IpAddr| {
        let of_all = bound.iter().find(|at| at.ip().is_unspecified() && at.is_ipv4() == ip.is_ipv4());
        of_all.map(|at| TransportAddr::Ip(SocketAddr::new(ip, at.port())))
    };
    own.filter(is_for_others).filter_map(port_of).collect()
}

/// Signs where the node is, each time that changes.
async fn publish(
    endpoint: Arc<KeptEndpoint>,
    identity: Identity,
    discovery: Discovery,
    stop: CancellationToken,
) {
    let mut endpoints = endpoint.changes();
    while let Some(opened) = stop.run_until_cancelled(endpoint.opened()).await {
        let mut addresses = opened.watch_addr();
        drop(opened);
        endpoints.mark_unchanged();
        loop {
            let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
            let private = private_addresses(interfaces.iter().map(|at| at.ip()), endpoint.bound());
            let all: BTreeSet<TransportAddr> = addresses.get().addrs.into_iter().chain(private).collect();
            match AddressRecord::sign(&identity, all.into_iter().collect()) {
                Ok(record) => discovery.publish(record).await,
                Err(error) => tracing::error!(%error, "the node's addresses can't be signed"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                _failed = endpoints.changed() => break,
                Ok(_) = addresses.updated() => {}
            }
        }
    }
}

fn spawn(
    tasks: &mut JoinSet<&'static str>,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    tasks.spawn(async move {
        task.await;
        name
    });
}

/// Owns the tasks: the first one that ends before it should stops them all.
async fn supervise(mut tasks: JoinSet<&'static str>, stop: CancellationToken) -> Result<(), NetError> {
    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let task = match ended {
            Ok(_) if stop.is_cancelled() => continue,
            Ok(task) => task,
            Err(error) => {
                tracing::error!(%error, "a task of the network panicked");
                "panicked task"
            }
        };
        tracing::error!(task, "a task of the network ended early: the network stops");
        outcome = Err(NetError::Task { task });
        stop.cancel();
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_told_of_sockets_that_listen_on_all() {
        let own = ["10.0.0.1", "fd00::1", "fe80::1", "127.0.0.1", "::1", "8.8.8.8", "2001:db8::1"];
        let told = |bound: &[&str]| {
            let bound: Vec<SocketAddr> = bound.iter().map(|at| at.parse().unwrap()).collect();
            let told = private_addresses(own.iter().map(|ip| ip.parse().unwrap()), &bound);
            let text = |address: TransportAddr| match address {
                TransportAddr::Ip(at) => at.to_string(),
                other => panic!("{other:?}"),
            };
            told.into_iter().map(text).collect::<Vec<_>>()
        };
        assert_eq!(told(&["0.0.0.0:7", "[::]:8"]), ["10.0.0.1:7", "[fd00::1]:8"]);
        assert_eq!(told(&["0.0.0.0:7", "[::1]:8"]), ["10.0.0.1:7"]);
        assert_eq!(told(&["127.0.0.1:7"]), [""; 0]);
    }
}
