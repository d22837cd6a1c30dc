//! What the engine asks of the network: answers of a peer, and who has what.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use firn_exchange::{Fellow, Key, PeerId, Request};
use futures::{
    FutureExt, StreamExt,
    future::{self, BoxFuture},
    stream::{self, BoxStream},
};

use crate::replies::{ReplyMemory, ReplyRoom, TurnOver};

/// How a peer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// Named by the user.
    Static,
    /// A neighbour, by multicast.
    Mdns,
    /// By the DHT.
    Dht,
    /// By another peer, of which it had asked the same.
    Fellow,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Via::Static => "static",
            Via::Mdns => "mdns",
            Via::Dht => "dht",
            Via::Fellow => "fellow",
        })
    }
}

/// A peer that may have what was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Whom to ask.
    pub peer: PeerId,
    /// How it was found.
    pub via: Via,
}

/// Why no answer came. None of these is a lie.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No connection could be made.
    #[error("no connection: {0}")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection or the stream broke.
    #[error("the stream broke: {0}")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nothing came for too long.
    #[error("no progress")]
    Stalled,
    /// More came than the request allows.
    #[error("more than {bytes_max} bytes came")]
    TooMuch {
        /// How many there may be.
        bytes_max: usize,
    },
}

/// How much of a reply has come so far, and the memory that it takes: written by who asks, read by who waits.
#[derive(Clone)]
pub struct Received(Arc<Receiving>);

struct Receiving {
    bytes: AtomicU64,
    room: ReplyRoom,
}

impl Received {
    pub(crate) fn new(memory: &ReplyMemory) -> Self {
        Self(Arc::new(Receiving { bytes: AtomicU64::new(0), room: memory.reply() }))
    }

    /// Waits until the reply may take so many bytes of memory in all. They are given back when the last of these goes.
    pub async fn make_room(&self, bytes: usize) -> Result<(), TurnOver> {
        self.0.room.grow(bytes).await
    }

    /// So many more have come.
    pub fn add(&self, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many have come.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }
}

/// Of a reply that shares its memory with no other.
impl Default for Received {
    fn default() -> Self {
        Self::new(&ReplyMemory::default())
    }
}

/// Carries one request to one peer.
pub trait Ask: Send + Sync {
    /// The whole reply, header and body, of at most [`Request::reply_bytes_max`] bytes, for which `received` has
    /// [made room](Received::make_room). Dropping the future cancels.
    fn ask(
        &self,
        peer: PeerId,
        request: Request,
        received: Received,
    ) -> BoxFuture<'static, Result<Bytes, AskError>>;
}

/// Finds peers.
pub trait Find: Send + Sync {
    /// Peers that may have this, each at most once; the stream ends when the look-up is over.
    fn find(&self, key: Key) -> BoxStream<'static, Found>;

    /// A peer was named by another one. What it says of where that is may be used or not; false: it will not be asked.
    fn hint(&self, fellow: &Fellow) -> bool;
}

/// The network of whoever has none: it finds nobody and carries nothing.
#[derive(Debug, Clone, Copy)]
pub struct Nobody;

/// There is no network.
#[derive(Debug, thiserror::Error)]
#[error("there is no network")]
struct NoNetwork;

impl Ask for Nobody {
    fn ask(&self, _: PeerId, _: Request, _: Received) -> BoxFuture<'static, Result<Bytes, AskError>> {
        future::ready(Err(AskError::Unreachable(Box::new(NoNetwork)))).boxed()
    }
}

impl Find for Nobody {
    fn find(&self, _: Key) -> BoxStream<'static, Found> {
        stream::empty().boxed()
    }

    fn hint(&self, _: &Fellow) -> bool {
        false
    }
}
