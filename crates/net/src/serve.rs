//! Answering peers over iroh. What is answered is the business of an [`Answerer`].

mod connections;
mod gate;
mod slots;
mod stream;

use std::{net::SocketAddr, num::NonZeroU64, sync::Arc, time::Duration};

use bytes::Bytes;
use firn_exchange::{Micros, PeerId};
use iroh::{
    Endpoint, TransportAddr,
    endpoint::{Connection, Incoming, IncomingAddr, SendStream, VarInt},
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

pub use connections::CONNECTIONS_OF_A_PEER_MAX;
pub(crate) use connections::Connections;
use connections::OtherEnd;
use gate::Gate;
pub use gate::{
    MEMORY_BYTES_MAX, MEMORY_OF_A_GROUP_BYTES_MAX, MEMORY_OF_A_PEER_BYTES_MAX, REQUESTS_MAX,
    REQUESTS_OF_A_GROUP_MAX, REQUESTS_OF_A_PEER_MAX,
};
use slots::{AddressGroup, Slot, Slots};
pub use slots::{CONNECTIONS_MAX, CONNECTIONS_OF_A_GROUP_MAX};
use stream::Stream;

use crate::{
    address::AddressBook,
    dial::is_private,
    endpoint::{KeptEndpoint, connection_window_bytes},
    identity::peer_of_endpoint,
    limits::{Pacer, RateLimits},
    throughput::{Gauge, Way},
};

/// A connection has to stand, and a request to be here, within this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing is asked for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Whoever is turned away is to come again after at least ..
const BUSY_MIN: Micros = Micros::from_millis(250);
/// .. and at most so long: what is reserved is more than what will be sent, and an upload that is idle is worse than a
/// question too many.
const BUSY_MAX: Micros = Micros::from_millis(2_000);

/// The reply is broken off by this node: the asker learns that the reply is not whole.
const BROKEN_OFF_CODE: VarInt = VarInt::from_u32(1);
/// A newer connection of this peer has taken the place of this one.
const SUPERSEDED_CODE: VarInt = VarInt::from_u32(2);
/// The slot of this connection was given to another peer.
const EVICTED_CODE: VarInt = VarInt::from_u32(3);
const DONE_CODE: VarInt = VarInt::from_u32(0);

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// By its key, which the connection has proven.
    pub id: PeerId,
    /// Where it is, if it is connected directly; nothing if it comes through a relay.
    pub address: Option<SocketAddr>,
    /// How many bytes a second its connection has lately taken while there were any to take, if that is known.
    pub drain: Option<u64>,
}

impl Peer {
    /// Is it known to be on this machine or in a private network? Not known is no.
    pub fn is_private(&self) -> bool {
        self.address.is_some_and(|address| is_private(address.ip()))
    }

    fn group(&self) -> AddressGroup {
        AddressGroup::of(self.address)
    }
}

/// The rest of a reply can't be given; what was given before is not a whole reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reply was broken off")]
pub struct BrokenOff;

/// A reply, pulled piece by piece. Runs where blocking is allowed.
pub trait ReplyBody: Send {
    /// The next piece, of moderate length; nothing after the last one.
    fn next(&mut self) -> Result<Option<Bytes>, BrokenOff>;

    /// About how much memory it takes from now on; never more than before.
    fn memory_bytes(&self) -> usize {
        MEMORY_BYTES
    }
}

/// Two pieces, as they usually are.
const MEMORY_BYTES: usize = 256 << 10;

/// Answers requests. Runs where blocking is allowed; a panic costs the request alone.
pub trait Answerer: Send + Sync + 'static {
    /// The reply to a request of at most [`REQUEST_BYTES_MAX`](firn_exchange::REQUEST_BYTES_MAX) bytes, which are as they came.
    fn answer(&self, from: Peer, request: Bytes) -> Box<dyn ReplyBody>;
}

/// The side that answers.
pub(crate) struct Server {
    pub(crate) endpoint: Arc<KeptEndpoint>,
    pub(crate) serving: Arc<Serving>,
    pub(crate) stop: CancellationToken,
}

/// What all connections share.
pub(crate) struct Serving {
    answerer: Arc<dyn Answerer>,
    book: Arc<AddressBook>,
    pub(crate) connections: Connections,
    slots: Slots,
    pub(crate) gate: Gate,
    pub(crate) upload: Arc<Pacer>,
    upload_max: Option<NonZeroU64>,
    /// The receive window of each connection.
    window_bytes: u32,
}

impl Serving {
    pub(crate) fn new(answerer: Arc<dyn Answerer>, book: Arc<AddressBook>, limits: &RateLimits) -> Arc<Self> {
        let RateLimits { upload, upload_peer, .. } = *limits;
        Arc::new(Self {
            answerer,
            book,
            connections: Connections::default(),
            slots: Slots::default(),
            gate: Gate::new(upload, upload_peer),
            upload: Pacer::new(upload, upload_peer),
            upload_max: upload,
            window_bytes: connection_window_bytes(limits),
        })
    }

    /// When one that is turned away should come again: when as much as is reserved now could have been sent.
    fn busy_for(&self) -> Micros {
        let rate = self.upload_max.map_or_else(|| self.upload.meter.rate(), NonZeroU64::get).max(1);
        let micros = (self.gate.reserved_bytes() as u64).saturating_mul(1_000_000) / rate;
        Micros(micros).clamp(BUSY_MIN, BUSY_MAX)
    }
}

