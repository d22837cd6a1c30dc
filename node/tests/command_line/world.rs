//! A home directory of its own, and the real program in it.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

/// The user and the group of nobody.
const NOBODY: u32 = 65534;

/// A home directory of its own.
pub(crate) struct Firn(tempfile::TempDir);

impl Firn {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        self.command(arguments).envs(variables.iter().copied()).output().unwrap()
    }

    /// Runs a command as a user for whom permissions count.
    pub(crate) fn run_unprivileged(&self, arguments: &[&str]) -> (i32, Value) {
        let mut command = self.command(&[arguments, &["--json"]].concat());
        if rustix::process::geteuid().is_root() {
            for entry in walkdir::WalkDir::new(self.0.path()) {
                std::os::unix::fs::lchown(entry.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
            }
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.output().unwrap();
        (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
    }

    /// A directory or file of the store.
    pub(crate) fn store(&self, name: &str) -> PathBuf {
        self.path(".local/share/firn/store").join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firn"));
        command.args(arguments).current_dir(self.0.path()).env_clear().env("HOME", self.0.path());
        command
    }

    /// The command that runs a node on loopback.
    pub(crate) fn node_command(&self, settings: &[&str]) -> Command {
        self.node_command_at("127.0.0.1:0", settings)
    }

    /// The command that runs a node whose binary cache listens there.
    pub(crate) fn node_command_at(&self, http: &str, settings: &[&str]) -> Command {
        let any = "127.0.0.1:0";
        let places = ["node", "--json", "--http", http, "--iroh", any, "--libp2p", any];
        self.command(&[&places, settings].concat())
    }

    /// Starts a node on loopback and waits until it is ready.
    pub(crate) fn node(&self, settings: &[&str]) -> Node {
        Node::start(self.node_command(settings))
    }

    /// The same command, started by a shell that does this first.
    pub(crate) fn after(&self, script: &str, command: &Command) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{script}; exec \"$@\""), "sh"]);
        shell.arg(command.get_program()).args(command.get_args());
        shell.current_dir(self.0.path()).env_clear().env("HOME", self.0.path());
        shell
    }

    /// A new key pair in this file; gives the public key.
    pub(crate) fn key(&self, name: &str, file: &str) -> String {
        line(&self.run(&["key", "generate", name, "--out", file], &[]))
    }

    /// Starts a command whose answer nobody waits for.
    pub(crate) fn start(&self, arguments: &[&str]) -> Background {
        let mut command = self.command(arguments);
        Background(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    pub(crate) fn json(&self, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, Value) {
        let output = self.run(&[arguments, &["--json"]].concat(), variables);
        (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
    }
}

/// Sends a signal.
pub(crate) fn signal(child: &Child, signal: Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

/// What was printed.
pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// What went wrong, as `--json` tells it.
pub(crate) fn error(json: &Value) -> &str {
    json["error"].as_str().unwrap_or_else(|| panic!("no error: {json}"))
}

/// Text without a newline at its end.
pub(crate) fn line(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim_end().to_owned()
}

/// All lines of a success.
pub(crate) fn lines(output: &Output) -> Vec<String> {
    line(output).lines().map(String::from).collect()
}

/// A tree with all that a tree can have.
pub(crate) fn write_tree(to: &Path) {
    fs::create_dir_all(to.join("sub/empty")).unwrap();
    fs::write(to.join("sub/file"), "contents").unwrap();
    fs::write(to.join("sub/again"), "contents").unwrap();
    fs::write(to.join("large"), "0123456789".repeat(20_000)).unwrap();
    fs::write(to.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(to.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("sub/file", to.join("link")).unwrap();
}

/// Bytes that are like no others, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        // Numbers of Steele and Vigna's SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    };
    std::iter::repeat_with(|| next().to_le_bytes()).flatten().take(length).collect()
}

/// The store path that Nix gives a tree, in a store of its own.
pub(crate) fn nix_store_add(home: &Path, path: &Path) -> String {
    line(&nix(home, "nix-store", &["--add", path.to_str().unwrap()]))
}

/// Signs a path of that store with a new key; gives the public one.
pub(crate) fn nix_sign(home: &Path, path: &str) -> String {
    let (secret, public) = (home.join("nix.sec"), home.join("nix.pub"));
    let (secret, public) = (secret.to_str().unwrap(), public.to_str().unwrap());
    line(&nix(home, "nix-store", &["--generate-binary-cache-key", "nix-1", secret, public]));
    let sign = ["--extra-experimental-features", "nix-command", "store", "sign", "--key-file", secret, path];
    line(&nix(home, "nix", &sign));
    fs::read_to_string(public).unwrap().trim_end().to_owned()
}

fn nix(home: &Path, program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .env("HOME", home)
        .env("NIX_CONF_DIR", home)
        .env("NIX_STORE_DIR", "/nix/store")
        .env("NIX_REMOTE", format!("local?root={}", home.join("nix-root").display()))
        .output()
        .expect("nix-bin is installed")
}

/// A command that runs until this is dropped.
pub(crate) struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running node; it is killed where a test fails.
pub(crate) struct Node {
    child: Child,
    ready: Value,
}

impl Node {
    /// Starts it, and waits until it says that it is ready.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Node { child, ready }
    }

    /// What others name in `--peer`.
    pub(crate) fn peer(&self) -> String {
        format!("{}@{}", self.ready["peer_id"].as_str().unwrap(), self.ready["iroh"][0].as_str().unwrap())
    }

    /// What others name in `--bootstrap`.
    pub(crate) fn multiaddr(&self) -> &str {
        self.ready["multiaddrs"][0].as_str().unwrap()
    }

    /// Where its binary cache answers.
    pub(crate) fn http(&self) -> &str {
        self.ready["http"].as_str().unwrap()
    }

    /// Ends it without a word to anybody.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The id of its process.
    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, by: Signal) {
        signal(&self.child, by);
    }

    /// Ends it as a service manager does.
    pub(crate) fn end(self) {
        self.end_by(Signal::TERM);
    }

    /// Sends it a signal, and waits for its good end.
    pub(crate) fn end_by(mut self, by: Signal) {
        self.signal(by);
        let begun = Instant::now();
        let status = self.child.wait().unwrap();
        assert!(status.success() && begun.elapsed() < Duration::from_secs(6), "{status}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
