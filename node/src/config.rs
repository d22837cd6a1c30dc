//! How a node is set up: the command line over the environment over one file, resolved into a [`Config`].

mod networks;
mod settings;
mod values;

use std::{
    error::Error,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use firn_net::{Multiaddr, RelayUrl, StaticPeer, bootstrap_address};
use firn_nix::PublicKey;
use ipnet::IpNet;

pub use networks::{NetworkError, loopback, private, public};
pub use settings::Settings;
pub use values::{
    ByteLimit, ByteLimitError, MissBudgets, NETWORK_NAME_BYTES_MAX, NetworkName, NetworkNameError, Role,
};
use values::{parse_bootstrap, parse_limit, parse_relay};

use crate::{cli::Global, operations::is_store_dir};

/// Everything that a node needs to know, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Where the store, the identity and the control socket are; absolute.
    pub data_dir: PathBuf,
    /// Below this stands the Nix store; absolute.
    pub nix_root: PathBuf,
    /// What is given away.
    pub role: Role,
    /// Whose signatures are believed.
    pub trust: Vec<PublicKey>,
    /// Nodes of the DHT to begin with; each ends in its `/p2p/` id.
    pub bootstrap: Vec<Multiaddr>,
    /// Peers to ask always.
    pub peers: Vec<StaticPeer>,
    /// Our own relays; no other is ever used.
    pub relays: Vec<RelayUrl>,
    /// The DHT's name.
    pub network: NetworkName,
    /// Whether neighbours are looked for by multicast.
    pub mdns: bool,
    /// Where addresses that peers claim may lie.
    pub dial: Vec<IpNet>,
    /// Where the gateway listens.
    pub http: SocketAddr,
    /// Where iroh listens, UDP.
    pub iroh: SocketAddr,
    /// Where libp2p listens, UDP.
    pub libp2p: SocketAddr,
    /// How long a miss takes.
    pub miss: MissBudgets,
    /// How much the store may take of its disk.
    pub store_bytes_max: Option<ByteLimit>,
    /// Whether the Nix store is adopted, in the background.
    pub adopt: bool,
    /// How many threads read what is adopted.
    pub adopt_jobs: Option<NonZeroUsize>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("can't read the configuration file {file}: {source}", file = file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no TOML, or has a key or a type that is not known here. The source names the line and the key.
    #[error("the configuration file {file}: {source}", file = file.display())]
    Parse {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A setting's value has the wrong shape.
    #[error("{origin}: {key}: \"{value}\": {source}")]
    Value {
        /// Where it was set.
        origin: Origin,
        /// Which setting.
        key: &'static str,
        /// What was given.
        value: Box<str>,
        /// What is wrong with it.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Nothing says where the data directory is.
    #[error("no data directory: give --data-dir, or set HOME")]
    NoDataDir,
    /// A path that could not be made absolute.
    #[error("{path}: {source}", path = path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where a setting was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag or a variable.
    CommandLine,
    /// The configuration file.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::CommandLine => f.write_str("command line or environment"),
            Origin::File(file) => write!(f, "{}", file.display()),
        }
    }
}

/// What the process finds around it besides the settings.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `$HOME`.
    pub home: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`.
    pub xdg_config_home: Option<PathBuf>,
    /// `$XDG_DATA_HOME`.
    pub xdg_data_home: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// The first of `$STATE_DIRECTORY`, which systemd sets.
    pub state_directory: Option<PathBuf>,
    /// The machine's configuration file.
    pub machine_config: PathBuf,
    /// The IPv4 addresses of this machine's interfaces.
    pub addresses: Vec<Ipv4Addr>,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let state = std::env::var_os("STATE_DIRECTORY");
        Self {
            home: path("HOME"),
            xdg_config_home: path("XDG_CONFIG_HOME"),
            xdg_data_home: path("XDG_DATA_HOME"),
            xdg_runtime_dir: path("XDG_RUNTIME_DIR"),
            // systemd joins several by colons.
            state_directory: state
                .and_then(|dirs| std::env::split_paths(&dirs).next())
                .filter(|dir| !dir.as_os_str().is_empty()),
            machine_config: "/etc/firn/config.toml".into(),
            addresses: networks::own_addresses(),
        }
    }

    fn user_config(&self) -> Option<PathBuf> {
        let dir = self.xdg_config_home.clone().or_else(|| Some(self.home.as_ref()?.join(".config")))?;
        Some(dir.join("firn/config.toml"))
    }

    fn data_dir(&self) -> Option<PathBuf> {
        let data_home = || Some(self.home.as_ref()?.join(".local/share"));
        self.state_directory
            .clone()
            .or_else(|| Some(self.xdg_data_home.clone().or_else(data_home)?.join("firn")))
    }
}

impl Config {
    /// Resolves flags and variables over the file that they name, or over the first of the usual files that exists.
    pub fn load(global: &Global, given: Settings, environment: &Environment) -> Result<Self, ConfigError> {
        let (file, written) = match &global.config {
            Some(file) => match Settings::of_file(file)? {
                Some(written) => (Some(file.clone()), written),
                None => {
                    let source = io::ErrorKind::NotFound.into();
                    return Err(ConfigError::Read { file: file.clone(), source });
                }
            },
            None => first_file(environment)?,
        };
        let data_dir = global.data_dir.clone().or_else(|| written.data_dir.clone());
        let data_dir = data_dir.or_else(|| environment.data_dir()).ok_or(ConfigError::NoDataDir)?;
        let nix_root = global.nix_root.clone().or_else(|| written.nix_root.clone());
        let nix_root = nix_root.unwrap_or_else(|| "/".into());
        let layers = Layers { given, written, file };
        layers.resolve(absolute(data_dir)?, absolute(nix_root)?, &environment.addresses)
    }
}

fn absolute(path: PathBuf) -> Result<PathBuf, ConfigError> {
    std::path::absolute(&path).map_err(|source| ConfigError::Path { path, source })
}

fn first_file(environment: &Environment) -> Result<(Option<PathBuf>, Settings), ConfigError> {
    for file in environment.user_config().into_iter().chain([environment.machine_config.clone()]) {
        if let Some(written) = Settings::of_file(&file)? {
            return Ok((Some(file), written));
        }
    }
    Ok((None, Settings::default()))
}

/// The command line (with the environment) over the file.
struct Layers {
    given: Settings,
    written: Settings,
    file: Option<PathBuf>,
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

    fn network(&self) -> Result<NetworkName, ConfigError> {
        let Some((text, origin)) = self.uppermost(|settings| settings.network.as_deref()) else {
            return Ok(NetworkName::usual());
        };
        text.parse().map_err(|error: NetworkNameError| wrong(&origin, "network", text, error))
    }

    fn store_bytes_max(&self) -> Result<Option<ByteLimit>, ConfigError> {
        let Some((text, origin)) = self.uppermost(|settings| settings.store_bytes_max.as_deref()) else {
            return Ok(None);
        };
        parse_limit(text).map_err(|error| wrong(&origin, "store-bytes-max", text, error))
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

    fn resolve(
        self,
        data_dir: PathBuf,
        nix_root: PathBuf,
        own_addresses: &[Ipv4Addr],
    ) -> Result<Config, ConfigError> {
        let any = |port| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        let role = self.uppermost(|settings| settings.role).map_or(Role::default(), |(role, _)| role);
        let bootstrap = self.list("bootstrap", |settings| &settings.bootstrap, parse_bootstrap)?;
        let peers = self.list("peer", |settings| &settings.peer, StaticPeer::from_str)?;
        let dial = self.list("dial", |settings| &settings.dial, networks::parse)?;
        let dial = match self.uppermost(|settings| settings.dial.as_ref()) {
            Some(_) => dial.concat(),
            None => default_dial(role, &bootstrap, &peers, own_addresses),
        };
        Ok(Config {
            role,
            trust: self.list("trust", |settings| &settings.trust, PublicKey::from_str)?,
            relays: self.list("relay", |settings| &settings.relay, parse_relay)?,
            network: self.network()?,
            mdns: self.uppermost(|settings| settings.mdns).map_or(role == Role::Lan, |(mdns, _)| mdns),
            http: self.address("http", |settings| &settings.http, (Ipv4Addr::LOCALHOST, 7333).into())?,
            iroh: self.address("iroh", |settings| &settings.iroh, any(7334))?,
            libp2p: self.address("libp2p", |settings| &settings.libp2p, any(7335))?,
            miss: self.miss(),
            store_bytes_max: self.store_bytes_max()?,
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

#[cfg(test)]
mod tests;
