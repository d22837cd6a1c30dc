//! Trees that are read where they are, and what happens when they change.

use std::fs;

use serde_json::Value;

use crate::world::{Firn, Node, error, lines, noise, text};

const LARGE_BYTES: usize = 3_000_000;

/// A tree with a file of several pieces, a small one and one within a directory.
fn write_large(firn: &Firn) {
    fs::create_dir_all(firn.path("tree/sub")).unwrap();
    fs::write(firn.path("tree/large"), noise(1, LARGE_BYTES)).unwrap();
    fs::write(firn.path("tree/small"), noise(2, 500)).unwrap();
    fs::write(firn.path("tree/sub/middle"), noise(3, 100_000)).unwrap();
}

/// A node that has the tree and gives it away; gives what others must trust, too.
fn seeder() -> (Firn, Node, String) {
    let seeder = Firn::new();
    write_large(&seeder);
    seeder.run(&["key", "generate", "cache-1", "--out", "key"], &[]);
    let key = lines(&seeder.run(&["key", "public", "key"], &[])).remove(0);
    lines(&seeder.run(&["add", "--sign-key", "key", "tree"], &[]));
    let node = seeder.node(&["--role", "seed"]);
    (seeder, node, key)
}

fn cut(firn: &Firn) {
    fs::File::options().write(true).open(firn.path("tree/large")).unwrap().set_len(2_000_000).unwrap();
}

#[test]
fn what_is_added_in_place_takes_little_room_and_says_that_it_must_stay() {
    let firn = Firn::new();
    write_large(&firn);
    let (code, added) = firn.json(&["add", "--in-place", "./tree"], &[]);
    assert_eq!((code, &added["in_place"]), (0, &true.into()), "{added}");
    let (_, stats) = firn.json(&["store", "stats"], &[]);
    assert!(stats["adopted_bytes"].as_u64() >= Some(LARGE_BYTES as u64), "{stats}");
    assert!(stats["disk_bytes"].as_u64() < Some(1_000_000), "{stats}");
    assert!(lines(&firn.run(&["pin", "list"], &[]))[0].ends_with("-tree added"));
    // By another way to the same place, and read once more: the same tree.
    std::os::unix::fs::symlink(firn.path("."), firn.path("other-way")).unwrap();
    let again = firn.run(&["add", "--in-place", "--rehash", "other-way/tree"], &[]);
    assert_eq!(lines(&again)[1], added["root"].as_str().unwrap());
    assert!(text(&again.stderr).contains("they must stay"), "{}", text(&again.stderr));
    let got = firn.run(&["get", added["store_path"].as_str().unwrap(), "-o", "out"], &[]);
    assert!(got.status.success());
    assert_eq!(fs::read(firn.path("out/large")).unwrap(), noise(1, LARGE_BYTES));
}

#[test]
fn a_file_that_was_cut_is_named_and_got_again_from_a_peer() {
    let (_seeder, node, key) = seeder();
    let firn = Firn::new();
    write_large(&firn);
    let added = firn.json(&["add", "--in-place", "tree"], &[]).1;
    let path = added["store_path"].as_str().unwrap();
    cut(&firn);
    let (code, verified) = firn.json(&["verify"], &[]);
    let damage = &verified["damages"][0];
    assert_eq!((code, &damage["subject"], &damage["repaired"]), (1, &path.into(), &false.into()));
    let what = damage["what"].as_str().unwrap();
    assert!(what.starts_with("large: ") && what.contains("has changed"), "the file is named: {verified}");

    let (code, json) = firn.json(&["get", path, "-o", "out"], &[]);
    assert_eq!(code, 3, "{json}");
    assert!(error(&json).contains(path) && error(&json).contains("no longer whole here"), "{json}");

    // Nobody is asked, so nobody has it; that it is wanted is remembered.
    let (code, verified) = firn.json(&["verify", "--repair"], &[]);
    assert_eq!((code, &verified["damages"][0]["repaired"]), (1, &false.into()), "{verified}");
    assert!(verified["damages"][0]["unrepaired_because"].is_string(), "{verified}");
    let ask = ["verify", "--repair", "--peer", &node.peer(), "--trust", &key];
    let (code, repaired) = firn.json(&ask, &[]);
    assert_eq!((code, &repaired["damages"][0]["repaired"]), (0, &true.into()), "{repaired}");
    assert!(repaired["fetched_bytes"].as_u64() > Some(2_000_000), "{repaired}");
    let (code, verified) = firn.json(&["verify"], &[("FIRN_TRUST", &key)]);
    assert_eq!((code, &verified["checked"], &verified["damages"]), (0, &1.into(), &Value::Array(vec![])));
    assert_eq!(firn.json(&["get", path, "-o", "out"], &[("FIRN_TRUST", &key)]).0, 0);
    assert_eq!(fs::read(firn.path("out/large")).unwrap(), noise(1, LARGE_BYTES));
    assert_eq!(
        fs::metadata(firn.path("tree/large")).unwrap().len(),
        2_000_000,
        "the user's file is the user's"
    );
    node.end();
}

