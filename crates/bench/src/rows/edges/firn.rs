//! The real program, with a data directory of its own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use firn_net::StaticPeer;
use serde_json::Value;

use crate::{
    cost::{Memory, output_of},
    error::BenchError,
    serving::Server,
    tools::Tool,
};

const LOOPBACK: &str = "127.0.0.1:0";

/// A data directory, and what `firn` does with it.
pub(super) struct Firn(PathBuf);

/// What `firn add` says of a tree.
pub(super) struct Added {
    pub(super) root: String,
    pub(super) path: String,
}

impl Firn {
    /// A data directory, which is made when it is needed.
    pub(super) fn at(data_dir: PathBuf) -> Self {
        Self(data_dir)
    }

    /// A command that knows nothing of the user's settings and logs nothing.
    pub(super) fn command(&self, words: &[&str]) -> Result<Command, BenchError> {
        let mut command = Tool::Firn.command()?;
        command.env_clear().env("HOME", &self.0).env("RUST_LOG", "off");
        command.arg("--data-dir").arg(&self.0).arg("--json").args(words);
        Ok(command)
    }

    /// Adds a tree, which peers may have.
    pub(super) fn add(&self, tree: &Path) -> Result<Added, BenchError> {
        let mut command = self.command(&["add", "--share"])?;
        let said = output_of(command.arg(tree))?;
        let json = parsed(&said)?;
        Ok(Added { root: text(&json["root"], &said)?, path: text(&json["store_path"], &said)? })
    }

    /// Starts a node on the loopback and waits until it is ready.
    pub(super) fn node(&self, settings: &[&str]) -> Result<Node, BenchError> {
        let places = ["--http", LOOPBACK, "--iroh", LOOPBACK, "--libp2p", LOOPBACK, "--mdns", "false"];
        let mut command = self.command(&[&["node"], &places[..], settings].concat())?;
        let (server, said) = Server::start_ours(&mut command).map_err(|error| match error {
            BenchError::Answer { said, .. } => answer(&said),
            error => error,
        })?;
        let json = parsed(&said)?;
        let peer = format!("{}@{}", text(&json["peer_id"], &said)?, text(&json["iroh"][0], &said)?);
        let http = text(&json["http"], &said)?.parse().map_err(|_| answer(&said))?;
        Ok(Node { server, http, peer: peer.parse().map_err(|_| answer(&said))? })
    }
}

/// A node that runs until it is dropped.
pub(super) struct Node {
    server: Server,
    /// Its binary cache.
    pub(super) http: SocketAddr,
    /// Its key, and the address for peers.
    pub(super) peer: StaticPeer,
}

impl Node {
    /// Its memory; an error if it has ended.
    pub(super) fn memory(&self) -> Result<Memory, BenchError> {
        Memory::of(&self.server.process().to_string())
    }

    /// Ends it, after which its CPU counts.
    pub(super) fn end(mut self) {
        self.server.end_by_signal();
    }
}

/// The JSON that `firn` has said.
pub(super) fn parsed(said: &str) -> Result<Value, BenchError> {
    serde_json::from_str(said).map_err(|_| answer(said))
}

fn text(value: &Value, said: &str) -> Result<String, BenchError> {
    value.as_str().map(String::from).ok_or_else(|| answer(said))
}

/// An answer that is not what was asked for.
pub(super) fn answer(said: &str) -> BenchError {
    BenchError::Answer { program: "firn".into(), said: said.trim().into() }
}
