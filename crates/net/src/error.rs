//! Why the network could not be started.

use std::{io, net::SocketAddr};

use libp2p::{Multiaddr, TransportError};

/// Why the network could not be started, or could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The port is taken, or the address isn't of this machine.
    #[error("cannot bind iroh to udp {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The port is taken, or the address isn't of this machine.
    #[error("cannot bind libp2p to udp {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the transport said.
        source: Box<TransportError<io::Error>>,
    },
    /// Two addresses of one family, where one can be served.
    #[error("iroh binds one IPv4 and one IPv6 address: {address} is one too many")]
    BindTwice {
        /// The second one.
        address: SocketAddr,
    },
    /// iroh didn't start.
    #[error("iroh: {0}")]
    Endpoint(#[from] iroh::endpoint::BindError),
    /// Not an address that libp2p can dial here.
    #[error("bootstrap address {address}: only /ip4|ip6/<ip>/udp/<port>/quic-v1[/p2p/<id>] can be dialled")]
    Bootstrap {
        /// The address.
        address: Multiaddr,
    },
    /// Not a name that can stand in a protocol's name.
    #[error("network name \"{name}\": 1 to 64 of a-z, A-Z, 0-9, '-', '_' and '.'")]
    NetworkName {
        /// The name.
        name: Box<str>,
    },
    /// A task of the network panicked, or didn't end in time.
    #[error("the network's {task} did not end well")]
    Task {
        /// Which one.
        task: &'static str,
    },
}
