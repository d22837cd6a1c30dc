//! Who imports whom: the manifests against the floors, and against the picture in docs/ARCHITECTURE.md.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

/// The floor of each crate. A crate imports lower floors only, never its own.
const FLOORS: [(&str, u8); 11] = [
    ("firn-proto", 0),
    ("firn-castore", 1),
    ("firn-bao", 2),
    ("firn-nix", 2),
    ("firn-trust", 3),
    ("firn-store", 4),
    ("firn-exchange", 5),
    ("firn-engine", 6),
    ("firn-net", 7),
    ("firn-gateway", 7),
    ("firn", 8),
];

/// Floors up to this one know no executor, no clock and no chance.
const PURE_FLOOR_MAX: u8 = 5;

/// Stands beside the house: it imports pure floors only, and only the binary's demo imports it.
const SIMNET: &str = "firn-simnet";

/// Stands beside the house, too: it imports any floor, and nobody imports it.
const BENCH: &str = "firn-bench";

/// What would bring an executor or the network into a pure crate.
const IMPURE: [&str; 6] = ["tokio", "mio", "async-std", "smol", "iroh", "libp2p"];

type Edges = BTreeMap<String, BTreeSet<String>>;

#[test]
fn every_crate_imports_lower_floors_only() {
    let floors = BTreeMap::from(FLOORS);
    let mut wrong = Vec::new();
    for (importer, imported) in edges() {
        if ![SIMNET, BENCH].contains(&importer.as_str()) && !floors.contains_key(importer.as_str()) {
            wrong.push(format!("{importer} has no floor"));
        }
        for dependency in imported {
            let allowed = match (floors.get(importer.as_str()), floors.get(dependency.as_str())) {
                (Some(above), Some(below)) => below < above,
                (None, Some(below)) => importer == BENCH || *below <= PURE_FLOOR_MAX,
                (_, None) => importer == "firn" && dependency == SIMNET,
            };
            if !allowed {
                wrong.push(format!("{importer} must not import {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_picture_in_the_architecture_page_is_true() {
    let page = std::fs::read_to_string(workspace().join("docs/ARCHITECTURE.md")).unwrap();
    let mut drawn = Edges::new();
    let lines = page.lines().skip_while(|line| *line != "```floors").skip(1);
    for line in lines.take_while(|line| *line != "```") {
        let (importer, imported) = line.split_once("->").unwrap_or_else(|| panic!("no arrow in \"{line}\""));
        let imported = imported.split_whitespace().filter(|name| *name != "nothing").map(String::from);
        drawn.insert(importer.trim().into(), imported.collect());
    }
    let real = edges();
    let text = |edges: &Edges| {
        let line = |(importer, imported): (&String, &BTreeSet<String>)| {
            format!("{importer} -> {}", imported.iter().cloned().collect::<Vec<_>>().join(" "))
        };
        edges.iter().map(line).collect::<Vec<_>>().join("\n")
    };
    assert!(drawn == real, "drawn:\n{}\n\nin the manifests:\n{}", text(&drawn), text(&real));
}

#[test]
fn pure_crates_pull_in_no_executor() {
    let mut arguments: Vec<&str> =
        "tree --locked --offline --edges normal --prefix none".split(' ').collect();
    for name in pure_crates() {
        arguments.extend(["--package", name]);
    }
    let tree = cargo(&arguments);
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains("firn-exchange"), "cargo tree names no firn-exchange:\n{tree}");
    let impure: Vec<&str> = IMPURE.into_iter().filter(|name| names.contains(name)).collect();
    assert!(impure.is_empty(), "below floor {PURE_FLOOR_MAX}: {impure:?}");
}

#[test]
fn pure_crates_have_the_strict_lints() {
    let strict = std::fs::read_to_string(workspace().join("crates/clippy-pure.toml")).unwrap();
    assert!(strict.contains("std::time::Instant::now") && strict.contains("std::collections::HashMap"));
    let directories = crate_directories();
    for name in pure_crates() {
        let path = directories[name].join("clippy.toml");
        let own =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(own == strict, "{} is not crates/clippy-pure.toml", path.display());
    }
}

fn pure_crates() -> impl Iterator<Item = &'static str> {
    let pure = FLOORS.into_iter().filter(|(_, floor)| *floor <= PURE_FLOOR_MAX).map(|(name, _)| name);
    pure.chain([SIMNET])
}

/// The edges among the crates of this workspace, of every kind: normal, build, dev.
fn edges() -> Edges {
    let packages = packages();
    let names: BTreeSet<String> = packages.iter().map(|package| text(&package["name"])).collect();
    let imported = |package: &serde_json::Value| {
        let dependencies = package["dependencies"].as_array().unwrap();
        dependencies
            .iter()
            .map(|dependency| text(&dependency["name"]))
            .filter(|name| names.contains(name))
            .collect()
    };
    packages.iter().map(|package| (text(&package["name"]), imported(package))).collect()
}

fn crate_directories() -> BTreeMap<String, PathBuf> {
    let directory = |package: &serde_json::Value| {
        PathBuf::from(text(&package["manifest_path"])).parent().unwrap().to_path_buf()
    };
    packages().iter().map(|package| (text(&package["name"]), directory(package))).collect()
}

fn packages() -> Vec<serde_json::Value> {
    let metadata = cargo(&["metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(workspace()).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
