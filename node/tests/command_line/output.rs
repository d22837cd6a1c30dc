//! Where what a command prints cannot be written, or could steer a terminal.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::{ffi::OsStrExt, net::UnixListener},
    path::PathBuf,
    process::{Output, Stdio},
};

use clap::CommandFactory;

use crate::world::{Firn, Node, line, lines, nix_store_add, noise, text, write_tree};

/// A name that steers a terminal, and forges a line.
const EVIL: &str = "a\u{1b}]0;pwned\u{7}\u{1b}[2J\u{9b}31m\u{202e}\nfirn: forged\r";

/// A device that is full.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// A pipe that nobody reads any more.
fn gone() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// A home with a tree in its store, and a Nix store; the tree's path, its root, and what Nix has.
fn home() -> (Firn, [String; 3]) {
    let firn = Firn::new();
    write_tree(&firn.path("tree"));
    write_tree(&firn.path("new"));
    let added = lines(&firn.run(&["add", "tree"], &[]));
    let nix = nix_store_add(&firn.path(""), &firn.path("new"));
    (firn, [added[0].clone(), added[1].clone(), nix])
}

/// What is run, and what shows that it has done its work.
type Case<'a> = (Vec<&'a str>, fn(&Firn) -> bool);

fn case<'a>(arguments: &[&'a str], is_done: fn(&Firn) -> bool) -> Case<'a> {
    (arguments.to_vec(), is_done)
}

fn pins(firn: &Firn) -> String {
    line(&firn.run(&["pin", "list"], &[]))
}

/// Each command once, in an order in which all succeed.
fn commands(of: &[String; 3]) -> Vec<Case<'_>> {
    let [path, root, nix] = of;
    vec![
        case(&["--help"], |_| true),
        case(&["--version"], |_| true),
        case(&["get", "--help"], |_| true),
        case(&["key", "generate", "k-1", "--out", "k.sec"], |firn| firn.path("k.sec").exists()),
        case(&["key", "public", "k.sec"], |_| true),
        case(&["node", "--check"], |_| true),
        case(&["add", "new"], |firn| firn.json(&["status"], &[]).1["store"]["paths"] == 2),
        case(&["adopt", "--nix-root", "nix-root", nix], |firn| pins(firn).contains("-new")),
        case(&["get", root, "-o", "out"], |firn| firn.path("out/sub/file").exists()),
        case(&["pin", "add", path, "--reason", "for tests"], |firn| pins(firn).contains("for tests")),
        case(&["pin", "list"], |_| true),
        case(&["pin", "rm", path], |firn| !pins(firn).contains("for tests")),
        case(&["status"], |_| true),
        case(&["verify"], |_| true),
        case(&["gc"], |_| true),
        case(&["store", "stats"], |_| true),
    ]
}

fn run(firn: &Firn, arguments: &[&str], stdout: Stdio, stderr: Stdio) -> Output {
    let mut command = firn.command(arguments);
    command.stdout(stdout).stderr(stderr).spawn().unwrap().wait_with_output().unwrap()
}

#[test]
fn each_command_is_tried_with_outputs_that_cannot_be_written() {
    fn leaves(command: &clap::Command, before: &[String], found: &mut Vec<Vec<String>>) {
        for next in command.get_subcommands() {
            let words = [before, &[next.get_name().to_owned()]].concat();
            match next.has_subcommands() {
                true => leaves(next, &words, found),
                false => found.push(words),
            }
        }
    }
    let mut found = Vec::new();
    leaves(&firn_node::cli::Cli::command(), &[], &mut found);
    let of = [(); 3].map(|()| String::new());
    let tried = commands(&of);
    // The demo has a test of its own below.
    for words in found.iter().filter(|words| *words != &["demo"]) {
        let is_it =
            |arguments: &Vec<&str>| arguments.iter().zip(words).all(|(argument, word)| argument == word);
        assert!(
            tried.iter().any(|(arguments, _)| arguments.len() >= words.len() && is_it(arguments)),
            "{words:?}"
        );
    }
}

