//! Commands beside a running node, and commands that ask one.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::world::{Firn, error, lines, noise, text, write_tree};

#[test]
fn a_command_asks_the_running_node_and_the_store_when_it_has_ended() {
    let firn = Firn::new();
    fs::write(firn.path("file"), "contents").unwrap();
    let node = firn.node(&["--role", "seed"]);
    let (code, added) = firn.json(&["add", "--share", "file"], &[]);
    assert_eq!((code, &added["announced"]), (0, &true.into()), "{added}");
    let (_, status) = firn.json(&["status"], &[]);
    assert_eq!((&status["running"], &status["role"]), (&true.into(), &"seed".into()));
    assert_eq!(status["store"]["paths_shared"], 1);
    let out = firn.run(&["get", added["store_path"].as_str().unwrap(), "-o", "out"], &[]);
    assert_eq!(lines(&out)[1], added["root"].as_str().unwrap());
    assert_eq!(fs::read(firn.path("out")).unwrap(), b"contents");
    assert_eq!(firn.json(&["verify"], &[]).1["checked"], 1);
    node.end();
    let (_, status) = firn.json(&["status"], &[]);
    assert_eq!((&status["running"], &status["store"]["paths_shared"]), (&false.into(), &1.into()));
}

#[test]
fn a_node_and_commands_that_begin_together_wait_for_each_other() {
    let firn = Firn::new();
    for turn in 0..10 {
        let file = format!("file{turn}");
        fs::write(firn.path(&file), &file).unwrap();
        // Whoever opens the store first: the command may come while the node starts, and the node while the command works.
        let adds = [(); 2].map(|()| firn.command(&["add", "--share", &file]).spawn().unwrap());
        let node = firn.node(&["--role", "lan"]);
        for mut add in adds {
            assert!(add.wait().unwrap().success(), "{turn}");
        }
        node.end();
    }
    let node = firn.node(&[]);
    let second = firn.node_command(&[]).output().unwrap();
    let error: Value = serde_json::from_slice(&second.stdout).unwrap();
    assert!(error["error"].as_str().unwrap().contains("in use"), "another node is not waited for: {error}");
    node.end();
}

#[test]
fn get_asks_a_named_peer_where_no_node_runs() {
    let (seeder, consumer) = (Firn::new(), Firn::new());
    write_tree(&seeder.path("tree"));
    // What was sent is compared with the tree's size below.
    let node = seeder.node(&["--role", "seed", "--compress", "never"]);
    seeder.run(&["key", "generate", "cache-1", "--out", "key"], &[]);
    let key = lines(&seeder.run(&["key", "public", "key"], &[])).remove(0);
    let added = lines(&seeder.run(&["add", "--sign-key", "key", "tree"], &[]));
    let (path, root) = (added[0].as_str(), added[1].as_str());
    let private = lines(&seeder.run(&["add", "key"], &[])).remove(1);
    let peer = node.peer();
    let ask = ["--iroh", "127.0.0.1:0", "--peer", &peer];
    let get = |more: &[&str]| consumer.json(&[&["get"], &ask[..], more].concat(), &[]);

    let (code, json) = get(&[path]);
    assert_eq!(code, 4, "no key is trusted: {json}");
    let (code, json) = get(&[&private]);
    assert_eq!(code, 3, "it is shared with nobody: {json}");
    let (code, got) = get(&[path, "--trust", &key, "-o", "out"]);
    assert_eq!((code, &got["root"]), (0, &root.into()), "{got}");
    let giver = &got["peers"][0];
    assert_eq!((&giver["via"], &giver["lies"]), (&"static".into(), &Value::Array(Vec::new())));
    assert_eq!(giver["route"], "LAN", "{got}");
    assert_eq!(giver["bytes"], got["fetched_bytes"]);
    assert!(got["fetched_bytes"].as_u64() > Some(200_000), "{got}");
    assert_eq!(
        lines(&seeder.run(&["add", consumer.path("out").to_str().unwrap(), "--name", "tree"], &[])),
        added
    );

    // From here on it is here; a key that is trusted no longer takes it out of view.
    let (code, got) = consumer.json(&["get", path], &[("FIRN_TRUST", &key)]);
    assert_eq!((code, &got["paths"][0]["was_here"]), (0, &true.into()), "{got}");
    assert_eq!(consumer.json(&["get", path], &[]).0, 4);

    let given = seeder.json(&["status"], &[]).1["peers"][0].clone();
    assert_eq!(given["shared"], Value::from(vec![path]));
    assert!(given["sent_bytes"].as_u64() > Some(200_000), "{given}");
    node.end();
}

