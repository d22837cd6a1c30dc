//! What a shell sees where no node is needed.

use std::{fs, os::unix::fs::symlink};

use serde_json::Value;

use crate::world::{Firn, lines, nix_store_add, text, write_tree};

#[test]
fn every_command_has_help_that_shows_its_json() {
    let firn = Firn::new();
    let commands = ["node", "add", "adopt", "get", "status", "verify", "gc", "pin add", "pin rm", "pin list"];
    for command in commands.iter().chain(&["store stats", "key generate", "demo"]) {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let output = firn.run(&words, &[]);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("json"), "{command}: {}", text(&output.stdout));
    }
}

#[test]
fn a_key_is_made_once_and_shown_again() {
    let firn = Firn::new();
    let made = firn.run(&["key", "generate", "k-1", "--out", "k.sec"], &[]);
    assert!(made.status.success());
    assert!(text(&made.stdout).starts_with("k-1:"));
    let shown = firn.run(&["key", "public", "k.sec"], &[]);
    assert_eq!(shown.stdout, made.stdout);
    let (code, json) = firn.json(&["key", "public", "k.sec"], &[]);
    assert_eq!((code, json["public_key"].as_str()), (0, Some(text(&made.stdout).trim())));

    let (code, json) = firn.json(&["key", "generate", "k-1", "--out", "k.sec"], &[]);
    assert_eq!((code, &json["exit_code"]), (1, &Value::from(1)));
    assert!(json["error"].as_str().unwrap().contains("k.sec"), "{json}");
}

#[test]
fn flags_stand_over_variables_and_these_over_the_file() {
    let firn = Firn::new();
    std::fs::write(firn.path("firn.toml"), "role = \"lan\"\nnetwork = \"file\"\nhttp = \"1\"\n").unwrap();
    let arguments = ["node", "--check", "--config", "firn.toml", "--http", "3"];
    let (code, json) = firn.json(&arguments, &[("FIRN_HTTP", "2"), ("FIRN_NETWORK", "variable")]);
    assert_eq!(code, 0, "{json}");
    assert_eq!(json["role"], "lan");
    assert_eq!(json["network"], "variable");
    assert_eq!(json["http"], "127.0.0.1:3");
    let output = firn.run(&["node", "--check"], &[("FIRN_CONFIG", "firn.toml")]);
    assert!(text(&output.stdout).contains("neighbours with private addresses"), "{}", text(&output.stdout));
}

#[test]
fn what_is_wrong_with_the_configuration_is_said_with_exit_code_2() {
    let firn = Firn::new();
    std::fs::write(firn.path("firn.toml"), "rolle = \"lan\"\n").unwrap();
    let (code, json) = firn.json(&["node", "--check", "--config", "firn.toml"], &[]);
    assert_eq!(code, 2);
    let error = json["error"].as_str().unwrap();
    assert!(error.contains("firn.toml") && error.contains("rolle"), "{error}");

    let (code, json) = firn.json(&["status"], &[("FIRN_PEER", "nobody")]);
    assert_eq!(code, 2);
    assert!(json["error"].as_str().unwrap().contains("nobody"), "{json}");
    assert_eq!(firn.run(&["nod"], &[]).status.code(), Some(2));
}

#[test]
fn a_tree_gets_the_path_that_nix_gives_it_and_comes_out_as_it_was() {
    let firn = Firn::new();
    let tree = firn.path("tree");
    write_tree(&tree);
    let added = lines(&firn.run(&["add", "./tree"], &[]));
    assert_eq!(added[0], nix_store_add(&firn.path(""), &tree));
    assert!(added[1].starts_with("firn:"), "{added:?}");

    for (what, out) in [(&added[0], "by-path"), (&added[1], "by-root")] {
        let got = lines(&firn.run(&["get", what, "-o", out], &[]));
        assert_eq!(got.last(), Some(&added[1]));
        let again = firn.run(&["add", out, "--name", "tree"], &[]);
        assert_eq!(lines(&again), added, "the same tree");
        assert_eq!(nix_store_add(&firn.path(""), &firn.path(out))[44..], *out);
    }
    let taken = firn.run(&["get", &added[1], "-o", "by-root"], &[]);
    assert_eq!(taken.status.code(), Some(1));
    assert!(text(&taken.stderr).contains("by-root exists already"), "{}", text(&taken.stderr));
}

#[test]
fn a_file_and_a_symlink_are_trees_too() {
    let firn = Firn::new();
    fs::write(firn.path("file.txt"), "").unwrap();
    symlink("nowhere", firn.path("link")).unwrap();
    for name in ["file.txt", "link"] {
        let path = firn.path(name);
        assert_eq!(lines(&firn.run(&["add", name], &[]))[0], nix_store_add(&firn.path(""), &path));
    }
    let named = firn.run(&["add", "file.txt", "--name", "other-1.0"], &[]);
    assert!(lines(&named)[0].ends_with("-other-1.0"));
}

