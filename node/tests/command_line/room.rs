//! What stays, what goes, and what it all takes.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::world::{Firn, Node, lines, noise, text, write_tree};

/// A node that gives away two trees; gives their roots.
fn seeder() -> (Firn, Node, [String; 2]) {
    let seeder = Firn::new();
    let roots = [1, 2].map(|seed| {
        let name = format!("tree-{seed}");
        fs::create_dir_all(seeder.path(&name)).unwrap();
        fs::write(seeder.path(&name).join("large"), noise(seed, 3_000_000)).unwrap();
        lines(&seeder.run(&["add", "--share", &name], &[])).remove(1)
    });
    let node = seeder.node(&["--role", "seed"]);
    (seeder, node, roots)
}

fn subjects(json: &Value) -> Vec<&str> {
    json.as_array().unwrap().iter().map(|item| item["subject"].as_str().unwrap()).collect()
}

#[test]
fn pins_are_made_shown_and_taken_away() {
    let firn = Firn::new();
    write_tree(&firn.path("tree"));
    let added = lines(&firn.run(&["add", "tree"], &[]));
    let (path, root) = (added[0].as_str(), added[1].as_str());
    let list = || firn.json(&["pin", "list"], &[]).1["pins"].clone();
    assert_eq!(list()[0]["reason"], "added");
    // A root that is a path's is kept by the path.
    let (code, pinned) = firn.json(&["pin", "add", root, "--reason", "the demo needs it"], &[]);
    assert_eq!((code, &pinned["subject"], &pinned["is_here"]), (0, &path.into(), &true.into()), "{pinned}");
    assert_eq!((list().as_array().unwrap().len(), &list()[0]["reason"]), (1, &"the demo needs it".into()));
    // Added once more it keeps the user's own words.
    assert_eq!(firn.json(&["add", "tree"], &[]).0, 0);
    assert_eq!(list()[0]["reason"], "the demo needs it");

    const ABSENT: &str = "/nix/store/00000000000000000000000000000001-app";
    let later = firn.run(&["pin", "add", ABSENT], &[]);
    assert!(text(&later.stderr).contains("not here"), "{}", text(&later.stderr));
    assert_eq!(list().as_array().unwrap().len(), 2);
    // As the list has it, where only the hash is known.
    for pin in subjects(&list()) {
        assert_eq!(firn.run(&["pin", "rm", pin], &[]).status.code(), Some(0), "{pin}");
    }
    assert_eq!(list(), Value::Array(Vec::new()));
    let (code, json) = firn.json(&["pin", "rm", path], &[]);
    assert_eq!((code, json["error"].as_str().unwrap().contains(path)), (3, true), "{json}");
    for wrong in [["pin", "add", path, "--reason", ""], ["pin", "add", "app", "--reason", "x"]] {
        assert_eq!(firn.json(&wrong, &[]).0, 2, "{wrong:?}");
    }
}

