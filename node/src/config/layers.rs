//! One place's settings over another's, and what they come to.

use std::{
    error::Error,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use firn_exchange::Compress;
use firn_gateway::HostName;
use firn_net::{Multiaddr, RateLimits, StaticPeer, bootstrap_address};
use firn_nix::{KeyError, PublicKey, SigningKey};
use ipnet::IpNet;

use super::{
    Config, ConfigError, Environment, MissBudgets, NetworkName, Origin, Role, Settings, networks,
    networks::{private, public},
    settings,
    values::{parse_bootstrap_from, parse_compress, parse_limit, parse_peer_from, parse_rate, parse_relay},
};
use crate::operations::is_store_dir;

/// The command line (with the environment) over the file.
pub(super) struct Layers {
    pub(super) given: Settings,
    pub(super) written: Settings,
    pub(super) file: Option<PathBuf>,
}

impl Layers {
    /// The uppermost value, and where it was set.
    fn uppermost<'a, T>(&'a self, of: impl Fn(&'a Settings) -> Option<T>) -> Option<(T, Origin)> {
        match of(&self.given) {
            Some(value) => Some((value, Origin::CommandLine)),
            None => Some((of(&self.written)?, Origin::File(self.file.clone().unwrap_or_default()))),
        }
    }

    fn list<T, E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        key: &'static str,
        of: fn(&Settings) -> &Option<Vec<String>>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, ConfigError> {
        let Some((list, origin)) = self.uppermost(|settings| of(settings).as_deref()) else {
            return Ok(Vec::new());
        };
        settings::items(list)
            .map(|item| parse(item).map_err(|error| wrong(&origin, key, item, error)))
            .collect()
    }

    /// A list of public keys.
    fn keys(
        &self,
        key: &'static str,
        of: fn(&Settings) -> &Option<Vec<String>>,
    ) -> Result<Vec<PublicKey>, ConfigError> {
        let Some((list, origin)) = self.uppermost(|settings| of(settings).as_deref()) else {
            return Ok(Vec::new());
        };
        let parse = |(index, item): (usize, &str)| {
            let refused = |source| ConfigError::Key { origin: origin.clone(), key, place: index + 1, source };
            item.parse::<PublicKey>().map_err(|error| refused(NoPublicKey::new(item, error)))
        };
        settings::items(list).enumerate().map(parse).collect()
    }

    fn address(
        &self,
        key: &'static str,
        of: fn(&Settings) -> &Option<String>,
        default: SocketAddr,
    ) -> Result<SocketAddr, ConfigError> {
        let Some((text, origin)) = self.uppermost(|settings| of(settings).as_deref()) else {
            return Ok(default);
        };
        match text.parse::<u16>() {
            Ok(port) => Ok(SocketAddr::new(default.ip(), port)),
            Err(_) => text.parse().map_err(|_| wrong(&origin, key, text, ListenError)),
        }
    }

    /// The one address that was set; a port alone is one of all addresses, of both families where there are both.
    fn addresses(
        &self,
        key: &'static str,
        of: fn(&Settings) -> &Option<String>,
        port: u16,
        environment: &Environment,
    ) -> Result<Vec<SocketAddr>, ConfigError> {
        let any_of = |ip: IpAddr| self.address(key, of, SocketAddr::new(ip, port));
        let mut addresses = vec![any_of(Ipv4Addr::UNSPECIFIED.into())?];
        if environment.has_ipv6 {
            addresses.push(any_of(Ipv6Addr::UNSPECIFIED.into())?);
        }
        // An address that was set whole is the same for both families.
        addresses.dedup();
        Ok(addresses)
    }

    /// One value, or what there is without any.
    fn one<T, E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        key: &'static str,
        of: fn(&Settings) -> &Option<String>,
        default: T,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T, ConfigError> {
        let Some((text, origin)) = self.uppermost(|settings| of(settings).as_deref()) else {
            return Ok(default);
        };
        parse(text).map_err(|error| wrong(&origin, key, text, error))
    }

    fn rates(&self) -> Result<RateLimits, ConfigError> {
        Ok(RateLimits {
            upload: self.one("upload-max", |settings| &settings.upload_max, None, parse_rate)?,
            upload_peer: self.one(
                "upload-peer-max",
                |settings| &settings.upload_peer_max,
                None,
                parse_rate,
            )?,
            download: self.one("download-max", |settings| &settings.download_max, None, parse_rate)?,
            download_peer: self.one(
                "download-peer-max",
                |settings| &settings.download_peer_max,
                None,
                parse_rate,
            )?,
        })
    }

    fn adopt_jobs(&self) -> Result<Option<NonZeroUsize>, ConfigError> {
        let Some((jobs, origin)) = self.uppermost(|settings| settings.adopt_jobs) else { return Ok(None) };
        match NonZeroUsize::new(jobs as usize).filter(|jobs| jobs.get() <= JOBS_MAX as usize) {
            Some(jobs) => Ok(Some(jobs)),
            None => Err(wrong(&origin, "adopt-jobs", &jobs.to_string(), JobsError)),
        }
    }

    fn miss(&self) -> MissBudgets {
        let usual = MissBudgets::default();
        let budget = |of: fn(&Settings) -> Option<u32>, usual| {
            self.uppermost(of).map_or(usual, |(ms, _)| Duration::from_millis(ms.into()))
        };
        MissBudgets {
            alone: budget(|settings| settings.miss_alone_ms, usual.alone),
            near: budget(|settings| settings.miss_near_ms, usual.near),
            dht: budget(|settings| settings.miss_dht_ms, usual.dht),
        }
    }

    /// All settings, with what holds where nothing was set.
    pub(super) fn resolve(
        self,
        data_dir: PathBuf,
        nix_root: PathBuf,
        environment: &Environment,
    ) -> Result<Config, ConfigError> {
        let role = self.uppermost(|settings| settings.role).map_or(Role::default(), |(role, _)| role);
        let iroh = self.addresses("iroh", |settings| &settings.iroh, 7334, environment)?;
        let libp2p = self.addresses("libp2p", |settings| &settings.libp2p, 7335, environment)?;
        let in_reach = |text: &str| parse_bootstrap_from(text, &libp2p);
        let bootstrap = self.list("bootstrap", |settings| &settings.bootstrap, in_reach)?;
        let peers = self.list("peer", |settings| &settings.peer, |text| parse_peer_from(text, &iroh))?;
        let dial = self.list("dial", |settings| &settings.dial, networks::parse)?;
        let dial = match self.uppermost(|settings| settings.dial.as_ref()) {
            Some(_) => dial.concat(),
            None => default_dial(role, &bootstrap, &peers, &environment.addresses),
        };
        Ok(Config {
            role,
            trust: self.keys("trust", |settings| &settings.trust)?,
            relays: self.list("relay", |settings| &settings.relay, parse_relay)?,
            network: self.one(
                "network",
                |settings| &settings.network,
                NetworkName::usual(),
                NetworkName::from_str,
            )?,
            mdns: self.uppermost(|settings| settings.mdns).map_or(role == Role::Lan, |(mdns, _)| mdns),
            http: self.address("http", |settings| &settings.http, (Ipv4Addr::LOCALHOST, 7333).into())?,
            http_host: self.list("http-host", |settings| &settings.http_host, HostName::from_str)?,
            iroh,
            libp2p,
            miss: self.miss(),
            store_bytes_max: self.one(
                "store-bytes-max",
                |settings| &settings.store_bytes_max,
                None,
                parse_limit,
            )?,
            rates: self.rates()?,
            compress: self.one("compress", |settings| &settings.compress, Compress::Auto, parse_compress)?,
            adopt: !self
                .list("adopt", |settings| &settings.adopt, |text| parse_adopt(text, &nix_root))?
                .is_empty(),
            adopt_jobs: self.adopt_jobs()?,
            file: self.file,
            data_dir,
            nix_root,
            bootstrap,
            peers,
            dial,
        })
    }
}

/// Text that is no public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPublicKey {
    /// It is another kind of key.
    #[error("it is a secret key, which nobody else may see; `firn key public FILE` tells the public one")]
    Secret,
    /// It is no key.
    #[error(transparent)]
    Other(#[from] KeyError),
}

impl NoPublicKey {
    fn new(text: &str, error: KeyError) -> Self {
        if text.parse::<SigningKey>().is_ok() { Self::Secret } else { Self::Other(error) }
    }
}

/// Text that is nowhere to listen.
#[derive(Debug, thiserror::Error)]
#[error("an address is IP:PORT or PORT")]
struct ListenError;

/// The most threads that may be asked for.
pub const JOBS_MAX: u32 = 64;

/// A number of threads that is none.
#[derive(Debug, thiserror::Error)]
#[error("there may be 1 to {JOBS_MAX} threads")]
struct JobsError;

/// Text that does not name the Nix store.
#[derive(Debug, thiserror::Error)]
#[error(
    "only the Nix store as a whole, /nix/store, is adopted by a node; `firn adopt PATH` takes single paths"
)]
struct AdoptError;

