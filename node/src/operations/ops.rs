//! The operations over an engine: in a running node, and in a command where none runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    num::NonZeroU64,
    os::unix::ffi::OsStrExt,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use firn_engine::{Engine, EngineError, LedgerEntry, Liar};
use firn_exchange::{PeerId, Rejection};
use firn_net::{Net, NetStatus, Traffic};
use firn_proto::control::{
    AddReply, AddRequest, AdoptReply, AdoptRequest, CollectReply, CollectRequest, GetReply, GetRequest,
    LiarStatus, PeerStatus, PinReply, PinRequest, PinsReply, StatsReply, StatusReply, StoreStatus,
    TrafficStatus, UnpinReply, UnpinRequest, VerifyReply, VerifyRequest,
};
use firn_store::StoreError;
use tokio_util::task::TaskTracker;

use super::{Adopting, Operations, Report, add, adopt, collect, get, pins, stats, verify};
use crate::{
    answerer::{Given, Served},
    config::{Config, Role},
    failure::{Failure, Kind},
    housekeeping::Trouble,
    remembered,
};

/// The most peers that are told of one by one.
const PEERS_TOLD_MAX: usize = 1_000;

/// An engine and what is around it.
pub struct Ops {
    /// What does the work.
    pub engine: Engine,
    /// How it was set up.
    pub config: Arc<Config>,
    /// The network, where there is one.
    pub net: Option<Arc<Net>>,
    /// What peers were given.
    pub served: Arc<Served>,
    /// Where the binary cache answers: only that of a node does.
    pub http: Option<SocketAddr>,
    /// When it began.
    pub started: Instant,
    /// The Nix store that is being adopted, if any.
    pub adopting: Adopting,
    /// What the node's housekeeping could not do.
    pub trouble: Arc<Trouble>,
    /// The trees that are being written out. One that nobody waits for any more is removed, which takes a while.
    pub writing: TaskTracker,
}

impl Ops {
    /// Whether this is a node, rather than a command that opened the store itself.
    pub fn is_node(&self) -> bool {
        self.http.is_some()
    }

    /// Waits until nothing is being written out.
    pub async fn finish_writing(&self) {
        self.writing.close();
        self.writing.wait().await;
    }

    /// Whether what is shared can be had by anybody now.
    pub(super) fn gives_away(&self) -> bool {
        self.is_node() && self.config.role != Role::Client
    }

    async fn store_status(&self) -> Result<StoreStatus, Failure> {
        let store = self.engine.store().clone();
        let read = move || Ok::<_, StoreError>((store.paths()?, store.roots()?, store.usage()?));
        let (stored, trees, usage) = self.engine.run_blocking(read).await??;
        let paths = self.engine.paths();
        let in_view: BTreeSet<_> = paths.iter().map(|path| path.facts().path.hash()).collect();
        let shared = stored.iter().filter(|path| path.shared() && in_view.contains(&path.path_hash()));
        Ok(StoreStatus {
            paths: paths.len() as u64,
            paths_shared: shared.count() as u64,
            paths_untrusted: self.engine.paths_refused(),
            trees: trees.len() as u64,
            trees_shared: trees.iter().filter(|(_, shared)| *shared).count() as u64,
            nar_bytes: paths.iter().map(|path| path.facts().nar.nar_size).fold(0, u64::saturating_add),
            disk_bytes: usage.disk_bytes,
            disk_bytes_max: self.config.store_bytes_max.map(|limit| limit.0),
            adopted_bytes: usage.adopted_bytes,
            trouble: self.trouble.text(),
        })
    }

    /// Whoever was found, is connected, or was given something: of very many those that matter most, and how many more there
    /// are.
    fn peers(&self, net: Option<&NetStatus>) -> (Vec<PeerStatus>, usize) {
        let mut peers: BTreeMap<PeerId, (LedgerEntry, Given)> = BTreeMap::new();
        for (peer, entry) in self.engine.peers() {
            peers.entry(peer).or_default().0 = entry;
        }
        for (peer, given) in self.served.all() {
            peers.entry(peer).or_default().1 = given;
        }
        let traffic = net.map(|net| &net.traffic.peers).cloned().unwrap_or_default();
        let connected: BTreeSet<PeerId> = net.iter().flat_map(|net| &net.connected).copied().collect();
        for peer in net.iter().flat_map(|net| net.connected.iter().chain(&net.neighbours)) {
            peers.entry(*peer).or_default();
        }
        for peer in traffic.keys() {
            peers.entry(*peer).or_default();
        }
        let status = |(peer, (entry, given)): (PeerId, (LedgerEntry, Given))| {
            let traffic = traffic.get(&peer).copied().unwrap_or_default();
            let route = self.route_of(&peer);
            PeerStatus {
                id: peer.to_string(),
                via: entry.via.map(|via| via.to_string()).unwrap_or_default(),
                connected: connected.contains(&peer) || traffic.connections > 0 || !route.is_empty(),
                asked: entry.asked,
                received_bytes: entry.bytes,
                answered: given.answered,
                sent_bytes: given.sent_bytes,
                shared: given.names().map(str::to_owned).collect(),
                lies: entry.lies.iter().map(ToString::to_string).collect(),
                upload_rate: traffic.upload,
                download_rate: traffic.download,
                connections: traffic.connections as u64,
                requests: traffic.requests as u64,
                route,
            }
        };
        let is_here = |peer: &PeerId| connected.contains(peer) || traffic.contains_key(peer);
        let (told, more) = most_telling(peers, is_here);
        (told.into_iter().map(status).collect(), more)
    }
}

