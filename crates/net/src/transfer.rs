//! Asking peers over iroh: one connection a peer, one bidirectional stream a request.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use firn_engine::{AskError, Received};
use firn_exchange::{Compress, Fellow, PeerId, Request};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use iroh::{
    EndpointAddr, TransportAddr,
    endpoint::{ConnectError, VarInt},
};
use tokio::{
    task::JoinError,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use crate::{
    address::AddressBook,
    endpoint::KeptEndpoint,
    identity::{NotAKey, endpoint_id},
    limits::Pacer,
    link::{Link, StreamError},
    route::Route,
};

/// What both sides speak.
pub const ALPN: &[u8] = b"firn/0";
/// A peer that can't be connected to within this is unreachable.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// A peer that didn't answer is not dialled again at the same addresses for so long, since every look-up that finds it
/// would wait for it.
const SILENCE: Duration = Duration::from_secs(5);
/// A peer that doesn't answer for so long may have moved: a later address is looked for.
const DOUBT_AFTER: Duration = Duration::from_millis(500);
/// A connection on which nothing is asked for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Peers connected to at once, for asking.
const LINKS_MAX: usize = 256;
/// Brings the address record of a peer into the book, if one is found that was signed after this time.
pub(crate) trait Resolve: Send + Sync {
    fn resolve(&self, peer: PeerId, signed_after_us: Option<u64>) -> BoxFuture<'static, ()>;
}

/// Why there is no connection to a peer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(transparent)]
    NotAKey(#[from] NotAKey),
    #[error("{0} has no address that is known and may be dialled")]
    NoAddress(PeerId),
    #[error("no answer within {} s", DIAL_TIMEOUT.as_secs())]
    Timeout,
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the node is stopping")]
    Stopping,
    #[error("the dial broke off: {0}")]
    BrokeOff(#[from] JoinError),
}

type SharedDial = Shared<BoxFuture<'static, Result<Arc<Link>, Arc<DialError>>>>;

/// Asks; shared by all who ask.
pub(crate) struct Asker {
    endpoint: Arc<KeptEndpoint>,
    book: Arc<AddressBook>,
    resolver: Arc<dyn Resolve>,
    stop: CancellationToken,
    download: Arc<Pacer>,
    compress: Compress,
    dials: TaskTracker,
    links: Mutex<BTreeMap<PeerId, SharedDial>>,
    /// Peers that didn't answer, at which addresses, since when.
    silent: Mutex<BTreeMap<PeerId, (BTreeSet<TransportAddr>, Instant)>>,
}

impl Asker {
    pub(crate) fn new(
        endpoint: Arc<KeptEndpoint>,
        book: Arc<AddressBook>,
        resolver: Arc<dyn Resolve>,
        stop: CancellationToken,
        download: Arc<Pacer>,
        compress: Compress,
    ) -> Self {
        Self {
            endpoint,
            book,
            resolver,
            stop,
            download,
            compress,
            dials: TaskTracker::new(),
            links: Mutex::default(),
            silent: Mutex::default(),
        }
    }

    /// Ends when the dials under way have ended. The node is to be stopping.
    pub(crate) async fn dials_ended(&self) {
        self.dials.close();
        self.dials.wait().await;
    }

    /// Sends the request, and gives the whole reply.
    pub(crate) async fn ask(
        self: Arc<Self>,
        peer: PeerId,
        request: Request,
        received: Received,
    ) -> Result<Bytes, AskError> {
        let reply_bytes_max = request.reply_bytes_max();
        let mut again = true;
        loop {
            let dial = self.link(peer);
            let is_standing = dial.peek().is_some();
            let link = match dial.clone().await {
                Ok(link) => link,
                Err(error) => {
                    self.forget(peer, &dial);
                    return Err(AskError::Unreachable(Box::new(error)));
                }
            };
            let failed = match link.ask(&request, &self.download, self.compress, &received).await {
                Ok(reply) => return Ok(reply),
                Err(failed) => failed,
            };
            match failed {
                // The path may be dead, so the next request tries another one.
                StreamError::Stalled => {
                    self.forget(peer, &dial);
                    return Err(AskError::Stalled);
                }
                StreamError::TooMuch => return Err(AskError::TooMuch { bytes_max: reply_bytes_max }),
                // A connection that stood here may have been closed by the other side long ago.
                StreamError::Broken { retry: true, .. } if is_standing && again => {
                    self.forget(peer, &dial);
                    again = false;
                }
                StreamError::Broken { source, .. } => return Err(AskError::Broken(source)),
            }
        }
    }

    /// Closes what nobody has used for a while, until the node stops.
    pub(crate) async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(IDLE_TIMEOUT / 4);
        let mut endpoint = self.endpoint.changes();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = ticks.tick() => {}
                // Its connections are closed, and hold its sockets.
                _ = endpoint.changed() => {}
            }
            self.links().retain(|_, dial| match dial.peek() {
                Some(Ok(link)) if link.is_idle_for(IDLE_TIMEOUT) => {
                    link.close(VarInt::from_u32(0), b"idle");
                    false
                }
                Some(Ok(link)) => link.is_open(),
                Some(Err(_)) => false,
                None => true,
            });
        }
    }

    /// The connection to this peer, or the dial that is under way.
    fn link(self: &Arc<Self>, peer: PeerId) -> SharedDial {
        let mut links = self.links();
        if let Some(dial) = links.get(&peer) {
            let is_usable = match dial.peek() {
                Some(Ok(link)) => link.is_open(),
                Some(Err(_)) => false,
                None => true,
            };
            if is_usable {
                return dial.clone();
            }
        }
        if links.len() >= LINKS_MAX {
            make_room(&mut links);
        }
        let asker = Arc::clone(self);
        let dial = async move {
            let stopped = asker.stop.clone();
            stopped.run_until_cancelled(asker.dial(peer)).await.unwrap_or(Err(DialError::Stopping))
        };
        let task = self.dials.spawn(dial.in_current_span());
        let dial = async move { task.await.map_err(DialError::from).flatten().map_err(Arc::new) };
        let dial = dial.boxed().shared();
        links.insert(peer, dial.clone());
        dial
    }

    /// Where a peer may be, by another one's word; false: nothing of it may be dialled.
    pub(crate) fn hint(&self, fellow: &Fellow) -> bool {
        self.book.hint(fellow.peer, &fellow.addresses);
        !self.book.dialable(fellow.peer).is_empty()
    }

    /// By which route this peer is asked now, if it is connected for that.
    pub(crate) fn route_of(&self, peer: &PeerId) -> Option<Route> {
        self.links().get(peer)?.peek()?.as_ref().ok()?.route()
    }

    fn forget(&self, peer: PeerId, dial: &SharedDial) {
        let mut links = self.links();
        if links.get(&peer).is_some_and(|known| known.ptr_eq(dial)) {
            links.remove(&peer);
        }
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<PeerId, SharedDial>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Dials what is known; if that fails, or nothing is, what the DHT says by now.
    async fn dial(&self, peer: PeerId) -> Result<Arc<Link>, DialError> {
        let known = self.book.dialable(peer);
        if self.was_silent_at(peer, &known) {
            return Err(DialError::Timeout);
        }
        let failed = if known.is_empty() {
            self.resolver.resolve(peer, None).await;
            DialError::NoAddress(peer)
        } else {
            match self.connect_or_resolve(peer, &known).await {
                Ok(link) => return Ok(link),
                Err(error) => error,
            }
        };
        let found = self.book.dialable(peer);
        if found == known {
            return Err(failed);
        }
        self.connect(peer, &found).await
    }

    /// While an address doesn't answer, a later one is looked for.
    async fn connect_or_resolve(
        &self,
        peer: PeerId,
        addresses: &BTreeSet<TransportAddr>,
    ) -> Result<Arc<Link>, DialError> {
        let resolved = async {
            tokio::time::sleep(DOUBT_AFTER).await;
            self.resolver.resolve(peer, self.book.signed_at_us(peer)).await;
        };
        let connected = self.connect(peer, addresses);
        tokio::pin!(resolved, connected);
        tokio::select! {
            connected = &mut connected => match connected {
                Ok(link) => Ok(link),
                Err(error) => {
                    // It had most of the time already.
                    if timeout(DOUBT_AFTER, resolved).await.is_err() {
                        tracing::debug!(%peer, "no later address in time");
                    }
                    Err(error)
                }
            },
            () = &mut resolved => {
                let found = self.book.dialable(peer);
                if found == *addresses { connected.await } else { self.connect(peer, &found).await }
            }
        }
    }

    /// Did this peer not answer at just these addresses a moment ago?
    fn was_silent_at(&self, peer: PeerId, addresses: &BTreeSet<TransportAddr>) -> bool {
        let silent = self.silent();
        silent.get(&peer).is_some_and(|(at, since)| at == addresses && since.elapsed() < SILENCE)
    }

    fn silent(&self) -> MutexGuard<'_, BTreeMap<PeerId, (BTreeSet<TransportAddr>, Instant)>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(
        &self,
        peer: PeerId,
        addresses: &BTreeSet<TransportAddr>,
    ) -> Result<Arc<Link>, DialError> {
        let begun = Instant::now();
        let address = EndpointAddr::from_parts(endpoint_id(peer)?, addresses.iter().cloned());
        let connecting = async { self.endpoint.opened().await.connect(address, ALPN).await };
        let Ok(connected) = timeout(DIAL_TIMEOUT, connecting).await else {
            let mut silent = self.silent();
            silent.retain(|_, (_, since)| since.elapsed() < SILENCE);
            if silent.len() < LINKS_MAX {
                silent.insert(peer, (addresses.clone(), Instant::now()));
            }
            return Err(DialError::Timeout);
        };
        let link = Link::new(peer, connected?);
        let (route, ms) = (link.route().map(tracing::field::display), begun.elapsed().as_millis() as u64);
        tracing::debug!(?peer, route, ms, "connected");
        Ok(Arc::new(link))
    }
}

/// Drops the connection that was used longest ago, of those that nothing is asked on.
fn make_room(links: &mut BTreeMap<PeerId, SharedDial>) {
    let idle = links.iter().filter_map(|(peer, dial)| {
        let link = dial.peek()?.as_ref().ok()?;
        link.is_idle_for(Duration::ZERO).then(|| (link.asked_at(), *peer))
    });
    let oldest = idle.min().map(|(_, peer)| peer);
    oldest.and_then(|peer| links.remove(&peer));
}