#[test]
fn an_answer_that_cannot_be_written_is_an_error_and_the_work_is_done() {
    for json in [false, true] {
        let (firn, of) = home();
        for (arguments, is_done) in commands(&of) {
            let arguments = if json { [&["--json"][..], &arguments].concat() } else { arguments };
            let output = run(&firn, &arguments, full(), Stdio::piped());
            let told = text(&output.stderr);
            // Where all is as it should be, there is no answer but that.
            let says_nothing = !json && [["verify"], ["gc"]].iter().any(|quiet| arguments == quiet);
            assert_eq!(output.status.code(), Some(i32::from(!says_nothing)), "{arguments:?}: {told}");
            assert_ne!(
                told.contains("firn: the answer can't be written"),
                says_nothing,
                "{arguments:?}: {told}"
            );
            assert!(is_done(&firn), "{arguments:?}");
        }
    }
}

#[test]
fn what_is_told_besides_may_get_lost() {
    for stderr in [full, gone] {
        let (firn, of) = home();
        for (arguments, is_done) in commands(&of) {
            let output = run(&firn, &arguments, Stdio::piped(), stderr());
            assert!(output.status.success(), "{arguments:?}: {}", output.status);
            assert!(
                !output.stdout.is_empty() || ["pin", "gc", "verify"].contains(&arguments[0]),
                "{arguments:?}"
            );
            assert!(is_done(&firn), "{arguments:?}");
        }
        for (arguments, exit_code) in [(&["add", "nowhere"][..], 3), (&["nod"], 2), (&["add"], 2)] {
            let output = run(&firn, arguments, Stdio::piped(), stderr());
            assert_eq!(output.status.code(), Some(exit_code), "{arguments:?}");
        }
        // Also where the log has a lot to tell.
        let mut verify = firn.command(&["verify"]);
        let verify = verify.env("RUST_LOG", "trace").stdout(Stdio::null()).stderr(stderr());
        assert!(verify.status().unwrap().success());
    }
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let (firn, of) = home();
    for (arguments, is_done) in commands(&of) {
        let output = run(&firn, &arguments, gone(), Stdio::piped());
        assert!(output.status.success(), "{arguments:?}: {}", output.status);
        assert!(!text(&output.stderr).contains("firn: "), "{arguments:?}: {}", text(&output.stderr));
        assert!(is_done(&firn), "{arguments:?}");
    }
    let output = run(&firn, &["status"], gone(), gone());
    assert!(output.status.success());
}

#[test]
fn the_demo_does_not_need_anybody_who_listens() {
    let firn = Firn::new();
    write_tree(&firn.path("tree"));
    let output = run(&firn, &["demo", "tree"], Stdio::piped(), full());
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("identical"));
}

#[test]
fn a_node_that_can_log_nothing_gives_all_the_same() {
    let (seeder, consumer) = (Firn::new(), Firn::new());
    fs::write(seeder.path("file"), noise(1, 3_000_000)).unwrap();
    let root = lines(&seeder.run(&["add", "--share", "file"], &[])).remove(1);
    for stderr in [full, gone] {
        let mut command = seeder.node_command(&["--role", "seed"]);
        command.env("RUST_LOG", "debug").stderr(stderr());
        let giver = Node::start(command);
        let got = consumer.run(&["get", &root, "--peer", &giver.peer()], &[("RUST_LOG", "debug")]);
        assert!(got.status.success(), "{}", text(&got.stderr));
        let (code, status) = seeder.json(&["status"], &[]);
        assert_eq!((code, &status["running"]), (0, &true.into()), "{status}");
        giver.end();
        fs::remove_dir_all(consumer.path(".local/share/firn")).unwrap();
    }
}

#[test]
fn a_node_that_cannot_say_that_it_is_ready_says_so_in_its_log_and_goes_on() {
    let firn = Firn::new();
    let log = File::create(firn.path("log")).unwrap();
    let mut node = firn.node_command(&[]);
    let mut child = node.stdout(full()).stderr(log).spawn().unwrap();
    while !firn.path(".local/share/firn/control.sock").exists() {
        assert!(child.try_wait().unwrap().is_none(), "{}", fs::read_to_string(firn.path("log")).unwrap());
    }
    assert_eq!(firn.json(&["status"], &[]).1["running"], true);
    crate::world::signal(&child, rustix::process::Signal::TERM);
    assert!(child.wait().unwrap().success());
    let log = fs::read_to_string(firn.path("log")).unwrap();
    assert!(log.contains("can't be written to standard output"), "{log}");
}

/// What was printed has nothing in it that a terminal obeys, and no line that is not ours.
fn assert_plain(what: &str, printed: &[u8]) {
    let printed = text(printed);
    let obeyed = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(!printed.contains(obeyed), "{what}: {printed:?}");
    assert!(!printed.lines().any(|line| line.starts_with("firn: forged")), "{what}: {printed}");
}

