//! What is damaged is whole again where that is said, and who may have it is as it was.

use std::{fs, path::Path};

use serde_json::Value;

use crate::world::{Firn, Node, error, line, lines, noise};

/// Three levels of directories, with a large file and small ones at each.
fn write_levels(to: &Path) {
    let mut dir = to.to_owned();
    for level in 0..3 {
        fs::create_dir_all(&dir).unwrap();
        for file in 0..5 {
            fs::write(dir.join(format!("file-{file}")), noise(10 * level + file, 5000)).unwrap();
        }
        fs::write(dir.join("large"), noise(100 + level, 1_500_000)).unwrap();
        dir = dir.join("inner");
    }
}

/// Something that may happen to a pack, and its name.
type Harm = (&'static str, fn(&Path));

fn harms() -> [Harm; 5] {
    [
        ("gone", |pack| fs::remove_file(pack).unwrap()),
        ("a directory", |pack| {
            fs::remove_file(pack).unwrap();
            fs::create_dir(pack).unwrap();
        }),
        ("other bytes", |pack| {
            fs::write(pack, noise(7, fs::metadata(pack).unwrap().len() as usize)).unwrap()
        }),
        ("short", |pack| fs::File::options().write(true).open(pack).unwrap().set_len(1000).unwrap()),
        ("empty", |pack| fs::write(pack, "").unwrap()),
    ]
}

/// A node that has the tree and gives it away, and the key that has signed it.
fn seeder() -> (Firn, Node, String) {
    let seeder = Firn::new();
    write_levels(&seeder.path("tree"));
    let key = seeder.key("k-1", "key");
    line(&seeder.run(&["add", "tree", "--sign-key", "key"], &[]));
    let node = seeder.node(&["--role", "seed"]);
    (seeder, node, key)
}

fn is_whole(firn: &Firn) -> bool {
    let (code, json) = firn.json(&["verify"], &[]);
    assert_eq!(json["damages"].as_array().unwrap().is_empty(), code == 0, "{json}");
    code == 0 && json["checked"].as_u64() > Some(0)
}

fn all_are_repaired(json: &Value) -> bool {
    json["damages"].as_array().unwrap().iter().all(|damage| damage["repaired"] == true)
}

#[test]
fn a_lost_pack_is_whole_again_after_the_tree_was_added_once_more() {
    for (harm, harm_pack) in harms() {
        let firn = Firn::new();
        write_levels(&firn.path("tree"));
        line(&firn.run(&["add", "tree"], &[]));
        harm_pack(&firn.store("packs/00000001"));
        assert!(!is_whole(&firn), "{harm}");
        line(&firn.run(&["add", "tree", "--rehash"], &[]));
        assert!(is_whole(&firn), "{harm}");
        assert_eq!(firn.json(&["gc"], &[]).0, 0, "{harm}");
        assert!(is_whole(&firn), "{harm}");
    }
}

#[test]
fn a_lost_pack_is_got_again_from_a_peer_at_once() {
    let (_seeder, node, key) = seeder();
    let peer = node.peer();
    for (harm, harm_pack) in harms() {
        let firn = Firn::new();
        write_levels(&firn.path("tree"));
        let path = lines(&firn.run(&["add", "tree", "--share"], &[])).remove(0);
        harm_pack(&firn.store("packs/00000001"));
        let repair = ["verify", "--repair", "--peer", &peer, "--trust", &key, "--mdns", "false"];
        let (code, json) = firn.json(&repair, &[]);
        // The Directories that came show what else is damaged.
        assert!(json["damages"].as_array().unwrap().len() > 10, "{harm}: {json}");
        assert_eq!((code, all_are_repaired(&json)), (0, true), "{harm}: {json}");
        assert!(is_whole(&firn), "{harm}");
        assert_eq!(firn.json(&["gc"], &[]).0, 0, "{harm}");
        line(&firn.run(&["get", &path, "-o", "out"], &[]));
        assert_eq!(fs::read(firn.path("out/inner/inner/large")).unwrap(), noise(102, 1_500_000));
    }
    node.end();
}

#[test]
fn what_was_private_stays_private_whether_it_can_be_repaired_or_not() {
    let (_seeder, node, key) = seeder();
    let status = |firn: &Firn| {
        let store = firn.json(&["status"], &[]).1["store"].clone();
        ["paths", "paths_shared", "trees", "trees_shared"].map(|count| store[count].as_u64().unwrap())
    };
    // The peer has all of the one tree, and of the other what the two have in common.
    for (tree, is_there) in [("tree", true), ("more", false)] {
        let firn = Firn::new();
        write_levels(&firn.path(tree));
        if !is_there {
            fs::write(firn.path("more/inner/only-here"), noise(1000, 70_000)).unwrap();
        }
        let added = lines(&firn.run(&["add", tree], &[]));
        assert_eq!(status(&firn), [1, 0, 0, 0]);
        fs::remove_file(firn.store("packs/00000001")).unwrap();
        let settings = ["--peer", &node.peer(), "--trust", &key, "--mdns", "false"];
        let (code, json) = firn.json(&[&["verify", "--repair"], &settings[..]].concat(), &[]);
        assert_eq!((code == 0, all_are_repaired(&json)), (is_there, is_there), "{json}");
        let [_, shared, _, trees_shared] = status(&firn);
        assert_eq!((shared, trees_shared), (0, 0), "{json}");
        // Got by its name, as Nix gets it too, it is no less private.
        fs::remove_file(firn.store("packs/00000001")).ok();
        let _ = firn.json(&[&["get", &added[0]], &settings[..]].concat(), &[]);
        let _ = firn.json(&[&["get", &added[1]], &settings[..]].concat(), &[]);
        let [_, shared, _, trees_shared] = status(&firn);
        assert_eq!((shared, trees_shared), (0, 0));
    }
    node.end();
}

#[test]
fn a_new_index_has_what_the_packs_and_files_have() {
    let (_seeder, node, key) = seeder();
    let firn = Firn::new();
    write_levels(&firn.path("tree"));
    let [path, root] = lines(&firn.run(&["add", "tree"], &[])).try_into().unwrap();
    let index = firn.store("index.redb");
    let harms: [fn(&Path); 3] = [
        |index| fs::remove_file(index).unwrap(),
        |index| fs::write(index, noise(3, 100_000)).unwrap(),
        |index| fs::write(index, "").unwrap(),
    ];
    for harm in harms {
        harm(&index);
        let (code, json) = firn.json(&["status"], &[]);
        assert_eq!(code, 1, "{json}");
        assert!(error(&json).contains("firn verify --rebuild-index"), "{json}");
        let (code, json) = firn.json(&["verify", "--rebuild-index"], &[]);
        assert_eq!((code, &json["trees"], &json["damaged"]), (0, &1.into(), &0.into()), "{json}");
        assert_eq!((&json["blobs"], &json["directories"]), (&18.into(), &3.into()), "{json}");
        assert!(json["old_index"].as_str().is_none_or(|old| Path::new(old).exists()), "{json}");
        assert!(is_whole(&firn));
        let status = firn.json(&["status"], &[]).1["store"].clone();
        assert_eq!((&status["paths"], &status["trees"]), (&0.into(), &1.into()), "{status}");
        assert_eq!(status["trees_shared"], 0, "nobody may have what was perhaps private");
        // It stays, and is found again by its path without its contents.
        assert_eq!(firn.json(&["gc"], &[]).0, 0);
        let (code, json) = firn.json(&["get", &root, "-o", "by-root"], &[]);
        assert_eq!((code, &json["fetched_bytes"]), (0, &0.into()), "{json}");
        fs::remove_dir_all(firn.path("by-root")).unwrap();
        let get = ["get", &path, "--peer", &node.peer(), "--trust", &key, "--mdns", "false"];
        let (code, json) = firn.json(&get, &[]);
        assert_eq!((code, &json["fetched_bytes"]), (0, &0.into()), "{json}");
    }
    let held = firn_store::DiskStore::open(&firn.store("")).unwrap();
    assert_eq!(firn.json(&["verify", "--rebuild-index"], &[]).0, 1, "somebody uses it");
    drop(held);
    node.end();
}
