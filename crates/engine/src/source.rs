//! What the engine asks of the network: answers of a peer, and who has what.

use std::fmt;

use bytes::Bytes;
use firn_exchange::{Key, PeerId, Request};
use futures::{future::BoxFuture, stream::BoxStream};

/// How a peer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// Named by the user.
    Static,
    /// A neighbour, by multicast.
    Mdns,
    /// By the DHT.
    Dht,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Via::Static => "static",
            Via::Mdns => "mdns",
            Via::Dht => "dht",
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

/// Carries one request to one peer.
pub trait Ask: Send + Sync {
    /// The whole reply, header and body, of at most [`Request::reply_bytes_max`] bytes. Dropping the future cancels.
    fn ask(&self, peer: PeerId, request: Request) -> BoxFuture<'static, Result<Bytes, AskError>>;
}

/// Finds peers.
pub trait Find: Send + Sync {
    /// Peers that may have this, each at most once; the stream ends when the look-up is over.
    fn find(&self, key: Key) -> BoxStream<'static, Found>;
}
