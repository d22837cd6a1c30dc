//! The values that settings can have.

use std::{fmt, str::FromStr, time::Duration};

use firn_net::{Multiaddr, RelayUrl, bootstrap_address};
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

impl Default for MissBudgets {
    fn default() -> Self {
        Self { alone: Duration::ZERO, near: Duration::from_millis(300), dht: Duration::from_secs(5) }
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
    /// Everybody's network.
    pub fn usual() -> Self {
        Self("firn".into())
    }

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
#[error("a bootstrap node's multiaddr is /ip4/IP/udp/PORT/quic-v1/p2p/ID, or the same with ip6")]
pub(super) struct BootstrapError;

/// A multiaddr of the one kind that can be dialled, with the id of whoever is there.
pub(super) fn parse_bootstrap(text: &str) -> Result<Multiaddr, BootstrapError> {
    let multiaddr = text.parse().ok();
    multiaddr.filter(|address| bootstrap_address(address).is_some()).ok_or(BootstrapError)
}

/// Text that is no relay's URL.
#[derive(Debug, thiserror::Error)]
#[error("a relay is a URL that begins with https:// or http://")]
pub(super) struct RelayError;

pub(super) fn parse_relay(text: &str) -> Result<RelayUrl, RelayError> {
    let has_host = |rest: &str| !rest.is_empty() && !rest.starts_with('/');
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    host.filter(|rest| has_host(rest)).and_then(|_| text.parse().ok()).ok_or(RelayError)
}