/// Of more peers than are told of, those that are here, those that were asked, and those that were given something last;
/// and how many are left out.
fn most_telling(
    mut peers: BTreeMap<PeerId, (LedgerEntry, Given)>,
    is_here: impl Fn(&PeerId) -> bool,
) -> (BTreeMap<PeerId, (LedgerEntry, Given)>, usize) {
    let more = peers.len().saturating_sub(PEERS_TOLD_MAX);
    if more > 0 {
        let mut ranks: Vec<_> = peers
            .iter()
            .map(|(peer, (entry, given))| (is_here(peer), entry.asked > 0, given.last, *peer))
            .collect();
        ranks.sort_unstable();
        ranks[..more].iter().for_each(|(.., peer)| drop(peers.remove(peer)));
    }
    (peers, more)
}

#[tonic::async_trait]
impl Operations for Ops {
    async fn status(&self) -> Result<StatusReply, Failure> {
        let net = self.net.as_ref().map(|net| net.status());
        let (peers, peers_more) = self.peers(net.as_ref());
        Ok(StatusReply {
            version: env!("CARGO_PKG_VERSION").into(),
            running: self.is_node(),
            data_dir: Bytes::copy_from_slice(self.config.data_dir.as_os_str().as_bytes()),
            role: self.config.role.to_string(),
            peer_id: net.as_ref().map(|net| net.peer.to_string()).unwrap_or_default(),
            http_address: self.http.map(|http| http.to_string()).unwrap_or_default(),
            iroh_addresses: net.iter().flat_map(|net| &net.iroh).map(ToString::to_string).collect(),
            multiaddrs: net.iter().flat_map(|net| &net.libp2p).map(ToString::to_string).collect(),
            network: self.config.network.as_str().into(),
            uptime_seconds: self.started.elapsed().as_secs(),
            trusted_keys: self.config.trust.iter().map(|key| key.name().to_string()).collect(),
            store: Some(self.store_status().await?),
            transfers: self.transfers(),
            peers,
            peers_more: peers_more as u64,
            provider_records: net.as_ref().map_or(0, |net| net.provider_records as u64),
            adopt: self.adopting.status().await,
            traffic: net.as_ref().map(|net| traffic_status(&net.traffic)),
            duplicates: net.iter().flat_map(|net| &net.duplicates).map(ToString::to_string).collect(),
            liars: self.engine.liars(remembered::now()).into_iter().map(liar_status).collect(),
        })
    }

    async fn add(&self, request: AddRequest, report: Report) -> Result<AddReply, Failure> {
        add::add(self, request, report).await
    }

    async fn get(&self, request: GetRequest, report: Report) -> Result<GetReply, Failure> {
        get::get(self, request, report).await
    }

    async fn verify(&self, request: VerifyRequest, report: Report) -> Result<VerifyReply, Failure> {
        verify::verify(self, request, report).await
    }

    async fn adopt(&self, request: AdoptRequest, report: Report) -> Result<AdoptReply, Failure> {
        adopt::adopt(self, request, report).await
    }

    async fn collect(&self, request: CollectRequest, report: Report) -> Result<CollectReply, Failure> {
        collect::collect(self, request, report).await
    }

    async fn stats(&self) -> Result<StatsReply, Failure> {
        stats::stats(self).await
    }

    async fn pin(&self, request: PinRequest) -> Result<PinReply, Failure> {
        pins::pin(self, request).await
    }

    async fn unpin(&self, request: UnpinRequest) -> Result<UnpinReply, Failure> {
        pins::unpin(self, request).await
    }

    async fn pins(&self) -> Result<PinsReply, Failure> {
        pins::pins(self).await
    }
}

fn liar_status(liar: Liar) -> LiarStatus {
    LiarStatus { id: liar.peer.to_string(), reason: liar.reason, at: liar.at.0 }
}

fn traffic_status(traffic: &Traffic) -> TrafficStatus {
    let Traffic { limits, all, turned_away, .. } = traffic;
    TrafficStatus {
        upload_rate: all.upload,
        download_rate: all.download,
        upload_rate_max: limits.upload.map(NonZeroU64::get),
        upload_peer_rate_max: limits.upload_peer.map(NonZeroU64::get),
        download_rate_max: limits.download.map(NonZeroU64::get),
        download_peer_rate_max: limits.download_peer.map(NonZeroU64::get),
        connections: all.connections as u64,
        requests: all.requests as u64,
        turned_away: *turned_away,
    }
}

/// What an engine's error means to whoever asked.
pub(super) fn kind(error: &EngineError) -> Kind {
    match error {
        EngineError::NotFound | EngineError::Blamed | EngineError::Rejected(Rejection::Undeliverable) => {
            Kind::Missing
        }
        EngineError::Untrusted => Kind::Untrusted,
        EngineError::Reference { source, .. } => kind(source),
        _ => Kind::Failed,
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match kind(&error) {
            Kind::Failed => Self::advised(error),
            kind => Self::new(kind, error),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::advised(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_very_many_peers_those_that_matter_are_told_of() {
        let id = |number: u32| {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            PeerId::from(id)
        };
        let given = |last| {
            let mut given = Given::default();
            given.last = last;
            given
        };
        let entry = |asked| LedgerEntry { asked, ..LedgerEntry::default() };
        let many =
            (0..5_000).map(|number| (id(number), (entry(u64::from(number == 3)), given(u64::from(number)))));
        let (told, more) = most_telling(many.collect(), |peer| *peer == id(7));
        assert_eq!((told.len(), more), (PEERS_TOLD_MAX, 5_000 - PEERS_TOLD_MAX));
        assert!([3, 7, 4_999, 4_003].iter().all(|number| told.contains_key(&id(*number))));
        assert!(!told.contains_key(&id(4_000)));
        let few = (0..10).map(|number| (id(number), (entry(0), given(0)))).collect();
        assert_eq!(most_telling(few, |_| false).1, 0);
    }
}
