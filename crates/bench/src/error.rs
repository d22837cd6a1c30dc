//! Why a row could not be measured.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use crate::tools::Tool;

/// Why a row could not be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The file system would not.
    #[error("{}: {source}", .path.display())]
    Io {
        /// With which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// What is compared with is not installed.
    #[error("{0} is not installed: it is in Debian's package {package}; --only leaves its rows out", package = .0.package())]
    Missing(Tool),
    /// Hosts of our own cannot be made.
    #[error("network namespaces take root; --only leaves this row out")]
    NotRoot,
    /// A process could not be started.
    #[error("{program} cannot be started: {source}")]
    Start {
        /// Which.
        program: Box<str>,
        /// What the system said.
        source: io::Error,
    },
    /// A process has failed.
    #[error("{program} has ended with {status}: {said}")]
    Failed {
        /// Which.
        program: Box<str>,
        /// How it has ended.
        status: ExitStatus,
        /// What it wrote to standard error.
        said: Box<str>,
    },
    /// A process has said something that it never should.
    #[error("{program} has said what cannot be understood: \"{said}\"")]
    Answer {
        /// Which.
        program: Box<str>,
        /// What it said.
        said: Box<str>,
    },
    /// A process that should live has none of a living one's memory.
    #[error("process {0} has ended")]
    Ended(Box<str>),
    /// A client got no answer over HTTP.
    #[error("a client of {address}: {source}")]
    Client {
        /// Whose.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A peer could not do what it is there for.
    #[error("a peer of the bench: {0}")]
    Peer(Box<str>),
    /// The program that is measured was not built.
    #[error("{} is missing: `cargo build --release --workspace --bins` builds it beside firn-bench; --only leaves its rows out", .0.display())]
    NoFirn(PathBuf),
    /// A server did not get ready.
    #[error("{0} does not answer")]
    Silent(&'static str),
    /// Ours and theirs are not the same, so that comparing their times means nothing.
    #[error("ours gives {ours}, the baseline gives {theirs}")]
    Differs {
        /// What ours gave.
        ours: Box<str>,
        /// What the baseline gave.
        theirs: Box<str>,
    },
    /// A directory that cannot hold what is made in it.
    #[error("{}: {needed_mib} MiB are needed, {free_mib} MiB are free; --dir and --disk-dir name another place", .path.display())]
    Room {
        /// Which directory.
        path: PathBuf,
        /// How much must be free.
        needed_mib: u64,
        /// How much is.
        free_mib: u64,
    },
    /// The default directory is not in memory.
    #[error("{} is no tmpfs: --dir names one", .0.display())]
    NotInMemory(PathBuf),
    /// The directory that should be on a disk is in memory.
    #[error("{} is a tmpfs: --disk-dir names a directory on a disk", .0.display())]
    NotOnDisk(PathBuf),
}

impl BenchError {
    /// See [`BenchError::Peer`].
    pub(crate) fn peer(what: impl ToString) -> Self {
        Self::Peer(what.to_string().into())
    }

    /// Puts the file's name to an error.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}