#[test]
fn what_is_added_is_private_until_it_is_signed_or_shared() {
    let firn = Firn::new();
    write_tree(&firn.path("tree"));
    let (code, added) = firn.json(&["add", "tree"], &[]);
    assert_eq!(code, 0, "{added}");
    assert_eq!((&added["files"], &added["bytes"]), (&Value::from(4), &Value::from(200_000 + 26)));
    assert_eq!((&added["announced"], &added["paths"][0]["shared"]), (&false.into(), &false.into()));
    let shared = |firn: &Firn| {
        let (_, status) = firn.json(&["status"], &[]);
        assert_eq!((&status["running"], &status["store"]["paths"]), (&false.into(), &1.into()));
        status["store"]["paths_shared"].as_u64().unwrap()
    };
    // Getting what is here gives nothing away.
    let got = firn.json(&["get", added["root"].as_str().unwrap()], &[]).1;
    assert_eq!((&got["fetched_bytes"], &got["paths"][0]["was_here"]), (&0.into(), &true.into()));
    assert_eq!(shared(&firn), 0);
    let trees = firn.json(&["status"], &[]).1["store"]["trees"].clone();
    assert_eq!(trees, 0, "it is the path's tree");

    firn.run(&["key", "generate", "cache-1", "--out", "cache-1.sec"], &[]);
    let signed = firn.run(&["add", "tree", "--sign-key", "cache-1.sec"], &[]);
    assert!(text(&signed.stderr).contains("announced when a node runs"), "{}", text(&signed.stderr));
    assert_eq!(shared(&firn), 1);
    // Added once more it stays signed and shared.
    let (_, again) = firn.json(&["add", "tree"], &[]);
    assert_eq!(again["paths"][0]["signed_by"], Value::from(vec!["cache-1"]));
    assert_eq!(again["paths"][0]["shared"], true);
    assert_eq!(shared(&firn), 1);
}

#[test]
fn errors_name_the_thing_and_have_their_exit_codes() {
    let firn = Firn::new();
    fs::write(firn.path("bad name"), "").unwrap();
    fs::write(firn.path("key"), "no key").unwrap();
    const PATH: &str = "/nix/store/00000000000000000000000000000001-app";
    const ROOT: &str = "firn:GgwKABIAIgA";
    let cases: [(&[&str], i32, &str); 10] = [
        (&["add", "nowhere"], 3, "nowhere"),
        (&["add", "--closure", "nowhere"], 2, "nowhere"),
        (&["add", "bad name"], 2, "\"bad name\""),
        (&["add", "/"], 2, "--name"),
        (&["add", "key", "--sign-key", "key"], 2, "key"),
        (&["add", PATH, "--name", "x"], 2, "keeps its name"),
        (&["get", "app"], 2, "\"app\""),
        (&["get", ROOT], 2, ROOT),
        (&["get", PATH], 3, PATH),
        (&["verify", PATH], 3, PATH),
    ];
    for (arguments, exit_code, word) in cases {
        let (code, json) = firn.json(arguments, &[]);
        assert_eq!((code, &json["exit_code"]), (exit_code, &exit_code.into()), "{arguments:?}: {json}");
        assert!(json["error"].as_str().unwrap().contains(word), "{arguments:?}: {json}");
    }
}

#[test]
fn verify_reads_all_or_what_is_named() {
    let firn = Firn::new();
    write_tree(&firn.path("tree"));
    fs::write(firn.path("other"), "other").unwrap();
    let added = lines(&firn.run(&["add", "tree"], &[]));
    firn.run(&["add", "other"], &[]);
    let (code, all) = firn.json(&["verify"], &[]);
    assert_eq!((code, &all["checked"]), (0, &2.into()), "{all}");
    for what in &added {
        let (code, one) = firn.json(&["verify", what], &[]);
        assert_eq!((code, &one["checked"], &one["damages"]), (0, &1.into(), &Value::Array(vec![])), "{one}");
        assert!(one["bytes"].as_u64() < all["bytes"].as_u64());
    }
}

#[test]
fn a_store_that_is_held_names_its_holder_and_is_free_again_afterwards() {
    let firn = Firn::new();
    fs::write(firn.path("file"), "").unwrap();
    let data_dir = firn.path(".local/share/firn");
    fs::create_dir_all(&data_dir).unwrap();
    let held = firn_store::DiskStore::open(&data_dir.join("store")).unwrap();
    let (code, json) = firn.json(&["add", "file"], &[]);
    assert_eq!(code, 1);
    assert!(json["error"].as_str().unwrap().contains(&std::process::id().to_string()), "{json}");
    drop(held);
    for _ in 0..3 {
        assert_eq!(firn.json(&["add", "file"], &[]).0, 0);
    }
    firn_store::DiskStore::open(&data_dir.join("store")).unwrap();
}