fn parse_adopt(text: &str, nix_root: &Path) -> Result<(), AdoptError> {
    if is_store_dir(Path::new(text), nix_root) { Ok(()) } else { Err(AdoptError) }
}

fn wrong(
    origin: &Origin,
    key: &'static str,
    value: &str,
    source: impl Into<Box<dyn Error + Send + Sync>>,
) -> ConfigError {
    ConfigError::Value { origin: origin.clone(), key, value: value.into(), source: source.into() }
}

/// Where peers may be, if the user doesn't say it: on the internet (of the role lan: among the neighbours), and where
/// those are whom the user names. A seed to which nobody is named is the first of its network, and that is where its own
/// addresses are.
fn default_dial(
    role: Role,
    bootstrap: &[Multiaddr],
    peers: &[StaticPeer],
    own_addresses: &[Ipv4Addr],
) -> Vec<IpNet> {
    let usual = if role == Role::Lan { private() } else { public() };
    let bootstrap = bootstrap.iter().filter_map(bootstrap_address);
    let named: Vec<IpAddr> =
        bootstrap.chain(peers.iter().map(|peer| peer.address)).map(|address| address.ip()).collect();
    let is_first = role == Role::Seed && named.is_empty();
    let more = if is_first { networks::home(own_addresses) } else { networks::around(&named) };
    let mut networks = [usual, more].concat();
    networks.sort();
    networks.dedup();
    networks
}
