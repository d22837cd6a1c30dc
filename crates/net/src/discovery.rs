//! What the rest of the node asks of libp2p: announce, find, resolve. The driver does it, in a task of its own.

use std::{collections::BTreeSet, net::SocketAddr};

use firn_exchange::PeerId;
use futures::{FutureExt, Stream, future::BoxFuture, stream};
use libp2p::Multiaddr;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{address::AddressRecord, announce::DhtKey, transfer::Resolve};

/// Commands that wait for the driver.
pub(crate) const COMMANDS_MAX: usize = 256;
/// Providers of one key after which a look-up is over.
pub(crate) const PROVIDERS_WANTED_MAX: usize = 64;

/// What the driver is told to do.
pub(crate) enum Command {
    /// Exactly these are announced from now on.
    Announce(Vec<DhtKey>),
    /// Look for providers. Dropping the receiver ends the look-up.
    Find { key: DhtKey, found: mpsc::Sender<PeerId> },
    /// Look for an address record signed after this time; `done` is used or dropped when there is nothing to wait for.
    Resolve { peer: PeerId, signed_after_us: Option<u64>, done: oneshot::Sender<()> },
    /// This is where the node is now.
    Publish(AddressRecord),
    /// Fail as a library does that has a mistake.
    #[cfg(test)]
    Panic,
}

/// What the driver sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Where libp2p listens.
    pub(crate) listeners: Vec<Multiaddr>,
    /// Peers that libp2p is connected to.
    pub(crate) connected: Vec<PeerId>,
    /// Peers found by mDNS that speak our protocol.
    pub(crate) neighbours: BTreeSet<PeerId>,
    /// Peers in the routing table.
    pub(crate) dht_peers: usize,
    /// May a look-up in the DHT find what the neighbours don't have?
    pub(crate) reaches_dht: bool,
    /// Keys that are announced.
    pub(crate) announced: usize,
    /// Provider records kept for others.
    pub(crate) provider_records: usize,
    /// Where others are that have this node's identity.
    pub(crate) duplicates: BTreeSet<SocketAddr>,
    /// How often this node has dialled itself.
    pub(crate) met_itself: u64,
}

/// The way to the driver.
#[derive(Clone)]
pub(crate) struct Discovery {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) view: watch::Receiver<View>,
}

impl Discovery {
    /// Announces exactly these keys. Nothing happens any more once the node is stopping.
    pub(crate) async fn announce(&self, keys: Vec<DhtKey>) {
        self.send(Command::Announce(keys)).await;
    }

    /// Says where the node is.
    pub(crate) async fn publish(&self, record: AddressRecord) {
        self.send(Command::Publish(record)).await;
    }

    /// Providers as they are found; ends with the look-up.
    pub(crate) fn find(&self, key: DhtKey) -> impl Stream<Item = PeerId> + Send + 'static {
        let discovery = self.clone();
        async move {
            let (found, providers) = mpsc::channel(PROVIDERS_WANTED_MAX);
            discovery.send(Command::Find { key, found }).await;
            stream::unfold(providers, |mut providers| async { Some((providers.recv().await?, providers)) })
        }
        .flatten_stream()
    }

    /// Makes the driver panic.
    #[cfg(test)]
    pub(crate) async fn panic(&self) {
        self.send(Command::Panic).await;
    }

    async fn send(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            tracing::debug!("the node is stopping: nothing is announced or found any more");
        }
    }
}

impl Resolve for Discovery {
    fn resolve(&self, peer: PeerId, signed_after_us: Option<u64>) -> BoxFuture<'static, ()> {
        let discovery = self.clone();
        Box::pin(async move {
            let (done, resolved) = oneshot::channel();
            discovery.send(Command::Resolve { peer, signed_after_us, done }).await;
            // An error means that the look-up ended without a later record.
            if resolved.await.is_err() {
                tracing::debug!(%peer, "no later address record was found");
            }
        })
    }
}

/// Where there is no libp2p.
pub(crate) struct NoDiscovery;

impl Resolve for NoDiscovery {
    fn resolve(&self, _peer: PeerId, _signed_after_us: Option<u64>) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}
