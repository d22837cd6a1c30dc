//! The task that owns the swarm: takes commands, hears events, keeps the DHT told. A swarm that panics is opened anew.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use firn_exchange::PeerId;
use futures::{FutureExt, StreamExt};
use libp2p::{
    Multiaddr, Swarm,
    kad::{PutRecordError, QueryId, Quorum, Record, RecordKey},
    swarm::dial_opts::{DialOpts, PeerCondition},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    address::{AddressBook, AddressRecord, record_key},
    announce::{ANNOUNCE_INTERVAL, DhtKey, Schedule},
    dial::quic_address,
    discovery::{Command, View},
    duplicates::Duplicates,
    error::NetError,
    identity::peer_of_libp2p,
    lookups::{Resolves, Searches},
    mdns::Sighting,
    peers::Peers,
    swarm::{self, Behaviour, SwarmConfig},
    transport::Silent,
};

/// Announcements under way at once: each is a look-up and up to 20 messages.
const ANNOUNCEMENTS_MAX: usize = 16;
/// How often what is due is looked at.
const TICK: Duration = Duration::from_millis(200);
/// How often expired records of others are dropped.
const PURGE_INTERVAL: Duration = Duration::from_secs(60);
/// A look-up waits so long after the start for the first bootstrap node to answer.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two dials of bootstrap nodes that aren't connected: at first, and at most.
const BOOTSTRAP_WAIT_FIRST: Duration = Duration::from_secs(1);
const BOOTSTRAP_WAIT_MAX: Duration = Duration::from_secs(15);
/// Between two dials of neighbours that aren't connected.
const NEIGHBOUR_INTERVAL: Duration = Duration::from_secs(10);
/// How soon the address record is put into the DHT again where nobody has taken it.
const PUT_AGAIN: Duration = Duration::from_secs(2);
/// Before a swarm that broke is opened anew: at first, and at most.
const REOPEN_WAIT_FIRST: Duration = Duration::from_millis(100);
const REOPEN_WAIT_MAX: Duration = Duration::from_secs(60);
/// A swarm that ran for so long has not broken at once.
const RAN_WELL: Duration = Duration::from_secs(300);
/// How long the connections may take to say goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

/// What is done when, besides the announcements.
struct Times {
    join_until: Instant,
    bootstrap: Instant,
    bootstrap_wait: Duration,
    neighbours: Instant,
    purge: Instant,
    /// When the address record is put into the DHT.
    address: Instant,
}

impl Times {
    fn new(now: Instant) -> Self {
        Self {
            join_until: now + JOIN_TIMEOUT,
            bootstrap: now,
            bootstrap_wait: BOOTSTRAP_WAIT_FIRST,
            neighbours: now,
            purge: now + PURGE_INTERVAL,
            address: now,
        }
    }
}

/// Owns the swarm.
pub(crate) struct Driver {
    pub(crate) swarm: Swarm<Behaviour>,
    /// What happened to the swarm leaves nothing to do with it.
    pub(crate) is_broken: bool,
    pub(crate) silent: Silent,
    pub(crate) peers: Peers,
    pub(crate) searches: Searches,
    pub(crate) resolves: Resolves,
    pub(crate) book: Arc<AddressBook>,
    pub(crate) local: PeerId,
    pub(crate) duplicates: Duplicates,
    config: SwarmConfig,
    bootstrap: Vec<Multiaddr>,
    schedule: Schedule,
    announcing: HashMap<QueryId, DhtKey>,
    address: Option<AddressRecord>,
    times: Times,
    commands: mpsc::Receiver<Command>,
    sightings: mpsc::Receiver<Sighting>,
    view: watch::Sender<View>,
    stop: CancellationToken,
}

/// What the driver starts with.
pub(crate) struct DriverConfig {
    pub(crate) swarm: SwarmConfig,
    pub(crate) book: Arc<AddressBook>,
    pub(crate) bootstrap: Vec<Multiaddr>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) sightings: mpsc::Receiver<Sighting>,
    pub(crate) view: watch::Sender<View>,
    pub(crate) stop: CancellationToken,
}

