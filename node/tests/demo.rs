//! `firn demo`, as a newcomer starts it: without root, without Nix, on loopback alone.

#![cfg(feature = "demo")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use serde_json::Value;

/// A tree that gives each of several peers something to do.
fn write_tree(tree: &Path) {
    fs::create_dir_all(tree.join("many/empty")).unwrap();
    for number in 0..300 {
        fs::write(tree.join(format!("many/{number}")), format!("file {number}\n").repeat(number)).unwrap();
    }
    let large: Vec<u8> = (0..24_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(tree.join("large"), large).unwrap();
    fs::write(tree.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(tree.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("many/7", tree.join("link")).unwrap();
}

fn by_interval(peer: &Value) -> Vec<u64> {
    let numbers = peer["bytes_by_interval"].as_array().unwrap();
    numbers.iter().map(|number| number.as_u64().unwrap()).collect()
}

#[test]
fn the_tree_arrives_and_the_liar_alone_is_blamed() {
    let temp = tempfile::tempdir().unwrap();
    let tree = temp.path().join("tree");
    write_tree(&tree);
    let scratch = temp.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_firn"))
        .arg("demo")
        .arg(&tree)
        .arg("--json")
        .env("TMPDIR", &scratch)
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{log}"));
    assert_eq!(output.status.code(), Some(0), "{said}\n{log}");

    assert_eq!(said["path"], tree.to_str().unwrap());
    assert!(said["store_path"].as_str().unwrap().ends_with("-tree"), "{said}");
    assert!(said["root"].as_str().unwrap().starts_with("firn:"), "{said}");
    assert_eq!((&said["identical"], &said["files"]), (&Value::Bool(true), &302.into()), "{said}");
    let peers = said["peers"].as_array().unwrap();
    let roles: Vec<&str> = peers.iter().map(|peer| peer["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["bootstrap", "publisher", "seeder", "seeder", "seeder", "liar", "consumer"]);
    for peer in peers {
        let by_interval = by_interval(peer);
        assert_eq!(by_interval.len(), 8, "{peer}");
        assert_eq!(peer["bytes"], by_interval.iter().sum::<u64>(), "{peer}");
        assert_eq!(peer["blamed"], peer["role"] == "liar", "{peer}");
        if peer["role"] == "seeder" {
            assert!(peer["bytes"].as_u64() > Some(0) && peer["via"] == "dht", "{peer}");
        }
    }
    assert!(peers[5]["asked"].as_u64() > Some(0), "{said}");

    let seeders: Vec<Vec<u64>> = peers[2..5].iter().map(by_interval).collect();
    let givers = |number: usize| seeders.iter().filter(|row| row[number] > 0).count();
    let at_once = (0..8).map(givers).max().unwrap();
    assert!(at_once >= 2, "several seeders give at the same time: {said}");
    assert_eq!(said["seeders_at_once"], at_once);
    assert!(said["exchanged_bytes"].as_u64() > Some(0), "who gets it gives as well: {said}");
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "the stores are removed at the end");
}

/// One peer alone gives all of it.
#[test]
fn a_single_small_file_is_enough() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("file"), "contents").unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_firn")).arg("demo").arg(temp.path().join("file")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("identical"), "{said}");
}

#[test]
fn a_path_that_is_not_there_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_firn")).args(["demo", "/no/such/tree"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/tree"));
}
