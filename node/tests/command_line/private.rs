//! Nobody but its owner reads what a data directory has, whatever the umask was and whoever made the directory.

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

use crate::world::{Firn, line, lines, noise};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// All in a data directory is for its owner alone. Gives how many entries it has.
fn assert_closed(data_dir: &Path) -> usize {
    let entries = walkdir::WalkDir::new(data_dir).min_depth(1).into_iter().map(Result::unwrap);
    let modes: Vec<_> = entries.map(|entry| (entry.path().to_owned(), entry.file_type())).collect();
    for (path, kind) in &modes {
        let wanted = if kind.is_dir() { 0o700 } else { 0o600 };
        assert!(kind.is_dir() || kind.is_file() || kind.is_socket(), "{}", path.display());
        assert_eq!(mode(path), wanted, "{}: {:o}", path.display(), mode(path));
    }
    modes.len()
}

/// Runs the program under a umask.
fn run_under(firn: &Firn, umask: &str, arguments: &[&str]) -> std::process::Output {
    firn.after(&format!("umask {umask}"), &firn.command(arguments)).output().unwrap()
}

fn write_trees(firn: &Firn) {
    fs::create_dir(firn.path("tree")).unwrap();
    fs::write(firn.path("tree/large"), noise(1, 2_500_000)).unwrap();
    fs::write(firn.path("tree/small"), "secret").unwrap();
}

#[test]
fn a_data_directory_that_others_may_read_has_nothing_that_they_may() {
    for umask in ["000", "022", "0277"] {
        let firn = Firn::new();
        write_trees(&firn);
        fs::create_dir(firn.path("data")).unwrap();
        set_mode(&firn.path("data"), 0o755);
        let data = ["--data-dir", "data"];
        let add = run_under(&firn, umask, &[&["add", "tree"], &data[..]].concat());
        let path = lines(&add).remove(0);
        assert!(assert_closed(&firn.path("data")) > 10);
        assert_eq!(mode(&firn.path("data")), 0o755, "it is not ours");
        // What is written out is as the umask wants it.
        if umask != "0277" {
            line(&run_under(&firn, umask, &[&["get", &path, "-o", "out"], &data[..]].concat()));
            let wanted = 0o644;
            assert_eq!(mode(&firn.path("out/small")), wanted);
        }
    }
}

#[test]
fn a_node_makes_nothing_that_others_may_read_and_closes_what_was_open() {
    let firn = Firn::new();
    write_trees(&firn);
    let data = firn.path("data");
    fs::create_dir(&data).unwrap();
    set_mode(&data, 0o755);
    line(&firn.run(&["add", "tree", "--data-dir", "data"], &[]));
    fs::write(data.join("liars.json"), "no json").unwrap();
    fs::create_dir(data.join("store/blobs/zz")).unwrap();
    for entry in walkdir::WalkDir::new(&data).min_depth(1) {
        let entry = entry.unwrap();
        set_mode(entry.path(), if entry.file_type().is_dir() { 0o755 } else { 0o644 });
    }
    let node = firn.node(&["--role", "seed", "--data-dir", "data"]);
    assert!(data.join("control.sock").exists() && data.join("node.key").exists());
    assert!(data.join("liars.json.damaged").exists());
    assert_closed(&data);
    node.end();
    assert_closed(&data);
}

#[test]
fn another_user_reads_nothing_of_a_store() {
    if !rustix::process::geteuid().is_root() {
        return; // There is nobody else to be.
    }
    let firn = Firn::new();
    write_trees(&firn);
    for dir in [firn.path(""), firn.path("tree")] {
        set_mode(&dir, 0o755);
    }
    fs::create_dir(firn.path("data")).unwrap();
    set_mode(&firn.path("data"), 0o755);
    line(&run_under(&firn, "000", &["add", "tree", "--data-dir", "data"]));
    let others = |command: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(firn.path("")).uid(65534).gid(65534);
        shell.output().unwrap().status.success()
    };
    assert!(others("ls data"), "it is there");
    for command in ["ls data/store", "cat data/store/packs/00000001", "cat data/store/index.redb"] {
        assert!(!others(command), "{command}");
    }
}