impl Driver {
    /// Builds the swarm and binds its sockets.
    pub(crate) fn new(config: DriverConfig) -> Result<Self, NetError> {
        let DriverConfig { swarm: config, book, bootstrap, commands, sightings, view, stop } = config;
        Ok(Self {
            swarm: swarm::build(&config)?,
            is_broken: false,
            silent: config.silent.clone(),
            peers: Peers::new(config.rules.clone(), config.protocol.clone()),
            searches: Searches::default(),
            resolves: Resolves::default(),
            book,
            local: config.identity.peer_id(),
            duplicates: Duplicates::default(),
            config,
            bootstrap,
            schedule: Schedule::default(),
            announcing: HashMap::new(),
            address: None,
            times: Times::new(Instant::now()),
            commands,
            sightings,
            view,
            stop,
        })
    }

    /// Runs until the node stops. A swarm that breaks is opened anew, at the same ports.
    pub(crate) async fn run(mut self) {
        let mut wait = REOPEN_WAIT_FIRST;
        loop {
            let begun = Instant::now();
            // What a panic leaves half done is thrown away.
            let ended = AssertUnwindSafe(self.drive()).catch_unwind().await;
            if self.stop.is_cancelled() {
                break;
            }
            if begun.elapsed() >= RAN_WELL {
                wait = REOPEN_WAIT_FIRST;
            }
            let panicked = ended.is_err();
            tracing::error!(panicked, ?wait, "libp2p broke: it is opened anew");
            if !self.reopen(&mut wait).await {
                return;
            }
        }
        if AssertUnwindSafe(self.say_goodbye()).catch_unwind().await.is_err() {
            tracing::debug!("libp2p panicked at its end");
        }
    }

    /// Runs until the node stops or the swarm breaks.
    async fn drive(&mut self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.is_broken {
            tokio::select! {
                () = self.stop.cancelled() => break,
                event = self.swarm.select_next_some() => self.heard(event),
                Some(command) = self.commands.recv() => self.told(command),
                Some(seen) = self.sightings.recv() => self.saw(seen),
                _ = ticks.tick() => self.tick(Instant::now()),
            }
            self.start_what_is_due(Instant::now());
        }
    }

    /// Puts a new swarm in the place of the old one. False if the node stops meanwhile.
    async fn reopen(&mut self, wait: &mut Duration) -> bool {
        self.config.bind = self.ports_kept();
        let without_sockets = SwarmConfig { bind: Vec::new(), ..self.config.clone() };
        // Whoever waits for a look-up learns that it is over.
        (self.searches, self.resolves) = Default::default();
        self.announcing.clear();
        loop {
            // The old one gives its ports free first.
            match swarm::build(&without_sockets) {
                Ok(empty) => {
                    let old = std::mem::replace(&mut self.swarm, empty);
                    if catch_unwind(AssertUnwindSafe(|| drop(old))).is_err() {
                        tracing::debug!("libp2p panicked again when it was dropped");
                    }
                }
                Err(error) => tracing::error!(%error, "libp2p cannot be opened anew"),
            }
            if self.stop.run_until_cancelled(tokio::time::sleep(*wait)).await.is_none() {
                return false;
            }
            *wait = (*wait * 2).min(REOPEN_WAIT_MAX);
            match swarm::build(&self.config) {
                Ok(swarm) => self.swarm = swarm,
                Err(error) => {
                    tracing::error!(%error, ?wait, "libp2p cannot be opened anew yet");
                    continue;
                }
            }
            let now = Instant::now();
            self.is_broken = false;
            self.peers = Peers::new(self.config.rules.clone(), self.config.protocol.clone());
            self.times = Times::new(now);
            self.schedule.restart(now);
            return true;
        }
    }

    /// Where the swarm is to listen: any port is the one that it had.
    fn ports_kept(&self) -> Vec<SocketAddr> {
        let had: Vec<SocketAddr> = self.view.borrow().listeners.iter().filter_map(quic_address).collect();
        let kept = |bind: &SocketAddr| {
            let same = had.iter().find(|had| {
                had.is_ipv4() == bind.is_ipv4() && (bind.ip().is_unspecified() || had.ip() == bind.ip())
            });
            let port = same.map_or(bind.port(), SocketAddr::port);
            SocketAddr::new(bind.ip(), if bind.port() == 0 { port } else { bind.port() })
        };
        self.config.bind.iter().map(kept).collect()
    }

