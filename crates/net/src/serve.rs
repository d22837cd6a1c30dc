//! Answering peers over iroh. What is answered is the business of an [`Answerer`].

mod connections;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use firn_exchange::{PeerId, REQUEST_BYTES_MAX};
use iroh::{
    Endpoint, TransportAddr,
    endpoint::{Connection, Incoming, IncomingAddr, RecvStream, SendStream, VarInt},
};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

pub use connections::CONNECTIONS_OF_A_PEER_MAX;
use connections::Connections;

use crate::{dial::is_private, identity::peer_of_endpoint};

/// Connections that others may have to this node.
pub const CONNECTIONS_MAX: usize = 256;
/// A connection has to stand, and a request to be here, within this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that takes nothing of a reply for so long is given up.
const TAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing is asked for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// The reply is broken off by this node: the asker learns that the reply is not whole.
const BROKEN_OFF_CODE: VarInt = VarInt::from_u32(1);
/// This peer has too many connections, and this is its oldest.
const SUPERSEDED_CODE: VarInt = VarInt::from_u32(2);
const DONE_CODE: VarInt = VarInt::from_u32(0);

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// By its key, which the connection has proven.
    pub id: PeerId,
    /// Where it is, if it is connected directly; nothing if it comes through a relay.
    pub address: Option<SocketAddr>,
}

impl Peer {
    /// Is it known to be on this machine or in a private network? Not known is no.
    pub fn is_private(&self) -> bool {
        self.address.is_some_and(|address| is_private(address.ip()))
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
}

/// Answers requests. Runs where blocking is allowed; a panic costs the request alone.
pub trait Answerer: Send + Sync + 'static {
    /// The reply to a request of at most [`REQUEST_BYTES_MAX`] bytes, which are as they came.
    fn answer(&self, from: Peer, request: Bytes) -> Box<dyn ReplyBody>;
}

/// The side that answers.
pub(crate) struct Server {
    pub(crate) endpoint: Endpoint,
    pub(crate) answerer: Arc<dyn Answerer>,
    pub(crate) stop: CancellationToken,
}

impl Server {
    /// Takes connections until the node stops, then waits for what it spawned.
    pub(crate) async fn run(self) {
        let standing = Connections::default();
        let mut connections = JoinSet::new();
        loop {
            let incoming = tokio::select! {
                () = self.stop.cancelled() => break,
                incoming = self.endpoint.accept() => incoming,
                Some(ended) = connections.join_next() => {
                    log_panic(ended);
                    continue;
                }
            };
            let Some(incoming) = incoming else { break };
            if connections.len() >= CONNECTIONS_MAX {
                incoming.refuse();
            } else if connections.len() >= CONNECTIONS_MAX / 2 && !incoming.remote_addr_validated() {
                // Under load whoever connects has to show that its address is its own.
                if let Err(error) = incoming.retry() {
                    tracing::debug!(%error, "a connection was neither taken nor sent back");
                }
            } else {
                connections.spawn(serve_connection(
                    incoming,
                    Arc::clone(&self.answerer),
                    standing.clone(),
                    self.stop.clone(),
                ));
            }
        }
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    }
}

async fn serve_connection(
    incoming: Incoming,
    answerer: Arc<dyn Answerer>,
    standing: Connections,
    stop: CancellationToken,
) {
    let came_from = match incoming.remote_addr() {
        IncomingAddr::Ip(address) => Some(address),
        _ => None,
    };
    let connection = match stop.run_until_cancelled(timeout(REQUEST_TIMEOUT, incoming)).await {
        Some(Ok(Ok(connection))) => connection,
        Some(Ok(Err(error))) => return tracing::debug!(%error, "an incoming connection failed"),
        Some(Err(_)) | None => return,
    };
    let peer = peer_of_endpoint(connection.remote_id());
    let counted = standing.take(peer);
    let mut code = DONE_CODE;
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = counted.superseded.cancelled() => {
                code = SUPERSEDED_CODE;
                break;
            }
            Some(ended) = streams.join_next() => log_panic(ended),
            accepted = timeout(IDLE_TIMEOUT, connection.accept_bi()) => match accepted {
                Ok(Ok((send, receive))) => {
                    let from = Peer { id: peer, address: direct_address(&connection, came_from) };
                    streams.spawn(serve_stream(send, receive, from, Arc::clone(&answerer)));
                }
                Ok(Err(_closed)) => break,
                Err(_idle) if streams.is_empty() => break,
                Err(_busy) => {}
            },
        }
    }
    streams.shutdown().await;
    connection.close(code, b"");
}

/// Where the peer is on the path that is in use; before one is chosen, where it came from.
fn direct_address(connection: &Connection, came_from: Option<SocketAddr>) -> Option<SocketAddr> {
    let paths = connection.paths();
    match paths.iter().find(|path| path.is_selected()) {
        Some(path) => match path.remote_addr() {
            TransportAddr::Ip(address) => Some(*address),
            _ => None,
        },
        None => came_from,
    }
}

async fn serve_stream(
    mut send: SendStream,
    mut receive: RecvStream,
    from: Peer,
    answerer: Arc<dyn Answerer>,
) {
    let request = match timeout(REQUEST_TIMEOUT, receive.read_to_end(REQUEST_BYTES_MAX)).await {
        Ok(Ok(request)) => Bytes::from(request),
        Ok(Err(_)) | Err(_) => return reset(&mut send),
    };
    let body = tokio::task::spawn_blocking(move || answerer.answer(from, request)).await;
    let whole = match body {
        Ok(body) => send_body(&mut send, body).await,
        Err(ended) => {
            log_panic(Err(ended));
            false
        }
    };
    if !whole || send.finish().is_err() {
        reset(&mut send);
    }
}

/// Sends one piece while the next one is read; so a reply holds two pieces in memory, and no thread while the peer is slow.
async fn send_body(send: &mut SendStream, body: Box<dyn ReplyBody>) -> bool {
    let Some((mut body, mut piece)) = pull(body).await else { return false };
    while let Some(bytes) = piece {
        let sent = timeout(TAKE_TIMEOUT, send.write_chunk(bytes));
        let (Ok(Ok(())), Some(pulled)) = tokio::join!(sent, pull(body)) else { return false };
        (body, piece) = pulled;
    }
    true
}

async fn pull(mut body: Box<dyn ReplyBody>) -> Option<(Box<dyn ReplyBody>, Option<Bytes>)> {
    let pulled = tokio::task::spawn_blocking(move || body.next().map(|piece| (body, piece))).await;
    match pulled {
        Ok(Ok(pulled)) => Some(pulled),
        Ok(Err(BrokenOff)) => None,
        Err(ended) => {
            log_panic(Err(ended));
            None
        }
    }
}

fn reset(send: &mut SendStream) {
    if send.reset(BROKEN_OFF_CODE).is_err() {
        tracing::trace!("the stream was closed already");
    }
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
        };
        assert!(!peer(None).is_private());
        assert!(!peer(Some("8.8.8.8:1")).is_private());
        assert!(peer(Some("192.168.1.1:1")).is_private());
    }
}
