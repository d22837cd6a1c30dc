//! A home directory of its own, and the real program in it.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use serde_json::Value;

const ANY: &str = "127.0.0.1:0";
/// Lines of a node's log that are shown when a test fails.
const LOG_LINES_SHOWN: usize = 40;

/// A home directory of its own.
pub(crate) struct Home(tempfile::TempDir);

/// How a command has ended.
#[derive(Debug)]
pub(crate) struct Answer {
    /// `None` where it was killed.
    pub(crate) code: Option<i32>,
    /// Null where it said nothing.
    pub(crate) json: Value,
}

impl Answer {
    /// What it said, if it has succeeded.
    pub(crate) fn success(&self) -> Option<&Value> {
        (self.code == Some(0)).then_some(&self.json)
    }

    /// What it said; it must have succeeded.
    pub(crate) fn done(self) -> Value {
        assert!(self.code == Some(0), "{self:?}");
        self.json
    }
}

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A directory or file of the store.
    pub(crate) fn store(&self, name: &str) -> PathBuf {
        self.path(".local/share/firn/store").join(name)
    }

    /// Runs a command until it ends.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Answer {
        answer(self.command(arguments).spawn().unwrap())
    }

    /// Starts a command.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firn"));
        command.args(arguments).arg("--json").current_dir(self.0.path());
        command.env_clear().env("HOME", self.0.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    /// Starts a node on loopback that no multicast reaches.
    pub(crate) fn start_node(&self, settings: &[&str]) -> StartedNode {
        let places = ["node", "--mdns", "false", "--http", ANY, "--iroh", ANY, "--libp2p", ANY];
        let mut command = self.command(&[&places, settings].concat());
        let log = self.path("node.log");
        command.stderr(fs::File::create(&log).unwrap());
        StartedNode(Node { child: Mutex::new(command.spawn().unwrap()), ready: Value::Null, log })
    }

    /// Starts such a node and waits until it is ready.
    pub(crate) fn node(&self, settings: &[&str]) -> Node {
        self.start_node(settings).ready()
    }
}

/// What a command that was started says, once it ends.
pub(crate) fn answer(child: Child) -> Answer {
    let output = child.wait_with_output().unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Answer { code: output.status.code(), json }
}

/// A node that may not be ready yet.
pub(crate) struct StartedNode(Node);

impl StartedNode {
    /// Waits until it is ready.
    pub(crate) fn ready(mut self) -> Node {
        let mut line = String::new();
        let stdout = self.0.child.get_mut().unwrap().stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        self.0.ready =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("no start: {error}: {line}"));
        self.0
    }

    pub(crate) fn kill(self) {
        self.0.kill();
    }
}

/// A node.
pub(crate) struct Node {
    child: Mutex<Child>,
    ready: Value,
    log: PathBuf,
}

impl Node {
    /// What others name in `--peer`.
    pub(crate) fn peer(&self) -> String {
        format!("{}@{}", self.ready["peer_id"].as_str().unwrap(), self.ready["iroh"][0].as_str().unwrap())
    }

    /// Where its binary cache answers.
    pub(crate) fn http(&self) -> &str {
        self.ready["http"].as_str().unwrap()
    }

    /// Kills it, and returns once it is gone. It must have run until then, and must not have panicked.
    pub(crate) fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        assert_eq!(child.try_wait().unwrap(), None, "the node has ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        let log = fs::read_to_string(&self.log).unwrap();
        assert!(!log.contains("panicked"), "{log}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        // It was killed already where the test went well.
        let _ = child.kill();
        let _ = child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!("--- end of {}\n{}", self.log.display(), shown.join("\n"));
        }
    }
}
