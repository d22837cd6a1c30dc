//! Our own work, in a process of its own so that its CPU and its memory are nobody else's: `firn-bench work …`.

use std::{
    error::Error,
    fs::{self, File},
    io::Read,
    num::NonZeroUsize,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use clap::Subcommand;
use firn_nix::{ContentAddress, ContentHash, NarFacts, source_store_path};
use firn_store::{AddOptions, DiskStore, Paths, Reason, Room, UnixSeconds, add_tree};
use firn_trust::{PathFacts, TrustedPath};
use serde::{Deserialize, Serialize};

use crate::{error::BenchError, reading};

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
    },
    /// Hashes files with BLAKE3 on one thread.
    Blake3 {
        /// A file of their names, a NUL after each.
        list: PathBuf,
    },
}

/// What a process of ours has to say in the end, as one line of JSON on standard error: standard output may be a NAR.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// How long the work took, from opening the store until it was closed.
    pub(crate) seconds: f64,
    /// The most memory that the process had, VmHWM, in units of 10^6 bytes.
    pub(crate) peak_rss_mb: f64,
    /// The store path that was added.
    pub(crate) path: Option<String>,
}

impl Report {
    /// Reads the last line.
    pub(crate) fn parse(said: &str) -> Result<Self, BenchError> {
        let last = said.trim_end().lines().next_back().unwrap_or_default();
        let wrong = |_| BenchError::Answer { program: "firn-bench work".into(), said: said.into() };
        serde_json::from_str(last).map_err(wrong)
    }
}

type Outcome<T> = Result<T, Box<dyn Error>>;

impl Work {
    /// Does it and says what it took.
    pub(crate) fn run(self) -> Outcome<()> {
        let start = Instant::now();
        let path = match self {
            Work::Add { store, tree, in_place } => Some(add(&store, &tree, in_place)?),
            Work::Nar { store } => reading::write_nar(&store).map(|()| None)?,
            Work::Serve { store } => reading::serve(&store).map(|()| None)?,
            Work::Blake3 { list } => hash_files(&list).map(|()| None)?,
        };
        let seconds = start.elapsed().as_secs_f64();
        let report = Report { seconds, peak_rss_mb: peak_rss_mb()?, path };
        eprintln!("{}", serde_json::to_string(&report)?);
        Ok(())
    }
}

/// As `firn add` does it; the path.
fn add(store: &Path, tree: &Path, in_place: bool) -> Outcome<String> {
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
    let said = path.to_absolute();
    let facts = PathFacts { path, root: added.closure.root().clone(), nar, deriver: None, ca: Some(ca) };
    let path = TrustedPath::added_here(facts, Vec::new(), &[]).to_stored(false);
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

fn peak_rss_mb() -> Outcome<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = line.ok_or("no VmHWM in /proc/self/status")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_the_last_line_that_was_said() {
        let report = Report { seconds: 1.5, peak_rss_mb: 20.25, path: Some("/nix/store/x".into()) };
        let said = format!("a warning\n{}\n", serde_json::to_string(&report).unwrap());
        assert_eq!(Report::parse(&said).unwrap(), report);
        assert!(matches!(Report::parse("killed"), Err(BenchError::Answer { .. })));
    }

    #[test]
    fn the_peak_of_this_process_is_more_than_what_it_holds() {
        let held = vec![1_u8; 50_000_000];
        assert!(peak_rss_mb().unwrap() > 50.0);
        assert_eq!(held[49_999_999], 1);
    }
}