#[test]
fn get_finds_a_peer_by_the_dht_where_no_node_runs() {
    let (seeder, consumer) = (Firn::new(), Firn::new());
    write_tree(&seeder.path("tree"));
    let added = lines(&seeder.run(&["add", "--share", "tree"], &[]));
    let node = seeder.node(&["--role", "seed"]);
    let any = "127.0.0.1:0";
    let ask = ["get", &added[1], "--iroh", any, "--libp2p", any, "--bootstrap", node.multiaddr()];
    let begun = Instant::now();
    // The node may not have announced it yet.
    let got = loop {
        let (code, got) = consumer.json(&ask, &[]);
        if code == 0 {
            break got;
        }
        assert!(code == 3 && begun.elapsed() < Duration::from_secs(30), "{got}");
    };
    assert_eq!(got["peers"][0]["via"], "dht", "{got}");
    node.end();
}

#[test]
fn what_cannot_be_dialled_is_told_at_once() {
    let firn = Firn::new();
    let id = "00000000000000000000000000000000000000000000000000000000000000aa";
    let node = "/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let any = "127.0.0.1:0";
    let path = "/nix/store/00000000000000000000000000000001-app";
    for (flag, value) in [
        ("--peer", format!("{id}@[::1]:7334")),
        ("--peer", format!("{id}@10.0.0.1:7334")),
        ("--peer", format!("{id}@0.0.0.0:7334")),
        ("--peer", format!("{id}@127.0.0.1:0")),
        ("--bootstrap", format!("/ip6/::1/udp/7335/quic-v1{node}")),
        ("--bootstrap", format!("/ip4/127.0.0.1/udp/0/quic-v1{node}")),
        ("--relay", "http://127.0.0.1:0".into()),
    ] {
        for command in [&["node", "--http", any][..], &["get", path]] {
            let begun = Instant::now();
            let arguments = [command, &["--iroh", any, "--libp2p", any, flag, &value]].concat();
            let (code, json) = firn.json(&arguments, &[]);
            let error = error(&json);
            assert_eq!(code, 2, "{json}");
            assert!(error.contains(&value) && error.contains(&flag[2..]), "{error}");
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        }
    }
}

#[test]
fn a_configuration_that_names_this_node_elsewhere_tells_of_a_clone() {
    let (original, clone) = (Firn::new(), Firn::new());
    let node = original.node(&["--role", "seed"]);
    let data_dir = ".local/share/firn";
    fs::create_dir_all(clone.path(data_dir)).unwrap();
    fs::copy(original.path(data_dir).join("node.key"), clone.path(data_dir).join("node.key")).unwrap();
    let (peer, address) = (node.peer(), node.peer().split_once('@').unwrap().1.to_owned());
    let other = clone.node(&["--role", "seed", "--peer", &peer]);
    let (_, status) = clone.json(&["status"], &[]);
    assert_eq!(status["duplicates"], Value::from(vec![address]), "{status}");
    let human = clone.run(&["status"], &[]);
    assert!(text(&human.stdout).contains("delete node.key"), "{}", text(&human.stdout));
    assert_eq!(original.json(&["status"], &[]).1["duplicates"], Value::Array(Vec::new()));
    other.end();
    node.end();
}

#[test]
fn what_was_just_shared_is_found_by_the_dht() {
    let seeder = Firn::new();
    let node = seeder.node(&["--role", "seed"]);
    let any = "127.0.0.1:0";
    for number in 0..5 {
        fs::write(seeder.path("file"), format!("{number}")).unwrap();
        let root = lines(&seeder.run(&["add", "--share", "file"], &[])).remove(1);
        let ask = ["get", &root, "--iroh", any, "--libp2p", any, "--bootstrap", node.multiaddr()];
        let (code, got) = Firn::new().json(&ask, &[]);
        assert_eq!(code, 0, "{got}");
    }
    node.end();
}