#[test]
fn a_running_node_gets_again_what_was_cut_and_leaves_private_what_was_private() {
    let (_seeder, seeding, _) = seeder();
    let firn = Firn::new();
    write_large(&firn);
    let node = firn.node(&["--role", "seed", "--peer", &seeding.peer()]);
    let added = firn.json(&["add", "--in-place", "tree"], &[]).1;
    let path = added["store_path"].as_str().unwrap();
    cut(&firn);
    let (code, repaired) = firn.json(&["verify", "--repair"], &[]);
    assert_eq!((code, &repaired["damages"][0]["repaired"]), (0, &true.into()), "{repaired}");
    assert_eq!(repaired["damages"][0]["subject"], path);
    assert_eq!(firn.json(&["verify", path], &[]).0, 0);
    let store = firn.json(&["status"], &[]).1["store"].clone();
    assert_eq!((&store["paths"], &store["paths_shared"], &store["trees"]), (&1.into(), &0.into(), &0.into()));
    assert_eq!(lines(&firn.run(&["pin", "list"], &[])), [format!("{path} added")]);
    node.end();
    seeding.end();
}

#[test]
fn what_is_gone_from_one_place_is_taken_from_another_where_it_is_read_once_more() {
    let firn = Firn::new();
    write_large(&firn);
    fs::create_dir(firn.path("twin")).unwrap();
    fs::copy(firn.path("tree/large"), firn.path("twin/large")).unwrap();
    for tree in ["tree", "twin"] {
        assert_eq!(firn.json(&["add", "--in-place", tree], &[]).0, 0);
    }
    fs::remove_dir_all(firn.path("tree")).unwrap();
    let (code, twin) = firn.json(&["add", "--in-place", "--rehash", "twin"], &[]);
    assert_eq!(code, 0, "{twin}");
    let (code, verified) = firn.json(&["verify", twin["store_path"].as_str().unwrap()], &[]);
    assert_eq!(code, 0, "{verified}");
}

#[test]
fn a_tree_that_is_known_is_told_to_be() {
    let firn = Firn::new();
    write_large(&firn);
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    fs::File::open(firn.path("tree/large")).unwrap().set_modified(long_ago).unwrap();
    let was_known = |arguments: &[&str]| {
        let (code, added) = firn.json(arguments, &[]);
        assert_eq!(code, 0, "{added}");
        added["paths"][0]["was_known"] == true
    };
    assert!(!was_known(&["add", "tree"]));
    // Only what is older than two seconds is remembered, by the time of its last change, which nobody can set.
    let begun = std::time::Instant::now();
    while !was_known(&["add", "tree"]) {
        assert!(begun.elapsed().as_secs() < 30);
    }
    assert!(!was_known(&["add", "--rehash", "tree"]));
    fs::write(firn.path("tree/small"), "other").unwrap();
    assert!(!was_known(&["add", "tree"]));
}