#[test]
fn names_from_elsewhere_steer_no_terminal() {
    let (seeder, consumer) = (Firn::new(), Firn::new());
    fs::create_dir(seeder.path("tree")).unwrap();
    fs::write(seeder.path("tree").join(EVIL), "x".repeat(5000)).unwrap();
    let root = lines(&seeder.run(&["add", "--share", "tree"], &[])).remove(1);
    let giver = seeder.node(&["--role", "seed"]);
    let peer = giver.peer();
    let debug = [("RUST_LOG", "trace")];
    let mut printed: Vec<(&str, Output)> = Vec::new();
    printed.push(("get", consumer.run(&["get", &root, "--peer", &peer, "-o", "out"], &debug)));
    assert!(consumer.path("out").join(EVIL).exists(), "{}", text(&printed[0].1.stderr));
    giver.end();

    flip(consumer.store("packs/00000001"), &[b'x'; 5000]);
    for json in [&[][..], &["--json"]] {
        let verify = consumer.run(&[&["verify"], json].concat(), &debug);
        assert!(text(&verify.stdout).contains("pwned"), "{}", text(&verify.stdout));
        printed.push(("verify", verify));
        printed.push((
            "pin add",
            consumer.run(&[&["pin", "add", &root, "--reason", EVIL], json].concat(), &debug),
        ));
        printed.push(("pin list", consumer.run(&[&["pin", "list"], json].concat(), &debug)));
        // A socket cannot be added, and is named by its path.
        let sockets = consumer.path("sockets");
        fs::create_dir_all(&sockets).unwrap();
        let socket = sockets.join(OsStr::from_bytes(b"z\x1b]0;pwned\x07\nfirn: forged"));
        let _ = fs::remove_file(&socket);
        let _listening = UnixListener::bind(&socket).unwrap();
        let add = consumer.run(&[&["add", "sockets"], json].concat(), &debug);
        assert!(
            !add.status.success() && [&add.stdout, &add.stderr].iter().any(|out| text(out).contains("pwned"))
        );
        printed.push(("add", add));
        // What the user types may be names that the shell has put there.
        for arguments in
            [&["add", EVIL][..], &["get", EVIL], &["verify", EVIL], &["nod", EVIL], &["add", "a", EVIL]]
        {
            printed.push((arguments[0], consumer.run(&[arguments, json].concat(), &debug)));
        }
        for flag in ["--config", "--data-dir", "--nix-root"] {
            printed.push((flag, consumer.run(&[&["status", flag, EVIL], json].concat(), &debug)));
            printed.push((flag, consumer.run(&[&["node", "--check", flag, EVIL], json].concat(), &debug)));
        }
        for flag in ["--peer", "--role", "--trust", "--http"] {
            printed.push((flag, consumer.run(&[&["node", "--check", flag, EVIL], json].concat(), &debug)));
        }
        printed.push(("FIRN_ROLE", consumer.run(&[&["status"], json].concat(), &[("FIRN_ROLE", EVIL)])));
    }
    for json in [&[][..], &["--json"]] {
        printed.push(("get", consumer.run(&[&["get", &root, "-o", EVIL], json].concat(), &debug)));
    }
    for (what, output) in printed {
        assert_plain(what, &output.stdout);
        assert_plain(what, &output.stderr);
    }
}

#[test]
fn a_log_steers_no_terminal() {
    let firn = Firn::new();
    let data = firn.path(EVIL);
    let mut command = firn.node_command(&["--data-dir", data.to_str().unwrap()]);
    command.env("RUST_LOG", "trace").stderr(File::create(firn.path("log")).unwrap());
    let node = Node::start(command);
    fs::write(firn.path("file"), "text").unwrap();
    assert!(firn.run(&["--data-dir", EVIL, "add", "file"], &[]).status.success());
    node.end();
    let log = fs::read(firn.path("log")).unwrap();
    assert!(!log.is_empty());
    assert_plain("log", &log);
}

/// Changes a byte in the middle of this text in a file.
fn flip(file: PathBuf, wanted: &[u8]) {
    let mut file = File::options().read(true).write(true).open(file).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    let at = bytes.windows(wanted.len()).position(|window| window == wanted).unwrap();
    file.seek(SeekFrom::Start((at + wanted.len() / 2) as u64)).unwrap();
    file.write_all(b"y").unwrap();
}
