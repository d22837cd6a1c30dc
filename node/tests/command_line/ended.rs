//! Commands and nodes that a signal ends.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
};

use rustix::process::Signal;

use crate::world::{Firn, Node, lines, signal, text};

/// A tree that takes a while to be written.
fn many_files(to: &Path) {
    for outer in 0..100 {
        let dir = to.join(outer.to_string());
        fs::create_dir_all(&dir).unwrap();
        for inner in 0..40 {
            fs::write(dir.join(inner.to_string()), format!("{outer} {inner}")).unwrap();
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Starts to write the tree out, and waits until a part of it is there; `None` if it was there whole before.
fn writing(firn: &Firn, root: &str) -> Option<Child> {
    let mut get = firn.command(&["get", root, "-o", "out/tree"]);
    let mut get = get.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    loop {
        let has_begun = |name: &String| firn.path("out").join(name).join("tree/1").exists();
        if names(&firn.path("out")).iter().any(has_begun) {
            return Some(get);
        }
        if get.try_wait().unwrap().is_some() {
            fs::remove_dir_all(firn.path("out/tree")).unwrap();
            return None;
        }
    }
}

/// Sends the signal to one that is at it, until one has not finished before it came; gives its exit code.
fn interrupted(firn: &Firn, root: &str, by: Signal) -> Option<i32> {
    for _ in 0..50 {
        let Some(mut get) = writing(firn, root) else { continue };
        signal(&get, by);
        let status = get.wait().unwrap();
        match firn.path("out/tree").exists() {
            true => fs::remove_dir_all(firn.path("out/tree")).unwrap(),
            false => return status.code(),
        }
    }
    panic!("it was always done before it could be interrupted");
}

fn home() -> (Firn, String) {
    let firn = Firn::new();
    many_files(&firn.path("many"));
    fs::create_dir(firn.path("out")).unwrap();
    let root = lines(&firn.run(&["add", "many"], &[])).remove(1);
    (firn, root)
}

#[test]
fn a_get_that_is_interrupted_leaves_nothing_beside_its_place() {
    let (firn, root) = home();
    for (by, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        assert_eq!(interrupted(&firn, &root, by), Some(code));
        assert_eq!(names(&firn.path("out")), [""; 0], "{by:?}");
    }
    // Nor where a node writes it.
    let node = firn.node(&[]);
    assert_eq!(interrupted(&firn, &root, Signal::INT), Some(130));
    node.end();
    assert!(!names(&firn.path("out")).iter().any(|name| name.starts_with('.')));
}

#[test]
fn what_a_killed_get_left_is_removed_by_the_next() {
    let (firn, root) = home();
    assert_eq!(interrupted(&firn, &root, Signal::KILL), None);
    assert_eq!(names(&firn.path("out")).len(), 1, "otherwise this test shows nothing");
    assert!(firn.run(&["get", &root, "-o", "out/tree"], &[]).status.success());
    assert_eq!(names(&firn.path("out")), ["tree"]);
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing_behind() {
    let firn = Firn::new();
    fs::create_dir(firn.path("tmp")).unwrap();
    fs::write(firn.path("file"), "text").unwrap();
    let mut demo = firn.command(&["demo", "file"]);
    let mut demo =
        demo.env("TMPDIR", firn.path("tmp")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let has_store =
        || names(&firn.path("tmp")).iter().any(|name| names(&firn.path("tmp").join(name)).len() > 1);
    while !has_store() {
        assert!(demo.try_wait().unwrap().is_none());
    }
    signal(&demo, Signal::INT);
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    assert_eq!(names(&firn.path("tmp")), [""; 0]);
}

#[test]
fn a_node_ends_well_when_its_terminal_closes_unless_it_is_told_not_to() {
    let firn = Firn::new();
    for by in [Signal::HUP, Signal::INT, Signal::TERM] {
        firn.node(&[]).end_by(by);
        assert!(!firn.path(".local/share/firn/control.sock").exists(), "{by:?}");
    }
    // As nohup starts it.
    let node = Node::start(firn.after("trap '' HUP", &firn.node_command(&[])));
    node.signal(Signal::HUP);
    let status = firn.run(&["status"], &[]);
    assert!(text(&status.stdout).contains("version"), "it runs: {}", text(&status.stdout));
    node.end();
}

#[test]
fn a_file_that_may_not_grow_is_an_error_and_not_the_end() {
    let firn = Firn::new();
    fs::write(firn.path("small"), "small").unwrap();
    fs::write(firn.path("large"), vec![7; 4 << 20]).unwrap();
    assert!(firn.run(&["add", "small"], &[]).status.success());
    // Two MiB, and more than the index has.
    let limited =
        |arguments: &[&str]| firn.after("ulimit -f 4096", &firn.command(arguments)).output().unwrap();
    let output = limited(&["add", "large"]);
    let error = text(&output.stderr);
    assert!(
        output.status.code() == Some(1) && error.contains("File too large"),
        "{:?}: {error}",
        output.status
    );
    let output = firn.run(&["add", "large"], &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}
