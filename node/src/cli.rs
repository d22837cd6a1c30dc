//! The command line: what can be said, and the help that teaches it.

mod store;

use std::path::PathBuf;

use clap::{Arg, Args, Parser, Subcommand};

use store::{ADD_ABOUT, ADD_HELP, ADOPT_ABOUT, ADOPT_HELP, GC_ABOUT, GC_HELP, VERIFY_ABOUT, VERIFY_HELP};
pub use store::{AddArgs, AdoptArgs, GcArgs, PinCommand, StoreCommand, VerifyArgs};

use crate::{config::Settings, failure::EXIT_CODES_HELP};

const ABOUT: &str = "\
firn gets Nix store paths and file trees from anyone at all, and believes nobody: what arrives is checked against a \
signature that you trust, or against the root that you named.

`firn node` runs a node that stock Nix uses as a binary cache. The other commands talk to the running node over a \
Unix socket in its data directory, and open the store themselves where no node runs.";

const EXAMPLES: &str = "\
Examples:
  firn demo                                     the whole story on this machine alone
  firn node --trust 'cache-1:bXlr...=' --bootstrap /ip4/192.0.2.7/udp/7335/quic-v1/p2p/12D3...
  firn key generate cache-1 --out cache-1.sec
  firn add --sign-key cache-1.sec --closure /nix/store/...-app
  firn get /nix/store/...-app --closure
  firn status";

/// firn: a peer-to-peer substitution node for Nix store paths and file trees.
#[derive(Debug, Parser)]
#[command(
    name = "firn",
    version,
    about = "A peer-to-peer substitution node for Nix store paths and file trees",
    long_about = ABOUT,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES_HELP}\n\n{CONFIGURATION_HELP}"),
)]
pub struct Cli {
    /// What every command understands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const CONFIGURATION_HELP: &str = "\
Configuration:
  A flag stands over its environment variable, and that over the configuration file. The three
  have the same names: --bootstrap, FIRN_BOOTSTRAP, and in the file (TOML) bootstrap = [\"...\"].
  `firn node --help` lists them. A list in one place replaces the list of the places below it.
  In flags and variables the items of a list may also stand together, with spaces or commas
  between them.
  A path may begin with ~/ in all three. The file is --config, else the first that exists of $XDG_CONFIG_HOME/firn/config.toml
  (~/.config) and /etc/firn/config.toml. A key that is not known is an error.
  `firn node --check` tells what comes of it all.";

/// What every command understands.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Where the store, the node's identity and its control socket are
    /// [default: $STATE_DIRECTORY, else $XDG_DATA_HOME/firn, else ~/.local/share/firn]
    #[arg(long, global = true, env = "FIRN_DATA_DIR", value_name = "DIR", hide_env = true)]
    pub data_dir: Option<PathBuf>,
    /// The configuration file, TOML
    #[arg(long, global = true, env = "FIRN_CONFIG", value_name = "FILE", hide_env = true)]
    pub config: Option<PathBuf>,
    /// The Nix store is DIR/nix/store, its database below DIR/nix/var/nix [default: /]
    #[arg(long, global = true, env = "FIRN_NIX_ROOT", value_name = "DIR", hide_env = true)]
    pub nix_root: Option<PathBuf>,
    /// Answer with one JSON object on standard output, and no progress; an error is {"error", "exit_code"}
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node: binary cache for this machine's Nix, and peer among peers
    #[command(after_long_help = NODE_HELP)]
    Node(Box<NodeArgs>),
    /// Take a file tree, or a path of the Nix store, into the store
    #[command(long_about = ADD_ABOUT, after_long_help = ADD_HELP)]
    Add(AddArgs),
    /// Seed this machine's Nix store, or paths of it, from where they are
    #[command(long_about = ADOPT_ABOUT, after_long_help = ADOPT_HELP)]
    Adopt(AdoptArgs),
    /// Get a store path or a tree, from peers where it is not here
    #[command(long_about = GET_ABOUT, after_long_help = GET_HELP, mut_args(without_what_only_a_node_needs))]
    Get(Box<GetArgs>),
    /// Make keys and show them
    #[command(subcommand)]
    Key(KeyCommand),
    /// Show what the node has, whom it knows, what it gave and who lied
    #[command(after_long_help = STATUS_HELP)]
    Status,
    /// Read what the store holds and check every byte
    #[command(
        long_about = VERIFY_ABOUT,
        after_long_help = VERIFY_HELP,
        mut_args(without_what_only_a_node_needs)
    )]
    Verify(Box<VerifyArgs>),
    /// Say what stays in the store though room is wanted
    #[command(subcommand)]
    Pin(PinCommand),
    /// Make room: delete what nothing in the store needs
    #[command(long_about = GC_ABOUT, after_long_help = GC_HELP)]
    Gc(GcArgs),
    /// Look at the store itself
    #[command(subcommand)]
    Store(StoreCommand),
    /// Play the whole story on this machine: publisher, seeders, a liar and two consumers
    #[cfg(feature = "demo")]
    #[command(after_long_help = DEMO_HELP)]
    Demo(DemoArgs),
}

const NODE_HELP: &str = "\
When the node is ready it prints its addresses; with --json one object on one line:
  {ready, peer_id, role, data_dir, control_socket, http, iroh: [address],
   multiaddrs: [address with /p2p/ id]}
It ends on ctrl-C, SIGTERM and SIGHUP, as when its terminal closes (not on SIGHUP under nohup).
Where the addresses cannot be printed, it goes on, and says so in its log.

