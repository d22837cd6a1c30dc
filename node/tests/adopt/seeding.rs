//! The real `firn node` beside the real Nix.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use firn_nix::StorePath;
use serde_json::Value;

use crate::world::{NixRoot, eventually, noise};

/// What the adopter promises: a new path is there, and a collected one gone, within a minute.
const PROMISED: Duration = Duration::from_secs(60);

/// A running `firn node`; it is killed where a test fails.
struct Firn {
    home: tempfile::TempDir,
    child: Option<Child>,
    url: String,
}

impl Firn {
    fn start(nix: &NixRoot) -> Self {
        let mut firn = Self { home: tempfile::tempdir().unwrap(), child: None, url: String::new() };
        firn.start_again(nix);
        firn
    }

    fn start_again(&mut self, nix: &NixRoot) {
        let any = "127.0.0.1:0";
        let mut command = self.command(&["node", "--json", "--http", any, "--iroh", any, "--libp2p", any]);
        command.args(["--adopt", "/nix/store", "--trust", &nix.public_key, "--nix-root"]).arg(nix.path());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.child = Some(child);
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.url = format!("http://{}", ready["http"].as_str().unwrap_or_else(|| panic!("{ready}")));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firn"));
        command.args(arguments).env_clear().env("HOME", self.home.path()).current_dir(self.home.path());
        command
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.command(&[arguments, &["--json"]].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{arguments:?}: {said}");
        serde_json::from_str(&said).unwrap()
    }

    fn curl(&self, arguments: &[&str]) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "60"]).args(arguments);
        curl
    }

    /// The narinfo of a path, if the node has it.
    fn narinfo(&self, path: &StorePath) -> Option<String> {
        let url = format!("{}/{}.narinfo", self.url, path.hash());
        let output = self.curl(&["--fail", &url]).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// Where a NAR is.
    fn nar_url(&self, path: &StorePath) -> String {
        let narinfo = self.narinfo(path).unwrap();
        let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap();
        format!("{}/{url}", self.url)
    }

    /// Ends it as a service manager does.
    fn end(&mut self) {
        let mut child = self.child.take().unwrap();
        let id = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success());
    }
}

impl Drop for Firn {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It has ended already where the test went well.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn assert_same_files(one: &Path, other: &Path) {
    let output = Command::new("diff").args(["--recursive", "--brief"]).args([one, other]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_nix_store_is_seeded_from_where_it_stands() {
    let (nix, other) = (NixRoot::new(), NixRoot::new());
    let large = noise(7, 40_000_000);
    let app = nix.add_signed("app", &[("small", b"text"), ("large", &large)]);
    let private = nix.add("private", &[("file", b"nobody has signed this")]);
    let mut firn = Firn::start(&nix);

    eventually("it is adopted", PROMISED, || firn.narinfo(&app));
    assert_eq!(firn.narinfo(&private), None);
    let stats = firn.json(&["store", "stats"]);
    assert_eq!((&stats["adopted_blobs"], &stats["paths"]), (&2.into(), &1.into()), "{stats}");
    assert!(stats["adopted_bytes"].as_u64().unwrap() > 40_000_000, "{stats}");
    assert!(stats["disk_bytes"].as_u64().unwrap() < 8_000_000, "it was not copied: {stats}");

    let key = ["--option", "trusted-public-keys", &nix.public_key];
    let (to, what) = (other.path().to_str().unwrap(), app.to_absolute());
    let copy = [&["copy", "--from", &firn.url, "--to", to, &what], &key[..]].concat();
    let copied = Command::new("nix")
        .args(&copy)
        .env("NIX_CONF_DIR", other.path())
        .env("HOME", other.path())
        .env("XDG_CACHE_HOME", other.path().join("cache"))
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    assert_same_files(&nix.on_disk(&app), &other.on_disk(&app));

    // What the user names needs no signature.
    let nix_root = nix.path().to_str().unwrap();
    let named = firn.json(&["adopt", "--nix-root", nix_root, &private.to_absolute()]);
    assert_eq!(named["paths"][0]["store_path"], private.to_absolute(), "{named}");
    assert!(firn.narinfo(&private).is_some());

    let new = nix.add_signed("new", &[("file", b"this came later")]);
    eventually("what Nix has anew is adopted", PROMISED, || firn.narinfo(&new));
    nix.delete(&new);
    nix.delete(&private);
    eventually("what Nix has collected is withdrawn", PROMISED, || {
        (firn.narinfo(&new).is_none() && firn.narinfo(&private).is_none()).then_some(())
    });

    firn.end();
    firn.start_again(&nix);
    assert!(firn.narinfo(&app).is_some(), "it is here from the start");

    // It is truncated while it is served: the client sees the end of the connection, never other bytes.
    let url = firn.nar_url(&app);
    let mut curl = firn.curl(&["--limit-rate", "4M", &url]).stdout(Stdio::piped()).spawn().unwrap();
    let mut served = curl.stdout.take().unwrap();
    let mut begin = vec![0; 100_000];
    served.read_exact(&mut begin).unwrap();
    let file = fs::OpenOptions::new().write(true).open(nix.broken_open(&app, "large")).unwrap();
    file.set_len(20_000_000).unwrap();
    served.read_to_end(&mut begin).unwrap();
    assert!(!curl.wait().unwrap().success(), "{} bytes were served", begin.len());
    assert!(begin.len() < 40_000_000);
    eventually("what is no longer whole is withdrawn", PROMISED, || {
        firn.narinfo(&app).is_none().then_some(())
    });
    firn.end();
}
