//! Adding what stands in a Nix store.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::Value;

use crate::world::{Firn, nix_store_add, write_tree};

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
