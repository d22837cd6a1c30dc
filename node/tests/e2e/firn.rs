//! The real `firn` on a host.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::{
    host::{Answer, Host},
    process::Process,
};

/// Where a node's binary cache answers on its own host.
pub const CACHE: &str = "http://127.0.0.1:7333";

const READY_WITHIN: Duration = Duration::from_secs(20);
const END_WITHIN: Duration = Duration::from_secs(5);

/// What one command came to.
pub struct Said {
    pub code: i32,
    /// The object on standard output, be it the result or the error.
    pub json: Value,
    log: String,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}: {}\n{}", self.code, self.json, self.log)
    }
}

/// Runs one `firn` command to its end.
pub fn firn(host: &Host, arguments: &[&str]) -> Said {
    let output = host.run(env!("CARGO_BIN_EXE_firn"), &[arguments, &["--json"]].concat());
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let text = String::from_utf8(output.stdout).unwrap();
    let json = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{}: firn {arguments:?}: {error}: \"{text}\"\n{log}", host.label()));
    let code = output.status.code().unwrap_or_else(|| panic!("firn {arguments:?}: {}\n{log}", output.status));
    Said { code, json, log }
}

/// Runs a `firn` command that must succeed, and gives its object.
pub fn firn_ok(host: &Host, arguments: &[&str]) -> Value {
    let said = firn(host, arguments);
    assert_eq!(said.code, 0, "{}: firn {arguments:?}: {said}", host.label());
    said.json
}

/// A running `firn node`.
pub struct Node<'h> {
    host: &'h Host,
    process: Process,
    ready: Value,
}

impl<'h> Node<'h> {
    /// Starts a node and waits until it is ready.
    pub fn start(host: &'h Host, settings: &[&str]) -> Self {
        Self::started(host, host.start(env!("CARGO_BIN_EXE_firn"), &[&["node", "--json"], settings].concat()))
    }

    /// As [`Node::start`], for a node whose store is on a disk of its own, which has this size. Only the node sees that disk.
    pub fn start_on_small_disk(host: &'h Host, mib: u32, settings: &[&str]) -> Self {
        const SCRIPT: &str = r#"
            mount -t tmpfs -o "size=$1m" none "$2" && disk=$2 firn=$3 && shift 3
            exec "$firn" node --json --data-dir "$disk" "$@"
        "#;
        let disk = host.path("disk");
        std::fs::create_dir(&disk).unwrap();
        let (mib, disk) = (mib.to_string(), disk.to_str().unwrap());
        let arguments = ["-c", SCRIPT, "sh", &mib, disk, env!("CARGO_BIN_EXE_firn")];
        Self::started(host, host.start("sh", &[&arguments[..], settings].concat()))
    }

    /// As [`Node::start`], for a node that lies in this way about all that it has.
    pub fn start_liar(host: &'h Host, kind: &str, settings: &[&str]) -> Self {
        Self::started(host, host.start(example("firn-liar"), &[&[kind, "--json"], settings].concat()))
    }

    fn started(host: &'h Host, process: Process) -> Self {
        let line = process.line(READY_WITHIN);
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(ready["ready"], true, "{line}");
        Self { host, process, ready }
    }

    /// The id of its process.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Its id as a peer.
    pub fn id(&self) -> &str {
        self.ready["peer_id"].as_str().unwrap()
    }

    /// What others name in `--bootstrap`.
    pub fn multiaddr(&self) -> String {
        let start = format!("/ip4/{}/", self.host.address());
        let addresses =
            self.ready["multiaddrs"].as_array().unwrap().iter().map(|value| value.as_str().unwrap());
        let mut ours = addresses.filter(|address| address.starts_with(&start));
        ours.next().unwrap_or_else(|| panic!("no address on its LAN: {}", self.ready)).to_owned()
    }

    /// What `firn status` says.
    pub fn status(&self) -> Value {
        firn_ok(self.host, &["status"])
    }

    /// What the status says of another node; `Null` if it knows none of that id.
    pub fn peer(&self, id: &str) -> Value {
        let status = self.status();
        let peers = status["peers"].as_array().unwrap();
        peers.iter().find(|peer| peer["id"] == id).cloned().unwrap_or(Value::Null)
    }

    /// Asks its binary cache for the narinfo of a store path.
    pub fn narinfo(&self, store_path: &str) -> Answer {
        let base = store_path.strip_prefix("/nix/store/").unwrap();
        let url = format!("{CACHE}/{}.narinfo", &base[..32]);
        self.host.get(&url).unwrap_or_else(|| panic!("{url}: no answer"))
    }

    /// Ends it with SIGKILL: it has no time for anything.
    pub fn kill(self) {
        drop(self.process);
    }

    /// Ends it as a service manager does; it must do so cleanly and in time.
    pub fn end(self) {
        let log = self.process.log();
        let status = self.process.end(END_WITHIN);
        assert!(status.success(), "{}: {status}\n{log}", self.host.label());
    }
}

/// Starts a relay, and gives its URL as well.
pub fn start_relay(host: &Host) -> (Process, String) {
    let process = host.start(example("firn-relay"), &[format!("{}:3340", host.address())]);
    let url = process.line(READY_WITHIN);
    (process, url)
}

/// A program that is built for these tests.
fn example(name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_firn")).with_file_name("examples").join(name);
    assert!(program.exists(), "{} is not built: cargo build --examples", program.display());
    program
}

/// A value that must be text.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}
