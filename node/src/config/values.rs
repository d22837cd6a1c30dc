//! The values that settings can have.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use firn_exchange::PeerId;
use multiaddr::{Multiaddr, Protocol};
use serde::Deserialize;

/// What is given away, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Nothing is given away
    #[default]
    Client,
    /// What is shared goes to neighbours with private addresses
    Lan,
    /// What is shared goes to anyone
    Seed,
}

impl Role {
    /// What it means, in a few words.
    pub fn meaning(self) -> &'static str {
        match self {
            Role::Client => "nothing is given away",
            Role::Lan => "what is shared goes to neighbours with private addresses",
            Role::Seed => "what is shared goes to anyone",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Client => "client",
            Role::Lan => "lan",
            Role::Seed => "seed",
        })
    }
}

/// How long the gateway looks for a path before it says that it is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissBudgets {
    /// Without any peer.
    pub alone: Duration,
    /// With neighbours and static peers only.
    pub near: Duration,
    /// While a DHT look-up or a first dial is open.
    pub dht: Duration,
}

/// A peer that the user named: whom to ask, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaticPeer {
    /// Its key.
    pub id: PeerId,
    /// Its iroh UDP address.
    pub address: SocketAddr,
}

/// Text that is no `<id>@<ip:port>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StaticPeerError {
    /// There is no `@`.
    #[error("a peer is ID@IP:PORT")]
    Shape,
    /// What stands before the `@`.
    #[error("the part before the @: {0}")]
    Id(#[from] firn_exchange::PeerIdError),
    /// What stands after the `@`.
    #[error("the part after the @ is no IP:PORT")]
    Address(#[from] std::net::AddrParseError),
}

impl FromStr for StaticPeer {
    type Err = StaticPeerError;

    fn from_str(text: &str) -> Result<Self, StaticPeerError> {
        let (id, address) = text.split_once('@').ok_or(StaticPeerError::Shape)?;
        Ok(Self { id: id.parse()?, address: address.parse()? })
    }
}

impl fmt::Display for StaticPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.address)
    }
}

/// Where this node takes a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayUrl(String);

/// Text that is no relay's URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a relay is a URL that begins with https:// or http://")]
pub struct RelayUrlError;

impl FromStr for RelayUrl {
    type Err = RelayUrlError;

    fn from_str(text: &str) -> Result<Self, RelayUrlError> {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        match host {
            Some(host) if !host.is_empty() && !host.starts_with('/') => Ok(Self(text.into())),
            _ => Err(RelayUrlError),
        }
    }
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a DHT: a private network has its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkName(String);

/// The longest name of a network.
pub const NETWORK_NAME_BYTES_MAX: usize = 64;

/// Text that can't name a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a network's name has 1 to {NETWORK_NAME_BYTES_MAX} lowercase letters, digits, dots and dashes")]
pub struct NetworkNameError;

impl NetworkName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NetworkName {
    type Err = NetworkNameError;

    fn from_str(text: &str) -> Result<Self, NetworkNameError> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
        let fits = (1..=NETWORK_NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(legal);
        if fits { Ok(Self(text.into())) } else { Err(NetworkNameError) }
    }
}

/// A multiaddr that names no node to begin with.
#[derive(Debug, thiserror::Error)]
pub(super) enum BootstrapError {
    #[error(transparent)]
    Multiaddr(#[from] multiaddr::Error),
    #[error("a bootstrap node's multiaddr ends in /p2p/ID")]
    NoPeer,
}

pub(super) fn parse_bootstrap(text: &str) -> Result<Multiaddr, BootstrapError> {
    let multiaddr: Multiaddr = text.parse()?;
    match multiaddr.iter().last() {
        Some(Protocol::P2p(_)) => Ok(multiaddr),
        _ => Err(BootstrapError::NoPeer),
    }
}
