//! Small words: what a command says of places that are not there.

use std::fs;

use crate::world::{Firn, line, nix_store_add, text};

#[test]
fn a_command_that_only_reads_makes_no_store() {
    let firn = Firn::new();
    const PATH: &str = "/nix/store/00000000000000000000000000000001-app";
    let commands: [&[&str]; 8] = [
        &["status"],
        &["verify"],
        &["verify", "--repair"],
        &["gc"],
        &["store", "stats"],
        &["pin", "list"],
        &["pin", "rm", PATH],
        &["node", "--check"],
    ];
    fs::create_dir(firn.path("there")).unwrap();
    for dir in ["mistyped", "not/even/its/parent", "there"] {
        for command in commands {
            let (code, json) = firn.json(&[&["--data-dir", dir], command].concat(), &[]);
            if command != ["node", "--check"] {
                let error = json["error"].as_str().unwrap_or_else(|| panic!("{command:?}: {json}"));
                assert!(
                    code == 1 && error.contains(dir) && error.contains("--data-dir"),
                    "{command:?}: {json}"
                );
            }
        }
    }
    let made: Vec<_> =
        walkdir::WalkDir::new(firn.path("")).min_depth(1).into_iter().map(Result::unwrap).collect();
    assert_eq!(made.len(), 1, "{made:?}");
}

#[test]
fn a_data_directory_that_is_a_file_is_called_none() {
    let firn = Firn::new();
    fs::write(firn.path("file"), "kept").unwrap();
    for data_dir in ["file", "file/beneath"] {
        for command in [&["add", "file"][..], &["node"], &["status"]] {
            let (code, json) = firn.json(&[&["--data-dir", data_dir], command].concat(), &[]);
            let error = json["error"].as_str().unwrap_or_else(|| panic!("{command:?}: {json}"));
            assert!(
                code == 1 && error.contains(data_dir) && error.contains("directory"),
                "{command:?}: {error}"
            );
            assert!(!error.contains("exists"), "{command:?}: {error}");
        }
    }
    assert_eq!(fs::read(firn.path("file")).unwrap(), b"kept");
}

#[test]
fn a_home_directory_is_known_in_all_places_and_no_directory_is_called_so() {
    let firn = Firn::new();
    fs::write(firn.path("file"), "").unwrap();
    let data_dir = |arguments: &[&str], variables: &[(&str, &str)]| {
        let (code, json) = firn.json(&[arguments, &["node", "--check"]].concat(), variables);
        assert_eq!(code, 0, "{json}");
        json["data_dir"].as_str().unwrap().to_owned()
    };
    let wanted = firn.path("x").to_str().unwrap().to_owned();
    fs::write(firn.path("firn.toml"), "data-dir = \"~/x\"\nnix-root = \"~\"\n").unwrap();
    assert_eq!(data_dir(&["--config", "firn.toml"], &[]), wanted);
    assert_eq!(data_dir(&["--config=~/firn.toml"], &[]), wanted);
    assert_eq!(data_dir(&[], &[("FIRN_CONFIG", "~/firn.toml")]), wanted);
    assert_eq!(data_dir(&["--data-dir=~/x"], &[]), wanted);
    assert_eq!(data_dir(&[], &[("FIRN_DATA_DIR", "~/x")]), wanted);
    let (_, checked) = firn.json(&["--config", "firn.toml", "node", "--check"], &[]);
    assert_eq!(
        checked["nix_root"].as_str().unwrap().trim_end_matches('/'),
        firn.path("").to_str().unwrap().trim_end_matches('/')
    );
    assert!(firn.run(&["add", "file"], &[("FIRN_DATA_DIR", "~/x")]).status.success());
    assert!(firn.path("x/store").exists());

    // Of another's home directory nothing is known.
    let (code, json) = firn.json(&["add", "file"], &[("FIRN_DATA_DIR", "~other/x")]);
    assert_eq!((code, json["error"].as_str().unwrap().contains("~other/x")), (2, true), "{json}");
    assert!(!firn.path("~").exists() && !firn.path("~other").exists());
    // One that is really called so.
    assert_eq!(data_dir(&["--data-dir", "./~"], &[]), firn.path("~").to_str().unwrap());
}

#[test]
fn a_configuration_file_that_is_not_there_is_named() {
    let firn = Firn::new();
    for variables in [&[][..], &[("FIRN_CONFIG", "nowhere.toml")]] {
        let arguments: &[&str] = if variables.is_empty() { &["--config", "nowhere.toml"] } else { &[] };
        let output = firn.run(&[arguments, &["status"]].concat(), variables);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("nowhere.toml") && error.contains("No such file"), "{error}");
    }
}

#[test]
fn references_that_are_not_here_are_told() {
    let firn = Firn::new();
    fs::write(firn.path("bottom"), "nothing").unwrap();
    let bottom = nix_store_add(&firn.path(""), &firn.path("bottom"));
    fs::write(firn.path("top"), format!("refers to {bottom}")).unwrap();
    let top = nix_store_add(&firn.path(""), &firn.path("top"));
    // `nix-store --add` looks for no references; the database is told.
    let database = firn.path("nix-root/nix/var/nix/db/db.sqlite");
    let id = |path: &str| format!("(select id from ValidPaths where path = '{path}')");
    let insert = format!("insert into Refs values ({}, {})", id(&top), id(&bottom));
    rusqlite::Connection::open(database).unwrap().execute(&insert, []).unwrap();

    let add =
        |arguments: &[&str]| firn.run(&[&["add", "--nix-root", "nix-root", &top], arguments].concat(), &[]);
    let told = add(&[]);
    assert_eq!(line(&told).lines().next(), Some(&*top));
    assert!(
        text(&told.stderr).contains(&bottom) && text(&told.stderr).contains("--closure"),
        "{}",
        text(&told.stderr)
    );
    let json: serde_json::Value = serde_json::from_slice(&add(&["--json"]).stdout).unwrap();
    assert_eq!(json["missing_references"], serde_json::json!([bottom]));
    assert!(!text(&add(&["--closure"]).stderr).contains("--closure"));
    assert!(!text(&add(&[]).stderr).contains("--closure"), "now it is here");
}
