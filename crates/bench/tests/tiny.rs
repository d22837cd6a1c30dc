//! The bench as it is run, with trees so small that nothing is timed by it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::{Command, Output};

fn bench(words: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_firn-bench"));
    command.args(words).args(["--scale", "0.001", "--runs", "1"]).arg("--dir").arg(directory.path());
    command.arg("--disk-dir").arg(directory.path());
    command.output().unwrap()
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_row_is_measured_and_printed_as_json() {
    let output = bench(&["--rows", "store", "--json", "--only", "add small tree in memory"]);
    assert!(output.status.success(), "{}", said(&output.stderr));
    let row: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let keys: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["baseline", "cpu_s", "goal", "ours", "peak_rss_mb", "ratio", "row", "unit"]);
    assert_eq!((&row["row"], &row["unit"]), (&"add small tree in memory".into(), &"s".into()));
    assert!(row["ours"].as_f64().unwrap() > 0.0 && row["baseline"].as_f64().unwrap() > 0.0, "{row}");
    assert!(row["peak_rss_mb"].as_f64().unwrap() > 0.0, "{row}");
}

#[test]
fn people_get_a_table() {
    let output = bench(&["--only", "add toolchain again"]);
    assert!(output.status.success(), "{}", said(&output.stderr));
    let table = said(&output.stdout);
    assert!(table.contains("baseline is") && table.contains("first add"), "{table}");
}

#[test]
fn a_tree_goes_from_store_to_store() {
    for (row, unit) in [
        ("small tree from a peer", "s"),
        ("big file from a peer", "s"),
        ("toolchain from a peer", "s"),
        ("memory of a seeder, 50 connections", "MB"),
    ] {
        let output = bench(&["--rows", "swarm", "--json", "--only", row]);
        assert!(output.status.success(), "{}", said(&output.stderr));
        let measured: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&measured["row"], &measured["unit"]), (&row.into(), &unit.into()));
        assert!(measured["ours"].as_f64().unwrap() > 0.0, "{measured}");
    }
}

#[test]
fn what_is_not_there_is_told_and_is_wrong_use() {
    for (words, text) in [
        (["--rows", "swarm", "--only", "warp"], "big file from a peer"),
        (["--rows", "store", "--only", "warp"], "add small tree"),
    ] {
        let output = bench(&words);
        assert_eq!(output.status.code(), Some(2));
        assert!(said(&output.stderr).contains(text), "{}", said(&output.stderr));
    }
}
