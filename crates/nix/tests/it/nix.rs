//! The Nix that is installed, with a store, a configuration and caches of its own.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

const CONFIGURATION: &str = "\
experimental-features = nix-command ca-derivations flakes
build-users-group =
sandbox = false
substituters =
trusted-public-keys =
";

pub(crate) struct Nix(TempDir);

impl Nix {
    pub(crate) fn new() -> Self {
        let nix = Self(TempDir::new().unwrap());
        fs::write(nix.path("nix.conf"), CONFIGURATION).unwrap();
        nix
    }

    /// A place of this test's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a program of Nix that must succeed.
    pub(crate) fn run(&self, program: &str, arguments: &[&dyn AsRef<OsStr>]) -> Vec<u8> {
        let Output { status, stdout, stderr } = self.output(program, arguments);
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{:?}: {status}\n{stderr}", self.command(program, arguments));
        stdout
    }

    /// Like [`Nix::run`], for what prints a line.
    pub(crate) fn line(&self, program: &str, arguments: &[&dyn AsRef<OsStr>]) -> String {
        String::from_utf8(self.run(program, arguments)).unwrap().trim_end().to_owned()
    }

    /// Runs a program of Nix, which may fail.
    pub(crate) fn output(&self, program: &str, arguments: &[&dyn AsRef<OsStr>]) -> Output {
        self.command(program, arguments).output().unwrap_or_else(|error| {
            panic!("{program} could not be run ({error}): these tests need Nix, Debian's nix-bin; scripts/test.sh installs it")
        })
    }

    /// The store of this test.
    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    pub(crate) fn command(&self, program: &str, arguments: &[&dyn AsRef<OsStr>]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments.iter().map(|argument| argument.as_ref()));
        command.stdin(Stdio::null());
        for name in ["NIX_REMOTE", "NIX_STORE_DIR", "NIX_CONFIG", "NIX_USER_CONF_FILES", "NIX_PATH"] {
            command.env_remove(name);
        }
        for name in ["NIX_CONF_DIR", "HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
            command.env(name, self.0.path());
        }
        command
    }
}

impl Drop for Nix {
    /// What lies in a store is read-only, which its owner must undo to remove it.
    fn drop(&mut self) {
        let _ = Command::new("chmod").arg("-R").arg("u+w").arg(self.0.path()).status();
    }
}

/// The names in a directory that end so.
pub(crate) fn files_ending(directory: &Path, end: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().ends_with(end)).collect()
}
