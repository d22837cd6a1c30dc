//! How a node is set up: the command line over the environment over one file, resolved into a [`Config`].

mod layers;
mod networks;
mod settings;
mod values;

use std::{
    error::Error,
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    os::unix::ffi::OsStrExt,
    path::{Component, PathBuf},
};

use firn_exchange::Compress;
use firn_gateway::HostName;
use firn_net::{Multiaddr, RateLimits, RelayUrl, StaticPeer};
use firn_nix::PublicKey;
use ipnet::IpNet;

use layers::Layers;
pub use layers::{JOBS_MAX, NoPublicKey};
pub use networks::{NetworkError, loopback, private, public};
pub use settings::{Settings, TomlError};
pub use values::{
    ByteLimit, ByteLimitError, MissBudgets, NETWORK_NAME_BYTES_MAX, NetworkName, NetworkNameError, Role,
};

use crate::cli::Global;

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
    /// The names under which the gateway may be asked, besides this machine's own and addresses.
    pub http_host: Vec<HostName>,
    /// Where iroh listens, UDP: at most one address of each family.
    pub iroh: Vec<SocketAddr>,
    /// Where libp2p listens, UDP.
    pub libp2p: Vec<SocketAddr>,
    /// How long a miss takes.
    pub miss: MissBudgets,
    /// How much the store may take of its disk.
    pub store_bytes_max: Option<ByteLimit>,
    /// How much goes over the wire in a second.
    pub rates: RateLimits,
    /// Whether it is compressed.
    pub compress: Compress,
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
        source: TomlError,
    },
    /// What was given as a public key is none. It is not repeated: it may be a secret key.
    #[error("{origin}: {key}: item {place} of the list is refused, and not repeated here: {source}")]
    Key {
        /// Where it was set.
        origin: Origin,
        /// Which setting.
        key: &'static str,
        /// Which item of the list, from 1.
        place: usize,
        /// What is wrong with it.
        #[source]
        source: NoPublicKey,
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
    /// A path that begins in somebody's home directory which is not known.
    #[error("{path}: only ~ and ~/ are known for a home directory, where HOME is set; ./~ is a directory of this name", path = .0.display())]
    Home(PathBuf),
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
    /// Whether this machine knows IPv6.
    pub has_ipv6: bool,
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
            has_ipv6: networks::has_ipv6(),
        }
    }

    fn user_config(&self) -> Option<PathBuf> {
        let dir = self.xdg_config_home.clone().or_else(|| Some(self.home.as_ref()?.join(".config")))?;
        Some(dir.join("firn/config.toml"))
    }

    /// The path with a home directory for its `~`, which no shell has put there in a file, in a variable or after a `=`.
    fn expand(&self, path: PathBuf) -> Result<PathBuf, ConfigError> {
        let first = path.components().next();
        let Some(Component::Normal(first)) =
            first.filter(|first| first.as_os_str().as_bytes().starts_with(b"~"))
        else {
            return Ok(path);
        };
        match &self.home {
            Some(home) if first == "~" => Ok(home.join(path.strip_prefix("~").unwrap_or(&path))),
            _ => Err(ConfigError::Home(path)),
        }
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
        let absolute = |path| absolute(environment.expand(path)?);
        let (file, written) = match &global.config {
            Some(file) => {
                let file = environment.expand(file.clone())?;
                let written = Settings::of_file(&file)?;
                (Some(file), written)
            }
            None => first_file(environment)?,
        };
        let data_dir = global.data_dir.clone().or_else(|| written.data_dir.clone());
        let data_dir = data_dir.or_else(|| environment.data_dir()).ok_or(ConfigError::NoDataDir)?;
        let nix_root = global.nix_root.clone().or_else(|| written.nix_root.clone());
        let nix_root = nix_root.unwrap_or_else(|| "/".into());
        let layers = Layers { given, written, file };
        layers.resolve(absolute(data_dir)?, absolute(nix_root)?, environment)
    }
}

fn absolute(path: PathBuf) -> Result<PathBuf, ConfigError> {
    std::path::absolute(&path).map_err(|source| ConfigError::Path { path, source })
}

fn first_file(environment: &Environment) -> Result<(Option<PathBuf>, Settings), ConfigError> {
    for file in environment.user_config().into_iter().chain([environment.machine_config.clone()]) {
        match Settings::of_file(&file) {
            Ok(written) => return Ok((Some(file), written)),
            Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok((None, Settings::default()))
}

#[cfg(test)]
mod tests;