For Nix, in nix.conf:
  extra-substituters = http://127.0.0.1:7333
  extra-trusted-public-keys = cache-1:...
  narinfo-cache-negative-ttl = 0

Logs go to standard error; RUST_LOG chooses, e.g. RUST_LOG=firn_net=debug.
RUST_LOG=firn_engine=debug,firn_net=debug tells the story of each fetch, trace instead of debug each request.

--check --json prints one object with every setting as it would be used.";

/// `firn node`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Say what the node would do, and end
    #[arg(long)]
    pub check: bool,
    /// How the node is set up.
    #[command(flatten)]
    pub settings: Settings,
}

const GET_ABOUT: &str = "\
Gets a store path or a tree, from peers where it is not here, and keeps it in the store.

A store path needs the signature of a key that is trusted (--trust). A root that you name is its own proof and needs \
none.

Where no node runs on the data directory, this command asks peers itself, as a client and for as long as it runs; \
--trust, --bootstrap and --peer say whom. A running node goes by its own settings.";

const GET_HELP: &str = "\
Examples:
  firn get /nix/store/...-app --closure
  firn get firn:CiQ... -o ./site
  firn get firn:CiQ... -o ./site --bootstrap /ip4/192.0.2.7/udp/7335/quic-v1/p2p/12D3...

--json: {store_path or null, root, out or null, files, bytes, fetched_bytes, seconds,
         paths: [{store_path, root, was_here}],
         peers: [{id, via, route: LAN|direct|relayed|null, asked, bytes, lies: [text]}]}";

/// Leaves out of the help what means nothing to a command that neither serves nor listens where it is told to.
fn without_what_only_a_node_needs(arg: Arg) -> Arg {
    let id = arg.get_id().as_str();
    let only_for_nodes = ["role", "http", "iroh", "libp2p", "store_bytes_max"].contains(&id);
    if only_for_nodes || ["miss_", "adopt", "upload_"].iter().any(|start| id.starts_with(start)) {
        arg.hide(true)
    } else {
        arg
    }
}

/// `firn get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// A store path, or a root as `firn add` prints it
    pub what: String,
    /// Get all that the store path references, too
    #[arg(long)]
    pub closure: bool,
    /// Write the tree to DIR, which must not exist
    #[arg(short, long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Whom to ask and whom to trust where no node runs.
    #[command(flatten, next_help_heading = "Where no node runs (a running node goes by its own settings)")]
    pub settings: Settings,
}

/// `firn key`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key; write the secret to a new file, print the public key
    #[command(after_long_help = "--json: {name, public_key, file}")]
    Generate {
        /// The key's name; often a host name and a number, such as cache.example.org-1
        name: String,
        /// The file for the secret, in the format of `nix-store --generate-binary-cache-key`; must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Print the public key of the secret key in FILE
    #[command(after_long_help = "--json: {name, public_key, file}")]
    Public {
        /// The file with the secret key
        file: PathBuf,
    },
}

const STATUS_HELP: &str = "\
--json: {version, running, data_dir, role, peer_id, http, iroh: [address], multiaddrs: [address], network,
         uptime_seconds, trusted_keys: [name], provider_records,
         store: {paths, paths_shared, paths_untrusted, trees, trees_shared, nar_bytes, adopted_bytes, disk_bytes,
                 disk_bytes_max or null, trouble: text or null},
         adopt: null or {store_dir, total_paths, adopted_paths, adopted_bytes, waiting_paths, withdrawn_paths,
                 untrusted_paths, failed_paths, last_failure or null, complete},
         traffic: null or {upload_rate, download_rate, upload_rate_max, upload_peer_rate_max, download_rate_max,
                 download_peer_rate_max (null: no limit), connections, requests, turned_away},
         transfers: [{subject: store path or root, done_bytes, total_bytes or null, seconds,
                  peers: [{id, via, route, bytes, rate}]}],
         peers: [{id, via: static|mdns|dht|fellow|null, route: LAN|direct|relayed|null, connected, asked, received_bytes, answered, sent_bytes,
                  upload_rate, download_rate, connections, requests,
                  shared: [store path or root], lies: [text]}],
         liars: [{id, reason, at: seconds since 1970}]}
Rates are bytes a second of replies, over the last four seconds (of a transfer's peer, for whatever it was asked);
route is how a peer is reached when this node asks it; connections and requests are those of peers to this node;
turned_away counts the requests that were told to come again later; liars are asked nothing until 7 days after their
lie, across restarts.";

#[cfg(feature = "demo")]
const DEMO_HELP: &str = "\
Needs no root, no Nix and no network: all nodes are on loopback, with stores of their own that are removed at the end.
Three seeders, each with a limited upload, a liar, and two consumers that get the tree at the same time. At the end it is
drawn what each gave to the first consumer, and when.
Exit code 0 only if both trees came out identical, two seeders or more gave in the same eighth of the time, and the liar,
and nobody else, was blamed.

--json: {path, store_path, root, files, bytes, identical, seconds, fetch_seconds,
         upload_rate_max: bytes a second of each seeder, exchanged_bytes: between the consumers,
         interval_seconds: an eighth of the time from the first byte to the last, seeders_at_once: in one of them,
         peers: [{id, role: bootstrap|publisher|seeder|liar|consumer, via, asked, bytes,
                  bytes_by_interval, blamed, lies}]}";

/// `firn demo`.
#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// The tree to send around [default: part of the Rust toolchain that is installed here]
    pub path: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_exit_codes_and_the_configuration_file() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("Exit codes:"), "{help}");
        assert!(help.contains("/etc/firn/config.toml"), "{help}");
    }
}
