//! What a user can set, as it was written: by flag, by environment variable or in the configuration file.

use std::{
    io,
    path::{Path, PathBuf},
};

use clap::Parser;
use serde::Deserialize;

use super::{ConfigError, Role};

/// The settings of one place. Those of the command line include the environment's.
///
/// Flags, variables and the keys of the file come from this one list: `--miss-dht-ms`, `FIRN_MISS_DHT_MS`,
/// `miss-dht-ms = 5000`. The doc comments are the help.
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Settings {
    /// In the file only; the flag is global
    #[arg(skip)]
    pub data_dir: Option<PathBuf>,

    /// In the file only; the flag is global
    #[arg(skip)]
    pub nix_root: Option<PathBuf>,

    /// What is given away, and to whom [default: client]
    #[arg(long, env = "FIRN_ROLE", value_name = "ROLE", hide_env = true)]
    pub role: Option<Role>,

    /// A public key to trust, name:base64, as in Nix's trusted-public-keys; may be given several times
    #[arg(long, env = "FIRN_TRUST", value_name = "KEY", hide_env = true)]
    pub trust: Option<Vec<String>>,

    /// A node of the DHT to begin with, a multiaddr that ends in /p2p/ID; may be given several times
    #[arg(long, env = "FIRN_BOOTSTRAP", value_name = "MULTIADDR", hide_env = true)]
    pub bootstrap: Option<Vec<String>>,

    /// A peer to ask always; may be given several times
    #[arg(long, env = "FIRN_PEER", value_name = "ID@IP:PORT", hide_env = true)]
    pub peer: Option<Vec<String>>,

    /// An iroh relay to use [default: none]; may be given several times
    #[arg(long, env = "FIRN_RELAY", value_name = "URL", hide_env = true)]
    pub relay: Option<Vec<String>>,

    /// The name of the DHT; a private network has its own [default: firn]
    #[arg(long, env = "FIRN_NETWORK", value_name = "NAME", hide_env = true)]
    pub network: Option<String>,

    /// Look for neighbours by multicast [default: true for the role lan]
    #[arg(long, env = "FIRN_MDNS", value_name = "BOOL", hide_env = true)]
    pub mdns: Option<bool>,

    /// Where addresses that peers claim may lie: public, private, loopback or an IP network such as 10.1.0.0/16; may be
    /// given several times [default: lan: private; else: public, and private or loopback if a --bootstrap or --peer is,
    /// or, for a seed that names neither, if an address of this machine is]
    #[arg(long, env = "FIRN_DIAL", value_name = "NETWORK", hide_env = true)]
    pub dial: Option<Vec<String>>,

    /// How much the store may take of its disk, such as 50G; over it, what was fetched goes, least recently used first
    /// [default: none]
    #[arg(long, env = "FIRN_STORE_BYTES_MAX", value_name = "SIZE", hide_env = true)]
    pub store_bytes_max: Option<String>,

    /// /nix/store: the paths of this machine's Nix store that a trusted key has signed are seeded from where they are
    /// [default: none]
    #[arg(long, env = "FIRN_ADOPT", value_name = "DIR", hide_env = true)]
    pub adopt: Option<Vec<String>>,

    /// How many threads read what is adopted [default: 1]
    #[arg(long, env = "FIRN_ADOPT_JOBS", value_name = "N", hide_env = true)]
    pub adopt_jobs: Option<u32>,

    /// How many bytes a second peers are given in all, such as 10M [default: none, as many as they take]
    #[arg(long, env = "FIRN_UPLOAD_MAX", value_name = "SIZE", hide_env = true)]
    pub upload_max: Option<String>,

    /// How many bytes a second one peer is given [default: none]
    #[arg(long, env = "FIRN_UPLOAD_PEER_MAX", value_name = "SIZE", hide_env = true)]
    pub upload_peer_max: Option<String>,

    /// How many bytes a second are taken from peers in all [default: none]
    #[arg(long, env = "FIRN_DOWNLOAD_MAX", value_name = "SIZE", hide_env = true)]
    pub download_max: Option<String>,

    /// How many bytes a second are taken from one peer [default: none]
    #[arg(long, env = "FIRN_DOWNLOAD_PEER_MAX", value_name = "SIZE", hide_env = true)]
    pub download_peer_max: Option<String>,

    /// Whether what goes over the wire is compressed: auto where that makes it faster, as measured, always or never
    /// [default: auto]
    #[arg(long, env = "FIRN_COMPRESS", value_name = "WHEN", hide_env = true)]
    pub compress: Option<String>,

    /// Where the binary cache answers: ADDRESS:PORT or PORT, 0 for any port [default: 127.0.0.1:7333]
    #[arg(long, env = "FIRN_HTTP", value_name = "ADDRESS", hide_env = true)]
    pub http: Option<String>,

    /// A name under which the binary cache may be asked, besides localhost, this machine's name and any IP address; may be
    /// given several times [default: none]
    #[arg(long, env = "FIRN_HTTP_HOST", value_name = "NAME", hide_env = true)]
    pub http_host: Option<Vec<String>>,

    /// UDP address of the peer protocol (iroh): ADDRESS:PORT, or PORT of all addresses, IPv4 and IPv6; 0 for any port
    /// [default: 7334]
    #[arg(long, env = "FIRN_IROH", value_name = "ADDRESS", hide_env = true)]
    pub iroh: Option<String>,

    /// UDP address of the DHT (libp2p): ADDRESS:PORT, or PORT of all addresses, IPv4 and IPv6; 0 for any port
    /// [default: 7335]
    #[arg(long, env = "FIRN_LIBP2P", value_name = "ADDRESS", hide_env = true)]
    pub libp2p: Option<String>,

    /// How long Nix waits for the answer "not here" when no peer is known [default: 0]
    #[arg(long, env = "FIRN_MISS_ALONE_MS", value_name = "MS", hide_env = true)]
    pub miss_alone_ms: Option<u32>,

    /// The same with neighbours and --peer peers only [default: 300]
    #[arg(long, env = "FIRN_MISS_NEAR_MS", value_name = "MS", hide_env = true)]
    pub miss_near_ms: Option<u32>,

    /// The same while a DHT look-up or a first connection is open [default: 5000]
    #[arg(long, env = "FIRN_MISS_DHT_MS", value_name = "MS", hide_env = true)]
    pub miss_dht_ms: Option<u32>,
}

