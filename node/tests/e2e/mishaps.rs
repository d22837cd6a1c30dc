//! What goes wrong on one machine: each time an error that names the thing, nothing lost, no panic.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use walkdir::WalkDir;

use crate::{
    firn::{Node, firn, firn_ok},
    host::Host,
    lan::Lan,
    tree::{LARGE_BYTES, assert_same_tree, write_site},
};

/// Exit codes, as `firn --help` tells them.
const FAILED: i32 = 1;
const USAGE: i32 = 2;

/// A command fails with this exit code, and its error has all of these words.
fn fails_with(host: &Host, arguments: &[&str], code: i32, words: &[&str]) {
    let said = firn(host, arguments);
    assert_eq!(said.code, code, "firn {arguments:?}: {said}");
    assert_eq!(said.json["exit_code"], code, "{said}");
    let error = said.json["error"].as_str().unwrap_or_else(|| panic!("no error: {said}"));
    for word in words {
        assert!(error.contains(word), "\"{word}\" is not named: {error}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn data_dir(host: &Host) -> PathBuf {
    host.path("home/.local/share/firn")
}

#[test]
fn a_store_is_held_by_one_process() {
    let lan = Lan::new();
    let host = lan.host("machine");
    let node = Node::start(&host, &[]);
    let ports = ["node", "--http", "0", "--iroh", "0", "--libp2p", "0"];
    fails_with(&host, &ports, FAILED, &[&node.process_id().to_string()]);
    assert_eq!(node.status()["running"], true);
    node.end();
    assert_eq!(firn_ok(&host, &["status"])["running"], false);
}

#[test]
fn a_busy_port_is_named() {
    let lan = Lan::new();
    let host = lan.host("machine");
    let _node = Node::start(&host, &["--role", "seed"]);
    let other = host.path("home/other");
    let other = ["--role", "seed", "--data-dir", text(&other)];
    for (port, free) in
        [("7333", ["--iroh", "--libp2p"]), ("7334", ["--http", "--libp2p"]), ("7335", ["--http", "--iroh"])]
    {
        let arguments = [&["node"], &other[..], &[free[0], "0", free[1], "0"]].concat();
        fails_with(&host, &arguments, FAILED, &[port]);
    }
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused() {
    let lan = Lan::new();
    let host = lan.host("machine");
    let file = host.path("home/.config/firn/config.toml");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "rolle = \"seed\"\n").unwrap();
    fails_with(&host, &["node", "--check"], USAGE, &["rolle", text(&file)]);
    fs::write(&file, "role = \"seed\"\n").unwrap();
    assert_eq!(firn_ok(&host, &["node", "--check"])["role"], "seed");
    assert!(!data_dir(&host).exists(), "--check makes nothing");
}

#[test]
fn a_flipped_byte_is_damage_and_never_an_answer() {
    let lan = Lan::new();
    let host = lan.host("machine");
    let (site, out) = (host.path("home/site"), host.path("home/copy"));
    write_site(&site);
    let root = firn_ok(&host, &["add", text(&site)])["root"].as_str().unwrap().to_owned();
    assert_eq!(firn_ok(&host, &["verify"])["damages"], Value::Array(Vec::new()));

    let file = file_with_the_large_blob(&data_dir(&host));
    let mut bytes = fs::read(&file).unwrap();
    let needle = b"0123456789".repeat(10);
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap() + 50_000;
    bytes[at] ^= 1;
    fs::write(&file, &bytes).unwrap();

    let said = firn(&host, &["verify"]);
    assert_eq!(said.code, FAILED, "{said}");
    assert_eq!(said.json["damages"].as_array().unwrap().len(), 1, "{said}");
    let said = firn(&host, &["get", &root, "-o", text(&out)]);
    assert_ne!(said.code, 0, "{said}");
    assert!(!out.exists(), "a tree with a flipped byte was written out");

    // What is damaged was put aside; the tree itself is still where it came from.
    firn_ok(&host, &["add", "--rehash", text(&site)]);
    firn_ok(&host, &["get", &root, "-o", text(&out)]);
    assert_same_tree(&site, &out);
}

fn file_with_the_large_blob(directory: &Path) -> PathBuf {
    let files =
        WalkDir::new(directory).into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file());
    let large = files.filter(|entry| entry.metadata().unwrap().len() >= LARGE_BYTES as u64);
    let needle = b"0123456789".repeat(10);
    let has_blob = |path: &PathBuf| {
        let bytes = fs::read(path).unwrap();
        bytes.windows(needle.len()).any(|window| window == needle)
    };
    large.map(|entry| entry.into_path()).find(has_blob).expect("the blob is somewhere in the store")
}

#[test]
fn a_full_disk_loses_nothing() {
    // Four commands in one mount namespace, since the small disk is there only.
    const ON_A_SMALL_DISK: &str = r#"
        mount -t tmpfs -o size=12m none "$1"
        "$2" --data-dir "$1" --json add small
        "$2" --data-dir "$1" --json add large && exit 1
        "$2" --data-dir "$1" --json verify
        "$2" --data-dir "$1" --json add small
    "#;
    let lan = Lan::new();
    let host = lan.host("machine");
    let disk = host.path("disk");
    fs::create_dir(&disk).unwrap();
    fs::write(host.path("home/small"), "small").unwrap();
    fs::write(host.path("home/large"), vec![7; 20_000_000]).unwrap();
    let output = host.run("sh", &["-c", ON_A_SMALL_DISK, "sh", text(&disk), env!("CARGO_BIN_EXE_firn")]);
    let (said, log) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{log}");
    assert!(!log.contains("panicked"), "{log}");
    let objects: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [small, full, verified, again] = &objects[..] else { panic!("four objects: {said}") };
    assert!(full["error"].as_str().unwrap().contains("No space left"), "{full}");
    assert_eq!(verified["damages"], Value::Array(Vec::new()), "{verified}");
    assert!(verified["checked"].as_u64() > Some(0), "{verified}");
    assert_eq!(again["root"], small["root"]);
}
