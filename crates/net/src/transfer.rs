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
    serve::Connections,
};

/// What both sides speak.
pub const ALPN: &[u8] = b"firn/0";
/// A peer that can't be connected to within this is unreachable.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// A peer that didn't answer is not dialled again at the same addresses for so long.
const SILENCE: Duration = Duration::from_secs(2);
/// For so long after a dial that wasn't answered nobody waits for the next one: what is asked of the peer fails at once.
const SILENT_FOR: Duration = Duration::from_secs(30);
/// Within that time a later address is looked for this often, if anything is asked of the peer.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
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
    /// Peers that didn't answer when they were dialled last.
    silent: Mutex<BTreeMap<PeerId, Silent>>,
    /// Peers whose connection is kept though nothing is asked.
    kept: Mutex<BTreeSet<PeerId>>,
    /// What others have opened to this node.
    incoming: Connections,
}

/// A peer that didn't answer when it was dialled last.
struct Silent {
    /// Where it was dialled.
    at: BTreeSet<TransportAddr>,
    since: Instant,
    /// When a later address was looked for.
    looked: Instant,
}

impl Asker {
    pub(crate) fn new(
        endpoint: Arc<KeptEndpoint>,
        book: Arc<AddressBook>,
        resolver: Arc<dyn Resolve>,
        stop: CancellationToken,
        download: Arc<Pacer>,
        compress: Compress,
        incoming: Connections,
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
            kept: Mutex::default(),
            incoming,
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
            let is_standing = ended(&dial).is_some();
            if !is_standing && self.is_silent(peer) {
                return Err(AskError::Unreachable(Box::new(DialError::Timeout)));
            }
            let link = match dial.clone().await {
                Ok(link) => link,
                Err(error) => {
                    self.forget(peer, &dial);
                    if matches!(*error, DialError::Timeout | DialError::Connect(_)) {
                        self.book.not_found(&peer);
                    }
                    return Err(match &*error {
                        // It is there and may let this node in a little later, or its address may be known then.
                        DialError::Connect(_) | DialError::NoAddress(_) => AskError::Broken(Box::new(error)),
                        _ => AskError::Unreachable(Box::new(error)),
                    });
                }
            };
            let failed = match link.ask(&request, &self.download, self.compress, &received).await {
                Ok(reply) => {
                    link.address().into_iter().for_each(|at| self.book.found(peer, at));
                    return Ok(reply);
                }
                Err(failed) => failed,
            };
            match failed {
                // The path may be dead, so the next request tries another one.
                StreamError::Stalled => {
                    // Until it is closed, iroh dials the peer nowhere else.
                    link.close(VarInt::from_u32(0), b"stalled");
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
            let kept = self.kept().clone();
            self.links().retain(|peer, dial| match ended(dial) {
                Some(Ok(link)) if link.is_idle_for(IDLE_TIMEOUT) && !kept.contains(peer) => {
                    link.close(VarInt::from_u32(0), b"idle");
                    false
                }
                Some(Ok(link)) => link.is_open(),
                Some(Err(_)) => false,
                None => true,
            });
        }
    }

    /// To exactly these peers a connection is kept.
    pub(crate) fn keep(&self, peers: &BTreeSet<PeerId>) {
        self.kept().clone_from(peers);
    }

    /// Connects before anything is asked.
    pub(crate) fn connect_ahead(self: &Arc<Self>, peer: PeerId) {
        // The dial goes on by itself.
        drop(self.link(peer));
    }

    /// Whether there is a connection to this peer.
    pub(crate) fn is_connected(&self, peer: &PeerId) -> bool {
        let links = self.links();
        let ended = links.get(peer).and_then(ended);
        ended.is_some_and(|dial| dial.as_ref().is_ok_and(|link| link.is_open()))
    }

    fn kept(&self) -> MutexGuard<'_, BTreeSet<PeerId>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection to this peer, or the dial that is under way.
    fn link(self: &Arc<Self>, peer: PeerId) -> SharedDial {
        let mut links = self.links();
        if let Some(dial) = links.get(&peer) {
            let is_usable = match ended(dial) {
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
        self.book.hint(fellow.peer, &fellow.addresses, Instant::now());
        !self.book.dialable(fellow.peer).is_empty()
    }

    /// By which route this peer is asked now, if it is connected for that.
    pub(crate) fn route_of(&self, peer: &PeerId) -> Option<Route> {
        ended(self.links().get(peer)?)?.as_ref().ok()?.route()
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
        let failed = if self.was_silent_of_late(peer) {
            if !self.may_look_again(peer) {
                return Err(DialError::Timeout);
            }
            self.resolver.resolve(peer, self.book.signed_at_us(peer)).await;
            DialError::Timeout
        } else if known.is_empty() {
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

    /// While an address doesn't answer, a later one is looked for, and what may keep iroh from sending there is ended.
    async fn connect_or_resolve(
        &self,
        peer: PeerId,
        addresses: &BTreeSet<TransportAddr>,
    ) -> Result<Arc<Link>, DialError> {
        let resolved = async {
            tokio::time::sleep(DOUBT_AFTER).await;
            let later = self.resolver.resolve(peer, self.book.signed_at_us(peer));
            tokio::join!(later, self.incoming.end_silent(&peer));
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

    /// Did this peer not answer when it was dialled last, at all that is known of where it is?
    fn is_silent(&self, peer: PeerId) -> bool {
        let known = self.book.dialable(peer);
        let is_silent = |silent: &Silent| silent.at == known && silent.since.elapsed() < SILENT_FOR;
        self.silent().get(&peer).is_some_and(is_silent)
    }

    /// Was that a moment ago?
    fn was_silent_of_late(&self, peer: PeerId) -> bool {
        let known = self.book.dialable(peer);
        let is_late = |silent: &Silent| silent.at == known && silent.since.elapsed() < SILENCE;
        self.silent().get(&peer).is_some_and(is_late)
    }

    /// Whether it is time to look for a later address of a silent peer; it counts as done.
    fn may_look_again(&self, peer: PeerId) -> bool {
        let mut silent = self.silent();
        let Some(silent) = silent.get_mut(&peer) else { return false };
        let is_due = silent.looked.elapsed() >= LOOK_AGAIN;
        if is_due {
            silent.looked = Instant::now();
        }
        is_due
    }

    fn add_silent(&self, peer: PeerId, at: BTreeSet<TransportAddr>) {
        let now = Instant::now();
        let mut silent = self.silent();
        if silent.len() >= LINKS_MAX && !silent.contains_key(&peer) {
            let oldest = silent.iter().min_by_key(|(_, silent)| silent.since).map(|(peer, _)| *peer);
            oldest.and_then(|peer| silent.remove(&peer));
        }
        silent.insert(peer, Silent { at, since: now, looked: now });
    }

    fn silent(&self) -> MutexGuard<'_, BTreeMap<PeerId, Silent>> {
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
            self.add_silent(peer, addresses.clone());
            self.incoming.end_from(&peer, addresses);
            return Err(DialError::Timeout);
        };
        self.silent().remove(&peer);
        let link = Link::new(peer, connected?);
        let (route, ms) = (link.route().map(tracing::field::display), begun.elapsed().as_millis() as u64);
        tracing::debug!(?peer, route, ms, "connected");
        Ok(Arc::new(link))
    }
}

/// How this dial has ended, if it has; nobody need be waiting for it.
fn ended(dial: &SharedDial) -> Option<&Result<Arc<Link>, Arc<DialError>>> {
    // Only what is polled is known to have ended.
    dial.peek().or_else(|| {
        drop(dial.clone().now_or_never()?);
        dial.peek()
    })
}

/// Drops the connection that was used longest ago, of those that nothing is asked on.
fn make_room(links: &mut BTreeMap<PeerId, SharedDial>) {
    let idle = links.iter().filter_map(|(peer, dial)| {
        let link = ended(dial)?.as_ref().ok()?;
        link.is_idle_for(Duration::ZERO).then(|| (link.asked_at(), *peer))
    });
    let oldest = idle.min().map(|(_, peer)| peer);
    oldest.and_then(|peer| links.remove(&peer));
}
