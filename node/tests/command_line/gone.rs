//! Peers that are killed, and what a running node says then of what they had.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::world::{Firn, Node, lines};

const PATHS: usize = 30;

/// The status and the body of an answer, whole or not.
fn get(node: &Node, url: &str) -> (u16, Vec<u8>) {
    let address = node.http();
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET /{url} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A NAR may be broken off.
    let _ = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let body = answer.split_off(end + 4);
    (String::from_utf8(answer).unwrap()[9..12].parse().unwrap(), body)
}

/// The URLs of the narinfos of files that a seeder shares under a new key, and the key.
fn seed(seeder: &Firn, count: usize) -> (Vec<String>, String) {
    let key = seeder.key("cache-1", "key");
    let add = |number: usize| {
        let name = format!("file-{number}");
        fs::write(seeder.path(&name), format!("contents of {number}")).unwrap();
        let path = lines(&seeder.run(&["add", "--sign-key", "key", &name], &[])).remove(0);
        format!("{}.narinfo", &path["/nix/store/".len()..][..32])
    };
    ((0..count).map(add).collect(), key)
}

fn nar_url(narinfo: &[u8]) -> String {
    let narinfo = std::str::from_utf8(narinfo).unwrap();
    narinfo.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap().to_owned()
}

#[test]
fn what_only_a_killed_peer_had_is_missing_and_that_is_not_found_out_for_each_path_anew() {
    let (seeder, consumer) = (Firn::new(), Firn::new());
    let (narinfos, key) = seed(&seeder, PATHS);
    let giver = seeder.node(&["--role", "seed"]);
    let node = consumer.node(&["--trust", &key, "--peer", &giver.peer()]);
    let nars: Vec<String> = narinfos
        .iter()
        .map(|narinfo| {
            let (status, narinfo) = get(&node, narinfo);
            assert_eq!(status, 200);
            nar_url(&narinfo)
        })
        .collect();
    giver.kill();
    let begun = Instant::now();
    for url in nars.iter().chain(&narinfos).chain(&nars) {
        assert_eq!(get(&node, url).0, 404, "{url}");
    }
    // One question that is not answered and one dial are waited for, once.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    node.end();
}

#[test]
fn a_seeder_that_was_killed_and_is_elsewhere_is_found_again_by_a_running_node() {
    let (middle, seeder, consumer) = (Firn::new(), Firn::new(), Firn::new());
    let (narinfos, key) = seed(&seeder, PATHS);
    let mut narinfos = narinfos.iter();
    let bootstrap = middle.node(&["--role", "seed"]);
    let settings = ["--role", "seed", "--bootstrap", bootstrap.multiaddr()];
    let giver = seeder.node(&settings);
    let node = consumer.node(&["--trust", &key, "--bootstrap", bootstrap.multiaddr()]);
    let until_found = |within: Duration, narinfo: &str| {
        let begun = Instant::now();
        while get(&node, narinfo).0 != 200 {
            assert!(begun.elapsed() < within, "not found in time");
        }
        begun.elapsed()
    };
    until_found(Duration::from_secs(30), narinfos.next().unwrap());
    let before = giver.peer();
    giver.kill();
    let giver = seeder.node(&settings);
    assert_ne!(giver.peer(), before);
    until_found(Duration::from_secs(10), narinfos.next().unwrap());
    let (_, narinfo) = get(&node, narinfos.next().unwrap());
    assert_eq!(get(&node, &nar_url(&narinfo)).0, 200);
    node.end();
    giver.end();
    bootstrap.end();
}
