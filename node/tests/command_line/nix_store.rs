//! Adding what stands in a Nix store.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::Value;

use crate::world::{Firn, lines, nix_sign, nix_store_add, write_tree};

/// A Nix store below the home with one tree; gives the tree's store path.
fn add_to_nix(firn: &Firn) -> String {
    write_tree(&firn.path("tree"));
    nix_store_add(&firn.path(""), &firn.path("tree"))
}

fn on_disk(firn: &Firn, store_path: &str) -> std::path::PathBuf {
    firn.path("nix-root").join(store_path.strip_prefix('/').unwrap())
}

fn add(firn: &Firn, arguments: &[&str]) -> (i32, Value) {
    firn.json(&[&["add", "--nix-root", firn.path("nix-root").to_str().unwrap()], arguments].concat(), &[])
}

#[test]
fn a_path_of_the_nix_store_is_added_as_what_nix_says_it_is() {
    let firn = Firn::new();
    let path = add_to_nix(&firn);
    let (code, added) = add(&firn, &[&path, "--closure"]);
    assert_eq!((code, &added["store_path"]), (0, &path.as_str().into()), "{added}");
    let (_, by_file) = add(&firn, &[on_disk(&firn, &path).to_str().unwrap()]);
    assert_eq!(by_file["paths"], added["paths"]);
    // The same tree without Nix has the same path and root.
    let (_, plain) = firn.json(&["add", "tree"], &[]);
    assert_eq!(plain["paths"], added["paths"]);

    let (code, json) = add(&firn, &[&path, "--name", "other"]);
    assert_eq!(code, 2, "{json}");
    let (code, json) = add(&firn, &["tree", "--closure"]);
    assert_eq!(code, 2, "only paths of the Nix store have a closure: {json}");
}

#[test]
fn a_path_that_is_not_what_nix_says_is_refused_by_its_name() {
    let firn = Firn::new();
    let path = add_to_nix(&firn);
    let file = on_disk(&firn, &path).join("sub/file");
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&file, 0o644);
    fs::write(&file, "Contents").unwrap();
    mode(&file, 0o444);
    let (code, json) = add(&firn, &[&path]);
    assert_eq!(code, 1, "{json}");
    let error = json["error"].as_str().unwrap();
    assert!(error.contains(&path) && error.contains("Nix's database"), "{error}");
    assert_eq!(firn.json(&["status"], &[]).1["store"]["paths"], 0);

    let unknown = path.replace("-tree", "-tree-2");
    let (code, json) = add(&firn, &[&unknown]);
    assert_eq!(code, 3, "{json}");
    assert!(json["error"].as_str().unwrap().contains(&unknown), "{json}");
}

#[test]
fn a_path_of_the_nix_store_is_adopted_because_its_user_names_it() {
    let firn = Firn::new();
    let path = add_to_nix(&firn);
    let root = firn.path("nix-root");
    let adopt = |arguments: &[&str]| {
        firn.json(&[&["adopt", "--nix-root", root.to_str().unwrap()], arguments].concat(), &[])
    };
    let (code, adopted) = adopt(&[&path, "--closure"]);
    assert_eq!((code, &adopted["paths"][0]["store_path"]), (0, &path.as_str().into()), "{adopted}");
    assert_eq!((&adopted["goes_on"], &adopted["store"]), (&false.into(), &Value::Null));
    assert_eq!(lines(&firn.run(&["pin", "list"], &[])), [format!("{path} adopted")]);
    let (_, stats) = firn.json(&["store", "stats"], &[]);
    assert!(stats["adopted_bytes"].as_u64() >= Some(200_000), "{stats}");

    // The whole store, of which nothing is signed.
    let (code, all) = adopt(&["/nix/store", "--once"]);
    assert_eq!((code, &all["store"]["complete"]), (0, &true.into()), "{all}");
    for (arguments, exit_code, word) in [
        (&["/etc"][..], 2, "/etc"),
        (&["/nix/store/00000000000000000000000000000001-app"], 3, "-app"),
        (&["/nix/store", "--jobs", "1", "--nix-root", "/nowhere"], 1, "/nowhere"),
    ] {
        let (code, json) =
            firn.json(&[&["adopt"], arguments].concat(), &[("FIRN_NIX_ROOT", root.to_str().unwrap())]);
        assert_eq!(code, exit_code, "{arguments:?}: {json}");
        assert!(json["error"].as_str().unwrap().contains(word), "{json}");
    }
}

#[test]
fn a_node_adopts_what_a_trusted_key_has_signed() {
    let firn = Firn::new();
    let signed = add_to_nix(&firn);
    fs::write(firn.path("other"), "not signed").unwrap();
    nix_store_add(&firn.path(""), &firn.path("other"));
    let key = nix_sign(&firn.path(""), &signed);
    let root = firn.path("nix-root");
    let root = root.to_str().unwrap();
    let node = firn.node(&["--role", "seed", "--trust", &key, "--nix-root", root, "--adopt", "/nix/store"]);
    let (code, adopted) = firn.json(&["adopt", "/nix/store", "--once", "--nix-root", root], &[]);
    assert_eq!((code, &adopted["goes_on"]), (0, &true.into()), "{adopted}");
    let (_, status) = firn.json(&["status"], &[]);
    let (adopt, store) = (&status["adopt"], &status["store"]);
    assert_eq!((&adopt["total_paths"], &adopt["adopted_paths"]), (&2.into(), &1.into()), "{status}");
    assert_eq!((&adopt["untrusted_paths"], &adopt["complete"]), (&1.into(), &true.into()), "{status}");
    assert_eq!((&store["paths"], &store["paths_shared"]), (&1.into(), &1.into()), "{status}");
    let (code, got) = firn.json(&["get", &signed, "-o", "out"], &[]);
    assert_eq!((code, &got["fetched_bytes"]), (0, &0.into()), "{got}");
    node.end();
}
