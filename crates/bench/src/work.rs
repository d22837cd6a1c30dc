//! Our own work, in a process of its own so that its CPU and its memory are nobody else's: `firn-bench work …`.

use std::{
    error::Error,
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroUsize,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Subcommand;
use firn_castore::Root;
use firn_net::StaticPeer;
use firn_nix::{ContentAddress, ContentHash, NarFacts, SigningKey, StorePathHash, source_store_path};
use firn_store::{AddOptions, DiskStore, Paths, Reason, Room, UnixSeconds, add_tree};
use firn_trust::{PathFacts, Policy, TrustedPath};
use serde::{Deserialize, Serialize};

use crate::{
    cost::Memory,
    crowd,
    error::BenchError,
    first_byte,
    lab::delay,
    peers::{self, Spot},
    raw, reading, strangers,
};

/// What a process of ours can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Work {
    /// Adds a tree to a store, which it makes if there is none, until that is durable and closed.
    Add {
        /// The store.
        store: PathBuf,
        /// The tree; an absolute path.
        tree: PathBuf,
        /// Adopts the files instead of copying them.
        #[arg(long)]
        in_place: bool,
    },
    /// Writes the NAR of the only path of a store to standard output.
    Nar {
        /// The store.
        store: PathBuf,
    },
    /// Serves a store over HTTP until standard input ends; says at which address on standard output.
    Serve {
        /// The store.
        store: PathBuf,
        /// Whom to ask for what it has not.
        peers: Vec<StaticPeer>,
    },
    /// Hashes files with BLAKE3 on one thread.
    Blake3 {
        /// A file of their names, a NUL after each.
        list: PathBuf,
    },
    /// Gives a store to peers until standard input ends; says who and where it is on standard output.
    Seed {
        /// The store.
        store: PathBuf,
        #[command(flatten)]
        spot: Spot,
    },
    /// Gets a tree from peers into a store, until that is durable. The time is that of the getting alone.
    Get {
        /// The store, which is made if there is none.
        store: PathBuf,
        /// The tree.
        root: Root,
        /// Whom to ask.
        peers: Vec<StaticPeer>,
        #[command(flatten)]
        spot: Spot,
        /// Says how far it is, begins when it is told to, and goes on giving.
        #[arg(long)]
        attended: bool,
    },
    /// Reads a path up to the first byte of a file.
    FirstByte {
        /// The path.
        hash: StorePathHash,
        /// Who has it.
        peer: StaticPeer,
        #[command(flatten)]
        spot: Spot,
    },
    /// Many peers in one process, each with a connection and a store in memory, that get trees at once.
    Crowd {
        /// Whom they ask.
        peer: StaticPeer,
        /// The trees, dealt out to them in turn.
        roots: Vec<Root>,
        /// How many peers.
        #[arg(long)]
        count: usize,
        /// Each has a loopback address of its own.
        #[arg(long)]
        apart: bool,
    },
    /// Peers that come, get a tree and leave, four at a time.
    ShortPeers {
        /// The peer that they ask.
        peer: StaticPeer,
        /// The tree.
        root: Root,
        /// How many peers.
        #[arg(long)]
        count: usize,
    },
    /// Asks peers for paths and trees, all at once; that they come is not expected.
    AskStrangers {
        /// The peers.
        peers: Vec<StaticPeer>,
        /// A path to ask for.
        #[arg(long)]
        path: Vec<StorePathHash>,
        /// A tree to ask for.
        #[arg(long)]
        root: Vec<Root>,
        /// The longest time for it.
        #[arg(long)]
        seconds: u64,
    },
    /// Sends the bytes of a file on one bare stream of iroh to each who connects, until standard input ends.
    RawSend {
        /// The file; from its start again if it is too short.
        file: PathBuf,
        /// How many bytes.
        bytes: u64,
        /// Where it listens.
        #[arg(long, default_value_t = LOOPBACK)]
        ip: IpAddr,
    },
    /// Reads such a stream to its end and drops what comes. The time is from the dial to the last byte.
    RawTake {
        /// Who sends.
        peer: StaticPeer,
        /// From where.
        #[arg(long, default_value_t = LOOPBACK)]
        ip: IpAddr,
    },
    /// Carries packets between two devices, which it makes, until standard input ends.
    DelayLink {
        /// One end.
        one: String,
        /// The other.
        other: String,
        /// How long a packet is under way.
        #[arg(long)]
        one_way_us: u64,
        /// The share that is lost, of 1.
        #[arg(long)]
        loss: f64,
    },
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What a process of ours has to say in the end, as one line of JSON on standard error: standard output may be a NAR.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// How long the work took, from opening the store until it was closed unless the work says otherwise.
    pub(crate) seconds: f64,
    /// The most memory that the process had, VmHWM, in units of 10^6 bytes.
    pub(crate) peak_rss_mb: f64,
    /// What else there is to say.
    pub(crate) said: Said,
}

/// What some works have to say besides.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Said {
    /// How long that part of the work took which counts, where it is not the whole.
    pub(crate) seconds: Option<f64>,
    /// The store path that was added.
    pub(crate) path: Option<String>,
    /// Its tree.
    pub(crate) root: Option<String>,
    /// When each of its stages ended.
    pub(crate) stages_s: Vec<f64>,
    /// The memory before that part, VmRSS in units of 10^6 bytes.
    pub(crate) resident_mb: f64,
    /// The longest time in which nothing came.
    pub(crate) stall_s: f64,
    /// Who was caught lying, and how many bytes of each were true.
    pub(crate) liars: Vec<(String, u64)>,
}

