//! The bench as it is run, with trees so small that nothing is timed by it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::{Command, ExitStatus, Stdio};

struct Ended {
    id: u32,
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

fn bench(words: &[&str]) -> Ended {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_firn-bench"));
    command.args(words).args(["--scale", "0.001", "--runs", "1"]).arg("--dir").arg(directory.path());
    command.arg("--disk-dir").arg(directory.path());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = child.id();
    let output = child.wait_with_output().unwrap();
    Ended { id, status: output.status, stdout: output.stdout, stderr: output.stderr }
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

/// Namespaces take root, as the end-to-end tests do.
#[test]
fn all_rows_of_the_swarm_can_be_measured_and_leave_nothing() {
    let output = bench(&["--rows", "swarm", "--json"]);
    assert!(output.status.success(), "{}", said(&output.stderr));
    let rows: Vec<serde_json::Value> =
        said(&output.stdout).lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    let figure = |name: &str, key: &str| {
        let row = rows.iter().find(|row| row["row"] == name).unwrap_or_else(|| panic!("no row {name}"));
        row[key].as_f64().unwrap()
    };
    for row in &rows {
        assert!(row["baseline"].as_f64().unwrap() > 0.0, "{row}");
        // Of so small a file the liar may not have been asked for anything.
        assert!(row["ours"].as_f64().unwrap() > 0.0 || row["unit"] == "KiB", "{row}");
    }
    // It came out of the same runs as another row.
    assert_eq!(figure("seeder's upload, 5 consumers", "baseline"), 1.15);
    // Nothing is faster than the handshake, the claim and the tree one after the other.
    assert!(figure("first byte of a file, 40 ms", "ours") >= 3.0);
    let left = Command::new("ip").args(["netns", "list"]).output().unwrap();
    assert!(!said(&left.stdout).contains(&format!("firnbench-{}-", output.id)), "{}", said(&left.stdout));
}

/// `firn` is beside the bench where the workspace's programs were built.
#[test]
fn all_rows_of_the_edges_can_be_measured() {
    let output = bench(&["--rows", "edges", "--json"]);
    assert!(output.status.success(), "{}", said(&output.stderr));
    let rows: Vec<serde_json::Value> =
        said(&output.stdout).lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    for row in &rows {
        let figure = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("no {key}: {row}"));
        assert!(figure("ours") > 0.0 && figure("baseline") > 0.0 && figure("ratio") > 0.0, "{row}");
        assert!(figure("peak_rss_mb") > 0.0, "{row}");
    }
    for name in
        ["first byte, 300 slow readers", "small fetch, 256 idle peers", "2,000 misses, stopped neighbour"]
    {
        assert!(rows.iter().any(|row| row["row"] == name), "no row {name}");
    }
}

#[test]
fn what_is_not_there_is_told_and_is_wrong_use() {
    for (words, text) in [
        (["--rows", "swarm", "--only", "warp"], "big file from a peer"),
        (["--rows", "store", "--only", "warp"], "add small tree"),
        (["--rows", "edges", "--only", "warp"], "firn get, ten dead hints"),
    ] {
        let output = bench(&words);
        assert_eq!(output.status.code(), Some(2));
        assert!(said(&output.stderr).contains(text), "{}", said(&output.stderr));
    }
}
