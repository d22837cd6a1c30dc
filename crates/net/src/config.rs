//! What the network is told at the start.

use std::{net::SocketAddr, str::FromStr};

use firn_exchange::{Compress, PeerId, PeerIdError};
use iroh::RelayUrl;
use libp2p::Multiaddr;

use crate::{dial::DialRules, identity::Identity, limits::RateLimits};

/// A peer that the user named: `<id>@<ip:port>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StaticPeer {
    /// Who it is.
    pub id: PeerId,
    /// Where its iroh listens.
    pub address: SocketAddr,
}

/// Text that names no peer with its address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StaticPeerError {
    /// There is no `@`.
    #[error("\"{0}\" is not <id>@<ip:port>")]
    Form(Box<str>),
    /// What stands before the `@` is no id.
    #[error(transparent)]
    Id(#[from] PeerIdError),
    /// What stands behind it is no address.
    #[error("\"{0}\" is not <ip:port>")]
    Address(Box<str>),
}

impl FromStr for StaticPeer {
    type Err = StaticPeerError;

    fn from_str(text: &str) -> Result<Self, StaticPeerError> {
        let (id, address) = text.split_once('@').ok_or_else(|| StaticPeerError::Form(text.into()))?;
        let address = address.parse().map_err(|_| StaticPeerError::Address(address.into()))?;
        Ok(Self { id: id.parse()?, address })
    }
}

impl std::fmt::Display for StaticPeer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.id, self.address)
    }
}

/// How a node takes part. [`NetConfig::new`] contacts nobody; everything else is named by the user.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// The node's key.
    pub identity: Identity,
    /// Where iroh listens: at most one address of each family; port 0 is any.
    pub iroh_bind: Vec<SocketAddr>,
    /// Where libp2p listens; nowhere means no DHT and no mDNS.
    pub libp2p_bind: Vec<SocketAddr>,
    /// Nodes of the DHT that are dialled at the start, and again whenever none is connected.
    pub bootstrap: Vec<Multiaddr>,
    /// Peers that are asked for everything.
    pub peers: Vec<StaticPeer>,
    /// Relays of the user's own; no others are ever used.
    pub relays: Vec<RelayUrl>,
    /// Look for neighbours by multicast.
    pub mdns: bool,
    /// The name of a private DHT; everybody's without one.
    pub network: Option<String>,
    /// What may be dialled because a peer claims it.
    pub dial: DialRules,
    /// Serve the DHT and let others find this node: for nodes that share or bootstrap.
    pub is_server: bool,
    /// How much replies may bring and take in a second.
    pub limits: RateLimits,
    /// Whether replies may come compressed.
    pub compress: Compress,
}

impl NetConfig {
    /// A node on any port that asks only whom it is told to ask, and that nobody can find.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            iroh_bind: vec![SocketAddr::from(([0, 0, 0, 0], 0))],
            libp2p_bind: Vec::new(),
            bootstrap: Vec::new(),
            peers: Vec::new(),
            relays: Vec::new(),
            mdns: false,
            network: None,
            dial: DialRules::near(),
            is_server: false,
            limits: RateLimits::default(),
            compress: Compress::Auto,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_named_by_id_and_address() {
        let id = PeerId::from([0xab; 32]);
        let peer: StaticPeer = format!("{id}@127.0.0.1:7334").parse().unwrap();
        assert_eq!(peer, StaticPeer { id, address: "127.0.0.1:7334".parse().unwrap() });
        assert_eq!(peer.to_string().parse(), Ok(peer));
        let v6: StaticPeer = format!("{id}@[::1]:7334").parse().unwrap();
        assert!(v6.address.is_ipv6());
        assert!(matches!("127.0.0.1:1".parse::<StaticPeer>(), Err(StaticPeerError::Form(_))));
        assert!(matches!("abc@127.0.0.1:1".parse::<StaticPeer>(), Err(StaticPeerError::Id(_))));
        assert!(matches!(format!("{id}@host").parse::<StaticPeer>(), Err(StaticPeerError::Address(_))));
    }
}
