//! iroh and libp2p: one adapter each.
//!
//! libp2p finds who has something (Kademlia under a name of our own, mDNS); iroh carries requests and replies. One
//! Ed25519 key names a node on both planes ([`Identity`]). [`Net`] is both together: it implements the engine's `Ask` and
//! `Find`, announces, and hands what others ask to an [`Answerer`].
//!
//! An address or a relay that a peer claims is a hint. What may be dialled because of one is said by [`DialRules`], in two
//! places that everything passes: libp2p's transport, and the address book before iroh is asked to connect. Relays other
//! than the configured ones are never used. (One exception that iroh leaves no choice about: a peer that is connected may
//! name a few addresses to which iroh then sends path probes.)
//!
//! What goes over the wire is counted, held to the [`RateLimits`] and shared out evenly among peers; requests beyond what
//! can be answered at once are told when to come again, rather than broken off.
//!
//! Deliberately absent: public infrastructure (nothing is contacted that the user didn't name), checking of replies (the
//! exchange crate's business), what is shared with whom (the answerer's).
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]
#![deny(clippy::print_stdout, clippy::print_stderr)] // They panic where nobody can be told.

mod address;
mod announce;
mod config;
mod congestion;
mod dial;
mod discovery;
mod driver;
mod duplicates;
mod endpoint;
mod error;
mod events;
mod hints;
mod host;
mod identity;
mod keeper;
mod limits;
mod link;
mod lookups;
mod mdns;
mod net;
mod patience;
mod peers;
mod records;
mod route;
mod routing;
mod serve;
mod squeeze;
mod swarm;
#[cfg(test)]
mod tests;
mod throughput;
mod traffic;
mod transfer;
mod transport;

pub use config::{NetConfig, StaticPeer, StaticPeerError};
pub use dial::{DialRules, Undialable, bootstrap_address, check_dialable, is_private};
pub use error::NetError;
pub use identity::{
    ForeignPeer, Identity, IdentityError, NotAKey, endpoint_id, libp2p_peer, peer_of_endpoint, peer_of_libp2p,
};
pub use iroh::RelayUrl;
pub use libp2p::Multiaddr;
pub use limits::{RATE_MIN, RateLimits};
pub use link::PROGRESS_TIMEOUT;
pub use net::{Net, NetStatus, Reach};
pub use route::Route;
pub use serve::{
    Answerer, BrokenOff, CONNECTIONS_MAX, CONNECTIONS_OF_A_GROUP_MAX, CONNECTIONS_OF_A_PEER_MAX,
    MEMORY_BYTES_MAX, MEMORY_OF_A_GROUP_BYTES_MAX, MEMORY_OF_A_PEER_BYTES_MAX, Peer, REQUESTS_MAX,
    REQUESTS_OF_A_GROUP_MAX, REQUESTS_OF_A_PEER_MAX, ReplyBody,
};
pub use squeeze::SharedCodec;
pub use traffic::{PeerTraffic, Traffic};
pub use transfer::{ALPN, DIAL_TIMEOUT};