impl Server {
    /// Takes connections until the node stops, then waits for what it spawned.
    pub(crate) async fn run(self) {
        let mut connections = JoinSet::new();
        let mut endpoints = self.endpoint.changes();
        while !self.stop.is_cancelled() {
            let endpoint = endpoints.borrow_and_update().clone();
            if let Some(endpoint) = endpoint {
                self.accept(endpoint, &mut connections).await;
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                _replaced = endpoints.changed() => {}
            }
        }
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    }

    /// Takes connections until this endpoint has failed or the node stops.
    async fn accept(&self, endpoint: Endpoint, connections: &mut JoinSet<()>) {
        loop {
            let incoming = tokio::select! {
                () = self.stop.cancelled() => return,
                Some(ended) = connections.join_next() => {
                    log_panic(ended);
                    continue;
                }
                incoming = endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { return };
            let slots = &self.serving.slots;
            if slots.len() >= CONNECTIONS_MAX / 2 && !incoming.remote_addr_validated() {
                // Under load whoever connects has to show that its address is its own.
                if let Err(error) = incoming.retry() {
                    tracing::debug!(%error, "a connection was neither taken nor sent back");
                }
            } else if let Some(slot) = slots.take(AddressGroup::of(address_of(&incoming))) {
                let serving = Arc::clone(&self.serving);
                connections.spawn(serve_connection(incoming, slot, serving, self.stop.clone()));
            } else {
                incoming.refuse();
            }
        }
    }
}

/// The other end of a connection that it has opened.
struct Client {
    connection: Connection,
    came_from: Option<SocketAddr>,
    /// Its receive window, as it is set.
    window_bytes: u32,
}

impl OtherEnd for Client {
    /// iroh has no ping. That the window has grown is told at once and acknowledged, that it has shrunk is not told.
    fn nudge(&self) {
        self.connection.set_receive_window(VarInt::from_u32(self.window_bytes + 1));
        self.connection.set_receive_window(VarInt::from_u32(self.window_bytes));
    }

    fn heard(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    fn came_from(&self) -> Option<SocketAddr> {
        self.came_from
    }
}

/// Where it comes from; `None` for a relay.
fn address_of(incoming: &Incoming) -> Option<SocketAddr> {
    match incoming.remote_addr() {
        IncomingAddr::Ip(address) => Some(address),
        _ => None,
    }
}

async fn serve_connection(incoming: Incoming, slot: Slot, serving: Arc<Serving>, stop: CancellationToken) {
    let came_from = address_of(&incoming);
    let connected = tokio::select! {
        () = stop.cancelled() => return,
        () = slot.evicted.cancelled() => return,
        connected = timeout(REQUEST_TIMEOUT, incoming) => connected,
    };
    let connection = match connected {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%error, "an incoming connection failed"),
        Err(_) => return,
    };
    let peer = peer_of_endpoint(connection.remote_id());
    if let Some(address) = came_from {
        serving.book.seen(peer, address, Instant::now());
    }
    let other_end = Client { connection: connection.clone(), came_from, window_bytes: serving.window_bytes };
    let counted = Arc::new(serving.connections.take(peer, other_end));
    let drain = Arc::new(Gauge::new(connection.clone(), Way::Out));
    let mut code = DONE_CODE;
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = counted.superseded.cancelled() => {
                code = SUPERSEDED_CODE;
                break;
            }
            () = slot.evicted.cancelled() => {
                code = EVICTED_CODE;
                break;
            }
            Some(ended) = streams.join_next() => log_panic(ended),
            accepted = timeout(IDLE_TIMEOUT, connection.accept_bi()) => match accepted {
                Ok(Ok((send, receive))) => {
                    send_in_turn(&send);
                    // Before a path is chosen it is where it came from.
                    let address = selected_path(&connection).map_or(came_from, |(address, _)| address);
                    let from = Peer { id: peer, address, drain: drain.rate() };
                    let (serving, drain) = (Arc::clone(&serving), Arc::clone(&drain));
                    let (counted, busy) = (Arc::clone(&counted), slot.busy());
                    streams.spawn(async move {
                        let _busy = busy;
                        let stream = Stream { serving: &serving, counted: &counted, drain: &drain, from, send };
                        stream.serve(receive).await;
                    });
                }
                Ok(Err(_closed)) => break,
                Err(_idle) if streams.is_empty() => break,
                Err(_busy) => {}
            },
        }
    }
    // The connection ends first: a stream that is dropped while its connection stands ends as if its reply were whole, and
    // the asker would take this node for a liar.
    connection.close(code, b"");
    streams.shutdown().await;
}

/// What was asked first is sent first: whoever asks for several things at once can use the first one sooner.
fn send_in_turn(send: &SendStream) {
    let turn = i32::try_from(send.id().index()).unwrap_or(i32::MAX);
    if send.set_priority(-turn).is_err() {
        tracing::trace!("the stream was closed already");
    }
}

/// The path that is in use, if one is chosen: where the peer is on it, nothing if that is a relay; and the time there and
/// back.
pub(crate) fn selected_path(connection: &Connection) -> Option<(Option<SocketAddr>, Duration)> {
    let paths = connection.paths();
    let path = paths.iter().find(|path| path.is_selected())?;
    let address = match path.remote_addr() {
        TransportAddr::Ip(address) => Some(*address),
        _ => None,
    };
    Some((address, path.rtt()))
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "answering a peer panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_address_is_not_private() {
        let peer = |address: Option<&str>| Peer {
            id: PeerId::from([1; 32]),
            address: address.map(|address| address.parse().unwrap()),
            drain: None,
        };
        assert!(!peer(None).is_private());
        assert!(!peer(Some("8.8.8.8:1")).is_private());
        assert!(peer(Some("192.168.1.1:1")).is_private());
    }
}