#[test]
fn what_was_fetched_goes_when_room_is_wanted_and_what_is_pinned_stays() {
    let (_seeder, node, [first, second]) = seeder();
    let firn = Firn::new();
    fs::write(firn.path("own"), noise(7, 50_000)).unwrap();
    let own = lines(&firn.run(&["add", "own"], &[])).remove(0);
    for root in [&first, &second] {
        assert_eq!(firn.json(&["get", root, "--peer", &node.peer()], &[]).0, 0);
    }
    firn.run(&["pin", "add", &second], &[]);
    let (code, nothing) = firn.json(&["gc"], &[]);
    assert_eq!((code, &nothing["evicted"]), (0, &Value::Array(Vec::new())), "without a limit: {nothing}");

    let (code, would) = firn.json(&["gc", "--dry-run", "--max-bytes", "1M"], &[]);
    assert_eq!((code, subjects(&would["evicted"])), (0, vec![first.as_str()]), "{would}");
    assert!(would["bytes"].as_u64() >= Some(3_000_000), "it tells how much that gives: {would}");
    assert_eq!(firn.json(&["status"], &[]).1["store"]["trees"], 2, "a dry run changes nothing");
    let (code, gone) = firn.json(&["gc", "--max-bytes", "1M"], &[]);
    assert_eq!((code, subjects(&gone["evicted"])), (0, vec![first.as_str()]), "{gone}");
    assert!(gone["bytes"].as_u64() >= Some(3_000_000) && gone["blobs"] == 1, "{gone}");
    assert!(gone["disk_bytes"].as_u64() < Some(3_500_000), "{gone}");
    assert_eq!(firn.json(&["get", &first], &[]).0, 3, "it is gone");
    for stays in [&second, &own] {
        assert_eq!(firn.json(&["verify", stays], &[]).0, 0);
    }
    // Unpinned, it goes as well.
    firn.run(&["pin", "rm", &second], &[]);
    assert_eq!(subjects(&firn.json(&["gc", "--max-bytes", "1M"], &[]).1["evicted"]), [second.as_str()]);
    assert_eq!(firn.json(&["verify"], &[]).1["checked"], 1);
    node.end();
}

#[test]
fn a_node_keeps_its_store_within_its_limit() {
    let (_seeder, seeding, [first, second]) = seeder();
    let firn = Firn::new();
    for root in [&first, &second] {
        assert_eq!(firn.json(&["get", root, "--peer", &seeding.peer()], &[]).0, 0);
    }
    // The second was used last.
    let node = firn.node(&["--store-bytes-max", "4M"]);
    let begun = Instant::now();
    let store = loop {
        let store = firn.json(&["status"], &[]).1["store"].clone();
        if store["trees"] == 1 {
            break store;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{store}");
    };
    assert_eq!(store["disk_bytes_max"], 4 << 20);
    let (code, json) = firn.json(&["verify", &second], &[]);
    assert_eq!(code, 0, "{json}");
    // A node makes room when it is told to, too.
    assert_eq!(subjects(&firn.json(&["gc", "--max-bytes", "0"], &[]).1["evicted"]), [second.as_str()]);
    node.end();
    seeding.end();
}

#[test]
fn stats_count_what_is_equal_once() {
    let firn = Firn::new();
    for name in ["one", "two"] {
        fs::create_dir(firn.path(name)).unwrap();
        fs::write(firn.path(name).join("same"), noise(1, 100_000)).unwrap();
        fs::write(firn.path(name).join("name"), name).unwrap();
        assert_eq!(firn.json(&["add", name], &[]).0, 0);
    }
    let (code, alone) = firn.json(&["store", "stats"], &[]);
    assert_eq!((code, &alone["paths"], &alone["pinned"]), (0, &2.into(), &2.into()), "{alone}");
    assert_eq!((&alone["total_bytes"], &alone["unique_bytes"]), (&200_006.into(), &100_006.into()));
    let node = firn.node(&[]);
    let (_, asked) = firn.json(&["store", "stats"], &[]);
    assert_eq!((&asked["total_bytes"], &asked["blobs"]), (&alone["total_bytes"], &3.into()));
    node.end();
}

#[test]
fn sizes_are_read_as_people_write_them() {
    let firn = Firn::new();
    let check = |size: &str| firn.json(&["node", "--check", &format!("--store-bytes-max={size}")], &[]);
    for (size, bytes) in
        [("50G", Some(50_u64 << 30)), ("1.5M", Some(3 << 19)), ("none", None), ("7", Some(7))]
    {
        assert_eq!(check(size).1["store_bytes_max"], Value::from(bytes), "{size}");
    }
    for wrong in ["50 gigs", "G", "-1", "99999999T"] {
        let (code, json) = check(wrong);
        assert_eq!(code, 2, "{wrong}: {json}");
        assert!(json["error"].as_str().unwrap().contains("store-bytes-max"), "{json}");
    }
}