/// Asks the node for its status until what it says of its transfers will do.
fn wait_for_transfers(firn: &Firn, will_do: impl Fn(&Vec<Value>) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let (_, status) = firn.json(&["status"], &[]);
        if will_do(status["transfers"].as_array().unwrap()) {
            return status;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{status}");
    }
}

#[test]
fn status_names_what_is_being_fetched_and_who_gives_it() {
    const BYTES: usize = 8 << 20;
    let (seeder, consumer) = (Firn::new(), Firn::new());
    fs::write(seeder.path("file"), noise(1, BYTES)).unwrap();
    let root = lines(&seeder.run(&["add", "--share", "file"], &[])).remove(1);
    let giver = seeder.node(&["--role", "seed"]);
    let peer = giver.peer();
    // At the slowest rate it takes two minutes, and is broken off before that.
    let node = consumer.node(&["--peer", &peer, "--download-max", "64K"]);
    wait_for_transfers(&consumer, Vec::is_empty);

    let get = consumer.start(&["get", &root]);
    let has_giver =
        |transfers: &Vec<Value>| transfers.iter().any(|transfer| transfer["peers"][0].is_object());
    let status = wait_for_transfers(&consumer, has_giver);
    let transfer = &status["transfers"][0];
    assert_eq!((&transfer["subject"], &transfer["total_bytes"]), (&Value::from(&*root), &BYTES.into()));
    assert!(transfer["done_bytes"].as_u64() < Some(BYTES as u64), "{transfer}");
    let (giving, id) = (&transfer["peers"][0], peer.split_once('@').unwrap().0);
    assert_eq!((&giving["id"], &giving["via"]), (&id.into(), &"static".into()), "{transfer}");
    assert_eq!((&giving["route"], &status["peers"][0]["route"]), (&"LAN".into(), &"LAN".into()), "{status}");
    assert!(giving["bytes"].as_u64() > Some(0), "{transfer}");
    let told = consumer.run(&["status"], &[]);
    assert!(text(&told.stdout).contains(&format!("\nfetching {root}: ")), "{}", text(&told.stdout));
    assert!(text(&told.stdout).contains("/s  LAN, via static\n"), "{}", text(&told.stdout));

    // Nobody wants it any more.
    drop(get);
    wait_for_transfers(&consumer, Vec::is_empty);
    node.end();
    giver.end();
}

#[test]
fn a_second_node_on_one_store_is_refused_with_the_first_ones_id() {
    let firn = Firn::new();
    let node = firn.node(&[]);
    let second = firn.run(&["node", "--http", "127.0.0.1:0", "--iroh", "127.0.0.1:0"], &[]);
    assert_eq!(second.status.code(), Some(1));
    assert!(
        text(&second.stderr).contains(&format!("process {}", node.process_id())),
        "{}",
        text(&second.stderr)
    );
    node.end();
}

/// Ordinary peers that come and go, four at a time: none of them ends by a signal, and neither does the seeder.
/// `FIRN_SHORT_PEERS` is how many; from 2,000 on, the seeder's memory is looked at as well.
#[test]
fn many_short_peers_end_nobody() {
    const TOGETHER: usize = 4;
    let count = std::env::var("FIRN_SHORT_PEERS").map_or(500, |count| count.parse::<usize>().unwrap());
    let seeder = Firn::new();
    fs::create_dir(seeder.path("tree")).unwrap();
    for number in 0..20_u8 {
        fs::write(seeder.path("tree").join(number.to_string()), vec![number; 30_000]).unwrap();
    }
    let node = seeder.node(&["--role", "seed"]);
    let root = lines(&seeder.run(&["add", "--share", "tree"], &[])).remove(1);
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", node.process_id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let peers = |count: usize| {
        std::thread::scope(|scope| {
            for _ in 0..TOGETHER {
                scope.spawn(|| {
                    for _ in 0..count / TOGETHER {
                        let (code, got) = Firn::new().json(&["get", &root, "--peer", &node.peer()], &[]);
                        assert_eq!(code, 0, "{got}");
                    }
                });
            }
        });
    };
    peers(count.min(1000));
    let before = resident();
    peers(count.saturating_sub(1000));
    if count >= 2000 {
        assert!(resident() <= before + before / 10, "{} kB, {before} kB after the first 1,000", resident());
    }
    node.end();
}
