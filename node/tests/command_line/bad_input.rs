//! Stores and trees that are not as they should be: one clear message, and what was there before is still there.

use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::world::{Firn, error, lines, noise, text, write_tree};

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A store with a tree of small files and a large one.
fn filled() -> (Firn, [String; 2]) {
    let firn = Firn::new();
    write_tree(&firn.path("small"));
    fs::create_dir(firn.path("large")).unwrap();
    fs::write(firn.path("large/file"), noise(5, 2_500_000)).unwrap();
    let add = |name| lines(&firn.run(&["add", name], &[])).remove(0);
    let paths = [add("small"), add("large")];
    (firn, paths)
}

/// All files beneath, but not directories.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(dir).sort_by_file_name().into_iter().map(Result::unwrap);
    entries.filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path()).collect()
}

fn flip(file: &Path, from_start: bool, offset: u64) {
    let mut file = fs::File::options().read(true).write(true).open(file).unwrap();
    let position = match from_start {
        true => file.seek(SeekFrom::Start(offset)).unwrap(),
        false => file.seek(SeekFrom::End(-(offset as i64))).unwrap(),
    };
    let mut byte = [0];
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(position)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
}

/// Verify tells of damage, of this path and not of the other.
fn assert_damaged(firn: &Firn, damaged: &str, whole: &str) {
    let (code, json) = firn.json(&["verify"], &[]);
    let named: Vec<&str> = json["damages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|damage| damage["subject"].as_str().unwrap())
        .collect();
    assert_eq!(code, 1, "{json}");
    assert!(named.contains(&damaged) && !named.contains(&whole), "{json}");
    assert_eq!(firn.json(&["verify", whole], &[]).0, 0);
}

#[test]
fn a_store_of_another_version_is_left_alone_and_one_is_told_what_to_do() {
    let (firn, [path, _]) = filled();
    let version = firn.store("version");
    let ours = fs::read(&version).unwrap();
    for (stamp, word) in [("1\n", "earlier"), ("99\n", "later"), ("?\n", "version")] {
        fs::write(&version, stamp).unwrap();
        for command in [&["add", "small"][..], &["status"], &["node", "--http", "127.0.0.1:0"]] {
            let (code, json) = firn.json(command, &[]);
            assert_eq!(code, 1, "{stamp}: {json}");
            assert!(error(&json).contains(word) && error(&json).contains("store"), "{json}");
        }
        assert_eq!(fs::read_to_string(&version).unwrap(), stamp);
    }
    fs::write(&version, ours).unwrap();
    assert_eq!(firn.json(&["verify", &path], &[]).0, 0);
}

#[test]
fn a_directory_that_is_no_store_is_not_made_one() {
    let firn = Firn::new();
    fs::create_dir_all(firn.store("")).unwrap();
    fs::write(firn.store("thesis.tex"), "years of work").unwrap();
    let (code, json) = firn.json(&["status"], &[]);
    assert_eq!(code, 1);
    assert!(error(&json).contains("thesis.tex"), "{json}");
    assert_eq!(files(&firn.store("")), [firn.store("thesis.tex")]);
}

#[test]
fn a_foreign_file_in_a_store_stays_and_harms_nothing() {
    let (firn, [path, _]) = filled();
    for name in ["notes.txt", "packs/notes.txt", "blobs/notes.txt"] {
        fs::write(firn.store(name), "notes").unwrap();
    }
    assert_eq!(firn.json(&["verify"], &[]).0, 0);
    assert_eq!(firn.json(&["gc"], &[]).0, 0);
    assert_eq!(firn.json(&["verify", &path], &[]).0, 0);
    for name in ["notes.txt", "packs/notes.txt", "blobs/notes.txt"] {
        assert!(firn.store(name).exists(), "{name}");
    }
}

#[test]
fn a_store_that_may_not_be_written_to_says_so() {
    let (firn, _) = filled();
    let before = files(&firn.store(""));
    for dir in [firn.store("packs"), firn.store("temp"), firn.store("")] {
        mode(&dir, 0o555);
    }
    mode(&firn.store("lock"), 0o444);
    mode(&firn.store("index.redb"), 0o444);
    let (code, json) = firn.run_unprivileged(&["add", "small"]);
    assert_eq!(code, 1, "{json}");
    assert!(error(&json).contains("firn/store") && error(&json).contains("--data-dir"), "{json}");
    assert_eq!(files(&firn.store("")), before);
    // Nor one that cannot even be made.
    let other = Firn::new();
    fs::create_dir(other.path("closed")).unwrap();
    mode(&other.path("closed"), 0o555);
    let (code, json) = other.run_unprivileged(&["status", "--data-dir", "closed/data"]);
    assert_eq!((code, error(&json).contains("closed/data")), (1, true), "{json}");
}

#[test]
fn a_file_that_may_not_be_read_a_socket_and_an_endless_link() {
    let firn = Firn::new();
    write_tree(&firn.path("tree"));
    symlink("endless", firn.path("tree/endless")).unwrap();
    symlink(".", firn.path("tree/again")).unwrap();
    let (code, added) = firn.json(&["add", "tree"], &[]);
    assert_eq!(code, 0, "a link is a link, wherever it leads: {added}");

    write_tree(&firn.path("listening"));
    let _socket = UnixListener::bind(firn.path("listening/sub/socket")).unwrap();
    for arguments in [&["add", "listening"][..], &["add", "--in-place", "listening"]] {
        let (code, json) = firn.json(arguments, &[]);
        assert_eq!(code, 1);
        assert!(error(&json).contains("listening/sub/socket"), "{json}");
    }
    let (code, json) = firn.json(&["add", "/dev/null"], &[]);
    assert_eq!((code, error(&json).contains("/dev/null")), (1, true), "{json}");

    write_tree(&firn.path("closed"));
    mode(&firn.path("closed/sub/file"), 0o000);
    let (code, json) = firn.run_unprivileged(&["add", "closed"]);
    assert_eq!(code, 1, "{json}");
    assert!(error(&json).contains("closed/sub/file") && error(&json).contains("denied"), "{json}");
    let (_, status) = firn.json(&["status"], &[]);
    assert_eq!(status["store"]["paths"], 1, "what was there is there, and nothing else");
}

#[test]
fn a_large_file_that_is_gone_cut_or_changed_is_damage_of_its_path_alone() {
    for harm in [
        (|file: &Path| fs::remove_file(file).unwrap()) as fn(&Path),
        |file| fs::File::options().write(true).open(file).unwrap().set_len(1_000_000).unwrap(),
        |file| flip(file, true, 1_500_000),
        |file| flip(file, false, 10),
    ] {
        let (firn, [small, large]) = filled();
        let blobs = files(&firn.store("blobs"));
        assert_eq!(blobs.len(), 1, "{blobs:?}");
        harm(&blobs[0]);
        assert_damaged(&firn, &large, &small);
        // Its user has it, and adds it again.
        assert_eq!(firn.json(&["add", "large", "--rehash"], &[]).0, 0);
        assert_eq!(firn.json(&["verify"], &[]).0, 0);
        harm(&files(&firn.store("blobs"))[0]);
        // Nobody else has it, so it stays lost, and the rest stays.
        assert_eq!(firn.json(&["verify", "--repair"], &[]).0, 1);
        assert_eq!(firn.json(&["verify"], &[]).0, 1, "it is still wanted");
        assert_eq!(firn.json(&["verify", &small], &[]).0, 0);
        // What was put aside is added again without being told to be looked at.
        assert_eq!(firn.json(&["add", "large"], &[]).0, 0);
        let (code, json) = firn.json(&["verify"], &[]);
        assert_eq!(code, 0, "{json}");
    }
}

#[test]
fn a_pack_that_is_cut_or_changed_is_damage_that_is_named() {
    let packs = |firn: &Firn| files(&firn.store("packs"));
    let (firn, [_, large]) = filled();
    let pack = packs(&firn).remove(0);
    let length = fs::metadata(&pack).unwrap().len();
    fs::File::options().write(true).open(&pack).unwrap().set_len(length / 2).unwrap();
    let (code, json) = firn.json(&["verify"], &[]);
    assert_eq!(code, 1, "{json}");
    let told = json.to_string();
    assert!(told.contains("packs/"), "the pack is named: {told}");

    let (firn, _) = filled();
    let pack = packs(&firn).remove(0);
    flip(&pack, true, 1000);
    let (code, json) = firn.json(&["verify"], &[]);
    assert_eq!(code, 1, "{json}");
    assert!(json.to_string().contains("packs/"), "{json}");
    assert_eq!(firn.json(&["verify", &large], &[]).0, 0);
}

#[test]
fn an_index_that_is_damaged_is_named_and_left_as_it_is() {
    let (firn, _) = filled();
    let index = firn.store("index.redb");
    for offset in 0..8 {
        flip(&index, true, offset);
    }
    let before = fs::read(&index).unwrap();
    let (code, json) = firn.json(&["status"], &[]);
    assert_eq!(code, 1, "{json}");
    assert!(error(&json).contains("index.redb"), "{json}");
    assert!(fs::read(&index).unwrap() == before);
    fs::remove_file(&index).unwrap();
    let (code, json) = firn.json(&["status"], &[]);
    assert_eq!((code, error(&json).contains("index.redb")), (1, true), "{json}");
    assert!(error(&json).contains("--rebuild-index"), "what to do is told: {json}");
    assert!(!index.exists());
}

#[test]
fn a_flipped_bit_in_the_index_is_harmless_or_named_in_one_line() {
    let (firn, paths) = filled();
    let index = firn.store("index.redb");
    let whole = fs::read(&index).unwrap();
    // A prime, so that all parts of a page are met.
    for offset in (0..whole.len() as u64).step_by(1_499) {
        fs::write(&index, &whole).unwrap();
        flip(&index, true, offset);
        let status = firn.run(&["status", "--json"], &[]);
        let told: Value = serde_json::from_slice(&status.stdout).unwrap();
        match status.status.success() {
            true => assert_eq!(told["store"]["paths"], paths.len(), "{offset}: {told}"),
            false => assert!(error(&told).contains("index.redb"), "{offset}: {told}"),
        }
        assert_eq!(text(&status.stderr), "", "{offset}");
    }
}

#[test]
fn what_stands_where_the_store_should_be_is_named() {
    let (firn, _) = filled();
    // What is no file is put aside, or passed over, and is in nobody's way.
    fs::create_dir(firn.store("temp/foreign")).unwrap();
    fs::create_dir(firn.store("packs/00000009")).unwrap();
    fs::create_dir(firn.store("packs/foreign")).unwrap();
    symlink("/dev/zero", firn.store("packs/0000000a")).unwrap();
    let blob = files(&firn.store("blobs")).remove(0);
    UnixListener::bind(blob.with_file_name("socket")).unwrap();
    fs::create_dir_all(firn.store("blobs/00").join("0".repeat(64))).unwrap();
    // As after a kill, so that all is looked at.
    fs::write(firn.store("lock"), "1\n").unwrap();
    let (code, json) = firn.json(&["status"], &[]);
    assert_eq!((code, &json["store"]["paths"]), (0, &2.into()), "{json}");
    assert!(firn.store("quarantine/foreign").is_dir());
    assert_eq!(firn.json(&["verify"], &[]).0, 0);
    assert_eq!(firn.json(&["gc"], &[]).0, 0);
    fs::write(firn.path("another"), noise(77, 10_000)).unwrap();
    assert_eq!(firn.json(&["add", "another"], &[]).0, 0);
    fs::write(firn.path("file"), "").unwrap();
    for place in ["file", "file/below"] {
        let (code, json) = firn.json(&["status", "--data-dir", place], &[]);
        assert_eq!((code, error(&json).contains("the data directory")), (1, true), "{json}");
    }
}
