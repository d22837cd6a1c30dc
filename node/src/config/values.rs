//! The values that settings can have.

use std::{
    error::Error,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU64,
    str::FromStr,
    time::Duration,
};

use firn_exchange::Compress;
use firn_net::{Multiaddr, RATE_MIN, RelayUrl, StaticPeer, Undialable, bootstrap_address, check_dialable};
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

/// How many bytes there may be, as people write it: `500M`, `50G`, `1.5T`, or a plain number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteLimit(pub u64);

/// Text that says no number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a size is a number with K, M, G or T behind it (powers of 1024), such as 500M or 50G")]
pub struct ByteLimitError;

impl FromStr for ByteLimit {
    type Err = ByteLimitError;

    fn from_str(text: &str) -> Result<Self, ByteLimitError> {
        let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits_end);
        let shift = match unit.trim_start() {
            "" | "B" => 0,
            "K" | "k" | "KiB" => 10,
            "M" | "MiB" => 20,
            "G" | "GiB" => 30,
            "T" | "TiB" => 40,
            _ => return Err(ByteLimitError),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let whole: u64 = whole.parse().map_err(|_| ByteLimitError)?;
        let is_fraction = (1..=FRACTION_DIGITS_MAX).contains(&fraction.len());
        let fraction = Some(fraction).filter(|_| is_fraction).ok_or(ByteLimitError)?;
        let scale = 10_u128.pow(fraction.len() as u32);
        let fraction: u64 = fraction.parse().map_err(|_| ByteLimitError)?;
        let bytes = (u128::from(whole) << shift) + (u128::from(fraction) << shift) / scale;
        u64::try_from(bytes).map(Self).map_err(|_| ByteLimitError)
    }
}

/// The most digits behind the point of a size.
const FRACTION_DIGITS_MAX: usize = 9;

/// `none`, or a [`ByteLimit`].
pub(super) fn parse_limit(text: &str) -> Result<Option<ByteLimit>, ByteLimitError> {
    if text == "none" { Ok(None) } else { text.parse().map(Some) }
}

/// A rate so low that nothing would come in time.
#[derive(Debug, thiserror::Error)]
#[error("a rate is none, or at least {}K a second", RATE_MIN >> 10)]
pub(super) struct RateError;

/// `none`, or a [`ByteLimit`] of bytes a second.
pub(super) fn parse_rate(text: &str) -> Result<Option<NonZeroU64>, Box<dyn Error + Send + Sync>> {
    match parse_limit(text)? {
        None => Ok(None),
        Some(limit) if limit.0 < RATE_MIN => Err(RateError.into()),
        Some(limit) => Ok(NonZeroU64::new(limit.0)),
    }
}

/// A word that does not say when to compress.
#[derive(Debug, thiserror::Error)]
#[error("it is auto, always or never")]
pub(super) struct CompressError;

pub(super) fn parse_compress(text: &str) -> Result<Compress, CompressError> {
    match text {
        "auto" => Ok(Compress::Auto),
        "always" => Ok(Compress::Always),
        "never" => Ok(Compress::Never),
        _ => Err(CompressError),
    }
}

/// A multiaddr that names no node to begin with.
#[derive(Debug, thiserror::Error)]
#[error("a bootstrap node's multiaddr is /ip4/IP/udp/PORT/quic-v1/p2p/ID, or the same with ip6")]
pub(super) struct BootstrapError;

/// A multiaddr of the one kind that can be dialled, with the id of whoever is there, and in reach of these sockets.
pub(super) fn parse_bootstrap_from(
    text: &str,
    bound: &[SocketAddr],
) -> Result<Multiaddr, Box<dyn Error + Send + Sync>> {
    let multiaddr: Multiaddr = text.parse().map_err(|_| BootstrapError)?;
    check_dialable(bootstrap_address(&multiaddr).ok_or(BootstrapError)?, bound)?;
    Ok(multiaddr)
}

/// A peer that is in reach of these sockets.
pub(super) fn parse_peer_from(
    text: &str,
    bound: &[SocketAddr],
) -> Result<StaticPeer, Box<dyn Error + Send + Sync>> {
    let peer: StaticPeer = text.parse()?;
    check_dialable(peer.address, bound)?;
    Ok(peer)
}

/// Text that is no relay's URL.
#[derive(Debug, thiserror::Error)]
#[error("a relay is a URL that begins with https:// or http://")]
pub(super) struct RelayError;

/// The URL of a relay that a machine can have.
pub(super) fn parse_relay(text: &str) -> Result<RelayUrl, Box<dyn Error + Send + Sync>> {
    let has_host = |rest: &str| !rest.is_empty() && !rest.starts_with('/');
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let url: RelayUrl =
        host.filter(|rest| has_host(rest)).and_then(|_| text.parse().ok()).ok_or(RelayError)?;
    let port = url.port_or_known_default().unwrap_or_default();
    let ip: Option<IpAddr> = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse().ok());
    let any = [(Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::UNSPECIFIED, 0).into()];
    match ip {
        // It is reached by TCP, from any socket.
        Some(ip) => check_dialable(SocketAddr::new(ip, port), &any)?,
        None if port == 0 => return Err(Undialable::Port.into()),
        None => {}
    }
    Ok(url)
}
