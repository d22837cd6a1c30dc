//! The programs that rows compare with.

use std::{env, fmt, path::PathBuf, process::Command};

use crate::error::BenchError;

/// A program that not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// `curl`.
    Curl,
    /// Our own `firn`, which cargo puts beside the bench.
    Firn,
    /// `ip`.
    Ip,
    /// `nginx`.
    Nginx,
    /// `nix`.
    Nix,
    /// `nix-store`.
    NixStore,
    /// `openssl`.
    OpenSsl,
    /// `rustc`: its toolchain is one of the trees.
    Rustc,
    /// `tar`.
    Tar,
    /// `tc`.
    Tc,
    /// `zstd`.
    Zstd,
}

/// Where servers lie, besides the directories of PATH.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/sbin"];

impl Tool {
    /// Debian's package.
    pub(crate) fn package(self) -> &'static str {
        match self {
            Tool::Curl => "curl",
            Tool::Firn => "firn",
            Tool::Ip | Tool::Tc => "iproute2",
            Tool::Nginx => "nginx",
            Tool::Nix | Tool::NixStore => "nix-bin",
            Tool::OpenSsl => "openssl",
            Tool::Rustc => "rustc",
            Tool::Tar => "tar",
            Tool::Zstd => "zstd",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Tool::Curl => "curl",
            Tool::Firn => "firn",
            Tool::Ip => "ip",
            Tool::Nginx => "nginx",
            Tool::Nix => "nix",
            Tool::NixStore => "nix-store",
            Tool::OpenSsl => "openssl",
            Tool::Rustc => "rustc",
            Tool::Tar => "tar",
            Tool::Tc => "tc",
            Tool::Zstd => "zstd",
        }
    }

    /// Where it is.
    pub(crate) fn find(self) -> Result<PathBuf, BenchError> {
        if self == Tool::Firn {
            let bench = env::current_exe().map_err(BenchError::io("/proc/self/exe".as_ref()))?;
            let firn = bench.with_file_name(self.program());
            return if firn.is_file() { Ok(firn) } else { Err(BenchError::NoFirn(firn)) };
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let directories = env::split_paths(&path).chain(SYSTEM_DIRECTORIES.map(PathBuf::from));
        let mut files = directories.map(|directory| directory.join(self.program()));
        files.find(|file| file.is_file()).ok_or(BenchError::Missing(self))
    }

    /// A command of it.
    pub(crate) fn command(self) -> Result<Command, BenchError> {
        Ok(Command::new(self.find()?))
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

/// `openssl dgst -sha256`, of files that are still to be named.
pub(crate) fn sha256_of_files() -> Result<Vec<PathBuf>, BenchError> {
    Ok(vec![Tool::OpenSsl.find()?, "dgst".into(), "-sha256".into()])
}
