//! The trees that are added and fetched, and what is known of them beforehand.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use serde_json::Value;
use walkdir::WalkDir;

use crate::{chance::Chance, world::Home};

/// Longer than a piece, so that the store has it as a file of its own.
const LARGE_BYTES: usize = 1_300_000;
/// A fetch of it takes many requests, and comes in part where the node is killed.
const FETCHED_BYTES: usize = 8_000_000;

/// A tree by the name under which the store has it.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Where its files are.
    pub(crate) dir: PathBuf,
    /// The store path if it is added, the root if it is fetched.
    pub(crate) what: String,
    pub(crate) root: String,
    pub(crate) nar_hash: String,
    pub(crate) is_fetched: bool,
}

impl Tree {
    /// What the program answered is about this tree.
    pub(crate) fn is_named_by(&self, subject: &str) -> bool {
        key(subject) == key(&self.what)
    }
}

/// A path that is not here any more is told by its hash alone.
fn key(subject: &str) -> &str {
    match subject.strip_prefix("/nix/store/") {
        Some(base) => base.split_once('-').map_or(base, |(hash, _)| hash),
        None => subject,
    }
}

/// Writes trees to be added, and learns their names from another store.
pub(crate) fn to_add(count: usize, home: &Home, other: &Home) -> Vec<Tree> {
    let tree = |number| {
        let dir = home.path(&format!("tree-{number}"));
        write(&dir, number as u64);
        named(dir, other, false)
    };
    (0..count).map(tree).collect()
}

/// Writes trees to be fetched from the other store.
pub(crate) fn to_fetch(count: usize, other: &Home) -> Vec<Tree> {
    let tree = |number| {
        let dir = other.path(&format!("large-{number}"));
        write(&dir, 1000 + number as u64);
        let mut chance = Chance::of(2000 + number as u64);
        fs::write(dir.join("very-large"), chance.bytes(FETCHED_BYTES)).unwrap();
        named(dir, other, true)
    };
    (0..count).map(tree).collect()
}

fn named(dir: PathBuf, other: &Home, is_fetched: bool) -> Tree {
    let place = dir.to_str().unwrap();
    let share: &[&str] = if is_fetched { &["--share"] } else { &[] };
    let added = other.ask(&[&["add", "--in-place", place], share].concat()).done();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let root = text(&added["root"]);
    let what = if is_fetched { root.clone() } else { text(&added["store_path"]) };
    Tree { dir, what, root, nar_hash: text(&added["paths"][0]["nar_hash"]), is_fetched }
}

/// Some of it is like in other trees, some of it is not.
fn write(dir: &Path, number: u64) {
    let mut chance = Chance::of(number);
    fs::create_dir_all(dir.join("own/empty")).unwrap();
    fs::write(dir.join("as-others"), Chance::of(number % 5).bytes(40_000)).unwrap();
    for file in 0..12 {
        let length = 200 + chance.below(20_000) as usize;
        fs::write(dir.join(format!("own/{file}")), chance.bytes(length)).unwrap();
    }
    if number % 4 == 1 {
        fs::write(dir.join("large"), chance.bytes(LARGE_BYTES)).unwrap();
    }
    fs::write(dir.join("run"), format!("#!/bin/sh\necho {number}\n")).unwrap();
    fs::set_permissions(dir.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("own/1", dir.join("link")).unwrap();
}

/// Fails unless these are equal, byte for byte.
pub(crate) fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (read(one), read(other));
    assert!(one.keys().eq(other.keys()), "{:?} is not {:?}", one.keys(), other.keys());
    for (name, entry) in &one {
        assert!(*entry == other[name], "{} differs", name.display());
    }
}

/// What a tree has in it, with the owner's executable bit.
fn read(dir: &Path) -> BTreeMap<PathBuf, (bool, Vec<u8>)> {
    let entry = |entry: walkdir::DirEntry| {
        let kind = entry.file_type();
        let entry_of = match (kind.is_file(), kind.is_symlink()) {
            (true, _) => {
                let mode = entry.metadata().unwrap().permissions().mode();
                (mode & 0o100 != 0, fs::read(entry.path()).unwrap())
            }
            (_, true) => (false, fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes()),
            _ => (false, Vec::new()),
        };
        (entry.path().strip_prefix(dir).unwrap().to_owned(), entry_of)
    };
    WalkDir::new(dir).into_iter().map(|found| entry(found.unwrap())).collect()
}