impl Report {
    /// Reads the last line.
    pub(crate) fn parse(said: &str) -> Result<Self, BenchError> {
        let last = said.trim_end().lines().next_back().unwrap_or_default();
        let wrong = |_| BenchError::Answer { program: "firn-bench work".into(), said: said.into() };
        serde_json::from_str(last).map_err(wrong)
    }
}

/// A command of our own. The link keeps naming what runs, also if the file was built anew meanwhile, and in a namespace.
pub(crate) fn work<Word: AsRef<OsStr>>(words: &[Word]) -> Command {
    let mut command = Command::new(format!("/proc/{}/exe", process::id()));
    command.arg("work").args(words);
    command
}

type Outcome<T> = Result<T, Box<dyn Error>>;

impl Work {
    /// Does it and says what it took.
    pub(crate) fn run(self) -> Outcome<()> {
        let start = Instant::now();
        let said = self.work()?;
        let seconds = said.seconds.unwrap_or_else(|| start.elapsed().as_secs_f64());
        let report = Report { seconds, peak_rss_mb: Memory::of("self")?.peak_mb, said };
        eprintln!("{}", serde_json::to_string(&report)?);
        Ok(())
    }

    fn work(self) -> Outcome<Said> {
        let nothing = |()| Said::default();
        match self {
            Work::Add { store, tree, in_place } => add(&store, &tree, in_place),
            Work::Nar { store } => reading::write_nar(&store).map(nothing),
            Work::Serve { store, peers } => reading::serve(&store, peers).map(nothing),
            Work::Blake3 { list } => hash_files(&list).map(nothing),
            Work::Seed { store, spot } => peers::seed(&store, &spot).map(nothing),
            Work::Get { store, root, peers, spot, attended } => {
                peers::get(&store, root, peers, &spot, attended)
            }
            Work::FirstByte { hash, peer, spot } => first_byte::read(hash, peer, &spot),
            Work::Crowd { peer, roots, count, apart } => crowd::get(peer, &roots, count, apart).map(nothing),
            Work::ShortPeers { peer, root, count } => crowd::come_and_go(peer, &root, count).map(nothing),
            Work::AskStrangers { peers, path, root, seconds } => {
                strangers::ask(peers, path, root, Duration::from_secs(seconds))
            }
            Work::RawSend { file, bytes, ip } => raw::send(&file, bytes, ip).map(nothing),
            Work::RawTake { peer, ip } => raw::take(peer, ip),
            Work::DelayLink { one, other, one_way_us, loss } => {
                delay::run([&one, &other], Duration::from_micros(one_way_us), loss).map(nothing)
            }
        }
    }
}

/// What signs all that is added.
fn key() -> SigningKey {
    SigningKey::generate("firn-bench-1".parse().expect("it is a key's name"), [7; 32])
}

/// All of ours trust that.
pub(crate) fn policy() -> Policy {
    Policy::new(vec![key().public()])
}

/// As `firn add --share --sign` does it; the path and its tree.
fn add(store: &Path, tree: &Path, in_place: bool) -> Outcome<Said> {
    let store = DiskStore::open(store)?;
    let jobs = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let now = UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
    let options = AddOptions { in_place, jobs, now, ..AddOptions::default() };
    let _hold = store.hold();
    let added = add_tree(&store, tree, &options)?;
    let name = tree.file_name().unwrap_or_default().to_string_lossy();
    let nar = NarFacts { nar_hash: added.nar_hash, nar_size: added.nar_size, references: Default::default() };
    let ca = ContentAddress::Nar(ContentHash::Sha256(*nar.nar_hash.as_bytes()));
    let path = source_store_path(&name, &nar.nar_hash)?;
    let root = added.closure.root();
    let said = Said { path: Some(path.to_absolute()), root: Some(root.to_string()), ..Said::default() };
    let facts = PathFacts { path, root: root.clone(), nar, deriver: None, ca: Some(ca) };
    let path = TrustedPath::added_here(facts, Vec::new(), &[key()]).to_stored(true);
    store.commit(path, Some(&Reason::added()))?;
    Ok(said)
}

fn hash_files(list: &Path) -> Outcome<()> {
    let list = fs::read(list)?;
    let mut buffer = Vec::new();
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        buffer.clear();
        File::open(std::ffi::OsStr::from_bytes(name))?.read_to_end(&mut buffer)?;
        std::hint::black_box(blake3::hash(&buffer));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_the_last_line_that_was_said() {
        let said = Said { path: Some("/nix/store/x".into()), ..Said::default() };
        let report = Report { seconds: 1.5, peak_rss_mb: 20.25, said };
        let said = format!("a warning\n{}\n", serde_json::to_string(&report).unwrap());
        assert_eq!(Report::parse(&said).unwrap(), report);
        assert!(matches!(Report::parse("killed"), Err(BenchError::Answer { .. })));
    }

    #[test]
    fn the_peak_of_this_process_is_more_than_what_it_holds() {
        let held = vec![1_u8; 50_000_000];
        assert!(Memory::of("self").unwrap().peak_mb > 50.0);
        assert_eq!(held[49_999_999], 1);
    }
}