/// A command line without words: what is left is the environment.
#[derive(Parser)]
#[command(name = "firn")]
struct Nothing {
    #[command(flatten)]
    settings: Settings,
}

/// The longest configuration file that is read.
const CONFIG_FILE_BYTES_MAX: u64 = 1 << 20;

impl Settings {
    /// The environment's settings, for commands that have none of these flags.
    pub fn of_environment() -> Result<Self, clap::Error> {
        Ok(Nothing::try_parse_from(["firn"])?.settings)
    }

    /// The settings in a file.
    pub fn of_file(file: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { file: file.into(), source };
        let opened = std::fs::File::open(file).map_err(failed)?;
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(opened, CONFIG_FILE_BYTES_MAX), &mut text)
            .map_err(failed)?;
        toml::from_str(&text)
            .map_err(|error| ConfigError::Parse { file: file.into(), source: TomlError::new(&error, &text) })
    }
}

/// What is wrong with a configuration file, and in which line. The line itself, and the value in it, is not repeated: it
/// may be a secret key that was given by mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct TomlError {
    line: usize,
    message: Box<str>,
}

impl TomlError {
    fn new(error: &toml::de::Error, text: &str) -> Self {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        Self { line: before.matches('\n').count() + 1, message: without_values(error.message()).into() }
    }
}

/// What serde says of a value of the wrong type quotes a text: `invalid type: string "text", expected a sequence`.
fn without_values(message: &str) -> String {
    match (message.find('"'), message.rfind('"')) {
        (Some(first), Some(last)) if first < last => {
            format!("{}{}", message[..first].trim_end(), &message[last + 1..])
        }
        _ => message.replace('\n', " "),
    }
}

/// The items of a list of which several may stand together, with spaces or commas between them.
pub(super) fn items(list: &[String]) -> impl Iterator<Item = &str> {
    list.iter()
        .flat_map(|text| text.split(|c: char| c.is_whitespace() || c == ','))
        .filter(|item| !item.is_empty())
}
