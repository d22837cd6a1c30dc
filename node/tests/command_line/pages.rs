//! Web pages in the user's browser, and a cache that is open to the network.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
};

use crate::world::{Firn, Node, lines};

/// The status of a response, and what follows its head.
pub(crate) fn get(address: &str, url: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /{url} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.into())
}

#[test]
fn a_page_reads_nothing_that_is_private_and_a_name_is_known_once_it_is_configured() {
    let firn = Firn::new();
    fs::create_dir(firn.path("private")).unwrap();
    fs::write(firn.path("private/diary"), "dear diary").unwrap();
    let path = lines(&firn.run(&["add", "private"], &[])).remove(0);
    let hash = &path["/nix/store/".len()..][..32];
    let node = firn.node(&["--http-host", "cache.example.lan"]);
    let asked = |url: &str, headers: &str| get(node.http(), &format!("{hash}.{url}"), headers);
    let own = format!("Host: {}\r\n", node.http());
    for url in ["ls", "narinfo"] {
        for headers in [
            "Host: evil.example:7333\r\n".to_owned(),
            format!("{own}Origin: https://evil.example\r\n"),
            format!("{own}Sec-Fetch-Site: cross-site\r\n"),
        ] {
            let (status, body) = asked(url, &headers);
            assert!(status == 403 && !body.contains("diary") && body.contains("refused"), "{status} {body}");
        }
        let machine = format!("Host: {}:7333\r\n", rustix::system::uname().nodename().to_string_lossy());
        for headers in [own.as_str(), "Host: localhost\r\n", "Host: Cache.Example.lan:80\r\n", &machine] {
            let (status, body) = asked(url, headers);
            assert!(
                status == 200 && body.contains(if url == "ls" { "diary" } else { hash }),
                "{status} {body}"
            );
        }
    }
    node.end();
}

#[test]
fn a_cache_that_is_open_to_the_network_says_so_at_its_start() {
    let firn = Firn::new();
    for (http, is_open) in [("127.0.0.1:0", false), ("0.0.0.0:0", true)] {
        let log = firn.path("log");
        let mut command = firn.node_command_at(http, &[]);
        command.stderr(File::create(&log).unwrap());
        Node::start(command).end();
        let log = fs::read_to_string(log).unwrap();
        assert_eq!(log.contains("the binary cache is open to the network"), is_open, "{http}: {log}");
    }
}