    fn told(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Announce(keys) => {
                for gone in self.schedule.replace(keys, now) {
                    self.swarm.behaviour_mut().kad.stop_providing(&RecordKey::new(&gone));
                }
            }
            Command::Find { key, found } => self.searches.add(key, found),
            Command::Resolve { peer, signed_after_us, done } => {
                if !self.resolves.is_running(peer) {
                    self.resolve(peer);
                }
                if !self.resolves.join(peer, signed_after_us, done) {
                    tracing::debug!(%peer, "too many addresses are looked up at once");
                }
            }
            Command::Publish(record) => {
                if self.address.as_ref().is_some_and(|earlier| record.has_left(earlier)) {
                    self.connect_anew(now);
                }
                self.duplicates.signs(record.signed_at_us());
                self.address = Some(record);
                self.times.address = now;
            }
            #[cfg(test)]
            Command::Panic => panic!("as the test wants"),
        }
    }

    /// This node is no longer at an address where it was: connections from there are dead, though nothing shows it yet.
    fn connect_anew(&mut self, now: Instant) {
        let connected: Vec<libp2p::PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in connected {
            if self.swarm.disconnect_peer_id(peer).is_err() {
                tracing::trace!(%peer, "was disconnected already");
            }
        }
        (self.times.bootstrap, self.times.bootstrap_wait) = (now, BOOTSTRAP_WAIT_FIRST);
        self.times.neighbours = now;
    }

    /// Looks for the address record of this peer.
    pub(crate) fn resolve(&mut self, peer: PeerId) {
        if self.resolves.has_room() && !self.resolves.is_running(peer) {
            let query = self.swarm.behaviour_mut().kad.get_record(record_key(peer));
            self.resolves.started(query, peer);
        }
    }

    /// Ends a query that nobody needs any more.
    pub(crate) fn finish(&mut self, query: QueryId) {
        if let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&query) {
            query.finish();
        }
    }

    /// A node of the DHT is connected where none was, or one to bootstrap from: it may know nothing of what was announced
    /// to others.
    pub(crate) fn joined(&mut self) {
        let now = Instant::now();
        self.schedule.renew(now);
        self.times.address = now;
        self.times.bootstrap_wait = BOOTSTRAP_WAIT_FIRST;
        if let Err(error) = self.swarm.behaviour_mut().kad.bootstrap() {
            tracing::debug!(%error, "the routing table is not refreshed");
        }
    }

    pub(crate) fn is_bootstrap(&self, peer: &libp2p::PeerId) -> bool {
        self.bootstrap.iter().any(|address| self.peers.is_at(peer, address))
    }

    /// A peer can't be reached. Others, who are, are better off without it in the routing table.
    pub(crate) fn gone(&mut self, peer: &libp2p::PeerId) {
        let others_are_reached = self.swarm.connected_peers().next().is_some();
        if others_are_reached && !self.swarm.is_connected(peer) {
            self.swarm.behaviour_mut().kad.remove_peer(peer);
            self.peers.not_in_table(peer);
            self.count_table();
        }
    }

    pub(crate) fn announced(&mut self, query: QueryId, was_sent: bool) {
        if let Some(key) = self.announcing.remove(&query)
            && !was_sent
        {
            self.schedule.failed(key, Instant::now());
        }
    }

    fn tick(&mut self, now: Instant) {
        for query in self.searches.take_abandoned() {
            self.finish(query);
        }
        self.count_table();
        self.show();
        self.peers.forget_those_gone(now);
        if let Some(address) = self.duplicates.take_met(now) {
            self.seen_elsewhere(address);
        }
        if now >= self.times.purge {
            self.times.purge = now + PURGE_INTERVAL;
            self.swarm.behaviour_mut().kad.store_mut().purge(now);
        }
        if now >= self.times.bootstrap {
            self.times.bootstrap = now + self.times.bootstrap_wait;
            self.times.bootstrap_wait = (self.times.bootstrap_wait * 2).min(BOOTSTRAP_WAIT_MAX);
            // Even while others are connected: newcomers who know only that node must find us through it.
            let apart = self.bootstrap.iter().filter(|address| !self.peers.is_connected_at(address));
            for address in apart.cloned().collect::<Vec<_>>() {
                self.dial(address.into());
            }
        }
        if now >= self.times.neighbours {
            self.times.neighbours = now + NEIGHBOUR_INTERVAL;
            for (peer, addresses) in self.peers.neighbours_to_dial() {
                self.dial_neighbour(peer, addresses);
            }
        }
    }

    pub(crate) fn dial_neighbour(&mut self, peer: libp2p::PeerId, addresses: Vec<Multiaddr>) {
        let condition = PeerCondition::DisconnectedAndNotDialing;
        self.dial(DialOpts::peer_id(peer).condition(condition).addresses(addresses).build());
    }

    fn dial(&mut self, options: DialOpts) {
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%error, "not dialled");
        }
    }

    fn start_what_is_due(&mut self, now: Instant) {
        self.start_searches(now);
        // A node of the DHT keeps its own records even while it is alone, for whoever asks it first.
        if self.peers.in_table() == 0 && !self.is_server() {
            return;
        }
        if now >= self.times.address && self.address.is_some() {
            self.put_address(now);
        }
        while self.announcing.len() < ANNOUNCEMENTS_MAX
            && let Some(key) = self.schedule.take_due(now)
        {
            match self.swarm.behaviour_mut().kad.start_providing(RecordKey::new(&key)) {
                Ok(query) => {
                    self.announcing.insert(query, key);
                }
                Err(error) => {
                    tracing::warn!(%error, "not announced");
                    self.schedule.failed(key, now);
                }
            }
        }
    }

    fn start_searches(&mut self, now: Instant) {
        if self.is_joining(now) {
            return;
        }
        while let Some((key, search)) = self.searches.next_to_start() {
            // Without a peer in the table the search is dropped, which ends it.
            if self.peers.in_table() > 0 {
                let query = self.swarm.behaviour_mut().kad.get_providers(RecordKey::new(&key));
                self.searches.started(query, search);
            }
        }
    }

    /// Is the first dial of the bootstrap nodes still open?
    fn is_joining(&self, now: Instant) -> bool {
        !self.bootstrap.is_empty() && self.peers.in_table() == 0 && now < self.times.join_until
    }

    /// Puts the record where others look for it. It also lies here, for those who ask this node.
    fn put_address(&mut self, now: Instant) {
        self.times.address = now + ANNOUNCE_INTERVAL;
        // Whoever else has this identity puts a record there, too.
        self.resolve(self.local);
        let Some(address) = &self.address else { return };
        let record = Record::new(record_key(self.local), address.as_bytes().to_vec());
        if let Err(error) = self.swarm.behaviour_mut().kad.put_record(record, Quorum::All) {
            tracing::warn!(%error, "the address record was not put into the DHT");
        }
    }

    /// Nobody has taken the address record, be it because the connections do not know yet that this node has moved.
    pub(crate) fn address_not_put(&mut self, error: &PutRecordError) {
        let (PutRecordError::QuorumFailed { success, .. } | PutRecordError::Timeout { success, .. }) = error;
        if success.is_empty() && self.peers.in_table() > 0 {
            tracing::debug!(%error, "the address record was not put into the DHT");
            self.times.address = self.times.address.min(Instant::now() + PUT_AGAIN);
        }
    }

    /// Does this node serve the DHT?
    pub(crate) fn is_server(&self) -> bool {
        self.config.is_server
    }

    pub(crate) fn count_table(&mut self) {
        self.peers.count_table(self.swarm.behaviour_mut().kad.kbuckets());
    }

    fn show(&mut self) {
        let has_bootstrap = !self.bootstrap.is_empty();
        let reaches_dht = self.is_joining(Instant::now())
            || (self.peers.in_table() > 0 && (has_bootstrap || self.peers.far_in_table() > 0));
        let view = View {
            listeners: self.swarm.listeners().cloned().collect(),
            connected: self.swarm.connected_peers().filter_map(|peer| peer_of_libp2p(peer).ok()).collect(),
            neighbours: self.peers.neighbours(),
            dht_peers: self.peers.in_table(),
            reaches_dht,
            announced: self.schedule.len(),
            provider_records: self.swarm.behaviour_mut().kad.store_mut().provider_records(),
            duplicates: self.duplicates.addresses(),
            met_itself: self.duplicates.met_itself(),
        };
        self.view.send_if_modified(|shown| {
            let is_new = *shown != view;
            *shown = view;
            is_new
        });
    }

    /// Closes all connections, so that the others needn't find out by waiting.
    async fn say_goodbye(&mut self) {
        let connected: BTreeSet<libp2p::PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in connected {
            if self.swarm.disconnect_peer_id(peer).is_err() {
                tracing::trace!(%peer, "was disconnected already");
            }
        }
        let all_closed = async {
            while self.swarm.network_info().num_peers() > 0 {
                self.swarm.next().await;
            }
        };
        if tokio::time::timeout(GOODBYE_TIMEOUT, all_closed).await.is_err() {
            tracing::debug!("some libp2p connections were not closed in time");
        }
    }
}
